"""Controls for what a method lets one choose at generation, made from its dataclass."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import gradio as gr
from gradio.components import Component

from flowbind.cli.sampling import described, plain
from flowbind.generation import Model


def controls(model: Model) -> dict[str, Component]:
    """A control for each sampling choice of a model, by name, set to the model's own."""
    cls = type(model.sampling)
    hints = get_type_hints(cls)
    help_of = described(cls)
    values = asdict(model.sampling)

    components = {}
    for choice in fields(cls):
        name = choice.name
        components[name] = _control(
            hints[name],
            label=name.replace("_", " "),
            info=help_of.get(name, "").replace("if None", "if empty"),
            value=values[name],
        )
    return components


def _control(hint: Any, **common: Any) -> Component:
    """What takes a value of a type: a list to choose from, a box to tick, or a field."""
    kind = plain(hint)
    if get_origin(kind) is Literal:
        return gr.Dropdown(choices=list(get_args(kind)), **common)
    if kind is bool:
        return gr.Checkbox(**common)
    if kind in (int, float):
        # As typed: the method refuses what cannot be, and rounds nothing.
        return gr.Number(step=1 if kind is int else 0.05, **common)
    return gr.Textbox(**common)


def chosen(
    model: Model,
    names: Sequence[str],
    values: Sequence[Any],
) -> dict[str, Any]:
    """The choices by name; of a field that was left empty none, or the model's own where it needs one."""
    hints = get_type_hints(type(model.sampling))
    choices = {}
    for name, value in zip(names, values, strict=True):
        if value not in (None, ""):
            choices[name] = value
        elif type(None) in get_args(hints[name]):
            choices[name] = None
    return choices
