"""Whole runs in processes of their own, as a shell starts them, with the toys registered as an installed package's would be."""

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import TOYS
from tests.distribution import write_distribution
from tests.toy import RECIPE, write_world

ROOT = Path(__file__).parents[1]


def environment(folder: Path) -> dict[str, str]:
    """What a run in a folder with a `site` needs."""
    path = os.pathsep.join(
        map(str, (folder / "site", ROOT, os.environ.get("PYTHONPATH", "")))
    )
    return {
        **os.environ,
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }


def flowbind(
    folder: Path, *arguments: object, timeout: float = 240, launch=(), **extra: str
) -> subprocess.CompletedProcess:
    """Runs one command in a process of its own; `launch` is what starts Python there, such as torchrun."""
    started = [sys.executable, *launch, "-m", "flowbind", *map(str, arguments)]
    return subprocess.run(
        started,
        cwd=folder,
        env=environment(folder) | extra,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def make_world(folder: Path, command, samples: int = 512, steps: int = 400) -> Path:
    """Prepares and encodes the toy world in a folder. Returns its recipe."""
    write_distribution(
        folder / "site",
        "toys",
        {f"flowbind.{kind}": names for kind, names in TOYS.items()},
    )
    write_world(folder / "files", samples=samples)
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        RECIPE.format(data=folder / "data", run=folder / "run", steps=steps)
    )
    for arguments in (
        [
            "prepare",
            "folder",
            "--source",
            folder / "files",
            "--labels",
            folder / "files/labels.csv",
            "--out",
            folder / "data",
        ],
        ["encode", "--config", recipe],
    ):
        code, _, err = command(*arguments)
        assert code == 0, err
    return recipe


def imported_by(*arguments: str) -> tuple[int, set[str]]:
    """The exit code of a command in a process of its own, and the modules that it has imported."""
    code = "import sys\nfrom flowbind.cli import main\n"
    code += f"try: main({list(arguments)!r})\n"
    code += "finally: print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    return done.returncode, {*done.stderr.split()}
