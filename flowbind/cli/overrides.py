"""Where in a recipe an option leads: its dotted name is followed through the recipe's classes before anything is built.

`--model.modalities.image.codec.weights=...` leads through the class of the model, the mapping of modalities, the class of
one and that of its codec. A part that leads nowhere is told with the nearest name that would. Registered names stand for
classes as they do in a recipe, and a codec that a recipe leaves to its modality is named first, so that options may go
into it.
"""

import copy
import dataclasses
import difflib
import inspect
import re
import typing
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from flowbind import earlier
from flowbind.cli.check import find_class, load_yaml
from flowbind.cli.options import Option
from flowbind.codec import Codec
from flowbind.component import parameters
from flowbind.evaluation.evaluation import EvaluationConfig
from flowbind.method import Method
from flowbind.metric import Metric
from flowbind.modality import Modality
from flowbind.registry import installed, load, nearest
from flowbind.train.training import TrainingConfig

PARTS = (
    "model",
    "training",
    "evaluation",
    "data",
    "trainer",
)  # of a recipe; its other keys have no classes
CONFIGS = {"training": TrainingConfig, "evaluation": EvaluationConfig}
KINDS = {Method: "methods", Modality: "modalities", Codec: "codecs", Metric: "metrics"}
# Modules of types that are values, not classes of a recipe.
PLAIN = ("builtins", "collections.abc", "datetime", "inspect", "pathlib", "typing")
BARE = re.compile(r"[A-Za-z][\w-]*")  # a name without dots
DOTTED = re.compile(r"[A-Za-z]\w*(\.\w+)+")


class Place(NamedTuple):
    """Where a value stands in a recipe: the mapping that has it or is to have it, the key there, and its type."""

    holder: dict[str, Any]
    key: str
    type: Any


def merge(recipes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What several recipes say together: a later one changes what it names in the earlier ones, and nothing else.

    So it is in every mapping. Where it names another class, the arguments are those of the other one and go.
    """
    merged: dict[str, Any] = {}
    for recipe in recipes:
        other_class = {"class_path"} <= merged.keys() & recipe.keys() and merged[
            "class_path"
        ] != recipe["class_path"]
        if other_class:
            merged = {key: value for key, value in merged.items() if key != "init_args"}
        for key, value in recipe.items():
            both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
            merged[key] = merge([merged[key], value]) if both else copy.deepcopy(value)
    return merged


class _Dumper(yaml.SafeDumper):
    """Writes strings in quotes, so that none of them comes back as a number, and everything in full."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    str, lambda dumper, words: dumper.represent_scalar("tag:yaml.org,2002:str", words, style='"')
)


