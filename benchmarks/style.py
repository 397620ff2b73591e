"""How the code reads, in values that a reader notices on the first screen.

    python benchmarks/style.py [--by-file] [FOLDER or FILE ...]        default: flowbind and modalities

The same script may be given any other project's source. No line of it is a rule: numbers that move tell where to look.
"""

import argparse
import ast
import tokenize
from collections.abc import Iterator
from pathlib import Path

LONG_BODY = 15  # lines of a function's body, from which on it should have a paragraph
COLUMN = 100
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Figures:
    """Counts over all files of a project."""

    def __init__(self) -> None:
        self.lines = 0  # of code: neither blank, comment nor docstring
        self.all_lines = 0
        self.long_lines = 0
        self.body_lines = 0
        self.blank_body_lines = 0
        self.long_bodies = 0
        self.dense_bodies = 0
        self.lengths: list[int] = []  # of functions, in lines
        self.nodes = 0
        self.comprehensions = 0
        self.nested_comprehensions = 0
        self.packed_attributes = 0
        self.bindings_named_found = 0

    def add(self, path: Path) -> None:
        """Counts one file."""
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        texts = set(_docstring_lines(tree))
        lines = source.splitlines()
        with path.open("rb") as file:
            codes = {
                row
                for token in tokenize.tokenize(file.readline)
                if token.type
                not in (
                    tokenize.COMMENT,
                    tokenize.NL,
                    tokenize.NEWLINE,
                    tokenize.ENCODING,
                    tokenize.INDENT,
                    tokenize.DEDENT,
                    tokenize.ENDMARKER,
                )
                for row in range(token.start[0], token.end[0] + 1)
            }
        self.lines += len(codes - texts)
        self.all_lines += len(lines)
        self.long_lines += sum(len(line) > COLUMN for line in lines)

        for node in ast.walk(tree):
            self.nodes += not isinstance(
                node,
                ast.expr_context | ast.operator | ast.cmpop | ast.boolop | ast.unaryop,
            )
            if isinstance(node, FUNCTIONS):
                self._add_function(node, lines)
            elif isinstance(node, COMPREHENSIONS):
                self.comprehensions += 1
                self.nested_comprehensions += len(
                    node.generators
                ) > 1 or _holds_comprehension(node)
            elif isinstance(node, ast.Assign):
                self.packed_attributes += _packs_attributes(node)
            if (
                isinstance(node, ast.Name)
                and isinstance(node.ctx, ast.Store)
                and node.id == "found"
            ):
                self.bindings_named_found += 1

    def _add_function(self, node: ast.FunctionDef, lines: list[str]) -> None:
        statements = node.body[1:] if ast.get_docstring(node) is not None else node.body
        self.lengths.append(node.end_lineno - node.lineno + 1)
        if not statements:
            return
        body = lines[statements[0].lineno - 1 : node.end_lineno]
        blank = sum(not line.strip() for line in body)
        self.body_lines += len(body)
        self.blank_body_lines += blank
        if len(body) >= LONG_BODY:
            self.long_bodies += 1
            self.dense_bodies += blank == 0

    def rows(self) -> Iterator[tuple[str, str]]:
        """Names and values."""
        lengths = sorted(self.lengths)
        yield "lines of code", f"{self.lines}"
        yield (
            "blank lines inside function bodies",
            f"{self.blank_body_lines / self.body_lines:.1%}",
        )
        yield (
            f"bodies of {LONG_BODY}+ lines without one",
            f"{self.dense_bodies / max(self.long_bodies, 1):.0%}",
        )
        yield "syntax nodes a code line", f"{self.nodes / self.lines:.1f}"
        yield (
            "comprehensions per 100 code lines",
            f"{100 * self.comprehensions / self.lines:.1f}",
        )
        yield (
            "nested ones per 100 code lines",
            f"{100 * self.nested_comprehensions / self.lines:.2f}",
        )
        yield f"lines beyond column {COLUMN}", f"{self.long_lines / self.all_lines:.1%}"
        yield (
            "packed attributes per 1,000 code lines",
            f"{1000 * self.packed_attributes / self.lines:.1f}",
        )
        yield "bindings named `found`", f"{self.bindings_named_found}"
        yield (
            "lines of a function: median, p90, most",
            (
                f"{lengths[len(lengths) // 2]}, {lengths[int(0.9 * len(lengths))]}, {lengths[-1]}"
            ),
        )


def _docstring_lines(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        if (
            isinstance(node, (ast.Module, ast.ClassDef, *FUNCTIONS))
            and ast.get_docstring(node) is not None
        ):
            yield from range(node.body[0].lineno, node.body[0].end_lineno + 1)


def _holds_comprehension(node: ast.AST) -> bool:
    return any(
        isinstance(part, COMPREHENSIONS) for part in ast.walk(node) if part is not node
    )


def _packs_attributes(node: ast.Assign) -> bool:
    """Whether it is `self.a, self.b = a, b`."""
    return any(
        isinstance(target, ast.Tuple)
        and all(isinstance(part, ast.Attribute) for part in target.elts)
        for target in node.targets
    )


def python_files(paths: list[Path]) -> list[Path]:
    """Files as they are, and the Python files below folders."""
    files = []
    for path in paths:
        files += [path] if path.is_file() else sorted(path.rglob("*.py"))
    return files


def measure(paths: list[Path]) -> Figures:
    """The figures of some files, and of all Python files below some folders."""
    figures = Figures()
    for path in python_files(paths):
        figures.add(path)
    return figures


def print_by_file(paths: list[Path]) -> None:
    """A line for each file, its values in the order of the heading, which numbers them."""
    for number, (name, _) in enumerate(measure(paths).rows(), start=1):
        print(f"{number:2}  {name}")
    print()

    for path in python_files(paths):
        figures = measure([path])
        if figures.lengths:
            print("".join(f"{value:>8}" for _, value in figures.rows()), f" {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="How the code reads, in figures.")
    parser.add_argument(
        "paths", nargs="*", type=Path, default=[Path("flowbind"), Path("modalities")]
    )
    parser.add_argument("--by-file", action="store_true", help="a line for each file")
    arguments = parser.parse_args()

    if arguments.by_file:
        print_by_file(arguments.paths)
    else:
        for name, value in measure(arguments.paths).rows():
            print(f"{name:40} {value}")
