"""Clouds of points as scanners, cameras and programs write them: what their numbers mean, and what becomes of the rest."""

import io
import struct

import numpy as np
import pytest
import torch
from flowbind_points import Points
from flowbind_points.autoencoder import PointAutoencoder
from flowbind_points.cloud import FAINTEST, MOST
from flowbind_points.pcd import unpack
from flowbind_points.small import SmallPoints
from flowbind_points.unit_sphere import thin, to_unit_sphere

from flowbind.arrays import describe

PLACE = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
RED = np.tile([255, 0, 51], (40, 1)).astype(np.uint8)


@pytest.fixture
def read(tmp_path):
    """Writes a file and reads it. Returns places and colours."""

    def write_and_read(name, content):
        (tmp_path / name).write_bytes(
            content.encode() if isinstance(content, str) else content
        )
        cloud = Points().read(tmp_path / name)
        assert cloud.dtype == torch.float32
        assert Points().accept(cloud) is not None
        assert torch.equal(Points().accept(cloud), cloud)
        return cloud[:, :3].numpy(), cloud[:, 3:].numpy()

    return write_and_read


def refused(read, name, content, match):
    with pytest.raises(ValueError, match=match) as error:
        read(name, content)
    assert "\n" not in str(error.value)
    assert name in str(error.value)


def lines(*columns, between=" "):
    """A text with a point a line."""
    rows = zip(
        *(row for column in columns for row in np.asarray(column).T.tolist()),
        strict=True,
    )
    return "\n".join(between.join(map(str, row)) for row in rows) + "\n"


def ply(columns, encoding="binary_little_endian", more="", tail=b"", head=b""):
    """A PLY file of columns of numpy's types."""
    names = {
        "f4": "float",
        "f8": "double",
        "u1": "uchar",
        "u2": "ushort",
        "i4": "int",
        "u4": "uint",
        "i8": "int64",
    }
    order = ">" if "big" in encoding else "<"
    table = np.empty(
        len(next(iter(columns.values()))),
        [(n, order + c.dtype.str[1:]) for n, c in columns.items()],
    )
    for name, column in columns.items():
        table[name] = column
    rows = (
        table.tobytes()
        if "binary" in encoding
        else lines(*(c[:, None] for c in columns.values())).encode()
    )
    properties = "".join(
        f"property {names[c.dtype.str[1:]]} {n}\n" for n, c in columns.items()
    )
    header = (
        f"ply\nformat {encoding} 1.0\n{more}element vertex {len(table)}\n{properties}"
    )
    return header.encode() + b"end_header\n" + head + rows + tail


def xyz(place=PLACE):
    return dict(zip("xyz", place.T, strict=True))


def rgb(colour=RED, names=("red", "green", "blue")):
    return dict(zip(names, colour.T, strict=True))


# The range tells what a number means


@pytest.mark.parametrize(
    ("colour", "meant"),
    [
        (RED, RED / 255),
        ((RED.astype(np.uint16) * 257), RED / 255),
        (RED.astype(np.float32), RED / 255),
        (RED.astype(np.float64) * 257, RED / 255),
        (RED.astype(np.int32), RED / 255),
        (RED.astype(np.uint32) * 257, RED / 255),
        ((RED / 255).astype(np.float32), RED / 255),
        ((RED / 255 * 1.003).astype(np.float32), np.clip(RED / 255 * 1.003, 0, 1)),
        (np.full((40, 3), 1, np.uint8), np.full((40, 3), 1 / 255)),
        (np.zeros((40, 3), np.float32), np.zeros((40, 3))),
    ],
    ids=lambda value: str(value.dtype),
)
@pytest.mark.parametrize(
    "encoding", ["ascii", "binary_little_endian", "binary_big_endian"]
)
def test_colours_of_every_range(read, colour, meant, encoding):
    place, read_colour = read("a.ply", ply(xyz() | rgb(colour), encoding))
    np.testing.assert_allclose(place, PLACE, rtol=1e-6)
    np.testing.assert_allclose(read_colour, meant, atol=1e-6)


@pytest.mark.parametrize("wrong", [-0.5, 1e6])
def test_colours_of_no_range_are_refused(read, wrong):
    refused(
        read,
        "a.ply",
        ply(xyz() | rgb(np.full((40, 3), wrong, np.float32))),
        "allowed are 0 to 1",
    )


