"""Progress as it is seen on a terminal: one bar at a time, in the last line, with what was printed above it whole."""

import io
import logging
import os
import pty
import signal
import subprocess
import sys
import time
import warnings

import pytest

import flowbind.progress
from flowbind.cli import main
from flowbind.cli.recipe import quiet
from flowbind.progress import Progress, say, track
from flowbind.train.checkpoints import step_of
from tests.processes import environment, make_world
from tests.terminal import COLUMNS, Terminal, is_bar, on_terminal

# Of Lightning's and others' bars.
FOREIGN = (
    b"it/s",
    b"Epoch 0",
    b"v_num",
    b"/-2",
    "█".encode(),
    b"DataLoader 0:",
)


@pytest.fixture(autouse=True)
def _colours(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("FORCE_COLOR", "LINES", *flowbind.progress.RANKS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    # Or every character of a bar brings a colour, and is slow to follow.
    monkeypatch.setenv("NO_COLOR", "1")


def check(terminal):
    """Never two bars, never something below one, nothing of another library, and none that stays."""
    for screen in terminal.screens:
        bars = [number for number, line in enumerate(screen) if is_bar(line)]
        assert len(bars) <= 1, screen
        assert not bars or bars[0] == len(screen) - 1, screen
    assert not any(map(is_bar, terminal.lines)), terminal.lines
    for mark in FOREIGN:
        assert mark not in terminal.written, mark


def command(*arguments, code=0):
    def run():
        with pytest.raises(SystemExit) if code else warnings.catch_warnings():
            main([str(argument) for argument in arguments])

    terminal = on_terminal(run)
    check(terminal)
    return terminal


def test_encode_fit_validate_and_test_on_a_terminal(world, monkeypatch):
    monkeypatch.setattr(
        "flowbind.Training.on_train_batch_start", lambda *_: time.sleep(0.01)
    )
    recipe = world / "recipe.yaml"
    terminal = command("encode", "--config", recipe)
    assert any(
        line.startswith("encoding") and "/512 samples" in line for line in terminal.bars
    )
    assert [line for line in terminal.lines if "512/512 samples done in" in line]

    fit = [
        "fit",
        "--config",
        recipe,
        "--trainer.max_steps=60",
        "--trainer.val_check_interval=20",
    ]
    terminal = command(*fit)
    assert any(
        line.startswith("fit ") and "/60 steps" in line for line in terminal.bars
    )
    assert any("0:00:0" in line and "train/loss" in line for line in terminal.bars), (
        terminal.bars
    )
    (end,) = [
        line for line in terminal.lines if line.startswith("fit: 60/60 steps done in")
    ]
    assert "train/loss" in end
    assert "val/loss" in " ".join(terminal.lines)
    assert any("wrote the released model" in line for line in terminal.lines)

    terminal = command("validate", "--config", recipe)
    assert any(
        line.startswith("validate: ") and "batches done in" in line
        for line in terminal.lines
    )

    terminal = command("test", "--config", recipe)
    seen = " ".join(terminal.bars)
    assert "generating every direction" in seen
    assert "word->vector" in " ".join(terminal.lines)


def test_a_run_that_goes_on_or_is_stopped_shows_its_steps(world, monkeypatch):
    recipe = world / "recipe.yaml"
    main(["encode", "--config", str(recipe)])
    fit = [
        "fit",
        "--config",
        recipe,
        "--trainer.max_steps=30",
        "--trainer.val_check_interval=30",
    ]
    with monkeypatch.context() as patch:

        def interrupt(module, *arguments):
            if module.trainer.global_step == 11:
                raise KeyboardInterrupt

        patch.setattr("flowbind.Training.on_train_batch_start", interrupt)
        terminal = command(*fit, "--checkpoints.every=5", code=130)
    assert any(
        line.startswith("fit: 11/30 steps stopped after") for line in terminal.lines
    ), terminal.lines
    terminal = command(*fit, "--checkpoints.every=5")
    assert any(
        line.startswith("fit: 30/30 steps done in") for line in terminal.lines
    ), terminal.lines


def test_what_was_asked_of_lightning_is_shown(world):
    recipe = world / "recipe.yaml"
    main(["encode", "--config", str(recipe)])
    fit = [
        "fit",
        "--config",
        recipe,
        "--trainer.max_steps=6",
        "--trainer.val_check_interval=6",
        "--resume=never",
    ]
    terminal = command(*fit, "--trainer.profiler=simple")
    assert b"Profiler Report" in terminal.written
    assert b"Total" in terminal.written
    terminal = on_terminal(
        lambda: main([*map(str, fit), "--trainer.enable_progress_bar=false"])
    )
    assert not terminal.bars
    theirs = "lightning.pytorch.callbacks.TQDMProgressBar"
    terminal = on_terminal(
        lambda: main([*map(str, fit), f"--trainer.callbacks={theirs}"])
    )
    assert not terminal.bars
    assert b"it/s" in terminal.written


def test_work_within_work_shows_the_innermost_and_then_the_outer_again():
    def work():
        for _ in track(range(3), "outer"):
            for _ in track(range(2), "inner"):
                time.sleep(0.1)
            say("a line between")

    terminal = on_terminal(work)
    check(terminal)
    assert [line.split(":")[0] for line in terminal.lines] == [
        "inner",
        "a line between",
    ] * 3 + ["outer"]
    assert {line.split()[0] for line in terminal.bars} == {"outer", "inner"}


def test_an_inner_work_that_outlives_the_outer():
    def work():
        outer, inner = Progress("outer", 2), Progress("inner", 2)
        outer.close()
        inner.advance()
        inner.close()

    terminal = on_terminal(work)
    check(terminal)
    assert [line.split(":")[0] for line in terminal.lines] == ["outer", "inner"]


@pytest.mark.parametrize("columns", [20, 40, 80])
def test_a_narrow_terminal_cuts_words_and_breaks_none(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    long = f"reading {'a-long-name/' * 10}train.jsonl"

    def work():
        progress = Progress(long, 3, "samples")
        progress.advance(1, "train/loss 0.1234, val/loss 0.1234")
        time.sleep(0.12)
        progress.advance(2)

    terminal = on_terminal(work)
    check(terminal)
    assert terminal.bars or columns == 20
    assert any("1/3 samples" in line for line in terminal.bars) or columns < 80
    assert all(
        len(line) <= columns for screen in terminal.screens[:-1] for line in screen
    )
    # The last line is whole.
    assert "".join(terminal.lines).startswith(f"{long}: 3/3 samples done in")


def test_results_in_a_pipe_stay_in_it(monkeypatch):
    """A bar holds up what is printed only where both would land in the same terminal."""
    pipe = io.StringIO()

    def work():
        for number in track(range(3), "working"):
            print(f"result {number}", file=sys.stdout)

    monkeypatch.setattr("sys.stdout", pipe)
    terminal = on_terminal(work, output=False)
    check(terminal)
    assert pipe.getvalue().splitlines() == [f"result {number}" for number in range(3)]
    assert b"result" not in terminal.written


def test_other_lines_and_logs_stand_above_the_bar():
    def work():
        quiet()
        for _ in track(range(2), "working"):
            print("mind the gap", file=sys.stderr)
            logging.getLogger("lightning.pytorch").warning("mind the step")
            time.sleep(0.02)

    terminal = on_terminal(work)
    check(terminal)
    assert terminal.lines[:4] == ["mind the gap", "mind the step"] * 2


@pytest.mark.parametrize("name", flowbind.progress.RANKS)
def test_of_several_processes_the_first_shows_it(name, monkeypatch, capsys):
    monkeypatch.setenv(name, "1")
    assert on_terminal(lambda: list(track(range(3), "working"))).written == b""
    list(track(range(3), "working"))
    assert capsys.readouterr().err == ""
    monkeypatch.setenv(name, "0")
    list(track(range(3), "working"))
    assert "working: 3/3 done" in capsys.readouterr().err


@pytest.mark.slow
def test_a_process_of_its_own_on_a_terminal(tmp_path, toys, command):
    recipe = make_world(tmp_path, command, steps=400)
    for arguments in (
        ["encode", "--config", recipe, "--trainer.devices=2"],
        ["fit", "--config", recipe],
        ["test", "--config", recipe],
    ):
        terminal = Terminal()
        process = subprocess.Popen(
            [sys.executable, "-m", "flowbind", *map(str, arguments)],
            cwd=tmp_path,
            env=environment(tmp_path),
            stdout=terminal.writing,
            stderr=terminal.writing,
        )
        assert process.wait(240) == 0
        terminal.close()
        check(terminal)
        assert terminal.screens


@pytest.mark.slow
def test_a_terminal_that_is_closed_loses_nothing(tmp_path, toys, command):
    """The run's own terminal: what it says then is an error of the system's, and a signal comes."""
    recipe = make_world(tmp_path, command, steps=400)
    arguments = [sys.executable, "-m", "flowbind", "fit", "--config", str(recipe)]
    process, screen = pty.fork()
    if not process:
        os.chdir(tmp_path)
        os.execve(sys.executable, arguments, environment(tmp_path))
    seen = b""
    while b"train/loss" not in seen:
        seen += os.read(screen, 65536)
    os.close(screen)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP
    (kept,) = (tmp_path / "run/checkpoints").glob("step=*.ckpt")
    assert step_of(kept) < 400

    code, _, said = command("fit", "--config", recipe)
    assert code == 0, said
    assert f"resuming from {kept}" in said
