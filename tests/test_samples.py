"""What people hand over as samples: one, several, or what cannot be told and is refused."""

from collections import deque
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

import flowbind
from flowbind.cli.sources import expand
from flowbind.samples import listed, named, together
from tests.released import release
from tests.toy import Vector, Word

WORDS = ["302", "113"]


class Column:
    """A column of a table, as pandas has it: an array of objects with an index of its own."""

    dtype, shape = np.dtype(object), (2,)

    def tolist(self):
        return list(WORDS)

    def __iter__(self):
        raise AssertionError("is not asked element by element")


class Dataset:
    """Samples by number alone."""

    def __getitem__(self, number):
        return WORDS[number]


@pytest.mark.parametrize(
    "given",
    [
        WORDS, tuple(WORDS), iter(WORDS), (word for word in WORDS), deque(WORDS), dict.fromkeys(WORDS).keys(),
        np.array(WORDS), np.array(WORDS, dtype=object), Column(), Dataset(), [Path("a"), Path("b")],
        [torch.zeros(3), torch.zeros(3)], [np.zeros(3), np.zeros(3)],
    ],
    ids=lambda given: type(given).__name__,
)  # fmt: skip
def test_sequences_of_samples_are_as_many_samples(given):
    assert len(listed(given, "source")) == 2


@pytest.mark.parametrize(
    "given",
    ["302", Path("a.vec"), PIL.Image.new("RGB", (2, 2))],
    ids=lambda one: type(one).__name__,
)
def test_what_is_whole_is_one_sample(given):
    assert listed(given, "source") == [given]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            torch.zeros(3, 64, 64),
            r"a Tensor of shape \(3, 64, 64\) may be one sample or many; give \[x\] for one",
        ),
        (torch.zeros(3), r"of shape \(3,\) may be"),
        (torch.zeros(()), r"of shape \(\) may be"),
        (np.zeros((2, 3)), r"a ndarray of shape \(2, 3\) may be"),
        (np.array([1.0, 2.0]), "may be one sample or many"),
        (
            {"302": 1},
            "a list of samples is needed, each a string, a path or a raw sample, not a dict",
        ),
        ({"302"}, "not a set"),
        (b"302", "not a bytes"),
        (None, "not a NoneType"),
        (3, "not a int"),
        (
            type("Table", (), {"columns": WORDS})(),
            "a table is no list of samples; give one of its columns",
        ),
        ([], "no sample in it"),
        (iter(()), "no sample in it"),
        (["302", None], "sample 1 is None"),
        (["302", float("nan")], "sample 1 is nan"),
        (range(3), "sample 0 is 0"),
        ([b"302"], "sample 0 is b'302'"),
    ],
)
def test_what_cannot_be_told_is_refused(given, said):
    with pytest.raises(ValueError, match=f"^source: .*{said}"):
        listed(given, "source")


def test_names():
    assert named("vector", "targets") == named(("vector",), "targets") == ["vector"]
    assert named(["a", "b", "a"], "targets") == ["a", "b"]
    for wrong in ([], (), None, 3, [3], {}):
        with pytest.raises(ValueError, match="targets: names are needed"):
            named(wrong, "targets")


def test_sources_that_go_together():
    assert together({"a": "x", "b": ["y", "z"]}) == {"a": ["x", "x"], "b": ["y", "z"]}
    with pytest.raises(ValueError, match=r"equally many samples .*, not a 2, b 3"):
        together({"a": ["x"] * 2, "b": ["y"] * 3})
    for wrong in ({}, "x", ["x"], None):
        with pytest.raises(ValueError, match="sources are given by modality"):
            together(wrong)


@pytest.fixture
def folder(tmp_path, toys):
    return release(tmp_path / "model", word=Word(), vector=Vector())


def test_one_sample_may_stand_alone(folder, tmp_path):
    model = flowbind.load(folder)
    listed = model.generate({"word": ["302"]}, to=["vector"])["vector"]
    for sources, to in (
        ({"word": "302"}, "vector"),
        ({"word": ("302",)}, ("vector",)),
        ({"word": iter(["302"])}, ["vector"]),
    ):
        alone = model.generate(sources, to=to)["vector"]
        assert len(alone) == 1
        assert torch.equal(alone[0], listed[0])
    (tmp_path / "a.vec").write_text("1 2 3")
    assert len(model.generate({"vector": tmp_path / "a.vec"}, to="word")["word"]) == 1
    assert (
        len(model.generate({"vector": str(tmp_path / "a.vec")}, to="word")["word"]) == 1
    )
    both = model.generate(
        {"word": "302", "vector": [torch.zeros(3), torch.ones(3)]}, to="word"
    )
    assert len(both["word"]) == 2
    assert model.encode("word", "302").shape == (1, 8)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"sources": {"vector": torch.zeros(4, 3)}},
            "source 'vector': a Tensor of shape",
        ),
        ({"sources": {"word": []}}, "source 'word': no sample"),
        ({"sources": "302"}, "sources are given by modality"),
        ({"sources": {}}, "needs at least one source and one target"),
        ({"to": []}, "targets: names are needed"),
        ({"to": "vectro"}, "did you mean 'vector'"),
        ({"steps": 0}, "steps must be a whole number, at least 1"),
        ({"source_steps": 0}, "source_steps must be a whole number, at least 1"),
        ({"steps": (1, 2)}, "steps must be a whole number"),
        ({"steps": 1.5}, "steps must be a whole number, at least 1"),
        ({"solver": "eule"}, "did you mean 'euler'"),
        ({"method": "euler"}, "no sampling choice 'method'"),
        ({"variety": float("nan")}, "variety must be a number, at least 0, not nan"),
        ({"variety": -1.0}, "variety must be"),
        ({"variety": "0.5"}, "variety must be a number"),
        ({"steps": None}, "steps must be a whole number"),
        ({"seed": 1.5}, "seed must be an integer, not 1.5"),
        ({"seed": "1"}, "seed must be an integer, not '1'"),
        ({"first": None}, "first must be an integer, not None"),
    ],
    ids=str,
)
def test_arguments_of_generate(changed, said, folder):
    arguments = {"sources": {"word": ["302"]}, "to": ["vector"]} | changed
    with pytest.raises(ValueError, match=said):
        flowbind.load(folder).generate(**arguments)


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint8])
def test_numpy_s_integers_are_integers(kind, folder):
    model = flowbind.load(folder)
    arguments = ({"word": ["302"]}, ["vector"])
    (wanted,) = model.generate(*arguments, steps=3, seed=7, variety=1.0)["vector"]
    given = model.generate(
        *arguments, steps=kind(3), seed=kind(7), first=kind(0), variety=np.float32(1)
    )
    torch.testing.assert_close(given["vector"][0], wanted, rtol=0, atol=0)


