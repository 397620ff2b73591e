"""The judge of captions: the embedded world's own grammar, read backwards and exactly.

A caption is a sentence form and a word for each factor, and every word means one class only. So a
caption is parsed or it is not, and nothing is guessed.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from flowbind.judge import UNREADABLE, Judge
from flowbind_shapes.caption import (
    COLOUR_WORDS,
    SHAPE_WORDS,
    SIZE_WORDS,
    TEMPLATES,
    with_articles,
)

WORDS = {"colour": COLOUR_WORDS, "shape": SHAPE_WORDS, "size": SIZE_WORDS}


class CaptionGrammar(Judge):
    """Reads shape, colour and size of a caption that the embedded world could have written.

    A caption that is none of these, if only by a word or an article, is unreadable: all its factors
    count as wrong. Features say how it was written, one after the other: which word stands for
    which factor, which sentence form it is, and whether a full stop ends it; 0 for what was not
    chosen, and all 0 for what cannot be read.
    """

    judges = "text"

    @property
    def classes(self) -> Mapping[str, Sequence[str]]:
        return {factor: list(words) for factor, words in WORDS.items()}

    def features(self, kind: str, raws: Sequence[Any]) -> Tensor:
        """How B captions were written, float32 with shape (B, 101)."""
        columns = _columns()
        features = torch.zeros(len(raws), len(columns))
        for row, raw in zip(features, raws, strict=True):
            for choice in parse(raw):
                row[columns[choice]] = 1
        return features

    def read(self, features: Tensor) -> Tensor:
        features = features.cpu()
        columns = _columns()
        classes = []
        for factor, words_of in WORDS.items():
            # Per class, whether one of its words is there.
            hits = []
            for words in words_of.values():
                places = [columns[factor, word] for word in words]
                hits.append(features[:, places].amax(1))
            likely, number = torch.stack(hits, dim=1).max(1)
            classes.append(number.where(likely > 0, UNREADABLE))
        return torch.stack(classes, dim=1)


def parse(caption: str) -> list[tuple[str, str]]:
    """What was chosen for a caption: the word of each factor, the sentence form, perhaps a stop.

    Empty where the embedded world could not have written it.
    """
    sentence = caption.removesuffix(".")
    plain = re.sub(r"\ban ", "a ", sentence)
    for form, pattern in _patterns().items():
        match = pattern.fullmatch(plain)
        if match and with_articles(form.format(**match.groupdict())) == sentence:
            stop = [("stop", ".")] if sentence != caption else []
            return [*match.groupdict().items(), ("form", form), *stop]
    return []


@cache
def _patterns() -> dict[str, re.Pattern]:
    """Per sentence form, what fits it with articles that are all `a`."""
    groups = {}
    for factor, words_of in WORDS.items():
        words = [word for words in words_of.values() for word in words]
        groups[factor] = f"(?P<{factor}>{'|'.join(words)})"
    return {form: re.compile(form.format(**groups)) for form in TEMPLATES}


@cache
def _columns() -> dict[tuple[str, str], int]:
    """The column of each choice among the features."""
    choices = []
    for factor, words_of in WORDS.items():
        choices += [(factor, word) for words in words_of.values() for word in words]
    choices += [("form", form) for form in TEMPLATES]
    choices.append(("stop", "."))
    return {choice: column for column, choice in enumerate(choices)}
