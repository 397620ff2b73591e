"""Laws of token features: MiniLM's from its package, CLIP's and T5's by small random models of the very classes."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from flowbind_text import Text
from flowbind_text.token_features import TokenFeatures
from lightning.pytorch import Trainer
from safetensors.torch import load_file, save_file

from flowbind.data.encoding import encode
from flowbind.data.manifest import write_manifest
from flowbind.libraries import Extra
from flowbind.nets.standardizer import STD_FLOOR, Standardizer
from flowbind.testing import check_modality
from tests.tiny_text import save_clip_text, save_t5

CAPTIONS = ["a red ball", "the big blue ring, painted.", "here is a golden box", "red"]
LONG = "a ball and " * 40
WIDTHS = {"clip": 32, "clip_whole": 32, "t5": 24}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Folders `clip`, its text tower alone, `clip_whole`, with that of pictures, and `t5`."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    save_clip_text(folder / "clip", folder / "clip_whole")
    save_t5(folder / "t5")
    return folder


def tiny(models: Path, name: str, length: int = 32, **more) -> TokenFeatures:
    return TokenFeatures(
        **{"encoder": str(models / name), "length": length, "width": WIDTHS[name]}
        | more
    )


@pytest.fixture(scope="module", params=["minilm", *WIDTHS])
def codec(request, models) -> TokenFeatures:
    """MiniLM as it is packaged, and each small model."""
    return TokenFeatures() if request.param == "minilm" else tiny(models, request.param)


def features_of(codec, caption: str) -> torch.Tensor:
    """By the library alone: the last hidden states of one caption's tokens."""
    ids = codec.tokens.tokenizer(caption, return_tensors="pt")["input_ids"]
    return codec.tokens.model(input_ids=ids).last_hidden_state[0]


def test_the_laws_hold(codec, tmp_path):
    check_modality(Text(codec), CAPTIONS, tmp_path)


def test_latents_are_the_hidden_states_and_a_mask(codec):
    latents = codec.encode(CAPTIONS)
    assert latents.shape == (4, codec.length, codec.width + 1)
    assert latents.dtype == codec.dtype == torch.float16
    for latent, caption in zip(latents, CAPTIONS, strict=True):
        expected = features_of(codec, caption)
        count = len(expected)
        torch.testing.assert_close(
            latent[:count, :-1].float(), expected, atol=2e-3, rtol=2e-3
        )
        assert latent[:, -1].tolist() == [1.0] * count + [0.0] * (codec.length - count)
        assert not latent[count:].any()
    assert len({int(latent[:, -1].sum()) for latent in latents}) > 1


def test_neither_padding_nor_company_touches_a_feature(codec):
    """To the bit: beside a caption of any length, in any number, in a longer latent."""
    alone = torch.cat([codec.encode([caption]) for caption in CAPTIONS])
    among = codec.encode([*CAPTIONS * 9, LONG])
    assert torch.equal(among[:-1].view(9, *alone.shape), alone.expand(9, -1, -1, -1))

    length = codec.length + 9
    roomy = TokenFeatures(codec.encoder, length=length, width=codec.width)
    latents = roomy.encode(CAPTIONS)
    assert torch.equal(latents[:, : codec.length], alone)
    assert not latents[:, codec.length :].any()


def test_what_fills_a_caption_up_is_never_looked_at(codec):
    """To the bit: whatever tokens stand behind the last one."""
    (tokens,) = codec.tokens.fill_up(codec.tokens.cut(["a red ball"], codec.length))
    count = int(tokens[1].sum())
    assert count < tokens.shape[1]
    others = tokens.clone()
    others[0, count:] = tokens[0, 1]
    with torch.inference_mode():
        one, other = (
            codec.tokens.read(each.expand(16, -1, -1)) for each in (tokens, others)
        )
    assert torch.equal(one[:, :count], other[:, :count])


def test_a_long_caption_is_cut_and_it_is_said(codec):
    ids = codec.tokens.tokenizer(LONG)["input_ids"]
    (cut,) = codec.encode([LONG])
    assert cut[:, -1].all()
    (kept,) = codec.tokens.cut([LONG], codec.length)
    assert len(kept) == codec.length
    assert kept[:-1] == ids[: codec.length - 1]
    assert kept[-1] == ids[-1]  # the end that the encoder puts behind every caption

    assert (
        codec.caveat(LONG) == f"is cut: {len(ids)} tokens, "
        f"of which the latent has room for {codec.length}"
    )
    assert not any(codec.caveat(caption) for caption in CAPTIONS)


def test_captions_of_just_the_length_are_whole():
    captions = ["word " * count for count in (17, 18, 19)]  # and two tokens around them
    caveats = [TokenFeatures().caveat(caption) for caption in captions]
    assert [bool(caveat) for caveat in caveats] == [False, False, True]


