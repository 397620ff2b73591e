"""Laws of captions as ids of words: lossless for known words; what is lost is marked, cut, counted and said."""

import json
import sys
from itertools import chain

import numpy as np
import pytest
import torch
from flowbind_shapes.caption import (
    COLOUR_WORDS,
    SHAPE_WORDS,
    SIZE_WORDS,
    TEMPLATES,
    describe,
    with_articles,
)
from flowbind_shapes.scene import draw
from flowbind_text import Text
from flowbind_text.vocabulary import END, words_of
from flowbind_text.word_tokens import FIRST, UNKNOWN, WordTokens
from flowbind_text.words import learn_words, main, read_words
from lightning.pytorch import Trainer

from flowbind.codec import Codec, kind_of
from flowbind.data.encoding import encode
from flowbind.data.manifest import write_manifest
from flowbind.testing import check_modality

CAPTIONS = ["a red ball", "look, an aqua ring, quite big.", "here is a golden box"]
LONG = "a red ball and " * 6


@pytest.fixture(scope="module")
def codec() -> WordTokens:
    return WordTokens()


def generated(count: int) -> list[str]:
    generator = np.random.default_rng(7)
    return describe(draw(count, generator), generator)


def test_the_laws_hold(codec, tmp_path):
    check_modality(Text(codec), CAPTIONS, tmp_path)


def test_captions_of_the_embedded_world_come_back_word_for_word(codec):
    captions = generated(20_000)
    latents = codec.encode(captions)
    assert codec.decode(latents) == captions
    assert latents.shape == (20_000, *codec.shape)
    assert latents.dtype == codec.dtype == torch.int64
    assert ((latents != UNKNOWN) & (latents < codec.vocabulary)).all()
    assert not any(map(codec.caveat, captions))


def test_the_shipped_words_are_those_of_the_world_s_grammar(codec):
    """And every sentence form has room, so no caption at all is cut."""
    of_factors = [
        list(chain(*words.values()))
        for words in (SHAPE_WORDS, COLOUR_WORDS, SIZE_WORDS)
    ]
    longest = max(map(len, of_factors))
    words = set()
    for template in TEMPLATES:
        for number in range(longest):
            shape, colour, size = (each[number % len(each)] for each in of_factors)
            sentence = template.format(shape=shape, colour=colour, size=size)
            pieces = words_of(with_articles(sentence) + ".")
            assert len(pieces) < codec.length  # and room for an end
            words.update(pieces)
    assert set(codec.ids) == words
    assert codec.vocabulary == len(words) + FIRST


def test_ids_ends_and_filling(codec):
    """By hand: the words in their order, then ends."""
    (row,) = codec.encode(["a red ball."])
    words = [codec.pieces[id] for id in row[:4]]
    assert words == [" a", " red", " ball", "."]
    assert (row[:4] >= FIRST).all()
    assert (row[4:] == END).all()
    assert codec.decode(row[None]) == ["a red ball."]


def test_nothing_behind_the_first_end_is_read(codec):
    row = codec.encode(["a red ball"])[0]
    row[4:] = codec.ids[" box"]
    assert codec.decode(row[None]) == ["a red ball"]


def test_any_ids_are_a_caption(codec):
    """One line with a word, which encodes: what is drawn at random becomes a file, too."""
    ids = torch.randint(codec.vocabulary, (500, codec.length))
    ids[0] = END
    text = Text(codec)
    for caption in codec.decode(ids):
        assert text.accept(caption) == caption
    assert codec.decode(ids)[0] == "?"


def test_a_list_of_any_captions_is_lossless_for_them(tmp_path):
    captions = ["¿Qué? sí — nó!", "größer, 北京 x_y", 'it\'s "5.0" <b> \\ a', ", b"]
    path = tmp_path / "words.json"
    path.write_text(json.dumps(learn_words(captions, 99)))
    codec = WordTokens(str(path), length=14)
    assert codec.decode(codec.encode(captions)) == captions


# What is lost


def test_an_unknown_word_is_marked_and_said(codec):
    row = codec.encode(["a red zebra, quite big"])
    assert codec.decode(row) == ["a red <unknown>, quite big"]
    assert (row == UNKNOWN).sum() == 1
    assert "lacks, 'zebra', and is marked <unknown>" in codec.caveat("a red zebra")


