"""Generations measured in the latents of another store: the same in the same ones, alike in turned ones."""

import numpy as np
import pytest
import torch

from flowbind.data.shard import LINE, write_shard
from flowbind.data.store import finish_store
from flowbind.evaluation.evaluation import Evaluation
from flowbind.evaluation.space import Space, SpaceConfig
from flowbind.files import digest
from tests.test_evaluation import (
    CONFIG,
    NAMES,
    Turned,
    Vector,
    _quick_probes,
    exact,
    make_model,
    world,
)

__all__ = ["_quick_probes", "exact", "world"]  # fixtures


def modalities_of(first: int) -> dict[str, Vector]:
    """The world's modalities, with codecs that turn samples otherwise: from 0 those of its store."""
    modalities = {name: Vector(kind) for kind, name in enumerate(NAMES)}
    for kind, modality in enumerate(modalities.values()):
        modality.codec = Turned(first + kind)
    return modalities


def encode_again(world, folder, first: int, leave: int = 0):
    """A store of the same manifests, rows in reverse, some left out at the end, by these codecs."""
    modalities = modalities_of(first)
    own = modalities_of(0)
    for split, (store, manifest) in world.items():
        (folder / split).mkdir(parents=True)
        groups = []
        for number, stratum in enumerate(store.strata):
            rows = np.arange(stratum.rows)[::-1][leave:].copy()
            tensors = store.gather(number, rows, [*stratum.modalities, LINE])
            for name in stratum.modalities:
                raws = own[name].codec.decode(tensors[name])
                tensors[name] = modalities[name].codec.encode(raws)
            write_shard(folder / split / f"{number}.safetensors", tensors, {})
            groups.append((stratum.modalities, [f"{number}.safetensors"]))

        prints = {name: m.codec.fingerprint() for name, m in modalities.items()}
        path = manifest.path
        finish_store(folder / split, groups, prints, str(path), digest(path))
    return SpaceConfig(str(folder), modalities)


def open_space(world, config):
    return Space.open(config, make_model(), world["train"][1], world["test"][1])


def evaluate_in(world, config):
    space = open_space(world, config)
    evaluation = Evaluation(
        make_model(), *world["train"], *world["test"], CONFIG, space=space
    )
    for rows in evaluation.batches:
        evaluation.step(rows)
    return evaluation.finish()


def test_the_same_latents_in_another_order_measure_the_same(world, exact, tmp_path):
    results = evaluate_in(world, encode_again(world, tmp_path / "again", 0))
    for name, measures in exact[1]["directions"].items():
        for key, value in measures.items():
            # Probes and floors see training samples in another order.
            if isinstance(value, float) and not key.startswith("accuracy"):
                assert results["directions"][name][key] == pytest.approx(
                    value, abs=1e-4
                ), (name, key)


def test_turned_latents_are_measured_as_they_are(world, tmp_path):
    config = encode_again(world, tmp_path / "turned", 10)
    results = evaluate_in(world, config)
    for name, measures in results["directions"].items():
        for key, value in measures.items():
            if key.startswith(("accuracy", "recall@1")):
                assert value == 1, (name, key)
            if key.startswith("frechet"):
                assert value == pytest.approx(0, abs=1e-3), (name, key)
    described = results["meta"]["space"]
    assert described["store"] == config.store
    assert described["codecs"]["ant"] == Turned(10).fingerprint()


def test_other_codecs_manifests_or_samples_are_told(world, tmp_path):
    config = encode_again(world, tmp_path / "turned", 10, leave=2)
    short = open_space(world, config)
    lines = torch.arange(10)
    with pytest.raises(ValueError, match=r"lacks 2 of the 10 test samples"):
        short.real(NAMES, torch.arange(50, 60), len(world["test"][1].samples))
    assert short.real(NAMES, lines, len(world["test"][1].samples)).keys() == set(NAMES)

    with pytest.raises(ValueError, match="another"):
        open_space(world, SpaceConfig(config.store, modalities_of(20)))
    without = {name: config.modalities[name] for name in NAMES[1:]}
    with pytest.raises(ValueError, match=f"modalities has no '{NAMES[0]}'"):
        open_space(world, SpaceConfig(config.store, without))
    with pytest.raises(FileNotFoundError, match="no such latent store"):
        open_space(world, SpaceConfig(str(tmp_path / "none"), config.modalities))
