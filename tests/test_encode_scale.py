"""Encoding on several devices, and commands that are killed: the files are always those of one whole run on one device."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flowbind.data.encoding import BATCH_ROWS
from flowbind.data.plan import SHARD_ROWS
from flowbind.data.shard import shard_metadata
from flowbind.data.store import MANIFEST, LatentStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[1]
# Which Lightning starts again for every further device.
FLOWBIND = Path(sys.executable).with_name("flowbind")
PAIRS, WORDS = 7 * SHARD_ROWS + 100, 3 * SHARD_ROWS + 50  # 8 and 4 shards
SHARDS = 12
KILLS = 5
# Samples that cannot be read, in three shards.
BAD = {
    5: "12",
    3 * SHARD_ROWS + 1: "x",
    8 * SHARD_ROWS: "1234",
}

RECIPE = """
model:
  class_path: flowbind.FlowBind
  init_args:
    modalities:
      word: &word
        class_path: tests.toy.Word
        init_args:
          codec: {{class_path: tests.toy.SlowWordCodec, init_args: {{seconds: 0.05, log: "{folder}/log"}}}}
      twin: *word
data:
  class_path: flowbind.data.latents.LatentDataModule
  init_args: {{manifests: {{train: {folder}/train.jsonl, val: {folder}/val.jsonl}}, store: {folder}/latents}}
