"""Reading in turns: one heavy sample is in memory at a time, and light ones never wait."""

import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import PIL.Image
import pytest
from flowbind_depth import Depth
from flowbind_image import Image
from flowbind_points import Points

from flowbind.data.manifest import read_raw
from flowbind.turns import LIGHT, lock_file, one_sample, weigh
from tests.memory import resident

# Seconds after which something waits, and in which it must have come.
SOON, LATE = (
    0.3,
    20,
)
TRIANGLE = b"v 0 0 0\nv 1 0 0\nv 0 1 0\n"
FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def _own_lock(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def start(weights, release):
    """Reads a sample in a thread until `release` is set. Returns what is set when all is weighed."""
    weighed = threading.Event()

    def read():
        with one_sample():
            for weight in weights:
                weigh(weight)
            weighed.set()
            release.wait(LATE)

    threading.Thread(target=read, daemon=True).start()
    return weighed


def test_heavy_samples_take_turns_and_light_ones_do_not_wait():
    first, others = threading.Event(), threading.Event()
    assert start([LIGHT + 1], first).wait(LATE)
    assert start([LIGHT], others).wait(LATE)
    by_parts = start([LIGHT, 1], others)  # heavy together
    assert not by_parts.wait(SOON)
    first.set()
    assert by_parts.wait(LATE)
    others.set()


def test_a_turn_ends_with_the_sample_whatever_became_of_it():
    def fail():
        with one_sample(), one_sample():
            weigh(LIGHT + 1)
            weigh(LIGHT + 1)
            raise ValueError("damaged")

    for _ in range(2):
        with pytest.raises(ValueError, match="damaged"):
            fail()
    done = threading.Event()
    assert start([LIGHT + 1], done).wait(LATE)
    done.set()


def test_what_is_read_alone_never_waits():
    held = threading.Event()
    assert start([2 * LIGHT], held).wait(LATE)
    weigh(2 * LIGHT)
    held.set()


def test_a_process_that_is_killed_leaves_its_turn():
    def hold(ready):
        with one_sample():
            weigh(2 * LIGHT)
            ready.set()
            time.sleep(LATE)

    ready = FORK.Event()
    process = FORK.Process(target=hold, args=(ready,), daemon=True)
    process.start()
    assert ready.wait(LATE)
    done = threading.Event()
    waiting = start([2 * LIGHT], done)
    assert not waiting.wait(SOON)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert waiting.wait(LATE)
    done.set()


def test_a_folder_that_takes_no_files_keeps_nobody_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with one_sample():
        weigh(2 * LIGHT)
    lock_file().parent.mkdir()
    # Somebody else's doing: it is not followed.
    lock_file().symlink_to(tmp_path / "elsewhere")
    with one_sample():
        weigh(2 * LIGHT)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    "name", ["mesh.obj", "cloud.ply", "cloud.npz", "picture.png", "depth.npy"]
)
def test_readers_weigh_what_is_large(name, tmp_path, monkeypatch):
    """Each of these is small where it lies, or smaller than what it takes; here an eighth of what is heavy."""
    path = tmp_path / name
    points = np.zeros((6_000_000 // 8, 3))
    if name.endswith("obj"):
        path.write_bytes(TRIANGLE + b"f 1 2 3\n" * (LIGHT // (32 * 8 * 8)))
    elif name.endswith("ply"):
        header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n"
        header += (
            "".join(f"property double {axis}\n" for axis in "xyz") + "end_header\n"
        )
        path.write_bytes(header.encode() + points.tobytes())
    elif name.endswith("npz"):
        np.savez_compressed(path, points=points + 1.0)
    elif name.endswith("npy"):
        np.save(path, np.ones((4000 // 8, 3000), np.float16))
    else:
        PIL.Image.new("L", (7000 // 8, 6500)).save(path)

    weights = []
    for module in (
        "flowbind_points.modality",
        "flowbind_points.table",
        "flowbind_image.memory",
        "flowbind_depth.files",
    ):
        monkeypatch.setattr(f"{module}.weigh", weights.append)
    readers = {"picture.png": Image(), "depth.npy": Depth()}
    readers.get(name, Points()).read(path)
    assert sum(weights) > LIGHT / 8


def read_beside(path, told, go, end):
    """Reads a mesh when all others are ready, too; tells what the process has before."""
    read_raw(Points(), path.with_name("small.obj"), "a sample")
    told.put(resident(os.getpid()))
    go.wait(10 * LATE)
    read_raw(Points(), path, "a sample")
    told.put("read")
    end.wait(10 * LATE)


def growth(path, readers):
    """By how many bytes processes that read a mesh at the same time grow at most, together."""
    fresh = multiprocessing.get_context("spawn")
    told, go, end = fresh.Queue(), fresh.Event(), fresh.Event()
    processes = [
        fresh.Process(target=read_beside, args=(path, told, go, end))
        for _ in range(readers)
    ]
    for process in processes:
        process.start()
    before = sum(told.get(timeout=10 * LATE) for _ in processes)

    most = 0
    go.set()
    while told.qsize() < readers:
        most = max(most, sum(resident(process.pid) for process in processes))
        assert all(process.is_alive() for process in processes)
        time.sleep(0.005)
    end.set()
    for process in processes:
        process.join()
    return most - before


@pytest.mark.slow
def test_texts_read_beside_one_another_take_the_memory_of_one(tmp_path, monkeypatch):
    """The law: n readers grow by one heavy sample's memory and n - 1 light ones' at most."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    path = tmp_path / "mesh.obj"
    path.write_bytes(TRIANGLE + b"f 1 2 3\nf 1 2 3 2\n" * 2**20)
    path.with_name("small.obj").write_bytes(path.read_bytes()[:102])
    one, three = growth(path, 1), growth(path, 3)
    print(f"grown by {one >> 20} MiB alone, {three >> 20} MiB three together")
    assert one > 3 * LIGHT / 2  # or nothing is shown
    assert three < one + 2 * LIGHT
