"""Training what writes captions: a projector, alone or with the language model behind it.

The authors of FlowBind released a trained decoder, not the code that trained it; this is ClipCap's
way (arXiv 2111.09734): the language model predicts each piece of a caption from the prefix and the
pieces before it.
"""

from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowbind.libraries import Extra, importing
from flowbind.tensors import save_tensors
from flowbind.train.codec import CodecTraining
from flowbind_text.prefix_lm import PAST, PrefixNet, SentencePrefixLM


class PrefixTraining(CodecTraining):
    """Trains the decoder of `SentencePrefixLM` on captions.

    It begins with a fresh projector and the language model as distributed. The loss is the
    cross-entropy of a piece, in nats, given the latent and the pieces before it: the mean over all
    pieces of the batch, ends included. The language model is read without dropout, whatever it was
    trained with.

    Args:
        codec: Codec whose decoder is trained.
        export: Safetensors file that receives what was trained when fitting ends, for the codec's
            `weights`.
        tune: Part that is trained: the `projector` alone; with `lora` also low-rank changes of
            every linear layer of the language model but its last (arXiv 2106.09685, through peft);
            with `language_model` the whole of it, in float32.
        rank: Rank of the low-rank changes.
        learning_rate: Highest rate of AdamW, reached after 5% of the steps, then a cosine down to
            0.
        weight_decay: Weight decay of AdamW.
        noise: Standard deviation of the noise added to a latent before it is decoded, as a share of
            each feature's own spread in the batch. At 0 the decoder only ever sees latents of real
            captions; some noise makes it forgive the small errors of a flow, at the price of exact
            wording.
        seed: Seed of the noise; with the step it decides every draw.
    """

    codec: SentencePrefixLM

    def __init__(
        self,
        codec: SentencePrefixLM,
        export: str,
        tune: Literal["projector", "lora", "language_model"] = "projector",
        rank: int = 16,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        noise: float = 0.0,
        seed: int = 0,
    ) -> None:
        # No `NeuralCodec`, but it builds a network and makes its inputs, as one does.
        super().__init__(
            codec,  # type: ignore[arg-type]
            export,
            learning_rate,
            weight_decay,
            noise,
            seed=seed,
        )
        self.tune = tune
        self.rank = rank
        self.strict_loading = False  # a checkpoint leaves out what is frozen

    def build(self) -> PrefixNet:
        net = self.codec.build()
        return prepare(net, self.tune, self.rank)

    @property
    def least_batch(self) -> int:
        return 2 if self.noise else 1

    def encode(
        self,
        latents: Tensor,
        pieces: Tensor,
        streams: Tensor,
    ) -> Tensor:
        return latents  # the encoder is frozen, and was asked once

    def reconstruction(
        self,
        disturbed: Tensor,
        latents: Tensor,
        pieces: Tensor,
        streams: Tensor,
    ) -> Tensor:
        """The cross-entropy of every piece of n captions, given latents with shape (n, D).

        Args:
            disturbed: Latents as they are decoded.
            latents: Latents as they were.
            pieces: Pieces of the captions, with shape (n, T), `PAST` after each end.
            streams: Streams of random numbers; nothing is drawn.
        """
        beginning, end = self.codec.ends
        is_piece = pieces != PAST
        pieces = pieces[:, is_piece.any(0)]  # to the end of the longest caption

        # What is read after an end is left out of the loss, and no earlier piece sees it: the
        # language model is causal.
        before = F.pad(pieces[:, :-1], (1, 0))
        is_past = before == PAST
        before = F.pad(pieces[:, :-1], (1, 0), value=beginning)
        before = before.masked_fill(is_past, end)

        counts = pieces != PAST
        logits = self.net(disturbed, before)
        logits = logits[counts]
        exact = torch.promote_types(logits.dtype, torch.float32)
        logits = logits.to(exact)
        return F.cross_entropy(logits, pieces[counts], reduction="none")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["state_dict"]
        trained_part = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                trained_part[name] = state[name]
        checkpoint["state_dict"] = trained_part

    def write_weights(self, path: Path) -> None:
        """Writes what was trained, beside and then renamed; the rest is as it is distributed."""
        save_tensors(trained(self.net), path)


def prepare(net: PrefixNet, tune: str, rank: int) -> PrefixNet:
    """Makes those parameters learn that `tune` says.

    The language model comes frozen and in evaluation mode, and stays in it.

    Raises:
        ValueError: low-rank changes are wanted, and peft is not installed or the language model has
            no linear layer.
    """
    if tune == "language_model":
        net.lm.float().requires_grad_(True)
    elif tune == "lora":
        _add_low_rank(net.lm, rank)

    return net


def _add_low_rank(lm: Any, rank: int) -> None:
    """Adds low-rank changes that learn, in float32, to all linear layers but the last."""
    last = lm.get_output_embeddings()
    linear = []
    for name, part in lm.named_modules():
        if isinstance(part, nn.Linear) and part is not last:
            linear.append(name)

    if not linear:
        raise ValueError(
            "the language model has no linear layers for `tune: lora`; set `tune: language_model`"
        )

    with importing("peft", needing="`tune: lora`", install=Extra("lora")):
        from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=linear,
    )
    inject_adapter_in_model(config, lm)

    for parameter in lm.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # small steps are lost in bfloat16


def trained(net: PrefixNet) -> dict[str, Tensor]:
    """What was trained, as `PrefixNet.restore` takes it over."""
    state: dict[str, Tensor] = {}
    for name, parameter in net.projector.named_parameters():
        state[f"projector.{name}"] = parameter

    low_rank = {}
    for name, part in net.lm.named_modules():
        if hasattr(part, "lora_A"):
            low_rank[name] = part
    for name, part in low_rank.items():
        (kind,) = part.lora_A
        down = part.lora_A[kind]
        up = part.lora_B[kind]
        state[f"lora.{name}.down"] = down.weight
        state[f"lora.{name}.up"] = part.scaling[kind] * up.weight

    if not low_rank:
        for name, parameter in net.lm.named_parameters():
            if parameter.requires_grad:
                state[f"lm.{name}"] = parameter

    for name, tensor in state.items():
        state[name] = tensor.detach().cpu().contiguous()
    return state
