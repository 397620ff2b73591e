"""Batches from a manifest or a table with named columns: results with a manifest of their own, made once."""

import json
import time

import fsspec
import pytest
import torch

import flowbind
from flowbind.cli.batch import Results
from flowbind.data.manifest import Manifest, write_manifest
from tests.released import release
from tests.toy import Vector, Word

WORDS = ["203", "111", "320"]


@pytest.fixture
def model(tmp_path, toys):
    torch.manual_seed(0)
    return release(tmp_path / "model", word=Word(), vector=Vector())


@pytest.fixture
def manifest(tmp_path):
    """Three samples with both modalities, and labels."""
    lines = []
    for number, word in enumerate(WORDS):
        (tmp_path / f"{number}.vec").write_text(" ".join(word))
        line = {"id": f"s/{number}", "word": word, "vector": f"{number}.vec"}
        lines.append(json.dumps(line | {"labels": {"first": word[0]}}))
    path = tmp_path / "samples.jsonl"
    path.write_text("\n".join(lines))
    return path


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_results_are_named_after_their_samples_and_have_a_manifest(
    model, manifest, command, tmp_path
):
    out = tmp_path / "out"
    arguments = ("generate", model, "--from", f"@{manifest}", "--to", "vector")
    code, printed, err = command(*arguments, "--out", out, "--seed", 3)
    assert code == 0, err
    assert "from word; not used, being targets: vector" in err

    files = [f"s-{number}.vector.vec" for number in range(3)]
    assert printed.split() == [str(out / file) for file in files]
    lines = read(out / "manifest.jsonl")
    assert [line["vector"] for line in lines] == files
    assert [line["word"] for line in lines] == WORDS
    assert [line["labels"] for line in lines] == [{"first": w[0]} for w in WORDS]
    Manifest.read(out / "manifest.jsonl", ["word", "vector"])

    settings = json.loads((out / "generation.json").read_text())
    assert settings["seed"] == 3
    assert settings["sampling"]["steps"] == 10
    assert settings["model"]["sha256"]

    # The same as one by one in Python.
    generated = flowbind.load(model).generate({"word": WORDS}, "vector", seed=3)
    for file, raw in zip(files, generated["vector"], strict=True):
        assert torch.allclose(Vector().read(out / file), raw)


def test_paths_of_sources_go_from_the_results_folder(
    model, manifest, command, tmp_path
):
    out = tmp_path / "a" / "b"
    code, _, err = command(
        "generate", model, "--from", f"@{manifest}", "--to", "word", "--out", out
    )
    assert code == 0, err
    for line in read(out / "manifest.jsonl"):
        assert (out / line["vector"]).resolve().is_file()


def test_what_is_there_is_not_made_again(model, manifest, command, tmp_path):
    out = tmp_path / "out"
    arguments = ["generate", model, "--from", f"@{manifest}", "--to", "vector"]
    arguments += ["--out", out, "--batch", 1]
    code, _, err = command(*arguments)
    assert code == 0, err
    before = {file.name: file.read_bytes() for file in out.iterdir()}

    (out / "s-1.vector.vec").unlink()
    code, printed, err = command(*arguments)
    assert code == 0, err
    assert printed.split() == [str(out / "s-1.vector.vec")]
    assert "2 of 3 samples are there already" in err
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before

    code, printed, _ = command(*arguments)
    assert (code, printed) == (0, "")


def test_other_settings_are_no_reason_to_keep_results(
    model, manifest, command, tmp_path
):
    out = tmp_path / "out"
    arguments = ["generate", model, "--from", f"@{manifest}", "--to", "vector"]
    arguments += ["--out", out]
    assert command(*arguments)[0] == 0
    code, _, err = command(*arguments, "--seed", 1)
    assert code == 2
    assert "is there already; --overwrite replaces it" in err
    code, printed, _ = command(*arguments, "--seed", 1, "--overwrite")
    assert code == 0
    assert len(printed.split()) == 3

    # Another source under the same id.
    manifest.write_text(manifest.read_text().replace('"word": "111"', '"word": "222"'))
    code, _, err = command(*arguments, "--seed", 1)
    assert code == 2
    assert "s-1.vector.vec" in err


@pytest.mark.parametrize("more", [(), ("--seed", 1, "--overwrite")])
def test_what_stopped_within_a_part_goes_on(
    model, manifest, command, tmp_path, monkeypatch, more
):
    """Other results were there before, or none."""
    out = tmp_path / "out"
    arguments = ["generate", model, "--from", f"@{manifest}", "--to", "vector"]
    if more:
        assert command(*arguments, "--out", out)[0] == 0
    whole = tmp_path / "whole"
    assert command(*arguments, *more, "--out", whole)[0] == 0

    written = []
    write = Vector.write

    def interrupted(modality, raw, path):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        write(modality, raw, path)

    with monkeypatch.context() as patch:
        patch.setattr(Vector, "write", interrupted)
        assert command(*arguments, *more, "--out", out)[0] == 130
    assert not (out / "manifest.jsonl").exists()
    code, _, err = command(*arguments, *more[:2], "--out", out)
    assert code == 0, err
    contents = [
        {file.name: file.read_bytes() for file in folder.iterdir()}
        for folder in (out, whole)
    ]
    assert contents[0] == contents[1]


