"""Files in object storage, by fsspec's addresses such as `s3://bucket/train.jsonl`: copied, and checked.

Every address has a place on this machine, below the folder of copies, so that all that reads files
reads these too. A copy is brought to its place when it is whole: of the size that the storage
states and, where a checksum is known, with that. What is there already and has not changed is not
brought again; a large file that was interrupted goes on where it was.
"""

import fcntl
import hashlib
import os
import posixpath
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from flowbind.errors import first_line
from flowbind.files import check_space, commit, naming
from flowbind.libraries import Extra
from flowbind.progress import Progress

CACHE = "FLOWBIND_CACHE"  # variable of the environment: the folder of copies
ADDRESS = re.compile(r"([a-z][a-z0-9+.]*)://(.*)", re.IGNORECASE | re.DOTALL)
EXTRAS = {"s3": Extra("s3"), "s3a": Extra("s3")}
PIECE = 2**23  # bytes read at a time
THREADS = 8  # files that are brought side by side
LOCK = ".lock"


class Wanted(NamedTuple):
    """A file to be brought.

    Args:
        address: Its address.
        size: Its size in bytes, where that is known.
        sha256: Its SHA-256, in hexadecimal, where that is known.
    """

    address: str
    size: int | None = None
    sha256: str | None = None


def is_address(place: str | Path) -> bool:
    """Whether a place is an address rather than a path."""
    return isinstance(place, str) and "://" in place and bool(ADDRESS.match(place))


def place_of(place: str | Path) -> Path:
    """The path of what a path or an address names: for an address, where its copy belongs.

    Nothing is brought.

    Raises:
        ValueError: an address that leads out of its bucket.
    """
    if not is_address(place):
        return Path(place)

    scheme, rest = _parts(str(place))
    if scheme.lower() == "file":
        return Path(rest)
    path = posixpath.normpath(rest.strip("/"))
    if path in ("", ".") or path.startswith(".."):
        raise ValueError(f"{place}: leads nowhere; give scheme://bucket/path")
    return folder_of_copies() / scheme.lower() / path


def _parts(address: str) -> tuple[str, str]:
    """The scheme of an address, and what follows it."""
    scheme, _, rest = address.partition("://")
    return scheme, rest


def folder_of_copies() -> Path:
    """Where copies lie: FLOWBIND_CACHE, or flowbind's folder in the user's cache."""
    given = os.environ.get(CACHE)
    if given:
        return Path(given).absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache).absolute() / "flowbind"


def address_of(path: str | Path) -> str:
    """The address whose copy belongs at a path; empty where it is a path like others."""
    if is_address(path):
        path = place_of(path)
    try:
        relative = Path(path).absolute().relative_to(folder_of_copies())
    except ValueError:
        return ""
    scheme, *names = relative.parts or ("",)
    return f"{scheme}://{'/'.join(names)}" if names else ""


def beside(address: str, value: str) -> str:
    """The address of a file that is named relative to another.

    Raises:
        ValueError: it leads out of the bucket, or is a path of this machine.
    """
    scheme, rest = _parts(address)
    path = posixpath.normpath(posixpath.join(posixpath.dirname(rest), value))
    bucket = rest.strip("/").partition("/")[0]
    if value.startswith("/") or path.partition("/")[0] != bucket:
        raise ValueError(
            f"{value!r}: leads out of {scheme}://{bucket}, where {address} is"
        )
    return f"{scheme}://{path}"


def brought(place: str | Path) -> Path:
    """The path of what a path or an address names; of an address, its copy as it is now.

    Raises as `bring` does; a path is returned as it is.
    """
    address = address_of(place)
    return bring(address) if address else Path(place_of(place))


def bring(address: str) -> Path:
    """A copy of one file as it is now.

    Raises:
        FileNotFoundError: there is no such file.
        OSError, ValueError: it cannot be had; one line.
    """
    storage, path = _storage(address)
    target = place_of(address)
    with _reading(address):
        state = storage.info(path)
    if state.get("type") == "directory":
        raise ValueError(f"{address}: a folder, where a file is needed")

    with _alone_in(target.parent):
        if not _is_current(target, state):
            _copy(Wanted(address, state.get("size")))
            _set_time(target, state)
    return target


def bring_all(files: Sequence[Wanted], what: str) -> None:
    """Copies of many files, side by side, each checked; those that are there stay.

    Args:
        files: Files, all in one folder, whose sizes are known.
        what: Description of the work.

    Raises:
        OSError, ValueError: one cannot be had, or is not what it should be; one line.
    """
    if not files:
        return
    folder = place_of(files[0].address).parent
    with _alone_in(folder):
        absent = [file for file in files if not place_of(file.address).is_file()]
        if absent:
            check_space(folder, sum(file.size or 0 for file in absent))
            _side_by_side(_copy, absent, what)


def bring_present(addresses: Iterable[str], what: str) -> None:
    """Copies of those files that there are, as they are now; the others are left to whoever reads.

    Folders are listed, so that thousands of files take few questions.

    Raises:
        OSError, ValueError: the storage cannot be asked, or a file not be had; one line.
    """
    by_folder: dict[str, set[str]] = {}
    for address in addresses:
        by_folder.setdefault(posixpath.dirname(address), set()).add(address)

    for folder, members in sorted(by_folder.items()):
        storage, path = _storage(folder)
        states = {}
        try:
            with _reading(folder):
                listed = storage.ls(path, detail=True, refresh=True)
        except FileNotFoundError:
            continue
        for state in listed:
            name = posixpath.basename(state["name"].rstrip("/"))
            states[f"{folder}/{name}"] = state

        with _alone_in(place_of(folder)):
            stale = []
            for address in sorted(members & states.keys()):
                if not _is_current(place_of(address), states[address]):
                    stale.append(Wanted(address, states[address].get("size")))
            _side_by_side(_copy, stale, f"{what} {folder}")
            for file in stale:
                _set_time(place_of(file.address), states[file.address])