def test_encoding_counts_what_is_cut_and_keeps_half_the_bytes(tmp_path, capsys):
    texts = [*CAPTIONS, LONG, LONG + "that is blue"]
    manifest = tmp_path / "train.jsonl"
    write_manifest(manifest, ({"text": text} for text in texts))
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    modality = Text(TokenFeatures())
    store = encode({"text": modality}, manifest, tmp_path / "latents", trainer)
    told = capsys.readouterr().err
    assert "is cut: 122 tokens, of which the latent has room for 20" in told
    assert ", and 1 more like it" in told

    field = store.fields["text"]
    assert (tuple(field.shape), field.dtype) == ((20, 385), "F16")
    standard = Standardizer(20, 385, masked=True)
    standard.set(*field.statistics)
    x = standard(TokenFeatures().encode(texts))
    real = x[x[..., -1] == 1][:, :-1]
    torch.testing.assert_close(real.mean(0), torch.zeros(384), atol=5e-3, rtol=0)
    spread = real.std(0, correction=0)
    varies = spread > STD_FLOOR  # in float16 a few do not
    assert varies.sum() > 370
    torch.testing.assert_close(
        spread[varies], torch.ones(int(varies.sum())), atol=5e-3, rtol=0
    )


def test_decoding_says_in_a_line_that_there_is_none(codec):
    assert not codec.decodes
    with pytest.raises(ValueError, match="encodes only") as error:
        codec.decode(codec.encode(CAPTIONS))
    assert "\n" not in str(error.value)


def test_a_clip_model_s_texts_are_those_of_its_text_tower(models, capfd):
    whole, tower = tiny(models, "clip_whole"), tiny(models, "clip")
    latents = whole.encode(CAPTIONS)
    assert not any(capfd.readouterr())  # of weights that are not used
    assert torch.equal(latents, tower.encode(CAPTIONS))


def test_what_cannot_be_used_is_refused_in_a_line(models, tmp_path, monkeypatch):
    def refused(use, *says):
        with pytest.raises(ValueError, match=says[0]) as error:
            use()
        assert "\n" not in str(error.value)
        assert all(part in str(error.value) for part in says)

    refused(lambda: TokenFeatures(length=2), "length is 2")
    refused(
        lambda: tiny(models, "t5", width=25).encode(CAPTIONS), "24", "25", "`width`"
    )
    refused(lambda: tiny(models, "clip", length=99).encode(CAPTIONS), "99", "77")
    nowhere = TokenFeatures("nobody/nothing")
    refused(lambda: nowhere.encode(CAPTIONS), "nobody/nothing", "folder")

    empty = tmp_path / "empty"
    empty.mkdir()
    refused(lambda: TokenFeatures(str(empty)).encode(CAPTIONS), "empty")
    untold = tmp_path / "untold"
    shutil.copytree(models / "clip", untold)
    for file in untold.glob("*token*"):
        file.unlink()
    refused(lambda: TokenFeatures(str(untold)).encode(CAPTIONS), "untold")

    partial = tmp_path / "partial"
    shutil.copytree(models / "t5", partial)
    weights = load_file(partial / "model.safetensors")
    name = next(key for key in weights if "block.1" in key)
    del weights[name]
    save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
    refused(
        lambda: TokenFeatures(str(partial), width=24).encode(CAPTIONS), "lacks", name
    )

    monkeypatch.setitem(sys.modules, "transformers", None)
    refused(lambda: TokenFeatures().encode(CAPTIONS), "MiniLM", str(Extra("text")))


def test_the_fingerprint_is_the_weights_and_what_is_kept(models, tmp_path):
    before = tiny(models, "t5").fingerprint()
    assert tiny(models, "t5", length=25).fingerprint() != before
    moved = tmp_path / "t5"
    shutil.copytree(models / "t5", moved)
    assert tiny(tmp_path, "t5").fingerprint() == before
    with next(moved.glob("*.safetensors")).open("ab") as file:
        file.write(b" ")
    assert tiny(tmp_path, "t5").fingerprint() != before
    hub = TokenFeatures("openai/clip-vit-large-patch14", length=77, width=768)
    assert hub.shape == (77, 769)
    assert hub.fingerprint() == {  # without a download
        "codec": "TokenFeatures",
        "version": 1,
        "encoder": "openai/clip-vit-large-patch14",
        "revision": "main",
        "length": 77,
        "width": 768,
    }


def test_a_released_model_takes_a_folder_along(models):
    assert tiny(models, "clip").files() == {"encoder": models / "clip"}
    assert TokenFeatures().files() == {}
