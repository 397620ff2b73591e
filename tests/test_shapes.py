"""The embedded world: what prepare writes, and that each modality tells the three factors."""

import hashlib
import json
import re
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import soundfile
from flowbind_shapes import audio, caption, dataset, image, points, prepare, view
from flowbind_shapes.palette import PALETTE
from flowbind_shapes.scene import COLOURS, SHAPES, SIZES, Scenes, draw
from flowbind_shapes.solids import RADIUS, SOLIDS
from PIL import Image

MODALITIES = ("text", "image", "audio", "points")
SAMPLES, TEST_SAMPLES = 48, 12
DIGEST = "b9d41d3769b80e4ce44a79c30aa38b13ed069e07b55f34a7445bfce195ffe34a"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("shapes")
    prepare(out, samples=SAMPLES, test_samples=TEST_SAMPLES, seed=3)
    return out


def manifest(world, split):
    return [
        json.loads(line)
        for line in (world / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def digests(world):
    files = sorted(path for path in world.rglob("*") if path.is_file())
    return {
        str(path.relative_to(world)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def scenes_of(shape):
    """Every colour in every size, for one shape."""
    colour, size = np.divmod(np.arange(len(COLOURS) * len(SIZES)), len(SIZES))
    return Scenes(
        shape=np.full(len(size), SHAPES.index(shape)), colour=colour, size=size
    )


# What is written


def test_training_samples_are_pairs_a_third_each_and_the_others_have_everything(world):
    present = [
        tuple(m for m in MODALITIES if m in line) for line in manifest(world, "train")
    ]
    assert Counter(present) == {
        ("text", "image"): 16,
        ("text", "audio"): 16,
        ("image", "points"): 16,
    }
    for split in ("val", "test"):
        lines = manifest(world, split)
        assert len(lines) == TEST_SAMPLES
        assert all(set(MODALITIES) <= set(line) for line in lines)


def test_every_file_belongs_to_exactly_one_sample(world):
    lines = [
        line for split in ("train", "val", "test") for line in manifest(world, split)
    ]
    assert len({line["id"] for line in lines}) == SAMPLES + 2 * TEST_SAMPLES
    named = [line[m] for line in lines for m in MODALITIES[1:] if m in line]
    written = [
        path.relative_to(world).as_posix()
        for m in MODALITIES[1:]
        for path in (world / m).iterdir()
    ]
    assert sorted(named) == sorted(written)


def test_labels_name_one_of_each_factor(world):
    for line in manifest(world, "train"):
        labels = line["labels"]
        assert list(labels) == ["shape", "colour", "size"]
        assert labels["shape"] in SHAPES
        assert labels["colour"] in COLOURS
        assert labels["size"] in SIZES


def test_same_seed_same_bytes_whatever_the_threads(world, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset.os, "cpu_count", lambda: 7)
    prepare(tmp_path, samples=SAMPLES, test_samples=TEST_SAMPLES, seed=3)
    assert digests(tmp_path) == digests(world)


def test_another_seed_and_another_split_share_no_file(world, tmp_path):
    prepare(tmp_path, samples=SAMPLES, test_samples=TEST_SAMPLES, seed=4)
    together = [*digests(world).values(), *digests(tmp_path).values()]
    assert len(set(together)) == len(together)


def test_files_have_the_stated_formats(world):
    line = manifest(world, "test")[0]
    with Image.open(world / line["image"]) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (64, 64))
    about = soundfile.info(world / line["audio"])
    assert (about.format, about.subtype, about.samplerate, about.channels) == (
        "WAV",
        "PCM_16",
        16_000,
        1,
    )
    assert about.frames == 16_000
    header, _, body = (world / line["points"]).read_bytes().partition(b"end_header\n")
    assert header.decode().splitlines() == [
        "ply",
        "format binary_little_endian 1.0",
        "element vertex 1024",
        *(f"property float {axis}" for axis in "xyz"),
        *(f"property uchar {channel}" for channel in ("red", "green", "blue")),
    ]
    assert len(body) == 1024 * 15


@pytest.mark.parametrize("wrong", [{"samples": 2}, {"test_samples": 0}, {"seed": -1}])
def test_impossible_numbers_are_refused_before_anything_is_written(tmp_path, wrong):
    with pytest.raises(
        ValueError,
        match=f"{next(iter(wrong))} is {next(iter(wrong.values()))}, allowed",
    ):
        prepare(tmp_path, **wrong)
    assert not list(tmp_path.iterdir())


# Chosen modalities


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    out = tmp_path_factory.mktemp("chosen")
    prepare(
        out,
        samples=SAMPLES,
        test_samples=TEST_SAMPLES,
        seed=3,
        modalities="depth+text+image",
    )
    return out


def test_every_sample_has_the_modalities_that_are_chosen_and_no_other_file(chosen):
    for split, count in (
        ("train", SAMPLES),
        ("val", TEST_SAMPLES),
        ("test", TEST_SAMPLES),
    ):
        lines = manifest(chosen, split)
        assert len(lines) == count
        for line in lines:
            assert list(line) == ["id", "text", "image", "depth", "labels"]
    assert {path.name for path in chosen.iterdir()} == {
        *("train.jsonl", "val.jsonl", "test.jsonl"),
        *("image", "depth"),
    }


def test_the_default_is_what_it_was(world):
    """Digests of before there was a choice: of manifests, which are the same on any machine."""
    content = b"".join(
        (world / f"{split}.jsonl").read_bytes() for split in ("train", "val", "test")
    )
    assert hashlib.sha256(content).hexdigest() == DIGEST


def test_test_samples_are_those_of_the_default_whatever_is_chosen(world, chosen):
    for split in ("val", "test"):
        for line, again in zip(
            manifest(world, split), manifest(chosen, split), strict=True
        ):
            assert line["text"] == again["text"]
            assert line["labels"] == again["labels"]
            assert (world / line["image"]).read_bytes() == (
                chosen / again["image"]
            ).read_bytes()


def test_the_order_of_names_does_not_matter_and_a_map_needs_no_picture(
    chosen, tmp_path
):
    numbers = {"samples": SAMPLES, "test_samples": TEST_SAMPLES, "seed": 3}
    (tmp_path / "a").mkdir()
    prepare(tmp_path / "a", **numbers, modalities="image+text+depth")
    assert digests(tmp_path / "a") == digests(chosen)
    (tmp_path / "b").mkdir()
    prepare(tmp_path / "b", **numbers, modalities="depth")
    of_both = digests(chosen)
    for name, digest in digests(tmp_path / "b").items():
        if name.startswith("depth"):
            assert digest == of_both.pop(name)
    assert not [name for name in of_both if name.startswith("depth")]


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ("text+imgae", "the embedded world has no 'imgae'; did you mean 'image'"),
        ("text,image", "has no 'text,image'; .*joined by"),
        ("text+", "has no ''; "),
        ("", "has no ''; allowed: audio, depth, image, points, text"),
        ("text+image+text", "'text' is named twice in 'text.image.text'"),
    ],
)
def test_wrong_modalities_are_refused_before_anything_is_written(tmp_path, wrong, line):
    with pytest.raises(ValueError, match=rf"^modalities: [^\n]*{line}[^\n]*$"):
        prepare(tmp_path, modalities=wrong)
    assert not list(tmp_path.iterdir())


# Scenes and captions


def test_factors_are_uniform_and_independent():
    scenes = draw(20_000, np.random.default_rng(0))
    factors = {
        "shape": (scenes.shape, 6),
        "colour": (scenes.colour, 8),
        "size": (scenes.size, 3),
    }
    for (a, n), (b, m) in combinations(factors.values(), 2):
        expected = 20_000 / (n * m)
        counts = np.bincount(a * m + b, minlength=n * m)
        assert np.abs(counts - expected).max() < 5 * expected**0.5


def test_no_word_means_two_things():
    vocabularies = (caption.SHAPE_WORDS, caption.COLOUR_WORDS, caption.SIZE_WORDS)
    words = [
        word
        for words_of in vocabularies
        for synonyms in words_of.values()
        for word in synonyms
    ]
    plain = re.findall(
        r"[a-z]+", " ".join(re.sub(r"{\w+}", "", form) for form in caption.TEMPLATES)
    )
    assert len(set(words)) == len(words)
    assert not set(words) & set(plain)
    assert len(set(words) | set(plain)) < 250


def test_a_caption_tells_each_factor_once_and_never_only_the_labels():
    scenes = draw(2000, np.random.default_rng(1))
    captions = caption.describe(scenes, np.random.default_rng(2))
    vocabularies = {
        "shape": caption.SHAPE_WORDS,
        "colour": caption.COLOUR_WORDS,
        "size": caption.SIZE_WORDS,
    }
    meaning = {
        w: (f, name)
        for f, words_of in vocabularies.items()
        for name, ws in words_of.items()
        for w in ws
    }
    for text, labels in zip(captions, scenes.labels(), strict=True):
        assert re.fullmatch(r"[a-z]+(,? [a-z]+)*\.?", text), text
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text), text
        words = re.findall(r"[a-z]+", text)
        told = [meaning[word] for word in words if word in meaning]
        assert sorted(told) == sorted(labels.items()), text
        assert len(words) > 3, text
    assert len(set(captions)) > 1800


