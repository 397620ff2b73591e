"""What earlier versions wrote, as the present one writes it.

Until methods became plugins there was one, named after the package: a model's description had its
arguments beside its name, checkpoints called its networks `flows`, and a recipe had one section for
what now stands in `model`, `training` and `evaluation`.
"""

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor

METHOD = "flowbind"  # the one there was
# Its names in recipes.
CLASSES = (
    "flowbind.FlowBind",
    "flowbind.train.flowbind.FlowBind",
)
PRESENT = "flowbind.FlowBind"

# How it generated where nothing was chosen.
SAMPLING = {"steps": 10, "source_steps": None, "solver": "euler", "variety": 0.0}

# Keys of a released model's description, of format 1, that are no method's.
ENVELOPE = ("sha256", "format", "method", "versions", "weights", "files")

# Keys of a recipe that have another place now. What `model` had for a method moved to two sections
# of their own.
MOVED = {
    "model.learning_rate": "training.learning_rate",
    "model.warmup_steps": "training.warmup_steps",
    "model.decay": "training.decay",
    "model.seed": "training.seed",
    "model.average_decay": "training.ema_decay",
    "model.compile": "training.compile",
    "model.base": "training.base",
    "model.evaluation.steps": "evaluation.sampling.steps",
    "model.evaluation.source_steps": "evaluation.sampling.source_steps",
    "model.evaluation.method": "evaluation.sampling.solver",
    "model.evaluation": "evaluation",
    "evaluation.steps": "evaluation.sampling.steps",
    "evaluation.source_steps": "evaluation.sampling.source_steps",
    "evaluation.method": "evaluation.sampling.solver",
}


def place_now(key: str) -> str | None:
    """Where a dotted key of an earlier recipe stands now; None if it has not moved."""
    key = key.replace(".init_args", "")
    for old, new in MOVED.items():
        if key == old or key.startswith(f"{old}."):
            return new + key.removeprefix(old)
    return None


def recipe(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """A recipe of an earlier version, or a part of one, by the present places of its keys.

    Returns:
        The recipe, and what has moved: by its place before, dotted, its place now.
    """
    new = copy.deepcopy(dict(given))
    moved: dict[str, str] = {}
    model = new.get("model")
    if not isinstance(model, dict):
        model = {}
    if model.get("class_path", PRESENT) not in (*CLASSES, METHOD):
        return new, moved

    if model.get("class_path") in CLASSES[1:]:
        moved[model["class_path"]] = model["class_path"] = PRESENT

    sections = {
        "model": model.get("init_args"),
        "evaluation": new.get("evaluation"),
    }
    for section, values in sections.items():
        if not isinstance(values, dict):
            continue

        for key in list(values):
            place = place_now(f"{section}.{key}")
            if place:
                moved[f"{section}.{key}"] = place
                _put(new, place, values.pop(key))

    # What they did not choose, they had by the defaults of then.
    if any(place.startswith("evaluation.sampling.") for place in moved.values()):
        for key in ("source_steps", "variety"):
            _put(new, f"evaluation.sampling.{key}", SAMPLING[key])

    # What was in `model.evaluation` is in its section now, and may have to go deeper.
    if "model.evaluation" in moved:
        del moved["model.evaluation"]
        new, deeper = recipe(new)
        if not deeper:
            moved["model.evaluation"] = "evaluation"
        for old, place in deeper.items():
            moved[f"model.{old}"] = place
    return new, moved


def _put(recipe: dict[str, Any], place: str, value: Any) -> None:
    """Puts a value in a dotted place of a recipe, unless something is there already."""
    *sections, key = place.split(".")
    for section in sections:
        recipe = recipe.setdefault(section, {})
    recipe.setdefault(key, value)


def description(described: Mapping[str, Any]) -> dict[str, Any]:
    """The description of a released model of format 1, as of today's.

    It has the method's arguments beside its name, and no choices of sampling.
    """
    args = {key: value for key, value in described.items() if key not in ENVELOPE}
    args["modalities"] = modalities(described["modalities"])
    return {
        "method": {"name": described["method"], "args": args},
        "sampling": SAMPLING,
        "files": described["files"],
    }


def modalities(described: Mapping[str, Any]) -> dict[str, Any]:
    """Descriptions of modalities, whose codec and networks' sizes stood beside their arguments."""
    descriptions = {}
    for name, entry in described.items():
        args = dict(entry["args"])
        for key in ("codec", "drift", "head"):
            args[key] = entry[key]
        descriptions[name] = {"name": entry["name"], "args": args}
    return descriptions


def weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a released model: those of networks stood beside the standardisation."""
    renamed = {}
    for key, tensor in state.items():
        new = key if key.startswith("standard.") else f"nets.{key}"
        renamed[new] = tensor
    return renamed


def checkpoint(content: dict[str, Any]) -> None:
    """Renames in place the parts of an earlier version's checkpoint; leaves a present one alone."""
    described = content.get("flowbind")
    if not isinstance(described, dict):
        return
    if "learnt" in described:
        described["trained"] = described.pop("learnt")
    if "modalities" not in described:
        return

    state = content["state_dict"]
    renamed = {}
    for old, new in (("flows.", "networks."), ("average.", "ema.")):
        part = {}
        for key, tensor in state.items():
            if key.startswith(old):
                part[key.removeprefix(old)] = tensor
        for key, tensor in weights(part).items():
            renamed[new + key] = tensor
    content["state_dict"] = type(state)(renamed)

    args = {
        "drift": described["drift"],
        "head": described["head"],
        "modalities": modalities(described["modalities"]),
    }
    present = {
        "method": {"name": METHOD, "args": args},
        "ema": described["average"]["kept"],
    }
    bond = described.get("bond")
    if bond:
        present |= {"base": bond["base"], "trained": bond["learnt"]}
    content["flowbind"] = present


def settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run's record, by the present sections of a recipe."""
    model = record["model"]
    if model["class_path"] not in CLASSES:
        return dict(record)

    args = {}
    training = {}
    for key, value in model["init_args"].items():
        new = place_now(f"model.{key}")
        if new is None:
            args[key] = value
        elif new.startswith("training."):
            training[new.removeprefix("training.")] = value
    model = {"class_path": PRESENT, "init_args": args}
    return {**record, "model": model, "training": training}
