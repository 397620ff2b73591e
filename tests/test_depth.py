"""Depth: the embedded world's maps are those of its pictures; files, codec, colours and errors."""

import io
import json
import math
import random
import struct
import zlib

import numpy as np
import PIL.Image
import pytest
import torch
from flowbind_depth import Depth
from flowbind_depth.colour import GREY
from flowbind_depth.depth_errors import NEAREST, DepthErrors
from flowbind_depth.files import HIGHEST, MOST
from flowbind_depth.pixels import DepthPixels
from flowbind_shapes import dataset, depth, image, prepare
from flowbind_shapes.scene import COLOURS, SHAPES, SIZES, Scenes
from flowbind_shapes.solid_depth import SolidDepth, on_solid
from flowbind_shapes.solids import RADIUS, SOLIDS, SPHERE_RADIUS
from flowbind_shapes.view import CAMERA, CENTRE, FRAME, TOUCH, draw_view

from flowbind.cli.check import load_yaml
from flowbind.data.manifest import Manifest
from flowbind.metrics.relative import relative_errors
from flowbind.registry import load
from flowbind.testing import check_modality
from tests.hostile import cuts, flips, places

COUNT = len(COLOURS) * len(SIZES)
each_shape = pytest.mark.parametrize("shape", SHAPES)


def scenes_of(shape, turn=0):
    """Every colour in every size, for one shape; colours are turned by so many."""
    colour, size = np.divmod(np.arange(COUNT), len(SIZES))
    number = np.full(COUNT, SHAPES.index(shape))
    return Scenes(shape=number, colour=(colour + turn) % len(COLOURS), size=size)


def maps_of(shape, seed=0):
    return depth.render(SOLIDS[shape], scenes_of(shape), np.random.default_rng(seed))


def grown(mask):
    """Whether a pixel or one of the eight around it is in a mask, with shape (n, H, W)."""
    padded = torch.nn.functional.max_pool2d(
        torch.from_numpy(mask)[:, None].float(), 3, 1, 1
    )
    return padded[:, 0].numpy() > 0


# The embedded world


@each_shape
def test_the_solid_of_a_map_is_the_solid_of_its_picture(shape):
    """Where a picture changes with the solid's colour, it shows the solid."""
    pictures = [
        image.render(
            SOLIDS[shape], scenes_of(shape, turn), np.random.default_rng(0)
        ).astype(int)
        for turn in (0, 3)
    ]
    shows = (pictures[0] != pictures[1]).any(-1)
    solid = on_solid(torch.from_numpy(maps_of(shape))).numpy()
    assert solid.mean() > 0.1
    assert not (solid & ~shows).any()
    # At the outline, a pixel shows the solid where one of its four rays meets it. A torus may be
    # seen through a slit that is thinner than a pixel.
    outline = grown(~shows) & shows
    elsewhere = shows & ~solid & ~outline
    assert elsewhere.sum() < (10 if shape == "torus" else 1)
    assert (shows & ~solid).sum() < 0.5 * outline.sum()


@each_shape
def test_a_map_leads_back_to_the_surface_or_the_floor(shape):
    scenes = scenes_of(shape)
    maps = maps_of(shape)
    view = draw_view(scenes, np.random.default_rng(0))
    rays = view.rays(CENTRE).astype(float)
    forward = -view.camera[:, None, 2].astype(float)
    length = maps.reshape(COUNT, -1) / (rays * forward).sum(-1) / view.radius[:, None]
    place = view.eye[:, None] + length[..., None] * rays

    solid = on_solid(torch.from_numpy(maps)).numpy().reshape(COUNT, -1)
    distance = SOLIDS[shape].distance(*np.moveaxis(place, -1, 0))
    assert np.abs(distance[solid]).max() < 1.01 * TOUCH
    height = place[..., 2] - SOLIDS[shape].bottom
    near_bottom = np.abs(height[~solid])
    assert near_bottom.max() < 0.02
    assert np.median(near_bottom) < 1e-5


