"""Training a network on raw samples of one modality, and the export of its weights.

As in a model's training, every number that is drawn is a function of the seed, the step and the row
of the global batch, and every statistic is that of the global batch: a run that was killed resumes
to the same bits, and several processes train what one does.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from flowbind.data.raw import RawBatch, RawDataModule
from flowbind.errors import last_line
from flowbind.files import check_place
from flowbind.global_batch import means
from flowbind.progress import say
from flowbind.tensors import save_tensors
from flowbind.train.callbacks import Export
from flowbind.train.nonfinite import Watched, bad_rows
from flowbind.train.rate import rate_at, resume_rate, set_rate
from flowbind.train.replicas import Agreement
from flowbind.train.sharding import with_prefix
from flowbind.train.totals import Totals
from flowbind.trainer import Connected

# Which draws.
TRAINING = 0
VALIDATION = 1

WARMUP = 0.05  # share of the steps over which the rate rises
# Of AdamW. Small codecs train faster than with the usual 0.9: after 248 steps of the text codec,
# two seeds, the loss on `val` was .472 and .448, with 0.9 .543 and with 0.95 .759 and .718.
BETAS = 0.85, 0.999


class RawTraining(Watched):
    """Trains one network on raw samples. A subclass says what its errors are, and their weights.

    Args:
        export: File that receives the trained weights (float16 safetensors) when fitting ends.
        learning_rate: Highest rate of AdamW, reached after 5% of the steps, then a cosine down to
            0.
        weight_decay: Weight decay of AdamW.
        noise: How far batches are disturbed in training; what that means, a subclass says.
        seed: Seed of all that is drawn; with the step it decides every draw.

    Attributes:
        kind: What is trained, such as `codec`: the name of the attribute that holds it, which makes
            the network's inputs of raw samples.
        net: The network; None until it is built.
    """

    trainer: Connected[RawDataModule]

    decides_nothing: ClassVar = ("export",)  # of the weights
    kind: ClassVar[str]

    def __init__(
        self,
        export: str,
        learning_rate: float,
        weight_decay: float,
        noise: float,
        seed: int,
    ) -> None:
        super().__init__()
        self.export = export
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.noise = noise
        self.seed = seed
        self.net: Any = None  # of the type that `build` gives

    def trained_networks(self) -> dict[str, nn.Module]:
        """The network, by what it is of."""
        return {self.kind: self.net}

    @property
    def subject(self) -> Any:
        """The codec or judge that is trained."""
        return getattr(self, self.kind)

    @abstractmethod
    def build(self) -> nn.Module:
        """The network with its first weights, drawn from torch's global generator."""

    @abstractmethod
    def errors(
        self,
        batch: RawBatch,
        noise: float,
        *position: int,
    ) -> dict[str, Tensor]:
        """The errors of a batch, by name; the mean of each is a loss.

        Args:
            batch: Global batch, or one rank's part of it.
            noise: How far it is disturbed: `self.noise` in training, otherwise 0.
            position: Key, with the seed and the batch's step, of what is drawn.
        """

    @property
    @abstractmethod
    def parts(self) -> list[str]:
        """The names of the errors."""

    @abstractmethod
    def weigh(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The loss that is made small, of the losses by name."""

    @property
    def least_batch(self) -> int:
        """The fewest samples of a batch.

        Statistics are taken over it, by the noise and by many a network.
        """
        return 2

    @property
    def statistics(self) -> list[Tensor]:
        """Running statistics of the network, which a forward pass moves."""
        return [buffer for buffer in self.buffers() if buffer.is_floating_point()]

    def on_train_batch_start(self, batch: RawBatch, index: int) -> None:
        self.before = [buffer.clone() for buffer in self.statistics]

    def on_train_batch_end(
        self,
        outputs: object,
        batch: RawBatch,
        index: int,
    ) -> None:
        # What is not finite would stay so.
        for buffer, before in zip(self.statistics, self.before, strict=True):
            buffer.copy_(torch.where(buffer.isfinite(), buffer, before))
        super().on_train_batch_end(outputs, batch, index)

    def training_step(self, batch: RawBatch, index: int) -> Tensor:
        errors = self.errors(batch, self.noise, TRAINING)
        losses = means(errors)
        loss = self.weigh(losses)
        self.watch(loss, batch.step)

        # Lightning's books cost time at every step, and are shown at these alone.
        if (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0:
            values = torch.stack([loss.detach() for loss in losses.values()])
            means_of_ranks = self.trainer.strategy.reduce(values, reduce_op="mean")
            self._log("train", losses, means_of_ranks)
        return loss

    def _log(self, part: str, names: Iterable[str], values: Tensor) -> None:
        """Logs the losses of the global batch, or of all samples, and their weighted sum."""
        # Lightning keeps those of `val` over an epoch, and asks for it, though all ranks have the
        # same.
        sync = part == "val"
        losses = dict(zip(names, values.unbind(), strict=True))
        named = {f"{part}/{name}": value for name, value in losses.items()}
        self.log_dict(named, sync_dist=sync)
        self.log(
            f"{part}/loss",
            self.weigh(losses),
            prog_bar=True,
            sync_dist=sync,
        )

    def trouble_at(self, step: int) -> list[str]:
        steps = self.trainer.datamodule.steps
        batch = self.transfer_batch_to_device(steps.at(step), self.device, 0)
        self.eval()  # in which no sample's error hangs on others

        trouble = []
        for name, errors in self.errors(batch, 0.0, TRAINING).items():
            bad = ~errors.isfinite().cpu()
            if not bad.any():
                continue

            if errors.shape[:1] == batch.rows.shape:
                is_bad_row = bad.reshape(len(bad), -1).any(1)
                lines = steps.lines(step)[is_bad_row]
                trouble.append(bad_rows(name, lines.tolist(), self.global_rank))
            else:  # of parts of samples, or of those samples that have a label
                count = int(bad.sum())
                trouble.append(
                    f"the loss of '{name}' in {count} of {bad.numel()} errors "
                    f"of rank {self.global_rank}"
                )
        return trouble

    def on_validation_epoch_start(self) -> None:
        self.totals = Totals(self.parts).to(self.device)

    def validation_step(self, batch: RawBatch, index: int) -> None:
        if not len(batch.rows):  # the other ranks have the last samples
            return
        for name, errors in self.errors(batch, 0.0, VALIDATION).items():
            self.totals.update(name, errors.double())

    def on_validation_epoch_end(self) -> None:
        means = self.totals.compute()
        zero = torch.zeros((), device=self.device)
        values = [means.get(name, zero) for name in self.parts]
        self._log("val", self.parts, torch.stack(values))

    def rate_at(self, step: int) -> float:
        """The learning rate of the step after `step` others."""
        steps = self.trainer.max_steps
        warmup = round(WARMUP * steps)
        return rate_at(step, steps, self.learning_rate, warmup, "cosine")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = [
            parameter for parameter in self.parameters() if parameter.requires_grad
        ]
        return torch.optim.AdamW(
            trained,
            lr=self.rate_at(0),
            betas=BETAS,
            weight_decay=self.weight_decay,
            fused=True,
        )

    def on_train_epoch_start(self) -> None:
        if self.trainer.datamodule is not None:
            self.trainer.datamodule.begin_at(self.trainer.global_step)

    def on_train_start(self) -> None:
        rate = self.rate_at(self.trainer.global_step)
        resume_rate(self.trainer, rate)

    def optimizer_step(self, *args: Any, **named: Any) -> None:
        super().optimizer_step(*args, **named)

        # With this step, which the trainer has not counted yet.
        done = self.trainer.global_step + 1
        rate = self.rate_at(done)
        set_rate(self.trainer.optimizers[0], rate)

    def configure_callbacks(self) -> list[Callback]:
        return [Export(self), Agreement()]

    def export_trained(self) -> None:
        """Writes the trained weights, and beside them what is known of them."""
        if self.trainer.is_global_zero:
            path = Path(self.export)
            beside(path).unlink(missing_ok=True)  # of other weights
            self.write_weights(path)
            self.describe_weights(path)
            say(f"wrote {self.export}")

    def describe_weights(self, path: Path) -> None:
        """Writes what is known of weights that training has written, if anything is."""

    def check_export(self, run_folder: Path) -> None:
        """Refuses, before the first step, a place where the weights could not be written."""
        check_place(Path(self.export))

    def export_checkpoint(self, checkpoint: Mapping[str, Any], path: Path) -> None:
        """Writes the weights that a checkpoint holds.

        Args:
            checkpoint: Checkpoint with `state_dict`, as `read_checkpoint` gives it.
            path: Path of the file.

        Raises:
            ValueError: the checkpoint is of another network, or the place is a folder.
        """
        check_place(path)
        state = with_prefix(checkpoint["state_dict"], "net.")
        self.net = self.build()
        try:
            result = self.net.load_state_dict(state, strict=self.strict_loading)
        except RuntimeError as error:
            raise ValueError(
                f"the checkpoint is of another {self.kind} ({last_line(error)})"
            ) from None

        unknown = result.unexpected_keys
        if unknown or not state:
            content = ", ".join(unknown[:3]) or "no network"
            raise ValueError(
                f"the checkpoint is of another {self.kind} (it holds {content})"
            )

        beside(path).unlink(missing_ok=True)
        self.write_weights(path)

    def write_weights(self, path: Path) -> None:
        """Writes what was trained: the network."""
        export_weights(self.net, path)


def beside(weights: Path) -> Path:
    """The JSON file beside a file of weights that says what is known of them."""
    return weights.with_suffix(".json")


def export_weights(net: nn.Module, path: Path) -> None:
    """Writes a network's weights as float16 safetensors, beside and then renamed."""
    weights = {}
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            tensor = tensor.half()
        weights[name] = tensor
    save_tensors(weights, path)
