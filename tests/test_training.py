"""What keeps training right: the moving average, numerical trouble, checkpoints that are read back."""

import csv
import itertools
import math
import random
import shutil

import pytest
import torch
from torch import nn

import flowbind
from flowbind.data.batches import Rows, Steps
from flowbind.data.latents import LatentDataModule
from flowbind.data.mixture import Mixture
from flowbind.data.shard import LINE, layout, read_header, write_shard
from flowbind.data.store import LatentStore, finish_store
from flowbind.method import Loss
from flowbind.methods.flowbind.method import FlowBind
from flowbind.methods.flowbind.objective import Draws
from flowbind.train.checkpoints import fault, latest_intact, write_checkpoint, written
from flowbind.train.ema import decay_at, follow
from flowbind.train.nonfinite import Health
from flowbind.train.replicas import checksum
from flowbind.train.totals import Totals
from flowbind.train.training import Training
from tests.toy import Vector


def test_the_average_is_that_of_its_closed_form():
    average, trained = (nn.Linear(3, 2).double() for _ in range(2))
    expected = [p.detach().clone() for p in average.parameters()]
    for step in range(1, 97):
        with torch.no_grad():
            for p in trained.parameters():
                p.add_(torch.randn_like(p))
        since = (
            [step - 1]
            if step <= 64
            else [*range(step - 8, step)]
            if step % 8 == 0
            else []
        )
        decay = math.prod(min(0.97, n / (9 + n)) for n in since)
        expected = [
            decay * e + (1 - decay) * p.detach()
            for e, p in zip(expected, trained.parameters(), strict=True)
        ]
        follow(average, trained, decay_at(step, 0.97))
    for p, e in zip(average.parameters(), expected, strict=True):
        torch.testing.assert_close(p.detach(), e, rtol=1e-13, atol=1e-13)


def test_updates_decay_as_much_as_all_steps_would():
    decays = [decay_at(step, 0.9995) for step in range(2, 10_001)]
    assert math.prod(decays) == pytest.approx(
        math.prod(min(0.9995, n / (9 + n)) for n in range(1, 10_000))
    )
    assert sum(decay < 1 for decay in decays) == 63 + (10_000 - 64) // 8


def test_a_run_follows_its_weights_step_by_step(world, encoded, command, monkeypatch):
    """The average after each step, from those before it and the weights, by the closed form."""
    monkeypatch.setattr("flowbind.train.ema.EACH", 2)
    monkeypatch.setattr("flowbind.train.ema.EVERY", 2)
    run = [
        "--trainer.max_steps=6",
        "--trainer.val_check_interval=6",
        "--checkpoints.every=1",
        "--checkpoints.keep=9",
    ]
    assert command("fit", "--config", world / "recipe.yaml", *run)[0] == 0
    states = [
        torch.load(world / f"run/checkpoints/step={step}.ckpt", weights_only=True)[
            "state_dict"
        ]
        for step in range(1, 7)
    ]
    weights = [
        key for key in states[0] if key.startswith("ema.") and "standard" not in key
    ]
    decays = [1 / 10, 1, 2 / 11 * 3 / 12, 1, 4 / 13 * 5 / 14]  # after steps 2 to 6
    for decay, (before, after) in zip(decays, itertools.pairwise(states), strict=True):
        for key in weights:
            trained = after[key.replace("ema.", "networks.", 1)]
            expected = decay * before[key].double() + (1 - decay) * trained.double()
            torch.testing.assert_close(after[key].double(), expected, rtol=0, atol=1e-7)
    assert not torch.equal(
        after[weights[0]], after[weights[0].replace("ema.", "networks.", 1)]
    )


def test_a_line_of_the_log_is_of_its_own_step(world, encoded, command):
    """Losses at every second step are those that a log of every step has there."""
    found = []
    for every in (1, 2):
        changed = [
            f"--trainer.log_every_n_steps={every}",
            f"--trainer.default_root_dir={world}/{every}",
        ]
        short = ["--trainer.max_steps=6", "--trainer.val_check_interval=6"]
        assert (
            command("fit", "--config", world / "recipe.yaml", *short, *changed)[0] == 0
        )
        with next((world / str(every)).rglob("metrics.csv")).open() as file:
            found.append(
                {
                    row["step"]: row["train/loss"]
                    for row in csv.DictReader(file)
                    if row["train/loss"]
                }
            )
    whole, thinned = found
    assert list(thinned) == ["1", "3", "5"]
    assert thinned.items() <= whole.items()
    assert len(set(whole.values())) == 6


