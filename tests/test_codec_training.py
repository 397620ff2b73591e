"""What a codec's training promises besides the laws of every recipe: of trouble, of small batches, of validation, of ranks."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from flowbind_points.small import SmallPoints
from flowbind_points.training import PointsCodecTraining
from torch import nn
from torch.testing import assert_close

from flowbind.cli.recipe import quiet
from flowbind.global_batch import means, share_statistics, spread
from tests.processes import environment
from tests.small_recipes import SAMPLES, options, prepare

NAME = "codecs/points"


@pytest.fixture
def fit(tmp_path, monkeypatch, command):
    """Trains the small codec of points on few clouds, into a run folder. Returns exit code and what was said."""
    monkeypatch.chdir(tmp_path)
    quiet()
    prepare(NAME, command)

    def fitted(run, *more, **named):
        code, _, err = command(*options(NAME, run, *more, **named))
        return code, err

    return fitted


def last(run):
    """The weights and buffers of the newest checkpoint."""
    path = max(
        Path(run, "checkpoints").glob("*.ckpt"),
        key=lambda path: path.stat().st_mtime_ns,
    )
    return torch.load(path, weights_only=True)["state_dict"]


def test_what_is_not_finite_changes_no_weight_and_is_named(fit, monkeypatch):
    clouds, reconstruction = SmallPoints.prepare, PointsCodecTraining.reconstruction

    def marked(codec, raws):
        prepared = clouds(codec, raws)
        if len(prepared) == SAMPLES:
            prepared[4] = (
                7.0  # of the clouds to train on; every third line of the manifest has one
            )
        return prepared

    def overflowing(training, latents, clouds, streams):
        errors = reconstruction(training, latents, clouds, streams)
        return errors * torch.where((clouds == 7.0).flatten(1).all(1), torch.inf, 1.0)

    with monkeypatch.context() as patch:
        patch.setattr(SmallPoints, "prepare", marked)
        patch.setattr(PointsCodecTraining, "reconstruction", overflowing)
        code, err = fit("run")
    assert code == 2, err
    told = err.strip().splitlines()[-1]
    assert re.search(
        r"not finite: the loss of .reconstruction. in \d rows of rank 0 \(lines of the manifest 15\b",
        told,
    ), told
    assert "Traceback" not in err
    assert all(tensor.isfinite().all() for tensor in last("run").values())
    assert not Path("runs/codecs/points.safetensors").exists()

    code, err = fit("wild", "--model.init_args.learning_rate=1e30")
    assert (code, "not finite: " in err, "learning rate" in err) == (2, True, True), err
    assert all(tensor.isfinite().all() for tensor in last("wild").values())


def test_bad_samples_are_named_or_left_out_as_if_they_were_not_there(fit, monkeypatch):
    """A file that cannot be read, and a cloud of which one point in a thousand is not finite."""
    manifest, clouds = Path("data/shapes/train.jsonl"), SmallPoints.prepare
    lines = manifest.read_text().splitlines(keepends=True)
    unread, _, _, _, odd, *_ = (line for line in lines if "points" in json.loads(line))
    file = Path("data/shapes", json.loads(unread)["points"])
    whole = file.read_bytes()

    def with_a_hole(codec, raws):
        prepared = clouds(codec, raws)
        if len(prepared) >= SAMPLES - 1:  # not those to validate on
            prepared[4 - SAMPLES, 700, 1] = torch.nan
        return prepared

    monkeypatch.setattr(SmallPoints, "prepare", with_a_hole)
    code, err = fit("run")
    assert (code, f"not finite (sample '{json.loads(odd)['id']}' of" in err) == (
        2,
        True,
    ), err
    assert "--data.skip_bad N leaves out at most N such samples" in err

    file.write_bytes(b"no cloud")
    code, err = fit("run")
    assert (code, f"{file.name}" in err, "--data.skip_bad N" in err) == (
        2,
        True,
        True,
    ), err
    code, err = fit("run", "--data.skip_bad=1")
    assert (code, "more than the 1 that --data.skip_bad allows" in err) == (2, True), (
        err
    )
    assert not Path("run").exists()

    code, err = fit("run", "--data.skip_bad=2")
    assert (
        code,
        f"{manifest}: 2 samples could not be read and are left out" in err,
    ) == (
        0,
        True,
    ), err
    promise = Path("runs/codecs/points.json").read_text()
    file.write_bytes(whole)
    manifest.write_text("".join(line for line in lines if line not in (unread, odd)))
    code, err = fit("without")
    assert code == 0, err
    assert all(
        torch.equal(tensor, last("run")[name])
        for name, tensor in last("without").items()
    )
    assert Path("runs/codecs/points.json").read_text() == promise


def test_a_batch_without_a_spread_is_refused_before_work_begins(fit):
    for size, reason in (
        (1, "a batch has 1 samples"),
        (0, "batch_size must be at least 1, not 0"),
    ):
        code, err = fit("run", f"--data.init_args.batch_size={size}")
        assert (code, reason in err, "reading" in err) == (2, True, False), err
    assert "at least 2 are needed" in fit("run", "--data.init_args.batch_size=1")[1]
    assert not Path("run").exists()


def test_how_often_is_validated_decides_nothing(fit):
    for run, interval in (("often", 1), ("seldom", 4)):
        code, err = fit(run, f"--trainer.val_check_interval={interval}")
        assert code == 0, err
    assert all(
        torch.equal(tensor, last("often")[name])
        for name, tensor in last("seldom").items()
    )


def test_a_setting_that_waits_for_the_end_of_an_epoch_is_told(fit):
    for run, epochs, interval in (("epochs", 4, 2), ("parts", 1, 1.0)):
        waits = (
            f"--trainer.check_val_every_n_epoch={epochs}",
            f"--trainer.val_check_interval={interval}",
        )
        code, err = fit(run, *waits)
        assert (
            code,
            "nothing is validated" in err,
            "val_check_interval in steps" in err,
        ) == (
            0,
            True,
            True,
        ), err
    assert "nothing is validated" not in fit("steps")[1]
    assert (
        "nothing is validated"
        not in fit("none", waits[0], "--trainer.limit_val_batches=0")[1]
    )


RANKS, ROWS = 3, [(0, 4), (4, 5), (5, 11)]  # of 11 rows, in unequal parts
MEET = """
import sys, torch
import torch.distributed as dist
from tests.test_codec_training import ROWS, learn
dist.init_process_group("gloo")
rank = dist.get_rank()
torch.save(learn(*ROWS[rank]), f"{sys.argv[1]}/{rank}.pt")
dist.destroy_process_group()
"""


def learn(first, stop):
    """One step on some of the rows: what batch normalisation gives and keeps, the spread, the loss, and all gradients."""
    torch.manual_seed(0)
    inputs = [
        torch.randn(11, 4, 3, dtype=torch.float64),
        torch.randn(11, 4, dtype=torch.float64),
    ]
    norms = [
        nn.BatchNorm1d(4).double(),
        nn.BatchNorm1d(4, affine=False, momentum=None).double(),
    ]
    net = share_statistics(nn.ModuleList(norms))
    net[0].weight.data.uniform_()
    rows = [x[first:stop].requires_grad_() for x in inputs]
    outputs = [norm(x) for norm, x in zip(net, rows, strict=True)]
    errors = {
        "sine": outputs[0].sin(),
        "cube": outputs[1][outputs[1] > 0] ** 3,
        "none": outputs[1][:0],
    }
    losses = means(errors)
    sum(losses.values()).backward()
    return {
        "outputs": outputs,
        "kept": dict(net.state_dict()),
        "spread": spread(rows[0].detach()),
        "losses": losses,
        "rows": [x.grad for x in rows],
        "weights": [parameter.grad for parameter in net.parameters()],
    }


@pytest.mark.slow
def test_statistics_of_ranks_with_unequal_rows_are_those_of_all(tmp_path):
    """As torch's own are on one process, with gradients as DDP takes them: the mean over the ranks."""
    (tmp_path / "meet.py").write_text(MEET)
    launch = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={RANKS}",
        "meet.py",
        str(tmp_path),
    ]
    done = subprocess.run(
        [sys.executable, *launch],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    whole, parts = (
        learn(0, 11),
        [torch.load(tmp_path / f"{rank}.pt") for rank in range(RANKS)],
    )

    for number in (0, 1):
        assert_close(
            torch.cat([part["outputs"][number] for part in parts]),
            whole["outputs"][number],
        )
        assert_close(
            torch.cat([part["rows"][number] for part in parts]) / RANKS,
            whole["rows"][number],
        )
        assert_close(
            sum(part["weights"][number] for part in parts) / RANKS,
            whole["weights"][number],
        )
    for part in parts:
        assert_close(part["spread"], whole["spread"])
        assert all(
            torch.allclose(tensor, whole["kept"][name])
            for name, tensor in part["kept"].items()
        )
    for name, loss in whole["losses"].items():
        assert_close(sum(part["losses"][name] for part in parts) / RANKS, loss)
    assert whole["losses"]["none"] == 0


def test_on_one_process_statistics_are_torch_s_own():
    x = torch.randn(7, 4, 5, generator=torch.Generator().manual_seed(0))
    assert_close(spread(x), x.std(0))
    shared, own = share_statistics(nn.BatchNorm1d(4)), nn.BatchNorm1d(4)
    assert torch.equal(shared(x), own(x))
    assert shared.state_dict().keys() == own.state_dict().keys()
    assert torch.equal(shared.running_var, own.running_var)
    errors = x.square()
    assert_close(means({"a": errors, "b": errors[:0]})["a"], errors.mean())
