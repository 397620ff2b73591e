"""People's own files: how folders, names, links and splits are taken, and that nothing is left out without a word."""

import json
import os
import shutil
import socket
import time
from pathlib import Path

import pytest

from flowbind.data.folder import draw_splits, find_splits
from flowbind.data.manifest import Manifest
from tests.layouts import (
    AUDIOCAPS,
    coco_part,
    karpathy,
    mesh,
    parquet,
    picture,
    sound,
    table,
    write_json,
)
from tests.toy import Vector, Word

TOYS = {"word": Word, "vector": Vector}


@pytest.fixture
def source(tmp_path):
    (tmp_path / "files").mkdir()
    return tmp_path / "files"


def put(*paths, word="123", vector="1 2 3"):
    """Files of the toy modalities, by their suffixes."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text({".word": word, ".vec": vector}.get(path.suffix.lower(), "x"))


def pair_of(folder, *stems):
    put(*(folder / f"{stem}{suffix}" for stem in stems for suffix in (".word", ".vec")))


@pytest.fixture
def prepare(tmp_path, source, toys, command):
    """Runs `flowbind prepare folder`: per split the samples' ids with their modalities, and what is said."""

    def run(*options, out="out", code=0):
        arguments = ["--source", source, "--out", tmp_path / out, *options]
        ended, _, err = command("prepare", "folder", *arguments)
        assert ended == code, err
        assert "Traceback" not in err
        assert [
            line for line in err.splitlines() if line.startswith("flowbind: ")
        ] == err.splitlines()[-1:] * (code != 0)
        splits = {}
        for path in sorted((tmp_path / out).glob("*.jsonl")):
            manifest = Manifest.read(path, TOYS)
            for sample in manifest.samples:
                for name in sample.values:
                    manifest.read_raw(sample, name, TOYS[name]())
            splits[path.stem] = {
                sample.id: "+".join(sorted(sample.values))
                for sample in manifest.samples
            }
        return splits, err

    return run


ALL = ("--val", "0", "--test", "0")


def labels_of(tmp_path, out="out"):
    lines = (tmp_path / out / "train.jsonl").read_text(encoding="utf-8").splitlines()
    return {entry["id"]: entry["labels"] for entry in map(json.loads, lines)}


# Folders


def test_files_of_equal_stem_are_one_sample(prepare, source):
    pair_of(source, "a", "deep/b.c d", "é 😀")
    put(
        source / "A.VEC",
        source / "lone.word",
        source / "word/w.word",
        source / "vector/w.vec",
    )
    splits, said = prepare(*ALL)
    assert splits == {
        "train": {
            "A": "vector",
            "a": "vector+word",
            "deep/b.c d": "vector+word",
            "lone": "word",
            "w": "vector+word",
            "é 😀": "vector+word",
        }
    }
    assert "left out" not in said
    assert "upper and lower case" not in said  # each of the two has a vector


def test_stems_that_differ_in_case_alone_are_told(prepare, source):
    put(
        source / "Cat.vec", source / "cat.word", source / "dog.vec", source / "dog.WORD"
    )
    splits, said = prepare(*ALL)
    assert splits["train"] == {"Cat": "vector", "cat": "word", "dog": "vector+word"}
    assert (
        "1 pairs of samples differ in upper and lower case alone and are not paired, such as 'Cat' and 'cat'"
        in said
    )


def test_composed_and_decomposed_names_are_one(prepare, source):
    """As macOS writes one of them, and everybody else the other."""
    put(source / "café.word", source / "cafe\u0301.vec")
    assert prepare(*ALL)[0] == {"train": {"café": "vector+word"}}


def test_two_files_of_one_modality_are_one_line(prepare, source, monkeypatch):
    monkeypatch.setattr(Vector, "suffixes", (".vec", ".vector"))
    for stem in ("a", "b"):
        put(source / f"{stem}.vec", source / f"{stem}.vector")
    said = prepare(code=2)[1]
    assert "a.vector: sample 'a' has another vector file already, " in said
    assert "files/a.vec (and 1 more such files); keep one of them" in said


