"""Captions as ids of CLIP's tokens, and back: 49,408 pieces of words, by which any caption is spelled.

A latent has L ids: those of a caption's tokens in its order, and CLIP's end of a text, which fills up
the rest. Its start of a text, which all captions have, is left out.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType

import torch
from torch import Tensor

from flowbind.codec import Codec, check_ids
from flowbind.files import digest
from flowbind.libraries import Extra, importing, package_folder

START, END = 49406, 49407
INSTALL = Extra("clip-tokens")
PIECES = "bpe_simple_vocab_16e6.txt.gz"  # file of open_clip's package
# What CLIP's tokens set apart by spaces, and captions do not.
APART = (
    (re.compile(r" (?=[.,!?;:%)\]}])"), ""),
    (re.compile(r"(?<=[(\[{]) "), ""),
    (re.compile(r"(?<=\w) (?='(?:s|t|re|ve|m|ll|d)\b)"), ""),
    (re.compile(r"(?<=\w) ([-/]) (?=\w)"), r"\1"),
    (re.compile(r"(?<=\d)([.,:]) (?=\d)"), r"\1"),
    (re.compile(r"(?<=\d) (?=\d)"), ""),
)


class ClipTokens(Codec):
    """Ids of CLIP's tokens, of shape (L,): captions come back in lower case.

    CLIP's tokens do not tell where a sign stood close to a word; where captions usually have it is
    where it comes back. A caption of more than L tokens is cut. The caveat says either where a
    caption does not come back.

    Args:
        length: Ids of a latent, L; CLIP itself reads 77 with the start of a text.
    """

    dtype = torch.int64
    vocabulary = END + 1

    def __init__(self, length: int = 76) -> None:
        if length < 1:
            raise ValueError(f"length is {length}; a caption has at least one token")
        self.length = length
        self.shape = (length,)

    def libraries(self, use: str) -> dict[str, Extra]:
        return {"open_clip": INSTALL}

    @cached_property
    def tokenizer(self):
        """open_clip's own, with the pieces that its package carries.

        Raises:
            ValueError: open_clip is not installed.
        """
        with importing("open_clip", needing="CLIP's tokens", install=INSTALL):
            return _module_of_tokenizers().SimpleTokenizer()

    def encode(self, raws: Sequence[str]) -> Tensor:
        latents = torch.full((len(raws), self.length), END)
        for row, raw in zip(latents, raws, strict=True):
            ids = self._ids(raw)[: self.length]
            row[: len(ids)] = torch.tensor(ids, dtype=self.dtype)
        return latents.to(self.device)

    def decode(
        self,
        latents: Tensor,
        generator: torch.Generator | None = None,
    ) -> list[str]:
        """The captions of ids, with shape (B, L). One without a word becomes a question mark.

        Raises:
            ValueError: an id that the vocabulary does not have.
        """
        check_ids(latents, self.vocabulary, "CLIP's vocabulary")

        captions = []
        for ids in latents.tolist():
            count = ids.index(END) if END in ids else len(ids)
            captions.append(self._text(ids[:count]) or "?")
        return captions

    def caveat(self, raw: str) -> str:
        """Says what of a caption is lost: its end, or how it is spelled."""
        ids = self._ids(raw)
        if len(ids) > self.length:
            return f"is cut: {len(ids)} tokens, of which the codec reads {self.length}"

        again = self._text(ids)
        if again == raw.lower():
            return ""
        return f"comes back spelled otherwise, '{again:.60}'"

    def fingerprint(self) -> dict[str, str | int]:
        folder = package_folder("open_clip")
        pieces = digest(folder / PIECES) if folder else ""
        return super().fingerprint() | {"pieces": pieces}

    def _ids(self, caption: str) -> list[int]:
        """The tokens of a caption. What is spelled like one of the ends is none."""
        return [id for id in self.tokenizer.encode(caption) if id < START]

    def _text(self, ids: Sequence[int]) -> str:
        """One line, of tokens that are no end."""
        text = self.tokenizer.decode([id for id in ids if id < START])
        text = " ".join(text.replace("\0", "").split())
        for pattern, replacement in APART:
            text = pattern.sub(replacement, text)
        return text

    def __getstate__(self) -> dict:
        """The description alone: a copy loads the tokenizer again."""
        return {**self.arguments(), "shape": self.shape, "device": self.device}


def _module_of_tokenizers() -> ModuleType:
    """open_clip's module of tokenizers alone: its models take five seconds to import.

    Raises:
        ImportError: open_clip is not installed.
    """
    folder = package_folder("open_clip")
    if folder is None:
        raise ModuleNotFoundError("No module named 'open_clip'", name="open_clip")

    spec = spec_from_file_location("open_clip.tokenizer", folder / "tokenizer.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
