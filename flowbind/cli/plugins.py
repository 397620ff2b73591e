"""`flowbind plugins`: what is installed, from which package."""

from flowbind.cli.parser import Parser
from flowbind.registry import GROUPS, installed, package


def run(verb: str, arguments: list[str]) -> None:
    """Prints every registered modality, codec and dataset."""
    Parser(verb, "Lists what is installed, from which package.").parse_args(arguments)
    for kind in GROUPS:
        entries = installed(kind)
        print(kind + ("" if entries else ": none"))

        width = max(map(len, entries), default=0)
        for name, entry in entries.items():
            print(f"  {name:{width}}  {entry.value}  ({package(entry)})")