@pytest.mark.parametrize(
    ("files", "samples"),
    [
        (["word/1.word", "vector/1.vec"], {"1": "vector+word"}),
        (["word/1.word", "1.vec"], {"1": "vector+word"}),
        (
            ["word/1.word", "vector/1.vec", "vector/1.word"],
            {"1": "vector+word"},
        ),  # one in the wrong place
        (["vector/1.vec", "vector/1.word"], {"vector/1": "vector+word"}),  # a class
        (
            ["word/1.vec", "word/2.vec", "dog/3.vec"],
            {"dog/3": "vector", "word/1": "vector", "word/2": "vector"},
        ),
        (
            ["word/1.vec", "word/1.word", "vector/1.vec", "vector/1.word"],
            {"vector/1": "vector+word", "word/1": "vector+word"},
        ),
    ],
)
def test_folders_named_like_modalities(prepare, source, files, samples):
    put(*(source / file for file in files))
    made, said = prepare(*ALL)
    assert made == {"train": samples}
    misplaced = len(files) - sum(kinds.count("+") + 1 for kinds in samples.values())
    assert (
        "left out 1: files in a folder named after another modality, such as vector/1.word"
        in said
    ) == misplaced


def test_the_longest_suffix_counts(prepare, source, monkeypatch):
    monkeypatch.setattr(Word, "suffixes", (".word", ".short.vec"))
    (source / "a.short.vec").write_text("123")
    put(source / "a.vec")
    assert prepare(*ALL)[0] == {"train": {"a": "vector+word"}}


def test_a_suffix_of_two_modalities_is_decided_by_the_folder(
    prepare, source, monkeypatch
):
    monkeypatch.setattr(Word, "suffixes", (".vec",))
    put(source / "vector/1.vec")
    put(source / "word/1.vec", vector="123")
    assert prepare(*ALL)[0] == {"train": {"1": "vector+word"}}
    put(source / "2.vec")
    assert (
        "2.vec: read by word, vector; put it in a folder named after one of"
        in (prepare(code=2)[1])
    )
    # One that steps back leaves it to the other; in its own folder it stays its own.
    monkeypatch.setattr(Word, "by_folder", True)
    assert prepare(*ALL)[0] == {"train": {"1": "vector+word", "2": "vector"}}


# Splits


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("train", "val", "test"), ("train", "val", "test")),
        (("Train", "Validation", "TEST"), ("train", "val", "test")),
        (("training", "dev", "testing"), ("train", "val", "test")),
        (("train", "valid"), ("train", "val")),
        (("train", "eval"), ("train", "val")),
        (("train",), ("train",)),
        (("test",), ("test",)),
    ],
)
@pytest.mark.parametrize(
    "form", ["{split}/{stem}", "{split}/{kind}/{stem}", "{kind}/{split}/{stem}"]
)
def test_folders_of_splits(prepare, source, names, splits, form):
    """Whatever they are called, before and behind folders of modalities."""
    for number, name in enumerate(names):
        for kind, suffix in (("word", ".word"), ("vector", ".vec")):
            put(
                source
                / (form.format(split=name, kind=kind, stem=f"deep/{number}") + suffix)
            )
    expected = {
        split: {f"deep/{number}": "vector+word"} for number, split in enumerate(splits)
    }
    made, said = prepare()
    assert made == expected
    for name, split in zip(names, splits, strict=True):
        assert (f"'{name}' is taken for the split {split}" in said) == (name != split)


@pytest.mark.parametrize("name", ["train", "test", "Dev", "valid"])
def test_a_class_that_is_called_like_a_split_is_a_class(prepare, source, name):
    pair_of(source, "bus/1", f"{name}/1", "car/1")
    made, said = prepare(*ALL)
    assert made == {
        "train": {
            f"{folder}/1": "vector+word" for folder in sorted((name, "bus", "car"))
        }
    }
    assert (
        f"'{name}' is taken for a folder like bus, car beside it, not for a split"
        in said
    )


