"""CLAPScore: how well sounds and captions fit, by the cosine of their CLAP embeddings."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from flowbind.metric import Metric
from flowbind_audio.clap import UNFUSED, Clap, open_clap

OTHER = {"audio": "text", "text": "audio"}
UNRELATED = (
    "a dog barks twice",
    "heavy rain falls on a metal roof",
    "a man gives a speech in a large hall",
    "an electric guitar plays a fast solo",
    "glass shatters on the floor",
    "a train passes at high speed",
)
# Mean cosine of unrelated captions, at most. Published CLAPs that work have 0.18
# (laion/clap-htsat-unfused) and 0.29 (laion/larger_clap_general); one whose text tower is broken
# has 0.9993 (laion/larger_clap_music): all as reported in
# https://github.com/embeddings-benchmark/mteb/issues/5069. Anything in between would leave little
# room to tell captions apart.
PARALLEL = 0.7


class CLAPScore(Metric):
    """Mean of max(100 cos, 0) over pairs of a generation and its source.

    One is a sound, the other a caption. Sounds are judged by their first ten seconds. Before it is
    used the CLAP is tried on unrelated
    captions: one that finds them all alike is refused. Scores of different CLAPs do not compare, so
    the name says which it is.

    Args:
        judges: Kind that is generated: audio, compared with the captions that it was made from, or
            text, compared with the sounds.
        clap: CLAP model: for transformers a folder or a repository on the hub, without fusion;
            for laion_clap a checkpoint, a file or `OWNER/REPOSITORY/FILE.pt` on the hub.
        clap_revision: Branch, tag or commit, where that is on the hub.
        clap_backend: Library of it, transformers or laion_clap.
    """

    def __init__(
        self,
        judges: str = "audio",
        clap: str = UNFUSED,
        clap_revision: str = "main",
        clap_backend: str = "transformers",
    ) -> None:
        if judges not in OTHER:
            raise ValueError(
                f"CLAPScore.judges: '{judges}' is none of {', '.join(OTHER)}"
            )

        self.judges = judges
        self.against = OTHER[judges]
        self.clap = clap
        self.clap_revision = clap_revision
        self.clap_backend = clap_backend
        self._model = open_clap(clap_backend, clap, clap_revision)

    @cached_property
    def model(self) -> Clap:
        """CLAP, once it has passed the test.

        Raises:
            ValueError: it cannot be had, or finds all captions alike.
        """
        texts = self._model.texts(UNRELATED, self.device).double()
        count = len(texts)
        cosines = (texts @ texts.T).sum() - count  # of each with the others
        cosine = cosines.item() / (count * (count - 1))
        if cosine > PARALLEL:
            raise ValueError(
                f"the CLAP '{self.clap}' finds unrelated captions alike "
                f"(mean cosine {cosine:.3f}; at most {PARALLEL} is allowed), "
                f"so its scores mean nothing; take another, such as {UNFUSED}"
            )

        return self._model

    def features(self, kind: str, raws: Sequence[Any]) -> Tensor:
        """Embeddings with shape (B, 512) and rows of norm 1."""
        if kind == "text":
            return self.model.texts(raws, self.device)
        return self.model.sounds(raws, self.device)

    def compute(self, made: Tensor, reference: Tensor) -> dict[str, float]:
        cosines = F.cosine_similarity(made.double(), reference.double())
        scores = (100 * cosines).clamp(min=0)
        return {f"clap-score[{self._model.label}]": scores.mean().item()}

    def fingerprint(self) -> dict[str, Any]:
        weights = self._model.digest()
        return super().fingerprint() | {"clap_weights": weights}
