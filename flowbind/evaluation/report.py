"""Results of an evaluation, for people: tables for a terminal and Markdown, and a run's files.

Every measure's full name, with implementation and sample count, is its key in `metrics.json`; a
table's head has the short name.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from flowbind.evaluation.published import beside
from flowbind.evaluation.verdicts import (
    DIFFERENCE,
    JUDGES,
    ByClass,
    ceilings,
    frechet_of,
    joint_accuracies,
    led,
    lowest_class,
    private_variance_of,
)
from flowbind.files import replacing

CURVES = "curves.png"  # of the run, which training drew
DESCRIBED = ("sources", "target", "paired")  # of a direction, besides its measures

Results = Mapping[str, Any]  # what `metrics.json` holds
Measures = Mapping[str, Any]  # by full name; of a direction also what it is
Entries = Mapping[str, Measures]  # by the name of a direction, a modality or two


class Table(NamedTuple):
    """A title, a head, rows of as many cells each, and a note below."""

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""


def summarise(
    directions: Entries,
    classes: Mapping[str, ByClass] = {},
    floors: Mapping[str, Measures] = {},
) -> dict[str, dict[str, Any]]:
    """Meaning and likeness of each kind of direction, and what a second source adds.

    Args:
        directions: Per direction, its sources, its target and its measures.
        classes: Per direction, factor and value, what judges read rightly of that class.
        floors: Per target, the measures of real samples in the place of generations.

    Returns:
        Per kind of direction, what `metrics.json` says of it: the lowest joint accuracy by probes
        and, under `judges`, by judges, if there are labels; under `likeness`, means.
    """
    summary = _lowest(directions, joint_accuracies(directions, "probe"))
    by_judges = _lowest(directions, joint_accuracies(directions, "judge"))
    for kind_name, entry in by_judges.items():
        lowest = {}
        for name, table in classes.items():
            if name in directions and kind(directions[name]) == kind_name:
                lowest[name] = lowest_class(table)

        worst = min(lowest, key=lambda name: lowest[name][0])
        share, of = lowest[worst]
        entry["lowest_class_accuracy"] = share
        entry["class"] = of
        entry["class_in"] = worst
        summary.setdefault(kind_name, {})["judges"] = entry
    # Results of earlier versions have no floors, and a distance alone says little.
    by_likeness = _likeness(directions, floors) if floors else {}
    for kind_name, entry in by_likeness.items():
        summary.setdefault(kind_name, {})["likeness"] = entry
    return summary


def _summary_of(results: Results) -> dict[str, dict[str, Any]]:
    """The summary of results; those of earlier versions have neither classes nor floors."""
    return summarise(
        results["directions"],
        results.get("classes", {}),
        results.get("floors", {}),
    )


def _likeness(directions: Entries, floors: Entries) -> dict[str, dict[str, float]]:
    """Per kind of direction, means of the measures of likeness, and of their floors."""
    values: dict[str, dict[str, list[float]]] = {}
    for measures in directions.values():
        floor = floors.get(measures["target"], {})
        likeness = {
            "frechet": frechet_of(measures),
            "frechet_floor": frechet_of(floor),
            "private_variance": private_variance_of(measures),
        }
        lists = values.setdefault(kind(measures), {})
        for name, value in likeness.items():
            if value is not None:
                lists.setdefault(name, []).append(value)

    summary: dict[str, dict[str, float]] = {}
    for kind_name, lists in values.items():
        if lists:
            means = {name: mean(numbers) for name, numbers in lists.items()}
            count = max(len(numbers) for numbers in lists.values())
            summary[kind_name] = {"directions": count, **means}
    return summary


def _lowest(
    directions: Entries,
    joint: Mapping[str, float],
) -> dict[str, dict[str, Any]]:
    """The lowest of some joint accuracies of each kind of direction, and what a source adds."""
    kinds: dict[str, list[str]] = {}
    for name in joint:
        kinds.setdefault(kind(directions[name]), []).append(name)

    summary: dict[str, dict[str, Any]] = {}
    for kind_name, names in kinds.items():
        lowest = min(names, key=joint.__getitem__)
        summary[kind_name] = {
            "directions": len(names),
            "lowest_joint_accuracy": joint[lowest],
            "in": lowest,
        }

    gains = {}
    for name in kinds.get("two_sources", []):
        target = directions[name]["target"]
        sources = directions[name]["sources"]
        singles = [f"{source}->{target}" for source in sources]
        if all(single in joint for single in singles):
            gains[name] = joint[name] - max(joint[single] for single in singles)

    if gains:
        worst = min(gains, key=gains.__getitem__)
        summary["two_sources"] |= {
            "least_gain_over_the_better_source": gains[worst],
            "least_gain_in": worst,
            "below_the_better_source": sum(gain < 0 for gain in gains.values()),
        }
    return summary


def averaged(repeats: Sequence[Results]) -> dict[str, Any]:
    """The results of repetitions as one.

    Args:
        repeats: Results of each repetition, as `metrics.json` holds them.

    Returns:
        The first's results, in which the measures of directions are means over all, and `spread`
        holds their standard deviations.
    """
    results = dict(repeats[0])
    if len(repeats) == 1:
        return results

    results["directions"] = {}
    results["spread"] = {}
    for name, first in repeats[0]["directions"].items():
        means = dict(first)
        deviations = {}
        for key in first:
            if key not in DESCRIBED:
                values = [repeat["directions"][name][key] for repeat in repeats]
                means[key] = mean(values)
                deviations[key] = stdev(values)
        results["directions"][name] = means
        results["spread"][name] = deviations

    if repeats[0].get("classes"):
        results["classes"] = _mean_of([repeat["classes"] for repeat in repeats])
    results["summary"] = _summary_of(results)
    results["meta"] = repeats[0]["meta"] | {"repeats": len(repeats)}
    return results


def _mean_of(tables: Sequence[Any]) -> Any:
    """The means of numbers at the same places in nested mappings."""
    if isinstance(tables[0], Mapping):
        return {key: _mean_of([table[key] for table in tables]) for key in tables[0]}
    return mean(tables)


def kind(direction: Measures) -> str:
    """What a direction counts as: from noise, paired, never paired, itself, or two sources."""
    if not direction["sources"]:
        return "from_noise"
    if len(direction["sources"]) > 1:
        return "two_sources"
    if direction["sources"] == [direction["target"]]:
        return "itself"
    return "paired" if direction["paired"] else "never_paired"


NEVER = " (never paired)"  # after the name of a direction with two sources
TITLES = {
    "paired": "One source, seen together in training",
    "never_paired": "One source, never seen together in training",
    "itself": "Each from itself",
    "from_noise": "From noise alone",
    "two_sources": "Two sources",
}


def headline(results: Results) -> str:
    """On what and how it was measured, in a line."""
    meta = results["meta"]
    parts = [f"{meta['samples']} test samples, seed {meta['seed']}"]
    for name, value in meta["sampling"].items():
        if value is not None:
            parts.append(f"{name} {value}")

    if "space" in meta:
        parts.append(f"in the space of {meta['space']['store']}")
    if "repeats" in meta:
        parts.append(f"mean ± spread of {meta['repeats']} repetitions")
    return ", ".join(parts)


def tables(results: Results) -> list[Table]:
    """The tables of a run's results."""
    parts = []
    summary = _summary_of(results)
    if summary:
        parts.append(_summary(summary))

    # A table for each kind of direction, in the order of the titles.
    grouped: dict[str, dict[str, Any]] = {name: {} for name in TITLES}
    for name, measures in results["directions"].items():
        kind_name = kind(measures)
        title = name
        if kind_name == "two_sources" and not measures["paired"]:
            title += NEVER
        row = led(measures, results, name, measures["target"])
        grouped[kind_name][title] = row

    spread = {}
    for name, deviations in results["spread"].items():
        spread[name] = led(deviations, results)
    for name, members in grouped.items():
        if members:
            table = _measures(TITLES[name], "direction", members, spread)
            is_judged = any(JUDGES in row for row in members.values())
            parts.append(table._replace(note=DIFFERENCE if is_judged else ""))

    if results.get("floors"):
        title = "Floors: real training samples with the same labels, in the place of generations"
        # No judge's verdict: labels are equal by choice.
        floors = {name: led(row, {}) for name, row in results["floors"].items()}
        parts.append(_measures(title, "modality", floors))

    if results.get("judges"):
        title = "Judges: what they read from real test samples"
        parts.append(_measures(title, "modality", ceilings(results)))

    if results["probes"]:
        title = "Ceilings: what the probes read from real test latents"
        parts.append(_measures(title, "modality", results["probes"]))

    title = "Codecs alone: real samples, encoded and decoded"
    parts.append(_measures(title, "modality", _led_each("codecs", results)))

    if results["alignment"]:
        title = "Alignment of two modalities' latents (CKNNA)"
        parts.append(_measures(title, "modalities", results["alignment"]))

    # Results of earlier versions have no measures of the method's own.
    measures = results.get("measures", {})
    if measures:
        rows = [[name, _number(value)] for name, value in measures.items()]
        parts.append(Table("On real latents", ["measure", "mean"], rows))

    for table in results["published"]:
        parts.append(_published(table, results["directions"]))
    return parts


