"""What evaluation found, for people: tables for a terminal and for Markdown, and the files of a run.

Every figure's full name, with implementation and sample count, is its key in `metrics.json`; a table's head has the
short name.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from flowbind.evaluation.published import beside
from flowbind.files import replacing

DESCRIBED = ("sources", "target", "paired")  # of a direction, besides its measures


class Table(NamedTuple):
    """A title, a head, rows of as many cells each, and a note below."""

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
        found[name] = {
            "directions": len(members),
            "lowest_joint_accuracy": joint[lowest],
            "in": lowest,
        }
    gains = {
        said: joint[said]
        - max(
            joint[f"{source}->{directions[said]['target']}"]
            for source in directions[said]["sources"]
        )
        for said in kinds.get("two_sources", [])
        if all(
            f"{source}->{directions[said]['target']}" in joint
            for source in directions[said]["sources"]
        )
    }
    if gains:
        worst = min(gains, key=gains.__getitem__)
        found["two_sources"] |= {
            "least_gain_over_the_better_source": gains[worst],
            "least_gain_in": worst,
            "below_the_better_source": sum(g < 0 for g in gains.values()),
        }
    return found


def averaged(repeats: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The results of repetitions as one: the figures of directions are means, `spread` their standard deviations."""
    results = dict(repeats[0])
    if len(repeats) > 1:
        results["directions"], results["spread"] = {}, {}
        for said, found in repeats[0]["directions"].items():
            figures = {
                key: [repeat["directions"][said][key] for repeat in repeats]
                for key in found
                if key not in DESCRIBED
            }
            results["directions"][said] = {
                **found,
                **{key: mean(values) for key, values in figures.items()},
            }
            results["spread"][said] = {key: stdev(values) for key, values in figures.items()}
        results["summary"] = summarise(results["directions"])
        results["meta"] = repeats[0]["meta"] | {"repeats": len(repeats)}
    return results


def kind(direction: Mapping[str, Any]) -> str:
    """What a direction counts as: from noise, paired, never paired, itself, or two sources."""
    if not direction["sources"]:
        return "from_noise"
    if len(direction["sources"]) > 1:
        return "two_sources"
    if direction["sources"] == [direction["target"]]:
        return "itself"
    return "paired" if direction["paired"] else "never_paired"


NEVER = " (never paired)"  # said of two sources
TITLES = {
    "paired": "One source, seen together in training",
    "never_paired": "One source, never seen together in training",
    "itself": "Each from itself",
    "from_noise": "From noise alone",
    "two_sources": "Two sources",
}


def headline(results: Mapping[str, Any]) -> str:
    """On what and how it was measured, in a line."""
    meta = results["meta"]
    choices = [f"{name} {value}" for name, value in meta["sampling"].items() if value is not None]
    repeats = f", mean ± spread of {meta['repeats']} repetitions" if "repeats" in meta else ""
    samples = f"{meta['samples']} test samples, seed {meta['seed']}"
    return ", ".join([samples, *choices]) + repeats


def tables(results: Mapping[str, Any]) -> list[Table]:
    """The tables of a run's results."""
    grouped: dict[str, dict[str, Any]] = {name: {} for name in TITLES}
    for said, found in results["directions"].items():
        never = kind(found) == "two_sources" and not found["paired"]
        grouped[kind(found)][said + NEVER * never] = found
    summary = summarise(results["directions"])
    made = [_summary(summary)] if summary else []
    made += [
        _measures(TITLES[name], "direction", members, results["spread"])
        for name, members in grouped.items()
        if members
    ]
    if results["probes"]:
        made.append(
            _measures(
                "Ceilings: what the probes read from real test latents",
                "modality",
                results["probes"],
            )
        )
    made.append(
        _measures("Codecs alone: real samples, encoded and decoded", "modality", results["codecs"])
    )
    if results["alignment"]:
        made.append(
            _measures(
                "Alignment of two modalities' latents (CKNNA)", "modalities", results["alignment"]
            )
        )
    measures = results.get("measures", {})  # of versions before them there are none
    if measures:
        rows = [[name, _figure(value)] for name, value in measures.items()]
        made.append(Table("On real latents", ["measure", "mean"], rows))
    return made + [_published(table, results["directions"]) for table in results["published"]]


def _published(table: Mapping[str, Any], directions: Mapping[str, Mapping[str, Any]]) -> Table:
    head = ["", *(f"{column['direction']} {column['measure']}" for column in table["columns"])]
    rows = [
        [name, *("" if value is None else f"{value:.2f}" for value in values)]
        for name, *values in beside(table, directions)
    ]
    return Table(table["title"], head, rows, table.get("note", ""))


def _summary(summary: Mapping[str, Mapping[str, Any]]) -> Table:
    head = ["directions", "number", "lowest joint accuracy", "in"]
    rows = [
        [
            name.replace("_", " "),
            str(found["directions"]),
            _figure(found["lowest_joint_accuracy"]),
            found["in"],
        ]
        for name, found in summary.items()
    ]
    two = summary.get("two_sources")
    note = two and (
        f"Two sources are below the better of them in {two['below_the_better_source']} of {two['directions']} directions; "
        f"the least gain is {two['least_gain_over_the_better_source']:+.3f} ({two['least_gain_in']})."
    )
    return Table("Summary", head, rows, note or "")