def test_a_sphere_on_a_floor_in_closed_form():
    """One ray after the other, in float64, from the numbers that the generator draws."""
    scenes = scenes_of("sphere")
    maps = maps_of("sphere", seed=7)
    generator = np.random.default_rng(7)
    azimuths = generator.uniform(0, 2 * math.pi, COUNT)
    elevations = np.radians(generator.uniform(25, 55, COUNT))
    for low, high in ((-110, 110), (35, 70), (0.75, 1.05), (0.30, 0.45)):
        generator.uniform(low, high, COUNT)
    shifts = generator.uniform(-0.06, 0.06, (COUNT, 2))

    errors = []
    for k in range(COUNT):
        a, e = azimuths[k], elevations[k]
        eye = CAMERA * np.array(
            [math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)]
        )
        right = np.array([-math.sin(a), math.cos(a), 0])
        up = np.cross(eye / CAMERA, right)
        radius = SPHERE_RADIUS * RADIUS[scenes.size[k]]
        for row in range(0, 64, 5):
            for column in range(0, 64, 5):
                x = FRAME * ((column + 0.5) / 32 - 1 + shifts[k, 0])
                y = FRAME * (1 - (row + 0.5) / 32 + shifts[k, 1])
                ray = x * right + y * up - eye / CAMERA  # of depth 1
                b, c = eye @ ray, eye @ eye - radius**2
                square = b**2 - (ray @ ray) * c
                if abs(square) < 0.1 * b**2 * radius**2 / CAMERA**2:
                    continue  # grazes
                expected = (-radius - eye[2]) / ray[2]
                if square > 0:
                    expected = (-b - math.sqrt(square)) / (ray @ ray)
                errors.append(maps[k, row, column] - expected)
    assert len(errors) > 3500
    assert np.abs(errors).max() < 0.02
    assert np.median(np.abs(errors)) < 1e-5
    assert np.mean(np.abs(errors)) < 1e-3


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("scenes")
    prepare(out, samples=12, test_samples=8, modalities="text+image+depth")
    return Manifest.read(out / "test.jsonl", ["text", "image", "depth"])


@pytest.fixture(scope="module")
def maps(world):
    return [world.read_raw(sample, "depth", Depth()) for sample in world.samples]


@pytest.mark.parametrize("names", ["image+depth", "text+image+audio+points+depth"])
def test_a_sample_s_map_and_picture_begin_with_the_same_draws(
    tmp_path, monkeypatch, names
):
    draws = {"image": {}, "depth": {}}

    def render(kind, blank):
        def noted(shape, scenes, generator):
            state = generator.bit_generator.state["state"]["state"]
            draws[kind][shape, *scenes.colour, *scenes.size, state] = len(scenes)
            return np.stack(len(scenes) * [blank])

        return noted

    blanks = {"image": np.zeros((64, 64, 3), np.uint8), "depth": np.ones((64, 64))}
    for kind, blank in blanks.items():
        monkeypatch.setitem(dataset.MAKE, kind, render(kind, blank))
    prepare(tmp_path, samples=24, test_samples=12, modalities=names)
    assert draws["image"] == draws["depth"]
    assert sum(draws["depth"].values()) == 48


def test_files_are_millimetres_in_16_bits(world, maps):
    for sample, metres in zip(world.samples, maps, strict=True):
        with PIL.Image.open(world.path.parent / sample.values["depth"]) as file:
            assert (file.format, file.mode, file.size) == ("PNG", "I;16", (64, 64))
            numbers = np.asarray(file)
        np.testing.assert_allclose(metres, numbers / 1000, rtol=1e-6)
        assert metres.min() > 3
        assert metres.max() < 16


def test_the_solid_is_found_in_rounded_maps(maps):
    solid = on_solid(torch.stack(maps))
    assert solid.any(dim=(1, 2)).all()
    assert not solid[:, [0, -1]].any()
    assert not solid[:, :, [0, -1]].any()


# Files


def png(numbers):
    file = io.BytesIO()
    PIL.Image.fromarray(np.asarray(numbers, np.uint16)).save(file, format="PNG")
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


NUMBERS = np.array([[0, 256, 512], [1000, 2000, HIGHEST]])
METRES = np.array([[0, 0.25, 0.5], [1, 2, 64]])


