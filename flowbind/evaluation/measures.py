"""The measures of an evaluation, by full name: how each was computed, over how many samples.

Pure functions. Shapes: n test samples, F labelled factors, * the axes of a latent.
"""

from collections.abc import Collection

from torch import Tensor

from flowbind.metrics.cknna import NEIGHBOURS, cknna
from flowbind.metrics.density import precision_and_recall
from flowbind.metrics.frechet import frechet
from flowbind.metrics.probe import Probe, accuracy
from flowbind.metrics.retrieval import recall_at_1
from flowbind.metrics.spread import private_variance

BALLS = 3  # neighbours that precision and recall reach to, as in their paper


def accuracies(
    probe: Probe,
    x: Tensor,
    labels: Tensor,
    factors: Collection[str],
) -> dict[str, float]:
    """Shares of samples, in [0, 1], whose factors a probe reads rightly: of each, and of all.

    Args:
        probe: Probe fitted on real latents of the modality.
        x: Standardised latents, with shape (n, *).
        labels: Classes, with shape (n, F).
        factors: Names of the factors, F of them.
    """
    each, joint = accuracy(probe(x), labels)
    shares = dict(zip(factors, each.tolist(), strict=True))
    shares["joint"] = joint

    measures = {}
    for factor, share in shares.items():
        measures[f"accuracy/{factor}[probe,n={len(x)}]"] = share
    return measures


def likeness(x: Tensor, real: Tensor, labels: Tensor) -> dict[str, float]:
    """How latents of what was generated compare with the same samples' real ones.

    Args:
        x: Standardised latents of what was generated, with shape (n, *).
        real: Standardised latents of the same samples, with shape (n, *).
        labels: Class of each factor, with shape (n, F).
    """
    how = f"codec,n={len(x)}"
    measures = distance(x, real)

    variance = private_variance(x, labels)
    real_variance = private_variance(real, labels)
    if variance is not None and real_variance:
        measures[f"private-variance[{how}]"] = variance / real_variance

    measures[f"recall@1[{how}]"] = recall_at_1(x, real)
    return measures


def distance(x: Tensor, real: Tensor) -> dict[str, float]:
    """The Frechet distance of latents of what was generated from real ones, (n, *) each."""
    return {f"frechet[codec,n={len(x)}]": frechet(x, real)}


def likeness_in_features(
    x: Tensor,
    real: Tensor,
    judge: str,
) -> dict[str, float]:
    """How a judge's features of what was generated compare with those of real samples.

    Args:
        x: Features of what was generated, with shape (n, d).
        real: Features of the same samples' real ones, with shape (n, d).
        judge: Label of the judge.
    """
    count = len(x)
    measures = {f"frechet[judge,{judge},n={count}]": frechet(x, real)}
    if count > BALLS:
        how = f"judge,{judge},k={BALLS},n={count}"
        precision, recall = precision_and_recall(x, real, BALLS)
        measures[f"precision[{how}]"] = precision
        measures[f"recall[{how}]"] = recall
    return measures


def same_ids(x: Tensor, real: Tensor) -> dict[str, float]:
    """The share of positions, in [0, 1], at which ids are those of the same samples' real ones.

    Args:
        x: Ids of what was generated, with shape (n, L).
        real: Ids of the same samples, with shape (n, L).
    """
    same = (x == real).double()
    return {f"same[ids,n={len(x)}]": same.mean().item()}


def cycle_errors(again: Tensor, real: Tensor) -> Tensor:
    """The error of each sample that went there and back, with shape (n,).

    It is the mean square of numbers, and the share of ids that are others.

    Args:
        again: Standardised latents that came back, with shape (n, *).
        real: Those of the real samples, with shape (n, *).
    """
    if not real.is_floating_point():
        return (again != real).float().mean(1)
    return (again - real).flatten(1).square().mean(1)


def cycle(errors: Tensor, is_of_ids: bool = False) -> dict[str, float]:
    """The root mean square error of the way there and back; of ids the share that came back.

    Args:
        errors: Errors of each sample, with shape (n,).
        is_of_ids: Whether the samples are ids.
    """
    mean = errors.mean()
    if is_of_ids:
        return {f"cycle[same,n={len(errors)}]": 1 - mean.item()}
    return {f"cycle[rms,n={len(errors)}]": mean.sqrt().item()}


def alignment(
    states: tuple[Tensor, Tensor],
    latents: tuple[Tensor, Tensor],
) -> dict[str, float]:
    """How well two modalities' spaces agree on nearest neighbours.

    Args:
        states: Where the flows of both begin, with shape (n, *) each.
        latents: Standardised codec latents of both, with shape (n, *) each.
    """
    count = len(latents[0])
    k = min(NEIGHBOURS, count - 1)
    return {
        f"cknna[shared,k={k},n={count}]": cknna(*states, k),
        f"cknna[codec,k={k},n={count}]": cknna(*latents, k),
    }


def means(values: dict[str, Tensor]) -> dict[str, float]:
    """Means of a method's own measures on real latents.

    Args:
        values: Per measure, its value on each sample, with shape (n,).
    """
    return {f"{name}[n={len(x)}]": x.mean().item() for name, x in values.items()}
