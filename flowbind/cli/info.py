"""`flowbind info`: what a released model, a latent store or a manifest holds, in a few lines."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from flowbind.cli.parser import Parser, path


def run(verb: str, arguments: list[str]) -> None:
    """Prints what each path holds."""
    parser = Parser(
        verb,
        "Tells what released models, latent stores and manifests hold, without reading all of them.",
    )
    parser.add_argument(
        "paths",
        nargs="+",
        type=path,
        metavar="PATH",
        help="a released model, a latent store or the folder of several, a manifest, or a run "
        "folder, whose model is taken",
    )
    for given in parser.parse_args(arguments).paths:
        print("\n".join([f"{given}:", *(f"  {line}" for line in _lines(given))]))


def _lines(given: Path) -> Iterator[str]:
    """What a path holds, in lines.

    Raises:
        OSError: nothing is there.
        ValueError: it is none of these.
    """
    from flowbind.data.store import MANIFEST
    from flowbind.release import CONFIG

    if not given.exists():
        raise FileNotFoundError(
            f"{given}: nothing is there; give a released model, a latent store or a manifest"
        )
    if not given.is_dir():
        yield from _manifest(given)
        return

    if (given / "model" / CONFIG).is_file():
        given = given / "model"
    if (given / CONFIG).is_file():
        yield from _model(given)
        return

    stores = sorted(path.parent for path in given.glob(f"*/{MANIFEST}"))
    if (given / MANIFEST).is_file():
        stores = [given]
    if not stores:
        raise ValueError(
            f"{given}: neither a released model nor a latent store; "
            f"these have {CONFIG} and {MANIFEST}"
        )
    for store in stores:
        if store != given:
            yield f"{store.name}:"
        for line in _store(store):
            yield line if store == given else f"  {line}"


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

    store = LatentStore(folder)
    shards = sum(len(stratum.shards) for stratum in store.strata)
    yield (
        f"a latent store: {store.rows:,} samples of {store.source}, {shards} shards, "
        f"{store.bytes / 1e6:,.1f} MB"
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
