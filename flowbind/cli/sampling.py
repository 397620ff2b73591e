"""Options for the choices of a method at generation: one for each field of its dataclass."""

import argparse
import inspect
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from flowbind.cli.docstrings import arguments_in
from flowbind.cli.parser import Parser
from flowbind.method import Method


def add_choices(
    parser: Parser,
    method: type[Method],
    defaults: Mapping[str, Any],
) -> list[str]:
    """Adds an option for each sampling choice of a method.

    Args:
        parser: Parser that receives them.
        method: Method whose choices they are.
        defaults: Defaults of the model at hand, where they differ from the method's.

    Returns:
        The names of the choices.
    """
    group = parser.add_argument_group(
        f"choices of this model, whose method is {method.__name__}"
    )
    hints = get_type_hints(method.Sampling)
    help_of = described(method.Sampling)
    standard = method.Sampling()

    for choice in fields(method.Sampling):
        name = choice.name
        hint = hints[name]
        default = defaults.get(name, getattr(standard, name))
        is_switch = plain(hint) is bool  # its name alone is true
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=_reader(hint),
            nargs="?" if is_switch else None,
            const=True if is_switch else None,
            default=default,
            metavar=_name(hint),
            help=help_of.get(name, " "),
        )
    return [choice.name for choice in fields(method.Sampling)]


def chosen(options: argparse.Namespace, names: list[str]) -> dict[str, Any]:
    """The choices by name, as given or by default."""
    return {name: getattr(options, name) for name in names}


def described(cls: type) -> dict[str, str]:
    """The docstring's text on each argument of a class, in one line."""
    return arguments_in(inspect.getdoc(cls) or "")


def plain(hint: Any) -> Any:
    """The type of a value that is there."""
    parts = [part for part in get_args(hint) if part is not type(None)]
    if parts and get_origin(hint) is not Literal:
        return parts[0]
    return hint


def _name(hint: Any) -> str:
    """What stands for an option's value in its help."""
    kind = plain(hint)
    if get_origin(kind) is Literal:
        values = ",".join(map(str, get_args(kind)))
        return f"{{{values}}}"
    names = {int: "N", float: "NUMBER", bool: "{true,false}"}
    return names.get(kind, "VALUE")


def _reader(hint: Any) -> Any:
    """The function that reads an option's value; the dataclass refuses those that cannot be."""
    readers = {bool: _read_bool, int: _read_int, float: _read_float}
    return readers.get(plain(hint), str)


def _read_bool(word: str) -> bool:
    values = {"true": True, "false": False}
    if word not in values:
        raise argparse.ArgumentTypeError(f"takes true or false, not '{word}'")
    return values[word]


def _read_int(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"takes a whole number, not '{word}'"
        ) from None


def _read_float(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"takes a number, not '{word}'") from None
