"""The curves of a run: losses by step, as CSV in its folder."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment

from flowbind.files import naming


class Curves(CSVLogger):
    """Lightning's CSVLogger, which makes no folder before it is begun: no step, no trace."""

    begun = False

    def begin(self, number: int) -> None:
        """Begins to write, into `version_NUMBER`."""
        self._version = number
        self.begun = True

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """What writes; None before it is begun."""
        return super().experiment if self.begun else None

    def log_hyperparams(self, params: object = None) -> None:
        """Nothing: the run's config.yaml has them."""

    def save(self) -> None:
        if self.begun:
            with naming(Path(self.root_dir)):
                super().save()

    def finalize(self, status: str) -> None:
        # After a failure its own line is the one to show, and not that the same disk is still full.
        failed = status == "failed"
        with suppress(OSError) if failed else naming(Path(self.root_dir)):
            super().finalize(status)
