"""Released models are whole: what codecs need lies in the folder, and nothing outside of it is read."""

import json

import pytest
import torch
from flowbind_image import Image
from flowbind_image.small import SmallImage
from flowbind_image.unclip import ClipUnclip
from flowbind_text import Text
from flowbind_text.prefix_lm import SentencePrefixLM

import flowbind
from flowbind.files import digest
from tests.released import as_received, release
from tests.toy import Vector, Word


@pytest.fixture
def weights(tmp_path):
    """Weights that somebody trained."""
    (tmp_path / "mine").mkdir()
    file = tmp_path / "mine/trained.safetensors"
    file.write_bytes(SmallImage.shipped.read_bytes())
    return file


def test_weights_come_along(weights, capsys):
    codec = as_received(Image(SmallImage(str(weights))), "image", weights.parent)
    assert f"has a copy of {weights}" in capsys.readouterr().err
    assert codec.file.read_bytes() == SmallImage.shipped.read_bytes()
    assert codec.fingerprint() == SmallImage().fingerprint()
    # What was received can be given away.
    again = release(codec.file.parents[3] / "again", image=Image(codec))
    assert flowbind.load(again).modality("image").codec.file.is_relative_to(again)


def test_missing_weights_are_told_when_the_model_is_written(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        release(
            tmp_path / "model",
            image=Image(SmallImage(str(tmp_path / "none.safetensors"))),
        )


def test_a_clone_without_its_large_files_says_so(toys, tmp_path):
    folder = release(tmp_path / "model", word=Word(), vector=Vector())
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (folder / "model.safetensors").write_text(pointer)
    with pytest.raises(ValueError, match=r"model\.safetensors: a pointer of Git LFS"):
        flowbind.load(folder)


def test_names_on_a_hub_stay_names(tmp_path):
    made = release(
        tmp_path / "model",
        text=Text(SentencePrefixLM(revision="1234567", language_revision="v1")),
        image=Image(ClipUnclip(revision="89abcde")),
    )
    text, image = (
        flowbind.load(made).modality(name).codec for name in ("text", "image")
    )
    assert (text.encoder, text.revision, text.language_revision) == (
        "google/embeddinggemma-300m",
        "1234567",
        "v1",
    )
    assert (image.pretrained, image.revision) == ("openai", "89abcde")
    assert not (made / "codecs").exists()


OUTSIDE = [
    "{outside}",
    "codecs/../../mine/trained.safetensors",
    "../mine/trained.safetensors",
    "model.json",
    "codecs",
    "",
]


@pytest.mark.parametrize("path", OUTSIDE)
@pytest.mark.parametrize("place", ["files", "args"])
def test_a_path_that_leaves_the_folder_is_refused(
    weights, tmp_path, monkeypatch, path, place
):
    made = release(tmp_path / "model", image=Image(SmallImage(str(weights))))
    monkeypatch.chdir(tmp_path / "model")
    description = json.loads((made / "model.json").read_text())
    codec = description["method"]["args"]["modalities"]["image"]["args"]["codec"]
    codec["files"] = {}
    codec[place]["weights"] = path.format(outside=weights)
    (made / "model.json").write_text(json.dumps(description))
    with pytest.raises(
        ValueError,
        match=r"model.json: not a released model's description .*allowed are model.safetensors",
    ):
        flowbind.load(made)


def test_a_name_that_is_a_path_here_is_refused(tmp_path, monkeypatch):
    made = release(
        tmp_path / "model", text=Text(SentencePrefixLM(encoder="some/encoder"))
    )
    monkeypatch.chdir(tmp_path)
    flowbind.load(made)
    (tmp_path / "some/encoder").mkdir(parents=True)
    with pytest.raises(ValueError, match="names 'some/encoder'"):
        flowbind.load(made)


# Codecs that ship


def test_shipped_weights_come_along(tmp_path, monkeypatch):
    """A later version may ship others: what a model decodes by stays with it."""
    folder = release(tmp_path / "model", image=Image())
    (copy,) = (folder / "codecs/image").iterdir()
    assert copy.read_bytes() == SmallImage.shipped.read_bytes()

    latents = torch.randn(2, *SmallImage.shape)
    before = flowbind.load(folder).codec("image", "decode").decode(latents)
    monkeypatch.setattr(SmallImage, "shipped", tmp_path / "another.safetensors")
    loaded = flowbind.load(folder).codec("image", "decode")
    assert loaded.fingerprint()["weights"] == digest(copy)
    for one, other in zip(before, loaded.decode(latents), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("number", [2])
def test_an_earlier_model_without_them_is_refused_in_a_line(number, tmp_path):
    folder = release(tmp_path / "model", image=Image())
    config = folder / "model.json"
    description = json.loads(config.read_text()) | {"format": number}
    codec = description["method"]["args"]["modalities"]["image"]["args"]["codec"]
    codec["files"] = {}
    codec["args"]["weights"] = None
    config.write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"holds no weights of codecs .*\(image\)"):
        flowbind.load(folder)
