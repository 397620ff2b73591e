"""The published codec of pictures as grids: the variational autoencoder of Stable Diffusion.

Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", CVPR 2022, arXiv
2112.10752: eight pixels a side become one cell of four numbers.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowbind.codec import Codec
from flowbind.errors import first_line
from flowbind.files import digest_all
from flowbind.hub import existing_paths, folder_of
from flowbind.libraries import Extra, importing
from flowbind_image.mask import known_cells
from flowbind_image.square import middle_square

CHANNELS = 4  # of a latent
CELL = 8  # pixels a side of one cell of a latent
CONFIG = "config.json"
INSTALL = Extra("sd-vae")


class SDVae(Codec):
    """Latents of shape (4, size/8, size/8) by an `AutoencoderKL` of diffusers.

    The shorter side of a picture is resized to `size` pixels (bicubic with antialiasing), and the
    middle is cropped. A latent is the mean that the encoder gives, without noise, times the scale.

    Args:
        model: Folder of an `AutoencoderKL`, or a repository on the Hugging Face hub.
        revision: Branch, tag or commit of it on the hub.
        subfolder: Folder of the autoencoder within the model, such as `vae` in a pipeline's.
        size: Pixels a side of the pictures, a multiple of 8.
        scale: Factor that brings latents to a spread of about 1; the model's own `scaling_factor`
            if None. CrossFlow's authors have 0.2301, where Stable Diffusion has 0.18215.
        batch_size: Pictures encoded or decoded at once, which bounds the memory.
    """

    def __init__(
        self,
        model: str = "stabilityai/sd-vae-ft-ema",
        revision: str = "main",
        subfolder: str = "",
        size: int = 256,
        scale: float | None = None,
        batch_size: int = 8,
    ) -> None:
        if size < CELL or size % CELL:
            raise ValueError(f"size must be a multiple of {CELL} pixels, not {size}")
        if scale is not None and not scale > 0:
            raise ValueError(f"scale must be above 0, not {scale}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")

        self.model = model
        self.revision = revision
        self.subfolder = subfolder
        self.size = size
        self.scale = scale
        self.batch_size = batch_size
        self.shape = (CHANNELS, size // CELL, size // CELL)

    def libraries(self, use: str) -> dict[str, Extra]:
        return {"diffusers": INSTALL}

    def files(self) -> dict[str, Path]:
        return existing_paths(model=self.model)

    @cached_property
    def net(self) -> Any:
        """The frozen `AutoencoderKL`, in float32.

        Raises:
            ValueError: diffusers is not installed, the model is not to be had, or its latents have
                another shape.
        """
        with importing("diffusers", needing=self._name, install=INSTALL):
            from diffusers import AutoencoderKL

        folder = folder_of(
            self.model,
            self.revision,
            kind="the autoencoder",
            argument="model",
            install=INSTALL,
        )
        try:
            net = AutoencoderKL.from_pretrained(
                folder / self.subfolder,
                use_safetensors=True,  # no pickled weights
            )
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(
                f"{self._name} cannot be loaded ({first_line(error)}); set `model` to the folder of "
                "an AutoencoderKL with safetensors, and `subfolder` if it is part of a pipeline"
            ) from None

        cell = 2 ** (len(net.config.block_out_channels) - 1)
        if (net.config.latent_channels, cell) != (CHANNELS, CELL):
            raise ValueError(
                f"{self._name} makes {net.config.latent_channels} numbers of {cell} x {cell} "
                f"pixels; allowed is one that makes {CHANNELS} of {CELL} x {CELL}"
            )
        return net.eval().requires_grad_(False).to(self.device)

    @property
    def _name(self) -> str:
        return f"the autoencoder '{self.model}'"

    @property
    def _factor(self) -> float:
        return self.scale or self.net.config.scaling_factor

    @torch.inference_mode()
    def encode(self, raws: Sequence[Tensor]) -> Tensor:
        """Latents, float32 with shape (B, 4, size/8, size/8), of B pictures, uint8 (3, H, W).

        Raises:
            ValueError: the model cannot be loaded.
        """
        means = []
        for start in range(0, len(raws), self.batch_size):
            part = raws[start : start + self.batch_size]
            pictures = torch.stack([middle_square(raw, self.size) for raw in part])
            levels = pictures.to(self.device) / 127.5 - 1
            means.append(self.net.encode(levels).latent_dist.mean)

        return torch.cat(means) * self._factor

    def known(self, masks: Sequence[Tensor]) -> Tensor:
        """Cells that see known pixels alone; a cell sees its neighbours' as well."""
        squares = []
        for mask in masks:
            side = min(mask.shape)
            top, left = ((length - side) // 2 for length in mask.shape)
            squares.append(mask[top : top + side, left : left + side])
        return known_cells(squares, self.shape, reach=1)

    @torch.inference_mode()
    def decode(
        self,
        latents: Tensor,
        generator: torch.Generator | None = None,
    ) -> list[Tensor]:
        """B pictures, uint8 of shape (3, size, size), of latents."""
        pictures: list[Tensor] = []
        for part in latents.split(self.batch_size):
            means = part.to(self.device, torch.float32) / self._factor
            levels = (self.net.decode(means).sample + 1) * 127.5
            pictures += levels.round().clamp(0, 255).byte().cpu()

        return pictures

    def fingerprint(self) -> dict[str, Any]:
        """What decides the latents: a folder by its files, the hub's by name and revision."""
        if Path(self.model).is_dir():
            identity = {"weights": _digest(Path(self.model) / self.subfolder)}
        else:
            identity = {
                "model": self.model,
                "revision": self.revision,
                "subfolder": self.subfolder,
            }

        return {
            "codec": type(self).__name__,
            "version": self.version,
            **identity,
            "size": self.size,
            "scale": self.scale,
            "preprocessing": "shorter side, middle",
        }


def _digest(folder: Path) -> str:
    """SHA-256 of an autoencoder's configuration, which has its scale, and of its weights."""
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ValueError(
            f"{folder}: no .safetensors file, so no weights of an AutoencoderKL; "
            "where it is part of a pipeline, set `subfolder` to its name there, `vae`"
        )
    return digest_all([folder / CONFIG, *weights])
