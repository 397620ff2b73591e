"""Laws of the variational codec of captions: its latents, its words, its training, and the weights that ship."""

import numpy as np
import pytest
import torch
from flowbind_shapes.caption import describe
from flowbind_shapes.grammar import CaptionGrammar, parse
from flowbind_shapes.scene import draw
from flowbind_text import Text
from flowbind_text.caption_vae import CaptionVAE
from flowbind_text.caption_vae_training import CaptionVAETraining
from flowbind_text.variational import READ, VariationalCaptionNet
from flowbind_text.vocabulary import END, Cutter
from lightning.pytorch import Trainer, seed_everything
from torch.distributions import Normal, kl_divergence

from flowbind import draws
from flowbind.data.manifest import write_manifest
from flowbind.data.promise import Promises
from flowbind.data.raw import RawDataModule
from flowbind.testing import check_modality


@pytest.fixture(scope="module")
def codec() -> CaptionVAE:
    return CaptionVAE()


@pytest.fixture(scope="module")
def captions() -> list[str]:
    """Captions of the embedded world that the weights were not trained on."""
    generator = np.random.default_rng(5)
    return describe(draw(256, generator), generator)


@pytest.fixture(scope="module")
def latents(codec, captions) -> torch.Tensor:
    return codec.encode(captions)


def test_the_laws_hold(codec, captions, tmp_path):
    check_modality(Text(codec), captions[:4], tmp_path)


# The weights that ship


def test_captions_come_back_word_for_word(codec, captions, latents):
    same = [a == b for a, b in zip(codec.decode(latents), captions, strict=True)]
    assert np.mean(same) >= 0.99


