"""CLAP: what is heard of a sound, spectrograms as transformers makes them, and what is said where it is missing."""

import copy
import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from flowbind_audio import Audio
from flowbind_audio.clap import (
    CLAP_RATE,
    SECONDS,
    TransformersClap,
    load_weights,
    open_clap,
    ten_seconds,
)
from flowbind_audio.official import convert_clap
from flowbind_audio.spectrogram import RATE
from torch import Tensor

from tests.tiny_audio import save_clap

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_clap(tmp_path_factory.mktemp("clap") / "tiny")


@pytest.fixture(scope="module")
def clap(folder) -> TransformersClap:
    return open_clap("transformers", str(folder))


def noise(seconds: float, seed: int = 0) -> Tensor:
    return 0.3 * torch.randn(
        round(seconds * RATE), generator=torch.Generator().manual_seed(seed)
    ).clamp(-3, 3)


def tone(frequency: float, seconds: float, rate: int = RATE) -> Tensor:
    time = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    return (0.5 * torch.sin(2 * torch.pi * frequency * time)).float()


# What is heard


def test_a_tone_is_resampled():
    heard = ten_seconds(tone(440, seconds=10))
    assert (heard.shape, heard.dtype) == ((SECONDS * CLAP_RATE,), torch.float32)
    inside = slice(CLAP_RATE // 10, -CLAP_RATE // 10)
    assert torch.allclose(heard[inside], tone(440, 10, CLAP_RATE)[inside], atol=1e-4)


def test_a_sound_is_heard_as_its_file(tmp_path):
    sound = 1.2 * noise(10)  # beyond full scale here and there
    Audio().write(sound, tmp_path / "a.wav")
    assert torch.equal(
        ten_seconds(Audio().read(tmp_path / "a.wav")), ten_seconds(sound)
    )


def test_a_long_sound_is_its_first_ten_seconds():
    assert torch.equal(ten_seconds(noise(13)), ten_seconds(noise(13)[: 10 * RATE]))


@pytest.mark.parametrize("seconds", [1 / RATE, 0.37, 3, 4.99, 9.9])
def test_a_short_sound_is_repeated_whole(seconds):
    heard = ten_seconds(noise(seconds))
    once = 3 * round(seconds * RATE)
    times = len(heard) // once
    assert torch.equal(
        heard[: times * once].reshape(times, once), heard[:once].expand(times, once)
    )
    assert not heard[times * once :].any()
    assert len(heard) - times * once < once


def test_hearing_draws_nothing(clap):
    sound = noise(12)
    first = clap.sounds([sound], CPU)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002  # transformers crops by numpy's
    assert torch.equal(clap.sounds([sound], CPU), first)
    assert torch.equal(clap.sounds([sound[: 10 * RATE]], CPU), first)
    assert not torch.allclose(clap.sounds([sound[: 9 * RATE]], CPU), first, atol=1e-3)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002


# Embeddings


def test_spectrograms_are_those_of_transformers(clap):
    waves = torch.stack(
        [ten_seconds(sound) for sound in (noise(10), tone(1234, 2), torch.zeros(RATE))]
    )
    theirs = clap.extractor(
        [wave.numpy() for wave in waves], sampling_rate=CLAP_RATE, return_tensors="pt"
    )
    ours, expected = clap.spectrograms(waves), theirs["input_features"]
    assert ours.shape == expected.shape == (3, 1, 1001, 64)
    assert (ours - expected).abs().max() < 0.1  # dB, near the floor of -100
    assert (ours - expected)[expected > -60].abs().max() < 0.01


def test_embeddings_are_those_of_transformers(clap):
    sounds = [noise(10), tone(800, 10)]
    waves = [ten_seconds(sound).numpy() for sound in sounds]
    inputs = clap.extractor(waves, sampling_rate=CLAP_RATE, return_tensors="pt")
    expected = clap.model.get_audio_features(**inputs).pooler_output
    assert torch.allclose(clap.sounds(sounds, CPU), expected, atol=1e-4)
    captions = ["a dog", "a very long train passes by"]
    tokens = clap.tokenizer(captions, padding=True, return_tensors="pt")
    assert torch.allclose(
        clap.texts(captions, CPU),
        clap.model.get_text_features(**tokens).pooler_output,
        atol=1e-6,
    )


def test_embeddings_are_of_norm_1_and_hang_on_their_own_item(clap):
    sounds, captions = (
        [noise(1 + i, seed=i) for i in range(18)],
        [f"sound number {i}" for i in range(18)],
    )
    for embed, items in ((clap.sounds, sounds), (clap.texts, captions)):
        together = embed(items, CPU)
        assert (together.shape, together.dtype, together.requires_grad) == (
            (18, 512),
            torch.float32,
            False,
        )
        assert torch.allclose(together.norm(dim=1), torch.ones(18), atol=1e-5)
        assert torch.allclose(
            torch.cat([embed([item], CPU) for item in items[-3:]]),
            together[-3:],
            atol=1e-4,
        )
        assert torch.pdist(together).min() > 1e-4


def test_long_captions_are_cut(clap):
    long = "a dog barks and " * 40
    # 77 tokens of a byte, two of them ends.
    assert torch.equal(clap.texts([long], CPU), clap.texts([long[:75]], CPU))


def test_embeddings_can_be_trained_on(clap):
    layer = torch.nn.Linear(512, 1)
    layer(clap.sounds([noise(1)], CPU)).sum().backward()
    assert layer.weight.grad.isfinite().all()


def test_copies_load_their_own(clap, folder):
    expected = clap.texts(["a dog"], CPU)
    for other in (pickle.loads(pickle.dumps(clap)), copy.deepcopy(clap)):
        assert clap.loaded
        assert not other.loaded
        assert torch.equal(other.texts(["a dog"], CPU), expected)


# Names


def test_the_digest_knows_weights_and_preprocessing(clap, folder, tmp_path):
    def other(file: str, content: bytes) -> str:
        for path in folder.iterdir():
            (tmp_path / path.name).write_bytes(
                content if path.name == file else path.read_bytes()
            )
        return TransformersClap(str(tmp_path)).digest()

    assert other("", b"") == clap.digest()
    assert other("model.safetensors", b"other weights") != clap.digest()
    assert other("preprocessor_config.json", b"{}") != clap.digest()


def test_labels_say_which_weights(clap):
    assert clap.label == f"transformers,tiny@{clap.digest()[:8]}"
    assert (
        open_clap("transformers", "laion/clap-htsat-unfused").label
        == "transformers,laion/clap-htsat-unfused"
    )
    assert open_clap("laion_clap", "a/b/c.pt", "v1").label == "laion_clap,a/b/c.pt@v1"


# Mistakes


def test_no_such_backend():
    with pytest.raises(
        ValueError,
        match=r"^no CLAP backend 'msclap'; allowed: transformers, laion_clap$",
    ):
        open_clap("msclap", "x")


@pytest.mark.parametrize("backend", ["transformers", "laion_clap"])
def test_an_unreachable_hub(backend):
    clap = open_clap(
        backend,
        "nobody/nothing/none.pt" if backend == "laion_clap" else "nobody/nothing",
    )
    for use in (clap.digest, lambda: clap.sounds([noise(1)], CPU)):
        with pytest.raises(
            ValueError,
            match=r"^the CLAP model 'nobody/nothing' \(main\) is no folder[^\n]*hf auth login[^\n]*$",
        ):
            use()


def test_what_is_no_clap_of_transformers(tmp_path, folder):
    with pytest.raises(
        ValueError, match=r"^[^\n]*: no weights \(.safetensors or .bin\)[^\n]*$"
    ):
        TransformersClap(str(tmp_path)).digest()
    with pytest.raises(
        ValueError, match=r"^[^\n]*: no complete CLAP model of transformers[^\n]*$"
    ):
        TransformersClap(str(tmp_path)).sounds([noise(1)], CPU)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(
        ValueError, match=r"^[^\n]*: no settings of a CLAP's spectrograms[^\n]*$"
    ):
        TransformersClap(str(tmp_path)).sounds([noise(1)], CPU)
    with pytest.raises(
        ValueError, match=r"^[^\n]*: (the tokenizer has no words|no tokenizer)[^\n]*$"
    ):
        TransformersClap(str(tmp_path)).texts(["a dog"], CPU)


def test_fusion_is_refused(tmp_path):
    fused = save_clap(
        tmp_path, enable_fusion=True, fusion_type="aff_2d", patch_embed_input_channels=4
    )
    with pytest.raises(
        ValueError,
        match=r"^[^\n]*: a CLAP with fusion, which mixes random crops[^\n]*$",
    ):
        TransformersClap(str(fused)).sounds([noise(1)], CPU)


def test_laion_clap_names_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "laion_clap", None)
    with pytest.raises(
        ValueError,
        match=r"^nothing.pt: no such file; give a .pt file of laion-clap or [^\n]*$",
    ):
        open_clap("laion_clap", "nothing.pt").digest()
    file = tmp_path / "clap.pt"
    torch.save(
        {
            "state_dict": {
                "module.audio_branch.patch_embed.proj.weight": torch.zeros(128, 1, 4, 4)
            }
        },
        file,
    )
    with pytest.raises(
        ValueError,
        match=r"^[^\n]* needs laion_clap; install it with `pip install [^\n]*$",
    ):
        open_clap("laion_clap", str(file)).sounds([noise(1)], CPU)


