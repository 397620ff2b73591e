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
        print(
            f"usage: flowbind prepare NAME --out DIR ...\n\ndatasets: {', '.join(names)}\n\n`flowbind prepare NAME --help` tells its options."
        )
        return
    name, *rest = arguments
    prepare = load("datasets", name)
    parser = Parser(f"{verb} {name}", inspect.cleandoc(prepare.__doc__ or "").split("\n\nArgs:")[0])
    parser.add_argument(
        "--out", required=True, type=path, help="folder that receives files and manifests"
    )
    for option, (kind, default, help) in options_of(prepare).items():
        flag, needed = "--" + option.replace("_", "-"), default is inspect.Parameter.empty
        default = None if needed else default
        kind = whole(0) if option == "seed" else {float: real(), Path: path}.get(kind, kind)
        parser.add_argument(
            flag, dest=option, type=kind, default=default, required=needed, help=help
        )
    chosen = vars(parser.parse_args(rest))
    out = chosen.pop("out")
    prepare_into(out, name, prepare, chosen)


def options_of(prepare: Callable[..., None]) -> dict[str, tuple[type, Any, str]]:
    """Type, default and help of each argument of a dataset's function but the folder, from signature and docstring."""
    helps: dict[str, str] = {}
    name = ""
    for line in (
        inspect.cleandoc(prepare.__doc__ or "")
        .partition("Args:\n")[2]
        .partition("\n\n")[0]
        .splitlines()
    ):
        if line.startswith("    ") and not line.startswith("     ") and ":" in line:
            name, _, line = line.strip().partition(":")
            helps[name] = ""
        if name:
            helps[name] = f"{helps[name]} {line.strip()}".strip().replace("%", "%%")
    kinds = typing.get_type_hints(prepare)
    parameters = list(inspect.signature(prepare).parameters.values())[1:]
    return {p.name: (_plain(kinds[p.name]), p.default, helps.get(p.name, "")) for p in parameters}


def _plain(kind: Any) -> type:
    """The type itself of an optional type."""
    return next((part for part in typing.get_args(kind) if part is not type(None)), kind)
