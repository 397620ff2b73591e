"""A list of words, learnt from captions: what `WordTokens` writes with.

A word has the space before it, so that those of a caption, one after the other, are the caption.
The list is a JSON file, the most frequent word first:

    python -m flowbind_text.words data/shapes/train.jsonl --out words.json
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from flowbind.data.manifest import Manifest
from flowbind.errors import first_line
from flowbind.files import read_json, replacing
from flowbind.progress import say
from flowbind_text.modality import Text
from flowbind_text.vocabulary import WORD, words_of

MOST = 2**20  # words of a list


def learn_words(captions: Iterable[str], most: int) -> list[str]:
    """The words of some captions, the most frequent first, at most `most` of them."""
    counts: Counter[str] = Counter()
    for caption in captions:
        counts.update(words_of(caption))
    words = sorted(counts, key=lambda word: (-counts[word], word))
    return words[:most]


def read_words(path: Path) -> list[str]:
    """The words of a file.

    Raises:
        OSError: it is not there, or cannot be opened.
        ValueError: it is no list of distinct words; one line that names it.
    """
    words = read_json(path)
    if (
        not isinstance(words, list)
        or len(words) > MOST
        or not all(map(_is_word, words))
    ):
        raise ValueError(
            f"{path}: not a JSON list of words, each with the space before it; "
            f"`python -m {__spec__.name} MANIFEST --out {path.name}` writes one"
        )

    if len(set(words)) < len(words):
        (word, _), *_ = Counter(words).most_common(1)
        raise ValueError(f"{path}: has the word '{word}' twice")
    return words


def _is_word(word: object) -> bool:
    return isinstance(word, str) and WORD.fullmatch(word) is not None


def main() -> None:
    """The command line: the captions of a manifest to a list of words."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {__spec__.name}",
        description="The words of a manifest's captions, as the codec word-tokens takes them.",
    )
    parser.add_argument("manifest", type=Path, help="manifest of the captions")
    parser.add_argument(
        "--out", type=Path, required=True, help="JSON file that is written"
    )
    parser.add_argument(
        "--text", default="text", help="key of the captions; default: text"
    )
    parser.add_argument(
        "--most",
        type=int,
        default=8192,
        help="number of words that are kept at most, the most frequent; default: 8192",
    )
    options = parser.parse_args()
    try:
        _write(options.manifest, options.text, options.most, options.out)
    except (OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: {first_line(error)}\n")


def _write(path: Path, name: str, most: int, out: Path) -> None:
    if not 1 <= most <= MOST:
        raise ValueError(f"--most is {most}; allowed are 1 to {MOST:,} words")

    text = Text()
    manifest = Manifest.read_for(path, {name: text})
    captions = []
    for sample in manifest.samples:
        if name in sample.values:
            captions.append(manifest.read_raw(sample, name, text))
    if not captions:
        raise ValueError(f"{path}: no sample has a '{name}'")

    words = learn_words(captions, most)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as partial:
        partial.write_text(
            json.dumps(words, ensure_ascii=False, indent=0) + "\n", "utf-8"
        )

    known = set(words)
    whole = sum(known.issuperset(words_of(caption)) for caption in captions)
    longest = max(len(words_of(caption)) for caption in captions)
    say(
        f"{out}: {len(words):,} words; of {len(captions):,} captions {whole:,} have no other, "
        f"and the longest has {longest}"
    )


if __name__ == "__main__":
    main()