def test_the_manifest_of_a_large_batch_is_not_written_after_each_part(
    tmp_path, monkeypatch
):
    lines = [{"id": str(number), "word": "111"} for number in range(200)]
    files = [[tmp_path / f"{number}.vec"] for number in range(200)]
    results = Results(tmp_path, lines, {"seed": 0}, files)
    counts = []

    def slow(path, lines):
        time.sleep(0.01)
        counts.append(len(lines))
        write_manifest(path, lines)

    monkeypatch.setattr("flowbind.cli.batch.write_manifest", slow)
    results.begin()
    for number in range(200):
        files[number][0].touch()
        results.record(slice(number, number + 1))
    results.close()
    assert counts[0] == 1
    assert counts[-1] == 200
    assert len(counts) < 50

    again = Results(tmp_path, lines, {"seed": 0}, files)
    assert again.left([slice(0, 200)]) == []
    assert Results(tmp_path, lines, {"seed": 1}, files).left([slice(0, 200)])


def test_a_table_names_its_modalities(model, command, tmp_path):
    table = tmp_path / "samples.csv"
    table.write_text("id,Word,note\na b,203,x\nc,111,y\n")
    out = tmp_path / "out"
    code, printed, err = command(
        "generate", model, "--from", f"@{table}", "--to", "vector", "--out", out
    )
    assert code == 0, err
    assert "columns that are no modality of the model: note" in err
    names = [line.rpartition("/")[2] for line in printed.split()]
    assert names == ["a-b.vector.vec", "c.vector.vec"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"word": "203"}\n{"vector": "0.vec"}', "1 of 2 samples have no 'word'"),
        ('{"vector": "0.vec"}', "has no source"),
        ("id,word\n", "has no samples"),
    ],
)
def test_a_batch_that_lacks_something_is_one_line(
    model, command, tmp_path, content, words
):
    path = tmp_path / ("samples.jsonl" if content.startswith("{") else "samples.csv")
    path.write_text(content)
    code, _, err = command(
        "generate",
        model,
        "--from",
        f"@{path}",
        "--to",
        "vector",
        "--out",
        tmp_path / "o",
    )
    assert code == 2
    assert words in err.splitlines()[-1]
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--from", "@samples.txt"], "neither a manifest"),
        (["--from", "@a.csv", "--from", "@b.csv"], "give one"),
        (["--from", "@samples.jsonl", "--from", "word=203"], "batch's file as well"),
        (["--from", "@samples.jsonl", "--interpolate", "3"], "not as a batch's file"),
    ],
)
def test_mistakes_of_batches(
    model, manifest, command, tmp_path, monkeypatch, options, words
):
    monkeypatch.chdir(tmp_path)
    code, _, err = command(
        "generate", model, *options, "--to", "vector", "--out", tmp_path / "out"
    )
    assert code == 2
    assert words in err.splitlines()[-1]


@pytest.mark.parametrize(
    "sources",
    [
        ["@{}/samples.jsonl"],
        ["vector=@{}/samples.jsonl"],
        ["vector=@{}/list.txt"],
        ["vector={}/0.vec", "vector={}/2.vec"],
        ["@{}/samples.csv"],
    ],
)
def test_sources_at_an_address_are_as_those_of_a_folder(
    model, manifest, command, tmp_path, monkeypatch, sources
):
    monkeypatch.setenv("FLOWBIND_CACHE", str(tmp_path / "copies"))
    folder, bucket = str(manifest.parent), "memory://sources"
    storage = fsspec.filesystem("memory")
    (tmp_path / "samples.csv").write_text("id,vector\nx,0.vec\ny,1.vec\n")

    results = []
    for place in (folder, bucket):
        (tmp_path / "list.txt").write_text(f"{place}/1.vec\n{place}/2.vec\n")
        for path in (p for p in tmp_path.iterdir() if p.is_file()):
            storage.pipe_file(f"/sources/{path.name}", path.read_bytes())
        out = tmp_path / f"out{len(results)}"
        arguments = ["generate", model, "--to", "word", "--out", out]
        for source in sources:
            arguments += ["--from", source.format(place)]
        code, printed, err = command(*arguments)
        assert code == 0, err
        assert printed
        words = sorted(path.name for path in out.iterdir())
        results.append(
            [(name, (out / name).read_text()) for name in words if ".word." in name]
        )
    assert results[0] == results[1]

    code, _, err = command(
        "generate",
        model,
        "--to",
        "word",
        "--out",
        tmp_path / "none",
        "--from",
        f"vector={bucket}/no.vec",
    )
    assert code == 2
    assert f"{bucket}/no.vec: no such file" in err
