"""Standard metrics over an evaluation: what they judge, what they compare with, and what is kept."""

import json
from functools import partial
from itertools import product

import pytest
import torch
import yaml

from flowbind import LatentStore, Manifest
from flowbind.evaluation.metric_suite import MetricSuite
from flowbind.metric import counted
from flowbind.metrics.probe import fit_probe
from tests.toy import RECIPE, DigitError, Vector, Word, WordMatch

WAYS = {
    "word->vector": (("word",), "vector"),
    "vector->word": (("vector",), "word"),
    "vector->vector": (("vector",), "vector"),
}


@pytest.fixture
def judged(world, command):
    """Makes a MetricSuite of the toy world's test samples."""
    assert (
        command("encode", "--config", world / "recipe.yaml", "--split", "test")[0] == 0
    )
    modalities = {"word": Word(), "vector": Vector()}

    def make(*metrics, rows=20):
        manifest = Manifest.read(world / "data/test.jsonl", ["word", "vector"])
        store = LatentStore(world / "data/latents/test")
        return MetricSuite(
            metrics, modalities, WAYS, manifest, torch.arange(rows), store
        )

    return make


def walk(judging, add=0.5):
    """Real vectors and something added, in two steps; returns the figures."""
    for rows in torch.arange(20).split(12):
        judging.update_real(rows)
        raws = [vector + add for vector in judging._raws("vector", rows)]
        for way in WAYS:
            judging.update(way, WAYS[way][1], raws, rows)
    return judging.compute(lambda tensor, sample: tensor, keep=True)


def test_a_metric_judges_its_modality_against_the_real_one_or_a_source(judged):
    found = walk(judged(DigitError(), DigitError("word")))
    assert found["vector->vector"] == {
        "digit-error[toy,vector,n=20]": pytest.approx(0.5)
    }
    assert found["word->vector"].keys() == {
        "digit-error[toy,vector,n=20]",
        "digit-error[toy,word,n=20]",
    }
    # Vectors are noisy digits.
    assert found["word->vector"]["digit-error[toy,word,n=20]"] == pytest.approx(
        0.5, abs=0.1
    )
    assert "vector->word" not in found


def test_features_of_real_samples_are_computed_once(judged, monkeypatch, world):
    first = walk(judged(DigitError()))
    asked = []
    monkeypatch.setattr(
        Vector, "read", lambda self, source: asked.append(source) or torch.zeros(3)
    )
    again = judged(DigitError())
    again.update_real(torch.arange(20))
    assert len(asked) == 1  # the one that tells the shape of what is generated
    assert torch.equal(again.real[0, "vector"], first_real(world))
    assert judged(DigitError(), rows=19).stored == set()
    assert first["vector->vector"]


def first_real(world):
    manifest = Manifest.read(world / "data/test.jsonl", ["word", "vector"])
    lines = [
        (world / "data" / sample.values["vector"]).resolve().read_text()
        for sample in manifest.samples[:20]
    ]
    return torch.tensor([[float(number) for number in line.split()] for line in lines])


def refer(world, split="test"):
    """Gives words of a manifest no, one and three references in turn; returns all that count for each sample."""
    path = world / f"data/{split}.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    expected = []
    for number, line in enumerate(lines):
        own = line["word"] = (
            world / "data" / line["word"]
        ).read_text()  # a literal may stand for itself
        given, every = [
            ([], [own]),
            (["000"], [own, "000"]),
            (["111", own, "222"], [own, "111", "222"]),
        ][number % 3]
        if given:
            line["references"] = {"word": given}
        expected.append(every)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return expected


def test_a_metric_of_several_references_sees_them_all(judged, world):
    expected = refer(world)
    judging = judged(WordMatch())
    for rows in (torch.arange(12, 20), torch.arange(12)):
        judging.update_real(rows)
        judging.update("vector->word", "word", ["000"] * len(rows), rows)
    words = ["".join(map(str, row)) for row in judging.real[0, "word"].int().tolist()]
    assert words == [word for every in expected[:20] for word in every]
    figures = judging.compute(lambda tensor, sample: tensor, keep=True)["vector->word"]
    share = sum("000" in every for every in expected[:20]) / 20
    assert figures == {"word-match[toy,n=20]": pytest.approx(share)}
    assert judged(WordMatch()).stored


