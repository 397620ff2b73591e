"""Manifests: every mistake in one has its line."""

import json
import os
import random
from collections import Counter
from itertools import product

import pytest

from flowbind.data.manifest import Manifest, read_raw, write_manifest
from tests.toy import Vector, Word

KNOWN = ("word", "vector")


def read(tmp_path, text):
    (tmp_path / "m.jsonl").write_bytes(
        text if isinstance(text, bytes) else text.encode()
    )
    return Manifest.read(tmp_path / "m.jsonl", KNOWN)


def test_what_is_written_is_read(tmp_path):
    write_manifest(
        tmp_path / "m.jsonl",
        [{"word": "123", "labels": {"first": 1}}, {"id": "x", "vector": "v/1.vec"}],
    )
    first, second = Manifest.read(tmp_path / "m.jsonl", KNOWN).samples
    assert (first.id, first.values, first.labels) == (
        "1",
        {"word": "123"},
        {"first": "1"},
    )
    assert (second.id, second.values, second.labels) == ("x", {"vector": "v/1.vec"}, {})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"word": "1"', r"line 2: not JSON"),
        ("[1]", r"line 2: a JSON list; a manifest has one JSON object a line"),
        ("7", r"line 2: a JSON object is needed, not int"),
        (
            '{"wrod": "1"}',
            r"line 2: no modality 'wrod'; did you mean 'word'\? allowed: vector, word",
        ),
        ('{"Word": "1"}', r"line 2: no modality 'Word'; did you mean 'word'\?"),
        ('{"word": 3}', r"line 2: 'word' must be a string"),
        (
            '{"word": "1", "labels": [1]}',
            r"line 2: 'labels' must be an object, not list",
        ),
        (
            '{"word": "1", "labels": {"kind": ["a"]}}',
            r"line 2: the label 'kind' must be a string or a number, not \[\"a\"\]",
        ),
        ('{"word": "1", "id": {"a": 1}}', r"line 2: 'id' must be a string or a number"),
        ('{"word": "1"},', r"line 2: not JSON \(a comma after the object\)"),
        ('{"word": "1",}', r"line 2: not JSON"),
        (
            '{"word": "1", "word": "2"}',
            r"line 2: not JSON \(the key 'word' stands there twice\)",
        ),
        ('{"word": Infinity}', r"line 2: not JSON \(Infinity is no value\)"),
        (
            "word;vector",
            r"line 2: not JSON \(the header of a table, by its look; .*to_json",
        ),
        ("{", r"line 2: not JSON \(.*spread over lines"),
        (
            '{"word": ["1", "2"]}',
            r"""line 2: 'word' must be a string.*go into "references": \{"word": \[\.\.\.\]\}""",
        ),
        (
            '{"word": "1", "references": ["2"]}',
            r"line 2: 'references' must be an object, not list",
        ),
        (
            '{"word": "1", "references": {"vector": ["2"]}}',
            r"'references' of 'vector', which the .* allowed: word",
        ),
        (
            '{"word": "1", "references": {"word": "2"}}',
            r"'references' of 'word' must be a list of strings, not \"2\"",
        ),
        (
            '{"word": "1", "references": {"word": ["2", " "]}}',
            r"'references' of 'word' must be a list of strings",
        ),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, '{"word": "1"}\n' + line + "\n")


