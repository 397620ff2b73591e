"""Writes everything that flowbind writes, small, as this version does: what later ones must read.

python -m tests.write_formats 2        into tests/formats/2, which must not be there yet

A folder has all formats of one state of the code, made by the commands on the toy world, with
relative paths alone:

    files/ labels.csv manifest.jsonl     what people bring: samples, labels, a manifest by hand
    data/                                what `prepare` and `encode` make of it
    dtypes/                              a latent store with every dtype, two strata, three shards
    codec/ codec.safetensors codec.json  a codec's run folder, its weights, and their promise
    run/                                 a run that was trained and tested
    stopped/                             the same run, ended after half its steps
    expected.json                        what is read of all this (tests/read_formats.py)
"""

import argparse
import contextlib
import json
from pathlib import Path

import pytest
import torch

from flowbind.data.shard import DTYPES, LINE, write_shard
from flowbind.data.store import finish_store
from tests.conftest import register_toys
from tests.read_formats import (
    EXPECTED,
    FOLDER,
    READERS,
    read_in,
    run,
    set_times,
    views_in,
)
from tests.toy import write_world

SAMPLES = 12  # to train on
STEPS = 4

RUN = """
trainer:
  default_root_dir: {run}
  accelerator: cpu
  devices: 1
  max_steps: {steps}
  val_check_interval: {half}
  check_val_every_n_epoch: null
  log_every_n_steps: 1
checkpoints: {{every: {half}, keep: 1}}
"""

CODEC = """
seed_everything: 1
model:
  class_path: tests.toy.ToyTraining
  init_args:
    codec: {class_path: toy-learned}
    export: codec.safetensors
    semantic: 0.1
data:
  class_path: flowbind.data.raw.RawDataModule
  init_args:
    modality: {class_path: word}
    train: data/train.jsonl
    val: data/val.jsonl
    batch_size: 8
"""

MODEL = """
seed_everything: 1
model:
  class_path: flowbind
  init_args:
    modalities:
      word:
        class_path: word
        init_args:
          codec: {class_path: toy-learned, init_args: {weights: codec.safetensors}}
      vector:
        class_path: vector
        init_args:
          drift: {width: 3, depth: 1, ratio: 1}
    drift: {width: 2, depth: 0, ratio: 1}
    head: {width: 2, depth: 1}
    objective: {noise_variance: 0.1}
training:
  learning_rate: 1.0e-2
  warmup_steps: 2
  decay: cosine
  seed: 1
evaluation:
  sampling: {steps: 2}
  gallery: 2
  metrics: [{class_path: digit-error}]
  published: published.json
data:
  class_path: flowbind.data.latents.LatentDataModule
  init_args:
    manifests: {train: data/train.jsonl, val: data/val.jsonl, test: data/test.jsonl}
    store: data/latents
    batch_size: 8
"""

BY_HAND = """\
{"id": "pair", "word": "203", "vector": "files/test/test0000.vec", "labels": {"first": "2", "size": 3.0}}

{"id": 7, "word": "113", "vector": null, "references": {"word": ["113", "112"]}, "labels": {"first": NaN, "size": ""}}
{"vector": "files/test/test0001.vec"}
"""

PUBLISHED = [
    {
        "title": "Digits",
        "columns": [
            {
                "direction": "word->vector",
                "measure": "error",
                "ours": "digit-error",
                "scale": 100,
            }
        ],
        "rows": [{"name": "theirs", "values": [12.5]}],
        "note": "from nowhere",
    }
]


def write(folder: Path) -> None:
    """Writes every format into an empty folder."""
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as monkeypatch:
        register_toys(monkeypatch)
        _write_samples()
        run("prepare", "folder", "--source=files", "--labels=labels.csv", "--out=data")
        _write_recipes()
        run("fit", "--config=codec.yaml")
        _encode()
        _write_dtypes(Path("dtypes"))

        run("fit", "--config=model.yaml")
        run("test", "--config=model.yaml")
        half = "--trainer.max_epochs=1", f"--trainer.limit_train_batches={STEPS // 2}"
        run("fit", "--config=model.yaml", "--trainer.default_root_dir=stopped", *half)

        for path in views_in(Path()):
            path.unlink()


def _write_samples() -> None:
    write_world(Path("files"), samples=SAMPLES)
    Path("files/labels.csv").rename("labels.csv")
    Path("files/train/train0001.vec").unlink()
    Path("files/train/train0002.word").unlink()
    set_times(Path())
    Path("manifest.jsonl").write_text(BY_HAND)


def _write_recipes() -> None:
    for path, recipe, run_folder in (
        ("codec.yaml", CODEC, "codec"),
        ("model.yaml", MODEL, "run"),
    ):
        end = RUN.format(run=run_folder, steps=STEPS, half=STEPS // 2)
        Path(path).write_text(recipe.lstrip() + end.lstrip())
    Path("published.json").write_text(json.dumps(PUBLISHED, indent=1) + "\n")


def _encode() -> None:
    """Encodes all samples but one, which is damaged, and stays so."""
    Path("files/train/train0005.vec").write_text("1 2")
    set_times(Path())
    run("encode", "--config=model.yaml", "--skip-bad=1")


def _write_dtypes(folder: Path) -> None:
    folder.mkdir()
    names = [f"of_{dtype.lower()}" for dtype in DTYPES]
    strata = [(names, {"0-00000.safetensors": 3, "0-00001.safetensors": 2})]
    strata += [(names[:1], {"1-00000.safetensors": 2})]
    first = 0
    for modalities, shards in strata:
        for file, rows in shards.items():
            numbers = torch.arange(first, first + rows)
            latents = {
                name: (numbers[:, None] + torch.arange(2) / 4).to(dtype)
                for name, dtype in zip(names, DTYPES.values(), strict=True)
                if name in modalities
            }
            write_shard(folder / file, latents | {LINE: numbers}, {"key": file})
            first += rows
    prints = {name: {"codec": "none", "version": 1} for name in names}
    finish_store(
        folder, [(m, list(s)) for m, s in strata], prints, "train.jsonl", "0" * 64
    )


def write_new(version: str) -> Path:
    """Writes the formats of a version, once, and what is read of them.

    Raises:
        ValueError: it is there already, or is no number.
    """
    folder = FOLDER / version
    if not version.isdigit():
        raise ValueError(f"a version of the formats is a number, not '{version}'")
    if folder.exists():
        raise ValueError(
            f"{folder}: is there, and stays as it was written; give the next number to write what "
            "changed"
        )
    folder.mkdir(parents=True)
    write(folder)

    expected = {kind: read_in(folder, kind) for kind in READERS}
    (folder / EXPECTED).write_text(json.dumps(expected, indent=1) + "\n")
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("version", help="a number that has no folder yet")
    try:
        print(write_new(parser.parse_args().version))
    except ValueError as error:
        raise SystemExit(f"write_formats: {error}") from None
