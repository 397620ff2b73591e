"""Released models: a folder of safetensors and JSON. Nothing in it can run code: classes are found by registered name.

model.json          modalities, codecs, sizes, settings, versions, and checksums of all files
model.safetensors   weights of drifts and heads, and the standardisation
codecs/             files and folders of the codecs, copied from the machine where the model was made
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from flowbind import registry, regular
from flowbind.atomic import check_place, check_space, commit, naming
from flowbind.codec import arguments, digest_json
from flowbind.defaults import torch_defaults
from flowbind.flows import Flows
from flowbind.generation import Model, stamp
from flowbind.modality import Modality, own_arguments
from flowbind.nets import DriftConfig, HeadConfig
from flowbind.objective import ObjectiveConfig
from flowbind.progress import say, track
from flowbind.regular import check_regular, open_regular, read_json
from flowbind.tensors import digest_tensors, save_tensors, size_of

FORMAT = 1
PLAIN = (str, int, float, bool, type(None))  # types that an argument may have in JSON
LARGEST = 2**24  # bytes of a model's description
CONFIG, WEIGHTS, CODECS = "model.json", "model.safetensors", "codecs"


def describe_modality(modality: Modality) -> dict[str, Any]:
    """How to make a modality again, as JSON."""
    return {
        "name": registry.name_of("modalities", type(modality)),
        "args": own_arguments(modality),
        "codec": {"name": registry.name_of("codecs", type(modality.codec)), "args": arguments(modality.codec)},
        "drift": modality.drift and asdict(modality.drift),
        "head": modality.head and asdict(modality.head),
    }


def build_modality(description: Mapping[str, Any]) -> Modality:
    """Makes what `describe_modality` described, every class found by its registered name."""
    codec = registry.load("codecs", description["codec"]["name"])
    modality = registry.load("modalities", description["name"])
    return modality(
        codec=codec(**_typed(codec, description["codec"]["args"])),
        drift=description["drift"] and DriftConfig(**description["drift"]),
        head=description["head"] and HeadConfig(**description["head"]),
        **_typed(modality, description["args"]),
    )


def _typed(cls: type, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Arguments from a file, where they have the types that the class tells: a codec checks them when it is used, if at all.

    Raises:
        ValueError: one of them has another type.
    """
    kinds = get_type_hints(cls.__init__)
    for name, value in given.items():
        plain = [kind for kind in (kinds.get(name), *get_args(kinds.get(name))) if kind in PLAIN]
        allowed = (*plain, *([int] if float in plain else []))
        if plain and (not isinstance(value, allowed) or (isinstance(value, bool) and bool not in plain)):
            raise ValueError(
                f"{cls.__name__}: {name} is {value!r:.60}, which is no {' or '.join(k.__name__ for k in plain)}"
            )
    return given


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


def check_folder(folder: Path) -> None:
    """Refuses a folder that `save` could not write: for before the work that the model comes of.

    Raises:
        ValueError: it exists and is no released model, or is no folder.
        OSError: it may not be written.
    """
    check_place(folder, folder=True)
    if folder.exists() and any(folder.iterdir()) and not (folder / CONFIG).is_file():
        raise ValueError(f"{folder}: exists and is no released model; move it away, or choose another folder")


def save(model: Model, folder: str | Path, step: int | None = None) -> None:
    """Writes a released model, beside and then renamed; a released model of the same name is replaced.

    Args:
        model: what is written.
        folder: where.
        step: of training after which the weights are, where that is known.

    Raises:
        ValueError: the folder exists and is no released model.
        OSError: there is no room for it, or it cannot be written.
    """
    folder = Path(folder)
    check_folder(folder)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    weights = model.flows.state_dict()
    copies = [path for modality in model.modalities.values() for path in modality.codec.files().values()]
    check_space(folder, size_of(weights) + sum(map(_bytes, copies)))

    try:
        with naming(folder):
            _write(model, weights, step, partial, folder)
            _replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(model: Model, weights: Mapping[str, Tensor], step: int | None, partial: Path, folder: Path) -> None:
    """Writes all files of a model into `partial`, which is to become `folder`."""
    partial.mkdir(parents=True)
    description = describe(model)
    for name, modality in model.modalities.items():
        codec = description["modalities"][name]["codec"]
        own = modality.codec.files()
        codec["args"] = {argument: value for argument, value in codec["args"].items() if argument not in own}
        codec["files"] = {argument: f"{CODECS}/{name}/{argument}{path.suffix}" for argument, path in own.items()}
        for argument, path in own.items():
            size = _copy(path, partial / codec["files"][argument])
            say(f"{folder}: has a copy of {path} ({size / 1e6:.1f} MB), the {argument} of its '{name}'")

    save_tensors(weights, partial / WEIGHTS)
    description["weights"] = {"sha256": digest_tensors(weights), "step": step}
    parts = [path for path in sorted(partial.rglob("*")) if path.is_file()]
    description["files"] = {path.relative_to(partial).as_posix(): _sha256(path) for path in parts}
    description = {"sha256": digest_json(description)} | description
    (partial / CONFIG).write_text(json.dumps(description, indent=1) + "\n")


