"""What a run begins with: a summary of what is trained, on what, and what it takes; and the dry run."""

import os
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from flowbind.data.mixture import OfKinds
from flowbind.distributed import local, unheard
from flowbind.errors import last_line
from flowbind.files import existing
from flowbind.progress import say
from flowbind.train.raw import RawTraining
from flowbind.train.samples import draw_samples
from flowbind.train.training import Training
from flowbind.trainer import connected

DRY_STEPS = 5  # of a dry run; the first is not counted, for much is done once
MOMENTS = 2  # that Adam keeps of each parameter
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
LISTED = 8  # kinds of samples, or parts of a network, in a line


class Summary(Callback):
    """Says the summary before the first step.

    Args:
        folder: The run folder.
        start: Function that gives the checkpoint to resume from, or None.
        keep: Checkpoints that stay, in the summary's account of the disk; 0 for none.
    """

    def __init__(
        self,
        folder: Path,
        start: Callable[[], Path | None],
        keep: int = 0,
    ) -> None:
        self.folder = folder
        self.start = start
        self.keep = keep

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return

        checkpoint = self.start()
        origin = f"resuming from {checkpoint}" if checkpoint else "from the beginning"
        say(f"fit: {self.folder}, {origin}")
        self.memory = memory_of(trainer, module)
        self.disk = disk_of(module, self.keep)
        lines = {
            "device": device_line(trainer),
            "parameters": parameters_line(module),
            "samples": samples_line(trainer),
            "steps": steps_line(trainer),
            "memory": memory_line(self.memory, free_memory(trainer)),
            "disk": disk_line(self.disk, self.keep, free_disk(self.folder)),
        }
        for name, line in lines.items():
            if line:
                say(f"  {name:<10}  {line}")

    def check(self, trainer: Trainer) -> None:
        """Refuses a run for which there is no room.

        Raises:
            ValueError: memory or disk are too small; one line.
        """
        for name, needed, free, advice in (
            (
                "memory",
                sum(self.memory.values()),
                free_memory(trainer),
                "data.batch_size",
            ),
            ("disk", self.disk, free_disk(self.folder), "checkpoints.keep"),
        ):
            if needed > free:
                raise ValueError(
                    f"{name}: the run takes about {amount(needed)}, and {amount(free)} are free; "
                    f"lower {advice}, or free some"
                )


class DryRun(Callback):
    """Ends a run after a few steps that are timed, and says how long all would take.

    Args:
        summary: Summary that the run began with.
        samples: Rows of the picture of samples; 0 for none.
    """

    is_dry = True  # so that nothing is released

    def __init__(self, summary: Summary, samples: int) -> None:
        self.summary = summary
        self.samples = samples
        self.seconds: list[float] = []

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.summary.check(trainer)
        if isinstance(module, Training):
            module.signs.are_told = False
        self.first = trainer.global_step
        self.step = self.first
        self.now = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        module: LightningModule,
        *_: object,
    ) -> None:
        if trainer.global_step == self.step:
            return
        self.step = trainer.global_step
        if module.device.type != "cpu":
            torch.accelerator.synchronize()
        now = time.perf_counter()
        self.seconds.append(now - self.now)
        self.now = now
        if len(self.seconds) == DRY_STEPS:
            trainer.should_stop = True  # validates first, on one batch

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self.samples and isinstance(module, Training):
            self._try_samples(module)
        if trainer.is_global_zero:
            step = statistics.median(self.seconds[1:] or self.seconds)
            remain = trainer.max_steps - self.first
            duration = timedelta(seconds=round(step * remain))
            say(
                f"dry run: a step takes {step:.3g} s, so {remain:,} steps about {duration}, "
                f"validation apart; {peak_line(module.device)}; nothing was written"
            )

    def _try_samples(self, module: Training) -> None:
        """Says whether samples could be drawn, and how long that takes."""
        model = module.model  # of all processes, where weights are spread
        if not module.trainer.is_global_zero:
            return
        begin = time.perf_counter()
        try:
            draw_samples(model, module.trainer.datamodule, self.samples)
        except (ValueError, OSError, ImportError, torch.OutOfMemoryError) as error:
            say(f"dry run: samples cannot be drawn ({last_line(error)})")
        else:
            seconds = time.perf_counter() - begin
            say(f"dry run: samples take {seconds:.1f} s at every validation")


def device_line(trainer: Trainer) -> str:
    """Devices, processes and precision."""
    device = trainer.strategy.root_device
    name = str(device)
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    processes = (
        f"{trainer.world_size} processes" if trainer.world_size > 1 else "one process"
    )
    if device.type == "cpu":
        threads = torch.get_num_threads()
        processes += f" of {threads} threads" if threads > 1 else " of one thread"
    return f"{name}, {processes}, precision {trainer.precision}"


def parameters_line(module: LightningModule) -> str:
    """Parameters in all, of each network, and of each of its parts."""
    networks = dict(module.named_children())
    if isinstance(module, Training | RawTraining):
        networks = module.trained_networks()
    parts = []
    for name, network in networks.items():
        inner = []
        if type(network) is nn.ModuleDict:
            inner = [f"{key} {count(part):,}" for key, part in network.items()]
        listed = f" ({', '.join(shortened(inner))})" if inner else ""
        parts.append(f"{name} {count(network):,}{listed}")

    total = sum(map(count, networks.values()))
    trained = sum(count(network, trained=True) for network in networks.values())
    frozen = (
        f", of which {total - trained:,} stay as they are" if trained < total else ""
    )
    return f"{total:,}{frozen}: {', '.join(shortened(parts))}"