def test_files_beside_a_split_alone(prepare, source):
    pair_of(source, "train/1", "2")
    made, said = prepare(*ALL)
    assert made == {"train": {"2": "vector+word", "train/1": "vector+word"}}
    assert "'train' is taken for a folder like files beside it" in said


def test_what_lies_beside_splits_is_left_out_and_counted(prepare, source):
    pair_of(source, "train/1", "test/2", "extra/3", "4")
    made, said = prepare()
    assert made == {"train": {"1": "vector+word"}, "test": {"2": "vector+word"}}
    assert "left out 4: files beside the folders of splits, such as 4.vec" in said


def test_folders_without_usable_files_say_nothing_of_splits(prepare, source):
    pair_of(source, "train/1", "val/1")
    (source / "annotations").mkdir()
    (source / "annotations/a.xyz").write_text("x")
    assert prepare()[0] == {"train": {"1": "vector+word"}, "val": {"1": "vector+word"}}


def test_samples_that_are_added_move_few_others():
    before = {str(n): {} for n in range(1000)}
    first = draw_splits(before, 0.1, 0.2, seed=0)
    assert {split: len(part) for split, part in first.items()} == {
        "train": 700,
        "val": 100,
        "test": 200,
    }
    assert [list(part) for part in first.values()] == [
        sorted(part, key=list(before).index) for part in first.values()
    ]
    again = draw_splits(before | {f"new {n}": {} for n in range(10)}, 0.1, 0.2, seed=0)
    moved = sum(stem in again[split] for split in first for stem in first[split])
    assert moved >= 990
    other = draw_splits(before, 0.1, 0.2, seed=1)
    assert 20 < len(other["test"].keys() & first["test"].keys()) < 70  # 40 by chance
    assert list(draw_splits({"a": {}}, 0.1, 0.1, seed=0)) == ["train"]


# What a scan leaves out, and what it follows, by the folder and by each dataset


@pytest.fixture
def scanned(tmp_path, toys):
    """What `find_splits` takes from a folder."""

    def run(folder):
        return set(find_splits(folder, TOYS)[""])

    return run


def test_hidden_and_system_folders_are_left_out(prepare, source):
    pair_of(source, "a")
    for folder in (
        ".ipynb_checkpoints",
        ".Trash-1000/files",
        ".thumbnails",
        "@eaDir",
        "__MACOSX",
        "$RECYCLE.BIN",
        "lost+found",
        "sub/.git",
    ):
        pair_of(source, f"{folder}/old")
    put(source / "._a.vec", source / ".DS_Store", source / "sub/.hidden.vec")
    pair_of(source, "trash/1", "thumbnails/1")  # these are a person's
    made, said = prepare(*ALL)
    assert made["train"].keys() == {"a", "trash/1", "thumbnails/1"}
    assert "left out 7: hidden files and folders, such as .DS_Store" in said
    assert (
        "left out 4: folders of the system (trash, thumbnails, snapshots), such as $RECYCLE.BIN"
        in said
    )


def test_links_are_followed_once(prepare, source, tmp_path):
    pair_of(tmp_path, "disk/a", "disk/deep/b")
    (source / "link").symlink_to(tmp_path / "disk")
    (source / "circle").symlink_to(source)
    (tmp_path / "disk/deep/up").symlink_to(tmp_path / "disk")
    (source / "nowhere.vec").symlink_to(tmp_path / "none")
    (source / "unmounted").symlink_to(tmp_path / "disk that is not there")
    (source / "loop.vec").symlink_to(source / "loop.vec")
    (source / "twin").symlink_to(source / "link/deep")
    put(tmp_path / "elsewhere.vec")
    (source / "linked file.vec").symlink_to(tmp_path / "elsewhere.vec")
    made, said = prepare(*ALL)
    assert made["train"] == {
        "link/a": "vector+word",
        "link/deep/b": "vector+word",
        "linked file": "vector",
    }
    assert (
        "left out 3: folders that were gone through before, by a link, such as circle"
        in said
    )
    assert "left out 3: links that lead nowhere, such as loop.vec" in said
    assert (
        f"link: a link that leads out of the folder, to {tmp_path}/disk; it is followed"
        in said
    )


