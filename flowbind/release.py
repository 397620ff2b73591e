"""Released models: a folder of safetensors and JSON. Nothing in it can run code: classes are found by registered name.

model.json          modalities, codecs, sizes, settings, versions
model.safetensors   weights of drifts and heads, and the standardisation
codecs/             weights of codecs that are not shipped with their plugin
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from flowbind import registry
from flowbind.codec import arguments
from flowbind.flows import Flows
from flowbind.generation import Model
from flowbind.modality import Modality
from flowbind.nets import DriftConfig, HeadConfig
from flowbind.objective import ObjectiveConfig

FORMAT = 1
CONFIG, WEIGHTS, CODECS = "model.json", "model.safetensors", "codecs"


def describe_modality(modality: Modality) -> dict[str, Any]:
    """How to make a modality again, as JSON."""
    own = {key: value for key, value in arguments(modality).items() if key not in ("codec", "drift", "head")}
    return {
        "name": registry.name_of("modalities", type(modality)),
        "args": own,
        "codec": {"name": registry.name_of("codecs", type(modality.codec)), "args": arguments(modality.codec)},
        "drift": modality.drift and asdict(modality.drift),
        "head": modality.head and asdict(modality.head),
    }


def build_modality(description: Mapping[str, Any]) -> Modality:
    """Makes what `describe_modality` described, every class found by its registered name."""
    return registry.load("modalities", description["name"])(
        codec=registry.load("codecs", description["codec"]["name"])(**description["codec"]["args"]),
        drift=description["drift"] and DriftConfig(**description["drift"]),
        head=description["head"] and HeadConfig(**description["head"]),
        **description["args"],
    )


def describe(model: Model) -> dict[str, Any]:
    """Everything but the weights, as JSON."""
    return {
        "format": FORMAT,
        "method": "flowbind",
        "modalities": {name: describe_modality(modality) for name, modality in model.modalities.items()},
        "drift": asdict(model.drift),
        "head": asdict(model.head),
        "objective": asdict(model.objective),
        "versions": {name: version(name) for name in ("flowbind", "torch")},
    }


def save(model: Model, folder: str | Path) -> None:
    """Writes a released model, beside and then renamed; a released model of the same name is replaced.

    Raises:
        ValueError: the folder exists and is no released model.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / CONFIG).is_file():
        raise ValueError(f"{folder}: exists and is no released model; choose another folder")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    description = describe(model)
    for name, modality in model.modalities.items():
        if description["modalities"][name]["codec"]["args"].get("weights") is not None:
            (partial / CODECS).mkdir(exist_ok=True)
            shutil.copyfile(modality.codec.file, partial / CODECS / f"{name}.safetensors")
            description["modalities"][name]["codec"]["args"]["weights"] = f"{CODECS}/{name}.safetensors"
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in model.flows.state_dict().items()},
        partial / WEIGHTS,
    )
    (partial / CONFIG).write_text(json.dumps(description, indent=1) + "\n")
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(partial, folder)
    shutil.rmtree(old, ignore_errors=True)


def files(folder: Path) -> tuple[Path, Path]:
    """The description and the weights of a released model.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the folder is not a released model.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; a released model is a folder with {CONFIG} and {WEIGHTS}")
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise ValueError(
                f"{folder}: not a released model, it has no {file}; `flowbind fit` writes one as `model` in its run folder"
            )
    return folder / CONFIG, folder / WEIGHTS


def load(folder: str | Path, device: str | torch.device = "cpu") -> Model:
    """Loads a released model.

    Args:
        folder: what `flowbind fit` wrote as `model` in the run folder.
        device: where it is to run.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the folder is not a released model, or one of its files is damaged.
    """
    folder = Path(folder)
    config, weights_file = files(folder)
    try:
        description = json.loads(config.read_text())
        if description["format"] != FORMAT:
            raise ValueError(f"format {description['format']}, this flowbind reads {FORMAT}")
        for entry in description["modalities"].values():
            weights = entry["codec"]["args"].get("weights")
            if weights is not None:
                if Path(weights).parent != Path(CODECS):
                    raise ValueError(f"codec weights outside {CODECS}/")
                entry["codec"]["args"]["weights"] = str(folder / weights)
        configs = DriftConfig(**description["drift"]), HeadConfig(**description["head"])
        objective = ObjectiveConfig(**description["objective"])
        modalities = {name: build_modality(entry) for name, entry in description["modalities"].items()}
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{config}: not a released model's description ({error!r})") from None
    with torch.device("meta"):
        flows = Flows(modalities, *configs)
    try:
        flows.load_state_dict(load_file(weights_file), assign=True)
    except SafetensorError as error:
        raise ValueError(f"{weights_file}: damaged ({error})") from None
    except RuntimeError as error:
        raise ValueError(f"{weights_file}: weights of another model ({str(error).splitlines()[-1].strip()})") from None
    return Model(modalities, flows.eval().requires_grad_(False), *configs, objective).to(device)
