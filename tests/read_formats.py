"""Reads what `tests/write_formats.py` writes, by today's code: for each format a reader, in JSON.

A reader works in a copy of a folder of formats, which it may change, with the toys registered.
"""

import contextlib
import csv
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import flowbind
from flowbind import earlier
from flowbind.cli import main
from flowbind.cli.recipe import build
from flowbind.data.labels import read_labels
from flowbind.data.manifest import Manifest
from flowbind.data.store import LatentStore
from flowbind.evaluation.report import tables
from flowbind.release import verify
from flowbind.tensors import digest_tensors
from flowbind.train.checkpoints import latest_intact, read_checkpoint, step_of
from tests.conftest import draw_pixel, register_toys
from tests.toy import LearnedCodec

# Nanoseconds: the samples' time of change, which their latents' key hangs on, and no clone keeps.
CHANGED = 10**18
FOLDER = Path(__file__).parent / "formats"  # of the versions
EXPECTED = "expected.json"  # in a version's folder, what its writer read of it
WORDS = ["203", "111"]

# Views for people, which every run makes anew; no format, and nothing reads them.
VIEWS = ("report.html", "likeness.png", "curves.png", "samples/*.png")

READERS: dict[str, Callable[[], Any]] = {}


def reader(read: Callable[[], Any]) -> Callable[[], Any]:
    """Adds a reader, under its name."""
    READERS[read.__name__] = read
    return read


def read_in(folder: Path, kind: str) -> Any:
    """What a reader finds in a copy of a folder of formats.

    Raises:
        ValueError: what the reader was told, in one line.
    """
    with (
        tempfile.TemporaryDirectory() as place,
        pytest.MonkeyPatch.context() as monkeypatch,
    ):
        copy = shutil.copytree(folder, Path(place, "copy"))
        set_times(copy)
        register_toys(monkeypatch)
        monkeypatch.setattr("flowbind.train.curves.draw", draw_pixel)
        with contextlib.chdir(copy):
            return READERS[kind]()


def set_times(folder: Path) -> None:
    """Gives the samples of a folder the time of change that they had when they were encoded."""
    for path in folder.glob("files/*/*"):
        os.utime(path, ns=(CHANGED, CHANGED))


def views_in(folder: Path) -> set[Path]:
    """The views in a folder and those below it."""
    return {path for view in VIEWS for path in folder.rglob(view)}


