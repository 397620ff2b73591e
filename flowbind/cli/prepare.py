"""`flowbind prepare NAME`: a dataset's function, its arguments as options."""

import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flowbind.cli.parser import Parser, path, real, whole
from flowbind.cli.prepared import prepare_into
from flowbind.registry import installed, load


def run(verb: str, arguments: list[str]) -> None:
    """Prepares one registered dataset."""
    names = installed("datasets")
    if not arguments or arguments[0] in ("-h", "--help"):
        datasets = ", ".join(names)
        print(
            f"usage: flowbind prepare NAME --out DIR ...\n\ndatasets: {datasets}\n\n"
            "`flowbind prepare NAME --help` tells its options."
        )
        return

    name, *rest = arguments
    prepare = load("datasets", name)
    description, _ = _docstring_parts(prepare)
    parser = Parser(f"{verb} {name}", description)
    parser.add_argument(
        "--out",
        required=True,
        type=path,
        help="folder that receives files and manifests",
    )

    for option, (kind, default, help) in options_of(prepare).items():
        required = default is inspect.Parameter.empty
        parser.add_argument(
            "--" + option.replace("_", "-"),
            dest=option,
            type=_reader(option, kind),
            default=None if required else default,
            required=required,
            help=help,
        )

    chosen = vars(parser.parse_args(rest))
    out = chosen.pop("out")
    prepare_into(out, name, prepare, chosen)


def _reader(option: str, kind: type) -> Callable[[str], Any]:
    """The function that reads an option's value."""
    if option == "seed":
        return whole(0)
    readers = {float: real(), Path: path}
    return readers.get(kind, kind)


def options_of(prepare: Callable[..., None]) -> dict[str, tuple[type, Any, str]]:
    """The arguments of a dataset's function but the folder, from its signature and docstring.

    Returns:
        Type, default and help of each.
    """
    _, helps = _docstring_parts(prepare)
    kinds = typing.get_type_hints(prepare)

    options = {}
    parameters = list(inspect.signature(prepare).parameters.values())
    for parameter in parameters[1:]:
        name = parameter.name
        kind = _plain(kinds[name])
        options[name] = (kind, parameter.default, helps.get(name, ""))
    return options


def _docstring_parts(prepare: Callable[..., None]) -> tuple[str, dict[str, str]]:
    """The description in a function's docstring, and the text on each of its arguments."""
    docstring = inspect.cleandoc(prepare.__doc__ or "")
    _, _, sections = docstring.partition("Args:\n")
    arguments, _, _ = sections.partition("\n\n")

    helps: dict[str, str] = {}
    name = ""
    for line in arguments.splitlines():
        # An argument begins four spaces in; what goes deeper belongs to the last one.
        if line.startswith("    ") and not line.startswith("     ") and ":" in line:
            name, _, line = line.strip().partition(":")
            helps[name] = ""
        if name:
            words = f"{helps[name]} {line.strip()}"
            helps[name] = words.strip().replace("%", "%%")

    description, *_ = docstring.split("\n\nArgs:")
    return description, helps


def _plain(kind: Any) -> type:
    """The type itself of an optional type."""
    parts = [part for part in typing.get_args(kind) if part is not type(None)]
    if parts:
        return parts[0]
    return kind
