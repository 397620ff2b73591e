"""The small codec of pictures as grids, with the weights that ship, on renders of the embedded world."""

import numpy as np
import pytest
import torch
from flowbind_image import Image
from flowbind_image.grid import GridImage
from flowbind_image.judge import ImageJudge
from flowbind_shapes import image
from flowbind_shapes.scene import SHAPES, draw
from flowbind_shapes.solids import SOLIDS

from flowbind.testing import check_modality

SCENES = 72
LARGEST = 2 * 10**6  # bytes of the weights


@pytest.fixture(scope="module")
def scenes():
    return draw(SCENES, np.random.default_rng(7))


@pytest.fixture(scope="module")
def pictures(scenes) -> list[torch.Tensor]:
    rendered = []
    for k, number in enumerate(scenes.shape):
        scene = scenes.take(np.array([k]))
        solid = SOLIDS[SHAPES[number]]
        picture = image.render(solid, scene, np.random.default_rng(k))[0]
        rendered.append(torch.tensor(picture).permute(2, 0, 1).contiguous())
    return rendered


@pytest.fixture(scope="module")
def latents(pictures) -> torch.Tensor:
    return GridImage().encode(pictures)


def decibels(one: list[torch.Tensor], other: list[torch.Tensor]) -> torch.Tensor:
    """Peak signal-to-noise ratios, with shape (n,)."""
    error = torch.stack(one).double() - torch.stack(other).double()
    return 10 * (255**2 / error.square().flatten(1).mean(1)).log10()


def share_read_right(pictures: list[torch.Tensor], scenes) -> float:
    """Share of pictures all of whose factors the judge reads right."""
    judge = ImageJudge()
    classes = judge.read(judge.features("image", pictures))
    right = torch.ones(len(pictures), dtype=torch.bool)
    for column, (factor, values) in enumerate(judge.classes.items()):
        labels = [values.index(label[factor]) for label in scenes.labels()]
        right &= classes[:, column] == torch.tensor(labels)
    return right.double().mean().item()


def test_the_laws_hold(pictures, tmp_path):
    check_modality(Image(GridImage()), pictures[:4], tmp_path)


def test_the_weights_are_small():
    assert GridImage.shipped.stat().st_size <= LARGEST


@pytest.mark.parametrize(("noise", "least"), [(0.0, 30), (0.1, 30), (0.3, 28.5)])
def test_pictures_come_back_also_from_latents_a_little_off(
    noise, least, pictures, scenes, latents
):
    """Noise as a share of each channel's spread, as a flow sees latents."""
    generator = torch.Generator().manual_seed(0)
    spread = latents.std((0, 2, 3), keepdim=True)
    disturbed = latents + noise * spread * torch.randn(
        latents.shape, generator=generator
    )

    decoded = GridImage().decode(disturbed)
    assert decibels(pictures, decoded).mean() > least
    assert share_read_right(decoded, scenes) >= 0.98


def test_a_cell_is_about_its_place(pictures, latents):
    """A picture moved by a cell of 8 pixels has a latent that is moved by one, nearly."""
    moved = [torch.roll(picture, 8, dims=2) for picture in pictures]
    changed = GridImage().encode(moved)[..., 2:-1]
    spread = latents.std((0, 2, 3), keepdim=True)
    error = (changed - latents[..., 1:-2]) / spread
    here = (latents[..., 2:-1] - latents[..., 1:-2]) / spread
    assert error.square().mean() < 0.5 * here.square().mean()