def test_a_linked_folder_of_a_modality(prepare, source, tmp_path):
    put(tmp_path / "disk/a.vec", source / "word/a.word")
    (source / "vector").symlink_to("../disk")
    assert prepare(*ALL)[0] == {"train": {"a": "vector+word"}}


def test_names_that_are_no_utf8_are_named(prepare, source):
    pair_of(source, "a")
    Path(os.fsdecode(bytes(source) + b"/caf\xe9.vec")).write_text("1 2 3")
    os.mkdir(bytes(source) + b"/d\xe9j\xe0")
    made, said = prepare(*ALL)
    assert made["train"] == {"a": "vector+word"}
    assert (
        r"left out 2: files and folders whose names are not UTF-8 (rename them), such as caf\xe9.vec"
        in said
    )


def test_a_folder_whose_own_path_is_no_utf8(tmp_path, toys, command):
    source = Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9"))
    pair_of(source, "a")
    assert (
        command(
            "prepare", "folder", "--source", source, "--out", tmp_path / "out", *ALL
        )[0]
        == 0
    )
    manifest = Manifest.read(tmp_path / "out/train.jsonl", TOYS)
    assert manifest.read_raw(manifest.samples[0], "vector", Vector()).tolist() == [
        1,
        2,
        3,
    ]


def test_what_is_no_file_of_a_sample_is_left_out_and_counted(prepare, source):
    pair_of(source, "a")
    (source / "empty.vec").touch()
    os.mkfifo(source / "pipe.vec")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(source / "socket.vec"))
    put(source / "notes.pdf", source / "b.pdf", source / "README", source / "Thumbs.db")
    made, said = prepare(*ALL)
    assert made["train"] == {"a": "vector+word"}
    assert "left out 1: empty files, such as empty.vec" in said
    assert "left out 2: pipes, sockets and devices, such as pipe.vec" in said
    assert (
        "left out 2: files with the suffix '.pdf', which no installed modality reads, such as b.pdf"
        in said
    )
    assert (
        "left out 1: files with no suffix, which no installed modality reads, such as README"
        in said
    )


def test_what_prepare_wrote_is_no_source(prepare, source, tmp_path, monkeypatch):
    pair_of(source, "a")
    first = prepare(*ALL, out="files/out")[0]
    put(source / "out/late.vec")
    again, said = prepare(*ALL, out="files/out")
    assert first == again
    assert "left out 1: folders that `flowbind prepare` wrote, such as out" in said
    assert "prepared already; its sources have not changed" in said


def test_files_and_folders_that_go_while_they_are_looked_at(
    scanned, source, monkeypatch, capsys
):
    pair_of(source, "a", "gone/b")
    put(source / "c.vec")
    scandir, stat = os.scandir, os.stat

    class Vanishing:
        """A file that is listed and then gone."""

        def __init__(self, entry):
            self.name, self.path, self.is_dir, self.is_symlink = (
                entry.name,
                entry.path,
                entry.is_dir,
                entry.is_symlink,
            )
            self.entry = entry

        def stat(self):
            if self.name == "c.vec":
                os.unlink(self.path)
            return stat(self.path)

    class Listing:
        def __init__(self, folder):
            self.folder = folder

        def __enter__(self):
            if str(self.folder).endswith("gone"):
                shutil.rmtree(self.folder)
            with scandir(self.folder) as entries:
                return [Vanishing(entry) for entry in entries]

        def __exit__(self, *_):
            pass

    monkeypatch.setattr("flowbind.data.scan.os.scandir", Listing)
    assert scanned(source) == {"a"}
    said = capsys.readouterr().err
    assert "left out 1: files that vanished, such as c.vec" in said
    assert (
        "left out 1: folders that cannot be opened (No such file or directory), such as gone"
        in said
    )


