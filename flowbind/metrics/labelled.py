"""Labelled latents: which factors are labelled, the class of each sample, and rows of a store to measure on."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from flowbind.manifest import Manifest
from flowbind.store import LINE, LatentStore


def label_values(manifest: Manifest, names: Sequence[str]) -> dict[str, list[str]]:
    """The labelled factors that can be read from every modality, and the values of each, sorted.

    A factor counts where some sample of each modality has it.
    """
    found: dict[str, set[str]] = {}
    labelled: dict[str, set[str]] = {name: set() for name in names}
    for sample in manifest.samples:
        for factor, value in sample.labels.items():
            found.setdefault(factor, set()).add(value)
        for name in labelled.keys() & sample.values.keys():
            labelled[name] |= sample.labels.keys()
    common = set.intersection(*labelled.values())
    return {factor: sorted(values) for factor, values in found.items() if factor in common}


def classes_of(manifest: Manifest, values: Mapping[str, Sequence[str]]) -> Tensor:
    """The class of each factor of each sample, with shape (samples, F): -1 where it has none of those in `values`."""
    index = {factor: {value: i for i, value in enumerate(known)} for factor, known in values.items()}
    rows = [[index[factor].get(sample.labels.get(factor, ""), -1) for factor in index] for sample in manifest.samples]
    return torch.tensor(rows, dtype=torch.long).reshape(len(rows), len(index))


def draw_rows(
    store: LatentStore, names: Sequence[str], usable: Tensor, limit: int | None, seed: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Draws rows that have all of `names`, in the store's order.

    Args:
        store: of latents.
        names: modalities.
        usable: which of the manifest's samples may be drawn, with shape (samples,).
        limit: how many, at most; all if None.
        seed: which, where there are more.

    Returns:
        Latents per modality, with shape (n, *shape), and each row's sample in the manifest, with shape (n,).

    Raises:
        ValueError: there are fewer than two.
    """
    strata = [i for i, stratum in enumerate(store.strata) if set(names) <= set(stratum.modalities)]
    sizes = torch.tensor([store.strata[i].rows for i in strata], dtype=torch.long)
    lines = torch.cat(
        [torch.zeros(0, dtype=torch.long)]
        + [store.gather(i, np.arange(store.strata[i].rows), [LINE])[LINE] for i in strata]
    )
    drawn = usable[lines].nonzero().flatten()  # among the rows of all these strata
    if len(drawn) < 2:
        wanted = ", ".join(names)
        raise ValueError(f"{store.source}: {len(drawn)} samples have all of {wanted} and the labels; testing needs 2")
    if limit is not None and limit < len(drawn):
        drawn = drawn[torch.randperm(len(drawn), generator=torch.Generator().manual_seed(seed))[:limit].sort().values]
    starts = sizes.cumsum(0) - sizes
    owner = torch.bucketize(drawn, starts, right=True) - 1
    parts = [store.gather(i, (drawn[owner == k] - starts[k]).numpy(), names) for k, i in enumerate(strata)]
    return {name: torch.cat([part[name] for part in parts]) for name in names}, lines[drawn]
