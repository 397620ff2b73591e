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

LIBRARIES = ("flowbind", "torch", "lightning", "torchdiffeq", "numpy")


def describe_model(model: Model, names: Sequence[str]) -> dict[str, Any]:
    """What was judged.

    Args:
        model: whose it is.
        names: of the modalities that were judged.
    """
    settings = {key: x for key, x in model.method.arguments().items() if key != "modalities"}
    return {
        "sampling": asdict(model.sampling),
        "model": {
            "modalities": list(names),
            "method": type(model.method).__name__,
            "settings": {key: as_json(value) for key, value in settings.items()},
            "parameters": sum(p.numel() for p in model.networks.parameters()),
        },
        "codecs": {name: m.codec.fingerprint() for name, m in model.modalities.items()},
    }


def describe_data(train: LatentStore, test: LatentStore) -> dict[str, Any]:
    """What it was trained and tested on."""
    return {
        "data": {
            split: {
                "manifest": store.source,
                "sha256": store.source_sha256,
                "samples": store.rows,
            }
            for split, store in (("train", train), ("test", test))
        },
        "trained_on": {"+".join(stratum.modalities): stratum.rows for stratum in train.strata},
    }


def describe_machine(device: torch.device, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Where it was measured, with what, and how long each part took."""
    on_gpu = device.type == "cuda"
    versions = {name: version(name) for name in LIBRARIES}
    return {
        "device": torch.cuda.get_device_name(device)
        if on_gpu
        else f"{device.type} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **versions},
        "seconds": {part: round(spent, 2) for part, spent in seconds.items()},
    }
