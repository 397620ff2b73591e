"""What a joint flow over the embedded world's captions and pictures reaches, as the world's own judges see it.

    python benchmarks/crossmodal.py runs/crossmodal/shapes/model [--test data/scenes/test.jsonl] [--count 1440]
        [--choice steps=20] [--choice guidance=2] [--autoregressive 1500 --train data/scenes/train.jsonl]

pairs        of noise alone: captions that the world's grammar could have written; pairs whose picture and caption tell the same
             shape, colour and size; combinations of these, of 144, that there are, of pictures; how evenly they are spread, as
             entropy over that of an even spread, beside what as many draws of an even spread give.
directions   from test captions and pictures: all factors right, and captions of the grammar.
inpainting   of test pictures with one half grey, given their caption, as a whole and with that half as a mask: all factors right,
             beside what the judge reads of the real pictures and of the damaged ones.
perplexity   of test captions, in nats a caption: the world's own entropy, exactly; the flow's bound, alone and given the picture;
             and a causal transformer as large as the flow's posterior net, trained on the same captions for a number of steps.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from flowbind_image.judge import ImageJudge
from flowbind_shapes.caption import (
    COLOUR_WORDS,
    FULL_STOP,
    SHAPE_WORDS,
    SIZE_WORDS,
    TEMPLATES,
)
from flowbind_shapes.grammar import CaptionGrammar, parse
from flowbind_shapes.scene import COLOURS, SHAPES, SIZES
from flowbind_text import Text
from torch import Tensor, nn

import flowbind
from flowbind import draws
from flowbind.batch import Batch
from flowbind.data.manifest import Manifest
from flowbind.generation import Model
from flowbind.progress import track

JUDGES = {"text": CaptionGrammar(), "image": ImageJudge()}
VALUES = {"shape": SHAPES, "colour": COLOURS, "size": SIZES}
COMBINATIONS = 144
GREY = 128
BATCH = 64


def read(name: str, raws: Sequence[Any]) -> Tensor:
    """Shape, colour and size that a judge reads, (n, 3); below 0 where it reads none."""
    judge = JUDGES[name]
    return judge.read_as(judge.features(name, raws), VALUES)


def grammatical(captions: Sequence[str]) -> float:
    """The share of captions that the world could have written."""
    return sum(bool(parse(caption)) for caption in captions) / len(captions)


def share(right: Tensor) -> float:
    return right.all(1).double().mean().item()


def spread(factors: Tensor) -> tuple[int, float]:
    """How many combinations of factors there are, and their entropy over that of an even spread."""
    numbers = (factors * torch.tensor([24, 3, 1])).sum(
        1
    )  # 6 shapes, 8 colours, 3 sizes
    counts = numbers[(factors >= 0).all(1)].bincount(minlength=COMBINATIONS)
    p = counts / counts.sum().clamp(min=1)
    entropy = -torch.xlogy(p, p).sum().item()
    return int((counts > 0).sum()), entropy / math.log(COMBINATIONS)


class Benchmark:
    """A model, test samples, and what is chosen when it generates."""

    def __init__(self, model: Model, test: Path, choices: dict[str, Any]) -> None:
        self.model = model
        self.choices = choices
        manifest = Manifest.read_for(test, model.modalities)
        self.raws: dict[str, list[Any]] = {}
        for name in JUDGES:
            modality = model.modality(name)
            raws = [
                manifest.read_raw(each, name, modality) for each in manifest.samples
            ]
            self.raws[name] = raws
        self.labels = read("text", self.raws["text"])

    def generate(self, sources: dict[str, list], to: list[str], **more: Any) -> dict:
        """Generates in parts."""
        count = more.pop("count", None) or len(next(iter(sources.values())))
        masks = more.pop("mask", {})
        generated: dict[str, list] = {name: [] for name in to}
        for first in track(range(0, count, BATCH), "->".join(["+".join(sources), *to])):
            rows = slice(first, min(first + BATCH, count))
            if not sources:
                more["count"] = rows.stop - rows.start
            part = self.model.generate(
                {name: raws[rows] for name, raws in sources.items()},
                to,
                mask={name: mask[rows] for name, mask in masks.items()},
                first=first,
                **self.choices,
                **more,
            )
            for name, raws in part.items():
                generated[name] += raws
        return generated

    def pairs(self, count: int) -> None:
        pairs = self.generate({}, ["text", "image"], count=count)
        of_text, of_image = (read(name, pairs[name]) for name in ("text", "image"))
        agree = of_text == of_image
        print(f"\npairs of noise alone, {count}")
        print(f"  captions of the grammar  {grammatical(pairs['text']):.3f}")
        print(f"  pairs that agree         {share(agree):.3f}")
        by_factor = agree.double().mean(0).tolist()
        print(
            "  by factor               ",
            *(f"{n} {x:.3f}" for n, x in zip(VALUES, by_factor, strict=True)),
        )
        even = torch.randint(
            COMBINATIONS, (count,), generator=torch.Generator().manual_seed(0)
        )
        even = torch.stack([even // 24, even % 24 // 3, even % 3], dim=1)
        for what, factors in (
            ("pictures", of_image),
            ("captions", of_text),
            ("an even spread", even),
        ):
            combinations, evenness = spread(factors)
            print(
                f"  combinations, evenness   {combinations} of {COMBINATIONS}, {evenness:.3f}  {what}"
            )

    def directions(self) -> None:
        print("\nfrom test samples, all factors right")
        pictures = self.generate({"text": self.raws["text"]}, ["image"])["image"]
        print(f"  text->image  {share(read('image', pictures) == self.labels):.3f}")
        captions = self.generate({"image": self.raws["image"]}, ["text"])["text"]
        right = share(read("text", captions) == self.labels)
        print(f"  image->text  {right:.3f}, of the grammar {grammatical(captions):.3f}")

    def inpainting(self) -> None:
        damaged = []
        masks = []
        for number, raw in enumerate(self.raws["image"]):
            mask = half(raw, number)
            masks.append(mask.to(torch.uint8).mul(255).expand(3, -1, -1))
            damaged.append(
                torch.where(mask, torch.tensor(GREY, dtype=torch.uint8), raw)
            )

        print("\ninpainting of a grey half, all factors right")
        for what, raws in (("real pictures", self.raws["image"]), ("damaged", damaged)):
            print(f"  {what:20} {share(read('image', raws) == self.labels):.3f}")
        sources = {"image": damaged, "text": self.raws["text"]}
        for what, mask in (("whole", {}), ("with a mask", {"image": masks})):
            pictures = self.generate(sources, ["image"], inpaint=True, mask=mask)[
                "image"
            ]
            print(f"  {what:20} {share(read('image', pictures) == self.labels):.3f}")

    def perplexity(self, train: Path, steps: int) -> None:
        captions = self.raws["text"]
        print("\nnats a caption")
        print(
            f"  the world's entropy, of these captions  {sum(map(nats, captions)) / len(captions):.2f}"
        )

        latents = {}
        for name, raws in self.raws.items():
            standard = self.model.networks.standard[name]
            latents[name] = standard(self.model.encode(name, raws))
        samples = torch.arange(len(captions))
        batch = Batch.of(latents, dict.fromkeys(latents, samples))
        with torch.no_grad():
            values = self.model.method.measures(
                self.model.networks.nets, batch, draws.key(0)
            )
        length = latents["text"].shape[1]
        for name, value in values.items():
            print(f"  bound, {name:32} {value.mean().item() * length:.2f}")
        if steps:
            text = self.model.modality("text")
            loss, size = autoregressive(self.model, captions, text, train, steps)
            print(
                f"  a causal transformer of {size / 1e6:.2f} M, {steps} steps  {loss:.2f}"
            )


def half(raw: Tensor, number: int) -> Tensor:
    """Left, right, upper or lower half of a picture, in turn: bool with shape (H, W)."""
    _, height, width = raw.shape
    mask = torch.zeros(height, width, dtype=torch.bool)
    if number % 2:
        mask[:, : width // 2] = True
    else:
        mask[: height // 2] = True
    return mask.flip(0, 1) if number // 2 % 2 else mask


def nats(caption: str) -> float:
    """Minus the log-probability of a caption in the embedded world, of which each has one derivation."""
    words_of = {"shape": SHAPE_WORDS, "colour": COLOUR_WORDS, "size": SIZE_WORDS}
    total = math.log(len(TEMPLATES))
    has_stop = False
    for kind, choice in parse(caption):
        has_stop |= kind == "stop"
        if kind in words_of:
            classes = words_of[kind].values()
            (synonyms,) = (words for words in classes if choice in words)
            total += math.log(len(classes)) + math.log(len(synonyms))
    return total - math.log(FULL_STOP if has_stop else 1 - FULL_STOP)


class NextId(nn.Module):
    """A causal transformer: logits of each id given those before it, (n, L) -> (n, L, V)."""

    def __init__(self, vocabulary: int, length: int, width: int, depth: int) -> None:
        super().__init__()
        self.start = vocabulary
        self.pieces = nn.Embedding(vocabulary + 1, width)
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))
        layers = [
            nn.TransformerEncoderLayer(
                width, 4, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        ]
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(width)
        self.proj_out = nn.Linear(width, vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        before = F.pad(ids[:, :-1], (1, 0), value=self.start)
        x = self.pieces(before) + self.positions
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        for layer in self.layers:
            x = layer(x, src_mask=mask, is_causal=True)
        return self.proj_out(self.norm(x))


def autoregressive(
    model: Model, captions: Sequence[str], text: Text, train: Path, steps: int
) -> tuple[float, int]:
    """Nats a caption of a causal transformer that is about as large as the posterior's net, and its size."""
    torch.manual_seed(0)
    codec = text.codec
    manifest = Manifest.read_for(train, {"text": text})
    ids = codec.encode(
        [manifest.read_raw(each, "text", text) for each in manifest.samples]
    )
    own = sum(p.numel() for p in model.networks.nets.posterior.parameters())
    width = model.method.token_net.width
    depth = max(1, round(own / (12 * width**2)))
    net = NextId(codec.vocabulary, codec.length, width, depth)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    for _ in track(range(steps), "a causal transformer"):
        part = ids[torch.randint(len(ids), (BATCH,))]
        loss = F.cross_entropy(net(part).mT, part)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        rate.step()

    with torch.no_grad():
        test = codec.encode(captions)
        errors = F.cross_entropy(net.eval()(test).mT, test, reduction="none")
    return errors.sum(1).mean().item(), sum(p.numel() for p in net.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "model", help="released model of recipes/crossmodal/shapes.yaml"
    )
    parser.add_argument("--test", type=Path, default=Path("data/scenes/test.jsonl"))
    parser.add_argument("--train", type=Path, default=Path("data/scenes/train.jsonl"))
    parser.add_argument("--count", type=int, default=1440, help="pairs of noise alone")
    parser.add_argument("--choice", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--autoregressive", type=int, default=1500, metavar="STEPS")
    options = parser.parse_args()

    choices = {}
    for choice in options.choice:
        name, _, value = choice.partition("=")
        try:
            choices[name] = json.loads(value)
        except ValueError:  # a word
            choices[name] = value
    benchmark = Benchmark(flowbind.load(options.model), options.test, choices)
    benchmark.pairs(options.count)
    benchmark.directions()
    benchmark.inpainting()
    benchmark.perplexity(options.train, options.autoregressive)


if __name__ == "__main__":
    main()