@pytest.mark.parametrize(
    "names",
    [
        ("red", "green", "blue"),
        ("diffuse_red", "diffuse_green", "diffuse_blue"),
        ("r", "g", "b"),
    ],
)
def test_colours_by_their_names(read, names):
    columns = (
        {"intensity": PLACE[:, 0]} | rgb(names=names) | {"alpha": RED[:, 1]} | xyz()
    )
    np.testing.assert_allclose(read("a.ply", ply(columns))[1], RED / 255, atol=1e-6)


def test_what_is_no_colour_is_left_aside(read):
    columns = xyz() | {"intensity": PLACE[:, 0], "nx": PLACE[:, 0], "id": np.arange(40)}
    place, colour = read("a.ply", ply(columns))
    assert (colour == 0.5).all()
    np.testing.assert_allclose(place, PLACE, rtol=1e-6)


def test_splats_have_the_colour_that_is_drawn(read):
    drawn = np.linspace(-8, 8, 40).astype(np.float32)
    harmonics = {
        f"f_dc_{i}": np.full(40, value, np.float32)
        for i, value in enumerate((-1.0, 0.5, 9.0))
    }
    rest = dict.fromkeys(("f_rest_0", "scale_0", "rot_0", "nx"), PLACE[:, 0])
    place, colour = read("a.ply", ply(xyz() | harmonics | {"opacity": drawn} | rest))
    kept = 1 / (1 + np.exp(-drawn.astype(float))) > 1 / 255
    assert 0 < kept.sum() < 40
    assert (kept == (drawn > FAINTEST)).all()
    np.testing.assert_allclose(place, PLACE[kept], rtol=1e-6)
    np.testing.assert_allclose(
        colour[0], [0.5 - 0.2820948, 0.5 + 0.1410474, 1], atol=1e-6
    )


# PLY in all its forms


@pytest.mark.parametrize(
    "encoding", ["ascii", "binary_little_endian", "binary_big_endian"]
)
def test_vertices_need_not_come_first(read, encoding):
    order = ">" if "big" in encoding else "<"
    cameras = np.arange(6, dtype=order + "f4")
    head = b"0 1 2\n3 4 5\n" if encoding == "ascii" else cameras.tobytes()
    element = "element camera 2\n" + "".join(
        f"property float {name}\n" for name in "uvw"
    )
    place, colour = read("a.ply", ply(xyz() | rgb(), encoding, more=element, head=head))
    np.testing.assert_allclose(place, PLACE, rtol=1e-6)
    np.testing.assert_allclose(colour, RED / 255, atol=1e-6)


@pytest.mark.parametrize("lengths", [[2, 2, 2], [0, 3, 1]])
@pytest.mark.parametrize("text", [True, False])
def test_vertices_may_have_lists(read, text, lengths):
    header = "ply\nformat {} 1.0\nelement vertex 3\nproperty list uchar int seen\nproperty float x\nproperty double y\nproperty list uchar short w\nproperty float z\nend_header\n"
    rows = b""
    for number, length in enumerate(lengths):
        seen, w = list(range(length)), list(range(number))
        if text:
            words = [length, *seen, number, number + 0.5, len(w), *w, -number]
            rows += " ".join(map(str, words)).encode() + b"\n"
        else:
            rows += struct.pack(
                f"<B{length}ifdB{len(w)}hf",
                length,
                *seen,
                number,
                number + 0.5,
                len(w),
                *w,
                -number,
            )
    place, _ = read(
        "a.ply",
        header.format("ascii" if text else "binary_little_endian").encode() + rows,
    )
    np.testing.assert_allclose(place, [[0, 0.5, 0], [1, 1.5, -1], [2, 2.5, -2]])


def test_text_with_other_ends_of_lines(read):
    content = ply(xyz(), "ascii").replace(b"\n", b"\r\n")
    np.testing.assert_allclose(read("a.ply", content)[0], PLACE, rtol=1e-6)


# Tables


