"""`flowbind prepare` again: looked at again, what changed is told, and nothing of anybody else's is lost."""

import fcntl
import json
import os
import shutil

import pytest

from flowbind.cli.prepared import prepare_into
from flowbind.data.manifest import write_manifest
from tests.toy import write_world


@pytest.fixture
def prepare(tmp_path, toys, command):
    """Runs `flowbind prepare folder` on the toy world."""

    def run(*options, out="data", code=0):
        arguments = [
            "prepare",
            "folder",
            "--source",
            tmp_path / "files",
            "--out",
            tmp_path / out,
            *options,
        ]
        ended, _, err = command(*arguments)
        assert ended == code, err
        return err.splitlines()[-1]

    return run


@pytest.fixture
def world(tmp_path):
    write_world(tmp_path / "files", samples=16)
    return tmp_path


def content(folder):
    """All files; the recipe without the folder's own name, and without its digest, which hangs on that."""
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    if "recipe.yaml" not in files:
        return files
    state = json.loads(files["prepared.json"])
    del state["files"]["recipe.yaml"]
    recipe = (
        files["recipe.yaml"]
        .decode()
        .replace(str(folder), "HERE")
        .replace(f"runs/{folder.name}", "RUN")
    )
    return files | {"prepared.json": json.dumps(state), "recipe.yaml": recipe}


def test_files_that_come_and_go_are_told(prepare, world):
    assert prepare().endswith("data: prepared")
    first = content(world / "data")
    assert prepare().endswith("data: prepared already; its sources have not changed")
    assert content(world / "data") == first

    train = world / "files/train"
    for suffix in (".word", ".vec"):
        shutil.copy(train / f"train0001{suffix}", train / f"more{suffix}")
        (train / f"train0002{suffix}").unlink()
        (train / f"train0005{suffix}").rename(world / f"files/val/train0005{suffix}")
    (train / "train0003.vec").unlink()
    assert prepare().endswith(
        "data: prepared again; samples: 1 added, 1 gone, 1 moved to another split, 1 changed"
    )
    assert prepare().endswith("sources have not changed")
    prepare(out="fresh")
    assert content(world / "data") == content(world / "fresh")


def test_other_options_and_splits_that_are_no_more(prepare, world):
    prepare()
    shutil.rmtree(world / "files/val")
    assert prepare("--labels", world / "files/labels.csv").endswith(
        "data: prepared again; samples: 4 gone, 20 changed"
    )
    left = ["prepared.json", "recipe.yaml", "test.jsonl", "train.jsonl"]
    assert sorted(path.name for path in (world / "data").iterdir()) == left
    assert sorted(path.name for path in world.iterdir()) == ["data", "files"]


def test_what_else_is_in_the_folder_stays(prepare, world):
    """Latents above all, which took hours."""
    prepare()
    (world / "data/latents/train").mkdir(parents=True)
    (world / "data/latents/train/0-00000.safetensors").write_bytes(b"hours")
    (world / "data/notes.txt").write_text("mine")
    (world / "files/train/train0001.vec").unlink()
    prepare()
    assert (world / "data/latents/train/0-00000.safetensors").read_bytes() == b"hours"
    assert (world / "data/notes.txt").read_text() == "mine"


def test_what_was_edited_stays(prepare, world, command):
    prepare()
    manifest = world / "data/train.jsonl"
    edited = b"".join(manifest.read_bytes().splitlines(keepends=True)[:3])
    manifest.write_bytes(edited)
    assert prepare().endswith("sources have not changed")
    assert manifest.read_bytes() == edited
    (world / "files/train/train0001.vec").unlink()
    code, _, err = command(
        "prepare", "folder", "--source", world / "files", "--out", world / "data"
    )
    assert (
        code,
        "train.jsonl: was edited, so it stays; the new one is train.jsonl.new" in err,
    ) == (0, True), err
    assert manifest.read_bytes() == edited
    assert len((world / "data/train.jsonl.new").read_bytes().splitlines()) == 16
    assert prepare().endswith("sources have not changed")
    assert manifest.read_bytes() == edited


def test_a_file_that_was_deleted_is_written_again(prepare, world):
    prepare()
    before = content(world / "data")
    (world / "data/val.jsonl").unlink()
    assert prepare().endswith("data: prepared again; samples: 4 added")
    assert content(world / "data") == before


def test_a_folder_of_an_older_version(prepare, world):
    """It knew no digests, and wrote no recipe."""
    prepare()
    state = json.loads((world / "data/prepared.json").read_text())
    del state["files"]
    (world / "data/prepared.json").write_text(json.dumps(state))
    (world / "data/recipe.yaml").write_text("mine")
    assert prepare().endswith("the samples are the same")
    assert (world / "data/recipe.yaml").read_text() == "mine"
    assert (world / "data/recipe.yaml.new").is_file()
    assert "sources have not changed" in prepare()
    (world / "files/train/train0001.vec").unlink()
    assert prepare().endswith("samples: 1 changed")


