"""Object storage: what lies at an address is read as what lies in a folder, checked, and brought once."""

import csv
import json
import os
import posixpath

import fsspec
import pytest
import torch

from flowbind.data import remote
from flowbind.data.manifest import Manifest
from flowbind.data.remote import address_of, beside, bring, is_address, place_of
from flowbind.data.remote_store import (
    PENDING,
    fetch_for_encoding,
    fetch_store,
    open_store,
    send_store,
)
from flowbind.data.store import MANIFEST, LatentStore
from tests.test_store import make
from tests.toy import Vector

BUCKET = "memory://bucket"


@pytest.fixture
def storage(tmp_path, monkeypatch):
    """An empty storage, and an empty folder of copies."""
    monkeypatch.setenv(remote.CACHE, str(tmp_path / "copies"))
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]
    yield memory
    memory.store.clear()


def put(storage, address, content):
    storage.pipe_file(address.removeprefix("memory:/"), content)


@pytest.fixture
def stored(storage, tmp_path):
    """A store at an address, and the same in a folder."""
    store, _, _ = make(tmp_path / "local")
    for path in (tmp_path / "local").iterdir():
        put(storage, f"{BUCKET}/latents/{path.name}", path.read_bytes())
    return store


@pytest.fixture
def read(monkeypatch):
    """The addresses whose content is read, in order."""
    addresses = []
    pieces = remote._pieces

    def noted(address, start):
        addresses.append((posixpath.basename(address), start))
        return pieces(address, start)

    monkeypatch.setattr(remote, "_pieces", noted)
    return addresses


# Addresses and places.


@pytest.mark.parametrize(
    "place", ["data/train.jsonl", "/data/a", "a:b", "C:/a", "", "weird:/a", "s3:/a"]
)
def test_paths_are_no_addresses(place, storage):
    assert not is_address(place)
    assert str(place_of(place)) == os.path.normpath(place or ".")
    assert address_of(place) == ""


@pytest.mark.parametrize(
    "address", ["s3://bucket/a b/train.jsonl", "gs://b/%20#?.png", "memory://a/b"]
)
def test_every_address_has_a_place_of_its_own(address, storage):
    place = place_of(address)
    assert place.is_relative_to(remote.folder_of_copies())
    assert address_of(place) == address_of(address) == address
    assert address_of(place.parent / place.name) == address


def test_no_address_leads_out_of_the_copies(storage):
    for address in ("s3://../etc/passwd", "s3://a/../../b", "s3://", "s3:///"):
        with pytest.raises(ValueError, match="leads nowhere"):
            place_of(address)


def test_files_are_named_from_their_manifest_on():
    manifest = "s3://bucket/data/train.jsonl"
    assert beside(manifest, "a/1.png") == "s3://bucket/data/a/1.png"
    assert beside(manifest, "../b/1.png") == "s3://bucket/b/1.png"
    for value in ("../../other/1.png", "../../../etc/passwd", "/etc/passwd"):
        with pytest.raises(ValueError, match="leads out of s3://bucket"):
            beside(manifest, value)


# Single files.


def test_a_file_is_brought_once_and_again_when_it_changes(storage, read):
    put(storage, f"{BUCKET}/a.txt", b"one")
    for _ in range(2):
        assert bring(f"{BUCKET}/a.txt").read_bytes() == b"one"
    assert len(read) == 1
    put(storage, f"{BUCKET}/a.txt", b"two")  # of the same size
    assert bring(f"{BUCKET}/a.txt").read_bytes() == b"two"


def test_what_is_not_there_is_one_line(storage):
    with pytest.raises(
        FileNotFoundError, match=r"^memory://bucket/a.txt: no such file$"
    ):
        bring(f"{BUCKET}/a.txt")


@pytest.mark.parametrize(
    "error",
    [PermissionError("denied"), RuntimeError("no\nsuch endpoint"), TimeoutError()],
)
def test_whatever_a_library_raises_is_one_line(storage, monkeypatch, error):
    put(storage, f"{BUCKET}/a.txt", b"one")

    def broken(*_, **__):
        raise error

    for name in ("info", "open"):
        with monkeypatch.context() as patch:
            patch.setattr(type(storage), name, broken)
            with pytest.raises(
                OSError, match=f"^{BUCKET}/a.txt: cannot be read"
            ) as caught:
                bring(f"{BUCKET}/a.txt")
        assert type(error).__name__ in str(caught.value)
        assert "\n" not in str(caught.value)


def test_schemes_that_cannot_be_read_say_what_to_do(storage, monkeypatch):
    with pytest.raises(OSError, match="nothing://a/b: cannot be read"):
        bring("nothing://a/b")

    def absent(*_):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", absent)
    with pytest.raises(
        ValueError, match=r"s3:// needs a library; install it with `pip install"
    ):
        bring("s3://a/b")
    with pytest.raises(ValueError, match="Install s3fs"):
        bring("other://a/b")


