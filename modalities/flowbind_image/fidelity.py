"""FID, KID, precision and recall of generated pictures, by torch-fidelity.

Density and coverage on its features.
"""

from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import Tensor, nn

from flowbind.errors import first_line
from flowbind.files import digest
from flowbind.libraries import Extra, importing
from flowbind.metric import Metric
from flowbind.metrics.density import density_and_coverage
from flowbind.pickles import pickle_fault
from flowbind.progress import say
from flowbind.registry import did_you_mean

KID_SUBSETS = 100  # torch-fidelity's default
KID_SUBSET = 1000  # samples in each, its default
NEIGHBOURS = 3  # k of precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991)
DENSITY_NEIGHBOURS = (
    5  # k of density and coverage (Naeem et al. 2020, arXiv 2002.09797)
)


class Fidelity(Metric):
    """How the distribution of generated pictures differs from that of real ones.

    Pictures enter as uint8, torch-fidelity's feature extractor resizes them (by default to 299 x
    299, whatever their proportions), and all values but the last two come from its functions:

    - `fid`: the Frechet distance (Heusel et al. 2017, arXiv 1706.08500). With no more samples than
      features (2,048) the covariances are singular and it is far too large: one line says so, and
      only values of the same n compare.
    - `kid`: the mean kernel distance of 100 subsets of 1,000 samples (Binkowski et al. 2018, arXiv
      1801.01401), unbiased at any number; below 1,000 samples the subsets are all of them. Its name
      has the subsets' size.
    - `precision`, `recall`: by the 3 nearest neighbours, on the same features. torch-fidelity
      alone, not asked for an extractor, takes VGG-16 for these two.
    - `density`, `coverage`: by the 5 nearest neighbours, on the same features. torch-fidelity has
      neither; these are flowbind's own, after the definition.

    Args:
        extractor: Name that torch-fidelity registers a feature extractor under.
        weights: File of its weights; torch-fidelity downloads them if None.
        crop: Pixels a side to which all pictures are resized (shorter side, bilinear) and cropped
            in the middle first, as torch-fidelity's `samples_resize_and_crop`; 0 leaves them as
            they are.
    """

    judges = against = "image"
    # Below, precision and recall move in steps of more than a percent, and the rest is noise.
    minimum = 100

    def __init__(
        self,
        extractor: str = "inception-v3-compat",
        weights: str | None = None,
        crop: int = 0,
    ) -> None:
        if crop < 0:
            raise ValueError(f"crop must be 0 or a number of pixels, not {crop}")

        self.extractor = extractor
        self.weights = weights
        self.crop = crop

    @cached_property
    def net(self) -> nn.Module:
        """The frozen extractor.

        It takes uint8 pictures, with shape (B, 3, H, W), to a tuple of one tensor of features.

        Raises:
            ValueError: torch-fidelity is not installed, it has no such extractor, or the weights
                are not to be had.
        """
        with importing(
            "torch_fidelity",
            needing="the metric 'fidelity'",
            install=Extra("metrics"),
        ):
            from torch_fidelity.registry import (
                FEATURE_EXTRACTORS_REGISTRY as extractors,
            )
            from torch_fidelity.utils import create_feature_extractor

        if self.extractor not in extractors:
            raise ValueError(
                f"torch-fidelity has no extractor '{self.extractor}'; "
                f"{did_you_mean(self.extractor, extractors)}"
            )
        if self.weights is not None:
            _check_weights(self.weights)

        layer = extractors[self.extractor].get_default_feature_layer_for_metric("fid")
        options = {
            "cuda": False,
            "feature_extractor_weights_path": self.weights,
            "verbose": False,
        }
        try:
            net = create_feature_extractor(self.extractor, [layer], **options)
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"the weights of the extractor '{self.extractor}' cannot be loaded "
                f"({first_line(error)}); connect to the network once, "
                "or set `weights` to a file of them"
            ) from None

        return net.to(self.device)

    @torch.no_grad()
    def features(self, kind: str, raws: Sequence[Tensor]) -> Tensor:
        """Features of B pictures, uint8 of shape (3, H, W): float32, with shape (B, F)."""
        pictures = raws
        if self.crop:
            pictures = [_resize_and_crop(raw, self.crop) for raw in raws]

        # Pictures of one size go through the extractor together.
        rows_of: dict[torch.Size, list[int]] = {}
        for row, picture in enumerate(pictures):
            rows_of.setdefault(picture.shape, []).append(row)

        order: list[int] = []
        parts = []
        with torch.autocast(self.device.type, enabled=False):
            for rows in rows_of.values():
                batch = torch.stack([pictures[row] for row in rows])
                features = self.net(batch.to(self.device))
                parts.append(features[0])
                order += rows

        back = torch.tensor(order).argsort()
        return torch.cat(parts)[back]

    def compute(self, made: Tensor, reference: Tensor) -> dict[str, float]:
        from torch_fidelity.metric_fid import (
            fid_features_to_statistics,
            fid_statistics_to_metric,
        )
        from torch_fidelity.metric_kid import kid_features_to_metric
        from torch_fidelity.metric_prc import prc_features_to_metric

        made = made.cpu()
        reference = reference.cpu()
        count, width = made.shape
        if count <= width:
            _say_biased(count, width)

        statistics = map(fid_features_to_statistics, (made, reference))
        fid = fid_statistics_to_metric(*statistics, verbose=False)

        subset = min(KID_SUBSET, count)
        kid = kid_features_to_metric(
            made,
            reference,
            kid_subsets=KID_SUBSETS,
            kid_subset_size=subset,
            verbose=False,
        )

        # By parts: whole, 30,000 samples would take 3.6 GB for each of several distance matrices.
        prc = prc_features_to_metric(
            made,
            reference,
            prc_neighborhood=NEIGHBOURS,
            save_cpu_ram=True,
            verbose=False,
        )
        density, coverage = density_and_coverage(made, reference, DENSITY_NEIGHBOURS)

        features = self._features
        label = f"torch-fidelity,{features}"
        subsets = f"subsets={KID_SUBSETS}x{subset}"
        return {
            f"fid[{label}]": fid["frechet_inception_distance"],
            f"kid[{label},{subsets}]": kid["kernel_inception_distance_mean"],
            f"precision[{label},k={NEIGHBOURS}]": prc["precision"],
            f"recall[{label},k={NEIGHBOURS}]": prc["recall"],
            f"density[flowbind,{features},k={DENSITY_NEIGHBOURS}]": density,
            f"coverage[flowbind,{features},k={DENSITY_NEIGHBOURS}]": coverage,
        }

    @property
    def _features(self) -> str:
        """Extractor, and what is not as torch-fidelity has it."""
        clauses = [self.extractor]
        if self.weights is not None:
            clauses.append(digest(Path(self.weights))[:8])
        if self.crop:
            clauses.append(f"crop={self.crop}")

        return ",".join(clauses)

    def fingerprint(self) -> dict[str, Any]:
        return super().fingerprint() | {
            "weights": self.weights and digest(Path(self.weights))
        }


@cache  # once, not for each direction
def _say_biased(count: int, width: int) -> None:
    say(
        f"fid of {count} samples, no more than its {width} features: far too large; "
        "compare it with no other count's"
    )


def _resize_and_crop(raw: Tensor, size: int) -> Tensor:
    from torchvision.transforms import functional

    picture = PIL.Image.fromarray(raw.permute(1, 2, 0).numpy(force=True))
    picture = functional.resize(picture, size)
    return functional.pil_to_tensor(functional.center_crop(picture, size))


def _check_weights(path: str) -> None:
    """Refuses what is not plain tensors.

    torch-fidelity would run whatever code is pickled in the file.
    """
    if not Path(path).is_file():
        raise ValueError(
            f"{path}: no such file of weights for torch-fidelity's extractor"
        )

    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = pickle_fault(Path(path), error)
        raise ValueError(
            f"{path}: not a file of plain weights in PyTorch's format ({reason})"
        ) from None
