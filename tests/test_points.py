"""Laws of the points plugin: files, Chamfer distance, the small codec, its training and its pictures."""

from functools import cache

import numpy as np
import pytest
import torch
from flowbind_points import Points
from flowbind_points.chamfer import chamfer, nearest
from flowbind_points.small import POINTS, SmallPoints
from flowbind_points.training import PointsCodecTraining
from scipy.spatial import cKDTree
from torch import Tensor

from flowbind.data.raw import RawBatch


def cloud(count: int = POINTS, seed: int = 0, radius: float = 0.8) -> Tensor:
    """Points on a sphere, each with a colour that 8 bits hold exactly."""
    generator = torch.Generator().manual_seed(seed)
    place = (
        torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
        * radius
    )
    colour = torch.randint(256, (count, 3), generator=generator) / 255
    return torch.cat([place, colour], dim=1)


@pytest.fixture(scope="module")
def points() -> Points:
    return Points()


def ply(
    encoding: str, rows: list[tuple], properties: str, count: int | None = None
) -> bytes:
    """A PLY file of points, written from the format's definition."""
    lines = [f"property {part}" for part in properties.split(", ")]
    header = [
        "ply",
        f"format {encoding} 1.0",
        "comment made by hand",
        f"element vertex {len(rows) if count is None else count}",
    ]
    head = "\n".join([*header, *lines, "end_header", ""]).encode()
    if encoding == "ascii":
        return (
            head
            + "\n".join(" ".join(str(value) for value in row) for row in rows).encode()
            + b"\n"
        )
    codes = {"float": "f4", "double": "f8", "uchar": "u1", "ushort": "u2"}
    order = "<" if "little" in encoding else ">"
    kinds = [
        (part.split()[1], order + codes[part.split()[0]])
        for part in properties.split(", ")
    ]
    return head + np.array(rows, dtype=kinds).tobytes()


# Files


def test_what_was_written_is_read(points, tmp_path):
    raw = cloud()
    points.write(raw, tmp_path / "a.ply")
    assert [file.name for file in tmp_path.iterdir()] == ["a.ply"]
    read = points.read(tmp_path / "a.ply")
    assert read.dtype == torch.float32
    assert torch.equal(read, raw)
    # Between and beyond 8 bits.
    points.write(
        raw[:, :] + torch.tensor([0, 0, 0, 0.3 / 255, 5, -5]), tmp_path / "a.ply"
    )
    assert torch.equal(points.read(str(tmp_path / "a.ply"))[:, 3], raw[:, 3])
    assert torch.equal(
        points.read(tmp_path / "a.ply")[:, 4:].unique(), torch.tensor([0.0, 1.0])
    )


def test_a_written_file_is_what_others_read(points, tmp_path):
    trimesh = pytest.importorskip("trimesh")
    raw = cloud(50)
    points.write(raw, tmp_path / "a.ply")
    other = trimesh.load(tmp_path / "a.ply")
    assert np.array_equal(other.vertices.astype(np.float32), raw[:, :3].numpy())
    assert np.array_equal(other.colors[:, :3], (raw[:, 3:] * 255).round().numpy())


@pytest.mark.parametrize(
    "encoding", ["ascii", "binary_little_endian", "binary_big_endian"]
)
@pytest.mark.parametrize(
    ("properties", "rows", "colour"),
    [
        ("float x, float y, float z", [(1.5, -2, 3)], (0.5, 0.5, 0.5)),
        (
            "double z, double y, double x, uchar red, uchar green, uchar blue",
            [(3, -2, 1.5, 255, 0, 51)],
            (1, 0, 0.2),
        ),
        (
            "float x, float y, float z, ushort red, ushort green, ushort blue",
            [(1.5, -2, 3, 65535, 0, 13107)],
            (1, 0, 0.2),
        ),
        (
            "float x, float y, float z, float nx, float red, float green, float blue",
            [(1.5, -2, 3, 9, 1, 0, 0.2)],
            (1, 0, 0.2),
        ),
    ],
)
def test_every_encoding_of_ply(points, tmp_path, encoding, properties, rows, colour):
    (tmp_path / "a.ply").write_bytes(ply(encoding, rows * 4, properties))
    read = points.read(tmp_path / "a.ply")
    assert torch.allclose(read, torch.tensor([[1.5, -2, 3, *colour]] * 4))


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".stl", ".off"])
def test_a_mesh_is_sampled_on_its_surface(points, tmp_path, suffix):
    trimesh = pytest.importorskip("trimesh")
    file = tmp_path / f"box{suffix}"
    trimesh.creation.box(extents=(2, 2, 4)).export(file)
    read = points.read(file)
    assert torch.equal(read, points.read(file))
    assert (read[:, 3:] == 0.5).all()
    assert torch.allclose(
        (read[:, :3].abs() - torch.tensor([1, 1, 2])).abs().amin(1),
        torch.zeros(len(read)),
        atol=1e-6,
    )
    ends = ((read[:, 2].abs() - 2).abs() < 1e-6).float().mean()
    assert ends == pytest.approx(8 / 40, abs=0.03)  # by area


