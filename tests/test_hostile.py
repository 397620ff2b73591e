"""Malformed inputs at every door: refused in one line that names the file, in seconds, and in bounded memory."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.hostile import LONGEST

ROOT = Path(__file__).parents[1]
INPUTS = 300  # at least
MEMORY = 3 * 2**30  # bytes resident, of which a bit more than one is torch


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_malformed_inputs_are_refused_by_name(tmp_path):
    command = [sys.executable, "-m", "tests.hostile", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr[-2000:]
    visits = [json.loads(line) for line in done.stdout.splitlines()]
    wrong = [f"{visit['kind']} {visit['door']}, {visit['what']}: {why}" for visit in visits for why in faults(visit)]
    assert not wrong, "\n".join(wrong)
    assert not list(tmp_path.rglob("canary"))
    inputs = {visit["path"]: visit for visit in visits}
    assert len(inputs) >= INPUTS
    kinds = Counter(visit["kind"].split()[0] for visit in inputs.values())
    became = Counter(visit["became"] for visit in visits)
    print(f"{len(inputs)} inputs ({', '.join(f'{count} {kind}' for kind, count in kinds.items())}), {len(visits)} visits:")
    print(f"{became['refused']} refused, {became['read']} read as the sound samples that they may be, 0 otherwise")
    peak = max(visit["peak"] for visit in visits)
    print(f"longest {max(visit['seconds'] for visit in visits):.1f} s, {peak / 2**30:.2f} GiB resident at most")


def faults(visit):
    """What is wrong with how an input was met."""
    lines = visit["said"].splitlines()
    if visit["door"] not in ("read", "check", "net", "load", "open"):
        lines = [line for line in lines if line.startswith("flowbind: ")]  # of the command line, after its progress
    name = Path(visit["path"]).name
    if visit["became"] not in ("refused", "read"):
        yield f"{visit['became']} {visit['said'][-300:]}"
    if visit["became"] == "read" and not visit["harmless"]:
        yield "read"
    if visit["became"] == "refused" and len(lines) != 1:
        yield f"{len(lines)} lines"
    if visit["became"] == "refused" and name.isascii() and name.isprintable() and name not in visit["said"]:
        yield f"not named: {visit['said'][:300]}"
    if visit["seconds"] > LONGEST:
        yield f"{visit['seconds']:.0f} s"
    if visit["peak"] > MEMORY:
        yield f"{visit['peak'] / 2**30:.1f} GiB"
