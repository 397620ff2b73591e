"""The published codec for images: CLIP's embedding, and Stable unCLIP back to a picture."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from flowbind.codec import Codec
from flowbind.errors import first_line
from flowbind.hub import existing_paths
from flowbind.libraries import Extra, importing
from flowbind_image.clip import load_clip, prepare, weights_of

NOISE_LEVELS = 1000  # of Stable unCLIP
INSTALL = Extra("unclip")
SIZE_STEP = 8  # pixels a side of one latent of its autoencoder


class ClipUnclip(Codec):
    """Pictures to CLIP embeddings, and back by a diffusion model that is conditioned on them.

    Embeddings are not normalised. The encoder is the image tower of an open_clip model with that
    model's own preprocessing: the shorter side is resized to 224 pixels and the middle is cropped.
    The decoder is diffusers' Stable unCLIP with an empty prompt; it is loaded only when something
    is decoded. Each picture is drawn from noise of its own, so it does not depend on `batch_size`.

    Args:
        model: Architecture of the encoder by its name in open_clip.
        pretrained: Weights of the encoder: a tag of open_clip, or a file. With a file of OpenAI's
            weights the model's name ends in `-quickgelu`, their activation; with a tag that is seen
            to.
        width: Numbers of an embedding, D; 768 for ViT-L-14.
        decoder: Folder of a `StableUnCLIPImg2ImgPipeline` for these embeddings, or its name on the
            Hugging Face hub. Stability's own repositories were taken down in 2025; the default is a
            community's mirror.
        revision: Branch, tag or commit of the decoder on the hub; its newest if None.
        steps: Steps of the diffusion's solver; the default is diffusers'.
        guidance: Scale of classifier-free guidance, 1 for none; the default is diffusers'.
        noise_level: Noise that the decoder lays on an embedding, 0 to 999; more gives more variety.
        size: Pixels a side, a multiple of 8; the decoder's own, 768 for Stable unCLIP, if None.
        batch_size: Pictures decoded at once.
        half: Whether both networks compute in float16 on CUDA. On a CPU they do so in float32, and
            latents are always float32.
    """

    licences: ClassVar = {
        "pretrained": "MIT for OpenAI's CLIP",
        "decoder": "CreativeML Open RAIL++-M for Stable unCLIP",
    }

    def __init__(
        self,
        model: str = "ViT-L-14",
        pretrained: str = "openai",
        width: int = 768,
        decoder: str = "sd2-community/stable-diffusion-2-1-unclip-small",
        revision: str | None = None,
        steps: int = 20,
        guidance: float = 10.0,
        noise_level: int = 0,
        size: int | None = None,
        batch_size: int = 8,
        half: bool = True,
    ) -> None:
        if size is not None and (size < SIZE_STEP or size % SIZE_STEP):
            raise ValueError(
                f"size must be a multiple of {SIZE_STEP} pixels, not {size}"
            )
        if not 0 <= noise_level < NOISE_LEVELS:
            raise ValueError(
                f"noise_level must be 0 to {NOISE_LEVELS - 1}, not {noise_level}"
            )
        for name, value in (
            ("width", width),
            ("steps", steps),
            ("batch_size", batch_size),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")

        self.model = model
        self.pretrained = pretrained
        self.width = width
        self.decoder = decoder
        self.revision = revision
        self.steps = steps
        self.guidance = guidance
        self.noise_level = noise_level
        self.size = size
        self.batch_size = batch_size
        self.half = half
        self.shape = (width,)

    def libraries(self, use: str) -> dict[str, Extra]:
        modules = {"encode": ("open_clip",), "decode": ("diffusers", "transformers")}[
            use
        ]
        return dict.fromkeys(modules, INSTALL)

    def files(self) -> dict[str, Path]:
        files = existing_paths(decoder=self.decoder)
        if Path(self.pretrained).is_file():  # a tag is no folder
            return existing_paths(pretrained=self.pretrained) | files

        return files

    @property
    def _in_half(self) -> bool:
        return self.half and self.device.type == "cuda"

    @property
    def _precision(self) -> torch.dtype:
        return torch.float16 if self._in_half else torch.float32

    @cached_property
    def encoder(self) -> nn.Module:
        """The frozen image tower, prepared pictures to embeddings; raises as `load_clip` does."""
        return load_clip(self.model, self.pretrained, extra="unclip").visual.to(
            self.device
        )

    @cached_property
    def pipeline(self):
        """The frozen `StableUnCLIPImg2ImgPipeline`.

        Raises:
            ValueError: diffusers or transformers is not installed, the decoder is not to be had, or
                it is for embeddings of another width.
        """
        pipeline = self._load()

        # What is made of missing files.
        if len(pipeline.tokenizer) <= len(pipeline.tokenizer.all_special_ids):
            raise ValueError(
                f"the decoder '{self.decoder}' has a tokenizer without words; its files are missing"
            )

        width = pipeline.image_normalizer.config.embedding_dim
        if width != self.width:
            raise ValueError(
                f"the decoder '{self.decoder}' is for embeddings of {width} numbers, "
                f"and those of {self.model} have {self.width}; "
                "take the decoder that was trained with this encoder"
            )

        pipeline.set_progress_bar_config(disable=True)
        for part in pipeline.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False)

        return self._place(pipeline)

    def _load(self):
        """The pipeline as it is distributed."""
        needing = f"the decoder '{self.decoder}'"
        with importing("diffusers", "transformers", needing=needing, install=INSTALL):
            from diffusers import StableUnCLIPImg2ImgPipeline

        try:
            with _quietly():
                return StableUnCLIPImg2ImgPipeline.from_pretrained(
                    self.decoder,
                    revision=self.revision,
                )
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(
                f"the decoder '{self.decoder}' cannot be loaded ({first_line(error)}); "
                "where the hub has it no longer, set `decoder` to another mirror "
                "or to a local folder of Stable unCLIP, and for a gated one log in with "
                "`hf auth login`"
            ) from None

    @torch.no_grad()
    def encode(self, raws: Sequence[Tensor]) -> Tensor:
        """Embeds B pictures, uint8 of shape (3, H, W): float32, with shape (B, D).

        Raises:
            ValueError: the encoder cannot be loaded, or embeds in other than D numbers.
        """
        pictures = prepare(self.encoder, raws)
        pictures = pictures.to(self.device)
        with torch.autocast(self.device.type, torch.float16, enabled=self._in_half):
            latents = self.encoder(pictures).float()

        width = latents.shape[1]
        if width != self.width:
            raise ValueError(
                f"{self.model} embeds in {width} numbers; set `width` to {width}"
            )

        return latents

    @torch.no_grad()
    def decode(
        self,
        latents: Tensor,
        generator: torch.Generator | None = None,
    ) -> list[Tensor]:
        """Draws B pictures, uint8 of shape (3, size, size), from embeddings, with shape (B, D)."""
        device = generator.device if generator else "cpu"
        seeds = torch.randint(
            2**62,
            (len(latents),),
            generator=generator,
            device=device,
        )
        pictures = []
        for start in range(0, len(latents), self.batch_size):
            part = slice(start, start + self.batch_size)
            pictures += self._draw(latents[part], seeds[part].tolist())

        return pictures

    def _draw(self, latents: Tensor, seeds: list[int]) -> list[Tensor]:
        """Draws one batch, each picture from noise of its own seed."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        with torch.autocast(self.device.type, enabled=False):
            pictures = self.pipeline(
                prompt=[""] * len(latents),
                image_embeds=latents.to(self.device, self._precision),
                generator=generators,
                num_inference_steps=self.steps,
                guidance_scale=self.guidance,
                noise_level=self.noise_level,
                height=self.size,
                width=self.size,
                output_type="pt",
            ).images

        levels = (pictures.float() * 255).round()
        return list(levels.byte().cpu())

    def fingerprint(self) -> dict[str, Any]:
        """The encoder alone: another decoder, or another size, draws from the same latents."""
        return {
            "codec": type(self).__name__,
            "version": self.version,
            "model": self.model,
            "pretrained": weights_of(self.pretrained),
            "preprocessing": "open_clip",
        }

    def to(self, device: torch.device | str) -> "ClipUnclip":
        super().to(device)
        if "pipeline" in self.__dict__:
            self._place(self.pipeline)

        return self

    def _place(self, pipeline):
        with _quietly():
            return pipeline.to(self.device, self._precision)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what diffusers remarks while it loads and moves.

    Errors, and the bars of downloads, stay.
    """
    from diffusers.utils import logging

    verbosity = logging.get_verbosity()
    bars_were_enabled = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars_were_enabled:
            logging.enable_progress_bar()
