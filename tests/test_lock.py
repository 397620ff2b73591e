"""Two processes on one folder: the second says so in a line, and a process that was killed keeps nothing."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import flowbind.lock
from flowbind.lock import alone_in

HOLD = "import sys, time; from pathlib import Path; from flowbind.lock import alone_in\nwith alone_in(Path(sys.argv[1]), 'training'):\n    print('held', flush=True)\n    time.sleep(60)"


@pytest.fixture
def other(tmp_path):
    """Another process that has the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_in_a_line_until_the_first_ends(
    tmp_path, other, monkeypatch
):
    monkeypatch.setattr(flowbind.lock, "PATIENCE", 0.1)
    message = r"another process is training in it; wait until that has ended, or choose another folder$"
    with pytest.raises(ValueError, match=message), alone_in(tmp_path, "training"):
        pytest.fail("it has the folder too")
    other.kill()
    other.wait()
    with alone_in(tmp_path, "training"), alone_in(tmp_path, "training"):
        assert os.listdir(tmp_path) == []


def test_who_comes_right_after_a_kill_waits_for_its_end(tmp_path, other):
    threading.Timer(0.3, other.kill).start()
    begin = time.monotonic()
    with alone_in(tmp_path, "training"):
        assert time.monotonic() - begin > 0.2


def test_a_fork_does_not_keep_the_folder(tmp_path, monkeypatch):
    """As a worker of a loader would, which lives on for seconds after its parent was killed."""
    monkeypatch.setattr(flowbind.lock, "PATIENCE", 0.5)
    with alone_in(tmp_path, "training"):
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
    try:
        subprocess.run(
            [sys.executable, "-c", HOLD.replace("60", "0"), tmp_path],
            check=True,
            capture_output=True,
        )
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_commands_say_so(world, command, monkeypatch):
    monkeypatch.setattr(flowbind.lock, "PATIENCE", 0.1)
    recipe, store, run = (
        world / "recipe.yaml",
        world / "data/latents/train",
        world / "run",
    )

    def refused(folder, work, *arguments):
        folder.mkdir(parents=True, exist_ok=True)
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True
        )
        process.stdout.readline()
        try:
            code, _, err = command(*arguments)
        finally:
            process.kill()
            process.communicate()
        assert code == 2
        assert err.splitlines()[-1].startswith(
            f"flowbind: {folder}: another process is {work} in it"
        )

    refused(store, "encoding", "encode", "--config", recipe)
    assert command("encode", "--config", recipe)[0] == 0
    short = ("--trainer.max_steps=4", "--trainer.val_check_interval=4")
    refused(run, "training", "fit", "--config", recipe, *short)
    assert os.listdir(run) == []
    assert command("fit", "--config", recipe, *short)[0] == 0
