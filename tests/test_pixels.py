"""The codec of pictures as they are, and in low resolution: exact, and as slow code has it."""

from math import floor

import pytest
import torch
from flowbind_image import Image
from flowbind_image.pixels import Pixels
from flowbind_image.small import SmallImage

from flowbind.testing import check_modality


def picture(*size: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("low", [None, 16])
def test_the_laws_hold(low, tmp_path):
    raws = [picture(64, 64, seed=seed) for seed in range(4)]
    check_modality(Image(Pixels(low=low)), raws, tmp_path)


def test_every_level_of_a_picture_comes_back():
    levels = torch.arange(256, dtype=torch.uint8)
    raw = levels.reshape(1, 16, 16).expand(3, -1, -1)
    codec = Pixels(size=16)
    latents = codec.encode([raw])
    assert latents.min() == -1
    assert latents.max() == 1
    assert torch.equal(codec.decode(latents)[0], raw)


def test_pictures_are_resized_as_the_small_codec_resizes_them():
    raws = [picture(64, 64), picture(31, 90), picture(200, 100)]
    expected = SmallImage().prepare(raws)
    codec = Pixels()
    assert torch.equal(torch.stack(codec.decode(codec.encode(raws))), expected)


def test_what_is_beyond_the_range_is_cut():
    latents = torch.tensor([-3.0, -1, 0.999, 7]).reshape(1, 1, 2, 2).expand(1, 3, 2, 2)
    (decoded,) = Pixels(size=2).decode(latents)
    assert decoded[0].flatten().tolist() == [0, 0, 255, 255]


def test_low_resolution_is_means_of_squares_interpolated_by_cubics():
    """Against Keys' kernel with a = -0.75, which is torch's, written down pixel by pixel."""
    raw = picture(32, 32)
    codec = Pixels(size=32, low=8)
    means = raw.double().reshape(3, 8, 4, 8, 4).mean((2, 4)).round()

    def kernel(distance: float) -> float:
        x, a = abs(distance), -0.75
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        if x < 2:
            return a * (x**3 - 5 * x**2 + 8 * x - 4)
        return 0.0

    weights = torch.zeros(32, 8, dtype=torch.float64)
    for pixel in range(32):
        place = (pixel + 0.5) / 4 - 0.5  # between the pixels of low resolution
        for near in range(floor(place) - 1, floor(place) + 3):
            weights[pixel, min(max(near, 0), 7)] += kernel(place - near)

    expected = torch.einsum("ip,cpq,jq->cij", weights, means, weights).clamp(0, 255)
    latents = codec.encode([raw]).float()
    assert latents.abs().max() <= 1
    assert torch.allclose((latents[0] + 1) * 127.5, expected.float(), atol=0.07)

    (decoded,) = codec.decode(latents)
    assert (decoded - expected).abs().max() <= 0.57


def test_a_file_of_low_resolution_is_as_good_as_the_picture():
    raw = picture(64, 64)
    small = raw.double().reshape(3, 16, 4, 16, 4).mean((2, 4)).round().byte()
    codec = Pixels(low=16)
    assert torch.equal(codec.encode([small]), codec.encode([raw]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size must be at least 1 pixel, not 0"),
        ({"size": 8, "low": 9}, "low must be 1 to 8 pixels, the size, not 9"),
        ({"low": 0}, "low must be 1 to 64 pixels"),
    ],
)
def test_a_wrong_size_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Pixels(**arguments)
