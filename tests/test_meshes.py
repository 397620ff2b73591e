"""Meshes as exporters write them: points where the surface is, in the colours that it has there, whatever the format."""

import base64
import io
import json
import os
import re
import struct
import sys
import zipfile
from functools import cache

import numpy as np
import PIL.Image
import pytest
import torch
from flowbind_points import Points
from flowbind_points.light import from_screen, to_screen
from flowbind_points.surface import DRAWN, fan

from flowbind.libraries import Extra

trimesh = pytest.importorskip("trimesh")

# Rows from the top.
QUARTERS = np.array(
    [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8
)
TETRA = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\n"


def picture(pixels=QUARTERS, size=32, form="PNG"):
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).resize((size, size), PIL.Image.Resampling.NEAREST).save(
        file, form
    )
    return file.getvalue()


def grid(steps=8):
    """The unit square in triangles: vertices, whose x and y are their places in a picture, and faces."""
    x, y = np.meshgrid(
        np.linspace(0, 1, steps + 1), np.linspace(0, 1, steps + 1), indexing="ij"
    )
    vertices = np.stack([x, y, 0 * x], -1).reshape(-1, 3)
    i = np.arange(len(vertices)).reshape(x.shape)
    quads = np.stack([i[:-1, :-1], i[1:, :-1], i[1:, 1:], i[:-1, 1:]], -1).reshape(
        -1, 4
    )
    return vertices, np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


VERTICES, FACES = grid()


def mesh(**visual):
    return trimesh.Trimesh(VERTICES, FACES, process=False, **visual)


def textured(**material):
    kind = trimesh.visual.material
    made = (
        kind.PBRMaterial(**material)
        if material
        else kind.SimpleMaterial(image=PIL.Image.open(io.BytesIO(picture())))
    )
    return mesh(visual=trimesh.visual.TextureVisuals(uv=VERTICES[:, :2], material=made))


def export(made, folder, form):
    """Writes a mesh by trimesh's own exporter. Returns the file."""
    written = made.export(file_type=form)
    if isinstance(written, dict):
        for name, content in written.items():
            (folder / name).write_bytes(content)
        return folder / "model.gltf"
    path = folder / f"mesh.{form}"
    made.export(path)
    return path


def quarter(place):
    """The colours of the picture at places on the square."""
    row, column = (place[:, 1] < 0.5).astype(int), (place[:, 0] >= 0.5).astype(int)
    return QUARTERS[row, column] / 255


def read(path):
    cloud = Points().read(path).numpy()
    assert cloud.shape == (DRAWN, 6)
    return cloud[:, :3].astype(np.float64), cloud[:, 3:]


def write(folder, name, content):
    (folder / name).write_bytes(
        content.encode() if isinstance(content, str) else content
    )
    return folder / name


def refused(path, match):
    with pytest.raises(ValueError, match=match) as error:
        Points().read(path)
    assert "\n" not in str(error.value)
    assert path.name in str(error.value)


# Colours, however the format keeps them


@pytest.mark.parametrize("form", ["obj", "glb", "gltf"])
def test_a_picture_s_colours_are_those_where_the_points_are(tmp_path, form):
    place, colour = read(export(textured(), tmp_path, form))
    np.testing.assert_allclose(colour, quarter(place), atol=1e-6)
    assert len(np.unique(colour, axis=0)) == 4


@pytest.mark.parametrize("form", ["glb", "gltf"])
def test_a_factor_and_a_picture_are_multiplied(tmp_path, form):
    image = PIL.Image.open(io.BytesIO(picture()))
    made = textured(baseColorTexture=image, baseColorFactor=[255, 51, 255, 255])
    place, colour = read(export(made, tmp_path, form))
    np.testing.assert_allclose(colour, quarter(place) * [1, 0.2, 1], atol=1e-6)


@pytest.mark.parametrize("form", ["obj", "glb", "gltf", "dae"])
def test_a_material_s_colour(tmp_path, form):
    _, colour = read(
        export(textured(baseColorFactor=[255, 102, 0, 255]), tmp_path, form)
    )
    np.testing.assert_allclose(
        colour, np.broadcast_to([1, 0.4, 0], colour.shape), atol=1e-6
    )


@pytest.mark.parametrize("form", ["ply", "obj", "glb", "gltf"])
def test_vertices_colours_are_blended(tmp_path, form):
    colours = np.rint(
        np.concatenate([VERTICES[:, :2], np.ones((len(VERTICES), 2))], 1) * 255
    ).astype(np.uint8)
    place, colour = read(export(mesh(vertex_colors=colours), tmp_path, form))
    np.testing.assert_allclose(
        colour, np.stack([place[:, 0], place[:, 1], 1 + 0 * place[:, 0]], 1), atol=3e-3
    )


@pytest.mark.parametrize("encoding", ["ascii", "binary"])
def test_faces_colours(tmp_path, encoding):
    right = VERTICES[FACES].mean(1)[:, :1] > 0.5
    made = mesh(
        face_colors=np.where(right, [[255, 0, 0, 255]], [[0, 0, 255, 255]]).astype(
            np.uint8
        )
    )
    path = write(tmp_path, "a.ply", made.export(file_type="ply", encoding=encoding))
    place, colour = read(path)
    np.testing.assert_array_equal(
        colour, np.where(place[:, :1] > 0.5, [[1, 0, 0]], [[0, 0, 1]])
    )


@pytest.mark.parametrize(
    "form", ["ply", "obj", "stl", "off", "glb", "gltf", "dae", "3mf"]
)
def test_without_colours_all_is_mid_grey(tmp_path, form):
    place, colour = read(export(mesh(), tmp_path, form))
    assert (colour == 0.5).all()
    assert (
        abs(
            np.histogram2d(*place[:, :2].T, bins=4, range=[[0, 1]] * 2)[0] / DRAWN * 16
            - 1
        ).max()
        < 0.3
    )


@pytest.mark.parametrize("form", ["obj", "glb", "gltf", "ply", "stl", "3mf"])
def test_a_scene_s_parts_are_where_it_puts_them(tmp_path, form):
    """Each in its own colours, also beside one without any."""
    scene, turn = trimesh.Scene(), trimesh.transformations
    box, ball = trimesh.creation.box((1, 1, 4)), trimesh.creation.icosphere(2)
    box.visual.face_colors, ball.visual.vertex_colors = (
        [255, 0, 0, 255],
        [0, 255, 0, 255],
    )
    scene.add_geometry(
        box,
        transform=turn.translation_matrix([-3, 0, 0])
        @ turn.rotation_matrix(np.pi / 2, [0, 1, 0]),
    )
    scene.add_geometry(
        ball, transform=turn.translation_matrix([3, 0, 0]) @ turn.scale_matrix(0.5)
    )
    scene.add_geometry(textured(), transform=turn.translation_matrix([0, 5, 0]))
    scene.add_geometry(mesh(), transform=turn.translation_matrix([0, -5, 0]))
    place, colour = read(export(scene, tmp_path, form))
    sheet, bare = place[:, 1] > 4, place[:, 1] < -4
    left, right = (
        (place[:, 0] < -0.5) & ~sheet & ~bare,
        (place[:, 0] > 2) & ~sheet & ~bare,
    )
    assert (sheet | bare | left | right).all()
    np.testing.assert_allclose(np.ptp(place[left], axis=0), [4, 1, 1], atol=0.03)
    assert np.linalg.norm(place[right] - [3, 0, 0], axis=1).max() < 0.501
    assert left.mean() == pytest.approx(18 / (18 + np.pi + 2), abs=0.02)
    if form in ("obj", "glb", "gltf"):
        assert (colour[left] == [1, 0, 0]).all()
        assert (colour[right] == [0, 1, 0]).all()
        np.testing.assert_allclose(
            colour[sheet], quarter(place[sheet] - [0, 5, 0]), atol=1e-6
        )
        assert len(np.unique(colour[bare], axis=0)) == 1


