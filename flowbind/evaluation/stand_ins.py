"""Real samples in the place of generations: the floor of every measure of likeness.

Two sets of real samples are apart as well, the more the fewer they are. So for each test sample a
training sample with the same labels stands in, and is measured as generations are; without labels,
or where no training sample has these, any other one does.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from flowbind.data.manifest import Manifest
from flowbind.data.store import LatentStore
from flowbind.evaluation.metric_suite import MetricSuite
from flowbind.judge import Judge
from flowbind.modality import Modality

Merge = Callable[[Tensor, Tensor], Tensor]


class StandIns:
    """The stand-ins of one evaluation, by modality.

    Args:
        latents: Per modality, latents of theirs, with shape (n, *shape).
        lines: Per modality, their samples in the training manifest, with shape (n,).
        judges: Judges, by the modality that they read.
        modalities: Modalities by name.
        manifest: Manifest of the training samples.
        store: Store of their latents, in which features are kept.
    """

    def __init__(
        self,
        latents: Mapping[str, Tensor],
        lines: Mapping[str, Tensor],
        judges: Mapping[str, Judge],
        modalities: Mapping[str, Modality],
        manifest: Manifest,
        store: LatentStore,
    ) -> None:
        self.latents = latents
        self.suites: dict[str, MetricSuite] = {}
        for name, judge in judges.items():
            if name in lines:
                self.suites[name] = MetricSuite(
                    [judge],
                    {name: modalities[name]},
                    {name: ([name], name)},
                    manifest,
                    lines[name],
                    store,
                )

    def update(self, rows: Tensor) -> None:
        """Computes what judges see of these rows, in [0, n), with shape (B,)."""
        for suite in self.suites.values():
            suite.update_real(rows)

    def gather(self, merge: Merge, keep: bool) -> None:
        """Puts together what all devices have seen; arguments as for `MetricSuite.gather`."""
        for suite in self.suites.values():
            suite.gather(merge, keep)

    def features(self, name: str) -> Tensor | None:
        """A judge's features of them, with shape (n, d); None where no judge reads them."""
        if name not in self.suites:
            return None
        return self.suites[name].real[0, name]


def choose(pool: Tensor, wanted: Tensor, seed: int) -> Tensor:
    """Which training sample stands in for each test sample.

    Each is taken once as long as there are others with its labels.

    Args:
        pool: Classes of the training samples, with shape (N, F), N at least 1.
        wanted: Classes of the test samples, with shape (n, F).
        seed: Seed of which are taken.

    Returns:
        Positions in [0, N), with shape (n,).
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(pool), generator=generator)
    # A factor that all share, so that there is one where no labels are.
    pool = F.pad(pool, (0, 1))
    groups, group_of = F.pad(wanted, (0, 1)).unique(dim=0, return_inverse=True)

    chosen = torch.zeros(len(wanted), dtype=torch.long)
    for number, labels in enumerate(groups):
        has_labels = (pool[order] == labels).all(1)
        candidates = order[has_labels]
        if len(candidates) == 0:
            candidates = order

        members = (group_of == number).nonzero().flatten()
        turns = torch.arange(len(members)) % len(candidates)
        chosen[members] = candidates[turns]
    return chosen
