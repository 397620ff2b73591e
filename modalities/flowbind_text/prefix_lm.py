"""The codec of record for texts: a sentence encoder, and a language model that writes after a
prefix made of the latent.

The latent is the encoder's embedding itself. A projector turns it into K embeddings of the language
model's width W, and the language model goes on from there: `[prefix 1 .. K] [beginning] [piece 1 ..
T] [end]`.

Shapes: B captions, D features of a latent, K embeddings of a prefix, T pieces of V in the
    vocabulary.
Source: the text codec of FlowBind (arXiv 2512.15420), after ClipCap (arXiv 2111.09734).
"""

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from flowbind.codec import Codec
from flowbind.errors import first_line, last_line
from flowbind.hub import folder_of, local
from flowbind.libraries import Extra, importing
from flowbind.progress import track
from flowbind_text.hub import has_words, without_bars
from flowbind_text.sentences import SentenceEncoder

BATCH = 128  # captions written at a time
CHUNK = 1024  # captions embedded between two reports of progress
PAST = -100  # in place of a piece, after a caption's end: what cross-entropy leaves out
NO_CAPTION = re.compile("[\0\ufeff]")  # characters that a file of captions does not keep
INSTALL = Extra("prefix-lm")
RECIPE = "recipes/codecs/text_decoder.yaml"


class Projector(nn.Module):
    """Latents, with shape (B, D), to prefixes, with shape (B, K, W).

    `LayerNorm(Linear(tanh(Linear(x))))`, as in the authors' code; parameters have the names that
    they have there.
    """

    def __init__(self, features: int, width: int, prefix: int) -> None:
        super().__init__()
        hidden = max(features, width)
        self.net = nn.Sequential(
            nn.Linear(features, hidden), nn.Tanh(), nn.Linear(hidden, prefix * width)
        )
        self.ln = nn.LayerNorm(width)
        self.shape = (prefix, width)

    def forward(self, latents: Tensor) -> Tensor:
        return self.ln(self.net(latents).unflatten(1, self.shape))