# Solids


@pytest.mark.parametrize("shape", SHAPES)
def test_points_on_the_surface_are_at_distance_zero_and_within_the_bound(shape):
    u = np.random.default_rng(0).random((5000, 4))
    surface = SOLIDS[shape].surface(u)
    np.testing.assert_allclose(SOLIDS[shape].distance(*surface.T), 0, atol=1e-12)
    assert np.linalg.norm(surface, axis=1).max() < view.BOUND
    assert surface[:, 2].min() == pytest.approx(SOLIDS[shape].bottom, abs=0.01)


@pytest.mark.parametrize("shape", SHAPES)
def test_distance_never_overshoots_the_nearest_point_of_the_surface(shape):
    generator = np.random.default_rng(1)
    surface = SOLIDS[shape].surface(generator.random((20_000, 4)))
    place = generator.uniform(-1.5, 1.5, size=(200, 3))
    nearest = np.sqrt(((place[:, None] - surface) ** 2).sum(-1)).min(axis=1)
    assert (np.abs(SOLIDS[shape].distance(*place.T)) <= nearest + 1e-12).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_surface_is_uniform_by_area(shape):
    """Its moments are those of a thin shell around it, whose volume is area times thickness everywhere."""
    generator, solid = np.random.default_rng(2), SOLIDS[shape]
    place = generator.uniform(-1.1, 1.1, size=(1_000_000, 3))
    shell = place[np.abs(solid.distance(*place.T)) < 0.01]
    surface = solid.surface(generator.random((60_000, 4)))

    def moments(p):
        across = np.hypot(p[:, 0], p[:, 1])
        return [
            f.mean()
            for f in (
                *p.T,
                *(p**2).T,
                across,
                across * p[:, 2],
                across**2 * p[:, 2] ** 2,
                across**4,
            )
        ]

    np.testing.assert_allclose(moments(surface), moments(shell), atol=0.015)


