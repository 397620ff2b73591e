"""What people hand over as samples and as names, told apart before anything is read.

A string or a path is one sample. A list, a tuple, a column of a table or whatever else gives sample
after sample is that many. A tensor or an array could be either, one sample or a batch of them, so
it is neither.
"""

import os
from collections.abc import Mapping, Sequence
from numbers import Number
from typing import Any

# Samples by modality, or several such: what is added to sources, or taken from them.
Terms = Mapping[str, Any] | Sequence[Mapping[str, Any]]


def listed(given: Any, what: str) -> list[Any]:
    """The samples of one source.

    Args:
        given: One string or path, or several samples.
        what: Name for it in an error.

    Raises:
        ValueError: there is none, or it is not clear how many there are.
    """
    if isinstance(given, str | os.PathLike):
        return [given]

    refused = Mapping | set | frozenset | bytes | bytearray | Number
    if given is None or isinstance(given, refused):
        raise ValueError(
            f"{what}: a list of samples is needed, each a string, a path or a raw sample, "
            f"not {_kind(given)}"
        )
    if hasattr(given, "columns"):
        raise ValueError(
            f"{what}: a table is no list of samples; give one of its columns"
        )

    samples = _elements(given, what)
    if not samples:
        raise ValueError(f"{what}: no sample in it")
    for number, sample in enumerate(samples):
        if sample is None or isinstance(sample, Number | bytes | bytearray):
            raise ValueError(
                f"{what}: sample {number} is {sample!r:.60}, "
                "neither a string nor a path nor a raw sample"
            )
    return samples


def _elements(value: Any, what: str) -> list[Any]:
    """The elements of a sequence or iterator; those of an array only where they are no numbers."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        shape = tuple(value.shape)
        if len(shape) == 1:
            elements = value.tolist()
            if not any(isinstance(element, Number) for element in elements):
                return elements
        raise ValueError(
            f"{what}: {_kind(value)} of shape {shape} may be one sample or many; "
            "give [x] for one, list(x) for many"
        )

    try:
        return list(value)
    except TypeError:  # a single thing, such as a picture
        return [value]


def named(given: Any, what: str) -> list[str]:
    """Names, of which one may stand alone.

    Raises:
        ValueError: there is none, or something else than names.
    """
    names: list[Any] = []
    if isinstance(given, str):
        names = [given]
    elif isinstance(given, Sequence | set | dict):
        names = list(given)

    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"{what}: names are needed, such as ['a', 'b'], not {given!r:.60}"
        )
    return list(dict.fromkeys(names))


def together(sources: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Sources with equally many samples each; a single sample is used with all of the others.

    Raises:
        ValueError: no source, none in one of them, or numbers that do not agree.
    """
    if not isinstance(sources, Mapping) or not sources:
        raise ValueError(
            f"sources are given by modality, such as {{'a': [...]}}, not as {_kind(sources)}"
        )

    lists = {}
    for name, samples in sources.items():
        lists[name] = listed(samples, f"source '{name}'")

    lengths = {name: len(samples) for name, samples in lists.items()}
    count = max(lengths.values())
    if not {1, count} >= set(lengths.values()):
        numbers = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(
            f"sources must have equally many samples (or one, used with all), not {numbers}"
        )

    repeated = {}
    for name, samples in lists.items():
        repeated[name] = samples * (count // lengths[name])
    return repeated


def terms(given: Any, what: str, count: int) -> list[tuple[str, list[Any]]]:
    """What is added to sources or taken from them: a modality and its samples, each.

    Args:
        given: Samples by modality, one for all sources' or as many; or several such mappings.
        what: Name for them in an error.
        count: Number of the sources' samples.

    Raises:
        ValueError: they are no such mappings, or of some there are neither one nor as many.
    """
    mappings = [given] if isinstance(given, Mapping) else given
    is_several = isinstance(mappings, list | tuple)
    if not is_several or not all(isinstance(one, Mapping) for one in mappings):
        raise ValueError(
            f"{what} is given by modality, such as {{'a': 'x'}}, or as a list of such, "
            f"not as {_kind(given)}"
        )

    pairs = []
    for mapping in mappings:
        for name, samples in mapping.items():
            samples = listed(samples, f"{what} '{name}'")
            if len(samples) not in (1, count):
                raise ValueError(
                    f"{what} '{name}' has {len(samples)} samples, and the sources {count}; "
                    "give one, which is used with all, or as many"
                )
            pairs.append((name, samples))
    return pairs


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"
