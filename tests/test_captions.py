"""Scores of captions: closed forms, independent derivations, other implementations, and what is refused.

`reference/captions.json` has the scores of the COCO caption evaluation, by the command that `reference/captions.py` tells.
"""

import itertools
import json
import math
import random
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from flowbind_text.captions import BYTES, Captions, bleu, cider_d, rouge_l, words
from flowbind_text.encoder import MINILM
from flowbind_text.sentences import SentenceEncoder
from flowbind_text.similarity import CaptionSimilarity

CIDER, ROUGE = "cider[cider-d,1-reference]", "rouge-l[beta=1.2,1-reference]"
BLEU = [f"bleu-{n}[corpus,1-reference]" for n in (1, 2, 3, 4)]
OTHERS = json.loads(
    (Path(__file__).parent / "reference/captions.json").read_text(encoding="utf-8")
)
# As theirs spells them.
BRACKETS = {
    "(": "-lrb-",
    ")": "-rrb-",
    "[": "-lsb-",
    "]": "-rsb-",
    "{": "-lcb-",
    "}": "-rcb-",
}


def judge(made: list[str], real: list[str] | list[list[str]]) -> dict[str, float]:
    """The figures of captions, each with one reference or a list of them."""
    metric = Captions()
    references = [
        [captions] if isinstance(captions, str) else captions for captions in real
    ]
    every = [caption for captions in references for caption in captions]
    sample = torch.arange(len(made)).repeat_interleave(
        torch.tensor([len(captions) for captions in references])
    )
    return metric.compute(
        metric.features("text", made), metric.features("text", every), sample
    )


def alone(references):
    """Each the only reference of its sample."""
    return [[reference] for reference in references]


def drawn(count: int, seed: int) -> list[tuple[str, ...]]:
    """Sentences of 0 to 12 words of a small vocabulary, so that n-grams repeat within and across them."""
    generator = random.Random(seed)
    return [
        tuple(generator.choices("abcd", k=generator.randrange(13)))
        for _ in range(count)
    ]


# Words


@pytest.mark.parametrize(
    ("caption", "cut"),
    [
        ("A man, a plan -- a canal!", "a man a plan a canal"),
        ("It's raining; they don't care.", "it 's raining they do n't care"),
        ("The dogs' bowl (red) isn’t “full”…", "the dogs bowl ( red ) is n't full"),
        (
            "a black-and-white photo of 1,000 birds at 3.5 km",
            "a black-and-white photo of 1,000 birds at 3.5 km",
        ),
        ("50% of R&D & $5", "50 % of r&d & $ 5"),
        ("Grüne ÄPFEL, 東京", "grüne äpfel 東京"),
        ("?! … !", "?!"),
    ],
)
def test_words(caption, cut):
    assert words(caption) == tuple(cut.split())


@pytest.mark.parametrize("caption", OTHERS["tokens"])
def test_words_are_those_of_the_coco_evaluation(caption):
    assert [BRACKETS.get(word, word) for word in words(caption)] == OTHERS["tokens"][
        caption
    ].split()


# The COCO evaluation


@pytest.mark.parametrize(
    ("which", "label"),
    [("one reference", "1-reference"), ("all references", "3-to-6-references")],
)
def test_scores_are_those_of_the_coco_evaluation(which, label):
    samples = OTHERS["samples"]
    assert len(samples) == 200
    figures = judge(
        [sample["made"] for sample in samples],
        [sample["references"] for sample in samples],
    )
    names = [
        f"cider[cider-d,{label}]",
        *(f"bleu-{n}[corpus,{label}]" for n in (1, 2, 3, 4)),
        f"rouge-l[beta=1.2,{label}]",
    ]
    theirs = dict(zip(names, OTHERS[which].values(), strict=True))
    assert {name: figures[name] for name in names} == pytest.approx(theirs, rel=1e-6)
    assert len(figures) == 2 * len(names)


def test_the_own_caption_is_the_first_reference():
    real = [[caption, "a horse"] for caption in REAL]
    one = judge(REAL, REAL)
    assert {name: judge(REAL, real)[name] for name in one} == one
    uneven = judge(REAL, [real[0], real[1], [REAL[2]]])
    assert {name.partition("[")[2] for name in uneven} >= {
        "cider-d,1-reference]",
        "cider-d,1-to-2-references]",
    }


# CIDEr-D


