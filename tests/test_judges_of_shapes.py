"""The judges that ship: they read the embedded world's files, alone as in a batch, and its captions exactly."""

import json

import numpy as np
import pytest
import torch
from flowbind_audio.judge import AudioJudge
from flowbind_image.judge import ImageJudge
from flowbind_points.judge import PointsJudge
from flowbind_shapes import caption, scene
from flowbind_shapes.grammar import CaptionGrammar, parse

from flowbind import Manifest, draws
from flowbind.judge import UNREADABLE
from flowbind.metric import Metric
from flowbind.registry import load

SHIPPED = {"image": ImageJudge, "audio": AudioJudge, "points": PointsJudge}
JUDGES = SHIPPED | {"text": CaptionGrammar}
KINDS = list(JUDGES)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Test samples of an embedded world that no judge was trained on."""
    from flowbind_shapes import prepare

    folder = tmp_path_factory.mktemp("shapes")
    prepare(folder, samples=3, test_samples=40, seed=7)
    return Manifest.read(folder / "test.jsonl", KINDS)


def raws_of(manifest, kind):
    modality = load("modalities", kind)()
    return [manifest.read_raw(sample, kind, modality) for sample in manifest.samples]


def labels_of(manifest, judge):
    return torch.tensor(
        [
            [
                list(values).index(sample.labels[factor])
                for factor, values in judge.classes.items()
            ]
            for sample in manifest.samples
        ]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_judges_that_ship_read_the_embedded_world(kind, shapes):
    judge = JUDGES[kind]()
    features = judge.features(kind, raws_of(shapes, kind))
    right = (judge.read(features) == labels_of(shapes, judge)).all(1)
    assert right.double().mean() >= 0.97


@pytest.mark.parametrize("kind", SHIPPED)
def test_judges_that_ship_are_small_and_say_what_they_reached(kind):
    judge = SHIPPED[kind]()
    assert judge.file.stat().st_size < 10**6
    told = json.loads(judge.file.with_suffix(".json").read_text())
    assert told["accuracy"]["joint"] >= 0.99
    assert told["accuracy"].keys() == {*judge.classes, "joint"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_alone_is_read_as_in_a_batch(kind, shapes):
    judge = JUDGES[kind]()
    raws = raws_of(shapes, kind)[:19]
    together = judge.features(kind, raws)
    assert together.shape == (19, *judge.features(kind, raws[:1]).shape[1:])
    for number in (0, 7, 18):
        alone = judge.features(kind, raws[number : number + 1])
        assert torch.equal(alone[0], together[number])


@pytest.mark.parametrize("kind", KINDS)
def test_a_description_makes_a_judge_again(kind):
    judge = JUDGES[kind]()
    again = Metric.rebuild(json.loads(json.dumps(judge.describe())))
    assert type(again) is type(judge)
    assert again.fingerprint() == judge.fingerprint()
    assert again.label == judge.label


def test_points_are_read_in_any_order(shapes):
    judge = PointsJudge()
    inputs = judge.prepare(raws_of(shapes, "points")[:4])
    order = torch.randperm(inputs.shape[1], generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        turned = judge.net.trunk(inputs[:, order])
        torch.testing.assert_close(turned, judge.net.trunk(inputs))


def test_in_training_a_picture_is_moved_by_whole_pixels():
    corner = torch.zeros(6, 3, 64, 64, dtype=torch.uint8)
    corner[:, :, 30:, 20:] = 255
    judge = ImageJudge()
    moved = judge.vary(corner, draws.streams(1, torch.arange(6)))
    assert moved.shape == corner.shape
    starts = set()
    for picture in moved[:, 0]:
        row, column = picture.nonzero()[0].tolist()
        starts.add((row, column))
        assert (picture[row:, column:] == 255).all()
        assert (picture == 255).sum() == (64 - row) * (64 - column)
        assert abs(row - 30) <= 4
        assert abs(column - 20) <= 4
    assert len(starts) > 3

    first = judge.vary(corner[:1], draws.streams(1, torch.arange(1)))
    assert torch.equal(first[0], moved[0])


# The grammar


def test_every_caption_of_the_world_is_read_and_none_that_is_not():
    scenes = scene.draw(3000, np.random.default_rng(1))
    captions = caption.describe(scenes, np.random.default_rng(2))
    judge = CaptionGrammar()
    read = judge.read(judge.features("text", captions))
    for labels, row in zip(scenes.labels(), read.tolist(), strict=True):
        told = {
            factor: values[number]
            for (factor, values), number in zip(judge.classes.items(), row, strict=True)
        }
        assert told == labels

    for odd in (
        "a red torus",
        "an small red torus",
        "a orange big cube",
        "a small red torus torus",
        "A small red torus",
        "a small red torus..",
        "a small reddish torus",
        "",
    ):
        assert parse(odd) == []
        features = judge.features("text", [odd])
        assert features.sum() == 0
        assert judge.read(features).tolist() == [[UNREADABLE] * 3]


def test_features_of_captions_tell_all_that_was_chosen():
    judge = CaptionGrammar()
    same = ["a tiny red torus", "a small red torus", "a small red torus."]
    rows = judge.features("text", same)
    assert torch.equal(judge.read(rows), judge.read(rows[:1]).expand(3, 3))
    assert (rows[0] != rows[1]).sum() == 2
    assert (rows[1] != rows[2]).sum() == 1
