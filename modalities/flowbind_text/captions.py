"""Scores of captions by their words: CIDEr-D, BLEU and ROUGE-L, with one reference each.

Definitions are those of the code of the COCO caption evaluation. Its words come from the Stanford tokenizer, a Java
program; here they are cut by one regular expression (`words`), so figures may differ a little from what that code says.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from flowbind.metrics.metric import Metric

BYTES = 2048  # of the longest caption in UTF-8
ORDERS = (1, 2, 3, 4)  # words in an n-gram
SIGMA = 6.0  # of CIDEr-D's penalty of lengths that differ, in words
BETA = 1.2  # of ROUGE-L: how much more recall counts than precision

TYPOGRAPHY = str.maketrans("’‘", "''")
WORD = re.compile(
    r"\w+?(?=n't\b)|n't\b"  # don't: do n't
    r"|'(?:s|m|d|re|ve|ll)\b"  # it's: it 's
    r"|\d+(?:[.,:]\d+)+"  # 3.5 and 1,000
    r"|\w+(?:-\w+)*"  # also black-and-white
    r"|[^\w\s]"
)
PUNCTUATION = frozenset("'\"`.,:;?!-()[]{}…–—“”„«»")

Words = tuple[str, ...]


def words(caption: str) -> Words:
    """The words of a caption: in lower case, clitics apart as the Penn Treebank has them, without punctuation.

    Signs that are no punctuation (%, $, &) are words of their own.
    """
    return tuple(word for word in WORD.findall(caption.lower().translate(TYPOGRAPHY)) if word not in PUNCTUATION)


class Captions(Metric):
    """Compares each generated caption with the real one of the same sample.

    | figure | what it is |
    |---|---|
    | `cider[cider-d,1-reference]` | `cider_d`, 0 to 10; papers print 100 times it |
    | `bleu-1[corpus,1-reference]` to `bleu-4` | `bleu`, 0 to 1 |
    | `rouge-l[beta=1.2,1-reference]` | mean of `rouge_l`, 0 to 1 |
    """

    judges = "text"
    against = "text"

    def features(self, kind: str, raws: Sequence[str]) -> Tensor:
        """Captions in UTF-8: uint8, with shape (B, BYTES) and zeros after each.

        Raises:
            ValueError: one is longer.
        """
        spelled = [raw.encode() for raw in raws]
        longest = max(map(len, spelled))
        if longest > BYTES:
            raise ValueError(
                f"a caption of {longest:,} bytes; caption scores take at most {BYTES:,}, that is a paragraph"
            )
        padded = bytearray(b"".join(caption.ljust(BYTES, b"\0") for caption in spelled))
        return torch.frombuffer(padded, dtype=torch.uint8).view(-1, BYTES).to(self.device)

    def compute(self, made: Tensor, reference: Tensor) -> dict[str, float]:
        candidates, references = (
            [words(row.tobytes().rstrip(b"\0").decode()) for row in rows.cpu().numpy()] for rows in (made, reference)
        )
        if len(set(references)) < 2:
            raise ValueError("CIDEr weighs words by how few references have them; all references are the same here")
        scores = bleu(candidates, references)
        return {
            "cider[cider-d,1-reference]": cider_d(candidates, references),
            **{f"bleu-{n}[corpus,1-reference]": score for n, score in zip(ORDERS, scores, strict=True)},
            f"rouge-l[beta={BETA},1-reference]": mean(map(rouge_l, candidates, references)),
        }


def grams(caption: Words, n: int) -> Counter[Words]:
    """How often each n-gram stands in a caption."""
    return Counter(zip(*(caption[i:] for i in range(n)), strict=False))


def cider_d(candidates: Sequence[Words], references: Sequence[Words]) -> float:
    """CIDEr-D of N captions with one reference each, 0 to 10 (Vedantam et al., arXiv 1411.5726).

    An n-gram weighs its count times `log(N / number of references that have it)`, those that none has as if one had.
    A caption's score is 10 times the mean over n = 1 to 4 of the cosine of weights, clipped to the reference's, times
    `exp(-(difference of lengths)^2 / (2 SIGMA^2))`.

    Captions shorter than n words have no n-gram, so even equal ones get 0 for that n.
    """
    spread = Counter(gram for reference in references for n in ORDERS for gram in grams(reference, n))

    def weigh(caption: Words, n: int) -> dict[Words, float]:
        return {
            gram: count * math.log(len(references) / max(spread[gram], 1)) for gram, count in grams(caption, n).items()
        }

    def score(candidate: Words, reference: Words) -> float:
        penalty = math.exp(-((len(candidate) - len(reference)) ** 2) / (2 * SIGMA**2))
        return 10 * penalty * mean(similarity(weigh(candidate, n), weigh(reference, n)) for n in ORDERS)

    return mean(map(score, candidates, references))


def similarity(candidate: dict[Words, float], reference: dict[Words, float]) -> float:
    """Cosine of two sparse vectors, the first one's entries clipped to the second's; 0 if one is zero."""
    product = math.fsum(
        min(weight, reference[gram]) * reference[gram] for gram, weight in candidate.items() if gram in reference
    )
    norms = math.hypot(*candidate.values()) * math.hypot(*reference.values())
    return product / norms if norms else 0.0


def bleu(candidates: Sequence[Words], references: Sequence[Words]) -> tuple[float, ...]:
    """BLEU-1 to BLEU-4 of a corpus with one reference each, 0 to 1 (Papineni et al., ACL 2002, section 2.3).

    `min(1, exp(1 - r / c)) (p_1 ... p_n)^(1/n)`: lengths `c` and `r` of all captions and references, and the share `p_n` of
    the captions' n-grams that stand in their reference. No smoothing: without a match of some order it is 0.
    """
    c, r = (sum(map(len, captions)) for captions in (candidates, references))
    brevity = min(0.0, 1 - r / c) if c else -math.inf
    scores, product = [], 0.0  # logarithms: of the penalty, and of the precisions' product
    for n in ORDERS:
        found = [grams(candidate, n) for candidate in candidates]
        total = sum(map(Counter.total, found))
        matched = sum((ours & grams(theirs, n)).total() for ours, theirs in zip(found, references, strict=True))
        product += math.log(matched / total) if matched else -math.inf
        scores.append(math.exp(brevity + product / n))
    return tuple(scores)


def rouge_l(candidate: Words, reference: Words) -> float:
    """ROUGE-L of a caption, 0 to 1 (Lin, 2004, equation 4): `(1 + BETA^2) P R / (R + BETA^2 P)`.

    `P` and `R` are the longest common subsequence as a share of the caption and of the reference.
    """
    common = common_subsequence(candidate, reference)
    if not common:
        return 0.0
    precision, recall = common / len(candidate), common / len(reference)
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def common_subsequence(one: Words, other: Words) -> int:
    """Length of the longest common subsequence."""
    best = [0] * (len(other) + 1)  # of what was seen of `one`, with each beginning of `other`
    for word in one:
        row = [0]
        for seen, (diagonal, above) in zip(other, pairwise(best), strict=True):
            row.append(diagonal + 1 if word == seen else max(above, row[-1]))
        best = row
    return best[-1]


def mean(values) -> float:
    """The arithmetic mean of some numbers."""
    values = list(values)
    return math.fsum(values) / len(values)
