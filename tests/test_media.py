"""Words, pictures, sounds and clouds in real files of TensorBoard and of W&B."""

import json
import warnings
from importlib import import_module

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from PIL import Image

from flowbind.exhibit import Cloud
from flowbind.registry import load
from flowbind.train.media import log_media

STEP = 7


@pytest.fixture(scope="module")
def media():
    """One of each kind, by name."""
    sound = 0.5 * torch.sin(torch.arange(16000) / 10)
    colours = torch.tensor([[1.0, 0.0, 0.5]]).repeat(5, 1)
    return {
        "caption": "a < b",
        "picture": Image.new("RGB", (8, 4), (255, 0, 128)),
        "sound": load("modalities", "audio")().exhibit(sound),
        "cloud": Cloud(torch.arange(15.0).reshape(5, 3), colours, 1.0),
    }


def test_event_files_of_tensorboard_hold_them(media, tmp_path):
    import soundfile
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.mesh import metadata, plugin_data_pb2
    from tensorboard.util import tensor_util

    logger = TensorBoardLogger(tmp_path, name="tensorboard")
    log_media([CSVLogger(tmp_path), logger], media, STEP)
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir, size_guidance={"tensors": 0})
    events.Reload()

    (caption,) = events.Tensors("caption/text_summary")
    assert (caption.step, caption.tensor_proto.string_val[0]) == (STEP, b"a < b")
    (picture,) = events.Images("picture")
    assert (picture.step, picture.width, picture.height) == (STEP, 8, 4)
    (sound,) = events.Audio("sound")
    file = tmp_path / "sound.wav"
    file.write_bytes(sound.encoded_audio_string)
    levels, rate = soundfile.read(file)
    assert (sound.step, rate, len(levels)) == (STEP, 16000, 16000)
    assert np.abs(levels).max() == pytest.approx(0.5, abs=0.01)

    tags = events.PluginTagToContent(metadata.PLUGIN_NAME)
    parts = {}
    for tag, content in tags.items():
        data = plugin_data_pb2.MeshPluginData.FromString(content)
        (event,) = events.Tensors(tag)
        parts[data.content_type] = tensor_util.make_ndarray(event.tensor_proto)[0]
    places = parts[plugin_data_pb2.MeshPluginData.VERTEX]
    assert np.array_equal(places, media["cloud"].places)
    assert parts[plugin_data_pb2.MeshPluginData.COLOR][0].tolist() == [255, 0, 128]


def test_the_program_that_shows_them_starts():
    with warnings.catch_warnings(action="ignore"):  # of what it brings along
        import_module("tensorboard.main")


def test_w_and_b_holds_them_without_a_network(media, tmp_path, monkeypatch):
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(save_dir=tmp_path, offline=True, project="flowbind")
    log_media([logger], media, STEP)
    folder = next(tmp_path.glob("wandb/offline-run-*"))
    kinds = {path.suffix for path in folder.rglob("media/**/*") if path.is_file()}
    logger.experiment.finish()

    assert kinds == {".html", ".png", ".wav", ".json"}
    (cloud,) = folder.rglob("*.pts.json")
    assert json.loads(cloud.read_text())[1] == [3, 4, 5, 255, 0, 128]
    (words,) = folder.rglob("*.html")
    assert "a &lt; b" in words.read_text()
    (sound,) = folder.rglob("*.wav")
    assert sound.stat().st_size == 44 + 2 * 16000
