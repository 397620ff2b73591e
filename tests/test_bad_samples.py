"""Samples that cannot be read or encoded: a line and a choice, tried again every time, and never in the way of the others."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from flowbind.companions import note, noting
from flowbind.data.store import LatentStore
from flowbind.registry import load
from tests.toy import ToyCodec, Vector, Word

RECIPE = """
model:
  class_path: flowbind.FlowBind
  init_args:
    modalities:
      word: {class_path: word}
      vector: {class_path: tests.test_bad_samples.Limited}
data:
  class_path: flowbind.data.latents.LatentDataModule
  init_args: {manifests: {train: train.jsonl}, store: latents}
trainer: {accelerator: cpu, devices: 1}
"""


class Limited(Vector):
    """Vectors whose numbers are not above a limit, which is an argument."""

    def __init__(self, codec=None, drift=None, head=None, limit: float = 3.0) -> None:
        super().__init__(codec, drift, head)
        self.limit = limit

    def read(self, source):
        vector = super().read(source)
        if vector.max() > self.limit:
            raise ValueError(f"{source}: a number above {self.limit}; raise `limit`")
        return vector


@pytest.fixture
def lines(tmp_path, toys, monkeypatch):
    """Writes a manifest of pairs: word and content of the vector's file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE)

    def write(*pairs):
        entries = []
        for number, (word, vector) in enumerate(pairs):
            entries.append({"word": word, "vector": f"{number}.vec"})
            (tmp_path / f"{number}.vec").write_text(vector)
        (tmp_path / "train.jsonl").write_text(
            "".join(json.dumps(entry) + "\n" for entry in entries)
        )

    return write


@pytest.fixture
def encode(lines, command):
    """Runs `flowbind encode`: exit code, and what is said."""

    def run(*arguments):
        code, _, err = command("encode", "--config", "recipe.yaml", *arguments)
        assert "Traceback" not in err
        return code, err

    return run


def store():
    return LatentStore("latents/train")


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


GOOD = ("123", "1 2 3")


def test_what_failed_is_tried_again_alone(lines, encode, tmp_path, monkeypatch):
    """The shard gets its missing row, in its place, as if it had always been there."""
    lines(GOOD, ("321", "1 2"), ("111", "1 1 1"))
    code, said = encode()
    assert code == 2
    assert (
        "1.vec: damaged; a vector has three numbers (sample '2' of train.jsonl); --skip-bad N"
        in said
    )
    assert encode("--skip-bad", 1)[0] == 0
    assert store().lines("word").tolist() == [0, 2]
    before = content(tmp_path / "latents/train")

    # Still bad: said and counted again, and the store stays as it is.
    code, said = encode("--skip-bad", 1)
    assert (
        code,
        "1.vec: damaged" in said,
        "all others are encoded already" in said,
    ) == (
        0,
        True,
        True,
    )
    assert encode()[0] == 2
    assert content(tmp_path / "latents/train") == before
    store().verify()

    # Mended in a way that neither size nor time of change tell, as a permission or a library.
    read, encoded = Limited.read, []
    monkeypatch.setattr(
        Limited,
        "read",
        lambda self, source: (
            torch.ones(3) if source.name == "1.vec" else read(self, source)
        ),
    )
    monkeypatch.setattr(ToyCodec, "encode", counting(ToyCodec.encode, encoded))
    code, said = encode()
    assert code == 0, said
    assert "could not be read" not in said
    assert encoded == [1, 1]  # the row that was missing, of both modalities
    assert store().lines("vector").tolist() == [0, 1, 2]
    mended = store()
    mended.verify()
    everything = {name: mended.all(name) for name in ("word", "vector")}
    assert "are encoded already" in encode()[1]
    assert encode("--data.init_args.store=again")[0] == 0
    again = LatentStore("again/train")
    assert all(torch.equal(again.all(name), rows) for name, rows in everything.items())
    assert content(tmp_path / "again/train") == content(tmp_path / "latents/train")


def counting(encode, counts):
    def counted(self, raws):
        counts.append(len(raws))
        return encode(self, raws)

    return counted


