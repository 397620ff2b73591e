"""The documentation: what it names is there, the help it shows is what commands print, its messages are the code's.

`python -m tests.test_docs` writes the help into the pages again.
"""

import ast
import json
import os
import re
import runpy
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import pytest

from flowbind.cli import VERBS, main

ROOT = Path(__file__).parents[1]
README, COMMANDS = ROOT / "README.md", ROOT / "docs" / "command-line.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *(
        path
        for path in sorted((ROOT / "docs").rglob("*.md"))
        if "_build" not in path.parts
    ),
]

LINK = re.compile(r"\]\(([^)\s#]+)")
DIRECTIVE = re.compile(
    r"^`{3,}\{(?:include|literalinclude|figure|image)\} (\S+)", re.MULTILINE
)
NAMED = re.compile(
    r"(?<![\w./-])(?:flowbind|modalities|recipes|tests|docs|benchmarks)/[\w./-]*\w"
)
HELP = re.compile(
    r"^```console\n\$ (flowbind (?:.* )?--help)\n(?s:.*?)^```$", re.MULTILINE
)
TREE = re.compile(r"^## Files\n\n```\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Folders of the tree, and how deep it goes there.
LISTED_WHOLE = {
    "flowbind": 9,
    "modalities": 2,
    "recipes": 3,
}
# Of the same method, for the help that hangs on it.
RELEASED = ROOT / "tests/formats/2/run/model"

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@each_page
def test_links_and_named_files_are_there(page):
    text = page.read_text(encoding="utf-8")
    links = {link for link in LINK.findall(text) if not re.match(r"\w+:", link)} | set(
        DIRECTIVE.findall(text)
    )
    named = {name for name in NAMED.findall(text) if "docs/_build" not in name}
    missing = {link for link in links if not (page.parent / link).exists()}
    missing |= {name for name in named if not (ROOT / name).exists()}
    assert not missing


def shown_in_tree():
    """Paths of the tree in CONTRIBUTING.md, two spaces a level."""
    parents = []
    for line in TREE.search(CONTRIBUTING.read_text(encoding="utf-8"))[1].splitlines():
        name = line.split()[0]
        del parents[(len(line) - len(line.lstrip())) // 2 :]
        parents.append(name.strip("/"))
        assert name.endswith("/") == (ROOT / Path(*parents)).is_dir(), (
            f"{Path(*parents)} is not there"
        )
        yield "/".join(parents)


def present(folder):
    """What the tree has to show of a folder."""
    for path in sorted(folder.iterdir()):
        parts = path.relative_to(ROOT).parts
        if not path.name.startswith((".", "_")) and (
            path.is_dir() or path.suffix in (".py", ".yaml", ".json")
        ):
            yield "/".join(parts)
            if path.is_dir() and len(parts) < LISTED_WHOLE[parts[0]]:
                yield from present(path)


def test_the_tree_is_the_tree():
    shown = list(shown_in_tree())
    assert len(set(shown)) == len(shown)
    within = {path for path in shown if "/" in path}
    assert within == {
        path for folder in LISTED_WHOLE for path in present(ROOT / folder)
    }


def test_every_verb_has_a_section():
    sections = re.findall(
        r"^## `flowbind ([\w-]+)`$", COMMANDS.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sections == list(VERBS)


def printed(command):
    """What a command prints, 100 columns wide."""
    out = StringIO()
    words = [
        str(RELEASED) if word == "runs/shapes/model" else word
        for word in command.split()[1:]
    ]
    with (
        patch.dict(os.environ, COLUMNS="100"),
        redirect_stdout(out),
        suppress(SystemExit),
    ):
        main(words)
    return "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines())


def with_help(text):
    """A page with what its commands print now."""
    return HELP.sub(
        lambda found: f"```console\n$ {found[1]}\n{printed(found[1])}\n```", text
    )


def words(text):
    """Words alone: versions of Python wrap lines and join short options with long ones in different ways."""
    return text.replace("-c CONFIG, --config", "-c, --config").split()


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if "--help\n" in page.read_text(encoding="utf-8")],
    ids=lambda page: page.name,
)
def test_help_is_what_is_printed(page):
    text = page.read_text(encoding="utf-8")
    assert words(with_help(text)) == words(text), "run `python -m tests.test_docs`"


# Messages

FAQ = ROOT / "docs/faq.md"
NOTEBOOK = ROOT / "docs/notebooks/first-steps.ipynb"
SAYS_ENOUGH = 10  # letters of a message that are no name, number or path


def messages_of_the_code():
    """A pattern for each string of the code that says enough, with anything in the place of its values."""
    for folder in ("flowbind", "modalities"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                parts = node.values if isinstance(node, ast.JoinedStr) else [node]
                words = [part.value for part in parts if isinstance(part, ast.Constant)]
                words = [word for word in words if isinstance(word, str)]
                if words and len(" ".join(words)) >= SAYS_ENOUGH:
                    yield re.compile(".*".join(map(re.escape, words)), re.DOTALL)


def test_messages_of_the_faq_are_those_of_the_code():
    patterns = list(messages_of_the_code())
    blocks = re.findall(
        r"^```text\n(.*?)^```$",
        FAQ.read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    messages = [line for block in blocks for line in block.splitlines()]
    assert len(messages) > 15
    unknown = [
        message
        for message in messages
        if not any(pattern.search(message) for pattern in patterns)
    ]
    assert not unknown


def test_charts_are_drawn_from_the_tables_beside_them():
    charts = runpy.run_path(str(ROOT / "docs/charts.py"))["CHARTS"]
    for name, draw in charts.items():
        drawn = (ROOT / "docs/images" / name).read_text(encoding="utf-8")
        assert drawn == draw(), f"{name}: run `python docs/charts.py`"


def test_the_notebook_runs(tmp_path, monkeypatch):
    """With a fresh model in the place of the quickstart's: it says nothing right, in all the right shapes."""
    from flowbind.registry import load
    from tests.released import release

    names = ("text", "image", "audio", "points")
    release(
        tmp_path / "runs/shapes/model",
        **{name: load("modalities", name)() for name in names},
    )
    monkeypatch.chdir(tmp_path)
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    variables = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"], "clear the notebook's outputs"
            exec("".join(cell["source"]), variables)
    assert len(variables["out"]["image"]) == 2
    assert variables["folder"].joinpath("torus.wav").stat().st_size


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(with_help(page.read_text(encoding="utf-8")), encoding="utf-8")