class Stub(torch.nn.Module):
    """Has the interface of `laion_clap.CLAP_Module`, as read in its source; embeds by one matrix."""

    def __init__(self, enable_fusion: bool, device: str, amodel: str) -> None:
        super().__init__()
        assert (enable_fusion, device, amodel) == (False, "cpu", "HTSAT-base")
        self.model = torch.nn.Module()
        self.model.audio_branch = torch.nn.Module()
        self.model.audio_branch.patch_embed = torch.nn.Module()
        self.model.audio_branch.patch_embed.proj = torch.nn.Conv2d(
            1, 128, 4, bias=False
        )
        self.model.audio_projection = torch.nn.Sequential(torch.nn.Linear(4, 512))

    def get_audio_embedding_from_data(self, x: Tensor, use_tensor: bool) -> Tensor:
        assert (x.shape[1], use_tensor) == (SECONDS * CLAP_RATE, True)
        return self.model.audio_projection(x[:, 1000:1004])

    def get_text_embedding(self, x: list[str], use_tensor: bool) -> Tensor:
        assert use_tensor
        return self.model.audio_projection(
            torch.tensor([[len(caption), 1.0, 2.0, 3.0] for caption in x])
        )


def test_laion_clap_is_given_weights_and_ten_seconds(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "laion_clap", SimpleNamespace(CLAP_Module=Stub))
    state = Stub(False, "cpu", "HTSAT-base").model.state_dict()
    held = {f"module.{name}": tensor for name, tensor in state.items()}
    held["module.text_branch.embeddings.position_ids"] = torch.arange(514)[None]
    torch.save({"epoch": 15, "state_dict": held}, tmp_path / "clap.pt")
    clap = open_clap("laion_clap", str(tmp_path / "clap.pt"))
    sounds = [noise(1), noise(12)]
    expected = (
        torch.stack([ten_seconds(sound)[1000:1004] for sound in sounds])
        @ state["audio_projection.0.weight"].T
    )
    expected = torch.nn.functional.normalize(
        expected + state["audio_projection.0.bias"], dim=1
    )
    assert torch.allclose(clap.sounds(sounds, CPU), expected, atol=1e-6)
    assert clap.texts(["a dog", "rain"], CPU).shape == (2, 512)
    torch.save(
        {"audio_branch.patch_embed.proj.weight": torch.zeros(9, 1, 4, 4)},
        tmp_path / "other.pt",
    )
    with pytest.raises(
        ValueError,
        match=r"^[^\n]*other.pt: no weights of laion-clap with an HTSAT audio tower$",
    ):
        open_clap("laion_clap", str(tmp_path / "other.pt")).sounds(sounds, CPU)


