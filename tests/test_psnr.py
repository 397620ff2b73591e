"""Pictures against their references: closed forms, and structural similarity written down."""

import math

import pytest
import torch
from flowbind_image.psnr import PSNR
from torch import Tensor

from flowbind.registry import name_of
from tests.tiny_clip import pictures


def values(made: list[Tensor], real: list[Tensor], size: int = 64) -> list[float]:
    metric = PSNR(size)
    features = [metric.features("image", raws) for raws in (made, real)]
    computed = metric.compute(*features)
    assert list(computed) == [
        f"psnr[flowbind,{size}x{size}]",
        f"ssim[flowbind,{size}x{size}]",
    ]
    return list(computed.values())


def test_it_is_registered():
    assert name_of("metrics", PSNR) == "psnr"


def test_equal_pictures_have_no_error_but_that_of_rounding():
    raws = pictures(3, 64, 64)
    psnr, ssim = values(raws, raws)
    assert psnr == pytest.approx(10 * math.log10(255**2 * 12))
    assert ssim == pytest.approx(1)


def test_psnr_is_the_mean_of_pictures_ratios():
    """Off by 10 levels everywhere, and by 40 in a quarter of the pixels: 100 and 400."""
    grey = torch.full((3, 16, 16), 100, dtype=torch.uint8)
    corner = grey.clone()
    corner[:, :8, :8] += 40
    psnr, _ = values([grey + 10, corner], [grey, grey], size=16)
    ratios = [10 * math.log10(255**2 / error) for error in (100, 400)]
    assert psnr == pytest.approx(sum(ratios) / 2)


def test_black_against_white_is_zero_decibels():
    black = torch.zeros(3, 16, 16, dtype=torch.uint8)
    assert values([black], [~black], size=16)[0] == pytest.approx(0)


def test_ssim_is_its_definition():
    """Over every window that lies within the picture, colour by colour."""
    size = 24
    made, real = pictures(2, size, size), pictures(2, size, size, seed=1)
    real = [
        (x.float() * 0.5 + y.float() * 0.5).byte()
        for x, y in zip(made, real, strict=True)
    ]

    offsets = torch.arange(11, dtype=torch.float64) - 5
    line = torch.exp(-offsets.square() / (2 * 1.5**2))
    window = torch.outer(line, line) / line.sum() ** 2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

    means = []
    for x, y in zip(made, real, strict=True):
        x, y = (
            picture.double().unfold(1, 11, 1).unfold(2, 11, 1) for picture in (x, y)
        )
        mean_x, mean_y, square_x, square_y, product = (
            (window * part).sum((-2, -1)) for part in (x, y, x * x, y * y, x * y)
        )
        covariance = product - mean_x * mean_y
        variances = square_x - mean_x**2 + square_y - mean_y**2
        similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
        similarity /= (mean_x**2 + mean_y**2 + c1) * (variances + c2)
        means.append(similarity.mean())

    _, ssim = values(made, real, size=size)
    assert ssim == pytest.approx(torch.stack(means).mean().item(), rel=1e-6)


def test_pictures_of_other_sizes_are_resized():
    large = pictures(2, 128, 96)
    metric = PSNR(32)
    small = metric.features("image", large)
    assert small.shape == (2, 3, 32, 32)
    assert values(large, list(small), size=32)[0] > 58


def test_too_small_a_size_is_refused():
    with pytest.raises(ValueError, match="size must be at least 11 pixels, not 10"):
        PSNR(10)