def test_other_latents_are_other_samples(judged, world):
    walk(judged(DigitError()))
    path = world / "data/latents/test/manifest.json"
    path.write_text(path.read_text() + "\n")
    assert judged(DigitError()).stored == set()


def test_too_few_samples_are_refused(judged):
    with pytest.raises(
        ValueError, match="DigitError needs at least 2 test samples, there are 1"
    ):
        judged(DigitError(), rows=1)


def test_a_metric_that_judges_nothing_is_told_and_one_of_nothing_refused(
    judged, capsys
):
    bystander = DigitError()
    bystander.judges = bystander.against = "image"  # installed, and none of the model's
    assert not judged(bystander, rows=1).against
    said = "DigitError judges nothing here: nothing is generated in 'image'\n"
    assert said in capsys.readouterr().err
    bystander.judges = "vectr"
    with pytest.raises(ValueError, match="no modality 'vectr'; did you mean 'vector'"):
        judged(bystander)


def test_a_metric_without_arguments_has_a_fingerprint():
    class Plain(DigitError):
        __init__ = object.__init__
        against = "vector"

    assert Plain().fingerprint() == {"metric": "Plain", "version": 1}


def test_a_figure_s_name_counts_its_samples():
    assert counted("fid[torch-fidelity]", 9) == "fid[torch-fidelity,n=9]"
    assert counted("loss", 9) == "loss[n=9]"


def test_from_the_recipe_to_the_report(world, command, monkeypatch):
    # What they read is not looked at.
    monkeypatch.setattr(
        "flowbind.evaluation.evaluation.fit_probe", partial(fit_probe, steps=20)
    )
    recipe = yaml.safe_load(
        RECIPE.format(data=world / "data", run=world / "run", steps=20)
    )
    metric = {"class_path": "digit-error", "init_args": {"against": "word"}}
    recipe["evaluation"] = {
        "gallery": 0,
        "repeats": 2,
        "sampling": {"variety": 0.0},
        "between": ["vector", "word"],
        "metrics": [metric, {"class_path": "word-match"}],
    }
    every = {"word": ["".join(digits) for digits in product("0123", repeat=3)]}
    path = world / "data/test.jsonl"
    lines = [
        json.loads(line) | {"references": every}
        for line in path.read_text().splitlines()
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (world / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    for verb in ("encode", "fit", "test"):
        code, out, err = command(verb, "--config", world / "recipe.yaml")
        assert code == 0, err
    assert "digit-error" in out
    results = json.loads((world / "run/metrics.json").read_text())
    assert results["directions"]["word->vector"]["digit-error[toy,word,n=128]"] > 0
    # Whatever it says is a reference.
    assert results["directions"]["vector->word"]["word-match[toy,n=128]"] == 1
    assert results["meta"]["repeats"] == 2
    # Without variety nothing in this world is drawn.
    assert set(results["spread"]["word->vector"].values()) == {0.0}
    assert results["meta"]["metrics"][0] == {
        "metric": "DigitError",
        "version": 1,
        "against": "word",
    }

    table = {
        "title": "As published",
        "columns": [
            {
                "direction": "word->vector",
                "measure": "error",
                "ours": "digit-error[",
                "scale": 10,
            }
        ],
        "rows": [{"name": "somebody", "values": [7.125]}],
    }
    (world / "published.json").write_text(json.dumps([table]))
    options = (
        "--config",
        world / "recipe.yaml",
        f"--evaluation.published={world}/published.json",
    )
    assert command("test", *options)[0] == 0
    report = (world / "run/metrics.md").read_text()
    ours = results["directions"]["word->vector"]["digit-error[toy,word,n=128]"]
    assert "|  | word->vector error |" in report
    assert "| somebody | 7.12 |" in report
    assert f"| this run | {10 * ours:.2f} |" in report
    (world / "published.json").write_text(
        json.dumps([table | {"rows": [{"name": "somebody", "values": []}]}])
    )
    code, _, err = command("test", *options)
    assert (code, "published.json: not a file of published figures" in err) == (
        2,
        True,
    ), err

    metric["init_args"] = {"aganst": "word"}
    (world / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    code, _, err = command("test", "--config", world / "recipe.yaml")
    assert (code, "did you mean 'against'" in err) == (2, True), err
