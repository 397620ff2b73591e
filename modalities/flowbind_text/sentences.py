"""Frozen sentence encoders: captions to embeddings."""

from collections.abc import Sequence
from functools import cached_property
from pickle import UnpicklingError

import torch
from torch import Tensor

from flowbind.errors import first_line
from flowbind.libraries import Extra, importing, require
from flowbind.padding import padded
from flowbind_text.bert import BertSentences, layout_of
from flowbind_text.encoder import INSTALL, Encoder
from flowbind_text.hub import has_words, without_bars

BATCH = 256  # captions; sorted by length first, so that little is padding


class SentenceEncoder(Encoder):
    """A sentence-transformers model, loaded when first used.

    Where the model is one that `flowbind_text.bert` computes, sentence-transformers itself is not
    imported; the numbers are the same to the bit.

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

    def libraries(self) -> dict[str, Extra]:
        """What loading it imports, each with what installs it. Nothing is fetched to know it."""
        is_bert = self.local is not None and layout_of(self.local) is not None
        return {"tokenizers" if is_bert else "sentence_transformers": INSTALL}

    @cached_property
    def bert(self) -> BertSentences | None:
        """The model on torch alone; None where only sentence-transformers computes it.

        Raises:
            ValueError: tokenizers is not installed, or the folder holds no complete model.
        """
        layout = layout_of(self.folder)
        if layout is None:
            return None

        require("tokenizers", f"the encoder '{self.name}'", INSTALL)
        try:
            return BertSentences(self.folder, layout)
        except ValueError as error:
            raise ValueError(
                f"{self.folder}: no complete sentence-transformers model ({error})"
            ) from None

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
        tokens = self._tokens(captions)
        lengths = torch.tensor([len(ids) for ids in tokens])

        parts = []
        order = []
        for length in lengths.unique():
            rows = (lengths == length).nonzero().flatten()
            alike = padded(rows).tolist()
            if self.bert:
                ids = torch.tensor([tokens[row] for row in alike])
                part = self.bert.embed(ids, device, self.normalize)
            else:
                part = self._encode([captions[row] for row in alike], device)
            parts.append(part[: len(rows)].float())
            order.append(rows)

        embeddings = torch.cat(parts)
        place = torch.cat(order).argsort()
        return embeddings[place]

    def _tokens(self, captions: Sequence[str]) -> list[list[int]]:
        """The ids of each caption's tokens."""
        if self.bert:
            return self.bert.tokens(captions)
        return self.model.tokenizer(list(captions))["input_ids"]

    def _encode(self, captions: Sequence[str], device: torch.device) -> Tensor:
        """Embeddings by sentence-transformers, with shape (B, E)."""
        options = {
            "batch_size": BATCH,
            "normalize_embeddings": self.normalize,
            "show_progress_bar": False,
        }
        embeddings = self.model.encode(captions, device=str(device), **options)
        return torch.from_numpy(embeddings)

    def identity(self) -> dict[str, str | bool]:
        return super().identity() | {"normalize": self.normalize}
