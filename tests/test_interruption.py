"""Killed at any moment, training and encoding resume to the very same bits."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from flowbind.tensors import save_tensors
from tests.processes import ROOT, environment, flowbind, make_world

# Of the training of a model, of the training of a codec, of encoding; such as FLOWBIND_KILLS=20,4,5 for a short look.
KILLS = os.environ.get("FLOWBIND_KILLS", "200,40,50").split(",")


def test_what_a_kill_leaves_of_a_file_of_tensors_goes_with_the_next_attempt(
    tmp_path, monkeypatch
):
    """The library's own name for what it is writing is drawn at random."""
    path, tensors = tmp_path / "x.safetensors", {"x": torch.arange(9.0)}
    with monkeypatch.context() as patch:
        patch.setattr("flowbind.tensors.save_file", _begin)
        child = os.fork()
        if not child:
            save_tensors(tensors, path)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert list(tmp_path.rglob(".tmp*"))
    assert not path.exists()

    save_tensors(tensors, path)
    assert [*tmp_path.iterdir()] == [path]
    assert torch.equal(load_file(path)["x"], tensors["x"])


def _begin(tensors, path, metadata):
    """Writes half of a file as safetensors does, and dies."""
    (path.parent / f".tmp{os.urandom(3).hex()}").write_bytes(b"half of it")
    os._exit(9)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_kills_change_nothing(tmp_path):
    def command(*arguments):
        done = flowbind(tmp_path, *arguments)
        return done.returncode, done.stdout, done.stderr

    make_world(tmp_path, command)
    counts = [
        f"--{kind}={count}"
        for kind, count in zip(("kills", "codec", "encode"), KILLS, strict=True)
    ]
    done = subprocess.run(
        [sys.executable, ROOT / "tests/kills.py", tmp_path, *counts],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, (
        done.stderr + (tmp_path / "kills.log").read_text()[-2000:]
    )