trainer: {{default_root_dir: {folder}/run, accelerator: cpu, devices: 1}}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe and its manifests: words, most of them twice; of the validation words some are none."""
    folder = tmp_path_factory.mktemp("encode")
    pair, word = '{{"word": "{0}", "twin": "{0}"}}\n', '{{"word": "{0}"}}\n'
    lines = [
        (pair if n < PAIRS else word).format(f"{n % 1000:03d}")
        for n in range(PAIRS + WORDS)
    ]
    (folder / "train.jsonl").write_text("".join(lines))
    for n, wrong in BAD.items():
        lines[n] = (pair if n < PAIRS else word).format(wrong)
    (folder / "val.jsonl").write_text("".join(lines))
    (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder))
    return folder / "recipe.yaml"


def begin(*arguments) -> subprocess.Popen:
    """Starts a command in a session of its own, where it hears Ctrl-C: a shell has what it puts in the background ignore it."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    }
    for name in ("LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    return subprocess.Popen(
        [FLOWBIND, *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """The exit code of a command, and what it said."""
    _, said = process.communicate(timeout=300)
    return process.returncode, said


def encoding(recipe: Path, store: Path, devices: int, *arguments) -> list:
    """The command that encodes into a store."""
    spread = [
        "--trainer.accelerator",
        "cpu",
        "--trainer.devices",
        devices,
        "--trainer.strategy",
        "ddp",
    ]
    chosen = [f"--data.init_args.store={store}", *(spread if devices > 1 else ())]
    return ["encode", "--config", recipe, *chosen, *arguments]


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def finished(folder: Path) -> dict[str, tuple[int, int]]:
    """Which writing of each whole shard is there."""
    whole = [path for path in folder.glob("*.safetensors") if shard_metadata(path)]
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in whole}


@pytest.fixture(scope="module")
def whole(recipe):
    """What one whole run on one device writes, and what it says."""
    store = recipe.parent / "whole"
    code, said = finish(begin(*encoding(recipe, store, 1, "--skip-bad", len(BAD))))
    assert code == 0, said
    assert len(content(store / "train")) == SHARDS + 1
    return content(store), said


def listed(said: str) -> list[str]:
    """What is said of samples that are left out."""
    return [
        line.split(": ", 1)[-1]
        for line in said.splitlines()
        if "left out" in line or line.startswith("  ")
    ]


def test_two_devices_write_what_one_writes(recipe, whole, tmp_path):
    code, said = finish(
        begin(*encoding(recipe, tmp_path / "store", 2, "--skip-bad", len(BAD)))
    )
    assert code == 0, said
    assert content(tmp_path / "store") == whole[0]
    assert listed(said) == listed(whole[1])
    assert len(listed(said)) == 1 + len(BAD)
    assert (
        f"encoding {recipe.parent}/train.jsonl: {PAIRS + WORDS}/{PAIRS + WORDS} samples done in"
        in said
    )
    assert LatentStore(tmp_path / "store/val").rows == PAIRS + WORDS - len(BAD)


@pytest.mark.parametrize("devices", [1, 2])
def test_a_bad_sample_of_one_device_ends_all_in_one_line(recipe, tmp_path, devices):
    process = begin(
        *encoding(
            recipe, tmp_path / "store", devices, "--split", "val", "--skip-bad", "1"
        )
    )
    code, said = finish(process)
    assert code == 2, said
    assert said.count("more than the 1 that --skip-bad allows") == 1
    assert "Traceback" not in said
    assert not (tmp_path / "store/val" / MANIFEST).exists()
    assert gone(process)


def gone(process: subprocess.Popen, patience: float = 60) -> bool:
    """Whether all that a command started has ended, after some patience."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.2)
    return False


@pytest.mark.parametrize("devices", [1, 2])
def test_killed_at_any_moment_and_run_again(recipe, whole, tmp_path, devices):
    draw, store, log = random.Random(devices), tmp_path / "store", recipe.parent / "log"
    command = encoding(recipe, store, devices, "--split", "train")
    folder, kept, kills = store / "train", {}, KILLS
    log.unlink(missing_ok=True)
    for kill in range(kills):
        process = begin(*command)
        batches = draw.randrange(2, 30) if kill else 0
        before = lines(log)
        while lines(log) < before + batches and process.poll() is None:
            time.sleep(0.005)
        # Once before it has begun.
        time.sleep(draw.uniform(0, 0.1) if kill else draw.uniform(0, 4))
        assert process.poll() is None, process.stderr.read()
        if kill % 2:  # the first process alone: the others must notice
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()
        assert gone(process)
        assert not (folder / MANIFEST).exists()
        now = finished(folder)
        assert kept.items() <= now.items()
        kept = now
    assert kept
    (folder / "9-00000.safetensors.partial").write_bytes(b"half a shard")
    (folder / "9-00000.safetensors.writing").mkdir()
    (folder / "9-00000.safetensors.writing/.tmp123").write_bytes(b"half a shard")
    code, said = finish(begin(*command))
    assert code == 0, said
    assert kept.items() <= finished(folder).items()
    assert {f"train/{name}" for name in content(folder)} == {
        name for name in whole[0] if name.startswith("train/")
    }
    assert all(
        held == whole[0][f"train/{name}"] for name, held in content(folder).items()
    )
    needed = sum(
        -(-rows // BATCH_ROWS) * names for rows, names in ((PAIRS, 2), (WORDS, 1))
    )
    lost = kills * devices * SHARD_ROWS // BATCH_ROWS * 2
    assert needed <= lines(log) <= needed + lost
    print(
        f"{devices} devices: {kills} kills, {len(kept)} of {SHARDS} shards finished before the last run and kept, "
        f"{lines(log)} batches encoded of {needed} needed; the store is the same to the byte"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_kill_end_all_devices(recipe, whole, tmp_path, number):
    """Ctrl-C goes to all of them, `kill` to the first, which started the others."""
    command, log = (
        encoding(recipe, tmp_path / "store", 2, "--split", "train"),
        recipe.parent / "log",
    )
    process, before = begin(*command), lines(log)
    while lines(log) < before + 40 and process.poll() is None:
        time.sleep(0.005)
    send = os.killpg if number == signal.SIGINT else os.kill
    send(process.pid, number)
    code, said = finish(process)
    assert code == 128 + number, said
    assert "interrupted; run the same command again to resume" in said
    assert "Traceback" not in said
    assert gone(process)
    kept = finished(tmp_path / "store/train")
    assert kept
    code, said = finish(begin(*command))
    assert code == 0, said
    assert kept.items() <= finished(tmp_path / "store/train").items()
    assert all(
        held == whole[0][f"train/{name}"]
        for name, held in content(tmp_path / "store/train").items()
    )


def lines(path: Path) -> int:
    """How many lines a file has; none if it is not there."""
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def test_preparing_is_whole_after_kills(tmp_path):
    command = ["prepare", "shapes", "--samples", 240, "--test-samples", 4]
    code, said = finish(begin(*command, "--out", tmp_path / "whole"))
    assert code == 0, said
    partial, draw = tmp_path / "killed.partial", random.Random(0)
    for _ in range(KILLS):
        process = begin(*command, "--out", tmp_path / "killed")
        files = draw.randrange(1, 200)
        while (
            process.poll() is None
            and sum(len(names) for *_, names in os.walk(partial)) < files
        ):  # it comes and goes
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        process.stderr.close()
        assert not (tmp_path / "killed").exists()
    code, said = finish(begin(*command, "--out", tmp_path / "killed"))
    assert code == 0, said
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "whole"]
    print(
        f"prepare: {KILLS} kills, then the same {len(content(tmp_path / 'whole'))} files to the byte"
    )
