"""Checkpoints that can be trusted: written beside and renamed, their manifest of hashes last.

    checkpoints/step=500.ckpt     Lightning's checkpoint; a file, or a folder if the strategy makes one
    checkpoints/step=500.json     written when that is whole: the size and SHA-256 of every file

What has no manifest was never finished, and what disagrees with it is damaged: no run goes on from it.
"""

import json
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed.checkpoint as distributed
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from torch.distributed.checkpoint.api import CheckpointException

from flowbind.distributed import Heartbeat
from flowbind.errors import last_line
from flowbind.files import check_space, commit, digest_now, naming, no_space, replacing
from flowbind.progress import say
from flowbind.tensors import size_of
from flowbind.train.nonfinite import Diverged

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)  # save and stop at the next step boundary
SAVE = 1  # save and go on; no signal that is waited for has this number
META = "meta.pt"  # what Lightning puts beside weights that are spread over files


class DirectIO(TorchCheckpointIO):
    """Writes straight to the file: Lightning's goes through a copy in memory and one in `$TMPDIR`."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        with naming(Path(path)), Path(path).open("wb") as file:
            torch.save(checkpoint, file)


def write_checkpoint(
    save: Callable[[Path], None], folder: Path, step: int, first: bool = True
) -> Path:
    """Writes one checkpoint.

    Args:
        save: writes it to a path; every process calls it.
        folder: of checkpoints.
        step: that it is of.
        first: whether this process is the one that renames and writes the manifest.

    Returns:
        Where it is.

    Raises:
        OSError: it cannot be written; what was begun is gone, and older ones stay.
    """
    path = folder / f"step={step}.ckpt"
    partial = path.with_name(path.name + ".partial")
    if first:
        _remove(partial)
        folder.mkdir(parents=True, exist_ok=True)

    try:
        save(partial)
    except BaseException as error:
        if first:
            _remove(partial)  # it may be what filled the disk
        if isinstance(error, CheckpointException):  # of a strategy that spreads weights over files
            raise no_space(path, last_line(error)) from None
        raise

    if first:
        _remove(manifest_of(path))
        _remove(path)
        commit(partial, path)
        with replacing(manifest_of(path)) as written:
            written.write_text(json.dumps({"step": step, "files": _contents(path)}, indent=1))
    return path


def fault(path: Path) -> str | None:
    """What is wrong with a checkpoint, compared byte for byte with its manifest; or None."""
    try:
        wanted = json.loads(manifest_of(path).read_text())["files"]
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
    return manifest_of(path).is_file()


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint of a folder; None if there never was one.

    Damaged ones that are newer are named and passed over.

    Raises:
        ValueError: there are checkpoints, and none is whole; all are named.
    """
    damaged = []
    for path in written(folder):
        reason = fault(path)
        if reason is None:
            for other, its in damaged:
                say(
                    f"{other}: this checkpoint is damaged ({its}); {path.name}, which is whole, is "
                    "taken instead"
                )
            return path
        damaged.append((path, reason))

    bare = sorted(path for path in folder.glob("step=*.ckpt") if not has_manifest(path))
    if len(bare) == 1 and not damaged:  # the first of a run that was killed in the midst of it
        say(f"{bare[0]}: this checkpoint was never finished, and is not taken")
    elif bare or damaged:
        damaged += [(path, "it has no manifest") for path in bare]
        listed = "; ".join(f"{path.name}: {reason}" for path, reason in damaged)
        raise ValueError(
            f"{folder}: no whole checkpoint ({listed}); put a whole one there, or train from the "
            "beginning by `flowbind fit ... --resume never`, which keeps what is there beside"
        )
    return None


def step_of(path: Path) -> int:
    """How many steps a checkpoint has made, without reading its weights.

    Raises:
        FileNotFoundError, ValueError: as `check_checkpoint`.
    """
    check_checkpoint(path)
    if has_manifest(path):
        return int(json.loads(manifest_of(path).read_text())["step"])
    return int(_open(path)["global_step"])


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint holds, on the CPU; the weights whole, if a strategy spread them over files.

    Raises:
        FileNotFoundError, ValueError: as `check_checkpoint`.
    """
    check_checkpoint(path)
    if path.is_file():
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)

    reader = distributed.FileSystemReader(path)
    entries = reader.read_metadata().state_dict_metadata
    weights = {  # by the names that Lightning's strategies give them
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in entries.items()
        if name.startswith(("state_dict.", "model."))
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*assuming the intent is to load in a single process.*")
        distributed.load(weights, storage_reader=reader, no_dist=True)
    return _open(path) | {
        "state_dict": {name.partition(".")[2]: tensor for name, tensor in weights.items()}
    }


def check_checkpoint(path: Path) -> None:
    """Refuses what is no checkpoint. It is read with weights only: no code in it runs.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or something else.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: no such checkpoint; run `flowbind fit` with this recipe, or give --ckpt_path"
        )
    if has_manifest(path):
        reason = fault(path)
    else:
        try:
            reason = None if "global_step" in _open(path) else "it cannot be read"
        except Exception:  # whatever the reader of archives and pickles says
            reason = "it cannot be read"
    if reason:
        raise ValueError(
            f"{path}: not a checkpoint, or a damaged one ({reason}); give one that `flowbind fit` "
            "wrote"
        )