# What each modality shows


@pytest.mark.parametrize("shape", SHAPES)
def test_a_picture_shows_the_colour_on_a_neutral_floor_and_the_size_as_area(shape):
    scenes = scenes_of(shape)
    pictures = (
        image.render(SOLIDS[shape], scenes, np.random.default_rng(0)).astype(float)
        / 255
    )
    saturation = (pictures.max(-1) - pictures.min(-1)) / pictures.max(-1)
    solid = saturation > 0.4
    assert not solid[:, [0, -1]].any()
    assert not solid[:, :, [0, -1]].any()
    area = np.array(
        [solid[scenes.size == k].sum((1, 2)).mean() for k in range(len(SIZES))]
    )
    np.testing.assert_allclose(area / area[-1], RADIUS**2, rtol=0.25)
    # Light scales linear RGB and highlights add white: the direction that remains is the palette's nearest.
    for k in range(len(COLOURS)):
        shown = np.median(
            pictures[scenes.colour == k][solid[scenes.colour == k]], axis=0
        )
        cosine = unit(PALETTE**image.GAMMA) @ unit(shown**image.GAMMA)
        assert cosine.argmax() == k


def unit(vector):
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_cloud_shows_the_size_as_scale_and_the_colour(shape):
    scenes = scenes_of(shape)
    cloud = points.sample(SOLIDS[shape], scenes, np.random.default_rng(0))
    radius = np.sqrt((cloud["x"] ** 2 + cloud["y"] ** 2 + cloud["z"] ** 2).mean(axis=1))
    large = radius[scenes.size == 2].mean()
    np.testing.assert_allclose(radius, large * RADIUS[scenes.size], rtol=0.04)
    colour = (
        np.stack([cloud[c].mean(axis=1) for c in ("red", "green", "blue")], axis=-1)
        / 255
    )
    assert (
        np.linalg.norm(colour[:, None] - PALETTE, axis=-1).argmin(axis=1)
        == scenes.colour
    ).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_sound_plays_the_colours_note_in_the_sizes_octave(shape):
    scenes = scenes_of(shape)
    sound = audio.synthesise(audio.INSTRUMENTS[shape], scenes, np.random.default_rng(0))
    assert sound.dtype == np.float32
    assert sound.shape == (24, 16_000)
    assert np.abs(sound).max() <= 1
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(16_000)))
    note = audio.LOWEST * 2.0 ** (2 - scenes.size + scenes.colour / 8)
    frequency = np.arange(spectrum.shape[1])  # one second: bins are Hz
    # The first partial alone.
    around = np.abs(frequency - note[:, None]) < 0.5 * note[:, None]
    heard = np.where(around, spectrum, 0).argmax(axis=1)
    # Semitones; notes lie 1.5 apart.
    np.testing.assert_array_less(np.abs(12 * np.log2(heard / note)), 0.4)
