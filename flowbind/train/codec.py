"""Training a small codec: encode, disturb, decode, compare, and export the weights as safetensors."""

from abc import abstractmethod
from pathlib import Path

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule
from safetensors.torch import save_file
from torch import Tensor, nn

from flowbind.atomic import replacing
from flowbind.codec import NeuralCodec
from flowbind.data.raw import labels_of
from flowbind.progress import say
from flowbind.train.callbacks import Export


class CodecTraining(LightningModule):
    """Trains a `NeuralCodec`. A subclass says how a reconstruction is judged.

    Args:
        codec: the codec whose network is trained from fresh weights.
        export: file that receives the trained weights (float16 safetensors) when fitting ends.
        learning_rate: highest rate of AdamW, reached after 5% of the steps, then a cosine down to 0.
        weight_decay: of AdamW.
        noise: standard deviation of the noise added to a latent before it is decoded, as a share of each feature's
            own spread; it makes the decoder forgive small errors of a flow.
        semantic: weight of a linear classifier's cross-entropy on the latent, for manifests with labels. It spreads the
            latents by meaning, as the contrastive training of large codecs does; 0 trains by reconstruction alone.
    """

    def __init__(
        self,
        codec: NeuralCodec,
        export: str,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        noise: float = 0.1,
        semantic: float = 0.0,
    ) -> None:
        super().__init__()
        self.codec, self.export = codec, export
        self.learning_rate, self.weight_decay, self.noise, self.semantic = learning_rate, weight_decay, noise, semantic
        self.net = codec.build()
        self.classifiers = nn.ModuleDict()

    @abstractmethod
    def reconstruction(self, latents: Tensor, *inputs: Tensor) -> Tensor:
        """The scalar loss of decoding `latents`, with shape (B, *shape), to what `inputs` were; inputs as in the codec's `training_inputs`."""

    def configure_model(self) -> None:
        if self.semantic and not self.classifiers:
            features = torch.Size(self.codec.shape).numel()
            classes = self.trainer.datamodule.classes
            self.classifiers.update({factor: nn.Linear(features, len(values)) for factor, values in classes.items()})

    def losses(self, batch: tuple[Tensor, ...], noise: float) -> dict[str, Tensor]:
        """The terms of the loss; `loss` is their weighted sum."""
        inputs, labels = labels_of(batch)
        latents = self.net.encode(inputs[0])
        disturbed = latents + noise * latents.detach().std(0) * torch.randn_like(latents) if noise else latents
        found = {"reconstruction": self.reconstruction(disturbed, *inputs)}
        found["loss"] = found["reconstruction"]
        for column, (factor, classifier) in enumerate(self.classifiers.items()):
            truth = labels[:, column]
            logits = classifier(disturbed.flatten(1))
            found[factor] = F.cross_entropy(logits, truth, ignore_index=-1, reduction="sum") / (truth >= 0).sum().clamp(
                min=1
            )
            found["loss"] = found["loss"] + self.semantic * found[factor]
        return found

    def training_step(self, batch: tuple[Tensor, ...], index: int) -> Tensor:
        found = self.losses(batch, self.noise)
        self.log_dict({f"train/{name}": value.detach() for name, value in found.items()}, prog_bar=True)
        return found["loss"]

    def validation_step(self, batch: tuple[Tensor, ...], index: int) -> None:
        with torch.random.fork_rng():  # how often is validated does not decide the weights
            torch.manual_seed(0)
            found = self.losses(batch, 0.0)
        self.log_dict({f"val/{name}": value for name, value in found.items()}, batch_size=len(batch[0]))

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
        steps = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=steps, pct_start=0.05)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_callbacks(self) -> list[Callback]:
        return [Export()]

    def export_trained(self) -> None:
        """Writes the trained weights."""
        if self.trainer.is_global_zero:
            export_weights(self.net, Path(self.export))
            say(f"wrote {self.export}")


def export_weights(net: nn.Module, path: Path) -> None:
    """Writes a network's weights as float16 safetensors, beside and then renamed."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    with replacing(path) as partial:
        save_file(
            {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}, partial
        )