def _open(path: Path) -> dict[str, Any]:
    """A checkpoint without its weights' numbers; if it is spread over files, what is beside them."""
    file = path / META if path.is_dir() else path
    return torch.load(file, map_location="meta", weights_only=True, mmap=True)


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
        minutes: between two of them, by the first process's clock; instead of `every`, for steps
            that are much shorter than saving is (docs/scale.md).
        keep: how many stay, at least; an older one goes only when a newer one has been read back
            and found whole.

    Attributes:
        signal: the number of the signal that stopped the run, or 0.
    """

    def __init__(
        self, folder: Path, every: int = 500, minutes: float | None = None, keep: int = 2
    ) -> None:
        for name, value in (("every", every), ("keep", keep)):
            if value < 1:
                raise ValueError(f"checkpoints.{name} must be at least 1, not {value}")
        if minutes is not None and not minutes > 0:
            raise ValueError(f"checkpoints.minutes must be positive, not {minutes}")
        self.folder, self.every, self.minutes, self.keep = folder, every, minutes, keep
        self.signal = self.asked = 0

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if isinstance(trainer.strategy.checkpoint_io, AsyncCheckpointIO):
            raise ValueError(
                "trainer.plugins: AsyncCheckpointIO leaves checkpoints to be written later, so that none "
                "can be read back and trusted; leave it out"
            )
        if (
            type(trainer.strategy.checkpoint_io) is TorchCheckpointIO
        ):  # and not one that the recipe chose
            trainer.strategy.checkpoint_io = DirectIO()

    def on_load_checkpoint(
        self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["callbacks"].pop(
            "Timer", None
        )  # `trainer.max_time` is for each start: else none would get further
        drop_unfinished(
            checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"],
            trainer.accumulate_grad_batches,
        )

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        begun_here = (
            trainer.ckpt_path and Path(trainer.ckpt_path).parent.resolve() == self.folder.resolve()
        )
        self.saved = trainer.global_step if begun_here else None
        self.heartbeat, self.last = Heartbeat(), time.monotonic()
        if (
            threading.current_thread() is threading.main_thread()
        ):  # no other may, and none is then heard
            self.before = {number: signal.signal(number, self._ask) for number in SIGNALS}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second time at once
        self.asked = number

    def _by_clock(self, trainer: Trainer) -> bool:
        if (
            self.minutes is None
            or not trainer.is_global_zero
            or time.monotonic() - self.last < 60 * self.minutes
        ):
            return False
        self.last = time.monotonic()
        return True

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: object) -> None:
        heard = self.heartbeat.beat(self.asked or SAVE * self._by_clock(trainer))
        self.signal, step = heard if heard > SAVE else 0, trainer.global_step
        due = heard or (
            self.minutes is None and step % self.every == 0 and step < trainer.max_steps
        )
        if due and step != self.saved:
            self.save(trainer)
        if self.signal:
            raise KeyboardInterrupt  # how Lightning ends early

    def on_exception(
        self, trainer: Trainer, module: LightningModule, exception: BaseException
    ) -> None:
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
        path = self.folder / f"step={self.saved}.ckpt"
        self._together(trainer, lambda: first and check_space(path, bytes_of(trainer)))

        def write(partial: Path) -> None:
            try:
                trainer.save_checkpoint(partial)
            except OSError:
                trainer.strategy.barrier()  # where the others wait until the first has written
                raise

        self._together(trainer, lambda: write_checkpoint(write, self.folder, self.saved, first))
        self._together(trainer, lambda: first and read_back(path))
        if first:
            for old in written(self.folder)[self.keep :]:
                _remove(manifest_of(old))
                _remove(old)
        trainer.strategy.barrier()

    def _together(self, trainer: Trainer, work: Callable[[], object]) -> None:
        """Does what may fail on the first process alone: it says why, and none waits for it in vain."""
        error = None
        try:
            work()
        except OSError as failed:
            error = failed
        if trainer.strategy.broadcast(error is not None):
            raise error or SystemExit(0)


def read_back(path: Path) -> None:
    """Compares a checkpoint that was just written with its manifest.

    Raises:
        OSError: they differ.
    """
    reason = fault(path)
    if reason:
        raise OSError(
            f"{path}: {reason} right after writing; the disk may be failing. Older checkpoints are "
            "kept"
        )


def bytes_of(trainer: Trainer) -> int:
    """Bytes of a checkpoint, at least: of weights, buffers and the optimiser's state."""
    module, tensors = trainer.lightning_module, {}
    for number, state in enumerate(optimizer.state for optimizer in trainer.optimizers):
        for parameter, moments in state.items():
            tensors |= {
                (number, parameter, name): value
                for name, value in moments.items()
                if torch.is_tensor(value)
            }
    return size_of({**dict(module.named_parameters()), **dict(module.named_buffers()), **tensors})


def drop_unfinished(progress: dict[str, Any], accumulate: int) -> None:
    """Counts the batches of an unfinished step as not taken: their gradients are in no checkpoint.

    Args:
        progress: of batches, as Lightning saves it; changed in place.
        accumulate: batches of a step.
    """
    extra = 0 if progress["is_last_batch"] else progress["current"]["ready"] % accumulate
    for counts in (progress["total"], progress["current"]):
        for name in counts:
            counts[name] = max(counts[name] - extra, 0)


def manifest_of(path: Path) -> Path:
    """Where the manifest of a checkpoint is."""
    return path.with_suffix(".json")


def _contents(path: Path) -> dict[str, dict[str, int | str]]:
    """Size and SHA-256 of every file of a checkpoint, by its path beside the checkpoint."""
    return {
        file.relative_to(path.parent).as_posix(): {
            "bytes": file.stat().st_size,
            "sha256": digest_now(file),
        }
        for file in _files(path)
    }


def _files(path: Path) -> Iterator[Path]:
    return (file for file in sorted([path, *path.rglob("*")]) if file.is_file())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
