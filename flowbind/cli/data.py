"""`flowbind data`: what manifests hold, in figures and as a picture."""

import random
import statistics
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowbind.cli.parser import Parser, path, run_action, whole
from flowbind.registry import installed, load

if TYPE_CHECKING:
    from flowbind.data.inventory import Holding, Inventory, Place
    from flowbind.data.manifest import Manifest

USAGE = """usage: flowbind data {info,preview} ...

  info MANIFEST ...   counts by kind of sample, labels, sizes and lengths, and what is missing or
                      there twice
  preview MANIFEST    some of the samples as one picture

`flowbind data info --help` and `flowbind data preview --help` tell more."""
FEW = 3  # examples of what is missing, broken or twice
MOST_VALUES = 12  # of a label, that are listed
UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "KB"))


def run(verb: str, arguments: list[str]) -> None:
    """Does what the first argument says."""
    actions = {"info": _info, "preview": _preview}
    run_action(verb, arguments or ["--help"], actions, USAGE)


def _info(verb: str, arguments: Sequence[str]) -> None:
    """Prints what manifests hold together."""
    parser = Parser(
        verb,
        "Tells what manifests hold: samples of each kind, labels, sizes and lengths, and files that "
        "are missing or whose content is there twice, also in two manifests, such as those of "
        "training and testing.",
    )
    parser.add_argument(
        "manifests",
        nargs="+",
        metavar="MANIFEST",
        help="a manifest, its path or address; several, such as those of all splits, are compared",
    )
    names = parser.parse_args(arguments).manifests

    from flowbind.data.inventory import take_inventory
    from flowbind.progress import track

    manifests = [_read(name) for name in names]
    modalities = _modalities(manifests)
    for manifest in manifests:
        manifest.bring(modalities)
    inventory = take_inventory(manifests, modalities, track)
    for line in _report(names, manifests, inventory):
        print(line)


def _read(name: str) -> "Manifest":
    from flowbind.data.manifest import Manifest

    return Manifest.read(name, installed("modalities"))


def _modalities(manifests: Sequence["Manifest"]) -> dict[str, Any]:
    """The modalities that samples have, by name."""
    names: set[str] = set()
    for manifest in manifests:
        for sample in manifest.samples:
            names.update(sample.values)
    return {name: load("modalities", name)() for name in sorted(names)}


def _report(
    names: Sequence[str],
    manifests: Sequence["Manifest"],
    inventory: "Inventory",
) -> Iterator[str]:
    for name, manifest in zip(names, manifests, strict=True):
        yield f"{name}: {_count(len(manifest.samples), 'sample')}"

    yield "kinds"
    yield from _table(inventory.kinds.most_common())

    for name, holding in inventory.holdings.items():
        yield name
        for line in _about(holding, names):
            yield f"  {line}"

    yield "labels" if inventory.labels else "labels: none"
    for name, values in inventory.labels.items():
        yield f"  {name}: {_values(values)}"


def _table(rows: Sequence[tuple[str, int]]) -> Iterator[str]:
    width = max(len(name) for name, _ in rows)
    for name, count in rows:
        yield f"  {name:{width}}  {count}"


def _about(holding: "Holding", names: Sequence[str]) -> Iterator[str]:
    """What there is of one modality, in lines."""
    samples = _count(holding.samples, "sample")
    if holding.sizes:
        sizes = holding.sizes
        whole_size = _bytes(sum(sizes))
        middle = _bytes(statistics.median(sizes))
        samples += (
            f", {_count(len(sizes), 'file')}, {whole_size}: "
            f"{_bytes(min(sizes))} to {_bytes(max(sizes))}, half of them up to {middle}"
        )
    yield samples

    for name, values in holding.figures.items():
        least, half, most = min(values), statistics.median(values), max(values)
        line = f"{name}: {_number(least)} to {_number(most)}, half of them up to {_number(half)}"
        if least == most:
            line = f"{name}: {_number(most)} each"
        if name == "seconds":
            line += f"; {sum(values) / 3600:.2f} hours in all"
        yield line

    if holding.missing:
        yield f"MISSING: {_some(holding.missing, 'file')}"
    if holding.unreadable:
        yield f"UNREADABLE: {_some(holding.unreadable, 'sample')}"
    yield _duplicates(holding.duplicates, names)


