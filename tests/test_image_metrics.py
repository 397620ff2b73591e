"""Metrics of pictures against torch-fidelity, open_clip and closed forms."""

import json
import pickle
from pathlib import Path
from unittest.mock import patch

import PIL.Image
import pytest
import torch
from flowbind_image import ais
from flowbind_image.ais import AIS
from flowbind_image.clip_score import ClipScore
from flowbind_image.fidelity import Fidelity
from torch import Tensor

from flowbind import Codec
from flowbind.libraries import Extra
from flowbind.metrics.frechet import frechet
from tests.tiny_clip import CONTEXT, NAME, pictures, write_tiny_clip
from tests.tiny_extractor import register_means

EXTRACTOR = "tiny-means"


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def refusal(call) -> str:
    """What an error says; one line."""
    with pytest.raises(ValueError, match=r".") as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


# FID, KID, precision and recall


@pytest.fixture(scope="module")
def extractor() -> str:
    return register_means(EXTRACTOR)


@pytest.fixture(scope="module")
def sets() -> tuple[list[Tensor], list[Tensor]]:
    """120 generated pictures, and as many real ones that are a little brighter and less alike."""
    made, real = pictures(120, 24, 24), pictures(120, 24, 24, seed=1)
    return made, [(picture.float() * 1.1).clamp(max=255).byte() for picture in real]


class Listed(torch.utils.data.Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, place):
        return self.items[place]


def official(made, real, **options):
    from torch_fidelity import calculate_metrics

    plain = {
        "cuda": False,
        "cache": False,
        "verbose": False,
        "save_cpu_ram": True,
        "batch_size": 50,
    }
    figures = {"fid": True, "kid": True, "prc": True, "kid_subset_size": min(1000, 120)}
    return calculate_metrics(
        input1=made,
        input2=real,
        feature_extractor=EXTRACTOR,
        **plain,
        **figures,
        **options,
    )


def judged(metric, made, real):
    parts = [made[:70], made[70:]]  # as batches come
    return metric.compute(
        torch.cat([metric.features("image", part) for part in parts]),
        metric.features("image", real),
    )


def assert_as_official(found, expected, label):
    features = label.removeprefix("torch-fidelity,")
    assert found == pytest.approx(
        {
            f"fid[{label}]": expected["frechet_inception_distance"],
            f"kid[{label},subsets=100x120]": expected["kernel_inception_distance_mean"],
            f"precision[{label},k=3]": expected["precision"],
            f"recall[{label},k=3]": expected["recall"],
            f"density[flowbind,{features},k=5]": found[
                f"density[flowbind,{features},k=5]"
            ],  # torch-fidelity has
            f"coverage[flowbind,{features},k=5]": found[
                f"coverage[flowbind,{features},k=5]"
            ],  # neither
        },
        rel=1e-4,  # float32 features of other batches
    )
    assert 0.2 < found[f"precision[{label},k=3]"] < 1


def test_figures_are_torch_fidelity_s(extractor, sets):
    expected = official(*map(Listed, sets))
    assert_as_official(
        judged(Fidelity(extractor), *sets), expected, f"torch-fidelity,{EXTRACTOR}"
    )


def test_figures_are_torch_fidelity_s_on_cropped_files(extractor, sets, tmp_path):
    sizes = [(24, 24), (30, 24), (24, 41)]
    shaped = [
        [
            torch.roll(p, i, 1).repeat(1, 2, 2)[:, : sizes[i % 3][0], : sizes[i % 3][1]]
            for i, p in enumerate(s)
        ]
        for s in sets
    ]
    for name, pile in zip(("made", "real"), shaped, strict=True):
        (tmp_path / name).mkdir()
        for place, picture in enumerate(pile):
            PIL.Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()).save(
                tmp_path / name / f"{place:03}.png"
            )
    expected = official(
        str(tmp_path / "made"), str(tmp_path / "real"), samples_resize_and_crop=16
    )
    found = judged(Fidelity(extractor, crop=16), *shaped)
    assert_as_official(found, expected, f"torch-fidelity,{EXTRACTOR},crop=16")


def test_features_keep_the_order_of_pictures_of_many_sizes(extractor):
    raws = [
        pictures(1, *size, seed=i)[0]
        for i, size in enumerate([(9, 8), (7, 7), (9, 8), (30, 4), (7, 7)])
    ]
    metric = Fidelity(extractor)
    with torch.autocast("cpu", torch.bfloat16):
        together = metric.features("image", raws)
    assert torch.allclose(
        together,
        torch.cat([metric.features("image", [raw]) for raw in raws]),
        atol=1e-6,
    )
    assert together.dtype == torch.float32


