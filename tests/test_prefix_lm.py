"""Laws of the standard codec for texts, on small random models of the very classes that it loads from a hub."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from flowbind_text import Text
from flowbind_text.prefix_lm import PAST, PrefixNet, Projector, SentencePrefixLM, draw
from flowbind_text.prefix_training import PrefixTraining, trained
from safetensors.torch import load_file, save_file

from flowbind.data.manifest import write_manifest
from flowbind.data.raw import RawBatch, RawDataModule
from flowbind.libraries import Extra
from flowbind.testing import check_modality
from tests.distribution import distribution
from tests.released import as_received
from tests.tiny_text import EMBEDDED, WIDTH, save_encoder, save_gemma, save_gpt2

CAPTIONS = [
    "a red ball",
    "two big cubes",
    "rain on tin",
    "a dog barks",
    "the sea at dusk",
    "a cat",
    "old bells ring",
    "wind: ö",
]
pytestmark = pytest.mark.filterwarnings(  # Lightning's own
    "ignore:.*LeafSpec:FutureWarning",
    "ignore:.*__len__.*:UserWarning",
    "ignore:.*in eval mode:UserWarning",
    "ignore:.*callbacks used to create the checkpoint:UserWarning",
)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Folders `encoder`, `gemma`, `half`, which is in bfloat16 as Gemma is distributed, and `gpt2`."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    save_encoder(folder / "encoder", folder / "parts")
    save_gemma(folder / "gemma")
    save_gemma(folder / "half", torch.bfloat16)
    save_gpt2(folder / "gpt2")
    return folder


def codec_of(models: Path, language_model: str = "gemma", **more) -> SentencePrefixLM:
    folders = {
        "encoder": str(models / "encoder"),
        "language_model": str(models / language_model),
    }
    return SentencePrefixLM(**{"width": EMBEDDED, "longest": 24, **folders, **more})


@pytest.fixture(scope="module", params=["gemma", "gpt2"])
def random_codec(models, request) -> SentencePrefixLM:
    """A codec whose projector was never trained."""
    weights = models / f"random_{request.param}.safetensors"
    torch.manual_seed(0)
    save_file(trained(codec_of(models, request.param).build()), weights)
    return codec_of(models, request.param, weights=str(weights))


def latents(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, EMBEDDED, generator=torch.Generator().manual_seed(seed))


# The latent


def test_latents_are_the_encoder_s_embeddings(models):
    from sentence_transformers import SentenceTransformer

    codec = codec_of(models, "nowhere")  # which encoding does not need
    found = codec.encode(CAPTIONS)
    expected = SentenceTransformer(str(models / "encoder"), device="cpu").encode(
        CAPTIONS
    )
    assert torch.allclose(found, torch.from_numpy(expected), atol=1e-5)
    assert (found.norm(dim=1) - 1).abs().min() > 0.01
    assert torch.allclose(
        codec_of(models, normalize=True).encode(CAPTIONS), F.normalize(found), atol=1e-5
    )


def test_the_wrong_width_is_refused(models):
    with pytest.raises(
        ValueError, match=f"gives {EMBEDDED} numbers, not 768; set `width`"
    ):
        codec_of(models, width=768).encode(CAPTIONS)


def test_the_fingerprint_is_the_encoder_s(models, tmp_path):
    held = codec_of(models).fingerprint()
    assert (
        codec_of(
            models, "gpt2", prefix=5, weights="x.safetensors", temperature=1.0
        ).fingerprint()
        == held
    )
    assert codec_of(models, normalize=True).fingerprint() != held
    moved = tmp_path / "moved"
    shutil.copytree(models / "encoder", moved)
    assert codec_of(models, encoder=str(moved)).fingerprint() == held
    with next(moved.rglob("*.safetensors")).open("ab") as file:
        file.write(b" ")
    assert codec_of(models, encoder=str(moved)).fingerprint() != held
    hub = SentencePrefixLM()  # needs no download
    assert hub.fingerprint() == {
        "codec": "SentencePrefixLM",
        "version": 1,
        "encoder": "google/embeddinggemma-300m",
        "revision": "main",
        "normalize": False,
    }
    assert SentencePrefixLM(revision="1234567").fingerprint() != hub.fingerprint()


def test_a_released_model_needs_no_other_folder(models, random_codec, tmp_path):
    for place in (random_codec.encoder, random_codec.language_model):
        shutil.copytree(place, tmp_path / "mine" / Path(place).name)
    shutil.copy(random_codec.file, tmp_path / "mine/trained.safetensors")
    language_model = str(tmp_path / "mine" / Path(random_codec.language_model).name)
    codec = codec_of(
        tmp_path / "mine",
        language_model,
        weights=str(tmp_path / "mine/trained.safetensors"),
    )
    received = as_received(Text(codec), "text", tmp_path / "mine")
    assert received.fingerprint() == random_codec.fingerprint()
    assert torch.equal(received.encode(CAPTIONS), random_codec.encode(CAPTIONS))
    assert received.decode(latents(3)) == random_codec.decode(latents(3))


# The projector


def test_the_projector_is_the_published_one():
    torch.manual_seed(0)
    projector = Projector(EMBEDDED, WIDTH, 3).double()
    state, x = projector.state_dict(), latents(4).double()
    hidden = (x @ state["net.0.weight"].T + state["net.0.bias"]).tanh()
    out = (hidden @ state["net.2.weight"].T + state["net.2.bias"]).reshape(4, 3, WIDTH)
    normed = (out - out.mean(2, keepdim=True)) / (
        out.var(2, unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    assert torch.allclose(
        projector(x), normed * state["ln.weight"] + state["ln.bias"], atol=1e-12
    )
    with torch.device("meta"):
        sizes = {
            name: tuple(p.shape)
            for name, p in Projector(768, 1152, 3).named_parameters()
        }
    assert sizes["net.0.weight"] == (1152, 768)
    assert sizes["net.2.weight"] == (3 * 1152, 1152)
    assert sizes["ln.weight"] == (1152,)


# Writing


def slowly(codec: SentencePrefixLM, latent: torch.Tensor) -> list[int]:
    """The likeliest piece at each step, everything before it computed again."""
    beginning, end = codec.ends
    pieces = [beginning]
    while len(pieces) <= codec.longest and pieces[1:][-1:] != [end]:
        embedded = codec.net.lm.get_input_embeddings()(torch.tensor([pieces]))
        read = torch.cat([codec.net.projector(latent[None]), embedded], dim=1)
        pieces.append(
            codec.net.lm(inputs_embeds=read, use_cache=False)
            .logits[0, -1]
            .argmax()
            .item()
        )
    return pieces[1:]


def test_what_is_written_is_the_likeliest_at_each_step(random_codec):
    x = latents(4)
    written = random_codec.net.write(
        x, *random_codec.ends, random_codec.longest, 0.0, None
    )
    for row, latent in zip(written, x, strict=True):
        expected = slowly(random_codec, latent)
        assert row.tolist()[: len(expected)] == expected
        assert set(row.tolist()[len(expected) :]) <= {random_codec.ends[1]}
    assert random_codec.decode(x) == [random_codec.decode(row[None])[0] for row in x]
    assert len(set(random_codec.decode(x))) > 1


def test_it_writes_as_transformers_does(random_codec):
    x, (beginning, end) = latents(6), random_codec.ends
    prefix = torch.cat(
        [
            random_codec.net.projector(x),
            random_codec.net.embed(torch.full((6, 1), beginning)),
        ],
        dim=1,
    )
    theirs = random_codec.net.lm.generate(
        inputs_embeds=prefix,
        attention_mask=torch.ones(prefix.shape[:2], dtype=torch.long),
        max_new_tokens=random_codec.longest,
        do_sample=False,
        eos_token_id=end,
        pad_token_id=end,
    )
    assert torch.equal(
        random_codec.net.write(x, beginning, end, random_codec.longest, 0.0, None),
        theirs,
    )


def test_a_caption_ends_where_its_end_is_drawn():
    class Counting(torch.nn.Module):
        """Counts down, modulo 8: the first caption by ones, the second by twos. 0 is the end."""

        embeddings = torch.nn.Embedding.from_pretrained(torch.eye(8))

        def get_input_embeddings(self):
            return self.embeddings

        def forward(self, inputs_embeds, past_key_values=None, use_cache=True):
            following = (inputs_embeds.argmax(2) - torch.tensor([[1], [2]])) % 8
            return type(
                "Out",
                (),
                {"logits": F.one_hot(following, 8).float(), "past_key_values": None},
            )

    net = PrefixNet(Counting(), EMBEDDED, 3)
    assert net.write(latents(2), 4, 0, 9, 0.0, None).tolist() == [
        [3, 2, 1, 0],
        [2, 0, 0, 0],
    ]
    assert net.write(latents(2), 4, 0, 2, 0.0, None).tolist() == [[3, 2], [2, 0]]


def test_pieces_are_drawn_from_the_softmax():
    logits, count = torch.tensor([1.0, 0.0, -1.0, 2.0, -torch.inf]), 20_000
    for temperature in (0.5, 1.0, 2.0):
        pieces = draw(
            logits.expand(count, -1), temperature, torch.Generator().manual_seed(0)
        )
        expected = (logits / temperature).exp() / (logits / temperature).exp().sum()
        found = pieces.bincount(minlength=5) / count
        assert (
            (found - expected).abs() <= 4 * (expected * (1 - expected) / count).sqrt()
        ).all()
    assert draw(logits.expand(3, -1), 0.0, None).tolist() == [3, 3, 3]


def test_sampling_obeys_its_generator(random_codec):
    kept = random_codec.temperature
    random_codec.temperature = 1.0
    try:
        seeded = [
            random_codec.decode(latents(6), torch.Generator().manual_seed(seed))
            for seed in (0, 0, 1)
        ]
        assert seeded[0] == seeded[1] != seeded[2]
    finally:
        random_codec.temperature = kept
    with pytest.raises(ValueError, match="temperature is -1"):
        SentencePrefixLM(temperature=-1)


def test_captions_are_cut_and_spelled(models):
    codec = codec_of(models)
    pieces, end = codec.cut(CAPTIONS), codec.ends[1]
    assert codec.spell(pieces.masked_fill(pieces == PAST, end)) == CAPTIONS
    assert [row[row != PAST].tolist()[-1] for row in pieces] == [end] * len(CAPTIONS)
    short = codec_of(models, longest=4).cut(["abc", "abcd", "abcde"])
    assert short.shape == (3, 4)
    assert (short == end).sum() == 1  # what is longer has no end within it
    assert codec_of(models, "gpt2").ends == (end, end)


# Training


def training_of(codec: SentencePrefixLM, export: Path, **more) -> PrefixTraining:
    torch.manual_seed(0)
    training = PrefixTraining(codec, str(export), **more)
    training.configure_model()
    return training


@pytest.mark.parametrize("kind", ["gemma", "gpt2"])
def test_the_loss_is_the_mean_over_pieces(models, tmp_path, kind):
    codec = codec_of(models, kind)
    training, x, pieces = (
        training_of(codec, tmp_path / "x"),
        latents(len(CAPTIONS)),
        codec.cut(CAPTIONS),
    )
    spent = []
    with torch.no_grad():
        for latent, row in zip(
            x, pieces, strict=True
        ):  # one by one, so without any padding
            row = row[row != PAST]
            read = training.net.embed(
                torch.cat([torch.tensor([codec.ends[0]]), row[:-1]])[None]
            )
            read = torch.cat([training.net.projector(latent[None]), read], dim=1)
            logits = training.net.lm(inputs_embeds=read).logits[0, codec.prefix :]
            spent += (-logits.log_softmax(1).gather(1, row[:, None])).flatten().tolist()
        errors = training.reconstruction(
            x, x, F.pad(pieces, (0, 5), value=PAST), streams=torch.arange(len(x))
        )
        assert errors.tolist() == pytest.approx(spent, rel=1e-4)


def test_noise_is_a_share_of_each_feature_s_spread(models, tmp_path):
    training = training_of(codec_of(models), tmp_path / "x", noise=0.5)
    x = latents(4000) * torch.linspace(1, 9, EMBEDDED)
    training.reconstruction = lambda disturbed, *inputs, streams: disturbed
    batch = RawBatch.of([x, torch.zeros(4000, 1, dtype=torch.long)])
    disturbed = training.errors(batch, training.noise)["reconstruction"]
    assert torch.allclose((disturbed - x).std(0), 0.5 * x.std(0), rtol=0.1)
    assert torch.equal(training.errors(batch, 0.0)["reconstruction"], x)


def fit(
    training: PrefixTraining,
    folder: Path,
    steps: int,
    ckpt_path: Path | None = None,
    **trainer,
) -> None:
    from lightning.pytorch import Trainer

    write_manifest(folder / "all.jsonl", ({"text": caption} for caption in CAPTIONS))
    data = RawDataModule(
        Text(), *[str(folder / "all.jsonl")] * 2, batch_size=len(CAPTIONS)
    )
    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
        "num_sanity_val_steps": 0,
    }
    quiet |= {
        "enable_checkpointing": False,
        "accelerator": "cpu",
        "default_root_dir": folder,
    }
    quiet |= {"val_check_interval": steps, "check_val_every_n_epoch": None}
    Trainer(max_steps=steps, **(quiet | trainer)).fit(
        training, datamodule=data, ckpt_path=ckpt_path
    )


@pytest.fixture(scope="module")
def learned(models) -> SentencePrefixLM:
    """A codec whose decoder learned the captions by heart."""
    weights = models / "learned.safetensors"
    codec = codec_of(models, weights=str(weights))
    training = training_of(
        codec, weights, tune="language_model", learning_rate=1e-2, noise=0.1
    )
    fit(training, models, 120)
    return codec


def test_trained_captions_come_back(learned):
    assert learned.decode(learned.encode(CAPTIONS)) == CAPTIONS
    assert (
        load_file(learned.file).keys()
        == dict(learned.build().named_parameters()).keys()
    )


def test_the_laws_hold(learned, tmp_path):
    entry = {
        "flowbind.codecs": {"prefix-lm": "flowbind_text.prefix_lm:SentencePrefixLM"}
    }
    with distribution(tmp_path / "site", "prefix-lm", entry):
        check_modality(Text(learned), CAPTIONS, tmp_path)


def test_a_copy_is_a_description(learned):
    import pickle

    learned.decode(learned.encode(CAPTIONS[:1]))
    assert len(pickle.dumps(learned)) < 2000


def loss_of(codec: SentencePrefixLM, net: PrefixNet) -> float:
    training = PrefixTraining(codec, "")
    training.net = net
    with torch.no_grad():
        return (
            training.errors(RawBatch.of(codec.training_inputs(CAPTIONS)), 0.0)[
                "reconstruction"
            ]
            .mean()
            .item()
        )


def test_a_projector_alone_learns(models, tmp_path):
    codec = codec_of(models, weights=str(tmp_path / "p.safetensors"))
    training = training_of(codec, codec.file, learning_rate=1e-2)
    before = loss_of(codec, training.net)
    fit(training, tmp_path, 30)
    assert loss_of(codec, codec.net) < before - 0.3
    assert set(load_file(codec.file)) == {
        f"projector.{name}" for name in Projector(2, 2, 2).state_dict()
    }
    held = codec.build().lm.state_dict()
    assert all(
        torch.equal(tensor, held[name])
        for name, tensor in training.net.lm.state_dict().items()
    )


def test_low_rank_changes_are_exported(models, tmp_path):
    codec = codec_of(models, weights=str(tmp_path / "l.safetensors"))
    training = training_of(codec, codec.file, tune="lora", rank=4, learning_rate=1e-2)
    before = loss_of(codec, training.net)
    fit(training, tmp_path, 30)
    pieces = torch.randint(5, 200, (4, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = (
            codec.net(latents(4), pieces),
            training.eval().net(latents(4), pieces),
        )
        plain = PrefixNet(codec.build().lm, EMBEDDED, 3)
        plain.projector = codec.net.projector
        assert torch.allclose(found, expected, atol=1e-4)
        assert (
            plain(latents(4), pieces) - expected
        ).abs().max() > 0.01  # the language model did change
    assert loss_of(codec, codec.net) < before - 0.3
    ranks = {
        tensor.shape[0]
        for name, tensor in load_file(codec.file).items()
        if name.endswith(".down")
    }
    assert ranks == {4}
    with pytest.raises(ValueError, match="no linear layers"):
        training_of(codec_of(models, "gpt2"), tmp_path / "x", tune="lora")


@pytest.mark.parametrize("tune", ["projector", "lora", "language_model"])
def test_what_learns_is_in_float32(models, tmp_path, tune):
    codec = codec_of(models, "half", weights=str(tmp_path / "h.safetensors"))
    training = training_of(codec, codec.file, tune=tune)
    training.errors(RawBatch.of([latents(len(CAPTIONS)), codec.cut(CAPTIONS)]), 0.0)[
        "reconstruction"
    ].mean().backward()
    learning = [
        parameter for parameter in training.parameters() if parameter.requires_grad
    ]
    assert {parameter.dtype for parameter in learning} == {torch.float32}
    assert all(parameter.grad.isfinite().all() for parameter in learning)
    assert not any(
        part.training
        for part in training.net.lm.modules()
        if isinstance(part, torch.nn.Dropout)
    )
    save_file(trained(training.net), codec.file)
    assert {parameter.dtype for parameter in codec.net.lm.parameters()} == {
        torch.bfloat16
    }
    assert len(codec.decode(latents(2))) == 2


@pytest.mark.parametrize("tune", ["projector", "language_model"])
def test_a_checkpoint_holds_what_is_trained_and_resumes(models, tmp_path, tune):
    from lightning.pytorch.callbacks import ModelCheckpoint

    codec = codec_of(models, weights=str(tmp_path / "c.safetensors"))
    through = training_of(codec, codec.file, tune=tune)
    kept = ModelCheckpoint(tmp_path / "kept", save_top_k=-1, every_n_train_steps=2)
    fit(through, tmp_path, 4, enable_checkpointing=True, callbacks=kept)
    first = next(path for path in tmp_path.rglob("*.ckpt") if "step=2" in path.name)
    state = torch.load(first, weights_only=True)["state_dict"]
    assert set(state) == {f"net.{name}" for name in trained(through.net)}
    again = training_of(codec, codec.file, tune=tune)
    fit(again, tmp_path, 4, ckpt_path=first)
    expected = trained(through.net)
    assert all(
        torch.equal(tensor, expected[name])
        for name, tensor in trained(again.net).items()
    )
    assert not torch.allclose(
        state["net.projector.ln.bias"], expected["projector.ln.bias"], atol=1e-5
    )


# Mistakes


def refused(use, *says: str, error: type[Exception] = ValueError) -> None:
    with pytest.raises(error) as raised:
        use()
    assert "\n" not in str(raised.value)
    missing = [part for part in says if part not in str(raised.value)]
    assert not missing, f"{raised.value} does not say {missing}"


def test_an_untrained_decoder_says_what_to_do(models, tmp_path):
    codec = codec_of(models)
    refused(
        lambda: codec.decode(latents(1)),
        "recipes/codecs/text_decoder.yaml",
        "`weights`",
    )
    codec = codec_of(models, weights=str(tmp_path / "none.safetensors"))
    refused(
        lambda: codec.decode(latents(1)),
        "none.safetensors",
        "text_decoder.yaml",
        error=FileNotFoundError,
    )


def all_but_one(codec):
    """A codec's projector and all weights of its language model but the last."""
    *weights, _ = codec.net.named_parameters()
    return {name: tensor.detach().clone() for name, tensor in weights}


