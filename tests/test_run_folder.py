"""A run folder never lies and never loses: what counts as trained, what makes another run, and what stays of the old one."""

import csv
import errno
import inspect
import json
import math
import os
import shutil
import signal
import stat
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.torch import load_file

import flowbind
from flowbind.cli import main
from flowbind.component import differences
from flowbind.data.shard import LINE, write_shard
from flowbind.files import check_space, replacing
from flowbind.release import check_folder
from flowbind.tensors import digest_tensors, save_tensors
from flowbind.train.callbacks import Steps
from flowbind.train.checkpoints import (
    drop_unfinished,
    latest_intact,
    step_of,
    write_checkpoint,
    written,
)
from flowbind.train.deciding import TRAINER
from flowbind.train.rate import rate_at
from flowbind.train.run_folder import RunFolder
from tests.conftest import register_toys
from tests.toy import RECIPE

slow = pytest.mark.slow
STEPS = 12
LOOKS = ("metrics-*.json", "metrics-*.md", "gallery-*.png", "report-*.html")
RATES = {
    "class_path": "lightning.pytorch.callbacks.LearningRateMonitor",
    "init_args": {"logging_interval": "step"},
}
EARLY = {
    "class_path": "lightning.pytorch.callbacks.EarlyStopping",
    "init_args": {"monitor": "val/loss", "stopping_threshold": 1e9},
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, files):
    """The toy world, prepared and encoded once: a recipe of twelve steps with a checkpoint at every fourth."""
    folder = tmp_path_factory.mktemp("world")
    data, path = folder / "data", folder / "recipe.yaml"
    with pytest.MonkeyPatch.context() as monkeypatch:
        register_toys(monkeypatch)
        # Without labels no probes are fitted.
        main(["prepare", "folder", "--source", str(files), "--out", str(data)])
        path.write_text(
            RECIPE.format(data=data, run=folder / "run", steps=STEPS)
            .replace("warmup_steps: 10", "warmup_steps: 3")
            .replace("log_every_n_steps: 10", "log_every_n_steps: 1")
            + "checkpoints: {every: 4}\n"
        )
        main(["encode", "--config", str(path)])
    return path


@pytest.fixture(scope="module")
def straight(recipe):
    """A run that made all its steps at once; to be read alone."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        register_toys(monkeypatch)
        main(["fit", "--config", str(recipe), with_callback([RATES])])
    return recipe.parent / "run"


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def trained(straight, run):
    """The same in the run folder."""
    shutil.copytree(straight, run)


@pytest.fixture
def fit(toys, command, recipe, run):
    """Trains into the run folder, or another `into`. Returns the exit code and what was said."""

    def training(*arguments, into=run):
        code, _, said = command(
            "fit", "--config", recipe, f"--trainer.default_root_dir={into}", *arguments
        )
        return code, said

    return training


def listing(folder):
    """Every file of a folder with its content."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def weights(folder, step=STEPS):
    return torch.load(folder / f"checkpoints/step={step}.ckpt", weights_only=True)[
        "state_dict"
    ]


def same_bits(folder, other, step=STEPS):
    mine, others = weights(folder, step), weights(other, step)
    return mine.keys() == others.keys() and all(
        torch.equal(x, others[name]) for name, x in mine.items()
    )


def state(folder):
    return json.loads((folder / "run.json").read_text())["state"]


def rates(folder):
    """The learning rate of each step, by the number of steps before it."""
    with next(folder.glob("curves/*/metrics.csv")).open() as file:
        return {
            int(row["step"]): float(row["lr-Adam"])
            for row in csv.DictReader(file)
            if row.get("lr-Adam")
        }


def with_callback(described):
    return f"--trainer.callbacks={json.dumps(described)}"


# What counts as trained


@pytest.mark.parametrize(
    "smoke",
    [
        "--trainer.fast_dev_run=true",
        pytest.param("--trainer.fast_dev_run=3", marks=slow),
    ],
)
def test_a_smoke_run_leaves_nothing(fit, command, recipe, run, straight, smoke):
    code, said = fit(smoke)
    assert (code, "nothing is kept" in said, run.exists()) == (0, True, False), said
    shutil.copytree(straight, run)
    before = listing(run)
    code, said = fit(smoke, "--training.learning_rate=0.01")
    assert code == 0, said
    code, out, _ = command(
        "test", "--config", recipe, f"--trainer.default_root_dir={run}", smoke
    )
    assert (code, "word->vector" in out) == (0, True)
    assert listing(run) == before