def figures(made, reference):
    return {
        name.split("[")[0]: value
        for name, value in Fidelity().compute(made, reference).items()
    }


def test_fid_of_gaussians_with_known_moments():
    """Samples whitened to exact moments: N(0, S^2) and N(m, T^2), diagonal, have |m|^2 + |S - T|^2."""
    x = randn(150, 3).double()
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov())).T
    s, t, m = (
        torch.tensor([1.0, 2, 3]),
        torch.tensor([2.0, 0.5, 3]),
        torch.tensor([0.0, 1, -2]),
    )
    made, reference = (x * s).float(), (x * t + m).float()
    expected = m.square().sum() + (s - t).square().sum()
    assert figures(made, reference)["fid"] == pytest.approx(expected.item(), rel=1e-4)
    assert figures(made, reference)["fid"] == pytest.approx(
        frechet(made, reference), rel=1e-4
    )


def test_kid_of_few_samples_is_the_unbiased_estimate_over_all():
    made, real = randn(30, 4), randn(30, 4, seed=1) + 0.5

    def kernel(p, q):
        return (float(p @ q) / 4 + 1) ** 3

    within = sum(
        kernel(s[i], s[j])
        for s in (made, real)
        for i in range(30)
        for j in range(30)
        if i != j
    )
    across = sum(kernel(p, q) for p in made for q in real)
    expected = within / (30 * 29) - 2 * across / 30**2
    found = Fidelity().compute(made, real)
    assert found[
        "kid[torch-fidelity,inception-v3-compat,subsets=100x30]"
    ] == pytest.approx(expected, rel=1e-4)


def test_precision_and_recall_of_known_sets():
    one, other = randn(60, 3), randn(60, 3, seed=1) + 100
    same, apart = figures(one, one), figures(one, other)
    assert (same["fid"], same["precision"], same["recall"]) == pytest.approx(
        (0, 1, 1), abs=1e-4
    )
    assert (apart["precision"], apart["recall"]) == (0, 0)
    both = torch.cat([one[:30], other[:30]])
    # What is made is real, half of what is real is never made.
    missed = figures(one[:30].repeat(2, 1), both)
    assert missed["precision"] == 1
    assert missed["recall"] == pytest.approx(0.5, abs=0.1)


def test_figures_of_given_features_are_those_of_others():
    """clean-fid's FID and KID and prdc's other four, by the command that `reference/features.py` tells."""
    theirs = json.loads((Path(__file__).parent / "reference/features.json").read_text())
    # Float32.
    found = figures(torch.tensor(theirs["made"]), torch.tensor(theirs["real"]))
    assert found["fid"] == pytest.approx(theirs["frechet"]["clean-fid"], rel=1e-4)
    assert found["kid"] == pytest.approx(theirs["kid"], rel=1e-4)
    for name, k in (("precision", 3), ("recall", 3), ("density", 5), ("coverage", 5)):
        assert found[name] == pytest.approx(theirs[f"prdc k={k}"][name], rel=1e-6)


def test_fewer_samples_than_features_are_remarked_on_once(capsys):
    for _ in range(2):
        Fidelity().compute(randn(40, 41), randn(40, 41, seed=1))
    assert (
        capsys.readouterr().err.count("fid of 40 samples, no more than its 41 features")
        == 1
    )
    Fidelity().compute(randn(40, 39), randn(40, 39, seed=1))
    assert not capsys.readouterr().err


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """Weights for the very extractor that torch-fidelity downloads; one number a row, which makes the file small."""
    from torch_fidelity import feature_extractor_inceptionv3 as module

    class Untrained(module.FeatureExtractorInceptionV3):
        def load_state_dict(self, state):
            pass

    with (
        torch.device("meta"),
        patch.object(module, "load_state_dict_from_url", lambda *_, **__: {}),
    ):
        shapes = {
            key: part.shape
            for key, part in Untrained("inception-v3-compat", ["2048"])
            .state_dict()
            .items()
        }
    rows = {
        key: randn(*shape[:1], *[1] * len(shape[1:]), seed=1).abs()
        for key, shape in shapes.items()
        if shape
    }
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    counters = {key: torch.tensor(0) for key, shape in shapes.items() if not shape}
    torch.save(
        counters
        | {
            key: (row / shapes[key][1:].numel()).expand(shapes[key])
            for key, row in rows.items()
        },
        path,
    )
    assert path.stat().st_size < 2**20
    return path


