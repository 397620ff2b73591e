"""Features of a frozen DINOv2: what a picture shows at each of its places.

Oquab et al., arXiv 2304.07193. With them nets that generate are aligned (REPA, arXiv 2410.06940).
Nothing makes a picture of them.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowbind.codec import Codec
from flowbind.errors import first_line
from flowbind.files import digest_all
from flowbind.hub import existing_paths, folder_of
from flowbind.libraries import Extra, importing
from flowbind_image.square import middle_square

INSTALL = Extra("dinov2")
CONFIG = "config.json"
# Of ImageNet's pictures, RGB in [0, 1], as DINOv2 was trained with.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class Dinov2Features(Codec):
    """The last hidden states of a picture's patches, a sequence (L, D), row by row of the picture.

    The shorter side of a picture is resized to `size` pixels (bicubic with antialiasing), and the
    middle is cropped, as `sd-vae` does. Of 256 x 256 pixels in a latent of 32 x 32 cells and
    patches of two, the 16 x 16 patches of 224 x 224 pixels lie at the same places.

    Args:
        model: Folder of a `Dinov2Model` of transformers, or a repository on the Hugging Face hub.
        revision: Branch, tag or commit of it on the hub.
        size: Pixels a side of what it sees, a multiple of `patch`.
        patch: Pixels a side of the model's patches.
        width: Features D of the model's hidden states; 384, 768, 1024 and 1536 for its small, base,
            large and giant.
        batch_size: Pictures encoded at once, which bounds the memory.
    """

    dtype = torch.float16
    decodes = False

    def __init__(
        self,
        model: str = "facebook/dinov2-base",
        revision: str = "main",
        size: int = 224,
        patch: int = 14,
        width: int = 768,
        batch_size: int = 16,
    ) -> None:
        for name, value in (
            ("patch", patch),
            ("width", width),
            ("batch_size", batch_size),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if size < patch or size % patch:
            raise ValueError(
                f"size must be a multiple of the patch, {patch} pixels, not {size}"
            )

        self.model = model
        self.revision = revision
        self.size = size
        self.patch = patch
        self.width = width
        self.batch_size = batch_size
        self.shape = ((size // patch) ** 2, width)

    def libraries(self, use: str) -> dict[str, Extra]:
        return {"transformers": INSTALL} if use == "encode" else {}

    def files(self) -> dict[str, Path]:
        return existing_paths(model=self.model)

    @cached_property
    def net(self) -> nn.Module:
        """The frozen `Dinov2Model`, in float32.

        Raises:
            ValueError: transformers is not installed, the model is not to be had, or it has other
                patches or hidden states.
        """
        with importing("transformers", needing=self._name, install=INSTALL):
            from transformers import Dinov2Model

        folder = folder_of(
            self.model,
            self.revision,
            kind="the encoder",
            argument="model",
            install=INSTALL,
        )
        try:
            # A pair, of which transformers' types know the first alone.
            model: Any = Dinov2Model.from_pretrained(
                folder,
                dtype=torch.float32,
                use_safetensors=True,  # no pickled weights
                output_loading_info=True,
            )
            net, loaded = model
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ValueError(
                f"{self._name} cannot be loaded ({first_line(error)}); set `model` to the folder of "
                "a Dinov2Model with safetensors"
            ) from None

        if loaded["missing_keys"]:
            lacking = min(loaded["missing_keys"])
            raise ValueError(f"{self._name} is no whole DINOv2; it lacks {lacking}")
        has = (net.config.patch_size, net.config.hidden_size)
        if has != (self.patch, self.width):
            raise ValueError(
                f"{self._name} has patches of {has[0]} pixels and {has[1]} features, not "
                f"{self.patch} and {self.width}; set `patch` and `width`"
            )
        return net.eval().requires_grad_(False).to(self.device)

    @property
    def _name(self) -> str:
        return f"the encoder '{self.model}'"

    @torch.inference_mode()
    def encode(self, raws: Sequence[Tensor]) -> Tensor:
        """Features, float16 with shape (B, L, D), of B pictures, uint8 (3, H, W).

        Raises:
            ValueError: the model cannot be loaded.
        """
        mean = torch.tensor(MEAN, device=self.device)[:, None, None]
        std = torch.tensor(STD, device=self.device)[:, None, None]
        parts = []
        for start in range(0, len(raws), self.batch_size):
            part = raws[start : start + self.batch_size]
            pictures = torch.stack([middle_square(raw, self.size) for raw in part])
            levels = (pictures.to(self.device) / 255 - mean) / std
            states = self.net(pixel_values=levels).last_hidden_state
            patches = states[:, 1:]  # the first is of the whole picture
            parts.append(patches.to(self.dtype))
        return torch.cat(parts)

    def decode(
        self,
        latents: Tensor,
        generator: torch.Generator | None = None,
    ) -> list[Tensor]:
        """Features are no pictures.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"{type(self).__name__} encodes only: no pictures are made of features; for pictures as "
            "a target take a codec that decodes, such as sd-vae"
        )

    def fingerprint(self) -> dict[str, Any]:
        """What decides the latents: a folder by its files, the hub's by name and revision."""
        identity = {"model": self.model, "revision": self.revision}
        if Path(self.model).is_dir():
            identity = {"weights": _digest(Path(self.model))}
        return {
            "codec": type(self).__name__,
            "version": self.version,
            **identity,
            "size": self.size,
            "patch": self.patch,
            "width": self.width,
            "preprocessing": "shorter side, middle",
        }


def _digest(folder: Path) -> str:
    """SHA-256 of an encoder's configuration and weights."""
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ValueError(
            f"{folder}: no .safetensors file, so no weights of a Dinov2Model"
        )
    return digest_all([folder / CONFIG, *weights])
