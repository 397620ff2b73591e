"""Labelled latents: labelled factors, the class of each sample, rows of a store to measure on."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flowbind.data.manifest import Manifest
from flowbind.data.shard import LINE
from flowbind.data.store import LatentStore

# Values of a factor in each modality, and test samples: with fewer a probe learns nothing, or its
# accuracy says nothing.
FEWEST = 2
SHOWN = 3  # values that a line gives


class Factors(NamedTuple):
    """The labelled factors that can be measured, with training's values; lines on all others."""

    values: dict[str, list[str]]
    remarks: list[str]


def measurable_factors(
    train: Manifest,
    train_lines: Mapping[str, Tensor],
    test: Manifest,
    test_lines: Tensor,
) -> Factors:
    """Which labelled factors can be measured, and which test samples they leave out.

    A factor counts where training has two values or more of it in each modality, for a probe to
    tell apart, and where at least two test samples have one of these values.

    Args:
        train: Manifest of the training samples.
        train_lines: Per modality, the training samples that have latents, with shape (n,).
        test: Manifest of the test samples.
        test_lines: Test samples that have all modalities, with shape (n,).
    """
    values = label_values(train, [])
    train_classes = classes_of(train, values)
    test_classes = classes_of(test, values)

    remarks = []
    for factor in sorted(_factors_of(test) - values.keys()):
        remarks.append(f"label '{factor}' is not measured: no training sample has it")

    measurable = {}
    for column, (factor, trained_values) in enumerate(values.items()):
        obstacle = _training_obstacle(train_classes[:, column], train_lines)
        usable = int((test_classes[test_lines, column] >= 0).sum())
        if obstacle is None and usable < FEWEST:
            test_values = _values_in(test, test_lines, factor)
            obstacle = _test_obstacle(usable, test_values, trained_values)

        if obstacle:
            remarks.append(f"label '{factor}' is not measured: {obstacle}")
        else:
            measurable[factor] = trained_values
    return Factors(measurable, remarks + _left_out(test, test_lines, measurable))


def _factors_of(manifest: Manifest) -> set[str]:
    factors: set[str] = set()
    for sample in manifest.samples:
        factors.update(sample.labels)
    return factors


def _training_obstacle(classes: Tensor, lines: Mapping[str, Tensor]) -> str | None:
    """Why no probe can be fitted to a factor, if none can: the first modality with too few values.

    Args:
        classes: Class of the factor of each training sample, with shape (samples,), -1 for none.
        lines: Per modality, the training samples that have latents, with shape (n,).
    """
    for name, lines_of_name in lines.items():
        labelled = classes[lines_of_name]
        labelled = labelled[labelled >= 0]
        count = len(labelled.unique())
        if count < FEWEST:
            return (
                f"{len(labelled)} training samples with '{name}' have it, with {count} values; "
                f"at least {FEWEST} are needed"
            )
    return None


def _test_obstacle(
    usable: int,
    test_values: Sequence[str],
    trained_values: Iterable[str],
) -> str | None:
    """Why a factor cannot be measured on too few test samples."""
    values = ""
    if test_values:
        values = f"; theirs are {_some(test_values)}, those of training {_some(trained_values)}"
    return f"{usable} test samples have a value of it that training has, {FEWEST} are needed{values}"


def _left_out(
    test: Manifest,
    lines: Tensor,
    values: Mapping[str, Sequence[str]],
) -> list[str]:
    """Which test samples are not measured on: without a label, or with a value training lacks."""
    remarks = []
    for factor, trained_values in values.items():
        known = {None, *trained_values}
        test_values = [test.samples[line].labels.get(factor) for line in lines.tolist()]
        out_of = f"of {len(test_values)} test samples are left out"

        lacking = test_values.count(None)
        if lacking:
            remarks.append(f"{lacking} {out_of}, for they have no label '{factor}'")

        unseen = [value for value in test_values if value not in known]
        if unseen:
            remarks.append(
                f"{len(unseen)} {out_of}, for no training sample has their '{factor}' "
                f"({_some(unseen)})"
            )
    return remarks


def _values_in(manifest: Manifest, lines: Tensor, factor: str) -> list[str]:
    """The values of a factor that some samples have, one after the other."""
    values = []
    for line in lines.tolist():
        labels = manifest.samples[line].labels
        if factor in labels:
            values.append(labels[factor])
    return values


def _some(values: Iterable[str]) -> str:
    unique = sorted(set(values))
    return ", ".join(unique[:SHOWN]) + ", ..." * (len(unique) > SHOWN)


