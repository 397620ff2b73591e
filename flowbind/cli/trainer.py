"""Settings of Lightning's trainer that cannot be: an error before it is built says what can."""

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

from flowbind.registry import did_you_mean

# The least of what Lightning takes without a look, and then divides by, counts up to, or never
# reaches.
LEAST = {
    "accumulate_grad_batches": 1,
    "gradient_clip_val": 0,
    "log_every_n_steps": 1,
    "num_nodes": 1,
}

# Processes on one core at most: more on a processor are a slip, and bring the machine down.
PROCESSES = 4
PROFILERS = ("simple", "advanced", "pytorch", "xla")  # by their plain names
GPU = "gpu"  # whichever kind there is


def check_trainer(settings: Mapping[str, Any]) -> None:
    """Refuses what Lightning would not, and what it refuses without saying what to do.

    Args:
        settings: Arguments of `Trainer`, parsed.

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

    strategy = settings.get("strategy")
    if isinstance(strategy, str) and strategy not in ("auto", *StrategyRegistry):
        without_variants = [name for name in StrategyRegistry if "_" not in name]
        hint = did_you_mean(strategy, ["auto", *without_variants])
        raise ValueError(f"trainer.strategy: no strategy '{strategy}'; {hint}")

    profiler = settings.get("profiler")
    if isinstance(profiler, str) and profiler not in PROFILERS:
        hint = did_you_mean(profiler, PROFILERS)
        raise ValueError(f"trainer.profiler: no profiler '{profiler}'; {hint}")

    accelerator = settings.get("accelerator")
    if isinstance(accelerator, str):
        check_accelerator(accelerator)
        check_devices(settings.get("devices"), accelerator)


def check_accelerator(name: str) -> None:
    """Raises ValueError for an accelerator that does not exist, or not on this machine."""
    known = ["auto", GPU, *AcceleratorRegistry]
    if name not in known:
        raise ValueError(
            f"trainer.accelerator: no accelerator '{name}'; {did_you_mean(name, known)}"
        )

    available = _available()
    if name not in ("auto", *available):
        raise ValueError(
            f"trainer.accelerator: there is no '{name}' on this machine; "
            f"it has {', '.join(available)}"
        )


def check_devices(devices: Any, accelerator: str) -> None:
    """Raises ValueError for a number of devices that cannot be, or too many for a processor."""
    if devices in (None, "auto"):
        return

    number = str(devices).strip()
    on_processor = accelerator == "cpu" or (
        accelerator == "auto" and _available() == ["cpu"]
    )
    is_positive = number.isdecimal() and int(number) > 0
    if number == "0" or (on_processor and not is_positive):
        raise ValueError(
            f"trainer.devices must be auto or a number of devices, at least 1, not {devices}"
        )

    most = PROCESSES * (os.cpu_count() or 1)
    if on_processor and int(number) > most:
        raise ValueError(
            f"trainer.devices: {devices} processes on {os.cpu_count()} cores; "
            f"allowed: at most {most}"
        )


def _available() -> list[str]:
    """The accelerators of this machine, `gpu` among them where there is one of any kind."""
    kinds = []
    for name in AcceleratorRegistry:
        if AcceleratorRegistry[name]["accelerator"].is_available():
            kinds.append(name)

    if "cuda" in kinds or "mps" in kinds:
        kinds.append(GPU)
    return kinds


def check_readable(checkpoint: Path, strategy: Strategy) -> None:
    """Refuses a checkpoint that is spread over files where the strategy reads one file alone.

    Raises:
        ValueError: it is a folder.
    """
    if checkpoint.is_dir() and type(strategy) in (DDPStrategy, SingleDeviceStrategy):
        run_folder = checkpoint.absolute().parents[1]
        raise ValueError(
            f"{checkpoint}: spread over files, which the trainer.strategy reads that wrote it, "
            "and not this one; give that, or release the model by "
            f"`flowbind export {run_folder} --out DIR --checkpoint {checkpoint}`"
        )
