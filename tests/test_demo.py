"""`flowbind demo`, as a person sees it: a real process, a real browser."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from importlib.util import find_spec

import pytest
from PIL import Image as Pictures

import flowbind.cli.demo as demo_verb
from flowbind.cli import ENDS
from tests.browser import LENGTH, SECONDS, opened
from tests.released import release

# It is imported in the demo's own process alone.
pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not find_spec("gradio"), reason="needs gradio"),
]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The address of the page of a small model, its folder for temporary files, and its process."""
    from flowbind_audio import Audio
    from flowbind_image import Image
    from flowbind_points import Points
    from flowbind_text import Text

    folder = tmp_path_factory.mktemp("demo")
    model = release(
        folder / "model", text=Text(), image=Image(), audio=Audio(), points=Points()
    )
    Pictures.new("RGB", (64, 64), "green").save(folder / "green.png")
    samples = [{"text": "a green square", "image": "green.png"}, {"text": "a cone"}]
    manifest = folder / "test.jsonl"
    manifest.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    (folder / "tmp").mkdir()

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "flowbind", "demo", model]
    command += ["--examples", manifest, "--port", str(port)]
    with subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder / "tmp")},
        # Tests that run in the background hand down that it is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        line = process.stdout.readline()
        assert line.startswith(f"http://127.0.0.1:{port}/"), line
        yield line.split()[0], folder / "tmp", process
        process.kill()


@pytest.fixture(scope="module")
def asked():
    """What the page asked for."""
    return []


@pytest.fixture(scope="module")
def page(demo, asked):
    with opened(demo[0], asked) as page:
        page.wait_for_selector("#generate")
        yield page


def choose(page, *targets):
    """Ticks these targets alone."""
    for box in page.query_selector_all("#targets input"):
        if box.is_checked() != (box.get_attribute("name") in targets):
            box.click()


def enter(field, value):
    """Types a value until it stays: a part of a page that was just opened still sets its own."""
    while field.input_value() != value:
        field.fill(value)
        field.page.wait_for_timeout(300)


def test_a_caption_becomes_a_picture_a_sound_and_a_cloud(page):
    page.fill("#source-text textarea", "a large red torus")
    page.click("#generate")

    picture = page.wait_for_selector("#result-image img")
    assert picture.evaluate("(img) => [img.naturalWidth, img.naturalHeight]") == [
        64,
        64,
    ]
    sound = page.wait_for_selector("#result-audio audio", state="attached")
    assert sound.evaluate(LENGTH) == pytest.approx(1, abs=0.1)
    assert page.wait_for_selector("#result-points turning-cloud canvas")
    assert not page.query_selector_all("#result-text .words")
    link = page.query_selector("#result-image a[download='image.png']")
    assert link.get_attribute("href").startswith("data:")


def test_a_picture_becomes_a_caption(page, tmp_path):
    page.fill("#source-text textarea", "")
    Pictures.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    page.set_input_files("#source-image input[type=file]", tmp_path / "red.png")
    page.wait_for_selector("#view-image img")
    choose(page, "text")
    page.click("#generate")

    words = page.wait_for_selector("#result-text .words")
    assert words.inner_text().strip()


def test_words_named_like_a_file_are_not_read(page):
    """A file of this machine's, whoever may look at the page."""
    page.fill("#source-text textarea", "/etc/secret.txt")
    page.click("#generate")
    line = page.wait_for_selector("#status .mistake").inner_text()
    assert "named like a file" in line
    page.fill("#source-text textarea", "")


def test_a_broken_file_is_one_line_on_the_page(page, demo, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    page.click(
        "#source-image button[aria-label='Remove this file'], #source-image button[aria-label='Clear']"
    )
    page.set_input_files("#source-image input[type=file]", tmp_path / "broken.png")
    line = page.wait_for_selector("#view-image .mistake").inner_text()
    assert line.startswith("broken.png: a damaged picture")
    assert "\n" not in line

    page.click("#generate")
    page.wait_for_function(
        "line => document.querySelector('#status').innerText.trim() == line", arg=line
    )


def test_examples_fill_in_a_source(page):
    page.click("#examples-text button >> nth=1")
    page.wait_for_function(
        "document.querySelector('#source-text textarea').value == 'a cone'"
    )
    page.click("#examples-image button >> nth=0")
    page.wait_for_selector("#view-image img")


def test_nothing_is_asked_of_another_machine(page, demo, asked):
    url, _, _ = demo
    assert len(asked) > 10
    assert not [a for a in asked if not a.startswith((url, "data:", "blob:"))]
    with urllib.request.urlopen(url) as answer:
        assert "default-src 'self'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("place", ["model/model.json", "test.jsonl"])
def test_files_beside_the_page_s_own_are_not_served(demo, place):
    url, temporary, _ = demo
    file = temporary.parent / place
    assert file.is_file()
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"{url}gradio_api/file={file}")
    error.value.close()
    assert error.value.code == 403


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("seed", "1.5", "seed must be an integer, not 1.5"),
        ("steps", "2.5", "steps must be a whole number, at least 1, not 2.5"),
        ("number input for weight of text", "0", "one of them above 0, not [0.0]"),
    ],
)
def test_numbers_that_cannot_be_are_said_and_not_rounded(page, field, value, line):
    page.reload()
    page.fill("#source-text textarea", "a cone")
    if field != "seed":
        page.click("text=choices of this model")
    enter(page.get_by_label(field).first, value)
    page.click("#generate")
    assert line in page.wait_for_selector("#status .mistake").inner_text()


def test_ctrl_c_ends_it_and_leaves_nothing(demo):
    """The last test of the module: nothing is served after it."""
    _, temporary, process = demo
    assert any(temporary.iterdir())
    process.send_signal(signal.SIGINT)
    assert process.wait(SECONDS) == 0
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("number", ENDS)
def test_what_ends_a_process_leaves_nothing_either(
    tmp_path, monkeypatch, command, number
):
    """A signal of `kill`, or of a terminal that is closed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folders = []

    def serve(options, folder):
        folders.append(folder)
        (folder / "handed over").touch()
        signal.raise_signal(number)

    monkeypatch.setattr(demo_verb, "_serve", serve)
    assert command("demo", "model")[0] == 128 + number
    assert len(folders) == 1
    assert not list(tmp_path.iterdir())


def test_a_taken_port_is_one_line(command, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, err = command("demo", tmp_path, "--port", port)
    assert code == 2, err
    assert err.count("\n") == 1
    assert str(port) in err
