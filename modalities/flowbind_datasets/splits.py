"""The splits of a dataset: samples found and what is missing, on the way to manifests."""

import os
from collections import Counter
from collections.abc import Sequence
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
        out: the existing folder that receives `train.jsonl`, `val.jsonl`, `test.jsonl` and `missing.txt`.
    """

    def __init__(self, out: Path) -> None:
        self.out = os.path.realpath(
            out
        )  # a path that goes up does so from where the folder really is
        self.samples: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
        self.missing: dict[str, dict[str, None]] = {split: {} for split in SPLITS}
        self.aside: Counter[str] = Counter()
        self.ids: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
        self.references: dict[str, list[int]] = {split: [] for split in SPLITS}

    def add(
        self,
        split: str,
        id: str,
        labels: dict[str, str] | None = None,
        captions: Sequence[str] = (),
        **values: str | File,
    ) -> None:
        """Adds a sample: by modality a text or a file. If one is not there, it is missed and the sample is left out.

        Args:
            split: of the sample; samples to measure on get `references`, those to train on do not.
            id: of the sample.
            labels: values of named factors.
            captions: all that the dataset has of the same thing, its `text` among them.
            values: by modality.
        """
        missed = [
            value.name if isinstance(value, File) else f"{key} of {id}"
            for key, value in values.items()
            if not (value.path if isinstance(value, File) else value.strip())
        ]
        for name in missed:
            self.miss(split, name)
        if not missed:
            sample = {key: self._entry(value) for key, value in values.items()}
            if labels:
                sample["labels"] = labels
            references = [self._entry(caption) for caption in captions if caption.strip()]
            if split != "train" and len(references) > 1:
                sample["references"] = {"text": references}
                self.references[split].append(len(references))
            self.ids[split][id] += 1
            again = (
                f"#{count}" if (count := self.ids[split][id]) > 1 else ""
            )  # annotations may name a file twice
            self.samples[split].append({"id": id + again} | sample)

    def miss(self, split: str, name: str) -> None:
        """Notes something that is not there."""
        self.missing[split][name] = None

    def leave(self, split: str, captions: int) -> None:
        """Notes captions that are there and not wanted; for measuring, all are wanted as references."""
        self.aside[split] += captions if split == "train" else 0

    def write(self, source: Path, layout: str) -> None:
        """Writes a manifest for each split that has samples, and the list of what is missing, and says how many there are.

        Args:
            source: the dataset's folder, for the message.
            layout: what should be in it, for the message.

        Raises:
            ValueError: there is no sample at all.
        """
        if not any(self.samples.values()):
            first = next(
                (f", such as {name}" for names in self.missing.values() for name in names), ""
            )
            count = sum(map(len, self.missing.values()))
            raise ValueError(
                f"{source}: no sample found, {count} files are missing{first}; the layout is: {layout}"
            )
        for split, samples in self.samples.items():
            if samples:
                write_manifest(Path(self.out, f"{split}.jsonl"), samples)
            if samples or self.missing[split]:
                aside = (
                    f", {self.aside[split]} further captions left aside"
                    if self.aside[split]
                    else ""
                )
                counts = self.references[split]
                compared = (
                    f", {len(counts)} of them with up to {max(counts)} captions to compare with"
                    if counts
                    else ""
                )
                say(
                    f"{split}: {len(samples)} samples, {len(self.missing[split])} missing{aside}{compared}"
                )
        lines = [f"{split}\t{name}\n" for split, names in self.missing.items() for name in names]
        if lines:
            Path(self.out, LIST).write_text("".join(lines), encoding="utf-8")
            say(f"what is missing is listed in {LIST}, beside the manifests")

    def _entry(self, value: str | File) -> str:
        return (
            os.path.relpath(value.path, self.out)
            if isinstance(value, File)
            else " ".join(value.split())
        )


def shuffled(things: Sequence[T], *seed: int) -> list[T]:
    """The things in an order that the seed decides."""
    return [things[i] for i in np.random.default_rng(seed).permutation(len(things))]


def held_out(things: Sequence[T], count: int, *seed: int) -> set[T]:
    """Things of training that are drawn for validation, where a dataset publishes none; `count` of them.

    Raises:
        ValueError: none would be left to train on.
    """
    if count < 0 or (things and count >= len(things)):
        raise ValueError(
            f"val_samples is {count}; of {len(things)} for training 0 to {len(things) - 1} can be held out; give another number"
        )
    return set(shuffled(things, *seed)[:count])


def captions_kept(captions: str) -> slice:
    """Which captions of one picture or sound become samples: `first`, or `all`, each in a sample of its own.

    Raises:
        ValueError: it is neither.
    """
    slices = {"first": slice(1), "all": slice(None)}
    if captions not in slices:
        raise ValueError(
            f"captions is '{captions}', allowed are first (one sample for each) and all (a sample for each caption)"
        )
    return slices[captions]
