"""flowbind: any-to-any generation, each modality tied to a shared latent by an invertible flow.

model = flowbind.load("runs/shapes/model")
out = model.generate({"text": ["a large red torus"]}, to=["image", "audio"], steps=10)
"""

from importlib import import_module
from typing import Any

# Imported on first use: torch alone takes seconds. Editors read the same from __init__.pyi.
_PUBLIC = {
    "load": "flowbind.release",
    "save": "flowbind.release",
    "Model": "flowbind.generation",
    "Training": "flowbind.train.training",
    "Method": "flowbind.method",
    "Direction": "flowbind.method",
    "Loss": "flowbind.method",
    "Batch": "flowbind.batch",
    "integrate": "flowbind.flow.solver",
    "sample_path": "flowbind.flow.path",
    "FlowBind": "flowbind.methods.flowbind",
    "Codec": "flowbind.codec",
    "NeuralCodec": "flowbind.codec",
    "Modality": "flowbind.modality",
    "Drift": "flowbind.nets.mlp",
    "DriftConfig": "flowbind.nets.mlp",
    "Head": "flowbind.nets.mlp",
    "HeadConfig": "flowbind.nets.mlp",
    "LatentStore": "flowbind.data.store",
    "Manifest": "flowbind.data.manifest",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'flowbind' has no attribute '{name}'")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
