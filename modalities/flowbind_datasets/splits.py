"""The splits of a dataset: samples found and what is missing, on the way to manifests."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from flowbind.data.manifest import write_manifest
from flowbind.progress import say
from flowbind_datasets.files import File

SPLITS = ("train", "val", "test")
LIST = "missing.txt"

T = TypeVar("T")


class Splits:
    """Collects a dataset's samples by split, and writes a manifest for each.

    Args:
        out: Existing folder that receives `train.jsonl`, `val.jsonl`, `test.jsonl` and
            `missing.txt`.
    """

    def __init__(self, out: Path) -> None:
        # A path that goes up does so from where the folder really is.
        self.out = os.path.realpath(out)
        self.aside: Counter[str] = Counter()
        self.samples: dict[str, list[dict[str, Any]]] = {}
        self.missing: dict[str, dict[str, None]] = {}
        self.ids: dict[str, Counter[str]] = {}
        self.references: dict[str, list[int]] = {}
        for split in SPLITS:
            self.samples[split] = []
            self.missing[split] = {}
            self.ids[split] = Counter()
            self.references[split] = []

    def add(
        self,
        split: str,
        id: str,
        values: Mapping[str, str | File],
        labels: dict[str, str] | None = None,
        captions: Sequence[str] = (),
    ) -> None:
        """Adds a sample; if one of its values is missing, notes that and leaves the sample out.

        Args:
            split: Name of its split; samples to measure on get `references`, those to train on
                do not.
            id: Name of the sample. Annotations may name one twice; the second gets a number.
            values: Text or file by modality.
            labels: Values of named factors.
            captions: All captions that the dataset has of the same thing, its `text` among them.
        """
        missing = _missing(id, values)
        if missing:
            for name in missing:
                self.miss(split, name)
            return

        sample: dict[str, Any] = {}
        for key, value in values.items():
            sample[key] = self._entry(value)
        if labels:
            sample["labels"] = labels

        references = [self._entry(caption) for caption in captions if caption.strip()]
        if split != "train" and len(references) > 1:
            sample["references"] = {"text": references}
            self.references[split].append(len(references))

        self.ids[split][id] += 1
        count = self.ids[split][id]
        unique = id
        if count > 1:
            unique = f"{id}#{count}"
        self.samples[split].append({"id": unique} | sample)

    def miss(self, split: str, name: str) -> None:
        """Notes something that is not there."""
        self.missing[split][name] = None

    def leave(self, split: str, captions: int) -> None:
        """Notes captions that no sample takes; for measuring, all serve as references."""
        if split == "train":
            self.aside[split] += captions

    def write(self, source: Path, layout: str) -> None:
        """Writes a manifest for each split that has samples, and the list of what is missing.

        Says how many of each there are.

        Args:
            source: Folder of the dataset, for the message.
            layout: Files that should be in it, for the message.

        Raises:
            ValueError: there is no sample at all.
        """
        missing = []
        for split, names in self.missing.items():
            for name in names:
                missing.append((split, name))

        if not any(self.samples.values()):
            example = ""
            if missing:
                _, first = missing[0]
                example = f", such as {first}"
            raise ValueError(
                f"{source}: no sample found, {len(missing)} files are missing{example}; "
                f"the layout is: {layout}"
            )

        for split, samples in self.samples.items():
            if samples:
                path = Path(self.out, f"{split}.jsonl")
                write_manifest(path, samples)
            if samples or self.missing[split]:
                say(self._summary(split))

        if missing:
            lines = [f"{split}\t{name}\n" for split, name in missing]
            path = Path(self.out, LIST)
            path.write_text("".join(lines), encoding="utf-8")
            say(f"what is missing is listed in {LIST}, beside the manifests")

    def _summary(self, split: str) -> str:
        """How many samples a split has, and what they lack, in one line."""
        clauses = [
            f"{split}: {len(self.samples[split])} samples",
            f"{len(self.missing[split])} missing",
        ]
        if self.aside[split]:
            clauses.append(f"{self.aside[split]} further captions left aside")

        counts = self.references[split]
        if counts:
            count = len(counts)
            most = max(counts)
            clauses.append(
                f"{count} of them with up to {most} captions to compare with"
            )

        return ", ".join(clauses)

    def _entry(self, value: str | File) -> str:
        """A value as the manifest has it: a path from its folder, or a text of one line."""
        if isinstance(value, File):
            assert value.path is not None  # or the sample is left out
            return os.path.relpath(value.path, self.out)

        return " ".join(value.split())


def _missing(id: str, values: Mapping[str, str | File]) -> list[str]:
    """Names of those values of a sample that are not there."""
    missing = []
    for key, value in values.items():
        if isinstance(value, File):
            if not value.path:
                missing.append(value.name)
        elif not value.strip():
            missing.append(f"{key} of {id}")

    return missing


def shuffled(things: Sequence[T], *seed: int) -> list[T]:
    """The things in an order that the seed decides."""
    order = np.random.default_rng(seed).permutation(len(things))
    return [things[i] for i in order]


def held_out(things: Sequence[T], count: int, *seed: int) -> set[T]:
    """Things of training that are drawn for validation, where a dataset publishes none.

    Args:
        things: All of training.
        count: Number of things to draw.
        seed: Integers that decide the draw.

    Raises:
        ValueError: none would be left to train on.
    """
    total = len(things)
    if count < 0 or (things and count >= total):
        raise ValueError(
            f"val_samples is {count}; of {total} for training 0 to {total - 1} "
            "can be held out; give another number"
        )

    order = shuffled(things, *seed)
    return set(order[:count])


def check_share(name: str, share: float, things: str) -> None:
    """Refuses a share of training that would leave nothing to train on.

    Raises:
        ValueError: it is not from 0 to below 1.
    """
    if not 0 <= share < 1:
        raise ValueError(
            f"{name} is a share of the training {things}, from 0 to below 1, not {share}"
        )


def captions_kept(captions: str) -> slice:
    """Which captions of one picture or sound become samples.

    Args:
        captions: `first`, or `all`, each in a sample of its own.

    Raises:
        ValueError: it is neither.
    """
    slices = {"first": slice(1), "all": slice(None)}
    if captions not in slices:
        raise ValueError(
            f"captions is '{captions}', allowed are first (one sample for each) "
            "and all (a sample for each caption)"
        )

    return slices[captions]
