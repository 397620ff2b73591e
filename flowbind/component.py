"""Light descriptions of parts, as JSON, and the parts made again from them.

A codec, a modality, a metric or a method is a component: constructing one loads nothing, and every
constructor argument is kept as the attribute of the same name. So its class's registered name and
its arguments say all that there is to know, which is what released models and checkpoints keep.
Nothing in a description can run code: classes are found by registered name alone.
"""

import inspect
from abc import ABC
from collections.abc import Iterator, Mapping
from dataclasses import asdict, is_dataclass
from types import UnionType
from typing import Any, ClassVar, Self, Union, get_args, get_origin, get_type_hints

import torch
from torch import nn

from flowbind import registry

VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
PLAIN = (str, int, float, bool, type(None))  # types that an argument may have in JSON


class Component(ABC):
    """Anything that plugins register and that is made again from JSON.

    Attributes:
        group: Group of registered names, such as `codecs`.
    """

    group: ClassVar[str]

    def arguments(self) -> dict[str, Any]:
        """The constructor arguments, each from the attribute of the same name."""
        names = parameters(type(self))
        return {name: getattr(self, name) for name in names}

    def describe(self) -> dict[str, Any]:
        """How to make it again, as JSON: `name`, under which its class is registered, and `args`.

        Raises:
            ValueError: its class, or that of a part, is not registered.
        """
        args = {}
        for argument, value in self.arguments().items():
            args[argument] = as_json(value)

        name = registry.name_of(self.group, type(self))
        return {"name": name, "args": args}

    @classmethod
    def rebuild(cls, description: Mapping[str, Any]) -> Self:
        """Makes what `describe` described.

        Raises:
            KeyError, TypeError, ValueError: it is no description of one; what the class itself
                raises of arguments that it does not take.
        """
        component = registry.load(cls.group, description["name"])
        types = argument_types(component)

        arguments = {}
        for name, value in dict(description["args"]).items():
            kind = types.get(name)
            arguments[name] = _rebuild(component, name, kind, value)
        return component(**arguments)


def parameters(cls: type) -> dict[str, inspect.Parameter]:
    """The arguments of a class by name, with those of its base where it passes `**kwargs` on."""
    allowed: dict[str, inspect.Parameter] = {}
    for owner in cls.__mro__:
        if vars(owner).get("__init__") is object.__init__:
            break
        if "__init__" not in vars(owner):
            continue

        signature = inspect.signature(vars(owner)["__init__"])
        passes_on = False
        for name, parameter in signature.parameters.items():
            if parameter.kind == inspect.Parameter.VAR_KEYWORD:
                passes_on = True
            elif name != "self" and parameter.kind not in VARIABLE:
                allowed[name] = parameter
        if not passes_on:
            break
    return allowed


def argument_types(cls: type) -> dict[str, Any]:
    """The types of a class's constructor arguments, from its annotations and its base classes'."""
    hints: dict[str, Any] = {}
    for owner in reversed(cls.__mro__):
        if "__init__" in vars(owner) and owner is not object:
            hints |= get_type_hints(vars(owner)["__init__"])
    return hints


def as_json(value: Any) -> Any:
    """An argument as JSON: components and configurations described, all else as it is."""
    if isinstance(value, Component):
        return value.describe()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Mapping):
        return {key: as_json(part) for key, part in value.items()}
    return value


def _rebuild(
    cls: type,
    name: str,
    kind: Any,
    value: Any,
) -> Any:
    """An argument of a class from its description, made to the type that is annotated."""
    alternatives = [kind, *get_args(kind)]
    component = next((part for part in alternatives if _is_a(part, Component)), None)
    config: Any = next((part for part in alternatives if is_dataclass(part)), None)

    if isinstance(value, Mapping) and get_origin(kind) is dict and component:
        return {key: component.rebuild(part) for key, part in value.items()}
    if isinstance(value, Mapping) and component:
        return component.rebuild(value)
    if isinstance(value, Mapping) and config:
        return config(**value)

    # No description of what is needed; but None may stand for it.
    described = component or config
    if described and not (value is None and type(None) in alternatives):
        raise ValueError(
            f"{cls.__name__}: {name} is {value!r:.60}, no {described.__name__}"
        )
    _check_plain(cls, name, kind, value)
    return value


def _check_plain(
    cls: type,
    name: str,
    kind: Any,
    value: Any,
) -> None:
    """Refuses an argument of another type than is annotated.

    A codec checks its own when it is used, if at all.

    Raises:
        ValueError: it is of another type; one line that names both.
    """
    kinds: tuple[Any, ...] = (kind,)
    if get_origin(kind) in (Union, UnionType):
        kinds = get_args(kind)
    if not all(part in PLAIN for part in kinds):
        return

    # A float may be written as a whole number; True, which Python takes for one, is none.
    allowed = kinds
    if float in kinds:
        allowed = (*kinds, int)
    is_other_bool = isinstance(value, bool) and bool not in kinds
    if is_other_bool or not isinstance(value, allowed):
        names_of_kinds = [part.__name__ for part in kinds]
        names = " or ".join(names_of_kinds)
        raise ValueError(
            f"{cls.__name__}: {name} is {value!r:.60}, which is no {names}"
        )


def _is_a(kind: Any, base: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, base)


def differences(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
) -> list[tuple[str, Any, Any]]:
    """Where two nested mappings differ: dotted key, value before, value now, None where absent."""
    flat_before = dict(flatten(before))
    flat_now = dict(flatten(now))

    rows = []
    for key in {**flat_before, **flat_now}:
        value_before = flat_before.get(key)
        value_now = flat_now.get(key)
        if value_before != value_now:
            rows.append((key, value_before, value_now))
    return rows


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything in nested mappings."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def move(owner: Any, device: torch.device | str) -> Any:
    """Sets an object's `device`, and moves the networks among its attributes there.

    Returns:
        The object.
    """
    owner.device = torch.device(device)
    for part in vars(owner).values():
        if isinstance(part, nn.Module):
            part.to(owner.device)
    return owner
