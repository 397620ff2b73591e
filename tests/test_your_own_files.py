"""The page "Your own files": its files share nothing across samples, and its commands reach what it says."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "your-own-files.md"
COMMANDS = "\n".join(
    re.findall(
        r"^```sh\n(.*?)^```$",
        PAGE.read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
)


@pytest.fixture
def collect(monkeypatch):
    monkeypatch.syspath_prepend(PAGE.with_suffix(""))
    import collect

    return collect


def test_samples_share_no_scan_no_voice_and_no_phrase(collect):
    samples = collect.arrange(np.random.default_rng(0))
    for split, stem, digit, phrase, scan, voice in samples:
        assert stem.startswith(collect.DIGITS[digit])
        assert {collect.DIGITS[digit], str(digit)} & set(re.findall(r"\w+", phrase))
        assert (split == "train") == ((scan is None) or (voice is None))
    _, stems, _, phrases, scans, voices = zip(*samples, strict=True)
    scans = [scan.tobytes() for scan in scans if scan is not None]
    voices = [voice[1:] for voice in voices if voice is not None]  # whatever the accent
    assert len(scans) == 1797
    assert len(voices) == 1800
    for once in (stems, phrases, scans, voices):
        assert len(set(once)) == len(once)


def test_a_scan_is_a_page_with_ink(collect):
    scan = np.zeros(64)
    scan[27] = 16  # row 3, column 3
    page = np.asarray(collect.draw(scan))
    assert page.shape == (64, 64)
    assert page[0, 0] == page[-1, -1] == 255
    # Cell (4, 4) of 10 x 10, for the margin.
    darkest = np.unravel_index(page.argmin(), page.shape)
    assert darkest == pytest.approx((28, 28), abs=1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(
    not shutil.which("espeak-ng"),
    reason="needs espeak-ng (Debian: apt-get install espeak-ng)",
)
def test_every_direction_keeps_the_digit(tmp_path):
    """The commands of the page, one after the other, in an empty folder beside the repository's docs and recipes."""
    for name in ("docs", "recipes"):
        (tmp_path / name).symlink_to(ROOT / name)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        ["sh", "-ec", COMMANDS],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr

    found = json.loads((tmp_path / "runs/digits/metrics.json").read_text())
    assert found["meta"]["trained_on"].keys() == {"image+text", "audio+text"}
    kept = {
        said: measures["accuracy/digit[probe,n=300]"]
        for said, measures in found["directions"].items()
    }
    assert len(kept) == 12
    ceilings = {
        name: share
        for read in found["judges"].values()
        for name, share in read.items()
        if name.startswith("accuracy/joint[judge,")
    }
    assert len(ceilings) == 3
    assert min(ceilings.values()) >= 0.97, ceilings
    assert min(kept.values()) >= 0.9, kept
    assert all(
        not found["directions"][said]["paired"]
        for said in ("image->audio", "audio->image")
    )

    written = [
        tmp_path / line
        for line in done.stdout.splitlines()
        if line.startswith("runs/digits/made")
    ]
    assert written
    assert all(made.stat().st_size for made in written)
