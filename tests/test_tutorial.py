"""The tutorial's package, `docs/write-a-modality`: short, lawful, and usable without a change to flowbind."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from flowbind_shapes import scene

from flowbind.testing import LAWS, check_modality
from tests.distribution import distribution

PAGE = Path(__file__).parents[1] / "docs" / "write-a-modality.md"
PACKAGE = PAGE.with_suffix("")
PROJECT = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]


@pytest.fixture
def ink(monkeypatch, tmp_path):
    """The package, importable from its folder and registered."""
    monkeypatch.syspath_prepend(PACKAGE)
    with distribution(tmp_path / "site", PROJECT["name"], PROJECT["entry-points"]):
        import flowbind_ink
        import flowbind_ink.dataset

        yield flowbind_ink


def strokes(ink, count, seed=0):
    generator = np.random.default_rng(seed)
    return list(ink.dataset.draw(scene.draw(count, generator).labels(), generator))


def test_laws(ink, tmp_path):
    check_modality(ink.Ink(), strokes(ink, count=6), tmp_path)


def test_it_is_short():
    files = [path for suffix in ("py", "toml") for path in PACKAGE.rglob(f"*.{suffix}")]
    assert len(files) == 3
    assert sum(len(path.read_text().splitlines()) for path in files) < 150


def test_the_cosines_are_orthogonal(ink):
    for samples in (22, 128, 1001):
        waves = ink.waves(samples).double()
        torch.testing.assert_close(
            waves @ waves.T / samples, torch.eye(22).double(), rtol=0, atol=1e-5
        )


def test_latents_are_those_of_the_curve_whatever_its_sampling(ink):
    """What the codec keeps it gives back, and a stroke sampled twice as densely is the same stroke."""
    latents = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    latents[:, 2] += 99  # wide enough that no width is below 0
    for samples in (128, 256):
        codec = ink.CosineInk(samples)
        torch.testing.assert_close(
            codec.encode(codec.decode(latents)), latents, rtol=0, atol=1e-4
        )


def test_a_stroke_tells_all_factors_within_what_is_private_to_it(ink):
    """The width beats once more per outline for each colour, and the outline is as large as the size says."""
    labels = [
        {"shape": shape, "colour": colour, "size": size}
        for shape in scene.SHAPES
        for colour in scene.COLOURS
        for size in scene.SIZES
    ]
    drawn = ink.dataset.draw(labels, np.random.default_rng(0))
    assert drawn.shape == (len(labels), 128, 3)
    beats = torch.fft.rfft(drawn[:, :-1, 2] - 0.06).abs()[:, :12].argmax(1) - 1
    assert [scene.COLOURS[beat] for beat in beats] == [
        label["colour"] for label in labels
    ]
    place = torch.complex(drawn[..., 0], drawn[..., 1])
    reach = (
        (place - place.mean(1, keepdim=True)).abs().amax(1).view(-1, len(scene.SIZES))
    )
    assert (reach.diff(dim=1) > 0.1).all()
    again = ink.dataset.draw(labels, np.random.default_rng(1))
    assert ((again - drawn).abs().amax(dim=(1, 2)) > 0.02).all()


def test_every_stroke_stays_on_the_page(ink):
    for stroke in strokes(ink, count=500):
        assert (stroke[:, :2].abs() + stroke[:, 2:]).max() < ink.SIDE / 2


@pytest.mark.parametrize(
    "circles", ["", '<circle cx="1" cy="2"/>', '<circle cx="nan" cy="2" r="1"/>']
)
def test_what_is_no_stroke_is_refused(ink, tmp_path, circles):
    path = tmp_path / "a.svg"
    path.write_text(f'<svg xmlns="{ink.SVG}">{circles}</svg>')
    with pytest.raises(ValueError, match=r"a\.svg: not ink"):
        ink.Ink().read(path)


def test_the_page_shows_the_package_whole():
    """What it cuts before a marker it continues with at the same marker."""
    shown = {}
    for path, options in re.findall(
        r"^```\{literalinclude\} (\S+)\n((?::.*\n)*)", PAGE.read_text(), re.MULTILINE
    ):
        shown.setdefault((PAGE.parent / path).resolve(), []).append(options)
    assert {
        path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".toml", ".yaml")
    } <= shown.keys()
    for path, parts in shown.items():
        markers = [
            re.findall(rf":{option}: (.*)", "".join(parts))
            for option in ("end-before", "start-at", "pyobject")
        ]
        assert markers[0] == markers[1]
        assert all(marker in path.read_text() for marker in chain(*markers))


def test_the_page_states_every_law():
    stated = re.findall(r"^- `(\w+)`: (.*)$", PAGE.read_text(), re.MULTILINE)
    assert stated == [(law.__name__, law.__doc__) for law in LAWS]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_is_built_installed_and_trained_against(tmp_path):
    """The whole way of a third party: a wheel, pip, and flowbind's own commands."""
    project, site = tmp_path / "project", tmp_path / "site"
    shutil.copytree(PACKAGE, project, ignore=shutil.ignore_patterns("__pycache__"))

    environment = os.environ | {
        "PYTHONPATH": str(site),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }

    def python(*arguments):
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(
            command, cwd=project, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def flowbind(*arguments):
        return python("-c", "from flowbind.cli import main; main()", *arguments)

    python("-m", "hatchling", "build", "-t", "wheel")
    (wheel,) = (project / "dist").iterdir()
    python("-m", "pip", "install", "--no-deps", "--no-index", "--target", site, wheel)
    assert re.search(
        r"ink +flowbind_ink:Ink +\(flowbind-ink 0\.1\.0\)", flowbind("plugins")
    )

    flowbind(
        "prepare",
        "shapes-ink",
        "--out",
        "data/ink",
        "--samples",
        48,
        "--test-samples",
        8,
    )
    flowbind("encode", "--config", "recipe.yaml")
    few = (
        "--trainer.max_steps=4",
        "--trainer.val_check_interval=4",
        "--trainer.accelerator=cpu",
    )
    flowbind("fit", "--config", "recipe.yaml", "--data.init_args.batch_size=24", *few)
    captions = ["--from", "text=a large red torus", "--from", "text=a small blue star"]
    written = flowbind(
        "generate", "runs/ink/model", *captions, "--to", "ink", "--out", "out"
    ).splitlines()
    assert len(written) == 2
    for path in written:
        content = (project / path).read_text()
        assert content.count("<circle") == 128