def test_a_long_caption_is_cut_and_it_is_said(codec):
    row = codec.encode([LONG])
    assert (row != END).all()
    assert codec.decode(row) == [" ".join(LONG.split()[: codec.length])]
    assert codec.caveat(LONG.strip()) == "is cut: 24 words, of which the codec reads 16"
    assert not codec.caveat(" ".join(LONG.split()[:16]))
    # What is cut off needs no mark, and both may be.
    assert "lacks" not in codec.caveat(LONG + "zebra")
    assert codec.caveat("zebra " + LONG).startswith("is cut: 25 words")
    assert "'zebra'" in codec.caveat("zebra " + LONG)


def test_encoding_counts_each_loss_in_a_line_of_its_own(tmp_path, capsys):
    captions = ["a red zebra", "a blue yak", "a red ball", LONG, LONG + LONG, LONG * 3]
    path = tmp_path / "all.jsonl"
    write_manifest(path, ({"text": caption} for caption in captions))
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    text = {"text": Text(WordTokens())}
    encode(text, path, tmp_path / "store", trainer)
    lines = [line for line in capsys.readouterr().err.splitlines() if "'text'" in line]
    assert len(lines) == 2
    cut, marked = sorted(lines, key=lambda line: "zebra" in line or "yak" in line)
    assert "is cut: 24 words" in cut
    assert cut.endswith(", and 2 more like it")
    assert "is marked <unknown>" in marked
    assert marked.endswith(", and 1 more like it")


def test_caveats_of_one_kind_differ_in_numbers_and_quoted_words():
    codec = WordTokens()
    assert kind_of(codec.caveat("a yak")) == kind_of(codec.caveat("don't box"))
    assert kind_of(codec.caveat(LONG)) == kind_of(codec.caveat(LONG * 9))
    assert kind_of(codec.caveat(LONG)) != kind_of(codec.caveat("a yak"))


# The list, its command, and what is refused


@pytest.fixture
def learn(monkeypatch, capsys):
    """Runs `python -m flowbind_text.words`. Returns the exit code and what was said."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["words", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code
        return code, capsys.readouterr().err

    return run


def test_the_command_learns_the_words_of_a_manifest(tmp_path, learn):
    write_manifest(tmp_path / "all.jsonl", [{"text": "b a b"}, {"text": "b, c"}])
    out = tmp_path / "new" / "words.json"
    code, said = learn(tmp_path / "all.jsonl", "--out", out, "--most", "3")
    assert code == 0, said
    assert read_words(out) == [
        " b",
        " a",
        " c",
    ]  # the most frequent, then by the alphabet
    assert "of 2 captions 1 have no other" in said

    code, said = learn(tmp_path / "missing.jsonl", "--out", out)
    assert (code, said.count("\n")) == (2, 1)
    assert "missing.jsonl" in said


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{}", "not a JSON list of words"),
        ('[" a", 3]', "not a JSON list of words"),
        ('[" a b"]', "not a JSON list of words"),
        ('[" a", " a"]', "' a' twice"),
        ("[", "not JSON"),
    ],
)
def test_a_file_that_is_no_list_is_refused(content, says, tmp_path):
    path = tmp_path / "words.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=says) as refusal:
        WordTokens(str(path)).encode(["a"])
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_ids_out_of_range_are_refused_in_a_line(codec):
    for id in (-1, codec.vocabulary):
        ids = torch.full((1, codec.length), id)
        with pytest.raises(ValueError, match="0 to 115"):
            codec.decode(ids)


def test_the_fingerprint_is_the_words_and_the_length(codec, tmp_path):
    copy = tmp_path / "words.json"
    copy.write_bytes(codec.file.read_bytes())
    same = WordTokens(str(copy))
    assert same.fingerprint() == codec.fingerprint()
    assert WordTokens(length=17).fingerprint() != codec.fingerprint()
    copy.write_text('[" a"]')
    assert WordTokens(str(copy)).fingerprint() != codec.fingerprint()


def test_it_is_made_again_from_its_description(codec):
    again = Codec.rebuild(codec.describe())
    assert again.fingerprint() == codec.fingerprint()
    assert again.files()["words"].is_file()  # released models take it along
