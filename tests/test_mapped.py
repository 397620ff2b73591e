"""Mapped files: rows at any address of any file are its bytes."""

import numpy as np
import pytest

from flowbind.data.memory_map import Mapped


@pytest.mark.parametrize("scattered", [None, False, True])
@pytest.mark.parametrize("size", [1, 7, 5000])
def test_rows_are_the_files_bytes(tmp_path, scattered, size):
    random = np.random.default_rng(size)
    contents = [
        random.integers(0, 256, length, dtype=np.uint8)
        for length in (5000, 123_457, 8192, 70_001)
    ]
    for number, content in enumerate(contents):
        (tmp_path / str(number)).write_bytes(content.tobytes())
    files = Mapped(
        [
            (tmp_path / str(number), len(content))
            for number, content in enumerate(contents)
        ],
        scattered,
    )
    which = random.integers(0, 4, 300)
    places = np.array([random.integers(0, len(contents[i]) - size + 1) for i in which])
    places[:2] = [0, len(contents[which[1]]) - size]  # the first and the last byte
    found = files.rows(files.addresses[which] + places, size)
    assert found.shape == (300, size)
    assert all(
        (row == contents[i][place : place + size]).all()
        for row, i, place in zip(found, which, places, strict=True)
    )
    found[:] = 0  # a copy: the files stay
    assert all(
        (tmp_path / str(i)).read_bytes() == content.tobytes()
        for i, content in enumerate(contents)
    )
    assert files.rows(files.addresses[:0], size).shape == (0, size)


def test_a_file_that_cannot_be_mapped_is_one_line(tmp_path):
    (tmp_path / "x").write_bytes(b"x")
    with pytest.raises(
        OSError,
        match=r"^[^\n]*none: cannot be mapped into memory after 1 other files [^\n]*$",
    ):
        Mapped([(tmp_path / "x", 1), (tmp_path / "none", 1)])