TEXTS = {
    "spaces": lines(PLACE),
    "tabs": lines(PLACE, between="\t"),
    "commas": lines(PLACE, between=", "),
    "semicolons": lines(PLACE, between=";"),
    "decimal commas": lines(PLACE).replace(".", ",").replace(" ", ";"),
    "a mark in front": "\ufeff" + lines(PLACE),
    "comments": "# x y z\n// made by hand\n\n" + lines(PLACE),
    "names": "x,y,z\n" + lines(PLACE, between=","),
    "a number of points": "40\n" + lines(PLACE),
    "other ends of lines": lines(PLACE).replace("\n", "\r\n"),
    "blank lines": lines(PLACE).replace("\n", "\n \n"),
    "no last end of line": lines(PLACE).rstrip(),
    "an intensity": lines(PLACE, PLACE[:, :1]),
    "normals": lines(PLACE, PLACE / np.linalg.norm(PLACE, axis=1, keepdims=True)),
    "normals not known": lines(PLACE, 0 * PLACE),
}


@pytest.mark.parametrize("content", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("suffix", ["xyz", "pts"])
def test_texts_of_places(read, content, suffix):
    place, colour = read(f"a.{suffix}", content)
    np.testing.assert_allclose(place, PLACE, rtol=1e-6)
    assert (colour == 0.5).all()


NORMALS = PLACE / np.linalg.norm(PLACE, axis=1, keepdims=True)
COLOURED = {
    "8 bits": ("a.xyz", lines(PLACE, RED)),
    "16 bits": ("a.xyz", lines(PLACE, RED.astype(int) * 257)),
    "shares": ("a.xyz", lines(PLACE, RED / 255)),
    "alpha": ("a.xyz", lines(PLACE, RED, RED[:, :1])),
    "shares by suffix": ("a.xyzrgb", lines(PLACE, RED / 255)),
    "after normals": ("a.xyz", lines(PLACE, NORMALS, RED)),
    "before normals": ("a.xyz", lines(PLACE, RED, NORMALS)),
    "after an intensity": ("a.xyz", lines(PLACE, np.full((40, 1), -700), RED)),
    "after an intensity, Leica": (
        "a.pts",
        "40\n" + lines(PLACE, np.full((40, 1), 9), RED),
    ),
    "by name": (
        "a.xyz",
        "//X Y Z Intensity B G R\n" + lines(PLACE, PLACE[:, :1], RED[:, ::-1]),
    ),
}


@pytest.mark.parametrize(("name", "content"), COLOURED.values(), ids=COLOURED)
def test_texts_of_coloured_points(read, name, content):
    place, colour = read(name, content)
    np.testing.assert_allclose(place, PLACE, rtol=1e-6)
    np.testing.assert_allclose(colour, RED / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.xyz", "", "no line begins with a number"),
        (
            "a.xyz",
            "3\nwater\nO 0 0 0\nH 0 0 1\nH 0 1 0\n",
            "no line begins with a number",
        ),
        ("a.xyz", "0 0 0\n1 1\n", "truncated or no table"),
        ("a.xyz", "0 0 0\n1 one 1\n", "something else where numbers"),
        ("a.xyz", "0 0\n1 1\n", "x, y, z"),
        ("a.xyz", b"0 0 0\n\x001 1 1\n", "no text"),
        ("a.pts", "41\n" + lines(PLACE), "truncated: 40 of 41"),
        ("a.xyz", lines(PLACE, -9 * np.abs(PLACE)), "colours from -"),
    ],
)
def test_texts_that_are_refused(read, name, content, match):
    refused(read, name, content, match)


def array(value, **options):
    file = io.BytesIO()
    np.save(file, value, **options)
    return file.getvalue()


ARRAYS = {
    "float32": PLACE,
    "float64": PLACE.astype(np.float64),
    "of the other byte order": PLACE.astype(">f4"),
    "by columns": np.asfortranarray(PLACE),
    "intensity": np.concatenate([PLACE, PLACE[:, :1]], axis=1),
    "a picture of places": PLACE.reshape(5, 8, 3),
    "fields": np.rec.fromarrays(PLACE.T, names="x,y,z"),
}


@pytest.mark.parametrize("value", ARRAYS.values(), ids=ARRAYS)
def test_arrays(read, value):
    place, colour = read("a.npy", array(value))
    np.testing.assert_allclose(place, PLACE, rtol=1e-6)
    assert (colour == 0.5).all()


