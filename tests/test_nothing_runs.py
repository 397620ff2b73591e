"""Files that would run code if they were unpickled, imported or believed: flowbind refuses them, and nothing runs."""

import json
import os
import pickle
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from flowbind import release
from flowbind.cli.recipe import check_checkpoint
from flowbind.data.store import LatentStore
from flowbind.methods.flowbind.official import _states, _statistic
from flowbind.registry import load
from tests.hostile import RECIPES, read_recipe, save_model

CRAFTED = 20  # at least


class Evil:
    """Touches the canary when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


class Executed(Evil):
    def __reduce__(self):
        return exec, (f"open({str(self.canary)!r}, 'w').close()",)


class Opened(Evil):
    def __reduce__(self):
        return open, (str(self.canary), "w")


def plain(canary: Path) -> bytes:
    """A pickle in protocol 0, in letters."""
    return f"cposix\nsystem\n(S'touch {canary}'\ntR.".encode()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A released model that loads."""
    folder = tmp_path_factory.mktemp("whole") / "model"
    save_model(folder)
    release.load(folder)
    return folder


@pytest.fixture
def canary(tmp_path):
    return tmp_path / "canary"


def test_the_payloads_would_run(canary, tmp_path):
    """Or nothing below means anything."""
    for number, payload in enumerate(
        [*(kind(canary) for kind in (Evil, Executed, Opened)), None]
    ):
        made = pickle.loads(pickle.dumps(payload) if payload else plain(canary))
        if isinstance(payload, Opened):
            made.close()
        assert canary.exists(), number
        canary.unlink()


# How files are crafted: each takes the file to write and the canary.


def pickled(path, canary):
    path.write_bytes(
        pickle.dumps({"state_dict": Evil(canary), "model_state_dict": Evil(canary)})
    )


def in_letters(path, canary):
    path.write_bytes(plain(canary))


def saved(kind=Evil, **options):
    def craft(path, canary):
        evil = {
            "state_dict": {"weight": kind(canary)},
            "model_state_dict": {"image": {"weight": kind(canary)}},
        }
        torch.save(evil, path, **options)

    return craft


def beside_weights(path, canary):
    """Sound weights, and a foreign one among the settings."""
    torch.save(
        {
            "state_dict": {"w": torch.ones(1)},
            "hyper_parameters": Evil(canary),
            "model_state_dict": {},
        },
        path,
    )


def as_script(path, canary):
    """A TorchScript archive, whose code would run with torch.jit."""

    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1

    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Net()).save(str(path))


def object_array(path, canary):
    array = np.empty(1, dtype=object)
    array[0] = Evil(canary)
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=True)


def hidden(path, canary):
    """A pickle behind the header of a safetensors file."""
    content = pickle.dumps(Evil(canary))
    header = json.dumps(
        {
            "a": {
                "dtype": "U8",
                "shape": [len(content)],
                "data_offsets": [0, len(content)],
            }
        }
    ).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + content)


CHECKPOINT = {
    "pickled": pickled,
    "pickled in letters": in_letters,
    "saved": saved(),
    "saved, exec": saved(Executed),
    "saved, open": saved(Opened),
    "saved as torch did before 1.6": saved(_use_new_zipfile_serialization=False),
    "beside sound weights": beside_weights,
    "a script": as_script,
}


def refuse(call, canary):
    """Nothing runs, and the file is refused in one line."""
    with pytest.raises((ValueError, OSError)) as refused:
        call()
    assert len(str(refused.value).splitlines()) == 1
    assert not canary.exists()


@pytest.mark.parametrize("craft", CHECKPOINT.values(), ids=CHECKPOINT)
def test_checkpoints(craft, canary, tmp_path):
    craft(tmp_path / "last.ckpt", canary)
    refuse(lambda: check_checkpoint(tmp_path / "last.ckpt"), canary)


@pytest.mark.parametrize("craft", CHECKPOINT.values(), ids=CHECKPOINT)
def test_the_authors_checkpoints(craft, canary, tmp_path):
    craft(tmp_path / "model.pth", canary)
    if (
        craft is beside_weights
    ):  # the settings are not looked at, but refused with the file
        torch.save(
            {
                "model_state_dict": {"image": {"w": torch.ones(1)}},
                "config": Evil(canary),
            },
            tmp_path / "model.pth",
        )
    refuse(lambda: _states(tmp_path / "model.pth"), canary)


