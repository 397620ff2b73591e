"""A codec as somebody else gets it: in a released model that was moved, with what it was made from gone."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

import flowbind
from flowbind import Codec, Modality
from flowbind.generation import Model
from flowbind.method import Networks
from flowbind.methods.flowbind import FlowBind
from flowbind.nets.mlp import DriftConfig, HeadConfig
from flowbind.release import save

SMALL = DriftConfig(width=8, depth=1), HeadConfig(width=8, depth=1)


def make_model(modalities: Mapping[str, Modality], *sizes) -> Model:
    """FlowBind of these modalities with fresh networks, of these sizes or very small."""
    method = FlowBind(dict(modalities), *(sizes or SMALL))
    return Model(method, Networks(method).eval().requires_grad_(False))


def release(folder: Path, **modalities: Modality) -> Path:
    """Writes a released model of these modalities, a single one beside its twin, with small fresh flows."""
    if len(modalities) == 1:
        modalities["twin"] = next(iter(modalities.values()))
    with torch.random.fork_rng(devices=[]):
        save(make_model(modalities), folder)
    return folder


def as_received(modality: Modality, name: str, originals: Path) -> Codec:
    """The codec of a released model in another place, after all in `originals` was deleted."""
    made = release(originals.with_name("made"), **{name: modality})
    received = made.rename(originals.with_name("received"))
    shutil.rmtree(originals)
    return flowbind.load(received).modality(name).codec
