"""What was generated saves and shows itself; a model, a store and a manifest tell what they are."""

import copy
import pickle

import pytest
import torch
from PIL import Image

import flowbind
from flowbind.exhibit import Cloud, Recording, to_figure, to_html
from tests.released import make_model, release
from tests.toy import Vector, Word


@pytest.fixture
def model(toys):
    torch.manual_seed(0)
    return make_model({"word": Word(), "vector": Vector()})


@pytest.fixture
def outputs(model):
    return model.generate({"word": ["203", "111"]}, to=["vector", "word"])


def test_outputs_are_a_dictionary_of_raw_samples(outputs):
    assert list(outputs) == ["vector", "word"]
    assert outputs["vector"][0].shape == (3,)
    assert outputs == dict(outputs)
    again = pickle.loads(pickle.dumps(outputs))
    assert again["word"] == outputs["word"]
    assert list(copy.deepcopy(outputs).modalities) == ["vector", "word"]


def test_outputs_save_themselves(outputs, tmp_path):
    files = outputs.save(tmp_path / "new" / "folder")
    names = ["0.vector.vec", "0.word.word", "1.vector.vec", "1.word.word"]
    assert [file.name for file in files] == names
    assert torch.allclose(Vector().read(files[2]), outputs["vector"][1])

    files = outputs.save(tmp_path, stems=["a", "b"])
    assert files[3] == tmp_path / "b.word.word"
    with pytest.raises(ValueError, match="1 stems for 2 samples"):
        outputs.save(tmp_path, stems=["a"])


def test_notebooks_show_outputs(outputs):
    page = outputs._repr_html_()
    assert outputs["word"][0] in page
    assert page.count("<img ") == 2


def test_a_string_alone_is_one_sample(model, tmp_path):
    path = tmp_path / "a.vec"
    path.write_text("1 2 3")
    assert len(model.generate({"word": "203"}, "vector")["vector"]) == 1
    assert len(model.generate({"vector": path}, "word")["word"]) == 1


def test_a_model_tells_what_it_is(model):
    lines = repr(model).splitlines()
    count = sum(p.numel() for p in model.networks.parameters())
    assert lines[0] == f"Model: FlowBind, {count:,} parameters, on cpu"
    assert lines[1] == "  word    WordCodec, 8 numbers"
    assert "steps=10" in lines[3]


# Weights of sources.


def by_weights(model, weights):
    """Latents made from two sources that differ."""
    latents = {"word": model.encode("word", ["203"]), "vector": torch.ones(1, 8)}
    return model.translate(latents, ["word"], weights=weights, variety=0.0)["word"]


def test_equal_weights_are_none_to_the_bit(model):
    expected = by_weights(model, None)
    assert torch.equal(by_weights(model, {"word": 2, "vector": 2}), expected)
    assert not torch.equal(by_weights(model, {"word": 2}), expected)


def test_a_source_of_no_weight_does_not_count(model):
    alone = model.translate({"vector": torch.ones(1, 8)}, ["word"], variety=0.0)["word"]
    assert torch.allclose(by_weights(model, {"word": 0}), alone, atol=1e-5)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"worm": 1}, "no source; allowed: word"),
        ({"word": -1}, "at least 0"),
        ({"word": 0}, "one of them above 0"),
        ({"word": "x"}, "finite numbers"),
    ],
)
def test_weights_that_cannot_be_are_refused(model, weights, words):
    with pytest.raises(ValueError, match=words):
        model.generate({"word": "203"}, "vector", weights=weights)


def test_a_weight_on_the_command_line(model, command, tmp_path):
    flowbind.save(model, tmp_path / "model")
    (tmp_path / "a.vec").write_text("1 2 3")
    common = ["generate", tmp_path / "model", "--from", "word=203", "--from"]
    common += [f"vector={tmp_path / 'a.vec'}", "--to", "vector", "--variety", "0"]

    vectors = {}
    for weight in ("1", "5"):
        out = tmp_path / weight
        code, printed, err = command(
            *common, "--weight", f"word={weight}", "--out", out
        )
        assert code == 0, err
        vectors[weight] = Vector().read(printed.strip())
    assert not torch.equal(vectors["1"], vectors["5"])

    code, _, err = command(*common, "--weight", "word=much", "--out", out)
    assert code == 2
    assert "--weight takes NAME=NUMBER" in err


# flowbind info


def test_info_tells_what_paths_hold(world, command, tmp_path):
    release(tmp_path / "model", word=Word(), vector=Vector())
    code, _, err = command("encode", "--config", world / "recipe.yaml")
    assert code == 0, err
    paths = [tmp_path / "model", world / "data/latents", world / "data/train.jsonl"]
    code, out, err = command("info", *paths)
    assert code == 0, err
    assert "Model: FlowBind" in out
    assert "makes word->word, word->vector" in out
    assert "a latent store: 512 samples" in out
    assert "512 latents of 8 F32, by WordCodec" in out
    assert "a manifest: 512 samples" in out
    assert "512 of word+vector" in out or "512 of vector+word" in out
    assert "label first: " in out

    code, out, err = command("info", world / "data")
    assert code == 0, err
    assert "\n  train.jsonl:\n    a manifest: 512 samples" in out


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere", "nothing is there; give a released model, a latent store"),
        (".", "no released model, no latent store and no manifest"),
        ("hf:owner", "a model on the hub is hf:OWNER/NAME"),
        ("memory://bucket/nowhere", "memory://bucket/nowhere: no latent store there"),
        ("memory://bucket/a.jsonl", "memory://bucket/a.jsonl: no such file"),
        ("", "takes a path, not an empty one"),
    ],
)
def test_info_of_nothing_is_one_line(command, tmp_path, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWBIND_CACHE", str(tmp_path / "copies"))
    code, _, err = command("info", name)
    assert code == 2
    assert err.count("\n") == 1
    assert words in err


# Exhibits.


def test_exhibits_are_elements_that_need_nothing_else():
    assert to_html("a < b") == '<p class="words">a &lt; b</p>'
    assert to_html(Image.new("RGB", (4, 4))).startswith(
        '<img src="data:image/png;base64,'
    )
    film = to_html(Recording(b"x", "video/mp4"))
    assert film.startswith('<video controls preload="metadata" src="data:video/mp4;')
    figure = to_figure(Recording(b"x", "audio/flac"), "words")
    assert figure.startswith('<p class="words">words</p><audio')
    with pytest.raises(TypeError, match="int is none"):
        to_html(3)


def test_large_pictures_are_reduced_where_that_is_asked():
    picture = Image.effect_noise((600, 400), 50)
    small = to_html(picture, longest=100)
    assert small.startswith('<img src="data:image/webp')
    assert len(small) < 10_000 < len(to_html(picture))


def test_large_clouds_lose_points_evenly():
    places = torch.linspace(-2, 2, 30_000).reshape(10_000, 3)
    html = to_html(Cloud(places, torch.ones(10_000, 3), extent=2.0))
    code = html.partition('packed="')[2].partition('"')[0]
    assert len(code) == pytest.approx(3334 * 9 * 4 / 3, abs=4)
