"""Training the variational codec of captions, by reconstruction and nearness to a Gaussian."""

from collections.abc import Mapping

from torch import Tensor

from flowbind import draws
from flowbind.train.codec import CodecTraining
from flowbind_text.caption_vae import CaptionVAE
from flowbind_text.variational import READ
from flowbind_text.vocabulary import Cutter, learn
from flowbind_text.writer import texts_of


class CaptionVAETraining(CodecTraining):
    """Trains `CaptionVAE` to write again what it has read.

    The loss is the cross-entropy of a piece, in nats, given the latent and the pieces before it,
    the mean over all pieces of the batch, plus `kl` times the divergence of the encoder's Gaussian
    from the standard one, in nats, the mean over samples and the features of the latent.

    Args:
        codec: Codec whose network is trained from fresh weights.
        export: File that receives the trained weights (float16 safetensors) when fitting ends.
        learning_rate: Highest rate of AdamW, reached after 5% of the steps, then a cosine down to
            0.
        weight_decay: Weight decay of AdamW.
        noise: Noise on the latent, beside that of the encoder's own variance, as a share of each
            feature's spread.
        semantic: Weight of a linear classifier's cross-entropy on the latent.
        kl: Weight of the divergence.
        seed: Seed of all that is drawn.
    """

    def __init__(
        self,
        codec: CaptionVAE,
        export: str,
        learning_rate: float = 2e-3,
        weight_decay: float = 1e-4,
        noise: float = 0.3,
        semantic: float = 0.0,
        kl: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(
            codec,
            export,
            learning_rate,
            weight_decay,
            noise,
            semantic,
            seed,
        )
        self.kl = kl

    def configure_model(self) -> None:
        is_built = self.net is not None
        if is_built:
            return

        super().configure_model()
        (captions, *_) = self.trainer.datamodule.parts["train"].tensors
        table = learn(texts_of(captions))
        self.net.table.copy_(table)
        self.cutter = Cutter(table)

    def latents(
        self,
        captions: Tensor,
        streams: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Latents drawn from the encoder's Gaussians, and these's divergence from the standard."""
        means, log_variances = self.net.posterior(self._ids(captions))
        unit = draws.normal(streams, *means.shape[1:]).to(means.dtype)
        latents = means + (log_variances / 2).exp() * unit

        divergence = means.square() + log_variances.exp() - 1 - log_variances
        return latents, {"kl": divergence.flatten(1).mean(1) / 2}

    def reconstruction(
        self,
        latents: Tensor,
        captions: Tensor,
        streams: Tensor,
    ) -> Tensor:
        return self.net.surprise(latents.flatten(1), self._ids(captions))

    def _ids(self, captions: Tensor) -> Tensor:
        """The pieces of B captions in UTF-8, with shape (B, at most READ)."""
        return self.cutter(texts_of(captions), READ).to(captions.device)

    @property
    def parts(self) -> list[str]:
        return ["reconstruction", "kl", *self.classifiers]

    def weigh(self, losses: Mapping[str, Tensor]) -> Tensor:
        return super().weigh(losses) + self.kl * losses["kl"]