def _led_each(section: str, results: Results) -> dict[str, Measures]:
    """A row for each modality in a section of the results."""
    rows = {}
    for name, measures in results[section].items():
        rows[name] = led(measures, results, name, name)
    return rows


def _published(table: Mapping[str, Any], directions: Entries) -> Table:
    head = [""]
    for column in table["columns"]:
        head.append(f"{column['direction']} {column['measure']}")

    rows = []
    for name, *values in beside(table, directions):
        cells = ["" if value is None else f"{value:.2f}" for value in values]
        rows.append([name, *cells])
    return Table(table["title"], head, rows, table.get("note", ""))


def _summary(summary: Mapping[str, Mapping[str, Any]]) -> Table:
    judged = any("judges" in entry for entry in summary.values())
    probed = any("in" in entry for entry in summary.values())
    by_probes = "lowest by probes" if judged else "lowest joint accuracy"
    head = ["directions", "number"]
    head += ["lowest by judges", "in", "lowest class", "of", "in"] * judged
    head += [by_probes, "in"] * probed
    likeness = {
        "frechet": "frechet",
        "frechet_floor": "floor",
        "private_variance": "private",
    }
    shown = [key for key in likeness if _has(summary, key)]
    head += [likeness[key] for key in shown]

    rows = []
    for name, entry in summary.items():
        by_judges = entry.get("judges", {})
        likeness_of = entry.get("likeness", {})
        count = (entry | likeness_of | by_judges)["directions"]
        keys = ["lowest_joint_accuracy", "in"]
        row = [name.replace("_", " "), str(count)]
        if judged:
            of_class = ["lowest_class_accuracy", "class", "class_in"]
            row += [_cell(by_judges.get(key), None) for key in [*keys, *of_class]]
        if probed:
            row += [_cell(entry.get(key), None) for key in keys]
        row += [_cell(likeness_of.get(key), None) for key in shown]
        rows.append(row)
    return Table("Summary", head, rows, _gain(summary.get("two_sources", {})))


