"""Joining prepared datasets: every sample once, its files found from where the new manifest lies."""

import json

import pytest
import torch

from flowbind import Manifest
from flowbind.cli.prepared import prepare_into
from flowbind.data.join import prepare
from tests.toy import Vector, Word


@pytest.fixture
def two(tmp_path):
    for folder, digit in (("deep/one", "1"), ("two", "2")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.vec").write_text(f"{digit} {digit} {digit}")
        sample = {
            "id": "a",
            "word": digit * 3,
            "vector": "a.vec",
            "labels": {"digit": digit},
        }
        sample["references"] = {"word": ["777"], "vector": ["b.vec"]}
        (tmp_path / folder / "b.vec").write_text("7 7 7")
        (tmp_path / folder / "train.jsonl").write_text(json.dumps(sample) + "\n")
    (tmp_path / "two/test.jsonl").write_text('{"word": "333"}\n')
    return tmp_path


def test_samples_and_files_are_all_there(two, toys, monkeypatch):
    monkeypatch.setattr("flowbind.data.join.installed", lambda kind: ["word", "vector"])
    options = {"sources": f"{two}/deep/one,{two}/two", "splits": "train,val,test"}
    prepare_into(two / "both", "join", prepare, options)
    manifest = Manifest.read(two / "both/train.jsonl", ["word", "vector"])
    assert [sample.id for sample in manifest.samples] == ["one/a", "two/a"]
    assert [sample.labels for sample in manifest.samples] == [
        {"digit": "1"},
        {"digit": "2"},
    ]
    vectors = [
        manifest.read_raw(sample, "vector", Vector()).tolist()
        for sample in manifest.samples
    ]
    assert vectors == [[1, 1, 1], [2, 2, 2]]
    assert [
        manifest.read_raw(sample, "word", Word()) for sample in manifest.samples
    ] == [
        "111",
        "222",
    ]
    references = [
        manifest.read_references(sample, "word", Word()) for sample in manifest.samples
    ]
    assert references == [["111", "777"], ["222", "777"]]
    vectors = manifest.read_references(manifest.samples[0], "vector", Vector())
    assert torch.stack(vectors).tolist() == [[1, 1, 1], [7, 7, 7]]
    assert not (two / "both/val.jsonl").exists()
    assert [
        sample.id for sample in Manifest.read(two / "both/test.jsonl", ["word"]).samples
    ] == ["two/1"]


def test_mistakes(two):
    for sources, said in (
        (f"{two}/two,{two}/deep/../two", "different names"),
        (f"{two}/none", "no manifest"),
    ):
        with pytest.raises(ValueError, match=said):
            prepare(two / "both", sources)


def test_what_is_no_path_is_joined_as_it_is(two, toys, monkeypatch):
    """So that reading it says the same as before."""
    monkeypatch.setattr("flowbind.data.join.installed", lambda kind: ["word", "vector"])
    wrong = ["https://x.org/a.vec", "~/a.vec", "v\\a.vec", ""]
    (two / "two/train.jsonl").write_text(
        "".join(json.dumps({"vector": value}) + "\n" for value in wrong)
    )
    prepare_into(
        two / "both",
        "join",
        prepare,
        {"sources": f"{two}/deep/one,{two}/two", "splits": "train"},
    )
    samples = Manifest.read(two / "both/train.jsonl", ["word", "vector"]).samples
    assert [sample.values["vector"] for sample in samples[1:]] == wrong