@pytest.mark.parametrize("at", range(6))
def test_killed_while_it_is_put_in_place(prepare, world, at, monkeypatch):
    """At every renaming: the same command then makes it whole, and nothing else is left."""
    prepare()
    shutil.rmtree(world / "files/val")
    (world / "files/train/train0001.vec").unlink()
    replace, count = os.replace, iter(range(100))

    def killed(source, target):
        if next(count) == at:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", killed)
        assert prepare(code=130)
    prepare()
    prepare(out="fresh")
    assert content(world / "data") == content(world / "fresh")
    assert sorted(path.name for path in world.iterdir()) == ["data", "files", "fresh"]


def test_a_linked_folder_is_written_where_it_leads(prepare, world):
    (world / "disk").mkdir()
    (world / "data").symlink_to(world / "disk")
    prepare()
    assert (world / "data").is_symlink()
    (world / "files/train/train0001.vec").unlink()
    prepare()
    assert (world / "data").is_symlink()
    assert (world / "disk/prepared.json").is_file()


def rendered(out, samples: int = 1):
    """A dataset that depends on its options alone."""
    (out / "things").mkdir()
    for number in range(samples):
        (out / f"things/{number}.word").write_text("123")
    write_manifest(
        out / "train.jsonl",
        [{"id": str(n), "word": f"things/{n}.word"} for n in range(samples)],
    )
    CALLS.append(samples)


def converted(out, source, word: str = "123"):
    """A dataset that writes files of its own from others."""
    rendered(out)
    (out / "things/0.word").write_text(word)


CALLS = []


def test_datasets_without_sources_are_not_made_again(tmp_path, capsys):
    CALLS.clear()
    for samples in (2, 2, 3):
        prepare_into(tmp_path / "data", "rendered", rendered, {"samples": samples})
    assert CALLS == [2, 3]
    said = capsys.readouterr().err.splitlines()
    assert [line.rpartition("data: ")[2] for line in said] == [
        "prepared",
        "prepared already",
        "prepared again; samples: 1 added",
    ]
    assert len(list((tmp_path / "data/things").iterdir())) == 3


def test_datasets_that_write_files_are_compared_by_content(
    tmp_path, capsys, monkeypatch
):
    (tmp_path / "data").mkdir()
    for default in ("123", "123", "321"):
        monkeypatch.setattr(converted, "__defaults__", (default,))
        prepare_into(tmp_path / "data", "converted", converted, {"source": "x"})
    said = capsys.readouterr().err.splitlines()
    assert [line.rpartition("data: ")[2] for line in said] == [
        "prepared",
        "prepared already; its sources have not changed",
        "prepared again; the samples are the same",
    ]
    assert (tmp_path / "data/things/0.word").read_text() == "321"


def test_folders_of_others_are_never_touched(prepare, world):
    (world / "data").mkdir()
    (world / "data/thesis.tex").write_text("x")
    assert "not empty, and not written by `flowbind prepare`" in prepare(code=2)
    (world / "data/prepared.json").write_text("[]")
    assert "not what `flowbind prepare` wrote" in prepare(code=2)
    assert sorted(content(world / "data")) == ["prepared.json", "thesis.tex"]


def test_two_at_once(tmp_path, monkeypatch):
    """The second says so in a line and touches nothing of the first."""
    monkeypatch.setattr("flowbind.lock.PATIENCE", 0.0)
    (tmp_path / "data.partial").mkdir()
    (tmp_path / "data.partial/train.jsonl").write_text("so far")
    handle = os.open(tmp_path / "data.partial", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(
        ValueError, match=r"data\.partial: another process is preparing a dataset in it"
    ):
        prepare_into(tmp_path / "data", "rendered", rendered, {"samples": 2})
    assert content(tmp_path) == {"data.partial/train.jsonl": b"so far"}
    os.close(handle)
    prepare_into(tmp_path / "data", "rendered", rendered, {"samples": 2})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_an_option_that_came_later_and_is_left_out_leaves_a_folder_as_it_is(
    tmp_path, capsys
):
    calls = []

    def prepare(out, seed=0, extra: str | None = None):
        calls.append(extra)
        (out / "train.jsonl").write_text('{"word": "a"}\n')

    folder = tmp_path / "data"
    prepare_into(folder, "toy", prepare, {"seed": 0})
    for before in ({"seed": "0"}, {"seed": "0", "extra": "None"}):
        state = json.loads((folder / "prepared.json").read_text())
        (folder / "prepared.json").write_text(json.dumps(state | {"options": before}))
        prepare_into(folder, "toy", prepare, {"seed": 0, "extra": None})
        assert capsys.readouterr().err.endswith("prepared already\n")
    assert calls == [None]
    prepare_into(folder, "toy", prepare, {"seed": 0, "extra": "b"})
    assert calls == [None, "b"]
