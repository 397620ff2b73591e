"""Pairs of noise alone, and pictures made anew where a mask says so: through `generate`, with a method in closed form."""

from pathlib import Path

import pytest
import torch
from flowbind_image import Image
from flowbind_image.grid import GridImage
from flowbind_image.mask import known_cells
from flowbind_image.pixels import Pixels
from flowbind_image.sd_vae import SDVae
from flowbind_image.small import SmallImage
from flowbind_text import Text

import flowbind
from flowbind.generation import Model
from flowbind.method import Networks
from flowbind.release import save
from tests import toy_kinds
from tests.released import make_model
from tests.toy import Vector, Word

SIDE = 8


@pytest.fixture
def folder(toys, tmp_path):
    """A released model, a picture beside it, and masks of its right half and of another size."""
    method = toy_kinds.Pairs({"image": Image(Pixels(SIDE)), "word": Word()})
    save(Model(method, Networks(method)), tmp_path / "model")
    image = Image()
    image.write(picture(), tmp_path / "damaged.png")
    image.write(right_half(SIDE), tmp_path / "mask.png")
    image.write(right_half(4), tmp_path / "small.png")
    return tmp_path


def picture() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(256, (3, SIDE, SIDE), generator=generator)
    return levels.to(torch.uint8)


def right_half(side: int) -> torch.Tensor:
    mask = torch.zeros(3, side, side, dtype=torch.uint8)
    mask[:, :, side // 2 :] = 255
    return mask


def read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Pairs


def test_pairs_of_one_number_belong_together_whatever_the_batch(folder, command):
    line = ["--to", "word", "--to", "image", "--count", 5, "--seed", 3]
    for batch in (2, 256):
        out = folder / str(batch)
        code, _, err = command(
            "generate", folder / "model", *line, "--batch", batch, "--out", out
        )
        assert code == 0, err
    files = read(folder / "2")
    assert files == read(folder / "256")
    assert sorted(files) == sorted(
        f"{number}-sample.{ending}"
        for number in range(5)
        for ending in ("word.word", "image.png")
    )

    words = set()
    for number in range(5):
        word = (folder / f"2/{number}-sample.word.word").read_text().strip()
        levels = Image().read(folder / f"2/{number}-sample.image.png")[:, 0, 0]
        assert "".join(str(round(level / 85)) for level in levels.tolist()) == word
        words.add(word)
    assert len(words) > 1

    model = flowbind.load(folder / "model")
    pairs = model.generate({}, ["word", "image"], count=5, seed=3)
    assert set(pairs["word"]) == words
    assert len(pairs["image"]) == 5


# Inpainting


def test_known_pixels_are_held_and_the_others_made_anew(folder, command):
    given = ["--from", f"image={folder}/damaged.png", "--from", "word=203"]
    given += ["--to", "image", "--inpaint"]
    new = torch.tensor([170, 0, 255], dtype=torch.uint8)[:, None, None]

    for name, mask in (("all", []), ("half", ["--mask", f"image={folder}/mask.png"])):
        out = folder / name
        code, _, err = command(
            "generate", folder / "model", *given, *mask, "--out", out
        )
        assert code == 0, err
        (path,) = out.iterdir()
        image = Image().read(path)
        known = SIDE // 2 if mask else 0
        assert torch.equal(image[..., :known], picture()[..., :known])
        assert (image[..., known:] == new).all()


def test_masks_in_python_one_for_all_or_one_each(folder):
    model = flowbind.load(folder / "model")
    sources = {"image": [picture(), picture()], "word": ["203", "203"]}
    left = right_half(SIDE).flip(-1)
    for mask in ([folder / "mask.png"], [right_half(SIDE), left]):
        generated = model.generate(sources, "image", mask={"image": mask}, inpaint=True)
        first, second = generated["image"]
        assert torch.equal(first[..., :4], picture()[..., :4])
        assert not torch.equal(first[..., 4:], picture()[..., 4:])
        known = slice(0, 4) if len(mask) == 1 else slice(4, 8)
        assert torch.equal(second[..., known], picture()[..., known])


def test_a_switch_is_its_name_or_true_or_false(folder, command):
    base = ["generate", folder / "model", "--from", "word=203", "--to", "image"]
    for words, code in ((["--inpaint", "false"], 0), (["--inpaint"], 2)):
        out = folder / words[-1]
        assert command(*base, *words, "--out", out)[0] == code
    code, _, err = command(*base, "--inpaint", "maybe", "--out", folder / "out")
    assert (code, "takes true or false, not 'maybe'" in err) == (2, True)


DAMAGED = "--from image=damaged.png --from word=203"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--from word=203 --to image --count 3", "--count is the number of samples"),
        ("--from word=203 --to image --inpaint", "inpaint is for a source that is"),
        (f"{DAMAGED} --to image", "inpaint is for a source that is a target too"),
        (
            f"{DAMAGED} --to image --inpaint --mask image=small.png",
            "mask 'image'[0]: a mask of 4 x 4 pixels for a picture of 8 x 8",
        ),
        (
            f"{DAMAGED} --to image --inpaint --mask image=none.png",
            "--mask image=none.png: no such file",
        ),
        (
            f"{DAMAGED} --to image --inpaint --mask image=masks/*.png",
            "--mask 'image' has 2 samples, and the sources 1",
        ),
        (
            f"{DAMAGED} --to image --inpaint --mask word=203",
            "'word' has to be a source and a target",
        ),
        ("--from word=203 --to image --mask image=mask.png", "this is word->image"),
        (f"{DAMAGED} --to image --mask mask.png", "--mask takes NAME=VALUE"),
        (
            f"{DAMAGED} --to image --interpolate 3 --mask image=mask.png",
            "leave out --mask",
        ),
    ],
)
def test_choices_that_do_not_go_together_are_one_line(
    folder, command, monkeypatch, options, says
):
    monkeypatch.chdir(folder)
    Path("masks").mkdir()
    for number in range(2):
        Image().write(right_half(SIDE), Path(f"masks/{number}.png"))
    code, out, err = command("generate", "model", *options.split(), "--out", "out")
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert says in err
    assert not Path("out").exists()


