"""Scores of captions by their words: CIDEr-D, BLEU and ROUGE-L, with one reference each or several.

Definitions are those of the code of the COCO caption evaluation. Its words come from the Stanford
tokeniser, a Java program; here they are cut by one regular expression (`words`), after that
program's rules as captions need them. On `tests/reference/captions.json` both give the same words,
and the same scores to a millionth.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from flowbind.metric import Metric

BYTES = 2048  # of the longest caption in UTF-8
ORDERS = (1, 2, 3, 4)  # words in an n-gram
SIGMA = 6.0  # of CIDEr-D's penalty of lengths that differ, in words
BETA = 1.2  # of ROUGE-L: how much more recall counts than precision

# Signs that the Stanford tokeniser writes in another way.
TYPOGRAPHY = str.maketrans({"’": "'", "‘": "'", "£": "#", "€": "$", "¢": "cents "})
SHORTENED = "mr|mrs|ms|dr|st|jr|sr|prof|vs|etc|inc|ltd|co|ft|ave|blvd|ph\\.d"
WORD = re.compile(
    r"\w+?(?=n't\b)|n't\b"  # don't: do n't
    r"|'(?:s|m|d|re|ve|ll)\b"  # it's: it 's
    r"|'\d\ds\b|'(?:em|til)\b|'n'(?!\w)"  # '90s, 'em, 'til, rock 'n' roll
    r"|'t(?=is\b|was\b)"  # 'tis: 't is
    r"|\b(?:can(?=not\b)|go[nt](?=[nt]a\b)|wan(?=na\b)|lem(?=me\b)|gim(?=me\b))"  # cannot: can not
    rf"|(?:[^\W\d_]\.){{2,}}|\b(?:{SHORTENED})\.(?!\w)|\bno\.(?=\s*\d)"  # p.m. and Mr.; no. 7
    r"|[^\W\d_]+'(?!(?:s|m|d|re|ve|ll)\b)[^\W\d_]+"  # o'clock
    r"|(?:(?<!\S)[-+])?(?:\d+(?:[.,:]\d+)+|\.\d+)(?:-\w+)*"  # 3.5, -0.5, 10,000-seat; 1.5l: 1.5 l
    r"|(?:(?<!\S)[-+](?=\d)|[#@](?=[^\W\d_]))?\w+"  # any word; black-and-white, and/or, runs.Then
    r"(?:[-/&.!?]\w+)*"
    r"|[?!]{2,}"
    r"|[^\w\s]"
)
PUNCTUATION = frozenset("'\"`.,:;?!-…–—“”«»")
PICTURES = "\U00010000"  # the first of Unicode's further planes, where they are

Words = tuple[str, ...]


def words(caption: str) -> Words:
    """The words of a caption, in lower case and without punctuation.

    Clitics are apart, as the Penn Treebank has them. As with the COCO evaluation, brackets, `?!`
    and signs such as % and $ are words of their own.
    """
    text = caption.lower().translate(TYPOGRAPHY)
    chosen = []
    for token in WORD.findall(text):
        if token not in PUNCTUATION and token < PICTURES:
            chosen.append(token)

    return tuple(chosen)


class Captions(Metric):
    """Compares each generated caption with the real ones of the same sample.

    | value | meaning |
    |---|---|
    | `cider[cider-d,1-reference]` | `cider_d`, 0 to 10; papers print 100 times it |
    | `bleu-1[corpus,1-reference]` to `bleu-4` | `bleu`, 0 to 1 |
    | `rouge-l[beta=1.2,1-reference]` | mean of `rouge_l`, 0 to 1 |

    These are by the sample's own caption. Where the manifest gives further references, the same
    follow with all of them: `cider[cider-d,5-references]`, or `3-to-6-references` where samples
    differ.
    """

    judges = "text"
    against = "text"
    multi_reference = True
    version = 2  # 2: several references

    def features(self, kind: str, raws: Sequence[str]) -> Tensor:
        """Captions in UTF-8: uint8, with shape (B, BYTES) and zeros after each.

        Raises:
            ValueError: one is longer.
        """
        spelled = [raw.encode() for raw in raws]
        longest = max(map(len, spelled))
        if longest > BYTES:
            raise ValueError(
                f"a caption of {longest:,} bytes; caption scores take at most {BYTES:,}, "
                "that is a paragraph"
            )

        rows = [caption.ljust(BYTES, b"\0") for caption in spelled]
        padded = bytearray(b"".join(rows))
        features = torch.frombuffer(padded, dtype=torch.uint8)
        return features.view(-1, BYTES).to(self.device)

    def compute(
        self,
        made: Tensor,
        reference: Tensor,
        sample: Tensor,
    ) -> dict[str, float]:
        candidates = words_of(made)
        references: list[list[Words]] = [[] for _ in candidates]
        captions = words_of(reference)
        for number, caption in zip(sample.tolist(), captions, strict=True):
            references[number].append(caption)

        first = [captions[:1] for captions in references]
        distinct = {caption for (caption,) in first}
        if len(distinct) < 2:
            raise ValueError(
                "CIDEr weighs words by how few references have them; "
                "all references are the same here"
            )
        scores = score(candidates, first, "1-reference")

        counts = sorted(map(len, references))
        least = counts[0]
        most = counts[-1]
        if most > 1:
            span = f"{most}" if least == most else f"{least}-to-{most}"
            scores |= score(candidates, references, f"{span}-references")

        return scores


def words_of(features: Tensor) -> list[Words]:
    """The words of captions in UTF-8, with shape (n, BYTES)."""
    captions = []
    for row in features.cpu().numpy():
        spelled = row.tobytes().rstrip(b"\0")
        captions.append(words(spelled.decode()))

    return captions


def score(
    candidates: Sequence[Words],
    references: Sequence[Sequence[Words]],
    label: str,
) -> dict[str, float]:
    """All scores of N captions, each with its references; `label` says how many those are."""
    scores = {f"cider[cider-d,{label}]": cider_d(candidates, references)}
    for n, value in zip(ORDERS, bleu(candidates, references), strict=True):
        scores[f"bleu-{n}[corpus,{label}]"] = value

    recalls = map(rouge_l, candidates, references)
    scores[f"rouge-l[beta={BETA},{label}]"] = mean(recalls)
    return scores


def grams(caption: Words, n: int) -> Counter[Words]:
    """How often each n-gram stands in a caption."""
    shifted = [caption[i:] for i in range(n)]
    return Counter(zip(*shifted, strict=False))


def all_grams(caption: Words) -> set[Words]:
    """The n-grams of every order that stand in a caption."""
    by_order = [grams(caption, n) for n in ORDERS]
    return set().union(*by_order)


def cider_d(
    candidates: Sequence[Words],
    references: Sequence[Sequence[Words]],
) -> float:
    """CIDEr-D of N captions, 0 to 10 (Vedantam et al., arXiv 1411.5726).

    An n-gram weighs its count times `log(N / number of samples with a reference that has it)`,
    those that none has as if one had. With one reference a caption's score is 10 times the mean
    over n = 1 to 4 of the cosine of weights, clipped to the reference's, times `exp(-(difference of
    lengths)^2 / (2 SIGMA^2))`; with several it is their mean.

    Captions shorter than n words have no n-gram, so even equal ones get 0 for that n.

    Args:
        candidates: Words of what was generated, for each of N samples.
        references: Words of at least one reference, for each of N samples.
    """
    samples_with: Counter[Words] = Counter()
    for captions in references:
        of_sample = set().union(*map(all_grams, captions))
        samples_with.update(of_sample)

    def weigh(caption: Words) -> list[dict[Words, float]]:
        """The weights of a caption's n-grams, by n."""
        weights = []
        for n in ORDERS:
            counts = grams(caption, n)
            weights.append(_weights(counts, samples_with, len(references)))
        return weights

    scores = []
    for candidate, captions in zip(candidates, references, strict=True):
        weights = weigh(candidate)
        agreements = []
        for caption in captions:
            cosines = map(similarity, weights, weigh(caption))
            difference = len(candidate) - len(caption)
            penalty = math.exp(-(difference**2) / (2 * SIGMA**2))
            agreement = 10 * penalty * mean(cosines)
            agreements.append(agreement)
        scores.append(mean(agreements))

    return mean(scores)


def _weights(
    counts: Counter[Words],
    samples_with: Counter[Words],
    samples: int,
) -> dict[Words, float]:
    """Counts of n-grams times the logarithm of how rare each is."""
    weights = {}
    for gram, count in counts.items():
        rarity = math.log(samples / max(samples_with[gram], 1))
        weights[gram] = count * rarity

    return weights


def similarity(candidate: dict[Words, float], reference: dict[Words, float]) -> float:
    """Cosine of two sparse vectors, the first one's entries clipped to the second's.

    0 if one is zero.
    """
    products = []
    for gram, weight in candidate.items():
        if gram in reference:
            partner = reference[gram]
            products.append(min(weight, partner) * partner)

    norms = math.hypot(*candidate.values())
    norms *= math.hypot(*reference.values())
    return math.fsum(products) / norms if norms else 0.0


def bleu(
    candidates: Sequence[Words],
    references: Sequence[Sequence[Words]],
) -> tuple[float, ...]:
    """BLEU-1 to BLEU-4 of a corpus, 0 to 1 (Papineni et al., ACL 2002, section 2.3).

    `min(1, exp(1 - r / c)) (p_1 ... p_n)^(1/n)`: lengths `c` of all captions and `r` of the
    references that are nearest in length (the shorter of two), and the share `p_n` of the captions'
    n-grams that stand in a reference, each as often as in the one that has it most. No smoothing:
    without a match of some order it is 0.
    """
    c = sum(map(len, candidates))
    r = sum(map(nearest_length, candidates, references))
    log_penalty = -math.inf
    if c:
        log_penalty = min(0.0, 1 - r / c)

    scores = []
    log_product = 0.0  # of the precisions
    for n in ORDERS:
        total = matched = 0
        for candidate, captions in zip(candidates, references, strict=True):
            counts = grams(candidate, n)
            allowed: Counter[Words] = Counter()
            for caption in captions:
                allowed |= grams(caption, n)
            total += counts.total()
            matched += (counts & allowed).total()

        if matched:
            log_product += math.log(matched / total)
        else:
            log_product = -math.inf
        log_score = log_penalty + log_product / n
        scores.append(math.exp(log_score))

    return tuple(scores)


def nearest_length(candidate: Words, captions: Sequence[Words]) -> int:
    """The length of the caption that is nearest to a candidate's; the shorter of two."""
    length = len(candidate)
    lengths = map(len, captions)
    return min(lengths, key=lambda other: (abs(other - length), other))


def rouge_l(candidate: Words, references: Sequence[Words]) -> float:
    """ROUGE-L of a caption, 0 to 1 (Lin, 2004, equation 4): `(1 + BETA^2) P R / (R + BETA^2 P)`.

    `P` and `R` are the longest common subsequence as a share of the caption and of the reference;
    of several references the largest of each, as in the COCO evaluation, be they two references'.
    """
    precision = recall = 0.0
    for reference in references:
        common = common_subsequence(candidate, reference)
        if common:
            precision = max(precision, common / len(candidate))
            recall = max(recall, common / len(reference))

    if not precision:
        return 0.0
    weight = BETA**2
    product = (1 + weight) * precision * recall
    return product / (recall + weight * precision)


def common_subsequence(one: Words, other: Words) -> int:
    """Length of the longest common subsequence."""
    # Of the words of `one` so far, with each beginning of `other`.
    best = [0] * (len(other) + 1)
    for word in one:
        row = [0]
        for partner, (diagonal, above) in zip(other, pairwise(best), strict=True):
            if word == partner:
                row.append(diagonal + 1)
            else:
                row.append(max(above, row[-1]))
        best = row

    return best[-1]


def mean(values: Iterable[float]) -> float:
    """The arithmetic mean of some numbers."""
    values = list(values)
    return math.fsum(values) / len(values)