def test_the_extractor_of_record_takes_local_weights(inception):
    metric = Fidelity(weights=str(inception))
    features = metric.features("image", [pictures(1)[0], pictures(1, 60, 30)[0]])
    assert features.shape == (2, 2048)
    (name, *_) = metric.compute(features.repeat(3, 1), features.repeat(3, 1))
    sha = metric.fingerprint()["weights"]
    assert name == f"fid[torch-fidelity,inception-v3-compat,{sha[:8]}]"
    assert Fidelity().fingerprint()["weights"] is None


def test_extractors_and_weights_that_are_not_there(tmp_path):
    from torch_fidelity import feature_extractor_inceptionv3 as module

    raws = pictures(1)
    said = refusal(lambda: Fidelity("inception-v3").features("image", raws))
    assert "did you mean 'inception-v3-compat'" in said
    assert "no such file" in refusal(
        lambda: Fidelity(weights=str(tmp_path / "none.pth")).features("image", raws)
    )
    (tmp_path / "code.pth").write_bytes(pickle.dumps(Fidelity))
    assert "plain weights" in refusal(
        lambda: Fidelity(weights=str(tmp_path / "code.pth")).features("image", raws)
    )
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pth")
    assert "cannot be loaded" in refusal(
        lambda: Fidelity(weights=str(tmp_path / "other.pth")).features("image", raws)
    )
    with patch.object(
        module, "load_state_dict_from_url", side_effect=OSError("no route to host")
    ):
        said = refusal(lambda: Fidelity().features("image", raws))
    assert "no route to host" in said
    assert "set `weights`" in said
    assert "crop" in refusal(lambda: Fidelity(crop=-1))


# CLIPScore


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return str(write_tiny_clip(tmp_path_factory.mktemp("clip")))


CAPTIONS = [
    "a red torus",
    "A dog barks!",
    "two cats, one of them asleep",
    "",
    "snow " * (CONTEXT - 2),
    "snow " * (CONTEXT - 1),
]


def test_clip_score_is_the_mean_of_open_clip_s_cosines(weights):
    import open_clip

    raws = pictures(len(CAPTIONS))
    net, _, preprocess = open_clip.create_model_and_transforms(NAME, pretrained=weights)
    scores = []
    for raw, caption in zip(raws, CAPTIONS, strict=True):
        picture = preprocess(PIL.Image.fromarray(raw.permute(1, 2, 0).numpy()))
        with torch.no_grad():
            p = net.eval().encode_image(picture[None])[0]
            q = net.encode_text(open_clip.get_tokenizer(NAME)([caption]))[0]
        scores.append(max(100 * float(p @ q / (p.norm() * q.norm())), 0))
    # Both sides of the clamp.
    assert 0 < len([score for score in scores if score == 0]) < len(scores)

    metric = ClipScore("image", NAME, weights)
    with torch.autocast("cpu", torch.bfloat16):
        made, reference = (
            metric.features("image", raws),
            metric.features("text", CAPTIONS),
        )
    label = f"open_clip,{NAME},{metric.fingerprint()['pretrained'][:8]}"
    expected = {
        f"clip-score[{label}]": sum(scores) / len(scores),
        f"cut-captions[{label}]": 1,
    }
    assert metric.compute(made, reference) == pytest.approx(expected, rel=1e-4)
    assert ClipScore("text", NAME, weights).compute(reference, made) == pytest.approx(
        expected, rel=1e-4
    )


def test_captions_are_counted_where_they_are_cut(weights):
    metric = ClipScore("text", NAME, weights)
    lengths = range(1, CONTEXT + 4)
    cut = metric.features("text", ["snow " * n for n in lengths])[:, -1]
    # A start and an end are tokens too.
    assert cut.tolist() == [float(n + 2 > CONTEXT) for n in lengths]


def test_clip_score_of_known_angles():
    captions = torch.tensor([[1.0, 0, 0], [1, 0, 0], [1, 0, 1]])
    made = torch.tensor([[0.6, 0.8], [-1, 0], [1, 0]])
    found = ClipScore("image").compute(made, captions)
    assert list(found) == [
        "clip-score[open_clip,ViT-B-32,openai]",
        "cut-captions[open_clip,ViT-B-32,openai]",
    ]
    assert list(found.values()) == pytest.approx([(60 + 0 + 100) / 3, 1])
    assert next(
        iter(ClipScore("image", pretrained="laion2b_s34b_b79k").compute(made, captions))
    ).endswith(",laion2b_s34b_b79k]")


def test_what_clip_score_judges():
    assert (ClipScore().judges, ClipScore().against) == ("image", "text")
    assert (ClipScore("text").judges, ClipScore("text").against) == ("text", "image")
    assert "not 'audio'" in refusal(lambda: ClipScore("audio"))


# AIS