@pytest.mark.parametrize(
    ("early", "made"),
    [
        (["--trainer.max_epochs=2", "--trainer.limit_train_batches=3"], 6),
        pytest.param(["--trainer.max_time=00:00:00:00"], None, marks=slow),
        pytest.param(
            [with_callback([EARLY]), "--trainer.val_check_interval=5"], 5, marks=slow
        ),
    ],
)
def test_a_run_that_ends_early_is_not_trained_and_goes_on(
    fit, run, straight, early, made
):
    """Told what remains, it resumes to the bits of a straight run."""
    code, said = fit(*early)
    assert code == 0, said
    step = max(map(step_of, written(run / "checkpoints")), default=0)
    assert step == made or (made is None and step < STEPS)
    assert f"ended after {step} of {STEPS} steps, {STEPS - step} remain" in said
    assert not (run / "model").exists()
    assert not (run / "run.json").exists() or state(run) == "training"
    code, said = fit()
    assert (code, state(run)) == (0, "trained"), said
    assert (run / "model/model.json").is_file()
    assert same_bits(run, straight)


@slow
def test_a_time_limit_is_for_each_start(fit, run, monkeypatch):
    """The same command gets further every time, though the checkpoint knows of the time that was spent."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(
        "lightning.pytorch.callbacks.timer.time",
        SimpleNamespace(monotonic=lambda: clock.now),
    )
    step = flowbind.Training.training_step

    def slow(module, batch, index):
        clock.now += 1
        return step(module, batch, index)

    monkeypatch.setattr(flowbind.Training, "training_step", slow)
    for made in (5, 10, STEPS):
        code, said = fit("--trainer.max_time=00:00:00:05")
        assert (code, step_of(latest_intact(run / "checkpoints"))) == (0, made), said
    assert state(run) == "trained"


def test_batches_go_on_over_passes(fit, run, straight):
    assert fit("--trainer.limit_train_batches=5")[0] == 0
    assert same_bits(run, straight)


@slow
def test_overfitting_repeats_batches(fit, tmp_path, straight):
    fitting = ["--trainer.overfit_batches=5", "--trainer.val_check_interval=5"]
    assert fit(*fitting, into=tmp_path / "over")[0] == 0
    assert not same_bits(tmp_path / "over", straight)
    assert fit(*fitting, "--trainer.max_epochs=2", into=tmp_path / "parts")[0] == 0
    code, said = fit(*fitting, into=tmp_path / "parts")
    assert (code, "resuming from" in said) == (0, True), said
    assert same_bits(tmp_path / "parts", tmp_path / "over")


@slow
def test_what_stops_within_a_step_goes_on_to_the_same_bits(
    fit, run, tmp_path, monkeypatch
):
    """Gradients gathered over three batches, stopped after the fifth."""
    step = flowbind.Training.training_step

    def interrupted(module, batch, index):
        if index == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(module, batch, index)

    gathering = [
        "--trainer.accumulate_grad_batches=3",
        "--trainer.max_steps=4",
        "--trainer.val_check_interval=12",
    ]
    with monkeypatch.context() as patch:
        patch.setattr(flowbind.Training, "training_step", interrupted)
        assert fit(*gathering)[0] == 128 + signal.SIGTERM
    assert fit(*gathering)[0] == 0
    assert fit(*gathering, into=tmp_path / "straight")[0] == 0
    assert same_bits(run, tmp_path / "straight", 4)


def test_batches_of_an_unfinished_step_count_as_not_taken():
    def progress(ready, last=False):
        counts = {
            "ready": ready,
            "started": ready,
            "processed": ready,
            "completed": ready - 1,
        }
        return {
            "total": {**counts, "ready": ready + 30},
            "current": counts,
            "is_last_batch": last,
        }

    for ready, last, left in (
        (5, False, 3),
        (6, False, 6),
        (5, True, 5),
        (2, False, 0),
    ):
        found = progress(ready, last)
        drop_unfinished(found, 3)
        assert (found["current"]["ready"], found["total"]["ready"]) == (left, left + 30)
        assert found["current"]["completed"] == max(left - 1, 0)


def test_steps_are_needed(fit, run):
    for endless in (
        ["--trainer.max_steps=-1"],
        ["--trainer.max_steps=-1", "--trainer.max_epochs=2"],
    ):
        code, said = fit(*endless)
        assert (code, said.count("\n"), run.exists()) == (2, 1, False), said
        assert "max_steps is needed" in said
        assert "the training data have no epochs" in said


# What makes another run, and what stays of the old one


def test_every_argument_of_the_trainer_has_a_place():
    """Decides the weights, or does not: a new argument of Lightning's has to be given one of the two."""
    neutral = {
        "accelerator",
        "strategy",
        "devices",
        "num_nodes",
        "logger",
        "fast_dev_run",
        "max_epochs",
        "min_epochs",
        "min_steps",
        "max_time",
        "limit_val_batches",
        "limit_test_batches",
        "limit_predict_batches",
        "val_check_interval",
        "check_val_every_n_epoch",
        "num_sanity_val_steps",
        "log_every_n_steps",
        "enable_checkpointing",
        "enable_progress_bar",
        "enable_model_summary",
        "deterministic",
        "benchmark",
        "inference_mode",
        "use_distributed_sampler",
        "profiler",
        "detect_anomaly",
        "barebones",
        "reload_dataloaders_every_n_epochs",
        "default_root_dir",
        "enable_autolog_hparams",
        "model_registry",
    }
    sometimes = {"limit_train_batches", "callbacks"}
    known = {*TRAINER, *neutral, *sometimes}
    assert set(inspect.signature(Trainer.__init__).parameters) - {"self"} == known


