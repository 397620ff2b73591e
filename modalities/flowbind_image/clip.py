"""CLIP models of open_clip: pictures and captions to vectors of one space."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import PIL.Image
import torch
from torch import Tensor

from flowbind.errors import first_line
from flowbind.files import digest
from flowbind.libraries import Extra, require
from flowbind.registry import did_you_mean


def load_clip(model: str, pretrained: str, extra: str) -> Any:
    """A frozen CLIP model of open_clip on the CPU, in float32 and evaluation mode.

    A tag's weights get the activation that they were trained with. OpenAI's need QuickGELU;
    open_clip itself only warns and takes GELU where the name does not end in `-quickgelu`,
    and every embedding is a little wrong.

    Args:
        model: Architecture by its name in open_clip, such as `ViT-L-14`.
        pretrained: Tag that open_clip has for the model, such as `openai`, or a file of weights.
            A file does not say its activation: for OpenAI's the model is `ViT-L-14-quickgelu`.
        extra: Extra of flowbind's that brings open_clip to whoever asks.

    Raises:
        ValueError: open_clip is not installed, there is no such model, tag or file, the file does
            not fit the model, or the hub does not give the tag's weights.
    """
    open_clip = require("open_clip", f"the CLIP model '{model}'", Extra(extra))
    if model not in open_clip.list_models():
        raise ValueError(
            f"open_clip has no model '{model}'; {did_you_mean(model, open_clip.list_models())}"
        )

    file, tag = _weights(open_clip, model, pretrained)
    try:
        net = open_clip.create_model(
            model,
            file,
            force_quick_gelu=tag.get("quick_gelu", False),
            force_preprocess_cfg=tag,
            require_pretrained=True,
        )
    except Exception as error:
        # What unpickling and load_state_dict raise of a strange file has no common class.
        raise ValueError(
            f"{file}: not weights of open_clip's {model} ({first_line(error)})"
        ) from None

    return net.eval().requires_grad_(False)


def _weights(
    open_clip: ModuleType,
    model: str,
    pretrained: str,
) -> tuple[str, dict[str, Any]]:
    """A model's file of weights, and what open_clip knows of them; nothing if a file was given.

    Raises:
        ValueError: there is no such tag or file, or the hub does not give the tag's weights.
    """
    if Path(pretrained).is_file():
        return pretrained, {}

    tag = open_clip.get_pretrained_cfg(model, pretrained)
    if not tag:
        tags = open_clip.list_pretrained_tags_by_model(model)
        raise ValueError(
            f"'{pretrained}' is no file, and no weights of {model} in open_clip; "
            f"{did_you_mean(pretrained, tags)}"
        )

    try:
        return open_clip.download_pretrained(tag), tag
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"the weights '{pretrained}' of {model} cannot be fetched ({first_line(error)}); "
            "connect to the hub once, or set `pretrained` to a file of them"
        ) from None


def prepare(visual: Any, raws: Sequence[Tensor]) -> Tensor:
    """B pictures resized, cropped in the middle and normalised as the weights of a model want it.

    Args:
        visual: Image tower, `load_clip(...).visual`, which knows its own preprocessing.
        raws: Pictures, uint8 RGB, each with shape (3, H, W).

    Returns:
        float32 on the CPU, with shape (B, 3, S, S).
    """
    from open_clip.transform import PreprocessCfg, image_transform_v2

    transform = image_transform_v2(
        PreprocessCfg(**visual.preprocess_cfg),
        is_train=False,
    )
    prepared = []
    for raw in raws:
        picture = PIL.Image.fromarray(raw.permute(1, 2, 0).numpy(force=True))
        prepared.append(transform(picture))

    return torch.stack(prepared)


def weights_of(pretrained: str, digits: int | None = None) -> str:
    """What identifies weights: the tag, or the first digits of a file's SHA-256; all 64 if None."""
    file = Path(pretrained)
    return digest(file)[:digits] if file.is_file() else pretrained
