"""Signs of failure, which a method reads from real latents at every validation (docs/watch.md)."""

from collections.abc import Mapping

import torch

from flowbind import draws
from flowbind.batch import Batch
from flowbind.data.latents import LatentDataModule
from flowbind.generation import Model
from flowbind.method import Method, Sign
from flowbind.progress import say

SAMPLES = 256  # of all kinds, that signs are read from
SPLIT = "val"


class Signs:
    """The signs of one training, and which of them are out of their bounds.

    Args:
        method: Method that is trained.
        seed: Seed of what is drawn.
    """

    def __init__(self, method: Method, seed: int) -> None:
        self.exist = type(method).signs is not Method.signs
        self.key = draws.key(seed)
        self.batch: Batch | None = None
        self.crossed: set[str] = set()
        self.are_told = True  # not after the few steps of a dry run, which mean nothing

    @torch.no_grad()
    def read(self, model: Model, data: LatentDataModule) -> dict[str, Sign]:
        """The signs of a model, on the same samples each time."""
        if self.batch is None:
            self.batch = data.sample(SPLIT, SAMPLES).to(model.device)
        standardized = model.networks.standardize(self.batch)
        return model.method.signs(
            model.networks.nets,
            standardized,
            model.sampling,
            self.key,
        )

    def tell(self, signs: Mapping[str, Sign], step: int) -> None:
        """Says a line of each that crossed a bound since the last time."""
        for name, sign in signs.items():
            complaint = sign.complaint
            if complaint and self.are_told and name not in self.crossed:
                say(f"step {step}: {name} is {complaint} (docs/watch.md)")
            if complaint:
                self.crossed.add(name)
            else:
                self.crossed.discard(name)
