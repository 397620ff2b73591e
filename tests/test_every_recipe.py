"""Laws of every recipe that ships, at small size: what was killed resumes to the same bits, two processes learn what one does.

No step draws from a generator of the process either: the witness of `tests.small_recipes` is in every run.
"""

import csv
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flowbind.cli.recipe import quiet
from tests.processes import environment
from tests.recipes import CODECS, JUDGES, MODELS
from tests.small_recipes import STEPS, options, prepare

# A model, a codec and a judge; the others are slow.
QUICK = ("flowbind/paper", "crossflow/kitti_depth", "codecs/points", "judges/text")
NAMES = [*MODELS, *CODECS, *JUDGES]
CLOSE = 1e-9  # of weights in float64


def state(run):
    """All of a run's last checkpoint."""
    return torch.load(run / f"checkpoints/step={STEPS}.ckpt", weights_only=True)


def differing(one, other, path=""):
    """Where two states differ, to the bit."""
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) else [path]
    if isinstance(one, list | tuple):
        one, other = dict(enumerate(one)), dict(enumerate(other))
    if not isinstance(one, dict):
        return [] if one == other else [path]
    if one.keys() != other.keys():
        return [path]
    # Validations since the start of the process.
    counted = [key for key in one if "val_loop" in str(key)]
    return [
        place
        for key in one.keys() - counted
        for place in differing(one[key], other[key], f"{path}/{key}")
    ]


def curves(run):
    """The losses that a run logged, by step and name, from all of its parts."""
    rows = {}
    for part in sorted(run.glob("curves/*/metrics.csv")):
        with part.open() as file:
            for row in csv.DictReader(file):
                values = {name: value for name, value in row.items() if value}
                for name in [name for name in values if name.startswith("pace/")]:
                    del values[name]  # by the clock
                rows.setdefault(int(row["step"]), {}).update(values)
    return rows


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow])
        for name in NAMES
    ],
)
def test_a_killed_run_goes_on_to_the_same_bits(name, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    quiet()
    prepare(name, command)
    whole, killed = Path("whole"), Path("killed")
    written = []
    for run, more in ((whole, ["--trainer.callbacks.killed=killed"]), (killed, [])):
        code, _, err = command(*options(name, run, *more))
        assert code == 0, err
        export = Path(
            re.search(r"^wrote (?:the released model )?(.*)$", err, re.MULTILINE)[1]
        )
        weights = export / "model.safetensors" if export.is_dir() else export
        written.append(weights.read_bytes())

    assert "resuming from killed/checkpoints/step=" in err
    assert not differing(state(whole), state(killed))
    assert written[0] == written[1]
    resumed = curves(killed)
    assert STEPS - 1 in resumed
    assert resumed.items() <= curves(whole).items()

    # Nothing is done a third time; what was exported and is gone comes from the last checkpoint.
    code, _, err = command(*options(name, killed))
    assert (code, "trained already" in err) == (0, True)
    shutil.rmtree(export) if export.is_dir() else export.unlink()
    code, _, err = command(*options(name, killed))
    assert (code, "no step is left" in err) == (0, True), err
    assert weights.read_bytes() == written[0]
    code, _, err = command("export", killed, "--out", "exported")
    assert code == 0, err
    exported = Path("exported")
    assert (
        exported / "model.safetensors" if exported.is_dir() else exported
    ).read_bytes() == written[0]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_learn_what_one_does(tmp_path, monkeypatch, command):
    """All recipes in one launch, since most of its time is the start."""
    quiet()
    for name in NAMES:
        (tmp_path / name).mkdir(parents=True)
        monkeypatch.chdir(tmp_path / name)
        prepare(name, command)
        code, _, err = command(*options(name, "one", "--trainer.precision=64-true"))
        assert code == 0, err

    launch = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "tests.pair",
        tmp_path,
        *NAMES,
    ]
    done = subprocess.run(
        [sys.executable, *map(str, launch)],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    apart = {}
    for name in NAMES:
        one, two = (
            state(tmp_path / name / run)["state_dict"] for run in ("one", "two")
        )
        apart[name] = max(
            (tensor - two[key]).abs().max().item()
            for key, tensor in one.items()
            if tensor.numel()
        )
        print(f"{name}: {apart[name]:.1e}")
        for losses in zip(
            *(curves(tmp_path / name / run).values() for run in ("one", "two")),
            strict=True,
        ):
            assert losses[0].keys() == losses[1].keys()
            for key, value in losses[0].items():
                assert float(losses[1][key]) == pytest.approx(float(value), rel=1e-5), (
                    name,
                    key,
                )
    assert max(apart.values()) < CLOSE, apart