def test_folders_that_cannot_be_opened_are_counted(
    scanned, source, monkeypatch, capsys
):
    """Stubbed, since the tests may run as one who can open all."""
    pair_of(source, "a", "locked/b")
    scandir = os.scandir

    def locked(folder):
        if folder.endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr("flowbind.data.scan.os.scandir", locked)
    assert scanned(source) == {"a"}
    assert (
        "left out 1: folders that cannot be opened (Permission denied), such as locked"
        in capsys.readouterr().err
    )


def test_nothing_to_take_is_a_mistake(prepare, source, tmp_path):
    assert "no file that an installed modality reads (" in prepare(code=2)[1]
    (source / "a.vec").touch()
    said = prepare(code=2)[1]
    assert "left out 1: empty files" in said
    assert not (tmp_path / "out").exists()


def test_long_names_and_deep_folders(prepare, source):
    long = "n" * 250
    deep = "/".join(["d" * 100] * 20)
    put(source / f"{long}.vec", source / f"{long}.word", source / deep / "a.vec")
    assert prepare(*ALL)[0] == {"train": {f"{deep}/a": "vector", long: "vector+word"}}


def test_a_hundred_thousand_files_take_seconds(source, scanned):
    """2,000 here, in proportion."""
    for folder in range(20):
        (source / str(folder)).mkdir()
        for number in range(50):
            for suffix in (".word", ".vec"):
                (source / f"{folder}/{number}{suffix}").write_text("x")
    begin = time.process_time()
    assert len(scanned(source)) == 1000
    assert time.process_time() - begin < 1


# The same scan behind the published datasets: each finds its files below what is linked, and takes none that is hidden.


def write_audiocaps(folder):
    table(folder / "test.csv", AUDIOCAPS, (1, "clipclipcli", 0, "x"))
    return "media/clipclipcli_0.wav", sound, {}


def write_flickr30k(folder):
    karpathy(folder, {"1000": ("test", ["a dog"])})
    return "media/1000.jpg", picture, {}


def write_coco(folder):
    coco_part(folder, "val2014", [1], captions=1, there=False)
    (folder / "val2014").mkdir()
    return "val2014/media/COCO_val2014_000000000001.jpg", picture, {}


def write_vggsound(folder):
    table(folder / "vggsound.csv", ("clipclipcli", 1, "x", "test"))
    picture(folder / "clipclipcli_000001.jpg")
    return "media/clipclipcli_000001.wav", sound, {"val_samples": 0}


def write_laion_coco(folder):
    parquet(folder / "a.parquet", key=["0"], caption=["one"])
    return "media/0.jpg", picture, {}


def write_pix3d(folder):
    write_json(
        folder / "pix3d.json",
        [{"img": "media/a.png", "model": "b.obj", "category": "bed"}],
    )
    mesh(folder / "b.obj", height=1)
    return "media/a.png", picture, {"test": 0, "val": 0}


