"""What several seeds make of some samples, and how a gallery shows it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from flowbind.data.store import LatentStore
from flowbind.exhibit import Exhibit, Preview
from flowbind.generation import Model

Shown = TypeVar("Shown")


def draws_of(
    model: Model,
    latents: Mapping[str, Tensor],
    targets: Sequence[str],
    seeds: Sequence[int],
    first: int = 0,
    count: int = 1,
) -> list[dict[str, Tensor]]:
    """Codec latents that several seeds make of some samples; of one seed, if all are alike.

    Args:
        model: Model that generates.
        latents: Codec latents of each source, with shape (B, *shape); of none, from noise alone.
        targets: Modalities that are generated, all from one state.
        seeds: Seeds.
        first: Number of the first sample; rows are numbered through, so that no two have one noise.
        count: Number B of samples where there is no source.
    """
    draws: list[dict[str, Tensor]] = []
    for seed in seeds:
        generated = model.translate(
            latents,
            targets,
            seed=seed,
            first=first,
            count=count,
        )
        if draws and all(torch.equal(generated[n], draws[0][n]) for n in targets):
            break
        draws.append(generated)
    return draws


def raws_of(
    model: Model,
    draws: Sequence[Mapping[str, Tensor]],
    generator: torch.Generator,
) -> list[dict[str, list[Any]]]:
    """The raw samples of generated latents, per seed and target; decoders draw from a generator."""
    raws = []
    for generated in draws:
        of_seed = {}
        for name, x in generated.items():
            of_seed[name] = list(model.modalities[name].codec.decode(x, generator))
        raws.append(of_seed)
    return raws


def previews_of(
    model: Model,
    raws: Sequence[Mapping[str, Sequence[Any]]],
    number: int,
) -> dict[str, list[Preview]]:
    """The previews of one row: by target, one of each seed.

    Args:
        model: Model that generated.
        raws: Per seed and target, raw samples of all rows.
        number: Number of the row.
    """
    return _by_target(raws, number, lambda name: model.modalities[name].preview)


def exhibits_of(
    model: Model,
    raws: Sequence[Mapping[str, Sequence[Any]]],
    number: int,
) -> dict[str, list[Exhibit]]:
    """What a page shows in the place of these previews; arguments as of `previews_of`."""
    return _by_target(raws, number, lambda name: model.modalities[name].exhibit)


def _by_target(
    raws: Sequence[Mapping[str, Sequence[Any]]],
    number: int,
    shower: Callable[[str], Callable[[Any], Shown]],
) -> dict[str, list[Shown]]:
    """What one row shows: by target, one of each seed, as its modality shows it."""
    shown: dict[str, list[Shown]] = {}
    for of_seed in raws:
        for name, samples in of_seed.items():
            shown.setdefault(name, []).append(shower(name)(samples[number]))
    return shown


def seen_together(store: LatentStore, sources: Sequence[str], target: str) -> bool:
    """Whether some samples of a store have one of the sources together with the target."""
    for stratum in store.strata:
        has_source = any(source in stratum.modalities for source in sources)
        if has_source and target in stratum.modalities:
            return True
    return False
