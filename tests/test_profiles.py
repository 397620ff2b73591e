"""Colour profiles of pictures: numbers of another space become those of sRGB."""

import io
import struct

import numpy as np
import PIL.Image
import pytest
from flowbind_image import Image
from PIL import ImageCms

WHITE = struct.pack(
    ">4s4x3i", b"XYZ ", *(round(x * 65536) for x in (0.9642, 1.0, 0.8249))
)
RGB = np.random.default_rng(0).integers(0, 256, (19, 22, 3), dtype=np.uint8)
ALPHA = np.random.default_rng(1).choice([0, 255], (19, 22)).astype(np.uint8)


def profile(space, **tags):
    """An ICC profile, version 2, of a display or a printer, with these tags."""
    kind, pcs = (b"prtr", b"Lab ") if space == "CMYK" else (b"mntr", b"XYZ ")
    tags["wtpt"] = WHITE
    start = 132 + 12 * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += struct.pack(">4sII", name.encode(), start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    size = start + len(data)
    head = struct.pack(
        ">I4xI4s4s4s", size, 0x02400000, kind, space.ljust(4).encode(), pcs
    )
    head += bytes(12) + b"acsp" + bytes(28) + WHITE[8:]
    return head.ljust(128, b"\0") + table + data


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# Red and blue change their places.
SWAPPED = SRGB.replace(b"rXYZ", b"?").replace(b"bXYZ", b"rXYZ").replace(b"?", b"bXYZ")
LIGHT = profile("GRAY", kTRC=struct.pack(">4s4xI", b"curv", 0))  # grey in linear light


def printer():
    """CMYK whose inks are as dark as they are strong, black alone; white paper (L* 100, a* b* 0)."""
    nodes = [node >> shift & 1 for node in range(16) for shift in (3, 2, 1, 0)]
    lab = b"".join(bytes([0 if black else 255, 128, 128]) for black in nodes[3::4])
    ramp = bytes(range(256))
    identity = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    return (
        struct.pack(">4s4xBBBx", b"mft1", 4, 3, 2)
        + identity
        + 4 * ramp
        + lab
        + 3 * ramp
    )


INK = profile("CMYK", A2B0=printer())


def read(folder, picture, form, **options):
    path = folder / f"a.{form}"
    picture.save(path, **options)
    return Image().read(path).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("form", ["png", "tif", "webp", "avif"])
def test_a_profile_is_applied_at_either_door(tmp_path, form):
    lossless = {"lossless": True} if form == "webp" else {}
    lossless |= {"quality": 100, "subsampling": "4:4:4"} if form == "avif" else {}
    picture = PIL.Image.fromarray(RGB)
    plain = read(tmp_path, picture, form, **lossless)
    turned = read(tmp_path, picture, form, icc_profile=SWAPPED, **lossless)
    np.testing.assert_allclose(turned.astype(int), plain[..., ::-1], atol=2)
    with PIL.Image.open(tmp_path / f"a.{form}") as opened:
        np.testing.assert_array_equal(Image().accept(opened).permute(1, 2, 0), turned)


def test_sRGB_by_whatever_profile_changes_nothing(tmp_path, capsys):
    read_back = read(tmp_path, PIL.Image.fromarray(RGB), "png", icc_profile=SRGB)
    np.testing.assert_array_equal(read_back, RGB)
    assert not capsys.readouterr().err


def test_transparency_stays_what_it_is(tmp_path):
    clear = PIL.Image.fromarray(np.concatenate([RGB, ALPHA[..., None]], 2))
    turned = read(tmp_path, clear, "png", icc_profile=SWAPPED)
    wanted = np.where(ALPHA[..., None] > 0, RGB[..., ::-1], 255)
    np.testing.assert_allclose(turned.astype(int), wanted, atol=2)
    palette = PIL.Image.fromarray(RGB).quantize(16)
    palette.info["transparency"] = 3
    turned = read(tmp_path, palette, "png", transparency=3, icc_profile=SWAPPED)
    wanted = np.asarray(palette.convert("RGB"))[..., ::-1].copy()
    wanted[np.asarray(palette) == 3] = 255
    np.testing.assert_allclose(turned.astype(int), wanted, atol=2)


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_grey_in_linear_light(tmp_path, mode):
    """Light of 55 in 255 is shown as 128, and black and white stay."""
    levels = np.array([[0, 55, 255]], np.uint16)
    picture = PIL.Image.fromarray(
        levels * 257 if mode == "I;16" else levels.astype(np.uint8)
    )
    picture = picture.convert("LA") if mode == "LA" else picture
    turned = read(tmp_path, picture, "png", icc_profile=LIGHT)
    np.testing.assert_allclose(
        turned[0].astype(int), [[0] * 3, [128] * 3, [255] * 3], atol=2
    )


def test_a_printer_s_inks(tmp_path):
    # Colours are no ink here.
    picture = PIL.Image.new("CMYK", (2, 1), (255, 255, 255, 0))
    picture.putpixel((1, 0), (0, 0, 0, 255))
    turned = read(tmp_path, picture, "tif", icc_profile=INK)
    np.testing.assert_allclose(turned[0].astype(int), [[255] * 3, [0] * 3], atol=2)
    assert (read(tmp_path, picture, "tif")[0, 0] == 0).all()  # without it


@pytest.mark.parametrize(
    ("content", "mode", "line"),
    [
        (b"none", "RGB", "its colour profile cannot be applied, and is left aside"),
        (
            SWAPPED[:200],
            "RGB",
            "its colour profile cannot be applied, and is left aside",
        ),
        (INK, "RGB", "its colour profile is one of CMYK, the picture has the mode RGB"),
        (
            LIGHT,
            "RGB",
            "its colour profile is one of GRAY, the picture has the mode RGB",
        ),
    ],
)
def test_profiles_that_cannot_be_applied_are_told(
    tmp_path, capsys, content, mode, line
):
    picture = PIL.Image.fromarray(RGB).convert(mode)
    read_back = read(tmp_path, picture, "png", icc_profile=content)
    np.testing.assert_array_equal(read_back, RGB)
    err = capsys.readouterr().err
    assert f"{tmp_path / 'a.png'}: {line}" in err
    assert err.count("\n") == 1


def test_a_picture_in_a_program_whose_profile_was_left_behind():
    """Pillow keeps the profile when it converts."""
    file = io.BytesIO()
    PIL.Image.new("CMYK", (2, 1)).save(file, "TIFF", icc_profile=INK)
    with PIL.Image.open(file) as opened:
        converted = opened.convert("RGB")
    assert (Image().accept(converted) == 255).all()
