"""Frechet and kernel audio distance of generated sounds from real ones.

Both compare embeddings, by CLAP or by VGGish.

- `fad`: Kilgour et al., "Frechet audio distance: a reference-free metric for evaluating music
  enhancement algorithms" (Interspeech 2019, arXiv 1812.08466). It falls with the number of sounds.
- `kad`: Chung et al., "KAD: No more FAD! An effective and efficient evaluation metric for audio
  generation" (arXiv 2502.15602), 100 times the squared maximum mean discrepancy. It depends on the
  number of sounds by chance alone, so a few hundred do; around 0, or below it, there is nothing to
  tell the two sets apart by.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flowbind.files import digest
from flowbind.metric import Metric
from flowbind.metrics.frechet import frechet
from flowbind.metrics.kernel import kernel_distance
from flowbind_audio.clap import SECONDS, UNFUSED, local_weights, open_clap
from flowbind_audio.spectrogram import RATE
from flowbind_audio.vggish import FRAMES, HOP, WIDTH, Vggish, load_vggish, patches

PATCHES = (SECONDS * RATE // HOP) // FRAMES  # of VGGish in what is heard of a sound
KAD_SCALE = 100  # of the kernel audio distance, as its authors' toolkit prints it
RELEASE = "get vggish-10086976.pth from the releases of https://github.com/harritaylor/torchvggish"


def distances(
    embedding: str,
    made: Tensor,
    reference: Tensor,
) -> dict[str, float]:
    """Both distances of embeddings, with shape (n, F) and (m, F), whose name is `embedding`."""
    return {
        f"fad[{embedding}]": frechet(made, reference),
        f"kad[{embedding}]": KAD_SCALE * kernel_distance(made, reference),
    }


class ClapFAD(Metric):
    """Distances of CLAP's embeddings of generated sounds from those of the real ones.

    Ten seconds of each sound are heard. `fad` falls with the number of samples, most where there
    are fewer than the 512 numbers of an embedding.

    Args:
        clap: CLAP model: for transformers a folder or a repository on the hub, without fusion;
            for laion_clap a checkpoint, a file or `OWNER/REPOSITORY/FILE.pt` on the hub.
        clap_revision: Branch, tag or commit, where that is on the hub.
        clap_backend: Library of it, transformers or laion_clap.
    """

    judges = against = "audio"

    def __init__(
        self,
        clap: str = UNFUSED,
        clap_revision: str = "main",
        clap_backend: str = "transformers",
    ) -> None:
        self.clap = clap
        self.clap_revision = clap_revision
        self.clap_backend = clap_backend
        self.model = open_clap(clap_backend, clap, clap_revision)

    def features(self, kind: str, raws: Sequence[Any]) -> Tensor:
        """Embeddings with shape (B, 512) and rows of norm 1."""
        return self.model.sounds(raws, self.device)

    def compute(self, made: Tensor, reference: Tensor) -> dict[str, float]:
        name = f"clap,{self.model.label}"
        return distances(name, made, reference)

    def fingerprint(self) -> dict[str, Any]:
        weights = self.model.digest()
        return super().fingerprint() | {"clap_weights": weights}


class VggishFAD(Metric):
    """Distances of VGGish's embeddings of generated sounds from those of the real ones.

    All patches of all sounds are taken together. A patch has 0.96 seconds; ten seconds of each
    sound are heard, so ten patches at most.

    Args:
        weights: Weights of VGGish, which are not shipped: a safetensors file or a checkpoint of
            torch.
    """

    judges = against = "audio"

    def __init__(self, weights: str | None = None) -> None:
        self.weights = weights

    @property
    def file(self) -> Path:
        """The weights.

        Raises:
            ValueError: there are none.
        """
        return local_weights("VGGish", self.weights, RELEASE)

    @cached_property
    def net(self) -> Vggish:
        """The frozen network."""
        return load_vggish(self.file)

    @torch.no_grad()
    def features(self, kind: str, raws: Sequence[Any]) -> Tensor:
        """Embeddings with shape (B, 10, 129).

        Each is followed by a 1, or all is 0 where the sound has ended.
        """
        net = self.net.to(self.device)
        rows = []
        for raw in raws:
            beginning = raw[: SECONDS * RATE].to(self.device, torch.float32)
            embeddings = net(patches(beginning))
            embeddings = F.pad(embeddings, (0, 1), value=1.0)
            missing = PATCHES - len(embeddings)
            rows.append(F.pad(embeddings, (0, 0, 0, missing)))

        return torch.stack(rows)

    def compute(self, made: Tensor, reference: Tensor) -> dict[str, float]:
        name = f"vggish,{digest(self.file)[:8]}"
        return distances(name, _embeddings(made), _embeddings(reference))

    def fingerprint(self) -> dict[str, Any]:
        weights = digest(self.file)
        return super().fingerprint() | {"weights": weights}


def _embeddings(features: Tensor) -> Tensor:
    """Embeddings of all patches, with shape (n, 128), without those where a sound has ended."""
    is_patch = features[..., WIDTH] == 1
    return features[is_patch][:, :WIDTH]