def content_of(address: str) -> Iterator[bytes]:
    """The content of a file, piece by piece, without a copy.

    Raises:
        OSError, ValueError: it cannot be read; one line.
    """
    return _pieces(address, 0)


def send(path: Path, address: str) -> None:
    """Writes a file to an address, and compares its size there.

    Raises:
        OSError, ValueError: it cannot be written; one line.
    """
    storage, target = _storage(address)
    with _reading(address, "written"):
        parent = posixpath.dirname(target)
        if parent:
            storage.makedirs(parent, exist_ok=True)
        storage.put_file(str(path), target)
        storage.invalidate_cache()
        size = storage.info(target)["size"]
    if size != path.stat().st_size:
        raise OSError(
            f"{address}: {size} bytes arrived of {path.stat().st_size}; run the same command again"
        )


def size_at(address: str) -> int | None:
    """The size of a file in bytes; None where there is none.

    Raises:
        OSError, ValueError: the storage cannot be asked; one line.
    """
    storage, path = _storage(address)
    try:
        with _reading(address):
            return storage.info(path)["size"]
    except FileNotFoundError:
        return None


def _storage(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path there.

    Raises:
        ValueError: there is no such scheme, or its library is missing; one line.
    """
    import fsspec

    scheme, _ = _parts(address)
    try:
        with _reading(address):
            return fsspec.core.url_to_fs(address)
    except ImportError as error:
        install = EXTRAS.get(scheme.lower())
        hint = f"install it with `{install}`" if install else first_line(error)
        raise ValueError(f"{address}: {scheme}:// needs a library; {hint}") from None


@contextmanager
def _reading(address: str, verb: str = "read") -> Iterator[None]:
    """A block whose errors, of whatever library, are one line that names the address."""
    try:
        yield
    except ImportError:
        raise
    except FileNotFoundError:
        raise FileNotFoundError(f"{address}: no such file") from None
    except Exception as error:
        kind = type(error).__name__
        reason = first_line(error)
        clause = reason if reason == kind else f"{kind}: {reason}"
        raise OSError(f"{address}: cannot be {verb} ({clause[:300]})") from error


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Waits until no other process of this machine brings files to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _modified(state: dict[str, Any]) -> float | None:
    """When a file was changed, in seconds, where the storage tells."""
    for key in ("LastModified", "last_modified", "mtime", "updated", "created"):
        value = state.get(key)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return None


def _is_current(target: Path, state: dict[str, Any]) -> bool:
    """Whether a copy has the size and time of change that the storage states."""
    modified = _modified(state)
    if modified is None or not target.is_file():
        return False
    status = target.stat()
    return (
        status.st_size == state.get("size") and abs(status.st_mtime - modified) < 1e-3
    )


def _set_time(target: Path, state: dict[str, Any]) -> None:
    modified = _modified(state)
    if modified is not None:
        os.utime(target, (modified, modified))


def _side_by_side(copy: Any, files: Collection[Wanted], what: str) -> None:
    """Brings files in several threads; the first error ends it, when those that began are done."""
    if not files:
        return
    progress = Progress(what, len(files), "files")
    pool = ThreadPoolExecutor(THREADS)
    try:
        for future in as_completed([pool.submit(copy, file) for file in files]):
            future.result()
            progress.advance()
    finally:
        pool.shutdown(cancel_futures=True)
        progress.close()


def _copy(file: Wanted) -> None:
    """Brings one file to its place, whole and checked.

    What a copy that was interrupted has is kept where a checksum will tell whether it is of the
    same file.

    Raises:
        OSError, ValueError: it cannot be had, or is not what it should be; one line.
    """
    target = place_of(file.address)
    partial = target.with_name(target.name + ".partial")
    if file.sha256 is None:
        partial.unlink(missing_ok=True)
    resumed = partial.exists()

    size, sha256 = _receive(file.address, partial)
    if resumed and sha256 != file.sha256:  # it was of another file
        partial.unlink()
        size, sha256 = _receive(file.address, partial)

    fault = ""
    if file.size is not None and size != file.size:
        fault = f"has {size} bytes, not {file.size}"
    elif file.sha256 is not None and sha256 != file.sha256:
        fault = "is corrupted (checksum)"
    if fault:
        partial.unlink()
        raise ValueError(
            f"{file.address}: {fault}; what is there was not written whole"
        )
    commit(partial, target)


def _receive(address: str, partial: Path) -> tuple[int, str]:
    """Adds to a file what it lacks of that at an address.

    Returns:
        Its size in bytes, and its SHA-256 in hexadecimal.
    """
    sha256 = hashlib.sha256()
    with partial.open("a+b") as copy:
        copy.seek(0)
        while piece := copy.read(PIECE):
            sha256.update(piece)

        for piece in _pieces(address, copy.tell()):
            with naming(partial):
                copy.write(piece)
            sha256.update(piece)
        return copy.tell(), sha256.hexdigest()


def _pieces(address: str, start: int) -> Iterator[bytes]:
    """The content of a file from a byte on."""
    storage, path = _storage(address)
    with _reading(address):
        source = storage.open(path, "rb")
    with source:
        source.seek(start)
        while True:
            with _reading(address):
                piece = source.read(PIECE)
            if not piece:
                return
            yield piece
