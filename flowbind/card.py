"""A model's card: what it makes, was trained on and reaches, and whose weights came along."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flowbind import registry
from flowbind.evaluation.report import markdown
from flowbind.files import read_json
from flowbind.method import Direction
from flowbind.modality import Modality
from flowbind.progress import say
from flowbind.release import WEIGHTS, description_of, method_of

CARD = "README.md"
PICTURE = "gallery.png"
METRICS = "metrics.json"
COUNT = 4  # samples of an example that begins from nothing
LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")
LARGEST = 2**26  # bytes of the results of a test

TEMPLATE = """\
---
{front}
---

# {title}

A model made with flowbind: {parameters}, by the method `{method}`{paper}{step}.
{picture}
It generates

{directions}

## Use it

With flowbind installed, and its extra `hub`,

```sh
flowbind generate {reference} {options} --out made
```

or, in Python,

```python
import flowbind

model = flowbind.load("{reference}")
out = model.generate({sources}, {keywords})
out.save("made")
```
{yours}
`flowbind generate {reference} --help` tells what else may be chosen, `flowbind demo {reference}` opens a page to try it on.
All of it is safetensors and JSON. Loading it runs none of its files, and compares each with its checksum.

## Trained on

{trained_on}

## Whose weights came along

{licence}

| part | what | licence |
|---|---|---|
| the flows | `model.safetensors` | {own} |
{parts}

{results}"""

SHIPPED = "Apache-2.0, flowbind's, where they are those that it ships"
UNKNOWN = "not known to flowbind; ask its authors"
UNMEASURED = """\
## Evaluation

Not measured: `flowbind test` writes `metrics.json` into the run folder, from where a card takes it.
"""


class Card(NamedTuple):
    """A model's card.

    Attributes:
        content: Its markdown.
        picture: Picture that it shows; None for none.
    """

    content: str
    picture: Path | None


def write_card(
    folder: Path,
    reference: str,
    run: Path | None = None,
    licence: str | None = None,
) -> Card:
    """The card of a released model.

    Args:
        folder: Folder of the model.
        reference: What `flowbind.load` is given to get it, such as `hf:OWNER/NAME`.
        run: Run folder, with the results of `flowbind test` and their gallery; the folder around
            the model's if None.
        licence: Licence of the flows, as the hub calls it, such as `apache-2.0`.

    Raises:
        OSError: there is no such model.
        ValueError: it is no released model, its results are no JSON, or the licence is no name of
            one.
    """
    if licence is not None and not LICENCE.fullmatch(licence):
        raise ValueError(
            f"'{licence}' is no licence as the hub calls it; such are apache-2.0, mit, cc-by-4.0, "
            "other"
        )
    run = folder.absolute().parent if run is None else run

    description = description_of(folder)
    results = _results(run / METRICS, description)
    picture = run / PICTURE if results and (run / PICTURE).is_file() else None

    method = method_of(folder)
    directions = _from_others(method.directions())
    example = _plainest(directions, method.modalities)

    front = {"library_name": "flowbind"}
    if len(directions) > 1:
        front["pipeline_tag"] = "any-to-any"
    if licence:
        front["license"] = licence

    step = (description.get("weights") or {}).get("step")

    shown = f"\n![Rows are sources, columns what was generated from them.]({PICTURE})\n"
    content = TEMPLATE.format(
        front="\n".join(f"{key}: {value}" for key, value in front.items()),
        title=reference.rpartition("/")[2].partition("@")[0],
        parameters=_parameters(folder),
        method=description["method"]["name"],
        paper=f" ({method.paper})" if method.paper else "",
        step=f", after step {step} of its training" if step else "",
        picture=shown if picture else "",
        directions="\n".join(_listed(directions)),
        reference=reference,
        **_example(example, method.modalities),
        trained_on=_trained_on(results),
        licence=_licence(licence),
        own=licence or "none chosen",
        parts="\n".join(_parts(description["method"]["args"]["modalities"])),
        results=_evaluation(results),
    )
    return Card(content, picture)


def _results(path: Path, description: Mapping[str, Any]) -> dict[str, Any] | None:
    """The results of testing these very weights; None where there are none."""
    if not path.is_file():
        return None

    results = read_json(path, LARGEST)
    try:
        tested = results["meta"]["model"]["sha256"]
        weights = description["weights"]["sha256"]
    except (KeyError, TypeError):  # of earlier versions, or something else
        tested, weights = "unknown", None
    if tested != weights:
        say(f"{path}: not known to be of the model's weights, so left out of its card")
        return None
    return results


def _from_others(directions: Sequence[Direction]) -> Sequence[Direction]:
    """Those directions that do not lead back to a source, if there are any."""
    others = []
    for direction in directions:
        if not set(direction.sources) & set(direction.targets):
            others.append(direction)
    return others or directions


def _plainest(
    directions: Sequence[Direction],
    modalities: Mapping[str, Modality],
) -> Direction:
    """The direction that is easiest to try: of few sources, and of literals rather than files."""

    def effort(direction: Direction) -> tuple[bool, int]:
        files = [name for name in direction.sources if not modalities[name].literal]
        return not direction.sources, len(direction.sources) + len(files)

    return min(directions, key=effort)


def _example(
    direction: Direction,
    modalities: Mapping[str, Modality],
) -> dict[str, str]:
    """How one generates in a direction, for a shell and in Python, by the template's names."""
    options, sources, files = [], [], []
    for name in direction.sources:
        value = "..."
        if not modalities[name].literal:
            value = f"{name}{modalities[name].suffixes[0]}"
            files.append(f"`{value}`")
        options.append(f'--from {name}="{value}"')
        sources.append(f'"{name}": "{value}"')

    targets = ", ".join(f'"{name}"' for name in direction.targets)
    keywords = f"to=[{targets}]"
    if not direction.sources:
        options.append(f"--count {COUNT}")
        keywords += f", count={COUNT}"
    options += [f"--to {name}" for name in direction.targets]
    yours = "`...` is yours to fill in." if direction.sources else ""
    if files:
        yours = f"{' and '.join(files)}: a file of yours."
    return {
        "options": " ".join(options),
        "sources": f"{{{', '.join(sources)}}}",
        "keywords": keywords,
        "yours": f"\n{yours}\n" if yours else "",
    }