def _has(summary: Mapping[str, Mapping[str, Any]], measure: str) -> bool:
    """Whether some kind of direction has a measure of likeness."""
    return any(measure in entry.get("likeness", {}) for entry in summary.values())


def _gain(entry: Mapping[str, Any]) -> str:
    """What a second source adds, by judges where they have read it, in a sentence."""
    entry = entry.get("judges", entry)
    if "least_gain_in" not in entry:
        return ""
    return (
        f"Two sources are below the better of them in {entry['below_the_better_source']} of "
        f"{entry['directions']} directions; the least gain is "
        f"{entry['least_gain_over_the_better_source']:+.3f} ({entry['least_gain_in']})."
    )


def _measures(
    title: str,
    first: str,
    entries: Entries,
    spread: Mapping[str, Measures] = {},
) -> Table:
    """A table with a row for each entry and a column for each measure that some entry has.

    Args:
        title: Title of the table.
        first: Head of the first column, which names the entries.
        entries: Per entry, its measures by full name.
        spread: Per entry, the standard deviations of measures that are means.
    """
    keys: dict[str, None] = {}  # in order
    for measures in entries.values():
        keys |= dict.fromkeys(measures)
    columns = [key for key in keys if key not in DESCRIBED]

    rows = []
    for name, measures in entries.items():
        deviations = spread.get(name.removesuffix(NEVER), {})
        cells = [_cell(measures.get(key), deviations.get(key)) for key in columns]
        rows.append([name, *cells])
    return Table(title, [first, *_heads(columns)], rows)