@pytest.mark.parametrize(
    "names",
    [
        {"points": 0, "colors": 1},
        {"label": 2, "xyz": 0, "rgb": 1},
        {"arr_0": 0, "arr_1": 1},
    ],
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives(read, names, save):
    file = io.BytesIO()
    save(
        file,
        **{name: (PLACE, RED, np.arange(3))[which] for name, which in names.items()},
    )
    place, colour = read("a.npz", file.getvalue())
    np.testing.assert_allclose(place, PLACE, rtol=1e-6)
    np.testing.assert_allclose(colour, RED / 255, atol=1e-6)


def test_arrays_that_are_refused(read):
    coloured = np.concatenate([PLACE, RED / 255], axis=1)
    np.testing.assert_allclose(read("a.npy", array(coloured))[1], RED / 255, atol=1e-6)
    refused(read, "a.npy", array(coloured)[:-1], "truncated")
    refused(read, "a.npy", array(PLACE[:, :2]), "x, y, z")
    refused(read, "a.npy", array(np.arange(3.0)), "x, y, z")
    refused(read, "a.npy", array(PLACE.astype(np.complex64)), "not of real numbers")
    refused(
        read,
        "a.npy",
        array(np.array([{}, 1], dtype=object), allow_pickle=True),
        "objects",
    )
    refused(
        read,
        "a.npy",
        array(PLACE).replace(b"(40, 3)", b"(10000000000000, 3)")[:-30],
        "truncated|no numpy array",
    )
    refused(read, "a.npy", b"\x93NUMPY", "no numpy array")
    refused(read, "a.npz", b"PK\3\4" + bytes(40), "damaged, or no archive")


def test_an_archive_that_unpacks_to_too_much_is_not_unpacked(read, monkeypatch):
    # 512 MiB take long to pack.
    monkeypatch.setattr("flowbind_points.table.LARGEST", 10**6)
    file = io.BytesIO()
    np.savez_compressed(file, points=np.zeros((10**5, 3), np.float32))
    monkeypatch.setattr(
        "zipfile.ZipFile.read", lambda *_: pytest.fail("it is unpacked")
    )
    refused(read, "a.npz", file.getvalue(), "an array of more than 1000000 bytes")


# PCD


def pack(plain, chunk=7):
    """LZF, with a repetition wherever the last eight bytes come again."""
    out, place = bytearray(), 0
    while place < len(plain):
        if place >= 8 and plain[place - 8 : place] == plain[place : place + 8]:
            length = 8
            while (
                length < 264
                and plain[place + length : place + length + 1]
                == plain[place + length - 8 : place + length - 7]
                != b""
            ):
                length += 1
            size = length - 2
            out += (
                bytes([(min(size, 7) << 5)])
                + (bytes([size - 7]) if size >= 7 else b"")
                + b"\7"
            )
            place += length
        else:
            part = plain[place : place + chunk]
            out += bytes([len(part) - 1]) + part
            place += len(part)
    return bytes(out)


@pytest.mark.parametrize(
    "plain",
    [b"", b"a", b"abcdefgh" * 200, np.random.default_rng(0).bytes(999), bytes(5000)],
)
def test_lzf_is_unpacked(plain):
    assert unpack(pack(plain), len(plain)) == plain


def pcd(place, colour, encoding, kind="F", width=None):
    """A PCD file, its colours in one number."""
    packed = (
        colour.astype("<u4")[:, 0] << 16
        | colour.astype("<u4")[:, 1] << 8
        | colour.astype("<u4")[:, 2]
    )
    packed = packed if kind == "U" else packed.view("<f4")
    width = width or len(place)
    shape = f"WIDTH {width}\nHEIGHT {len(place) // width}\n"
    header = f"# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\nFIELDS x y z curvature rgb\nSIZE 4 4 4 8 4\nTYPE F F F F {kind}\nCOUNT 1 1 1 2 1\n{shape}VIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(place)}\nDATA {encoding}\n"
    table = np.empty(
        len(place), [("p", "<f4", 3), ("c", "<f8", 2), ("rgb", packed.dtype)]
    )
    table["p"], table["c"], table["rgb"] = place, 1.5, packed
    if encoding == "ascii":
        body = lines(place, np.full((len(place), 2), 1.5), packed[:, None]).encode()
    elif encoding == "binary":
        body = table.tobytes()
    else:
        plain = b"".join(
            np.ascontiguousarray(part).tobytes()
            for part in (*place.T.astype("<f4"), table["c"], packed)
        )
        body = struct.pack("<II", len(pack(plain)), len(plain)) + pack(plain)
    return header.encode() + body


@pytest.mark.parametrize("kind", ["F", "U"])
@pytest.mark.parametrize("encoding", ["ascii", "binary", "binary_compressed"])
def test_pcd(read, encoding, kind):
    content = pcd(PLACE, RED, encoding, kind)
    place, colour = read("a.pcd", content)
    np.testing.assert_allclose(place, PLACE, rtol=1e-6)
    np.testing.assert_allclose(colour, RED / 255, atol=1e-6)
    refused(read, "a.pcd", content[: -len(content) // 4], "truncated|damaged")


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"DATA ascii", b"DATA pickle"), (b"POINTS 40", b"POINTS -4"), (b"SIZE 4", b"SIZE 3"), (b"TYPE F", b"TYPE O"),
     (b"FIELDS x", b"FIELDS q"), (b"POINTS 40", b"POINTS 9999999999999"), (b"COUNT 1", b"COUNT x"), (b"DATA", b"ATAD")],
)  # fmt: skip
def test_pcd_headers_that_are_refused(read, old, new):
    refused(
        read, "a.pcd", pcd(PLACE, RED, "ascii").replace(old, new), "PCD|no x|allowed"
    )


