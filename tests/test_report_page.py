"""`report.html`: one page with everything, opened in a real browser."""

import json
import re
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from flowbind.evaluation.gallery import Row
from flowbind.evaluation.page import write
from flowbind.exhibit import Cloud, Recording
from tests.browser import LENGTH, PIXELS, opened

RESULTS = Path(__file__).parents[1] / "tests/formats/3/run/metrics.json"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report of one row, whose targets are words, a picture, a sound and a cloud."""
    from flowbind_audio import Audio

    folder = tmp_path_factory.mktemp("report")
    picture = Image.new("RGB", (64, 64), "green")
    sound = Audio().exhibit(torch.sin(torch.arange(16_000) / 20) / 2)
    generator = torch.Generator().manual_seed(0)
    places = torch.randn(500, 3, generator=generator)
    cloud = Cloud(places, torch.rand(500, 3, generator=generator), extent=3.0)
    picture.save(folder / "likeness.png")

    row = Row(
        "word",
        "test-1",
        "a <b>",
        "a <script>source</script>",
        {"pictures": [picture] * 3, "sounds": [picture] * 3, "clouds": [picture]},
        frozenset({"clouds"}),
        {
            None: ["a <script>source</script>"],
            "pictures": [picture] * 3,
            "sounds": [sound] * 3,
            "clouds": [cloud],
        },
    )
    path = folder / "report.html"
    charts = {"Likeness": folder / "likeness.png", "Curves": folder / "none.png"}
    write(json.loads(RESULTS.read_text()), [row], charts, path, "runs/<shapes>")
    return path


def test_a_report_needs_nothing_beside_it(report):
    text = report.read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text)
    assert not re.search(r"https?://|@import|url\(", text)
    assert "default-src 'none'" in text
    assert len(text) < 200_000


def test_a_report_in_a_browser(report):
    asked = []
    with opened(report.as_uri(), asked) as page:
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        assert page.inner_text("h1") == "runs/<shapes>"
        assert page.inner_text(".cell .words") == "a <script>source</script>"

        titles = page.eval_on_selector_all("h2", "all => all.map(h => h.innerText)")
        assert titles == [
            "At a glance",
            "Gallery",
            "Charts",
            "Tables",
            "How it was measured",
        ]
        assert (
            len(page.query_selector_all(".draws img")) == 6
        )  # of the sounds, their previews
        assert page.eval_on_selector_all(
            "img", "all => all.every(img => img.complete && img.naturalWidth > 0)"
        )
        assert len(page.query_selector_all(".charts figure")) == 1
        assert page.query_selector_all(".matrix td")
        assert len(page.query_selector_all("table")) > 3

        sound = page.query_selector("audio")
        assert sound.evaluate(LENGTH) == pytest.approx(1, abs=0.01)
        assert sound.evaluate(PLAYS) > 0

        cloud = page.query_selector("turning-cloud")
        cloud.scroll_into_view_if_needed()
        before = once_drawn(cloud)
        box = cloud.bounding_box()
        page.mouse.move(box["x"] + 40, box["y"] + 40)
        page.mouse.down()
        page.mouse.move(box["x"] + 90, box["y"] + 60, steps=3)
        page.mouse.up()
        assert once_drawn(cloud, unlike=before) != before

        for width in (400, 800, 1600):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate(OVERFLOWING) == [], width
            players = page.eval_on_selector_all(
                "audio", "all => all.map(sound => sound.clientWidth)"
            )
            assert min(players) >= PLAYER, width
        lightest = page.evaluate(GROUND)
        page.emulate_media(color_scheme="dark")
        assert page.evaluate(GROUND) < lightest
        assert not errors
    assert asked == [a for a in asked if a.startswith(("file:", "data:", "blob:"))]
    assert len([a for a in asked if a.startswith("file:")]) == 1


PLAYER = 110  # pixels below which a browser's player has no button
# What is wider than where it is; tables may be, for they scroll.
OVERFLOWING = """() => [document.documentElement, ...document.querySelectorAll(".cell, .draws > *")]
  .filter((part) => part.scrollWidth > part.clientWidth + 1).map((part) => part.outerHTML.slice(0, 80))"""
# The red of the ground.
GROUND = "Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])"
# How far a sound gets in a moment.
PLAYS = """async (sound) => {
  sound.muted = true;
  await sound.play();
  await new Promise((done) => (sound.ontimeupdate = () => sound.currentTime > 0 && done()));
  sound.pause();
  return sound.currentTime;
}"""


def once_drawn(cloud, unlike=None):
    """The hash of what a cloud has drawn, once it is another one; in the end, whatever it is."""
    for _ in range(300):
        is_drawn, seen = cloud.evaluate(PIXELS)
        if is_drawn and seen != unlike:
            break
        time.sleep(0.1)
    assert is_drawn
    return seen


def test_a_recording_of_another_kind_has_its_element(tmp_path):
    results = json.loads(RESULTS.read_text())
    film = Recording(b"film", "video/mp4")
    row = Row("a", "1", "", "x", {"b": ["x"]}, frozenset(), {None: ["x"], "b": [film]})
    write(results, [row], {}, tmp_path / "report.html", "x")
    assert "<video controls" in (tmp_path / "report.html").read_text()
