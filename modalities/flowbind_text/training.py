"""Training the small codec of texts.

The vocabulary comes from the captions, the loss is the likelihood of every piece.
"""

from torch import Tensor

from flowbind.train.codec import CodecTraining
from flowbind_text.vocabulary import Cutter, learn
from flowbind_text.writer import LENGTH, texts_of


class TextCodecTraining(CodecTraining):
    """Trains `SmallText` to write the caption that a latent came from.

    The loss is the cross-entropy of a piece, in nats, given the latent and the pieces before it:
    the mean over all pieces of the batch, ends included.
    """

    def configure_model(self) -> None:
        is_built = self.net is not None
        if is_built:
            return

        super().configure_model()
        captions = self.trainer.datamodule.parts["train"].tensors[1]
        table = learn(texts_of(captions))
        self.net.table.copy_(table)
        self.cutter = Cutter(table)

    def reconstruction(
        self,
        latents: Tensor,
        embeddings: Tensor,
        captions: Tensor,
        streams: Tensor,
    ) -> Tensor:
        ids = self.cutter(texts_of(captions), LENGTH).to(latents.device)
        return self.net.surprise(latents, ids)