# What was not measured


@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf, np.float32(3e38)])
def test_points_without_a_place_are_left_out_and_counted(read, capsys, hole):
    place = PLACE.copy()
    place[::7, 1] = hole
    holes = len(place[::7])
    for name, content in (
        ("a.ply", ply(xyz(place) | rgb())),
        ("a.pcd", pcd(place, RED, "binary", width=8)),
    ):
        got, colour = read(name, content)
        np.testing.assert_allclose(got, np.delete(PLACE, np.s_[::7], axis=0), rtol=1e-6)
        np.testing.assert_allclose(colour, RED[holes:] / 255, atol=1e-6)
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert (
            f"{name}: {holes} of 40 points have no finite place, and are left out"
            in err
        )
    place[:] = hole
    refused(read, "a.ply", ply(xyz(place)), "not finite")


def test_a_colour_that_is_no_number_is_grey(read, capsys):
    colour = (RED / 255).astype(np.float32)
    colour[3, 1] = np.nan
    _, got = read("a.ply", ply(xyz() | rgb(colour)))
    assert (got[3] == 0.5).all()
    np.testing.assert_allclose(np.delete(got, 3, 0), np.delete(colour, 3, 0))
    assert "1 points have a colour that is not a number" in capsys.readouterr().err


# Places far away, and shapes that are none


@pytest.mark.parametrize("encoding", ["ascii", "binary_little_endian"])
def test_maps_in_metres_keep_their_shape(read, capsys, encoding):
    ball = NORMALS.astype(np.float64)
    far = ball + np.array([689_123.25, 5_334_567.5, 519])
    place, _ = read("a.ply", ply(xyz(far), encoding))
    np.testing.assert_allclose(place, ball - ball.mean(0), atol=1e-6)
    assert (
        "to the origin, since float32 would round its shape away"
        in capsys.readouterr().err
    )
    moved = Points().accept(far)[:, :3].numpy()
    np.testing.assert_array_equal(moved, place)


def test_places_that_float32_holds_stay(read, capsys):
    for place in (
        PLACE + np.float32(3),
        (NORMALS * 0.3 + 5).astype(np.float64),
        (PLACE + 1e6).astype(np.float32),
        np.full((4, 3), 0.1),
    ):
        got, _ = read("a.ply", ply(xyz(place)))
        np.testing.assert_allclose(got, place, rtol=1e-7)
    assert not capsys.readouterr().err


