"""`flowbind verify`: latent stores and released models, byte for byte."""

from pathlib import Path

from flowbind.cli.parser import Parser, path


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
        type=path,
        metavar="FOLDER",
        help="a latent store, the folder of a recipe's stores with one for each split, "
        "or a released model",
    )
    folders = parser.parse_args(arguments).folders

    from flowbind.data.store import MANIFEST
    from flowbind.release import CONFIG

    for folder in folders:
        if (folder / CONFIG).is_file():
            print(_model(folder), flush=True)
            continue

        stores = []
        if not (folder / MANIFEST).is_file():
            manifests = folder.glob(f"*/{MANIFEST}")
            stores = sorted(path.parent for path in manifests)
        for store in stores or [folder]:
            print(_store(store), flush=True)


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
