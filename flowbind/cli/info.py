"""`flowbind info`: what a released model, a latent store or a manifest holds, in a few lines."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from flowbind.cli.parser import Parser, place
from flowbind.cli.verify import stores_at

if TYPE_CHECKING:
    from flowbind.data.store import Contents, LatentStore

SUFFIXES = (".jsonl", ".ndjson")  # of manifests


def run(verb: str, arguments: list[str]) -> None:
    """Prints what each path holds."""
    parser = Parser(
        verb,
        "Tells what released models, latent stores and manifests hold, without reading all of them.",
    )
    parser.add_argument(
        "paths",
        nargs="+",
        type=place,
        metavar="PATH",
        help="a released model, or its name on the hub, hf:OWNER/NAME; a run folder, whose model is "
        "taken; a latent store or the folder of several; a manifest, or a folder of some; of "
        "stores and manifests the address, too",
    )
    for given in parser.parse_args(arguments).paths:
        print("\n".join([f"{given}:", *(f"  {line}" for line in _lines(given))]))


def _lines(given: str) -> Iterator[str]:
    """What a path, an address or a name on the hub holds, in lines.

    Raises:
        OSError: nothing is there.
        ValueError: it is none of these.
    """
    from flowbind.data.remote import brought, is_address
    from flowbind.release import CONFIG, located

    if is_address(given) and not given.endswith(SUFFIXES):
        yield from _each({name: _remote_store(name) for name in stores_at(given)})
        return

    here = brought(given) if is_address(given) else located(given)
    if not here.exists():
        raise FileNotFoundError(
            f"{given}: nothing is there; give a released model, a latent store or a manifest"
        )
    if not here.is_dir():
        yield from _manifest(here)
    elif (here / CONFIG).is_file():
        yield from _model(here)
    elif (here / "model" / CONFIG).is_file():
        yield from _model(here / "model")
    else:
        yield from _folder(here)


def _folder(folder: Path) -> Iterator[str]:
    """What stores and manifests are in a folder."""
    from flowbind.data.store import MANIFEST
    from flowbind.release import CONFIG

    if (folder / MANIFEST).is_file():
        yield from _store(folder)
        return

    parts = {}
    for file in sorted(folder.iterdir()):
        if (file / MANIFEST).is_file():
            parts[file.name] = _store(file)
        elif file.name.endswith(SUFFIXES):
            parts[file.name] = _manifest(file)
    if not parts:
        raise ValueError(
            f"{folder}: no released model, no latent store and no manifest; "
            f"these have {CONFIG} and {MANIFEST}, or are called .jsonl"
        )
    yield from _each(parts)


def _each(parts: dict[str, Iterator[str]]) -> Iterator[str]:
    """The lines of each part under its name; of a single one without."""
    for name, lines in parts.items():
        if len(parts) > 1:
            yield f"{name}:"
        for line in lines:
            yield f"  {line}" if len(parts) > 1 else line


def _model(folder: Path) -> Iterator[str]:
    from flowbind.release import description_of, load

    model = load(folder)
    yield "a released model"
    yield from repr(model).splitlines()

    directions = [str(direction) for direction in model.method.directions()]
    yield f"  makes {_some(directions)}"
    description = description_of(folder)
    weights = description.get("weights", {})
    if weights.get("step") is not None:
        yield f"  trained for {weights['step']:,} steps"
    versions = description.get("versions", {})
    written = ", ".join(f"{name} {number}" for name, number in versions.items())
    yield f"  written by {written or 'an unknown version'}, format {description['format']}"
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    yield f"  {size / 1e6:,.1f} MB"


def _store(folder: Path) -> Iterator[str]:
    from flowbind.data.store import LatentStore

    yield from _contents(LatentStore(folder))


def _remote_store(address: str) -> Iterator[str]:
    """What a store's manifest says; its shards stay where they are."""
    from flowbind.data.remote import bring
    from flowbind.data.store import MANIFEST, read_contents

    yield from _contents(read_contents(bring(f"{address}/{MANIFEST}")))


def _contents(store: "LatentStore | Contents") -> Iterator[str]:
    shards = [shard for stratum in store.strata for shard in stratum.shards]
    rows = sum(stratum.rows for stratum in store.strata)
    size = sum(shard.bytes for shard in shards)
    yield (
        f"a latent store: {rows:,} samples of {store.source}, in {len(shards)} "
        f"{'shard' if len(shards) == 1 else 'shards'}, {size / 1e6:,.1f} MB"
    )
    width = max(map(len, store.fields), default=0)
    for name, field in store.fields.items():
        rows = sum(s.rows for s in store.strata if name in s.modalities)
        shape = " x ".join(map(str, field.shape))
        codec = field.fingerprint.get("codec", "a codec")
        yield f"  {name:{width}}  {rows:,} latents of {shape} {field.dtype}, by {codec}"
    counts = {"+".join(s.modalities): s.rows for s in store.strata}
    yield from _kinds(counts)


def _manifest(file: Path) -> Iterator[str]:
    from flowbind.data.manifest import Manifest
    from flowbind.registry import installed

    manifest = Manifest.read(file, installed("modalities"))
    yield f"a manifest: {len(manifest.samples):,} samples"
    kinds = Counter("+".join(sample.values) for sample in manifest.samples)
    yield from _kinds(kinds)

    values: dict[str, Counter] = {}
    for sample in manifest.samples:
        for factor, value in sample.labels.items():
            values.setdefault(factor, Counter())[value] += 1
    for factor, counter in values.items():
        yield f"  label {factor}: {_some([str(value) for value, _ in counter.most_common()])}"


def _kinds(counts: dict[str, int]) -> Iterator[str]:
    """Number of samples with exactly these modalities, the most first."""
    for kind, count in sorted(counts.items(), key=lambda item: -item[1]):
        yield f"  {count:,} of {kind}"


MOST = 12  # words of a list


def _some(words: Iterable[str]) -> str:
    """The first of a list, and how many more there are."""
    words = list(words)
    more = f", and {len(words) - MOST} more" if len(words) > MOST else ""
    return ", ".join(words[:MOST]) + more
