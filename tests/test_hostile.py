"""Malformed inputs at every door: refused in one line that names the file, in seconds, and in bounded memory."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from flowbind.cli.check import MOST_NODES, load_yaml, refuse_bombs
from flowbind.data.manifest import read_raw
from flowbind.files import open_regular, read_regular
from tests.hostile import RECIPES, places
from tests.toy import Vector

ROOT = Path(__file__).parents[1]
LONGEST = 10  # seconds of the processor, for one input at one door
INPUTS = 300  # at least
MEMORY = 3 * 2**30  # bytes resident, of which a bit more than one is torch


@pytest.mark.parametrize(
    "what",
    [what for what in RECIPES if re.search(r"bomb|itself|lists in|mappings in", what)],
)
def test_bombs_are_refused_before_they_unfold(what):
    """By PyYAML itself, where it counts the depth."""
    with pytest.raises(
        (ValueError, yaml.YAMLError),
        match=r"more than 100000 values|stands for nothing, or for what it stands in"
        "|exceeded maximum nesting depth",
    ):
        refuse_bombs(RECIPES[what])


def test_aliases_stay_useful():
    small = "a: &a {x: &x 1}\nb: *a\nc: {<<: *a, y: *x}\n"
    assert load_yaml(small) == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 1}}
    refuse_bombs("[" + "x, " * (MOST_NODES - 2) + "x]")
    with pytest.raises(ValueError, match=f"more than {MOST_NODES} values"):
        refuse_bombs("[" + "x, " * (MOST_NODES - 1) + "x]")


def test_regular_files_alone_are_opened(tmp_path):
    refused = {
        what: path for what, path in places(tmp_path, ".png") if what != "0 bytes"
    }
    assert len(refused) == 10
    for what, path in refused.items():
        with pytest.raises((ValueError, OSError)):
            open_regular(path)
        if not what.startswith("2^40"):
            with pytest.raises(
                ValueError, match=r"^[^\n]* \(a sample\)$"
            ):  # even where a plugin would open it
                read_raw(Vector(), path, "a sample")
    (tmp_path / "sound.png").write_bytes(b"12345")
    assert read_regular(tmp_path / "sound.png", largest=5) == b"12345"
    with pytest.raises(
        ValueError, match=r"sound\.png: a file of 5 bytes, allowed here are 4"
    ):
        open_regular(tmp_path / "sound.png", largest=4)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_malformed_inputs_are_refused_by_name(tmp_path):
    command = [sys.executable, "-m", "tests.hostile", str(tmp_path)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    visits = [json.loads(line) for line in done.stdout.splitlines()]
    wrong = [
        f"{visit['kind']} {visit['door']}, {visit['what']}: {why}"
        for visit in visits
        for why in faults(visit)
    ]
    assert not wrong, "\n".join(wrong)
    assert not list(tmp_path.rglob("canary"))
    inputs = {visit["path"]: visit for visit in visits}
    assert len(inputs) >= INPUTS
    kinds = Counter(visit["kind"].split()[0] for visit in inputs.values())
    became = Counter(visit["became"] for visit in visits)
    print(
        f"{len(inputs)} inputs ({', '.join(f'{count} {kind}' for kind, count in kinds.items())}), {len(visits)} visits:"
    )
    print(
        f"{became['refused']} refused, {became['read']} read as the sound samples that they may be, 0 otherwise"
    )
    peak = max(visit["peak"] for visit in visits)
    longest = (max(visit[kind] for visit in visits) for kind in ("seconds", "worked"))
    print(
        "longest {:.1f} s ({:.1f} s of the processor),".format(*longest),
        f"{peak / 2**30:.2f} GiB resident at most",
    )


def faults(visit):
    """What is wrong with how an input was met."""
    lines = visit["said"].splitlines()
    if visit["door"] not in ("read", "check", "net", "print", "load", "open"):
        # Of the command line, after its progress.
        lines = [line for line in lines if line.startswith("flowbind: ")]
    name = Path(visit["path"]).name
    if visit["became"] not in ("refused", "read"):
        yield f"{visit['became']} {visit['said'][-300:]}"
    if visit["became"] == "read" and not visit["harmless"]:
        yield "read"
    if visit["became"] == "refused" and len(lines) != 1:
        yield f"{len(lines)} lines"
    if (
        visit["became"] == "refused"
        and name.isascii()
        and name.isprintable()
        and name not in visit["said"]
    ):
        yield f"not named: {visit['said'][:300]}"
    if visit["worked"] > LONGEST:
        yield f"{visit['worked']:.0f} s"
    if visit["peak"] > MEMORY:
        yield f"{visit['peak'] / 2**30:.1f} GiB"