def test_objects_of_trimesh_are_taken_as_they_are(tmp_path):
    place, colour = np.split(Points().accept(textured()).numpy(), 2, axis=1)
    np.testing.assert_allclose(colour, quarter(place), atol=1e-6)
    face = mesh(face_colors=[255, 0, 51, 255])
    for made in (face, trimesh.Scene(face)):
        cloud = Points().accept(made)
        torch.testing.assert_close(
            cloud[:, 3:], torch.tensor([1, 0, 0.2]).expand(DRAWN, 3)
        )
    assert (Points().accept(mesh())[:, 3:] == 0.5).all()
    some = trimesh.PointCloud(VERTICES, colors=[0, 0, 255, 255])
    np.testing.assert_allclose(Points().accept(some)[:, :3], VERTICES, atol=1e-6)
    assert (Points().accept(some)[:, 3:] == torch.tensor([0, 0, 1])).all()
    for nothing in (trimesh.Scene(), trimesh.Trimesh()):
        with pytest.raises(ValueError, match=r"allowed: x, y, z or") as error:
            Points().accept(nothing)
        assert "\n" not in str(error.value)


# OBJ


def obj_square(extra=b"", faces=b"f 1/1 2/2 3/3 4/4\n"):
    return (
        b"v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
        + extra
        + faces
    )


MTL = "newmtl paint\nKd 1 0.4 0\nmap_Kd {}\n"
OBJS = {
    "faces of places alone": (b"f 1 2 3\nf 1 2 4\nf 1 3 4\nf 2 3 4\n",),
    "with normals": (
        b"vn 0 0 1\nf 1//1 2//1 3//1\nf 1//1 2//1 4//1\nf 1//1 3//1 4//1\nf 2//1 3//1 4//1\n",
    ),
    "counted from the end": (b"f -4 -3 -2\nf -4 -3 -1\nf -4 -2 -1\nf -3 -2 -1\n",),
    "of several kinds": (
        b"vn 0 0 1\nvt 0 0\nf 1 2 3\nf 1/1 2/1 4/1\nf 1//1 3//1 4//1\nf 2/1/1 3/ 4//\n",
    ),
    "tabs and spaces": (b"  f\t1  2\t3\nf 1 2 4 \nf 1 3 4\n\tf 2 3 4",),
    "lines that go on": (b"f 1 \\\n2 3\nf 1 2 4\nf 1 3 \\\r\n 4\nf 2 3 4\n",),
    "other lines": (
        b"# f 9 9 9\no a\ng f\ns off\nf 1 2 3\nl 1 2\np 1\nf 1 2 4\nvp 0 0\nf 1 3 4\ncstype x\nf 2 3 4\n",
    ),
}


@pytest.mark.parametrize("lines", OBJS.values(), ids=OBJS)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_ways_to_write_an_obj(tmp_path, lines, end):
    expected, _ = read(
        write(tmp_path, "plain.obj", TETRA + OBJS["faces of places alone"][0])
    )
    place, colour = read(
        write(
            tmp_path,
            "a.obj",
            (TETRA + lines[0]).replace(b"\r\n", b"\n").replace(b"\n", end),
        )
    )
    np.testing.assert_array_equal(place, expected)
    assert (colour == 0.5).all()


def test_faces_counted_from_where_they_stand(tmp_path):
    near, far = (
        b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf -3 -2 -1\n",
        b"v 9 0 0\nv 10 0 0\nv 9 1 0\nf -3 -2 -1\n",
    )
    place, _ = read(write(tmp_path, "a.obj", near + far))
    assert (place[:, 0] < 1.001).mean() == pytest.approx(0.5, abs=0.03)
    assert place[:, 0].max() > 9.9


def test_polygons_are_cut_into_triangles():
    corners, polygon = fan(np.array([3, 0, 5, 2, 4]))
    assert corners.tolist() == [
        [0, 1, 2],
        [3, 4, 5],
        [3, 5, 6],
        [3, 6, 7],
        [10, 11, 12],
        [10, 12, 13],
    ]
    assert polygon.tolist() == [0, 2, 2, 2, 4, 4]


NAMED = {
    "its name": ("wood.png", "wood.png"),
    "a folder": ("maps/wood.png", "maps/wood.png"),
    "the other slash": ("maps\\wood.png", "maps/wood.png"),
    "this folder": ("./wood.png", "wood.png"),
    "a whole path of elsewhere": ("C:\\Users\\me\\wood.png", "wood.png"),
    "up and away": ("../../maps/wood.png", "wood.png"),
    "other capitals": ("Maps/WOOD.PNG", "maps/wood.png"),
    "spaces": ("my wood.png", "my wood.png"),
    "escaped": ("my%20wood.png", "my wood.png"),
    "options": ("-s 1 1 1 -o 0 0 0 my wood.png", "my wood.png"),
    "quoted": ('"my wood.png"', "my wood.png"),
}


@pytest.mark.parametrize(("named", "lies"), NAMED.values(), ids=NAMED)
def test_names_of_pictures(tmp_path, named, lies):
    (tmp_path / "maps").mkdir()
    write(tmp_path, lies, picture())
    write(tmp_path, "a.mtl", MTL.format(named))
    place, colour = read(
        write(tmp_path, "a.obj", obj_square(b"mtllib a.mtl\nusemtl paint\n"))
    )
    np.testing.assert_allclose(colour, quarter(place), atol=1e-6)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "TGA", "WEBP", "TIFF"])
def test_pictures_of_every_format(tmp_path, form):
    write(
        tmp_path,
        "a.map",
        picture(np.tile(np.uint8([[[200, 100, 50]]]), (2, 2, 1)), form=form),
    )
    write(tmp_path, "a.mtl", MTL.format("a.map"))
    _, colour = read(
        write(tmp_path, "a.obj", obj_square(b"mtllib a.mtl\nusemtl paint\n"))
    )
    np.testing.assert_allclose(
        colour, np.broadcast_to(np.array([200, 100, 50]) / 255, colour.shape), atol=0.02
    )


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "I;16", "1", "LA", "CMYK"])
def test_pictures_of_every_kind(tmp_path, mode):
    grey = np.full((4, 4), 51, np.uint8)
    image = (
        PIL.Image.fromarray(grey.astype(np.uint16) * 257)
        if mode == "I;16"
        else PIL.Image.fromarray(grey).convert(mode)
    )
    image.save(tmp_path / "a.tif")
    write(tmp_path, "a.mtl", MTL.format("a.tif"))
    _, colour = read(
        write(tmp_path, "a.obj", obj_square(b"mtllib a.mtl\nusemtl paint\n"))
    )
    assert abs(colour.mean() - 0.2) < (0.01 if mode != "1" else 0.2)


def test_a_picture_goes_on_beyond_its_edges(tmp_path):
    write(tmp_path, "wood.png", picture())
    write(tmp_path, "a.mtl", MTL.format("wood.png"))
    beyond = (
        obj_square(b"mtllib a.mtl\nusemtl paint\n")
        .replace(b"vt 1", b"vt 3")
        .replace(b"vt 0", b"vt -1")
    )
    place, colour = read(write(tmp_path, "a.obj", beyond))
    across = np.stack([place[:, 0] * 4 % 1, place[:, 1]], 1)
    inside = (np.abs(across - 0.5) > 1e-3).all(1) & (
        np.abs(across[:, 0] - np.round(across[:, 0])) > 1e-3
    )
    np.testing.assert_allclose(colour[inside], quarter(across)[inside], atol=1e-6)


