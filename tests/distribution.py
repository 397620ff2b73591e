"""A distribution as pip leaves it on the path: metadata and entry points, without building or installing anything."""

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flowbind import registry


def write_distribution(
    site: Path,
    name: str,
    entry_points: Mapping[str, Mapping[str, str]],
    version: str = "1.0",
) -> None:
    """Writes into `site` a distribution that registers `entry_points`: per group, objects by name."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    )
    sections = (
        [f"[{group}]", *(f"{key} = {value}" for key, value in entries.items())]
        for group, entries in entry_points.items()
    )
    (info / "entry_points.txt").write_text(
        "\n".join(line for section in sections for line in section)
    )


@contextmanager
def distribution(
    site: Path,
    name: str,
    entry_points: Mapping[str, Mapping[str, str]],
    version: str = "1.0",
) -> Iterator[None]:
    """Puts `site` on the path, with such a distribution in it."""
    write_distribution(site, name, entry_points, version)
    sys.path.insert(0, str(site))
    _look_again()
    try:
        yield
    finally:
        sys.path.remove(str(site))
        _look_again()


def _look_again() -> None:
    importlib.invalidate_caches()
    registry.installed.cache_clear()
