"""What docstrings say of arguments, in Google's style: the text that help shows."""

import re

HEADING = re.compile(r" {4}(\w+): ?(.*)")


def description_in(docstring: str) -> str:
    """What stands before the arguments of a docstring, as `inspect.cleandoc` gives it."""
    description, _, _ = docstring.partition("Args:\n")
    return description.rstrip()


def arguments_in(docstring: str) -> dict[str, str]:
    """The text on each argument of a docstring, in one line.

    Args:
        docstring: Docstring, as `inspect.cleandoc` gives it.
    """
    _, _, section = docstring.partition("Args:\n")

    lines: dict[str, list[str]] = {}
    name = ""
    for line in section.splitlines():
        if line and not line.startswith("    "):
            break  # of the next section

        heading = HEADING.fullmatch(line)
        if heading:
            name, line = heading.groups()
        if name:
            lines.setdefault(name, []).append(line)

    texts = {}
    for name, words in lines.items():
        texts[name] = " ".join(" ".join(words).split())
    return texts
