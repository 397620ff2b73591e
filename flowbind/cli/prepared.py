"""A folder that `flowbind prepare` writes: all of it or nothing, and no other file is lost.

`prepared.json` names the dataset, its options, and the files that were written, each with its
SHA-256. The same command runs the dataset's function again where what it reads may have changed,
and says what became of the samples. Whatever else is in the folder, such as latents, stays there,
and so does a file that was edited.
"""

import filecmp
import inspect
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flowbind.data.scan import PARTIAL, PREPARED
from flowbind.files import digest_now, read_json, write_json
from flowbind.lock import alone_in
from flowbind.progress import say

# Arguments of a dataset's function that name what others may change.
SOURCES = {"source", "sources"}
MANIFESTS = "*.jsonl"
LISTS = "missing.txt"


def prepare_into(
    out: Path,
    name: str,
    prepare: Callable[..., None],
    options: dict[str, Any],
) -> None:
    """Runs a dataset's function beside `out`, and puts its files in place when all are there.

    Args:
        out: Folder that receives them.
        name: Name of the dataset.
        prepare: Function that writes the dataset into an empty folder.
        options: Arguments of the function besides the folder.

    Raises:
        ValueError: `out` holds something that `flowbind prepare` did not write.
    """
    # Where a link leads, so that all is on one disk.
    folder = Path(os.path.realpath(out))
    # Without what is left out: an option that is new leaves older folders as they are.
    words = {key: str(value) for key, value in options.items() if value is not None}
    state: dict[str, Any] = {"dataset": name, "options": words}
    before = read_state(folder, out)

    is_again = False
    if before is not None and not before.get("unfinished"):
        is_again = before.items() >= state.items()
    parameters = inspect.signature(prepare).parameters
    has_sources = not SOURCES.isdisjoint(parameters)
    if is_again and not has_sources:
        say(f"{out}: prepared already")
        return

    with empty_beside(folder) as partial:
        prepare(partial, **options)
        files = {}
        for path in sorted(partial.iterdir()):
            files[path.name] = [digest_of(path)]
        state["files"] = files

        if before is None:
            write_state(partial, state)
            os.replace(partial, folder)
            say(f"{out}: prepared")
        elif is_again and is_same(partial, folder, files, before["files"]):
            say(f"{out}: prepared already; its sources have not changed")
        else:
            samples_before = samples_of(folder)
            changes = describe_changes(samples_before, samples_of(partial))
            install(partial, folder, state, before["files"])
            say(f"{out}: prepared again; {changes}")


@contextmanager
def empty_beside(folder: Path) -> Iterator[Path]:
    """An empty folder beside another, for this process alone.

    It goes when the block ends, unless it was renamed.

    Raises:
        ValueError: another process has it.
    """
    partial = folder.with_name(folder.name + PARTIAL)
    partial.mkdir(parents=True, exist_ok=True)

    with alone_in(partial, "preparing a dataset"):
        try:
            # What a process that was killed has left.
            for path in partial.iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def read_state(folder: Path, out: Path) -> dict[str, Any] | None:
    """The content of a folder's `prepared.json`; None where there is nothing yet.

    Args:
        folder: Folder that has it.
        out: The folder as it was given, for messages.

    Raises:
        ValueError: the folder holds something else.
    """
    path = folder / PREPARED
    if not path.is_file():
        if folder.exists() and any(folder.iterdir()):
            raise ValueError(
                f"{out}: not empty, and not written by `flowbind prepare`; choose another folder"
            )
        return None

    state = read_json(path)
    if not isinstance(state, dict):
        raise ValueError(
            f"{path}: not what `flowbind prepare` wrote; choose another folder"
        )

    # An older flowbind did not list its files.
    files = {}
    for pattern in (MANIFESTS, LISTS):
        for path in folder.glob(pattern):
            files[path.name] = [digest_of(path)]
    known: dict[str, Any] = {"files": files} | state

    # One that lists what was left out.
    options = known.get("options")
    if isinstance(options, dict):
        known["options"] = {
            key: word for key, word in options.items() if word != "None"
        }
    return known