@pytest.mark.filterwarnings("ignore")  # the package's own
def test_laion_clap_itself(tmp_path, monkeypatch):
    """At its real size with random weights, where the package is installed."""
    laion_clap = pytest.importorskip("laion_clap")
    from transformers import RobertaConfig, RobertaModel, RobertaTokenizer

    words = {
        token: i
        for i, token in enumerate(
            ["<s>", "<pad>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz"]
        )
    }
    config = RobertaConfig(
        vocab_size=len(words),
        max_position_embeddings=514,
        type_vocab_size=1,
        pad_token_id=1,
    )
    # Not from the hub.
    monkeypatch.setattr(
        RobertaModel, "from_pretrained", lambda name: RobertaModel(config)
    )
    monkeypatch.setattr(
        RobertaTokenizer,
        "from_pretrained",
        lambda name: RobertaTokenizer(words, [], unk_token="<unk>"),
    )
    module = laion_clap.CLAP_Module(
        enable_fusion=False, device="cpu", amodel="HTSAT-base"
    ).eval()
    state = {
        f"module.{name}": tensor for name, tensor in module.model.state_dict().items()
    }
    state["module.text_branch.embeddings.position_ids"] = torch.arange(514)[None]
    torch.save(
        {"epoch": 15, "loss": np.float64(0.5), "state_dict": state},
        tmp_path / "clap.pt",
    )
    clap = open_clap("laion_clap", str(tmp_path / "clap.pt"))
    sounds, captions = [noise(1), noise(12)], ["a dog", "rain"]
    with torch.no_grad():
        heard = module.get_audio_embedding_from_data(
            x=torch.stack([ten_seconds(s) for s in sounds]), use_tensor=True
        )
        read = module.get_text_embedding(captions, use_tensor=True)
    assert torch.allclose(clap.sounds(sounds, CPU), heard, atol=1e-5)
    # And as an imported model keeps it.
    convert_clap(tmp_path / "clap.pt", tmp_path / "clap.safetensors")
    converted = open_clap("laion_clap", str(tmp_path / "clap.safetensors"))
    assert torch.equal(converted.sounds(sounds, CPU), clap.sounds(sounds, CPU))
    assert torch.allclose(
        clap.sounds([sounds[1][: 10 * RATE]], CPU), heard[1:], atol=1e-5
    )
    assert torch.allclose(clap.texts(captions, CPU), read, atol=1e-5)


# Weights


class Code:
    def __reduce__(self):
        return print, ("this ran",)


def test_nothing_but_weights_and_numbers_is_read(tmp_path, capsys):
    weights = {"layer.weight": torch.randn(3)}
    held = {"module." + name: tensor for name, tensor in weights.items()}
    torch.save(
        {"epoch": 15, "loss": np.float64(0.5), "at": np.int64(3), "state_dict": held},
        tmp_path / "a.pt",
    )
    found = load_weights(tmp_path / "a.pt")
    assert list(found) == ["layer.weight"]
    assert torch.equal(found["layer.weight"], weights["layer.weight"])
    torch.save(weights, tmp_path / "b.pth")
    assert list(load_weights(tmp_path / "b.pth")) == ["layer.weight"]
    torch.save({"state_dict": weights, "code": Code()}, tmp_path / "c.pt")
    (tmp_path / "d.safetensors").write_bytes(b"damaged")
    for name in ("c.pt", "d.safetensors", "none.pt"):
        with pytest.raises(
            ValueError, match=rf"^[^\n]*{name}: cannot be read as weights alone [^\n]*$"
        ):
            load_weights(tmp_path / name)
    assert capsys.readouterr().out == ""