@slow
def test_another_run_moves_all_that_belongs_to_the_old_one(fit, command, recipe, run):
    assert fit("--trainer.gradient_clip_val=0.5")[0] == 0
    test = ["test", "--config", recipe, f"--trainer.default_root_dir={run}"]
    assert command(*test)[0] == 0
    assert command(*test, "--evaluation.limit=20")[0] == 0
    before = listing(run)
    (run / "notes.txt").write_text("mine")
    (run / "figures").mkdir()
    (run / "figures/loss.png").write_text("mine too")

    code, said = fit(
        "--trainer.gradient_clip_val=0.5", "--trainer.gradient_clip_algorithm=value"
    )
    assert code == 0, said
    assert "trainer.gradient_clip_algorithm is value, it was norm" in said
    assert f"kept in {run / 'earlier.1'}" in said
    assert listing(run / "earlier.1") == before
    assert {path.name for path in run.iterdir()} == {
        "run.json",
        "config.yaml",
        "checkpoints",
        "curves",
        "curves.png",
        "samples",
        "model",
        "earlier.1",
        "notes.txt",
        "figures",
    }
    assert [path.name for path in (run / "curves").iterdir()] == ["version_0"]

    # A run that is kept is found again.
    code, said = fit("--trainer.gradient_clip_val=0.5")
    kept = f"{run}/earlier.1/checkpoints/step={STEPS}.ckpt"
    assert (code, f"{kept} is of a run with these very settings" in said) == (
        0,
        True,
    ), said

    # Back to the first: no step is left, so that it is there again as it was.
    code, said = fit(
        "--trainer.gradient_clip_val=0.5",
        f"--ckpt_path={run}/earlier.1/checkpoints/step={STEPS}.ckpt",
    )
    assert (code, "no step is left" in said) == (0, True), said
    assert same_bits(run, run / "earlier.1")
    assert state(run) == "trained"
    released = load_file(run / "model/model.safetensors")
    assert digest_tensors(released) == digest_tensors(
        load_file(run / "earlier.1/model/model.safetensors")
    )
    assert "trained already" in fit("--trainer.gradient_clip_val=0.5")[1]


@slow
def test_what_decides_nothing_makes_no_other_run(fit, recipe, trained, run):
    elsewhere = recipe.parent / "elsewhere"
    shutil.copytree(recipe.parent / "data", elsewhere, dirs_exist_ok=True)
    for same in (
        ["--evaluation.sampling.steps=3"],
        ["--data.workers=1"],
        [f"--data.store={elsewhere}/latents"],
        ["--trainer.limit_val_batches=1", "--trainer.detect_anomaly=true"],
        [with_callback([RATES])],
        ["--checkpoints.every=3"],
    ):
        assert "trained already" in fit(*same)[1], same


@slow
def test_a_mistake_leaves_the_old_run_where_it_was(fit, trained, run):
    """Also one that shows when the model is built or its checkpoint is read."""
    before = listing(run)
    for mistake in (
        ["--training.base=nowhere", "--model.bind=[word]"],
        ["--training.learning_rate=1", "--data.batch_size=0"],
        [
            f"--ckpt_path={run}/checkpoints/step={STEPS}.ckpt",
            "--model.drift.width=32",
            "--trainer.max_steps=20",
        ],
        [f"--ckpt_path={run}/checkpoints/step={STEPS}.ckpt", "--trainer.max_steps=8"],
        ["--data.weights={word: 2}"],
    ):
        code, said = fit(*mistake)
        assert code == 2, said
        assert listing(run) == before, mistake


