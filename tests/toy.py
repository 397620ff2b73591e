"""A world of two modalities that trains in seconds: vectors in files, words as literals, codecs in closed form.

A scene is three digits below 4. A word spells them ("203"); a vector holds them with noise. Both tell all three.
"""

import os
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from flowbind import Codec, Method, Modality, Training
from flowbind.arrays import as_tensor
from flowbind.codec import NeuralCodec
from flowbind.judge import Judge, NeuralJudge
from flowbind.metric import Metric
from flowbind.train.codec import CodecTraining

DIGITS = 4
STEPS = 200  # of training, enough to learn the world


class ToyCodec(Codec):
    """A fixed orthogonal map of three numbers to `width` features, and its transpose back."""

    def __init__(self, width: int = 8, seed: int = 0) -> None:
        self.width, self.seed = width, seed
        self.shape = (width,)

    @property
    def basis(self) -> torch.Tensor:
        return torch.linalg.qr(
            torch.randn(
                self.width, 3, generator=torch.Generator().manual_seed(self.seed)
            )
        )[0]

    def numbers(self, raws) -> torch.Tensor:
        return torch.stack(list(raws))

    def encode(self, raws):
        return (self.numbers(raws) @ self.basis.T).to(self.device)

    def decode(self, latents, generator=None):
        return list(latents.cpu() @ self.basis)


class WordCodec(ToyCodec):
    """The same of a word's digits."""

    def numbers(self, raws):
        return torch.tensor([[float(digit) for digit in word] for word in raws])

    def read(self, latents):
        return latents.float() @ self.basis

    def write(self, digits):
        return digits @ self.basis.T

    def decode(self, latents, generator=None):
        digits = super().decode(latents)
        return [
            "".join(str(int(d)) for d in row.round().clamp(0, DIGITS - 1))
            for row in digits
        ]


class MuteWordCodec(WordCodec):
    """The same, without a way back; digits above 2 are told as if they were lost."""

    decodes = False

    def decode(self, latents, generator=None):
        raise ValueError("MuteWordCodec encodes only")

    def caveat(self, raw):
        return "has a digit above 2" if max(raw) > "2" else ""


class SlowWordCodec(WordCodec):
    """The same at leisure, with a line in a file for each batch."""

    def __init__(
        self, width: int = 8, seed: int = 0, seconds: float = 0.0, log: str = os.devnull
    ) -> None:
        super().__init__(width, seed)
        self.seconds, self.log = seconds, log

    def encode(self, raws):
        with open(self.log, "a") as file:
            file.write(f"{len(raws)}\n")
        time.sleep(self.seconds)
        return super().encode(raws)


class LearnedCodec(NeuralCodec):
    """A word's digits by a network, trained by `ToyTraining`; none ships."""

    shape = (8,)

    def build(self):
        return WordNet()

    def prepare(self, raws):
        return WordCodec.numbers(None, raws)

    def finish(self, outputs):
        digits = outputs.cpu().round().clamp(0, DIGITS - 1).int().tolist()
        return ["".join(map(str, word)) for word in digits]


class WordNet(nn.Module):
    """Three digits, with shape (B, 3), to latents, with shape (B, 8), and back."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(3, 8)
        self.decode = nn.Linear(8, 3)


class ToyTraining(CodecTraining):
    """Trains it by the squared error of the digits."""

    def reconstruction(self, latents, digits, streams):
        return (self.net.decode(latents) - digits).square().mean(1)


class Vector(Modality):
    """Three numbers in a file."""

    suffixes = (".vec",)
    default_codec = ToyCodec

    def read(self, source):
        try:
            numbers = torch.tensor(
                [float(part) for part in Path(source).read_text().split()]
            )
        except ValueError:
            numbers = torch.empty(0)
        if len(numbers) != 3:
            raise ValueError(f"{source}: damaged; a vector has three numbers")
        return numbers

    def accept(self, raw):
        return as_tensor(raw, "three numbers", shape=(3,)).float()

    def write(self, raw, path):
        partial = path.with_name(path.name + ".partial")
        partial.write_text(" ".join(repr(float(x)) for x in raw))
        os.replace(partial, path)

    def preview(self, raw):
        return Image.new("RGB", (32, 32), tuple(int(60 * float(x)) % 256 for x in raw))


class Word(Modality):
    """A word of three digits."""

    suffixes = (".word",)
    literal = True

    def __init__(
        self,
        codec: Codec | None = None,
        drift=None,
        head=None,
        reads: str | None = None,
    ) -> None:
        super().__init__(codec or WordCodec(seed=1), drift, head, reads)

    def read(self, source):
        word = source.read_text() if isinstance(source, Path) else source
        if len(word) != 3 or not word.isdigit():
            raise ValueError(f"'{word}' is no word of three digits")
        return word

    def write(self, raw, path):
        path.write_text(raw)

    def preview(self, raw):
        return raw


class DigitError(Metric):
    """Mean absolute error of a generated vector's numbers, against the real vector or the word it was made from."""

    judges = "vector"

    def __init__(self, against: str = "vector") -> None:
        self.against = against

    def features(self, kind, raws):
        return {"vector": ToyCodec.numbers, "word": WordCodec.numbers}[kind](None, raws)

    def compute(self, made, reference):
        return {
            f"digit-error[toy,{self.against}]": (made - reference).abs().mean().item()
        }


