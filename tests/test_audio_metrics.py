"""Metrics of sounds: closed forms, an independent derivation of VGGish, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from flowbind_audio.clap_score import PARALLEL, UNRELATED, CLAPScore
from flowbind_audio.frechet_audio import PATCHES, ClapFAD, VggishFAD, distances
from flowbind_audio.spectrogram import RATE
from flowbind_audio.vggish import SHORTEST, Vggish, bands, load_vggish, log_mel, patches
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.tiny_audio import save_clap


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_clap(tmp_path_factory.mktemp("clap") / "tiny")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """VGGish's with narrow fully connected layers."""
    file = tmp_path_factory.mktemp("vggish") / "vggish.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(Vggish(hidden=6).state_dict(), file)
    return file


def noise(seconds: float, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(
        round(seconds * RATE), generator=torch.Generator().manual_seed(seed)
    )


# CLAPScore


def unit(angles: Tensor) -> Tensor:
    """Vectors of norm 1 in a plane of 512 dimensions: (n,) -> (n, 512)."""
    return torch.stack([angles.cos(), angles.sin()], dim=1) @ torch.eye(2, 512)


def test_a_score_is_the_mean_of_cosines_that_count(folder):
    score = CLAPScore(clap=str(folder))
    angles = torch.tensor([0.0, 60.0, 90.0, 120.0, 180.0]).deg2rad()
    (found,) = score.compute(unit(angles), unit(torch.zeros(5))).values()
    assert found == pytest.approx((100 + 50) / 5, abs=1e-4)
    (scaled,) = score.compute(7 * unit(angles), unit(torch.zeros(5))).values()
    assert scaled == pytest.approx(found)


def test_a_score_is_of_sounds_and_captions(folder):
    sounds, captions = (
        [noise(1, seed) for seed in range(3)],
        ["a dog", "a train that passes", "rain"],
    )
    by_audio, by_text = (
        CLAPScore("audio", clap=str(folder)),
        CLAPScore("text", clap=str(folder)),
    )
    heard, read = (
        by_audio.features("audio", sounds),
        by_audio.features("text", captions),
    )
    assert heard.shape == read.shape == (3, 512)
    assert torch.equal(by_text.features("audio", sounds), heard)
    assert (by_audio.judges, by_audio.against, by_text.judges, by_text.against) == (
        "audio",
        "text",
        "text",
        "audio",
    )
    expected = (
        sum(
            max(0.0, 100 * float(a.double() @ b.double()))
            for a, b in zip(heard, read, strict=True)
        )
        / 3
    )
    name = f"clap-score[transformers,tiny@{by_audio.fingerprint()['clap_weights'][:8]}]"
    assert (
        by_audio.compute(heard, read)
        == by_text.compute(read, heard)
        == {name: pytest.approx(expected, abs=1e-4)}
    )


def test_names_of_scores_say_which_clap():
    assert list(CLAPScore().compute(torch.eye(2), torch.eye(2))) == [
        "clap-score[transformers,laion/clap-htsat-unfused]"
    ]


def test_a_clap_that_finds_captions_alike_is_refused(folder, tmp_path):
    def flatten(model: nn.Module) -> None:
        model.text_projection.linear2.weight.data *= 0.01
        model.text_projection.linear2.bias.data.fill_(1.0)  # all that remains, nearly

    good = CLAPScore(clap=str(folder))
    texts = good._model.texts(UNRELATED, good.device)
    assert (
        np.mean([float(texts[i] @ texts[j]) for i in range(6) for j in range(i)])
        < PARALLEL
    )
    broken = CLAPScore(clap=str(save_clap(tmp_path / "broken", change=flatten)))
    for kind, raws in (("text", ["a dog"]), ("audio", [noise(1)])):
        with pytest.raises(
            ValueError,
            match=r"^[^\n]*finds unrelated captions alike \(mean cosine (0\.9\d\d|1\.000); [^\n]*$",
        ):
            broken.features(kind, raws)


def test_what_is_judged_is_checked():
    with pytest.raises(
        ValueError, match=r"^CLAPScore.judges: 'image' is none of audio, text$"
    ):
        CLAPScore("image")


# The Frechet audio distance


def gaussian(count: int, width: int, seed: int) -> Tensor:
    """Samples whose mean is exactly 0 and whose covariance is exactly the identity."""
    drawn = torch.randn(
        count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    drawn = drawn - drawn.mean(0)
    values, vectors = torch.linalg.eigh(drawn.T.cov())
    return drawn @ (vectors / values.sqrt()) @ vectors.T


def test_the_distance_by_clap_has_its_closed_form(folder):
    metric = ClapFAD(clap=str(folder))
    x, shift = (
        gaussian(800, 512, seed=0),
        torch.linspace(-0.1, 0.2, 512, dtype=torch.float64),
    )
    name = f"fad[clap,transformers,tiny@{metric.fingerprint()['clap_weights'][:8]}]"
    same = metric.compute(x, x)
    assert same[name] == pytest.approx(0, abs=1e-6)
    assert same.keys() == {name, name.replace("fad", "kad")}
    assert metric.compute(x + shift, gaussian(900, 512, seed=1))[name] == pytest.approx(
        float(shift.square().sum()), rel=1e-6
    )
    assert metric.compute(3 * x, x)[name] == pytest.approx(512 * (3 - 1) ** 2, rel=1e-6)


def test_the_distance_by_clap_is_of_its_embeddings(folder):
    metric, score = ClapFAD(clap=str(folder)), CLAPScore(clap=str(folder))
    sounds = [noise(1, seed) for seed in range(3)]
    assert torch.equal(
        metric.features("audio", sounds), score.features("audio", sounds)
    )
    assert (metric.judges, metric.against) == ("audio", "audio")


def test_the_distance_by_vggish_has_its_closed_form(weights):
    metric = VggishFAD(str(weights))

    def packed(x: Tensor) -> Tensor:
        """As features are: ten patches a sound, the last three of each sound missing."""
        held = torch.cat([x, torch.ones(len(x), 1)], dim=1).unflatten(0, (-1, 7))
        return torch.cat([held, torch.zeros(len(held), 3, 129)], dim=1)

    x, shift = (
        gaussian(350, 128, seed=0),
        torch.linspace(-1, 1, 128, dtype=torch.float64),
    )
    name, kernel = metric.compute(packed(x), packed(x))
    assert name.startswith("fad[vggish,")
    assert kernel == name.replace("fad", "kad")
    assert metric.compute(packed(x), packed(x))[name] == pytest.approx(0, abs=1e-6)
    assert metric.compute(packed(x + shift), packed(x))[name] == pytest.approx(
        float(shift.square().sum()), rel=1e-5
    )
    assert metric.compute(packed(2 * x)[:25], packed(2 * x)[:25])[
        name
    ] == pytest.approx(0, abs=1e-6)


def test_distances_of_given_embeddings_are_those_of_others():
    """frechet-audio-distance's and kadtk's, by the command that `reference/features.py` tells."""
    theirs = json.loads((Path(__file__).parent / "reference/features.json").read_text())
    made, real = (
        torch.tensor(theirs[part], dtype=torch.float64) for part in ("made", "real")
    )
    assert distances("given", made, real) == {
        "fad[given]": pytest.approx(
            theirs["frechet"]["frechet-audio-distance"], rel=1e-9
        ),
        "kad[given]": pytest.approx(
            theirs["kad"], rel=1e-6
        ),  # theirs takes the median of float32
    }


def test_features_by_vggish_are_those_of_every_patch(weights):
    metric, net = VggishFAD(str(weights)), load_vggish(weights)
    sounds = [noise(12), noise(10)[: 10 * RATE], noise(2.5), noise(0.1)]
    features = metric.features("audio", sounds)
    assert features.shape == (4, PATCHES, 129) == (4, 10, 129)
    assert features[..., 128].sum(1).tolist() == [10, 10, 2, 1]
    assert not features[2, 2:].any()
    assert torch.allclose(features[2, :2, :128], net(patches(sounds[2])), atol=1e-5)
    assert torch.allclose(
        features[0], metric.features("audio", [noise(12)[: 10 * RATE]])[0], atol=1e-5
    )


# VGGish, derived again


def mel_matrix() -> np.ndarray:
    """Band by band and frequency by frequency, with shape (257, 64)."""

    def mel(frequency: float) -> float:
        return 1127.0 * np.log(1.0 + frequency / 700.0)

    low, high = mel(125.0), mel(7500.0)
    edges = [low + (high - low) * i / 65 for i in range(66)]
    weights = np.zeros((257, 64))
    for k in range(1, 257):
        here = mel(k * 16000 / 512)
        for band in range(64):
            left, centre, right = edges[band : band + 3]
            weights[k, band] = max(
                0.0,
                min((here - left) / (centre - left), (right - here) / (right - centre)),
            )
    return weights


def test_bands_are_triangles_on_the_mel_scale():
    assert np.allclose(bands().numpy(), mel_matrix(), atol=1e-9)


@pytest.mark.parametrize("samples", [400, 559, 560, 16000, 16123])
def test_spectrograms_are_those_of_the_definition(samples):
    wave = noise(2)[:samples].double()
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = [
        wave.numpy()[start : start + 400] * hann
        for start in range(0, samples - 399, 160)
    ]
    magnitudes = np.abs(np.stack([np.fft.fft(frame, 512)[:257] for frame in frames]))
    assert np.allclose(
        log_mel(wave).numpy(), np.log(magnitudes @ mel_matrix() + 0.01), atol=1e-9
    )


@pytest.mark.parametrize(
    ("samples", "count"),
    [(1, 1), (SHORTEST, 1), (SHORTEST + 96 * 160 - 1, 1), (SHORTEST + 96 * 160, 2)],
)
def test_patches_are_whole(samples, count):
    wave = noise(3)[:samples]
    found = patches(wave)
    assert found.shape == (count, 96, 64)
    if samples >= SHORTEST:
        assert torch.equal(found.flatten(0, 1), log_mel(wave)[: 96 * count])


def test_the_network_is_that_of_the_paper():
    assert {
        name: tuple(p.shape)
        for name, p in Vggish(hidden=5).named_parameters()
        if p.ndim > 1
    } == {
        "features.0.weight": (64, 1, 3, 3),
        "features.3.weight": (128, 64, 3, 3),
        "features.6.weight": (256, 128, 3, 3),
        "features.8.weight": (256, 256, 3, 3),
        "features.11.weight": (512, 256, 3, 3),
        "features.13.weight": (512, 512, 3, 3),
        "embeddings.0.weight": (5, 12288),
        "embeddings.2.weight": (5, 5),
        "embeddings.4.weight": (128, 5),
    }
    with torch.device("meta"):
        assert sum(p.numel() for p in Vggish().parameters()) == 72_141_184


def test_the_network_is_its_layers(weights):
    net = load_vggish(weights)
    state, x = net.state_dict(), patches(noise(2))
    seen = x[:, None]
    for place, pooled in (
        (0, True),
        (3, True),
        (6, False),
        (8, True),
        (11, False),
        (13, True),
    ):
        weight, bias = (
            state[f"features.{place}.weight"],
            state[f"features.{place}.bias"],
        )
        seen = nn.functional.conv2d(seen, weight, bias, padding=1).clamp(min=0)
        seen = nn.functional.max_pool2d(seen, 2) if pooled else seen
    flat = torch.stack(
        [seen[:, c, t, f] for t in range(6) for f in range(4) for c in range(512)],
        dim=1,
    )
    for place in (0, 2, 4):
        flat = (
            flat @ state[f"embeddings.{place}.weight"].T
            + state[f"embeddings.{place}.bias"]
        )
        flat = flat.clamp(min=0) if place < 4 else flat
    assert torch.allclose(net(x), flat, atol=1e-5)
    assert (net(x) < 0).any()  # before the activation


def test_weights_are_read_from_either_file(weights, tmp_path):
    net = load_vggish(weights)
    torch.save(
        {**net.state_dict(), "pproc.pca_matrix": torch.eye(128)},
        tmp_path / "vggish.pth",
    )
    x = patches(noise(1))
    assert torch.equal(load_vggish(tmp_path / "vggish.pth")(x), net(x))
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(
        ValueError, match=r"^[^\n]*other.pt: these are not weights of VGGish [^\n]*$"
    ):
        load_vggish(tmp_path / "other.pt")


@pytest.mark.parametrize("missing", [None, "nowhere.pth"])
def test_without_weights(missing):
    metric = VggishFAD(missing)
    for use in (lambda: metric.features("audio", [noise(1)]), metric.fingerprint):
        with pytest.raises(
            ValueError,
            match=r"^VGGish: no weights \([^\n]*github.com/harritaylor/torchvggish[^\n]*$",
        ):
            use()


# All


@pytest.mark.parametrize(
    "metric",
    [CLAPScore("text", clap="a/b"), ClapFAD(clap="a/b"), VggishFAD("x.pt")],
    ids=lambda metric: type(metric).__name__,
)
def test_arguments_are_kept(metric):
    assert type(metric)(**metric.arguments()).__dict__.keys() == metric.__dict__.keys()
    assert type(metric)(**metric.arguments()).arguments() == metric.arguments()