def _cell(value: float | str | None, deviation: float | None) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if deviation is None:
        return _number(value)
    return f"{_number(value)} ± {_number(deviation)}"


def _heads(keys: Sequence[str]) -> list[str]:
    """Short names; those that measures share get the part of the name that tells them apart."""
    parts = {key: key.partition("[")[2].rstrip("]").split(",") for key in keys}
    heads = []
    for key in keys:
        words = [_short(key)]
        alike = [set(parts[other]) for other in keys if _short(other) == _short(key)]
        if len(alike) > 1:
            shared = set.intersection(*alike)
            words += [part for part in parts[key] if part not in shared]
        heads.append(" ".join(words))
    return heads


def _short(key: str) -> str:
    """A measure's name in a table's head.

    `accuracy/joint[probe,n=9]` is joint, `cknna[shared,k=9,n=9]` is shared.
    """
    name, _, how = key.partition("[")
    return how.partition(",")[0] if name == "cknna" else name.removeprefix("accuracy/")


def _number(value: float | int) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def terminal(results: Results) -> str:
    """The tables as aligned text."""
    paragraphs = [headline(results)]
    for table in tables(results):
        paragraphs.append("\n".join(_aligned(table)))
    return "\n\n".join(paragraphs) + "\n"


def _aligned(table: Table) -> Iterable[str]:
    """Lines of a table with columns of one width each, numbers to the right."""
    padded = []
    for head, *cells in zip(table.head, *table.rows, strict=True):
        width = max(map(len, [head, *cells]))
        pad = str.rjust if is_numeric(cells) else str.ljust
        padded.append([pad(cell, width) for cell in (head, "-" * width, *cells)])

    yield table.title
    for line in zip(*padded, strict=True):
        yield ("  " + "  ".join(line)).rstrip()
    if table.note:
        yield f"  {table.note}"


def is_numeric(cells: Iterable[str]) -> bool:
    """Whether all cells are numbers, with or without their spread, or empty."""
    for cell in filter(None, cells):
        for part in cell.split(" ± "):
            if not part.lstrip("+-").replace(".", "", 1).isdigit():
                return False
    return True


def markdown(results: Results) -> str:
    """The tables and where they come from, as Markdown."""
    lines = ["# Evaluation", "", f"{headline(results)}.", ""]
    for table in tables(results):
        lines += [f"## {table.title}", ""]
        lines += _markdown_table(table)
        lines.append("")
        if table.note:
            lines += [table.note, ""]
    return "\n".join([*lines, *provenance(results["meta"])])


def _markdown_table(table: Table) -> Iterable[str]:
    rule = []
    for _, *cells in zip(table.head, *table.rows, strict=True):
        rule.append("---:" if is_numeric(cells) else "---")
    for row in (table.head, rule, *table.rows):
        yield f"| {' | '.join(row)} |"


HOW = """\
## How it was measured

Generated latents are decoded. Where there are judges, they read the factors of what comes out, as a user gets it; they
were trained on real samples alone, and know no codec. Then it is encoded again, and factors are read by probes fitted on
real training latents; `joint` is the share of samples with every factor right. The Frechet distance and
recall@1 are against the same samples' real latents, in the target codec's standardised space. Its `floor` is what real
samples reach in the place of generations: training samples with the same labels, as many. `private` is the variance
within combinations of labels, of that of real samples: 1 is theirs, and means of samples have less. `precision` and
`recall` are in the judge's features: the share of generations among real samples, and of real samples among
generations. `cycle` is the root mean square error of source to target and back, in standard deviations of the source's
latents. The full names of the measures, with implementation and sample count, are in `metrics.json`.
"""


