"""Pictures as people have them: formats, modes, layouts and ranges, at either door the same."""

import base64
import io
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from flowbind_image import Image
from PIL import ImageCms
from torch import Tensor

GENERATOR = np.random.default_rng(0)
HEIGHT, WIDTH = 19, 22
RGB = GENERATOR.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
ALPHA = GENERATOR.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
DEEP = GENERATOR.integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16)
RAW = torch.from_numpy(RGB).permute(2, 0, 1)
MODES = [
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "F",
]
MODES += ["I;16", "I;16L", "I;16B", "I;16N"]
FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jfif": "JPEG",
    ".jpe": "JPEG",
    ".webp": "WEBP",
    ".avif": "AVIF",
    ".gif": "GIF",
    ".tif": "TIFF",
    ".bmp": "BMP",
    ".dib": "DIB",
    ".jp2": "JPEG2000",
    ".ppm": "PPM",
    ".pgm": "PPM",
    ".pfm": "PPM",
    ".tga": "TGA",
    ".ico": "ICO",
    ".qoi": "QOI",
    ".sgi": "SGI",
    ".dds": "DDS",
}


@pytest.fixture(scope="module")
def image() -> Image:
    return Image()


def picture(mode: str) -> PIL.Image.Image:
    """Noise in one of Pillow's modes."""
    if mode.startswith("I;16"):
        order = ">" if mode == "I;16B" else "<"
        return PIL.Image.frombytes(
            mode, (WIDTH, HEIGHT), DEEP.astype(f"{order}u2").tobytes()
        )
    if mode == "I":
        return PIL.Image.fromarray(DEEP.astype(np.int32))
    if mode == "F":
        return PIL.Image.fromarray(DEEP.astype(np.float32) / 65535)
    rgb = PIL.Image.fromarray(RGB)
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(rgb, *profiles, outputMode="LAB")
    if mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        rgb.putalpha(PIL.Image.fromarray(ALPHA))
        return rgb.convert("LA").convert("La") if mode == "La" else rgb.convert(mode)
    return rgb.convert(mode)


def refused(image: Image, raw, says: str = "") -> None:
    with pytest.raises(ValueError, match=says) as error:
        image.accept(raw)
    assert "\n" not in str(error.value)


# Files and PIL pictures


