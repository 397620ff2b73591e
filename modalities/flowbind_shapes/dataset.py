"""From scenes to files: training pairs, and validation and test samples that have every modality."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path

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
    "image": lambda shape, scenes, generator: image.render(SOLIDS[shape], scenes, generator),
    "audio": lambda shape, scenes, generator: audio.synthesise(
        audio.INSTRUMENTS[shape], scenes, generator
    ),
    "points": lambda shape, scenes, generator: points.sample(SOLIDS[shape], scenes, generator),
}
WRITE = {"image": image.write, "audio": audio.write, "points": points.write}


def prepare(out: Path, samples: int = 12000, test_samples: int = 500, seed: int = 0) -> None:
    """Writes the embedded world `shapes`: solids as captions, pictures, sounds and point clouds.

    Training samples are pairs, a third each: text and image, text and audio, image and points.
    Validation and test samples have all four. The same seed gives the same bytes.

    Args:
        out: The existing, empty folder to write to.
        samples: How many training samples, at least 3.
        test_samples: How many test samples, and as many for validation, at least 1.
        seed: Decides everything that is random, at least 0.

    Raises:
        ValueError: A number is below what is allowed, or the library that writes sounds is not
            installed.
    """
    for name, given, least in (
        ("samples", samples, 3),
        ("test_samples", test_samples, 1),
        ("seed", seed, 0),
    ):
        if given < least:
            raise ValueError(f"{name} is {given}, allowed is {least} or more: give a larger one")
    require("soundfile", "the embedded world", audio.INSTALL)
    for folder in SUFFIX:
        (out / folder).mkdir()
    sizes = {"train": samples, "val": test_samples, "test": test_samples}
    manifests, jobs, total = {}, [], 0
    for stream, (split, count) in enumerate(sizes.items()):
        scenes = draw(count, np.random.default_rng([seed, stream, 0]))
        pairs = [PAIRS[k % len(PAIRS)] if split == "train" else EVERYTHING for k in range(count)]
        captions = caption.describe(scenes, np.random.default_rng([seed, stream, 1]))
        manifests[split] = list(_lines(split, scenes, pairs, captions))
        for number, kind in enumerate(SUFFIX, start=2):
            rows = np.array([k for k, has in enumerate(pairs) if kind in has])
            for chunk, part in enumerate(_chunks(rows, scenes.shape)):
                paths = [out / manifests[split][k][kind] for k in part]
                generator = np.random.default_rng([seed, stream, number, chunk])
                total += len(paths)
                jobs.append(partial(_write_chunk, kind, scenes.take(part), paths, generator))
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        files = chain.from_iterable(pool.map(lambda job: job(), jobs))
        for _ in track(files, "writing shapes", total=total):
            pass
    finally:
        pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C what is not begun is not made
    for split, lines in manifests.items():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (out / f"{split}.jsonl").write_text(text, encoding="utf-8", newline="\n")


def _lines(
    split: str, scenes: Scenes, modalities: list[tuple[str, ...]], captions: list[str]
) -> Iterator[dict[str, object]]:
    """The manifest's lines."""
    for k, (has, labels, text) in enumerate(
        zip(modalities, scenes.labels(), captions, strict=True)
    ):
        name = f"{split}-{k:06d}"
        values = {"text": text} | {
            kind: f"{kind}/{name}.{suffix}" for kind, suffix in SUFFIX.items()
        }
        yield {"id": name} | {kind: values[kind] for kind in has} | {"labels": labels}


def _chunks(rows: np.ndarray, shape: np.ndarray) -> Iterator[np.ndarray]:
    """The rows in chunks of one shape each."""
    for k in range(len(SHAPES)):
        alike = rows[shape[rows] == k]
        yield from (alike[first : first + CHUNK] for first in range(0, len(alike), CHUNK))


def _write_chunk(
    kind: str, scenes: Scenes, paths: list[Path], generator: np.random.Generator
) -> list[Path]:
    """Makes scenes of one shape in one modality and writes each to its path."""
    made = MAKE[kind](SHAPES[scenes.shape[0]], scenes, generator)
    for one, path in zip(made, paths, strict=True):
        WRITE[kind](one, path)
    return paths
