"""Names of what is installed: modalities, codecs, methods, datasets and metrics.

They are entry points, built-in ones and third-party ones alike. Listing is free; a package is
imported when one of its names is asked for.
"""

import difflib
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

KINDS = ("modalities", "codecs", "methods", "datasets", "metrics")
GROUPS = {kind: f"flowbind.{kind}" for kind in KINDS}


@cache
def installed(kind: str) -> dict[str, EntryPoint]:
    """The entry points of one kind (`GROUPS`) by name.

    Raises:
        ValueError: two packages claim the same name; both are named.
    """
    entries: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUPS[kind]):
        other = entries.setdefault(entry.name, entry)
        if other.value != entry.value:
            raise ValueError(
                f"the {kind} name '{entry.name}' is claimed by both {package(other)} and "
                f"{package(entry)}; uninstall one of them"
            )

    return dict(sorted(entries.items()))


def package(entry: EntryPoint) -> str:
    """The distribution an entry point comes from, with its version."""
    if not entry.dist:
        return entry.module
    return f"{entry.dist.name} {entry.dist.version}"


def did_you_mean(name: str, allowed) -> str:
    """A clause that names what is allowed, the nearest first: `did you mean 'x'? Allowed: x, y`."""
    allowed = sorted(allowed)
    plain = {other.casefold(): other for other in allowed}
    close = difflib.get_close_matches(name.casefold().strip(), plain, n=1)

    question = ""
    if close:
        nearest = plain[close[0]]
        question = f"did you mean '{nearest}'? "
    names = ", ".join(allowed) or "none"
    return f"{question}allowed: {names}"


def load(kind: str, name: str) -> Any:
    """The object registered under a name.

    Raises:
        ValueError: no such name (the nearest is given), or its package cannot be imported (what is
            missing is given).
    """
    entries = installed(kind)
    if name not in entries:
        hint = did_you_mean(name, entries)
        raise ValueError(f"no {kind} named '{name}' is installed; {hint}")

    try:
        return entries[name].load()
    except (ImportError, AttributeError) as error:
        owner = package(entries[name])
        raise ValueError(f"'{name}' of {owner} cannot be imported: {error}") from error


def name_of(kind: str, cls: type) -> str:
    """The name a class is registered under.

    Raises:
        ValueError: it is not registered.
    """
    value = f"{cls.__module__}:{cls.__qualname__}"
    owner = cls.__module__.split(".")[0]

    for name, entry in installed(kind).items():
        if entry.value == value:
            return name
        # Or by another path, as a package's face re-exports it; others are not imported for this.
        is_alike = (
            entry.attr == cls.__qualname__ and entry.module.split(".")[0] == owner
        )
        if is_alike and entry.load() is cls:
            return name

    raise ValueError(
        f"{value} is not registered; add it to the entry points '{GROUPS[kind]}' of its package"
    )
