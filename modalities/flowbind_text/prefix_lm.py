"""The published codec for texts: a sentence encoder, and a language model behind a prefix.

The latent is the encoder's embedding itself. A projector turns it into K embeddings of the language
model's width W, and the language model continues from there:
`[prefix 1 .. K] [beginning] [piece 1 .. T] [end]`.

Shapes: B captions, D features of a latent, K embeddings of a prefix, T pieces of V in the
    vocabulary.
Source: the text codec of FlowBind (arXiv 2512.15420), after ClipCap (arXiv 2111.09734).
"""

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from flowbind.codec import Codec
from flowbind.errors import first_line, last_line
from flowbind.hub import existing_paths, folder_of
from flowbind.libraries import Extra, importing
from flowbind.progress import track
from flowbind_text.hub import has_words, load_tokenizer, without_bars
from flowbind_text.official import convert
from flowbind_text.sentences import SentenceEncoder

BATCH = 128  # captions written at a time
CHUNK = 1024  # captions embedded between two reports of progress
PAST = -100  # in place of a piece, after a caption's end: what cross-entropy leaves out
# Characters that a file of captions does not keep.
NO_CAPTION = re.compile("[\0\ufeff]")
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
        first = nn.Linear(features, hidden)
        self.net = nn.Sequential(first, nn.Tanh(), nn.Linear(hidden, prefix * width))
        self.ln = nn.LayerNorm(width)
        self.shape = (prefix, width)

    def forward(self, latents: Tensor) -> Tensor:
        return self.ln(self.net(latents).unflatten(1, self.shape))


