"""`flowbind prepare NAME`: a dataset's function, its arguments as options."""

import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flowbind.cli.docstrings import arguments_in, description_in
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
    description = description_in(inspect.getdoc(prepare) or "")
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
    helps = arguments_in(inspect.getdoc(prepare) or "")
    kinds = typing.get_type_hints(prepare)

    options = {}
    parameters = list(inspect.signature(prepare).parameters.values())
    for parameter in parameters[1:]:
        name = parameter.name
        kind = _plain(kinds[name])
        help = helps.get(name, "").replace("%", "%%")
        options[name] = (kind, parameter.default, help)
    return options


def _plain(kind: Any) -> type:
    """The type itself of an optional type."""
    parts = [part for part in typing.get_args(kind) if part is not type(None)]
    if parts:
        return parts[0]
    return kind
