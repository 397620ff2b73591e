"""Lightning's trainer with all of its attributes: its connectors set some that its types leave out."""

from typing import Generic, TypeVar, cast

from lightning.pytorch import Callback, LightningDataModule, Trainer

Data = TypeVar("Data", covariant=True)


class Connected(Trainer, Generic[Data]):
    """What modules, data and callbacks know of their trainer. For types alone: none is made.

    Attributes:
        callbacks: Its callbacks, in the order in which they are called.
        datamodule: The data module, if one was given.
        fast_dev_run: Whether this is a smoke test, or of how many batches.
        log_every_n_steps: Steps between two at which is logged.
        overfit_batches: Training batches that are repeated; 0 where all are used.
    """

    callbacks: list[Callback]
    datamodule: Data
    fast_dev_run: int
    log_every_n_steps: int
    overfit_batches: float


def connected(trainer: Trainer) -> Connected[LightningDataModule | None]:
    """The same trainer, as a callback gets it."""
    return cast("Connected[LightningDataModule | None]", trainer)