def provenance(meta: Mapping[str, Any]) -> Iterable[str]:
    """How and on what it was measured, in lines of Markdown."""
    yield HOW

    test = meta["data"]["test"]
    yield f"- test: {meta['samples']} of the {meta['samples'] + meta['left_out']} samples of"
    yield f"  `{test['manifest']}`: those with every modality and label, up to the limit"

    trained_on = [f"{name} {rows:,}" for name, rows in meta["trained_on"].items()]
    yield f"- training: {', '.join(trained_on)}"

    model = meta["model"]
    parameters = f"{model['parameters']:,} parameters"
    yield f"- model: {', '.join(model['modalities'])}; {parameters}{_identity(meta)}"

    for judge in meta.get("judges", ()):
        weights = f", weights {judge['weights']}" if "weights" in judge else ""
        yield f"- judge of {judge['modality']}: {judge['label']}{weights}"

    versions = [f"{name} {number}" for name, number in meta["versions"].items()]
    yield f"- on: {meta['device']}, {meta['threads']} threads; {', '.join(versions)}"

    seconds = [f"{part} {spent:.1f}" for part, spent in meta["seconds"].items()]
    yield f"- seconds: {', '.join(seconds)}"
    yield ""


def _identity(meta: Mapping[str, Any]) -> str:
    """Which weights were measured; of a quick look also the settings that differ from the run's."""
    model = meta["model"]
    identity = ""
    if "sha256" in model:
        identity += f"; step {model['step']}, weights {model['sha256']}"

    quick_look = meta.get("quick_look")
    if quick_look:
        identity += f"\n- a quick look: {json.dumps(quick_look)}"
    return identity


def write(results: Results, folder: Path) -> list[Path]:
    """Writes `metrics.json` and `metrics.md`, each beside and then renamed.

    Where the run's curves are a picture, `metrics.md` shows it. A quick look has names of its own.

    Args:
        results: Results of an evaluation, as `metrics.json` holds them.
        folder: Folder of the run.

    Returns:
        Paths of both files.
    """
    end = suffix(results["meta"].get("quick_look", {}))
    tables_and_provenance = markdown(results)
    if (folder / CURVES).is_file():
        tables_and_provenance += f"\n## Curves\n\n![Losses by step]({CURVES})\n"
    contents = {
        f"metrics{end}.json": json.dumps(results, indent=1) + "\n",
        f"metrics{end}.md": tables_and_provenance,
    }

    for name, content in contents.items():
        with replacing(folder / name) as partial:
            partial.write_text(content, encoding="utf-8")
    return [folder / name for name in contents]


LONGEST = 100  # characters of what tells a quick look's files from others


def suffix(quick_look: Mapping[str, Any]) -> str:
    """What the names of a quick look's files end in, such as `-limit=20,steps=4`.

    Args:
        quick_look: Settings that differ from those of the run's own recipe; empty for the
            evaluation of a run, whose names end in nothing.
    """
    settings = []
    for name, value in quick_look.items():
        settings.append(f"{name.rpartition('.')[2]}={_word(value)}")

    end = ",".join(settings)
    if len(end) > LONGEST:
        end = f"{end[:LONGEST]}~{_hash(end)}"
    return f"-{end}" if end else ""


def _word(value: Any) -> str:
    """A setting's value as part of a file's name."""
    if isinstance(value, list):
        return "+".join(map(_word, value)) or "none"
    if isinstance(value, Mapping):  # a class and its arguments
        name = str(value.get("class_path", "")).rpartition(".")[2]
        if name and not value.get("init_args"):
            return name
        return f"{name}~{_hash(json.dumps(value, sort_keys=True))}"

    word = "none" if value is None else str(value)
    return re.sub(r"[^\w.+-]+", "_", word).strip("._") or "none"


def _hash(words: str) -> str:
    return hashlib.sha256(words.encode()).hexdigest()[:6]