def label_values(manifest: Manifest, names: Sequence[str]) -> dict[str, list[str]]:
    """The labelled factors that can be read from every modality, and the values of each, sorted.

    A factor counts where some sample of each modality has it.
    """
    values: dict[str, set[str]] = {}
    labelled: dict[str, set[str]] = {name: set() for name in names}
    for sample in manifest.samples:
        for factor, value in sample.labels.items():
            values.setdefault(factor, set()).add(value)
        for name in labelled.keys() & sample.values.keys():
            labelled[name] |= sample.labels.keys()

    common = {}
    for factor, values_of_factor in values.items():
        if all(factor in factors for factors in labelled.values()):
            common[factor] = sorted(values_of_factor)
    return common


def classes_of(manifest: Manifest, values: Mapping[str, Sequence[str]]) -> Tensor:
    """The class of each factor of each sample.

    Returns:
        Classes, with shape (samples, F): -1 where a sample has none of those in `values`.
    """
    columns = []
    for factor, known in values.items():
        number_of = {value: number for number, value in enumerate(known)}
        column = []
        for sample in manifest.samples:
            value = sample.labels.get(factor, "")
            column.append(number_of.get(value, -1))
        columns.append(torch.tensor(column, dtype=torch.long))

    if not columns:
        return torch.zeros(len(manifest.samples), 0, dtype=torch.long)
    return torch.stack(columns, dim=1)


def _strata_with(store: LatentStore, names: Sequence[str]) -> list[int]:
    """Numbers of a store's strata whose samples have latents of all of `names`."""
    numbers = []
    for number, stratum in enumerate(store.strata):
        if set(names) <= set(stratum.modalities):
            numbers.append(number)
    return numbers


def lines_with(store: LatentStore, names: Sequence[str]) -> Tensor:
    """The manifest's samples that have latents of all of `names`.

    Returns:
        Numbers of samples, in the store's order, with shape (n,).
    """
    lines = [torch.zeros(0, dtype=torch.long)]
    for number in _strata_with(store, names):
        rows = np.arange(store.strata[number].rows)
        lines.append(store.gather(number, rows, [LINE])[LINE])
    return torch.cat(lines)


def draw_rows(
    store: LatentStore,
    names: Sequence[str],
    usable: Tensor,
    limit: int | None,
    seed: int,
) -> tuple[dict[str, Tensor], Tensor]:
    """Draws rows that have all of `names`, in the store's order.

    Args:
        store: Store of latents.
        names: Modalities that each row has.
        usable: Whether each of the manifest's samples may be drawn, with shape (samples,).
        limit: Rows at most; all if None.
        seed: Seed that decides which are drawn, where there are more.

    Returns:
        Latents per modality, with shape (n, *shape), and each row's sample in the manifest, with
        shape (n,).

    Raises:
        ValueError: there are fewer than two.
    """
    drawn, lines = draw_numbers(store, names, usable, limit, seed)
    return latents_of(store, names, drawn), lines


def draw_numbers(
    store: LatentStore,
    names: Sequence[str],
    usable: Tensor,
    limit: int | None,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """What `draw_rows` draws, without the latents; arguments as there.

    Returns:
        Numbers of rows, in ascending order, counted over all strata that have these modalities, one
        stratum after the other, and each row's sample in the manifest, with shape (n,) each.

    Raises:
        ValueError: there are fewer than two.
    """
    lines = lines_with(store, names)
    drawn = usable[lines].nonzero().flatten()
    if len(drawn) < 2:
        raise ValueError(
            f"{store.source}: {len(drawn)} samples have all of {', '.join(names)} and the labels; "
            "testing needs 2"
        )

    if limit is not None and limit < len(drawn):
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(drawn), generator=generator)
        drawn = drawn[order[:limit].sort().values]
    return drawn, lines[drawn]


def latents_of(
    store: LatentStore,
    names: Sequence[str],
    drawn: Tensor,
) -> dict[str, Tensor]:
    """Latents per modality, with shape (n, *shape), of rows in ascending order.

    Args:
        store: Store of latents.
        names: Modalities that each row has.
        drawn: Numbers of the rows, as `draw_numbers` counts them, with shape (n,).
    """
    strata = _strata_with(store, names)
    sizes = torch.tensor(
        [store.strata[number].rows for number in strata],
        dtype=torch.long,
    )

    # Back to the numbers of rows within each stratum.
    starts = sizes.cumsum(0) - sizes
    owner = torch.bucketize(drawn, starts, right=True) - 1
    parts = []
    for k, number in enumerate(strata):
        rows = (drawn[owner == k] - starts[k]).numpy()
        parts.append(store.gather(number, rows, names))

    latents = {}
    for name in names:
        latents[name] = torch.cat([part[name] for part in parts])
    return latents
