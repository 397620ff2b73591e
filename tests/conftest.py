"""What all tests share: no network, one thread, and the toy world registered as a plugin would be.

The process that hands out tests reads this file too, so what takes long to import is imported where it is used.
"""

import gc
import os
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from importlib import import_module
from importlib.metadata import EntryPoint
from io import StringIO

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest

import flowbind.registry as registry
from flowbind.cli import main

TOYS = {
    "modalities": {"word": "tests.toy:Word", "vector": "tests.toy:Vector"},
    "codecs": {
        "toy": "tests.toy:ToyCodec",
        "toy-word": "tests.toy:WordCodec",
        "toy-learned": "tests.toy:LearnedCodec",
        "mute-word": "tests.toy:MuteWordCodec",
        "digit-ids": "tests.toy_kinds:DigitIds",
        "digit-grid": "tests.toy_kinds:DigitGrid",
        "digit-sequence": "tests.toy_kinds:DigitSequence",
    },
    "methods": {
        "regression": "tests.toy_kinds:Regression",
        "from-nothing": "tests.toy_kinds:FromNothing",
        "pairs": "tests.toy_kinds:Pairs",
    },
    "metrics": {
        "digit-error": "tests.toy:DigitError",
        "word-match": "tests.toy:WordMatch",
        "vector-judge": "tests.toy:VectorJudge",
        "word-reader": "tests.toy:WordReader",
    },
}

# What is imported stays, and there is much of it: garbage is not looked for there.
gc.disable()


def pytest_collection_finish():
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


def pytest_make_parametrize_id(val, argname):
    """No bytes in a test's name: they may hold the time, and all processes must give the same."""
    return argname if isinstance(val, bytes) else None


PROBE_STEPS, PROBE_HIDDEN = 150, 64  # of 300 and 256


@pytest.fixture(autouse=True)
def _one_thread():
    import torch

    # Tests run side by side with others; more threads than cores crawl.
    torch.set_num_threads(1)


@pytest.fixture
def pixel(monkeypatch):
    """The picture of a run's curves is one pixel: the whole takes a quarter of a second."""
    monkeypatch.setattr("flowbind.train.curves.draw", draw_pixel)


def draw_pixel(curves, path):
    """In place of `flowbind.train.curves.draw`."""
    from PIL import Image

    Image.new("L", (1, 1)).save(path)
    return True


@pytest.fixture
def toys(monkeypatch, pixel):
    """Registers the toy modalities and codecs beside what is installed.

    Probes are smaller and take fewer steps, which suffice for toys.
    """
    register_toys(monkeypatch)
    evaluation = import_module("flowbind.evaluation.evaluation")
    few = partial(evaluation.fit_probe, steps=PROBE_STEPS)
    monkeypatch.setattr(evaluation, "fit_probe", few)
    monkeypatch.setattr("flowbind.metrics.probe.HIDDEN", PROBE_HIDDEN)


def register_toys(monkeypatch):
    """The same for as long as `monkeypatch` lasts."""
    installed = registry.installed

    def with_toys(kind):
        extra = {
            name: EntryPoint(name, value, registry.GROUPS[kind])
            for name, value in TOYS.get(kind, {}).items()
        }
        return {**installed(kind), **extra}

    data = ("data.folder", "data.raw", "data.manifest")
    names = (
        "registry",
        *data,
        "cli.check",
        "cli.overrides",
        "cli.plugins",
        "cli.prepare",
    )
    # All of them first: they take the name over.
    modules = [import_module(f"flowbind.{name}") for name in names]
    for module in modules:
        monkeypatch.setattr(module, "installed", with_toys)
    spare(monkeypatch)


def spare(monkeypatch):
    """Leaves out of every run what takes long and tells nothing of small networks."""
    monkeypatch.setattr("flowbind.train.summary.activations_of", lambda *_: 1 << 20)


class _Absent:
    """A finder that knows of no such package."""

    def __init__(self, package):
        self.package = package

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)


@pytest.fixture
def uninstall(monkeypatch):
    """Makes a package one that is not installed."""

    def forget(package):
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(sys, "meta_path", [_Absent(package), *sys.meta_path])

    return forget


@pytest.fixture
def command(capsys, pixel):
    """Runs one command. Returns exit code, standard output and standard error."""

    def run(*arguments):
        try:
            main([str(a) for a in arguments])
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """The files of the toy world, to be read alone."""
    from tests.toy import write_world

    folder = tmp_path_factory.mktemp("toy") / "files"
    write_world(folder, samples=512)
    return folder


def prepare_world(folder, run):
    """Prepares the files of a folder with the toy world, and writes its recipe. `run` runs a command."""
    from tests.toy import RECIPE, STEPS

    source, out = folder / "files", folder / "data"
    labels = ("--labels", source / "labels.csv")
    run("prepare", "folder", "--source", source, *labels, "--out", out)
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(data=out, run=folder / "run", steps=STEPS))
    return recipe


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, files):
    """The toy world prepared and encoded once, to be copied."""

    def run(*arguments):
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            main([str(argument) for argument in arguments])

    folder = tmp_path_factory.mktemp("prepared")
    (folder / "files").symlink_to(files)
    with pytest.MonkeyPatch.context() as monkeypatch:
        register_toys(monkeypatch)
        run("encode", "--config", prepare_world(folder, run))
    return folder


@pytest.fixture
def world(tmp_path, toys, files, prepared):
    """The toy world prepared, and its recipe."""
    from tests.toy import RECIPE, STEPS

    (tmp_path / "files").symlink_to(files)
    out = tmp_path / "data"
    shutil.copytree(prepared / "data", out, ignore=shutil.ignore_patterns("latents"))
    recipe = RECIPE.format(data=out, run=tmp_path / "run", steps=STEPS)
    (tmp_path / "recipe.yaml").write_text(recipe)
    return tmp_path


@pytest.fixture
def encoded(world, prepared):
    """The latents of `world`, as `flowbind encode` writes them."""
    shutil.copytree(prepared / "data/latents", world / "data/latents")


@pytest.fixture
def own_world(tmp_path, toys, command, files):
    """The toy world prepared from files of its own, which may be changed."""

    def run(*arguments):
        code, _, err = command(*arguments)
        assert code == 0, err

    shutil.copytree(files, tmp_path / "files")
    prepare_world(tmp_path, run)
    return tmp_path
