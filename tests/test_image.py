"""Laws of the image plugin: files, opponent colours, the small codec and its training."""

import io
import warnings

import numpy as np
import PIL.Image
import pytest
import torch
from flowbind_image import Image
from flowbind_image.colour import opponent, rgb
from flowbind_image.small import SmallImage
from flowbind_image.training import ImageCodecTraining
from torch import Tensor


def noise(height: int = 20, width: int = 24, seed: int = 0) -> Tensor:
    """A picture that no compression can guess."""
    return torch.randint(
        256,
        (3, height, width),
        generator=torch.Generator().manual_seed(seed),
        dtype=torch.uint8,
    )


def discs(count: int, seed: int = 0) -> list[Tensor]:
    """Bright discs on grey grounds, 64 x 64, of random colour, place and size."""
    generator = torch.Generator().manual_seed(seed)
    colour, place, radius, ground = (
        torch.rand(count, n, 1, 1, generator=generator) for n in (3, 2, 1, 1)
    )
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij"
    )
    inside = (x - place[:, 0] + 0.5) ** 2 + (y - place[:, 1] + 0.5) ** 2 < (
        0.25 + 0.4 * radius[:, 0]
    ) ** 2
    return list((torch.where(inside[:, None], colour, 0.4 + 0.3 * ground) * 255).byte())


@pytest.fixture(scope="module")
def image() -> Image:
    return Image()


# Files


def test_what_was_written_is_read(image, tmp_path):
    raw = noise()
    image.write(raw, tmp_path / "a.png")
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
    assert torch.equal(image.read(tmp_path / "a.png"), raw)
    assert torch.equal(image.read(str(tmp_path / "a.png")), raw)
    with PIL.Image.open(tmp_path / "a.png") as other:
        assert np.array_equal(np.asarray(other), raw.permute(1, 2, 0).numpy())


def test_preview_is_the_picture(image):
    assert np.array_equal(
        np.asarray(image.preview(noise())), noise().permute(1, 2, 0).numpy()
    )


@pytest.mark.parametrize(
    ("name", "picture", "pixel"),
    [
        ("grey.png", PIL.Image.new("L", (5, 4), 77), (77, 77, 77)),
        ("bit.png", PIL.Image.new("1", (5, 4), 1), (255, 255, 255)),
        (
            "deep.png",
            PIL.Image.fromarray(np.full((4, 5), 256 * 77 + 200, np.uint16)),
            (77, 77, 77),
        ),
        (
            "palette.png",
            PIL.Image.new("RGB", (5, 4), (255, 0, 51)).quantize(4),
            (255, 0, 51),
        ),
        ("clear.png", PIL.Image.new("RGBA", (5, 4), (255, 0, 51, 0)), (255, 255, 255)),
        ("clear-grey.png", PIL.Image.new("LA", (5, 4), (77, 0)), (255, 255, 255)),
        ("half.png", PIL.Image.new("RGBA", (5, 4), (255, 0, 0, 127)), (255, 128, 128)),
        ("ink.jpg", PIL.Image.new("CMYK", (5, 4), (0, 255, 255, 0)), (255, 0, 0)),
        ("plain.bmp", PIL.Image.new("RGB", (5, 4), (1, 2, 3)), (1, 2, 3)),
    ],
)
def test_every_kind_of_picture_becomes_rgb(image, tmp_path, name, picture, pixel):
    picture.save(tmp_path / name)
    read = image.read(tmp_path / name)
    assert read.dtype == torch.uint8
    assert torch.equal(
        read, torch.tensor(pixel, dtype=torch.uint8)[:, None, None].expand(3, 4, 5)
    )


def test_lossless_webp_and_the_first_frame(image, tmp_path):
    frames = [image.preview(noise(seed=seed)) for seed in (0, 1)]
    frames[0].save(
        tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True
    )
    assert torch.equal(image.read(tmp_path / "a.webp"), noise())


def test_pictures_are_turned_upright(image, tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rows are columns, from the right
    image.preview(noise()).save(tmp_path / "a.png", exif=exif)
    assert torch.equal(image.read(tmp_path / "a.png"), noise().rot90(-1, (1, 2)))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_pictures_read_by_tiles_are_whole(image, tmp_path, monkeypatch, mode):
    values = np.random.default_rng(0).integers(256, size=(23, 17, 4), dtype=np.uint8)
    kinds = {
        "I;16": lambda: PIL.Image.fromarray(values[..., 0].astype(np.uint16) * 257)
    }
    picture = kinds.get(mode, lambda: PIL.Image.fromarray(values).convert(mode))()
    options = {"transparency": bytes(range(256))} if mode == "P" else {}
    picture.save(tmp_path / "a.png", **options)
    whole = image.read(tmp_path / "a.png")
    monkeypatch.setattr("flowbind_image.picture.TILE", 5)
    assert torch.equal(image.read(tmp_path / "a.png"), whole)
    assert len(whole.unique()) > 1


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_truncated_files_are_refused(image, tmp_path, kind, options):
    content = encoded(image, kind, **options)
    for kept in {
        0,
        1,
        9,
        30,
        *range(40, len(content) - 4, 97),
        len(content) - 20,
        len(content) - 5,
    }:
        refused(image, tmp_path / "cut.png", content[:kept])


def test_a_wrong_bit_in_a_png_is_found(image, tmp_path):
    content = encoded(image, "PNG")
    for place in range(0, len(content), 53):
        refused(
            image,
            tmp_path / "bit.png",
            content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :],
        )