def _duplicates(groups: Sequence[Sequence["Place"]], names: Sequence[str]) -> str:
    """What is there more than once, and whether in two manifests."""
    if not groups:
        return "each content once"

    samples = sum(len(group) for group in groups)
    across = [group for group in groups if len({place.manifest for place in group}) > 1]
    examples = across or groups
    shown = []
    for place in examples[0][:FEW]:
        where = f" of {Path(names[place.manifest]).name}" if len(names) > 1 else ""
        shown.append(f"'{place.sample}'{where}")
    alike = " and ".join(shown)

    line = f"duplicates: {samples} samples have {_count(len(groups), 'content')}, such as {alike}"
    if across:
        line += f"; {_count(len(across), 'content')} IN SEVERAL MANIFESTS"
    return line


def _values(counts: Counter) -> str:
    """A label's values with their counts, those that are most of all first."""
    listed = [f"{value} {count}" for value, count in counts.most_common(MOST_VALUES)]
    more = len(counts) - len(listed)
    if more:
        listed.append(f"and {more} more values")
    return ", ".join(listed)


def _some(items: Collection[str], noun: str) -> str:
    return f"{_count(len(items), noun)}, such as {'; '.join(list(items)[:FEW])}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _bytes(size: float) -> str:
    for unit, name in UNITS:
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size:.0f} bytes"


def _number(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}"


def _preview(verb: str, arguments: Sequence[str]) -> None:
    """Draws some samples of a manifest."""
    parser = Parser(
        verb,
        "Draws samples of a manifest, each modality as a gallery shows it: as many of each kind as "
        "there are room for, drawn at random.",
    )
    parser.add_argument("manifest", metavar="MANIFEST", help="the manifest")
    parser.add_argument(
        "--out",
        type=path,
        metavar="FILE",
        help="the picture, a PNG; MANIFEST.png if not given",
    )
    parser.add_argument(
        "--samples", type=whole(1), metavar="N", default=24, help="samples to draw"
    )
    parser.add_argument(
        "--seed", type=whole(0), metavar="N", default=0, help="seed of the choice"
    )
    options = parser.parse_args(arguments)

    from flowbind.evaluation.contact_sheet import contact_sheet
    from flowbind.evaluation.gallery import save
    from flowbind.files import check_place
    from flowbind.progress import say, track

    out = options.out or Path(f"{Path(options.manifest).stem}.png")
    if out.suffix.lower() != ".png":
        raise ValueError(f"data preview: {out} is no name of a PNG; end it in .png")
    check_place(out)
    manifest = _read(options.manifest)
    modalities = _modalities([manifest])
    chosen = _choose(manifest, options.samples, options.seed)
    manifest.bring(modalities, chosen)

    entries = []
    faults = []
    for sample in track(chosen, "reading samples"):
        entry, bad = _entry(manifest, sample, modalities)
        entries.append(entry)
        faults += bad
    for fault in faults:
        say(fault)

    title = f"{options.manifest}: {len(chosen)} of {len(manifest.samples)} samples"
    save(contact_sheet(entries, title), out)
    print(out)


def _choose(manifest: "Manifest", count: int, seed: int) -> list[Any]:
    """Samples of every kind in turn, drawn at random, kind after kind."""
    kinds: dict[tuple[str, ...], list[Any]] = {}
    for sample in manifest.samples:
        if sample.values:
            kinds.setdefault(tuple(sorted(sample.values)), []).append(sample)

    generator = random.Random(seed)
    for samples in kinds.values():
        generator.shuffle(samples)
    shares = dict.fromkeys(kinds, 0)
    left = min(count, sum(map(len, kinds.values())))
    while left:
        for kind, samples in kinds.items():
            if left and shares[kind] < len(samples):
                shares[kind] += 1
                left -= 1
    return [sample for kind, share in shares.items() for sample in kinds[kind][:share]]


def _entry(
    manifest: "Manifest", sample: Any, modalities: Mapping[str, Any]
) -> tuple[Any, list[str]]:
    """A sample for the sheet, and what is wrong with those of its values that cannot be shown."""
    from flowbind.evaluation.contact_sheet import Entry

    previews = {}
    faults = []
    for name in sorted(sample.values):
        try:
            raw = manifest.read_raw(sample, name, modalities[name])
        except ValueError as error:
            faults.append(str(error))
            previews[name] = "cannot be read"
        else:
            previews[name] = modalities[name].preview(raw)
    labels = " ".join(sample.labels.values())
    caption = " · ".join(filter(None, [sample.id, labels]))
    return Entry(caption, previews), faults