def samples_line(trainer: Trainer) -> str:
    """Samples of each kind, and their share of a batch."""
    data = connected(trainer).datamodule
    if not isinstance(data, OfKinds):
        return ""
    kinds = data.kinds()
    batch = sum(kind.share for kind in kinds.values())
    listed = []
    for name, kind in kinds.items():
        share = kind.share / batch
        listed.append(f"{name} {kind.rows:,} ({share:.0%} of a batch)")
    return ", ".join(shortened(listed))


def steps_line(trainer: Trainer) -> str:
    """Steps, what each takes, how often all samples are seen, and when is validated."""
    words = f"{trainer.max_steps:,}"
    data = connected(trainer).datamodule
    if isinstance(data, OfKinds):
        kinds = data.kinds().values()
        batch = sum(kind.share for kind in kinds) * trainer.accumulate_grad_batches
        times = trainer.max_steps * batch / sum(kind.rows for kind in kinds)
        words += f" of {batch:,} samples, {times:.3g} times through all"
    if trainer.enable_validation and isinstance(trainer.val_check_interval, int):
        words += f"; validated every {trainer.val_check_interval:,}"
    return words


def memory_of(trainer: Trainer, module: LightningModule) -> dict[str, int]:
    """Bytes on each device, by what they are for; without those of libraries."""
    trained = []
    for parameter in module.parameters():
        if parameter.requires_grad:
            trained.append(parameter)
    weights = sum(map(bytes_of, local(trained)))
    everything = sum(map(bytes_of, local(module.parameters())))

    memory = {"weights": everything, "gradients": weights, "moments": MOMENTS * weights}
    activations = activations_of(trainer, module)
    if activations:
        memory["a step"] = activations
    return memory


def activations_of(trainer: Trainer, module: LightningModule) -> int:
    """Bytes that a step keeps for its gradients, found out on the meta device; 0 if it cannot be.

    In full precision: under a mixed one it is somewhat less.
    """
    if not isinstance(module, Training):
        return 0

    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage.nbytes()
        return tensor

    try:
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with unheard(), hooks:
            loss, networks = module.loss_without_numbers()
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return 0  # some operation of a third party's has no meta kernel
    del loss
    kept = sum(storages.values())
    return max(kept - sum(map(bytes_of, networks.parameters())), 0)


def disk_of(module: LightningModule, keep: int) -> int:
    """Bytes of all checkpoints that are there at once, and of what is released."""
    everything = sum(map(bytes_of, module.parameters()))
    trained = sum(bytes_of(p) for p in module.parameters() if p.requires_grad)
    checkpoint = everything + MOMENTS * trained
    return (keep + 1) * checkpoint * (keep > 0) + trained


def memory_line(memory: Mapping[str, int], free: int) -> str:
    """What is needed in all, and for what."""
    parts = [f"{name} {amount(size)}" for name, size in memory.items()]
    line = f"about {amount(sum(memory.values()))} a device: {', '.join(parts)}"
    if sum(memory.values()) > free:
        line += f"; MORE than the {amount(free)} that are free"
    return line


def disk_line(needed: int, keep: int, free: int) -> str:
    """What is written, and what is free."""
    what = f"{keep} checkpoints and the model" if keep else "the model"
    line = f"about {amount(needed)} for {what}, {amount(free)} free"
    return (
        line if needed <= free else line.replace("about", "MORE than there is: about")
    )


def free_memory(trainer: Trainer) -> int:
    """Bytes of the device's memory that are free, or were before this run's networks were built."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        (available,) = [line for line in lines if line.startswith("MemAvailable")]
        return int(available.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_disk(folder: Path) -> int:
    """Bytes that are free where a folder is, or is to be."""
    return shutil.disk_usage(existing(folder)).free


def peak_line(device: torch.device) -> str:
    """The most memory that was in use so far."""
    if device.type == "cuda":
        return f"at most {amount(torch.cuda.max_memory_allocated(device))} were in use on a device"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    scale = 1 if sys.platform == "darwin" else 1024
    return f"the process had at most {amount(peak * scale)}, libraries included"


def count(network: nn.Module, trained: bool = False) -> int:
    """Parameters of a network, over all devices."""
    numbers = [
        p.numel() for p in network.parameters() if p.requires_grad or not trained
    ]
    return sum(numbers)


def bytes_of(tensor: Tensor) -> int:
    """Bytes of a tensor."""
    return tensor.numel() * tensor.element_size()


def amount(size: float) -> str:
    """Bytes for people: `1.3 GiB`."""
    for unit in UNITS:
        if size < 1024 or unit == UNITS[-1]:
            return f"{size:.3g} {unit}"
        size /= 1024
    raise AssertionError


def shortened(parts: list[str]) -> list[str]:
    """At most so many of a list's parts, and how many more there are."""
    if len(parts) <= LISTED:
        return parts
    return [*parts[:LISTED], f"and {len(parts) - LISTED} more"]