def test_what_a_modality_s_own_arguments_decide_is_made_anew(lines, encode):
    lines(GOOD, ("321", "9 9 9"))
    assert "raise `limit`" in encode("--skip-bad", 1)[1]
    limit = "--model.init_args.modalities.vector.init_args.limit"
    code, said = encode(f"{limit}=9")
    assert code == 0, said
    assert store().rows == 2
    code, said = encode(f"{limit}=1")
    # What was read under another limit does not count.
    assert (code, "above 1.0" in said) == (2, True), said


def test_strata_and_shards_without_a_good_sample(lines, encode, monkeypatch, tmp_path):
    monkeypatch.setattr("flowbind.data.plan.SHARD_ROWS", 2)
    lines(GOOD, GOOD, ("x", "1 1 1"), ("y", "1 1 1"), GOOD)  # the second shard of pairs
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write('{"word": "z"}\n')  # a stratum
    code, said = encode("--skip-bad", 3)
    assert code == 0, said
    assert "3 samples could not be read and are left out" in said
    assert store().lines("word").tolist() == [0, 1, 4]
    assert [stratum.modalities for stratum in store().strata] == [["word", "vector"]]
    assert sorted(
        path.name for path in (tmp_path / "latents/train").glob("*.safetensors")
    ) == [
        "1-00000.safetensors",
        "1-00002.safetensors",
    ]
    assert "all others are encoded already" in encode("--skip-bad", 3)[1]


def test_a_shard_of_other_samples_is_no_shard_of_these(lines, encode):
    """What an earlier manifest left under the name of a shard that has no good sample now."""
    lines(GOOD)
    assert encode()[0] == 0
    lines(("x", "1 1 1"))
    code, said = encode("--skip-bad", 1)
    assert code == 2
    assert (
        "train.jsonl: none of its samples could be read, such as 'x' is no word of three digits (sample '1'"
        in said.splitlines()[-1]
    )


def test_a_modality_without_a_good_sample_is_said(lines, encode, tmp_path):
    lines(("123", "1 2"))
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write('{"word": "111"}\n{"word": null, "id": "empty"}\n')
    code, said = encode("--skip-bad", 1)
    assert code == 0, said
    assert "no sample with 'vector' could be read, so the store is without it" in said
    assert "1 of 3 samples have none of word, vector and are left out" in said
    assert list(store().fields) == ["word"]


class Picky(ToyCodec):
    """A codec that some samples are too much for, each in a way of its own."""

    def encode(self, raws):
        rows = self.numbers(raws)
        if (rows == 7).any():
            raise TypeError("seven")
        return (
            super()
            .encode(raws)
            .masked_fill((rows == 8).any(1, keepdim=True), torch.nan)
        )


def test_what_a_codec_cannot_encode_is_a_bad_sample_too(lines, encode):
    lines(GOOD, ("222", "7 1 1"), ("321", "8 1 1"), ("111", "1 1 1"))
    arguments = ["--model.init_args.modalities.vector.init_args.limit=9"]
    arguments.append(
        "--model.init_args.modalities.vector.init_args.codec={class_path: tests.test_bad_samples.Picky}"
    )
    code, said = encode(*arguments, "--skip-bad", 1)
    assert (code, "more than the 1" in said) == (2, True), said
    code, said = encode(*arguments, "--skip-bad", 2)
    assert code == 0, said
    assert "the codec of 'vector' cannot encode it: TypeError: seven, at line" in said
    assert "tests/test_bad_samples.py (sample '2' of train.jsonl)" in said
    assert (
        "the codec of 'vector' gives numbers for it that are not finite (sample '3' of train.jsonl)"
        in said
    )
    assert store().lines("vector").tolist() == store().lines("word").tolist() == [0, 3]
    expected = ToyCodec().encode([torch.tensor([1.0, 2, 3]), torch.ones(3)])
    torch.testing.assert_close(store().all("vector"), expected)


def test_a_codec_that_is_broken_is_no_fault_of_the_samples(lines, encode, monkeypatch):
    lines(GOOD, GOOD)
    broken = "flowbind: the codec of 'vector' encodes none of the 2 samples tried: RuntimeError: out of order, at"
    for error, message in (
        (RuntimeError("out of order"), broken),
        (OSError(28, "No space left on device"), "No space left"),
    ):
        monkeypatch.setattr(
            ToyCodec,
            "encode",
            lambda self, raws, error=error: (_ for _ in ()).throw(error),
        )
        code, said = encode("--skip-bad", 100)
        assert (code, message in said.splitlines()[-1]) == (2, True), said