def digest_of(path: Path) -> str:
    """SHA-256 of a file; nothing of a folder."""
    if path.is_dir():
        return ""
    return digest_now(path)


def is_same(
    partial: Path,
    folder: Path,
    files: Mapping[str, list[str]],
    before: Mapping[str, list[str]],
) -> bool:
    """Whether the dataset's function wrote what it wrote before, whatever was edited since.

    Args:
        partial: Folder that it wrote into now.
        folder: Folder that has what it wrote before.
        files: Digests of what it wrote now, by name.
        before: Digests of what it wrote before, by name.
    """
    if files != before:
        return False

    for name, digests in files.items():
        if not (folder / name).exists():
            return False
        if digests == [""] and not is_same_tree(partial / name, folder / name):
            return False
    return True


def is_same_tree(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files, byte for byte."""
    compared = filecmp.dircmp(one, other, ignore=[], hide=[])
    if compared.left_only or compared.right_only or compared.common_funny:
        return False

    _, different, unread = filecmp.cmpfiles(
        one,
        other,
        compared.common_files,
        shallow=False,
    )
    if different or unread:
        return False
    folders = compared.common_dirs
    return all(is_same_tree(one / name, other / name) for name in folders)


def install(
    partial: Path,
    folder: Path,
    state: Mapping[str, Any],
    before: Mapping[str, list[str]],
) -> None:
    """Puts each new file in the place of the old one, and takes away those not written any more.

    Until all of this is done, the folder is marked as unfinished, so that the same command does it
    again.

    Args:
        partial: Folder with the new files.
        folder: Folder with the old ones.
        state: What `prepared.json` is to hold.
        before: Digests of the old files, by name.
    """
    files = state["files"]
    either: dict[str, list[str]] = {}
    for name in {**before, **files}:
        old_digests = before.get(name, ())
        new_digests = files.get(name, ())
        either[name] = [*old_digests, *new_digests]
    write_state(folder, {**state, "files": either, "unfinished": True})

    replaced = partial / ".replaced"
    replaced.mkdir()
    for name in either:
        old = folder / name
        new = partial / name
        is_unedited = not old.exists()
        if not is_unedited and name in before:
            is_unedited = digest_of(old) in either[name]

        is_unchanged = name not in files or files[name] == before.get(name)
        if not is_unedited and is_unchanged:
            say(f"{old}: was edited, so it stays")
        elif not is_unedited:
            os.replace(new, folder / f"{name}.new")
            say(f"{old}: was edited, so it stays; the new one is {name}.new")
        else:
            if old.exists():
                os.replace(old, replaced / name)
            if name in files:
                os.replace(new, old)
    write_state(folder, state)


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Writes `prepared.json`."""
    write_json(folder / PREPARED, state)


def samples_of(folder: Path) -> dict[tuple[str, str], bytes]:
    """The lines of a folder's manifests, by split and id."""
    samples = {}
    for path in folder.glob(MANIFESTS):
        for number, line in enumerate(path.read_bytes().splitlines()):
            # A line that was edited may be anything.
            try:
                id = json.loads(line)["id"]
            except (ValueError, LookupError, TypeError, RecursionError):
                id = number
            samples[path.stem, str(id)] = line
    return samples


def describe_changes(
    before: Mapping[tuple[str, str], Any],
    after: Mapping[tuple[str, str], Any],
) -> str:
    """How many samples were added, are gone, have moved from one split to another, or changed.

    Args:
        before: Lines of the old manifests, by split and id.
        after: Lines of the new manifests, by split and id.
    """
    added = [id for _, id in after.keys() - before.keys()]
    gone = [id for _, id in before.keys() - after.keys()]
    moved = set(added) & set(gone)
    changed = 0
    for key in before.keys() & after.keys():
        changed += before[key] != after[key]

    counts = {
        "added": sum(id not in moved for id in added),
        "gone": sum(id not in moved for id in gone),
        "moved to another split": len(moved),
        "changed": changed,
    }
    parts = [f"{count} {change}" for change, count in counts.items() if count]
    if not parts:
        return "the samples are the same"
    return f"samples: {', '.join(parts)}"