def test_a_move_that_was_cut_short_is_undone(fit, trained, run):
    before = listing(run)
    for moved in (
        ["checkpoints"],
        ["checkpoints", "model", "config.yaml", "curves", "run.json"],
    ):
        partial = run / "earlier.1.partial"
        partial.mkdir()
        for name in moved:
            (run / name).rename(partial / name)
        assert "trained already" in fit()[1]
        assert listing(run) == before


def test_a_beginning_that_was_cut_short_is_begun_again(fit, run, monkeypatch):
    def cut(path):
        if path.name == "config.yaml":
            raise KeyboardInterrupt
        return replacing(path)

    with monkeypatch.context() as patch:
        patch.setattr("flowbind.train.run_folder.replacing", cut)
        assert fit()[0] == 130
    assert [path.name for path in run.iterdir()] == ["run.json"]
    code, said = fit()
    assert (code, state(run)) == (0, "trained"), said


def test_a_checkpoint_that_another_strategy_spread_over_files_is_refused(
    fit, trained, run, recipe, command
):
    def spread(partial):
        partial.mkdir()
        torch.save({"global_step": STEPS - 2}, partial / "meta.pt")

    shutil.rmtree(run / "checkpoints")
    path = write_checkpoint(spread, run / "checkpoints", STEPS - 2)
    (run / "run.json").write_text(
        (run / "run.json").read_text().replace('"trained"', '"training"')
    )
    before = listing(run)

    here = "--config", recipe, f"--trainer.default_root_dir={run}"
    answers = [fit(), *(command(verb, *here)[::2] for verb in ("validate", "test"))]
    for code, said in answers:
        assert (
            code,
            f"{path}: spread over files" in said,
            "flowbind export" in said,
        ) == (
            2,
            True,
            True,
        ), said
    assert listing(run) == before


def test_a_record_of_an_earlier_version_is_not_taken_for_another_run(fit, trained, run):
    (run / "run.json").write_text(json.dumps({"key": "0" * 64, "state": "trained"}))
    before = listing(run)
    code, said = fit()
    assert (code, listing(run) == before) == (2, True)
    assert "written by an earlier version" in said
    last = f"{run}/checkpoints/step={STEPS}.ckpt"
    assert f"--ckpt_path {last}" in said
    code, said = fit(f"--ckpt_path={last}")
    assert code == 0, said
    assert "trained already" in fit()[1]


def test_a_record_of_a_later_version_is_not_taken_for_another_run(fit, trained, run):
    (run / "run.json").write_text(
        (run / "run.json").read_text().replace('"format": 3', '"format": 4')
    )
    before = listing(run)
    code, said = fit()
    assert (code, listing(run) == before) == (2, True)
    assert (
        "run.json: of format 4, this flowbind reads 2 and 3; resume it with the version that wrote it"
        in said
    )


def test_differences_are_told_by_their_keys():
    before = {"model": {"rate": 1, "nets": {"a": None}}, "files": {"x": "1"}}
    now = {"model": {"rate": 2, "nets": {}}, "files": {"x": "1"}, "new": None}
    assert differences(before, before) == []
    assert ("model.rate", 1, 2) in differences(before, now)
    # What is not there is as what is not given.
    assert all(key != "new" for key, _, _ in differences(before, now))


# Figures say which model


def test_a_quick_look_has_a_name_of_its_own(fit, command, recipe, trained, run):
    test = ["test", "--config", recipe, f"--trainer.default_root_dir={run}"]
    assert command(*test)[0] == 0
    results = {"metrics.json", "metrics.md", "gallery.png", "report.html"}
    assert {path.name for path in run.iterdir() if path.is_file()} == results | {
        "run.json",
        "config.yaml",
        "curves.png",
    }
    before = {name: (run / name).read_bytes() for name in results}

    looks = {
        "limit=20": ["--evaluation.limit=20"],
        "steps=2,solver=midpoint": [
            "--evaluation.sampling.steps=2",
            "--evaluation.sampling.solver=midpoint",
        ],
        f"step={STEPS - 4}": [f"--ckpt_path={run}/checkpoints/step={STEPS - 4}.ckpt"],
        "metrics=DigitError~*": ["--evaluation.metrics={class_path: digit-error}"],
    }
    overlay = run.parent / "quick.yaml"
    overlay.write_text("evaluation: {limit: 30}")
    looks["limit=30"] = ["--config", overlay]
    for name, arguments in looks.items():
        code, _, said = command(*test, *arguments)
        assert code == 0, said
        (figures,), (table,), (gallery,), (page,) = (
            run.glob(f"{kind.replace('*', name)}") for kind in LOOKS
        )
        assert all(path.name in said for path in (figures, table, gallery, page))
        assert json.loads(figures.read_text())["meta"]["quick_look"]
    assert {name: (run / name).read_bytes() for name in results} == before

    # Which weights: the same number in the figures, the released model and what `verify` prints.
    weights = json.loads((run / "metrics.json").read_text())["meta"]["model"]
    assert weights["step"] == STEPS
    assert json.loads((run / "model/model.json").read_text())["weights"] == {
        "sha256": weights["sha256"],
        "step": STEPS,
    }
    assert weights["sha256"] in command("verify", run / "model")[1]
    assert (
        digest_tensors(load_file(run / "model/model.safetensors")) == weights["sha256"]
    )
    assert weights["sha256"] in (run / "metrics.md").read_text()
    other = json.loads((run / f"metrics-step={STEPS - 4}.json").read_text())["meta"][
        "model"
    ]
    assert (other["step"], other["sha256"] == weights["sha256"]) == (STEPS - 4, False)


