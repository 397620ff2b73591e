"""Released models: a folder of safetensors and JSON.

Nothing in it can run code: classes are found by registered name.

model.json          the method with its modalities, codecs and settings, how it generates, versions,
                    and checksums of all files
model.safetensors   weights of the method's networks, and the standardisation
codecs/             files and folders of the codecs, copied from where the model was made
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from flowbind import earlier, registry
from flowbind.defaults import torch_defaults
from flowbind.errors import first_line, last_line
from flowbind.files import (
    UNFETCHED,
    check_place,
    check_regular,
    check_space,
    commit,
    digest_json,
    digest_now,
    is_pointer,
    naming,
    read_json,
)
from flowbind.files import WEIGHTS as LARGEST_WEIGHTS
from flowbind.generation import Model, stamp
from flowbind.hub import FILES, snapshot
from flowbind.libraries import Extra
from flowbind.method import Method, Networks
from flowbind.progress import say, track
from flowbind.tensors import digest_tensors, save_tensors, size_of

FORMAT = 3
LARGEST = 2**24  # bytes of a model's description

# What comes of a description that is none.
UNDESCRIBED = (KeyError, TypeError, AttributeError, ValueError, RuntimeError)

HUB = "hf:"
REFERENCE = re.compile(
    rf"{HUB}(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?"
)

CONFIG = "model.json"
WEIGHTS = "model.safetensors"
CODECS = "codecs"


def describe(model: Model) -> dict[str, Any]:
    """Everything but the weights, as JSON."""
    return {
        "format": FORMAT,
        "method": model.method.describe(),
        "sampling": asdict(model.sampling),
        "versions": {name: version(name) for name in ("flowbind", "torch")},
    }


def _codecs(description: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The descriptions of codecs in that of a model, by modality."""
    codecs = {}
    for name, entry in description["method"]["args"]["modalities"].items():
        if "codec" in entry["args"]:
            codecs[name] = entry["args"]["codec"]
    return codecs


def check_folder(folder: Path) -> None:
    """Refuses a folder that `save` could not write, before the work that the model comes of.

    Raises:
        ValueError: it exists and is no released model, or is no folder.
        OSError: it may not be written.
    """
    check_place(folder, folder=True)
    if folder.exists() and any(folder.iterdir()) and not (folder / CONFIG).is_file():
        raise ValueError(
            f"{folder}: exists and is no released model; move it away, or choose another folder"
        )


def save(
    model: Model,
    folder: str | Path,
    step: int | None = None,
    tell_copies: bool = True,
) -> None:
    """Writes a released model, beside and then renamed; one of the same name is replaced.

    Args:
        model: Model to write.
        folder: Folder that it becomes.
        step: Step of training after which the weights are, where that is known.
        tell_copies: Whether to say which files of the codecs were copied.

    Raises:
        ValueError: the folder exists and is no released model.
        OSError: there is no room for it, or it cannot be written.
    """
    folder = Path(folder)
    check_folder(folder)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)

    weights = model.networks.state_dict()
    size = size_of(weights.values())
    for modality in model.modalities.values():
        files = modality.codec.files().values()
        size += sum(map(_bytes, files))
    check_space(folder, size)

    try:
        with naming(folder):
            copies = _write(model, weights, step, partial)
            _replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)

    for copy in copies if tell_copies else ():
        say(f"{folder}: {copy}")


def _write(
    model: Model,
    weights: Mapping[str, Tensor],
    step: int | None,
    partial: Path,
) -> list[str]:
    """Writes all files of a model into `partial`; returns a clause for each file that was copied."""
    partial.mkdir(parents=True)
    copies = []
    description = describe(model)

    # Arguments that name files of this machine give way to copies of these.
    for name, codec in _codecs(description).items():
        codec["files"] = {}
        for argument, path in model.modality(name).codec.files().items():
            was_given = codec["args"].pop(argument, None) is not None
            copy = f"{CODECS}/{name}/{argument}{path.suffix}"
            codec["files"][argument] = copy
            size = _copy(path, partial / copy)
            if was_given:
                copies.append(
                    f"has a copy of {path} ({size / 1e6:.1f} MB), the {argument} of its '{name}'"
                )

    save_tensors(weights, partial / WEIGHTS)
    checksum = digest_tensors(weights)
    description["weights"] = {"sha256": checksum, "step": step}

    checksums = {}
    for path in sorted(partial.rglob("*")):
        if path.is_file():
            file = path.relative_to(partial).as_posix()
            checksums[file] = digest_now(path)
    description["files"] = checksums

    description = {"sha256": digest_json(description)} | description
    content = json.dumps(description, indent=1) + "\n"
    (partial / CONFIG).write_text(content)
    return copies


