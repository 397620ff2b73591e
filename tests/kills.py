"""Kills training at random moments, again and again, and compares what comes out with a run that nobody killed.

    python tests/kills.py FOLDER [--kills 100] [--seed 0]

FOLDER holds the toy world, as `tests.processes.make_world` leaves it. Each start is a fork of this process, which has
imported everything, so that a hundred take minutes. Prints what happened; exit code 1 if a single bit differs.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

import flowbind.cli.recipe  # noqa: F401 - the imports that take seconds
from flowbind.cli import main

STEPS, EVERY = 84, 5  # past the first steps of the average, which then waits between its updates
WORKERS = (0, 1, 4)


def start(folder: Path, run: Path, workers: int) -> int:
    """Begins or goes on training in a process of its own. Returns its number."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    with (folder / "kills.log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    code = 1
    try:
        main([
            "fit", "--config", str(folder / "recipe.yaml"), f"--trainer.default_root_dir={run}",
            f"--trainer.max_steps={STEPS}", f"--trainer.val_check_interval={STEPS // 2}", "--trainer.logger=false",
            f"--checkpoints.every={EVERY}", f"--data.init_args.workers={workers}",
        ])  # fmt: skip
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.stderr.flush()
        os._exit(code)


def finish(child: int, seconds: float | None = None, saving: Path | None = None) -> bool:
    """Waits for a process, or kills it and its workers after some seconds, or the next time after them that it saves.

    Args:
        child: the process.
        seconds: to wait before it is killed; None to let it end.
        saving: the folder in which it saves, if it is to be killed in the midst of that.

    Returns:
        Whether it ended by itself.
    """
    end = None if seconds is None else time.monotonic() + seconds
    while end is None or time.monotonic() < end or (saving and not unfinished(saving)):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if os.waitstatus_to_exitcode(status):
                raise SystemExit(f"training ended with code {os.waitstatus_to_exitcode(status)}; see kills.log")
            return True
        time.sleep(0.0005)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def unfinished(folder: Path) -> bool:
    """Whether a checkpoint is being written, or has no manifest yet."""
    return any(folder.glob("*.partial")) or any(not p.with_suffix(".json").exists() for p in folder.glob("*.ckpt"))


def state(run: Path) -> dict:
    return torch.load(run / f"checkpoints/step={STEPS}.ckpt", weights_only=True)


def differing(mine: dict, other: dict) -> list[str]:
    """Tensors of weights, average and optimiser that are not the same to the bit."""
    names = [name for name, tensor in other["state_dict"].items() if not torch.equal(tensor, mine["state_dict"][name])]
    for key, held in other["optimizer_states"][0]["state"].items():
        names += [
            f"{key}.{n}" for n, v in held.items() if not torch.equal(v, mine["optimizer_states"][0]["state"][key][n])
        ]
    return names


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw, folder = random.Random(options.seed), options.folder
    whole = folder / "whole"
    begin = time.monotonic()
    finish(start(folder, whole, workers=0))
    seconds = time.monotonic() - begin
    kills = saving = runs = most = 0
    while kills < options.kills:
        shutil.rmtree(folder / "killed", ignore_errors=True)
        here = 0
        checkpoints = folder / "killed/checkpoints"
        while True:
            child = start(folder, folder / "killed", draw.choice(WORKERS))
            after = draw.uniform(0.2, 0.7) * seconds if kills < options.kills else None
            if finish(child, after, checkpoints if draw.random() < 0.3 else None):
                break
            kills, here = kills + 1, here + 1
            saving += unfinished(checkpoints)
        runs, most = runs + 1, max(most, here)
        bad = differing(state(folder / "killed"), state(whole))
        if bad:
            raise SystemExit(f"run {runs}: {len(bad)} tensors differ after {here} kills, first {bad[0]}")
    print(f"{kills} kills ({saving} while saving) in {runs} runs, at most {most} in a row: every final bit the same")


if __name__ == "__main__":
    run()