def test_the_average_of_equal_weights_stays_the_same_to_the_bit():
    one, other = nn.Linear(50, 50), nn.Linear(50, 50)
    other.load_state_dict(one.state_dict())
    before = checksum(one)
    follow(one, other, 0.9995)
    assert checksum(one) == before


def test_what_validation_logs_lies_on_the_device(monkeypatch):
    """NCCL reduces nothing else."""
    module = Training(FlowBind({name: Vector() for name in "ab"}))
    monkeypatch.setattr(Training, "device", torch.device("meta"), raising=False)
    errors = torch.ones(4, device="meta")
    terms = {name: Loss(name, errors) for name in "ab"}
    monkeypatch.setattr(Training, "best", None)
    monkeypatch.setattr(module, "terms", lambda *_: (None, terms))

    module.on_validation_epoch_start()
    module.validation_step(None, 0)
    assert module.totals.sums.device.type == "meta"
    assert module.totals.sums.dtype == torch.float64

    # What comes of them stays where they are.
    totals = Totals(["a"])
    totals.update("a", torch.ones(4))
    assert all(mean.device == totals.sums.device for mean in totals.compute().values())


def test_health_tells_the_first_bad_step_and_skips_all_after_it():
    health = Health(torch.device("cpu"))
    assert health.look() is None
    for step, value in enumerate([1.0, 2.0, float("inf"), 1.0, float("nan")]):
        assert health.see(torch.tensor(value), step) == float(step >= 2)
    assert health.look() == 2


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int8]
)
def test_a_checksum_sees_every_bit(dtype):
    module = nn.Module()
    module.register_buffer("x", (100 * torch.randn(5, 5)).to(dtype))
    module.register_buffer("y", torch.zeros((), dtype=torch.int64))
    found = {checksum(module)}
    module.x.view(torch.uint8)[0, 0] ^= 1
    found.add(checksum(module))
    module.y += 1
    found.add(checksum(module))
    assert len(found) == 3


def save(path):
    torch.save({"state_dict": {"w": torch.arange(500.0)}}, path)


def save_folder(path):
    (path / "part").mkdir(parents=True)
    for name in ("a", "part/b"):
        save(path / name)


@pytest.mark.parametrize("writer", [save, save_folder])
def test_50_mutations_of_checkpoints_are_all_detected(tmp_path, writer, capsys):
    draw, detected = random.Random(0), 0
    for _ in range(25):
        folder = tmp_path / "checkpoints"
        shutil.rmtree(folder, ignore_errors=True)
        old, path = (write_checkpoint(writer, folder, step) for step in (9, 10))
        assert (latest_intact(folder), fault(path)) == (path, None)
        files = sorted(p for p in [path, *path.rglob("*")] if p.is_file())
        file, kind = (
            draw.choice(files),
            draw.choice(["flip", "cut", "grow", "empty", "remove", "swap", "manifest"]),
        )
        content = bytearray(file.read_bytes())
        if kind == "flip":
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        elif kind == "cut":
            content = content[: draw.randrange(len(content))]
        elif kind == "grow":
            content += b"\0"
        elif kind == "empty":
            content = bytearray()
        elif kind == "swap":
            content = bytearray(file.read_bytes()[::-1])
        elif kind == "manifest":
            manifest = path.with_suffix(".json")
            manifest.write_bytes(manifest.read_bytes()[: draw.randrange(1, 60)])
        if kind == "remove":
            file.unlink()
        elif kind != "manifest":
            file.write_bytes(content)
        assert fault(path), kind
        assert latest_intact(folder) == old
        assert f"{path}: this checkpoint is damaged" in capsys.readouterr().err
        detected += 1
    assert detected == 25


def test_a_checkpoint_that_was_never_finished_is_none(tmp_path):
    def dies(path):
        save(path)
        raise OSError("no space left on device")

    kept = write_checkpoint(save, tmp_path, 2)
    with pytest.raises(OSError, match="no space"):
        write_checkpoint(dies, tmp_path, 10)
    save(tmp_path / "step=11.ckpt")  # killed before the manifest
    assert latest_intact(tmp_path) == kept
    assert write_checkpoint(save, tmp_path, 10) == latest_intact(tmp_path)
    assert [path.name for path in written(tmp_path)] == ["step=10.ckpt", "step=2.ckpt"]


