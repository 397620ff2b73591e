"""Latent stores in object storage: copied shard by shard, each checked, and written there at the end.

Latents are mapped into memory, so a store is read from its copy on this machine.
"""

import hashlib
from pathlib import Path

from flowbind.data.remote import (
    Wanted,
    address_of,
    bring,
    bring_all,
    content_of,
    place_of,
    send,
    size_at,
)
from flowbind.data.shard import Shard, read_header
from flowbind.data.store import (
    MANIFEST,
    Contents,
    LatentStore,
    check_inside,
    read_contents,
)
from flowbind.files import digest, read_json, write_json
from flowbind.progress import say, track

SENT = ".sent.json"  # by file, the SHA-256 of what lies at the address
PENDING = ".pending"  # there while a copy has what its address may lack


def open_store(place: str | Path) -> LatentStore:
    """Opens the store of a path or an address, of the latter as it is now.

    Raises:
        FileNotFoundError: there is no store, or it was never finished.
        OSError, ValueError: it cannot be had, or is damaged; one line.
    """
    address = address_of(place)
    if address:
        fetch_store(address)
    return LatentStore(place_of(place))


def fetch_store(address: str) -> Path:
    """A copy of a store; shards that are there already stay.

    Raises:
        FileNotFoundError: there is no store.
        OSError, ValueError: it cannot be had, or is damaged; one line.
    """
    try:
        path = bring(f"{address}/{MANIFEST}")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{address}: no such latent store; run `flowbind encode` with the same recipe"
        ) from None

    shards = _shards(path)
    files = []
    for shard in shards:
        check_inside(path, shard)
        copy = path.parent / shard.file
        if not _is_of(copy, shard):
            copy.unlink(missing_ok=True)
        files.append(Wanted(f"{address}/{shard.file}", shard.bytes, shard.sha256))
    bring_all(files, f"copying {address}")

    sums = {shard.file: shard.sha256 for shard in shards}
    write_json(path.parent / SENT, sums | {MANIFEST: digest(path)})
    return path.parent


def fetch_for_encoding(folder: Path) -> None:
    """Before encoding into a copy: brings what the address has, unless the copy has more.

    Raises as `fetch_store` does, but where there is no store yet.
    """
    address = address_of(folder)
    if address and not (folder / PENDING).exists():
        try:
            fetch_store(address)
        except FileNotFoundError:
            folder.mkdir(parents=True, exist_ok=True)
        (folder / PENDING).touch()


def send_store(folder: Path) -> None:
    """After encoding into a copy: writes what its address lacks, the store's manifest last.

    Raises:
        OSError, ValueError: it cannot be written; one line. The same command again goes on.
    """
    address = address_of(folder)
    if not address:
        return

    sent = {}
    if (folder / SENT).is_file():
        sent = read_json(folder / SENT)
    sums = {shard.file: shard.sha256 for shard in _shards(folder / MANIFEST)}
    sums[MANIFEST] = digest(folder / MANIFEST)

    lacking = []
    for file, sha256 in sums.items():
        size = (folder / file).stat().st_size
        if sent.get(file) != sha256 or size_at(f"{address}/{file}") != size:
            lacking.append(file)
    if lacking:
        for file in track(lacking, f"writing {address}"):
            send(folder / file, f"{address}/{file}")
            sent[file] = sums[file]
            write_json(folder / SENT, sent)
        say(f"{address}: written, {len(lacking)} of {len(sums)} files")
    (folder / PENDING).unlink(missing_ok=True)


def verify_store(address: str) -> Contents:
    """Reads every byte of a store where it lies, and compares checksums; nothing is copied.

    Returns:
        What its manifest says.

    Raises:
        OSError, ValueError: a shard cannot be read, or is damaged; it is named.
    """
    path = bring(f"{address}/{MANIFEST}")
    for shard in track(_shards(path), f"verifying {address}"):
        check_inside(path, shard)
        sha256 = hashlib.sha256()
        for piece in content_of(f"{address}/{shard.file}"):
            sha256.update(piece)
        if sha256.hexdigest() != shard.sha256:
            raise ValueError(
                f"{address}/{shard.file}: this shard is corrupted (checksum); write it anew by "
                "`flowbind encode`, or from a copy"
            )
    return read_contents(path)


def _shards(path: Path) -> list[Shard]:
    shards = []
    for stratum in read_contents(path).strata:
        shards += stratum.shards
    return shards


def _is_of(path: Path, shard: Shard) -> bool:
    """Whether a file has a shard's size and header, which holds the checksum of its data."""
    try:
        raw, _, size = read_header(path)
    except (OSError, ValueError):
        return False
    return size == shard.bytes and hashlib.sha256(raw).hexdigest() == shard.header
