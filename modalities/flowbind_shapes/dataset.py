"""From scenes to files: training pairs, and samples that have every modality for the rest."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flowbind.libraries import require
from flowbind.progress import track
from flowbind_shapes import audio, caption, image, points
from flowbind_shapes.scene import SHAPES, Scenes, draw
from flowbind_shapes.solids import SOLIDS

PAIRS = (("text", "image"), ("text", "audio"), ("image", "points"))
EVERYTHING = ("text", "image", "audio", "points")
CHUNK = 8  # scenes made at once; part of what the seed decides
SUFFIX = {"image": "png", "audio": "wav", "points": "ply"}
MAKE: dict[str, Callable[[str, Scenes, np.random.Generator], np.ndarray]] = {
    "image": lambda shape, *rest: image.render(SOLIDS[shape], *rest),
    "audio": lambda shape, *rest: audio.synthesise(audio.INSTRUMENTS[shape], *rest),
    "points": lambda shape, *rest: points.sample(SOLIDS[shape], *rest),
}
WRITE = {"image": image.write, "audio": audio.write, "points": points.write}


def prepare(
    out: Path,
    samples: int = 12000,
    test_samples: int = 500,
    seed: int = 0,
) -> None:
    """Writes the embedded world `shapes`: solids as captions, pictures, sounds and point clouds.

    Training samples are pairs, a third each: text and image, text and audio, image and points.
    Validation and test samples have all four. The same seed gives the same bytes.

    Args:
        out: The existing, empty folder to write to.
        samples: Number of training samples, at least 3.
        test_samples: Number of test samples, and of validation samples, at least 1.
        seed: Seed of everything that is random, at least 0.

    Raises:
        ValueError: A number is below what is allowed, or the library that writes sounds is not
            installed.
    """
    _check_least("samples", samples, 3)
    _check_least("test_samples", test_samples, 1)
    _check_least("seed", seed, 0)
    require("soundfile", "the embedded world", audio.INSTALL)

    for folder in SUFFIX:
        (out / folder).mkdir()

    sizes = {"train": samples, "val": test_samples, "test": test_samples}
    manifests: dict[str, list[dict[str, object]]] = {}
    jobs: list[Job] = []
    for stream, (split, count) in enumerate(sizes.items()):
        scenes = draw(count, np.random.default_rng([seed, stream, 0]))
        generator = np.random.default_rng([seed, stream, 1])
        captions = caption.describe(scenes, generator)
        lines = list(_lines(split, scenes, captions))
        manifests[split] = lines
        for number, kind in enumerate(SUFFIX, start=2):
            jobs += _jobs(out, kind, scenes, lines, [seed, stream, number])

    _run(jobs)

    for split, lines in manifests.items():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        path = out / f"{split}.jsonl"
        path.write_text(text, encoding="utf-8", newline="\n")


class Job(NamedTuple):
    """Scenes of one shape, to be made in one modality and written to their paths."""

    kind: str
    scenes: Scenes
    paths: list[Path]
    generator: np.random.Generator


def _check_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(
            f"{name} is {value}, allowed is {least} or more: give a larger one"
        )


def _lines(
    split: str,
    scenes: Scenes,
    captions: list[str],
) -> Iterator[dict[str, object]]:
    """The manifest's lines: pairs in turn for training, samples with everything otherwise."""
    subsets = (EVERYTHING,)
    if split == "train":
        subsets = PAIRS

    pairs = zip(scenes.labels(), captions, strict=True)
    for k, (labels, text) in enumerate(pairs):
        name = f"{split}-{k:06d}"
        values = {"text": text}
        for kind, suffix in SUFFIX.items():
            values[kind] = f"{kind}/{name}.{suffix}"

        line: dict[str, object] = {"id": name}
        for kind in subsets[k % len(subsets)]:
            line[kind] = values[kind]
        line["labels"] = labels
        yield line


def _jobs(
    out: Path,
    kind: str,
    scenes: Scenes,
    lines: list[dict[str, object]],
    seed: list[int],
) -> Iterator[Job]:
    """The jobs that make one modality of a split, chunk by chunk, each with its own generator."""
    rows = [k for k, line in enumerate(lines) if kind in line]
    chunks = _chunks(np.array(rows), scenes.shape)
    for number, chunk in enumerate(chunks):
        paths = [out / lines[k][kind] for k in chunk]
        generator = np.random.default_rng([*seed, number])
        yield Job(kind, scenes.take(chunk), paths, generator)


def _chunks(rows: np.ndarray, shape: np.ndarray) -> Iterator[np.ndarray]:
    """The rows in chunks of one shape each."""
    for k in range(len(SHAPES)):
        alike = rows[shape[rows] == k]
        for first in range(0, len(alike), CHUNK):
            yield alike[first : first + CHUNK]


def _run(jobs: list[Job]) -> None:
    """Does all jobs, on all processors."""
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        files = chain.from_iterable(pool.map(_write, jobs))
        total = sum(len(job.paths) for job in jobs)
        for _ in track(files, "writing shapes", total=total):
            pass
    finally:
        # After an error or Ctrl-C what is not begun is not made.
        pool.shutdown(cancel_futures=True)


def _write(job: Job) -> list[Path]:
    """Makes a job's scenes and writes each to its path."""
    shape = SHAPES[job.scenes.shape[0]]
    samples = MAKE[job.kind](shape, job.scenes, job.generator)
    for sample, path in zip(samples, job.paths, strict=True):
        WRITE[job.kind](sample, path)

    return job.paths
