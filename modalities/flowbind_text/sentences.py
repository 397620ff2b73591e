"""Frozen sentence encoders: captions to embeddings."""

from collections.abc import Sequence
from functools import cached_property
from pickle import UnpicklingError

import torch
from torch import Tensor

from flowbind.errors import first_line
from flowbind.libraries import importing
from flowbind.padding import padded
from flowbind_text.encoder import INSTALL, Encoder
from flowbind_text.hub import has_words, without_bars

BATCH = 256  # captions; sorted by length first, so that little is padding


class SentenceEncoder(Encoder):
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
        super().__init__(name, revision)
        self.normalize = normalize

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

    def identity(self) -> dict[str, str | bool]:
        return super().identity() | {"normalize": self.normalize}
