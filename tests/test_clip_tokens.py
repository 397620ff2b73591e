"""Laws of captions as ids of CLIP's tokens, with the pieces that open_clip's package carries."""

import sys
from importlib.machinery import ModuleSpec

import numpy as np
import pytest
import torch
from flowbind_shapes.caption import describe
from flowbind_shapes.scene import draw
from flowbind_text import Text
from flowbind_text.clip_tokens import END, START, ClipTokens

from flowbind.registry import name_of
from flowbind.testing import check_modality

CAPTIONS = [
    "a man riding a wave on top of a surfboard.",
    "it's a black-and-white cat, isn't it?",
    "two dogs (and a ball), 3.5 m tall; 10,000 of them!",
    "größer, 北京 und 12:30 & more",
    "red",
]


@pytest.fixture(scope="module")
def codec() -> ClipTokens:
    return ClipTokens(length=40)


def test_the_laws_hold(codec, tmp_path):
    assert name_of("codecs", ClipTokens) == "clip-tokens"
    check_modality(Text(codec), CAPTIONS, tmp_path)


def test_captions_come_back_both_ways(codec):
    generator = np.random.default_rng(3)
    captions = CAPTIONS + describe(draw(3000, generator), generator)
    latents = codec.encode(captions)
    assert codec.decode(latents) == captions
    assert torch.equal(codec.encode(codec.decode(latents)), latents)
    assert not any(map(codec.caveat, captions))


def test_ids_are_open_clips_own_without_the_start(codec):
    expected = codec.tokenizer(CAPTIONS, context_length=41)
    assert (expected[:, 0] == START).all()
    expected = expected[:, 1:]
    latents = codec.encode(CAPTIONS)
    is_word = expected.masked_fill(expected == END, 0) > 0
    assert torch.equal(latents[is_word], expected[is_word])
    assert (latents[~is_word] == END).all()  # the end is the filling, too
    assert codec.vocabulary == END + 1 == len(codec.tokenizer.encoder)


def test_no_model_of_open_clip_is_imported(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "open_clip"]:
        monkeypatch.delitem(sys.modules, name)
    ClipTokens().encode(CAPTIONS)
    assert "open_clip" not in sys.modules


@pytest.mark.parametrize("spec", [None, ModuleSpec("open_clip", None)])
def test_without_open_clip_a_line_says_how_to_install_it(monkeypatch, spec):
    """Nor is a folder of that name, which Python takes for a package, open_clip."""
    monkeypatch.setattr("flowbind.libraries.find_spec", lambda name: spec)
    with pytest.raises(ValueError, match="CLIP's tokens needs open_clip; install it"):
        ClipTokens().encode(CAPTIONS)


def test_what_does_not_come_back_is_said(codec):
    assert codec.decode(codec.encode(["A Red ball"])) == ["a red ball"]
    assert not codec.caveat("A Red ball")  # lower case is no loss that is counted
    assert codec.caveat("wait . . .").startswith("comes back spelled otherwise, 'wait.")
    long = "a red ball and " * 20
    assert codec.caveat(long) == "is cut: 80 tokens, of which the codec reads 40"
    assert (codec.encode([long]) < START).all()


def test_any_ids_are_a_caption_and_none_beyond_the_vocabulary_are(codec):
    text = Text(codec)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(codec.vocabulary, (200, 40), generator=generator)
    ids[0] = END
    ids[1] = START
    captions = codec.decode(ids)
    assert captions[:2] == ["?", "?"]
    for caption in captions:
        assert text.accept(caption) == caption
    with pytest.raises(ValueError, match="has 0 to 49407"):
        codec.decode(torch.full((1, 40), codec.vocabulary))
    assert (codec.encode(["a <end_of_text> b"])[0, :2] < START).all()
