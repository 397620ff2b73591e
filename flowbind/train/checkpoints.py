"""Checkpoints that can be trusted: written beside and renamed, their manifest of sizes and hashes last.

    checkpoints/step=500.ckpt     Lightning's checkpoint; a file, or a folder where the strategy writes one
    checkpoints/step=500.json     written when that is whole: the size and SHA-256 of every file

What has no manifest was never finished, and what disagrees with it is damaged: neither is gone on from.
"""

import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from flowbind.atomic import replacing
from flowbind.progress import say
from flowbind.train.agreement import Heartbeat
from flowbind.train.health import Diverged

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)  # save and stop at the next step boundary
SAVE = 1  # save and go on; no signal that is waited for has this number


def write_checkpoint(save: Callable[[Path], None], folder: Path, step: int, first: bool = True) -> Path:
    """Writes one checkpoint.

    Args:
        save: writes it to a path; every process calls it.
        folder: of checkpoints.
        step: that it is of.
        first: whether this process is the one that renames and writes the manifest.

    Returns:
        Where it is.
    """
    path = folder / f"step={step}.ckpt"
    partial = path.with_name(path.name + ".partial")
    if first:
        _remove(partial)
        folder.mkdir(parents=True, exist_ok=True)
    save(partial)
    if first:
        _remove(_manifest(path))
        _remove(path)
        os.replace(partial, path)
        with replacing(_manifest(path)) as written:
            written.write_text(json.dumps({"step": step, "files": _contents(path)}, indent=1))
    return path


def fault(path: Path) -> str | None:
    """What is wrong with a checkpoint, compared byte for byte with its manifest; None if nothing is."""
    try:
        wanted = json.loads(_manifest(path).read_text())["files"]
        found = _contents(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its manifest cannot be read ({type(error).__name__})"
    if not isinstance(wanted, dict) or not found:
        return "it is missing"
    for name in sorted({*wanted, *found}):
        if wanted.get(name) != found.get(name):
            return f"{name} is not what was written" if name in found else f"{name} is missing"
    return None


def has_manifest(path: Path) -> bool:
    """Whether a checkpoint was written here and finished."""
    return _manifest(path).is_file()


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint of a folder; damaged ones are named and passed over. None if there is none."""
    for path in written(folder):
        why = fault(path)
        if why is None:
            return path
        say(f"{path}: this checkpoint is damaged ({why}); the one before it is taken")
    return None


def written(folder: Path) -> list[Path]:
    """The checkpoints that have a manifest, the newest first."""
    found = ((path.stem.removeprefix("step="), path) for path in folder.glob("step=*.json"))
    steps = sorted((int(step), path) for step, path in found if step.isdigit())
    return [path.with_suffix(".ckpt") for _, path in reversed(steps)]


class Checkpoints(Checkpoint):
    """Saves every so many steps, on a signal, before numerical trouble ends the run, and at the end.

    Args:
        folder: that receives the checkpoints.
        every: steps between two of them.
        minutes: between two of them, by the first process's clock; instead of `every`, for steps that are much shorter
            than saving is (docs/scale.md).
        keep: how many stay, at least; an older one goes only when a newer one has been read back and found whole.

    Attributes:
        signal: the number of the signal that stopped the run, or 0.
    """

    def __init__(self, folder: Path, every: int = 500, minutes: float | None = None, keep: int = 2) -> None:
        for name, value in (("every", every), ("keep", keep)):
            if value < 1:
                raise ValueError(f"checkpoints.{name} must be at least 1, not {value}")
        if minutes is not None and not minutes > 0:
            raise ValueError(f"checkpoints.minutes must be positive, not {minutes}")
        self.folder, self.every, self.minutes, self.keep = folder, every, minutes, keep
        self.signal = self.asked = 0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.saved = trainer.global_step if trainer.ckpt_path else None
        self.heartbeat, self.last = Heartbeat(), time.monotonic()
        self.before = {number: signal.signal(number, self._ask) for number in SIGNALS}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second time at once
        self.asked = number

    def _by_clock(self, trainer: Trainer) -> bool:
        if self.minutes is None or not trainer.is_global_zero or time.monotonic() - self.last < 60 * self.minutes:
            return False
        self.last = time.monotonic()
        return True

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: object) -> None:
        heard = self.heartbeat.beat(self.asked or SAVE * self._by_clock(trainer))
        self.signal, step = heard if heard > SAVE else 0, trainer.global_step
        due = heard or (self.minutes is None and step % self.every == 0 and step < trainer.max_steps)
        if due and step != self.saved:
            self.save(trainer)
        if self.signal:
            raise KeyboardInterrupt  # how Lightning ends early

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, Diverged):
            self.save(trainer)
        self._restore()

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.interrupted and self.saved != trainer.global_step:
            self.save(trainer)
        self._restore()

    def _restore(self) -> None:
        for number, handler in getattr(self, "before", {}).items():
            signal.signal(number, handler)

    def save(self, trainer: Trainer) -> None:
        """Saves the state after the last step, on every process; then the oldest go."""
        first, self.saved = trainer.is_global_zero, trainer.global_step
        path = write_checkpoint(trainer.save_checkpoint, self.folder, trainer.global_step, first)
        if first:
            why = fault(path)
            if why:
                raise OSError(f"{path}: {why} right after writing; the disk may be failing. Older checkpoints are kept")
            for old in written(self.folder)[self.keep :]:
                _remove(_manifest(old))
                _remove(old)
        trainer.strategy.barrier()


def _manifest(path: Path) -> Path:
    return path.with_suffix(".json")


def _contents(path: Path) -> dict[str, dict[str, int | str]]:
    """Size and SHA-256 of every file of a checkpoint, by its path relative to the checkpoint's folder."""
    return {
        file.relative_to(path.parent).as_posix(): {"bytes": file.stat().st_size, "sha256": _digest(file)}
        for file in _files(path)
    }


def _files(path: Path) -> Iterator[Path]:
    return (file for file in sorted([path, *path.rglob("*")]) if file.is_file())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