@pytest.mark.parametrize("mode", MODES)
def test_a_picture_of_any_mode_is_rgb(image, mode):
    raw = image.accept(picture(mode))
    assert (raw.dtype, raw.shape) == (torch.uint8, (3, HEIGHT, WIDTH))
    white = np.full_like(RGB, 255)
    if mode in ("RGBA", "RGBa"):  # premultiplied, dark colours are coarse
        over = (
            ALPHA[..., None] * (RGB / 255) + (255 - ALPHA[..., None]) * (white / 255)
        ).round()
        assert (raw.permute(1, 2, 0).int() - torch.from_numpy(over)).abs().max() <= (
            1 if mode == "RGBA" else 2
        )
    elif mode in ("RGB", "RGBX"):
        assert torch.equal(raw, RAW)
    elif mode in ("HSV", "YCbCr", "LAB"):
        assert (raw.int() - RAW.int()).abs().float().mean() < 6
    elif mode == "CMYK":
        assert (raw.int() - RAW.int()).abs().max() <= 1
    elif mode.startswith("I"):
        assert torch.equal(
            raw, torch.from_numpy((DEEP >> 8).astype(np.uint8)).expand(3, -1, -1)
        )
    elif mode == "F":
        assert torch.equal(
            raw,
            torch.from_numpy((DEEP / 257).round().astype(np.uint8)).expand(3, -1, -1),
        )
    else:
        assert raw.float().std() > 40
    assert torch.equal(image.accept(raw), raw)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_is_what_its_picture_is(image, tmp_path, suffix):
    """In every mode that Pillow writes: by name, by PIL, as an array, as a tensor in either layout."""
    assert suffix in image.suffixes
    path, written = tmp_path / f"a{suffix}", 0
    for mode in MODES:
        # The format has no such mode, or Pillow does not read what it has written.
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                picture(mode).save(path, FORMATS[suffix])
            with PIL.Image.open(path) as opened:
                opened.load()
        except (OSError, KeyError, ValueError):
            continue
        written += 1
        raw = image.read(path)
        with PIL.Image.open(path) as opened:
            assert torch.equal(image.accept(opened), raw), mode
            plain = opened.mode in (
                "1",
                "L",
                "LA",
                "RGB",
                "RGBA",
                "F",
            ) or opened.mode.startswith("I;16")
            array = np.asarray(opened)
        if plain:
            assert torch.equal(image.accept(array), raw), mode
            tensor = torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
            assert torch.equal(image.accept(tensor), raw), mode
            assert torch.equal(
                image.accept(tensor if array.ndim == 2 else tensor.permute(2, 0, 1)),
                raw,
            ), mode
    assert written


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_that_is_cut_is_refused(image, tmp_path, suffix):
    whole = io.BytesIO()
    PIL.Image.fromarray(RGB[..., 0] if suffix == ".pfm" else RGB).save(
        whole, FORMATS[suffix]
    )
    path = tmp_path / f"cut{suffix}"
    length = len(whole.getvalue())
    for kept in {0, 1, 9, 30, *range(40, length - 30, max(1, length // 16))}:
        path.write_bytes(whole.getvalue()[:kept])
        with pytest.raises(ValueError, match=f"cut\\{suffix}: ") as error:
            image.read(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "suffix", [".gif", ".tif", ".avif", ".webp", ".png", ".tga", ".jp2"]
)
def test_the_content_counts_and_not_the_suffix(image, tmp_path, suffix):
    PIL.Image.fromarray(RGB).save(tmp_path / f"a{suffix}")
    (tmp_path / f"a{suffix}").rename(tmp_path / "a.jpg")
    if suffix == ".tga":  # it does not say what it is
        with pytest.raises(
            ValueError, match=r"a\.jpg: not a picture; allowed: PNG, .*HEIC"
        ):
            image.read(tmp_path / "a.jpg")
    else:
        assert image.read(tmp_path / "a.jpg").shape == RAW.shape


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif", ".avif"])
def test_of_several_frames_the_first_is_taken(image, tmp_path, suffix):
    frames = [PIL.Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
    assert image.read(tmp_path / f"a{suffix}").float().mean((1, 2)).argmax() == 0


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright(image, tmp_path, suffix, orientation):
    upright = np.kron(
        np.array([[255, 0, 0], [0, 128, 0]], np.uint8), np.ones((16, 16), np.uint8)
    )
    turned = {
        2: "FLIP_LEFT_RIGHT",
        3: "ROTATE_180",
        4: "FLIP_TOP_BOTTOM",
        5: "TRANSPOSE",
        6: "ROTATE_90",
    }
    turned |= {7: "TRANSVERSE", 8: "ROTATE_270"}
    held = PIL.Image.fromarray(upright)
    if orientation > 1:
        held = held.transpose(PIL.Image.Transpose[turned[orientation]])
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    held.save(tmp_path / f"a{suffix}", exif=exif)
    raw = image.read(tmp_path / f"a{suffix}")
    assert raw.shape == (3, *upright.shape)
    assert (raw.int() - torch.from_numpy(upright).int()).abs().float().mean() < 3
    with PIL.Image.open(tmp_path / f"a{suffix}") as opened:
        assert torch.equal(image.accept(opened), raw)


def tiff(
    values: bytes, bits: int, photometric: int, size: tuple[int, int] = (2, 2)
) -> bytes:
    """A grey TIFF of one strip, uncompressed."""
    tags = [
        (256, size[0]),
        (257, size[1]),
        (258, bits),
        (259, 1),
        (262, photometric),
        (273, 0),
        (277, 1),
        (278, size[1]),
    ]
    tags.append((279, len(values)))
    start = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(
        struct.pack("<HHII", tag, 4, 1, start if tag == 273 else value)
        for tag, value in tags
    )
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + values


def png(
    colour: int,
    depth: int,
    rows: bytes,
    transparent: bytes = b"",
    size: tuple[int, int] = (2, 1),
) -> bytes:
    """A PNG of rows that begin with their filter's number."""
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    chunks = [
        (b"IHDR", header),
        (b"tRNS", transparent),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    parts = [
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
        if content or name == b"IEND"
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


RARE = {  # a file's content, and the brightness of its first pixels
    "12 bits": (
        "a.tif",
        tiff(bytes.fromhex("fff000 800800"), 12, 1),
        [255, 0, 128, 128],
    ),
    "16 bits, white is 0": (
        "a.tif",
        tiff(struct.pack("<4H", 0, 65535, 0x7F00, 255), 16, 0),
        [255, 0, 128, 255],
    ),
    "8 bits, white is 0": (
        "a.tif",
        tiff(bytes([0, 255, 127, 1]), 8, 0),
        [255, 0, 128, 254],
    ),
    "16 bits": (
        "a.tif",
        tiff(struct.pack("<4H", 0, 65535, 0x8000, 255), 16, 1),
        [0, 255, 128, 0],
    ),
    "grey, a level of which is clear": (
        "a.png",
        png(0, 16, b"\0\x12\x34\x40\0", b"\x12\x34"),
        [255, 64],
    ),
    "8 bits, a level of which is clear": (
        "a.png",
        png(0, 8, b"\0\x12\x40", b"\0\x12"),
        [255, 64],
    ),
    "RGB of 16 bits": (
        "a.png",
        png(2, 16, b"\0" + bytes.fromhex("4000 4000 4000 80ff 80ff 80ff")),
        [64, 128],
    ),
    "two levels": ("a.png", png(0, 2, b"\0\x40"), [85, 0]),
    "layers": (
        "a.psd",
        b"8BPS\0\1"
        + bytes(6)
        + struct.pack(">HIIHHIIIH", 1, 1, 2, 8, 1, 0, 0, 0, 0)
        + b"\x07\xf0",
        [7, 240],
    ),
    "15 levels": ("a.pgm", b"P5 2 1 15\n\x0f\x00", [255, 0]),
    "1023 levels": ("a.pgm", b"P5 2 1 1023\n\x03\xff\x02\x00", [255, 128]),
    "in letters": ("a.pgm", b"P2 2 1 100\n100 50\n", [255, 128]),
    "bits": ("a.pbm", b"P4 2 1\n\x40", [255, 0]),
    "floats": ("a.pfm", b"Pf 2 1 -1.0\n" + struct.pack("<2f", 1.0, 0.25), [255, 64]),
}


@pytest.mark.parametrize(("name", "content", "levels"), RARE.values(), ids=RARE)
def test_what_scanners_and_microscopes_write(image, tmp_path, name, content, levels):
    (tmp_path / name).write_bytes(content)
    raw = image.read(tmp_path / name)
    assert raw[0].flatten().tolist() == levels
    with PIL.Image.open(tmp_path / name) as opened:
        assert torch.equal(image.accept(opened), raw)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "a.tif",
            tiff(struct.pack("<4I", 0, 2**31, 5, 70000), 32, 1),
            "mode I with numbers from",
        ),
        (
            "a.pfm",
            b"Pf 2 1 -1.0\n" + struct.pack("<2f", 300.0, 0.25),
            r"numbers from 0.25 to 300, floats lie in \[0, 1\]",
        ),
        ("a.pfm", b"Pf 2 1 -1.0\n" + struct.pack("<2f", np.nan, 0.25), "not finite"),
    ],
)
def test_numbers_whose_range_nothing_tells_are_refused(
    image, tmp_path, name, content, says
):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}: .*{says}") as error:
        image.read(tmp_path / name)
    assert "\n" not in str(error.value)
    assert "damaged" not in str(error.value)


HEIC = base64.b64decode(  # 64 x 64, red above blue
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAZdtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAA"
    "AAAAAAAAADRpbG9jAAAAAERAAAIAAQAAAAABuwABAAAAAAAAAIwAAgAAAAACRwABAAAAAAAAACQAAAA4aWluZgAAAAAA"
    "AgAAABVpbmZlAgAAAAABAABodmMxAAAAABVpbmZlAgAAAQACAABFeGlmAAAAAA5waXRtAAAAAAABAAAA1mlwcnAAAAC3"
    "aXBjbwAAAHhodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAr"
    "QgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbqSSmubgIaDAgAAAMAyAAAAwAIQGIAAQAHRAHBcrAiQAAAABNjb2xybmNseAAB"
    "AA0ABoAAAAAUaXNwZQAAAAAAAABAAAAAQAAAABBwaXhpAAAAAAMICAgAAAAXaXBtYQAAAAAAAAABAAEEgQIDBAAAABpp"
    "cmVmAAAAAAAAAA5jZHNjAAIAAQABAAAAuG1kYXQAAACIKAGvBjjj578/Tf5ne///8r13of72Diq+DdZf4+hXI/5ViP//"
    "4zKCXdjJ7FRpvEI2WcdBHwlFOjBR5z7AG4HKATCK6pAntdZO+aKf5VxNgLp+MXy/cu9uHI1ftawe7s/2he9uvxDcjqyt"
    "1pFL/d0kImfrq2uy6TC/VRtKwHmlkagYzvjwGlxn8AAAAAZFeGlmAABNTQAqAAAACAABARIAAwAAAAEABgAAAAAAAA=="
)


def test_heic_is_read_by_its_extra(image, tmp_path, monkeypatch):
    (tmp_path / "a.heic").write_bytes(HEIC)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pi_heif", None)
        message = r"a\.heic: HEIC needs pi_heif; install it with `pip install "
        with pytest.raises(ValueError, match=message):
            image.read(tmp_path / "a.heic")
    pytest.importorskip("pi_heif")
    raw = image.read(tmp_path / "a.heic")
    assert (
        raw[:, :32].float().mean((1, 2)) - torch.tensor([255.0, 0, 0])
    ).abs().max() < 9
    assert (
        raw[:, 32:].float().mean((1, 2)) - torch.tensor([0, 0, 255.0])
    ).abs().max() < 9
    (tmp_path / "a.heic").write_bytes(HEIC[:-40])
    with pytest.raises(ValueError, match=r"a\.heic: "):
        image.read(tmp_path / "a.heic")


@pytest.mark.parametrize("size", [(1, 1), (1, 9000), (9000, 1), (257, 3), (3, 512)])
def test_every_size_has_a_latent(image, tmp_path, size):
    PIL.Image.new("RGB", size, "red").save(tmp_path / "a.png")
    raw = image.read(tmp_path / "a.png")
    assert raw.shape == (3, size[1], size[0])
    assert (raw.float().mean((1, 2)) == torch.tensor([255.0, 0, 0])).all()
    assert image.codec.encode([raw]).isfinite().all()


def test_rows_are_converted_in_parts_and_come_out_whole(image):
    tall = GENERATOR.integers(0, 256, (700, 5, 4), dtype=np.uint8)
    whole = PIL.Image.alpha_composite(
        PIL.Image.new("RGBA", (5, 700), "white"), PIL.Image.fromarray(tall)
    ).convert("RGB")
    assert np.array_equal(
        image.accept(tall).permute(1, 2, 0).numpy(), np.asarray(whole)
    )


def test_pil_pictures_that_are_none(image, tmp_path):
    refused(image, PIL.Image.new("RGB", (0, 5)), "0 x 5 pixels")
    PIL.Image.fromarray(RGB).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:400])
    with PIL.Image.open(tmp_path / "a.png") as lazy:
        refused(image, lazy, "a damaged picture")
    refused(
        image,
        PIL.Image.fromarray(np.full((2, 2), 70000, np.int32)),
        "mode I with numbers from 70000 to 70000",
    )
    refused(
        image,
        PIL.Image.fromarray(np.full((2, 2), 255, np.float32)),
        r"floats lie in \[0, 1\]",
    )


