"""The embedded world, drawn: the shape is the outline, the colour the rhythm of the pressure, the size the size.

An outline is made of two turning circles, as a spirograph does it: `exp(i a) + weight exp(i turns a)`.
Private to a stroke: where on the page and on the outline it begins, its slant, its tempo and a tremor.
"""

import json
from pathlib import Path

import flowbind_shapes
import numpy as np
import torch
from flowbind_shapes.scene import COLOURS, SHAPES, SIZES

from flowbind.data.manifest import write_manifest
from flowbind_ink import Ink

TURNS = np.array([0, -3, -1, -2, 2, -4])  # of the second circle, in the order of SHAPES
WEIGHT = np.array([0, -0.15, 0.35, 0.3, 2.0, 0.33])
RADIUS = np.array([0.5, 0.75, 1.1])  # in the order of SIZES


def prepare(out: Path, samples: int = 12000, test_samples: int = 500, seed: int = 0) -> None:
    """Writes the embedded world `shapes`, and a stroke for every sample that has a sound.

    Args:
        samples: How many training samples.
        test_samples: How many test samples, and as many for validation.
        seed: Decides everything that is random.
    """
    flowbind_shapes.prepare(out, samples, test_samples, seed)
    (out / "ink").mkdir()
    for stream, split in enumerate(("train", "val", "test")):
        lines = [json.loads(line) for line in (out / f"{split}.jsonl").read_text().splitlines()]
        heard = [line for line in lines if "audio" in line]
        strokes = draw([line["labels"] for line in heard], np.random.default_rng([seed, stream]))
        for line, stroke in zip(heard, strokes, strict=True):
            line["ink"] = f"ink/{line['id']}.svg"
            Ink().write(stroke, out / line["ink"])
        write_manifest(out / f"{split}.jsonl", lines)


def draw(labels: list[dict[str, str]], generator: np.random.Generator) -> torch.Tensor:
    """Strokes of n labelled scenes, with shape (n, 128, 3)."""
    factors = {"shape": SHAPES, "colour": COLOURS, "size": SIZES}
    shape, colour, size = (np.array([[names.index(label[f])] for label in labels]) for f, names in factors.items())
    start, tempo, slant, x, y = generator.uniform(-1, 1, size=(5, len(labels), 1))
    angle = 2 * np.pi * (np.linspace(0, 1, 128) + 0.05 * start)
    angle = angle + 0.1 * tempo * np.sin(angle)
    outline = np.exp(1j * angle) + WEIGHT[shape] * np.exp(1j * TURNS[shape] * angle)
    place = RADIUS[size] * outline * np.exp(0.2j * slant) / (1 + abs(WEIGHT[shape])) + 0.2 * (x + 1j * y)
    width = 0.06 + 0.03 * np.cos((colour + 1) * angle)
    stroke = np.stack([-place.imag, -place.real, width], axis=-1)  # the outline begins at its top
    return torch.from_numpy(stroke + generator.normal(scale=[0.008, 0.008, 0], size=stroke.shape)).float()