@slow
def test_an_unfinished_run_has_figures_of_its_step(fit, command, recipe, run):
    assert fit("--trainer.max_epochs=1", "--trainer.limit_train_batches=5")[0] == 0
    assert (
        command("test", "--config", recipe, f"--trainer.default_root_dir={run}")[0] == 0
    )
    assert (run / "metrics-step=5.json").is_file()
    assert not (run / "metrics.json").exists()


# Damage, and the disk


def test_damaged_checkpoints_are_named_and_never_trained_over(fit, run):
    early = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=9"]
    assert fit(*early)[0] == 0
    last, before = written(run / "checkpoints")
    whole = {path: path.read_bytes() for path in (last, before)}
    last.write_bytes(whole[last][:-1])
    code, said = fit(*early)
    assert code == 0, said
    assert f"{last}: this checkpoint is damaged" in said
    assert f"{before.name}, which is whole, is taken instead" in said
    assert f"resuming from {before}" in said

    before = latest_intact(run / "checkpoints")
    for path in written(run / "checkpoints"):
        path.write_bytes(b"")
    held = listing(run)
    code, said = fit()
    assert (code, listing(run) == held) == (2, True), said
    for path in written(run / "checkpoints"):
        assert path.name in said.splitlines()[-1]
    assert "--resume never" in said.splitlines()[-1]
    assert fit("--resume=never")[0] == 0
    assert {path.name for path in (run / "earlier.1/checkpoints").iterdir()} >= {
        before.name
    }


def test_checkpoints_without_manifests_are_not_forgotten(tmp_path, capsys):
    for step in (1, 2):
        path = write_checkpoint(
            lambda path: torch.save({"global_step": 0}, path), tmp_path, step
        )
        path.with_suffix(".json").unlink()
    with pytest.raises(
        ValueError,
        match=r"no whole checkpoint .*step=1.*no manifest.*step=2.*--resume never",
    ):
        latest_intact(tmp_path)
    (
        tmp_path / "step=2.ckpt"
    ).unlink()  # one alone may be the first of a run that was killed
    assert latest_intact(tmp_path) is None
    assert "step=1.ckpt: this checkpoint was never finished" in capsys.readouterr().err


def test_every_save_is_on_the_disk_before_its_name_counts(
    tmp_path, monkeypatch, fit, run
):
    """Content synced, then renamed, then the folder synced: files, shards, checkpoints of a file or a folder, models."""
    events, sync, replace = [], os.fsync, os.replace

    def synced(handle):
        events.append(
            (
                "sync",
                os.path.realpath(f"/proc/self/fd/{handle}"),
                os.fstat(handle).st_size,
            )
        )
        sync(handle)

    def renamed(source, target):
        events.append(("rename", os.path.realpath(source), os.path.realpath(target)))
        replace(source, target)

    def folder(path):
        (path / "part").mkdir(parents=True)
        for name in ("a", "part/b"):
            (path / name).write_text(name)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    with replacing(tmp_path / "file") as partial:
        partial.write_text("content")
    write_shard(
        tmp_path / "shard.safetensors",
        {"a": torch.zeros(3, 4), LINE: torch.arange(3)},
        {},
    )
    write_checkpoint(folder, tmp_path / "checkpoints", 3)
    assert fit()[0] == 0

    names = {
        os.path.relpath(target, tmp_path)
        for kind, _, target in events
        if kind == "rename"
    }
    assert names > {
        "file",
        "shard.safetensors",
        "checkpoints/step=3.ckpt",
        "checkpoints/step=3.json",
    }
    assert names > {
        "run/run.json",
        "run/config.yaml",
        "run/model",
        f"run/checkpoints/step={STEPS}.ckpt",
    }
    for number, (kind, source, target) in enumerate(events):
        if kind == "rename":
            before = {
                path: size for kind, path, size in events[:number] if kind == "sync"
            }
            parts = (
                [source]
                if os.path.isfile(target)
                else [
                    os.path.join(source, os.path.relpath(part, target))
                    for part in map(str, flowbind_paths(target))
                ]
            )
            assert set(parts) <= before.keys(), target
            assert ("sync", os.path.dirname(target)) in [
                event[:2] for event in events[number:]
            ], target


