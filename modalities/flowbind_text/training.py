"""Training the small codec of texts.

The vocabulary comes from the captions, the loss is the likelihood of every piece.
"""

import torch.nn.functional as F
from torch import Tensor

from flowbind.train.codec import CodecTraining
from flowbind_text.vocabulary import END, Cutter, learn
from flowbind_text.writer import LENGTH


class TextCodecTraining(CodecTraining):
    """Trains `SmallText` to write the caption that a latent came from.

    The loss is the cross-entropy of a piece, in nats, given the latent and the pieces before it:
    the mean over all pieces of the batch, ends included.
    """

    def configure_model(self) -> None:
        if self.net is not None:
            return

        super().configure_model()
        captions = self.trainer.datamodule.parts["train"].tensors[1]
        table = learn(_texts(captions))
        self.net.table.copy_(table)
        self.cutter = Cutter(table)

    def reconstruction(
        self,
        latents: Tensor,
        embeddings: Tensor,
        captions: Tensor,
        streams: Tensor,
    ) -> Tensor:
        ids = self.cutter(_texts(captions), LENGTH).to(latents.device)
        ids = F.pad(ids, (1, 1), value=END)  # a caption begins as it ends
        before = ids[:, :-1]
        target = ids[:, 1:]

        logits, _ = self.net.step(latents, before, self.net.first(latents))
        # Everything up to the first end.
        counts = F.pad(target[:, :-1] != END, (1, 0), value=True)
        return F.cross_entropy(logits[counts], target[counts], reduction="none")


def _texts(captions: Tensor) -> list[str]:
    texts = []
    for row in captions.cpu().numpy():
        spelled = row.tobytes().rstrip(b"\0")
        texts.append(spelled.decode("utf-8", "ignore"))
    return texts
