"""What lies on disk is what was written: damaged stores and models are found out, and other codecs are named."""

import json
import os
import random
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

from flowbind import release
from flowbind.data.shard import LINE, write_shard
from flowbind.data.store import MANIFEST, LatentStore, finish_store
from flowbind.files import digest, digest_json
from flowbind.registry import load
from tests.released import make_model

MUTATIONS, FINGERPRINTS = 100, 13
ROWS, SHARDS = 6, 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A store of three shards of equal size in one stratum, and a fourth in another."""
    folder = tmp_path_factory.mktemp("whole") / "store"
    draw = torch.Generator().manual_seed(0)
    files = [f"0-{number:05d}.safetensors" for number in range(SHARDS)]
    for number, file in enumerate(files):
        lines = torch.arange(number * ROWS, (number + 1) * ROWS)
        latents = {name: torch.randn(ROWS, 5, generator=draw) for name in "ab"}
        write_shard(
            folder / file,
            latents | {LINE: lines},
            {"key": f"{number:064d}", "bad": "[]"},
        )
    write_shard(
        folder / "1-00000.safetensors",
        {"a": torch.ones(2, 5), LINE: torch.arange(2)},
        {"key": "k", "bad": "[]"},
    )
    prints = {
        "a": {"codec": "A", "version": 1},
        "b": {"codec": "B", "version": 2, "weights": "x"},
    }
    finish_store(
        folder,
        [(["a", "b"], files), (["a"], ["1-00000.safetensors"])],
        prints,
        "train.jsonl",
        "0" * 64,
    )
    return folder


def shards(folder):
    return sorted(folder.glob("*.safetensors"))


# Mutations: each damages a copy of a store, and returns the files of which one has to be named.


def truncate(folder, draw):
    path = draw.choice(shards(folder))
    content = path.read_bytes()
    path.write_bytes(content[: draw.randrange(1, len(content))])
    return {path.name}


def empty(folder, draw):
    path = draw.choice(shards(folder))
    path.write_bytes(b"")
    return {path.name}


def delete(folder, draw):
    path = draw.choice(shards(folder))
    path.unlink()
    return {path.name}


def append(folder, draw):
    path = draw.choice(shards(folder))
    path.write_bytes(path.read_bytes() + draw.randbytes(draw.randrange(1, 99)))
    return {path.name}


def flip(folder, draw, header):
    path = draw.choice(shards(folder))
    content = bytearray(path.read_bytes())
    begin = 8 + int.from_bytes(content[:8], "little")
    content[
        draw.randrange(0, begin) if header else draw.randrange(begin, len(content))
    ] ^= 1 << draw.randrange(8)
    path.write_bytes(content)
    return {path.name}


def flip_header(folder, draw):
    return flip(folder, draw, header=True)


def flip_data(folder, draw):
    return flip(folder, draw, header=False)


def swap(folder, draw):
    first, second = draw.sample(shards(folder)[:SHARDS], 2)
    content = first.read_bytes(), second.read_bytes()
    assert len(content[0]) == len(content[1])
    first.write_bytes(content[1])
    second.write_bytes(content[0])
    return {first.name, second.name}


def edit(folder, draw):
    """Another value somewhere in the manifest."""
    manifest = json.loads((folder / MANIFEST).read_text())
    field, shard = (
        manifest["fields"][draw.choice("ab")],
        draw.choice(manifest["strata"][0]["shards"]),
    )
    node, key, value = draw.choice(
        [
            (field["mean"], 0, field["mean"][0] + 1e-12),
            (field["std"], 1, 2.0),
            (field, "dtype", "F64"),
            (field["fingerprint"], "version", 3),
            (shard, "rows", ROWS + 1),
            (shard, "file", "1-00000.safetensors"),
            (shard, "sha256", "0" * 64),
            (manifest, "source_sha256", "1" * 64),
            (manifest["strata"], slice(None), manifest["strata"][::-1]),
        ]
    )
    node[key] = value
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return {MANIFEST}


def cut_manifest(folder, draw):
    content = (folder / MANIFEST).read_bytes()
    (folder / MANIFEST).write_bytes(content[: draw.randrange(len(content) - 1)])
    return {MANIFEST}


def opening(folder):
    """What is said on opening a store; nothing if it opens."""
    try:
        LatentStore(folder)
    except ValueError as error:
        return str(error)
    return ""


KINDS = [
    truncate,
    empty,
    delete,
    append,
    flip_header,
    flip_data,
    flip_data,
    swap,
    edit,
    cut_manifest,
]


def test_every_mutation_of_a_store_is_found(whole, tmp_path, command):
    assert command("verify", whole)[:2] == (
        0,
        f"{whole}: whole; {ROWS * SHARDS + 2} rows, {SHARDS + 1} shards, {LatentStore(whole).bytes} bytes\n",
    )
    found, opened = Counter(), Counter()
    for seed in range(MUTATIONS):
        draw, kind = random.Random(seed), KINDS[seed % len(KINDS)]
        shutil.copytree(whole, tmp_path / str(seed))
        named = kind(tmp_path / str(seed), draw)
        code, out, err = command("verify", tmp_path / str(seed))
        assert (code, out) == (2, ""), (seed, kind)
        # After the progress.
        said = [line for line in err.splitlines() if line.startswith("flowbind: ")]
        assert len(said) == 1
        assert any(name in said[0] for name in named), (seed, kind, said)
        found[kind.__name__] += 1
        refusal = opening(tmp_path / str(seed))
        if refusal:
            assert any(name in refusal for name in named)
            opened[kind.__name__] += 1
    # Which only reading every byte can show.
    assert set(found) - set(opened) == {"flip_data"}
    assert all(opened[name] == found[name] for name in opened)
    print(
        f"{found.total()} of {MUTATIONS} mutations found by verify, {opened.total()} on opening: {dict(found)}"
    )


def test_a_parent_is_verified_split_by_split(whole, tmp_path, command):
    for split in ("train", "val"):
        shutil.copytree(whole, tmp_path / "latents" / split)
    code, out, err = command("verify", tmp_path / "latents")
    assert code == 0, err
    assert [Path(line.split(":")[0]).name for line in out.splitlines()] == [
        "train",
        "val",
    ]
    flip_data(tmp_path / "latents" / "val", random.Random(0))
    code, out, err = command("verify", tmp_path / "latents")
    assert (code, out.count("whole")) == (2, 1)
    assert re.search(
        r"^flowbind: .*latents/val/.*safetensors: this shard is corrupted",
        err,
        re.MULTILINE,
    )
    (tmp_path / "none").mkdir()
    assert command("verify", tmp_path / "none")[0] == 2


def test_a_forged_manifest_cannot_lead_out_of_the_store(whole, tmp_path):
    """A checksum keeps off mistakes, not ill will: whoever writes one anew still names nothing outside."""
    folder = shutil.copytree(whole, tmp_path / "store")
    shutil.copy(shards(folder)[0], tmp_path / "outside.safetensors")
    for file in (
        "../outside.safetensors",
        str(tmp_path / "outside.safetensors"),
        "..",
        "",
    ):
        manifest = json.loads((whole / MANIFEST).read_text())
        del manifest["sha256"]
        manifest["strata"][0]["shards"][0]["file"] = file
        (folder / MANIFEST).write_text(
            json.dumps({"sha256": digest_json(manifest)} | manifest)
        )
        with pytest.raises(
            ValueError, match=r"^[^\n]*manifest\.json[^\n]*not in the store$"
        ):
            LatentStore(folder)


def test_what_is_damaged_before_the_end_does_not_pass_for_whole(whole, tmp_path):
    """A manifest written again over shards that were kept finds their damage too."""
    folder = shutil.copytree(whole, tmp_path / "store")
    groups = [
        (stratum.modalities, [shard.file for shard in stratum.shards])
        for stratum in LatentStore(whole).strata
    ]
    assert (
        finish_store(folder, groups, {"a": {}, "b": {}}, "", "").rows
        == ROWS * SHARDS + 2
    )
    (named,) = flip_data(folder, random.Random(1))
    with pytest.raises(
        ValueError, match=rf"{named}: this shard is corrupted \(data: checksum\)"
    ):
        finish_store(folder, groups, {"a": {}, "b": {}}, "", "")


@pytest.mark.slow
def test_shards_outlive_a_change_of_the_manifests_format(world, command):
    """A store of another format, or with a damaged manifest, costs its manifest and no shard."""
    recipe, train = world / "recipe.yaml", world / "data/latents/train"
    assert command("encode", "--config", recipe)[0] == 0
    before = {path.name: path.stat().st_mtime_ns for path in shards(train)}
    manifest = json.loads((train / MANIFEST).read_text())
    (train / MANIFEST).write_text(json.dumps(manifest | {"format": 1}))
    code, _, err = command("fit", "--config", recipe)
    assert code == 2
    assert "format 1, this flowbind reads 2" in err
    assert command("encode", "--config", recipe)[0] == 0
    assert {path.name: path.stat().st_mtime_ns for path in shards(train)} == before
    assert command("verify", world / "data/latents")[0] == 0


# Fingerprints


def changed_codecs(folder):
    """Codecs of the plugins, each with another that differs in one thing, and the field that has to tell it."""
    for name in ("weights", "others"):
        (folder / name).write_bytes(name.encode())
    weights, others = str(folder / "weights"), str(folder / "others")
    for name, given, change, field in [
        ("sentence-prefix-lm", {}, {"encoder": "other/encoder"}, "encoder"),
        ("sentence-prefix-lm", {}, {"revision": "v2"}, "revision"),
        ("sentence-prefix-lm", {}, {"normalize": True}, "normalize"),
        ("clip-unclip", {}, {"model": "ViT-B-32"}, "model"),
        ("clip-unclip", {}, {"pretrained": "laion2b_s32b_b82k"}, "pretrained"),
        (
            "clap-audioldm",
            {"weights": weights},
            {"clap": "laion/larger_clap_general"},
            "clap",
        ),
        (
            "clap-audioldm",
            {"weights": weights},
            {"clap_revision": "v2"},
            "clap_revision",
        ),
        (
            "clap-audioldm",
            {"weights": weights},
            {"clap_backend": "laion_clap", "clap": weights},
            "clap_backend",
        ),
        ("clap-audioldm", {"weights": weights}, {"weights": others}, "weights"),
        ("wav2clip", {"weights": weights}, {"weights": others}, "weights"),
        ("point-autoencoder", {"weights": weights}, {"points": 1024}, "points"),
        ("small-points", {}, {"scale": 2.0}, "scale"),
        ("small-text", {}, {"embedding": 256}, "embedding"),
    ]:
        codec = load("codecs", name)
        yield codec(**given), codec(**given | change), field


def test_every_field_of_a_fingerprint_is_named(tmp_path):
    refused = []
    for number, (made, wanted, field) in enumerate(changed_codecs(tmp_path)):
        folder = tmp_path / str(number)
        write_shard(
            folder / "0.safetensors", {"a": torch.ones(2, 3), LINE: torch.arange(2)}, {}
        )
        store = finish_store(
            folder, [(["a"], ["0.safetensors"])], {"a": made.fingerprint()}, "", ""
        )
        store.check({"a": made.fingerprint()})
        with pytest.raises(
            ValueError, match=rf"'a' was encoded by another codec: {field} is [^\n]*$"
        ):
            store.check({"a": wanted.fingerprint()})
        refused.append(f"{type(made).__name__}.{field}")
    assert len(set(refused)) == FINGERPRINTS
    print(
        f"{len(refused)} of {FINGERPRINTS} changed fields refused by name: {', '.join(refused)}"
    )


# Released models


def test_a_damaged_model_is_named(tmp_path, command):
    Image, Text, codec = (
        load("modalities", "image"),
        load("modalities", "text"),
        load("codecs", "small-image"),
    )
    modalities = {"image": Image(codec(weights=str(codec.shipped))), "text": Text()}
    release.save(make_model(modalities), tmp_path / "model")
    code, out, err = command("verify", tmp_path / "model")
    assert (code, out.split(": ")[1].split(";")[0]) == (0, "whole"), err
    count = 0
    for name, find in {
        "model.safetensors": lambda content: len(content) - 3,
        "codecs/image/weights.safetensors": lambda content: len(content) // 2,
        "model.json": lambda content: content.index(b'"width": 8') + 9,
    }.items():
        folder = shutil.copytree(tmp_path / "model", tmp_path / str(count))
        content = bytearray((folder / name).read_bytes())
        content[find(content)] ^= 1
        (folder / name).write_bytes(content)
        code, out, err = command("verify", folder)
        assert (code, out) == (2, "")
        assert f"{folder / name}: " in err
        count += 1
    assert count == 3


def test_a_digest_sees_what_a_files_time_does_not_tell(tmp_path):
    """A file that changes twice within a tick of the clock keeps its size and its time."""
    path = tmp_path / "weights"
    path.write_bytes(b"a" * 9)
    before, time = digest(path), path.stat().st_mtime_ns
    path.write_bytes(b"b" * 9)
    os.utime(path, ns=(time, time))
    assert digest(path) != before
