"""The authors' release, whole: their files, and the codecs that make raw samples with them.

What each file is and which codecs belong to it stands in a JSON file, the layout:

repository          name on the hub
checkpoint, config  files of the networks
statistics          `folder` of the files of mean and standard deviation, `url` of that folder where
                    the release has none, and the two files of each modality
modalities          descriptions as in a released model; `files` of a codec are the release's
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError
from urllib.request import urlopen

from flowbind.codec import Codec
from flowbind.errors import first_line
from flowbind.files import read_json, replacing
from flowbind.hub import is_offline, snapshot
from flowbind.libraries import Extra
from flowbind.modality import Modality
from flowbind.progress import say

KIND = "the authors' release"
LAYOUT = 2**20  # bytes of a layout at most
STATISTIC = 2**20  # bytes of a file of statistics at most
TIMEOUT = 30  # seconds without an answer


class Layout(NamedTuple):
    """What the files of a release are.

    Attributes:
        repository: Name on the hub.
        checkpoint: File of the networks' weights.
        config: File of their sizes.
        statistics: Files of mean and standard deviation by modality.
        folder: Folder of these.
        url: Place of that folder where the release does not have it.
        modalities: Descriptions of the modalities by name.
    """

    repository: str
    checkpoint: str
    config: str
    statistics: dict[str, tuple[str, str]]
    folder: str
    url: str
    modalities: dict[str, dict[str, Any]]

    def codec_files(self) -> dict[tuple[str, str], str]:
        """Files of the codecs, by modality and argument."""
        files = {}
        for name, modality in self.modalities.items():
            for argument, file in modality["args"]["codec"].get("files", {}).items():
                files[name, argument] = file
        return files

    def files(self) -> list[str]:
        """All files that the release itself has to have."""
        return [self.checkpoint, self.config, *self.codec_files().values()]


def read_layout(path: Path) -> Layout:
    """Reads a layout.

    Raises:
        OSError: it is not there, or cannot be opened.
        ValueError: it is none; one line.
    """
    content = read_json(path, LAYOUT)
    try:
        places = dict(content["statistics"])
        folder, url = str(places.pop("folder")), str(places.pop("url"))
        statistics = {
            name: (str(mean), str(std)) for name, (mean, std) in places.items()
        }
        layout = Layout(
            str(content["repository"]),
            str(content["checkpoint"]),
            str(content["config"]),
            statistics,
            folder,
            url.rstrip("/"),
            dict(content["modalities"]),
        )
        layout.files()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path}: no layout of a release ({error!r}); see recipes/flowbind/official.json"
        ) from None
    return layout


def fetch(name: str, revision: str, layout: Layout) -> Path:
    """The folder of the release on the hub, in the local cache.

    Raises:
        ValueError: the hub does not give it; one line.
    """
    patterns = [*layout.files(), f"{layout.folder}/*"]
    return snapshot(
        name,
        revision,
        kind=KIND,
        install=Extra("hub"),
        patterns=patterns,
    )


def check_files(folder: Path, layout: Layout) -> None:
    """Refuses a folder that lacks a file of the release.

    Raises:
        ValueError: one is missing; it is named.
    """
    for file in layout.files():
        if not (folder / file).is_file():
            names = ", ".join(layout.files())
            raise ValueError(f"{folder}: has no {file}; {KIND} has {names}")


def statistics_of(
    release: Path,
    given: Path | None,
    layout: Layout,
    work: Path,
) -> dict[str, tuple[Path, Path]]:
    """The files of mean and standard deviation by modality; fetched where the release has none.

    Args:
        release: Folder of the release.
        given: Folder of the statistics, if one was named.
        layout: Layout of the release.
        work: Folder that receives what is fetched.

    Raises:
        OSError, ValueError: one is missing, or cannot be fetched; one line that says what to do.
    """
    folders = [given] if given else [release / layout.folder, release]
    for folder in folders:
        statistics = {}
        for name, (mean, std) in layout.statistics.items():
            statistics[name] = (folder / mean, folder / std)
        missing = [path for path in _paths(statistics) if not path.is_file()]
        if not missing:
            return statistics

    if given:
        raise FileNotFoundError(
            f"{missing[0]}: no such file of mean or standard deviation"
        )

    say(
        f"{KIND} holds no means and standard deviations; fetching them from {layout.url}"
    )
    statistics = {}
    for name, (mean, std) in layout.statistics.items():
        mean_path = _download(layout.url, mean, work)
        statistics[name] = (mean_path, _download(layout.url, std, work))
    return statistics


def _paths(statistics: Mapping[str, tuple[Path, Path]]) -> Iterable[Path]:
    for pair in statistics.values():
        yield from pair


def _download(url: str, file: str, folder: Path) -> Path:
    """A file of the statistics from the place where the authors keep it.

    Raises:
        ValueError: it cannot be had; one line.
    """
    try:
        if is_offline():
            raise URLError("HF_HUB_OFFLINE is set")
        with urlopen(f"{url}/{file}", timeout=TIMEOUT) as answer:
            content = answer.read(STATISTIC + 1)

        if len(content) > STATISTIC:
            raise ValueError(f"more than {STATISTIC} bytes")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{url}/{file}: cannot be fetched ({first_line(error)}); get the authors' code "
            "repository and give its folder of means and standard deviations as --statistics"
        ) from None

    with replacing(folder / file) as partial:
        partial.write_bytes(content)
    return folder / file


def modalities_of(release: Path, layout: Layout, work: Path) -> dict[str, Modality]:
    """The modalities with their codecs, whose files are converted.

    Args:
        release: Folder of the release.
        layout: Layout of the release.
        work: Folder that receives the converted files.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: a file is damaged or of another layout, or a description is none; one line.
    """
    paths: dict[tuple[str, str], Path] = {}
    for (name, argument), file in layout.codec_files().items():
        codec = Codec.rebuild(_codec(layout.modalities[name]))

        say(f"converting {release / file}, the {argument} of '{name}'")
        paths[name, argument] = work / f"{name}-{argument}.safetensors"
        codec.convert(argument, release / file, paths[name, argument])

    modalities = {}
    for name, description in layout.modalities.items():
        codec_description = _codec(description)
        for (owner, argument), path in paths.items():
            if owner == name:
                codec_description["args"][argument] = str(path)

        args = description["args"] | {"codec": codec_description}
        modalities[name] = Modality.rebuild({"name": description["name"], "args": args})
    return modalities


def _codec(modality: Mapping[str, Any]) -> dict[str, Any]:
    """The description of a modality's codec without its files."""
    codec = modality["args"]["codec"]
    return {"name": codec["name"], "args": dict(codec["args"])}
