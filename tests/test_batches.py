"""Batches from a manifest or a table with named columns: results with a manifest of their own, made once."""

import json

import fsspec
import pytest
import torch

import flowbind
from flowbind.data.manifest import Manifest
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
