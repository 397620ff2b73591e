"""What any version wrote, this one reads, to the same numbers; and it writes what the newest has.

Who changes a format writes a new folder by `python -m tests.write_formats NUMBER`, and changes no
old one.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from flowbind.data.shard import read_header
from tests.read_formats import EXPECTED, FOLDER, READERS, read_in
from tests.write_formats import write, write_new

VERSIONS = sorted((path.name for path in FOLDER.iterdir()), key=int)
NEWEST = FOLDER / VERSIONS[-1]
EXPECTATIONS = {
    version: json.loads((FOLDER / version / EXPECTED).read_text())
    for version in VERSIONS
}
CONVERTED: dict[tuple[str, str], str] = {
    # A format of a version that is read no more, and the command that the refusal names, such as
    # ("1", "stores"): "flowbind encode",
}
MACHINE = ("device", "threads", "versions")  # keys whose values are the machine's
SAMPLES = "files/"  # people's own, drawn anew where a version is written
ARGUMENTS = (
    "init_args"  # of a class: one that is added, with a default, changes no format
)
# Of its many keys, the recipe's.
LIGHTNINGS = (
    "default_root_dir",
    "max_steps",
    "val_check_interval",
)


def same(result: Any, expected: Any, more: bool = False) -> bool:
    """Whether two values of JSON are equal, floats to three digits: kernels differ.

    With `more` an object may have further keys: later versions measure what earlier ones did not.
    """
    if isinstance(result, dict) and isinstance(expected, dict):
        if result.keys() != expected.keys() and not (
            more and result.keys() > expected.keys()
        ):
            return False
        return all(same(result[key], expected[key], more) for key in expected)
    if isinstance(result, list) and isinstance(expected, list):
        return len(result) == len(expected) and all(
            same(a, b, more) for a, b in zip(result, expected, strict=True)
        )
    if isinstance(expected, float):
        return result == pytest.approx(expected, rel=1e-3, abs=1e-3)
    return type(result) is type(expected) and result == expected


@pytest.mark.parametrize(
    ("version", "kind"),
    [(version, kind) for version, kinds in EXPECTATIONS.items() for kind in kinds],
)
def test_what_was_written_is_read(version, kind):
    command = CONVERTED.get((version, kind))
    if command:
        with pytest.raises(ValueError, match=re.escape(command)) as refusal:
            read_in(FOLDER / version, kind)
        assert "\n" not in str(refusal.value)
        return
    expected = EXPECTATIONS[version][kind]
    result = json.loads(json.dumps(read_in(FOLDER / version, kind)))
    assert same(result, expected, more=kind == "tested"), (
        f"{result}\nis not\n{expected}"
    )


@pytest.fixture(scope="module")
def today(tmp_path_factory):
    """What this version writes."""
    folder = tmp_path_factory.mktemp("formats")
    write(folder)
    return folder


def test_the_newest_version_has_what_every_reader_reads():
    assert EXPECTATIONS[NEWEST.name].keys() == READERS.keys()


def test_what_is_written_today_is_the_newest_version(today):
    written, newest = outlines(today), outlines(NEWEST)
    changed = {
        path for path in {**written, **newest} if written.get(path) != newest.get(path)
    }
    differing = {
        path: differences(newest.get(path), written.get(path))
        for path in sorted(changed)
    }
    assert not differing, (
        f"formats differ from those of version {NEWEST.name}: {json.dumps(differing, indent=1)}\n"
        f"If so they shall be: python -m tests.write_formats {int(NEWEST.name) + 1}, and a line in docs/formats.md"
    )


def differences(before: Any, now: Any, place: str = "") -> list[str]:
    """Where two outlines differ, in words."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        return [
            line
            for key in keys
            for line in differences(before.get(key), now.get(key), f"{place}/{key}")
        ]
    return [f"{place} was {json.dumps(before)[:200]}, is {json.dumps(now)[:200]}"]