def test_no_manifest_and_no_sample(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such manifest"):
        Manifest.read(tmp_path / "none.jsonl", KNOWN)
    with pytest.raises(ValueError, match="an empty manifest"):
        read(tmp_path, "\n\n")
    with pytest.raises(ValueError, match="no sample has any of vector, word"):
        read(tmp_path, '{"id": 1}\n{"word": null}\n')
    for content, message in (
        (b"\xff\xfe\x00", "not a text file in UTF-8"),
        (b"\x1f\x8b\x08", "gunzip"),
    ):
        with pytest.raises(ValueError, match=f"m.jsonl: .*{message}"):
            read(tmp_path, content)
    with pytest.raises(
        ValueError,
        match=r"line 1: not JSON \(a list, or an object that is spread over lines",
    ):
        read(tmp_path, '[\n  {"word": "1"}\n]')


def test_literals_and_files(tmp_path):
    (tmp_path / "a.word").write_text("321")
    manifest = read(
        tmp_path, '{"word": "a.word"}\n{"word": "123"}\n{"vector": "none.vec"}\n'
    )
    assert manifest.read_raw(manifest.samples[0], "word", Word()) == "321"
    assert manifest.read_raw(manifest.samples[1], "word", Word()) == "123"
    with pytest.raises(
        ValueError, match=r"none\.vec: no such file \(sample '3' of .*m\.jsonl\)"
    ):
        manifest.read_raw(manifest.samples[2], "vector", Vector())
    (tmp_path / "none.vec").write_text("1 2")
    with pytest.raises(ValueError, match=r"none\.vec: damaged; .* \(sample '3'"):
        manifest.read_raw(manifest.samples[2], "vector", Vector())


def test_references_are_the_own_value_and_the_others(tmp_path):
    (tmp_path / "b.word").write_text("222")
    lines = [
        '{"word": "111"}',
        '{"word": "111", "references": {"word": ["b.word", "333"]}}',
    ]
    lines.append(
        '{"word": "111", "references": {"word": ["333", "111", "333", "111"]}}'
    )
    manifest = read(tmp_path, "\n".join(lines))
    every = [
        manifest.read_references(sample, "word", Word()) for sample in manifest.samples
    ]
    assert every == [["111"], ["111", "222", "333"], ["111", "333", "333", "111"]]
    assert [
        manifest.read_raw(sample, "word", Word()) for sample in manifest.samples
    ] == ["111"] * 3
    (tmp_path / "b.word").unlink()
    with pytest.raises(ValueError, match=r"b\.word.*\(sample '2' of .*m\.jsonl\)"):
        manifest.read_references(manifest.samples[1], "word", Word())


@pytest.mark.parametrize("absent", ["null", "NaN", None])
def test_absent_is_absent_however_it_is_written(tmp_path, absent):
    """Of a sample's modality, id, labels and references, and of each label and reference."""
    whole = {
        "word": "123",
        "vector": "a.vec",
        "id": "x",
        "labels": {"first": "1"},
        "references": {"word": ["222"]},
    }
    without = {}
    for key, value in whole.items():
        rest = {
            other: value
            for other, value in whole.items()
            if other not in (key, "references")
        }
        if absent:
            rest[key] = absent
        text = json.dumps(rest).replace(f'"{absent}"', absent or "")
        (without[key],) = read(tmp_path, text).samples
    assert without["word"].values == {"vector": "a.vec"}
    assert without["vector"].values == {"word": "123"}
    assert without["id"].id == "1"
    assert without["labels"].labels == without["references"].references == {}

    inside = "" if absent is None else f'"first": {absent}'
    (sample,) = read(tmp_path, f'{{"word": "123", "labels": {{{inside}}}}}').samples
    assert sample.labels == {}
    assert (
        read(tmp_path, f'{{"word": "123"}}\n{{{inside.replace("first", "word")}}}')
        .samples[1]
        .values
        == {}
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_whatever_an_editor_makes_of_the_file(tmp_path, encoding, end):
    text = end.join(['{"word": "é\u2028ß"}', "", '{"word": "2", "id": 7}', ""])
    content = text.encode(encoding)
    if encoding == "utf-16-le":
        content = b"\xff\xfe" + content
    assert [
        (sample.id, sample.values["word"]) for sample in read(tmp_path, content).samples
    ] == [
        ("1", "é\u2028ß"),
        ("7", "2"),
    ]


def test_numbers_are_the_same_however_they_are_written(tmp_path):
    """A column of whole numbers with a gap becomes one of floating-point numbers."""
    lines = '{"word": "1", "id": 3.0, "labels": {"a": 1.0, "b": 1.5}}\n{"word": "1", "id": 4, "labels": {"a": 1, "b": " "}}'
    first, second = read(tmp_path, lines).samples
    assert (first.id, first.labels) == ("3", {"a": "1", "b": "1.5"})
    assert (second.id, second.labels) == ("4", {"a": "1"})


def test_ids_are_unique(tmp_path):
    with pytest.raises(
        ValueError, match=r"m\.jsonl, line 4: the id '1' is that of line 1"
    ):
        read(
            tmp_path,
            '{"word": "1", "id": 1}\n{"word": "1"}\n\n{"word": "1", "id": "1"}\n',
        )
    # As files may be called.
    read(tmp_path, '{"word": "1", "id": "a"}\n{"word": "1", "id": "a "}\n')
    samples = read(
        tmp_path,
        '{"word": "1", "id": "2"}\n{"word": "1"}\n{"word": "1", "id": "a/b c"}',
    ).samples
    assert [sample.id for sample in samples] == ["2", "line 2", "a/b c"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", r"'': an empty path; leave the key out"),
        (
            "https://x.org/a.vec",
            r"an address; give the path of a file on this machine \(",
        ),
        ("s3://bucket/a.vec", r"an address"),
        ("file:///tmp/a.vec", r"an address.* without file://"),
        ("~/a.vec", r"~ stands for no folder"),
        ("v\\a.vec", r"backslashes separate no folders"),
        ("C:\\v\\a.vec", r"backslashes separate no folders"),
        ("v", r"v: not named like a file of 'vector'; allowed: \.vec"),
        ("v/a.VEC", r"a\.VEC: no such file"),
        ("folder.vec", r"folder\.vec: not a file, but a folder"),
        ("a" * 300 + ".vec", r"cannot be read: File name too long"),
        ("loop.vec", r"loop\.vec: cannot be read: Too many levels"),
        ("a\u0000.vec", r"no name that a file can have"),
        ("\ud800.vec", r"no (name that a file can have|such file)"),
    ],
)
def test_what_is_no_path_is_said(tmp_path, value, message):
    (tmp_path / "folder.vec").mkdir()
    (tmp_path / "loop.vec").symlink_to(tmp_path / "loop.vec")
    manifest = read(tmp_path, json.dumps({"vector": value}))
    with pytest.raises(ValueError, match=message) as caught:
        manifest.read_raw(manifest.samples[0], "vector", Vector())
    assert str(caught.value).endswith(f"(sample '1' of {manifest.path})")


def test_paths_as_people_have_them(tmp_path):
    """Absolute, up and out, through links, with spaces, and with names that begin or look like mistakes."""
    (tmp_path / "in").mkdir()
    places = [
        tmp_path / "a.vec",
        tmp_path / "in/a b.vec",
        tmp_path / "in/~x.vec",
        tmp_path / "in/a\\b.vec",
        tmp_path / "in/C.VEC",
    ]
    for place in places:
        place.write_text("1 2 3")
    (tmp_path / "in/link.vec").symlink_to(tmp_path / "a.vec")
    values = [
        str(tmp_path / "a.vec"),
        "../a.vec",
        "./link.vec",
        *(place.name for place in places[1:]),
    ]
    manifest = read(
        tmp_path / "in", "\n".join(json.dumps({"vector": value}) for value in values)
    )
    for sample in manifest.samples:
        assert manifest.read_raw(sample, "vector", Vector()).tolist() == [1, 2, 3]


def test_a_literal_that_is_named_like_a_file_is_that_of_the_manifest(
    tmp_path, monkeypatch
):
    """Not one in the working directory."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.word").write_text("111")
    monkeypatch.chdir(tmp_path / "elsewhere")
    manifest = read(tmp_path, '{"word": "a.word"}')
    with pytest.raises(ValueError, match=f"{tmp_path}/a.word: no such file"):
        manifest.read_raw(manifest.samples[0], "word", Word())


FAULTS = [
    TypeError("no"),
    KeyError("uv"),
    IndexError(),
    AttributeError("a\nb"),
    AssertionError(),
    ZeroDivisionError("x"),
]
FAULTS += [
    RuntimeError("y" * 10_000),
    RecursionError("deep"),
    ModuleNotFoundError("No module named 'x'", name="x"),
]
FAULTS += [
    UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "invalid"),
    StopIteration(),
    OSError("bad"),
    Warning("w"),
    ValueError(),
]
FAULTS += [
    FileNotFoundError(2, "No such file or directory", "other.mtl"),
    PermissionError(13, "Permission denied"),
    ValueError("odd"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_whatever_a_reader_raises_is_one_line(tmp_path, fault, monkeypatch, capsys):
    path = tmp_path / "a.vec"
    path.write_text("1 2 3")

    def read(self, source):
        raise fault

    monkeypatch.setattr(Vector, "read", read)
    with pytest.raises(
        ValueError, match=r"^[^\n]*a\.vec[^\n]* \(a sample\)$"
    ) as caught:
        read_raw(Vector(), path, "a sample")
    message = str(caught.value)
    assert len(message) < 600
    assert (
        getattr(fault, "strerror", None) or str(fault).split("\n")[0][:100]
    ) in message
    assert (getattr(fault, "filename", None) or "") in message
    if not isinstance(fault, ValueError | OSError):  # which are a reader's own verdict
        assert f"failed with {type(fault).__name__}" in message
        assert "tests/test_manifest.py" in message
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FLOWBIND_TRACEBACK", "1")
    with pytest.raises(ValueError, match="a sample"):
        read_raw(Vector(), path, "a sample")
    assert (
        isinstance(fault, ValueError | OSError)
        or "in read\n    raise fault" in capsys.readouterr().err
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_process_is_no_fault_of_a_sample(error, monkeypatch):
    monkeypatch.setattr(Word, "read", lambda self, source: (_ for _ in ()).throw(error))
    with pytest.raises(error):
        read_raw(Word(), "123", "a sample")
    monkeypatch.setattr(
        Word, "read", lambda self, source: (_ for _ in ()).throw(MemoryError())
    )
    with pytest.raises(
        MemoryError, match=r"'123': not enough memory to read it \(a sample\)"
    ):
        read_raw(Word(), "123", "a sample")


VALUES = [
    None,
    "",
    " ",
    "a.vec",
    "123",
    7,
    1.0,
    True,
    float("nan"),
    float("inf"),
    [],
    ["123"],
    {},
    {"a": None},
    "\ud800",
    "\0",
]
VALUES += [
    "~/a.vec",
    "https://x/a.vec",
    "a\\b.vec",
    "/a.vec",
    "../a.vec",
    "a" * 5000 + ".vec",
    "\u2028",
    "é" * 300 + ".word",
]
KEYS = ["word", "vector", "id", "labels", "references", "Word", "word ", "", "_"]
WRAPS = [
    "{}",
    "{},",
    "[{}]",
    "\ufeff{}",
    "{}\n{}",
    "{}{}",
    "  {}\t",
    "{}\x00",
    '{{"word": "1"}}\n{}',
    "{}\r\n\r\n{}",
    "[\n{}\n]",
    "{}\x1a",
]


def test_any_manifest_is_read_or_refused_in_a_line(tmp_path):
    """Every value at every key in every wrapping, and mixtures of these by a fixed seed, cut and flipped too."""
    draw = random.Random(0)
    (tmp_path / "a.vec").write_text("1 2 3")
    entries = [
        base | {key: value}
        for base in ({}, {"word": "123"})
        for key, value in product(KEYS, VALUES)
    ]
    entries += [
        {key: draw.choice(VALUES) for key in draw.sample(KEYS[:5], 3)}
        for _ in range(150)
    ]
    entries += [
        {"word": "123", draw.choice(("labels", "references")): {"word": value}}
        for value in VALUES
    ]
    lines = [
        wrap.replace("{}", json.dumps(entry, ensure_ascii=draw.random() < 0.5))
        for entry in entries
        for wrap in ("{}", *draw.sample(WRAPS, 2))
    ]
    contents = [line.encode("utf-8", "surrogatepass") for line in lines]
    for content in draw.sample(contents, 100):
        place = draw.randrange(len(content))
        contents += [
            content[:place],
            content[:place] + draw.randbytes(1) + content[place + 1 :],
        ]

    outcomes = Counter()
    for content in contents:
        (tmp_path / "m.jsonl").write_bytes(content)
        for outcome, what in visit(tmp_path / "m.jsonl"):
            outcomes[outcome] += 1
            assert outcome in ("read", "refused"), (content, what)
    assert min(outcomes.values()) > 100, outcomes


def visit(path):
    """What becomes of a manifest and of each of its samples."""
    try:
        manifest = Manifest.read(path, KNOWN)
    except ValueError as error:
        yield "refused" if one_line(error, "m.jsonl") else "another error", repr(error)
        return
    for sample in manifest.samples:
        for name in sample.values:
            try:
                manifest.read_references(
                    sample, name, {"word": Word(), "vector": Vector()}[name]
                )
                yield "read", ""
            except ValueError as error:
                named = one_line(error, f"(sample '{sample.id}' of ")
                yield "refused" if named else "another error", repr(error)


def one_line(error, part):
    return (
        type(error) is ValueError
        and "\n" not in str(error)
        and " ".join(part.split()) in str(error)
    )


def test_names_that_are_no_utf8_survive_a_manifest(tmp_path):
    name = os.fsdecode(b"caf\xe9.vec")
    (tmp_path / name).write_text("1 2 3")
    write_manifest(tmp_path / "m.jsonl", [{"vector": name}, {"word": "é"}])
    assert (tmp_path / "m.jsonl").read_bytes().endswith('{"word": "é"}\n'.encode())
    manifest = Manifest.read(tmp_path / "m.jsonl", KNOWN)
    assert manifest.read_raw(manifest.samples[0], "vector", Vector()).tolist() == [
        1,
        2,
        3,
    ]
