"""`flowbind data`: what manifests hold is counted as it is, and shown as it is."""

import json
import time

import numpy as np
import pytest
from PIL import Image

from flowbind.cli.data import _choose
from flowbind.data.manifest import Manifest
from flowbind.evaluation.contact_sheet import HEAD


@pytest.fixture
def folder(tmp_path):
    """Six samples of three kinds: one file there twice, one missing, one that is no sound."""
    import soundfile

    for name, seconds in (("a", 0.5), ("b", 1.0), ("c", 1.5)):
        numbers = np.linspace(-0.5, 0.5, int(16000 * seconds), dtype=np.float32)
        soundfile.write(tmp_path / f"{name}.wav", numbers, 16000)
    (tmp_path / "broken.wav").write_bytes(b"RIFF of nothing")
    for name, colour in (("red", "red"), ("blue", "blue")):
        Image.new("RGB", (8, 6), colour).save(tmp_path / f"{name}.bmp")
    (tmp_path / "again.bmp").write_bytes((tmp_path / "red.bmp").read_bytes())

    samples = [
        {"id": "1", "image": "red.bmp", "audio": "a.wav", "labels": {"colour": "red"}},
        {
            "id": "2",
            "image": "blue.bmp",
            "audio": "b.wav",
            "labels": {"colour": "blue"},
        },
        {
            "id": "3",
            "image": "again.bmp",
            "text": "red again",
            "labels": {"colour": "red"},
        },
        {"id": "4", "image": "gone.bmp", "text": "a b c"},
        {"id": "5", "audio": "c.wav"},
        {"id": "6", "audio": "broken.wav"},
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, samples)))
    others = [{"id": "1", "audio": "b.wav"}, {"id": "2", "text": "a b c"}]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, others)))
    return tmp_path


def test_a_manifest_is_counted(folder, command):
    code, out, _ = command("data", "info", folder / "train.jsonl")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert code == 0
    assert lines[0].endswith("train.jsonl: 6 samples")
    assert {"audio+image 2", "image+text 2", "audio 2"} <= {*lines}
    assert "seconds: 0.5 to 1.5, half of them up to 1; 0.00 hours in all" in lines
    assert "rate: 16000 each" in lines
    assert "width: 8 each" in lines
    assert "words: 2 to 3, half of them up to 2.5" in lines
    assert "MISSING: 1 file, such as gone.bmp" in lines
    assert "UNREADABLE: 1 sample" in out
    assert "broken.wav" in out
    assert "duplicates: 2 samples have 1 content, such as '1' and '3'" in lines
    assert "colour: red 2, blue 1" in lines
    assert "IN SEVERAL MANIFESTS" not in out


def test_what_is_in_training_and_in_testing_is_told(folder, command):
    _, out, _ = command("data", "info", folder / "train.jsonl", folder / "test.jsonl")
    audio, text = (line for line in out.splitlines() if "SEVERAL MANIFESTS" in line)
    assert "'2' of train.jsonl and '1' of test.jsonl; 1 content IN" in audio
    assert "'4' of train.jsonl and '2' of test.jsonl" in text


def test_files_alone_in_their_size_are_not_read(folder, command, monkeypatch):
    import flowbind.data.inventory as inventory

    read = []
    digest = inventory.digest_now
    monkeypatch.setattr(
        inventory, "digest_now", lambda path: read.append(path.name) or digest(path)
    )
    assert command("data", "info", folder / "train.jsonl")[0] == 0
    assert sorted(read) == ["again.bmp", "blue.bmp", "red.bmp"]


def test_a_contact_sheet_shows_every_kind(folder, command):
    sheet = folder / "sheet.png"
    code, out, err = command("data", "preview", folder / "train.jsonl", "--out", sheet)
    assert (code, out) == (0, f"{sheet}\n")
    assert "gone.bmp: no such file" in err
    colours = {colour for _, colour in Image.open(sheet).getcolors(2**24)}
    assert {(255, 0, 0), (0, 0, 255)} <= colours
    first = sheet.read_bytes()
    assert command("data", "preview", folder / "train.jsonl", "--out", sheet)[0] == 0
    assert sheet.read_bytes() == first


def test_kinds_take_turns_and_the_seed_chooses(tmp_path):
    lines = [{"text": f"{number}"} for number in range(20)] + [{"image": "a.png"}] * 2
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    manifest = Manifest.read(tmp_path / "a.jsonl", {"text", "image"})
    chosen = _choose(manifest, 8, seed=0)
    assert [*map(len, (s.values for s in chosen))] == [1] * 8
    assert sum("image" in sample.values for sample in chosen) == 2
    assert chosen == _choose(manifest, 8, seed=0)
    assert chosen != _choose(manifest, 8, seed=1)
    assert len(_choose(manifest, 100, seed=0)) == 22


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data", "inof"], "did you mean 'info'"),
        (["data", "info", "nowhere.jsonl"], "nowhere.jsonl: no such manifest"),
        (["data", "preview", "nowhere.jsonl"], "no such manifest"),
        (["data", "info"], "required: MANIFEST"),
    ],
    ids=str,
)
def test_mistakes_are_one_line(arguments, words, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = command(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


def test_a_very_long_caption_is_drawn_at_once(tmp_path, command):
    """Letters that no cell has room for are not measured: it took minutes."""
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "word " * 100_000}))
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "word " * 1_000}))
    start = time.process_time()
    for name in ("a", "b"):
        out = ("--out", tmp_path / f"{name}.png")
        code, _, err = command("data", "preview", tmp_path / f"{name}.jsonl", *out)
        assert code == 0, err
    assert time.process_time() - start < 3
    cells = []
    for name in ("a", "b"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            cells.append(np.array(picture)[HEAD:])
    assert np.array_equal(*cells)


def test_a_preview_is_a_png(folder, command):
    out = ("--out", folder / "sheet.jpg")
    code, _, err = command("data", "preview", folder / "train.jsonl", *out)
    assert (code, "end it in .png" in err) == (2, True), err
