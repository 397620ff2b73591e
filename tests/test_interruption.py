"""Killed at any moment, training and encoding go on to the very same bits."""

import os
import subprocess
import sys

import pytest

from tests.processes import ROOT, environment, flowbind, make_world

# Of the training of a model, of the training of a codec, of encoding; such as FLOWBIND_KILLS=20,4,5 for a short look.
KILLS = os.environ.get("FLOWBIND_KILLS", "200,40,50").split(",")


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_kills_change_nothing(tmp_path):
    def command(*arguments):
        done = flowbind(tmp_path, *arguments)
        return done.returncode, done.stdout, done.stderr

    make_world(tmp_path, command)
    counts = [f"--{kind}={count}" for kind, count in zip(("kills", "codec", "encode"), KILLS, strict=True)]
    done = subprocess.run(
        [sys.executable, ROOT / "tests/kills.py", tmp_path, *counts],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr + (tmp_path / "kills.log").read_text()[-2000:]