def test_what_is_not_beside_it_is_told_once_and_done_without(tmp_path, capsys):
    write(tmp_path, "a.mtl", MTL.format("gone.png"))
    path = write(tmp_path, "a.obj", obj_square(b"mtllib a.mtl\nusemtl paint\n"))
    for _ in range(2):
        _, colour = read(path)
        np.testing.assert_allclose(
            colour, np.broadcast_to([1, 0.4, 0], colour.shape), atol=1e-6
        )
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "a.obj: 'gone.png', which it names, is not beside it" in err
    write(tmp_path, "gone.png", picture()[:60])
    read(write(tmp_path, "b.obj", path.read_bytes()))
    assert "its picture 'gone.png' cannot be read" in capsys.readouterr().err
    _, colour = read(
        write(tmp_path, "c.obj", obj_square(b"mtllib none.mtl\nusemtl paint\n"))
    )
    assert (colour == 0.5).all()
    assert "'none.mtl', which it names, is not beside it" in capsys.readouterr().err


def test_materials_of_several_files_and_faces(tmp_path):
    write(tmp_path, "a.mtl", "newmtl red\nKd 1 0 0\nnewmtl bare\nNs 3\n")
    write(tmp_path, "b c.mtl", "\tnewmtl green one\n\tKd\t0 1 0\n")
    write(tmp_path, "d.mtl", "newmtl blue\nKd 0 0 1\nKa 1 1 1\nmap_Ka x.png\n")
    write(tmp_path, "e.mtl", "newmtl spectral\nKd spectral file.rfl 1\n")
    uses = ["red", "green one", "blue", "bare", "spectral", "unknown"]
    lines = b"mtllib a.mtl\nmtllib b c.mtl\nmtllib d.mtl e.mtl\n"
    for number, use in enumerate(uses):
        square = b"".join(
            b"v %d %d 0\n" % (number + x, y)
            for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))
        )
        lines += square + f"usemtl {use}\nf -4 -3 -2 -1\n".encode()
    place, colour = read(write(tmp_path, "a.obj", lines))
    expected = np.array(
        [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5] * 3, [0.5] * 3, [0.5] * 3]
    )
    np.testing.assert_array_equal(
        colour, expected[np.minimum(place[:, 0], 5.999).astype(int)]
    )


def test_objs_of_points_alone(tmp_path):
    rows = np.concatenate([VERTICES, VERTICES * 255], axis=1)
    for content, colour in (
        ("".join(f"v {x} {y} {z}\n" for x, y, z in VERTICES), 0 * VERTICES + 0.5),
        ("".join(f"v {' '.join(map(str, row))}\n" for row in rows), VERTICES),
        (
            "".join(
                f"v {' '.join(map(str, row))} 1.0\n"
                for row in np.concatenate([VERTICES, VERTICES], 1)
            ),
            VERTICES,
        ),
    ):
        cloud = Points().read(write(tmp_path, "a.obj", content))
        np.testing.assert_allclose(
            cloud, np.concatenate([VERTICES, colour], axis=1), atol=1e-6
        )


def test_colours_of_some_vertices_alone(tmp_path):
    text = "v 0 0 0 1 0 0\nv 1 0 0 1 0 0\nv 0 1 0 1 0 0\nv 5 0 0\nv 6 0 0\nv 5 1 0\nf 1 2 3\nf 4 5 6\n"
    place, colour = read(write(tmp_path, "a.obj", text))
    np.testing.assert_array_equal(
        colour, np.where(place[:, :1] < 2, [[1, 0, 0]], [[0.5, 0.5, 0.5]])
    )


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (TETRA + b"f 1 2 9\n", "not there"),
        (TETRA + b"f 0 1 2\n", "not there"),
        (TETRA + b"f -9 1 2\n", "not there"),
        (TETRA + b"f 1 2 x\n", "numbers are expected"),
        (TETRA + b"f 1 2 1000000000000000000000\n", "cannot be"),
        (TETRA + b"f 1 2\n", "neither faces nor points"),
        (TETRA + b"v 1 2 x\nf 1 2 3\n", "numbers are expected"),
        (TETRA + b"v 1 2\nf 1 2 3\n", "2 numbers"),
        (b"v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "not finite"),
        (b"\x89PNG\r\n\x1a\n", "no vertices"),
        (b"", "no vertices"),
        (b"solid a\nvertex 0 0 0\n", "no vertices"),
    ],
)
def test_objs_that_are_refused(tmp_path, content, match):
    refused(write(tmp_path, "a.obj", content), match)


# PLY and OFF


def mixed_ply(encoding, faces, colour=True):
    """A row of unit squares, each cut into polygons in its own way, red, green and blue."""
    order = {"binary_little_endian": "<", "binary_big_endian": ">"}.get(encoding)
    vertices = [(x, y, 0) for x in range(4) for y in range(2)]
    head = f"ply\nformat {encoding} 1.0\nelement face {len(faces)}\nproperty uchar flags\nproperty list uchar uint vertex_indices\n"
    head += (
        "property uchar red\nproperty uchar green\nproperty uchar blue\n"
        if colour
        else ""
    )
    head += f"element vertex {len(vertices)}\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    body = b""
    for corners, rgb in faces:
        row = [7, len(corners), *corners, *(rgb if colour else ())]
        packed = f"BB{len(corners)}I{'BBB' if colour else ''}"
        body += (
            struct.pack(order + packed, *row)
            if order
            else (" ".join(map(str, row)) + "\n").encode()
        )
    for vertex in vertices:
        body += (
            struct.pack(order + "3f", *vertex)
            if order
            else (" ".join(map(str, vertex)) + "\n").encode()
        )
    return head.encode() + body


@pytest.mark.parametrize(
    "encoding", ["ascii", "binary_little_endian", "binary_big_endian"]
)
@pytest.mark.parametrize("even", [True, False])
def test_plys_of_any_polygons(tmp_path, encoding, even):
    red, green, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    faces = [((0, 2, 3, 1), red), ((2, 4, 5, 3), green), ((4, 6, 7, 5), blue)]
    if not even:
        faces[1:2] = [((2, 4, 5), green), ((2, 5, 3), green)]
    place, colour = read(write(tmp_path, "a.ply", mixed_ply(encoding, faces)))
    np.testing.assert_array_equal(
        colour, np.eye(3)[np.minimum(place[:, 0], 2.999).astype(int)]
    )
    refused(
        write(tmp_path, "a.ply", mixed_ply(encoding, faces)[:-9]),
        "truncated|numbers are expected",
    )
    strips = mixed_ply(encoding, faces).replace(b"element face", b"element tristrips")
    refused(write(tmp_path, "a.ply", strips), "strips of triangles")


@pytest.mark.parametrize("by", ["corner", "vertex"])
def test_plys_with_a_picture(tmp_path, by):
    corner, vertex = by == "corner", by == "vertex"
    write(tmp_path, "my wood.png", picture())
    where = "property float s\nproperty float t\n" if vertex else ""
    text = f"ply\nformat ascii 1.0\ncomment TextureFile my wood.png\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n{where}"
    text += "element face 2\nproperty list uchar int vertex_indices\n" + (
        "property list uchar float texcoord\n" if corner else ""
    )
    text += "end_header\n"
    square = [(0, 0), (1, 0), (1, 1), (0, 1)]
    text += "".join(f"{x} {y} 0 {f'{x} {y}' if vertex else ''}\n" for x, y in square)
    for face in ((0, 1, 2), (0, 2, 3)):
        pairs = " ".join(f"{square[i][0]} {square[i][1]}" for i in face)
        text += f"3 {' '.join(map(str, face))} {f'6 {pairs}' if corner else ''}\n"
    place, colour = read(write(tmp_path, "a.ply", text))
    np.testing.assert_allclose(colour, quarter(place), atol=1e-6)