def run(*arguments: str) -> None:
    """Runs a command in silence.

    Raises:
        ValueError: it ended with a mistake; the line that it said.
    """
    said = io.StringIO()
    try:
        with (
            contextlib.redirect_stderr(said),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            main(list(arguments))
    except SystemExit as stop:
        if stop.code:
            raise ValueError(said.getvalue().strip().splitlines()[-1]) from None


def changed_by(folder: str, *arguments: str) -> list[str]:
    """The files in a folder that a command wrote or took away."""
    before = _stamps(folder)
    run(*arguments)
    after = _stamps(folder)
    return sorted(
        name for name in {**before, **after} if before.get(name) != after.get(name)
    )


def _stamps(folder: str) -> dict[str, tuple[int, int]]:
    files = {path for path in Path(folder).rglob("*") if path.is_file()}
    files -= views_in(Path(folder))
    return {
        path.as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files
    }


@reader
def manifests() -> Any:
    """One by hand, and one that `prepare` wrote."""
    paths = "manifest.jsonl", "data/train.jsonl"
    return {
        path: [
            asdict(sample) for sample in Manifest.read(path, ["word", "vector"]).samples
        ]
        for path in paths
    }


@reader
def labels() -> Any:
    """A table."""
    return read_labels(Path("labels.csv")).labels


@reader
def prepared() -> Any:
    """A folder that is prepared again, to the same manifests. (Its first recipe may be in newer words.)"""
    before = {path.name: path.read_bytes() for path in Path("data").glob("*.jsonl")}
    run("prepare", "folder", "--source=files", "--labels=labels.csv", "--out=data")
    after = {path.name: path.read_bytes() for path in Path("data").glob("*.jsonl")}
    return sorted(
        name for name in {**before, **after} if before.get(name) != after.get(name)
    )


@reader
def recipes() -> Any:
    """Those of people, the first one that `prepare` wrote, and those that runs keep."""
    paths = (
        "model.yaml",
        "codec.yaml",
        "data/recipe.yaml",
        "run/config.yaml",
        "codec/config.yaml",
    )
    built = {path: build([f"--config={path}"]) for path in paths}
    return {
        path: [cli.datamodule.batch_size, cli.trainer.max_steps]
        for path, cli in built.items()
    }


@reader
def stores() -> Any:
    """Latents, to the bit, and the statistics that the store keeps of them."""
    folders = [
        "dtypes",
        *(f"data/latents/{split}" for split in ("train", "val", "test")),
    ]
    return {folder: _read_store(folder) for folder in folders}


def _read_store(folder: str) -> Any:
    store = LatentStore(folder)
    store.verify()
    fields = {}
    for name, field in store.fields.items():
        rows = {"latents": store.all(name), "lines": store.lines(name)}
        fields[name] = asdict(field) | {"rows": digest_tensors(rows)}
    return {"source": [store.source, store.source_sha256], "fields": fields}


@reader
def encoded() -> Any:
    """Shards that are not encoded again; the damaged sample, tried again, is still one."""
    changed = changed_by(
        "data/latents", "encode", "--config=model.yaml", "--skip-bad=1"
    )
    return [name for name in changed if name.endswith(".safetensors")]


@reader
def codec_weights() -> Any:
    """The weights of a codec, and what they promise."""
    codec = LearnedCodec("codec.safetensors")
    latents = codec.encode(WORDS)
    return [codec.fingerprint(), codec.promise(), latents.tolist()]


@reader
def codec_run() -> Any:
    """A codec's training that has made all its steps, and what its checkpoint holds."""
    changed = changed_by(".", "fit", "--config=codec.yaml")
    run("export", "codec", "--out=again.safetensors")
    return [
        changed,
        _checkpoint("codec"),
        digest_tensors(load_file("again.safetensors")),
    ]


def _checkpoint(run_folder: str) -> Any:
    path = latest_intact(Path(run_folder, "checkpoints"))
    return [
        path.name,
        step_of(path),
        digest_tensors(read_checkpoint(path)["state_dict"]),
    ]


@reader
def model() -> Any:
    """A released model, what its files are worth, and what it makes of words."""
    loaded = flowbind.load("run/model")
    vectors = loaded.generate({"word": WORDS}, to=["vector"], steps=2)["vector"]
    codec = loaded.modality("word").codec.fingerprint()
    return [verify("run/model")._asdict(), codec, torch.stack(vectors).tolist()]


@reader
def trained() -> Any:
    """A run that has made all its steps, by its record, and what its checkpoint holds."""
    return [changed_by(".", "fit", "--config=run/config.yaml"), _checkpoint("run")]


@reader
def resumed() -> Any:
    """A run that resumes from its checkpoint, and how far it ends from the one that did not stop."""
    stopped = _checkpoint("stopped")
    changed = changed_by(
        "stopped",
        "fit",
        "--config=model.yaml",
        "--trainer.default_root_dir=stopped",
        "--model.objective.noise_variance=0.1",  # the default of then
    )
    straight, parts = (
        flowbind.load(f"{folder}/model").networks.state_dict()
        for folder in ("run", "stopped")
    )
    apart = max((straight[name] - parts[name]).abs().max().item() for name in straight)
    return [stopped, [name for name in changed if "model/" not in name], apart]


@reader
def exported() -> Any:
    """The released model of a run that has steps left."""
    run("export", "stopped", "--out=half")
    weights = load_file("half/model.safetensors")
    first_names = {}
    for name, tensor in weights.items():
        name = name.removeprefix("nets.")
        name = name.replace(".proj_in.", ".inp.").replace(".proj_out.", ".out.")
        first_names[name] = tensor
    return digest_tensors(first_names)


@reader
def tested() -> Any:
    """What a test of a run measures, by the run's own recipe and the store's features."""
    # What the recipe leaves open it had by the defaults of then.
    path = Path("run/config.yaml")
    recipe = yaml.safe_load(path.read_text())
    if "evaluation" in recipe:
        recipe["evaluation"]["sampling"] = earlier.SAMPLING | {"steps": 2}
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))

    changed = changed_by(".", "test", "--config=run/config.yaml")
    metrics = json.loads(Path("run/metrics.json").read_text())
    return [
        [name for name in changed if "likeness" not in name],  # drawn by later versions
        {key: metrics[key] for key in ("directions", "alignment", "published")},
    ]


@reader
def metrics() -> Any:
    """Recorded figures as tables."""
    return [
        [len(table.head), len(table.rows)]
        for table in tables(json.loads(Path("run/metrics.json").read_text()))
    ]


@reader
def curves() -> Any:
    """Losses by step."""
    with open("run/curves/version_0/metrics.csv", newline="") as file:
        return list(csv.DictReader(file))