class Given(Codec):
    """Embeds vectors as themselves."""

    def __init__(self, width: int = 8, seed: int = 0) -> None:
        self.width, self.seed, self.shape = width, seed, (width,)

    def encode(self, raws):
        return torch.stack(list(raws)).to(self.device)

    def decode(self, latents, generator=None):
        raise NotImplementedError


def metric_of(**changed) -> AIS:
    return AIS({"image": Given(), "audio": Given(seed=1)}, **changed)


def value(made, reference):
    metric = metric_of()
    (found,) = metric.compute(
        metric.features("image", list(made)), metric.features("audio", list(reference))
    ).values()
    return found


def test_ais_equals_loops(monkeypatch):
    reference = randn(30, 8) * torch.rand(
        30, 1, generator=torch.Generator().manual_seed(1)
    ).add(0.1)
    made = 3 * (reference + 0.5 * randn(30, 8, seed=2))

    def cosine(p, q):
        return float(p @ q / (p.norm() * q.norm()))

    below = [
        cosine(made[i], reference[r]) < cosine(made[i], reference[i])
        for i in range(30)
        for r in range(30)
        if r != i
    ]
    expected = 100 * sum(below) / len(below)
    assert 60 < expected < 99
    assert value(made, reference) == pytest.approx(expected, abs=1e-9)
    monkeypatch.setattr(ais, "ROWS", 7)
    assert value(made, reference) == pytest.approx(expected, abs=1e-9)


def test_ais_of_known_generations():
    reference = randn(400, 8)
    assert value(reference, reference) == 100
    assert value(-reference, reference) == 0
    assert value(randn(400, 8, seed=1), reference) == pytest.approx(50, abs=4 * 29 / 20)
    # Ranks are shared out evenly.
    assert value(reference[:1].expand(400, 8), reference) == pytest.approx(50)


def test_ais_knows_what_it_compares():
    assert (metric_of().judges, metric_of().against) == ("image", "audio")
    assert (metric_of(judges="audio").judges, metric_of(judges="audio").against) == (
        "audio",
        "image",
    )
    assert "'text'" in refusal(lambda: metric_of(judges="text"))
    assert "given are image" in refusal(lambda: AIS({"image": Given()}))
    assert "share no space" in refusal(
        lambda: metric_of().compute(randn(9, 8), randn(9, 7))
    )
    assert "embed alike" in refusal(
        lambda: metric_of().compute(randn(9, 8), torch.ones(9, 8))
    )


def test_the_name_of_ais_says_which_embedders():
    (name,) = metric_of().compute(randn(9, 8), randn(9, 8, seed=1))
    (other,) = AIS({"image": Given(), "audio": Given(seed=2)}).compute(
        randn(9, 8), randn(9, 8, seed=1)
    )
    kinds = name.removeprefix("ais[").removesuffix("]").split(",")
    assert [kind.split("-")[0] for kind in kinds] == ["Given", "Given"]
    assert name != other


# All of them


@pytest.mark.parametrize(
    ("metric", "changed"),
    [
        (Fidelity(), Fidelity(crop=256)),
        (Fidelity(), Fidelity("clip-vit-b-32")),
        (ClipScore(), ClipScore(pretrained="laion2b_s34b_b79k")),
        (metric_of(), AIS({"image": Given(seed=3), "audio": Given(seed=1)})),
    ],
)
def test_fingerprints_are_flat_json_and_tell_metrics_apart(metric, changed):
    own = metric.fingerprint()
    assert json.loads(json.dumps(own)) == own
    assert not [item for item in own.values() if isinstance(item, dict)]
    assert own != changed.fingerprint()


def test_moving_moves_what_is_built(extractor, weights):
    fidelity, score, similarity = (
        Fidelity(extractor),
        ClipScore("image", NAME, weights),
        metric_of(),
    )
    built = fidelity.net.map, score.net.logit_scale
    for metric in (fidelity, score, similarity):
        assert metric.to("meta") is metric
        assert metric.device.type == "meta"
    assert [part.device.type for part in built] == ["cpu", "cpu"]
    assert {fidelity.net.map.device.type, score.net.logit_scale.device.type} == {"meta"}
    assert {codec.device.type for codec in similarity.embedders.values()} == {"meta"}


@pytest.mark.parametrize(
    ("metric", "package"),
    [(Fidelity(), "torch_fidelity"), (ClipScore(), "open_clip")],
    ids=["fidelity", "clip-score"],
)
def test_a_missing_package_says_how_to_install_it(metric, package, uninstall):
    uninstall(package)
    said = refusal(lambda: metric.features("image", pictures(1)))
    assert package in said
    assert f"install it with `{Extra('metrics')}`" in said
