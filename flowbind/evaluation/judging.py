"""What judges read of generations, of real samples, and of what a codec makes of these.

A judge and a probe look at the same generations, so their shares are compared in pairs: with b
samples that the judge alone reads rightly and c that the probe alone does, of n, the difference is
(b - c) / n. Were both as often right, it would have a standard error of sqrt(b + c) / n (McNemar,
1947); a difference beyond `ERRORS` of these is one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from flowbind.data.manifest import Manifest
from flowbind.data.store import LatentStore
from flowbind.evaluation.agreement import agreement, coverage
from flowbind.evaluation.measures import likeness_in_features
from flowbind.evaluation.metric_suite import MetricSuite
from flowbind.evaluation.verdicts import ByClass
from flowbind.judge import Judge
from flowbind.metrics.probe import shares
from flowbind.modality import Modality
from flowbind.registry import name_of

ERRORS = 2  # standard errors beyond which two shares differ
SHOWN = 3  # values that a line gives


class Judging:
    """The judges of one evaluation: `suite` gathers their features, then they read them.

    Args:
        judges: Judges, at most one for each modality.
        modalities: Modalities that are judged, by name.
        directions: Per direction, its sources and its target.
        manifest: Manifest of the test samples.
        lines: Sample in the manifest of each of the n rows, with shape (n,).
        store: Store of their latents, in which features of real samples are kept.
        values: Values of each labelled factor that is measured, F of them.
        labels: Class of each factor, as numbers of `values`, with shape (n, F).

    Attributes:
        of: Per modality that is judged, its judge.
        suite: Features of generations, by direction; of round trips, by modality.

    Raises:
        ValueError: two judges of one modality, one that does not read what is labelled, or one
            that cannot be built.
    """

    def __init__(
        self,
        judges: Sequence[Judge],
        modalities: Mapping[str, Modality],
        directions: Mapping[str, tuple[Sequence[str], str]],
        manifest: Manifest,
        lines: Tensor,
        store: LatentStore,
        values: Mapping[str, Sequence[str]],
        labels: Tensor,
    ) -> None:
        self.values = values
        self.labels = labels

        kinds = {}
        if judges:
            for name, modality in modalities.items():
                kinds[name] = name_of("modalities", type(modality))
        self.of = {}
        for name, kind in kinds.items():
            own = [judge for judge in judges if judge.judges == kind]
            if len(own) > 1:
                labels_of = " and ".join(judge.label for judge in own)
                raise ValueError(
                    f"evaluation.judges: {labels_of} both judge '{kind}'; keep one of them"
                )
            if own:
                self.of[name] = own[0]
                self._check_classes(own[0])

        trips = {name: ([name], name) for name in self.of}
        everything = {**directions, **trips}
        self.suite = MetricSuite(
            list(dict.fromkeys(self.of.values())),
            modalities,
            everything,
            manifest,
            lines,
            store,
        )

    def _check_classes(self, judge: Judge) -> None:
        """Refuses a judge that does not tell apart what is labelled."""
        for factor, values in self.values.items():
            known = judge.classes.get(factor)
            if known is None:
                factors = ", ".join(judge.classes)
                trouble = f"reads {factors}, and not '{factor}', which is labelled"
            elif not set(values) <= set(known):
                unknown = ", ".join(sorted(set(values) - set(known))[:SHOWN])
                trouble = f"knows no '{factor}' {unknown}"
            else:
                continue

            raise ValueError(
                f"evaluation.judges: {judge.label} {trouble}; give one that was trained on such "
                "labels (recipes/judges), or none"
            )

    def gather(self, merge: Callable[[Tensor, Tensor], Tensor], keep: bool) -> None:
        """Puts together what all devices have seen; arguments as for `MetricSuite.compute`."""
        self.suite.gather(merge, keep)

    def features(self, name: str, key: str | None) -> Tensor:
        """What a judge takes of samples of a modality that it judges, with shape (n, d).

        Args:
            name: Modality of the samples, one of `of`.
            key: What they are: a direction, or the modality's own name for its round trip; None for
                the real samples.
        """
        number = self.suite.metrics.index(self.of[name])
        if key is None:
            return self.suite.real[number, name]
        return self.suite.generated[key, number]

    def right(self, name: str, key: str | None) -> Tensor | None:
        """Which factors of which samples are read rightly, bool with shape (n, F).

        Arguments as for `features`. None where no judge reads them, or nothing is labelled.
        """
        read = self.read(name, key)
        return None if read is None else read == self.labels

    def read(self, name: str, key: str | None) -> Tensor | None:
        """The classes that are read, as numbers of `values`, with shape (n, F); below 0 where none.

        Arguments as for `features`. None where no judge reads them, or nothing is labelled.
        """
        if name not in self.of or not self.values:
            return None
        return self.of[name].read_as(self.features(name, key), self.values)

    def measures(self, name: str, key: str | None) -> dict[str, float]:
        """Shares of samples, in [0, 1], that are read rightly, by full name; none if not read."""
        right = self.right(name, key)
        if right is None:
            return {}

        each, joint = shares(right)
        share_of = dict(zip(self.values, each.tolist(), strict=True))
        share_of["joint"] = joint

        how = f"judge,{self.of[name].label},n={len(right)}"
        return {f"accuracy/{what}[{how}]": share for what, share in share_of.items()}

    def together(
        self, targets: Sequence[str], target: str, keys: Mapping[str, str]
    ) -> dict[str, float]:
        """What is read of samples made together of noise alone: whether they agree, and how varied.

        Args:
            targets: Modalities that were made together.
            target: That one of them whose variety is measured.
            keys: Per target, what its samples are, as for `features`.
        """
        readings = {}
        for name in targets:
            read = self.read(name, keys[name])
            if read is not None:
                readings[name] = read

        measures = agreement(readings, list(self.values))
        if target in readings:
            label = self.of[target].label
            measures |= coverage(readings[target], self.labels, label)
        return measures

    def by_class(self, name: str, key: str | None) -> ByClass:
        """Of the samples of each class, the share of which all factors are read rightly."""
        right = self.right(name, key)
        if right is None:
            return {}

        whole = right.all(1).double()
        table: dict[str, dict[str, float]] = {}
        for column, (factor, values) in enumerate(self.values.items()):
            table[factor] = {}
            for number, value in enumerate(values):
                of_class = self.labels[:, column] == number
                if of_class.any():
                    table[factor][value] = whole[of_class].mean().item()
        return table

    def likeness(self, name: str, key: str) -> dict[str, float]:
        """How features compare with those of real samples; arguments as for `right`."""
        if name not in self.of:
            return {}
        return self.compare(name, self.features(name, key))

    def compare(self, name: str, features: Tensor) -> dict[str, float]:
        """How a judge's features of n samples, with shape (n, d), compare with the real ones."""
        real = self.features(name, None)
        return likeness_in_features(features, real, self.of[name].label)

    def describe(self) -> list[dict[str, Any]]:
        """The judges, as JSON, each with the modality that it judges."""
        entries = []
        for name, judge in self.of.items():
            of_judge = {"modality": name, "label": judge.label}
            entries.append(of_judge | judge.fingerprint())
        return entries


def difference(judge: Tensor, probe: Tensor) -> dict[str, float]:
    """By how much more often a judge finds all factors right than a probe does, and the error.

    Args:
        judge: Which factors the judge reads rightly, bool with shape (n, F).
        probe: Which factors the probe reads rightly, of the same samples, likewise.

    Returns:
        The difference of the shares, in [-1, 1], and `ERRORS` standard errors of it.
    """
    apart = judge.all(1).double() - probe.all(1).double()
    root = apart.square().sum().sqrt()
    error = ERRORS * root / len(apart)

    how = f"judge-probe,n={len(apart)}"
    return {
        f"difference/joint[{how}]": apart.mean().item(),
        f"difference/error[{how}]": error.item(),
    }
