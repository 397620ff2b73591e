"""Checkpoints that can be trusted: written beside and renamed, their manifest of hashes last.

    checkpoints/step=500.ckpt     Lightning's checkpoint; a file, or a folder if the strategy makes
                                  one
    checkpoints/step=500.json     written when that is whole: the size and SHA-256 of every file

What has no manifest was never finished, and what disagrees with it is damaged: no run resumes from
it.
"""

import json
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed.checkpoint as distributed
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from flowbind.distributed import Heartbeat
from flowbind.errors import last_line
from flowbind.files import check_space, commit, digest_now, naming, no_space, write_json
from flowbind.progress import leave_closed_terminal, say
from flowbind.tensors import size_of
from flowbind.train.nonfinite import Diverged

# Save and stop at the next step boundary; SIGHUP is of a terminal that is closed.
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT)
SAVE = 1  # save and continue; more is to stop for the signal of that number less one
META = "meta.pt"  # what Lightning puts beside weights that are spread over files


class DirectIO(TorchCheckpointIO):
    """Writes straight to the file: Lightning's goes through a copy in memory and one in `$TMPDIR`."""

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any = None,
    ) -> None:
        with naming(Path(path)), Path(path).open("wb") as file:
            torch.save(checkpoint, file)


def write_checkpoint(
    save: Callable[[Path], None],
    folder: Path,
    step: int,
    first: bool = True,
) -> Path:
    """Writes one checkpoint.

    Args:
        save: Function that writes it to a path; every process calls it.
        folder: Folder of checkpoints.
        step: Number of steps that were made.
        first: Whether this process is the one that renames and writes the manifest.

    Returns:
        Path of the checkpoint.

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
        if isinstance(
            error,
            CheckpointException,
        ):  # of a strategy that spreads weights over files
            raise no_space(path, last_line(error)) from None
        raise

    if first:
        _remove(manifest_of(path))
        _remove(path)
        commit(partial, path)
        write_json(manifest_of(path), {"step": step, "files": _contents(path)})
    return path


def fault(path: Path) -> str | None:
    """What is wrong with a checkpoint, compared byte for byte with its manifest; or None."""
    try:
        written_files = json.loads(manifest_of(path).read_text())["files"]
        files = _contents(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its manifest cannot be read ({type(error).__name__})"

    if not isinstance(written_files, dict) or not files:
        return "it is missing"

    for name in sorted({*written_files, *files}):
        if written_files.get(name) != files.get(name):
            return (
                f"{name} is not what was written"
                if name in files
                else f"{name} is missing"
            )
    return None


def has_manifest(path: Path) -> bool:
    """Whether a checkpoint was written here and finished."""
    return manifest_of(path).is_file()


def latest_intact(folder: Path) -> Path | None:
    """The newest intact checkpoint of a folder; None if there never was one.

    Damaged ones that are newer are named and passed over.

    Raises:
        ValueError: there are checkpoints, and none is intact; all are named.
    """
    damaged: list[tuple[Path, str]] = []
    for path in written(folder):
        reason = fault(path)
        if reason is None:
            for other, fault_of_other in damaged:
                say(
                    f"{other}: this checkpoint is damaged ({fault_of_other}); {path.name}, which "
                    "is whole, is taken instead"
                )
            return path
        damaged.append((path, reason))

    bare = [
        path for path in sorted(folder.glob("step=*.ckpt")) if not has_manifest(path)
    ]
    if (
        len(bare) == 1 and not damaged
    ):  # the first of a run that was killed in the midst of it
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
        return torch.load(
            path,
            map_location="cpu",
            weights_only=True,
            mmap=True,
        )

    reader = distributed.FileSystemReader(path)
    entries = reader.read_metadata().state_dict_metadata
    weights = {}
    for name, entry in entries.items():
        # Lightning's strategies give them one of these prefixes.
        is_weight = name.startswith(("state_dict.", "model."))
        if is_weight and isinstance(entry, TensorStorageMetadata):
            weights[name] = torch.empty(entry.size, dtype=entry.properties.dtype)

    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore",
            ".*assuming the intent is to load in a single process.*",
        )
        distributed.load(weights, storage_reader=reader, no_dist=True)

    state = {name.partition(".")[2]: tensor for name, tensor in weights.items()}
    return _open(path) | {"state_dict": state}


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
    """A checkpoint without its weights' numbers.

    If it is spread over files, what is beside them.
    """
    file = path / META if path.is_dir() else path
    return torch.load(
        file,
        map_location="meta",
        weights_only=True,
        mmap=True,
    )


def written(folder: Path) -> list[Path]:
    """The checkpoints that have a manifest, the newest first."""
    manifests = []
    for path in folder.glob("step=*.json"):
        step = path.stem.removeprefix("step=")
        if step.isdigit():
            manifests.append((int(step), path))
    return [path.with_suffix(".ckpt") for _, path in sorted(manifests, reverse=True)]


def drop_old(folder: Path, keep: int) -> None:
    """Removes all checkpoints of a folder but the newest ones, of which one is known to be intact.

    The manifest goes last: what is left of one whose removal was cut short goes the next time.
    """
    for old in written(folder)[keep:]:
        _remove(old)
        _remove(manifest_of(old))


class Checkpoints(Checkpoint):
    """Saves every so many steps, on a signal, and at the end.

    It saves before numerical trouble ends the run, too.

    Args:
        folder: Folder that receives the checkpoints.
        every: Steps between two checkpoints.
        minutes: Minutes between two checkpoints, by the first process's clock; instead of `every`, for
            steps that are much shorter than saving is (docs/scale.md).
        keep: Number of checkpoints, at least, that stay; an older one goes only when a newer one
            has been read back and is intact.

    Attributes:
        signal: Number of the signal that stopped the run, or 0.
    """

    def __init__(
        self,
        folder: Path,
        every: int = 500,
        minutes: float | None = None,
        keep: int = 2,
    ) -> None:
        for name, value in (("every", every), ("keep", keep)):
            if value < 1:
                raise ValueError(f"checkpoints.{name} must be at least 1, not {value}")
        if minutes is not None and not minutes > 0:
            raise ValueError(f"checkpoints.minutes must be positive, not {minutes}")

        self.folder = folder
        self.every = every
        self.minutes = minutes
        self.keep = keep
        self.signal = 0
        self.asked = 0  # number of the signal that this process received

    def setup(
        self,
        trainer: Trainer,
        module: LightningModule,
        stage: str,
    ) -> None:
        if isinstance(trainer.strategy.checkpoint_io, AsyncCheckpointIO):
            raise ValueError(
                "trainer.plugins: AsyncCheckpointIO leaves checkpoints to be written later, so "
                "that none can be read back and trusted; leave it out"
            )

        # One that the recipe chose stays.
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = DirectIO()

    def on_load_checkpoint(
        self,
        trainer: Trainer,
        module: LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        # `trainer.max_time` is for each start: else none would get further.
        checkpoint["callbacks"].pop("Timer", None)

        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        drop_unfinished(progress, trainer.accumulate_grad_batches)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        origin = trainer.ckpt_path
        begun_here = origin and Path(origin).parent.resolve() == self.folder.resolve()
        self.saved = trainer.global_step if begun_here else None
        self.heartbeat = Heartbeat()
        self.last = time.monotonic()

        # No other thread may, and no signal is heard there.
        if threading.current_thread() is threading.main_thread():
            self.before = {}
            under_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            for number in SIGNALS:
                if number != signal.SIGHUP or not under_nohup:
                    self.before[number] = signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second time at once
        leave_closed_terminal()
        self.asked = number

    def _by_clock(self, trainer: Trainer) -> bool:
        """Whether so many minutes have passed, on the first process."""
        if self.minutes is None or not trainer.is_global_zero:
            return False
        if time.monotonic() - self.last < 60 * self.minutes:
            return False

        self.last = time.monotonic()
        return True

    def on_train_batch_end(
        self,
        trainer: Trainer,
        module: LightningModule,
        *_: object,
    ) -> None:
        word = SAVE * self._by_clock(trainer)
        if self.asked:
            word = SAVE + self.asked
        heard = self.heartbeat.beat(word)
        self.signal = max(heard - SAVE, 0)

        step = trainer.global_step
        by_count = False
        if self.minutes is None and step < trainer.max_steps:
            by_count = step % self.every == 0
        if (heard or by_count) and step != self.saved:
            self.save(trainer)
        if self.signal:
            raise KeyboardInterrupt  # how Lightning ends early

    def on_exception(
        self,
        trainer: Trainer,
        module: LightningModule,
        exception: BaseException,
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
        first = trainer.is_global_zero
        step = trainer.global_step
        self.saved = step
        path = self.folder / f"step={step}.ckpt"

        def prepare() -> None:
            if first:
                check_space(path, bytes_of(trainer))

        def write(partial: Path) -> None:
            try:
                trainer.save_checkpoint(partial)
            except OSError:
                trainer.strategy.barrier()  # where the others wait until the first has written
                raise

        def verify() -> None:
            if first:
                read_back(path)

        self._together(trainer, prepare)
        self._together(
            trainer,
            lambda: write_checkpoint(write, self.folder, step, first),
        )
        self._together(trainer, verify)

        if first:
            drop_old(self.folder, self.keep)
        trainer.strategy.barrier()

    def _together(self, trainer: Trainer, work: Callable[[], object]) -> None:
        """Does what may fail on the first process alone.

        It says why, and none waits for it in vain.
        """
        error = None
        try:
            work()
        except OSError as own_error:
            error = own_error
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
    module = trainer.lightning_module
    tensors: list[Tensor] = [*module.parameters(), *module.buffers()]
    for optimizer in trainer.optimizers:
        for moments in optimizer.state.values():
            tensors += [value for value in moments.values() if torch.is_tensor(value)]
    return size_of(tensors)


def drop_unfinished(progress: dict[str, Any], accumulate: int) -> None:
    """Counts the batches of an unfinished step as not taken: their gradients are in no checkpoint.

    Args:
        progress: Progress of batches, as Lightning saves it; changed in place.
        accumulate: Batches of a step.
    """
    extra = 0
    if not progress["is_last_batch"]:
        extra = progress["current"]["ready"] % accumulate
    for counts in (progress["total"], progress["current"]):
        for name in counts:
            counts[name] = max(counts[name] - extra, 0)


def manifest_of(path: Path) -> Path:
    """Where the manifest of a checkpoint is."""
    return path.with_suffix(".json")


def _contents(path: Path) -> dict[str, dict[str, int | str]]:
    """Size and SHA-256 of every file of a checkpoint, by its path beside the checkpoint."""
    contents: dict[str, dict[str, int | str]] = {}
    for file in sorted([path, *path.rglob("*")]):
        if file.is_file():
            name = file.relative_to(path.parent).as_posix()
            contents[name] = {"bytes": file.stat().st_size, "sha256": digest_now(file)}
    return contents


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
