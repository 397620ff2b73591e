"""The published codec of pictures as grids, on a tiny autoencoder of the very same class."""

import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from flowbind_image import Image
from flowbind_image.sd_vae import SDVae

from flowbind.registry import name_of
from flowbind.testing import check_modality

SIZE = 32  # pixels a side


def write_tiny_vae(folder: Path, **changed: object) -> Path:
    """An `AutoencoderKL` with random weights, as it lies on the hub."""
    from diffusers import AutoencoderKL

    blocks = changed.pop("blocks", 4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoencoderKL(
            block_out_channels=(4,) * blocks,
            down_block_types=("DownEncoderBlock2D",) * blocks,
            up_block_types=("UpDecoderBlock2D",) * blocks,
            norm_num_groups=2,
            scaling_factor=0.5,
            **{"latent_channels": 4} | changed,
        ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_tiny_vae(tmp_path_factory.mktemp("vae"))


@pytest.fixture
def codec(model) -> SDVae:
    return SDVae(str(model), size=SIZE)


def squares(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (count, 3, SIZE, SIZE)
    return list(torch.randint(256, shape, dtype=torch.uint8, generator=generator))


def test_the_laws_hold(codec, tmp_path):
    assert name_of("codecs", SDVae) == "sd-vae"
    check_modality(Image(codec), squares(4), tmp_path)


def test_latents_are_the_means_of_diffusers_times_the_scale(codec, model):
    from diffusers import AutoencoderKL

    net = AutoencoderKL.from_pretrained(model).eval()
    raws = squares(3)
    with torch.no_grad():
        means = net.encode(torch.stack(raws) / 127.5 - 1).latent_dist.mode()
        shown = net.decode(means).sample

    latents = codec.encode(raws)
    assert latents.shape == (3, 4, SIZE // 8, SIZE // 8)
    torch.testing.assert_close(latents, 0.5 * means)

    scaled = SDVae(str(model), size=SIZE, scale=0.2301, batch_size=2)
    torch.testing.assert_close(scaled.encode(raws), 0.2301 * means)

    expected = ((shown / 2 + 0.5).clamp(0, 1) * 255).round()
    for one in (codec, scaled):
        decoded = torch.stack(one.decode(one.encode(raws)))
        assert (decoded - expected).abs().max() <= 1


def test_the_middle_of_a_picture_is_seen(codec):
    """As wide as its shorter side, as if it was resized first."""
    wide = torch.cat([squares(3)[k] for k in range(3)], dim=2).repeat_interleave(2, 1)
    wide = wide.repeat_interleave(2, 2)
    picture = PIL.Image.fromarray(wide.permute(1, 2, 0).numpy())
    resized = picture.resize((3 * SIZE, SIZE), PIL.Image.Resampling.BICUBIC)
    middle = torch.from_numpy(np.array(resized)[:, SIZE : 2 * SIZE]).permute(2, 0, 1)
    torch.testing.assert_close(codec.encode([wide]), codec.encode([middle]))


def test_the_fingerprint_is_that_of_the_files(codec, model, tmp_path):
    copy = shutil.copytree(model, tmp_path / "pipeline" / "vae")
    pipeline = copy.parent
    same = SDVae(str(pipeline), subfolder="vae", size=SIZE)
    assert same.fingerprint() == codec.fingerprint()
    torch.testing.assert_close(same.encode(squares(1)), codec.encode(squares(1)))

    config = copy / "config.json"
    config.write_text(config.read_text().replace("0.5", "0.25"))
    assert same.fingerprint() != codec.fingerprint()
    for changed in ({"scale": 0.2301}, {"size": 2 * SIZE}):
        other = SDVae(str(model), **{"size": SIZE} | changed)
        assert other.fingerprint() != codec.fingerprint()

    named = SDVae("owner/name", revision="abc").fingerprint()
    assert (named["model"], named["revision"]) == ("owner/name", "abc")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"latent_channels": 16}, "makes 16 numbers of 8 x 8 pixels; allowed is one"),
        ({"blocks": 3}, "makes 4 numbers of 4 x 4 pixels; allowed is one"),
    ],
)
def test_an_autoencoder_of_another_shape_is_refused(changed, message, tmp_path):
    model = write_tiny_vae(tmp_path, **changed)
    with pytest.raises(ValueError, match=message):
        SDVae(str(model), size=SIZE).encode(squares(1))


def test_what_is_not_to_be_had_is_one_line(tmp_path):
    with pytest.raises(
        ValueError, match="no folder, and the hub does not give"
    ) as caught:
        SDVae("owner/name").encode(squares(1))
    assert "\n" not in str(caught.value)

    for empty in (SDVae(str(tmp_path)), SDVae(str(tmp_path), subfolder="vae")):
        with pytest.raises(
            ValueError, match=r"cannot be loaded .*set `model`"
        ) as caught:
            empty.encode(squares(1))
        assert "\n" not in str(caught.value)
        with pytest.raises(ValueError, match=r"no \.safetensors file.*`subfolder`"):
            empty.fingerprint()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 20}, "size must be a multiple of 8 pixels, not 20"),
        ({"scale": 0.0}, "scale must be above 0, not 0.0"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
    ],
)
def test_a_wrong_argument_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SDVae(**arguments)