def test_a_codec_sees_the_shape_of_what_is_far_in_float32():
    codec = SmallPoints()
    ball = torch.cat([torch.tensor(NORMALS), torch.full((40, 3), 0.5)], dim=1).float()
    far = ball.clone()
    far[:, :3] = ((ball[:, :3] * 4096).round() + 2**23) / 4096  # which float32 holds
    near = far.clone()
    near[:, 0:3] -= 2048
    moments = [
        codec.net._moments(codec.prepare([cloud]))[0, :256] for cloud in (near, far)
    ]
    torch.testing.assert_close(*moments, atol=1e-5, rtol=0)


SHAPES = {
    "one point": np.zeros((1, 3)),
    "two points": np.eye(3)[:2],
    "all alike": np.full((50, 3), 7.25),
    "a line": np.linspace(0, 1, 50)[:, None] * [1.0, 2, 3],
    "a plane": np.concatenate([PLACE[:, :2], 0 * PLACE[:, :1]], axis=1),
}


@pytest.mark.parametrize("place", SHAPES.values(), ids=SHAPES)
def test_shapes_that_are_hardly_any(place):
    cloud = Points().accept(place)
    assert torch.equal(cloud[:, :3], torch.tensor(place).float())
    latents = SmallPoints().encode([cloud])
    assert latents.isfinite().all()
    sphere = to_unit_sphere(thin(cloud, 64)[None])
    assert sphere.isfinite().all()
    assert sphere[..., :3].norm(dim=2).max() <= 1 + 1e-6
    Points().preview(cloud)


# Thinning knows no period


