"""Kills what flowbind does at random moments, again and again, and compares what comes out with a run that nobody killed.

    python tests/kills.py FOLDER [--kills 200] [--codec 40] [--encode 50] [--seed 0]

Killed are the training of a model, the training of a codec, and encoding. FOLDER holds the toy world, as
`tests.processes.make_world` leaves it; what the others need is made there. Each start is a fork of this process, which has
imported everything, so that a hundred take minutes. Prints what happened; exit code 1 if a single bit differs.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch

import flowbind.cli.encode
import flowbind.cli.recipe  # noqa: F401 - the imports that take seconds
from flowbind.cli import main
from flowbind.data.plan import SHARD_ROWS
from tests.small_recipes import options, prepare

# Past the first steps of the average, which then waits between its updates.
STEPS, EVERY = (
    84,
    5,
)
WORKERS = (0, 1, 4)
AIMED = 0.3  # share of the kills that come while something is being written
# Samples to encode: 5 and 3 shards.
PAIRS, WORDS = (
    4 * SHARD_ROWS + 100,
    2 * SHARD_ROWS + 50,
)
SECONDS = 0.02  # that the toy codec takes for a batch

WORDS_RECIPE = """
model:
  class_path: flowbind.FlowBind
  init_args:
    modalities:
      word: &word
        class_path: tests.toy.Word
        init_args: {{codec: {{class_path: tests.toy.SlowWordCodec, init_args: {{seconds: {seconds}}}}}}}
      twin: *word
data:
  class_path: flowbind.data.latents.LatentDataModule
  init_args: {{manifests: {{train: {folder}/words.jsonl}}, store: {folder}/words}}
trainer: {{default_root_dir: {folder}/words-run, accelerator: cpu, devices: 1}}
"""


class Work(ABC):
    """Something that flowbind does into a folder.

    Args:
        folder: that holds what it needs.
    """

    name: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def arguments(self, out: Path, draw: random.Random) -> list[object]:
        """The command that does it, or resumes it, in a folder."""

    @abstractmethod
    def unfinished(self, out: Path) -> list[Path]:
        """What is being written there, or was when it was killed."""

    @abstractmethod
    def differing(self, out: Path, whole: Path) -> list[str]:
        """What is not the same there, to the bit."""


class Training(Work):
    """The training of the toy world's model, with 0, 1 or 4 loading processes drawn anew at each start."""

    name = "training of a model"

    def arguments(self, out: Path, draw: random.Random) -> list[object]:
        return [
            *(
                "fit",
                "--config",
                self.folder / "recipe.yaml",
                f"--trainer.default_root_dir={out}",
            ),
            *(
                f"--trainer.max_steps={STEPS}",
                f"--trainer.val_check_interval={STEPS // 2}",
            ),
            *(
                f"--checkpoints.every={EVERY}",
                f"--data.init_args.workers={draw.choice(WORKERS)}",
            ),
            "--trainer.logger=false",
        ]

    def unfinished(self, out: Path) -> list[Path]:
        checkpoints = out / "checkpoints"
        bare = [
            path
            for path in checkpoints.glob("*.ckpt")
            if not path.with_suffix(".json").exists()
        ]
        return [*checkpoints.glob("*.partial"), *bare]

    def differing(self, out: Path, whole: Path) -> list[str]:
        """Tensors of weights, average and optimiser; and files that one of the two has alone."""
        mine, other = (_state(run) for run in (out, whole))
        names = [
            name
            for name, tensor in other["state_dict"].items()
            if not torch.equal(tensor, mine["state_dict"][name])
        ]
        for key, moments in other["optimizer_states"][0]["state"].items():
            own = mine["optimizer_states"][0]["state"][key]
            names += [
                f"{key}.{name}"
                for name, value in moments.items()
                if not torch.equal(value, own[name])
            ]
        return names + sorted(_contents(out).keys() ^ _contents(whole).keys())


class CodecTraining(Training):
    """The training of the small codec of points, which draws most at random and takes most statistics over a batch."""

    name = "training of a codec"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "codec")
        self.folder.mkdir()
        os.chdir(self.folder)
        prepare("codecs/points", _command)

    def arguments(self, out: Path, draw: random.Random) -> list[object]:
        export = f"--model.init_args.export={out}/codec.safetensors"
        return options(
            "codecs/points",
            out,
            export,
            "--trainer.logger=false",
            steps=STEPS,
            every=EVERY,
        )

    def differing(self, out: Path, whole: Path) -> list[str]:
        exports = [(run / "codec.safetensors").read_bytes() for run in (out, whole)]
        return super().differing(out, whole) + ["the exported file"] * (
            exports[0] != exports[1]
        )


