"""The networks of a model: per modality a drift net, a head, and the standardisation of its latents."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from flowbind.modality import Modality
from flowbind.nets import DriftConfig, HeadConfig

STD_FLOOR = 1e-6  # a feature that never varies is only centred, not blown up


class Standardizer(nn.Module):
    """Per-feature mean 0 and standard deviation 1, with the statistics of the training data."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))

    @torch.no_grad()
    def set(self, mean: Tensor, std: Tensor) -> None:
        """Takes statistics, with shape (*shape,) each."""
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > STD_FLOOR, std, torch.ones_like(std)))

    def forward(self, latents: Tensor) -> Tensor:
        return (latents.to(self.mean.dtype) - self.mean) / self.std

    def inverse(self, x: Tensor) -> Tensor:
        """Back to the codec's scale."""
        return x * self.std + self.mean


class Flows(nn.Module):
    """Drift nets, heads and standardisation of every modality.

    Args:
        modalities: by name; latents of one shape.
        drift: size of a drift net, where the modality does not say.
        head: size of a head, where the modality does not say.

    Raises:
        ValueError: fewer than two modalities, or latents of different shapes.
    """

    def __init__(self, modalities: Mapping[str, Modality], drift: DriftConfig, head: HeadConfig) -> None:
        super().__init__()
        check_shapes(modalities)
        self.drifts = nn.ModuleDict({name: modality.build_drift(drift) for name, modality in modalities.items()})
        self.heads = nn.ModuleDict({name: modality.build_head(head) for name, modality in modalities.items()})
        self.standard = nn.ModuleDict(
            {name: Standardizer(*modality.codec.shape) for name, modality in modalities.items()}
        )


def check_shapes(modalities: Mapping[str, Modality]) -> None:
    """Refuses a set of modalities that no shared latent can tie together.

    Raises:
        ValueError: fewer than two modalities, or latents of different shapes.
    """
    if len(modalities) < 2:
        raise ValueError(f"a model ties at least two modalities together, not {len(modalities)}")
    shapes = {name: tuple(modality.codec.shape) for name, modality in modalities.items()}
    if len(set(shapes.values())) > 1:
        said = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"all latents must have one shape, not {said}; choose codecs of equal width")