def flowbind_paths(folder):
    return [
        os.path.join(base, name) for base, _, names in os.walk(folder) for name in names
    ] + [base for base, _, _ in os.walk(folder) if base != folder]


def test_a_released_model_is_as_readable_as_any_file(fit, trained, run):
    mask = os.umask(0)
    os.umask(mask)
    for path in [
        *(run / "model").rglob("*"),
        *(run / "checkpoints").iterdir(),
        run / "run.json",
        run / "config.yaml",
    ]:
        assert (
            stat.S_IMODE(path.stat().st_mode)
            == (0o777 if path.is_dir() else 0o666) & ~mask
        ), path


def test_a_disk_without_room_is_noticed_before_a_save(fit, run, tmp_path, monkeypatch):
    """Checkpoint, model and shard: one line with path, needed and free; what was whole stays."""
    usage, free = shutil.disk_usage, {}
    monkeypatch.setattr(
        shutil,
        "disk_usage",
        lambda path: SimpleNamespace(free=free.get("bytes", usage(path).free)),
    )
    assert fit("--trainer.max_epochs=1", "--trainer.limit_train_batches=8")[0] == 0
    whole = listing(run / "checkpoints")
    free["bytes"] = 1000
    code, said = fit()
    line = said.strip().splitlines()[-1]
    assert (
        code,
        f"checkpoints/step={STEPS}.ckpt" in line,
        "1,000 bytes are free" in line,
    ) == (
        2,
        True,
        True,
    ), said
    assert "bytes are needed" in line
    assert listing(run / "checkpoints") == whole
    assert state(run) == "training"
    free.clear()
    assert fit()[0] == 0

    model = flowbind.load(run / "model")
    free["bytes"] = 1000
    tensors = {"a": torch.zeros(1000), LINE: torch.arange(1000)}
    for path, save in (
        (tmp_path / "model", lambda path: flowbind.release.save(model, path)),
        (tmp_path / "shard.safetensors", lambda path: write_shard(path, tensors, {})),
        (tmp_path / "weights.safetensors", lambda path: save_tensors(tensors, path)),
    ):
        line = rf"{path.name}: cannot be written \([\d,]+ bytes are needed; 1,000 bytes are free\)"
        with pytest.raises(OSError, match=line):
            save(path)
        assert not list(tmp_path.glob(f"{path.name}*"))


@slow
def test_a_disk_that_fills_while_saving_leaves_the_last_checkpoint(
    fit, run, monkeypatch
):
    saved = torch.save

    def full(checkpoint, file):
        if checkpoint["global_step"] == 8:
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        saved(checkpoint, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        code, said = fit()
    line = said.strip().splitlines()[-1]
    assert code == 2
    for part in ("step=8.ckpt", "No space left on device", "bytes are free"):
        assert part in line
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        "step=4.ckpt",
        "step=4.json",
    ]
    assert fit()[0] == 0


