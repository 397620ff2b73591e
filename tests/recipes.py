"""The recipes that ship: their files, and those that each is given over."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowbind import Codec, Modality
from flowbind.cli.check import load_yaml
from flowbind.cli.overrides import merge

RECIPES = Path(__file__).parents[1] / "recipes"
MODELS = sorted(
    path.relative_to(RECIPES).with_suffix("").as_posix()
    for path in RECIPES.rglob("*.yaml")
    if path.parent.name not in ("codecs", "judges")
)
CODECS = sorted(f"codecs/{path.stem}" for path in (RECIPES / "codecs").glob("*.yaml"))
JUDGES = sorted(f"judges/{path.stem}" for path in (RECIPES / "judges").glob("*.yaml"))
BASES = {  # the model that a recipe builds on
    "flowbind/pix3d_bind": "flowbind/normalized",
    "flowbind/shapes_bind": "flowbind/shapes_base",
}
NETS = {"width": 16, "depth": 2}
SMALL = {  # what makes a method's networks small, by its name
    "flowbind": {"drift": NETS, "head": NETS},
    "crossflow": {
        "encoder": {"width": 16, "depth": 1, "heads": 2, "hidden": 16},
        "net": NETS | {"heads": 2},
        "witness": {"width": 8, "depth": 1, "heads": 2},
    },
    "flowmatching": {"net": NETS | {"heads": 2}},
    "crossmodal": {
        "net": NETS | {"heads": 2},
        "token_net": NETS | {"heads": 2, "reading": 1},
        "align": {"block": 1, "hidden": 16},
    },
}
PIXELS = {  # pixels a side of those whose latents are pictures as they are, by modality
    "crossflow/imagenet_super_resolution": {"small": 64, "image": 64},
    "crossflow/kitti_depth": {"image": 32, "depth": 32},
    "crossflow/nyuv2_depth": {"image": 32, "depth": 32},
}
FIT = re.compile(r"^#   flowbind fit +(.*)$", re.MULTILINE)


def configs(name: str) -> list[str]:
    """The recipes of a run, the first one below all others: as the last `flowbind fit` of the recipe's head has them."""
    commands = FIT.findall((RECIPES / f"{name}.yaml").read_text())
    own = [command for command in commands if f"recipes/{name}.yaml" in command]
    return re.findall(r"--config (\S+)", own[-1])


def merged(name: str) -> dict[str, Any]:
    """What the recipes of a run say together."""
    return merge(
        [load_yaml((RECIPES.parent / path).read_text()) for path in configs(name)]
    )


def options(name: str) -> list[str]:
    """The options that give the recipes of a run."""
    return [option for path in configs(name) for option in ("--config", path)]


def networks(recipe: dict[str, Any]) -> dict[str, dict[str, int]]:
    """What makes the networks of a model's recipe small, of those that it has."""
    method = recipe["model"]["class_path"].rpartition(".")[2].lower().replace("-", "")
    given = recipe["model"]["init_args"]
    sizes = SMALL[method]
    return {part: own for part, own in sizes.items() if given.get(part, own)}


def small(name: str) -> list[str]:
    """The options that make the networks of a model's recipe small, and its latents where they are pixels."""
    sizes = [
        f"--model.init_args.{part}.{size}={value}"
        for part, own in networks(merged(name)).items()
        for size, value in own.items()
    ]
    pixels = [
        f"--model.init_args.modalities.{modality}.init_args.codec.init_args.size={side}"
        for modality, side in PIXELS.get(name, {}).items()
    ]
    return sizes + pixels


def modalities(name: str) -> dict[str, Modality]:
    """The modalities of a model's recipe at small size, without the parser of all its keys."""
    entries = merged(name)["model"]["init_args"]["modalities"]
    for modality, side in PIXELS.get(name, {}).items():
        entries[modality]["init_args"]["codec"]["init_args"]["size"] = side
    return {modality: _made(entry) for modality, entry in entries.items()}


def _made(entry: dict[str, Any]) -> Any:
    """What an entry of a recipe names, with its arguments; names of plugins are dotted paths here already."""
    arguments = dict(entry.get("init_args", {}))
    if "codec" in arguments:
        arguments["codec"] = _made(arguments["codec"])
    module, _, name = entry["class_path"].rpartition(".")
    return getattr(import_module(module), name)(**arguments)


def random_latents(codec: Codec, rows: int, generator: torch.Generator) -> Tensor:
    """Latents of a codec's shape and kind: of a masked sequence the first positions are there."""
    if codec.vocabulary is not None:
        shape = (rows, *codec.shape)
        return torch.randint(codec.vocabulary, shape, generator=generator)
    x = torch.randn(rows, *codec.shape, generator=generator)
    if codec.masked:
        lengths = torch.randint(1, len(x[0]) + 1, (rows, 1), generator=generator)
        is_there = (torch.arange(len(x[0])) < lengths)[..., None]
        x = torch.cat([x[..., :-1] * is_there, is_there], dim=-1)
    return x.to(codec.dtype)
