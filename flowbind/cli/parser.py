"""Argument parsers whose errors are one line."""

import argparse


class Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Help that tells a default where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises ValueError instead of printing its usage."""

    def __init__(self, verb: str, description: str) -> None:
        super().__init__(
            f"flowbind {verb}",
            description=description,
            allow_abbrev=False,
            formatter_class=Defaults,
        )

    def error(self, message: str) -> None:
        raise ValueError(f"{self.prog.removeprefix('flowbind ')}: {message}; see `{self.prog} --help`")


def named(flag: str, given: str) -> tuple[str, str]:
    """The two sides of an option that takes NAME=VALUE.

    Raises:
        ValueError: one of them is missing.
    """
    name, equals, value = given.partition("=")
    if not equals or not name or not value:
        raise ValueError(f"{flag} takes NAME=VALUE, such as image=a.png, not '{given}'")
    return name, value
