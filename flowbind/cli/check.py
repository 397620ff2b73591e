"""Reads a recipe: resolves registered names, and finds mistakes before they become somebody else's traceback."""

import dataclasses
import typing
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from flowbind import earlier
from flowbind.component import parameters
from flowbind.evaluation.evaluation import EvaluationConfig
from flowbind.files import read_regular
from flowbind.progress import is_first_process, say
from flowbind.registry import installed, load, nearest
from flowbind.train.training import TrainingConfig

MOST_NODES, DEEPEST = 100_000, 100  # of a recipe
LARGEST = 2**20  # bytes of one
REGISTERED = ("methods", "modalities", "codecs", "metrics")


def resolve(node: Any) -> Any:
    """A recipe with every registered name that stands as `class_path` replaced by the dotted path it stands for."""
    if isinstance(node, Mapping):
        node = {key: resolve(value) for key, value in node.items()}
        name = node.get("class_path")
        if isinstance(name, str) and "." not in name:
            for kind in REGISTERED:
                if name in installed(kind):
                    cls = load(kind, name)
                    return node | {"class_path": f"{cls.__module__}.{cls.__qualname__}"}
        return node
    return [resolve(item) for item in node] if isinstance(node, list) else node


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
    """Counts what YAML would unfold to, before it does: a few lines of aliases of aliases make a mapping without end.

    Raises:
        yaml.YAMLError: not YAML.
        ValueError: more than `MOST_NODES` keys and values, deeper than `DEEPEST`, or something that holds itself.
    """
    sizes: dict[str, int] = {}  # of what has an anchor
    open_nodes: list[tuple[str | None, int]] = [
        (None, 0)
    ]  # anchor and number of nodes so far, from the outside in
    for event in yaml.parse(stream, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        anchor, size = getattr(event, "anchor", None), 0
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
        open_nodes[-1] = (open_nodes[-1][0], open_nodes[-1][1] + size)
        if open_nodes[-1][1] > MOST_NODES or len(open_nodes) > DEEPEST:
            raise ValueError(
                f"more than {MOST_NODES} values, aliases unfolded, or deeper than {DEEPEST}"
            )


def check_recipe(path: Path, keys: typing.Collection[str], trainer: type) -> dict[str, Any]:
    """Reads a recipe file and checks every key and class in it.

    Args:
        path: the YAML file.
        keys: what may stand at the top.
        trainer: whose arguments `trainer:` takes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not YAML, or a key or class that does not exist; the nearest one is named.
    """
    try:
        content = read_regular(path, LARGEST)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such recipe") from None
    try:
        recipe = load_yaml(content.decode("utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ValueError(
            f"{path}{where}: not YAML ({' '.join(str(getattr(error, 'problem', None) or error).split())[:200]})"
        ) from None
    if not isinstance(recipe, Mapping):
        raise ValueError(f"{path}: a recipe is a mapping with the keys model, data and trainer")
    recipe, moved = earlier.recipe(recipe)
    if moved and is_first_process():
        places = ", ".join(f"{old} is now {new}" for old, new in moved.items())
        say(f"{path}: a recipe of an earlier version, read by its present places: {places}")
    classes = {"trainer": trainer, "training": TrainingConfig, "evaluation": EvaluationConfig}
    for key, value in recipe.items():
        if key not in keys:
            raise ValueError(f"{path}: unknown key '{key}'; {nearest(str(key), keys)}")
        if key in ("model", "data"):
            _check(value, f"{path}: {key}", None)
        elif key in classes:
            _check_arguments(value or {}, classes[key], f"{path}: {key}")
    return dict(recipe)


def find_class(name: Any, where: str) -> type:
    """The class of a dotted path or a registered name.

    Raises:
        ValueError: there is none.
    """
    if not isinstance(name, str):
        raise ValueError(f"{where}: class_path must be a name, not {name!r:.60}")
    names = [entry for kind in REGISTERED for entry in installed(kind)]
    module, _, attribute = name.rpartition(".")
    if not module:
        raise ValueError(f"{where}: no class '{name}'; {nearest(name, names)}, or a dotted path")
    try:
        found = getattr(import_module(module), attribute)
    except (
        ImportError,
        ValueError,
        TypeError,
    ) as error:  # the last two of names that are dots alone
        raise ValueError(f"{where}: class '{name}' cannot be imported ({error})") from None
    except AttributeError:
        public = [key for key in dir(import_module(module)) if key[0].isupper()]
        raise ValueError(
            f"{where}: {module} has no class '{attribute}'; {nearest(attribute, public)}"
        ) from None
    if not isinstance(found, type):
        raise ValueError(f"{where}: {name} is no class")
    return found


def _check(node: Any, where: str, annotation: Any) -> None:
    if isinstance(node, Mapping) and "class_path" in node:
        for key in node:
            if key not in ("class_path", "init_args", "dict_kwargs"):
                raise ValueError(
                    f"{where}: unknown key '{key}'; {nearest(str(key), ('class_path', 'init_args'))}"
                )
        _check_arguments(node.get("init_args") or {}, find_class(node["class_path"], where), where)
    elif isinstance(node, list):
        for number, item in enumerate(node):
            _check(item, f"{where}[{number}]", None)
    elif isinstance(node, Mapping):
        config = next(
            (a for a in (annotation, *typing.get_args(annotation)) if dataclasses.is_dataclass(a)),
            None,
        )
        if config is not None:
            _check_arguments(node, config, where)
        else:
            value_type = (typing.get_args(annotation) or (None,))[-1]
            for key, value in node.items():
                _check(value, f"{where}.{key}", value_type)


def _check_arguments(given: Any, cls: type, where: str) -> None:
    if not isinstance(given, Mapping):
        raise ValueError(
            f"{where}: the arguments of {cls.__name__} are a mapping, not {given!r:.60}"
        )
    allowed = parameters(cls)
    for key, value in given.items():
        if key not in allowed:
            raise ValueError(f"{where}: unknown key '{key}'; {nearest(str(key), allowed)}")
        _check(value, f"{where}.{key}", allowed[key].annotation)
