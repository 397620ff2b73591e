"""`flowbind verify`: latent stores and released models, byte for byte."""

from pathlib import Path

from flowbind.cli.parser import Parser, place

SPLITS = ("train", "val", "test")


def run(verb: str, arguments: list[str]) -> None:
    """Reads everything in stores and models, and prints a line for each that is intact."""
    parser = Parser(
        verb,
        "Reads every byte of latent stores and released models, and compares checksums. "
        "Damage is exit code 2.",
    )
    parser.add_argument(
        "folders",
        nargs="+",
        type=place,
        metavar="FOLDER",
        help="a latent store, the folder of a recipe's stores with one for each split, "
        "or a released model; of stores the address, too",
    )
    folders = parser.parse_args(arguments).folders

    from flowbind.data.remote import is_address
    from flowbind.data.store import MANIFEST
    from flowbind.release import CONFIG

    for word in folders:
        if is_address(word):
            for address in stores_at(word):
                print(_remote_store(address), flush=True)
            continue

        folder = Path(word)
        if (folder / CONFIG).is_file():
            print(_model(folder), flush=True)
            continue

        stores = []
        if not (folder / MANIFEST).is_file():
            paths = folder.glob(f"*/{MANIFEST}")
            stores = sorted(manifest.parent for manifest in paths)
        for store in stores or [folder]:
            print(_store(store), flush=True)


def stores_at(address: str) -> list[str]:
    """The addresses of the stores at an address: itself, or those of the splits there."""
    from flowbind.data.remote import size_at
    from flowbind.data.store import MANIFEST

    address = address.rstrip("/")
    places = [address, *(f"{address}/{split}" for split in SPLITS)]
    stores = [place for place in places if size_at(f"{place}/{MANIFEST}") is not None]
    if not stores:
        raise FileNotFoundError(f"{address}: no latent store there")
    return stores


def _remote_store(address: str) -> str:
    from flowbind.data.remote_store import verify_store

    strata = verify_store(address).strata
    shards = [shard for stratum in strata for shard in stratum.shards]
    rows = sum(shard.rows for shard in shards)
    size = sum(shard.bytes for shard in shards)
    return f"{address}: whole; {rows} rows, {len(shards)} shards, {size} bytes"


def _store(folder: Path) -> str:
    from flowbind.data.store import LatentStore
    from flowbind.progress import track

    store = LatentStore(folder)
    store.verify(lambda shards: track(shards, f"verifying {folder}"))
    shards = sum(len(stratum.shards) for stratum in store.strata)
    return f"{folder}: whole; {store.rows} rows, {shards} shards, {store.bytes} bytes"


def _model(folder: Path) -> str:
    from flowbind.release import verify

    verified = verify(folder)
    return (
        f"{folder}: whole; {verified.files} files, {verified.bytes} bytes; "
        f"weights {verified.weights}"
    )
