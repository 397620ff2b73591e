"""Laws of the full-size codec of point clouds: its size, what its latents depend on, its training and its recipe."""

from pathlib import Path

import pytest
import torch
from flowbind_points import Points
from flowbind_points.autoencoder import PointAutoencoder
from flowbind_points.autoencoder_training import COLOUR, PointAutoencoderTraining
from flowbind_points.cloud import GREY
from flowbind_points.cloud_metrics import squared_chamfer
from flowbind_points.some import some
from flowbind_points.unit_sphere import to_unit_sphere
from torch import Tensor

from flowbind import draws
from flowbind.cli import main
from flowbind.data.raw import RawBatch
from flowbind.testing import check_modality
from flowbind.train.raw import export_weights
from tests.distribution import distribution

RECIPE = Path(__file__).parents[1] / "recipes" / "codecs" / "point_autoencoder.yaml"
TINY = {"points": 128, "latent": 16, "width": 64}


def solid(count: int = 128, seed: int = 0, colour: float = 0.4) -> Tensor:
    """Points on a stretched ball somewhere in the world, with shape (count, 6)."""
    generator = torch.Generator().manual_seed(seed)
    axes, middle = 1 + 4 * torch.rand(2, 3, generator=generator)
    place = (
        torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
        * axes
        + middle
    )
    return torch.cat([place, torch.full((count, 3), colour)], dim=1)


def meshes() -> dict:
    """A handful of trimesh's solids."""
    trimesh = pytest.importorskip("trimesh")
    make = trimesh.creation
    return {
        "box": make.box((1, 2, 3)),
        "flat": make.box((3, 3, 0.2)),
        "rod": make.cylinder(0.1, 4),
        "can": make.cylinder(1, 1),
        "cone": make.cone(1, 2),
        "ball": make.icosphere(2),
        "ring": make.torus(1, 0.3),
        "pill": make.capsule(2, 0.5),
    }