def _replace(partial: Path, folder: Path) -> None:
    """Puts a complete folder in the place of another, which stays beside until then."""
    old = folder.with_name(folder.name + ".old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
    commit(partial, folder)
    shutil.rmtree(old, ignore_errors=True)


def _copy(source: Path, target: Path) -> int:
    """Copies a file, or a folder without its hidden files.

    Of a link it copies what that leads to. Copies have the ordinary mode of new files: who may read
    the model may read all of it.

    Returns:
        Bytes of the copy.
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
    size = 0
    for part in (path, *path.rglob("*")):
        if part.is_file():
            size += part.stat().st_size
    return size


def located(name: str | Path) -> Path:
    """The folder of a released model: the name itself, or the hub's copy of `hf:OWNER/NAME`.

    Raises:
        ValueError: a name that cannot be, or the hub does not give it.
    """
    if not str(name).startswith(HUB):
        return Path(name)

    reference = REFERENCE.fullmatch(str(name))
    if reference is None:
        raise ValueError(
            f"'{name}': a model on the hub is hf:OWNER/NAME or hf:OWNER/NAME@REVISION"
        )
    folder = snapshot(
        reference["repository"],
        reference["revision"] or "main",
        kind="the model",
        install=Extra("hub"),
        patterns=[CONFIG, WEIGHTS, *(f"{CODECS}/{pattern}" for pattern in FILES)],
    )
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise ValueError(
                f"'{name}': it has no {file}, so it is no model of flowbind, or only a part of it "
                "was fetched; a network brings the rest"
            )
    return folder


def files(folder: Path) -> tuple[Path, Path]:
    """The description and the weights of a released model.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the folder is not a released model.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: no such folder; a released model is a folder with {CONFIG} and {WEIGHTS}"
        )

    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise ValueError(
                f"{folder}: not a released model, it has no {file}; "
                "`flowbind fit` writes one as `model` in its run folder"
            )
    return folder / CONFIG, folder / WEIGHTS


class Verified(NamedTuple):
    """A released model that was read to its last byte.

    Attributes:
        files: Number of its files.
        bytes: Size of all of them.
        weights: SHA-256 of its weights' numbers.
    """

    files: int
    bytes: int
    weights: str


