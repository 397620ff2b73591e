"""The methods side by side: captions to pictures and back, on the embedded world, by the same judges in the same space.

    python benchmarks/methods.py --model FlowBind=runs/flowbind/scenes/model \\
        --model CrossFlow=runs/crossflow/text_to_image/model --model CrossFlow=runs/crossflow/image_to_text/model \\
        --model joint=runs/crossmodal/shapes/model [--limit 500] [--seed 0] [--picture methods.png]

A name with several models has them by what each makes. Each generates with the sampling of its recipe, from all test samples.

judge        share of which the world's judges read shape, colour and size rightly
Frechet      distance to the real samples in the latents of the small codecs, whoever made them; beside it that of real training
             samples with the same labels
private      variance within combinations of labels, of that of the real samples, in the same latents
parameters   of the networks that generate or are trained, millions
seconds      of one core, or of the GPU, for 100 samples from source to file, the first batch left out

The picture has a row for each of twelve captions, and two pictures of each by every method.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from flowbind_image import Image
from flowbind_image.judge import ImageJudge
from flowbind_shapes.grammar import CaptionGrammar
from flowbind_text import Text
from torch import Tensor

import flowbind
from flowbind.codec import Codec
from flowbind.data.manifest import Manifest
from flowbind.evaluation.gallery import Row, compose, save
from flowbind.evaluation.stand_ins import choose
from flowbind.generation import Model
from flowbind.judge import Judge
from flowbind.metrics.frechet import frechet
from flowbind.metrics.spread import private_variance
from flowbind.progress import track

BATCH = 50
CAPTIONS = 12
SEEDS = 2  # pictures of each caption
DIRECTIONS = {"image": "text", "text": "image"}  # source by target
JUDGES = {"text": CaptionGrammar(), "image": ImageJudge()}
SPACE = {"text": Text().codec, "image": Image().codec}
HEAD = [
    "| from | to | method | judge | Frechet | real samples | private | parameters, M | seconds |",
    "|---|---|---|---|---|---|---|---|---|",
]


class Real(NamedTuple):
    """Real samples of one split.

    Attributes:
        raws: Raw samples by modality.
        labels: What the judge reads of the captions, with shape (n, F).
        latents: Latents of the small codecs by modality, with shape (n, d).
    """

    raws: dict[str, list[Any]]
    labels: Tensor
    latents: dict[str, Tensor]

    @classmethod
    def read(cls, path: Path, limit: int) -> "Real":
        """The first samples of a manifest."""
        modalities = {"text": Text(), "image": Image()}
        manifest = Manifest.read_for(path, modalities)
        raws: dict[str, list[Any]] = {}
        latents = {}
        for name, modality in modalities.items():
            raws[name] = []
            for sample in track(manifest.samples[:limit], f"reading {name}"):
                raws[name].append(manifest.read_raw(sample, name, modality))
            latents[name] = encode(SPACE[name], raws[name])
        return cls(raws, classes(JUDGES["text"], "text", raws["text"]), latents)


def encode(codec: Codec, raws: Sequence[Any]) -> Tensor:
    """Latents of raw samples, with shape (n, d)."""
    parts = []
    for first in range(0, len(raws), BATCH):
        parts.append(codec.encode(raws[first : first + BATCH]))
    return torch.cat(parts).flatten(1).float()


def classes(judge: Judge, name: str, raws: Sequence[Any]) -> Tensor:
    """Factors that a judge reads, by name in the order of the captions' judge, with shape (n, F)."""
    return judge.read_as(judge.features(name, raws), JUDGES["text"].classes)


def generate(
    model: Model,
    source: str,
    target: str,
    raws: Sequence[Any],
    seed: int,
) -> tuple[list[Any], float]:
    """What a model makes of samples, and the seconds that it took for one."""
    generated: list[Any] = []
    seconds = 0.0
    for first in track(range(0, len(raws), BATCH), f"{source}->{target}"):
        begin = time.perf_counter()
        part = raws[first : first + BATCH]
        out = model.generate({source: part}, [target], seed=seed, first=first)
        generated += out[target]
        seconds += (time.perf_counter() - begin) * (first > 0)
    return generated, seconds / max(len(raws) - BATCH, 1)


def row(
    name: str, model: Model, target: str, test: Real, train: Real, seed: int
) -> str:
    """A line of the table."""
    source = DIRECTIONS[target]
    raws, seconds = generate(model, source, target, test.raws[source], seed)

    read = classes(JUDGES[target], target, raws)
    share = (read == test.labels).all(1).double().mean().item()

    mean = train.latents[target].mean(0)
    deviation = train.latents[target].std(0)
    x = (encode(SPACE[target], raws) - mean) / deviation
    real = (test.latents[target] - mean) / deviation
    others = choose(train.labels, test.labels, seed)
    floor = (train.latents[target][others] - mean) / deviation

    private = private_variance(x, test.labels) / private_variance(real, test.labels)
    parameters = sum(p.numel() for p in model.networks.parameters()) / 1e6
    cells = [source, target, name, f"{share:.3f}", f"{frechet(x, real):.2f}"]
    cells += [f"{frechet(floor, real):.2f}", f"{private:.2f}", f"{parameters:.1f}"]
    cells.append(f"{100 * seconds:.1f}")
    return f"| {' | '.join(cells)} |"


def picture(models: dict[str, dict[str, Model]], test: Real, path: Path) -> None:
    """Draws captions, and pictures of each by every method."""
    captions = test.raws["text"][:CAPTIONS]
    preview = Image().preview
    columns = {}
    for name, by_target in models.items():
        if "image" in by_target:
            of_seeds = []
            for seed in range(SEEDS):
                model = by_target["image"]
                raws, _ = generate(model, "text", "image", captions, seed)
                of_seeds.append([preview(raw) for raw in raws])
            columns[name] = of_seeds

    rows = []
    for number, caption in enumerate(captions):
        cells = {}
        for name, of_seeds in columns.items():
            cells[name] = [previews[number] for previews in of_seeds]
        rows.append(Row("text", str(number), "", caption, cells, set()))
    save(compose(rows, list(columns)), path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", required=True, help="NAME=FOLDER")
    parser.add_argument("--test", type=Path, default=Path("data/scenes/test.jsonl"))
    parser.add_argument("--train", type=Path, default=Path("data/scenes/train.jsonl"))
    parser.add_argument("--limit", type=int, default=500, help="test samples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, help="written there")
    given = parser.parse_args()

    models: dict[str, dict[str, Model]] = {}
    for option in given.model:
        name, _, folder = option.partition("=")
        model = flowbind.load(folder)
        for direction in model.method.directions():
            (target, *others) = direction.targets
            if direction.sources == (DIRECTIONS.get(target),) and not others:
                models.setdefault(name, {})[target] = model

    test = Real.read(given.test, given.limit)
    train = Real.read(given.train, 8 * given.limit)
    lines = []
    for target in DIRECTIONS:
        for name, by_target in models.items():
            if target in by_target:
                model = by_target[target]
                lines.append(row(name, model, target, test, train, given.seed))
    print("\n".join([*HEAD, *lines]))
    if given.picture:
        picture(models, test, given.picture)


if __name__ == "__main__":
    main()
