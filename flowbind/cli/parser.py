"""Argument parsers whose errors are one line, and the kinds of values that options take."""

import argparse
import errno
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Never

from flowbind.cli.options import tell_repetition
from flowbind.cli.wording import unknown
from flowbind.registry import did_you_mean


class Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Help that gives a default where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return (
            action.help if action.default is None else super()._get_help_string(action)
        )


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that takes whole names alone, and raises ValueError with one line."""

    def __init__(self, verb: str, description: str, **named: Any) -> None:
        super().__init__(
            f"flowbind {verb}",
            description=description,
            allow_abbrev=False,
            formatter_class=Defaults,
            **named,
        )
        self.values: dict[str, Any] = {}  # by the name that they are stored under
        self.register("action", None, Store)
        self.register("action", "store", Store)

    @property
    def options(self) -> list[str]:
        """The names of all options."""
        return list(self._option_string_actions)

    def error(self, message: str) -> Never:
        if message.startswith("unrecognized arguments: -"):
            message = unknown(message, self.options)
        raise ValueError(
            f"{self.prog.removeprefix('flowbind ')}: {message}; see `{self.prog} --help`"
        )


Action = Callable[[str, Sequence[str]], None]  # of a name in messages, and arguments


def run_action(
    verb: str,
    arguments: Sequence[str],
    actions: Mapping[str, Action],
    usage: str,
    otherwise: str = "",
) -> None:
    """Does what the first argument of a verb says, or prints the verb's usage.

    Args:
        verb: Verb that has actions.
        arguments: What stands behind it, at least one.
        actions: Actions by name.
        usage: Help of the verb.
        otherwise: What else may be given in an action's place, as the end of a line on a mistake.

    Raises:
        ValueError: no such action or option; one line.
    """
    name, *rest = arguments
    if name in ("-h", "--help"):
        print(usage)
    elif name in actions:
        actions[name](f"{verb} {name}", rest)
    elif name.startswith("-"):
        Parser(verb, "").parse_args(list(arguments))  # which knows no option
    else:
        hint = did_you_mean(name, actions)
        raise ValueError(f"{verb}: no '{name}'; {hint}{otherwise}")


class Store(argparse.Action):
    """Stores a value; a line says so where it takes the place of another."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        value: Any,
        option: str | None = None,
    ) -> None:
        if option and isinstance(parser, Parser):
            if self.dest in parser.values:
                tell_repetition(option, parser.values[self.dest], value)
            parser.values[self.dest] = value
        setattr(namespace, self.dest, value)


def whole(least: int) -> Callable[[str], int]:
    """The type of an option that takes whole numbers, `least` or more."""

    def number(word: str) -> int:
        try:
            value = int(word)
        except ValueError:
            value = None

        if value is None or value < least:
            raise argparse.ArgumentTypeError(
                f"takes a whole number, at least {least}, not '{word}'"
            )
        return value

    return number


def real(least: float = -math.inf) -> Callable[[str], float]:
    """The type of an option that takes finite numbers, `least` or more."""
    bound = f", at least {least:g}" if math.isfinite(least) else ""

    def number(word: str) -> float:
        try:
            value = float(word)
        except ValueError:
            value = math.nan

        if not math.isfinite(value) or value < least:
            raise argparse.ArgumentTypeError(f"takes a number{bound}, not '{word}'")
        return value

    return number


def path(word: str) -> Path:
    """The type of an option that takes a path."""
    if not word:
        raise argparse.ArgumentTypeError("takes a path, not an empty one")
    return Path(word)


def place(word: str) -> str:
    """The type of an option that takes a path, or an address or name that stays as it is."""
    path(word)
    return word


def check_folder(folder: Path) -> None:
    """Looks whether a folder can receive files, before the work whose results it is for.

    Nothing is written.

    Raises:
        OSError: it cannot be made or written.
    """
    places = (folder, *folder.absolute().parents)
    nearest = next(place for place in places if place.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(
            errno.ENOTDIR,
            "a file, where a folder is needed",
            str(nearest),
        )
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(
            errno.EACCES,
            "a folder that may not be written into",
            str(nearest),
        )


def named(flag: str, word: str) -> tuple[str, str]:
    """The two sides of an option that takes NAME=VALUE.

    Args:
        flag: Name of the option, for messages.
        word: Name and value as they were typed.

    Raises:
        ValueError: one of them is missing.
    """
    name, equals, value = word.partition("=")
    if not equals or not name or not value:
        raise ValueError(f"{flag} takes NAME=VALUE, such as image=a.png, not '{word}'")
    return name, value