# Manifests.


@pytest.fixture
def manifest(storage, tmp_path):
    """A manifest at an address, whose files are there but for one."""
    for number in range(3):
        Vector().write(torch.full((3,), float(number)), tmp_path / "v.vec")
        put(storage, f"{BUCKET}/data/v/{number}.vec", (tmp_path / "v.vec").read_bytes())
    lines = [{"id": str(n), "vector": f"v/{n}.vec"} for n in range(4)]
    put(storage, f"{BUCKET}/data/a.jsonl", "\n".join(map(json.dumps, lines)).encode())
    return Manifest.read(f"{BUCKET}/data/a.jsonl", {"vector"})


def test_a_manifest_s_files_are_brought_when_they_are_read(manifest, read):
    assert manifest.name == f"{BUCKET}/data/a.jsonl"
    for sample in manifest.samples[:3]:
        raw = manifest.read_raw(sample, "vector", Vector())
        assert raw[0] == float(sample.id)
    with pytest.raises(ValueError, match="no such file"):
        manifest.read_raw(manifest.samples[3], "vector", Vector())
    assert len(read) == 3


def test_a_manifest_s_files_are_brought_together(manifest, read):
    manifest.bring({"vector": Vector()})
    assert sorted(read) == [(f"{n}.vec", 0) for n in range(3)]
    manifest.bring({"vector": Vector()})
    assert len(read) == 3


def test_a_manifest_leads_to_no_other_file(storage):
    lines = b'{"vector": "/etc/passwd.vec"}\n{"vector": "../../a.vec"}'
    put(storage, f"{BUCKET}/data/a.jsonl", lines)
    manifest = Manifest.read(f"{BUCKET}/data/a.jsonl", {"vector"})
    for sample in manifest.samples:
        with pytest.raises(ValueError, match="leads out of memory://bucket"):
            manifest.read_raw(sample, "vector", Vector())


# Stores.


def test_a_store_is_read_as_from_a_folder(stored):
    store = open_store(f"{BUCKET}/latents")
    for name in ("a", "b"):
        assert torch.equal(store.all(name), stored.all(name))
    assert store.fields == stored.fields


def test_shards_are_brought_once(stored, read):
    open_store(f"{BUCKET}/latents")
    first = len(read)
    assert first == 4
    open_store(place_of(f"{BUCKET}/latents"))  # by its place, too
    assert len(read) == first

    copy = place_of(f"{BUCKET}/latents/0-1.safetensors")
    copy.write_bytes(copy.read_bytes()[:-1])
    open_store(f"{BUCKET}/latents")
    assert read[first:] == [("0-1.safetensors", 0)]


def test_a_shard_goes_on_where_it_was_interrupted(stored, read):
    path = stored.folder / "0-0.safetensors"
    place = place_of(f"{BUCKET}/latents/0-0.safetensors")
    place.parent.mkdir(parents=True)
    partial = place.with_name(place.name + ".partial")
    partial.write_bytes(path.read_bytes()[:100])
    open_store(f"{BUCKET}/latents")
    assert ("0-0.safetensors", 100) in read
    assert place.read_bytes() == path.read_bytes()
    assert not partial.exists()


def test_what_was_begun_of_another_shard_is_begun_again(stored, read):
    place = place_of(f"{BUCKET}/latents/0-0.safetensors")
    place.parent.mkdir(parents=True)
    place.with_name(place.name + ".partial").write_bytes(b"of another")
    open_store(f"{BUCKET}/latents").verify()
    assert ("0-0.safetensors", 0) in read


@pytest.mark.parametrize("damage", ["bit", "short"])
def test_damaged_shards_are_never_read(stored, storage, damage):
    content = bytearray((stored.folder / "0-0.safetensors").read_bytes())
    content[-1] ^= 1
    if damage == "short":
        del content[-1]
    put(storage, f"{BUCKET}/latents/0-0.safetensors", bytes(content))
    words = {"bit": "checksum", "short": "bytes, not"}[damage]
    with pytest.raises(ValueError, match=f"latents/0-0.safetensors: .*{words}"):
        open_store(f"{BUCKET}/latents")
    assert not place_of(f"{BUCKET}/latents/0-0.safetensors").exists()


def test_there_must_be_a_whole_store(stored, storage):
    with pytest.raises(FileNotFoundError, match="no such latent store"):
        open_store(f"{BUCKET}/nowhere")
    storage.rm("/bucket/latents/1-0.safetensors")
    with pytest.raises(
        FileNotFoundError, match=r"latents/1-0.safetensors: no such file"
    ):
        open_store(f"{BUCKET}/latents")


