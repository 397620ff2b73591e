"""The recipe that `flowbind prepare folder` writes: it names what was found, and runs as it is."""

import re
import shutil
from collections import Counter
from pathlib import Path

import PIL.Image
import pytest
import yaml

from flowbind.cli.check import load_yaml
from flowbind.data.first_recipe import (
    FEWEST_STEPS,
    MOST_STEPS,
    RECIPE,
    steps_for,
    write_recipe,
)
from flowbind.registry import load
from tests.toy import Vector, Word, write_world

ROOT = Path(__file__).parents[1]
TOYS = {"word": Word, "vector": Vector}
BOTH = ("vector", "word")


@pytest.fixture
def written(tmp_path, toys, monkeypatch, capsys):
    """Writes a recipe for kinds of samples. Returns it, its first lines, and what was said."""
    monkeypatch.chdir(tmp_path)

    def write(name="data/mine", **kinds):
        out = Path(f"{name}.partial")
        out.mkdir(parents=True)
        write_recipe(
            out.absolute(), {split: Counter(own) for split, own in kinds.items()}, TOYS
        )
        told = capsys.readouterr().err
        if not (out / RECIPE).is_file():
            return None, "", told
        content = (out / RECIPE).read_text()
        head = [line for line in content.splitlines() if line.startswith("#")]
        return load_yaml(content), "\n".join(head), told

    return write


def test_it_names_what_was_found(written):
    recipe, head, told = written(
        train={BOTH: 300, ("word",): 7}, val={BOTH: 30}, test={BOTH: 5}
    )
    assert [*recipe["model"]["init_args"]["modalities"]] == ["vector", "word"]
    data = recipe["data"]["init_args"]
    assert data["manifests"] == {
        split: f"data/mine/{split}.jsonl" for split in ("train", "val", "test")
    }
    assert (data["store"], data["batch_size"]) == ("data/mine/latents", 256)
    assert recipe["trainer"]["default_root_dir"] == "runs/mine"
    assert recipe["evaluation"]["gallery"] == 5
    assert "# \n" not in head
    assert "train: 307 samples (300 vector+word, 7 word)" in head
    for verb in ("encode", "fit   ", "test  "):
        assert f"#   flowbind {verb} --config data/mine/recipe.yaml" in head
    assert "data/mine/recipe.yaml: a recipe for vector, word" in told


def test_of_the_documentation_s_digits_it_is_the_recipe_that_ships(
    tmp_path, monkeypatch
):
    """With the comments turned into keys, as docs/your-own-files.md does it."""
    monkeypatch.chdir(tmp_path)
    out = Path("data/digits.partial")
    out.mkdir(parents=True)
    every = ("audio", "image", "text")
    kinds = {
        "train": Counter({("audio", "text"): 1400, ("image", "text"): 1397}),
        "val": Counter({every: 100}),
        "test": Counter({every: 300}),
    }
    write_recipe(
        out.absolute(), kinds, {name: load("modalities", name) for name in every}
    )
    written = yaml.safe_load(
        re.sub(
            "# (init_args:|judges:|- {class_path)", r"\1", (out / RECIPE).read_text()
        )
    )
    assert written == yaml.safe_load((ROOT / "recipes/digits.yaml").read_text())


def test_splits_that_are_not_there_are_not_named(written):
    recipe, head, _ = written(train={BOTH: 20})
    assert recipe["data"]["init_args"]["manifests"] == {
        "train": "data/mine/train.jsonl"
    }
    assert "flowbind test " not in head
    assert "`flowbind test` needs test samples that have every modality" in head


def test_of_what_is_not_there_to_train_on_nothing_is_said(written):
    recipe, head, _ = written(
        train={("vector",): 9, ("word",): 9}, test={("vector", "other"): 3}
    )
    assert [*recipe["model"]["init_args"]["modalities"]] == ["vector", "word"]
    assert "flowbind test " not in head


@pytest.mark.parametrize(
    "kinds", [{"train": {("word",): 9}}, {"test": {BOTH: 9}}, {"train": {}}]
)
def test_one_modality_makes_no_recipe_and_a_line_says_so(kinds, written):
    recipe, _, told = written(**kinds)
    assert recipe is None
    assert (
        "a model ties two modalities or more together, so no recipe is written" in told
    )


