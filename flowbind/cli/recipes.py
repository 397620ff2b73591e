"""`flowbind recipes`: flowbind's own recipes, copies of them, and what their keys are for."""

import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from flowbind.cli.annotated import Value, headline, values_in
from flowbind.cli.keys import RESUME, SECTIONS, Key, keys_of
from flowbind.cli.parser import Parser, path, run_action
from flowbind.files import check_place, replacing
from flowbind.registry import did_you_mean, installed
from flowbind.shipped import FOLDER, shipped_folder, shipped_recipes

SUFFIX = ".yaml"
EXPLAINED = f"{FOLDER}/shapes{SUFFIX}"  # whose remarks explain every key
LEAST = 40  # characters of a terminal's line that are worth cutting a sentence for
MOST = 6  # other values of a key that are shown
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
    with replacing(target) as partial:
        partial.write_bytes(_file_of(recipe).read_bytes())
    print(f"{target}: a copy of {recipe}; its first lines say how to run it")


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
    asked = parser.parse_args(words).key.replace(".init_args", "")

    # A key of this name or, where there is none, those that end so.
    keys = _all_keys()
    matches = [(key, owner) for key, owner in keys if key.name == asked]
    if not matches:
        matches = [
            (key, owner) for key, owner in keys if key.name.endswith(f".{asked}")
        ]
    values = _values() if matches else {}
    paragraphs = [_paragraph(key, owner, values) for key, owner in matches]

    # What lies within, and the classes of this name.
    sections = tuple(f"{key.name}." for key, _ in matches) or f"{asked}."
    within = [(key, owner) for key, owner in keys if key.name.startswith(sections)]
    if within:
        paragraphs.append(_table(within))
    paragraphs += _classes(asked)

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


def _all_keys() -> list[tuple[Key, str]]:
    """Every key that a recipe may have, and the method that has it, empty for those of all."""
    keys = []
    for method, entry in installed("methods").items():
        for key in keys_of("model", entry.value):
            keys.append((key, method))
    for section, owner in SECTIONS.items():
        for key in keys_of(section, owner):
            keys.append((key, ""))
    keys.append((RESUME, ""))
    return keys


def _classes(name: str) -> list[str]:
    """The keys of the classes registered under a name."""
    tables = []
    for kind, word in KINDS.items():
        entry = installed(kind).get(name)
        if entry:
            keys = [(key, "") for key in keys_of(name, entry.value)]
            heading = f"the {word} {name}"
            tables.append(
                f"{heading}\n{_table(keys)}" if keys else f"{heading}: no keys"
            )
    entry = installed("methods").get(name)
    if entry:
        keys = [(key, "") for key in keys_of("model", entry.value)]
        tables.append(f"the method {name}\n{_table(keys)}")
    return tables


def _table(keys: Sequence[tuple[Key, str]]) -> str:
    """A line for each key: its name, default, and first sentence."""
    width = max(len(_title(key, owner)) for key, owner in keys)
    lines = []
    for key, owner in keys:
        first, _, _ = key.about.partition(". ")
        about = first.rstrip(".")
        lines.append(f"  {_title(key, owner):{width}}  {about} ({_default_of(key)})")
    return "\n".join(lines)


def _title(key: Key, owner: str) -> str:
    return f"{key.name} of {owner}" if owner else key.name


def _default_of(key: Key) -> str:
    if key.default is None:
        return "required"
    if key.is_section and key.default not in (None, "None"):
        return "each has its default"
    words = {"None": "null", "True": "true", "False": "false"}
    return f"{words.get(key.default, key.default)} by default"


def _paragraph(key: Key, owner: str, values: Mapping[str, Mapping[str, Value]]) -> str:
    """All that is known of a key."""
    lines = [f"{_title(key, owner)}: {_type_of(key)}, {_default_of(key)}"]
    if key.about:
        lines.append(f"  {key.about}")

    here = values[EXPLAINED].get(key.name)
    is_same = not owner or owner == _method_of(EXPLAINED, values[EXPLAINED])
    if here and is_same:
        remark = f"  # {here.remark}" if here.remark else ""
        lines.append(f"  {EXPLAINED} has {here.written}{remark}")

    recipes_of: dict[str, list[str]] = {}
    for recipe, given in values.items():
        is_other = owner and _method_of(recipe, given) != owner
        if recipe != EXPLAINED and key.name in given and not is_other:
            recipes_of.setdefault(given[key.name].written, []).append(recipe)
    for written, recipes in list(recipes_of.items())[:MOST]:
        others = f" and {len(recipes) - 1} more" if len(recipes) > 1 else ""
        lines.append(f"  {written} in {recipes[0]}{others}")

    lines.append(f"  as an option: --{key.name} VALUE")
    return "\n".join(lines)


def _method_of(recipe: str, given: Mapping[str, Value]) -> str:
    """The method that a recipe names, or whose folder an overlay lies in."""
    method = given.get("model.class_path")
    return method.written if method else Path(recipe).parent.name


def _type_of(key: Key) -> str:
    """The type of a key's values in words, where it is a plain one."""
    kind = key.type.removesuffix(" | None")
    if key.is_section:
        return "a mapping of the keys below"
    if kind.startswith("Literal["):
        return "one of " + kind.removeprefix("Literal[").rstrip("]").replace("'", "")
    return TYPES.get(kind, kind)


def _values() -> dict[str, dict[str, Value]]:
    """The values of every recipe."""
    return {name: values_in(_file_of(name)) for name in shipped_recipes()}
