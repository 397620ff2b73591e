"""The charts of the documentation, drawn from the tables beside them: `python docs/charts.py` writes them again.

They stand on a card of their own, so that they can be read on a light page and on a dark one.
"""

import re
from pathlib import Path

DOCS = Path(__file__).parent
PAGE = DOCS / "shapes.md"
INK, PALE, GREY, FIRST, SECOND = "#24292f", "#57606a", "#d0d7de", "#1f6feb", "#bc4c00"
HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{title}">
  <title>{title}</title>
  <style>text {{ font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: {ink} }}
    .title {{ font-size: 15px; font-weight: 600 }} .pale {{ fill: {pale} }} .end {{ text-anchor: end }} .mid {{ text-anchor: middle }}</style>
  <rect x="1" y="1" width="{inner_width}" height="{inner_height}" rx="12" fill="#ffffff" stroke="{grey}"/>
"""


def table(first: str) -> list[dict[str, str]]:
    """The rows of the page's table whose first column has this head."""
    text = PAGE.read_text(encoding="utf-8")
    (block,) = re.findall(rf"(?m)^(\| {re.escape(first)} \|.*\n\|[- |]+\n(?:\|.*\n)+)", text)
    names, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()
    ]
    return [dict(zip(names, row, strict=True)) for row in rows]


def text(x: float, y: float, words: str, kind: str = "") -> str:
    return f'  <text x="{x:.1f}" y="{y:.1f}" class="{kind}">{words}</text>\n'


def dot(x: float, y: float, colour: str) -> str:
    return f'  <circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>\n'


def line(x: float, y: float, to_x: float, to_y: float, colour: str = GREY, width: float = 1) -> str:
    return (
        f'  <line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" '
        f'stroke="{colour}" stroke-width="{width}"/>\n'
    )


def card(title: str, width: int, height: int, body: str) -> str:
    head = HEAD.format(
        title=title,
        width=width,
        height=height,
        inner_width=width - 2,
        inner_height=height - 2,
        ink=INK,
        pale=PALE,
        grey=GREY,
    )
    return head + text(20, 30, title, "title") + body + "</svg>\n"


def settings() -> str:
    """Each setting's lowest direction and the mean of all."""
    left, right, top, step = 216, 700, 76, 24
    rows = table("setting")
    bottom = top + step * len(rows)

    def place(share: float) -> float:
        return left + (right - left) * share

    body = ""
    for tick in (0, 0.25, 0.5, 0.75, 1):
        body += line(place(tick), top - 8, place(tick), bottom - 8)
        body += text(place(tick), bottom + 10, f"{tick:g}", "mid pale")
    for number, row in enumerate(rows):
        y = top + step * number + 6
        lowest, mean = float(row["lowest"]), float(row["mean"])
        name = row["setting"].replace("**", "")
        body += text(left - 14, y + 4, name, "end")
        body += line(place(lowest), y, place(mean), y, GREY, 3)
        body += dot(place(lowest), y, SECOND) + dot(place(mean), y, FIRST)
    body += dot(left + 6, 52, SECOND) + text(left + 18, 56, "lowest direction")
    body += dot(left + 156, 52, FIRST) + text(left + 168, 56, "mean of all twelve")
    return card("Joint accuracy by setting, at equal compute", 740, bottom + 28, body)


def codecs() -> str:
    """What codecs lose of points and sounds, as a multiple of what chance changes."""
    left, right, top, step = 110, 700, 76, 26
    points, sounds = table("points"), table("audio")
    bottom = top + step * len(points)
    most = 2.5

    def place(times: float) -> float:
        return left + (right - left) * times / most

    body = ""
    for tick in (0, 0.5, 1, 1.5, 2, 2.5):
        colour, width = (PALE, 1.5) if tick == 1 else (GREY, 1)
        body += line(place(tick), top - 8, place(tick), bottom - 8, colour, width)
        body += text(place(tick), bottom + 10, f"{tick:g}", "mid pale")
    for number, (cloud, sound) in enumerate(zip(points, sounds, strict=True)):
        y = top + step * number + 6
        body += text(left - 14, y + 4, cloud["points"], "end")
        body += dot(place(float(cloud["times its floor"])), y, FIRST)
        body += dot(place(float(sound["times its floor"])), y, SECOND)
    body += dot(left + 6, 52, FIRST) + text(left + 18, 56, "points (Chamfer distance)")
    body += dot(left + 206, 52, SECOND) + text(left + 218, 56, "audio (error of levels)")
    return card("Error of the round trip, times its floor", 740, bottom + 28, body)


CHARTS = {"settings.svg": settings, "codecs.svg": codecs}


if __name__ == "__main__":
    for name, draw in CHARTS.items():
        (DOCS / "images" / name).write_text(draw(), encoding="utf-8")
