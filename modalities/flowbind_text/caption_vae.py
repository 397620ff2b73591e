"""A text latent with its own encoder and decoder: captions to 8 positions of 16 numbers, and back.

Both were trained on captions alone, by reconstruction, so that a latent says how a caption is
worded, not its meaning only, and comes back word for word. It needs no other model.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from flowbind.codec import NeuralCodec
from flowbind_text.variational import READ, VariationalCaptionNet
from flowbind_text.vocabulary import END, Cutter
from flowbind_text.writer import captions_of, spelled


class CaptionVAE(NeuralCodec):
    """A variational autoencoder of captions, with latents of shape (8, 16), a sequence.

    A latent is the mean of the encoder's Gaussian; what is written depends on the latent alone.
    Captions are read by the words of those that it was trained on. A word that these lack is spelled
    in bytes, which the shipped weights never learnt, and a caption of more than 32 pieces is cut;
    the caveat says either.

    Args:
        weights: Safetensors file; the weights shipped with the plugin if None.
    """

    shape = (8, 16)
    shipped = Path(__file__).parent / "weights" / "caption_vae.safetensors"

    def build(self) -> VariationalCaptionNet:
        return VariationalCaptionNet(*self.shape)

    @cached_property
    def cutter(self) -> Cutter:
        """Cuts captions into the pieces that the network knows."""
        return Cutter(self.net.table)

    def prepare(self, raws: Sequence[str]) -> Tensor:
        """The ids of B captions' pieces, int64 with shape (B, 32); 0 after the shorter ones."""
        ids = self.cutter(raws, READ)
        return F.pad(ids, (0, READ - ids.shape[1]), value=END)

    def training_inputs(self, raws: Sequence[str]) -> tuple[Tensor]:
        """The captions in UTF-8: the pieces are learnt of them."""
        return (spelled(raws),)

    def finish(self, outputs: Tensor) -> list[str]:
        """Reads the bytes of B captions."""
        return captions_of(outputs)

    @torch.inference_mode()
    def errors(self, raws: Sequence[str], again: Sequence[str]) -> Tensor:
        """The share of each caption's places at which another piece stands, with shape (B,)."""
        before = self.prepare(raws)
        after = self.prepare(again)
        differ = (before != after).sum(1)
        places = ((before != END) | (after != END)).sum(1)
        return differ / places

    def caveat(self, raw: str) -> str:
        """Says what of a caption is lost: words that the vocabulary lacks, or its end."""
        unknown = self.cutter.unknown(raw)
        if unknown:
            return (
                f"has a word that the codec's vocabulary lacks, '{unknown[0]:.30}', "
                "and will not come back"
            )

        count = self.cutter.count(raw)
        if count > READ:
            return f"is cut: {count} pieces, of which the codec reads {READ}"
        return ""
