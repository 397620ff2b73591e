"""Label probes: small classifiers that read the labelled factors of a sample from its latent.

One network with a hidden layer is fitted on real latents and reads all factors at once. What it
reaches on held-out real latents is the ceiling of every accuracy measured with it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN = 256  # features of the hidden layer
STEPS = 300  # steps of AdamW
BATCH = 256  # rows a step
RATE = 1e-2  # highest learning rate; a tenth of the steps up, then a cosine down
DECAY = 1e-2  # AdamW's weight decay
DROPOUT = 0.2  # share of hidden features, for training sets that are small


class Accuracy(NamedTuple):
    """Shares of rows, in [0, 1], with each factor read rightly, with shape (F,), and with all."""

    factors: Tensor
    joint: float


class Probe:
    """A fitted probe: standardised latents, with shape (n, *), to classes, with shape (n, F)."""

    def __init__(self, net: nn.Module, classes: Sequence[int]) -> None:
        self.net = net
        self.classes = list(classes)

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> Tensor:
        logits = self.net(x.flatten(1).float())
        parts = logits.split(self.classes, dim=1)
        return torch.stack([part.argmax(1) for part in parts], dim=1)


def fit_probe(
    x: Tensor,
    labels: Tensor,
    classes: Sequence[int],
    seed: int = 0,
    steps: int = STEPS,
) -> Probe:
    """Fits a probe by cross-entropy, summed over factors.

    Args:
        x: Standardised latents, with shape (n, *).
        labels: Class of each factor, with shape (n, F), -1 where a row has none.
        classes: Number of classes of each factor, F of them.
        seed: Seed of initial weights, order of rows and dropout.
        steps: Steps of AdamW.
    """
    classes = list(classes)
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.random.fork_rng(devices=[]),
    ):
        torch.manual_seed(seed)
        # Copies: tensors that were made in inference mode cannot be trained on.
        x = x.flatten(1).to("cpu", torch.float32, copy=True)
        labels = labels.to("cpu", copy=True)

        net = nn.Sequential(
            nn.Linear(x.shape[1], HIDDEN),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(HIDDEN, sum(classes)),
        )
        optimizer = torch.optim.AdamW(
            net.parameters(),
            lr=RATE,
            weight_decay=DECAY,
            fused=True,
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            RATE,
            total_steps=steps,
            pct_start=0.1,
        )

        for _ in range(steps):
            rows = torch.randint(len(x), (BATCH,))
            logits = net(x[rows]).split(classes, dim=1)
            loss = _loss(logits, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

        net.eval().requires_grad_(False)
        return Probe(net, classes)


def _loss(logits: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Cross-entropy of a batch, summed over factors; rows without a label count as none.

    Args:
        logits: Per factor, with shape (rows, classes).
        labels: Class of each factor, with shape (rows, F), -1 where a row has none.
    """
    total = logits[0].new_zeros(())
    for part, truth in zip(logits, labels.unbind(1), strict=True):
        loss = F.cross_entropy(part, truth, ignore_index=-1, reduction="sum")
        total = total + loss / BATCH
    return total


def accuracy(predicted: Tensor, labels: Tensor) -> Accuracy:
    """Compares the classes read with the true ones; a class below 0 is never read rightly.

    Args:
        predicted: Classes that a probe read, with shape (n, F).
        labels: True classes, with shape (n, F).
    """
    return shares(predicted == labels)


def shares(right: Tensor) -> Accuracy:
    """Shares of rows in which each factor, and in which all, are right: bool (n, F) to [0, 1]."""
    each = right.double().mean(0)
    joint = right.all(1).double().mean()
    return Accuracy(each, joint.item())