OFFS = {
    "plain": (b"OFF\n4 1 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n4 0 1 2 3\n", 0.5),
    "header and counts in a line": (
        b"OFF4 1 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n4 0 1 2 3\n",
        0.5,
    ),
    "comments": (
        b"# a\nOFF # b\n\n4 1 0 # c\n0 0 0\n1 0 0\n\n1 1 0\n0 1 0\n# d\n4 0 1 2 3\n",
        0.5,
    ),
    "faces' colours": (
        b"OFF\n4 1 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n4 0 1 2 3 255 51 0\n",
        [1, 0.2, 0],
    ),
    "faces' colours in shares": (
        b"OFF\n4 1 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n4 0 1 2 3 1.0 0.2 0.0 1.0\n",
        [1, 0.2, 0],
    ),
    "a number in a table of colours": (
        b"OFF\n4 1 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n4 0 1 2 3 7\n",
        0.5,
    ),
    "vertices' colours": (
        b"COFF\n4 1 0\n0 0 0 255 51 0 255\n1 0 0 255 51 0 255\n1 1 0 255 51 0 255\n0 1 0 255 51 0 255\n4 0 1 2 3\n",
        [1, 0.2, 0],
    ),
    "normals": (
        b"NOFF\n4 1 0\n0 0 0 0 0 1\n1 0 0 0 0 1\n1 1 0 0 0 1\n0 1 0 0 0 1\n4 0 1 2 3\n",
        0.5,
    ),
    "both, as MeshLab orders them": (
        b"NCOFF\n4 1 0\n0 0 0 255 51 0 255 0 0 1\n1 0 0 255 51 0 255 0 0 1\n1 1 0 255 51 0 255 0 0 1\n0 1 0 255 51 0 255 0 0 1\n4 0 1 2 3\n",
        [1, 0.2, 0],
    ),
    "both, as Geomview does": (
        b"CNOFF\n4 1 0\n0 0 0 0 0 1 1 .2 0 1\n1 0 0 0 0 1 1 .2 0 1\n1 1 0 0 0 1 1 .2 0 1\n0 1 0 0 0 1 1 .2 0 1\n4 0 1 2 3\n",
        [1, 0.2, 0],
    ),
    "places in a picture": (
        b"STOFF\n4 1 0\n0 0 0 0 0\n1 0 0 1 0\n1 1 0 1 1\n0 1 0 0 1\n4 0 1 2 3\n",
        0.5,
    ),
}


@pytest.mark.parametrize(("content", "expected"), OFFS.values(), ids=OFFS)
def test_offs(tmp_path, content, expected):
    place, colour = read(write(tmp_path, "a.off", content))
    np.testing.assert_allclose(np.ptp(place, axis=0), [1, 1, 0], atol=0.01)
    np.testing.assert_allclose(
        colour, np.broadcast_to(expected, colour.shape), atol=1e-6
    )


@pytest.mark.parametrize(
    "content",
    [
        b"OFF\n",
        b"OFF BINARY\n",
        b"4OFF\n1 0 0\n",
        b"OFF\n4 1 0\n0 0 0\n",
        b"OFF\n1 1 0\n0 0 0\n3 0 0\n",
        b"OFF\n1 1 0\n0 0 0\n3 0 0 5\n",
        b"OFFICE\n1 2 3\n",
    ],
)
def test_offs_that_are_refused(tmp_path, content):
    refused(write(tmp_path, "a.off", content), "OFF|truncated|not there")


def test_an_off_of_points_alone(tmp_path):
    cloud = Points().read(
        write(tmp_path, "a.off", b"COFF\n2 0 0\n0 0 0 255 0 0 255\n1 2 3 0 255 0 255\n")
    )
    assert cloud.tolist() == [[0, 0, 0, 1, 0, 0], [1, 2, 3, 0, 1, 0]]


@pytest.mark.parametrize(
    ("header", "bits", "expected"),
    [
        (b"", 0x801F, [0, 0, 1]),
        (b"", 0xFC00, [1, 0, 0]),
        (b"", 0x001F, [0.5] * 3),
        (b"COLOR=\xff\x33\0\xff", 0x001F, [1, 0, 0]),
        (b"COLOR=\xff\x33\0\xff", 0x8000, [1, 0.2, 0]),
        (b"COLOR=\xff\x33\0\xff", 0x801F, [1, 0, 0]),  # as MeshLab writes it
    ],
)
def test_colours_in_the_spare_bytes_of_stl(tmp_path, header, bits, expected):
    face = struct.pack("<12fH", 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, bits)
    _, colour = read(
        write(
            tmp_path, "a.stl", header.ljust(80, b"\0") + struct.pack("<I", 2) + 2 * face
        )
    )
    np.testing.assert_allclose(
        colour, np.broadcast_to(expected, colour.shape), atol=1e-6
    )


# glTF, by its definition


class GLTF:
    """A glTF file of the unit square, whose parts a test changes."""

    def __init__(self):
        self.views, self.binary = [], b""
        self.tree = {"asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}], "accessors": [],
                     "materials": [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}], "textures": [{"source": 0}], "images": []}  # fmt: skip
        self.place = self.add(np.float32([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]))
        self.where = self.add(np.float32([[0, 1], [1, 1], [1, 0], [0, 0]]))
        self.order = self.add(np.uint16([0, 1, 2, 0, 2, 3])[:, None])
        self.tree["images"].append(
            {"bufferView": self.view(picture()), "mimeType": "image/png"}
        )
        self.primitive = {
            "attributes": {"POSITION": self.place, "TEXCOORD_0": self.where},
            "indices": self.order,
            "material": 0,
        }
        self.tree["meshes"] = [{"primitives": [self.primitive]}]

    @property
    def material(self):
        return self.tree["materials"][0]["pbrMetallicRoughness"]

    def view(self, content, **more):
        self.views.append(
            {
                "buffer": 0,
                "byteOffset": len(self.binary),
                "byteLength": len(content),
                **more,
            }
        )
        self.binary += content + bytes(-len(content) % 4)
        return len(self.views) - 1

    def add(self, array, **more):
        """Adds numbers, with shape (n, width). Returns their accessor."""
        kinds = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
        shape = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}[array.shape[1]]
        accessor = {
            "componentType": kinds[array.dtype.str[1:]],
            "count": len(array),
            "type": shape,
        }
        view = {} if "sparse" in more else {"bufferView": self.view(array.tobytes())}
        self.tree["accessors"].append(accessor | view | more)
        return len(self.tree["accessors"]) - 1

    def glb(self):
        tree = self.tree | {
            "bufferViews": self.views,
            "buffers": [{"byteLength": len(self.binary)}],
        }
        text = json.dumps(tree).encode()
        text += b" " * (-len(text) % 4)
        chunks = (
            struct.pack("<I4s", len(text), b"JSON")
            + text
            + struct.pack("<I4s", len(self.binary), b"BIN\0")
            + self.binary
        )
        return b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks

    def gltf(self, uri):
        tree = self.tree | {
            "bufferViews": self.views,
            "buffers": [{"byteLength": len(self.binary), "uri": uri}],
        }
        return json.dumps(tree)


@pytest.fixture
def gltf():
    return GLTF()


def of_picture(path):
    place, colour = read(path)
    np.testing.assert_allclose(colour, quarter(place), atol=1e-6)


def test_a_glb_by_its_definition(tmp_path, gltf):
    of_picture(write(tmp_path, "a.glb", gltf.glb()))
    # How it begins tells what it is.
    of_picture(write(tmp_path, "lies.ply", gltf.glb()))


@pytest.mark.parametrize(
    "uri", ["data:application/octet-stream;base64,", "numbers.bin", "my%20numbers.bin"]
)
def test_a_gltf_s_numbers_beside_it_and_in_it(tmp_path, gltf, uri):
    write(tmp_path, uri.replace("%20", " ").rpartition("/")[2], gltf.binary)
    if uri.startswith("data"):
        uri += base64.b64encode(gltf.binary).decode()
    of_picture(write(tmp_path, "a.gltf", gltf.gltf(uri)))