STATISTICS = {
    "object array": ("mean.npy", object_array),
    "a pickle for an array": ("mean.npy", pickled),
    "an array in letters": ("mean.npy", in_letters),
    "saved": ("mean.pt", saved()),
    "pickled": ("mean.pt", pickled),
    "an archive of arrays": ("mean.npz", object_array),
    "hidden": ("mean.safetensors", hidden),
}


@pytest.mark.parametrize(("name", "craft"), STATISTICS.values(), ids=STATISTICS)
def test_statistics(name, craft, canary, tmp_path):
    craft(tmp_path / name, canary)
    refuse(lambda: _statistic(tmp_path / name, 64), canary)


WEIGHTS = {
    "pickled": pickled,
    "in letters": in_letters,
    "saved": saved(),
    "hidden": hidden,
    "a script": as_script,
}


@pytest.mark.parametrize("craft", WEIGHTS.values(), ids=WEIGHTS)
def test_weights(craft, whole, canary, tmp_path):
    """Of codecs, of released models, of the other library's CLAP, and of Wav2CLIP."""
    from flowbind_audio.clap import load_weights

    folder = shutil.copytree(whole, tmp_path / "model")
    craft(folder / "model.safetensors", canary)
    refuse(lambda: release.load(folder), canary)
    refuse(
        lambda: (
            load("codecs", "small-image")(weights=str(folder / "model.safetensors")).net
        ),
        canary,
    )
    if craft is not hidden:  # which is one tensor of bytes
        craft(tmp_path / "clap.pt", canary)
        refuse(lambda: load_weights(tmp_path / "clap.pt"), canary)
        refuse(
            lambda: load("codecs", "wav2clip")(weights=str(tmp_path / "clap.pt")).net,
            canary,
        )


# Names and paths in a released model. Beside it lie a module and weights that nobody may reach.


def described(**codec):
    def craft(folder, canary):
        told = json.loads((folder / "model.json").read_text())
        told["method"]["args"]["modalities"]["image"]["args"]["codec"] |= codec
        (folder / "model.json").write_text(json.dumps(told))

    return craft


def of_modality(name):
    def craft(folder, canary):
        told = json.loads((folder / "model.json").read_text())
        told["method"]["args"]["modalities"]["image"]["name"] = name
        (folder / "model.json").write_text(json.dumps(told))

    return craft


def in_yaml(folder, canary):
    (folder / "model.json").write_text(
        f"!!python/object/apply:os.system ['touch {canary}']\n"
    )


MODELS = {
    "a function for a codec": described(
        name="os.system", args={"command": "touch canary"}
    ),
    "a function in an entry point's spelling": described(
        name="os:system", args={"command": "touch canary"}
    ),
    "a module beside the model": described(name="evil.Codec", args={}),
    "a module beside the model, for a modality": of_modality("evil:Modality"),
    "a sound class by its path": described(name="flowbind_image.small.SmallImage"),
    "a sound class in an entry point's spelling": described(
        name="flowbind_image.small:SmallImage"
    ),
    "a class path": described(name=None, class_path="evil.Codec", init_args={}),
    "weights up and out": described(files={}, args={"weights": "../evil.safetensors"}),
    "weights that go down and up": described(
        files={}, args={"weights": "codecs/../../evil.safetensors"}
    ),
    "weights that are a pickle": described(
        files={}, args={"weights": "codecs/evil.pt"}
    ),
    "tags of YAML": in_yaml,
}


@pytest.mark.parametrize("craft", MODELS.values(), ids=MODELS)
def test_models(craft, whole, canary, tmp_path, monkeypatch):
    folder = shutil.copytree(whole, tmp_path / "model")
    (folder / "codecs").mkdir(exist_ok=True)
    for place in (folder, tmp_path):
        (place / "evil.py").write_text(
            f"open({str(canary)!r}, 'w').close()\nclass Codec: pass\nModality = Codec\n"
        )
    for place in (folder / "codecs/evil.pt", tmp_path / "evil.safetensors"):
        pickled(place, canary)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # even where it could be imported
    craft(folder, canary)
    refuse(lambda: release.load(folder), canary)