DATASETS = {
    "audiocaps": write_audiocaps,
    "flickr30k": write_flickr30k,
    "coco": write_coco,
    "vggsound": write_vggsound,
    "laion-coco": write_laion_coco,
    "pix3d": write_pix3d,
}


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize(
    "place", ["there", "linked", "hidden", "system", "empty", "not UTF-8"]
)
def test_datasets_scan_as_a_folder_of_one_s_own_is(tmp_path, command, name, place):
    source = tmp_path / "source"
    source.mkdir()
    file, write, options = DATASETS[name](source)
    write(source / file)
    media = (source / file).parent
    if place == "linked":
        media.rename(tmp_path / "disk")
        media.symlink_to(tmp_path / "disk")
        (tmp_path / "disk/up").symlink_to(tmp_path / "disk")
    elif place in ("hidden", "system"):
        media.rename(
            media.with_name({"hidden": ".ipynb_checkpoints", "system": "@eaDir"}[place])
        )
    elif place == "empty":
        (source / file).write_bytes(b"")
    elif place == "not UTF-8":
        os.rename(
            bytes(source / file), bytes(media) + b"/\xe9" + Path(file).suffix.encode()
        )
    arguments = [
        part
        for key, value in options.items()
        for part in (f"--{key.replace('_', '-')}", value)
    ]
    code, _, said = command(
        "prepare", name, "--source", source, "--out", tmp_path / "out", *arguments
    )
    there = place in ("there", "linked")
    assert code == (0 if there else 2), said
    assert "Traceback" not in said
    reasons = {
        "linked": "by a link",
        "hidden": "hidden files and folders",
        "system": "folders of the system",
        "empty": "empty files",
        "not UTF-8": "not UTF-8",
    }
    assert ("left out 1: " in said) == (place != "there")
    assert reasons.get(place, "") in said
    assert there or "no sample found" in said


# Labels


@pytest.mark.parametrize(
    "content",
    [
        "id,digit\na,1\nb,2\n",
        "\ufeffid;digit\r\na;1\r\nb;2\r\n",
        "digit\t ID \n1\ta\n2\tb\n",
        'sep=;\n"Id";"digit"\n"a";"1"\nb;2\n',
        "\n \r\nid,digit\n\na,1\nb,2\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_tables_as_spreadsheets_write_them(
    prepare, source, tmp_path, content, encoding
):
    pair_of(source, "a", "b")
    (tmp_path / "labels.csv").write_bytes(
        content.lstrip("\ufeff" * (encoding == "utf-16")).encode(encoding)
    )
    said = prepare(*ALL, "--labels", tmp_path / "labels.csv")[1]
    assert labels_of(tmp_path) == {"a": {"digit": "1"}, "b": {"digit": "2"}}
    assert "labels.csv" not in said


@pytest.mark.parametrize(
    "header", ["id", "ID", " Id ", "file", "Filename", "file_name", "path", "stem"]
)
@pytest.mark.parametrize(
    "form", ["{}", "{}.vec", "{}.word", "./{}.vec", "{}.VEC", "{}.jpg"]
)
def test_ids_are_stems_or_paths(prepare, source, tmp_path, header, form):
    pair_of(source, "cat/a.b", "c")
    rows = "".join(
        f"{form.format(stem)},{n}\n" for n, stem in enumerate(("cat/a.b", "c"))
    )
    (tmp_path / "labels.csv").write_text(f"{header},n\n{rows}")
    said = prepare(*ALL, "--labels", tmp_path / "labels.csv")[1]
    assert labels_of(tmp_path) == {"cat/a.b": {"n": "0"}, "c": {"n": "1"}}
    assert "labels.csv" not in said


def test_ids_within_and_below_splits(prepare, source, tmp_path):
    pair_of(source, "train/a", "train/b", "test/a")
    (tmp_path / "labels.csv").write_text("id,n\ntrain/a,1\ntest\\a.vec,2\nb,3\n")
    assert "labels.csv" not in prepare("--labels", tmp_path / "labels.csv")[1]
    assert labels_of(tmp_path) == {"a": {"n": "1"}, "b": {"n": "3"}}
    assert json.loads((tmp_path / "out/test.jsonl").read_text())["labels"] == {"n": "2"}


def test_ids_that_fit_nothing_are_a_mistake(prepare, source, tmp_path):
    pair_of(source, *"abcde")
    (tmp_path / "labels.csv").write_text("id,n\nx,1\ny,2\n")
    said = prepare(*ALL, "--labels", tmp_path / "labels.csv", code=2)[1]
    assert (
        "none of its 2 ids is a sample's: they are 'x', 'y', the samples 'a', 'b', 'c', ...; an id is a file's path"
        in said
    )
    assert not (tmp_path / "out").exists()
    (tmp_path / "labels.csv").write_text("id,n\nx,1\na,2\nb,\n")
    said = prepare(*ALL, "--labels", tmp_path / "labels.csv")[1]
    assert "1 of 3 ids are those of no sample, such as 'x'" in said
    assert "4 samples have no label there, such as 'b', 'c', 'd', ..." in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"needs the columns id or stem or .*; found none"),
        (b"name,n\na,1\n", r"needs the columns id or stem or .*; found name, n"),
        (b"id\na\n", r"no label in it, only id"),
        (b"id,n\na,1,2\n", r"line 2: 3 cells where there are 2 columns, id, n"),
        (b"id,n\n\na\n", r"line 3: 1 cells where there are 2 columns"),
        (b"id,n,N\na,1,2\n", r"2 columns are called 'n'"),
        (b"id,n\na,1\nb,1\na,2\n", r"line 4: 'a' has other labels than in line 2"),
        (b"id,n\n,1\n", r"line 2: no id"),
        (b"id,n\na,\xe9\n", r"not UTF-8"),
        (
            b'id,n\na,"1\nb,2\n',
            r"line 2: a quote that is not closed, so that the row reaches to line 3",
        ),
        (
            b'id,n\nc,"1\na,2\nb,"3"\n',
            r"line 2: a quote that is not closed, so that the row reaches to line 4",
        ),
        (b'id,n\na,"' + b"x" * 200_000, r"not a table \(field larger"),
    ],
)
def test_tables_that_are_none_are_one_line(prepare, source, tmp_path, content, message):
    import re

    pair_of(source, "a", "b")
    (tmp_path / "labels.csv").write_bytes(content)
    said = prepare("--labels", tmp_path / "labels.csv", code=2)[1]
    assert re.search(message, said.splitlines()[-1]), said
    assert "labels.csv" in said.splitlines()[-1]


