"""Names of what is generated: whatever people write, every sample gets a file of its own that they find."""

import itertools
import unicodedata
from pathlib import Path

import pytest

from flowbind.cli.names import stems

WORDS = [
    "a large red torus",
    "🐶🐱",
    "???",
    "!!!",
    "...",
    ".hidden",
    "../../etc/passwd",
    "/",
    "\\",
    "a/b:c*d?",
    "x" * 5000,
    "赤い大きな輪が静かな部屋の真ん中でゆっくりと回っているところを描いた絵ですとても綺麗"
    * 9,
    "नमस्ते दुनिया",
    "é" * 300,
    "e\N{COMBINING ACUTE ACCENT}" * 300,
    "مرحبا بالعالم",
    "\N{ZERO WIDTH JOINER}",
    "\u202e" + "gnp.exe",
    "CON",
    "-rf",
    "~",
    "$(reboot)",
    "a\nb\tc",
    "\udcff",
    "a" * 60,
    "a" * 61,
]


def lawful(stem):
    """What every file system takes: as a name with a modality's name and a suffix behind it, visible, and no option."""
    assert 0 < len(stem.encode()) <= 170
    assert stem[0] not in ".-+ "
    assert not set(stem) & set('/\\:*?"<>|\n\t\0')
    assert stem == unicodedata.normalize("NFC", stem)


@pytest.mark.parametrize("words", WORDS)
def test_any_words_name_a_file(words, tmp_path):
    (stem,) = stems({"text": [words]})
    lawful(stem)
    (tmp_path / f"{stem}.some_modality.safetensors").touch()
    assert [path.name for path in tmp_path.glob("[!.]*")] == [
        f"{stem}.some_modality.safetensors"
    ]


def test_what_is_readable_stays_so():
    assert stems({"text": ["A large, red torus!"]}) == ["A-large-red-torus"]
    assert stems({"text": ["नमस्ते दुनिया"]}) == ["नमस्ते-दुनिया"]
    assert stems(
        {"text": ["a b", "c"], "image": [Path("x/17.png"), Path("18.png")]}
    ) == [
        "0-a-b+17",
        "1-c+18",
    ]
    assert stems({"text": ["a"] * 11})[0] == "00-a"


def test_other_words_have_other_names_where_something_is_lost():
    """Also of two commands, each with one prompt: prompts that agree in their first forty characters, or in nothing kept."""
    common = "a photograph of a very large and very red torus "
    given = [
        common + "on a table",
        common + "on a chair",
        "🐶",
        "🐱",
        "???",
        "!",
        "x" * 61,
        "x" * 62,
        "輪" * 21,
        "輪" * 22,
    ]
    names = [stems({"text": [words]})[0] for words in given]
    assert len({name.casefold() for name in names}) == len(given)


def test_many_long_sources_still_fit():
    for count in range(1, 9):
        sources = {str(number): [WORDS[11][number:]] for number in range(count)}
        lawful(stems(sources)[0])
    others = [
        stems({"a": ["x" * 70], "b": ["y" * 70 + end], "c": ["z" * 70]})[0]
        for end in ("", "y")
    ]
    assert others[0] != others[1]


def test_a_batch_has_no_name_twice():
    for words in itertools.combinations(WORDS, 2):
        names = stems({"text": [*words, *words]})
        assert len({name.casefold() for name in names}) == 4