def untrained(folder: Path, **sizes) -> PointAutoencoder:
    """A tiny codec with fresh weights."""
    codec = PointAutoencoder(
        **TINY | sizes, weights=str(folder / "weights.safetensors")
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        export_weights(codec.build(), codec.file)
    return codec


@pytest.fixture(scope="module")
def codec(tmp_path_factory) -> PointAutoencoder:
    return untrained(tmp_path_factory.mktemp("codec"))


# Size


def test_the_size_of_record():
    codec = PointAutoencoder()
    assert codec.shape == (768,)
    with torch.device("meta"):
        net = codec.build()
        clouds = torch.empty(2, 2048, 3)
    points = sum(
        below * above + 3 * above
        for below, above in ((3, 128), (128, 256), (256, 512), (512, 1024))
    )
    dense = (1024, 1024), (1024, 768), (768, 1024), (1024, 2048), (2048, 3 * 2048)
    expected = points + sum(below * above + above for below, above in dense)
    assert sum(p.numel() for p in net.parameters()) == expected == 18_006_784
    assert net.encode(clouds).shape == (2, 768)
    assert net.decode(net.encode(clouds)).shape == clouds.shape


# Latents


def test_shapes_and_ranges(codec):
    raws = [solid(seed=seed) for seed in range(3)]
    latents = codec.encode(raws)
    assert latents.shape == (3, 16)
    decoded = codec.decode(1e3 * latents)
    assert [raw.shape for raw in decoded] == [(128, 6)] * 3
    assert all((raw[:, 3:] == GREY).all() for raw in decoded)


def test_the_order_of_points_does_not_matter(codec):
    raws = [solid(seed=seed) for seed in range(5)]
    order = torch.randperm(128, generator=torch.Generator().manual_seed(1))
    shuffled = codec.encode([raw[order] for raw in raws])
    torch.testing.assert_close(shuffled, codec.encode(raws), atol=2e-6, rtol=0)


def test_the_network_minds_no_repeated_points(codec):
    clouds = codec.prepare([solid(seed=seed) for seed in range(5)])
    repeated = codec.net.encode(torch.cat([clouds, clouds[:, :20]], dim=1))
    torch.testing.assert_close(repeated, codec.net.encode(clouds), atol=2e-6, rtol=0)


def test_place_and_size_do_not_matter(codec):
    raws = [solid(seed=seed) for seed in range(5)]
    moved = [
        torch.cat([raw[:, :3] * 1000 + 1e5, raw[:, 3:] / 2], dim=1) for raw in raws
    ]
    torch.testing.assert_close(
        codec.encode(moved), codec.encode(raws), atol=1e-4, rtol=0
    )
    prepared = codec.prepare(raws).double()
    torch.testing.assert_close(
        prepared.mean(1), torch.zeros_like(prepared[:, 0]), atol=1e-7, rtol=0
    )
    torch.testing.assert_close(
        prepared.norm(dim=2).amax(1),
        torch.ones(5, dtype=torch.double),
        atol=1e-6,
        rtol=0,
    )


@pytest.mark.parametrize("count", [1, 32, 64, 500])
def test_any_number_of_points(codec, count):
    raw = solid(count)
    assert codec.prepare([raw]).shape == (1, 128, 3)
    assert codec.encode([raw]).isfinite().all()
    if 128 % count == 0:  # points that repeat evenly change nothing
        torch.testing.assert_close(
            codec.encode([raw]),
            codec.encode([raw.repeat(128 // count, 1)]),
            atol=2e-6,
            rtol=0,
        )


def test_a_far_small_cloud_keeps_its_shape():
    cloud = solid()[None]
    far = cloud.double() * 1e-2 + 50
    torch.testing.assert_close(
        to_unit_sphere(far.float())[..., :3],
        to_unit_sphere(cloud)[..., :3],
        atol=3e-4,
        rtol=0,
    )
    assert torch.equal(to_unit_sphere(cloud)[..., 3:], cloud[..., 3:])


@pytest.mark.parametrize("count", [1, 7, 1000])
def test_a_cloud_in_one_place_stays_in_one_place(count):
    same = to_unit_sphere(torch.tensor([[[0.3, -700.1, 12.7]]]).expand(1, count, 3))
    torch.testing.assert_close(same, torch.zeros(1, count, 3), atol=1e-3, rtol=0)


def test_colours_are_encoded_where_they_are_asked_for(codec, tmp_path):
    coloured = untrained(tmp_path, colours=True)
    raws = [solid(colour=0.1), solid(colour=0.9)]
    apart, alike = (
        (one.encode(raws)[0] - one.encode(raws)[1]).abs().max()
        for one in (coloured, codec)
    )
    assert apart > 1e-3
    assert alike == 0
    decoded = coloured.decode(1e3 * coloured.encode(raws))
    assert all(
        raw.shape == (128, 6) and raw[:, 3:].min() >= 0 and raw[:, 3:].max() <= 1
        for raw in decoded
    )
    assert torch.stack(decoded)[..., 3:].std() > 0


def test_the_laws_of_a_modality(codec, tmp_path):
    names = {
        "flowbind.codecs": {
            "point-autoencoder": "flowbind_points.autoencoder:PointAutoencoder"
        }
    }
    with distribution(tmp_path / "site", "point-autoencoder", names):
        check_modality(Points(codec), [solid(seed=seed) for seed in range(3)], tmp_path)


# Mistakes


def test_without_weights_it_says_how_to_train_them():
    codec = PointAutoencoder()
    for use in (lambda: codec.encode([solid(2048)]), codec.fingerprint):
        with pytest.raises(
            ValueError,
            match=r"without weights: train them with recipes/codecs/point_autoencoder.yaml",
        ):
            use()
    with pytest.raises(FileNotFoundError, match=r"none.safetensors: no such weights"):
        PointAutoencoder(weights="none.safetensors").encode([solid(2048)])


def test_weights_of_another_size_are_refused(codec):
    with pytest.raises(
        ValueError, match="not weights of the codec PointAutoencoder"
    ) as error:
        PointAutoencoder(**TINY | {"latent": 17}, weights=codec.weights).encode(
            [solid()]
        )
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "sizes", [{"width": 100}, {"width": 0}, {"points": 0}, {"latent": -1}]
)
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match="width is a multiple of 8"):
        PointAutoencoder(**sizes)


# Training


def test_the_loss_is_the_squared_chamfer_distance_and_colours(codec):
    for colours in (False, True):
        training = PointAutoencoderTraining(
            PointAutoencoder(**TINY, colours=colours), "unused.safetensors"
        )
        training.configure_model()
        latents = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
        clouds = torch.randn(3, 100, 6, generator=torch.Generator().manual_seed(1))[
            ..., : 6 if colours else 3
        ]
        made = training.net.decode(latents)
        distances = torch.cdist(made[..., :3].double(), clouds[..., :3].double())
        expected = squared_chamfer(made[..., :3], clouds[..., :3]).mean()
        for b, (x, y) in enumerate(zip(made, clouds, strict=True)):
            for way in (x - y[distances[b].argmin(1)], y - x[distances[b].argmin(0)]):
                expected = expected + COLOUR * way[:, 3:].square().sum(1).mean() / 3
        errors = training.reconstruction(latents, clouds, streams=torch.arange(3))
        torch.testing.assert_close(errors.mean(), expected)


def test_a_latent_in_training_is_of_half_the_points(codec):
    training, clouds = (
        PointAutoencoderTraining(codec, "unused.safetensors"),
        codec.prepare([solid()]),
    )
    training.configure_model()
    streams = draws.streams(0, torch.arange(4))
    trained = training.encode(clouds.expand(4, -1, -1), streams=streams)
    assert trained.std(0).min() > 0
    torch.testing.assert_close(
        training.encode(clouds, streams=streams[2:3]), trained[2:3]
    )
    assert torch.equal(
        training.eval().encode(clouds, streams=streams[:1]), training.net.encode(clouds)
    )


@pytest.mark.parametrize("count", [1, 5, 64, 127, 128])
def test_some_points_are_each_as_likely(count):
    clouds = torch.arange(128.0)[None, :, None].expand(4000, -1, -1)
    drawn = some(clouds, count, draws.streams(0, torch.arange(4000)))[..., 0].long()
    seen = torch.bincount(drawn.flatten(), minlength=128) / 4000
    torch.testing.assert_close(seen, torch.full((128,), count / 128), rtol=0, atol=0.05)
    if 128 % count == 0:
        assert all(len(set(row)) == count for row in drawn.tolist())


@pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")
def test_training_lowers_the_distance_and_exports(tmp_path):
    from lightning.pytorch import Trainer, seed_everything
    from torch.utils.data import DataLoader

    points, raws = Points(), []
    for name, mesh in meshes().items():
        mesh.export(tmp_path / f"{name}.off")
        raws.append(points.read(tmp_path / f"{name}.off"))
    seed_everything(0)
    codec = PointAutoencoder(**TINY, weights=str(tmp_path / "trained.safetensors"))
    training = PointAutoencoderTraining(codec, codec.weights, learning_rate=3e-3)
    clouds = codec.prepare(raws)
    training.configure_model()

    def distance(net) -> float:
        return squared_chamfer(net.decode(net.encode(clouds)), clouds).mean().item()

    before = distance(training.net.eval())
    training.net.train()
    loader = DataLoader(
        [RawBatch.of([clouds], step=step) for step in range(150)], batch_size=None
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
    Trainer(max_steps=150, accelerator="cpu", limit_val_batches=1, **quiet).fit(
        training, loader, loader
    )
    after = distance(training.net.eval())
    assert after < before / 5
    made = torch.stack(codec.decode(codec.encode(raws)))[..., :3]
    # Float16.
    assert squared_chamfer(made, clouds).mean().item() == pytest.approx(after, rel=0.05)
    of_every_solid = torch.stack(
        [squared_chamfer(cloud.expand_as(clouds), clouds) for cloud in made]
    )
    assert torch.equal(of_every_solid.argmin(1), torch.arange(len(clouds)))


# The recipe, from a folder of meshes


@pytest.fixture
def folder(tmp_path) -> Path:
    """Meshes in sub-folders, of every format."""
    suffixes = (".ply", ".obj", ".stl", ".off")
    for number, (name, mesh) in enumerate(meshes().items()):
        file = tmp_path / "meshes" / name / f"model{suffixes[number % 4]}"
        file.parent.mkdir(parents=True)
        mesh.export(file)
    return tmp_path


def test_from_a_folder_of_meshes_to_weights(folder, capsys):
    main(
        [
            "prepare",
            "folder",
            "--source",
            f"{folder}/meshes",
            "--out",
            f"{folder}/data",
            "--val",
            "0.25",
        ]
    )
    codec = "--model.init_args.codec.init_args"
    fit = [
        *("fit", "--config", str(RECIPE)),
        *(f"{codec}.{name}={size}" for name, size in TINY.items()),
        f"--model.init_args.export={folder}/trained.safetensors",
        *(
            f"--data.init_args.{part}={folder}/data/{part}.jsonl"
            for part in ("train", "val")
        ),
        *(
            "--data.init_args.batch_size=4",
            "--trainer.max_steps=5",
            "--trainer.accelerator=cpu",
        ),
        *("--trainer.val_check_interval=5", f"--trainer.default_root_dir={folder}/run"),
    ]
    main(fit)
    assert f"wrote {folder}/trained.safetensors" in capsys.readouterr().err
    trained = PointAutoencoder(**TINY, weights=f"{folder}/trained.safetensors")
    raws = [
        Points().read(next((folder / "meshes" / name).iterdir()))
        for name in ("box", "ring")
    ]
    assert trained.encode(raws).isfinite().all()
    assert not torch.equal(*trained.encode(raws))
    with pytest.raises(SystemExit) as done:
        main(fit)
    assert (done.value.code, "trained already" in capsys.readouterr().err) == (0, True)