@pytest.mark.parametrize("mode", [4, 5, 6])
@pytest.mark.parametrize("indexed", [True, False])
def test_modes_of_a_primitive(tmp_path, gltf, mode, indexed):
    order = {4: [0, 1, 2, 0, 2, 3], 5: [0, 1, 3, 2], 6: [0, 1, 2, 3]}[mode]
    gltf.primitive["mode"] = mode
    if indexed:
        gltf.primitive["indices"] = gltf.add(np.uint8(order)[:, None])
    else:
        square = np.float32([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])[order]
        del gltf.primitive["indices"]
        gltf.primitive["attributes"] = {
            "POSITION": gltf.add(square),
            "TEXCOORD_0": gltf.add(
                np.ascontiguousarray(square[:, :2]) * np.float32([1, -1])
                + np.float32([0, 1])
            ),
        }
    of_picture(write(tmp_path, "a.glb", gltf.glb()))


def test_numbers_that_stand_for_fractions(tmp_path, gltf):
    has = gltf.primitive["attributes"]
    has["TEXCOORD_0"] = gltf.add(
        np.uint16([[0, 65535], [65535, 65535], [65535, 0], [0, 0]]), normalized=True
    )
    has["POSITION"] = gltf.add(
        np.int16([[0, 0, 0], [32767, 0, 0], [32767, 32767, 0], [0, 32767, 0]]),
        normalized=True,
    )
    of_picture(write(tmp_path, "a.glb", gltf.glb()))
    gltf.tree["extensionsRequired"] = ["KHR_mesh_quantization"]
    has["POSITION"] = gltf.add(np.uint8([[0, 0, 0], [5, 0, 0], [5, 5, 0], [0, 5, 0]]))
    gltf.tree["nodes"][0]["scale"] = [0.2, 0.2, 0.2]
    of_picture(write(tmp_path, "a.glb", gltf.glb()))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_vertices_colours_and_the_material_s_are_multiplied(tmp_path, gltf, kind):
    full = 1 if kind is np.float32 else np.iinfo(kind).max
    shade = (np.array([[0.2, 1, 0.6, 1]] * 4) * full).astype(kind)
    gltf.primitive["attributes"]["COLOR_0"] = gltf.add(
        shade, normalized=kind is not np.float32
    )
    place, colour = read(write(tmp_path, "a.glb", gltf.glb()))
    # Full or nothing, in light as on a screen.
    lit(colour, quarter(place) * [0.2, 1, 0.6])
    gltf.material.clear()
    gltf.material["baseColorFactor"] = [0.5, 0.5, 1, 1]
    _, colour = read(write(tmp_path, "a.glb", gltf.glb()))
    lit(colour, [0.1, 0.5, 0.6])
    del gltf.primitive["material"]
    _, colour = read(write(tmp_path, "a.glb", gltf.glb()))
    lit(colour, [0.2, 1, 0.6])
    gltf.primitive["mode"] = 0
    cloud = Points().read(write(tmp_path, "a.glb", gltf.glb()))
    lit(cloud[:, 3:].numpy(), [0.2, 1, 0.6])


def lit(colour, light):
    """Colours are what a screen shows of some light."""
    np.testing.assert_allclose(
        colour, np.broadcast_to(to_screen(light), colour.shape), atol=1e-6
    )


def test_half_the_light_of_a_picture(tmp_path, gltf):
    """A factor of 1/2 halves the light: 188 of 255 on a screen becomes 137."""
    grey = gltf.view(picture(np.full((2, 2, 3), 188, np.uint8)))
    gltf.tree["images"] = [{"bufferView": grey, "mimeType": "image/png"}]
    gltf.material["baseColorFactor"] = [1, 0.5, 0, 1]
    _, colour = read(write(tmp_path, "a.glb", gltf.glb()))
    np.testing.assert_allclose(
        colour * 255, np.broadcast_to([188, 137, 0], colour.shape), atol=0.5
    )


def test_light_and_a_screen_s_colours_are_inverse():
    colours = np.linspace(0, 1, 256)
    np.testing.assert_allclose(to_screen(from_screen(colours)), colours, atol=1e-6)
    # A standard's middle grey.
    assert to_screen(np.array(0.2140)) == pytest.approx(0.5, abs=1e-3)
    assert (np.diff(from_screen(colours)) > 0).all()
    np.testing.assert_allclose(
        to_screen(np.array([-1.0, 0, 1, 7])), [0, 0, 1, 1], atol=1e-12
    )


def test_numbers_that_only_a_compressed_part_has_are_missed(tmp_path, gltf):
    gltf.primitive["extensions"] = {"KHR_draco_mesh_compression": {"bufferView": 0}}
    # They are there as well, for whoever lacks it.
    of_picture(write(tmp_path, "a.glb", gltf.glb()))
    del gltf.tree["accessors"][gltf.place]["bufferView"]
    path = write(tmp_path, "a.glb", gltf.glb())
    refused(path, "KHR_draco_mesh_compression, which is not read; save it without")


def test_sparse_and_strided_numbers(tmp_path, gltf):
    row, other = (
        gltf.view(np.uint16([1, 2]).tobytes()),
        gltf.view(np.float32([[1, 0, 0], [1, 1, 0]]).tobytes()),
    )
    sparse = {
        "count": 2,
        "indices": {"bufferView": row, "componentType": 5123},
        "values": {"bufferView": other},
    }
    base = np.float32([[0, 0, 0], [9, 9, 9], [9, 9, 9], [0, 1, 0]])
    whole = gltf.view(base.tobytes())
    has = gltf.primitive["attributes"]
    has["POSITION"] = gltf.add(base, sparse=sparse, bufferView=whole)
    together = np.zeros((4, 8), np.float32)
    together[:, 3:5] = [[0, 1], [1, 1], [1, 0], [0, 0]]
    view = gltf.view(together.tobytes(), byteStride=32)
    gltf.tree["accessors"].append(
        {
            "componentType": 5126,
            "count": 4,
            "type": "VEC2",
            "bufferView": view,
            "byteOffset": 12,
        }
    )
    has["TEXCOORD_0"] = len(gltf.tree["accessors"]) - 1
    of_picture(write(tmp_path, "a.glb", gltf.glb()))


def test_places_in_a_picture_that_are_transformed(tmp_path, gltf):
    has, name = gltf.primitive["attributes"], "KHR_texture_transform"
    # Turned by a quarter.
    has["TEXCOORD_3"] = gltf.add(np.float32([[0, 0], [0, 1], [1, 1], [1, 0]]))
    turn = {"rotation": np.pi / 2, "offset": [0, 1], "texCoord": 3}
    gltf.material["baseColorTexture"]["extensions"] = {name: turn}
    gltf.tree["extensionsRequired"] = [name]
    # (u, v) goes to (v, 1 - u)
    of_picture(write(tmp_path, "a.glb", gltf.glb()))
    has["TEXCOORD_0"] = gltf.add(np.float32([[0, 4], [2, 4], [2, 2], [0, 2]]))
    gltf.material["baseColorTexture"]["extensions"] = {
        name: {"scale": [0.5, 0.5], "offset": [0, -1]}
    }
    of_picture(write(tmp_path, "a.glb", gltf.glb()))


def test_the_other_kind_of_material(tmp_path, gltf):
    gltf.tree["materials"] = [
        {
            "extensions": {
                "KHR_materials_pbrSpecularGlossiness": {
                    "diffuseFactor": [1, 0.5, 1, 1],
                    "diffuseTexture": {"index": 0},
                }
            }
        }
    ]
    gltf.tree["extensionsRequired"] = ["KHR_materials_pbrSpecularGlossiness"]
    place, colour = read(write(tmp_path, "a.glb", gltf.glb()))
    lit(colour, quarter(place) * [1, 0.5, 1])