def test_a_picture_is_left_as_it_was(image):
    given = picture("RGBA")
    before = given.tobytes()
    image.accept(given)
    assert (given.mode, given.tobytes()) == ("RGBA", before)


# Arrays


LAYOUTS = {
    "(3, H, W)": (RGB.transpose(2, 0, 1), RGB),
    "(H, W, 3)": (RGB, RGB),
    "(1, 3, H, W)": (RGB.transpose(2, 0, 1)[None], RGB),
    "(1, H, W, 3)": (RGB[None], RGB),
    "(H, W)": (ALPHA, np.stack([ALPHA] * 3, -1)),
    "(H, W, 1)": (ALPHA[..., None], np.stack([ALPHA] * 3, -1)),
    "(1, H, W)": (ALPHA[None], np.stack([ALPHA] * 3, -1)),
    "(H, W, 4)": (np.dstack([RGB, np.full_like(ALPHA, 255)]), RGB),
    "(4, H, W)": (
        np.dstack([RGB, np.zeros_like(ALPHA)]).transpose(2, 0, 1),
        np.full_like(RGB, 255),
    ),
    "(H, W, 2)": (
        np.dstack([ALPHA, np.full_like(ALPHA, 255)]),
        np.stack([ALPHA] * 3, -1),
    ),
}
RANGES = {
    "uint8": lambda levels: levels,
    "uint16": lambda levels: levels.astype(np.uint16) * 257,
    "float16": lambda levels: (levels / 255).astype(np.float16),
    "float32": lambda levels: (levels / 255).astype(np.float32),
    "float64": lambda levels: levels / 255,
}


