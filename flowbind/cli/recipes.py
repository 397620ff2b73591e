"""`flowbind recipes`: flowbind's own recipes, copies of them, and what their keys are for."""

import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from flowbind.cli.annotated import Value, headline, values_in
from flowbind.cli.keys import (
    ARGUMENTS,
    CLASS,
    RESUME,
    SECTIONS,
    SEED,
    Key,
    keys_of,
    sampling_of,
)
from flowbind.cli.parser import Parser, path, run_action
from flowbind.files import check_place, replacing
from flowbind.registry import did_you_mean, installed
from flowbind.shipped import FOLDER, shipped_folder, shipped_recipes

SUFFIX = ".yaml"
EXPLAINED = f"{FOLDER}/shapes{SUFFIX}"  # whose remarks explain every key
LEAST = 40  # characters of a terminal's line that are worth cutting a sentence for
MOST = 6  # other values of a key that are shown
FEW = 2  # classes that have one key, which are all named
HOLDS = re.compile(
    r"\b(dict|(?!Literal|None)[A-Z])"
)  # of a type: a mapping, or a class
SAMPLING = "evaluation.sampling"

# A key, and the class that has it, empty for one of every recipe.
Owned = tuple[Key, str]
# Registered classes whose arguments stand in recipes, and what one of them is called.
KINDS = {
    "modalities": "modality",
    "codecs": "codec",
    "metrics": "metric",
}
TYPES = {
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "str": "a string",
}
USAGE = """usage: flowbind recipes [{copy,explain} ...]

Lists flowbind's own recipes, with a line each.

  copy NAME       copies one, to be changed
  explain KEY     what a key of recipes is for, such as training.learning_rate; or the keys of a
                  method, modality, codec or metric

`flowbind recipes copy --help` and `flowbind recipes explain --help` tell more."""


def run(verb: str, arguments: list[str]) -> None:
    """Lists the recipes, or does what the first argument says."""
    if not arguments:
        _list()
        return

    actions = {"copy": _copy, "explain": _explain}
    run_action(verb, arguments, actions, USAGE, ", or nothing for a list")


def _list() -> None:
    """Prints every recipe with its first sentence, the outermost first."""
    names = shipped_recipes()
    names.sort(key=lambda name: (name.count("/"), name))
    width = max(map(len, names))
    room = shutil.get_terminal_size().columns - width - 2

    for name in names:
        sentence = headline(_file_of(name))
        if sys.stdout.isatty() and room > LEAST:
            sentence = textwrap.shorten(sentence, room, placeholder=" ...")
        print(f"{name:{width}}  {sentence}")


def _file_of(name: str) -> Path:
    return shipped_folder() / name.removeprefix(f"{FOLDER}/")


def _find(name: str) -> str:
    """The recipe that is meant by a name, with or without folder and suffix.

    Raises:
        ValueError: none is, or several are.
    """
    names = shipped_recipes()
    path = name.removeprefix(f"{FOLDER}/").removesuffix(SUFFIX)
    exact = f"{FOLDER}/{path}{SUFFIX}"
    if exact in names:
        return exact

    meant = [other for other in names if other.endswith(f"/{path}{SUFFIX}")]
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise ValueError(f"'{name}' may be {' or '.join(meant)}; give more of its path")
    raise ValueError(f"no recipe '{name}'; {did_you_mean(exact, names)}")


def _copy(verb: str, arguments: Sequence[str]) -> None:
    """Copies a recipe to where it can be changed."""
    parser = Parser(verb, "Copies one of flowbind's own recipes, to be changed.")
    parser.add_argument("name", metavar="NAME", help="the recipe, such as shapes")
    parser.add_argument(
        "--out", type=path, metavar="FILE", help="file that receives it; NAME.yaml here"
    )
    options = parser.parse_args(arguments)

    recipe = _find(options.name)
    target = options.out or Path(Path(recipe).name)
    if target.exists():
        raise ValueError(f"{target}: is there already; give another --out")
    check_place(target)
    content = _file_of(recipe).read_text(encoding="utf-8")
    with replacing(target) as partial:
        partial.write_text(_renamed(content, recipe, str(target)), encoding="utf-8")
    print(f"{target}: a copy of {recipe}; its first lines say how to run it")


def _renamed(content: str, recipe: str, name: str) -> str:
    """A recipe whose first lines, which say how to run it, call it by its new name."""
    lines = content.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if not line.startswith("#"):
            break
        lines[number] = line.replace(recipe, name)
    return "".join(lines)


