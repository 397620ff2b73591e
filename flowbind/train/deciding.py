"""What decides the weights that a recipe trains: a run of equal settings is the same run."""

from collections.abc import Mapping
from pydoc import locate
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule
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
NOTHING = ("compile",)  # of the keys of `training` decides the weights
CALLBACKS = (
    BaseFinetuning,
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelPruning,
    StochasticWeightAveraging,
    WeightAveraging,
)


def settings_of(
    recipe: Mapping[str, Any], module: LightningModule, data: LightningDataModule
) -> dict[str, Any]:
    """The settings of a recipe that decide the weights, and the digests of the files that do.

    Left out is what decides nothing, or only how bits are rounded: devices and strategy, loggers,
    callbacks that look on, validation and evaluation, when a run is ended early; and what a module
    or a data module names in `decides_nothing`.

    Args:
        recipe: resolved, as JSON.
        module: made from it.
        data: made from it; its `inputs` are the files.
    """
    trainer = {key: recipe["trainer"].get(key) for key in TRAINER}
    if trainer["gradient_clip_val"] is None:
        trainer["gradient_clip_algorithm"] = None  # of nothing
    elif trainer["gradient_clip_algorithm"] is None:
        trainer["gradient_clip_algorithm"] = "norm"  # which it is by default
    trainer["limit_train_batches"] = _limit(recipe["trainer"])
    trainer["callbacks"] = [
        entry for entry in _listed(recipe["trainer"].get("callbacks")) if _decides(entry)
    ]

    files: dict[str, str] = {}
    for path in data.inputs(module):
        name = f"{path.parent.name}/{path.name}"
        while name in files:
            name += "'"
        files[name] = digest(path)

    # A method's training has a section of its own; that of a codec is in the model's.
    training = {
        key: value for key, value in (recipe.get("training") or {}).items() if key not in NOTHING
    }
    return {
        "seed_everything": recipe["seed_everything"],
        "model": _deciding(recipe["model"], module),
        **({"training": training} if training else {}),
        "data": _deciding(recipe["data"], data),
        "trainer": trainer,
        "files": files,
    }


def _limit(trainer: Mapping[str, Any]) -> int | None:
    """`limit_train_batches` where it cuts a step short: gradients are not gathered over epochs' ends."""
    limit, accumulate = (
        trainer.get("limit_train_batches"),
        trainer.get("accumulate_grad_batches") or 1,
    )
    return limit if isinstance(limit, int) and limit % accumulate else None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if value else []


def _decides(callback: Mapping[str, Any]) -> bool:
    return issubclass(locate(callback["class_path"]), CALLBACKS)


def _deciding(described: Mapping[str, Any], instance: Any) -> dict[str, Any]:
    """A class and its arguments without those that decide nothing."""
    nothing = getattr(type(instance), "decides_nothing", ())
    arguments = {
        key: value for key, value in described.get("init_args", {}).items() if key not in nothing
    }
    return {"class_path": described["class_path"], "init_args": arguments}