class WordMatch(Metric):
    """Share of generated words that are one of their references."""

    judges = against = "word"
    multi_reference = True

    def features(self, kind, raws):
        return WordCodec.numbers(None, raws)

    def compute(self, made, reference, sample):
        equal = (made[sample] == reference).all(1)
        return {
            "word-match[toy]": torch.zeros(len(made))
            .index_add(0, sample, equal.float())
            .clamp(max=1)
            .mean()
            .item()
        }


class VectorJudge(NeuralJudge):
    """Reads the digits of a vector by a network; none ships."""

    judges = "vector"
    width = 32

    def build(self):
        return nn.Sequential(nn.Linear(3, self.width), nn.ReLU())

    def prepare(self, raws):
        return ToyCodec.numbers(None, raws)


class WordReader(Judge):
    """Reads a word's digits exactly, in an order of its own, and more than is labelled."""

    judges = "word"
    classes = {  # noqa: RUF012
        "length": ["three"],
        "third": ["3", "2", "1", "0"],
        "second": ["4", "0", "1", "2", "3"],
        "first": ["0", "1", "2", "3"],
    }

    def __init__(self, note: str | None = None) -> None:
        self.note = note

    def features(self, kind, raws):
        return WordCodec.numbers(None, raws)

    def read(self, features):
        first, second, third = features.long().unbind(1)
        return torch.stack([0 * first, 3 - third, 1 + second, first], dim=1)


def write_world(folder: Path, samples: int, seed: int = 0) -> None:
    """Files for `flowbind prepare folder`: train, val and test, and labels.csv."""
    generator = torch.Generator().manual_seed(seed)
    lines = ["id,first,second,third"]
    for split, count in (
        ("train", samples),
        ("val", samples // 4),
        ("test", samples // 4),
    ):
        (folder / split).mkdir(parents=True)
        digits = torch.randint(DIGITS, (count, 3), generator=generator)
        noisy = digits + 0.05 * torch.randn(count, 3, generator=generator)
        for i in range(count):
            stem = folder / split / f"{split}{i:04d}"
            stem.with_suffix(".word").write_text("".join(map(str, digits[i].tolist())))
            stem.with_suffix(".vec").write_text(" ".join(map(str, noisy[i].tolist())))
            lines.append(",".join([stem.name, *map(str, digits[i].tolist())]))
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


RECIPE = """
seed_everything: 1
model:
  class_path: flowbind
  init_args:
    modalities:
      word: {{class_path: word}}
      vector: {{class_path: vector}}
    drift: {{width: 64, depth: 2, ratio: 2}}
    head: {{width: 64, depth: 1}}
    objective: {{noise_variance: 0.1}}
training:
  learning_rate: 5.0e-3
  seed: 1
  warmup_steps: 10
  decay: cosine
evaluation: {{sampling: {{steps: 10, source_steps: null, solver: euler, variety: 0.0}}, gallery: 4}}
data:
  class_path: flowbind.data.latents.LatentDataModule
  init_args:
    manifests: {{train: {data}/train.jsonl, val: {data}/val.jsonl, test: {data}/test.jsonl}}
    store: {data}/latents
    batch_size: 64
trainer:
  default_root_dir: {run}
  accelerator: cpu
  devices: 1
  max_steps: {steps}
  val_check_interval: {steps}
  check_val_every_n_epoch: null
  log_every_n_steps: 10
"""


class Faulty(Training):
    """Training on a machine whose second device flips a weight after some steps."""

    def __init__(self, method: Method, faulty_at: int = 5, **others: Any) -> None:
        super().__init__(method, **others)
        self.faulty_at = faulty_at

    def on_train_batch_end(self, outputs, batch, index):
        super().on_train_batch_end(outputs, batch, index)
        if self.global_rank == 1 and self.trainer.global_step == self.faulty_at:
            with torch.no_grad():
                next(self.networks.parameters())[0] += 1e-6
