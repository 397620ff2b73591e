"""Where in a recipe an option leads: its dotted name is followed through the recipe's classes.

That is done before anything is built. `--model.modalities.image.codec.weights=...` leads through
the class of the model, the mapping of modalities, the class of one and that of its codec. A part
that leads nowhere is an error, which names the nearest one that would. Registered names stand for
classes as they do in a recipe, and a codec that a recipe leaves to its modality is named first, so
that options may go into it.
"""

import copy
import dataclasses
import difflib
import inspect
import os
import re
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from flowbind import earlier
from flowbind.cli.check import configuration_in, find_class, load_yaml
from flowbind.cli.options import Option
from flowbind.codec import Codec
from flowbind.component import parameters
from flowbind.evaluation.evaluation import EvaluationConfig
from flowbind.method import Method
from flowbind.metric import Metric
from flowbind.modality import Modality
from flowbind.progress import is_first_process, say
from flowbind.registry import did_you_mean, installed, load
from flowbind.train.training import TrainingConfig

# Keys of a recipe that have classes.
PARTS = ("model", "training", "evaluation", "data", "trainer")
CONFIGS = {"training": TrainingConfig, "evaluation": EvaluationConfig}
KINDS = {
    Method: "methods",
    Modality: "modalities",
    Codec: "codecs",
    Metric: "metrics",
}
# Modules of types that are values, not classes of a recipe.
PLAIN = ("builtins", "collections.abc", "datetime", "inspect", "pathlib", "typing")
BARE = re.compile(r"[A-Za-z][\w-]*")  # a name without dots
DOTTED = re.compile(r"[A-Za-z]\w*(\.\w+)+")


class Place(NamedTuple):
    """Where a value stands in a recipe: the mapping that has it or will, the key, and its type."""

    holder: dict[str, Any]
    key: str
    type: Any


def merge(recipes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What several recipes say together.

    A later one changes what it names in the earlier ones, and nothing else; so it is in every
    mapping. Where it names another class, the earlier class's arguments go.

    Args:
        recipes: Mappings, a later one over the earlier ones.
    """
    merged: dict[str, Any] = {}
    for recipe in recipes:
        name_both = "class_path" in merged and "class_path" in recipe
        if name_both and merged["class_path"] != recipe["class_path"]:
            merged.pop("init_args", None)

        for key, value in recipe.items():
            if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
                merged[key] = merge([merged[key], value])
            else:
                merged[key] = copy.deepcopy(value)
    return merged


class _Dumper(yaml.SafeDumper):
    """Writes strings in quotes, so that none comes back as a number, and everything in full."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _quoted(dumper: yaml.SafeDumper, words: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", words, style='"')


_Dumper.add_representer(str, _quoted)


def dump(recipe: Mapping[str, Any]) -> str:
    """A recipe as YAML that reads as the same again."""
    return yaml.dump(
        recipe,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
    )


def check_overrides(
    options: Sequence[Option],
    recipe: Mapping[str, Any],
    trainer: type,
) -> list[Option]:
    """Follows every option into the recipe.

    Args:
        options: Options in their order.
        recipe: Merged recipe, its registered names resolved.
        trainer: Class whose arguments `--trainer` takes.

    Returns:
        The options as LightningCLI is to have them, names of classes resolved.

    Raises:
        ValueError: an option that leads nowhere, or a class that does not exist; the message has
            the nearest name.
    """
    recipe = merge([recipe])
    checked: list[Option] = []
    for option in options:
        key, *_ = option.name.removeprefix("--").split(".")
        if key in PARTS and not option.asks_for_help:
            option = _by_present_place(option, recipe)
            place, defaults = _follow(option.name, recipe, trainer)
            if place:
                option = _put(option, place)
            checked += defaults
        checked.append(option)
    return checked


def _by_present_place(option: Option, recipe: Mapping[str, Any]) -> Option:
    """An option of an earlier version under its present name, which a line says; others as is."""
    place = earlier.place_now(option.name.removeprefix("--"))
    model = recipe.get("model") or {}
    if place is None or "class_path" not in model:
        return option

    path = option.name.removeprefix("--").replace(".init_args", "")
    section, key = path.split(".")[:2]
    owner = CONFIGS.get(section)
    if owner is None:
        owner = find_class(model["class_path"], section)
    if key in parameters(owner):  # such as a codec's training has
        return option
    if is_first_process():
        say(f"{option.name} is now --{place}")
    return Option(f"--{place}", option.value)


def _follow(
    name: str,
    recipe: dict[str, Any],
    trainer: type,
) -> tuple[Place | None, list[Option]]:
    """Where an option leads.

    Args:
        name: Dotted name of the option.
        recipe: Recipe that it leads into; mappings on the way that are not there are put into it.
        trainer: Class whose arguments `--trainer` takes.

    Returns:
        The option's place, None where the classes do not say; options naming defaults on the way.
    """
    path_to_value = name.removeprefix("--").removesuffix("+")
    first, *path = path_to_value.split(".")
    if path[-1:] == ["init_args"]:
        return None, []

    types = {"trainer": trainer, **CONFIGS}
    place = Place(recipe, first, types.get(first))
    owner: type | None = None  # class that has the place's key as an argument
    led = f"--{first}"
    defaults: list[Option] = []

    for part in path:
        defaults += _named_default(place, owner, led)
        value = _value_at(place)
        config = configuration_in(place.type)
        if place.type is trainer:
            config = trainer

        if isinstance(value, dict) and "class_path" in value:
            if part == "class_path":
                place = Place(value, part, place.type)
            if part in ("class_path", "init_args"):
                continue

            # Lightning's parser knows its own classes by name.
            if part == "dict_kwargs" or "." not in str(value["class_path"]):
                return None, defaults
            owner = find_class(value["class_path"], led)
            holder = _mapping(value, "init_args")
        elif config:
            owner = config
            holder = _mapping(place.holder, place.key)
        elif typing.get_origin(place.type) is dict:
            place = _entry(name, part, place, is_last=part == path[-1])
            owner = None
            led = f"{led}.{part}"
            continue
        else:
            _refuse_classless(name, led, value, place.type)
            return None, defaults

        type_of_part = _type_of(part, owner, led)
        place = Place(holder, part, type_of_part)
        led = f"{led}.{part}"
    return place, defaults