def test_checkpoints_do_not_pass_through_the_folder_of_temporary_files(
    fit, monkeypatch
):
    def none(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp")

    for name in ("mkstemp", "mkdtemp", "NamedTemporaryFile"):
        monkeypatch.setattr(f"tempfile.{name}", none)
    code, said = fit()
    assert code == 0, said


def test_room_is_looked_for_where_the_file_will_be(tmp_path):
    check_space(tmp_path / "not/there/yet", 1)
    with pytest.raises(OSError, match="bytes are needed"):
        check_space(tmp_path / "not/there/yet", 2**62)


# Resuming and ending


def test_rates_follow_their_closed_form():
    peak, warmup, steps = 2.0, 10, 110
    rate = {}
    for decay in ("constant", "cosine"):
        rate[decay] = [
            rate_at(step, steps, peak, warmup, decay) for step in range(steps + 5)
        ]
        assert rate[decay][:10] == pytest.approx([0.2 * (s + 1) for s in range(10)])
    assert set(rate["constant"][10:]) == {peak}
    assert rate["cosine"][10] == peak
    assert rate["cosine"][60] == pytest.approx(peak / 2)
    assert rate["cosine"][35] == pytest.approx(peak * (1 + math.sqrt(0.5)) / 2)
    assert rate["cosine"][110:] == [0] * 5
    assert rate_at(0, 5, peak, 0, "cosine") == peak
    assert rate_at(4, 5, peak, 50, "cosine") == pytest.approx(0.2)


@pytest.mark.parametrize(
    "changed",
    [
        ["--trainer.max_steps=20"],
        pytest.param(
            [
                "--trainer.max_steps=20",
                "--training.learning_rate=1e-5",
                "--training.decay=constant",
            ],
            marks=slow,
        ),
        pytest.param(["--training.warmup_steps=6"], marks=slow),
    ],
)
def test_a_changed_rate_holds_from_where_a_run_goes_on(
    fit, trained, run, tmp_path, changed
):
    """At every step the rate of a straight run of the changed recipe, and config.yaml says that recipe."""
    step = STEPS if "--trainer.max_steps=20" in changed else 8
    code, said = fit(
        f"--ckpt_path={run}/checkpoints/step={step}.ckpt",
        with_callback([RATES]),
        *changed,
    )
    assert code == 0, said
    assert "the learning rate continues at" in said
    straight = tmp_path / "straight"
    assert fit(with_callback([RATES]), *changed, into=straight)[0] == 0
    expected = rates(straight)
    assert rates(run) == {at: rate for at, rate in expected.items() if at >= step}
    config = [(folder / "config.yaml").read_text() for folder in (run, straight)]
    bare = [
        [
            line
            for line in text.splitlines()
            if "root_dir" not in line and line[:1] != "#"
        ]
        for text in config
    ]
    assert bare[0] == bare[1]
    if "--training.learning_rate=1e-5" in changed:
        assert set(rates(run).values()) == {1e-5}


@slow
def test_what_a_checkpoint_says_of_rates_does_not_count(fit, straight, run, tmp_path):
    """Neither that of its optimiser nor that of a scheduler of an earlier version."""
    checkpoint = torch.load(straight / "checkpoints/step=8.ckpt", weights_only=True)
    checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] = 123.0
    checkpoint["lr_schedulers"] = [
        {"last_epoch": 3, "base_lrs": [77.0], "_last_lr": [77.0]}
    ]
    torch.save(checkpoint, tmp_path / "older.ckpt")
    code, said = fit(f"--ckpt_path={tmp_path}/older.ckpt")
    assert (code, "it was 123" in said) == (0, True), said
    assert same_bits(run, straight)


