"""A picture of samples at every validation: the gallery's rows, from the same sources each time."""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

from flowbind.data.latents import LatentDataModule
from flowbind.data.manifest import Manifest
from flowbind.data.store import LatentStore
from flowbind.defaults import torch_defaults
from flowbind.errors import last_line
from flowbind.evaluation.gallery import Row, compose, save
from flowbind.evaluation.labels import draw_rows
from flowbind.evaluation.previews import draws_of, previews_of, raws_of, seen_together
from flowbind.exhibit import Exhibit
from flowbind.generation import Model
from flowbind.method import feasible
from flowbind.modality import Modality
from flowbind.progress import say
from flowbind.train.media import log_media
from flowbind.train.training import Training

SPLIT = "val"
SEED = 0  # of which samples are sources, and of what is generated
WIDTH = 1200  # pixels
NOISE = "noise"  # source of what is made from noise alone


class Splits(NamedTuple):
    """What a picture is drawn of: stores, and the samples of validation."""

    store: LatentStore
    manifest: Manifest
    train: LatentStore


class Drawn(NamedTuple):
    """A picture, and the raw samples of which it has previews, by their places in it."""

    picture: Image.Image
    raws: Mapping[str, tuple[Modality, Any]]


class Samples(Callback):
    """Draws `step=N.png`: what the average of the weights makes of some validation samples.

    Where that is not possible, a codec's weights or the raw samples not being there, a line says
    why, and training goes on without.

    Args:
        folder: Folder of the pictures.
        rows: Rows of a picture, shared out among the sources, one each at least.
    """

    def __init__(self, folder: Path, rows: int) -> None:
        self.folder = folder
        self.rows = rows
        self.obstacle = ""
        self.seconds = 0.0

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.state.fn != "fit" or self.obstacle:
            return
        assert isinstance(module, Training)  # nothing else has samples

        begin = time.monotonic()
        model = module.model  # of all processes, where weights are spread
        if trainer.is_global_zero:
            try:
                self._draw(trainer, model, module.trainer.datamodule)
            except (ValueError, OSError, ImportError, torch.OutOfMemoryError) as error:
                self.obstacle = last_line(error)
                say(f"samples: none are drawn ({self.obstacle}); training goes on")
        self.obstacle = trainer.strategy.broadcast(self.obstacle)
        self.seconds += time.monotonic() - begin

    def _draw(
        self,
        trainer: Trainer,
        model: Model,
        data: LatentDataModule,
    ) -> None:
        """Draws the picture, and gives it and its samples to loggers that show such."""
        step = trainer.global_step
        drawn = draw_samples(model, data, self.rows)
        if drawn is None:
            return
        self.folder.mkdir(exist_ok=True)
        save(drawn.picture, self.folder / f"step={step}.png")

        media: dict[str, Exhibit] = {"samples": drawn.picture}
        for name, (modality, raw) in drawn.raws.items():
            media[f"samples/{name}"] = modality.exhibit(raw)
        log_media(trainer.loggers, media, step)


@torch_defaults()
@torch.no_grad()
def draw_samples(
    model: Model,
    data: LatentDataModule,
    rows: int,
) -> Drawn | None:
    """A gallery of generations from validation samples; None if there is none to draw.

    Codecs that were moved to the model's device for it are on the CPU again thereafter.

    Args:
        model: Model that generates.
        data: Data module with stores and manifests of the splits.
        rows: Rows, shared out among the sources, one each at least.

    Raises:
        ValueError, OSError, ImportError: a codec or a raw sample is not there.
    """
    device = model.device
    devices = [device] if device.type == "cuda" else []
    try:
        model.to(device)
        # Codecs are built now, and may be used outside of Lightning's loops later. What they draw
        # from torch's own generator is no part of training.
        with (
            torch.inference_mode(False),
            torch.random.fork_rng(devices),
            torch.autocast(device.type, enabled=False),
        ):
            drawn_raws: dict[str, tuple[Modality, Any]] = {}
            gallery = list(_rows(model, data, rows, drawn_raws))
    finally:
        for modality in model.modalities.values():
            modality.codec.to("cpu")

    if not gallery:
        return None
    shown = [n for n in model.modalities if any(n in row.generated for row in gallery)]
    return Drawn(compose(gallery, shown, WIDTH), drawn_raws)


def _rows(
    model: Model,
    data: LatentDataModule,
    rows: int,
    drawn: dict[str, tuple[Modality, Any]],
) -> Iterator[Row]:
    """The rows of the picture, source by source; what is generated goes into `drawn`."""
    targets_of: dict[tuple[str, ...], dict[str, None]] = {}  # in order
    directions, _ = feasible(model.method, model.sampling)
    for direction in directions:
        if len(direction.sources) <= 1:
            known = targets_of.setdefault(direction.sources, {})
            known.update(dict.fromkeys(direction.targets))

    splits = Splits(
        data.open(SPLIT, model.modalities),
        Manifest.read_for(data.manifests[SPLIT], model.modalities),
        data.open("train", model.modalities),
    )
    generator = torch.Generator(model.device).manual_seed(SEED)
    rows_each = max(rows // max(len(targets_of), 1), 1)
    for number, (sources, names) in enumerate(targets_of.items()):
        targets = list(names)
        # Rows are numbered through, so that no two have the same noise.
        numbers = range(number * rows_each, (number + 1) * rows_each)
        if sources:
            (source,) = sources
            yield from _rows_from(
                model, splits, source, targets, numbers, generator, drawn
            )
            continue

        first = numbers.start
        draws = draws_of(model, {}, targets, [SEED], first, count=rows_each)
        raws = raws_of(model, draws, generator)
        keep(drawn, model, NOISE, raws[0])
        for row in range(rows_each):
            generated = previews_of(model, raws, row)
            yield Row(NOISE, "", "", NOISE, generated, frozenset())


def keep(
    drawn: dict[str, tuple[Modality, Any]],
    model: Model,
    source: str,
    raws: Mapping[str, Sequence[Any]],
) -> None:
    """Notes raw samples by source, target and row."""
    for name, samples in raws.items():
        for row, raw in enumerate(samples):
            drawn[f"{source} to {name}/{row}"] = (model.modalities[name], raw)


def _rows_from(
    model: Model,
    splits: Splits,
    source: str,
    targets: Sequence[str],
    numbers: range,
    generator: torch.Generator,
    drawn: dict[str, tuple[Modality, Any]],
) -> Iterator[Row]:
    """Rows with one modality as source; none where no validation sample has it."""
    store, manifest, train = splits
    if source not in store.fields:
        return

    is_usable = torch.ones(len(manifest.samples), dtype=torch.bool)
    count = max(len(numbers), 2)
    latents, lines = draw_rows(store, [source], is_usable, count, SEED + numbers.start)
    latents[source] = latents[source][: len(numbers)]
    lines = lines[: len(numbers)]

    draws = draws_of(model, latents, targets, [SEED], numbers.start)
    raws = raws_of(model, draws, generator)
    keep(drawn, model, source, raws[0])
    unpaired = {name for name in targets if not seen_together(train, [source], name)}

    modality = model.modalities[source]
    for number, line in enumerate(lines.tolist()):
        sample = manifest.samples[line]
        raw = manifest.read_raw(sample, source, modality)
        labels = " ".join(sample.labels.values())
        generated = previews_of(model, raws, number)
        yield Row(source, sample.id, labels, modality.preview(raw), generated, unpaired)
