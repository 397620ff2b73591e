"""Features of DINOv2, on a tiny model of the very same class."""

from pathlib import Path

import pytest
import torch
from flowbind_image import Image
from flowbind_image.dinov2 import MEAN, STD, Dinov2Features
from flowbind_image.sd_vae import SDVae
from safetensors.torch import load_file, save_file

from flowbind.registry import name_of
from flowbind.testing import check_modality
from tests.test_sd_vae import SIZE, squares, write_tiny_vae

WIDTH, PATCH = 24, 8


def write_tiny_dinov2(folder: Path, **changed: object) -> Path:
    """A `Dinov2Model` with random weights, as it lies on the hub."""
    from transformers import Dinov2Config, Dinov2Model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = Dinov2Config(
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=64,
            **{"hidden_size": WIDTH, "patch_size": PATCH} | changed,
        )
        Dinov2Model(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_tiny_dinov2(tmp_path_factory.mktemp("dinov2"))


@pytest.fixture
def codec(model) -> Dinov2Features:
    return tiny(model)


def tiny(model: Path | str, **more) -> Dinov2Features:
    return Dinov2Features(
        str(model), **{"size": SIZE, "patch": PATCH, "width": WIDTH} | more
    )


def test_the_laws_hold(codec, tmp_path):
    assert name_of("codecs", Dinov2Features) == "dinov2-features"
    check_modality(Image(codec), squares(4), tmp_path)


def test_latents_are_the_hidden_states_of_the_patches(codec, model):
    from transformers import Dinov2Model

    net = Dinov2Model.from_pretrained(model).eval()
    raws = squares(3)
    pictures = torch.stack(raws).double() / 255
    for channel in range(3):
        pictures[:, channel] = (pictures[:, channel] - MEAN[channel]) / STD[channel]
    with torch.no_grad():
        states = net(pixel_values=pictures.float()).last_hidden_state
    expected = states[:, 1:].half()

    latents = codec.encode(raws)
    assert latents.shape == (3, (SIZE // PATCH) ** 2, WIDTH)
    torch.testing.assert_close(latents, expected, atol=2e-3, rtol=2e-3)
    one_by_one = tiny(model, batch_size=1).encode(raws)
    torch.testing.assert_close(one_by_one, latents, atol=2e-3, rtol=2e-3)


def test_a_patch_is_where_it_is_in_the_picture(codec):
    """And where the autoencoder that sees the same middle has its cells."""
    dark = torch.zeros(3, SIZE, 2 * SIZE, dtype=torch.uint8)
    moved = []
    for row, column in ((0, 0), (1, 3), (3, 2)):
        top, left = row * PATCH, SIZE // 2 + column * PATCH
        picture = dark.clone()
        picture[:, top : top + PATCH, left : left + PATCH] = 255
        change = (codec.encode([picture]) - codec.encode([dark])).float()
        moved.append(change[0].norm(dim=1).argmax().item())
    assert moved == [0, 1 * 4 + 3, 3 * 4 + 2]


def test_the_autoencoder_sees_the_same_middle(tmp_path):
    wide = squares(1)[0].repeat(1, 1, 2)
    vae = SDVae(str(write_tiny_vae(tmp_path)), size=SIZE)
    middle = wide[..., SIZE // 2 : SIZE // 2 + SIZE]
    torch.testing.assert_close(vae.encode([wide]), vae.encode([middle]))


def test_no_picture_is_made_of_features(codec):
    with pytest.raises(ValueError, match="encodes only: no pictures are made"):
        codec.decode(codec.encode(squares(1)))


def test_the_fingerprint_is_that_of_the_files(codec, model, tmp_path):
    copy = write_tiny_dinov2(tmp_path)
    assert tiny(copy).fingerprint() == codec.fingerprint()
    weights = load_file(copy / "model.safetensors")
    weights["layernorm.bias"] += 1
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    assert tiny(copy).fingerprint() != codec.fingerprint()
    assert tiny(model, size=2 * SIZE).fingerprint() != codec.fingerprint()
    named = Dinov2Features("owner/name", revision="abc").fingerprint()
    assert (named["model"], named["revision"]) == ("owner/name", "abc")


@pytest.mark.parametrize("changed", [{"patch": 16}, {"width": 48}])
def test_a_model_of_another_size_is_refused(changed, model):
    with pytest.raises(ValueError, match=r"has patches of 8 pixels and 24 features"):
        tiny(model, **changed).encode(squares(1))


def test_what_is_not_to_be_had_is_one_line(model, tmp_path):
    weights = load_file(model / "model.safetensors")
    del weights["layernorm.bias"]
    part = write_tiny_dinov2(tmp_path / "part")
    save_file(weights, part / "model.safetensors", {"format": "pt"})
    (tmp_path / "empty").mkdir()
    for name, says in (
        ("owner/name", "no folder, and the hub does not give"),
        (tmp_path / "empty", "cannot be loaded .*set `model`"),
        (part, "no whole DINOv2; it lacks layernorm.bias"),
    ):
        with pytest.raises(ValueError, match=says) as refusal:
            tiny(name).encode(squares(1))
        assert "\n" not in str(refusal.value)
    with pytest.raises(ValueError, match=r"no \.safetensors file"):
        tiny(tmp_path / "empty").fingerprint()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"size": 225}, "size must be a multiple of the patch, 14 pixels, not 225"),
        ({"width": 0}, "width must be at least 1, not 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
    ],
)
def test_a_wrong_argument_is_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        Dinov2Features(**arguments)