@pytest.mark.parametrize(
    "name", ["a folder: 'mine' #1", "-x/17", "ünï/日本", "1.5", "no", 'quo"te']
)
def test_whatever_the_folder_is_called(name, written):
    recipe, _, _ = written(name=name, train={BOTH: 20})
    assert recipe["data"]["init_args"]["manifests"] == {"train": f"{name}/train.jsonl"}
    assert recipe["trainer"]["default_root_dir"] == f"runs/{Path(name).name}"


def test_a_folder_elsewhere_is_named_from_the_root(tmp_path, written):
    recipe, _, _ = written(
        name=str(tmp_path.parent / f"{tmp_path.name}-else/mine"), train={BOTH: 20}
    )
    assert (
        recipe["data"]["init_args"]["store"]
        == f"{tmp_path.parent}/{tmp_path.name}-else/mine/latents"
    )


def test_steps_grow_with_the_samples():
    assert steps_for(2797) == 1000  # what docs/your-own-files.md takes
    numbers = [steps_for(samples) for samples in (1, 10, 1000, 5000, 10**4, 10**6)]
    assert numbers == sorted(numbers)
    assert (numbers[0], numbers[-1]) == (FEWEST_STEPS, MOST_STEPS)
    assert all(number % 50 == 0 for number in numbers)


def test_it_runs_as_it_is(tmp_path, toys, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_world(tmp_path / "files", samples=64)
    recipe = "data/mine/recipe.yaml"
    assert (
        command("prepare", "folder", "--source", "files", "--out", "data/mine")[0] == 0
    )
    for arguments in (
        ["encode", "--config", recipe],
        [
            "fit",
            "--config",
            recipe,
            "--trainer.max_steps=2",
            "--trainer.val_check_interval=2",
        ],
        ["validate", "--config", recipe],
    ):
        code, _, err = command(*arguments)
        assert code == 0, err
    assert Path("runs/mine/model/model.json").is_file()


def test_a_modality_that_no_sample_has_is_to_be_taken_out(
    tmp_path, toys, command, monkeypatch
):
    """Neither verb sends to the other for ever."""
    monkeypatch.chdir(tmp_path)
    write_world(tmp_path / "files", samples=64)
    for path in Path("files/train").glob("*.vec"):
        path.unlink()
    assert command("prepare", "folder", "--source", "files", "--out", "data")[0] == 0
    shutil.copytree("files/val", "more/train")
    assert command("prepare", "folder", "--source", "more", "--out", "other")[0] == 0
    recipe = yaml.safe_load(Path("other/recipe.yaml").read_text())
    recipe["data"]["init_args"] |= {
        "manifests": {"train": "data/train.jsonl"},
        "store": "data/latents",
    }
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))

    told = "data/train.jsonl: no sample has 'vector'; take that out of model.modalities in the recipe"
    for _ in range(2):
        code, _, err = command("encode", "--config", "recipe.yaml")
        assert (code, told in err) == (0, True), err
        code, _, err = command("fit", "--config", "recipe.yaml")
        assert (code, err.startswith(f"flowbind: {told}")) == (2, True), err


@pytest.mark.slow
def test_captions_and_pictures_alone(tmp_path, command, monkeypatch):
    """As somebody would who has these two and nothing else."""
    monkeypatch.chdir(tmp_path)
    Path("files").mkdir()
    for number in range(40):
        PIL.Image.new("RGB", (70, 50), (6 * number, 0, 255 - 6 * number)).save(
            f"files/{number}.png"
        )
        Path(f"files/{number}.txt").write_text(f"colour number {number}")
    recipe = "data/mine/recipe.yaml"
    code, _, err = command(
        "prepare", "folder", "--source", "files", "--out", "data/mine"
    )
    assert (code, "a recipe for image, text" in err) == (0, True), err
    code, _, err = command("encode", "--config", recipe)
    assert code == 0, err
    assert "'image': the codec SmallImage was made for other samples than these" in err
    for verb in ("fit", "test"):
        code, _, err = command(verb, "--config", recipe)
        assert code == 0, err
    code, out, err = command(
        "generate",
        "runs/mine/model",
        "--from",
        "text=colour number 3",
        "--to",
        "image",
        "--out",
        "made",
    )
    assert (code, out) == (0, "made/colour-number-3.image.png\n"), err