def test_cells_may_hold_lines_and_quotes(prepare, source, tmp_path):
    pair_of(source, "a", "b")
    (tmp_path / "labels.csv").write_text('id,n\na,"one\n""two"""\nb,5" pipe\n')
    prepare(*ALL, "--labels", tmp_path / "labels.csv")
    assert labels_of(tmp_path) == {"a": {"n": 'one\n"two"'}, "b": {"n": '5" pipe'}}


def test_columns_without_a_name_are_no_labels(prepare, source, tmp_path):
    """As pandas writes its index, and spreadsheets what is empty."""
    pair_of(source, "a", "b")
    (tmp_path / "labels.csv").write_text(",id,n,,\n0,a,1,,\n1,b, 2 ,,\n,,,,\n")
    prepare(*ALL, "--labels", tmp_path / "labels.csv")
    assert labels_of(tmp_path) == {"a": {"n": "1"}, "b": {"n": "2"}}


def test_a_source_is_reached_as_it_was_given(
    source, tmp_path, toys, command, monkeypatch
):
    """Through a link, which may be changed to lead elsewhere; but where a path goes up behind one, by its real path."""
    pair_of(tmp_path, "disk/deep/files/a", "disk/b")
    source.rmdir()
    source.symlink_to(tmp_path / "disk/deep/files")
    (tmp_path / "link").symlink_to(tmp_path / "disk/deep")
    monkeypatch.chdir(tmp_path)
    for given, vectors in (
        ("files", ["../files/a.vec"]),
        ("link/..", ["../disk/b.vec", "../disk/deep/files/a.vec"]),
    ):
        assert (
            command(
                "prepare",
                "folder",
                "--source",
                given,
                "--out",
                f"out/{len(vectors)}",
                *ALL,
            )[0]
            == 0
        )
        lines = (tmp_path / f"out/{len(vectors)}/train.jsonl").read_text().splitlines()
        assert [json.loads(line)["vector"] for line in lines] == [
            f"../{vector}" for vector in vectors
        ]