def test_what_lies_between_captions_is_a_caption(codec, latents):
    """A flow ends near latents, not on them: what a latent leaves open the writer decides as one."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(latents.shape, generator=generator)
    middles = (latents + latents.roll(1, 0)) / 2
    for between in (drawn, middles):
        written = codec.decode(between)
        assert np.mean([bool(parse(caption)) for caption in written]) >= 0.9


@pytest.mark.parametrize(("noise", "share"), [(0.1, 0.99), (0.2, 0.99), (0.3, 0.99)])
def test_a_flow_s_errors_are_forgiven(codec, captions, latents, noise, share):
    """Latents off by a share of their spread still say shape, colour and size."""
    grammar = CaptionGrammar()
    generator = torch.Generator().manual_seed(0)
    off = torch.randn(latents.shape, generator=generator)
    written = codec.decode(latents + noise * latents.std(0) * off)

    meant, said = (
        grammar.read(grammar.features("text", texts)) for texts in (captions, written)
    )
    assert (meant == said).all(1).double().mean() >= share


def test_latents_are_nearly_standard(latents):
    """Of every feature at every position: none is constant."""
    assert latents.shape[1:] == CaptionVAE.shape == (8, 16)
    assert latents.mean(0).abs().max() < 0.3
    assert 0.7 < latents.std(0).min() < latents.std(0).max() < 1.3


def test_the_weights_are_small(codec):
    assert codec.file.stat().st_size <= 2e6


# What is lost


def test_what_the_vocabulary_lacks_is_said(codec, captions):
    assert not any(codec.caveat(caption) for caption in captions)
    assert "lacks, 'zebra'," in codec.caveat("a red zebra")
    assert "'größer'" in codec.caveat("a größer ball")
    long = " ".join(["a red ball"] * 12)
    assert codec.caveat(long) == f"is cut: 36 pieces, of which the codec reads {READ}"
    assert not codec.caveat(" ".join(["red"] * READ))
    start = " ".join(long.split()[:READ])
    assert torch.equal(codec.encode([long]), codec.encode([start]))


def test_captions_of_another_world_are_told(codec):
    foreign = [
        "two dogs bark in the rain",
        "prices fell",
        "hello there",
        "a quick song",
    ]
    told = Promises().look("text", codec, foreign, codec.encode(foreign))
    assert "was made for other samples" in told


def test_errors_are_the_share_of_pieces_that_changed(codec):
    raws = ["a red ball", "a red ball", "a red ball", "a red"]
    again = ["a red ball", "a blue ball", "a red", "a red ball ball"]
    expected = torch.tensor([0, 1 / 3, 1 / 3, 1 / 2])
    torch.testing.assert_close(codec.errors(raws, again), expected)


# The network


@pytest.fixture
def net(codec) -> VariationalCaptionNet:
    torch.manual_seed(0)
    net = codec.build()
    net.table.copy_(codec.net.table)
    return net.eval()


def test_nothing_stands_behind_a_caption(net, codec):
    """Ends that fill up a caption change nothing, whatever features an end has."""
    ids = codec.prepare(["a red ball", "the big blue ring, painted."])
    with torch.no_grad():
        short = net.posterior(ids[:, :7])
        net.pieces.weight[END] = 100.0
        for once, padded in zip(short, net.posterior(ids), strict=True):
            torch.testing.assert_close(once, padded, atol=1e-5, rtol=1e-5)


def test_the_order_of_words_counts(net, codec):
    one, other = net.encode(codec.prepare(["red ball", "ball red"]))
    assert (one - other).abs().max() > 1e-3


def test_what_is_written_has_one_width(codec, latents):
    """So that captions written apart can be put together."""
    widths = {codec.net.decode(latent[None]).shape[1] for latent in latents[:9]}
    assert len(widths) == 1


# Training


@pytest.fixture
def data(tmp_path) -> RawDataModule:
    words = [f"the {a} {b}" for a in ("first", "second", "last") for b in range(10)]
    write_manifest(tmp_path / "all.jsonl", ({"text": word} for word in words))
    path = str(tmp_path / "all.jsonl")
    return RawDataModule(Text(), path, path, batch_size=15)


def quiet_trainer(**options) -> Trainer:
    return Trainer(
        accelerator="cpu",
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


@pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning", "ignore:.*__len__.*:UserWarning"
)  # Lightning's own
def test_training_learns_words_and_exports(tmp_path, data):
    seed_everything(0)
    weights = str(tmp_path / "trained.safetensors")
    codec = CaptionVAE(weights)
    training = CaptionVAETraining(codec, weights, learning_rate=5e-3, noise=0.1)
    quiet_trainer(max_steps=120).fit(training, datamodule=data)

    captions = list(data.raws("train", 30))
    assert (
        np.mean(
            [
                a == b
                for a, b in zip(
                    codec.decode(codec.encode(captions)), captions, strict=True
                )
            ]
        )
        > 0.7
    )
    assert codec.promise() is not None
    assert not any(codec.caveat(caption) for caption in captions)
    assert "'ball'" in codec.caveat("the first ball")


def test_the_divergence_is_that_of_the_encoder_s_gaussians(net, codec, captions):
    """By torch's own formula; and latents are drawn from them, row by row."""
    training = CaptionVAETraining(codec, "unused", kl=0.5)
    training.net = net
    training.cutter = Cutter(net.table)
    spelled = codec.training_inputs(captions[:8])[0]
    streams = draws.streams(1, torch.arange(8))
    with torch.no_grad():
        latents, further = training.latents(spelled, streams=streams)
        means, log_variances = net.posterior(codec.prepare(captions[:8]))

    normal = Normal(means, (log_variances / 2).exp())
    expected = kl_divergence(normal, Normal(0.0, 1.0)).flatten(1).mean(1)
    torch.testing.assert_close(further["kl"], expected)
    unit = (latents - means) / normal.scale
    torch.testing.assert_close(unit, draws.normal(streams, 8, 16), atol=1e-3, rtol=1e-3)
    losses = {"reconstruction": torch.tensor(2.0), "kl": torch.tensor(3.0)}
    assert training.weigh(losses) == 3.5
