"""CLIPScore: whether a picture and a caption mean the same to CLIP."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from flowbind.metric import Metric
from flowbind_image.clip import load_clip, prepare, weights_of

KINDS = {"image": "text", "text": "image"}  # each with what it is compared with


class ClipScore(Metric):
    """The mean over pairs of max(100 cos, 0), by CLIP's embeddings of picture and caption.

    As Hessel et al. 2021 (arXiv 2104.08718), but scaled by 100 rather than 2.5 and without their
    prompt, which is how text-to-image work reports it. A caption longer than the model's context
    (77 tokens) is cut; how many were is a value of its own, `cut-captions`.

    Args:
        judges: Kind that is generated, `image` (from text) or `text` (from images).
        model: Architecture by its name in open_clip.
        pretrained: Weights of the model: a tag of open_clip, or a file. With a file of OpenAI's
            weights the model's name ends in `-quickgelu`, their activation; with a tag that is seen
            to.
    """

    def __init__(
        self,
        judges: str = "image",
        model: str = "ViT-B-32",
        pretrained: str = "openai",
    ) -> None:
        if judges not in KINDS:
            raise ValueError(f"CLIPScore judges image or text, not '{judges}'")

        self.judges = judges
        self.against = KINDS[judges]
        self.model = model
        self.pretrained = pretrained

    @cached_property
    def net(self) -> Any:
        """The frozen model; raises as `load_clip` does."""
        net = load_clip(self.model, self.pretrained, extra="metrics")
        return net.to(self.device)

    @cached_property
    def tokenizer(self):
        """The model's tokenizer."""
        net = self.net  # so that its errors, which say what to do, come first
        import open_clip

        return open_clip.get_tokenizer(self.model, context_length=net.context_length)

    @torch.no_grad()
    def features(self, kind: str, raws: Sequence[Any]) -> Tensor:
        """Embeddings of norm 1, float32 with shape (B, D).

        Those of captions have shape (B, D + 1); the last number is 1 where one was cut.
        """
        with torch.autocast(self.device.type, enabled=False):
            if kind == "image":
                return self._of_pictures(raws)
            return self._of_captions(raws)

    def _of_pictures(self, raws: Sequence[Tensor]) -> Tensor:
        pictures = prepare(self.net.visual, raws)
        pictures = pictures.to(self.device)
        return self.net.encode_image(pictures, normalize=True)

    def _of_captions(self, raws: Sequence[str]) -> Tensor:
        length = self.tokenizer.context_length
        tokens = self.tokenizer(list(raws))

        # A caption was cut if one more place would change what is read.
        longer = self.tokenizer(list(raws), context_length=length + 1)
        was_cut = longer[:, :length] != tokens
        was_cut = was_cut.any(1, keepdim=True)

        embeddings = self.net.encode_text(tokens.to(self.device), normalize=True)
        was_cut = was_cut.to(embeddings)
        return torch.cat([embeddings, was_cut], dim=1)

    def compute(self, made: Tensor, reference: Tensor) -> dict[str, float]:
        pictures = made
        captions = reference
        if self.judges == "text":
            pictures = reference
            captions = made

        was_cut = captions[:, -1]
        cosines = pictures.double() * captions[:, :-1].double()
        scores = (100 * cosines.sum(1)).clamp(min=0)
        weights = weights_of(self.pretrained, digits=8)
        label = f"open_clip,{self.model},{weights}"
        return {
            f"clip-score[{label}]": scores.mean().item(),
            f"cut-captions[{label}]": was_cut.sum().item(),
        }

    def fingerprint(self) -> dict[str, Any]:
        weights = weights_of(self.pretrained)
        return super().fingerprint() | {"pretrained": weights}
