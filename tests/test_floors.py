"""Floors of versions that are security decisions, in what is asked for, what is pinned and what is here."""

import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ASKED = [
    *PROJECT["dependencies"],
    *(line for extra in PROJECT["optional-dependencies"].values() for line in extra),
]
FLOORS = {
    "lightning": "2.6.6",  # 2.6.2 and 2.6.3 were malware; up to 2.6.5 loading a checkpoint could run code
    "torch": "2.10",  # two flaws in the reader of weights alone
    "sentence-transformers": "6",  # before, code in a model's local folder was trusted
}


@pytest.mark.parametrize("name", FLOORS)
def test_floors(name):
    floor = Version(FLOORS[name])
    asked = [
        requirement
        for requirement in map(Requirement, ASKED)
        if requirement.name == name
    ]
    assert asked
    for requirement in asked:
        lowest = [
            Version(part.version)
            for part in requirement.specifier
            if part.operator in (">=", "==", "~=")
        ]
        assert lowest, requirement
        assert max(lowest) >= floor, requirement
    pinned = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    )
    assert Version(pinned[name]) >= floor
    assert Version(version(name)) >= floor


def test_the_audit_reads_the_pins_and_cannot_pass_unasked():
    """Without `--strict`, pip-audit is content where the service does not answer."""
    makefile = (ROOT / "Makefile").read_text()
    command = makefile[makefile.index("\naudit:") :].splitlines()[2]
    assert "pip-audit --requirement constraints.txt" in command
    assert "--strict" in command