def test_a_folder_is_its_files_that_people_see(tmp_path):
    for name in ("b.vec", "a.VEC", "._a.vec", ".b.vec", "a.word"):
        (tmp_path / name).write_text("1 2 3")
    (tmp_path / "c.vec").mkdir()
    paths = expand(str(tmp_path), Vector(), "vector", ["vector"])
    assert [path.name for path in paths] == ["a.VEC", "b.vec"]


# Lists in files.

LISTS = {
    "list.txt": "302\n\n113\n",
    "list": "302\r\n113",
    "manifest.jsonl": '{"word": "302"}\n{"id": "7", "word": "113", "vector": "a.vec"}\n',
    "manifest.txt": '{"word": "302"}\n{"word": "113"}\n',
    "table.csv": "id,word\n1,302\n2,113\n",
    "spreadsheet.csv": "\ufeffid;Word\n1;302\n2;113\n",
    "quoted.csv": 'word,"a, b"\n"302",1\n"113","1,2"\n\n',
    "table.tsv": "word\tid\n302\t1\n113\t2\n",
    "utf16.csv": "id;word\r\n1;302\r\n2;113\r\n".encode("utf-16"),
    "utf16.txt": "302\r\n113\r\n".encode("utf-16"),
    "column.csv": "caption\n302\n113\n",
}
NOT_LISTS = {
    "empty.txt": ("", "no sample in it"),
    "blank.txt": ("\n \n", "no sample in it"),
    "header.csv": ("id,word\n", "no sample in it"),
    "other.csv": ("id,caption\n1,302\n", "needs the columns word; found id, caption"),
    "twice.csv": ("word,word\n1,302\n", "2 columns are called 'word'"),
    "ragged.csv": ("id,word\n1,302\n2\n", "line 3: 1 cells where there are 2 columns"),
    "gap.csv": (
        "id,word\n1,302\n2,\n",
        "1 of 2 samples have no 'word', the first of them '3'",
    ),
    "gap.jsonl": (
        '{"word": "302"}\n{"vector": "a.vec"}\n',
        "1 of 2 samples have no 'word', the first of them '2'",
    ),
    "array.json": ('["302", "113"]', "a manifest has one JSON object a line"),
    "damaged.jsonl": ('{"word": "302"\n', "line 1: not JSON"),
    "nested.txt": ("@list.txt\n", "a list that names another"),
    "latin.txt": (b"caf\xe9", "not UTF-8"),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_is_read_as_what_it_is(name, tmp_path, toys):
    content = LISTS[name]
    (tmp_path / name).write_bytes(
        content.encode() if isinstance(content, str) else content
    )
    assert expand(f"@{tmp_path / name}", Word(), "word", ["word", "vector"]) == WORDS


@pytest.mark.parametrize("name", [*NOT_LISTS, "none.txt"])
def test_or_refused_in_one_line(name, tmp_path, toys):
    if name in NOT_LISTS:
        content, said = NOT_LISTS[name]
        (tmp_path / name).write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )
    else:
        said = "no such list"
    with pytest.raises((ValueError, FileNotFoundError), match=said) as error:
        expand(f"@{tmp_path / name}", Word(), "word", ["word", "vector"])
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [("m.jsonl", '{"vector": "b/1.vec"}'), ("t.csv", "vector\nb/1.vec\n")],
)
def test_paths_of_a_list_go_from_its_own_folder(
    name, content, tmp_path, toys, monkeypatch
):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    assert expand(f"@a/{name}", Vector(), "vector", ["vector"]) == [Path("a/b/1.vec")]


def test_a_list_opens_nothing_but_files_of_its_kind(tmp_path, toys):
    (tmp_path / "m.jsonl").write_text('{"vector": "/etc/passwd"}')
    with pytest.raises(
        ValueError, match=r"names /etc/passwd as 'vector'; allowed are files with \.vec"
    ):
        expand(f"@{tmp_path / 'm.jsonl'}", Vector(), "vector", ["vector"])


def test_a_literal_named_like_a_file_is_no_literal(tmp_path, toys):
    with pytest.raises(ValueError, match="no such file"):
        expand("missing.word", Word(), "word", ["word"])
    assert expand("302", Word(), "word", ["word"]) == ["302"]