@pytest.fixture
def store(tmp_path):
    """Strata of 7 rows of a alone, 1 of b alone, and 20 of both."""
    strata = []
    for number, (names, count) in enumerate(((["a"], 7), (["b"], 1), (["a", "b"], 20))):
        tensors = {name: torch.randn(count, 4, dtype=torch.float64) for name in names}
        write_shard(
            tmp_path / f"{number}.safetensors",
            tensors | {LINE: torch.arange(count)},
            {},
        )
        strata.append((names, [f"{number}.safetensors"]))
    return finish_store(tmp_path, strata, {"a": {}, "b": {}}, "made up", "")


@pytest.mark.parametrize("world", [2, 3, 4, 11])
@pytest.mark.parametrize("kind", ["training", "validation"])
def test_ranks_share_out_a_batch_and_its_draws(store, world, kind):
    """Together their rows, links and draws are those of one process; their mean losses are its losses."""
    names, mixture = ["a", "b"], Mixture([7, 1, 20], [3, 1, 5])

    def batches(rank, world):
        if kind == "training":
            return [
                Steps(store, names, mixture, 0, rank, world).at(step)
                for step in range(4)
            ]
        return list(Rows(store, names, 6, rank, world))

    parts = [batches(rank, world) for rank in range(world)]
    for number, whole in enumerate(batches(0, 1)):
        mine = [part[number] for part in parts]
        assert {batch.step for batch in mine} == {whole.step}
        rows = [sum(batch.rows) for batch in mine]
        assert max(
            sum(len(torch.unique(s)) for s in b.samples.values()) for b in mine
        ) <= 2 * (-(-9 // world))
        draws = Draws.sample(whole, key=5)
        theirs = [Draws.sample(batch, key=5) for batch in mine]
        for name in names:
            offset = 0 if name == "a" else whole.rows[0]
            for row, sample in enumerate(whole.samples[name].tolist()):
                rank = sample % world
                (at,) = (
                    (mine[rank].samples[name] == sample).nonzero().flatten().tolist()
                )
                assert torch.equal(
                    mine[rank].latents[name][at], whole.latents[name][row]
                )
                here = at + (0 if name == "a" else mine[rank].rows[0])
                for key in ("leave", "uniform", "choice", "noise", "heads"):
                    assert torch.equal(
                        getattr(theirs[rank], key)[here],
                        getattr(draws, key)[offset + row],
                    )
        assert sum(rows) == sum(whole.rows)
        assert torch.equal(
            torch.cat([t.drop for t in theirs]).sort().values, draws.drop.sort().values
        )
        assert sum(len(batch.links.target) for batch in mine) == len(whole.links.target)
        for name in names:
            assert mine[0].mean_rows[name] * world == pytest.approx(
                len(whole.latents[name])
            )


def test_a_row_that_is_not_finite_stops_training_before_it_teaches(
    world, encoded, command
):
    recipe = world / "recipe.yaml"
    shard = next((world / "data/latents/train").glob("*.safetensors"))
    rows = LatentStore(world / "data/latents/train").rows
    poisoned = int(Mixture([rows], [64]).batch(5)[0][3])
    dtype, shape, begin = layout(shard, *read_header(shard), rows)["vector"]
    with shard.open("r+b") as file:
        file.seek(begin + poisoned * dtype.itemsize * shape[0])
        file.write(torch.tensor([float("nan")]).numpy().tobytes())
    fit = [
        "fit",
        "--config",
        recipe,
        "--trainer.max_steps=30",
        "--trainer.val_check_interval=30",
    ]
    code, _, err = command(*fit, "--training.decay=constant")
    assert code == 2, err
    told = err.strip().splitlines()[-1]
    step = 5
    assert "step 5: not finite" in told
    assert (
        f"the loss of 'vector' in 1 rows of rank 0 (lines of the manifest {poisoned + 1})"
        in told
    )
    saved = torch.load(
        world / f"run/checkpoints/step={step + 1}.ckpt", weights_only=True
    )["state_dict"]
    before = [
        *fit,
        "--training.decay=constant",
        f"--trainer.default_root_dir={world}/before",
    ]
    assert command(*before, f"--trainer.max_steps={step}")[0] == 0
    kept = torch.load(
        world / f"before/checkpoints/step={step}.ckpt", weights_only=True
    )["state_dict"]
    for name, tensor in kept.items():
        if name.startswith("networks."):
            assert torch.equal(saved[name], tensor), name


def test_a_gradient_that_is_not_finite_stops_training(
    world, encoded, command, monkeypatch
):
    recipe = world / "recipe.yaml"
    backward = flowbind.Training.on_after_backward

    def overflow(module):
        if module.global_step == 4:
            next(module.networks.parameters()).grad[0] = float("inf")
        backward(module)

    monkeypatch.setattr(flowbind.Training, "on_after_backward", overflow)
    code, _, err = command(
        "fit",
        "--config",
        recipe,
        "--trainer.max_steps=9",
        "--trainer.val_check_interval=9",
    )
    assert code == 2, err
    assert "step 4: not finite: the gradient, though every loss is finite" in err
    saved = torch.load(world / "run/checkpoints/step=5.ckpt", weights_only=True)[
        "state_dict"
    ]
    assert all(tensor.isfinite().all() for tensor in saved.values())


def test_an_overflow_is_reported_and_never_given_out(world, encoded, command):
    recipe = world / "recipe.yaml"
    assert (
        command(
            "fit",
            "--config",
            recipe,
            "--trainer.max_steps=3",
            "--trainer.val_check_interval=3",
        )[0]
        == 0
    )
    model = flowbind.load(world / "run/model")
    model.networks.nets.drifts["vector"].proj_out.bias[0] = float("inf")
    with pytest.raises(
        ValueError, match="word->vector: a number overflowed on the way"
    ):
        model.generate({"word": ["302"]}, to=["vector"])


def test_workers_do_not_change_the_order(store):
    module = LatentDataModule({"train": "x"}, store=str(store.folder), workers=2)
    steps = Steps(store, ["a", "b"], Mixture([7, 1, 20], [3, 1, 5]), first=2)
    loader = torch.utils.data.DataLoader(
        steps, batch_size=None, num_workers=module.workers
    )
    for number, batch in zip(range(2, 9), loader, strict=False):
        assert batch.step == number
        assert torch.equal(batch.latents["a"], steps.at(number).latents["a"])


def test_latents_on_the_device_train_the_same_to_the_bit(world, encoded, command):
    recipe = world / "recipe.yaml"
    found = []
    for resident in ("false", "true"):
        run = world / resident
        fit = [
            "fit",
            "--config",
            recipe,
            f"--data.init_args.device_resident={resident}",
            "--trainer.max_steps=10",
        ]
        assert (
            command(
                *fit,
                "--trainer.val_check_interval=10",
                f"--trainer.default_root_dir={run}",
            )[0]
            == 0
        )
        found.append(
            torch.load(run / "checkpoints/step=10.ckpt", weights_only=True)[
                "state_dict"
            ]
        )
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


def test_checkpoints_by_the_clock(world, encoded, command):
    recipe = world / "recipe.yaml"
    fit = [
        "fit",
        "--config",
        recipe,
        "--trainer.max_steps=6",
        "--trainer.val_check_interval=6",
        "--checkpoints.keep=99",
    ]
    assert command(*fit, "--checkpoints.minutes=1e-9", "--checkpoints.every=4")[0] == 0
    steps = {path.name for path in (world / "run/checkpoints").glob("*.ckpt")}
    assert steps == {f"step={n}.ckpt" for n in range(1, 7)}
    assert command(*fit, "--checkpoints.minutes=60", "--resume=never")[0] == 0
    assert [path.name for path in (world / "run/checkpoints").glob("*.ckpt")] == [
        "step=6.ckpt"
    ]
    # As where a recipe has minutes.
    by_steps = (
        "--checkpoints.minutes=null",
        "--checkpoints.every=4",
    )
    code, _, err = command(*fit, *by_steps, "--resume=never")
    assert code == 0, err
    names = {path.name for path in (world / "run/checkpoints").glob("*.ckpt")}
    assert names == {"step=4.ckpt", "step=6.ckpt"}
    code, _, err = command(*fit, "--checkpoints.minutes=0", "--resume=never")
    assert (code, "checkpoints.minutes must be positive" in err) == (2, True), err
