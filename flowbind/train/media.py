"""Exhibits for loggers: words, pictures, sounds and clouds, as TensorBoard and W&B show them."""

import html
from collections.abc import Iterable, Mapping
from io import BytesIO
from typing import Any

import numpy as np
import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from PIL import Image

from flowbind.exhibit import Cloud, Exhibit, Recording
from flowbind.libraries import require

INSTALL = "pip install 'soundfile>=0.13'"


def log_media(
    loggers: Iterable[Logger],
    media: Mapping[str, Exhibit],
    step: int,
) -> None:
    """Gives exhibits to every logger that takes such; the others are passed over.

    Only the first process may call it.

    Args:
        loggers: Loggers of a trainer.
        media: Exhibits by the names under which they are shown, such as `samples/0/sound`.
        step: Steps that were made.

    Raises:
        ValueError: a sound's library is not installed.
    """
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            for name, exhibit in media.items():
                _to_tensorboard(logger.experiment, name, exhibit, step)
        elif isinstance(logger, WandbLogger):
            content = {name: _for_wandb(exhibit) for name, exhibit in media.items()}
            logger.log_metrics(content, step)


def _to_tensorboard(writer: Any, name: str, exhibit: Exhibit, step: int) -> None:
    """Writes an exhibit into an event file."""
    match exhibit:
        case str():
            writer.add_text(name, exhibit, step)
        case Image.Image():
            writer.add_image(name, _pixels(exhibit), step, dataformats="HWC")
        case Recording():
            levels, rate = _levels(exhibit)
            writer.add_audio(name, torch.from_numpy(levels)[None], step, rate)
        case Cloud(places, colours, _):
            bytes_of_colours = (colours.float().cpu() * 255).round().int()
            writer.add_mesh(
                name,
                places.float().cpu()[None],
                bytes_of_colours[None],
                global_step=step,
            )


def _for_wandb(exhibit: Exhibit) -> Any:
    """An exhibit as W&B takes it."""
    import wandb

    match exhibit:
        case str():
            return wandb.Html(f"<p>{html.escape(exhibit)}</p>")
        case Image.Image():
            return wandb.Image(exhibit)
        case Recording():
            levels, rate = _levels(exhibit)
            return wandb.Audio(levels, sample_rate=rate)
        case Cloud(places, colours, _):
            bytes_of_colours = (colours.float().cpu() * 255).round()
            return wandb.Object3D(
                torch.cat([places.float().cpu(), bytes_of_colours], 1).numpy()
            )
    raise TypeError(f"{type(exhibit).__name__} is no exhibit")


def _pixels(picture: Image.Image) -> np.ndarray:
    """A picture as uint8 RGB, with shape (height, width, 3)."""
    return np.asarray(picture.convert("RGB"))


def _levels(recording: Recording) -> tuple[np.ndarray, int]:
    """A recording as one channel in [-1, 1], float32 with shape (n,), and its samples a second."""
    soundfile = require("soundfile", "a sound", INSTALL)
    levels, rate = soundfile.read(
        BytesIO(recording.content), dtype="float32", always_2d=True
    )
    return levels.mean(1), rate