def verify(folder: str | Path) -> Verified:
    """Reads every byte of a released model and compares checksums.

    Raises:
        FileNotFoundError: there is no such folder, or a file of it is missing.
        ValueError: the folder is not a released model, or a file changed since it was written; it
            is named.
    """
    folder = Path(folder)
    config, weights_file = files(folder)
    description = read_json(config, LARGEST)
    try:
        checksum = description.pop("sha256")
        checksums = dict(description["files"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ValueError(
            f"{config}: holds no checksums; save the model again with this version of flowbind"
        ) from None
    if checksum != digest_json(description):
        raise ValueError(f"{config}: changed since it was written (checksum)")

    _check_files(folder, checksums, lambda files: track(files, f"verifying {folder}"))
    size = config.stat().st_size
    for file in checksums:
        size += (folder / file).stat().st_size

    weights = description.get("weights")
    if not weights:  # older models do not tell their checksum
        weights = {"sha256": digest_tensors(load_file(weights_file))}
    return Verified(
        files=1 + len(checksums),
        bytes=size,
        weights=weights["sha256"],
    )


def _check_files(
    folder: Path,
    checksums: Mapping[str, str],
    progress: Callable[[Collection], Iterable] = iter,
) -> None:
    """Reads files of a released model and compares their checksums.

    Args:
        folder: Folder of the model.
        checksums: By file, its SHA-256.
        progress: Function that wraps what is iterated over, to show progress.
    """
    for file, sha256 in progress(checksums.items()):
        path = _inside(folder, folder / file)
        if digest_now(path) != sha256:
            fault = "damaged, or changed since it was written (checksum)"
            raise ValueError(f"{path}: {UNFETCHED if is_pointer(path) else fault}")


def _inside(folder: Path, path: Path) -> Path:
    """A path of a released model: the one rule for all that its description names.

    Raises:
        ValueError: it is neither the weights nor in `codecs/`, but leads elsewhere.
    """
    beyond = path.parts[len(folder.parts) :]
    is_inside = path.is_relative_to(folder) and ".." not in beyond
    is_known = path == folder / WEIGHTS or folder / CODECS in path.parents
    if not (is_inside and is_known):
        raise ValueError(
            f"{folder / CONFIG}: names '{path}', "
            f"allowed are {WEIGHTS} and what is in {folder / CODECS}"
        )
    return path


def description_of(folder: str | Path) -> dict[str, Any]:
    """The description of a released model, in the present format.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is no released model.
    """
    config, _ = files(located(folder))
    try:
        return _present(read_json(config, LARGEST))
    except UNDESCRIBED as error:
        raise _no_description(config, error) from None


def method_of(folder: str | Path) -> Method:
    """The method of a released model, without the weights of its networks; raises as `load` does."""
    config, _ = files(located(folder))
    try:
        return _method(description_of(folder), config.parent)
    except UNDESCRIBED as error:
        raise _no_description(config, error) from None


def sampling_of(folder: str | Path) -> tuple[type[Method], dict[str, Any]]:
    """The class of a released model's method, and the sampling choices that the model keeps.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is no released model, or its method is not installed.
    """
    config, _ = files(located(folder))
    try:
        description = _present(read_json(config, LARGEST))
        name = description["method"]["name"]
        method = registry.load(Method.group, name)
        return method, dict(description["sampling"])
    except UNDESCRIBED as error:
        raise _no_description(config, error) from None


@torch_defaults()
def load(folder: str | Path, device: str | torch.device = "cpu") -> Model:
    """Loads a released model.

    Args:
        folder: Folder that `flowbind fit` wrote as `model` in the run folder; or `hf:OWNER/NAME`,
            `hf:OWNER/NAME@REVISION`: a model on the hub, of which safetensors and JSON alone are
            fetched, once.
        device: Device on which it is to run.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the folder is not a released model, one of its files is damaged, or the hub
            does not give it.
    """
    # Codecs are read at first use, wherever the process is then.
    folder = Path(os.path.abspath(located(folder)))
    config, weights_file = files(folder)

    try:
        description = read_json(config, LARGEST)
        number = description["format"]
        rename = earlier.weights if number == 1 else dict
        description = _present(description)
        shipped = _with_shipped_weights(description)
    except UNDESCRIBED as error:
        raise _no_description(config, error) from None
    if number < 3 and shipped:
        raise ValueError(
            f"{config}: of format {number}, which holds no weights of codecs that ship with "
            f"flowbind ({', '.join(shipped)}), and those that ship now are others; generate with "
            "the version that wrote it, or train again"
        )

    try:
        method = _method(description, folder)
        sampling = method.choose(**description["sampling"])
        with torch.device("meta"):
            networks = Networks(method)
    except UNDESCRIBED as error:
        raise _no_description(config, error) from None

    _load_weights(networks, weights_file, rename)
    _check_files(folder, description["files"])

    networks = networks.eval().requires_grad_(False)
    model = Model(method, networks, sampling)
    for name, modality in method.modalities.items():
        for use in ("encode", "decode"):
            model.stamps[name, use] = stamp(modality.codec)
    return model.to(device)


def _no_description(config: Path, error: Exception) -> ValueError:
    """The error of a file that does not describe a model."""
    reason = repr(error)[:200]
    if type(error) is ValueError:
        reason = first_line(error)
    return ValueError(f"{config}: not a released model's description ({reason})")


def _with_shipped_weights(description: Mapping[str, Any]) -> list[str]:
    """The modalities whose codecs have weights that neither the model nor an argument names."""
    names = []
    for name, codec in _codecs(description).items():
        cls = registry.load("codecs", codec["name"])
        is_named = "weights" in codec["files"] or codec["args"].get("weights")
        if hasattr(cls, "shipped") and not is_named:
            names.append(name)
    return names


def _method(description: Mapping[str, Any], folder: Path) -> Method:
    """The method of a released model, whose codecs read files of that model alone."""
    for codec in _codecs(description).values():
        for argument, file in codec.pop("files", {}).items():
            path = _inside(folder, folder / file)
            if argument in codec["args"]:
                raise ValueError(
                    f"{folder}: names the {argument} of {codec['name']} twice, among its files and "
                    "its arguments; the model is damaged, get it again"
                )
            codec["args"][argument] = str(path)
    method = Method.rebuild(description["method"])

    # Whatever a codec would read, not only what the description names.
    for modality in method.modalities.values():
        for path in modality.codec.files().values():
            _inside(folder, path)
    return method


def _load_weights(
    networks: Networks,
    path: Path,
    rename: Callable[[Mapping[str, Tensor]], dict[str, Tensor]],
) -> None:
    """Gives networks on the meta device the weights of a file, under their present names.

    Raises:
        ValueError: it is no regular file, damaged, or holds the weights of another model.
    """
    check_regular(path, LARGEST_WEIGHTS)
    try:
        # Copies, since kernels round by how a tensor is aligned, which in a file the others decide.
        state = {key: x.clone() for key, x in rename(load_file(path)).items()}
        dtypes = {tensor.dtype for tensor in state.values()}
        if len(dtypes) > 1 or not all(dtype.is_floating_point for dtype in dtypes):
            raise RuntimeError(
                "not all numbers are floating-point numbers of one precision"
            )

        networks.load_state_dict(state, assign=True)
    except SafetensorError as error:
        fault = UNFETCHED if is_pointer(path) else f"damaged ({error})"
        raise ValueError(f"{path}: {fault}") from None
    except RuntimeError as error:
        raise ValueError(
            f"{path}: weights of another model ({last_line(error)})"
        ) from None


def _present(description: Mapping[str, Any]) -> dict[str, Any]:
    """A model's description in the present format.

    Raises:
        ValueError: a format that is not known.
    """
    number = description["format"]
    if number not in (1, 2, FORMAT):
        raise ValueError(
            f"format {number!r:.20}, this flowbind reads 1 to {FORMAT}; "
            "load it with the version that wrote it"
        )
    return earlier.description(description) if number == 1 else dict(description)