@slow
def test_a_run_from_a_given_checkpoint_goes_on_by_the_same_command(
    fit, trained, run, monkeypatch
):
    """Interrupted on its way, though the run that it came from, its checkpoint with it, has moved aside."""
    more = [
        f"--ckpt_path={run}/checkpoints/step={STEPS}.ckpt",
        "--trainer.max_steps=20",
    ]
    step = flowbind.Training.training_step

    def interrupted(module, batch, index, at):
        if module.global_step == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(module, batch, index)

    for at, begun in (
        (STEPS, f"earlier.1/checkpoints/step={STEPS}.ckpt"),
        (17, "checkpoints/step=13.ckpt"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(
                flowbind.Training,
                "training_step",
                lambda *given, at=at: interrupted(*given, at),
            )
            code, said = fit(*more)
        assert code == 128 + signal.SIGTERM, said
        assert at == STEPS or f"resuming from {run / begun}" in said
        assert (
            json.loads((run / "run.json").read_text())["start"]["path"]
            == f"earlier.1/checkpoints/step={STEPS}.ckpt"
        )
    code, said = fit(*more)
    assert (code, state(run)) == (0, "trained"), said
    assert "trained already" in fit(*more)[1]
    assert "trained already" in fit("--trainer.max_steps=20")[1]
    assert [path.name for path in run.glob("earlier.*")] == ["earlier.1"]


@pytest.mark.parametrize("place", ["model", "checkpoints", "curves", "config.yaml"])
def test_what_no_run_wrote_is_refused_before_the_first_step(fit, run, place):
    (run / place).parent.mkdir(parents=True)
    if "." in place:
        (run / place).write_text("model: mine")
    else:
        (run / place).mkdir()
        (run / place / "x.py").write_text("mine")
    before = listing(run)
    code, said = fit()
    assert (code, said.count("\n"), listing(run) == before) == (2, 1, True), said
    assert str(run / place) in said


@pytest.mark.parametrize(
    "place", ["", "model", "checkpoints", "curves", "config.yaml", "run.json"]
)
def test_a_place_that_cannot_be_written_is_refused_before_the_first_step(
    fit, run, place
):
    path = run / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir() if "." in place else path.write_text("a file")
    code, said = fit()
    assert (code, said.count("\n"), str(path) in said) == (2, 1, True), said


def test_the_last_checkpoint_is_there_whatever_becomes_of_the_model(
    fit, run, monkeypatch
):
    def fails(*_, **__):
        raise OSError("the model cannot be written")

    with monkeypatch.context() as patch:
        patch.setattr("flowbind.release.save", fails)
        code, said = fit()
    assert (code, "the model cannot be written" in said) == (2, True), said
    assert step_of(latest_intact(run / "checkpoints")) == STEPS
    assert state(run) == "training"
    code, said = fit()  # makes no step
    assert (code, "no step is left" in said, "fit: step" in said) == (0, True, False), (
        said
    )
    assert state(run) == "trained"
    shutil.rmtree(run / "model")
    assert "no step is left" in fit()[1]
    check_folder(run / "model")


@pytest.mark.parametrize("left", [("ckpt", "json"), ("json",)])
def test_an_old_checkpoint_that_a_kill_left_goes_the_next_time(fit, trained, run, left):
    """Also where no step is left; a kill came before its removal, or within."""
    checkpoints = run / "checkpoints"
    kept = sorted(path.name for path in checkpoints.iterdir())
    assert len(kept) == 4
    for suffix in left:
        shutil.copyfile(
            checkpoints / f"step=8.{suffix}", checkpoints / f"step=4.{suffix}"
        )
    shutil.rmtree(run / "model")
    code, said = fit()
    assert (code, "no step is left" in said) == (0, True), said
    assert sorted(path.name for path in checkpoints.iterdir()) == kept


def test_export_releases_what_a_stopped_run_has(fit, command, recipe, run, tmp_path):
    assert fit("--trainer.max_epochs=1", "--trainer.limit_train_batches=6")[0] == 0
    before = listing(run)
    code, _, said = command("export", run, "--out", tmp_path / "model")
    assert (code, f"step 6 of {STEPS}" in said) == (0, True), said
    flows = flowbind.load(tmp_path / "model").networks.state_dict()
    held = weights(run, 6)
    assert all(
        torch.equal(tensor, held[f"ema.{name}"]) for name, tensor in flows.items()
    )
    first = run / "checkpoints/step=4.ckpt"
    assert (
        command("export", run, "--out", tmp_path / "model", "--checkpoint", first)[0]
        == 0
    )
    assert (
        json.loads((tmp_path / "model/model.json").read_text())["weights"]["step"] == 4
    )
    assert listing(run) == before

    assert fit()[0] == 0
    assert command("export", run, "--out", tmp_path / "model")[0] == 0
    mine, theirs = (
        json.loads((folder / "model.json").read_text())
        for folder in (tmp_path / "model", run / "model")
    )
    assert mine == theirs
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/x").write_text("")
    for wrong in (
        ["nowhere", "--out", tmp_path / "x"],
        [run, "--out", tmp_path / "taken"],
        [run, "--out", recipe],
    ):
        code, _, said = command("export", *wrong)
        assert (code, said.count("\n")) == (2, 1), said


@slow
def test_one_callback_and_one_metric_may_stand_without_a_list(
    fit, command, recipe, run
):
    overlay = run.parent / "one.yaml"
    overlay.write_text(f"trainer: {{callbacks: {json.dumps(RATES)}}}\n")
    assert fit("--config", overlay)[0] == 0
    assert len(rates(run)) == STEPS
    one = "--evaluation.metrics={class_path: digit-error}"
    code, out, said = command(
        "test", "--config", recipe, f"--trainer.default_root_dir={run}", one
    )
    assert (code, "digit-error" in out) == (0, True), said


def test_a_folder_says_what_it_holds(tmp_path):
    folder = RunFolder(tmp_path)
    assert (folder.read(), folder.holds_a_run()) == (None, False)
    for damaged in ("{", "[]", "{}", ""):
        (tmp_path / "run.json").write_text(damaged)
        with pytest.raises(ValueError, match=r"cannot be read.*--resume never"):
            folder.read()


def test_the_progress_of_other_processes_is_silent():
    """Lightning disables the bar of every process but the first, which has to be possible."""
    progress = Steps()
    progress.setup(SimpleNamespace(is_global_zero=False), None, "fit")
    progress.on_train_start(
        SimpleNamespace(is_global_zero=False, max_steps=3, global_step=0), None
    )
    assert progress.work is None
