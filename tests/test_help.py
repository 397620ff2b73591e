"""Finding one's way in recipes: the short help of `fit`, and `flowbind recipes`."""

import ast
from pathlib import Path

import pytest
import yaml

from flowbind.cli.annotated import headline, values_in
from flowbind.cli.keys import SECTIONS, keys_of
from flowbind.cli.recipes import all_keys, all_values, explain
from flowbind.registry import installed
from flowbind.shipped import shipped_recipes
from tests.processes import imported_by

ROOT = Path(__file__).parents[1]


@pytest.fixture
def mistake(command):
    """Runs a command that is a mistake; returns its line."""

    def run(*arguments):
        code, out, err = command(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        return err

    return run


# Keys, read from the source.


def parsed_keys():
    """Section, key and default as the classes have them, imported."""
    from importlib import import_module

    from flowbind.component import parameters

    owners = dict(SECTIONS)
    for name, entry in installed("methods").items():
        owners[f"method {name}"] = entry.value
    for section, owner in owners.items():
        module, _, name = owner.partition(":")
        cls = getattr(import_module(module), name)
        yield section, owner, parameters(cls)


def test_keys_are_those_that_the_classes_take():
    for section, owner, parameters in parsed_keys():
        keys = {
            key.name.removeprefix(f"{section}."): key for key in keys_of(section, owner)
        }
        outer = {name for name in keys if "." not in name}
        assert outer == parameters.keys() - {"folder"}, section
        for name in outer:
            default = parameters[name].default
            assert (keys[name].default is None) == (default is parameters[name].empty)
            if isinstance(default, str | int | float | None):
                written = keys[name].default
                if not isinstance(default, str):
                    written = ast.literal_eval(written)
                assert written == default, (section, name)
            assert keys[name].about, f"{section}.{name} is not explained"


def test_keys_within_configurations_are_followed():
    keys = {
        key.name: key
        for key in keys_of("model", installed("methods")["flowbind"].value)
    }
    assert keys["model.objective.times"].type == "Literal['mixture', 'both']"
    assert keys["model.objective"].is_section
    assert not keys["model.objective.times"].is_section
    # Of its base class.
    inherited = keys_of("net", "flowbind.nets.token_transformer:TokenTransformerConfig")
    assert {"net.width", "net.reading"} <= {key.name for key in inherited}


def test_what_is_no_class_is_said():
    with pytest.raises(ValueError, match="no such class"):
        keys_of("training", "flowbind.train.training:Nothing")
    with pytest.raises(ValueError, match="not installed"):
        keys_of("training", "nowhere.at_all:Nothing")


# The short help.


@pytest.mark.parametrize(
    "arguments",
    [
        ["fit", "--help"],
        ["test", "-h"],
        ["recipes"],
        ["recipes", "explain", "learning_rate"],
        ["fit", "--config", "recipes/shapes.yaml", "--help"],
    ],
    ids=" ".join,
)
def test_help_of_recipes_imports_nothing_heavy(arguments):
    code, modules = imported_by(*arguments)
    assert code == 0
    assert not modules & {"torch", "lightning", "jsonargparse", "numpy"}


def test_what_people_change_stands_first_and_is_what_there_is(command):
    _, out, _ = command("fit", "--help")
    _, groups = out.split("what people change:")
    first, _ = groups.split("the recipe:")
    names = [line.split()[0] for line in first.splitlines() if line.startswith("  --")]
    assert names == [
        "--trainer.max_steps",
        "--data.batch_size",
        "--training.learning_rate",
        "--trainer.devices",
        "--trainer.precision",
        "--trainer.default_root_dir",
    ]
    keys = {
        key.name for section in SECTIONS for key in keys_of(section, SECTIONS[section])
    }
    assert {name.removeprefix("--") for name in names} <= keys
    assert "--trainer.max_epochs" not in out


def test_all_of_lightning_s_is_behind_help_all(command):
    code, out, _ = command("fit", "--help-all")
    assert code == 0
    for option in (
        "--trainer.max_epochs",
        "--checkpoints.every",
        "--resume",
        "--training.decay",
    ):
        assert option in out


# Recipes.


def test_recipes_are_listed_with_what_they_are(command):
    code, out, _ = command("recipes")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert code == 0
    assert sorted(lines) == shipped_recipes()
    assert lines["recipes/shapes.yaml"] == (
        "The embedded world: four modalities, any to any, from pairs alone."
    )
    assert all(headline(ROOT / name) == about for name, about in lines.items())


@pytest.mark.parametrize(
    "name", ["shapes", "recipes/shapes.yaml", "flowbind/paper", "paper.yaml"]
)
def test_a_recipe_is_copied_once(name, command, mistake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = command("recipes", "copy", name)
    assert (code, err) == (0, "")
    (copy,) = tmp_path.iterdir()
    recipe = out.split("copy of ")[1].split(";")[0]
    original = (ROOT / recipe).read_text(encoding="utf-8")
    # Its first lines say how the copy is run.
    head, end, rest = original.partition("\nseed_everything")
    assert copy.read_text() == head.replace(recipe, copy.name) + end + rest
    assert f"--config {copy.name}" in copy.read_text()
    assert "there already" in mistake("recipes", "copy", name)
    assert command("recipes", "copy", name, "--out", "a/b.yaml")[0] == 0


def test_names_that_are_no_recipe_s(mistake):
    assert "did you mean 'recipes/shapes.yaml'" in mistake("recipes", "copy", "shape")
    line = mistake("recipes", "copy", "image")
    assert "codecs/image.yaml or recipes/judges/image.yaml" in line
    assert "did you mean 'copy'" in mistake("recipes", "cpoy", "shapes")


def test_a_key_is_explained(command):
    expected = [
        "training.learning_rate: a number, 1e-4 by default",
        "Rate of Adam, after warm-up",
        "recipes/shapes.yaml has 3.0e-3  # of Adam, after warm-up",
        "--training.learning_rate VALUE",
    ]
    for key in ("training.learning_rate", "learning_rate", "--training.learning_rate"):
        code, out, _ = command("recipes", "explain", key)
        assert code == 0
        assert [words for words in expected if words not in out] == []

    # A method's, with its recipes' values alone.
    _, out, _ = command("recipes", "explain", "model.init_args.objective.leave_own_out")
    assert "of flowbind: a number" in out
    assert "recipes/crossflow" not in out


def test_every_key_of_every_recipe_is_explained():
    values = all_values()
    keys = all_keys(values)
    assert [(key.name, owner) for key, owner in keys if not key.about] == []

    names = set().union(*values.values())
    assert {"seed_everything", "model.semantic", "model.class_path"} < names
    for name in names:
        assert explain(name, keys, values), name
        if name.startswith("evaluation.sampling."):
            assert explain(name, keys, values)[0].startswith(f"{name} of ")


def test_a_key_of_several_classes_is_told_once(command):
    _, out, _ = command("recipes", "explain", "semantic")
    assert out.count("model.semantic of ") == len(set(out.split("\n\n")))
    assert "CodecTraining and" in out
    # What a class says nothing of is what its base says; a constant is its value.
    _, out, _ = command("recipes", "explain", "audio")
    assert "audio.reads  " in out
    assert "audio.reads    (" not in out
    _, out, _ = command("recipes", "explain", "small-text")
    assert "all-MiniLM-L6-v2 by default" in out


def test_a_key_of_a_mapping_or_an_argument_leads_to_it(command):
    _, out, _ = command("recipes", "explain", "data.manifests.train")
    assert out.startswith("data.manifests: ")
    _, out, _ = command("recipes", "explain", "model.modalities.text.codec.encoder")
    assert "small-text.encoder" in out
    _, out, _ = command("recipes", "explain", "data.class_path")
    assert "`flowbind plugins` lists them" in out


def test_a_section_and_a_class_are_explained_by_their_keys(command):
    _, out, _ = command("recipes", "explain", "checkpoints")
    assert [line.split()[0] for line in out.splitlines()] == [
        "checkpoints.every",
        "checkpoints.minutes",
        "checkpoints.keep",
    ]
    _, out, _ = command("recipes", "explain", "small-image")
    assert "the codec small-image" in out
    assert "small-image.weights" in out


def test_a_key_that_is_none_gets_the_nearest(mistake):
    assert "did you mean 'learning_rate'" in mistake(
        "recipes", "explain", "learnin_rate"
    )
    line = mistake("recipes", "explain", "training.learnin_rate")
    assert "did you mean 'training.learning_rate'" in line


def test_values_are_those_of_the_recipes():
    """Every value as it is written, by its dotted name."""

    def leaves(prefix, node):
        for key, value in node.items():
            path = prefix if key == "init_args" else f"{prefix}.{key}".lstrip(".")
            if isinstance(value, dict) and value:
                yield from leaves(path, value)
            elif key != "init_args":
                yield path, value

    for name in shipped_recipes():
        values = values_in(ROOT / name)
        for path, value in leaves("", yaml.safe_load((ROOT / name).read_text())):
            assert yaml.safe_load(values[path].written) == value, (name, path)


def test_remarks_belong_to_the_key_beside_them(tmp_path):
    recipe = tmp_path / "a.yaml"
    recipe.write_text(
        "a: {b: 1, c: 2} # of a\nd: '#'\ne:\n  init_args:\n    f: 3 # of f\n"
    )
    assert values_in(recipe) == {
        "a": ("{b: 1, c: 2}", "of a"),
        "a.b": ("1", ""),
        "a.c": ("2", ""),
        "d": ("'#'", ""),
        "e.f": ("3", "of f"),
    }