def _measures(
    title: str,
    first: str,
    found: Mapping[str, Mapping[str, Any]],
    spread: Mapping[str, Mapping[str, float]] = {},
) -> Table:
    keys = list(
        dict.fromkeys(
            key for measures in found.values() for key in measures if key not in DESCRIBED
        )
    )

    def cell(said: str, key: str) -> str:
        if key not in found[said]:
            return ""
        deviation = spread.get(said.removesuffix(NEVER), {}).get(key)
        return _figure(found[said][key]) + (
            f" ± {_figure(deviation)}" if deviation is not None else ""
        )

    rows = [[said, *(cell(said, key) for key in keys)] for said in found]
    return Table(title, [first, *_heads(keys)], rows)


def _heads(keys: Sequence[str]) -> list[str]:
    """Short names; those that measures share get the part of the full name that tells them apart."""
    parts = {key: key.partition("[")[2].rstrip("]").split(",") for key in keys}
    heads = []
    for key in keys:
        alike = [set(parts[other]) for other in keys if _short(other) == _short(key)]
        own = [part for part in parts[key] if part not in set.intersection(*alike)]
        heads.append(" ".join([_short(key), *(own if len(alike) > 1 else [])]))
    return heads


def _short(key: str) -> str:
    """A measure's name in a table's head: `accuracy/joint[probe,n=9]` is joint, `cknna[shared,k=9,n=9]` is shared."""
    name, _, how = key.partition("[")
    return how.partition(",")[0] if name == "cknna" else name.removeprefix("accuracy/")


def _figure(value: float | int) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def terminal(results: Mapping[str, Any]) -> str:
    """The tables as aligned text."""
    return (
        "\n\n".join([headline(results), *("\n".join(_aligned(table)) for table in tables(results))])
        + "\n"
    )


def _aligned(table: Table) -> Iterable[str]:
    columns = list(zip(table.head, *table.rows, strict=True))
    widths = [max(map(len, cells)) for cells in columns]
    padded = [
        [
            cell.rjust(width) if _numeric(cells[1:]) else cell.ljust(width)
            for cell in (cells[0], "-" * width, *cells[1:])
        ]
        for cells, width in zip(columns, widths, strict=True)
    ]
    yield table.title
    yield from (("  " + "  ".join(line)).rstrip() for line in zip(*padded, strict=True))
    if table.note:
        yield f"  {table.note}"


def _numeric(cells: Iterable[str]) -> bool:
    return all(
        part.lstrip("+-").replace(".", "", 1).isdigit()
        for cell in cells
        for part in cell.split(" ± ")
        if cell
    )


def markdown(results: Mapping[str, Any]) -> str:
    """The tables and where they come from, as Markdown."""
    meta = results["meta"]
    parts = ["# Evaluation", "", f"{headline(results)}.", ""]
    for table in tables(results):
        rule = [
            "---:" if _numeric(cells[1:]) else "---"
            for cells in zip(table.head, *table.rows, strict=True)
        ]
        parts += [
            f"## {table.title}",
            "",
            *(f"| {' | '.join(row)} |" for row in (table.head, rule, *table.rows)),
            "",
        ]
        parts += [table.note, ""] if table.note else []
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
        f"- test: {meta['samples']} of the {meta['samples'] + meta['left_out']} samples of",
        f"  `{meta['data']['test']['manifest']}`: those with every modality and label, up to the limit",
        f"- training: {seen}",
        f"- model: {', '.join(meta['model']['modalities'])}; {meta['model']['parameters']:,} parameters{_identity(meta)}",
        f"- on: {meta['device']}, {meta['threads']} threads; {versions}",
        f"- seconds: {', '.join(f'{part} {spent:.1f}' for part, spent in meta['seconds'].items())}",
        "",
    ]
    return "\n".join(parts)


def _identity(meta: Mapping[str, Any]) -> str:
    """Which weights were measured; and, of a quick look, what was done otherwise than the run's recipe does it."""
    model, quick_look = meta["model"], meta.get("quick_look")
    weights = f"; step {model['step']}, weights {model['sha256']}" if "sha256" in model else ""
    return weights + (f"\n- a quick look: {json.dumps(quick_look)}" if quick_look else "")


def write(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes `metrics.json` and `metrics.md`, each beside and then renamed; a quick look has names of its own.

    Returns:
        What was written.
    """
    end = suffix(results["meta"].get("quick_look", {}))
    contents = {
        f"metrics{end}.json": json.dumps(results, indent=1) + "\n",
        f"metrics{end}.md": markdown(results),
    }
    for name, content in contents.items():
        with replacing(folder / name) as partial:
            partial.write_text(content, encoding="utf-8")
    return [folder / name for name in contents]


LONGEST = 100  # characters of what tells a quick look's files from others


def suffix(quick_look: Mapping[str, Any]) -> str:
    """What the names of a quick look's files end in, such as `-limit=20,steps=4`; nothing for the evaluation of a run.

    Args:
        quick_look: what was done otherwise than the run's own recipe does it, by setting.
    """
    end = ",".join(
        f"{name.rpartition('.')[2]}={_word(value)}" for name, value in quick_look.items()
    )
    if len(end) > LONGEST:
        end = f"{end[:LONGEST]}~{_hash(end)}"
    return f"-{end}" if end else ""


def _word(value: Any) -> str:
    """A setting's value as part of a file's name."""
    if isinstance(value, list):
        return "+".join(map(_word, value)) or "none"
    if isinstance(value, Mapping):  # a class and its arguments
        name = str(value.get("class_path", "")).rpartition(".")[2]
        return name + f"~{_hash(json.dumps(value, sort_keys=True))}" * bool(
            value.get("init_args") or not name
        )
    return re.sub(r"[^\w.+-]+", "_", "none" if value is None else str(value)).strip("._") or "none"


def _hash(words: str) -> str:
    return hashlib.sha256(words.encode()).hexdigest()[:6]
