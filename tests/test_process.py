"""What a process has set decides nothing, and is left as it was: a notebook, a server, a script with other defaults."""

import os
import shutil
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from flowbind_audio import Audio
from flowbind_audio.small import SmallAudio
from flowbind_image import Image
from flowbind_image.small import SmallImage
from flowbind_points import Points
from flowbind_text import Text

import flowbind
from flowbind.defaults import torch_defaults
from tests.released import release

CAPTION = "a large red torus"
TARGETS = ["text", "image", "audio", "points"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A released model of the four modalities; two of its codecs have weights of their own."""
    place = tmp_path_factory.mktemp("released")
    own = {}
    for kind in (SmallImage, SmallAudio):
        own[kind] = kind(
            str(shutil.copy(kind.shipped, place / f"{kind.__name__}.safetensors"))
        )
    return release(
        place / "model",
        text=Text(),
        image=Image(own[SmallImage]),
        audio=Audio(own[SmallAudio]),
        points=Points(),
    )


def generate(model):
    """Samples of every target from a caption and what they are encoded to again."""
    made = model.generate(
        {"text": [CAPTION, "a ball"]}, to=TARGETS, steps=2, variety=0.5, seed=1
    )
    return {name: model.encode(name, raws) for name, raws in made.items()}


@pytest.fixture(scope="module")
def expected(folder):
    return generate(flowbind.load(folder))


def same(latents, expected):
    assert all(latents[name].dtype == expected[name].dtype for name in expected)
    return all(torch.equal(latents[name], expected[name]) for name in expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_default_dtype(folder, expected, dtype):
    torch.set_default_dtype(dtype)
    try:
        assert same(generate(flowbind.load(folder)), expected)
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_default_device(folder, expected):
    torch.set_default_device("meta")
    try:
        assert same(generate(flowbind.load(folder)), expected)
        assert torch.get_default_device().type == "meta"
    finally:
        torch.set_default_device(None)


def test_gradients_inference_and_warnings(folder, expected):
    with torch.inference_mode():
        assert same(generate(flowbind.load(folder)), expected)
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        filters = list(warnings.filters)
        model = flowbind.load(folder)
        latents = generate(model)
        assert warnings.filters == filters
    assert same(latents, expected)
    assert not any(x.requires_grad for x in latents.values())


def test_threads_and_the_global_generator(folder, expected):
    threads = torch.get_num_threads()
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert same(generate(flowbind.load(folder)), expected)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_several_threads_at_once(folder, expected):
    """Each sees torch's defaults from the first that begins to the last that ends, in whatever order they do."""
    model = flowbind.load(folder)
    torch.set_default_dtype(torch.float64)
    try:
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(lambda _: generate(model), range(8)))
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(same(latents, expected) for latents in made)


def test_blocks_that_overlap_leave_the_outer_default():
    torch.set_default_dtype(torch.float64)
    entered, leave = threading.Event(), threading.Event()

    def inside():
        with torch_defaults():
            entered.set()
            leave.wait(10)
            assert torch.zeros(1).dtype == torch.float32

    try:
        thread = threading.Thread(target=inside)
        with torch_defaults():
            thread.start()
            entered.wait(10)
        # The other is still in its block.
        assert torch.get_default_dtype() == torch.float32
        leave.set()
        thread.join()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_working_folder(folder, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    model = flowbind.load(Path("model"))
    monkeypatch.chdir(tmp_path)
    assert same(generate(model), expected)
    assert Path.cwd() == tmp_path
    assert os.listdir() == []


@pytest.mark.parametrize("use", ["encode", "decode"])
def test_a_codec_that_was_replaced_before_its_first_use_is_refused(
    folder, tmp_path, use
):
    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    model = flowbind.load(copy)
    picture = torch.zeros(3, 64, 64, dtype=torch.uint8)
    latents = flowbind.load(folder).encode("text", [CAPTION])

    def run():
        if use == "encode":
            return model.encode("image", [picture])
        return model.generate({"text": [CAPTION]}, to=["image"], steps=1)

    model.translate({"text": latents}, ["image"], steps=1)  # which reads no codec
    (weights,) = (copy / "codecs/image").iterdir()
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content[:-1] + b"\1")
    with pytest.raises(
        ValueError,
        match=r"image/weights\.safetensors: replaced since the model was loaded; load it again",
    ):
        run()
    with pytest.raises(
        ValueError,
        match=r"image/weights\.safetensors: damaged, or changed since it was written",
    ):
        flowbind.load(copy)


def test_what_was_used_already_may_be_replaced(folder, expected, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    model = flowbind.load(copy)
    generate(model)
    shutil.rmtree(copy)
    assert same(generate(model), expected)
