"""From scenes to files: training pairs, and samples that have every modality for the rest."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flowbind.libraries import require
from flowbind.progress import track
from flowbind.registry import did_you_mean
from flowbind_shapes import audio, caption, depth, image, points
from flowbind_shapes.scene import SHAPES, Scenes, draw
from flowbind_shapes.solids import SOLIDS

PAIRS: tuple[tuple[str, ...], ...] = (
    ("text", "image"),
    ("text", "audio"),
    ("image", "points"),
)
EVERYTHING: tuple[str, ...] = ("text", "image", "audio", "points")
CHUNK = 8  # scenes made at once; part of what the seed decides
SUFFIX = {"image": "png", "audio": "wav", "points": "ply", "depth": "png"}
# Number of the random stream of each; a depth map is of the picture's view, so they share one.
STREAM = {"image": 2, "audio": 3, "points": 4, "depth": 2}
MAKE: dict[str, Callable[[str, Scenes, np.random.Generator], np.ndarray]] = {
    "image": lambda shape, *rest: image.render(SOLIDS[shape], *rest),
    "audio": lambda shape, *rest: audio.synthesise(audio.INSTRUMENTS[shape], *rest),
    "points": lambda shape, *rest: points.sample(SOLIDS[shape], *rest),
    "depth": lambda shape, *rest: depth.render(SOLIDS[shape], *rest),
}
WRITE = {
    "image": image.write,
    "audio": audio.write,
    "points": points.write,
    "depth": depth.write,
}


def prepare(
    out: Path,
    samples: int = 12000,
    test_samples: int = 500,
    seed: int = 0,
    modalities: str | None = None,
) -> None:
    """Writes the embedded world `shapes`: solids as captions, pictures, sounds and point clouds.

    Training samples are pairs, a third each: text and image, text and audio, image and points.
    Validation and test samples have all four. The same seed gives the same bytes.

    Args:
        out: The existing, empty folder to write to.
        samples: Number of training samples, at least 3.
        test_samples: Number of test samples, and of validation samples, at least 1.
        seed: Seed of everything that is random, at least 0.
        modalities: Modalities of every sample, those of training too, such as text+image+depth; of
            text, image, audio, points and depth. Without it, pairs as above.

    Raises:
        ValueError: A number is below what is allowed, a modality is none of these, or the library
            that writes sounds is not installed.
    """
    _check_least("samples", samples, 3)
    _check_least("test_samples", test_samples, 1)
    _check_least("seed", seed, 0)
    pairs, everything = PAIRS, EVERYTHING
    if modalities is not None:
        everything = _parse(modalities)
        pairs = (everything,)
    if "audio" in everything:
        require("soundfile", "the embedded world", audio.INSTALL)

    kinds = [kind for kind in SUFFIX if kind in everything]
    for folder in kinds:
        (out / folder).mkdir()

    sizes = {"train": samples, "val": test_samples, "test": test_samples}
    manifests: dict[str, list[dict[str, object]]] = {}
    jobs: list[Job] = []
    for stream, (split, count) in enumerate(sizes.items()):
        scenes = draw(count, np.random.default_rng([seed, stream, 0]))
        generator = np.random.default_rng([seed, stream, 1])
        captions = caption.describe(scenes, generator)
        subsets = pairs if split == "train" else (everything,)
        lines = list(_lines(split, scenes, captions, subsets))
        manifests[split] = lines
        for kind in kinds:
            jobs += _jobs(out, kind, scenes, lines, [seed, stream, STREAM[kind]])

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


def _parse(modalities: str) -> tuple[str, ...]:
    """The modalities that are named, such as `text+image+depth`, in the world's own order.

    Raises:
        ValueError: one is unknown, or named twice; one line.
    """
    known = ("text", *SUFFIX)
    names = modalities.split("+")
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known)
            raise ValueError(
                f"modalities: the embedded world has no '{name}'; {hint}, joined by +"
            )
        if names.count(name) > 1:
            raise ValueError(
                f"modalities: '{name}' is named twice in '{modalities}'; name each once"
            )
    return tuple(name for name in known if name in names)


def _lines(
    split: str,
    scenes: Scenes,
    captions: list[str],
    subsets: Sequence[tuple[str, ...]],
) -> Iterator[dict[str, object]]:
    """The manifest's lines, with the modalities of each subset in turn."""
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