def test_light_that_a_black_material_emits(tmp_path, gltf):
    gltf.tree["materials"] = [
        {
            "pbrMetallicRoughness": {"baseColorFactor": [0, 0, 0, 1]},
            "emissiveFactor": [1, 0.5, 1],
            "emissiveTexture": {"index": 0},
        }
    ]
    place, colour = read(write(tmp_path, "a.glb", gltf.glb()))
    lit(colour, quarter(place) * [1, 0.5, 1])


def test_points_beside_surfaces_are_told(tmp_path, capsys):
    scene = trimesh.Scene([mesh(), trimesh.PointCloud(VERTICES + 9)])
    place, _ = read(export(scene, tmp_path, "glb"))
    assert place.max() < 1.001
    assert (
        "mesh.glb: 81 points beside its surfaces are left out"
        in capsys.readouterr().err
    )
    Points().accept(scene)
    assert "81 points beside its surfaces are left out" in capsys.readouterr().err


def test_nodes_below_nodes(tmp_path, gltf):
    turn = [0, 0, np.sin(np.pi / 4), np.cos(np.pi / 4)]  # about z, by a quarter
    matrix = np.eye(4)
    matrix[:3, 3] = [0, 0, 7]
    gltf.tree["nodes"] = [{"children": [1, 2], "translation": [10, 0, 0], "scale": [2, 2, 2]}, {"mesh": 0, "rotation": turn},
                          {"children": [3], "matrix": matrix.T.ravel().tolist(), "camera": 0}, {"mesh": 0}]  # fmt: skip
    place, colour = read(write(tmp_path, "a.glb", gltf.glb()))
    below = place[:, 2] < 1
    assert below.mean() == pytest.approx(0.5, abs=0.03)
    x, y = (place[below, 0] - 10) / 2, place[below, 1] / 2
    np.testing.assert_allclose(colour[below], quarter(np.stack([y, -x], 1)), atol=1e-6)
    np.testing.assert_allclose(place[~below].min(0), [10, 0, 14], atol=0.05)


# 3MF, which trimesh writes without colours

CORE = "http://schemas.microsoft.com/3dmanufacturing/core/2015/02"
MATERIALS = "http://schemas.microsoft.com/3dmanufacturing/material/2015/02"
PRODUCTION = "http://schemas.microsoft.com/3dmanufacturing/production/2015/06"
SQUARE = (
    "<vertices>"
    + "".join(
        f'<vertex x="{x}" y="{y}" z="0"/>' for x, y in [(0, 0), (1, 0), (1, 1), (0, 1)]
    )
    + "</vertices>"
)
HALVES = ('v1="0" v2="1" v3="2"', 'v1="0" v2="2" v3="3"')
BUILD = '<build><item objectid="1"/></build>'


def three_mf(resources="", of_object="", halves=("", ""), build=BUILD, **others):
    """A 3MF file of the unit square in two triangles; `others` are further files in it."""
    triangles = "".join(
        f"<triangle {h} {more}/>" for h, more in zip(HALVES, halves, strict=True)
    )
    model = (
        f'<?xml version="1.0"?><model unit="millimeter" xmlns="{CORE}" xmlns:m="{MATERIALS}" '
        f'xmlns:p="{PRODUCTION}"><resources>{resources}<object id="1" {of_object}><mesh>{SQUARE}'
        f"<triangles>{triangles}</triangles></mesh></object></resources>{build}</model>"
    )
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("3D/3dmodel.model", model)
        for name, content in others.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), content)
    return file.getvalue()


TWO = (
    '<basematerials id="7"><base name="a" displaycolor="#FF0000"/>'
    '<base name="b" displaycolor="#0000FF80"/></basematerials>'
)


def test_base_materials_of_a_3mf(tmp_path):
    content = three_mf(TWO, 'pid="7" pindex="1"', ("", 'pid="7" p1="0"'))
    place, colour = read(write(tmp_path, "a.3mf", content))
    above = place[:, 1:2] > place[:, :1]
    np.testing.assert_array_equal(colour, np.where(above, [[1, 0, 0]], [[0, 0, 1]]))


def test_colours_of_corners_in_a_3mf(tmp_path):
    colours = "".join(
        f'<m:color color="#{c}"/>' for c in ("000000", "FF0000", "FFFF00", "00FF00")
    )
    group = f'<m:colorgroup id="3">{colours}</m:colorgroup>'
    halves = ('p1="0" p2="1" p3="2"', 'pid="3" p1="0" p2="2" p3="3"')
    place, colour = read(
        write(tmp_path, "a.3mf", three_mf(group, 'pid="3" pindex="0"', halves))
    )
    np.testing.assert_allclose(colour[:, :2], place[:, :2], atol=1e-6)


def test_a_picture_in_a_3mf(tmp_path, capsys):
    group = (
        '<m:texture2d id="4" path="/3D/Textures/A.png" contenttype="image/png"/>'
        '<m:texture2dgroup id="5" texid="4">'
        + "".join(
            f'<m:tex2coord u="{u}" v="{v}"/>'
            for u, v in [(0, 0), (1, 0), (1, 1), (0, 1)]
        )
        + "</m:texture2dgroup>"
    )
    halves = ('pid="5" p1="0" p2="1" p3="2"', 'pid="5" p1="0" p2="2" p3="3"')
    of_picture(
        write(
            tmp_path,
            "a.3mf",
            three_mf(group, "", halves, **{"3D__Textures__a_png": picture()}),
        )
    )
    assert not capsys.readouterr().err
    _, colour = read(write(tmp_path, "gone.3mf", three_mf(group, "", halves)))
    np.testing.assert_array_equal(colour, np.full(colour.shape, 0.5, np.float32))
    assert (
        "gone.3mf: its picture '3D/Textures/A.png' cannot be read"
        in capsys.readouterr().err
    )


def test_parts_of_a_3mf_in_other_files_and_places(tmp_path):
    part = (
        f'<model xmlns="{CORE}"><resources><object id="9"><mesh>{SQUARE}<triangles>'
        f"<triangle {HALVES[0]}/></triangles></mesh></object></resources></model>"
    )
    built = (
        '<object id="2"><components><component objectid="1" transform="0 1 0 -1 0 0 0 0 1 10 0 0"/>'
        '<component p:path="/3D/other.model" objectid="9"/></components></object>'
    )
    build = '<build><item objectid="2" transform="2 0 0 0 2 0 0 0 2 0 0 5"/></build>'
    content = three_mf(
        TWO + built, 'pid="7" pindex="0"', build=build, **{"3D__other_model": part}
    )
    place, colour = read(write(tmp_path, "a.3mf", content))
    turned = place[:, 0] > 10
    assert turned.mean() == pytest.approx(2 / 3, abs=0.03)
    np.testing.assert_allclose(place[turned].min(0), [18, 0, 5], atol=0.05)
    np.testing.assert_allclose(place[turned].max(0), [20, 2, 5], atol=0.05)
    np.testing.assert_array_equal(
        colour[turned], np.broadcast_to([1, 0, 0], (turned.sum(), 3))
    )
    np.testing.assert_array_equal(colour[~turned], np.full(((~turned).sum(), 3), 0.5))


def test_what_is_not_built_is_not_shown_and_mixtures_are_told(tmp_path, capsys):
    refused(
        write(tmp_path, "a.3mf", three_mf(build="<build/>")), "neither faces nor points"
    )
    mixture = '<m:multiproperties id="8" pids="7"/>'
    _, colour = read(
        write(tmp_path, "b.3mf", three_mf(TWO + mixture, 'pid="8" pindex="0"'))
    )
    assert (colour == 0.5).all()
    assert "b.3mf: mixtures of its materials are not read" in capsys.readouterr().err


