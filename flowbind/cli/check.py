"""Reads a recipe: resolves registered names, and finds errors before they become a traceback."""

import dataclasses
import typing
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from flowbind import earlier
from flowbind.cli.loggers import path_of
from flowbind.component import parameters
from flowbind.evaluation.evaluation import EvaluationConfig
from flowbind.files import read_regular
from flowbind.progress import is_first_process, say
from flowbind.registry import did_you_mean, installed, load
from flowbind.train.training import TrainingConfig

MOST_NODES = 100_000  # keys and values of a recipe
DEEPEST = 100  # mappings and lists within one another
LARGEST = 2**20  # bytes of a recipe
REGISTERED = ("methods", "modalities", "codecs", "metrics")


def resolve(node: Any) -> Any:
    """A recipe with every registered name under `class_path` replaced by its dotted path."""
    if isinstance(node, list):
        return [resolve(item) for item in node]
    if not isinstance(node, Mapping):
        return node

    node = {key: resolve(value) for key, value in node.items()}
    name = node.get("class_path")
    if isinstance(name, str) and "." not in name:
        for kind in REGISTERED:
            if name in installed(kind):
                cls = load(kind, name)
                path = f"{cls.__module__}.{cls.__qualname__}"
                return node | {"class_path": path}
        return node | {"class_path": path_of(name) or name}
    return node


def load_yaml(stream: str) -> Any:
    """Parses YAML with registered names resolved; `1e-4` is a number, as people mean it.

    Raises:
        yaml.YAMLError: not YAML.
        ValueError: aliases or nesting make it too large, or a value is not what its tag says.
    """
    from jsonargparse import get_loader

    refuse_bombs(stream)
    return resolve(get_loader("yaml")(stream))


def refuse_bombs(stream: str) -> None:
    """Counts what YAML would unfold to, before it does.

    A few lines of aliases of aliases make a mapping without end.

    Raises:
        yaml.YAMLError: not YAML.
        ValueError: more than `MOST_NODES` keys and values, deeper than `DEEPEST`, or something that
            holds itself.
    """
    sizes: dict[str, int] = {}  # keys and values that each anchor stands for
    # Anchor of each open mapping or list, and its keys and values so far, from the outside in.
    open_nodes: list[tuple[str | None, int]] = [(None, 0)]

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for event in yaml.parse(stream, Loader=loader):
        anchor = getattr(event, "anchor", None)
        size = 0
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((anchor, 1))
        elif isinstance(event, yaml.AliasEvent):
            if anchor not in sizes:
                raise ValueError(
                    f"the alias *{anchor} stands for nothing, or for what it stands in"
                )
            size = sizes[anchor]
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_nodes.pop()

        if anchor is not None and not isinstance(event, yaml.CollectionStartEvent):
            sizes[anchor] = size
        outer_anchor, outer_size = open_nodes[-1]
        size += outer_size
        open_nodes[-1] = (outer_anchor, size)
        if size > MOST_NODES or len(open_nodes) > DEEPEST:
            raise ValueError(
                f"more than {MOST_NODES} values, aliases unfolded, or deeper than {DEEPEST}"
            )


def check_recipe(
    path: Path,
    keys: typing.Collection[str],
    trainer: type,
) -> dict[str, Any]:
    """Reads a recipe file and checks every key and class in it.

    Args:
        path: YAML file of the recipe.
        keys: Keys that may stand at the top.
        trainer: Class whose arguments `trainer:` takes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not YAML, or a key or class that does not exist; the nearest one is named.
    """
    recipe = _read(path)
    if not isinstance(recipe, Mapping):
        raise ValueError(
            f"{path}: a recipe is a mapping with the keys model, data and trainer"
        )

    recipe, moved = earlier.recipe(recipe)
    if moved and is_first_process():
        places = ", ".join(f"{old} is now {new}" for old, new in moved.items())
        say(
            f"{path}: a recipe of an earlier version, read by its present places: {places}"
        )

    classes = {
        "trainer": trainer,
        "training": TrainingConfig,
        "evaluation": EvaluationConfig,
    }
    for key, value in recipe.items():
        if key not in keys:
            hint = did_you_mean(str(key), keys)
            raise ValueError(f"{path}: unknown key '{key}'; {hint}")
        if key in ("model", "data"):
            _check(value, f"{path}: {key}", None)
        elif key in classes:
            _check_arguments(value or {}, classes[key], f"{path}: {key}")
    return dict(recipe)


