"""The tutorial's package, `docs/write-a-method`: short, lawful, and usable without a change to flowbind."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from flowbind_image import Image
from flowbind_text import Text

from flowbind.generation import Model
from flowbind.method import Networks
from flowbind.testing import check_method
from flowbind.testing.method import LAWS
from tests.distribution import distribution

PAGE = Path(__file__).parents[1] / "docs" / "write-a-method.md"
PACKAGE = PAGE.with_suffix("")
PROJECT = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]


@pytest.fixture
def package(monkeypatch, tmp_path):
    """The package, importable from its folder and registered."""
    monkeypatch.syspath_prepend(PACKAGE)
    with distribution(tmp_path / "site", PROJECT["name"], PROJECT["entry-points"]):
        import flowbind_from_noise

        yield flowbind_from_noise


def made(package):
    return package.FromNoise(
        {"text": Text(), "image": Image()}, "text", "image", width=32
    )


def test_laws(package):
    check_method(made(package))


def test_it_is_short():
    files = [path for suffix in ("py", "toml") for path in PACKAGE.rglob(f"*.{suffix}")]
    assert len(files) == 2
    assert sum(len(path.read_text().splitlines()) for path in files) < 120


def test_what_it_does_not_make_is_refused(package):
    model = Model(made(package), Networks(made(package)))
    with pytest.raises(
        ValueError, match="does not make image->text; it makes text->image"
    ):
        model.translate({"image": torch.zeros(1, 64)}, ["text"])
    with pytest.raises(
        ValueError, match="no sampling choice 'step'; did you mean 'steps'"
    ):
        model.translate({"text": torch.zeros(1, 64)}, ["image"], step=3)


def test_the_page_shows_the_package_whole():
    shown = re.findall(r"^```\{literalinclude\} (\S+)$", PAGE.read_text(), re.MULTILINE)
    files = {
        path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".toml", ".yaml")
    }
    assert files == {(PAGE.parent / path).resolve() for path in shown}


def test_the_page_states_every_law():
    stated = re.findall(r"^- `(\w+)`: (.*)$", PAGE.read_text(), re.MULTILINE)
    assert stated == [(law.__name__, law.__doc__) for law in LAWS]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_is_built_installed_and_trained(tmp_path):
    """The whole way of an author: a wheel, pip, and flowbind's own commands."""
    project, site = tmp_path / "project", tmp_path / "site"
    shutil.copytree(PACKAGE, project, ignore=shutil.ignore_patterns("__pycache__"))
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {
        "PYTHONPATH": path,
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

    flowbind(
        "prepare",
        "shapes",
        "--out",
        "data/shapes",
        "--samples",
        64,
        "--test-samples",
        16,
    )
    flowbind("encode", "--config", "recipe.yaml")
    few = (
        "--trainer.max_steps=4",
        "--trainer.val_check_interval=4",
        "--trainer.accelerator=cpu",
    )
    flowbind("fit", "--config", "recipe.yaml", "--data.init_args.batch_size=24", *few)
    flowbind("test", "--config", "recipe.yaml", *few, "--evaluation.sampling.steps=3")
    assert "--steps N" in flowbind("generate", "runs/from_noise/model", "--help")
    captions = ["--from", "text=a large red torus", "--from", "text=a small blue star"]
    written = flowbind(
        "generate",
        "runs/from_noise/model",
        *captions,
        "--to",
        "image",
        "--steps",
        3,
        "--out",
        "out",
    ).splitlines()
    assert [(project / path).read_bytes()[:4] for path in written] == [b"\x89PNG"] * 2
