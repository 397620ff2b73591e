"""Settings of Lightning's trainer that cannot be: found before it is built, in one line that says what can."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import (
    DDPStrategy,
    SingleDeviceStrategy,
    Strategy,
    StrategyRegistry,
)

from flowbind.registry import nearest

# The least of what Lightning takes without a look, and then divides by, counts up to, or never reaches.
LEAST = {
    "accumulate_grad_batches": 1,
    "gradient_clip_val": 0,
    "log_every_n_steps": 1,
    "num_nodes": 1,
}
PROCESSES = (
    4  # on one core at most: more of them on a processor are a slip, and bring the machine down
)
GPU = "gpu"  # whichever kind there is


def check_trainer(settings: Mapping[str, Any]) -> None:
    """Refuses what Lightning would not, and what it refuses without saying what to do.

    Args:
        settings: arguments of `Trainer`, parsed.

    Raises:
        ValueError: one of them cannot be.
    """
    for name, least in LEAST.items():
        value = settings.get(name)
        if value is not None and not value >= least:
            raise ValueError(f"trainer.{name} must be at least {least}, not {value}")

    if settings.get("barebones"):
        raise ValueError(
            "trainer.barebones leaves out the curves and checkpoints that a run folder is made of"
        )
    accelerator, strategy = settings.get("accelerator"), settings.get("strategy")
    if isinstance(strategy, str) and strategy not in ("auto", *StrategyRegistry):
        plain = [
            "auto",
            *(name for name in StrategyRegistry if "_" not in name),
        ]  # without their dozen variants
        raise ValueError(f"trainer.strategy: no strategy '{strategy}'; {nearest(strategy, plain)}")
    if isinstance(accelerator, str):
        check_accelerator(accelerator)
        check_devices(settings.get("devices"), accelerator)


def check_accelerator(name: str) -> None:
    """Raises ValueError for an accelerator that does not exist, or that this machine does not have."""
    known = ["auto", GPU, *AcceleratorRegistry]
    if name not in known:
        raise ValueError(f"trainer.accelerator: no accelerator '{name}'; {nearest(name, known)}")
    here = _available()
    if name not in ("auto", *here):
        raise ValueError(
            f"trainer.accelerator: there is no '{name}' on this machine; it has {', '.join(here)}"
        )


def check_devices(devices: Any, accelerator: str) -> None:
    """Raises ValueError for a number of devices that cannot be, and for more processes than a processor can bear."""
    if devices in (None, "auto"):
        return
    number = str(devices).strip()
    on_processor = accelerator == "cpu" or (accelerator == "auto" and _available() == ["cpu"])
    if number == "0" or (on_processor and not (number.isdecimal() and int(number) > 0)):
        raise ValueError(
            f"trainer.devices must be auto or a number of devices, at least 1, not {devices}"
        )
    most = PROCESSES * (os.cpu_count() or 1)
    if on_processor and int(number) > most:
        raise ValueError(
            f"trainer.devices: {devices} processes on {os.cpu_count()} cores; allowed: at most {most}"
        )


def _available() -> list[str]:
    """The accelerators of this machine, `gpu` among them where there is one of any kind."""
    kinds = [
        name
        for name in AcceleratorRegistry
        if AcceleratorRegistry[name]["accelerator"].is_available()
    ]
    return [*kinds, *([GPU] if {"cuda", "mps"} & {*kinds} else [])]


def check_readable(checkpoint: Path, strategy: Strategy) -> None:
    """Refuses a checkpoint that is spread over files where the strategy reads one file alone.

    Raises:
        ValueError: it is a folder.
    """
    if checkpoint.is_dir() and type(strategy) in (DDPStrategy, SingleDeviceStrategy):
        run_folder = checkpoint.absolute().parents[1]
        raise ValueError(
            f"{checkpoint}: spread over files, which the trainer.strategy reads that wrote it, and not "
            "this one; give that, or release the model by `flowbind export "
            f"{run_folder} --out DIR --checkpoint {checkpoint}`"
        )
