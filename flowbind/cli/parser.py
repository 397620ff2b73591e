"""Argument parsers whose errors are one line."""

import argparse


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises ValueError instead of printing its usage."""

    def __init__(self, verb: str, description: str) -> None:
        super().__init__(
            f"flowbind {verb}",
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )

    def error(self, message: str) -> None:
        raise ValueError(f"{self.prog.removeprefix('flowbind ')}: {message}; see `{self.prog} --help`")