def test_other_formats_are_refused(image, tmp_path):
    refused(
        image,
        tmp_path / "a.png",
        encoded(image, "EPS"),
        says="PNG, JPEG, WebP, AVIF, GIF",
    )
    refused(
        image, tmp_path / "b.png", b"a red torus", says="PNG, JPEG, WebP, AVIF, GIF"
    )


@pytest.mark.parametrize("limit", [100, 20 * 24 - 1])
def test_a_huge_picture_is_refused_in_that_line_alone(
    image, tmp_path, monkeypatch, recwarn, limit
):
    """Between its limit and twice that, Pillow warns and goes on."""
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", limit)
    warnings.simplefilter("always")
    picture = encoded(image, "PNG")
    refused(image, tmp_path / "a.png", picture, says=f"more than {limit} pixels")
    assert not recwarn.list


@pytest.mark.parametrize(
    ("kind", "mode", "pixel"),
    [("PNG", "RGBA", 7), ("JPEG", "CMYK", 12), ("JPEG", "L", 6), ("WEBP", "RGB", 16)],
)
def test_a_picture_that_takes_too_much_memory_is_refused(
    image, tmp_path, monkeypatch, kind, mode, pixel
):
    buffer = io.BytesIO()
    PIL.Image.new(mode, (9, 7)).save(buffer, kind)
    monkeypatch.setattr("flowbind_image.memory.MEMORY", 9 * 7 * pixel)
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    assert image.read(tmp_path / "a.png").shape == (3, 7, 9)
    monkeypatch.setattr("flowbind_image.memory.MEMORY", 9 * 7 * pixel - 1)
    monkeypatch.setattr(PIL.Image.Image, "load", None)  # before it is decoded
    refused(
        image,
        tmp_path / "a.png",
        buffer.getvalue(),
        says=f"9 x 7 pixels of a {kind} take",
    )


def test_a_missing_file_says_so(image, tmp_path):
    with pytest.raises(FileNotFoundError):
        image.read(tmp_path / "none.png")


