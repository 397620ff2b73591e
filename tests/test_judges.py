"""Judges: what they read, how they are trained, and what a report says of them."""

import json
import shutil

import pytest
import torch
import yaml

from flowbind import Manifest
from flowbind.cli import main
from flowbind.evaluation import report
from flowbind.evaluation.judging import difference
from flowbind.evaluation.verdicts import differs, joint_accuracy, lowest_class
from tests.conftest import register_toys
from tests.toy import RECIPE, VectorJudge

# The toy world, whole


def judge_recipe(folder, data):
    """The recipe of a judge that a run in a folder trains on the toy world."""
    return {
        "seed_everything": 0,
        "model": {
            "class_path": "flowbind.train.judge.JudgeTraining",
            "init_args": {
                "judge": {"class_path": "vector-judge"},
                "export": str(folder / "judge.safetensors"),
                "learning_rate": 0.02,
            },
        },
        "data": {
            "class_path": "flowbind.data.raw.RawDataModule",
            "init_args": {
                "modality": {"class_path": "vector"},
                "train": str(data / "train.jsonl"),
                "val": str(data / "val.jsonl"),
                "batch_size": 64,
            },
        },
        "trainer": {
            "default_root_dir": str(folder / "judge"),
            "accelerator": "cpu",
            "max_steps": 200,
            "val_check_interval": 100,
            "check_val_every_n_epoch": None,
        },
    }