def test_other_weights_are_refused(models, random_codec, tmp_path):
    state = load_file(random_codec.file)
    without = {
        name: tensor for name, tensor in state.items() if name != "projector.ln.bias"
    }
    damages = {
        "projector.ln.bias": without,
        "lm.something": state | {"lm.something": torch.zeros(1)},
        "is missing": all_but_one(random_codec),
        "projector.net.2": state | {"projector.net.2.weight": torch.zeros(2, 2)},
        "nowhere": state
        | {
            "lora.nowhere.up": torch.zeros(1, 1),
            "lora.nowhere.down": torch.zeros(1, 1),
        },
    }
    codec = codec_of(
        models,
        Path(random_codec.language_model).name,
        weights=str(tmp_path / "other.safetensors"),
    )
    for said, damaged in damages.items():
        save_file(damaged, codec.file)
        refused(lambda: codec.net, "other.safetensors", said)
    codec.file.write_bytes(b"no weights")
    refused(lambda: codec.net, "other.safetensors")


def test_models_that_cannot_be_had_say_what_to_do(
    models, random_codec, tmp_path, monkeypatch
):
    hub = SentencePrefixLM(weights=random_codec.weights)
    refused(
        lambda: hub.encode(CAPTIONS),
        "google/embeddinggemma-300m",
        "`hf auth login`",
        "`encoder`",
        "folder",
    )
    refused(
        lambda: hub.decode(latents(1)),
        "google/gemma-3-1b-pt",
        "`hf auth login`",
        "`language_model`",
        "folder",
    )
    partial = tmp_path / "partial"
    shutil.copytree(models / "gemma", partial)
    state = load_file(partial / "model.safetensors")
    state.popitem()
    save_file(state, partial / "model.safetensors", metadata={"format": "pt"})
    refused(codec_of(models, language_model=str(partial)).build, "partial", "lacks")
    (partial / "model.safetensors").unlink()
    refused(
        codec_of(models, language_model=str(partial)).build,
        "partial",
        "no causal language model",
    )
    for file in partial.glob("token*"):
        file.unlink()
    refused(
        lambda: codec_of(models, language_model=str(partial)).tokenizer,
        "partial",
        "token",
    )
    monkeypatch.setitem(sys.modules, "transformers", None)
    refused(codec_of(models).build, str(Extra("prefix-lm")))
    refused(lambda: codec_of(models).tokenizer, str(Extra("prefix-lm")))
    monkeypatch.setitem(sys.modules, "peft", None)
    refused(lambda: prepared_without_peft(random_codec), str(Extra("lora")))


def prepared_without_peft(codec: SentencePrefixLM) -> None:
    from flowbind_text.prefix_training import prepare

    linear = torch.nn.Sequential(torch.nn.Linear(2, 2))
    linear.get_output_embeddings = lambda: None
    linear.get_input_embeddings = lambda: torch.nn.Embedding(2, 2)
    prepare(PrefixNet(linear, EMBEDDED, 3), "lora", 2)
