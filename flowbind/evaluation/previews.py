"""What several seeds make of some samples, as a gallery shows it."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from flowbind.data.store import LatentStore
from flowbind.evaluation.gallery import Preview
from flowbind.generation import Model


def previews_of(
    model: Model,
    latents: Mapping[str, Tensor],
    targets: Sequence[str],
    seeds: Sequence[int],
    generator: torch.Generator,
    first: int = 0,
    count: int = 1,
) -> list[dict[str, list[Preview]]]:
    """Previews of what is generated, per seed and target; of one seed, if all are alike.

    Args:
        model: Model that generates.
        latents: Codec latents of each source, with shape (B, *shape); of none, from noise alone.
        targets: Modalities that are generated, each by itself.
        seeds: Seeds.
        generator: Generator for what decoders draw.
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

    previews = []
    for generated in draws:
        of_seed = {}
        for name, x in generated.items():
            modality = model.modalities[name]
            raws = modality.codec.decode(x, generator)
            of_seed[name] = [modality.preview(raw) for raw in raws]
        previews.append(of_seed)
    return previews


def of_row(
    previews: Sequence[Mapping[str, Sequence[Preview]]],
    number: int,
) -> dict[str, list[Preview]]:
    """One row's previews: by target, one of each seed."""
    if not previews:
        return {}
    return {
        name: [of_seed[name][number] for of_seed in previews] for name in previews[0]
    }


def seen_together(store: LatentStore, sources: Sequence[str], target: str) -> bool:
    """Whether some samples of a store have one of the sources together with the target."""
    for stratum in store.strata:
        has_source = any(source in stratum.modalities for source in sources)
        if has_source and target in stratum.modalities:
            return True
    return False