class PrefixNet(nn.Module):
    """A projector and the language model that reads its prefixes.

    Args:
        lm: Causal language model of transformers.
        features: Features of a latent, D.
        prefix: Embeddings of a prefix, K.
    """

    def __init__(self, lm: Any, features: int, prefix: int) -> None:
        super().__init__()
        width = lm.get_input_embeddings().embedding_dim
        self.projector = Projector(features, width, prefix)
        self.lm = lm

    def embed(self, pieces: Tensor) -> Tensor:
        """The language model's embeddings of pieces, with shape (B, T), to (B, T, W)."""
        return self.lm.get_input_embeddings()(pieces)

    def forward(self, latents: Tensor, pieces: Tensor) -> Tensor:
        """What follows each piece: logits, with shape (B, T, V).

        Args:
            latents: Latents, with shape (B, D).
            pieces: Ids of pieces that begin with the beginning, with shape (B, T).
        """
        pieces = self.embed(pieces)
        prefix = self.projector(latents).to(pieces.dtype)
        inputs = torch.cat([prefix, pieces], dim=1)
        logits = self.lm(inputs_embeds=inputs, use_cache=False).logits
        return logits[:, prefix.shape[1] :]

    def write(
        self,
        latents: Tensor,
        beginning: int,
        end: int,
        longest: int,
        temperature: float,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Writes piece after piece: ids, with shape (B, at most `longest`).

        Args:
            latents: Latents, with shape (B, D).
            beginning: Id of the piece before a caption.
            end: Id of the piece after a caption; it fills up the shorter ones.
            longest: Most pieces in a caption.
            temperature: 0 for the likeliest piece, above to draw pieces.
            generator: Source of the draws.
        """
        count = len(latents)
        piece = torch.full((count, 1), beginning, device=latents.device)
        first = self.embed(piece)
        prefix = self.projector(latents).to(first.dtype)
        inputs = torch.cat([prefix, first], dim=1)

        ended = torch.zeros(count, dtype=torch.bool, device=latents.device)
        memory: dict[str, Any] = {}  # of what was read, as transformers calls it
        pieces = []
        for _ in range(longest):
            out = self.lm(inputs_embeds=inputs, use_cache=True, **memory)
            name = "cache" if hasattr(out, "cache") else "past_key_values"
            memory = {name: getattr(out, name)}
            logits = out.logits[:, -1].float()
            piece = draw(logits, temperature, generator)
            piece = piece.masked_fill(ended, end)
            pieces.append(piece)

            ended = ended | (piece == end)
            if ended.all():
                break

            inputs = self.embed(piece[:, None])

        return torch.stack(pieces, dim=1)

    def restore(self, trained: dict[str, Tensor]) -> None:
        """Takes over what training changed, as `flowbind_text.prefix_training` exports it.

        Args:
            trained: Tensors by name: `projector.*`; `lm.*` where the language model was trained;
                `lora.MODULE.down` and `lora.MODULE.up` where low-rank changes `up @ down` of its
                weights were.

        Raises:
            AttributeError: a change of a module that the language model has not.
            RuntimeError: other names or shapes than this network's.
        """
        modules = set()
        rest = {}
        for name, tensor in trained.items():
            if name.startswith("lora."):
                module = name.removeprefix("lora.").rsplit(".", 1)[0]
                modules.add(module)
            else:
                rest[name] = tensor

        for module in sorted(modules):
            weight = self.lm.get_submodule(module).weight
            up = trained[f"lora.{module}.up"].float()
            down = trained[f"lora.{module}.down"].float()
            change = (up @ down).to(weight.device)
            changed = weight.float() + change
            weight.data = changed.to(weight.dtype)

        # The projector is there, and of a language model that was trained, too, every weight is.
        parts = {name.partition(".")[0] for name in rest} | {"projector"}
        needed = []
        for name, _ in self.named_parameters():
            if name.partition(".")[0] in parts:
                needed.append(name)

        _, unknown = self.load_state_dict(rest, strict=False)
        absent = [name for name in needed if name not in rest]
        wrong = unknown + absent
        if wrong:
            fault = "not in the network" if unknown else "missing"
            raise RuntimeError(f"{wrong[0]} is {fault}")


def draw(
    logits: Tensor,
    temperature: float,
    generator: torch.Generator | None,
) -> Tensor:
    """One piece for each row of logits, with shape (B, V).

    The likeliest at temperature 0, else drawn from the softmax.
    """
    if temperature == 0:
        return logits.argmax(1)

    probabilities = (logits / temperature).softmax(1)
    drawn = torch.multinomial(probabilities, 1, generator=generator)
    return drawn[:, 0]


class SentencePrefixLM(Codec):
    """A sentence encoder, whose embeddings are the latents, and a language model that writes.

    Encoding needs the encoder alone, decoding the language model alone; each is fetched and loaded
    on first use. The language model runs in the precision that its weights are stored in.

    Args:
        encoder: Sentence-transformers model: a folder, or a name on the hub.
        revision: Branch, tag or commit of the encoder on the hub. A commit keeps latents the same
            for good.
        width: Width of the encoder's embeddings, D.
        normalize: Whether to divide each embedding by its norm. Some encoders, the default among
            them, give norm 1 by themselves.
        language_model: Causal language model of transformers: a folder, or a name on the hub.
        language_revision: Branch, tag or commit of the language model on the hub.
        prefix: Embeddings that stand for the latent, K.
        longest: Most pieces in a caption.
        temperature: 0 writes the likeliest piece at each step; above, pieces are drawn, from the
            softmax of the logits divided by it.
        weights: Safetensors file of the trained projector and, if they were trained too, of the
            language model's weights or their low-rank changes. Without one the codec encodes only.
    """

    licences: ClassVar = {
        "encoder": "Gemma terms of use for embeddinggemma",
        "language_model": "Gemma terms of use for gemma",
        "weights": "those of the language model, where they hold changes of it",
    }

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

        self.encoder = encoder
        self.revision = revision
        self.width = width
        self.normalize = normalize
        self.language_model = language_model
        self.language_revision = language_revision
        self.prefix = prefix
        self.longest = longest
        self.temperature = temperature
        self.weights = weights
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

    def libraries(self, use: str) -> dict[str, Extra]:
        module = {"encode": "sentence_transformers", "decode": "transformers"}[use]
        return {module: INSTALL}

    def files(self) -> dict[str, Path]:
        trained = {} if self.weights is None else {"weights": self.file}
        return trained | existing_paths(
            encoder=self.encoder,
            language_model=self.language_model,
        )

    def convert(self, argument: str, source: Path, target: Path) -> None:
        """Writes the decoder of FlowBind's authors as `weights`."""
        if argument != "weights":
            super().convert(argument, source, target)
        convert(source, target, self.width, self.prefix)

    @cached_property
    def sentences(self) -> SentenceEncoder:
        """The frozen sentence encoder."""
        return SentenceEncoder(self.encoder, self.revision, self.normalize)

    @cached_property
    def language_folder(self) -> Path:
        """The language model's folder: the name itself, or the hub's in the local cache."""
        return folder_of(
            self.language_model,
            self.language_revision,
            kind="the language model",
            argument="language_model",
            install=INSTALL,
        )

    @cached_property
    def tokenizer(self):
        """Cuts captions into the language model's pieces.

        Raises:
            ValueError: transformers is not installed, or the folder holds no whole tokenizer, or
                one without an end.
        """
        needing = f"the language model '{self.language_model}'"
        tokenizer = load_tokenizer(self.language_folder, needing, INSTALL)
        if not has_words(tokenizer) or tokenizer.eos_token_id is None:
            raise ValueError(
                f"{self.language_folder}: a tokenizer without words or without an end of text; "
                "are all its files there?"
            )

        return tokenizer

    @property
    def ends(self) -> tuple[int, int]:
        """The pieces before and after a caption.

        A tokenizer without a beginning begins with the end.
        """
        beginning = self.tokenizer.bos_token_id
        end = self.tokenizer.eos_token_id
        return (end if beginning is None else beginning), end

    def build(self) -> PrefixNet:
        """The language model as it is distributed, frozen, and a fresh projector.

        The projector is drawn from torch's global generator.

        Raises:
            ValueError: transformers is not installed, or the folder holds no whole causal language
                model.
        """
        needing = f"the language model '{self.language_model}'"
        with importing("transformers", needing=needing, install=INSTALL):
            from transformers import AutoModelForCausalLM

        options = {
            "dtype": "auto",
            "use_safetensors": True,
            "trust_remote_code": False,  # nor is anybody asked whether to
            "output_loading_info": True,
        }
        try:
            with without_bars():
                # A pair, of which transformers' types know the first alone.
                model: Any = AutoModelForCausalLM.from_pretrained(
                    self.language_folder,
                    **options,
                )
                lm, loaded = model
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
            raise ValueError(
                f"{self.file}: not weights of {type(self).__name__} for '{self.language_model}' "
                f"with width {self.width} and prefix {self.prefix} ({last_line(error)})"
            ) from None

        return net.eval().requires_grad_(False).to(self.device)

    @torch.inference_mode()
    def encode(self, raws: Sequence[str]) -> Tensor:
        """Embeds B captions: float32, with shape (B, D).

        Raises:
            ValueError: the encoder cannot be had, or its embeddings have another width than
                `width`.
        """
        latents = self.sentences.embed(raws, self.device)
        width = latents.shape[1]
        if width != self.width:
            raise ValueError(
                f"the encoder '{self.encoder}' gives {width} numbers, not {self.width}; set `width`"
            )

        return latents.to(self.device)

    @torch.inference_mode()
    def decode(
        self,
        latents: Tensor,
        generator: torch.Generator | None = None,
    ) -> list[str]:
        """Writes B captions, each of one line.

        One without a word, which no caption is, becomes a question mark.
        """
        net = self.net
        options = (*self.ends, self.longest, self.temperature, generator)
        texts = []
        latents = latents.to(self.device, torch.float32)
        for chunk in latents.split(BATCH):
            pieces = net.write(chunk, *options)
            texts += self.spell(pieces)

        return [_caption(text) for text in texts]

    def cut(self, captions: Sequence[str]) -> Tensor:
        """The pieces of B captions, with shape (B, T).

        Ends are included, no more than `longest` of each; `PAST` fills up the shorter ones.
        """
        _, end = self.ends
        rows = self.tokenizer(list(captions), add_special_tokens=False)
        pieces = []
        for ids in rows["input_ids"]:
            pieces.append(torch.tensor([*ids, end][: self.longest]))
        return pad_sequence(pieces, batch_first=True, padding_value=PAST)

    def spell(self, pieces: Tensor) -> list[str]:
        """The texts of B rows of pieces."""
        return self.tokenizer.batch_decode(
            pieces,
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )

    def training_inputs(self, raws: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Latents, with shape (B, D), and pieces as `cut` gives them, both on the CPU."""
        raws = list(raws)  # they are small, and each is needed twice
        count = -(-len(raws) // CHUNK)
        chunks = np.array_split(np.array(raws, dtype=object), count)
        latents = []
        for chunk in track(
            chunks,
            "embedding captions",
            total=len(raws),
            unit="samples",
            size=len,
        ):
            latents.append(self.encode(list(chunk)).cpu())
        return torch.cat(latents), self.cut(raws)

    def fingerprint(self) -> dict[str, str | int | bool]:
        """What decides the latents: the encoder alone."""
        return {
            "codec": type(self).__name__,
            "version": self.version,
            **self.sentences.identity(),
        }

    def __getstate__(self) -> dict:
        """The description alone: a copy loads its models again."""
        return {**self.arguments(), "shape": self.shape, "device": self.device}


def _caption(text: str) -> str:
    """A written text as one line."""
    words = NO_CAPTION.sub(" ", text).split()
    return " ".join(words) or "?"
