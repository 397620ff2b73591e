"""A world of one modality of each kind of latent, and a method that trains on all of them together.

A scene is three digits below 4, spelled as ids, drawn as a grid, told as a vector, and as a masked
sequence with as many positions as the first digit says.
"""

from dataclasses import dataclass

import torch
from torch import nn

from flowbind import Codec, Direction, Loss, Method, Modality, draws
from tests.toy import DIGITS, Word

GRID, LENGTH = 4, 5


class DigitIds(Codec):
    """The digits themselves, of a vocabulary."""

    shape = (3,)
    dtype = torch.int64
    vocabulary = DIGITS

    def encode(self, raws):
        return torch.tensor([[int(digit) for digit in word] for word in raws])

    def decode(self, latents, generator=None):
        return ["".join(map(str, row)) for row in latents.clamp(0, DIGITS - 1).tolist()]


class DigitGrid(Codec):
    """A grid whose channels are constant: each a digit, far from 0."""

    shape = (3, GRID, GRID)

    def encode(self, raws):
        digits = DigitIds().encode(raws).float()
        return (10 + digits)[..., None, None].expand(-1, -1, GRID, GRID).clone()

    def decode(self, latents, generator=None):
        return DigitIds().decode((latents.mean((2, 3)) - 10).round().long())


class DigitSequence(Codec):
    """All three digits at each of as many positions as the first digit and one more, then padding."""

    shape = (LENGTH, 4)
    masked = True

    def encode(self, raws):
        digits = DigitIds().encode(raws)
        there = (torch.arange(LENGTH) <= digits[:, :1])[..., None].float()
        features = 5 + digits[:, None].float().expand(-1, LENGTH, -1)
        return torch.cat([features * there, there], dim=-1)

    def decode(self, latents, generator=None):
        there = latents[..., -1:] > 0.5
        count = there.sum(1).clamp(min=1)
        digits = (latents[..., :3] * there).sum(1) / count - 5
        return DigitIds().decode(digits.round().long())


KINDS = {"ids": DigitIds, "grid": DigitGrid, "sequence": DigitSequence}


def modalities() -> dict[str, Modality]:
    """One of each kind: a vector, ids, a grid and a masked sequence."""
    return {"word": Word()} | {
        name: Word(codec(), reads="word") for name, codec in KINDS.items()
    }


@dataclass(frozen=True)
class NoChoices:
    """Nothing may be chosen at generation."""


class Heads(nn.Module):
    """From a word's vector to each other kind: numbers, or logits of ids."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.width = method.modalities["word"].codec.shape[0]
        outputs = {
            name: torch.Size(m.codec.shape).numel() * (m.codec.vocabulary or 1)
            for name, m in method.modalities.items()
        }
        self.maps = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.Linear(self.width, 64), nn.SiLU(), nn.Linear(64, size)
                )
                for name, size in outputs.items()
            }
        )


class Regression(Method):
    """Every kind of latent from a word's vector, by least squares, and ids by cross-entropy."""

    Sampling = NoChoices

    def __init__(self, modalities: dict[str, Modality]) -> None:
        super().__init__(modalities)

    def build(self) -> Heads:
        return Heads(self)

    def directions(self) -> list[Direction]:
        return [
            Direction(("word",), (name,)) for name in self.modalities if name != "word"
        ]

    def trains_on(self, present) -> bool:
        return "word" in present

    def draw(self, batch, key):
        noise = draws.normal(
            batch.streams(key)["word"], *batch.latents["word"].shape[1:]
        )
        return noise.to(batch.latents["word"].dtype)

    def losses(self, nets, batch, draws):
        words = batch.latents["word"] + 0.01 * draws
        place = {
            sample: row for row, sample in enumerate(batch.samples["word"].tolist())
        }
        losses = {}
        for name, x in batch.latents.items():
            rows = torch.tensor(
                [place[s] for s in batch.samples[name].tolist()], dtype=torch.long
            )
            made = nets.maps[name](words[rows])
            if x.dtype == torch.int64:
                logits = made.reshape(*x.shape, self.modalities[name].codec.vocabulary)
                error = nn.functional.cross_entropy(
                    logits.movedim(-1, 1), x, reduction="none"
                )
                losses[name] = Loss(name, error.mean(1))
            else:
                losses[name] = Loss(
                    name, (made.reshape(x.shape) - x).square().flatten(1).mean(1)
                )
        return losses

    def start(self, nets, name, x, sampling, streams):
        return x

    def finish(self, nets, state, targets, sampling, streams):
        generated = {}
        for name in targets:
            codec, made = self.modalities[name].codec, nets.maps[name](state)
            if codec.vocabulary:
                logits = made.reshape(len(state), *codec.shape, codec.vocabulary)
                generated[name] = logits.argmax(-1)
            else:
                generated[name] = made.reshape(len(state), *codec.shape)
        return generated


MODEL = {
    "class_path": "regression",
    "init_args": {
        "modalities": {"word": {"class_path": "word"}}
        | {
            name: {
                "class_path": "word",
                "init_args": {
                    "codec": {"class_path": f"digit-{name}"},
                    "reads": "word",
                },
            }
            for name in KINDS
        }
    },
}


class FromNothing(Regression):
    """Words from noise alone: as they are distributed, one by one."""

    def directions(self) -> list[Direction]:
        return [Direction((), ("word",))]

    def finish(self, nets, state, targets, sampling, streams):
        noise = draws.normal(streams, *self.modalities["word"].codec.shape)
        return dict.fromkeys(targets, noise)

    def fuse(self, states, sampling, streams):
        return streams


@dataclass(frozen=True)
class PairsSampling:
    """What may be chosen for pairs.

    Args:
        inpaint: Whether the picture is made anew from a damaged one.
    """

    inpaint: bool = False


class Pairs(Method):
    """Pictures of one colour and words that spell it, in closed form: pairs of noise alone, and either from the other."""

    Sampling = PairsSampling

    def build(self) -> nn.Module:
        return nn.Linear(1, 1)

    def draw(self, batch, key):
        raise NotImplementedError

    losses = draw

    def directions(self) -> list[Direction]:
        return [
            Direction((), ("image", "word")),
            Direction(("word",), ("image",)),
            Direction(("image",), ("word",)),
            Direction(("image", "word"), ("image",)),
        ]

    def check(self, direction, sampling, masked=()):
        is_over = bool({*direction.sources} & {*direction.targets})
        if is_over != sampling.inpaint:
            raise ValueError(
                "inpaint is for a source that is a target too, and for no other"
            )

    def start(self, nets, name, x, sampling, streams):
        return {name: x}

    def fuse(self, states, sampling, streams):
        digits = (DIGITS * draws.uniform(streams, 3)).floor().float()
        state = {"drawn": self.modalities["word"].codec.write(digits)}
        for part in states:
            state |= part
        return state

    def hold(self, state, known):
        return state | {"known": known}

    def finish(self, nets, state, targets, sampling, streams):
        codec = self.modalities["word"].codec
        if "image" in state and "word" not in state:
            levels = state["image"].float().mean((2, 3))
            words = codec.write((levels + 1) / 2 * (DIGITS - 1))
        else:
            words = state.get("word", state["drawn"])

        levels = 2 * codec.read(words) / (DIGITS - 1) - 1
        image = levels[..., None, None].expand(
            -1, *self.modalities["image"].codec.shape
        )
        if "known" in state:
            image = torch.where(state["known"]["image"], state["image"], image)
        generated = {"image": image, "word": words}
        return {name: generated[name] for name in targets}