def _read(path: Path) -> Any:
    """What a YAML file holds; an error names the line."""
    try:
        content = read_regular(path, LARGEST)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such recipe") from None

    try:
        return load_yaml(content.decode("utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        clause = " ".join(str(problem).split())[:200]
        raise ValueError(f"{path}{where}: not YAML ({clause})") from None


def find_class(name: Any, where: str) -> type:
    """The class of a dotted path or a registered name.

    Raises:
        ValueError: there is none.
    """
    if not isinstance(name, str):
        raise ValueError(f"{where}: class_path must be a name, not {name!r:.60}")

    module, _, attribute = name.rpartition(".")
    if not module:
        names: list[str] = []
        for kind in REGISTERED:
            names += installed(kind)
        hint = did_you_mean(name, names)
        raise ValueError(f"{where}: no class '{name}'; {hint}, or a dotted path")

    # A name of dots alone raises ValueError or TypeError.
    try:
        cls = getattr(import_module(module), attribute)
    except (ImportError, ValueError, TypeError) as error:
        raise ValueError(
            f"{where}: class '{name}' cannot be imported ({error})"
        ) from None
    except AttributeError:
        names = dir(import_module(module))
        public = [key for key in names if key[0].isupper()]
        hint = did_you_mean(attribute, public)
        raise ValueError(
            f"{where}: {module} has no class '{attribute}'; {hint}"
        ) from None

    if not isinstance(cls, type):
        raise ValueError(f"{where}: {name} is no class")
    return cls


def configuration_in(annotation: Any) -> type | None:
    """The dataclass that an argument of this type takes, if it takes one."""
    for kind in (annotation, *typing.get_args(annotation)):
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            return kind
    return None


def _check(node: Any, where: str, annotation: Any) -> None:
    """Checks keys and classes of a part of a recipe.

    Args:
        node: Part of the recipe.
        where: File and key of the part, for messages.
        annotation: Type of the argument that it is for, None if that is not known.
    """
    if isinstance(node, list):
        for number, item in enumerate(node):
            _check(item, f"{where}[{number}]", None)
        return
    if not isinstance(node, Mapping):
        return

    if "class_path" in node:
        for key in node:
            if key not in ("class_path", "init_args", "dict_kwargs"):
                hint = did_you_mean(str(key), ("class_path", "init_args"))
                raise ValueError(f"{where}: unknown key '{key}'; {hint}")
        cls = find_class(node["class_path"], where)
        arguments = node.get("init_args") or {}
        _check_arguments(arguments, cls, where)
        return

    config = configuration_in(annotation)
    if config is not None:
        _check_arguments(node, config, where)
        return
    *_, value_type = typing.get_args(annotation) or (None,)
    for key, value in node.items():
        _check(value, f"{where}.{key}", value_type)


def _check_arguments(arguments: Any, cls: type, where: str) -> None:
    """Checks what a class or a dataclass is to be built with."""
    if not isinstance(arguments, Mapping):
        raise ValueError(
            f"{where}: the arguments of {cls.__name__} are a mapping, not {arguments!r:.60}"
        )

    allowed = parameters(cls)
    for key, value in arguments.items():
        if key not in allowed:
            hint = did_you_mean(str(key), allowed)
            raise ValueError(f"{where}: unknown key '{key}'; {hint}")
        annotation = allowed[key].annotation
        _check(value, f"{where}.{key}", annotation)