def published_cider_d(candidates, references):
    """The same by dense vectors over all n-grams, in the form of the published sums."""
    vectors = []
    for n in (1, 2, 3, 4):
        cut = [
            [s[i : i + n] for i in range(len(s) - n + 1)]
            for s in (*candidates, *references)
        ]
        known = sorted({gram for grams in cut for gram in grams})
        counts = torch.tensor(
            [[grams.count(gram) for gram in known] for grams in cut], dtype=torch.double
        )
        counts = counts.reshape(2, len(references), len(known))
        documents = (counts[1] > 0).double().sum(0).clamp(min=1)
        vectors.append(counts * (len(references) / documents).log())
    scores = []
    for row, (candidate, reference) in enumerate(
        zip(candidates, references, strict=True)
    ):
        bigrams = max(len(candidate) - 1, 0) - max(len(reference) - 1, 0)
        for vector in vectors:
            g, h = vector[0, row], vector[1, row]
            cosine = (
                torch.minimum(g, h) @ h / (g.norm() * h.norm())
                if g.norm() * h.norm() > 0
                else 0.0
            )
            scores.append(10 * float(cosine) * math.exp(-(bigrams**2) / 72))
    return sum(scores) / len(scores)


@pytest.mark.parametrize("seed", range(5))
def test_cider_d_is_the_published_one(seed):
    candidates, references = drawn(9, seed), drawn(9, 100 + seed)
    candidates[0] = references[0]
    assert cider_d(candidates, alone(references)) == pytest.approx(
        published_cider_d(candidates, references), rel=1e-12
    )


def test_cider_d_by_hand():
    # Of "a b", "a" is in both references and weighs nothing; "b" and "a b" weigh ln 2, as all of "c a" but "a".
    references = [[("a", "b")], [("c", "a")]]
    # No trigrams in two words.
    assert cider_d([("a", "b"), ("c", "a")], references) == pytest.approx(10 * 2 / 4)
    assert cider_d([("b",), ("c",)], references) == pytest.approx(
        10 / 4 * math.exp(-1 / 72)
    )
    assert cider_d([("c",), ("b",)], references) == 0
    # A word said too often counts as often as in the reference: min(2, 1) * 1 / (2 * 1).
    assert cider_d([("b", "b"), ("c", "c")], references) == pytest.approx(
        10 / 4 * (1 / 2)
    )
    four = [tuple("abcd"), tuple("efgh")]
    assert cider_d(four, alone(four)) == pytest.approx(10)
    assert cider_d(four[::-1], alone(four)) == 0
    # Of several references the mean; "e" is then in one sample's references, as the rest is.
    assert cider_d(four, [[four[0], four[1]], [four[1]]]) == pytest.approx(
        (10 / 2 + 0) / 2
    )


# BLEU


def slow_bleu(candidates, references, n):
    """Modified precisions by striking out of the reference what was matched."""
    logarithm = 0.0
    for order in range(1, n + 1):
        matched = total = 0
        for candidate, reference in zip(candidates, references, strict=True):
            left = [reference[i : i + order] for i in range(len(reference) - order + 1)]
            for i in range(len(candidate) - order + 1):
                total += 1
                if candidate[i : i + order] in left:
                    left.remove(candidate[i : i + order])
                    matched += 1
        if not matched:
            return 0.0
        logarithm += math.log(matched / total) / n
    made, real = (
        sum(len(caption) for caption in captions)
        for captions in (candidates, references)
    )
    return math.exp(logarithm) * (math.exp(1 - real / made) if made < real else 1)


@pytest.mark.parametrize("seed", range(5))
def test_bleu_is_what_others_say(seed):
    from torchmetrics.functional.text import bleu_score

    candidates, references = drawn(9, seed), drawn(9, 100 + seed)
    scores = bleu(candidates, alone(references))
    for n, score in zip((1, 2, 3, 4), scores, strict=True):
        assert score == pytest.approx(slow_bleu(candidates, references, n), rel=1e-12)
        theirs = bleu_score(
            [" ".join(c) for c in candidates],
            [[" ".join(r)] for r in references],
            n_gram=n,
        )
        assert score == pytest.approx(theirs.item(), rel=1e-5)


