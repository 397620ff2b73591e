"""Processor time to a first result: `flowbind generate` from a shell, imports and all.

    python benchmarks/first_result.py --model runs/shapes/model --image data/shapes/image/test-000000.png

Each command runs in a process of its own; what counts is the processor time of all its threads, user
and system, the least of several runs after one that leaves compiled files behind. `import torch` is
the part that no command of this kind can do without; times against it hold on other machines too.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

GENERATE = [sys.executable, "-m", "flowbind", "generate"]
# Seconds on a machine such as that of docs/performance.md.
ALLOWED = {"text to image": 4.0, "image to points": 2.5}


def main() -> None:
    """Prints a table of the commands' processor times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="runs/shapes/model")
    parser.add_argument("--image", default="data/shapes/image/test-000000.png")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        out = ["--overwrite", "--out", f"{folder}/generated"]
        caption = ["--from", "text=a large red torus", "--to", "image"]
        picture = ["--from", f"image={options.image}", "--to", "points"]
        commands = {
            "import torch": [sys.executable, "-c", "import torch"],
            "text to image": [*GENERATE, options.model, *caption, *out],
            "image to points": [*GENERATE, options.model, *picture, *out],
        }
        seconds = least(commands, options.repeat, Path(folder))

    print("| command | processor time, s | against `import torch` | allowed, s |")
    print("|---|---|---|---|")
    for name, time in seconds.items():
        ratio = time / seconds["import torch"]
        print(f"| {name} | {time:.2f} | {ratio:.2f} | {ALLOWED.get(name, '')} |")


def least(
    commands: dict[str, Sequence[str]],
    repeat: int,
    folder: Path,
) -> dict[str, float]:
    """The least processor time of each command, in seconds, taken in turns.

    Args:
        commands: Commands by name.
        repeat: Runs of each that count.
        folder: Folder for compiled files.
    """
    environment = dict(os.environ, PYTHONPYCACHEPREFIX=str(folder / "compiled"))
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeat + 1):
        for name, command in commands.items():
            times[name].append(processor_time(command, environment))
    return {name: min(measured[1:]) for name, measured in times.items()}


def processor_time(command: Sequence[str], environment: dict[str, str]) -> float:
    """Seconds of user and system time that a command takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


if __name__ == "__main__":
    main()