def outlines(folder: Path) -> dict[str, Any]:
    """The outline of every file of a folder of formats that flowbind wrote, by its path."""
    paths = [
        path for path in folder.rglob("*") if path.is_file() and path.name != EXPECTED
    ]
    names = {path: path.relative_to(folder).as_posix() for path in paths}
    own = {path: name for path, name in names.items() if not name.startswith(SAMPLES)}
    return {
        re.sub("[0-9a-f]{32}", "HASH", name): outline(path)
        for path, name in own.items()
    }


def outline(path: Path) -> Any:
    """How a file is laid out: keys, names, shapes and settled values.

    What hangs on rounding or on the machine is left out.
    """
    match path.suffix:
        case ".json":
            return settled(json.loads(path.read_text()))
        case ".jsonl":
            return [
                settled(json.loads(line))
                for line in path.read_text().splitlines()
                if line
            ]
        case ".yaml":
            recipe = yaml.safe_load(path.read_text())
            recipe["trainer"] = {key: recipe["trainer"].get(key) for key in LIGHTNINGS}
            return settled(recipe)
        case ".csv":
            return path.read_text().splitlines()[0]
        case ".safetensors":
            return {
                name: entry_of(entry) for name, entry in read_header(path)[1].items()
            }
        case ".ckpt":
            return outline_of_checkpoint(path)
        case ".png":
            with Image.open(path) as picture:
                return picture.mode
        case ".md":
            return [
                line for line in path.read_text().splitlines() if line.startswith("#")
            ]
    raise ValueError(f"{path}: say how a file of this kind is laid out")


def settled(value: Any, key: str = "") -> Any:
    """A value of JSON, with the kind of what hangs on rounding or on the machine in its place."""
    if key in (*MACHINE, ARGUMENTS) or isinstance(value, float):
        return type(value).__name__
    if isinstance(value, dict):
        return {name: settled(part, name) for name, part in value.items()}
    if isinstance(value, list):
        return [settled(part) for part in value]
    if key == "bytes":
        return "int"
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value):
        return "sha256"
    return value


def entry_of(entry: dict[str, Any]) -> Any:
    """Of an entry in a safetensors file's header: dtype and shape, or what its metadata say."""
    if "dtype" in entry:
        return f"{entry['dtype']} {entry['shape']}"
    return {name: settled(json.loads(content)) for name, content in entry.items()}


def outline_of_checkpoint(path: Path) -> Any:
    """What flowbind and its optimiser keep in Lightning's checkpoint."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    (optimizer,) = checkpoint["optimizer_states"]
    weights = {
        name: kind_of(tensor) for name, tensor in checkpoint["state_dict"].items()
    }
    moments = {
        str(key): {name: kind_of(tensor) for name, tensor in state.items()}
        for key, state in optimizer["state"].items()
    }
    own = {
        "step": checkpoint["global_step"],
        "flowbind": settled(checkpoint.get("flowbind")),
    }
    return own | {
        "weights": weights,
        "moments": moments,
        "callbacks": sorted(checkpoint["callbacks"]),
    }


def kind_of(tensor: torch.Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"


@pytest.mark.parametrize("version", VERSIONS)
def test_the_numbers_in_files_are_documented(version):
    files = "dtypes/manifest.json", "run/model/model.json", "run/run.json"
    numbers = [
        json.loads((FOLDER / version / file).read_text())["format"] for file in files
    ]
    row = f"| {version} | {' | '.join(map(str, numbers))} | "
    assert row in (FOLDER.parents[1] / "docs/formats.md").read_text()


def test_a_version_is_written_once(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.write_formats.FOLDER", tmp_path)
    (tmp_path / "1").mkdir()
    with pytest.raises(ValueError, match="stays as it was written"):
        write_new("1")
    with pytest.raises(ValueError, match="is a number"):
        write_new("../elsewhere")
    assert [path.name for path in tmp_path.rglob("*")] == ["1"]


def test_formats_are_small_and_hang_on_no_place(today):
    """All of a version is under 300 KB, and no file of it names where it was written."""
    for folder in (*(FOLDER / version for version in VERSIONS), today):
        files = {
            path: path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }
        assert sum(map(len, files.values())) < 300_000, folder
        places = {bytes(Path.home()), bytes(Path(__file__).parents[1]), bytes(today)}
        named = [
            path
            for path, content in files.items()
            if any(place in content for place in places)
        ]
        assert not named