def test_bleu_by_hand():
    the = ("the",) * 7
    assert bleu([the], [[("the", "cat", "is", "on", "the", "mat")]]) == pytest.approx(
        (2 / 7, 0, 0, 0)
    )
    short = bleu([("a", "b")], [[("a", "b", "c")]])
    assert short == pytest.approx((math.exp(-1 / 2), math.exp(-1 / 2), 0, 0))
    assert bleu([("a", "b", "c")], [[("a", "b")]]) == pytest.approx(
        (2 / 3, math.sqrt(2 / 3 * 1 / 2), 0, 0)
    )
    assert bleu([()], [[("a",)]]) == (0, 0, 0, 0)
    # Papineni et al.'s clipping over references: "the" stands twice in one, so twice in all.
    assert bleu([the], [[("the", "cat", "is", "on", "the", "mat"), ("the",)]])[
        0
    ] == pytest.approx(2 / 7)
    # The nearest length counts, the shorter of two.
    assert bleu([("a", "b")], [[("a", "b", "c"), ("a",)]])[0] == 1
    assert bleu([("a", "b")], [[("a", "b", "c"), ("x",) * 9]])[0] == pytest.approx(
        math.exp(-1 / 2)
    )


# ROUGE-L


def slow_rouge_l(candidate, reference):
    """By trying every subsequence of the caption, the longest first."""
    for length in range(len(candidate), 0, -1):
        for kept in itertools.combinations(candidate, length):
            left = iter(reference)
            if all(word in left for word in kept):
                precision, recall = length / len(candidate), length / len(reference)
                return (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    return 0.0


def test_rouge_l_is_the_slow_one():
    for candidate, reference in zip(drawn(30, 1), drawn(30, 2), strict=True):
        assert rouge_l(candidate, [reference]) == pytest.approx(
            slow_rouge_l(candidate, reference), rel=1e-12
        )


def test_rouge_l_by_hand():
    # Lin's example: "police killed the gunman" against "police kill the gunman" and "the gunman kill police".
    assert rouge_l(tuple("pkta"), [tuple("pxta")]) == pytest.approx(3 / 4)
    assert rouge_l(tuple("taxp"), [tuple("pkta")]) == pytest.approx(2 / 4)
    assert rouge_l(("a",), [("a", "b")]) == pytest.approx(2.44 * 0.5 / (0.5 + 1.44))
    assert rouge_l((), [("a",)]) == rouge_l(("a",), [()]) == 0
    # Precision of one reference and recall of another: 2/2 and 2/2.
    assert rouge_l(("a", "b"), [("a", "b", "c", "d"), ("b",)]) == pytest.approx(1)


# The metric

REAL = [
    "A dog barks at the moon.",
    "Rain falls on a tin roof!",
    "Ein Zug fährt sehr laut vorbei",
]


def test_equal_captions_get_the_most():
    figures = judge(REAL, REAL)
    assert list(figures) == [CIDER, *BLEU, ROUGE]
    assert figures == pytest.approx({CIDER: 10, **dict.fromkeys(BLEU, 1), ROUGE: 1})
    assert judge([caption.upper().rstrip(".!") for caption in REAL], REAL) == figures


def test_other_captions_get_less():
    worse = judge([REAL[0], REAL[1], "Ein Zug"], REAL)
    assert all(worse[name] < most for name, most in judge(REAL, REAL).items())
    assert judge(["x y", "v w", "t u"], REAL) == dict.fromkeys([CIDER, *BLEU, ROUGE], 0)


def test_features_are_the_captions():
    features = Captions().features("text", REAL)
    assert features.shape == (3, BYTES)
    assert features.dtype == torch.uint8
    assert [bytes(row.tolist()).rstrip(b"\0").decode() for row in features] == REAL
    parts = torch.cat([Captions().features("text", [caption]) for caption in REAL])
    assert torch.equal(parts, features)


def test_what_misleads_is_refused():
    with pytest.raises(ValueError, match="CIDEr weighs words") as error:
        judge(REAL, ["the same here"] * 3)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=f"2,049 bytes.*at most {BYTES:,}"):
        Captions().features("text", ["ß" * 1024 + "a"])
    assert Captions.minimum >= 2


def test_similarity_is_the_mean_cosine():
    """Of embeddings that are the library's to the bit (tests/test_text.py)."""
    metric = CaptionSimilarity()
    made = ["a hound howls at night", "an orchestra is playing", *REAL[2:]]
    figures = metric.compute(
        metric.features("text", made), metric.features("text", REAL)
    )
    encoder = SentenceEncoder(MINILM)
    cosines = []
    for pair in zip(made, REAL, strict=True):
        one, other = encoder.embed(pair, torch.device("cpu"))
        cosines.append(F.cosine_similarity(one, other, dim=0).item())
    assert figures == {
        "similarity[all-minilm-l6-v2]": pytest.approx(sum(cosines) / 3, abs=1e-5)
    }
    assert cosines[0] > cosines[1]
    assert cosines[2] == pytest.approx(1, abs=1e-5)
    assert metric.fingerprint()["encoder"].endswith("all-MiniLM-L6-v2")