def test_python_refuses_the_same(folder):
    model = flowbind.load(folder / "model")
    for arguments, says in (
        (({"word": "203"}, "image", {"count": 1}), "count is the number"),
        (({"word": "203"}, "image", {"mask": {"image": "x"}}), "word->image"),
        (({}, ["image", "word"], {"count": 0}), "count must be at least 1"),
        (({}, ["image", "word"], {"count": 1.5}), "count must be an integer"),
    ):
        sources, to, choices = arguments
        with pytest.raises(ValueError, match=says):
            model.generate(sources, to, **choices)


def test_a_method_that_holds_nothing_refuses_a_mask(toys):
    model = make_model({"word": Word(), "vector": Vector()})
    with pytest.raises(ValueError, match="FlowBind holds no part of a source"):
        model.generate({"word": "203"}, "word", mask={"word": "x"})


# Masks of samples and of latents


def test_a_mask_is_white_where_a_picture_is_unknown():
    unknown = Image().read_mask(right_half(SIDE), picture())
    assert unknown.shape == (SIDE, SIDE)
    assert unknown[:, 4:].all()
    assert not unknown[:, :4].any()
    grey = torch.full((3, SIDE, SIDE), 127, dtype=torch.uint8)
    assert not Image().read_mask(grey, picture()).any()


def test_samples_and_latents_without_places_take_no_mask():
    with pytest.raises(ValueError, match="Text have no parts"):
        Text().read_mask("mask", "a red ball")
    with pytest.raises(ValueError, match="SmallImage takes no mask"):
        SmallImage().known([torch.zeros(64, 64, dtype=torch.bool)])


@pytest.mark.parametrize("side", [64, 61, 200, 5])
def test_a_cell_is_known_where_all_its_pixels_and_its_neighbours_are(side):
    generator = torch.Generator().manual_seed(side)
    mask = torch.zeros(side, side, dtype=torch.bool)
    row, column = torch.randint(side, (2,), generator=generator).tolist()
    mask[row, column] = True
    for reach in (0, 1):
        known = known_cells([mask], (3, 8, 8), reach)
        assert known.shape == (1, 3, 8, 8)
        for i in range(8):
            for j in range(8):
                sees = []
                for place, cell in ((row, i), (column, j)):
                    first = max(cell - reach, 0) * side / 8
                    last = min(cell + reach + 1, 8) * side / 8
                    sees.append(place + 1 > first and place < last)
                assert known[0, 0, i, j] != all(sees)


def test_codecs_of_grids_know_cells_of_their_own_shape():
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[:, 32:] = True
    known = GridImage().known([mask])
    assert known.shape == (1, *GridImage.shape)
    half = known.shape[-1] // 2
    assert known[..., : half - 1].all()
    assert not known[..., half - 1 :].any()
    assert known_cells([~mask & False], GridImage.shape, reach=1).all()


def test_what_is_cropped_away_is_no_part_of_a_mask():
    mask = torch.zeros(64, 128, dtype=torch.bool)
    mask[:, :24] = True
    assert SDVae(size=64).known([mask]).all()
    mask[:, 64:] = True
    known = SDVae(size=64).known([mask])[0, 0]
    assert known[:, :3].all()  # the middle has 32 of its columns known
    assert not known[:, 3:].any()
