"""Labelled latents: which factors are labelled, the class of each sample, and rows of a store to measure on."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flowbind.data.manifest import Manifest
from flowbind.data.shard import LINE
from flowbind.data.store import LatentStore

FEWEST = 2  # values of a factor in each modality, and test samples: with fewer a probe learns nothing, or nothing is told
SHOWN = 3  # values that a line gives


class Factors(NamedTuple):
    """The labelled factors that can be measured, with the values that training has; and in lines why others cannot."""

    values: dict[str, list[str]]
    remarks: list[str]


def measurable_factors(
    train: Manifest, train_lines: Mapping[str, Tensor], test: Manifest, test_lines: Tensor
) -> Factors:
    """Which labelled factors tell something of a model, and which test samples they leave out.

    A factor counts where training has two values or more of it in each modality, for a probe to tell apart, and where at
    least two test samples have one of these values.

    Args:
        train: manifest of the training samples.
        train_lines: per modality, which of them have latents.
        test: manifest of the test samples.
        test_lines: which of them have all modalities.
    """
    values = label_values(train, [])
    train_classes, test_classes = classes_of(train, values), classes_of(test, values)
    labelled = {factor for sample in test.samples for factor in sample.labels}
    remarks = [
        f"label '{name}' is not measured: no training sample has it"
        for name in sorted(labelled - values.keys())
    ]
    kept = {}
    for column, (factor, known) in enumerate(values.items()):
        reason = None
        for name, lines in train_lines.items():
            classes = train_classes[lines, column]
            classes = classes[classes >= 0]
            if reason is None and len(classes.unique()) < FEWEST:
                reason = (
                    f"{len(classes)} training samples with '{name}' have it, with {len(classes.unique())} values; "
                    f"at least {FEWEST} are needed"
                )
        usable = int((test_classes[test_lines, column] >= 0).sum())
        if reason is None and usable < FEWEST:
            own = _values_in(test, test_lines, factor)
            told = f"; theirs are {_some(own)}, those of training {_some(known)}" if own else ""
            reason = f"{usable} test samples have a value of it that training has, {FEWEST} are needed{told}"
        if reason:
            remarks.append(f"label '{factor}' is not measured: {reason}")
        else:
            kept[factor] = known
    return Factors(kept, remarks + _left_out(test, test_lines, kept))


def _left_out(test: Manifest, lines: Tensor, values: Mapping[str, Sequence[str]]) -> list[str]:
    """Which test samples are not measured on, for want of a label or of training with its value."""
    remarks = []
    for factor, known in values.items():
        own = [test.samples[line].labels.get(factor) for line in lines.tolist()]
        strange = [value for value in own if value is not None and value not in known]
        if lacking := own.count(None):
            remarks.append(
                f"{lacking} of {len(own)} test samples are left out, for they have no label '{factor}'"
            )
        if strange:
            remarks.append(
                f"{len(strange)} of {len(own)} test samples are left out, for no training sample has their '{factor}' ({_some(strange)})"
            )
    return remarks


def _values_in(manifest: Manifest, lines: Tensor, factor: str) -> list[str]:
    labels = (manifest.samples[line].labels for line in lines.tolist())
    return [own[factor] for own in labels if factor in own]


def _some(values: Iterable[str]) -> str:
    unique = sorted(set(values))
    return ", ".join(unique[:SHOWN]) + ", ..." * (len(unique) > SHOWN)


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
    common = set.intersection(*labelled.values()) if labelled else found.keys()
    return {factor: sorted(values) for factor, values in found.items() if factor in common}


def classes_of(manifest: Manifest, values: Mapping[str, Sequence[str]]) -> Tensor:
    """The class of each factor of each sample, with shape (samples, F): -1 where it has none of those in `values`."""
    index = {
        factor: {value: i for i, value in enumerate(known)} for factor, known in values.items()
    }
    rows = [
        [index[factor].get(sample.labels.get(factor, ""), -1) for factor in index]
        for sample in manifest.samples
    ]
    return torch.tensor(rows, dtype=torch.long).reshape(len(rows), len(index))


def lines_with(store: LatentStore, names: Sequence[str]) -> Tensor:
    """The manifest's samples that have latents of all of `names`, in the store's order, with shape (n,)."""
    strata = [i for i, stratum in enumerate(store.strata) if set(names) <= set(stratum.modalities)]
    parts = [store.gather(i, np.arange(store.strata[i].rows), [LINE])[LINE] for i in strata]
    return torch.cat([torch.zeros(0, dtype=torch.long), *parts])


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
    lines = lines_with(store, names)
    drawn = usable[lines].nonzero().flatten()  # among the rows of all these strata
    if len(drawn) < 2:
        wanted = ", ".join(names)
        raise ValueError(
            f"{store.source}: {len(drawn)} samples have all of {wanted} and the labels; testing needs 2"
        )
    if limit is not None and limit < len(drawn):
        drawn = drawn[
            torch.randperm(len(drawn), generator=torch.Generator().manual_seed(seed))[:limit]
            .sort()
            .values
        ]
    starts = sizes.cumsum(0) - sizes
    owner = torch.bucketize(drawn, starts, right=True) - 1
    parts = [
        store.gather(i, (drawn[owner == k] - starts[k]).numpy(), names)
        for k, i in enumerate(strata)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in names}, lines[drawn]