def test_weights_from_the_root(whole, canary, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "model")
    pickled(tmp_path / "evil.safetensors", canary)
    described(files={}, args={"weights": str(tmp_path / "evil.safetensors")})(
        folder, canary
    )
    refuse(lambda: release.load(folder), canary)


CODE = {
    what: content
    for what, content in RECIPES.items()
    if what.startswith(("code:", "a function"))
}


@pytest.mark.parametrize("content", CODE.values(), ids=CODE)
def test_recipes(content, canary, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(content.replace("canary", str(canary)))
    refuse(lambda: read_recipe(path), canary)


def test_shards(canary, tmp_path):
    in_letters(tmp_path / "manifest.json", canary)
    refuse(lambda: LatentStore(tmp_path), canary)


# Folders of other libraries, which a recipe or a released model may name. They take seconds to import.


def evil_module(folder: Path, canary: Path) -> None:
    names = ("Transformer", "Model", "Config", "Tokenizer")
    (folder / "evil.py").write_text(
        f"open({str(canary)!r}, 'w').close()\n"
        + "".join(f"class {n}: pass\n" for n in names)
    )


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    from tests.tiny_text import save_encoder

    folder = tmp_path_factory.mktemp("encoder")
    save_encoder(folder / "encoder", folder / "parts")
    return folder / "encoder"


def other_module(folder, canary):
    """The class of a part, from a module that lies in the folder."""
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "evil.Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))


def other_model(folder, canary):
    """The class of the model, by transformers' map of classes."""
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"},
    }
    (folder / "config.json").write_text(
        json.dumps(
            config
            | {"auto_map": {**config["auto_map"], "AutoModelForCausalLM": "evil.Model"}}
        )
    )


def trusting(folder, canary):
    """The same, and a setting that asks for trust."""
    other_model(folder, canary)
    settings = folder / "sentence_bert_config.json"
    told = json.loads(settings.read_text()) if settings.is_file() else {}
    trust = {"trust_remote_code": True}
    settings.write_text(
        json.dumps(
            told | dict.fromkeys(("model_args", "config_args", "tokenizer_args"), trust)
        )
    )


def pickled_weights(folder, canary):
    """Weights in a pickle, the others gone."""
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Evil(canary)}, folder / "pytorch_model.bin")


ENCODERS = {
    "module": other_module,
    "model": other_model,
    "trust": trusting,
    "pickle": pickled_weights,
}


@pytest.mark.slow
@pytest.mark.parametrize("craft", ENCODERS.values(), ids=ENCODERS)
def test_sentence_encoders(craft, encoder, canary, tmp_path, monkeypatch):
    folder = shutil.copytree(encoder, tmp_path / "encoder")
    evil_module(folder, canary)
    monkeypatch.syspath_prepend(folder)
    craft(folder, canary)
    codec = load("codecs", "small-text")(encoder=str(folder))
    refuse(lambda: codec.encode(["a torus"]), canary)


@pytest.mark.slow
@pytest.mark.parametrize(
    "craft", [other_model, pickled_weights], ids=["model", "pickle"]
)
def test_language_models(craft, canary, tmp_path):
    from tests.tiny_text import save_gemma

    codec = load("codecs", "sentence-prefix-lm")
    folder = tmp_path / "lm"
    save_gemma(folder)
    evil_module(folder, canary)
    craft(folder, canary)
    refuse(codec(language_model=str(folder), width=24).build, canary)


def test_there_are_enough():
    count = (
        2 * len(CHECKPOINT)
        + len(STATISTICS)
        + 2 * len(WEIGHTS)
        + len(WEIGHTS)
        - 1
        + len(MODELS)
        + 1
        + len(CODE)
        + 1
    )
    print(
        f"{count} crafted files and configurations in the quick tests, {len(ENCODERS) + 2} in the slow ones: nothing ran"
    )
    assert count >= CRAFTED


def test_a_sound_model_still_loads(whole):
    assert set(load_file(whole / "model.safetensors"))