BROKEN_3MF = {
    "another object": ({"build": '<build><item objectid="6"/></build>'}, "damaged 3MF"),
    "an attribute twice": ({"halves": ('v1="9"', "")}, "damaged 3MF"),
    "a word for a number": ({"of_object": 'pid="7" pindex="one"'}, "one"),
    "a part of itself": (
        {
            "resources": '<object id="2"><components><component objectid="2"/></components></object>',
            "build": '<build><item objectid="2"/></build>',
        },
        "a part of itself",
    ),
    "twelve numbers": (
        {"build": '<build><item objectid="1" transform="1 2"/></build>'},
        "reshape",
    ),
    "a tag that is open": ({"resources": "<object>"}, "damaged 3MF"),
}


@pytest.mark.parametrize(("parts", "match"), BROKEN_3MF.values(), ids=BROKEN_3MF)
def test_3mfs_that_are_refused(tmp_path, parts, match):
    refused(write(tmp_path, "a.3mf", three_mf(**parts)), match)


BROKEN = {
    "another version": (lambda tree: tree["asset"].update(version="1.0"), "glTF 1.0"),
    "compressed": (
        lambda tree: tree.update(extensionsRequired=["KHR_draco_mesh_compression"]),
        "KHR_draco_mesh_compression",
    ),
    "a circle of nodes": (
        lambda tree: tree["nodes"][0].update(children=[0]),
        "shown twice",
    ),
    "no such node": (lambda tree: tree["scenes"][0].update(nodes=[7]), "damaged glTF"),
    "a node before the first": (
        lambda tree: tree["scenes"][0].update(nodes=[-1]),
        "damaged glTF",
    ),
    "no such mesh": (lambda tree: tree["nodes"][0].update(mesh=7), "damaged glTF"),
    "nothing shown": (
        lambda tree: tree["scenes"][0].update(nodes=[]),
        "neither faces nor points",
    ),
    "too many numbers": (
        lambda tree: tree["accessors"][0].update(count=10**15),
        "allowed are",
    ),
    "numbers beyond the end": (
        lambda tree: tree["accessors"][0].update(count=4000),
        "beyond the end",
    ),
    "numbers before the beginning": (
        lambda tree: tree["accessors"][0].update(byteOffset=-4),
        "beyond the end",
    ),
    "no count": (
        lambda tree: tree["accessors"][0].update(count="4"),
        "allowed are|damaged",
    ),
    "an unknown kind": (
        lambda tree: tree["accessors"][0].update(componentType=1),
        "damaged glTF",
    ),
    "faces of others": (
        lambda tree: tree["accessors"][0].update(count=2),
        "not there|as many",
    ),
    "a view beyond the end": (
        lambda tree: tree["bufferViews"][0].update(byteLength=10**9),
        "beyond the end",
    ),
    "a buffer that is not whole": (
        lambda tree: tree["buffers"][0].update(byteLength=10**9),
        "truncated",
    ),
    "a list for an object": (lambda tree: tree.update(meshes=[[]]), "damaged glTF"),
    "another shape": (
        lambda tree: tree["nodes"][0].update(matrix=[1, 2]),
        "damaged glTF|cannot reshape",
    ),
}


@pytest.mark.parametrize(("change", "match"), BROKEN.values(), ids=BROKEN)
def test_gltfs_that_are_refused(tmp_path, gltf, change, match):
    uri = "data:;base64," + base64.b64encode(gltf.binary).decode()
    tree = json.loads(gltf.gltf(uri))
    change(tree)
    refused(write(tmp_path, "a.gltf", json.dumps(tree)), match)


def test_glbs_that_are_cut(tmp_path, gltf):
    whole = gltf.glb()
    for kept in range(0, len(whole), 97):
        refused(write(tmp_path, "a.glb", whole[:kept]), "GLB|truncated")


def test_a_picture_that_cannot_be_read_is_told(tmp_path, gltf, capsys):
    for number, image in enumerate(
        (
            {"bufferView": gltf.view(b"\x89PNG\r\n\x1a\n")},
            {"uri": "gone.png"},
            {},
            {"uri": "data:;base64,////"},
        )
    ):
        gltf.tree["images"] = [image]
        gltf.material["baseColorFactor"] = [1, 0.4, 0, 1]
        _, colour = read(write(tmp_path, f"{number}.glb", gltf.glb()))
        lit(colour, [1, 0.4, 0])
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert f"{number}.glb: " in err


# Surfaces that are hardly any


def test_faces_without_a_place_are_left_out_and_counted(tmp_path, capsys):
    text = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv nan 0 0\nv inf 0 0\nv 1e30 0 0\nf 1 2 3\nf 1 2 4\nf 1 2 5\nf 1 2 6\n"
    place, _ = read(write(tmp_path, "a.obj", text))
    assert (place.sum(1) <= 1 + 1e-6).all()
    assert (
        "a.obj: 3 of 4 faces have corners without a finite place, and are left out"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("corners", ["0 0 0", "1 2 3"])
def test_faces_without_an_area(tmp_path, corners):
    place, _ = read(write(tmp_path, "a.obj", f"v {corners}\n" * 3 + "f 1 2 3\n"))
    np.testing.assert_allclose(
        place, np.broadcast_to(np.array(corners.split(), float), place.shape), atol=1e-6
    )
    text = "v 0 0 0\nv 1 0 0\nv 2 0 0\nv 0 0 5\nv 1 0 5\nv 0 1 5\nf 1 2 3\nf 4 5 6\n"
    place, _ = read(write(tmp_path, "b.obj", text))
    assert (place[:, 2] == 5).all()  # by area


def test_a_surface_of_a_large_map_keeps_its_shape(tmp_path):
    far = VERTICES + np.array([5e6, 4e6, 0])
    place, _ = read(export(trimesh.Trimesh(far, FACES, process=False), tmp_path, "ply"))
    # Trimesh writes float32.
    np.testing.assert_allclose(np.ptp(place, axis=0), [1, 1, 0], atol=0.6)
    text = "".join(f"v {x!r} {y!r} {z!r}\n" for x, y, z in far.tolist()) + "".join(
        f"f {a} {b} {c}\n" for a, b, c in FACES + 1
    )
    place, _ = read(write(tmp_path, "a.obj", text))
    np.testing.assert_allclose(np.ptp(place, axis=0), [1, 1, 0], atol=0.01)


def test_points_are_spread_by_area_and_always_the_same(tmp_path):
    path = export(trimesh.creation.box((2, 2, 4)), tmp_path, "ply")
    place, _ = read(path)
    np.testing.assert_array_equal(read(path)[0], place)
    ends = np.abs(np.abs(place[:, 2]) - 2) < 1e-6
    assert ends.mean() == pytest.approx(8 / 40, abs=0.02)
    low, high = place[ends][:, :2].min(0), place[ends][:, :2].max(0)
    np.testing.assert_allclose([low, high], [[-1, -1], [1, 1]], atol=0.02)
    assert np.corrcoef(place[ends][:, :2].T)[0, 1] == pytest.approx(0, abs=0.1)


# Nothing elsewhere is read, nothing is missing without a word


ELSEWHERE = [
    "../secret.png",
    "../../secret.png",
    "{absolute}",
    "file://{absolute}",
    "maps/../../secret.png",
    "..\\secret.png",
    "http://127.0.0.1:9/secret.png",
    "~/secret.png",
]


@cache
def opened():
    """Paths of all files that this process opens from now on. No hook can be taken away, so there is one."""
    paths = []

    def note(event, arguments):
        if event == "open":
            paths.append(str(arguments[0]))

    sys.addaudithook(note)
    return paths


@pytest.mark.parametrize("name", ELSEWHERE)
@pytest.mark.parametrize("form", ["obj", "gltf", "ply", "dae"])
def test_no_file_elsewhere_is_read(tmp_path, gltf, name, form, capsys, monkeypatch):
    folder = tmp_path / "in" / "maps"
    folder.mkdir(parents=True)
    folder = folder.parent
    for place in (tmp_path, tmp_path / "in/.."):
        write(place, "secret.png", picture())
    monkeypatch.setenv("HOME", str(tmp_path))
    name = name.format(absolute=tmp_path / "secret.png")
    paths = opened()
    if form == "obj":
        write(folder, "a.mtl", MTL.format(name))
        path = write(
            folder,
            "a.obj",
            obj_square(f"mtllib a.mtl\nmtllib {name}\nusemtl paint\n".encode()),
        )
    elif form == "gltf":
        gltf.tree["images"] = [{"uri": name}]
        path = write(
            folder,
            "a.gltf",
            gltf.gltf("data:;base64," + base64.b64encode(gltf.binary).decode()),
        )
    elif form == "ply":
        path = write(
            folder,
            "a.ply",
            f"ply\nformat ascii 1.0\ncomment TextureFile {name}\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\nproperty float s\nproperty float t\nelement face 1\nproperty list uchar int vertex_indices\nend_header\n0 0 0 0 0\n1 0 0 1 0\n0 1 0 0 1\n3 0 1 2\n",
        )
    else:
        path = write(folder, "a.dae", collada(name))
    paths.clear()
    _, colour = read(path)
    assert len(np.unique(colour, axis=0)) == 1
    assert not [path for path in paths if path.endswith("secret.png")]
    assert form == "dae" or "is not beside it" in capsys.readouterr().err
    if form == "gltf":  # numbers are needed
        refused(write(folder, "b.gltf", GLTF().gltf(name)), "is not beside it")


def collada(picture):
    from tests.collada import SQUARE

    return SQUARE.format(picture=picture)


def test_collada_with_a_picture(tmp_path):
    write(tmp_path, "wood.png", picture())
    of_picture(write(tmp_path, "a.dae", collada("wood.png")))
    bomb = collada("wood.png").replace(
        "<COLLADA", '<!DOCTYPE x [<!ENTITY a "aaaa">]><COLLADA', 1
    )
    refused(write(tmp_path, "b.dae", bomb), "declares entities")


def test_a_picture_with_too_many_pixels_is_told(tmp_path, capsys):
    PIL.Image.new("1", (70_000, 1_000)).save(tmp_path / "wide.png")
    write(tmp_path, "a.mtl", MTL.format("wide.png"))
    _, colour = read(
        write(tmp_path, "a.obj", obj_square(b"mtllib a.mtl\nusemtl paint\n"))
    )
    np.testing.assert_allclose(
        colour, np.broadcast_to([1, 0.4, 0], colour.shape), atol=1e-6
    )
    assert "pixels, allowed are" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["a pipe", "a folder", "a device"])