def test_a_store_that_changed_is_brought_anew(stored, storage, tmp_path):
    open_store(f"{BUCKET}/latents")
    other, _, _ = make(tmp_path / "other", dtype=torch.float64)
    for path in (tmp_path / "other").iterdir():
        put(storage, f"{BUCKET}/latents/{path.name}", path.read_bytes())
    store = open_store(f"{BUCKET}/latents")
    assert torch.equal(store.all("a"), other.all("a"))


def test_a_store_is_written_and_read_back(storage, monkeypatch, tmp_path):
    folder = place_of(f"{BUCKET}/new")
    fetch_for_encoding(folder)
    store, _, _ = make(folder)
    sent = []
    send = remote.send

    def interrupted(path, address):
        if len(sent) == 2:
            raise OSError("gone")
        sent.append(path.name)
        send(path, address)

    # Interrupted, it has no manifest, and goes on.
    monkeypatch.setattr("flowbind.data.remote_store.send", interrupted)
    with pytest.raises(OSError, match="gone"):
        send_store(folder)
    assert not storage.exists(f"/bucket/new/{MANIFEST}")
    assert (folder / PENDING).exists()
    fetch_for_encoding(folder)
    assert (folder / MANIFEST).exists()

    first = list(sent)
    sent.clear()
    monkeypatch.setattr(
        "flowbind.data.remote_store.send",
        lambda path, address: sent.append(path.name) or send(path, address),
    )
    send_store(folder)
    assert sent[-1] == MANIFEST
    assert not {*first} & {*sent}
    assert not (folder / PENDING).exists()

    # Elsewhere.
    monkeypatch.setenv(remote.CACHE, str(tmp_path / "elsewhere"))
    assert torch.equal(open_store(f"{BUCKET}/new").all("a"), store.all("a"))
    sent.clear()
    send_store(place_of(f"{BUCKET}/new"))
    assert sent == []


def test_folders_are_opened_as_ever(stored, monkeypatch):
    monkeypatch.setattr(remote, "_storage", None)
    assert isinstance(open_store(stored.folder), LatentStore)
    send_store(stored.folder)
    fetch_for_encoding(stored.folder)
    assert not (stored.folder / PENDING).exists()


def test_verify_reads_every_byte_where_it_lies(stored, storage, command):
    code, out, _ = command("info", f"{BUCKET}/latents")
    assert code == 0
    assert "a latent store: " in out
    code, out, _ = command("verify", f"{BUCKET}/latents")
    assert (code, out.split(";")[0]) == (0, f"{BUCKET}/latents: whole")
    fetch_store(f"{BUCKET}/latents")  # whole copies tell nothing
    content = bytearray((stored.folder / "0-0.safetensors").read_bytes())
    content[-1] ^= 1
    put(storage, f"{BUCKET}/latents/0-0.safetensors", bytes(content))
    code, _, err = command("verify", f"{BUCKET}/latents")
    assert code == 2
    assert (
        "flowbind: memory://bucket/latents/0-0.safetensors: this shard is corrupted"
        in err
    )


# The whole way.


@pytest.mark.slow
def test_a_recipe_is_encoded_and_trained_at_an_address(world, storage, command):
    """Manifests, files and stores at an address give the latents and the losses of folders."""
    recipe = world / "recipe.yaml"
    for verb in ("encode", "fit"):
        code, _, err = command(verb, "--config", recipe)
        assert code == 0, err

    for path in [*(world / "data").rglob("*.jsonl"), *(world / "files").rglob("*")]:
        if path.is_file():
            where = path.relative_to(world).as_posix()
            put(storage, f"{BUCKET}/{where}", path.read_bytes())
    remotely = world / "remote.yaml"
    text = recipe.read_text().replace(str(world / "data"), f"{BUCKET}/data")
    remotely.write_text(text.replace(str(world / "run"), str(world / "remote")))
    for verb in ("encode", "fit"):
        code, _, err = command(verb, "--config", remotely)
        assert code == 0, err

    for split in ("train", "val"):
        local = next((world / "data").rglob(f"{split}/{MANIFEST}")).parent
        where = local.relative_to(world).as_posix()
        store = open_store(f"{BUCKET}/{where}")
        for name in store.fields:
            assert torch.equal(store.all(name), LatentStore(local).all(name))
        assert store.source == f"{BUCKET}/data/{split}.jsonl"

    losses = []
    for run in ("run", "remote"):
        (curves,) = (world / run).rglob("metrics.csv")
        with curves.open(newline="") as file:
            rows = list(csv.DictReader(file))
        names = [name for name in rows[0] if name.startswith(("train/", "val/"))]
        losses.append([[row[name] for name in names] for row in rows])
    assert losses[0] == losses[1]