def _listed(directions: Sequence[Direction]) -> Sequence[str]:
    """A line for all directions of the same sources."""
    targets: dict[str, list[str]] = {}
    for direction in directions:
        sources = " and ".join(direction.sources)
        together = " with ".join(direction.targets)
        targets.setdefault(sources, []).append(together)

    lines = []
    for sources, names in targets.items():
        lines.append(f"- {', '.join(names)}{f' from {sources}' if sources else ''}")
    return lines


def _parameters(folder: Path) -> str:
    """How many numbers a model's networks have."""
    from safetensors import safe_open

    count = 0
    with safe_open(folder / WEIGHTS, framework="np") as file:
        for name in file.keys():  # noqa: SIM118 (no mapping)
            size = 1
            for length in file.get_slice(name).get_shape():
                size *= length
            count += size
    return f"{count:,} parameters and statistics"


def _trained_on(results: Mapping[str, Any] | None) -> str:
    """The training samples by kind."""
    meta = (results or {}).get("meta", {})
    kinds = meta.get("trained_on")
    if not kinds:
        return "Not recorded: the card was written without the results of a test."

    lines = [f"- {kind}: {count:,} samples" for kind, count in kinds.items()]
    train = meta.get("data", {}).get("train", {})
    if "sha256" in train:
        lines.append(f"\nManifest `{train['manifest']}`, SHA-256 `{train['sha256']}`.")
    return "\n".join(lines)


def _licence(licence: str | None) -> str:
    if licence:
        return f"The flows are under {licence}. What came along keeps its own licence."
    return (
        "No licence was chosen for the flows, so nothing but looking is allowed. What came along "
        "keeps its own licence."
    )


def _parts(modalities: Mapping[str, Any]) -> Sequence[str]:
    """A line of the table for every file or model that a codec works with."""
    lines = []
    for name, modality in modalities.items():
        codec = modality["args"].get("codec")
        if codec is None:
            continue
        cls = registry.load("codecs", codec["name"])

        licences = dict(cls.licences)
        if hasattr(cls, "shipped"):
            licences["weights"] = SHIPPED

        parts = {**codec["args"], **codec.get("files", {})}
        for argument in dict.fromkeys([*codec.get("files", {}), *licences]):
            value = parts.get(argument)
            if value is not None:
                licence = licences.get(argument, UNKNOWN)
                came = "" if argument in codec.get("files", {}) else ", by name"
                lines.append(f"| {name}, {argument} | `{value}`{came} | {licence} |")
    return lines


def _evaluation(results: Mapping[str, Any] | None) -> str:
    """The tables of a test, with what they were measured by, one heading deeper."""
    if results is None:
        return UNMEASURED

    lines = []
    for line in markdown(results).splitlines():
        lines.append(f"#{line}" if line.startswith("#") else line)
    return "\n".join(lines) + "\n"
