"""`flowbind prepare NAME`: a dataset's function, its arguments as options, its output whole or not at all."""

import inspect
import json
import os
import shutil
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flowbind.cli.parser import Parser, path, real
from flowbind.progress import say
from flowbind.registry import installed, load
from flowbind.regular import read_json

DONE = "prepared.json"


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
    parser.add_argument("--out", required=True, type=path, help="folder that receives files and manifests")
    for option, (kind, default, help) in options_of(prepare).items():
        flag, needed = "--" + option.replace("_", "-"), default is inspect.Parameter.empty
        default = None if needed else default
        kind = {float: real(), Path: path}.get(kind, kind)
        parser.add_argument(flag, dest=option, type=kind, default=default, required=needed, help=help)
    chosen = vars(parser.parse_args(rest))
    out = chosen.pop("out")
    prepare_into(out, name, prepare, chosen)


def prepare_into(out: Path, name: str, prepare: Callable[..., None], options: dict[str, Any]) -> None:
    """Runs a dataset's function on an empty folder beside `out`, and renames it when it is whole.

    Raises:
        ValueError: `out` holds something that `flowbind prepare` did not write.
    """
    partial, old = out.with_name(out.name + ".partial"), out.with_name(out.name + ".old")
    if (old / DONE).is_file():  # killed between or after the two renamings below
        if out.exists():
            shutil.rmtree(old)
        else:
            os.replace(old, out)
    made = {"dataset": name, "options": {key: str(value) for key, value in options.items()}}
    if (out / DONE).is_file():
        if read_json(out / DONE) == made:
            say(f"{out}: prepared already")
            return
    elif out.exists() and any(out.iterdir()):
        raise ValueError(f"{out}: not empty, and not written by `flowbind prepare`; choose another folder")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        prepare(partial, **options)
        (partial / DONE).write_text(json.dumps(made))
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(out, old)
        os.replace(partial, out)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    say(f"{out}: prepared")


def options_of(prepare: Callable[..., None]) -> dict[str, tuple[type, Any, str]]:
    """Type, default and help of each argument of a dataset's function but the folder, from signature and docstring."""
    helps: dict[str, str] = {}
    name = ""
    for line in inspect.cleandoc(prepare.__doc__ or "").partition("Args:\n")[2].partition("\n\n")[0].splitlines():
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