PICKY = [
    "--model.init_args.modalities.vector.init_args.limit=9",
    "--model.init_args.modalities.vector.init_args.codec={class_path: tests.test_bad_samples.Picky}",
]


def test_a_chunk_of_bad_samples_alone_is_no_fault_of_the_codec(
    lines, encode, monkeypatch
):
    """Two rows a chunk, and the first two samples are bad: nothing tells yet who is at fault, and the rest does."""
    monkeypatch.setattr("flowbind.data.encoding.BATCH_ROWS", 2)
    lines(("222", "7 1 1"), ("222", "7 2 1"), GOOD, ("111", "1 1 1"))
    code, said = encode(*PICKY)
    assert code == 2
    tried = "the codec of 'vector' encodes none of the 2 samples tried: TypeError: seven, at"
    assert tried in said
    assert said.rstrip().endswith(
        "; if the samples are at fault, --skip-bad N leaves out at most N of them"
    )
    code, said = encode(*PICKY, "--skip-bad", 2)
    assert (code, store().lines("vector").tolist()) == (0, [2, 3]), said
    # Again, when only these two are left to try.
    assert encode(*PICKY, "--skip-bad", 2)[0] == 0


def test_a_codec_that_failed_for_all_is_told_in_the_end(lines, encode, tmp_path):
    lines(("222", "7 1 1"), ("222", "8 2 1"))
    code, said = encode(*PICKY, "--skip-bad", 2)
    assert code == 2
    assert said.splitlines()[-1].startswith(
        "flowbind: the codec of 'vector' encodes none of the 2 samples tried: "
    )
    assert "--skip-bad" not in said
    assert "sample '1'" not in said
    assert not (tmp_path / "latents/train/manifest.json").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_readers_that_break_are_bad_samples(lines, encode, monkeypatch, workers):
    lines(GOOD, GOOD, GOOD)
    read = Word.read

    def broken(self, source):
        if next(reads) == 1:
            raise KeyError("uv")
        return read(self, source)

    reads = iter(range(10))
    monkeypatch.setattr(Word, "read", broken)
    code, said = encode("--skip-bad", 1, "--workers", workers)
    assert code == 0, said
    assert "'123': its reader failed with KeyError: 'uv', at line" in said
    assert store().lines("word").tolist() == [0, 2]


def test_a_full_disk_while_mending_loses_nothing(lines, encode, tmp_path, monkeypatch):
    lines(GOOD, ("321", "1 2"))
    assert encode("--skip-bad", 1)[0] == 0
    (shard,) = (tmp_path / "latents/train").glob("*.safetensors")
    before = shard.read_bytes()
    # As if the file could be opened now.
    monkeypatch.setattr(Limited, "read", lambda self, source: torch.ones(3))
    with monkeypatch.context() as patch:
        patch.setattr(
            "flowbind.data.encoding.write_shard",
            lambda *_: (_ for _ in ()).throw(OSError(28, "No space left", "x")),
        )
        assert encode()[0] == 2
    assert shard.read_bytes() == before
    assert encode()[0] == 0
    assert store().rows == 2


def test_damage_is_not_written_over(lines, encode, tmp_path, monkeypatch):
    lines(GOOD, ("321", "1 2"))
    assert encode("--skip-bad", 1)[0] == 0
    (shard,) = (tmp_path / "latents/train").glob("*.safetensors")
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    monkeypatch.setattr(Limited, "read", lambda self, source: torch.ones(3))
    code, said = encode()
    assert (
        code,
        f"{shard.name}: this shard is corrupted (data: checksum); delete it" in said,
    ) == (
        2,
        True,
    ), said


@pytest.mark.parametrize("workers", [0, 2])
def test_memory_is_no_fault_of_a_sample_but_the_sample_is_named(
    lines, encode, monkeypatch, workers
):
    lines(GOOD, GOOD)
    monkeypatch.setattr(
        Word, "read", lambda self, source: (_ for _ in ()).throw(MemoryError())
    )
    code, said = encode("--skip-bad", 5, "--workers", workers)
    assert code == 2
    last = said.splitlines()[-1]
    assert (
        "'123': not enough memory to read it (sample '1' of train.jsonl): not enough memory; give smaller files"
        in last
    )


