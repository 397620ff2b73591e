"""What decides the weights that a recipe trains: a run of equal settings is the same run."""

from collections.abc import Collection, Mapping
from pathlib import Path
from pydoc import locate
from typing import Any, Protocol, TypeVar

from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelPruning,
    StochasticWeightAveraging,
    WeightAveraging,
)

from flowbind.files import digest

TRAINER = (
    "max_steps",
    "precision",
    "accumulate_grad_batches",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "overfit_batches",
    "sync_batchnorm",
    "plugins",
)
NOTHING = ("compile", "samples")  # of the keys of `training` decide the weights
CALLBACKS = (
    BaseFinetuning,
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelPruning,
    StochasticWeightAveraging,
    WeightAveraging,
)


Trained = TypeVar("Trained", contravariant=True)


class WithInputs(Protocol[Trained]):
    """Data that tell of which files they are."""

    def inputs(self, module: Trained) -> list[Path]:
        """The files that decide what a module trains on."""


def settings_of(
    recipe: Mapping[str, Any],
    module: Trained,
    data: WithInputs[Trained],
) -> dict[str, Any]:
    """The settings of a recipe that decide the weights, and the digests of the files that do.

    Left out is what decides nothing, or only how bits are rounded: devices and strategy, loggers,
    callbacks that look on, validation and evaluation, when a run is ended early; and what a module
    or a data module names in `decides_nothing`.

    Args:
        recipe: Resolved recipe, as JSON.
        module: Module made from it.
        data: Data module made from it; its `inputs` are the files.
    """
    trainer = {key: recipe["trainer"].get(key) for key in TRAINER}
    if trainer["gradient_clip_val"] is None:
        trainer["gradient_clip_algorithm"] = None  # of nothing
    elif trainer["gradient_clip_algorithm"] is None:
        trainer["gradient_clip_algorithm"] = "norm"  # which it is by default

    trainer["limit_train_batches"] = _limit(recipe["trainer"])
    callbacks = _as_list(recipe["trainer"].get("callbacks"))
    trainer["callbacks"] = [callback for callback in callbacks if _decides(callback)]

    files: dict[str, str] = {}
    for path in data.inputs(module):
        name = f"{path.parent.name}/{path.name}"
        while name in files:
            name += "'"
        files[name] = digest(path)

    # A method's training has a section of its own; that of a codec is in the model's.
    training = _without(NOTHING, recipe.get("training") or {})
    sections = {
        "seed_everything": recipe["seed_everything"],
        "model": _deciding(recipe["model"], module),
        "training": training,
        "data": _deciding(recipe["data"], data),
        "trainer": trainer,
        "files": files,
    }
    if not training:
        del sections["training"]
    return sections


def _limit(trainer: Mapping[str, Any]) -> int | None:
    """`limit_train_batches` where it cuts a step short.

    Gradients are not gathered over epochs' ends.
    """
    limit = trainer.get("limit_train_batches")
    accumulate = trainer.get("accumulate_grad_batches") or 1
    return limit if isinstance(limit, int) and limit % accumulate else None


def _as_list(value: Any) -> list[Any]:
    """A list as it is, a single value as a list, nothing as an empty one."""
    if isinstance(value, list):
        return value
    return [value] if value else []


def _without(keys: Collection[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in keys}


def _decides(callback: Mapping[str, Any]) -> bool:
    kind = locate(callback["class_path"])
    return isinstance(kind, type) and issubclass(kind, CALLBACKS)


def _deciding(described: Mapping[str, Any], instance: Any) -> dict[str, Any]:
    """A class and its arguments without those that decide nothing."""
    nothing = getattr(type(instance), "decides_nothing", ())
    arguments = _without(nothing, described.get("init_args", {}))
    return {"class_path": described["class_path"], "init_args": arguments}