def _explain(verb: str, arguments: Sequence[str]) -> None:
    """Prints what a key is for, its type and default, and what recipes give."""
    parser = Parser(verb, "Explains a key of recipes, or the keys of a class.")
    parser.add_argument(
        "key",
        metavar="KEY",
        help="a key, whole (training.learning_rate) or its end (learning_rate); a section "
        "(model.objective); or the registered name of a modality, codec, method or metric",
    )
    # As an option, too.
    words = [
        word if word in ("-h", "--help") else word.lstrip("-") for word in arguments
    ]
    asked = parser.parse_args(words).key

    values = all_values()
    keys = all_keys(values)
    paragraphs = explain(asked, keys, values)
    if not paragraphs:
        names = {key.name for key, _ in keys}
        lasts = {name.rpartition(".")[2] for name in names}
        close = did_you_mean(asked, names if "." in asked else lasts)
        question, _, _ = close.partition("allowed:")
        raise ValueError(
            f"no key '{asked}'; {question}`flowbind fit --help` lists those of every recipe, "
            "`flowbind recipes explain model` those of the methods"
        )
    print("\n\n".join(paragraphs))


def explain(
    asked: str,
    keys: Sequence[Owned],
    values: Mapping[str, Mapping[str, Value]],
) -> list[str]:
    """What is known of a key, a section or a registered class, in paragraphs; none if it is nothing.

    Args:
        asked: Name of a key, whole or its end, or of a section or a class.
        keys: All keys, with the class that has each.
        values: Values of all recipes.
    """
    asked = asked.replace(".init_args.", ".").removeprefix("init_args.")
    matches = _matching(asked, keys)
    paragraphs = _paragraphs(matches, values)

    # What lies within, and the classes of this name.
    sections = tuple(f"{key.name}." for key, _ in matches) or f"{asked}."
    within = [(key, owner) for key, owner in keys if key.name.startswith(sections)]
    if within:
        paragraphs.append(_table(within))
    paragraphs += _classes(asked)

    # Or else what it lies in, and arguments of installed classes.
    if not paragraphs:
        paragraphs = _paragraphs(_around(asked, keys), values)
        arguments = _arguments_of_classes(asked.rpartition(".")[2])
        if arguments:
            paragraphs.append(_table(arguments))
    return paragraphs


def all_keys(values: Mapping[str, Mapping[str, Value]]) -> list[Owned]:
    """Every key that a recipe may have, and the class that has it, empty for those of all."""
    keys = [(SEED, ""), (RESUME, ""), (CLASS, ""), (ARGUMENTS, "")]
    for method, entry in installed("methods").items():
        keys += _owned("model", entry.value, method)
        sampling = sampling_of(entry.value)
        if sampling:
            keys += _owned(SAMPLING, sampling, method)
    for section, owner in SECTIONS.items():
        keys += _owned(section, owner, "")

    # Classes without a registered name, such as those that train codecs.
    places = {}
    for given in values.values():
        for section in ("model", "data"):
            name = given.get(f"{section}.class_path", Value("", "")).written
            module, _, cls = name.rpartition(".")
            if module and f"{module}:{cls}" not in SECTIONS.values():
                places[section, f"{module}:{cls}"] = cls
    for (section, owner), cls in places.items():
        keys += _owned(section, owner, cls)
    return keys


def _owned(section: str, owner: str, name: str) -> list[Owned]:
    return [(key, name) for key in keys_of(section, owner)]


def _matching(asked: str, keys: Sequence[Owned]) -> list[Owned]:
    """The keys of a name or, where there is none, those that end so."""
    matches = [(key, owner) for key, owner in keys if key.name == asked]
    if matches:
        return matches
    if asked.endswith((f".{CLASS.name}", f".{ARGUMENTS.name}")):
        return _matching(asked.rpartition(".")[2], keys)
    return [(key, owner) for key, owner in keys if key.name.endswith(f".{asked}")]


def _around(asked: str, keys: Sequence[Owned]) -> list[Owned]:
    """The nearest key that may hold a name: one of a mapping, or of a class."""
    while "." in asked:
        asked, _, _ = asked.rpartition(".")
        holders = []
        for key, owner in keys:
            if key.name == asked and HOLDS.search(key.type):
                holders.append((key, owner))
        if holders:
            return holders
    return []


def _arguments_of_classes(name: str) -> list[Owned]:
    """The keys of this name that registered classes have."""
    keys = []
    for kind in KINDS:
        for registered, entry in installed(kind).items():
            for key in keys_of(registered, entry.value):
                if key.name.endswith(f".{name}"):
                    keys.append((key, ""))
    return keys


