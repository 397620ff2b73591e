"""The latent store: what is written is read, of any shape and dtype, and what is damaged is named."""

import json
import os
import pickle
import resource
import struct

import numpy as np
import pytest
import torch

from flowbind.data.shard import LINE, layout, read_header, shard_metadata, write_shard
from flowbind.data.store import MANIFEST, LatentStore, finish_store

PRINTS = {
    "a": {"codec": "A", "version": 1},
    "b": {"codec": "B", "version": 2, "weights": "x"},
}


def rows(count, shape, dtype, seed=0):
    values = (
        torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed)) * 50
    )
    return values.to(dtype)


def make(folder, shape=(5,), dtype=torch.float32):
    a, b = rows(70, shape, dtype), rows(50, shape, dtype, 1)
    for part, start in enumerate((0, 30)):
        stop = (30, 50)[part]
        write_shard(
            folder / f"0-{part}.safetensors",
            {"a": a[start:stop], "b": b[start:stop], LINE: torch.arange(start, stop)},
            {"key": "k"},
        )
    write_shard(
        folder / "1-0.safetensors",
        {"a": a[50:], LINE: torch.arange(50, 70)},
        {"key": "k"},
    )
    strata = [
        (["a", "b"], ["0-0.safetensors", "0-1.safetensors"]),
        (["a"], ["1-0.safetensors"]),
    ]
    return finish_store(folder, strata, PRINTS, "manifest.jsonl", "0" * 64), a, b


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8]
)
@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), ()])
def test_what_is_written_is_read(tmp_path, shape, dtype):
    store, a, b = make(tmp_path, shape, dtype)
    assert store.rows == 70
    assert torch.equal(store.all("a"), a)
    assert torch.equal(store.all("b"), b)
    assert store.lines("a").tolist() == list(range(70))
    wanted = np.array([49, 0, 30, 29, 0])
    found = store.gather(0, wanted)
    assert torch.equal(found["a"], a[wanted])
    assert torch.equal(found["b"], b[wanted])
    assert found["a"].dtype == dtype
    assert store.gather(1, np.arange(0))["a"].shape == (0, *shape)
    assert store.all("a").dtype == dtype


def test_statistics_are_those_of_all_rows(tmp_path):
    store, a, _ = make(tmp_path)
    torch.testing.assert_close(
        torch.tensor(store.fields["a"].mean), a.double().mean(0), check_dtype=False
    )
    torch.testing.assert_close(
        torch.tensor(store.fields["a"].std),
        a.double().std(0, correction=0),
        check_dtype=False,
    )


def test_a_store_without_manifest_is_not_opened(tmp_path):
    make(tmp_path / "s")
    (tmp_path / "s" / MANIFEST).unlink()
    with pytest.raises(
        FileNotFoundError, match=r"unfinished latent store; run `flowbind encode`"
    ):
        LatentStore(tmp_path / "s")
    with pytest.raises(FileNotFoundError, match="no such latent store"):
        LatentStore(tmp_path / "none")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": 99}'])
def test_a_damaged_manifest_is_named(tmp_path, text):
    make(tmp_path)
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(
        ValueError, match=r"manifest\.json: not a latent store's manifest"
    ):
        LatentStore(tmp_path)


def test_a_missing_or_truncated_shard_is_named_on_opening(tmp_path):
    make(tmp_path)
    shard = tmp_path / "0-1.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(
        ValueError, match=r"0-1\.safetensors: this shard has \d+ bytes, not \d+"
    ):
        LatentStore(tmp_path)
    shard.unlink()
    with pytest.raises(ValueError, match=r"0-1\.safetensors: this shard is missing"):
        LatentStore(tmp_path)


def test_a_damaged_header_is_named_on_reading(tmp_path):
    make(tmp_path)
    shard = tmp_path / "1-0.safetensors"
    data = bytearray(shard.read_bytes())
    data[10] ^= 0xFF
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=r"1-0\.safetensors: this shard is corrupted"):
        LatentStore(tmp_path).all("a")


