"""Small and lopsided data: said in a line before work begins, and figures left out where they would tell nothing."""

import re
from dataclasses import replace

import pytest
import torch

from flowbind.data.manifest import Manifest
from flowbind.data.shard import LINE, write_shard
from flowbind.data.store import LatentStore, finish_store
from flowbind.train.training import tell_of_untied
from tests.test_evaluation import CONFIG, TEST, TRAIN, evaluate, make_model, make_world
from tests.toy import RECIPE, write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"), labelled=True)


def relabelled(world, split, labels_of):
    """A world whose samples have other labels: those that `labels_of` makes of a sample's number and its own."""
    store, manifest = world[split]
    samples = [
        replace(sample, labels=labels_of(line, sample.labels))
        for line, sample in enumerate(manifest.samples)
    ]
    return world | {split: (store, Manifest(manifest.path, samples))}


def without(factor, labels):
    return {key: value for key, value in labels.items() if key != factor}


# Training samples are ant+bee, then bee+cat; test samples have all three.
CASES = {
    "one labelled sample of a modality": (
        "train",
        lambda line, own: own if line <= TRAIN else without("size", own),
        ["colour"],
        r"label 'size' is not measured: 1 training samples with 'cat' have it, with 1 values; at least 2 are needed",
    ),
    "one value alone": (
        "train",
        lambda line, own: own | {"size": "large"},
        ["colour"],
        rf"label 'size' is not measured: {TRAIN} training samples with 'ant' have it, with 1 values",
    ),
    "values of the test that training never saw": (
        "test",
        lambda line, own: own | {"size": "huge"},
        ["colour"],
        r"label 'size' is not measured: 0 test samples have a value of it that training has, 2 are needed; theirs are huge, those of training large, small",
    ),
    "a factor of the test alone": (
        "test",
        lambda line, own: own | {"smell": "sweet"},
        ["colour", "size"],
        r"label 'smell' is not measured: no training sample has it",
    ),
    "a factor that no test sample has": (
        "test",
        lambda line, own: without("size", own),
        ["colour"],
        r"label 'size' is not measured: 0 test samples have a value of it that training has, 2 are needed$",
    ),
    "labels of one modality alone": (
        "train",
        lambda line, own: own if line < TRAIN else {},
        [],
        r"label 'colour' is not measured: 0 training samples with 'cat' have it, with 0 values",
    ),
    "no label in the test": (
        "test",
        lambda line, own: {},
        [],
        r"label 'colour' is not measured: 0 test samples have a value of it",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_factors_that_would_tell_nothing_are_left_out(world, case, capsys, monkeypatch):
    """Nowhere a figure of 0 that means something else, and the rest is as it was."""
    monkeypatch.setattr(
        "flowbind.evaluation.evaluation.fit_probe",
        lambda x, labels, classes, seed: lambda x: labels[: len(x)],
    )
    split, labels_of, measured, remark = CASES[case]
    evaluation, results = evaluate(relabelled(world, split, labels_of), config=CONFIG)
    said = capsys.readouterr().err
    assert re.search(remark, said, re.MULTILINE), said
    assert list(evaluation.values) == measured
    assert evaluation.count == TEST
    expected = {*measured, "joint"} if measured else set()
    for figures in results["directions"].values():
        assert {
            key.split("/")[1].split("[")[0]
            for key in figures
            if key.startswith("accuracy/")
        } == expected
        assert any(key.startswith("frechet[") for key in figures)
    assert bool(results["probes"]) == bool(measured)


def test_test_samples_with_values_that_training_never_saw_are_left_out(world, capsys):
    """They are no samples that a probe reads wrongly."""
    changed = relabelled(
        world, "test", lambda line, own: own | ({"size": "huge"} if line < 3 else {})
    )
    changed = relabelled(
        changed, "test", lambda line, own: without("size", own) if line == 3 else own
    )
    evaluation, results = evaluate(changed)
    said = capsys.readouterr().err
    assert (
        f"3 of {TEST} test samples are left out, for no training sample has their 'size' (huge)"
        in said
    )
    assert (
        f"1 of {TEST} test samples are left out, for they have no label 'size'" in said
    )
    assert evaluation.count == TEST - 4
    assert results["directions"]["ant->bee"][f"accuracy/size[probe,n={TEST - 4}]"] == 1


def test_remarks_are_made_once(world, capsys):
    from flowbind.evaluation.evaluation import Evaluation

    for repeat in range(3):
        Evaluation(
            make_model(),
            *world["train"],
            *relabelled(world, "test", lambda *_: {})["test"],
            CONFIG,
            repeat,
        )
    assert capsys.readouterr().err.count("label 'colour' is not measured") == 1


@pytest.fixture
def store(tmp_path):
    """A store whose strata have these modalities."""

    def write(*strata):
        groups = []
        for number, names in enumerate(strata):
            tensors = {name: torch.ones(2, 3) for name in names}
            write_shard(
                tmp_path / f"{number}.safetensors",
                tensors | {LINE: torch.arange(2)},
                {},
            )
            groups.append((names, [f"{number}.safetensors"]))
        prints = {name: {"codec": "A"} for names in strata for name in names}
        return finish_store(tmp_path, groups, prints, "train.jsonl", "s")

    return write


@pytest.mark.parametrize(
    ("strata", "tied", "groups"),
    [
        (["ab", "bc"], "", ["abcd"[:3], "d"]),
        (["ab", "cd"], "", ["ab", "cd"]),
        (["ab", "cd", "bd"], "", ["abcd"]),
        (["a", "b", "c", "d"], "", ["a", "b", "c", "d"]),
        (["ad", "b"], "", ["ad", "b", "c"]),
        (["cd"], "abc", ["abcd"]),
        (["d"], "abc", ["abc", "d"]),
    ],
)
def test_chains_of_samples_tie_modalities(store, strata, tied, groups, capsys):
    made = store(*strata).tied_groups("abcd", tied)
    assert ["".join(group) for group in made] == groups
    tell_of_untied(made, "train.jsonl")
    said = capsys.readouterr().err
    assert said.count("no chain of samples leads from") == (len(groups) > 1)
    assert (
        len(groups) == 1
        or f"from {' to '.join(', '.join(group) for group in groups)}: what is generated"
        in said
    )


def test_untied_modalities_are_told_before_training_and_testing(
    tmp_path, toys, command
):
    write_world(tmp_path / "files", samples=16)
    for number, path in enumerate(sorted((tmp_path / "files/train").iterdir())):
        if number // 2 % 2 == (path.suffix == ".vec"):
            path.unlink()  # half of the samples are words alone, the others vectors
    arguments = [
        "--source",
        tmp_path / "files",
        "--out",
        tmp_path / "data",
        "--labels",
        tmp_path / "files/labels.csv",
    ]
    assert command("prepare", "folder", *arguments)[0] == 0
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        RECIPE.format(data=tmp_path / "data", run=tmp_path / "run", steps=2)
    )
    assert command("encode", "--config", recipe)[0] == 0
    for verb in ("fit", "test"):
        code, _, said = command(verb, "--config", recipe)
        assert code == 0, said
        remark = said.index("no chain of samples leads from word to vector")
        assert remark < said.index({"fit": "fit:", "test": "generating"}[verb])


def test_a_modality_that_no_sample_has_is_no_old_store(store):
    with pytest.raises(
        ValueError,
        match=r"has no 'b', only a; run `flowbind encode` .* or leave 'b' out of it if no sample of train\.jsonl has it",
    ):
        store("a").check({"b": {"codec": "A"}})


def test_one_sample_trains(tmp_path, toys, command):
    """A run of one pair: every feature is constant, every epoch one step."""
    write_world(tmp_path / "files", samples=1)
    for split in ("val", "test"):
        (tmp_path / "files" / split).mkdir(exist_ok=True)
        for suffix in (".word", ".vec"):
            (tmp_path / f"files/{split}/x{suffix}").write_text(
                {".word": "123", ".vec": "1 2 3"}[suffix]
            )
    assert (
        command(
            "prepare",
            "folder",
            "--source",
            tmp_path / "files",
            "--out",
            tmp_path / "data",
        )[0]
        == 0
    )
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        RECIPE.format(data=tmp_path / "data", run=tmp_path / "run", steps=3)
    )
    for verb in ("encode", "fit"):
        code, _, said = command(verb, "--config", recipe)
        assert code == 0, said
    code, _, said = command("test", "--config", recipe)
    assert (code, "1 samples have all of word, vector" in said.splitlines()[-1]) == (
        2,
        True,
    ), said
    assert all(
        tensor.isfinite().all()
        for tensor in LatentStore(tmp_path / "data/latents/train")
        .gather(0, torch.arange(1).numpy())
        .values()
    )