def _together(keys: Iterable[Owned]) -> dict[Key, list[str]]:
    """The classes that have the same key, which is told once."""
    owners: dict[Key, list[str]] = {}
    for key, owner in keys:
        owners.setdefault(key, []).append(owner)
    return owners


def _classes(name: str) -> list[str]:
    """The keys of the classes registered under a name."""
    tables = []
    for kind, word in KINDS.items():
        entry = installed(kind).get(name)
        if entry:
            keys = _owned(name, entry.value, "")
            heading = f"the {word} {name}"
            tables.append(
                f"{heading}\n{_table(keys)}" if keys else f"{heading}: no keys"
            )
    entry = installed("methods").get(name)
    if entry:
        keys = _owned("model", entry.value, "")
        sampling = sampling_of(entry.value)
        if sampling:
            keys += _owned(SAMPLING, sampling, "")
        tables.append(f"the method {name}\n{_table(keys)}")
    return tables


def _table(keys: Sequence[Owned]) -> str:
    """A line for each key: its name, default, and first sentence."""
    rows = []
    for key, owners in _together(keys).items():
        first, _, _ = key.about.partition(". ")
        rows.append((_title(key, owners), first.rstrip("."), _default_of(key)))
    width = max(len(title) for title, _, _ in rows)
    return "\n".join(
        f"  {title:{width}}  {about} ({end})" for title, about, end in rows
    )


def _title(key: Key, owners: Sequence[str]) -> str:
    names = [owner for owner in owners if owner]
    more = f" and {len(names) - 1} more" if len(names) > FEW else ""
    listed = " and ".join(names[:1] if more else names)
    return f"{key.name} of {listed}{more}" if names else key.name


def _default_of(key: Key) -> str:
    if key.default is None:
        return "required"
    if key.is_section and key.default not in (None, "None"):
        return "each has its default"
    words = {"None": "null", "True": "true", "False": "false"}
    return f"{words.get(key.default, key.default)} by default"


def _paragraphs(
    keys: Sequence[Owned], values: Mapping[str, Mapping[str, Value]]
) -> list[str]:
    """All that is known of some keys, one of several classes told once."""
    paragraphs = []
    for key, owners in _together(keys).items():
        paragraphs.append(_paragraph(key, owners, values))
    return paragraphs


def _paragraph(
    key: Key,
    owners: Sequence[str],
    values: Mapping[str, Mapping[str, Value]],
) -> str:
    """All that is known of a key."""
    lines = [f"{_title(key, owners)}: {_type_of(key)}, {_default_of(key)}"]
    if key.about:
        lines.append(f"  {key.about}")

    given = {}
    for recipe, recipe_values in values.items():
        if key.name in recipe_values and _owners_in(recipe, recipe_values) & {*owners}:
            given[recipe] = recipe_values[key.name]

    here = given.pop(EXPLAINED, None)
    if here:
        remark = f"  # {here.remark}" if here.remark else ""
        lines.append(f"  {EXPLAINED} has {here.written}{remark}")

    recipes_of: dict[str, list[str]] = {}
    for recipe, value in given.items():
        recipes_of.setdefault(value.written, []).append(recipe)
    for written, recipes in list(recipes_of.items())[:MOST]:
        others = f" and {len(recipes) - 1} more" if len(recipes) > 1 else ""
        lines.append(f"  {written} in {recipes[0]}{others}")

    if key not in (CLASS, ARGUMENTS):
        lines.append(f"  as an option: --{key.name} VALUE")
    return "\n".join(lines)


def _owners_in(recipe: str, given: Mapping[str, Value]) -> set[str]:
    """Classes whose keys a recipe may have: those that it names, or that its folder is named after."""
    owners = {"", Path(recipe).parent.name}
    for section in ("model", "data"):
        if f"{section}.class_path" in given:
            owners.add(given[f"{section}.class_path"].written.rpartition(".")[2])
    return owners


def _type_of(key: Key) -> str:
    """The type of a key's values in words, where it is a plain one."""
    kind = key.type.removesuffix(" | None")
    if key.is_section:
        return "a mapping of the keys below"
    if kind.startswith("Literal["):
        return "one of " + kind.removeprefix("Literal[").rstrip("]").replace("'", "")
    return TYPES.get(kind, kind)


def all_values() -> dict[str, dict[str, Value]]:
    """The values of every recipe."""
    return {name: values_in(_file_of(name)) for name in shipped_recipes()}
