"""The standard audio codec: CLAP, the adapter and AudioLDM, of the very classes but tiny; and the adapter's training."""

import shutil
from pathlib import Path

import pytest
import torch
from flowbind_audio import Audio
from flowbind_audio.adapter import ClapAdapter
from flowbind_audio.audioldm import ClapAudioLDM
from flowbind_audio.spectrogram import RATE
from safetensors.torch import load_file, save_file
from torch import Tensor

from flowbind.data.manifest import write_manifest
from flowbind.testing import LAWS, Subject
from tests.distribution import distribution
from tests.released import as_received
from tests.tiny_audio import save_audioldm, save_clap

RECIPE = Path(__file__).parents[1] / "recipes/codecs/audio_adapter.yaml"
SHORT = {"steps": 2, "seconds": 0.25}


def tone(*frequencies: float, seconds: float = 1.0) -> Tensor:
    time = torch.arange(round(seconds * RATE)) / RATE
    return 0.5 * torch.stack(
        [torch.sin(2 * torch.pi * f * time) for f in frequencies]
    ).mean(0)


SOUNDS = [tone(300), tone(500, 900, seconds=0.4), tone(2000, seconds=1.5)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audioldm")
    save_clap(folder / "clap")
    save_audioldm(folder / "audioldm", folder / "clap")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(ClapAdapter().state_dict(), folder / "adapter.safetensors")
    return folder


@pytest.fixture(scope="module")
def arguments(folder):
    return {
        "weights": str(folder / "adapter.safetensors"),
        "clap": str(folder / "clap"),
        "audioldm": str(folder / "audioldm"),
        **SHORT,
    }


@pytest.fixture(scope="module")
def codec(arguments):
    return ClapAudioLDM(**arguments)


@pytest.fixture
def registered(tmp_path):
    value = f"{ClapAudioLDM.__module__}:{ClapAudioLDM.__qualname__}"
    with distribution(
        tmp_path / "site",
        "clap-audioldm-test",
        {"flowbind.codecs": {"clap-audioldm": value}},
    ):
        yield


# The codec


def test_the_laws_of_a_modality(codec, registered, tmp_path):
    subject = Subject(Audio(codec), SOUNDS, tmp_path)
    for law in LAWS:
        law(subject)


def test_latents_are_the_adapter_s_of_claps_embeddings(codec):
    weights = load_file(codec.weights)
    hidden = (
        codec.ear.sounds(SOUNDS, codec.device) @ weights["encoder.0.weight"].T
        + weights["encoder.0.bias"]
    )
    expected = (
        hidden.clamp(min=0) @ weights["encoder.2.weight"].T + weights["encoder.2.bias"]
    )
    assert torch.allclose(codec.encode(SOUNDS), expected, atol=1e-5)


def test_sounds_are_audioldm_s_of_the_embeddings_that_come_back(codec):
    weights, latents = load_file(codec.weights), codec.encode(SOUNDS)
    hidden = (
        latents @ weights["decoder.0.weight"].T + weights["decoder.0.bias"]
    ).clamp(min=0)
    embeddings = hidden @ weights["decoder.2.weight"].T + weights["decoder.2.bias"]
    embeddings = embeddings / embeddings.norm(dim=1, keepdim=True)
    expected = codec.pipeline(
        prompt_embeds=embeddings,
        num_inference_steps=2,
        guidance_scale=2.5,
        audio_length_in_s=0.25,
        generator=torch.Generator().manual_seed(3),
    ).audios
    made = codec.decode(latents, torch.Generator().manual_seed(3))
    assert [(sound.shape, sound.dtype) for sound in made] == [
        ((RATE // 4,), torch.float32)
    ] * 3
    assert torch.allclose(
        torch.stack(made), torch.from_numpy(expected).clamp(-1, 1), atol=1e-6
    )
    assert torch.stack(made).std() > 0.01


def test_a_released_model_needs_no_other_folder(codec, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "mine")
    places = {"clap": "clap", "audioldm": "audioldm", "weights": "adapter.safetensors"}
    mine = ClapAudioLDM(
        **{name: str(tmp_path / "mine" / place) for name, place in places.items()},
        **SHORT,
    )
    received = as_received(Audio(mine), "audio", tmp_path / "mine")
    assert received.fingerprint() == codec.fingerprint()
    latents = codec.encode(SOUNDS[:1])
    assert torch.equal(received.encode(SOUNDS[:1]), latents)
    made, expected = (
        c.decode(latents, torch.Generator().manual_seed(0)) for c in (received, codec)
    )
    assert torch.equal(made[0], expected[0])


def test_many_sounds_are_made_in_parts(codec):
    latents = codec.encode(SOUNDS)[[0, 1, 2] * 4]
    made = codec.decode(latents, torch.Generator().manual_seed(0))
    assert len(made) == 12
    generator = torch.Generator().manual_seed(0)  # goes on from part to part
    parts = [
        *codec.decode(latents[:8], generator),
        *codec.decode(latents[8:], generator),
    ]
    assert torch.allclose(torch.stack(made), torch.stack(parts), atol=1e-6)
    # The same latent, other noise.
    assert not torch.allclose(made[0], made[3], atol=1e-3)


def test_decoding_depends_on_latent_and_arguments(codec, arguments):
    latents = codec.encode(SOUNDS[:2])

    def made(codec: ClapAudioLDM, latents: Tensor) -> Tensor:
        return torch.stack(codec.decode(latents, torch.Generator().manual_seed(0)))

    first = made(codec, latents)
    assert not torch.allclose(made(codec, latents.flip(0)), first, atol=1e-4)
    for other in ({"guidance": 1.0}, {"steps": 3}):
        assert not torch.allclose(
            made(ClapAudioLDM(**arguments | other), latents), first, atol=1e-4
        )
    assert made(ClapAudioLDM(**arguments | {"seconds": 0.4}), latents).shape == (
        2,
        round(0.4 * RATE),
    )


def test_the_remark_on_deprecation_is_left_out(arguments, capfd):
    ClapAudioLDM(**arguments).decode(torch.zeros(1, 768))
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_the_fingerprint_is_of_what_decides_latents(codec, arguments, folder, tmp_path):
    expected = codec.fingerprint()
    for other in (
        {"audioldm": "another/one"},
        {"steps": 50},
        {"guidance": 1.0},
        {"seconds": 5.0},
    ):
        assert ClapAudioLDM(**arguments | other).fingerprint() == expected
    adapter, clap = (
        tmp_path / "adapter.safetensors",
        save_clap(tmp_path / "clap", seed=1),
    )
    save_file(ClapAdapter().state_dict(), adapter)
    for key, path in (("weights", adapter), ("clap", clap)):
        found = ClapAudioLDM(**arguments | {key: str(path)}).fingerprint()
        assert [name for name in expected if found[name] != expected[name]] == [
            key.replace("clap", "clap_weights")
        ]


def test_another_clap_than_audioldm_s_is_told_once(codec, arguments, tmp_path, capfd):
    assert codec.agreement == pytest.approx(1, abs=1e-5)
    other = ClapAudioLDM(
        **arguments | {"clap": str(save_clap(tmp_path / "other", seed=1))}
    )
    other.decode(other.encode(SOUNDS[:1]))
    other.encode(SOUNDS[:1])
    assert capfd.readouterr().err.count("was trained with another CLAP than") == 1
    codec.decode(codec.encode(SOUNDS[:1]))
    assert capfd.readouterr().err == ""


# Mistakes


def test_without_an_adapter(arguments):
    codec = ClapAudioLDM(**arguments | {"weights": None})
    for use in (
        lambda: codec.encode(SOUNDS),
        lambda: codec.decode(torch.zeros(1, 768)),
        codec.fingerprint,
    ):
        with pytest.raises(
            ValueError,
            match=r"^ClapAudioLDM has no adapter: [^\n]*recipes/codecs/audio_adapter.yaml[^\n]*$",
        ):
            use()
    with pytest.raises(
        FileNotFoundError, match=r"^none.safetensors: no such weights [^\n]*$"
    ):
        ClapAudioLDM(**arguments | {"weights": "none.safetensors"}).encode(SOUNDS)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"seconds": 0.0}])
