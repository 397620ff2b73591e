"""The report of an evaluation as one page: tables, charts, and the gallery, whose sounds play and clouds turn.

It is one file that needs no other, and no network, which its own policy forbids.
"""

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from mimetypes import guess_type
from pathlib import Path

from flowbind.evaluation.gallery import Row
from flowbind.evaluation.report import (
    Results,
    Table,
    headline,
    is_numeric,
    provenance,
    tables,
)
from flowbind.evaluation.verdicts import joint_accuracy
from flowbind.exhibit import BYTES, as_url, script, to_figure
from flowbind.files import replacing

LONGEST = 320  # pixels of a picture's longer side
POLICY = (
    "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'"
)
CODE = re.compile(r"`([^`]+)`")
# From wrong to right, in degrees of hue.
WORST, BEST = 12, 140


def write(
    results: Results,
    rows: Sequence[Row],
    charts: Mapping[str, Path],
    path: Path,
    title: str,
) -> None:
    """Writes the page, beside and then renamed.

    Args:
        results: What `metrics.json` holds.
        rows: Rows of the gallery; none for no gallery.
        charts: Pictures by title; those that are not there are left out.
        path: File of the page.
        title: What was evaluated, such as the run's folder.
    """
    content = "\n".join(_page(results, rows, charts, title))
    with replacing(path) as partial:
        partial.write_text(content + "\n", encoding="utf-8")


def _page(
    results: Results,
    rows: Sequence[Row],
    charts: Mapping[str, Path],
    title: str,
) -> Iterator[str]:
    """The page, part by part."""
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    sections = {
        "At a glance": list(_matrix(results)),
        "Gallery": [_row(row) for row in rows],
        "Charts": list(_charts(charts)),
        "Tables": [_table(table) for table in tables(results)],
        "How it was measured": list(_how(results)),
    }
    sections = {name: parts for name, parts in sections.items() if parts}

    yield "<!doctype html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    yield '<meta name="viewport" content="width=device-width">'
    yield f"<title>{_plain(title)}</title>\n<style>\n{style}</style>"
    yield script()
    yield f"</head><body>\n<h1>{_plain(title)}</h1>"
    yield f'<div class="faint">{_plain(headline(results))}</div>'
    links = [f'<a href="#{_anchor(name)}">{name}</a>' for name in sections]
    yield f"<nav>{''.join(links)}</nav>"
    for name, parts in sections.items():
        yield f'<h2 id="{_anchor(name)}">{name}</h2>'
        if name == "Charts":
            yield f'<div class="charts">{"".join(parts)}</div>'
        else:
            yield from parts
    yield "</body></html>"


def _plain(words: str) -> str:
    return html.escape(words)


def _prose(words: str) -> str:
    """Words of which those between backticks are code."""
    return CODE.sub(r"<code>\1</code>", _plain(words))


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _matrix(results: Results) -> Iterator[str]:
    """The share of samples with every factor right, a row for each source, a column for each target."""
    shares: dict[tuple[str, str], tuple[float, bool]] = {}
    for measures in results["directions"].values():
        share = joint_accuracy(measures, "judge")
        if share is None:
            share = joint_accuracy(measures, "probe")
        if share is not None:
            key = ("+".join(measures["sources"]), measures["target"])
            shares[key] = (share, measures["paired"])
    if not shares:
        return

    targets = list(dict.fromkeys(target for _, target in shares))
    head = "".join(f"<th>to {_plain(name)}</th>" for name in targets)
    yield '<div class="wide"><table class="matrix">'
    yield f"<tr><th></th>{head}</tr>"
    for source in dict.fromkeys(source for source, _ in shares):
        cells = []
        for target in targets:
            cells.append(_share(*shares.get((source, target), (None, True))))
        yield f"<tr><th>{_plain(source) or 'noise'}</th>{''.join(cells)}</tr>"
    yield "</table></div>"
    yield (
        '<p class="note">Share of samples with every factor right, by judges where there are some, '
        "else by probes. Framed: never seen together in training.</p>"
    )


def _share(share: float | None, paired: bool) -> str:
    """A cell whose colour goes from wrong to right."""
    if share is None:
        return "<td></td>"
    hue = WORST + (BEST - WORST) * share**3  # what is nearly right differs most
    unseen = "" if paired else ' class="unseen"'
    return f'<td{unseen} style="background:hsl({hue:.0f} 65% 78%)">{share:.3f}</td>'


def _row(row: Row) -> str:
    """A source sample, and what several seeds made of it in each modality."""
    names = [name for name in row.generated if row.generated[name]]
    cells = [_cell(row, None, "source", [row.real])]
    for name in names:
        cells.append(_cell(row, name, f"to {name}", row.generated[name]))

    words = " · ".join(filter(None, [row.source, row.labels, row.id]))
    head = f'<div class="head">{_plain(words)}</div>'
    columns = f'style="--targets: {len(names)}"'
    return f'<div class="row" {columns}>{head}{"".join(cells)}</div>'


def _cell(row: Row, name: str | None, title: str, previews: Sequence) -> str:
    """What stands in one place of the gallery: a figure for each seed."""
    exhibits = row.exhibits.get(name, previews)
    figures = []
    for exhibit, preview in zip(exhibits, previews, strict=True):
        figure = to_figure(exhibit, preview, LONGEST)
        is_words = isinstance(exhibit, str)
        figures.append(figure if is_words else f"<div>{figure}</div>")
    unseen = " unseen" if name in row.unpaired else ""
    return (
        f'<div class="cell{unseen}"><div class="title">{_plain(title)}</div>'
        f'<div class="draws">{"".join(figures)}</div></div>'
    )


def _charts(charts: Mapping[str, Path]) -> Iterator[str]:
    for title, path in charts.items():
        if path.is_file():
            media_type, _ = guess_type(path.name)
            source = as_url(path.read_bytes(), media_type or BYTES)
            caption = f"<figcaption>{_plain(title)}</figcaption>"
            yield f'<figure><img src="{source}" alt="{_plain(title)}">{caption}</figure>'


def _table(table: Table) -> str:
    """A table with numbers to the right."""
    kinds = []
    for _, *cells in zip(table.head, *table.rows, strict=True):
        kinds.append(' class="number"' if is_numeric(cells) else "")

    lines = [f"<h3>{_plain(table.title)}</h3>", '<div class="wide"><table>']
    for tag, row in [("th", table.head), *(("td", row) for row in table.rows)]:
        cells = []
        for kind, cell in zip(kinds, row, strict=True):
            cells.append(f"<{tag}{kind}>{_plain(cell)}</{tag}>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    lines.append("</table></div>")
    if table.note:
        lines.append(f'<p class="note">{_prose(table.note)}</p>')
    return "\n".join(lines)


def _how(results: Results) -> Iterator[str]:
    """How and on what it was measured, as in `metrics.md`."""
    lines = "\n".join(provenance(results["meta"])).splitlines()
    words = [line for line in lines if line and not line.startswith(("#", "- ", "  "))]
    facts = [line for line in lines if line.startswith(("- ", "  "))]
    yield f"<p>{_prose(' '.join(words))}</p>"
    yield f"<pre>{_plain(chr(10).join(facts))}</pre>"
