"""Manifests: every mistake in one has its line."""

import pytest

from flowbind.manifest import Manifest, write_manifest
from tests.toy import Vector, Word

KNOWN = ("word", "vector")


def read(tmp_path, text):
    (tmp_path / "m.jsonl").write_bytes(text if isinstance(text, bytes) else text.encode())
    return Manifest.read(tmp_path / "m.jsonl", KNOWN)


def test_what_is_written_is_read(tmp_path):
    write_manifest(tmp_path / "m.jsonl", [{"word": "123", "labels": {"first": 1}}, {"id": "x", "vector": "v/1.vec"}])
    first, second = Manifest.read(tmp_path / "m.jsonl", KNOWN).samples
    assert (first.id, first.values, first.labels) == ("1", {"word": "123"}, {"first": "1"})
    assert (second.id, second.values, second.labels) == ("x", {"vector": "v/1.vec"}, {})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"word": "1"', r"line 2: not JSON"),
        ("[1]", r"line 2: a JSON object is needed, not list"),
        ('{"wrod": "1"}', r"line 2: no modality 'wrod'; did you mean 'word'\? allowed: vector, word"),
        ('{"id": "7"}', r"line 2: no usable modality; it needs at least one of vector, word"),
        ('{"word": 3}', r"line 2: 'word' must be a string"),
        ('{"word": "1", "labels": [1]}', r"line 2: 'labels' must be an object, not list"),
        ('{"word": ["1", "2"]}', r"""line 2: 'word' must be a string.*go into "references": \{"word": \[\.\.\.\]\}"""),
        ('{"word": "1", "references": ["2"]}', r"line 2: 'references' must be an object, not list"),
        ('{"word": "1", "references": {"vector": ["2"]}}', r"'references' of 'vector', which the .* allowed: word"),
        ('{"word": "1", "references": {"word": "2"}}', r"'references' of 'word' must be a list of strings, not \"2\""),
        ('{"word": "1", "references": {"word": ["2", " "]}}', r"'references' of 'word' must be a list of strings"),
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
    with pytest.raises(ValueError, match="not a UTF-8 text file"):
        read(tmp_path, b"\xff\xfe\x00")


def test_literals_and_files(tmp_path):
    (tmp_path / "a.word").write_text("321")
    manifest = read(tmp_path, '{"word": "a.word"}\n{"word": "123"}\n{"vector": "none.vec"}\n')
    assert manifest.read_raw(manifest.samples[0], "word", Word()) == "321"
    assert manifest.read_raw(manifest.samples[1], "word", Word()) == "123"
    with pytest.raises(ValueError, match=r"none\.vec: no such file \(sample '3' of .*m\.jsonl\)"):
        manifest.read_raw(manifest.samples[2], "vector", Vector())
    (tmp_path / "none.vec").write_text("1 2")
    with pytest.raises(ValueError, match=r"none\.vec: damaged; .* \(sample '3'"):
        manifest.read_raw(manifest.samples[2], "vector", Vector())


def test_references_are_the_own_value_and_the_others(tmp_path):
    (tmp_path / "b.word").write_text("222")
    lines = ['{"word": "111"}', '{"word": "111", "references": {"word": ["b.word", "333"]}}']
    lines.append('{"word": "111", "references": {"word": ["333", "111", "333", "111"]}}')
    manifest = read(tmp_path, "\n".join(lines))
    every = [manifest.read_references(sample, "word", Word()) for sample in manifest.samples]
    assert every == [["111"], ["111", "222", "333"], ["111", "333", "333", "111"]]
    assert [manifest.read_raw(sample, "word", Word()) for sample in manifest.samples] == ["111"] * 3
    (tmp_path / "b.word").unlink()
    with pytest.raises(ValueError, match=r"b\.word.*\(sample '2' of .*m\.jsonl\)"):
        manifest.read_references(manifest.samples[1], "word", Word())