# Files beside a sample's own


class Shifted(Vector):
    """Vectors that a file beside theirs moves, where it is there: `a.vec` names `a.shift`."""

    def read(self, source):
        shift = Path(source).with_suffix(".shift")
        note(shift)
        try:
            return super().read(source) + float(shift.read_text())
        except FileNotFoundError:
            return super().read(source)


@pytest.fixture
def shifted(lines, tmp_path):
    """Vectors of ones, the second of which is shifted by 1; numbers that are encoded, by line."""
    lines(GOOD, ("321", "1 1 1"), ("111", "1 1 1"))
    recipe = RECIPE.replace("Limited", "Shifted")
    (tmp_path / "recipe.yaml").write_text(recipe)
    (tmp_path / "1.shift").write_text("1")

    def numbers():
        back = ToyCodec().decode(store().all("vector"))
        return dict(
            zip(
                store().lines("vector").tolist(),
                [round(float(v[0]), 3) for v in back],
                strict=True,
            )
        )

    return numbers


def test_a_file_beside_that_changes_comes_or_goes_is_a_change_of_the_sample(
    shifted, encode, tmp_path, monkeypatch
):
    assert encode()[0] == 0
    assert shifted() == {0: 1, 1: 2, 2: 1}
    assert "are encoded already" in encode()[1]

    tried = []
    original = Shifted.read
    monkeypatch.setattr(
        Shifted,
        "read",
        lambda self, source: tried.append(source.name) or original(self, source),
    )
    changes = (
        ("1.shift", "22", {0: 1, 1: 23, 2: 1}),
        ("2.shift", "3", {0: 1, 1: 23, 2: 4}),
        ("1.shift", None, {0: 1, 1: 1, 2: 4}),
    )
    for name, content, numbers in changes:
        path = tmp_path / name
        path.unlink() if content is None else path.write_text(content)
        tried.clear()
        assert encode()[0] == 0
        assert shifted() == numbers
        assert tried == [name.replace("shift", "vec")]  # the others stay
    whole = content_of_shards(tmp_path)
    assert "are encoded already" in encode()[1]

    # The same as if they had always been so, wherever the command is given.
    shutil.rmtree(tmp_path / "latents")
    assert encode()[0] == 0
    assert content_of_shards(tmp_path) == whole


def content_of_shards(folder):
    return {
        path.name: path.read_bytes()
        for path in (folder / "latents/train").glob("*.safetensors")
    }


def test_what_a_file_beside_makes_unreadable_leaves_no_latent(
    shifted, encode, tmp_path
):
    assert encode()[0] == 0
    (tmp_path / "1.shift").write_text("one")
    code, said = encode()
    assert (code, "1.vec" in said) == (2, True)
    assert encode("--skip-bad", 1)[0] == 0
    assert shifted() == {0: 1, 2: 1}
    (tmp_path / "1.shift").write_text("4")
    assert encode()[0] == 0
    assert shifted() == {0: 1, 1: 5, 2: 1}


def test_the_only_sample_that_a_file_beside_makes_unreadable(
    lines, shifted, encode, tmp_path
):
    lines(("321", "1 1 1"))
    (tmp_path / "0.shift").write_text("1")
    assert encode()[0] == 0
    (tmp_path / "0.shift").write_text("one")
    code, said = encode("--skip-bad", 1)
    assert (code, "none of its samples could be read" in said) == (2, True)


def test_a_picture_of_a_mesh_is_a_file_beside(tmp_path):
    (tmp_path / "a.obj").write_text(
        "mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nusemtl m\nf 1/1 2/1 3/1\n"
    )
    (tmp_path / "a.mtl").write_text("newmtl m\nmap_Kd a.png\n")
    with noting() as stamps:
        load("modalities", "points")().read(tmp_path / "a.obj")
    assert sorted(map(os.path.basename, stamps)) == ["a.mtl", "a.png"]
    assert stamps[str(tmp_path / "a.mtl")]
    assert not stamps[str(tmp_path / "a.png")]