@pytest.mark.parametrize("kind", RANGES)
@pytest.mark.parametrize(("array", "expected"), LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_and_ranges_are_the_same_picture(image, array, expected, kind):
    expected = torch.from_numpy(expected).permute(2, 0, 1)
    for given in (RANGES[kind](array), torch.from_numpy(RANGES[kind](array).copy())):
        raw = image.accept(given)
        assert raw.dtype == torch.uint8
        assert torch.equal(raw, expected)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
def test_all_levels_survive_in_floats(image, dtype):
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).expand(3, -1, -1)
    assert torch.equal(image.accept((levels.double() / 255).to(dtype)), levels)
    # What resizing leaves a little beyond.
    assert torch.equal(image.accept(levels / 255 + 1e-3), levels)
    assert torch.equal(image.accept(levels / 255 - 1e-3), levels)


def test_bits_are_black_and_white(image):
    assert image.accept(ALPHA > 99).unique().tolist() == [0, 255]


def test_where_both_layouts_are_possible_the_library_decides(image):
    small = GENERATOR.integers(0, 256, (3, 5, 3), dtype=np.uint8)
    assert torch.equal(image.accept(torch.from_numpy(small)), torch.from_numpy(small))
    assert torch.equal(image.accept(small), torch.from_numpy(small).permute(2, 0, 1))


