"""Codecs that encode only: their modalities are sources everywhere, and refused as targets."""

import json

import pytest
import yaml
from PIL import Image

import flowbind
from flowbind.data.promise import can_decode
from flowbind.evaluation import gallery
from flowbind.testing import LAWS, Subject
from flowbind.testing.modality import decoding_gives_samples
from tests.toy import MuteWordCodec, Word

WORDS = ["203", "111", "330", "002"]


class Boaster(MuteWordCodec):
    """Says that it cannot decode, and does."""

    def decode(self, latents, generator=None):
        return ["000"] * len(latents)


class Rambler(MuteWordCodec):
    """Says it at length."""

    def decode(self, latents, generator=None):
        raise ValueError("no\nway")


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_laws_of_a_modality_need_no_way_back(law, toys, tmp_path):
    if "damaged" in law.__name__:
        pytest.skip("a toy's word does not name its file")
    law(Subject(Word(MuteWordCodec()), WORDS, tmp_path))


@pytest.mark.parametrize(
    ("codec", "says"), [(Boaster, "decodes all the same"), (Rambler, "encodes only")]
)
def test_a_codec_that_encodes_only_says_so_in_a_line(codec, says, tmp_path):
    with pytest.raises(AssertionError, match=says):
        decoding_gives_samples(Subject(Word(codec()), WORDS, tmp_path))


def test_nothing_can_be_promised_of_a_way_back():
    assert not can_decode(MuteWordCodec())


@pytest.fixture
def recipe(world):
    """The toy world's recipe, whose words can be encoded only."""
    recipe = yaml.safe_load((world / "recipe.yaml").read_text())
    words = {"class_path": "word", "init_args": {"codec": {"class_path": "mute-word"}}}
    recipe["model"]["init_args"]["modalities"]["word"] = words
    (world / "mute.yaml").write_text(yaml.safe_dump(recipe))
    return world / "mute.yaml"


def test_a_source_alone_from_files_to_files(world, recipe, command, monkeypatch):
    """Store, training, test, gallery and generation; as a target it is refused in a line."""
    code, _, err = command("encode", "--config", recipe)
    assert code == 0, err
    for split, count in (("train", 512), ("test", 128)):
        files = (world / "files" / split).glob("*.word")
        lost = sum("3" in file.read_text() for file in files)
        assert 0 < lost < count
        assert f"has a digit above 2, and {lost - 1} more like it" in err

    code, _, err = command("fit", "--config", recipe)
    assert code == 0, err

    shown = []
    compose = gallery.compose
    monkeypatch.setattr(
        "flowbind.evaluation.evaluation.compose",
        lambda rows, names: shown.append((rows, names)) or compose(rows, names),
    )
    code, _, err = command("test", "--config", recipe)
    assert code == 0, err
    assert "'word' is judged as a source alone: its codec, MuteWordCodec" in err
    metrics = json.loads((world / "run/metrics.json").read_text())
    assert set(metrics["directions"]) == {"word->vector", "vector->vector"}
    assert set(metrics["codecs"]) == set(metrics["floors"]) == {"vector"}
    joint = metrics["directions"]["word->vector"]["accuracy/joint[probe,n=128]"]
    assert joint > 0.9

    ((rows, names),) = shown
    assert names == ["vector"]
    assert {row.source for row in rows} == {"word", "vector"}
    for row in rows:
        kind = str if row.source == "word" else Image.Image
        assert isinstance(row.real, kind)  # the sample itself, not a decoded one
        assert set(row.generated) == {"vector"}

    model = flowbind.load(world / "run/model")
    assert len(model.generate({"word": WORDS}, "vector")["vector"]) == len(WORDS)
    with pytest.raises(ValueError, match="'word' is a source alone"):
        model.generate({"word": WORDS}, ["vector", "word"])
    code, _, err = command(
        *("generate", world / "run/model", "--from", "word=203", "--to", "word"),
        *("--out", world / "made"),
    )
    assert (code, "'word' is a source alone" in err) == (2, True), err
    assert not (world / "made").exists()


def test_a_method_of_which_nothing_could_be_decoded_is_refused_before_work(
    world, recipe, command
):
    mute = yaml.safe_load(recipe.read_text())
    modalities = mute["model"]["init_args"]["modalities"]
    codec = {"class_path": "mute-word"}
    again = {"class_path": "word", "init_args": {"reads": "word", "codec": codec}}
    modalities["vector"] = again
    recipe.write_text(yaml.safe_dump(mute))
    code, _, err = command("fit", "--config", recipe)
    assert (code, "is a source alone" in err) == (2, True), err
    assert "Traceback" not in err
    assert not (world / "run").exists()