class Encoding(Work):
    """The encoding of 12,438 samples into 8 shards."""

    name = "encoding"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        pair, word = '{{"word": "{0}", "twin": "{0}"}}\n', '{{"word": "{0}"}}\n'
        lines = [
            (pair if n < PAIRS else word).format(f"{n % 1000:03d}")
            for n in range(PAIRS + WORDS)
        ]
        (folder / "words.jsonl").write_text("".join(lines))
        (folder / "words.yaml").write_text(
            WORDS_RECIPE.format(folder=folder, seconds=SECONDS)
        )

    def arguments(self, out: Path, draw: random.Random) -> list[object]:
        return [
            "encode",
            "--config",
            self.folder / "words.yaml",
            f"--data.init_args.store={out}",
        ]

    def unfinished(self, out: Path) -> list[Path]:
        return [*out.rglob("*.partial")]

    def differing(self, out: Path, whole: Path) -> list[str]:
        """Files that are not the same to the byte, or that one of the two has alone."""
        mine, other = (_contents(store) for store in (out, whole))
        return sorted(
            name for name in {*mine, *other} if mine.get(name) != other.get(name)
        )


def _state(run: Path) -> dict:
    return torch.load(run / f"checkpoints/step={STEPS}.ckpt", weights_only=True)


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _command(*arguments: object) -> tuple[int, str, str]:
    main([str(argument) for argument in arguments])
    return 0, "", ""


def start(arguments: list[object], log: Path) -> int:
    """Runs a command in a process of its own. Returns its number."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    code = 1
    try:
        _command(*arguments)
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.stderr.flush()
        os._exit(code)


def finish(
    child: int, seconds: float | None = None, writes: Callable[[], bool] | None = None
) -> bool:
    """Waits for a process, or kills it and its workers after some seconds, or the next time after them that it writes.

    Args:
        child: the process.
        seconds: to wait before it is killed; None to let it end.
        writes: whether something is being written, if it is to be killed in the midst of that.

    Returns:
        Whether it ended by itself.
    """
    end = None if seconds is None else time.monotonic() + seconds
    while end is None or time.monotonic() < end or (writes and not writes()):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if os.waitstatus_to_exitcode(status):
                raise SystemExit(
                    f"a command ended with code {os.waitstatus_to_exitcode(status)}; see kills.log"
                )
            return True
        time.sleep(0.0005)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def stamps(paths: list[Path]) -> set[tuple[Path, int]]:
    """Files with the times of their last change."""
    changed = set()
    for path in paths:
        with suppress(FileNotFoundError):  # done meanwhile
            changed.add((path, path.stat().st_mtime_ns))
    return changed


def is_writing(work: Work, out: Path, before: set[tuple[Path, int]]) -> bool:
    """Whether something is being written that was not there before."""
    return not stamps(work.unfinished(out)) <= before


def torment(work: Work, wanted: int, draw: random.Random, log: Path) -> None:
    """Kills some work so many times, in as many runs as that takes, and compares the end of each.

    Raises:
        SystemExit: something differs.
    """
    whole, killed = (
        work.folder / f"{end}-{type(work).__name__}" for end in ("whole", "killed")
    )
    begin = time.monotonic()
    finish(start(work.arguments(whole, draw), log))
    seconds = time.monotonic() - begin

    kills = writing = runs = most = 0
    while kills < wanted:
        shutil.rmtree(killed, ignore_errors=True)
        here = 0
        while True:
            before = stamps(work.unfinished(killed))  # left by the kill before
            child = start(work.arguments(killed, draw), log)
            after = draw.uniform(0.2, 0.7) * seconds if kills < wanted else None
            aimed = draw.random() < AIMED
            writes = partial(is_writing, work, killed, before)
            if finish(child, after, writes if aimed else None):
                break
            kills, here = kills + 1, here + 1
            writing += writes()

        runs, most = runs + 1, max(most, here)
        differing = work.differing(killed, whole)
        if differing:
            raise SystemExit(
                f"{work.name}, run {runs}: {len(differing)} differ after {here} kills, first {differing[0]}"
            )
    print(
        f"{work.name}: {kills} kills ({writing} while writing) in {runs} runs, at most {most} in a row: "
        "the end of each the same to the last bit",
        flush=True,
    )


def run() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--kills", type=int, default=200, help="of the training of a model"
    )
    parser.add_argument(
        "--codec", type=int, default=40, help="of the training of a codec"
    )
    parser.add_argument("--encode", type=int, default=50, help="of encoding")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()

    folder, draw = given.folder.resolve(), random.Random(given.seed)
    for kind, kills in (
        (Training, given.kills),
        (CodecTraining, given.codec),
        (Encoding, given.encode),
    ):
        if kills:
            torment(kind(folder), kills, draw, folder / "kills.log")


if __name__ == "__main__":
    run()
