"""FID, KID, precision and recall of generated pictures, by torch-fidelity; density and coverage on its features."""

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
from flowbind.progress import say
from flowbind.registry import nearest

KID_SUBSETS, KID_SUBSET = 100, 1000  # torch-fidelity's defaults: how many subsets, and samples in each
NEIGHBOURS = 3  # k of precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991)
DENSITY_NEIGHBOURS = 5  # k of density and coverage (Naeem et al. 2020, arXiv 2002.09797)


class Fidelity(Metric):
    """How the distribution of generated pictures differs from that of real ones, as torch-fidelity computes it.

    Pictures enter as uint8, torch-fidelity's feature extractor resizes them (by default to 299 x 299, whatever their
    proportions), and all figures but the last come from its functions:

    - `fid`: the Frechet distance (Heusel et al. 2017, arXiv 1706.08500). With no more samples than features (2,048) the
      covariances are singular and it is far too large: one line says so, and only figures of the same n compare.
    - `kid`: the mean kernel distance of 100 subsets of 1,000 samples (Binkowski et al. 2018, arXiv 1801.01401), unbiased
      at any number; below 1,000 samples the subsets are all of them. Its name has the subsets' size.
    - `precision`, `recall`: by the 3 nearest neighbours, on the same features. torch-fidelity alone, not asked for an
      extractor, takes VGG-16 for these two.
    - `density`, `coverage`: by the 5 nearest neighbours, on the same features. torch-fidelity has neither; these are
      flowbind's own, after the definition.

    Args:
        extractor: name that torch-fidelity registers a feature extractor under.
        weights: its weights as a file; torch-fidelity downloads them if None.
        crop: pixels a side to which all pictures are resized (shorter side, bilinear) and cropped in the middle first,
            as torch-fidelity's `samples_resize_and_crop`; 0 leaves them as they are.
    """

    judges = against = "image"
    minimum = 100  # below, precision and recall move in steps of more than a percent, and the rest is noise

    def __init__(self, extractor: str = "inception-v3-compat", weights: str | None = None, crop: int = 0) -> None:
        if crop < 0:
            raise ValueError(f"crop must be 0 or a number of pixels, not {crop}")
        self.extractor, self.weights, self.crop = extractor, weights, crop

    @cached_property
    def net(self) -> nn.Module:
        """The frozen extractor: uint8 pictures, with shape (B, 3, H, W), to a tuple of one tensor of features.

        Raises:
            ValueError: torch-fidelity is not installed, it has no such extractor, or the weights are not to be had.
        """
        with importing("torch_fidelity", needing="the metric 'fidelity'", install=Extra("metrics")):
            from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY as extractors
            from torch_fidelity.utils import create_feature_extractor
        if self.extractor not in extractors:
            raise ValueError(
                f"torch-fidelity has no extractor '{self.extractor}'; {nearest(self.extractor, extractors)}"
            )
        if self.weights is not None:
            _check_weights(self.weights)
        layer = extractors[self.extractor].get_default_feature_layer_for_metric("fid")
        try:
            net = create_feature_extractor(
                self.extractor, [layer], cuda=False, feature_extractor_weights_path=self.weights, verbose=False
            )
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"the weights of the extractor '{self.extractor}' cannot be loaded ({first_line(error)}); connect to "
                "the network once, or set `weights` to a file of them"
            ) from None
        return net.to(self.device)

    @torch.no_grad()
    def features(self, kind: str, raws: Sequence[Tensor]) -> Tensor:
        """Features of B pictures, uint8 of shape (3, H, W): float32, with shape (B, F)."""
        pictures = [_resize_and_crop(raw, self.crop) if self.crop else raw for raw in raws]
        places: dict[torch.Size, list[int]] = {}
        for place, picture in enumerate(pictures):
            places.setdefault(picture.shape, []).append(place)
        order = torch.tensor([place for alike in places.values() for place in alike])
        batches = (torch.stack([pictures[place] for place in alike]) for alike in places.values())
        with torch.autocast(self.device.type, enabled=False):
            found = torch.cat([self.net(batch.to(self.device))[0] for batch in batches])
        return found[order.argsort()]

    def compute(self, made: Tensor, reference: Tensor) -> dict[str, float]:
        from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
        from torch_fidelity.metric_kid import kid_features_to_metric
        from torch_fidelity.metric_prc import prc_features_to_metric

        made, reference = made.cpu(), reference.cpu()
        count, width = made.shape
        if count <= width:
            _say_biased(count, width)
        subset = min(KID_SUBSET, count)
        fid = fid_statistics_to_metric(*map(fid_features_to_statistics, (made, reference)), verbose=False)
        kid = kid_features_to_metric(made, reference, kid_subsets=KID_SUBSETS, kid_subset_size=subset, verbose=False)
        # By parts: whole, 30,000 samples would take 3.6 GB for each of several matrices of distances.
        prc = prc_features_to_metric(made, reference, prc_neighborhood=NEIGHBOURS, save_cpu_ram=True, verbose=False)
        density, coverage = density_and_coverage(made, reference, DENSITY_NEIGHBOURS)
        return {
            f"fid[{self._label}]": fid["frechet_inception_distance"],
            f"kid[{self._label},subsets={KID_SUBSETS}x{subset}]": kid["kernel_inception_distance_mean"],
            f"precision[{self._label},k={NEIGHBOURS}]": prc["precision"],
            f"recall[{self._label},k={NEIGHBOURS}]": prc["recall"],
            f"density[flowbind,{self._features},k={DENSITY_NEIGHBOURS}]": density,
            f"coverage[flowbind,{self._features},k={DENSITY_NEIGHBOURS}]": coverage,
        }

    @property
    def _label(self) -> str:
        """Implementation and features."""
        return f"torch-fidelity,{self._features}"

    @property
    def _features(self) -> str:
        """Extractor, and what is not as torch-fidelity has it."""
        own = [] if self.weights is None else [digest(Path(self.weights))[:8]]
        return ",".join([self.extractor, *own, *([f"crop={self.crop}"] if self.crop else [])])

    def fingerprint(self) -> dict[str, Any]:
        return super().fingerprint() | {"weights": self.weights and digest(Path(self.weights))}


@cache  # once, not for each direction
def _say_biased(count: int, width: int) -> None:
    say(f"fid of {count} samples, no more than its {width} features: far too large; compare it with no other count's")


def _resize_and_crop(raw: Tensor, size: int) -> Tensor:
    from torchvision.transforms import functional

    picture = functional.resize(PIL.Image.fromarray(raw.permute(1, 2, 0).numpy(force=True)), size)
    return functional.pil_to_tensor(functional.center_crop(picture, size))


def _check_weights(path: str) -> None:
    """Refuses what is not plain tensors: torch-fidelity would run whatever code is pickled in the file."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file of weights for torch-fidelity's extractor")
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path}: not a file of plain weights in PyTorch's format ({first_line(error)})") from None
