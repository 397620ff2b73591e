"""Killed at any moment, training goes on to the very same bits."""

import os
import subprocess
import sys

import pytest

from tests.processes import ROOT, environment, flowbind, make_world

KILLS = int(os.environ.get("FLOWBIND_KILLS", "100"))


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_kills_change_nothing(tmp_path):
    def command(*arguments):
        done = flowbind(tmp_path, *arguments)
        return done.returncode, done.stdout, done.stderr

    make_world(tmp_path, command)
    done = subprocess.run(
        [sys.executable, ROOT / "tests/kills.py", tmp_path, "--kills", str(KILLS)],
        env=environment(tmp_path), capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stderr + (tmp_path / "kills.log").read_text()[-2000:]