class PrefixNet(nn.Module):
    """A projector and the language model that reads its prefixes.

    Args:
        lm: a causal language model of transformers.
        features: D.
        prefix: K.
    """

    def __init__(self, lm: nn.Module, features: int, prefix: int) -> None:
        super().__init__()
        self.projector = Projector(features, lm.get_input_embeddings().embedding_dim, prefix)
        self.lm = lm

    def embed(self, pieces: Tensor) -> Tensor:
        """The language model's embeddings of pieces, with shape (B, T), to (B, T, W)."""
        return self.lm.get_input_embeddings()(pieces)

    def forward(self, latents: Tensor, pieces: Tensor) -> Tensor:
        """What follows each piece: ids that begin with the beginning, with shape (B, T), to logits,
        with shape (B, T, V).
        """
        pieces = self.embed(pieces)
        prefix = self.projector(latents).to(pieces.dtype)
        return self.lm(inputs_embeds=torch.cat([prefix, pieces], dim=1), use_cache=False).logits[
            :, prefix.shape[1] :
        ]

    def write(
        self,
        latents: Tensor,
        beginning: int,
        end: int,
        longest: int,
        temperature: float,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Writes piece after piece: ids, with shape (B, at most `longest`); ends fill up the
        shorter captions.
        """
        seen = self.embed(torch.full((len(latents), 1), beginning, device=latents.device))
        seen = torch.cat([self.projector(latents).to(seen.dtype), seen], dim=1)
        ended = torch.zeros(len(latents), dtype=torch.bool, device=latents.device)
        memory, written = None, []
        for _ in range(longest):
            out = self.lm(inputs_embeds=seen, past_key_values=memory, use_cache=True)
            memory = out.past_key_values
            piece = draw(out.logits[:, -1].float(), temperature, generator).masked_fill(ended, end)
            written.append(piece)
            ended = ended | (piece == end)
            if ended.all():
                break
            seen = self.embed(piece[:, None])
        return torch.stack(written, dim=1)

    def restore(self, trained: dict[str, Tensor]) -> None:
        """Takes over what training changed, as `flowbind_text.prefix_training` exports it.

        Args:
            trained: `projector.*`; `lm.*` where the language model was trained; `lora.MODULE.down`
                and `lora.MODULE.up` where low-rank changes `up @ down` of its weights were.

        Raises:
            AttributeError: a change of a module that the language model has not.
            RuntimeError: other names or shapes than this network's.
        """
        modules = {
            name.split(".", 1)[1].rsplit(".", 1)[0] for name in trained if name.startswith("lora.")
        }
        for module in sorted(modules):
            weight = self.lm.get_submodule(module).weight
            change = trained[f"lora.{module}.up"].float() @ trained[f"lora.{module}.down"].float()
            weight.data = (weight.float() + change.to(weight.device)).to(weight.dtype)
        rest = {name: tensor for name, tensor in trained.items() if not name.startswith("lora.")}
        absent, unknown = self.load_state_dict(rest, strict=False)
        wrong = unknown + [name for name in absent if name.startswith("projector.")]
        if wrong:
            raise RuntimeError(f"{wrong[0]} is {'not in the network' if unknown else 'missing'}")


def draw(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """One piece for each row of logits, with shape (B, V): the likeliest at temperature 0, else
    drawn from the softmax.
    """
    if temperature == 0:
        return logits.argmax(1)
    return torch.multinomial((logits / temperature).softmax(1), 1, generator=generator)[:, 0]


class SentencePrefixLM(Codec):
    """A sentence encoder, whose embeddings are the latents, and a language model that writes
    captions from them.

    Encoding needs the encoder alone, decoding the language model alone; each is fetched and loaded
    on first use. The language model runs in the precision that its weights are stored in.

    Args:
        encoder: a sentence-transformers model: a folder, or a name on the hub.
        revision: of the encoder on the hub: branch, tag or commit. A commit keeps latents the same
            for good.
        width: D, of the encoder's embeddings.
        normalize: divide each embedding by its norm. Some encoders, the default among them, give
            norm 1 by themselves.
        language_model: a causal language model of transformers: a folder, or a name on the hub.
        language_revision: of the language model on the hub.
        prefix: K, embeddings that stand for the latent.
        longest: most pieces in a caption.
        temperature: 0 writes the likeliest piece at each step; above, pieces are drawn, from the
            softmax of the logits divided by it.
        weights: a safetensors file of the trained projector and, if they were trained too, of the
            language model's weights or their low-rank changes. Without one the codec encodes only.
    """

    def __init__(
        self,
        encoder: str = "google/embeddinggemma-300m",
        revision: str = "main",
        width: int = 768,
        normalize: bool = False,
        language_model: str = "google/gemma-3-1b-pt",
        language_revision: str = "main",
        prefix: int = 3,
        longest: int = 64,
        temperature: float = 0.0,
        weights: str | None = None,
    ) -> None:
        if temperature < 0:
            raise ValueError(
                f"temperature is {temperature}; 0 writes greedily, above 0 draws pieces"
            )
        self.encoder, self.revision, self.width, self.normalize = (
            encoder,
            revision,
            width,
            normalize,
        )
        self.language_model, self.language_revision = language_model, language_revision
        self.prefix, self.longest, self.temperature, self.weights = (
            prefix,
            longest,
            temperature,
            weights,
        )
        self.shape = (width,)

    @property
    def file(self) -> Path:
        """The safetensors file of the trained weights.

        Raises:
            ValueError: the codec was given none.
        """
        if self.weights is None:
            raise ValueError(
                f"{type(self).__name__} writes no captions without a trained projector; "
                f"train one with `flowbind fit --config {RECIPE}` and give its file as `weights`"
            )
        return Path(self.weights)

    def libraries(self, use: str) -> dict[str, str]:
        module = {"encode": "sentence_transformers", "decode": "transformers"}[use]
        return {module: INSTALL}

    def files(self) -> dict[str, Path]:
        trained = {} if self.weights is None else {"weights": self.file}
        return trained | local(encoder=self.encoder, language_model=self.language_model)

    @cached_property
    def sentences(self) -> SentenceEncoder:
        """The frozen sentence encoder."""
        return SentenceEncoder(self.encoder, self.revision, self.normalize)

    @cached_property
    def language_folder(self) -> Path:
        """The language model's folder: the name itself, or the hub's in the local cache."""
        name, revision = self.language_model, self.language_revision
        return folder_of(
            name, revision, kind="the language model", argument="language_model", install=INSTALL
        )

    @cached_property
    def tokenizer(self):
        """Cuts captions into the language model's pieces.

        Raises:
            ValueError: transformers is not installed, or the folder holds no whole tokenizer, or
                one without an end.
        """
        with importing(
            "transformers", needing=f"the language model '{self.language_model}'", install=INSTALL
        ):
            from transformers import AutoTokenizer
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.language_folder, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"{self.language_folder}: no tokenizer of transformers ({first_line(error)})"
            ) from None
        if not has_words(tokenizer) or tokenizer.eos_token_id is None:
            raise ValueError(
                f"{self.language_folder}: a tokenizer without words or without an end of text; are all its files there?"
            )
        return tokenizer

    @property
    def ends(self) -> tuple[int, int]:
        """The pieces before and after a caption; a tokenizer without a beginning begins with the
        end.
        """
        beginning, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        return (end if beginning is None else beginning), end

    def build(self) -> PrefixNet:
        """The language model as it is distributed, frozen, and a fresh projector, drawn from
        torch's global generator.

        Raises:
            ValueError: transformers is not installed, or the folder holds no whole causal language
                model.
        """
        with importing(
            "transformers", needing=f"the language model '{self.language_model}'", install=INSTALL
        ):
            from transformers import AutoModelForCausalLM
        try:
            with without_bars():
                lm, loaded = AutoModelForCausalLM.from_pretrained(
                    self.language_folder,
                    dtype="auto",
                    use_safetensors=True,
                    trust_remote_code=False,  # nor is anybody asked whether to
                    output_loading_info=True,
                )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ValueError(
                f"{self.language_folder}: no causal language model ({first_line(error)})"
            ) from None
        if loaded["missing_keys"]:
            absent = sorted(loaded["missing_keys"])[0]
            raise ValueError(
                f"{self.language_folder}: no whole causal language model; it lacks {absent}"
            )
        return PrefixNet(lm.eval().requires_grad_(False), self.width, self.prefix)

    @cached_property
    def net(self) -> PrefixNet:
        """The frozen decoder, in evaluation mode.

        Raises:
            FileNotFoundError: there is no file `weights`.
            ValueError: the codec was given none, or the file holds something else.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if not self.file.is_file():
            raise FileNotFoundError(
                f"{self.file}: no such weights for {type(self).__name__}; train them with {RECIPE}"
            )
        net = self.build()
        try:
            net.restore(load_file(self.file))
        except (SafetensorError, RuntimeError, AttributeError, KeyError) as error:
            said = last_line(error)
            raise ValueError(
                f"{self.file}: not weights of {type(self).__name__} for '{self.language_model}' with width {self.width} "
                f"and prefix {self.prefix} ({said})"
            ) from None
        return net.eval().requires_grad_(False).to(self.device)

    @torch.inference_mode()
    def encode(self, raws: Sequence[str]) -> Tensor:
        """Embeds B captions: float32, with shape (B, D).

        Raises:
            ValueError: the encoder cannot be had, or its embeddings are not as wide as the codec
                was told.
        """
        latents = self.sentences.embed(raws, self.device)
        if latents.shape[1] != self.width:
            raise ValueError(
                f"the encoder '{self.encoder}' gives {latents.shape[1]} numbers, not {self.width}; set `width`"
            )
        return latents.to(self.device)

    @torch.inference_mode()
    def decode(self, latents: Tensor, generator: torch.Generator | None = None) -> list[str]:
        """Writes B captions, each of one line; one without a word, which no caption is, becomes a
        question mark.
        """
        net, how = self.net, (*self.ends, self.longest, self.temperature, generator)
        chunks = latents.to(self.device, torch.float32).split(BATCH)
        written = [text for chunk in chunks for text in self.spell(net.write(chunk, *how))]
        return [" ".join(NO_CAPTION.sub(" ", text).split()) or "?" for text in written]

    def cut(self, captions: Sequence[str]) -> Tensor:
        """The pieces of B captions, ends included and no more than `longest` of each: (B, T), then
        `PAST`.
        """
        end = self.ends[1]
        cut = self.tokenizer(list(captions), add_special_tokens=False)["input_ids"]
        return pad_sequence([torch.tensor([*ids, end][: self.longest]) for ids in cut], True, PAST)

    def spell(self, pieces: Tensor) -> list[str]:
        """The texts of B rows of pieces."""
        return self.tokenizer.batch_decode(
            pieces, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def training_inputs(self, raws: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Latents, with shape (B, D), and pieces as `cut` gives them, both on the CPU."""
        raws = list(raws)  # they are small, and each is needed twice
        chunks = np.array_split(np.array(raws, dtype=object), -(-len(raws) // CHUNK))
        watched = track(chunks, "embedding captions", len(raws), "samples", len)
        return torch.cat([self.encode(list(chunk)).cpu() for chunk in watched]), self.cut(raws)

    def fingerprint(self) -> dict[str, str | int | bool]:
        """What decides the latents: the encoder alone."""
        return {"codec": type(self).__name__, "version": self.version, **self.sentences.identity()}

    def __getstate__(self) -> dict:
        """The description alone: a copy loads its models again."""
        return {**self.arguments(), "shape": self.shape, "device": self.device}
