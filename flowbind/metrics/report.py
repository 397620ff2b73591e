"""What evaluation found, for people: tables for a terminal and for Markdown, and the files of a run.

Every figure's full name, with implementation and sample count, is its key in `metrics.json`; a table's head has the
short name.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flowbind.atomic import replacing

DESCRIBED = ("sources", "target", "paired")  # of a direction, besides its measures
NEVER = "never"  # stands where no training sample holds a source together with the target


class Table(NamedTuple):
    """A title, a head, rows of as many cells each, and a note."""

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""


def summarise(directions: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The lowest joint accuracy of each kind of direction, and what a second source adds; empty without labels."""
    joint = {
        said: value
        for said, found in directions.items()
        for key, value in found.items()
        if key.startswith("accuracy/joint[")
    }
    kinds: dict[str, list[str]] = {}
    for said in joint:
        kinds.setdefault(kind(directions[said]), []).append(said)
    found = {}
    for name, members in kinds.items():
        lowest = min(members, key=joint.__getitem__)
        found[name] = {"directions": len(members), "lowest joint accuracy": joint[lowest], "in": lowest}
    gains = {
        said: joint[said]
        - max(joint[f"{source}->{directions[said]['target']}"] for source in directions[said]["sources"])
        for said in kinds.get("two sources", [])
    }
    if gains:
        worst = min(gains, key=gains.__getitem__)
        found["two sources"] |= {
            "least gain over the better one": gains[worst],
            "least gain in": worst,
            "below the better one": sum(g < 0 for g in gains.values()),
        }
    return found


def kind(direction: Mapping[str, Any]) -> str:
    """What a direction counts as: paired, never paired, itself, or two sources."""
    if len(direction["sources"]) > 1:
        return "two sources"
    if direction["sources"] == [direction["target"]]:
        return "itself"
    return "paired" if direction["paired"] else "never paired"


def tables(results: Mapping[str, Any]) -> list[Table]:
    """The tables of a run's results."""
    meta = results["meta"]
    grouped: dict[str, dict[str, Any]] = {"paired": {}, "never paired": {}, "itself": {}, "two sources": {}}
    for said, found in results["directions"].items():
        grouped[kind(found)][said] = found
    titles = {
        "paired": "One source, seen together in training",
        "never paired": "One source, never seen together in training",
        "itself": "Itself, through the shared latent",
        "two sources": "Two sources",
    }
    made = [_measures(titles[name], "direction", members) for name, members in grouped.items() if members]
    if results["summary"]:
        made.insert(0, _summary(results["summary"]))
    if results["probes"]:
        made.append(_measures("Ceilings: what the probes read from real test latents", "modality", results["probes"]))
    made.append(_measures("Codecs alone: real samples, encoded and decoded", "modality", results["codecs"]))
    made.append(_measures("Alignment of two modalities' latents", "modalities", results["alignment"], whole=True))
    n = f"n = {meta['samples']} test samples"
    return [
        made[0]._replace(
            note=f"{n}, seed {meta['seed']}, {meta['method']}, {meta['source_steps']} + {meta['steps']} steps"
        ),
        *made[1:],
    ]


def _summary(summary: Mapping[str, Mapping[str, Any]]) -> Table:
    head = ["directions", "number", "lowest joint accuracy", "in"]
    rows = [
        [name, str(found["directions"]), _figure(found["lowest joint accuracy"]), found["in"]]
        for name, found in summary.items()
    ]
    two = summary.get("two sources")
    if two:
        gain = f"{two['least gain over the better one']:+.3f}"
        rows.append(["two sources, gain over the better one", str(two["directions"]), gain, two["least gain in"]])
    return Table("Summary", head, rows)


def _measures(title: str, first: str, found: Mapping[str, Mapping[str, Any]], whole: bool = False) -> Table:
    keys = list(dict.fromkeys(key for measures in found.values() for key in measures if key not in DESCRIBED))
    short = [
        key.partition(",n=")[0] + "]" * ("[" in key) if whole else key.partition("[")[0].removeprefix("accuracy/")
        for key in keys
    ]
    rows = [
        [said, *(_figure(measures[key]) if key in measures else "" for key in keys)] for said, measures in found.items()
    ]
    return Table(title, [first, *short], rows)


def _figure(value: float | int) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def terminal(results: Mapping[str, Any]) -> str:
    """The tables as aligned text."""
    return "\n\n".join("\n".join(_aligned(table)) for table in tables(results)) + "\n"


def _aligned(table: Table) -> Iterable[str]:
    yield table.title + (f" ({table.note})" if table.note else "")
    widths = [max(len(row[i]) for row in (table.head, *table.rows)) for i in range(len(table.head))]
    for row in (table.head, ["-" * width for width in widths], *table.rows):
        yield (
            "  "
            + "  ".join(
                _justify(cell, width, table, i) for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
        )


def _justify(cell: str, width: int, table: Table, column: int) -> str:
    return cell.rjust(width) if _numeric(table, column) else cell.ljust(width)


def _numeric(table: Table, column: int) -> bool:
    return all(not row[column] or row[column].lstrip("+-").replace(".", "", 1).isdigit() for row in table.rows)


def markdown(results: Mapping[str, Any]) -> str:
    """The tables and where they come from, as Markdown."""
    meta = results["meta"]
    parts = ["# Evaluation", ""]
    for table in tables(results):
        parts += [f"## {table.title}", ""] + ([f"{table.note}.", ""] if table.note else [])
        rule = ["---:" if _numeric(table, i) else "---" for i in range(len(table.head))]
        parts += [f"| {' | '.join(row)} |" for row in (table.head, rule, *table.rows)] + [""]
    versions = ", ".join(f"{name} {number}" for name, number in meta["versions"].items())
    seen = ", ".join(f"{name} {rows:,}" for name, rows in meta["trained_on"].items())
    parts += [
        "## How it was measured",
        "",
        "Generated latents are decoded and encoded again before they are judged. Factors are read by probes fitted on",
        "real training latents; `joint` is the share of samples with every factor right. The Frechet distance and",
        "recall@1 are against the same samples' real latents, in the target codec's standardised space; `cycle` is the",
        "root mean square error of source to target and back, in standard deviations of the source's latents. The full",
        "names of the measures, with implementation and sample count, are in `metrics.json`.",
        "",
        f"- test: {meta['samples']} samples of `{meta['data']['test']['manifest']}`; {meta['left_out']} others",
        "  left out, for want of a modality or label, or beyond the limit",
        f"- training: {seen}",
        f"- model: {', '.join(meta['model']['modalities'])}; {meta['model']['parameters']:,} parameters",
        f"- on: {meta['device']}, {meta['threads']} threads; {versions}",
        f"- seconds: {', '.join(f'{part} {spent:.1f}' for part, spent in meta['seconds'].items())}",
        "",
    ]
    return "\n".join(parts)


def write(results: Mapping[str, Any], folder: Path) -> None:
    """Writes `metrics.json` and `metrics.md`, each beside and then renamed."""
    for name, content in (("metrics.json", json.dumps(results, indent=1) + "\n"), ("metrics.md", markdown(results))):
        with replacing(folder / name) as partial:
            partial.write_text(content, encoding="utf-8")
