"""The measures of an evaluation, by full name: how each was computed, and over how many samples. Pure functions.

Shapes: n test samples, F labelled factors, * the axes of a latent.
"""

from collections.abc import Collection

from torch import Tensor

from flowbind.metrics.cknna import NEIGHBOURS, cknna
from flowbind.metrics.frechet import frechet
from flowbind.metrics.probe import Probe, accuracy
from flowbind.metrics.retrieval import recall_at_1


def accuracies(
    probe: Probe, x: Tensor, labels: Tensor, factors: Collection[str]
) -> dict[str, float]:
    """The share of samples whose factors a probe reads rightly: of each factor, and of all together.

    Args:
        probe: fitted on real latents of the modality.
        x: standardised latents, with shape (n, *).
        labels: classes, with shape (n, F).
        factors: their names.
    """
    each, joint = accuracy(probe(x), labels)
    named = {**dict(zip(factors, each.tolist(), strict=True)), "joint": joint}
    return {f"accuracy/{factor}[probe,n={len(x)}]": value for factor, value in named.items()}


def likeness(x: Tensor, real: Tensor) -> dict[str, float]:
    """How standardised latents of what was generated compare with the same samples' real ones, with shape (n, *) each."""
    return {
        f"frechet[codec,n={len(x)}]": frechet(x, real),
        f"recall@1[codec,n={len(x)}]": recall_at_1(x, real),
    }


def same_ids(x: Tensor, real: Tensor) -> dict[str, float]:
    """The share of positions at which ids are those of the same samples' real ones, with shape (n, L) each."""
    return {f"same[ids,n={len(x)}]": (x == real).double().mean().item()}


def cycle(errors: Tensor) -> dict[str, float]:
    """The way there and back: root mean square of each sample's squared errors, with shape (n,)."""
    return {f"cycle[rms,n={len(errors)}]": errors.mean().sqrt().item()}


def alignment(states: tuple[Tensor, Tensor], latents: tuple[Tensor, Tensor]) -> dict[str, float]:
    """How well two modalities' spaces agree on nearest neighbours.

    Args:
        states: where the flows of both begin, with shape (n, *) each.
        latents: the codecs' standardised ones, with shape (n, *) each.
    """
    count = len(latents[0])
    k = min(NEIGHBOURS, count - 1)
    return {
        f"cknna[shared,k={k},n={count}]": cknna(*states, k),
        f"cknna[codec,k={k},n={count}]": cknna(*latents, k),
    }


def means(values: dict[str, Tensor]) -> dict[str, float]:
    """A method's own figures on real latents: the mean of each over its samples, with shape (n,)."""
    return {f"{name}[n={len(x)}]": x.mean().item() for name, x in values.items()}
