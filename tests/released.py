"""A codec as somebody else gets it: in a released model that was moved, with what it was made from gone."""

import shutil
from pathlib import Path

import torch

import flowbind
from flowbind import Codec, Modality
from flowbind.flows import Flows
from flowbind.generation import Model
from flowbind.nets import DriftConfig, HeadConfig
from flowbind.objective import ObjectiveConfig
from flowbind.release import save


def release(folder: Path, **modalities: Modality) -> Path:
    """Writes a released model of these modalities, a single one beside its twin, with small fresh flows."""
    if len(modalities) == 1:
        modalities["twin"] = next(iter(modalities.values()))
    sizes = DriftConfig(width=8, depth=1), HeadConfig(width=8, depth=1)
    with torch.random.fork_rng(devices=[]):
        save(Model(modalities, Flows(modalities, *sizes), *sizes, ObjectiveConfig()), folder)
    return folder


def as_received(modality: Modality, name: str, originals: Path) -> Codec:
    """The codec of a released model in another place, after all in `originals` was deleted."""
    made = release(originals.with_name("made"), **{name: modality})
    received = made.rename(originals.with_name("received"))
    shutil.rmtree(originals)
    return flowbind.load(received).modality(name).codec