def test_a_raw_sample_is_itself(image):
    raw = RAW.contiguous()
    assert image.accept(raw).data_ptr() == raw.data_ptr()
    assert torch.equal(image.accept(RAW), RAW)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (None, "None is no array"),
        (3, "the number 3"),
        ("cat", "the string 'cat'"),
        ([PIL.Image.new("RGB", (2, 2))] * 2, "a list of Image"),
        (RAW.float(), r"numbers from 0 to 255, floats lie in \[0, 1\]"),
        (RAW / 127.5 - 1, r"numbers from -1 to 1, floats lie in \[0, 1\]"),
        (RAW.long(), "int64 .* does not tell the range"),
        (RGB.astype(np.int32), "int32 .* does not tell the range"),
        (RGB.tolist(), "does not tell the range"),
        (torch.zeros(2, 3, 8, 8), "not one picture"),
        (np.zeros((5, 8, 8)), "not one picture"),
        (np.zeros(8), "not one picture"),
        (np.zeros((3, 0, 8)), "empty"),
        (np.full((8, 8), np.nan), "not finite"),
        (np.full((8, 8), np.inf), "not finite"),
    ],
)
def test_what_is_no_picture_is_refused(image, raw, says):
    refused(image, raw, f"{says}.*allowed: a PIL picture, or an array")


def test_a_model_takes_all_of_them(image):
    """The same latent, whatever the picture came in."""
    from flowbind.data.manifest import take_raw

    same: list[Tensor] = [
        PIL.Image.fromarray(RGB),
        RGB,
        RAW,
        RAW / 255,
        RGB / 255,
        RAW[None].half() / 255,
    ]
    raws = [take_raw(image, given, "x") for given in same]
    latents = image.codec.encode(raws)
    assert torch.equal(latents, latents[:1].expand_as(latents))


def test_the_page_names_every_suffix(image):
    page = (Path(__file__).parents[1] / "docs" / "codecs" / "image.md").read_text()
    assert [suffix for suffix in image.suffixes if f"`{suffix}`" not in page] == []
