"""AIS: whether a picture and a sound belong together, by how many other samples fit worse."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flowbind.codec import Codec
from flowbind.metric import Metric

ROWS = 1024  # generations compared at once


class AIS(Metric):
    """The audio-image similarity, 0 to 100.

    How often a generation is nearer to its own condition than to another:
    `100 / (N |R|) sum_i sum_r 1[<g_i, r> < <g_i, c_i>]` over N generations `g_i`, each with its
    condition `c_i`, all embedded in one space with norm 1. R are the conditions of the other N - 1
    samples. A generation that ignores its condition reaches 50 on average, one that always knows it
    100; by chance alone it strays by about 29 / sqrt(N).

    Args:
        embedders: Codec for each of the two kinds, by its registered name, whose latents are
            vectors of a space that both share. The published protocol: Wav2CLIP for sounds,
            `Wav2Clip(weights=...)`, and CLIP ViT-B/32 for pictures, `ClipUnclip(model="ViT-B-32",
            width=512)`.
        judges: Kind of the two that is generated.
    """

    minimum = 10  # where chance alone moves it by 9

    def __init__(self, embedders: dict[str, Codec], judges: str = "image") -> None:
        if len(embedders) != 2 or judges not in embedders:
            names = ", ".join(sorted(embedders)) or "none"
            raise ValueError(
                f"AIS needs an embedder for what it judges, '{judges}', and for one other kind; "
                f"given are {names}"
            )

        self.against = (embedders.keys() - {judges}).pop()
        self.embedders = embedders
        self.judges = judges

    @torch.no_grad()
    def features(self, kind: str, raws: Sequence[Any]) -> Tensor:
        """Embeddings of norm 1, float32 with shape (B, D)."""
        latents = self.embedders[kind].encode(raws)
        latents = latents.flatten(1).float()
        return F.normalize(latents, dim=1)

    def compute(self, made: Tensor, reference: Tensor) -> dict[str, float]:
        if made.shape[1] != reference.shape[1]:
            raise ValueError(
                f"the embedders share no space: {made.shape[1]} numbers for {self.judges}, "
                f"{reference.shape[1]} for {self.against}; AIS needs two that were trained together"
            )
        if (reference == reference[:1]).all():
            raise ValueError(
                f"all {len(reference)} conditions embed alike, so AIS cannot tell one from another"
            )

        count = len(made)
        made = made.double()
        conditions = reference.double().T
        nearer = 0
        for rows in torch.arange(count, device=made.device).split(ROWS):
            similarities = made[rows] @ conditions
            # Which is not below itself.
            to_condition = similarities.gather(1, rows[:, None])
            nearer += int((similarities < to_condition).sum())

        pairs = count * (count - 1)
        return {f"ais[{self._label}]": 100 * nearer / pairs}

    @property
    def _label(self) -> str:
        """The embedders by class, with the first digits of their fingerprints' SHA-256."""
        names = []
        for _, codec in sorted(self.embedders.items()):
            kind = type(codec).__name__
            digest = _sha256(codec.fingerprint())
            names.append(f"{kind}-{digest[:8]}")

        return ",".join(names)

    def fingerprint(self) -> dict[str, Any]:
        entries = {
            "metric": type(self).__name__,
            "version": self.version,
            "judges": self.judges,
        }
        for kind, codec in sorted(self.embedders.items()):
            entries[f"embedder of {kind}"] = _sha256(codec.fingerprint())

        return entries

    def to(self, device: torch.device | str) -> "AIS":
        super().to(device)
        for codec in self.embedders.values():
            codec.to(device)
        return self


def _sha256(fingerprint: Mapping[str, Any]) -> str:
    text = json.dumps(fingerprint, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