def test_what_is_named_is_a_regular_file_or_not_read(tmp_path, what, capsys):
    if what == "a pipe":
        os.mkfifo(tmp_path / "wood.png")
    elif what == "a folder":
        (tmp_path / "wood.png").mkdir()
    else:
        (tmp_path / "wood.png").symlink_to("/dev/zero")
    write(tmp_path, "a.mtl", MTL.format("wood.png"))
    read(write(tmp_path, "a.obj", obj_square(b"mtllib a.mtl\nusemtl paint\n")))
    assert "is not beside it" in capsys.readouterr().err


@pytest.mark.parametrize(("form", "module"), [("stl", "trimesh"), ("dae", "collada")])
def test_a_library_that_is_missing_is_named_with_the_extra(
    tmp_path, monkeypatch, form, module
):
    path = export(mesh(), tmp_path, form)
    monkeypatch.setitem(sys.modules, module, None)
    refused(
        path, rf"needs {module}; install it with `{re.escape(str(Extra('points')))}`"
    )


def test_a_library_that_fails_says_what_failed(tmp_path, monkeypatch):
    path = export(mesh(), tmp_path, "stl")
    (tmp_path / "trimesh.py").write_text("raise OSError('libGL.so.1: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "trimesh")
    refused(path, r"cannot be imported \(OSError: libGL.so.1")


# Through the command line

ENCODING = """
model: {{class_path: flowbind.FlowBind, init_args: {{modalities: {{points: {{class_path: points}}, image: {{class_path: image}}}}}}}}
data: {{class_path: flowbind.data.latents.LatentDataModule, init_args: {{manifests: {{train: {data}/train.jsonl}}, store: {data}/latents}}}}
"""


@pytest.fixture
def folder(tmp_path, gltf):
    """Clouds and meshes of every suffix, three that are damaged, and a text that is a caption."""
    files = tmp_path / "files"
    for number, form in enumerate(
        ("ply", "obj", "stl", "off", "glb", "gltf", "dae", "3mf")
    ):
        (files / str(number)).mkdir(parents=True)
        export(textured(), files / str(number), form)
    some = np.eye(3).repeat(5, axis=0)
    np.save(files / "a.npy", some)
    np.savez(files / "b.npz", points=some, colors=(some * 255).astype(np.uint8))
    for name in ("c.xyz", "d.xyzrgb", "e.pts"):
        np.savetxt(files / name, np.concatenate([some, some], axis=1))
    head = "VERSION .7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 1\nHEIGHT 1\nPOINTS 1\nDATA ascii\n"
    write(files, "f.pcd", head + "0 0 0\n")
    write(files, "g.glb", gltf.glb()[:-40])
    write(files, "h.obj", "v 0 0 0\nf 1 2 3\n")
    write(files, "i.ply", b"ply\n")
    write(files, "a.txt", "a caption")
    return files


def test_a_folder_of_meshes_is_prepared_and_encoded(tmp_path, folder, command):
    code, _, err = command(
        "prepare",
        "folder",
        "--source",
        folder,
        "--out",
        tmp_path / "data",
        "--val",
        0,
        "--test",
        0,
    )
    assert code == 0, err
    recipe = write(tmp_path, "recipe.yaml", ENCODING.format(data=tmp_path / "data"))
    code, _, err = command("encode", "--config", recipe, "--skip-bad", 2)
    assert (code, "more than the 2 that --skip-bad allows" in err) == (2, True), err
    assert "Traceback" not in err
    code, _, err = command("encode", "--config", recipe, "--skip-bad", 3)
    assert code == 0, err
    for name in ("g.glb", "h.obj", "i.ply"):
        assert f"{folder / name}: " in err.replace(
            f"{tmp_path / 'data'}/../", f"{tmp_path}/"
        ), err
    assert "3 samples could not be read and are left out" in err


def test_pix3d_with_its_materials(tmp_path, command):
    """The points of a mesh are coloured by the picture that its material names."""
    from flowbind.data.manifest import Manifest

    model = tmp_path / "pix3d/model/bed/MALM"
    model.mkdir(parents=True)
    (tmp_path / "pix3d/img/bed").mkdir(parents=True)
    write(tmp_path / "pix3d/img/bed", "1.png", picture())
    export(textured(), model, "obj")
    entry = {
        "img": "img/bed/1.png",
        "model": "model/bed/MALM/mesh.obj",
        "category": "bed",
    }
    write(tmp_path / "pix3d", "pix3d.json", json.dumps([entry]))
    code, _, err = command(
        "prepare",
        "pix3d",
        "--source",
        tmp_path / "pix3d",
        "--out",
        tmp_path / "data",
        "--val",
        0,
        "--test",
        0,
    )
    assert code == 0, err
    manifest = Manifest.read(tmp_path / "data/train.jsonl", ["image", "points"])
    place, colour = np.split(
        manifest.read_raw(manifest.samples[0], "points", Points()).numpy(), 2, axis=1
    )
    np.testing.assert_allclose(colour, quarter(place), atol=1e-6)


def test_comments_behind_numbers_of_an_obj(tmp_path):
    lines = "v 0 0 0 # a\nv 1 0 0\t# b\nv 0 1 0\nusemtl # 3\nf 1 2 3 # c\n"
    assert read(write(tmp_path, "a.obj", lines))[0].max() <= 1
    refused(
        write(tmp_path, "b.obj", lines.replace("0 # a", "x # a")), "else where numbers"
    )
