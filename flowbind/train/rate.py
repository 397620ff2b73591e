"""The learning rate: a pure function of the step and the recipe.

It has no state that a checkpoint could bring back.

    step < warmup    peak * (step + 1) / warmup
    constant         peak
    cosine           peak * (1 + cos(pi * (step - warmup) / (steps - warmup))) / 2

A run that is resumed takes the rate that its recipe has at that step, whatever the run before it
had there: a straight run of the recipe has the same. So a rate, a decay or a number of steps that
is changed on the way holds from the next step on.
"""

import math

from lightning.pytorch import Trainer
from torch.optim import Optimizer

from flowbind.progress import say


def rate_at(
    step: int,
    steps: int,
    peak: float,
    warmup: int,
    decay: str,
) -> float:
    """The learning rate of one step.

    Args:
        step: Number of steps made before it.
        steps: Steps of the whole run.
        peak: Highest rate, reached after `warmup` steps that rise linearly.
        warmup: Number of those.
        decay: Rate after them: `constant`, or `cosine` down to 0 after the last step.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    if decay == "constant":
        return peak

    decay_steps = max(steps - warmup, 1)
    progress = min((step - warmup) / decay_steps, 1)
    cosine = math.cos(math.pi * progress)
    return peak * (1 + cosine) / 2


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Gives all parameters of an optimiser one rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def resume_rate(trainer: Trainer, rate: float) -> None:
    """Begins with a rate, at any step.

    Where steps were made before, a line says so, and which rate the checkpoint has.
    """
    (optimizer,) = trainer.optimizers
    saved = optimizer.param_groups[0]["lr"]
    set_rate(optimizer, rate)

    if trainer.global_step and trainer.is_global_zero:
        before = ""
        if not math.isclose(saved, rate, rel_tol=1e-6):
            before = f", which the recipe has there; it was {saved:.3g}"
        remain = trainer.max_steps - trainer.global_step
        say(
            f"fit: {remain} of {trainer.max_steps} steps remain; the learning rate continues at "
            f"{rate:.3g}{before}"
        )
