"""Errors of jsonargparse and Lightning about a recipe, in one line that says what was given and what is allowed."""

import difflib
import re
from collections.abc import Iterable

KEY = re.compile(r'Parser key "([^"]+)":')
SUBTYPES = re.compile(r"Subtypes: \[(.*)\]")
GIVEN = re.compile(r"(?:Got value|Given value): (.*)", re.DOTALL)
TYPE = re.compile(
    r"<class '([\w.]+)'>|typing\.Literal\[([^\]]*)\]|\b(list|dict|collections\.abc\.Iterable)\["
)
NOISE = ("Subtypes:", "Errors:", "Does not validate", "Given value", "Expected", "Got value")
NO_CLASS = re.compile(r"Expected a dot import path string: (\S+)")
NO_FILE = re.compile(r"Unable to load config '(.*?)'.*")
NO_VALUE = re.compile(r"argument (?:-\w, )?(--[\w.]+): expected (?:one|at least one) argument")
MISSING = re.compile(r"the following arguments are required: (.*)")
REQUIREMENT = re.compile(r"Requirement '([^']+)' not met")
WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a string",
    "list": "a list",
    "collections.abc.Iterable": "a list",
    "dict": "a mapping",
    "NoneType": "null",
}
INNER = re.compile(r"^[A-Za-z_][\w.]*: ")  # what an inner parser said of one of its keys
LINK = re.compile(r"[^.]*https?://\S+")  # a sentence that ends in an address


def explain(message: str) -> str:
    """One line for an error of jsonargparse, which may hold the errors of parsers within parsers.

    `Parser key "data": Does not validate ... Errors: batch_size must be at least 1` -> `data: batch_size must be at least 1`
    """
    keys = list(dict.fromkeys(KEY.findall(message)))
    body, _, given = KEY.sub("", message).partition("Given value type:")
    value = GIVEN.search(given) or GIVEN.search(body)
    lines = [line.strip(" -") for line in GIVEN.sub("", body).splitlines()]
    reasons = [line for line in lines if line and not line.startswith(NOISE)]
    if reasons:
        clause = _reworded(" ".join(dict.fromkeys(reasons)))
    elif missing := NO_CLASS.search(message):
        clause = f"no class '{missing[1]}'; a class is named by its dotted path, a plugin's by its registered name"
    elif value:
        clause = f"{_short(value[1])!r} is not allowed; allowed: {', '.join(_allowed(body))}"
    else:
        clause = body
    return _under(keys, " ".join(clause.split()))


def _allowed(body: str) -> Iterable[str]:
    """What jsonargparse allows, in words."""
    subtypes = SUBTYPES.search(body)
    words: dict[str, None] = {}  # in order
    for cls, literals, container in TYPE.findall(subtypes[1] if subtypes else body):
        values = (
            [value.strip("' ") for value in literals.split(",")] if literals else [cls or container]
        )
        words |= dict.fromkeys(WORDS.get(value, value) for value in values)
    return words


def _reworded(reason: str) -> str:
    """What jsonargparse says in its own terms, in those of whoever wrote the recipe."""
    packages = REQUIREMENT.findall(reason)
    if packages:
        needed = " or ".join(f"'{package}'" for package in dict.fromkeys(packages))
        cls = re.search(r"class_path '([^']+)'", reason)
        return f"{cls[1].rpartition('.')[2] if cls else 'it'} needs {needed}, which is not installed: pip install {needed}"
    reason = NO_VALUE.sub(r"\1 needs a value: \1=VALUE", reason)
    reason = NO_FILE.sub(r"a mapping is needed, or the file of one, not '\1'", reason)
    return MISSING.sub(lambda match: f"{match[1].rpartition('.')[2]} is required", reason)


def _under(keys: list[str], clause: str) -> str:
    """A message under the key that it is about: `data` and `batch_size: ...` are `data.batch_size: ...`."""
    if not keys:
        return clause
    return f"{'.'.join(keys)}{'.' if INNER.match(clause) else ': '}{clause}"


def _short(value: str) -> str:
    value = " ".join(value.split())
    return value if len(value) <= 60 else value[:57] + "..."


def unknown(message: str, names: Iterable[str]) -> str:
    """One line for options that no parser knows, with the nearest name of each that has one.

    Args:
        message: of argparse: `unrecognized arguments: --a=1 --b`.
        names: of all options there are.
    """
    names = [name for name in names if name.startswith("--")]
    options = [
        part.partition("=")[0] for part in message.partition(":")[2].split() if part.startswith("-")
    ]
    parts = []
    for option in options:
        # A name without the key that it belongs under is as near as one with a wrong letter.
        ends = {name.rpartition(".")[2]: name for name in reversed(names)}
        own = option.lstrip("-")
        close = (
            [ends[own]]
            if own in ends
            else difflib.get_close_matches(option, names, n=1, cutoff=0.75)
        )
        guess = close or [
            ends[end] for end in difflib.get_close_matches(own, ends, n=1, cutoff=0.75)
        ]
        parts.append(f"no option {option}" + (f"; did you mean {guess[0]}?" if guess else ""))
    return ", ".join(parts)


def plain(error: Exception) -> str:
    """What an error of Lightning says, in one line without its links."""
    clause = _reworded(" ".join(str(error).split()))
    return LINK.sub("", clause).strip()
