"""Rows of tables: what judges and probes read, and how like real samples generations are."""

from collections.abc import Mapping
from typing import Any

# Measures of likeness that have one value for a direction, under the name of one judge.
JUDGED = ("private-variance[", "precision[judge,", "recall[judge,")

ByClass = Mapping[str, Mapping[str, float]]  # by factor and value
Measures = Mapping[str, Any]  # by full name

# Columns of a table, in this order.
JUDGES, REAL, LOWEST, OF, DIFFER, PROBES = (
    "judges",
    "real",
    "lowest class",
    "of",
    "differ",
    "probes",
)
BY = "judge"
DIFFERENCE = (
    "`real`: what the judge reads of real samples. `differ`: judges and probes differ by more than "
    "two standard errors of their paired difference."
)
DETAILS = (
    "accuracy/",
    "difference/",
)  # measures that the columns sum up, in `metrics.json` alone


def joint_accuracy(measures: Measures, by: str) -> float | None:
    """The share with all factors right, read by a `judge` or a `probe`; None if neither did."""
    return first(measures, f"accuracy/joint[{by},")


def joint_accuracies(entries: Mapping[str, Measures], by: str) -> dict[str, float]:
    """The same of all entries where it is known."""
    shares = {}
    for name, measures in entries.items():
        share = joint_accuracy(measures, by)
        if share is not None:
            shares[name] = share
    return shares


def lowest_class(table: ByClass) -> tuple[float, str]:
    """The lowest share among all classes of all factors, and the class, such as `cube`."""
    classes = []
    for shares in table.values():
        for value, share in shares.items():
            classes.append((share, value))
    return min(classes)


def differs(measures: Measures) -> bool:
    """Whether judge and probe differ on a direction by more than their error."""
    sizes = {}
    for key, value in measures.items():
        if key.startswith("difference/"):
            sizes[key.partition("[")[0]] = value
    return abs(sizes.get("difference/joint", 0)) > sizes.get("difference/error", 0)


def led(
    measures: Measures,
    results: Mapping[str, Any],
    name: str = "",
    target: str = "",
) -> Measures:
    """A row of a table: what judges read in front, then likeness beside its floor, then the rest.

    Args:
        measures: Measures of a direction or a round trip, by full name, or their spread.
        results: What `metrics.json` holds.
        name: Name of the direction or the round trip; none for a spread.
        target: Modality that was generated.
    """
    measures = _likeness(measures, results.get("floors", {}).get(target, {}))
    if not results.get("judges"):
        return measures

    row: dict[str, Any] = {JUDGES: joint_accuracy(measures, "judge")}
    row[REAL] = joint_accuracy(results["judges"].get(target, {}), "judge")
    if name in results["classes"]:
        share, value = lowest_class(results["classes"][name])
        row[LOWEST] = share
        row[OF] = value if share < 1 else ""
    row[DIFFER] = "*" if differs(measures) else ""
    row[PROBES] = joint_accuracy(measures, "probe")

    row = {key: value for key, value in row.items() if value is not None}
    for key, value in measures.items():
        if not key.startswith(DETAILS):
            row[key] = value
    return row


def frechet_of(measures: Measures) -> float | None:
    """The Frechet distance in latents; None if it was not measured."""
    return first(measures, "frechet[codec,")


def private_variance_of(measures: Measures) -> float | None:
    """The private variance, of real samples' one; None if it was not measured."""
    return first(measures, "private-variance[")


def first(measures: Measures, start: str) -> float | None:
    """The measure whose full name begins so; None if there is none."""
    for key, value in measures.items():
        if key.startswith(start):
            return value
    return None


def _likeness(measures: Measures, floor: Measures) -> Measures:
    """Measures in which those of likeness have short names, with the floor of the first of them.

    Judges have names of their own for each modality, which a table cannot have columns for.
    """
    row: dict[str, Any] = {}
    for key, value in measures.items():
        if key.startswith("frechet[codec,"):
            row["frechet"] = value
            if floor:
                row["floor"] = frechet_of(floor)
        elif key.startswith(JUDGED):
            row[key.partition("[")[0]] = value
        elif not key.startswith("frechet[judge,"):
            row[key] = value
    return row


def ceilings(results: Mapping[str, Any]) -> dict[str, Measures]:
    """Per modality, which judge reads it, and what it reads from real samples."""
    rows: dict[str, Measures] = {}
    for name, measures in results["judges"].items():
        row = {}
        for key, share in measures.items():
            if not key.startswith("accuracy/"):
                continue
            what, _, how = key.removeprefix("accuracy/").partition("[judge,")
            row[BY] = how.rpartition(",")[0].replace(",", " ")
            row[what] = share
        rows[name] = row
    return rows
