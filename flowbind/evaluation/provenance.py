"""On what, by what and how an evaluation was measured, as JSON: enough to do it again."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch

from flowbind.component import as_json
from flowbind.data.store import LatentStore
from flowbind.generation import Model

LIBRARIES = ("flowbind", "torch", "lightning", "numpy")


def describe_model(model: Model, names: Sequence[str]) -> dict[str, Any]:
    """What was judged.

    Args:
        model: Model that was judged.
        names: Modalities that were judged.
    """
    settings = {}
    for name, value in model.method.arguments().items():
        if name != "modalities":
            settings[name] = as_json(value)

    return {
        "sampling": asdict(model.sampling),
        "model": {
            "modalities": list(names),
            "method": type(model.method).__name__,
            "settings": settings,
            "parameters": sum(p.numel() for p in model.networks.parameters()),
        },
        "codecs": {name: m.codec.fingerprint() for name, m in model.modalities.items()},
    }


def describe_data(train: LatentStore, test: LatentStore) -> dict[str, Any]:
    """What it was trained and tested on.

    Args:
        train: Latents of the training samples.
        test: Latents of the test samples.
    """
    rows_by_kind = {}
    for stratum in train.strata:
        kind = "+".join(stratum.modalities)
        rows_by_kind[kind] = stratum.rows

    return {
        "data": {
            "train": _describe_store(train),
            "test": _describe_store(test),
        },
        "trained_on": rows_by_kind,
    }


def _describe_store(store: LatentStore) -> dict[str, Any]:
    return {
        "manifest": store.source,
        "sha256": store.source_sha256,
        "samples": store.rows,
    }


def describe_machine(
    device: torch.device,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """Where it was measured, with what, and how long each part took.

    Args:
        device: Device that the model ran on.
        seconds: Seconds of each part.
    """
    if device.type == "cuda":
        device_name = torch.cuda.get_device_name(device)
    else:
        device_name = f"{device.type} {platform.machine()}"

    versions = {"python": platform.python_version()}
    for library in LIBRARIES:
        versions[library] = version(library)

    return {
        "device": device_name,
        "threads": torch.get_num_threads(),
        "versions": versions,
        "seconds": {part: round(spent, 2) for part, spent in seconds.items()},
    }