@pytest.mark.parametrize(("scale", "metre"), [(1000, 1000), (256, 256), (5000.0, 5000)])
def test_a_png_is_read_by_its_scale(tmp_path, scale, metre):
    (tmp_path / "a.png").write_bytes(png(NUMBERS))
    raw = Depth(scale=scale).read(tmp_path / "a.png")
    assert raw.dtype == torch.float32
    torch.testing.assert_close(raw, torch.tensor(NUMBERS / metre).float())


@pytest.mark.parametrize(
    "array",
    [
        METRES,
        METRES.astype(np.float32),
        METRES.astype(np.float16),
        METRES.astype(">f8"),
        np.asfortranarray(METRES),
        METRES[None],
        METRES[..., None],
        np.where(METRES > 0, METRES, np.nan),
        np.where(METRES > 0, METRES, np.inf),
        np.where(METRES > 0, METRES, -np.inf),
    ],
)
def test_an_array_is_metres_and_what_is_not_finite_is_none(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    assert torch.equal(Depth().read(tmp_path / "a.npy"), torch.tensor(METRES).float())


def picture(mode, value=7):
    file = io.BytesIO()
    PIL.Image.new(mode, (4, 3), value).save(file, format="PNG")
    return file.getvalue()


def promised(width, height):
    """A PNG of 16 bits whose header promises so many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, body in (
        (b"IHDR", header),
        (b"IDAT", zlib.compress(b"\0" * 20)),
        (b"IEND", b""),
    ):
        content += struct.pack(">I", len(body)) + kind + body
        content += struct.pack(">I", zlib.crc32(kind + body))
    return content


REFUSED = {
    "8 bits": (picture("L"), "a PNG of the mode L, a picture; allowed: grey of 16"),
    "RGB": (picture("RGB", (1, 2, 3)), "a PNG of the mode RGB, a picture"),
    "a palette": (picture("P"), "a PNG of the mode P, a picture"),
    "one bit": (picture("1", 1), "a PNG of the mode 1, a picture"),
    "no depth": (png(np.zeros((3, 4))), "has no depth at all"),
    "an array without depth": (npy(np.zeros((3, 4))), "has no depth at all"),
    "nothing finite": (npy(np.full((3, 4), np.nan)), "has no depth at all"),
    "below 0": (npy(METRES - 1), "has a depth of -1; allowed: depths in metres"),
    "one axis": (npy(METRES[0]), "is not one depth map; allowed"),
    "three maps": (npy(np.stack(3 * [METRES])), "is not one depth map; allowed"),
    "a number": (npy(np.float64(3)), "is not one depth map; allowed"),
    "nothing": (npy(np.zeros((0, 3))), "is empty; allowed"),
    "whole numbers": (npy(NUMBERS), "an array of int64, whose unit nothing tells"),
    "words": (npy(np.array(["a", "b"])), "an array of <U1, whose unit nothing tells"),
    "objects": (
        npy(np.array([{}, 1], dtype=object)),
        "an array of object, whose unit nothing tells",
    ),
    "cut": (npy(METRES)[:-1], "truncated: 47 of 48 bytes are there"),
    "beyond float32": (npy(METRES * 1e300), "has no depth at all, or one of inf"),
    "another format": (b"P5 1 1 65535\n\0\1", "neither PNG nor .npy; allowed"),
    "empty": (b"", "neither PNG nor .npy; allowed"),
    "promises": (promised(2**16, 2**16), "damaged PNG|a map of"),
    "promises less": (
        promised(2**13, 2**13),
        f"a map of {2**26} pixels, allowed are {MOST}",
    ),
    "too few pixels": (promised(100, 100), "a damaged PNG"),
    "promised numbers": (
        npy(METRES).replace(b"(2, 3), }", b"(%d, 3), }" % 10**13),
        "truncated: 61 of",
    ),
    "a program": (npy(METRES).replace(b"(2, 3)", b"exit()"), "a damaged array"),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("suffix", Depth.suffixes)
def test_what_is_no_map_is_one_line_that_names_the_file(tmp_path, what, suffix):
    content, line = REFUSED[what]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^[^\n]*a\{suffix}: [^\n]*({line})[^\n]*$"):
        Depth().read(path)


def test_damaged_files_are_refused_or_read_as_maps(tmp_path):
    draw = random.Random(0)
    path = tmp_path / "a.png"
    refused = 0
    for whole in (png(NUMBERS), npy(METRES)):
        for _, content in [*cuts(whole, draw, 20), *flips(whole, draw, 60)]:
            path.write_bytes(content)
            line = ""
            try:
                raw = Depth().read(path)
            except ValueError as error:
                line = str(error)
            if line:
                assert "a.png: " in line
                assert "\n" not in line
                refused += 1
            else:
                assert raw.ndim == 2
                assert (raw >= 0).all()
    assert refused > 90


@pytest.mark.parametrize("suffix", Depth.suffixes)
def test_what_is_no_file_is_refused(tmp_path, suffix):
    for _, path in places(tmp_path, suffix):
        with pytest.raises((ValueError, OSError)):
            Depth().read(path)


def test_what_a_png_cannot_hold_is_said_and_small_depths_stay(tmp_path, capsys):
    path = tmp_path / "a.png"
    raw = torch.tensor([[0, 1e-5, 65.535], [65.5351, 65.54, 1e9]])
    Depth().write(raw, path)
    line = capsys.readouterr().err
    assert line.endswith(
        "a.png: 2 depths beyond 65.535 m are written as that; a scale below 1000 reaches "
        "farther\n"
    )
    again = Depth().read(path)
    expected = torch.tensor([[0, 1e-3, 65.535], [65.535, 65.535, 65.535]])
    torch.testing.assert_close(again, expected)
    Depth(scale=256).write(raw.clamp(max=200), path)
    assert not capsys.readouterr().err
    torch.testing.assert_close(
        Depth(scale=256).read(path), raw.clamp(max=200), rtol=0, atol=1 / 256
    )


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        (torch.ones(3, 4, dtype=torch.int32), "does not tell its unit"),
        (np.ones((3, 4), np.uint16), "does not tell its unit"),
        (torch.ones(3, 4, 5), "is not one depth map"),
        (torch.ones(4), "is not one depth map"),
        (torch.ones(2, 1, 3, 4), "is not one depth map"),
        (torch.zeros(3, 4), "has no depth at all"),
        (torch.tensor([[1.0, -0.5]]), "has a depth of -0.5"),
        (torch.tensor([[1.0, math.nan]]), "missing or not finite; .* 0 where there is"),
        (PIL.Image.new("RGB", (3, 4)), "is not one depth map"),
    ],
)
def test_what_is_no_map_is_not_accepted(raw, line):
    with pytest.raises(ValueError, match=rf"^[^\n]*{line}[^\n]*$"):
        Depth().accept(raw)


@pytest.mark.parametrize("shape", [(3, 4), (1, 3, 4), (3, 4, 1)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_map_is_accepted_in_each_of_its_shapes(shape, dtype):
    raw = torch.arange(12, dtype=dtype).reshape(shape)
    expected = torch.arange(12.0).reshape(3, 4)
    for container in (raw, raw.numpy(), raw.tolist()):
        accepted = Depth().accept(container)
        assert accepted.dtype == torch.float32
        assert torch.equal(accepted, expected)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"scale": 0}, "scale is 0"),
        ({"scale": -1.0}, "scale is -1"),
        ({"scale": math.nan}, "scale is nan"),
        ({"near": 3.0, "far": 2.0}, "near is 3.0 and far 2.0"),
    ],
)
def test_impossible_arguments_are_refused(arguments, line):
    with pytest.raises(ValueError, match=line):
        Depth(**arguments)


# Colours


def test_near_is_bright_and_far_is_dark_and_none_is_grey():
    raw = torch.tensor([[1.0, 2, 4, 8, 0]])
    colours = np.asarray(Depth().preview(raw)).astype(int)
    assert colours.shape == (1, 5, 3)
    brightness = colours[0, :4].sum(-1)
    assert (np.diff(brightness) < 0).all()
    assert brightness[0] > 550
    assert brightness[3] < 30
    assert (colours[0, 1] == colours[0, 1]).all()
    red, _, blue = colours[0, 1]
    assert red > blue
    assert tuple(colours[0, 4]) == GREY


def test_a_fixed_range_makes_maps_compare():
    first = Depth(near=1.0, far=8.0).preview(torch.tensor([[2.0, 4.0]]))
    second = Depth(near=1.0, far=8.0).preview(torch.tensor([[2.0, 3.0]]))
    assert first.getpixel((0, 0)) == second.getpixel((0, 0))
    alike = Depth().preview(torch.full((2, 2), 3.0))
    assert len(np.unique(np.asarray(alike).reshape(-1, 3), axis=0)) == 1


# Codec


def test_latents_are_scaled_logarithms():
    codec = DepthPixels(size=2, near=1, far=100)
    raw = torch.tensor([[1.0, 10], [100, 31.6228]])
    expected = torch.tensor([[[-1.0, 0], [1, 0.5]]])
    latents = codec.encode([raw])
    assert latents.dtype == codec.dtype
    torch.testing.assert_close(latents[0].float(), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(codec.decode(latents)[0], raw, rtol=1e-3, atol=0)


def test_rounding_loses_less_than_is_said():
    codec = DepthPixels()
    raw = torch.logspace(math.log10(0.5), math.log10(80), 64**2).reshape(64, 64)
    (again,) = codec.decode(codec.encode([raw]))
    assert ((again - raw).abs() / raw).max() < 0.0007


def test_an_area_is_the_mean_of_the_logarithms_that_are_there():
    codec = DepthPixels(size=1, near=1, far=256)
    raw = torch.tensor([[4.0, 16, 0], [0, 0, 64]])
    (again,) = codec.decode(codec.encode([raw]))
    torch.testing.assert_close(again, torch.tensor([[16.0]]), rtol=1e-3, atol=0)


def test_holes_are_filled_from_around_them():
    raw = torch.zeros(5, 5)
    raw[0, 0], raw[4, 4] = 2, 8
    (again,) = DepthPixels(5, 1, 64).decode(DepthPixels(5, 1, 64).encode([raw]))
    torch.testing.assert_close(
        again[:2, :2], torch.full((2, 2), 2.0), rtol=1e-3, atol=0
    )
    torch.testing.assert_close(again[4, 4], torch.tensor(8.0), rtol=1e-3, atol=0)
    assert (again >= 1.99).all()
    assert (again <= 8.01).all()


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (64, 64), (375, 1242)])
@pytest.mark.parametrize("share", [0.02, 1.0])
def test_maps_of_any_size_have_latents_without_holes(shape, share):
    generator = torch.Generator().manual_seed(0)
    raw = 1 + 9 * torch.rand(shape, generator=generator)
    raw *= torch.rand(shape, generator=generator) <= share
    raw[0, 0] = 3
    codec = DepthPixels()
    latents = codec.encode([raw, raw])
    assert latents.shape == (2, 1, 64, 64)
    (again, _) = codec.decode(latents)
    present = raw[raw > 0]
    assert again.min() >= 0.999 * present.min()
    assert again.max() <= 1.001 * present.max()


def test_what_is_beyond_the_range_is_cut_and_said():
    codec = DepthPixels(size=2, near=1, far=80)
    assert codec.caveat(torch.tensor([[0.0, 80], [1, 2]])) == ""
    raw = torch.tensor([[0.5, 120], [0, 2]])
    assert codec.caveat(raw).startswith(
        "its depths are 0.5 to 120 m, and are cut to 1 to 80 m; "
    )
    (again,) = codec.decode(codec.encode([raw]))
    torch.testing.assert_close(again[0], torch.tensor([1.0, 80]))
    (again,) = codec.decode(torch.tensor([[[[-3.0, 3], [-1, 1]]]]))
    torch.testing.assert_close(again, torch.tensor([[1.0, 80], [1, 80]]))


@pytest.mark.parametrize(
    "arguments",
    [{"size": 0}, {"near": 0.0}, {"near": 80.0}, {"far": math.inf}, {"near": -1.0}],
)
def test_impossible_codecs_are_refused(arguments):
    with pytest.raises(ValueError, match=r"size must be at least 1|allowed: 0 < near"):
        DepthPixels(**arguments)


@pytest.mark.parametrize("scale", [1000, 256.0])
def test_the_laws_hold_with_other_arguments(maps, tmp_path, scale):
    codec = DepthPixels(size=16, near=3.0, far=16.0)
    modality = Depth(codec, scale=scale, near=3.0, far=16.0)
    check_modality(modality, maps, tmp_path)


# Errors


def slow_errors(made, reference, counts):
    """Sample by sample and place by place, in float64."""
    rows = []
    for d, truth, mask in zip(made, reference, counts, strict=True):
        pairs = [
            (float(a), float(b))
            for a, b, there in zip(
                d.flatten(), truth.flatten(), mask.flatten(), strict=True
            )
            if there
        ]
        n = len(pairs)
        rows.append(
            (
                sum(abs(a - b) / b for a, b in pairs) / n,
                math.sqrt(sum((a - b) ** 2 for a, b in pairs) / n),
                sum(a > 0 and max(a / b, b / a) < 1.25 for a, b in pairs) / n,
            )
        )
    return tuple(sum(column) / len(rows) for column in zip(*rows, strict=True))


def test_errors_in_closed_form():
    reference = torch.tensor([[2.0, 4, 0], [10, 10, 10]])
    made = torch.tensor([[3.0, 4, 9], [12, 8, 13]])
    errors = relative_errors(made, reference, reference > 0)
    assert errors.abs_rel == pytest.approx((0.25 + 0.7 / 3) / 2)
    assert errors.rmse == pytest.approx((math.sqrt(0.5) + math.sqrt(17 / 3)) / 2)
    # 12 / 10 is within 1.25, 10 / 8 is not.
    assert errors.delta == pytest.approx((1 / 2 + 1 / 3) / 2)
    exact = relative_errors(reference, reference, reference > 0)
    assert exact == (0, 0, 1)


def test_errors_are_those_of_a_slow_derivation():
    generator = torch.Generator().manual_seed(0)
    reference = 0.5 + 9 * torch.rand(5, 8, 6, generator=generator)
    made = reference * torch.exp(0.3 * torch.randn(5, 8, 6, generator=generator))
    made[0, 0, 0] = 0
    reference[torch.rand(5, 8, 6, generator=generator) < 0.4] = 0
    counts = reference > 0
    expected = slow_errors(made, reference, counts)
    assert relative_errors(made, reference, counts) == pytest.approx(
        expected, abs=1e-12
    )

    metric = DepthErrors(height=8, width=6)
    values = metric.compute(
        metric.features("depth", list(made)), metric.features("depth", list(reference))
    )
    assert list(values) == [
        "abs-rel[per-map,8x6]",
        "rmse[metres,per-map,8x6]",
        "delta-1.25[per-map,8x6]",
    ]
    made[0, 0, 0] = NEAREST
    expected = slow_errors(made, reference, counts)
    assert tuple(values.values()) == pytest.approx(expected, abs=1e-12)


def test_depths_that_are_too_far_do_not_count():
    metric = DepthErrors(height=1, width=3, farthest=10)
    reference = torch.tensor([[[5.0, 10, 11]]])
    made = torch.tensor([[[5.0, 20, 99]]])
    values = metric.compute(made, reference)
    assert values["abs-rel[per-map,1x3,to=10m]"] == 0  # 20 is cut to 10
    values = DepthErrors(height=1, width=3).compute(made, reference)
    assert values["abs-rel[per-map,1x3]"] == pytest.approx((1 + 8) / 3)
    with pytest.raises(ValueError, match=r"1 of 2 references have no depth up to 10 m"):
        metric.compute(
            torch.ones(2, 1, 3), torch.tensor([[[1.0, 1, 1]], [[0.0, 11, 0]]])
        )
    with pytest.raises(ValueError, match="farthest is 0"):
        DepthErrors(farthest=0)
    with pytest.raises(ValueError, match="a map of 0 x 64"):
        DepthErrors(height=0)


def test_maps_of_other_sizes_are_sampled_without_making_up_depths():
    raw = torch.arange(1.0, 7).reshape(2, 3)
    metric = DepthErrors(height=4, width=6)
    (features,) = metric.features("depth", [raw])
    assert torch.equal(features, raw.repeat_interleave(2, 0).repeat_interleave(2, 1))
    sparse = torch.zeros(100, 80)
    sparse[::7] = 3
    (features,) = DepthErrors().features("depth", [sparse])
    assert set(features.unique().tolist()) == {0, 3}


def test_solid_depth_sees_the_solid_alone(maps):
    metric = load("metrics", "solid-depth")()
    assert isinstance(metric, SolidDepth)
    reference = metric.features("depth", maps)
    solid = on_solid(reference)

    noise = torch.rand(reference.shape, generator=torch.Generator().manual_seed(0))
    elsewhere = torch.where(solid, reference, 10 * noise)
    assert tuple(metric.compute(elsewhere, reference).values()) == (0, 0, 1)
    for factor, delta in ((1.1, 1), (1.3, 0)):
        made = torch.where(solid, factor * reference, reference)
        values = metric.compute(made, reference)
        assert values["abs-rel[solid]"] == pytest.approx(factor - 1, abs=1e-6)
        assert values["delta-1.25[solid]"] == delta
    made = reference * (1 + noise)
    expected = slow_errors(made, reference, solid)
    assert tuple(metric.compute(made, reference).values()) == pytest.approx(expected)


def test_solid_depth_refuses_other_maps():
    metric = SolidDepth()
    with pytest.raises(ValueError, match="a map of 3 x 4 pixels; the embedded world's"):
        metric.features("depth", [torch.ones(3, 4)])
    with pytest.raises(ValueError, match="1 of 1 references show no solid"):
        metric.compute(torch.ones(1, 64, 64), torch.ones(1, 64, 64))


@pytest.mark.parametrize("name", ["depth-errors", "solid-depth"])
def test_metrics_say_what_decides_their_features(name):
    metric = load("metrics", name)()
    assert (metric.judges, metric.against) == ("depth", "depth")
    assert json.loads(json.dumps(metric.fingerprint())) == metric.fingerprint()


# Folders


def test_a_folder_of_pictures_and_maps_is_paired(tmp_path, command):
    source = tmp_path / "files"
    for split in ("train", "test"):
        for kind in ("image", "depth"):
            (source / split / kind).mkdir(parents=True)
        for number in range(2):
            name = f"{number}.png"
            (source / split / "image" / name).write_bytes(picture("RGB", (1, 2, 3)))
            (source / split / "depth" / name).write_bytes(png(NUMBERS))
    code, _, err = command(
        "prepare", "folder", "--source", source, "--out", tmp_path / "out"
    )
    assert code == 0, err
    manifest = Manifest.read(tmp_path / "out/train.jsonl", ["image", "depth"])
    assert [sorted(sample.values) for sample in manifest.samples] == 2 * [
        ["depth", "image"]
    ]
    raw = manifest.read_raw(manifest.samples[0], "depth", Depth())
    torch.testing.assert_close(raw, torch.tensor(NUMBERS / 1000).float())
    assert "no two of them have latents of one shape, so no recipe is written" in err
    assert not (tmp_path / "out/recipe.yaml").exists()


def test_a_recipe_ties_latents_of_one_shape(tmp_path, command):
    source = tmp_path / "files"
    (source / "depth").mkdir(parents=True)
    for number in range(20):
        (source / f"{number}.png").write_bytes(picture("RGB", (1, 2, 3)))
        (source / f"{number}.txt").write_text("a corner")
        (source / f"depth/{number}.png").write_bytes(png(NUMBERS))
    out = tmp_path / "out"
    code, _, err = command("prepare", "folder", "--source", source, "--out", out)
    assert code == 0, err
    assert (
        "depth: latents of the shape (1, 64, 64), where the recipe ties those of" in err
    )
    recipe = load_yaml((out / "recipe.yaml").read_text())
    assert [*recipe["model"]["init_args"]["modalities"]] == ["image", "text"]


def test_pictures_and_clouds_elsewhere_stay_what_they_were(tmp_path, command):
    source = tmp_path / "files"
    source.mkdir()
    (source / "a.png").write_bytes(picture("RGB", (1, 2, 3)))
    np.save(source / "a.npy", np.ones((5, 3), np.float32))
    code, _, err = command(
        *("prepare", "folder", "--source", source, "--out", tmp_path / "out"),
        *("--val", "0", "--test", "0"),
    )
    assert code == 0, err
    (line,) = (tmp_path / "out/train.jsonl").read_text().splitlines()
    assert set(json.loads(line)) == {"id", "image", "points"}
