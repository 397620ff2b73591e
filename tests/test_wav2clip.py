"""Wav2CLIP: embeddings against a derivation of their own, what is refused, and AIS as published, by small models."""

import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flowbind_audio import Audio, wav2clip
from flowbind_audio.wav2clip import Wav2Clip, load_wav2clip
from flowbind_image.ais import AIS
from flowbind_image.unclip import ClipUnclip
from safetensors.torch import save_file
from torch import Tensor

from flowbind.libraries import Extra
from flowbind.testing import LAWS, Subject
from flowbind.testing import modality as testing
from tests.released import as_received
from tests.tiny_clip import pictures, write_tiny_clip

DECODING = {  # laws that decode
    testing.samples_are_accepted_as_they_are,
    testing.decoding_gives_samples,
    testing.decoding_obeys_its_generator,
    testing.the_fingerprint_is_flat_json,
}
# Channels before and after.
LAYERS = {
    1: (64, 64),
    2: (64, 128),
    3: (128, 256),
    4: (256, 512),
}


def reference_state(seed: int = 0) -> dict[str, Tensor]:
    """Random weights under the names of the authors' checkpoint, with those that an embedding does not need."""
    generator = torch.Generator().manual_seed(seed)
    state = {}

    def draw(name: str, *shape: int) -> None:
        state[name] = (
            torch.randn(shape, generator=generator) * np.prod(shape[1:]) ** -0.5
        )

    def norm(name: str, width: int) -> None:
        around_one = 0.5 + torch.rand(2, width, generator=generator)
        state[f"{name}.weight"], state[f"{name}.running_var"] = around_one
        state[f"{name}.bias"], state[f"{name}.running_mean"] = (
            torch.randn(2, width, generator=generator) / 5
        )
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    state["audio_encoder.spectrogram.window"] = torch.hann_window(512)
    draw("audio_encoder.conv1.weight", 64, 1, 7, 7)
    norm("audio_encoder.bn1", 64)
    for layer, (before, after) in LAYERS.items():
        for block in (0, 1):
            name = f"audio_encoder.layer{layer}.{block}"
            draw(f"{name}.conv1.weight", after, after if block else before, 3, 3)
            norm(f"{name}.bn1", after)
            draw(f"{name}.conv2.weight", after, after, 3, 3)
            norm(f"{name}.bn2", after)
            if before != after and not block:
                draw(f"{name}.downsample.0.weight", after, before, 1, 1)
                norm(f"{name}.downsample.1", after)
    for place in (0, 3):
        draw(f"audio_transform.sequential.{place}.weight", 512, 512)
        state[f"audio_transform.sequential.{place}.bias"] = (
            torch.randn(512, generator=generator) / 5
        )
    return state | {
        "image_transform.sequential.0.weight": torch.ones(2, 2),
        "loss_fn_i.logit_scale": torch.tensor(2.6),
    }