@pytest.fixture(scope="module")
def trained_judge(tmp_path_factory, prepared):
    """A folder with a judge trained by the command line and its run, to be copied."""
    folder = tmp_path_factory.mktemp("judge")
    recipe = judge_recipe(folder, prepared / "data")
    (folder / "judge.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.MonkeyPatch.context() as monkeypatch:
        register_toys(monkeypatch)
        main(["fit", "--config", str(folder / "judge.yaml")])
    return folder


@pytest.fixture
def judged(world, encoded, trained_judge):
    """The toy world with a judge; returns where its weights are."""
    shutil.copytree(trained_judge, world, dirs_exist_ok=True)
    return world / "judge.safetensors"


def test_from_labels_to_the_report(judged, world, command):
    told = json.loads(judged.with_suffix(".json").read_text())
    assert told["classes"]["first"] == ["0", "1", "2", "3"]
    assert told["accuracy"]["joint"] > 0.95
    assert told["samples"] == 128

    recipe = yaml.safe_load(
        RECIPE.format(data=world / "data", run=world / "run", steps=60)
    )
    judge = {"class_path": "vector-judge", "init_args": {"weights": str(judged)}}
    recipe["evaluation"] = {
        "gallery": 0,
        "repeats": 2,
        "judges": [judge, {"class_path": "word-reader"}],
    }
    (world / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    for verb in ("fit", "test"):
        code, out, err = command(verb, "--config", world / "recipe.yaml")
        assert code == 0, err
    results = json.loads((world / "run/metrics.json").read_text())
    label = VectorJudge(str(judged)).label

    way = results["directions"]["word->vector"]
    joint = way[f"accuracy/joint[judge,{label},n=128]"]
    assert way[f"accuracy/first[judge,{label},n=128]"] >= joint
    assert results["judges"]["vector"][f"accuracy/joint[judge,{label},n=128]"] > 0.9
    assert results["judges"]["word"]["accuracy/joint[judge,WordReader,v1,n=128]"] == 1

    # The mean over a factor's classes, each by its samples, is the whole.
    manifest = Manifest.read(world / "data/test.jsonl", ["word", "vector"])
    shares = results["classes"]["word->vector"]["second"]
    counts = [s.labels["second"] for s in manifest.samples]
    mean = sum(share * counts.count(value) for value, share in shares.items()) / 128
    assert mean == pytest.approx(joint)

    by_judges = results["summary"]["paired"]["judges"]
    assert by_judges["lowest_joint_accuracy"] == min(
        joint_accuracy(results["directions"][name], "judge")
        for name in ("word->vector", "vector->word")
    )
    assert by_judges["lowest_class_accuracy"] <= by_judges["lowest_joint_accuracy"]
    codec = results["codecs"]["word"]
    assert codec["accuracy/joint[judge,WordReader,v1,n=128]"] == 1
    told = {each["modality"]: each for each in results["meta"]["judges"]}
    assert told["vector"]["weights"].startswith(label.partition(",")[2])

    written = (world / "run/metrics.md").read_text()
    assert "| lowest by judges | in | lowest class | of | in | lowest by probes |" in (
        written
    )
    assert "| direction | judges | real | lowest class | of | differ | probes |" in (
        written
    )
    assert f"- judge of vector: {label}, weights {told['vector']['weights']}" in written
    assert "lowest by judges" in out

    # One may stand alone, and is named by its registered name.
    option = "--evaluation.judges=word-reader"
    code, _, err = command("test", "--config", world / "recipe.yaml", option)
    assert code == 0, err
    assert (world / "run/metrics-judges=WordReader.json").is_file()


def test_judges_read_the_same_whatever_the_precision(judged, world, command):
    recipe = yaml.safe_load(
        RECIPE.format(data=world / "data", run=world / "run", steps=4)
    )
    judge = {"class_path": "vector-judge", "init_args": {"weights": str(judged)}}
    recipe["evaluation"] = {"gallery": 0, "limit": 32, "judges": [judge]}
    recipe["trainer"]["precision"] = "bf16-mixed"
    (world / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    code, _, err = command("fit", "--config", world / "recipe.yaml")
    assert code == 0, err

    read = []
    for precision in ("bf16-mixed", "32-true"):
        for kept in world.rglob("features"):  # of real samples
            shutil.rmtree(kept)
        option = f"--trainer.precision={precision}"
        code, _, err = command("test", "--config", world / "recipe.yaml", option)
        assert code == 0, err
        results = json.loads((world / "run/metrics.json").read_text())
        read.append(
            {name: results[name] for name in ("judges", "directions", "floors")}
        )
    assert read[0] == read[1]


def test_a_run_s_checkpoint_gives_the_weights_with_their_classes(
    judged, world, command
):
    out = world / "again.safetensors"
    code, _, err = command("export", world / "judge", "--out", out)
    assert code == 0, err
    again, first = VectorJudge(str(out)), VectorJudge(str(judged))
    assert again.classes == first.classes
    assert again.label == first.label


def test_what_does_not_fit_is_told_in_a_line(judged, world, command):
    recipe = yaml.safe_load((world / "recipe.yaml").read_text())
    recipe["trainer"]["max_steps"] = recipe["trainer"]["val_check_interval"] = 2

    def refusal(judges, **more):
        recipe["evaluation"] = {"gallery": 0, "judges": judges} | more
        (world / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        code, _, err = command("test", "--config", world / "recipe.yaml")
        assert (code, "Traceback" in err) == (2, False), err
        return err.strip().splitlines()[-1]

    def by(weights):
        return {"class_path": "vector-judge", "init_args": {"weights": str(weights)}}

    code, _, err = command("fit", "--config", world / "recipe.yaml")
    assert code == 0, err

    assert "comes without weights" in refusal([{"class_path": "vector-judge"}])
    assert "both judge 'vector'" in refusal([by(judged), by(judged)])
    assert "WordReader is a judge" in refusal([], metrics={"class_path": "word-reader"})

    told = judged.with_suffix(".json")
    content = json.loads(told.read_text())
    fewer = {"first": content["classes"]["first"][:3]}
    told.write_text(json.dumps({"classes": content["classes"] | fewer}))
    assert "knows no 'first' 3;" in refusal([by(judged)])
    told.write_text(json.dumps({"classes": {"fourth": ["a", "b"]}}))
    assert "reads fourth, and not 'first', which is labelled" in refusal([by(judged)])
    more = {"fourth": ["a", "b"]}
    told.write_text(json.dumps({"classes": content["classes"] | more}))
    assert "not weights of the judge VectorJudge" in refusal([by(judged)])
    for odd in ("[]", '{"classes": {"first": []}}', '{"classes": {"first": [1]}}'):
        told.write_text(odd)
        assert "has no `classes` of the judge VectorJudge" in refusal([by(judged)])
    told.write_text(json.dumps(content))
    judged.write_bytes(b"no weights")
    assert "not weights of the judge VectorJudge" in refusal([by(judged)])
    judged.unlink()
    assert "recipes/judges" in refusal([by(judged)])


def test_no_judge_is_trained_without_labels(world, command):
    for split in ("train", "val"):
        path = world / f"data/{split}.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            del line["labels"]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = judge_recipe(world, world / "data")
    (world / "judge.yaml").write_text(yaml.safe_dump(recipe))
    code, _, err = command("fit", "--config", world / "judge.yaml")
    assert (code, "no sample has labels" in err, "Traceback" in err) == (
        2,
        True,
        False,
    ), err


# What a report says


def right(count, of=100):
    """Which of samples with one factor are read rightly: the first ones."""
    return (torch.arange(of) < count)[:, None]


def test_two_shares_differ_beyond_two_errors_of_their_paired_difference():
    def told(judge, probe):
        return difference(right(judge), right(probe))

    name = "difference/{}[judge-probe,n=100]".format
    assert told(90, 100)[name("joint")] == pytest.approx(-0.1)
    assert told(90, 100)[name("error")] == pytest.approx(2 * 10**0.5 / 100)
    for judge, probe, apart in (
        (100, 100, False),
        (96, 100, False),  # four samples may be chance
        (95, 100, True),
        (100, 95, True),
    ):
        assert differs(told(judge, probe)) is apart

    # As often right, on other samples.
    other = right(50).flip(0)
    assert difference(right(50), other)[name("joint")] == 0
    assert not differs(difference(right(50), other))
    assert not differs({})


def test_the_lowest_class_is_that_of_any_factor():
    table = {"colour": {"red": 0.9, "blue": 1.0}, "shape": {"cube": 0.8, "cone": 0.85}}
    assert lowest_class(table) == (0.8, "cube")


def test_the_summary_leads_with_the_judges():
    def direction(sources, target, probe, judge):
        return {
            "sources": sources,
            "target": target,
            "paired": True,
            "accuracy/joint[judge,Some,v1,n=9]": judge,
            "accuracy/joint[probe,n=9]": probe,
        }

    directions = {
        "a->b": direction(["a"], "b", 0.9, 0.8),
        "b->a": direction(["b"], "a", 0.8, 0.9),
    }
    classes = {"a->b": {"f": {"x": 0.75, "y": 0.85}}, "b->a": {"f": {"x": 0.7}}}
    summary = report.summarise(directions, classes)["paired"]
    assert summary["in"] == "b->a"
    assert summary["judges"] == {
        "directions": 2,
        "lowest_joint_accuracy": 0.8,
        "in": "a->b",
        "lowest_class_accuracy": 0.7,
        "class": "x",
        "class_in": "b->a",
    }


def test_without_labels_a_judge_reads_nothing(world, command):
    for split in ("train", "val", "test"):
        path = world / f"data/{split}.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            del line["labels"]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = yaml.safe_load(
        RECIPE.format(data=world / "data", run=world / "run", steps=2)
    )
    recipe["evaluation"] = {"gallery": 0, "judges": {"class_path": "word-reader"}}
    (world / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    for verb in ("encode", "fit", "test"):
        code, _, err = command(verb, "--config", world / "recipe.yaml")
        assert code == 0, err

    results = json.loads((world / "run/metrics.json").read_text())
    assert results["judges"] == results["classes"] == {}
    assert not [key for key in results["directions"]["vector->word"] if "/" in key]
    assert results["meta"]["judges"][0]["label"] == "WordReader,v1"
    assert "judges" not in (world / "run/metrics.md").read_text().split("##")[1]
