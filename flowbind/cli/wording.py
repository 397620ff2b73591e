"""Errors of jsonargparse and Lightning, in one line: what was given, and what is allowed."""

import difflib
import re
from collections.abc import Iterable, Sequence

KEY = re.compile(r'Parser key "([^"]+)":')
SUBTYPES = re.compile(r"Subtypes: \[(.*)\]")
GIVEN = re.compile(r"(?:Got value|Given value): (.*)", re.DOTALL)
TYPE = re.compile(
    r"<class '([\w.]+)'>|typing\.Literal\[([^\]]*)\]|\b(list|dict|collections\.abc\.Iterable)\["
)
NOISE = (
    "Subtypes:",
    "Errors:",
    "Does not validate",
    "Given value",
    "Expected",
    "Got value",
    # What a class may be given as, which jsonargparse adds to what is wrong with it.
    "Not a valid subclass",
    "Subclass types expect",
    "a class path (str)",
    "a dict with",
)
NO_CLASS = re.compile(r"Expected a dot import path string: (\S+)")
OTHER_KIND = re.compile(
    r"Import path (?:(?P<given>\S+) )?does not correspond to a subclass of (?P<kind>\S+)"
)
NO_FILE = re.compile(r"Unable to load config '(.*?)'.*")
NO_VALUE = re.compile(
    r"argument (?:-\w, )?(--[\w.]+): expected (?:one|at least one) argument"
)
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
INNER = re.compile(r"^[A-Za-z_][\w.]*: ")  # an inner parser's error, of one of its keys
LINK = re.compile(r"[^.]*https?://\S+")  # a sentence that ends in an address


def explain(message: str) -> str:
    """One line for an error of jsonargparse, which may hold the errors of parsers within parsers.

    `Parser key "data": Does not validate ... Errors: batch_size must be at least 1` becomes
    `data: batch_size must be at least 1`.
    """
    keys = list(dict.fromkeys(KEY.findall(message)))
    body, _, details = KEY.sub("", message).partition("Given value type:")
    value = GIVEN.search(details) or GIVEN.search(body)
    no_class = NO_CLASS.search(message)

    reasons: dict[str, None] = {}  # in order
    for line in GIVEN.sub("", body).splitlines():
        reason = line.strip(" -")
        if reason and not reason.startswith(NOISE):
            reasons[reason] = None

    # A class may be of several kinds, and each says something: its own what is wrong with it.
    telling = [reason for reason in reasons if not OTHER_KIND.fullmatch(reason)]
    if telling:
        clause = _reworded(" ".join(telling))
    elif reasons:
        others = [kind for kind in map(OTHER_KIND.fullmatch, reasons) if kind]
        kinds = ", ".join(other["kind"] for other in others)
        given = others[0]["given"] or (value and _short(value[1]))
        clause = f"{given} is not allowed; allowed: {kinds}"
    elif no_class:
        clause = (
            f"no class '{no_class[1]}'; a class is named by its dotted path, "
            "a plugin's by its registered name"
        )
    elif value:
        given = _short(value[1])
        allowed = ", ".join(_allowed(body))
        clause = f"{given!r} is not allowed; allowed: {allowed}"
    else:
        clause = body
    return _under(keys, " ".join(clause.split()))


def _allowed(body: str) -> Iterable[str]:
    """What jsonargparse allows, in words."""
    subtypes = SUBTYPES.search(body)
    words: dict[str, None] = {}  # in order
    described = body
    if subtypes:
        described = subtypes[1]
    for cls, literals, container in TYPE.findall(described):
        values = [cls or container]
        if literals:
            values = [value.strip("' ") for value in literals.split(",")]
        for value in values:
            words[WORDS.get(value, value)] = None
    return words


def _reworded(reason: str) -> str:
    """What jsonargparse says in its own terms, in those of whoever wrote the recipe."""
    packages = REQUIREMENT.findall(reason)
    if packages:
        needed = " or ".join(f"'{package}'" for package in dict.fromkeys(packages))
        name = "it"
        cls = re.search(r"class_path '([^']+)'", reason)
        if cls:
            _, _, name = cls[1].rpartition(".")
        return f"{name} needs {needed}, which is not installed: pip install {needed}"

    reason = NO_VALUE.sub(r"\1 needs a value: \1=VALUE", reason)
    reason = NO_FILE.sub(r"a mapping is needed, or the file of one, not '\1'", reason)
    return MISSING.sub(
        lambda match: f"{match[1].rpartition('.')[2]} is required",
        reason,
    )


def _under(keys: list[str], clause: str) -> str:
    """A message under the key that it is about.

    `data` and `batch_size: ...` become `data.batch_size: ...`.
    """
    if not keys:
        return clause
    separator = "." if INNER.match(clause) else ": "
    path = ".".join(keys)
    return path + separator + clause


def _short(value: str) -> str:
    value = " ".join(value.split())
    if len(value) <= 60:
        return value
    return value[:57] + "..."


def unknown(message: str, names: Iterable[str]) -> str:
    """One line for options that no parser knows, with the nearest name of each that has one.

    Args:
        message: Message of argparse: `unrecognized arguments: --a=1 --b`.
        names: Names of all options there are.
    """
    names = [name for name in names if name.startswith("--")]
    clauses = []
    _, _, words = message.partition(":")
    for word in words.split():
        if word.startswith("-"):
            option, _, _ = word.partition("=")
            close = _nearest_option(option, names)
            guess = f"; did you mean {close}?" if close else ""
            clauses.append(f"no option {option}{guess}")
    return ", ".join(clauses)


def _nearest_option(option: str, names: Sequence[str]) -> str | None:
    """The name that was meant by an option, None if none is near.

    A name without the key that it belongs under is as near as one with a wrong letter.
    """
    under_key = {}
    for name in reversed(names):
        _, _, key = name.rpartition(".")
        under_key[key] = name
    end = option.lstrip("-")
    if end in under_key:
        return under_key[end]

    for name in difflib.get_close_matches(option, names, n=1, cutoff=0.75):
        return name
    for name in difflib.get_close_matches(end, under_key, n=1, cutoff=0.75):
        return under_key[name]
    return None


def plain(error: Exception) -> str:
    """An error of Lightning, in one line without its links."""
    message = " ".join(str(error).split())
    clause = _reworded(message)
    return LINK.sub("", clause).strip()