def test_a_mesh_gives_its_colours(points, tmp_path):
    trimesh = pytest.importorskip("trimesh")
    box = trimesh.creation.box()
    box.visual.face_colors = [51, 0, 255, 255]
    box.export(tmp_path / "a.ply")
    assert torch.allclose(
        points.read(tmp_path / "a.ply")[:, 3:], torch.tensor([0.2, 0, 1])
    )


@pytest.mark.parametrize("kept", [0, 2, 30, 150, 190, 400, -1])
@pytest.mark.parametrize("encoding", ["ascii", "binary_little_endian"])
def test_truncated_points_are_refused(points, tmp_path, encoding, kept):
    rows = [(0.25, 0.5, 0.75)] * 40
    content = ply(encoding, rows, "float x, float y, float z")
    cut = (
        content[: content.rindex(b" ")]
        if encoding == "ascii" and kept == -1
        else content[:kept]
    )
    (tmp_path / "cut.ply").write_bytes(cut)
    refused(points, tmp_path / "cut.ply")


@pytest.mark.parametrize("suffix", [".ply", ".stl", ".off"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_meshes_are_refused(points, tmp_path, suffix, share):
    trimesh = pytest.importorskip("trimesh")
    file = tmp_path / f"cut{suffix}"
    trimesh.creation.icosphere(1).export(file)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    refused(points, file)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.ply", b"\x89PNG\r\n\x1a\n" * 20),
        ("a.ply", ply("ascii", [(1, 2)], "float x, float y")),
        ("a.ply", ply("ascii", [(1, "two", 3)], "float x, float y, float z")),
        ("a.ply", ply("ascii", [(1, "nan", 3)], "float x, float y, float z")),
        ("a.ply", ply("ascii", [], "float x, float y, float z")),
        ("a.ply", b"ply\nformat ascii 1.0\nelement vertex many\nend_header\n"),
        ("a.ply", b"ply\nformat ascii 1.0\nelement vertex 1\nproperty quad x\nend_header\n1\n"),
        ("a.ply", b"ply\nelement vertex 1\nproperty float x\nend_header\n1\n"),
        ("a.ply", b"ply\nformat ascii 1.0\nelement vertex -1\nproperty float x\nproperty float y\nproperty float z\nend_header\n1\n"),
        ("a.obj", b"v 0 0 0\nv 1 0\n"),
        ("a.obj", b"v nan nan nan\n"),
        ("a.obj", b"vt 0 0\nf 1 2 3\n"),
        ("a.stl", b"\x00\xff" * 300),
        ("a.png", b"\x89PNG"),
    ],
)  # fmt: skip
def test_damaged_files_are_refused(points, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    refused(points, tmp_path / name)


def refused(points: Points, file) -> None:
    with pytest.raises(ValueError, match=file.name) as error:
        points.read(file)
    assert "\n" not in str(error.value)


def test_a_missing_file_says_so(points, tmp_path):
    with pytest.raises(FileNotFoundError):
        points.read(tmp_path / "none.ply")


# Chamfer distance


def test_chamfer_is_what_its_docstring_says():
    a, b = (
        torch.randn(11, n, 3, generator=torch.Generator().manual_seed(n))
        for n in (40, 70)
    )
    expected = []
    for x, y in zip(a.numpy(), b.numpy(), strict=True):
        expected.append(
            (cKDTree(y).query(x)[0].mean() + cKDTree(x).query(y)[0].mean()) / 2
        )
    assert torch.allclose(
        chamfer(a, b), torch.tensor(expected, dtype=torch.float32), atol=1e-5
    )
    to_b, to_a = nearest(a, b)
    assert np.array_equal(to_b[-1], cKDTree(b[-1]).query(a[-1])[1])
    assert np.array_equal(to_a[-1], cKDTree(a[-1]).query(b[-1])[1])


def test_chamfer_is_symmetric_and_zero_for_the_same_points():
    a, b = (
        torch.rand(2, 30, 3, dtype=torch.float64),
        torch.rand(2, 50, 3, dtype=torch.float64),
    )
    assert torch.allclose(chamfer(a, b), chamfer(b, a))
    assert torch.allclose(
        chamfer(a, a[:, torch.randperm(30)]), torch.zeros(2, dtype=torch.float64)
    )
    assert torch.allclose(chamfer(a * 3, b * 3), 3 * chamfer(a, b))  # world units


def test_chamfer_gradient():
    a = torch.rand(2, 6, 3, dtype=torch.float64, requires_grad=True)
    b = torch.rand(2, 9, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(chamfer, (a, b))


# The codec


@pytest.fixture(scope="module")
def codec() -> SmallPoints:
    return SmallPoints()


def test_shapes_and_ranges(codec):
    raws = [cloud(seed=seed) for seed in range(3)]
    latents = codec.encode(raws)
    assert latents.shape == (3, *codec.shape)
    assert latents.dtype == codec.dtype
    decoded = codec.decode(latents)
    assert [raw.shape for raw in decoded] == [(POINTS, 6)] * 3
    assert all(
        raw.isfinite().all() and raw[:, 3:].min() >= 0 and raw[:, 3:].max() <= 1
        for raw in decoded
    )
    assert codec.encode(decoded).isfinite().all()


def test_one_alone_equals_one_among_many(codec):
    raws = [cloud(seed=seed, radius=0.3 + 0.05 * seed) for seed in range(11)]
    latents = codec.encode(raws)
    assert torch.allclose(codec.encode(raws[9:10]), latents[9:10], atol=1e-5)
    assert torch.equal(codec.encode(raws), latents)
    assert torch.equal(codec.decode(latents[9:10])[0], codec.decode(latents)[9])


def test_the_order_of_points_does_not_matter(codec):
    raw = cloud()
    shuffled = raw[torch.randperm(POINTS, generator=torch.Generator().manual_seed(1))]
    assert torch.allclose(codec.encode([raw]), codec.encode([shuffled]), atol=1e-4)


@pytest.mark.parametrize("count", [1, 500, 5000])
def test_any_number_of_points(codec, count):
    assert codec.prepare([cloud(count)]).shape == (1, POINTS, 6)
    assert codec.encode([cloud(count)]).isfinite().all()
    few = cloud(512)
    assert torch.allclose(
        codec.encode([few]), codec.encode([few.repeat_interleave(2, 0)]), atol=1e-5
    )


def test_scale_is_of_the_world(codec):
    raw = cloud()
    metric = torch.tensor([1000.0] * 3 + [1] * 3)
    millimetres = SmallPoints(scale=1000)
    latents = millimetres.encode([raw * metric])
    assert torch.allclose(latents, codec.encode([raw]), atol=1e-4)
    assert torch.allclose(
        millimetres.decode(latents)[0], codec.decode(latents)[0] * metric, rtol=1e-5
    )
    with pytest.raises(ValueError, match="scale is 0"):
        SmallPoints(scale=0)


def test_fingerprint(codec, tmp_path):
    prints = [codec.fingerprint(), SmallPoints(scale=2).fingerprint()]
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(codec.file.read_bytes())
    assert (
        SmallPoints(weights=str(copy)).fingerprint()["weights"] == prints[0]["weights"]
    )
    copy.write_bytes(codec.file.read_bytes() + b" ")
    prints.append(SmallPoints(weights=str(copy)).fingerprint())
    assert len({str(sorted(one.items())) for one in prints}) == 3


def test_shipped_weights_are_small(codec):
    assert codec.file.stat().st_size <= 2e6


def test_shipped_codec_keeps_shape_colour_and_size(codec):
    from flowbind_shapes.points import sample
    from flowbind_shapes.scene import SHAPES, draw
    from flowbind_shapes.solids import SOLIDS

    generator = np.random.default_rng(5)
    scenes = draw(100, generator)
    vertices = [
        sample(SOLIDS[SHAPES[k]], scenes.take(np.array([i])), generator)[0]
        for i, k in enumerate(scenes.shape)
    ]
    raws = [
        torch.tensor(
            np.stack(
                [
                    v["x"],
                    v["y"],
                    v["z"],
                    v["red"] / 255,
                    v["green"] / 255,
                    v["blue"] / 255,
                ],
                1,
            )
        ).float()
        for v in vertices
    ]
    decoded = codec.decode(codec.encode(raws))
    true, made = torch.stack(raws), torch.stack(decoded)
    radius = true[..., :3].norm(dim=2).mean(1), made[..., :3].norm(dim=2).mean(1)
    # Sizes are 1.5 apart.
    assert torch.allclose(radius[1] / radius[0], torch.ones(100), atol=0.12)
    assert (true[..., 3:].mean(1) - made[..., 3:].mean(1)).abs().max() < 0.15
    size = radius[0][:, None, None]
    few = [(cloud[:, ::8, :3] / size) for cloud in (made, true)]
    pairs = few[0].repeat_interleave(100, dim=0), few[1].repeat(100, 1, 1)
    distance = chamfer(*pairs)
    closest = distance.view(100, 100).argmin(1).numpy()
    assert (scenes.shape[closest] == scenes.shape).mean() > 0.95


@pytest.mark.parametrize("shape", ["cube", "star"])
def test_shipped_codec_keeps_corners(codec, shape):
    """A barrel, or a star without points, reaches less far than its mean distance tells."""
    from flowbind_shapes.points import sample
    from flowbind_shapes.scene import SHAPES, Scenes
    from flowbind_shapes.solids import SOLIDS

    number = np.full(24, SHAPES.index(shape))
    scenes = Scenes(number, np.arange(24) % 8, np.arange(24) % 3)
    vertices = sample(SOLIDS[shape], scenes, np.random.default_rng(1))
    axes = [vertices[name] for name in ("x", "y", "z", "red", "green", "blue")]
    raws = torch.tensor(np.stack(axes, axis=2)) / torch.tensor([1, 1, 1] + [255.0] * 3)
    decoded = torch.stack(codec.decode(codec.encode(list(raws))))

    reach = []
    for clouds in (raws, decoded):
        distance = (clouds - clouds.mean(1, keepdim=True))[..., :3].norm(dim=2)
        reach.append(distance.quantile(0.99, dim=1) / distance.mean(1))
    assert torch.allclose(*reach, atol=0.1)
    assert chamfer(raws[..., :3], decoded[..., :3]).mean() < 0.037


# Training


@pytest.fixture(scope="module")
def raws() -> list[torch.Tensor]:
    return [cloud(seed=seed, radius=0.3 + 0.1 * (seed % 8)) for seed in range(8)]


@pytest.fixture(scope="module")
def trained(raws, tmp_path_factory):
    """What ninety steps on these clouds give, by the weight of the cycle and the share of still steps."""
    from lightning.pytorch import Trainer, seed_everything
    from torch.utils.data import DataLoader

    @cache
    def train(cycle: float, still: float = 0.6) -> PointsCodecTraining:
        seed_everything(0)
        weights = str(tmp_path_factory.mktemp("trained") / "trained.safetensors")
        codec = SmallPoints(weights=weights)
        training = PointsCodecTraining(
            codec, weights, learning_rate=3e-3, compared=64, cycle=cycle, still=still
        )
        inputs = codec.training_inputs(raws)
        loader = DataLoader(
            [RawBatch.of(inputs, step=step) for step in range(90)], batch_size=None
        )
        quiet = dict.fromkeys(
            (
                "logger",
                "enable_checkpointing",
                "enable_progress_bar",
                "enable_model_summary",
            ),
            False,
        )
        Trainer(max_steps=90, accelerator="cpu", limit_val_batches=1, **quiet).fit(
            training, loader, loader
        )
        return training.eval()

    return train


def test_training_lowers_the_loss_and_exports(raws, trained):
    training = trained(cycle=0.0)
    (clouds,) = training.codec.training_inputs(raws)

    def loss(net) -> float:
        training.net, kept = net, training.net
        errors = training.errors(RawBatch.of([clouds]), 0.0)["reconstruction"]
        training.net = kept
        return errors.mean().item()

    assert loss(training.net) < loss(training.codec.build().eval()) * 2 / 3
    made = torch.stack(training.codec.decode(training.codec.encode(raws)))
    again = training.net.decode(training.net.encode(clouds))
    assert torch.allclose(made[..., :3], again[..., :3], atol=0.02)  # float16


def test_learned_clouds_begin_as_real_ones_and_stay_until_turns_are_learned(raws):
    """They are those of the first batch, each moved to its middle, at radius 1."""
    net = SmallPoints().build()
    clouds = torch.stack(raws)
    net.begin(clouds + torch.tensor([7.0, 0, 0, 0, 0, 0]))
    mean = clouds.mean(1, keepdim=True)
    radius = (clouds - mean)[..., :3].square().sum(2).mean(1).sqrt()
    expected = (clouds - mean)[..., :3] / radius[:, None, None]
    assert torch.allclose(net.learned[: len(raws), :, :3], expected, atol=1e-5)
    assert torch.allclose(
        net.rest.bias[:3], mean[..., :3].mean(0)[0] + torch.tensor([7.0, 0, 0])
    )
    assert torch.allclose(net.rest.bias[6].exp(), radius.log().mean().exp())


def test_learned_clouds_move_after_the_still_steps_alone(raws, trained):
    first = SmallPoints().build()
    first.begin(torch.stack(raws))
    still, moved = (trained(0.0, share).net.learned for share in (1.0, 0.0))
    assert torch.equal(still, first.learned)
    assert (moved - first.learned).abs().max() > 0.01


def test_the_cycle_leads_back_latents_that_went_astray(raws, trained):
    lost = []
    for cycle in (0.0, 0.3):
        training = trained(cycle=cycle)
        net = training.net
        latents = net.encode(*training.codec.training_inputs(raws))
        noise = 0.4 * torch.randn(
            latents.shape, generator=torch.Generator().manual_seed(0)
        )
        lost.append(
            (net.encode(net.decode(latents + noise)) - latents).square().mean().item()
        )
    assert lost[1] < lost[0] * 2 / 3


# Pictures


def test_preview(points):
    small, large = (
        np.asarray(points.preview(cloud(radius=radius))) for radius in (0.3, 0.9)
    )
    assert small.shape == large.shape == (128, 128, 3)
    ink = [(picture != 255).any(-1) for picture in (small, large)]
    # The area of a ball.
    assert ink[1].sum() / ink[0].sum() == pytest.approx(9, rel=0.2)
    assert all(abs(np.argwhere(one).mean(0) - 63.5).max() < 1.5 for one in ink)


def test_preview_shows_what_is_nearest(points):
    place = torch.rand(400, 2, generator=torch.Generator().manual_seed(0)) - 0.5
    red = torch.cat(
        [place, torch.full((400, 1), 0.5), torch.tensor([[1.0, 0, 0]]).expand(400, 3)],
        1,
    )
    blue = red * torch.tensor([1, 1, -1, 0, 0, 0]) + torch.tensor([0, 0, 0, 0, 0, 1])
    picture = np.asarray(points.preview(torch.cat([red, blue]))).astype(int)
    middle = picture[30:50, 54:74]
    assert (
        middle[..., 0] > middle[..., 2]
    ).mean() > 0.95  # the upper sheet covers the lower one from above


@pytest.mark.parametrize("count", [1, 2, 3])
def test_preview_of_a_few_points(points, count):
    assert (np.asarray(points.preview(cloud(count))) != 255).any()


def test_preview_of_points_out_of_sight(points):
    assert (np.asarray(points.preview(cloud(radius=50))) == 255).mean() > 0.5


@pytest.mark.parametrize("scale", [1e-12, 1e3, 1e12, 1e17])
def test_preview_of_clouds_of_any_size(points, scale):
    """Nothing overflows, and a cloud that is far larger than the picture takes no more than one that fills it."""
    large = cloud(20_000)
    large[:, :3] *= scale
    assert points.preview(large).size == (128, 128)


def test_preview_of_a_large_cloud_is_that_of_a_part(points):
    large, part = (
        np.asarray(points.preview(cloud(count))).astype(float)
        for count in (100_000, 4096)
    )
    ink = [(picture != 255).any(-1) for picture in (large, part)]
    assert ink[0].sum() / ink[1].sum() == pytest.approx(1, abs=0.03)
