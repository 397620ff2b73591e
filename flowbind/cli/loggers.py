"""Lightning's loggers by plain names, as `trainer.logger: wandb`, each with a place in the run folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowbind.component import parameters
from flowbind.registry import did_you_mean

PACKAGE = "lightning.pytorch.loggers"
# Plain name, class, and arguments where none are given; the place of its files is added.
LOGGERS: dict[str, tuple[str, dict[str, Any]]] = {
    "tensorboard": (
        "TensorBoardLogger",
        {"name": "tensorboard", "default_hp_metric": False},
    ),
    "wandb": ("WandbLogger", {"project": "flowbind"}),
    "csv": ("CSVLogger", {"name": "csv"}),
    "mlflow": ("MLFlowLogger", {"experiment_name": "flowbind"}),
    "comet": ("CometLogger", {"project": "flowbind"}),
}


def path_of(name: str) -> str | None:
    """The dotted path of a logger's class by its plain name or the class's; None for other names."""
    for plain, (cls, _) in LOGGERS.items():
        if name in (plain, cls):
            return f"{PACKAGE}.{cls}"
    return None


def placed(value: Any, folder: Path) -> Any:
    """A setting of `trainer.logger`, with names as classes, whose files go into the run folder.

    Args:
        value: Setting: a name, a class with arguments, a list of these, true or false.
        folder: The run folder.

    Raises:
        ValueError: no logger has this name; the nearest is named.
    """
    if isinstance(value, list):
        return [placed(part, folder) for part in value]
    if isinstance(value, str) and value not in ("true", "false", "null"):
        if "." not in value and path_of(value) is None:
            hint = did_you_mean(value, LOGGERS)
            raise ValueError(
                f"trainer.logger: no logger '{value}'; {hint}, or a dotted path"
            )
        value = {"class_path": value}
    if not isinstance(value, Mapping) or "class_path" not in value:
        return value

    path = path_of(value["class_path"]) or value["class_path"]
    defaults = _defaults(path, folder)
    arguments = defaults | dict(value.get("init_args") or {})
    return {**value, "class_path": path, "init_args": arguments}


def _defaults(path: str, folder: Path) -> dict[str, Any]:
    """What one of Lightning's own loggers is given where nothing is said."""
    from lightning.pytorch import loggers

    for cls, usual in LOGGERS.values():
        if path != f"{PACKAGE}.{cls}":
            continue

        arguments = dict(usual)
        allowed = parameters(getattr(loggers, cls))
        if cls == "MLFlowLogger":
            arguments["save_dir"] = str(folder / "mlruns")
        elif "save_dir" in allowed:
            arguments["save_dir"] = str(folder)
        if "name" in allowed and "name" not in arguments:
            arguments["name"] = folder.absolute().name
        return arguments
    return {}
