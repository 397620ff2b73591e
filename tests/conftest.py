"""What all tests share: no network, one thread, and the toy world registered as a plugin would be."""

import os
from importlib.metadata import EntryPoint

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch

import flowbind.registry as registry

TOYS = {
    "modalities": {"word": "tests.toy:Word", "vector": "tests.toy:Vector"},
    "codecs": {"toy": "tests.toy:ToyCodec", "toy-word": "tests.toy:WordCodec"},
}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)  # tests run side by side with others; more threads than cores crawl


@pytest.fixture
def toys(monkeypatch):
    """Registers the toy modalities and codecs beside what is installed."""
    installed = registry.installed

    def with_toys(kind):
        extra = {name: EntryPoint(name, value, registry.GROUPS[kind]) for name, value in TOYS.get(kind, {}).items()}
        return {**installed(kind), **extra}

    for module in ("registry", "data.folder", "encoding", "cli.check", "cli.modalities", "cli.prepare", "data.raw"):
        monkeypatch.setattr(f"flowbind.{module}.installed", with_toys)