def _entry(
    name: str,
    part: str,
    place: Place,
    is_last: bool,
) -> Place:
    """Where an entry of a mapping stands.

    Raises:
        ValueError: there is none of this name, and the option leads on from it.
    """
    entries = _mapping(place.holder, place.key)
    if part not in entries and not is_last:
        hint = did_you_mean(part, entries)
        raise ValueError(f"{name}: the recipe has no '{part}' there; {hint}")

    _, type_of_entry = typing.get_args(place.type)
    return Place(entries, part, type_of_entry)


def _refuse_classless(
    name: str,
    led: str,
    value: Any,
    annotation: Any,
) -> None:
    if value is None and _are_abstract(_classes(annotation)):
        raise ValueError(
            f"{name}: {led} has no class yet; name it first, by {led}=NAME"
        )


def _are_abstract(classes: Sequence[type]) -> bool:
    """Whether there are classes, and none of them can be built."""
    if not classes:
        return False
    return all(map(inspect.isabstract, classes))


def _value_at(place: Place) -> Any:
    """The value that stands at a place; of a list the last element, which options mean."""
    value = place.holder.get(place.key)
    if isinstance(value, list) and value:
        return value[-1]
    return value


def _named_default(
    place: Place,
    owner: type | None,
    led: str,
) -> list[Option]:
    """Names the class that a recipe leaves to its owner, such as a modality's codec.

    Args:
        place: Place of the class, which the recipe may have left empty.
        owner: Class that has it as an argument.
        led: Option that leads to the place.

    Returns:
        An option that names the class, if the recipe does not.
    """
    default = getattr(owner, f"default_{place.key}", None)
    if default is None or _value_at(place) is not None:
        return []
    path = _path(default)
    place.holder[place.key] = {"class_path": path}
    return [Option(led, path)]


def _type_of(argument: str, owner: type, led: str) -> Any:
    """The type of a class's argument.

    Args:
        argument: Name of the argument.
        owner: Class that is to have it.
        led: Option that leads to the class.

    Raises:
        ValueError: the class has no such argument.
    """
    allowed = parameters(owner)
    if argument in allowed:
        return allowed[argument].annotation

    near = _near(argument, allowed, led)
    raise ValueError(f"no option {led}.{argument}; {near}")


def _put(option: Option, place: Place) -> Option:
    """Puts an option's value into the recipe, so that later ones may go deeper.

    Args:
        option: Option that leads to the place.
        place: Place of its value.

    Returns:
        The option with its class resolved.

    Raises:
        ValueError: a class that does not exist.
    """
    value = option.value or ""
    classes = _classes(place.type)
    if os.path.isfile(value):  # a part of a recipe, which the parser reads
        return option

    kind = _kind_of(classes)
    if kind and BARE.fullmatch(value) and value != "null":
        if value not in installed(kind):
            hint = did_you_mean(value, installed(kind))
            raise ValueError(f"{option.name}: no {kind} named '{value}'; {hint}")
        cls = load(kind, value)
        option = Option(option.name, _path(cls))
    elif (classes or place.type is None) and DOTTED.fullmatch(value):
        find_class(value, option.name)

    try:
        parsed = load_yaml(option.value or "")
    except (yaml.YAMLError, ValueError):
        return option  # the parser says what is wrong with it
    if isinstance(parsed, str) and classes and place.key != "class_path":
        parsed = {"class_path": parsed}
    place.holder[place.key] = parsed
    return option


def _kind_of(classes: Sequence[type]) -> str | None:
    """What classes are registered as, such as `codecs`; None if they are not."""
    for base, kind in KINDS.items():
        if any(issubclass(cls, base) for cls in classes):
            return kind
    return None


def _classes(annotation: Any) -> list[type]:
    """The classes whose instances an argument takes, alone or in a list.

    Plain values and configurations are none.
    """
    parts = typing.get_args(annotation)
    if parts:
        classes = []
        for part in parts:
            classes += _classes(part)
        return classes

    if not isinstance(annotation, type) or annotation.__module__ in PLAIN:
        return []
    if dataclasses.is_dataclass(annotation):
        return []
    return [annotation]


def names_below(recipe: Mapping[str, Any]) -> list[str]:
    """The options that lead to an argument of a recipe's model and data."""
    classes: list[tuple[str, type]] = []
    for part in ("model", "data"):
        section = recipe.get(part) or {}
        path = section.get("class_path")
        if path:
            cls = find_class(path, part)
            classes.append((part, cls))

    names: list[str] = []
    for part, cls in [*classes, *CONFIGS.items()]:
        for name in parameters(cls):
            names.append(f"--{part}.{name}")
    return names


def _near(name: str, allowed: Collection[str], led: str) -> str:
    """The option meant by a name that leads nowhere, or all that lead on from there."""
    close = difflib.get_close_matches(name, allowed, n=1)
    if close:
        return f"did you mean {led}.{close[0]}?"
    names = ", ".join(sorted(allowed)) or "none"
    return f"{led} has {names}"


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _mapping(holder: dict[str, Any], key: str) -> dict[str, Any]:
    """The mapping under a key, an empty one if there is something else."""
    if not isinstance(holder.get(key), dict):
        holder[key] = {}
    return holder[key]
