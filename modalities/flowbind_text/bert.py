"""Sentence encoders that are BERT with a mean over its positions, on torch alone.

sentence-transformers takes seconds to import, most of the time from a caption to a first picture.
The encoder that ships with flowbind's text codec, all-MiniLM-L6-v2, needs none of it: this file
gives the very numbers that sentence-transformers gives, and refuses whatever it would compute
otherwise.

BERT: Devlin et al., arXiv 1810.04805; the mean of its positions as a sentence: arXiv 1908.10084.

Shapes: B captions of T tokens each, W features of a token, H heads.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from flowbind.errors import first_line
from flowbind.files import read_json

BATCH = 256  # captions at once
LEAST = 1e-9  # least divisor of a mean

# What this file computes, by file of an encoder's folder; what is not there is as it is here.
KNOWN: dict[str, dict[str, Any]] = {
    "config.json": {
        "model_type": "bert",
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "is_decoder": False,
    },
    "sentence_bert_config.json": {"do_lower_case": False},
    "config_sentence_transformers.json": {
        "default_prompt_name": None,
        "truncate_dim": None,
    },
    "1_Pooling/config.json": {
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
        "pooling_mode_weightedmean_tokens": False,
        "pooling_mode_lasttoken": False,
    },
}
MODULES = (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
FILES = ("tokenizer.json", "model.safetensors")


class Layout(NamedTuple):
    """Sizes of a network, as its folder tells them.

    Attributes:
        layers: Number of its layers.
        heads: Number H of its heads.
        epsilon: Of its normalisations.
        longest: Most tokens that are read.
        normalizes: Whether its last module divides by the norm.
    """

    layers: int
    heads: int
    epsilon: float
    longest: int
    normalizes: bool


def layout_of(folder: Path) -> Layout | None:
    """The sizes of a sentence encoder; None where it is not what this file computes."""
    try:
        modules = read_json(folder / "modules.json")
        kinds = [module["type"].rpartition(".")[2] for module in modules]
        settings = {file: read_json(folder / file) for file in KNOWN}
        config = settings["config.json"]
        layout = Layout(
            int(config["num_hidden_layers"]),
            int(config["num_attention_heads"]),
            float(config["layer_norm_eps"]),
            int(settings["sentence_bert_config.json"]["max_seq_length"]),
            "Normalize" in kinds,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # sentence-transformers says what is wrong

    is_known = kinds in MODULES and all((folder / file).is_file() for file in FILES)
    for file, known in KNOWN.items():
        for key, value in known.items():
            is_known = is_known and settings[file].get(key, value) == value
    return layout if is_known else None


class BertSentences:
    """A sentence encoder on torch alone, whose numbers are those of sentence-transformers.

    Args:
        folder: Folder of the encoder, of which `layout_of` tells the layout.
        layout: Its sizes.

    Raises:
        ValueError: a file is damaged, or of another network; one line.
    """

    def __init__(self, folder: Path, layout: Layout) -> None:
        from safetensors.torch import load_file
        from tokenizers import Tokenizer

        self.layout = layout
        try:
            self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            self.tokenizer.no_padding()
            self.tokenizer.enable_truncation(layout.longest)

            # Not the buffer of positions' numbers that older files have.
            self.state = {}
            for name, tensor in load_file(folder / "model.safetensors").items():
                if tensor.is_floating_point():
                    self.state[name.removeprefix("bert.")] = tensor.float()

            # Any token will do, and the last one has the largest id.
            last = self.tokenizer.get_vocab_size() - 1
            self.embed(torch.tensor([[last]]), torch.device("cpu"))
        except Exception as error:  # tokenizers raises nothing narrower
            raise ValueError(f"{type(error).__name__}: {first_line(error)}") from None

    def tokens(self, captions: Sequence[str]) -> list[list[int]]:
        """The ids of each caption's tokens, as many as are read."""
        return [
            encoding.ids for encoding in self.tokenizer.encode_batch(list(captions))
        ]

    @torch.inference_mode()
    def embed(
        self,
        ids: Tensor,
        device: torch.device,
        normalize: bool = False,
    ) -> Tensor:
        """Embeddings of captions of equal length: int64 with shape (B, T) to float32, (B, W).

        Args:
            ids: Ids of the captions' tokens.
            device: Device on which they are computed; they come back to the CPU.
            normalize: Whether to divide each by its norm, after the encoder's own modules.
        """
        self.state = {name: tensor.to(device) for name, tensor in self.state.items()}
        parts = []
        for part in ids.to(device).split(BATCH):
            features = positions(self.state, self.layout, part)
            ones = torch.ones_like(features)
            mean = (features * ones).sum(1) / ones.sum(1).clamp(min=LEAST)

            if self.layout.normalizes:
                mean = F.normalize(mean, dim=1)
            if normalize:
                mean = F.normalize(mean, dim=1)
            parts.append(mean)
        return torch.cat(parts).cpu()


def positions(state: Mapping[str, Tensor], layout: Layout, ids: Tensor) -> Tensor:
    """BERT's features of every position: (B, T) to (B, T, W)."""

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(name: str, x: Tensor) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.layer_norm(
            x, weight.shape, weight, state[f"{name}.bias"], layout.epsilon
        )

    table = "embeddings.{}_embeddings.weight"
    x = F.embedding(ids, state[table.format("word")])
    x = x + state[table.format("token_type")][0]
    x = x + state[table.format("position")][: ids.shape[1]]
    x = norm("embeddings.LayerNorm", x)

    for number in range(layout.layers):
        layer = f"encoder.layer.{number}"
        heads = []
        for part in ("query", "key", "value"):
            projected = linear(f"{layer}.attention.self.{part}", x)
            heads.append(projected.unflatten(2, (layout.heads, -1)).transpose(1, 2))
        seen = F.scaled_dot_product_attention(*heads)
        seen = seen.transpose(1, 2).flatten(2)

        seen = linear(f"{layer}.attention.output.dense", seen)
        x = norm(f"{layer}.attention.output.LayerNorm", seen + x)
        inner = F.gelu(linear(f"{layer}.intermediate.dense", x))
        inner = linear(f"{layer}.output.dense", inner)
        x = norm(f"{layer}.output.LayerNorm", inner + x)
    return x
