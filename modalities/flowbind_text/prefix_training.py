"""Training what writes captions from sentence embeddings: a projector, alone or with the language model behind it.

The authors of FlowBind released a trained decoder, not the code that trained it; this is ClipCap's way (arXiv
2111.09734): the language model predicts each piece of a caption from the prefix and the pieces before it.
"""

from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule
from safetensors.torch import save_file
from torch import Tensor, nn

from flowbind.atomic import replacing
from flowbind.data.raw import labels_of
from flowbind.progress import say
from flowbind.train.callbacks import Export
from flowbind_text.hub import missing
from flowbind_text.prefix_lm import PAST, PrefixNet, SentencePrefixLM


class PrefixTraining(LightningModule):
    """Trains the decoder of `SentencePrefixLM` on captions, from a fresh projector and the language model as distributed.

    The loss is the cross-entropy of a piece, in nats, given the latent and the pieces before it: the mean over all
    pieces of the batch, ends included.

    Args:
        codec: the codec whose decoder is trained.
        export: safetensors file that receives what was trained when fitting ends, for the codec's `weights`.
        tune: what is trained: the `projector` alone; with `lora` also low-rank changes of every linear layer of the
            language model but its last (arXiv 2106.09685, through peft); with `language_model` the whole of it, in
            float32.
        rank: of the low-rank changes.
        learning_rate: highest rate of AdamW, reached after 5% of the steps, then a cosine down to 0.
        weight_decay: of AdamW.
        noise: standard deviation of the noise added to a latent before it is decoded, as a share of each feature's own
            spread in the batch. At 0 the decoder only ever sees latents of real captions; some noise makes it forgive
            the small errors of a flow, at the price of exact wording.
    """

    def __init__(
        self,
        codec: SentencePrefixLM,
        export: str,
        tune: Literal["projector", "lora", "language_model"] = "projector",
        rank: int = 16,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        noise: float = 0.0,
    ) -> None:
        super().__init__()
        self.codec, self.export, self.tune, self.rank = codec, export, tune, rank
        self.learning_rate, self.weight_decay, self.noise = learning_rate, weight_decay, noise
        self.net: PrefixNet | None = None
        self.strict_loading = False  # a checkpoint leaves out what is frozen

    def configure_model(self) -> None:
        if self.net is None:
            self.net = prepare(self.codec.build(), self.tune, self.rank)

    def loss(self, latents: Tensor, pieces: Tensor) -> Tensor:
        """The loss of decoding latents, with shape (B, D), to pieces, with shape (B, T), `PAST` after each end."""
        beginning, end = self.codec.ends
        pieces = pieces[:, (pieces != PAST).any(0)]  # to the end of the batch's longest caption
        # What is read after an end is masked in the loss, and no earlier piece sees it: the language model is causal.
        before = F.pad(pieces[:, :-1], (1, 0), value=beginning).masked_fill(F.pad(pieces[:, :-1], (1, 0)) == PAST, end)
        return F.cross_entropy(self.net(latents, before).flatten(0, 1).float(), pieces.flatten(), ignore_index=PAST)

    def training_step(self, batch: tuple[Tensor, ...], index: int) -> Tensor:
        (latents, pieces), _ = labels_of(batch)
        if self.noise:
            latents = latents + self.noise * latents.std(0) * torch.randn_like(latents)
        loss = self.loss(latents, pieces)
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, ...], index: int) -> None:
        (latents, pieces), _ = labels_of(batch)
        self.log("val/loss", self.loss(latents, pieces), batch_size=len(latents))

    def configure_optimizers(self) -> dict[str, Any]:
        learning = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(learning, lr=self.learning_rate, weight_decay=self.weight_decay)
        steps = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=steps, pct_start=0.05)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        learning = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        checkpoint["state_dict"] = {name: checkpoint["state_dict"][name] for name in learning}

    def configure_callbacks(self) -> list[Callback]:
        return [Export()]

    def export_trained(self) -> None:
        """Writes the trained weights."""
        if self.trainer.is_global_zero:
            with replacing(Path(self.export)) as partial:
                save_file(trained(self.net), partial)
            say(f"wrote {self.export}")


def prepare(net: PrefixNet, tune: str, rank: int) -> PrefixNet:
    """Makes those parameters learn that `tune` says; the language model comes frozen.

    Raises:
        ValueError: low-rank changes are wanted, and peft is not installed or the language model has no linear layer.
    """
    net.lm.train(tune != "projector")  # so that what is frozen is read without dropout
    if tune == "language_model":
        net.lm.float().requires_grad_(True)
    elif tune == "lora":
        last = net.lm.get_output_embeddings()
        linear = [name for name, part in net.lm.named_modules() if isinstance(part, nn.Linear) and part is not last]
        if not linear:
            raise ValueError("the language model has no linear layers for `tune: lora`; set `tune: language_model`")
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError:
            raise missing("`tune: lora`", "peft", "lora") from None
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=linear), net.lm)
        for parameter in net.lm.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()  # small steps are lost in bfloat16
    return net


def trained(net: PrefixNet) -> dict[str, Tensor]:
    """What was trained, as `PrefixNet.restore` takes it over."""
    state = {f"projector.{name}": parameter for name, parameter in net.projector.named_parameters()}
    lowered = {name: part for name, part in net.lm.named_modules() if hasattr(part, "lora_A")}
    if lowered:
        for name, part in lowered.items():
            (kind,) = part.lora_A
            state[f"lora.{name}.down"] = part.lora_A[kind].weight
            state[f"lora.{name}.up"] = part.scaling[kind] * part.lora_B[kind].weight
    else:
        state |= {f"lm.{name}": parameter for name, parameter in net.lm.named_parameters() if parameter.requires_grad}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