def _replace(partial: Path, folder: Path) -> None:
    """Puts a complete folder in the place of another, which stays beside until then."""
    old = folder.with_name(folder.name + ".old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
    commit(partial, folder)
    shutil.rmtree(old, ignore_errors=True)


def _copy(source: Path, target: Path) -> int:
    """Copies a file, or a folder without its hidden files; where these are links, what they lead to. Returns the bytes.

    Copies have the ordinary mode of new files: who may read the model may read all of it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        target.mkdir()
        for part in sorted(source.iterdir()):
            if not part.name.startswith("."):
                _copy(part, target / part.name)
    else:
        shutil.copyfile(source, target)
    return _bytes(target)


def _bytes(path: Path) -> int:
    """Size of a file, or of all files in a folder."""
    return sum(part.stat().st_size for part in (path, *path.rglob("*")) if part.is_file())


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


class Verified(NamedTuple):
    """What a released model is that was read whole: its files, their bytes, and the SHA-256 of its weights' numbers."""

    files: int
    bytes: int
    weights: str


def verify(folder: str | Path) -> Verified:
    """Reads every byte of a released model and compares checksums.

    Raises:
        FileNotFoundError: there is no such folder, or a file of it is missing.
        ValueError: the folder is not a released model, or a file changed since it was written; it is named.
    """
    folder = Path(folder)
    config, weights_file = files(folder)
    description = read_json(config, LARGEST)
    try:
        told, held = description.pop("sha256"), dict(description["files"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ValueError(f"{config}: holds no checksums; save the model again with this version of flowbind") from None
    if told != digest_json(description):
        raise ValueError(f"{config}: changed since it was written (checksum)")
    _check_files(folder, held, lambda files: track(files, f"verifying {folder}"))
    size = config.stat().st_size + sum((folder / file).stat().st_size for file in held)
    weights = description.get("weights") or {"sha256": digest_tensors(load_file(weights_file))}  # older models have none
    return Verified(1 + len(held), size, weights["sha256"])


def _check_files(folder: Path, checksums: Mapping[str, str], shown: Callable[[Collection], Iterable] = iter) -> None:
    """Reads files of a released model and compares their checksums; `shown` wraps them to show progress."""
    for file, sha256 in shown(checksums.items()):
        path = _inside(folder, folder / file)
        if _sha256(path) != sha256:
            raise ValueError(f"{path}: damaged, or changed since it was written (checksum)")


def _sha256(path: Path) -> str:
    with open_regular(path, sys.maxsize) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _inside(folder: Path, path: Path) -> Path:
    """A path of a released model: the one rule for all that its description names.

    Raises:
        ValueError: it is neither the weights nor in `codecs/`, but leads elsewhere.
    """
    own = path.is_relative_to(folder) and ".." not in path.relative_to(folder).parts
    if not own or (path != folder / WEIGHTS and folder / CODECS not in path.parents):
        raise ValueError(f"{folder / CONFIG}: names '{path}', allowed are {WEIGHTS} and what is in {folder / CODECS}")
    return path


@torch_defaults()
def load(folder: str | Path, device: str | torch.device = "cpu") -> Model:
    """Loads a released model.

    Args:
        folder: what `flowbind fit` wrote as `model` in the run folder.
        device: where it is to run.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the folder is not a released model, or one of its files is damaged.
    """
    folder = Path(os.path.abspath(folder))  # codecs are read at first use, wherever the process is then
    config, weights_file = files(folder)
    try:
        description = read_json(config, LARGEST)
        if description["format"] != FORMAT:
            raise ValueError(
                f"format {description['format']!r:.20}, this flowbind reads {FORMAT}; load it with the version that wrote it"
            )
        for entry in description["modalities"].values():
            for argument, file in entry["codec"].pop("files", {}).items():
                entry["codec"]["args"][argument] = str(_inside(folder, folder / file))
        configs = DriftConfig(**description["drift"]), HeadConfig(**description["head"])
        objective = ObjectiveConfig(**description["objective"])
        modalities = {name: build_modality(entry) for name, entry in description["modalities"].items()}
        for modality in modalities.values():
            for path in modality.codec.files().values():  # whatever the codec would read here
                _inside(folder, path)
        with torch.device("meta"):
            flows = Flows(modalities, *configs)
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        why = str(error).splitlines()[0] if type(error) is ValueError else repr(error)[:200]
        raise ValueError(f"{config}: not a released model's description ({why})") from None
    check_regular(weights_file, regular.WEIGHTS)
    try:
        state = load_file(weights_file)
        if (
            any(not tensor.dtype.is_floating_point for tensor in state.values())
            or len({t.dtype for t in state.values()}) > 1
        ):
            raise RuntimeError("not all numbers are floating-point numbers of one precision")
        flows.load_state_dict(state, assign=True)
    except SafetensorError as error:
        raise ValueError(f"{weights_file}: damaged ({error})") from None
    except RuntimeError as error:
        raise ValueError(f"{weights_file}: weights of another model ({str(error).splitlines()[-1].strip()})") from None
    _check_files(folder, description["files"])
    model = Model(modalities, flows.eval().requires_grad_(False), *configs, objective)
    model.stamps = {(name, use): stamp(model.modality(name).codec) for name in modalities for use in ("encode", "decode")}
    return model.to(device)