def test_thinning_knows_no_period():
    count, most = 2048, 65_536
    for n in (2049, 4096, 10_000, most):
        kept = thin(torch.arange(n), count)
        assert len(kept.unique()) == count
        assert torch.equal(kept, thin(torch.arange(n), count))
        for period in (2, 3, 16, 32, 64, 1024):
            shares = torch.bincount(kept % period, minlength=period) / count * period
            spread = (
                period / count
            ) ** 0.5  # of a share, were all points drawn by themselves
            assert (shares - 1).abs().max() < 6 * spread, (n, period)
            middle = kept[kept // period % 2 == 0]
            assert abs(len(middle) / count - 0.5) < 0.08, (n, period)


def test_thinning_keeps_a_smaller_choice_within_a_larger_one():
    index = torch.arange(5000)
    assert set(thin(index, 100).tolist()) < set(thin(index, 1000).tolist())
    assert torch.equal(thin(index, 5000), index)
    assert torch.equal(thin(torch.arange(3), 6), torch.tensor([0, 0, 1, 1, 2, 2]))


@pytest.mark.parametrize("codec", [SmallPoints, PointAutoencoder])
def test_a_scanner_s_beams_all_reach_the_codec(codec):
    turn, tilt = np.meshgrid(
        np.linspace(0, 2 * np.pi, 1024, endpoint=False),
        np.linspace(-0.8, 0.8, 64),
        indexing="ij",
    )
    beams = np.stack(
        [np.cos(tilt) * np.cos(turn), np.cos(tilt) * np.sin(turn), np.sin(tilt)], -1
    ).reshape(-1, 3)
    prepared = codec().prepare([Points().accept(beams)])[0]
    spread = prepared[:, 2].std() / prepared[:, :3].norm(dim=1).mean()
    assert spread == pytest.approx(np.sin(tilt).std(), rel=0.1)


def test_another_choice_of_points_is_another_version_of_the_codec():
    """A store that was encoded from every k-th point is refused."""
    assert (SmallPoints.version, PointAutoencoder.version) == (3, 2)


def test_large_clouds_are_kept_in_bounds(read):
    place = np.random.default_rng(1).random((MOST + 50_000, 3), np.float32)
    colour = (place * 255).astype(np.uint8)
    place[7] = np.nan
    got, got_colour = read("a.ply", ply(xyz(place) | rgb(colour)))
    assert len(got) == MOST == len(np.unique(got, axis=0))
    np.testing.assert_allclose(
        got_colour, np.floor(got * np.float32(255)) / 255, atol=1e-6
    )
    whole = place[8 : 8 + MOST]
    np.testing.assert_array_equal(read("b.npy", array(whole))[0], whole)
    assert len(Points().accept(place[8:])) == MOST


# What people have in Python


def test_clouds_in_python():
    both = np.concatenate([PLACE, (RED / 255).astype(np.float32)], axis=1)
    expected = torch.tensor(both)
    eight = np.concatenate([PLACE, RED], axis=1)
    forms = [both, both.astype(np.float64), expected, expected.double(), both.tolist(), eight, eight.tolist(), torch.tensor(eight),
             (PLACE, RED), (torch.tensor(PLACE), torch.tensor(RED)), [PLACE, RED / 255], (PLACE, RED.astype(np.uint16) * 257)]  # fmt: skip
    for form in forms:
        torch.testing.assert_close(
            Points().accept(form), expected, atol=1e-6, rtol=1e-6
        )
    for form in (
        PLACE,
        PLACE.tolist(),
        torch.tensor(PLACE).requires_grad_(),
        PLACE[::-1][::-1],
    ):
        cloud = Points().accept(form)
        assert torch.equal(cloud[:, :3], torch.tensor(PLACE))
        assert (cloud[:, 3:] == 0.5).all()
        assert not cloud.requires_grad
    half = Points().accept(torch.tensor(PLACE).bfloat16())
    assert torch.equal(half[:, :3], torch.tensor(PLACE).bfloat16().float())
    assert torch.equal(
        Points().accept([[1, 2, 3], [4, 5, 6]])[:, :3],
        torch.tensor([[1.0, 2, 3], [4, 5, 6]]),
    )


def test_what_is_changed_in_python_is_a_copy():
    eight = np.concatenate([PLACE, RED], axis=1)
    before = eight.copy()
    Points().accept(eight)
    np.testing.assert_array_equal(eight, before)


@pytest.mark.parametrize(
    "raw",
    [PLACE.T, PLACE[None], PLACE[0], PLACE[:, :2], np.zeros((5, 4)), np.zeros((0, 6)), PLACE.astype(complex), "cloud", None, 7,
     np.where(np.arange(3) == 1, np.nan, PLACE), np.concatenate([PLACE, -PLACE], axis=1), (PLACE, RED[:5]), [PLACE, RED[:, :2]],
     np.full((4, 3), 1e30), {"points": PLACE}],
    ids=describe,
)  # fmt: skip
def test_what_is_no_cloud_is_refused(raw):
    with pytest.raises(
        ValueError, match=r"allowed: x, y, z or|allowed: as many"
    ) as error:
        Points().accept(raw)
    assert "\n" not in str(error.value)


# Tables that lie on their side, and lines of old computers


@pytest.mark.parametrize("shape", [(3, 500), (6, 500), (1, 3, 500)])
def test_points_in_columns_are_refused_whatever_their_numbers(tmp_path, shape):
    """Numbers in [0, 1] could be colours: three points would be read of five hundred."""
    numbers = np.random.default_rng(0).random(shape)
    np.save(tmp_path / "a.npy", numbers)
    np.savez(tmp_path / "a.npz", points=numbers)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(ValueError, match=rf"{name}: an array of shape .*rows"):
            Points().read(tmp_path / name)


def test_few_points_of_many_numbers_are_points(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(12.0)[None])
    assert Points().read(tmp_path / "a.npy")[0, :3].tolist() == [0, 1, 2]


def test_half_precision_of_an_archive(tmp_path):
    """As datasets of shapes have them, to save space."""
    numbers = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float16)
    np.savez(tmp_path / "a.npz", points=numbers, normals=numbers)
    np.testing.assert_array_equal(
        Points().read(tmp_path / "a.npz")[:, :3], numbers.astype(np.float32)
    )
    numbers[3] = np.inf
    np.save(tmp_path / "a.npy", numbers)
    assert len(Points().read(tmp_path / "a.npy")) == 49


def test_lines_that_end_in_a_return_alone(tmp_path):
    rows = "0 0 0\r1 0 0\r0 1 0\r"
    places = "".join(f"property float {axis}\r" for axis in "xyz")
    files = {
        "a.xyz": rows,
        "a.off": f"OFF\r3 0 0\r{rows}",
        "a.ply": f"ply\rformat ascii 1.0\relement vertex 3\r{places}end_header\r{rows}",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content.encode())
        assert Points().read(tmp_path / name)[:, :3].tolist() == [
            [0, 0, 0],
            [1, 0, 0],
            [0, 1, 0],
        ]