def dump(recipe: Mapping[str, Any]) -> str:
    """A recipe as YAML that reads as the same again."""
    return yaml.dump(recipe, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def check_overrides(
    options: Sequence[Option], recipe: Mapping[str, Any], trainer: type
) -> list[Option]:
    """Follows every option into the recipe. Returns them as LightningCLI is to have them, names of classes resolved.

    Args:
        options: in their order.
        recipe: merged, its registered names resolved.
        trainer: whose arguments `--trainer` takes.

    Raises:
        ValueError: an option that leads nowhere, or a class that does not exist; the nearest name is told.
    """
    recipe = merge([recipe])
    checked: list[Option] = []
    for option in options:
        if option.name.removeprefix("--").split(".")[0] in PARTS and not option.asks_for_help:
            place, defaults = _follow(option.name, recipe, trainer)
            option = _put(option, place) if place else option
            checked += defaults
        checked.append(option)
    return checked


def _follow(name: str, recipe: dict[str, Any], trainer: type) -> tuple[Place | None, list[Option]]:
    """The place that an option leads to, None where the classes do not tell; and options that name defaults on the way."""
    first, *path = name.removeprefix("--").removesuffix("+").split(".")
    if path and path[-1] == "init_args":
        return None, []

    place, owner, led = (
        Place(recipe, first, {"trainer": trainer, **CONFIGS}.get(first)),
        None,
        f"--{first}",
    )
    defaults: list[Option] = []
    for part in path:
        value = place.holder.get(place.key)
        value = (
            value[-1] if isinstance(value, list) and value else value
        )  # options mean the last element
        default = getattr(owner, f"default_{place.key}", None)
        if value is None and default:
            value = place.holder[place.key] = {"class_path": _path(default)}
            defaults.append(Option(led, _path(default)))

        if isinstance(value, dict) and "class_path" in value:
            if part == "class_path":
                place = Place(value, part, place.type)
            if part in ("class_path", "init_args"):
                continue
            if part == "dict_kwargs" or "." not in str(
                value["class_path"]
            ):  # Lightning's parser knows its own by name
                return None, defaults
            owner, holder = find_class(value["class_path"], led), _mapping(value, "init_args")
        elif config := _configuration(place.type) or (trainer if place.type is trainer else None):
            owner, holder = config, _mapping(place.holder, place.key)
        elif typing.get_origin(place.type) is dict:
            entries = _mapping(place.holder, place.key)
            if part not in entries and part != path[-1]:
                raise ValueError(
                    f"{name}: the recipe has no '{part}' there; {nearest(part, entries)}"
                )
            owner, led, place = (
                None,
                f"{led}.{part}",
                Place(entries, part, typing.get_args(place.type)[1]),
            )
            continue
        else:
            classes = _classes(place.type)
            if value is None and classes and all(map(inspect.isabstract, classes)):
                raise ValueError(f"{name}: {led} has no class yet; name it first, by {led}=NAME")
            return None, defaults

        allowed = parameters(owner)
        if part not in allowed:
            now = earlier.place_now(f"{led}.{part}".removeprefix("--"))
            near = f"it is --{now} now" if now else _near(part, allowed, led)
            raise ValueError(f"no option {led}.{part}; {near}")
        place, led = Place(holder, part, allowed[part].annotation), f"{led}.{part}"
    return place, defaults


def _put(option: Option, place: Place) -> Option:
    """Puts an option's value into the recipe, so that later ones may go deeper. Returns it with its class resolved.

    Raises:
        ValueError: a class that does not exist.
    """
    value, classes = option.value or "", _classes(place.type)
    if Path(value).is_file():  # a part of a recipe, which the parser reads
        return option

    kinds = [kind for base, kind in KINDS.items() if any(issubclass(cls, base) for cls in classes)]
    if kinds and BARE.fullmatch(value) and value != "null":
        if value not in installed(kinds[0]):
            raise ValueError(
                f"{option.name}: no {kinds[0]} named '{value}'; {nearest(value, installed(kinds[0]))}"
            )
        option = Option(option.name, _path(load(kinds[0], value)))
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


def _classes(annotation: Any) -> list[type]:
    """The classes whose instances an argument takes, alone or in a list; not plain values, nor configurations."""
    parts = typing.get_args(annotation)
    if parts:
        return [cls for part in parts for cls in _classes(part)]
    is_plain = (
        not isinstance(annotation, type)
        or annotation.__module__ in PLAIN
        or dataclasses.is_dataclass(annotation)
    )
    return [] if is_plain else [annotation]


def _configuration(annotation: Any) -> type | None:
    """The dataclass that an argument takes, if it takes one."""
    return next(
        (
            kind
            for kind in (annotation, *typing.get_args(annotation))
            if dataclasses.is_dataclass(kind)
        ),
        None,
    )


def names_below(recipe: Mapping[str, Any]) -> list[str]:
    """The options that lead to an argument of a recipe's model and data."""
    names: list[str] = []
    for part in ("model", "data"):
        path = (recipe.get(part) or {}).get("class_path")
        names += [f"--{part}.{name}" for name in parameters(find_class(path, part))] if path else []
    for part, config in CONFIGS.items():
        names += [f"--{part}.{name}" for name in parameters(config)]
    return names


def _near(name: str, allowed: Collection[str], led: str) -> str:
    """The option meant by a name that leads nowhere, or all that lead on from there."""
    close = difflib.get_close_matches(name, allowed, n=1)
    return (
        f"did you mean {led}.{close[0]}?"
        if close
        else f"{led} has {', '.join(sorted(allowed)) or 'none'}"
    )


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _mapping(holder: dict[str, Any], key: str) -> dict[str, Any]:
    """The mapping under a key, an empty one if there is something else."""
    if not isinstance(holder.get(key), dict):
        holder[key] = {}
    return holder[key]
