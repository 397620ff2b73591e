"""Remarks of libraries: those nobody asked for are silenced.

What a recipe asked them to log is printed as flowbind prints its own lines.
"""

import logging
import os
import warnings

from flowbind.progress import say

REMARKS = (
    # Batches are gathered from memory maps; workers only slow that down.
    ".*does not have many workers.*",
    ".*Checkpoint directory .* exists and is not empty.*",  # a resumed run
    # Measuring saves no checkpoint.
    ".*callbacks used to create the checkpoint need to be provided.*",
    ".*in eval mode at the start of training.*",  # flows that a bound model takes over
    ".*IterableDataset. has .__len__. defined.*",  # a codec's batches: their number is right
    ".*overfit but enabled .* dataloader shuffling.*",  # batches come in one order
    ".*is smaller than the logging interval.*",  # a pass over the batches, which never end
    ".*across ranks is zero.*",  # a recipe without validation
    ".*your dataloader is not resumable.*",  # batches are a function of the step
    ".*isinstance.treespec, LeafSpec.*",  # between Lightning 2.6 and torch 2.13
)

# Modules of Lightning that log what nobody asked for: which devices there are, that a loop ended,
# where it started from. Whatever others log (profilers, early stopping, time limits) was asked for
# in the recipe.
CHATTY = (
    "accelerator_connector",
    "call",
    "callback_connector",
    "checkpoint_connector",
    "cuda",
    "distributed",
    "fit_loop",
    "logger_connector",
    "seed",
    "setup",
    "signal_connector",
    "trainer",
)


class Remarks(logging.Handler):
    """Prints what Lightning logs as flowbind prints its own lines, above a bar if there is one."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or record.module not in CHATTY

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage().strip())


def quiet() -> None:
    """Silences remarks of libraries that do not concern flowbind's users."""
    # Lightning 2.6 still calls what jsonargparse 4.53 deprecates; that is between the two of them.
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")

    for library in ("lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(library)
        logger.handlers = [Remarks()]
        logger.propagate = False
        logger.setLevel(logging.INFO)

    for remark in REMARKS:
        warnings.filterwarnings("ignore", remark)
