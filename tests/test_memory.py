"""Reading a picture, a sound or a cloud, whatever its header says and however well it was packed, takes bounded memory."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GROWTH = 512 * 2**20  # bytes of resident memory, for one sample
# Bytes, for a picture of any size, beside those that are told for its pixels.
FIXED = 56 * 2**20
INPUTS = 300  # at least


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_reading_any_sample_takes_bounded_memory(tmp_path):
    command = [sys.executable, "-m", "tests.memory", str(tmp_path)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(outcomes) >= INPUTS
    wrong = [
        outcome
        for outcome in outcomes
        if outcome["growth"] >= GROWTH
        or (
            outcome["promised"] is not None
            and outcome["growth"] >= outcome["promised"] + FIXED
        )
        or outcome["became"] not in ("read", "refused")
        or (outcome["became"] == "read" and not outcome["harmless"])
    ]
    assert not wrong, "\n".join(map(str, wrong))
    kinds = Counter((outcome["kind"], outcome["became"]) for outcome in outcomes)
    most = {
        kind: max(o["growth"] for o in outcomes if o["kind"] == kind) >> 20
        for kind, _ in kinds
    }
    print(
        f"{len(outcomes)} inputs: {', '.join(f'{n} {kind} {became}' for (kind, became), n in kinds.items())}"
    )
    print(f"grown by at most, in MiB: {most}")