def embedding(wave: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Of one sound, in float64, frame by frame and layer by layer: (samples,) -> (512,)."""
    state = {name: tensor.double() for name, tensor in state.items()}
    samples = np.pad(wave.double().numpy(), (0, max(0, 257 - len(wave))))
    samples = np.pad(samples, 256, mode="reflect")
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    frames = [
        samples[start : start + 512] * hann
        for start in range(0, len(samples) - 511, 353)
    ]
    levels = np.log(
        np.abs(np.stack([np.fft.fft(frame)[:257] for frame in frames], axis=1)) ** 2
        + 1e-7
    )
    levels = (levels - levels.mean()) / (levels.std(ddof=1) + 1e-9)

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, scale, bias = (
            state[f"{name}.{of}"][:, None, None]
            for of in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * scale + bias

    x = F.conv2d(
        torch.from_numpy(levels)[None, None],
        state["audio_encoder.conv1.weight"],
        stride=2,
        padding=3,
    )
    x = F.max_pool2d(norm(x, "audio_encoder.bn1").clamp(min=0), 3, stride=2, padding=1)
    for layer in LAYERS:
        for block in (0, 1):
            name, stride = (
                f"audio_encoder.layer{layer}.{block}",
                2 if layer > 1 and not block else 1,
            )
            y = F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            y = F.conv2d(
                norm(y, f"{name}.bn1").clamp(min=0),
                state[f"{name}.conv2.weight"],
                padding=1,
            )
            if f"{name}.downsample.0.weight" in state:
                x = norm(
                    F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride),
                    f"{name}.downsample.1",
                )
            x = (norm(y, f"{name}.bn2") + x).clamp(min=0)
    first, last = (f"audio_transform.sequential.{place}" for place in (0, 3))
    hidden = (
        state[f"{first}.weight"] @ x.mean((0, 2, 3)) + state[f"{first}.bias"]
    ).clamp(min=0)
    return state[f"{last}.weight"] @ hidden + state[f"{last}.bias"]


def noise(samples: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def tone(samples: int, pitch: float) -> Tensor:
    return 0.3 * torch.sin(2 * torch.pi * pitch * torch.arange(samples) / 16000)


SOUNDS = [noise(9000), tone(9000, 440), tone(4000, 440), noise(9000, seed=1) * 0.1]
# As a file of 16 bits keeps them.
SOUNDS = [(sound * 32768).round() / 32768 for sound in SOUNDS]


@pytest.fixture(scope="module")
def state():
    return reference_state()


@pytest.fixture(scope="module")
def weights(state, tmp_path_factory):
    file = tmp_path_factory.mktemp("wav2clip") / "Wav2CLIP.pt"
    torch.save(state, file)
    return file


@pytest.fixture(scope="module")
def codec(weights):
    return Wav2Clip(str(weights))


def refusal(call) -> str:
    """What an error says; one line."""
    with pytest.raises(ValueError, match=r".") as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


# Embeddings


@pytest.mark.parametrize("samples", [1, 256, 257, 705, 706, 9000])
def test_embeddings_are_those_of_the_definition(codec, state, samples):
    found = codec.encode([noise(samples), tone(samples, 440)]).double()
    expected = torch.stack(
        [embedding(wave, state) for wave in (noise(samples), tone(samples, 440))]
    )
    assert expected.std() > 0.3
    assert torch.allclose(found, expected, atol=1e-4)


def test_a_silence_is_standardised_to_nothing(codec, state):
    (found,) = codec.encode([torch.zeros(5000)])
    assert torch.allclose(
        found.double(), embedding(torch.zeros(5000), state), atol=1e-4
    )
    assert not wav2clip.spectrograms(torch.zeros(1, 5000)).any()


def test_a_sound_s_neighbours_and_place_change_nothing(codec, state, monkeypatch):
    raws = [
        noise(4000),
        noise(300),
        1e-3 * noise(4000, seed=1),
        tone(300, 90),
        tone(4000, 440),
        noise(20),
    ]
    expected = torch.stack([embedding(raw, state) for raw in raws])
    assert torch.pdist(expected).min() > 0.1
    assert torch.allclose(codec.encode(raws).double(), expected, atol=1e-4)
    monkeypatch.setattr(wav2clip, "TOGETHER", 8000)  # two of the longer ones at once
    assert torch.allclose(codec.encode(raws).double(), expected, atol=1e-4)
    monkeypatch.setattr(wav2clip, "TOGETHER", 1)
    assert torch.allclose(codec.encode(raws).double(), expected, atol=1e-4)


def test_sounds_of_one_length_are_embedded_at_once(codec, monkeypatch):
    seen = []
    monkeypatch.setattr(
        wav2clip,
        "spectrograms",
        lambda waves, of=wav2clip.spectrograms: seen.append(waves) or of(waves),
    )
    codec.encode(
        [noise(400), noise(500), noise(400), noise(100), noise(257), noise(400)]
    )
    assert sorted(tuple(waves.shape) for waves in seen) == [
        (1, 500),
        (2, 257),
        (3, 400),
    ]


@pytest.mark.parametrize(
    "law", [law for law in LAWS if law not in DECODING], ids=lambda law: law.__name__
)
def test_the_laws_of_a_modality_but_of_decoding(codec, law, tmp_path):
    law(Subject(Audio(codec), SOUNDS, tmp_path))


def test_there_is_no_way_back(codec):
    said = refusal(lambda: codec.decode(torch.zeros(1, 512)))
    assert "cannot make" in said
    assert "clap-audioldm" in said


def test_a_released_model_takes_the_weights_along(weights, codec, tmp_path):
    (tmp_path / "mine").mkdir()
    shutil.copy(weights, tmp_path / "mine/Wav2CLIP.pt")
    mine = Wav2Clip(str(tmp_path / "mine/Wav2CLIP.pt"))
    received = as_received(Audio(mine), "audio", tmp_path / "mine")
    assert received.fingerprint() == codec.fingerprint()
    assert torch.allclose(received.encode(SOUNDS), codec.encode(SOUNDS), atol=1e-5)


# Weights


def test_fingerprints_are_of_weights_wherever_they_lie(weights, codec, state, tmp_path):
    shutil.copy(weights, tmp_path / "copy.pt")
    fresh = Wav2Clip(str(tmp_path / "copy.pt"))
    assert fresh.fingerprint() == codec.fingerprint()
    assert "net" not in vars(fresh)  # nothing is loaded for it
    torch.save(
        state | {"audio_encoder.bn1.bias": torch.zeros(64)}, tmp_path / "other.pt"
    )
    assert Wav2Clip(str(tmp_path / "other.pt")).fingerprint() != codec.fingerprint()


def test_weights_are_read_from_either_file(codec, state, tmp_path):
    save_file(state, tmp_path / "a.safetensors")
    found = Wav2Clip(str(tmp_path / "a.safetensors")).encode(SOUNDS)
    assert torch.allclose(found, codec.encode(SOUNDS), atol=1e-5)


def test_loading_draws_nothing_and_learns_nothing(weights):
    before = torch.random.get_rng_state()
    net = load_wav2clip(weights)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not net.training
    assert not [
        name for name, parameter in net.named_parameters() if parameter.requires_grad
    ]
    assert sum(parameter.numel() for parameter in net.parameters()) == 11_695_552


LAST = "audio_transform.sequential.3.weight"
OTHERS = {
    "others": lambda state: {"layer.weight": torch.zeros(2)},
    "a missing weight": lambda state: {
        name: tensor for name, tensor in state.items() if name != LAST
    },
    "a weight of another shape": lambda state: state | {LAST: torch.zeros(512, 256)},
    "a weight too many": lambda state: (
        state | {"audio_encoder.fc.weight": torch.zeros(309, 512)}
    ),
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_other_weights_are_refused(change, state, tmp_path):
    torch.save(change(state), tmp_path / "other.pt")
    said = refusal(lambda: Wav2Clip(str(tmp_path / "other.pt")).encode(SOUNDS))
    assert said.startswith(
        f"{tmp_path / 'other.pt'}: these are not weights of Wav2CLIP; get "
    )


def test_damaged_files_are_refused(weights, tmp_path):
    file = tmp_path / "damaged.pt"
    whole = weights.read_bytes()
    for content in (b"", b"noise" * 99, whole[: len(whole) // 2]):
        file.write_bytes(content)
        assert str(file) in refusal(lambda: Wav2Clip(str(file)).encode(SOUNDS))
    for held in (
        torch.zeros(2),
        [torch.zeros(2)],
        {0: torch.zeros(2)},
        {"state_dict": torch.zeros(2)},
    ):
        torch.save(held, file)
        assert (
            refusal(lambda: Wav2Clip(str(file)).encode(SOUNDS))
            == f"{file}: holds no weights by name"
        )


@pytest.mark.parametrize("missing", [None, "nowhere.pt", "."])
def test_without_weights(missing):
    codec = Wav2Clip(missing)
    assert codec.arguments() == {"weights": missing}
    for use in (lambda: codec.encode(SOUNDS), codec.fingerprint):
        said = refusal(use)
        assert said.startswith(f"Wav2CLIP: no weights ({missing}); ")
        assert "github.com/descriptinc/lyrebird-wav2clip" in said


def test_without_torchvision(weights, uninstall):
    uninstall("torchvision")
    said = refusal(lambda: Wav2Clip(str(weights)).encode(SOUNDS))
    assert "torchvision" in said
    assert f"install it with `{Extra('metrics')}`" in said


# AIS as published, its CLIP a small one


@pytest.mark.parametrize("judges", ["image", "audio"])
def test_ais_of_sounds_and_pictures(codec, judges, tmp_path):
    file = write_tiny_clip(tmp_path, name="tiny-clip-512", width=512)
    clip = ClipUnclip(model="tiny-clip-512", pretrained=str(file), width=512)
    metric = AIS({"audio": codec, "image": clip}, judges)
    raws = {
        "audio": [
            noise(600, seed=i) if i % 2 else tone(900, 90 * i + 80) for i in range(12)
        ],
        "image": pictures(12),
    }
    made, reference = (
        metric.features(kind, raws[kind]) for kind in (metric.judges, metric.against)
    )
    g, c = (
        F.normalize(metric.embedders[kind].encode(raws[kind]).double())
        for kind in (metric.judges, metric.against)
    )
    below = [
        bool(g[i] @ c[r] < g[i] @ c[i]) for i in range(12) for r in range(12) if r != i
    ]
    ((name, found),) = metric.compute(made, reference).items()
    assert 0 < found < 100
    # Two of 132 comparisons, should they be close.
    assert found == pytest.approx(100 * sum(below) / len(below), abs=1.5)
    heard, seen = (
        part.split("-")
        for part in name.removeprefix("ais[").removesuffix("]").split(",")
    )
    assert (heard[0], seen[0]) == ("Wav2Clip", "ClipUnclip")
    assert metric.fingerprint()["embedder of audio"].startswith(heard[1])


def test_ais_refuses_a_clip_of_another_width(codec, tmp_path):
    metric = AIS(
        {
            "audio": codec,
            "image": ClipUnclip(
                model="tiny-clip", pretrained=str(write_tiny_clip(tmp_path)), width=16
            ),
        }
    )
    said = refusal(
        lambda: metric.compute(
            metric.features("image", pictures(2)),
            metric.features("audio", [noise(300)] * 2),
        )
    )
    assert "share no space: 16 numbers for image, 512 for audio" in said
