"""`flowbind doctor`: it ends well whatever is missing, broken or silent, and tells nothing that is a person's own."""

import importlib.metadata
import os
import socket
import threading
import time
import tomllib
from pathlib import Path

import pytest

from flowbind.cli import doctor
from tests.processes import imported_by

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture
def report(command):
    """The report of what is installed, by its parts."""

    def run(*arguments):
        code, out, _ = command("doctor", *filter(None, arguments or ["--quick"]))
        assert code == 0
        parts: dict[str, list[str]] = {}
        title = ""
        for line in out.splitlines():
            if line.startswith("  "):
                parts[title].append(line.strip())
            else:
                title = line
                parts[title] = []
        return parts

    return run


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Modules that can be imported, each broken in a way of its own."""
    broken = {
        "sound": "",
        "absent_library": "import libnothing_at_all",
        "failing": "raise RuntimeError('a shared\\nlibrary is missing')",
        "crashing": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "leaving": "raise SystemExit(3)",
        "sleeping": "import time; time.sleep(60)",
    }
    for name, body in broken.items():
        (tmp_path / f"{name}.py").write_text(body)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        )
        (info / "top_level.txt").write_text(name)
    paths = [str(tmp_path), os.environ.get("PYTHONPATH", ""), str(ROOT)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_every_extra_is_told_with_what_it_is_for(report):
    extras = PROJECT["optional-dependencies"].keys() - {"all", "dev", "docs"}
    assert doctor._extra_names().keys() == extras
    assert {line.split()[0] for line in report()["extras"]} == extras


def test_what_is_missing_comes_with_what_it_is_for_and_the_command(report, monkeypatch):
    version = doctor._version
    monkeypatch.setattr(
        doctor, "_version", lambda name: "" if name == "soundfile" else version(name)
    )
    lines = {line.split()[0]: line for line in report()["extras"]}
    assert "missing, for sounds: reading, writing" in lines["audio"]
    assert "missing" in lines["metrics"]  # which needs it, too
    assert "missing" not in lines["points"]


def test_versions_that_are_not_allowed_are_told(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: "1.0")
    assert "TOO OLD OR NEW: pip install 'torch>=2.10'" in doctor._state(
        "torch", "torch>=2.10", {}
    )
    assert doctor._state("torch", "torch>=0.9", {}) == "torch 1.0"
    assert "BROKEN: why" in doctor._state("torch", "torch", {"torch": "why"})


def test_broken_packages_do_not_break_the_report(modules, monkeypatch):
    monkeypatch.setattr(doctor, "PATIENCE", 8)
    names = ["sound", "absent_library", "failing", "crashing", "leaving", "sleeping"]
    faults = doctor._faults(names)
    assert faults.pop("absent_library").startswith(
        "ModuleNotFoundError: No module named 'libn"
    )
    assert faults.pop("failing") == "RuntimeError: a shared library is missing"
    assert faults.pop("crashing") == "ends Python by SIGSEGV"
    assert faults.pop("leaving") == "SystemExit: 3"
    assert faults.pop("sleeping") == "not done within 8 s"
    assert faults == {}


def test_the_name_of_a_library_is_that_by_which_it_is_imported():
    modules = {
        "pillow": "PIL",
        "pyyaml": "yaml",
        "torch": "torch",
        "lightning": "lightning",
    }
    for name, module in modules.items():
        assert doctor._module_of(importlib.metadata.distribution(name)) == module


def test_a_part_that_cannot_be_told_is_told_as_that(report, monkeypatch):
    def broken(*_):
        raise OSError("no such thing")

    for name in (
        "_about",
        "_core",
        "_extras",
        "_plugins",
        "_programs",
        "_hub",
        "_disk",
    ):
        monkeypatch.setattr(doctor, name, broken)
    parts = report()
    assert parts["extras"] == ["cannot be told (OSError: no such thing)"]
    assert parts["hub"] == parts["extras"]
    assert set(parts) >= {"flowbind", "packages", "devices", "disk", "environment"}


def test_a_package_that_is_not_installed_leaves_a_report(report, monkeypatch):
    def requires(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr("flowbind.libraries.requires", requires)
    assert "pip install -e ." in report()["packages"][0]


def test_it_imports_nothing_that_may_be_broken():
    code, modules = imported_by("doctor", "--quick")
    assert code == 0
    assert not modules & {"torch", "lightning", "numpy", "rich", "yaml"}


# The hub.


@pytest.fixture
def silent(monkeypatch):
    """An address on this machine that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.delenv("HF_HUB_OFFLINE")
        monkeypatch.setattr(doctor, "HUB_PATIENCE", 0.3)
        yield server