def test_senseless_arguments(wrong):
    with pytest.raises(
        ValueError,
        match=r"^ClapAudioLDM: steps \(\d+\) must be at least 1 and seconds [^\n]*$",
    ):
        ClapAudioLDM(**wrong)


def test_what_is_no_audioldm(arguments, folder, tmp_path):
    def complaint(audioldm: str) -> str:
        with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
            ClapAudioLDM(**arguments | {"audioldm": audioldm}).decode(
                torch.zeros(1, 768)
            )
        return str(caught.value)

    assert "'nobody/nothing' (main) is no folder" in complaint("nobody/nothing")
    assert "hf auth login" in complaint("nobody/nothing")
    assert "is no folder, and the hub does not give it" in complaint(str(tmp_path))
    slow = save_audioldm(tmp_path / "slow", folder / "clap", sampling_rate=8000)
    assert (
        "makes sounds at 8000 Hz from embeddings of 512 numbers; 16000 Hz from 512 are needed"
        in complaint(str(slow))
    )


# The adapter


def test_the_adapter_is_the_authors():
    adapter = ClapAdapter()
    shapes = {
        name: tuple(tensor.shape)
        for name, tensor in adapter.state_dict().items()
        if name.endswith("weight")
    }
    assert shapes == {
        "encoder.0.weight": (768, 512),
        "encoder.2.weight": (768, 768),
        "decoder.0.weight": (768, 768),
        "decoder.2.weight": (512, 768),
    }
    assert adapter.encode(torch.zeros(2, 512)).shape == (2, 768)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    generator = torch.Generator().manual_seed(0)
    for i in range(24):
        frequencies = 200 + 3000 * torch.rand(2, generator=generator)
        Audio().write(
            tone(*frequencies.tolist(), seconds=0.3 + 0.05 * i), folder / f"{i}.wav"
        )
    write_manifest(folder / "all.jsonl", [{"audio": f"{i}.wav"} for i in range(24)])
    return folder / "all.jsonl"


def test_the_recipe_trains_an_adapter_that_the_codec_loads(
    arguments, manifest, tmp_path, command
):
    export = tmp_path / "adapter.safetensors"
    code, _, err = command(
        *("fit", "--config", RECIPE),
        f"--model.init_args.codec.init_args.clap={arguments['clap']}",
        f"--model.init_args.export={export}",
        f"--data.init_args.train={manifest}",
        f"--data.init_args.val={manifest}",
        "--data.init_args.batch_size=8",
        f"--trainer.default_root_dir={tmp_path}",
        "--trainer.max_steps=30",
        "--trainer.accelerator=cpu",
    )
    assert code == 0, err
    codec = ClapAudioLDM(**arguments | {"weights": str(export)})
    embeddings = codec.prepare(SOUNDS)
    back = codec.net.decode(codec.encode(SOUNDS))
    fresh = ClapAdapter()
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(back, embeddings).mean() > 0.9
    assert cosine(fresh.decode(fresh.encode(embeddings)), embeddings).mean() < 0.5
    assert len(codec.decode(codec.encode(SOUNDS[:1]))) == 1
