"""Edits of one factor by arithmetic of start states, on the embedded world's test samples, as its judges see them.

    python benchmarks/edits.py runs/shapes/model [--from text] [--to image] [--strength 1] [--edits 1000]
    python benchmarks/edits.py runs/shapes/model --strip edits.png

A replacement takes the old value away and adds the new one; an addition adds a value to a caption that does not tell it;
a subtraction takes a value away, and has arrived where the judge finds another one (of k values a chance of 1 - 1/k).
What is added and taken away is phrased in three ways:

word      blue, and nothing else
phrase    a blue shape; in additions `a shape` is taken away, in subtractions added
caption   a small blue cone, a small red cone: another thing, the same on both sides

Values: the share of edits in which the new value is there, in which the other factors stay, and both; of a bound, the captions
of what is asked for, in the same words. The last column is the share with states brought to mean 0 and standard deviation 1.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from flowbind_audio.judge import AudioJudge
from flowbind_image.judge import ImageJudge
from flowbind_points.judge import PointsJudge
from flowbind_shapes.caption import with_articles
from flowbind_shapes.grammar import CaptionGrammar
from flowbind_shapes.scene import COLOURS, SHAPES, SIZES

import flowbind
from flowbind.data.manifest import Manifest
from flowbind.evaluation import strip
from flowbind.evaluation.gallery import save
from flowbind.generation import Model
from flowbind.progress import track

VALUES = {"shape": SHAPES, "colour": COLOURS, "size": SIZES}
JUDGES = {
    "text": CaptionGrammar,
    "image": ImageJudge,
    "audio": AudioJudge,
    "points": PointsJudge,
}
HEAD = [
    "| from | to | edit | phrasing | strength | arrives | others stay | both | shape | colour | size | both, standardised |",
    "|---|---|---|---|---|---|---|---|---|---|---|---|",
]


class Edit(NamedTuple):
    """One change of one sample: its number, its labels, and what they become; and the labels of another thing."""

    sample: int
    labels: Mapping[str, str]
    factor: str
    new: str
    other: Mapping[str, str]

    @property
    def old(self) -> str:
        return self.labels[self.factor]


def draw_edits(labels: Sequence[Mapping[str, str]], count: int) -> list[Edit]:
    """Edits of samples in turn, of factors in turn, to a value drawn among the others."""
    generator = np.random.default_rng(0)
    edits = []
    for number in range(count):
        sample = number % len(labels)
        factor = list(VALUES)[number % 3]
        others = [v for v in VALUES[factor] if v != labels[sample][factor]]
        new = others[generator.integers(len(others))]
        thing = {}
        for name, values in VALUES.items():
            thing[name] = values[generator.integers(len(values))]
        edits.append(Edit(sample, labels[sample], factor, new, thing))
    return edits


def caption(labels: Mapping[str, str]) -> str:
    """A caption of what is labelled, and no more."""
    shape = labels.get("shape", "shape")
    words = [labels[name] for name in ("size", "colour") if name in labels]
    return with_articles(" ".join(["a", *words, shape]))


def terms(kind: str, phrasing: str, edit: Edit) -> tuple[str | None, str | None]:
    """What is added and what is taken away; None where nothing is."""
    adds = kind != "subtraction"
    takes = kind != "addition"
    if phrasing == "word":
        return edit.new if adds else None, edit.old if takes else None
    if phrasing == "phrase":
        plus = {edit.factor: edit.new} if adds else {}
        minus = {edit.factor: edit.old} if takes else {}
        return caption(plus), caption(minus)
    return (
        caption({**edit.other, edit.factor: edit.new}),
        caption({**edit.other, edit.factor: edit.old}),
    )


class Benchmark:
    """A model, edits of test samples, and a judge of one target."""

    def __init__(self, model: Model, manifest: Manifest, count: int, to: str) -> None:
        self.model = model
        self.manifest = manifest
        self.to = to
        self.judge = JUDGES[to]()
        labels = [sample.labels for sample in manifest.samples]
        self.edits = draw_edits(labels, count)

    def samples(self, name: str, kind: str) -> list[Any]:
        """The sources of one modality; of additions captions without the factor."""
        sources = []
        for edit in self.edits:
            if kind == "addition":
                known = {n: v for n, v in edit.labels.items() if n != edit.factor}
                sources.append(caption(known))
                continue
            sample = self.manifest.samples[edit.sample]
            modality = self.model.modality(name)
            sources.append(self.manifest.source(sample, name, modality))
        return sources

    def right(self, raws: Sequence[Any], kind: str) -> torch.Tensor:
        """Whether each edit arrives, and whether the others stay, bool with shape (n, 2)."""
        read = self.judge.read(self.judge.features(self.to, raws)).tolist()
        names = list(self.judge.classes)
        rows = []
        for edit, numbers in zip(self.edits, read, strict=True):
            seen = {}
            for name, number in zip(names, numbers, strict=True):
                seen[name] = self.judge.classes[name][number] if number >= 0 else None
            value = seen[edit.factor]
            if kind == "subtraction":
                arrives = value not in (None, edit.old)
            else:
                arrives = value == edit.new
            others = [n for n in VALUES if n != edit.factor]
            stay = all(seen[name] == edit.labels[name] for name in others)
            rows.append([arrives, stay])
        return torch.tensor(rows)

    def latents(self, samples: Mapping[str, Sequence[Any]]) -> dict[str, torch.Tensor]:
        """Codec latents of sources or terms by modality."""
        return {name: self.model.encode(name, of) for name, of in samples.items()}

    def shares(
        self,
        sources: Mapping[str, torch.Tensor],
        kind: str,
        plus: Mapping[str, torch.Tensor] = {},
        minus: Mapping[str, torch.Tensor] = {},
        **options: Any,
    ) -> torch.Tensor:
        """What `right` says of samples that are generated with terms or without."""
        latents = self.model.translate(
            sources,
            [self.to],
            plus=list(plus.items()),
            minus=list(minus.items()),
            **options,
        )
        raws = self.model.codec(self.to, "decode").decode(latents[self.to])
        return self.right(raws, kind)

    def rows(
        self,
        names: Sequence[str],
        kind: str,
        phrasing: str,
        strengths: Sequence[float],
    ) -> list[str]:
        """Lines of the table, one for each strength."""
        if phrasing == "bound":
            wanted = [{**edit.labels, edit.factor: edit.new} for edit in self.edits]
            sources = self.latents({"text": list(map(caption, wanted))})
            shares = self.shares(sources, kind)
            return [self.line(names, kind, phrasing, "", shares, "")]

        sources = self.latents({name: self.samples(name, kind) for name in names})
        pairs = [terms(kind, phrasing, edit) for edit in self.edits]
        sides = {}
        for side, texts in zip(
            ("plus", "minus"), zip(*pairs, strict=True), strict=True
        ):
            sides[side] = self.latents({} if None in texts else {"text": texts})

        lines = []
        for strength in strengths:
            options = {**sides, "strength": strength}
            shares = self.shares(sources, kind, **options)
            whole = self.shares(sources, kind, **options, restandardize=True)
            last = f"{whole.all(1).double().mean():.3f}"
            lines.append(
                self.line(names, kind, phrasing, f"{strength:g}", shares, last)
            )
        return lines

    def line(
        self,
        names: Sequence[str],
        kind: str,
        phrasing: str,
        strength: str,
        shares: torch.Tensor,
        last: str,
    ) -> str:
        """One line of the table."""
        both = shares.all(1).double()
        of_factor = [
            both[number :: len(VALUES)].mean() for number in range(len(VALUES))
        ]
        figures = [*shares.double().mean(0), both.mean(), *of_factor]
        cells = ["+".join(names), self.to, kind, phrasing, strength]
        cells += [f"{figure:.3f}" for figure in figures]
        return f"| {' | '.join([*cells, last])} |"


def draw_strip(model: Model, to: str, path: Path) -> None:
    """A large red cube and, behind it, all other colours, shapes and sizes that arithmetic makes of it, a factor a line."""
    cube = {"size": "large", "colour": "red", "shape": "cube"}
    other = {"size": "small", "colour": "green", "shape": "cone"}
    preview = model.modality(to).preview
    lines = []
    for factor, values in VALUES.items():
        (plain,) = model.generate({"text": caption(cube)}, to)[to]
        line = [preview(plain)]
        minus = {"text": caption({**other, factor: cube[factor]})}
        for value in values:
            if value == cube[factor]:
                continue
            plus = {"text": caption({**other, factor: value})}
            source = {"text": caption(cube)}
            (edited,) = model.generate(source, to, plus=plus, minus=minus)[to]
            line.append(preview(edited))
        lines.append(line)
    save(strip.compose(lines), path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder of a released model")
    parser.add_argument("--manifest", default="data/shapes/test.jsonl")
    parser.add_argument(
        "--from", dest="sources", default="text", help="such as image+text"
    )
    parser.add_argument("--to", action="append", help="image if none is given")
    parser.add_argument(
        "--strength", type=float, action="append", help="1 if none is given"
    )
    parser.add_argument("--edits", type=int, default=1000)
    parser.add_argument(
        "--strip", type=Path, help="write a picture of edits there, and measure nothing"
    )
    options = parser.parse_args()

    model = flowbind.load(options.model)
    if options.strip:
        draw_strip(model, "image", options.strip)
        return
    manifest = Manifest.read_for(options.manifest, model.modalities)
    names = options.sources.split("+")
    rows = [("replacement", "bound")]
    rows += [("replacement", phrasing) for phrasing in ("word", "phrase", "caption")]
    rows += [("subtraction", phrasing) for phrasing in ("word", "phrase")]
    if names == ["text"]:
        rows += [("addition", phrasing) for phrasing in ("word", "phrase")]

    lines = []
    for to in options.to or ["image"]:
        benchmark = Benchmark(model, manifest, options.edits, to)
        for kind, phrasing in track(rows, f"edits to {to}"):
            lines += benchmark.rows(names, kind, phrasing, options.strength or [1.0])
    print(f"{options.edits} edits, seed 0:\n")
    print(*HEAD, *lines, sep="\n")


if __name__ == "__main__":
    main()