def test_a_silent_hub_is_left(silent):
    start = time.monotonic()
    (line,) = doctor._hub()
    assert time.monotonic() - start < 3
    assert "no answer" in line or "unreachable" in line


def test_a_name_that_is_looked_up_for_ever_is_left(silent, monkeypatch):
    monkeypatch.setattr(doctor, "_ask", lambda endpoint: time.sleep(20))
    start = time.monotonic()
    assert "no answer within" in doctor._hub()[0]
    assert time.monotonic() - start < 3


@pytest.mark.parametrize(
    ("status", "state"), [("200 OK", "reachable"), ("404 Not Found", "answers 404")]
)
def test_a_hub_that_answers_is_reachable(silent, monkeypatch, status, state):
    monkeypatch.setattr(doctor, "HUB_PATIENCE", 10)

    def answer():
        connection, _ = silent.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(
                f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()
            )

    thread = threading.Thread(target=answer)
    thread.start()
    assert state in doctor._hub()[0]
    thread.join()


def test_a_hub_that_refuses_is_unreachable(silent):
    silent.close()
    assert "unreachable" in doctor._hub()[0]


def test_offline_nothing_is_asked(silent, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "not asked" in doctor._hub()[0]


# What is a person's own.


def test_nobody_s_name_and_no_secret_is_told(report, monkeypatch, tmp_path):
    home = tmp_path / "home-of-alice"
    home.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hf_secret")
    monkeypatch.setenv("HTTPS_PROXY", "http://alice:hf_secret@proxy:1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    parts = report()
    printed = str(parts)
    assert "alice" not in printed
    assert "secret" not in printed
    assert "CUDA_VISIBLE_DEVICES=3" in parts["environment"]
    assert "HTTPS_PROXY=http://...@proxy:1" in parts["environment"]


# Devices.


def test_devices_are_told_with_what_they_can_do(monkeypatch):
    facts = [
        {"torch": "2.13.0", "cuda": "13.0", "threads": 8},
        {"device": "cpu", "name": "", "memory": 0, "free": 0, "gain": 0.2, "error": ""},
        {
            "device": "cuda:0",
            "name": "GPU",
            "memory": 8e10,
            "free": 7e10,
            "gain": 6.0,
            "error": "",
        },
        {"compiles": "cpu", "error": "InvalidCxxCompiler: none", "seconds": 1.0},
        {"compiles": "cuda", "error": "", "seconds": 9.0},
    ]
    monkeypatch.setattr(doctor, "_probe", lambda *_: (facts, ""))
    monkeypatch.setattr(doctor, "_processor", lambda: "CPU")
    assert doctor._devices() == [
        "torch is built for CUDA 13.0; 8 threads",
        "cpu: CPU; bfloat16 0.2 times as fast as float32: train with 32-true",
        "cuda:0: GPU, 80 GB, 70 free; bfloat16 6.0 times as fast as float32",
        "compile on cpu: fails (InvalidCxxCompiler: none)",
        "compile on cuda: works, 9 s for a first function",
    ]
    monkeypatch.setattr(doctor, "_probe", lambda *_: ([], "ends Python by SIGILL"))
    assert doctor._devices() == ["torch cannot tell: ends Python by SIGILL"]


@pytest.mark.slow
def test_this_machine_s_devices_are_tried(report):
    parts = report("")
    assert any(
        line.startswith("cpu: ") and "bfloat16" in line for line in parts["devices"]
    )
    assert any(line.startswith("compile on cpu") for line in parts["devices"])
