"""A recipe over another changes what it names and nothing else, wherever in it that is."""

import copy
import math

import pytest
import yaml

from flowbind.cli.overrides import dump, merge
from flowbind.cli.recipe import build
from tests.toy import RECIPE


@pytest.fixture
def built(tmp_path, toys):
    """Builds a recipe under others. Returns what was parsed."""
    (tmp_path / "recipe.yaml").write_text(
        RECIPE.format(data=tmp_path / "data", run=tmp_path / "run", steps=20)
    )

    def run(*overlays):
        arguments = ["--config", str(tmp_path / "recipe.yaml")]
        for number, overlay in enumerate(overlays):
            path = tmp_path / f"{number}.yaml"
            path.write_text(
                overlay if isinstance(overlay, str) else yaml.safe_dump(overlay)
            )
            arguments += ["--config", str(path)]
        return build(arguments)

    return run


def plain(cli):
    config = (
        cli.settings.as_dict()
        if hasattr(cli.settings, "as_dict")
        else vars(cli.settings)
    )
    return {
        key: config[key]
        for key in (
            "model",
            "training",
            "evaluation",
            "data",
            "trainer",
            "seed_everything",
        )
    }


def leaves(node, path=()):
    """Every value of a parsed recipe, by where it stands."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, (*path, key))
    else:
        yield path, node


OVERLAYS = {
    (
        "model",
        "init_args",
        "modalities",
        "vector",
        "init_args",
        "codec",
        "init_args",
        "seed",
    ): 5,
    ("training", "warmup_steps"): 3,
    ("evaluation", "sampling", "steps"): 3,
    ("evaluation", "limit"): 3,
    ("model", "init_args", "drift", "width"): 8,
    ("data", "init_args", "manifests", "test"): "other.jsonl",
    ("data", "init_args", "weights", "vector+word"): 2.0,
    ("trainer", "max_steps"): 7,
    ("seed_everything",): 3,
}


@pytest.mark.parametrize("path", OVERLAYS, ids=".".join)
def test_one_value_changes_and_nothing_else(built, path):
    """In the arguments of classes, in mappings of modalities, splits and weights, and deep in a codec."""
    codec = {"class_path": "toy", "init_args": {"seed": 1, "width": 8}}
    first = {
        "model": {
            "init_args": {"modalities": {"vector": {"init_args": {"codec": codec}}}}
        }
    }
    first["evaluation"] = {"sampling": {"solver": "rk4"}}
    first["data"] = {"init_args": {"weights": {"word": 1.0}}}
    overlay = OVERLAYS[path]
    for key in reversed(path):
        overlay = {key: overlay}
    before, after = (
        dict(leaves(plain(cli))) for cli in (built(first), built(first, overlay))
    )
    changed = {
        place
        for place in before.keys() | after.keys()
        if before.get(place) != after.get(place)
    }
    assert {place[-1] for place in changed} == {path[-1]}
    assert len(changed) == 1
    assert after[changed.pop()] == OVERLAYS[path]


def test_another_class_leaves_the_arguments_of_the_one_before(built):
    named = "model: {init_args: {modalities: {vector: {init_args: {codec: {class_path: toy, init_args: {seed: 5}}}}}}}"
    other = "model: {init_args: {modalities: {vector: {init_args: {codec: {class_path: toy-word}}}}}}"
    same = "model: {init_args: {modalities: {vector: {init_args: {codec: {class_path: toy, init_args: {width: 8}}}}}}}"
    codecs = [
        built(named, overlay).model.modalities["vector"].codec
        for overlay in (other, same)
    ]
    assert [(type(codec).__name__, codec.seed) for codec in codecs] == [
        ("WordCodec", 0),
        ("ToyCodec", 5),
    ]


def test_a_modality_is_added_beside_the_others(built):
    cli = built("model: {init_args: {modalities: {twin: {class_path: word}}}}")
    assert list(cli.model.modalities) == ["word", "vector", "twin"]


def test_values_keep_their_types_on_the_way(built):
    cli = built(
        'trainer: {gradient_clip_val: .inf}\ntraining: {learning_rate: 1e-3}\ndata: {init_args: {store: "1e-3"}}'
    )
    assert cli.trainer.gradient_clip_val == math.inf
    assert cli.model.training_config.learning_rate == 1e-3
    assert cli.datamodule.store == "1e-3"


RECIPES = [
    {},
    {
        "a": None,
        "b": [1, {"c": 2.5}],
        "c": {"d": "1e-4", "e": "null", "f": ""},
        "g": True,
        "h": -math.inf,
    },
    {
        "a": {
            "class_path": "x.Y",
            "init_args": {"d": "é: ü", "e": "a\nb", "f": "~", "g": "2024-01-01"},
        }
    },
]


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_written_reads_as_the_same(recipe):
    assert yaml.safe_load(dump(recipe)) == recipe


def test_merging_changes_none_of_what_it_merges():
    parts = [
        {"a": {"b": {"c": 1}}},
        {"a": {"b": {"d": 2}}},
        {"a": {"b": {"c": None}, "e": [1]}},
    ]
    before = copy.deepcopy(parts)
    assert merge(parts) == {"a": {"b": {"c": None, "d": 2}, "e": [1]}}
    assert parts == before
    shared = {"x": 1}
    assert "&" not in dump({"a": shared, "b": shared})