def test_a_flipped_bit_is_found_by_verify(tmp_path):
    store, *_ = make(tmp_path)
    store.verify()
    shard = tmp_path / "0-0.safetensors"
    data = bytearray(shard.read_bytes())
    data[-7] ^= 1
    shard.write_bytes(data)
    with pytest.raises(
        ValueError, match=r"0-0\.safetensors: this shard is corrupted \(checksum\)"
    ):
        LatentStore(tmp_path).verify()


def test_another_codec_is_refused_by_field(tmp_path):
    store, *_ = make(tmp_path)
    store.check(PRINTS)
    with pytest.raises(
        ValueError,
        match=r"'b' was encoded by another codec: version is 2 in the store, 3 in the recipe",
    ):
        store.check(PRINTS | {"b": PRINTS["b"] | {"version": 3}})
    with pytest.raises(
        ValueError, match="weights is 'x' in the store, None in the recipe"
    ):
        store.check({"b": {"codec": "B", "version": 2}})
    with pytest.raises(ValueError, match="the store has no 'c', only a, b"):
        store.check({"c": {}})


def test_a_shard_that_was_not_finished_does_not_count(tmp_path):
    make(tmp_path)
    shard = tmp_path / "0-0.safetensors"
    assert shard_metadata(shard)["key"] == "k"
    shard.write_bytes(shard.read_bytes()[:-3])
    assert shard_metadata(shard) is None
    assert shard_metadata(tmp_path / "none") is None
    assert not list(tmp_path.glob("*.partial"))
    assert json.loads((tmp_path / MANIFEST).read_text())["format"] == 2


def test_the_same_content_gives_the_same_bytes(tmp_path):
    shards = [tmp_path / f"{n}.safetensors" for n in range(20)]
    for shard in shards:
        write_shard(
            shard,
            {"a": torch.ones(2, 3), LINE: torch.arange(2)},
            {"key": "k", "bad": ["this", "that"], "c": 1},
        )
    assert len({shard.read_bytes() for shard in shards}) == 1


def test_a_row_that_is_not_there_is_refused(tmp_path):
    store, *_ = make(tmp_path)
    for row in (-1, 50):
        with pytest.raises(
            IndexError,
            match=rf"stratum 0 has 50 rows; asked for {min(row, 3)} to {max(row, 3)}",
        ):
            store.gather(0, np.array([3, row]))


def test_many_shards_need_no_file_descriptors(tmp_path):
    files = [f"{i}.safetensors" for i in range(100)]
    for i, file in enumerate(files):
        write_shard(
            tmp_path / file,
            {"a": torch.full((2, 3), float(i)), LINE: torch.arange(2 * i, 2 * i + 2)},
            {},
        )
    store = finish_store(tmp_path, [(["a"], files)], PRINTS, "manifest.jsonl", "0" * 64)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 20, limits[1])
    )
    try:
        rows = np.random.default_rng(0).permutation(200)
        found = store.gather(0, rows, ["a", LINE])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert found[LINE].tolist() == rows.tolist()
    assert torch.equal(found["a"][:, 0], torch.from_numpy(rows // 2).float())


def test_a_process_of_its_own_opens_the_store_anew(tmp_path):
    store, a, _ = make(tmp_path)
    store.all("a")  # maps it
    assert len(pickle.dumps(store)) < 1000
    assert torch.equal(pickle.loads(pickle.dumps(store)).all("a"), a)


@pytest.mark.parametrize("offsets", [[-400, 0], [10**6, 10**6 + 400], [0, 401]])
def test_no_memory_outside_of_a_shard_is_read(tmp_path, offsets):
    path = tmp_path / "s.safetensors"
    header = json.dumps(
        {"a": {"dtype": "F32", "shape": [20, 5], "data_offsets": offsets}}
    ).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(400))
    with pytest.raises(ValueError, match=r"s\.safetensors: this shard is corrupted"):
        layout(path, *read_header(path), 20)
