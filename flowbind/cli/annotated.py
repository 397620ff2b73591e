"""Recipes as people read them: what each is, its values as written, and the remarks beside them."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

SENTENCE = re.compile(r".+?(?:\.(?=\s|$)|$)")
REMARK = re.compile(r"\s#\s*(.*)$")


class Value(NamedTuple):
    """A value of a recipe as it was written, and the remark beside it, empty where there is none."""

    written: str
    remark: str


def headline(path: Path) -> str:
    """The first sentence of a recipe, which says what it is."""
    words: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        comment = line.removeprefix("#").strip()
        if not line.startswith("#") or not comment:
            break
        words.append(comment)
    sentence = SENTENCE.match(" ".join(words))
    return sentence[0] if sentence else ""


def values_in(path: Path) -> dict[str, Value]:
    """The values of a recipe by dotted name, as options name them: without `init_args`."""
    source = path.read_text(encoding="utf-8")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    root = yaml.compose(source, Loader=loader)
    lines = source.splitlines()

    values: dict[str, Value] = {}
    explained: set[int] = set()  # lines whose remark belongs to an earlier key
    for name, key, node in _walk("", root):
        is_block = isinstance(node, yaml.CollectionNode) and not node.flow_style
        if is_block and isinstance(node, yaml.MappingNode):
            continue

        # Behind a list of several lines there is nothing; what explains it stands behind its key.
        written = source[node.start_mark.index : node.end_mark.index]
        last = node
        if is_block:
            written = _in_one_line(node)
            last = key
        line = last.end_mark.line
        remark = REMARK.search(lines[line][last.end_mark.column :])
        if line in explained or remark is None:
            values[name] = Value(written, "")
        else:
            values[name] = Value(written, remark[1])
            explained.add(line)
    return values


def _in_one_line(node: yaml.Node) -> str:
    """A list or mapping as it is written between brackets."""
    _flow(node)
    return yaml.serialize(node, width=sys.maxsize).strip()


def _flow(node: yaml.Node) -> None:
    """Has a node, and all within it, written between brackets."""
    if isinstance(node, yaml.CollectionNode):
        node.flow_style = True
        parts = node.value
        if isinstance(node, yaml.MappingNode):
            parts = [value for _, value in parts]
        for part in parts:
            _flow(part)


def _walk(
    prefix: str, node: yaml.Node | None
) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
    """Every value below a mapping by its dotted name, with its key, the outer ones first."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        name = prefix
        if key.value != "init_args":
            name = f"{prefix}.{key.value}".lstrip(".")
            yield name, key, value
        yield from _walk(name, value)