def encoded(image: Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.preview(noise()).save(buffer, kind, **options)
    return buffer.getvalue()


def refused(image: Image, file, content: bytes, says: str = "") -> None:
    file.write_bytes(content)
    with pytest.raises(ValueError, match=file.name) as error:
        image.read(file)
    assert "\n" not in str(error.value)
    assert says in str(error.value)


# Opponent colours


def test_opponent_colours_and_back():
    pictures = torch.stack([noise(), noise(seed=1)])
    assert torch.equal(rgb(opponent(pictures)), pictures)


def test_opponent_axes_are_orthogonal_and_grey_has_no_chroma():
    from flowbind_image.colour import AXES, CHROMA

    assert torch.allclose(
        AXES @ AXES.T, torch.diag(torch.tensor([1, CHROMA**2, CHROMA**2])), atol=1e-6
    )
    grey = torch.arange(256, dtype=torch.uint8)[None, None, None].expand(1, 3, 1, 256)
    assert torch.allclose(opponent(grey)[:, 1:], torch.zeros(()), atol=1e-5)
    assert torch.allclose(
        opponent(grey)[:, 0], 3**0.5 * (grey[:, 0] / 127.5 - 1), atol=1e-5
    )


# The codec


@pytest.fixture(scope="module")
def codec() -> SmallImage:
    return SmallImage()


def test_shapes_and_ranges(codec):
    raws = [noise(64, 64), noise(10, 200), noise(1, 1), noise(300, 50)]
    latents = codec.encode(raws)
    assert latents.shape == (4, *codec.shape)
    assert latents.dtype == codec.dtype
    assert latents.isfinite().all()
    decoded = codec.decode(1e3 * latents)
    assert [(raw.shape, raw.dtype) for raw in decoded] == [
        ((3, 64, 64), torch.uint8)
    ] * 4


def test_one_alone_equals_one_among_many(codec):
    raws = discs(11)
    latents = codec.encode(raws)
    assert torch.equal(codec.encode(raws), latents)
    assert torch.allclose(codec.encode(raws[9:10]), latents[9:10], atol=1e-4)
    assert (
        codec.decode(latents[9:10])[0].int() - codec.decode(latents)[9].int()
    ).abs().max() <= 1


def test_what_fits_is_not_touched_and_the_rest_is_averaged(codec):
    raw = noise(64, 64)
    assert torch.equal(codec.prepare([raw])[0], raw)
    # Antialiasing averages, so what was blown up comes back.
    fine = raw.repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert (codec.prepare([fine])[0].int() - raw.int()).abs().float().mean() < 30
    checks = (
        (torch.arange(256)[:, None] + torch.arange(256))
        .remainder(2)
        .mul(255)
        .byte()
        .expand(3, -1, -1)
    )
    assert (
        (codec.prepare([checks])[0].int() - 127).abs() <= 2
    ).all()  # skipping pixels would give stripes


def test_fingerprint(codec, tmp_path):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(codec.file.read_bytes())
    assert (
        SmallImage(weights=str(copy)).fingerprint()["weights"]
        == codec.fingerprint()["weights"]
    )
    copy.write_bytes(codec.file.read_bytes() + b" ")
    assert (
        SmallImage(weights=str(copy)).fingerprint()["weights"]
        != codec.fingerprint()["weights"]
    )
    assert codec.fingerprint()["codec"] == "SmallImage"


def test_shipped_weights_are_small(codec):
    assert codec.file.stat().st_size <= 4e6


def test_shipped_codec_keeps_shape_colour_and_size(codec):
    from flowbind_shapes.image import render
    from flowbind_shapes.scene import SHAPES, draw
    from flowbind_shapes.solids import SOLIDS

    generator = np.random.default_rng(5)
    scenes = draw(64, generator)
    raws = [
        render(SOLIDS[SHAPES[k]], scenes.take(np.array([i])), generator)[0]
        for i, k in enumerate(scenes.shape)
    ]
    raws = [torch.from_numpy(raw).permute(2, 0, 1) for raw in raws]
    latents = codec.encode(raws)
    decoded = codec.decode(latents)
    true, made = (torch.stack(pictures).float() for pictures in (raws, decoded))
    assert (true - made).abs().mean() < 7  # of 255
    # The ground is grey: the solid alone.
    chroma = (
        opponent(true)[:, 1:].flatten(1),
        opponent(made)[:, 1:].flatten(1),
    )
    assert torch.equal(torch.cdist(*chroma).argmin(1), torch.arange(64))
    assert torch.equal(
        torch.cdist(codec.encode(decoded), latents).argmin(1), torch.arange(64)
    )


# Training


@pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning", "ignore:.*__len__.*:UserWarning"
)  # Lightning's own
@pytest.mark.parametrize("labelled", [True, False])
def test_training_lowers_the_loss_and_exports(image, tmp_path, labelled):
    from lightning.pytorch import Trainer, seed_everything

    from flowbind.data.manifest import write_manifest
    from flowbind.data.raw import RawBatch, RawDataModule

    seed_everything(0)
    raws, weights = discs(8), tmp_path / "trained.safetensors"
    for number, raw in enumerate(raws):
        image.write(raw, tmp_path / f"{number}.png")
    ground = ["light" if raw[0, 0, 0] > 140 else "dark" for raw in raws]
    samples = [
        {"image": f"{k}.png"} | ({"labels": {"ground": ground[k]}} if labelled else {})
        for k in range(8)
    ]
    write_manifest(tmp_path / "discs.jsonl", samples)
    manifest = str(tmp_path / "discs.jsonl")
    codec = SmallImage(weights=str(weights))
    data = RawDataModule(Image(codec), train=manifest, val=manifest, batch_size=8)
    training = ImageCodecTraining(
        codec, str(weights), learning_rate=2e-3, semantic=0.02 * labelled
    )
    seen = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    seen |= {
        "val_check_interval": 15,
        "check_val_every_n_epoch": None,
        "num_sanity_val_steps": 0,
    }
    trainer = Trainer(max_steps=15, accelerator="cpu", **seen)
    fresh = ImageCodecTraining(codec, str(weights))
    fresh.configure_model()
    before = (
        fresh.errors(RawBatch.of([codec.prepare(raws)]), 0.0)["reconstruction"]
        .mean()
        .item()
    )
    trainer.fit(training, datamodule=data)
    after = trainer.callback_metrics
    assert after["val/reconstruction"] < before / 2
    assert ("val/ground" in after) == labelled
    made = torch.stack(codec.decode(codec.encode(raws)))
    again = rgb(training.net.decode(training.net.encode(codec.prepare(raws))))
    assert (made.int() - again.int()).abs().max() <= 3  # float16
