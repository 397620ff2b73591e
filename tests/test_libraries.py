"""Optional libraries: what is missing is named before work begins, what is broken is told apart."""

import json
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from flowbind import registry
from flowbind.libraries import Extra, importing, require
from flowbind.registry import load
from tests.test_bad_samples import RECIPE
from tests.toy import Vector

ROOT = Path(__file__).parents[1]
MISSING = "Vector needs flowbind_missing; install it with `pip install it`"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Writes a package, which can then be imported."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, content):
        (tmp_path / f"{name}.py").write_text(content)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return write


def test_a_library_is_imported(installed):
    assert (
        require(installed("flowbind_there", "x = 3"), "a test", "pip install it").x == 3
    )
    assert require("xml.etree", "a test", "pip install it").__name__ == "xml.etree"


@pytest.mark.parametrize(
    "module", ["flowbind_missing", "flowbind_missing.inside", "xml.flowbind_missing"]
)
def test_a_library_that_is_not_installed_is_named_with_the_command(module):
    with pytest.raises(
        ValueError, match=rf"^a test needs {module}; install it with `pip install it`$"
    ):
        require(module, "a test", "pip install it")


def test_several_are_named_together():
    message = (
        r"^a test needs xml and flowbind_missing; install them with `pip install it`$"
    )
    both = importing(
        "xml", "flowbind_missing", needing="a test", install="pip install it"
    )
    with pytest.raises(ValueError, match=message), both:
        import flowbind_missing  # noqa: F401
    with importing("xml", needing="a test", install="pip install it"):
        from xml import etree
    assert etree


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            "import flowbind_missing_below",
            "ModuleNotFoundError: No module named 'flowbind_missing_below'",
        ),
        (
            "raise OSError('libsndfile.so:\\n cannot open')",
            "OSError: libsndfile.so: cannot open",
        ),
        (
            "import flowbind_broken.below",
            "ModuleNotFoundError: No module named 'flowbind_broken.below'",
        ),
        ("from sys import nothing", "ImportError: cannot import name 'nothing'"),
        ("import", "SyntaxError"),
    ],
)
def test_a_library_that_is_broken_says_what_failed(installed, content, reason):
    name = installed("flowbind_broken", content)
    with pytest.raises(
        ValueError,
        match=rf"^a test needs {name}, which is installed but cannot be imported \({reason}",
    ) as error:
        require(name, "a test", "pip install it")
    assert "\n" not in str(error.value)
    assert "pip install" not in str(error.value)


def test_the_libraries_of_a_modality_are_asked_for_before_work(
    world, command, monkeypatch
):
    """No sample is called bad for want of a library, and nothing is written."""
    monkeypatch.setattr(Vector, "libraries", {"flowbind_missing": "pip install it"})
    code, out, err = command(
        "encode", "--config", world / "recipe.yaml", "--skip-bad", "100000"
    )
    assert (code, out) == (2, "")
    assert err.splitlines() == [f"flowbind: {MISSING}"]
    assert not (world / "data" / "latents" / "train").exists()


def test_generation_asks_before_it_begins(tmp_path, toys, command, monkeypatch):
    from tests.released import release
    from tests.toy import Word

    model = release(tmp_path / "model", word=Word(), vector=Vector())
    monkeypatch.setattr(Vector, "libraries", {"flowbind_missing": "pip install it"})
    monkeypatch.setattr(
        "flowbind.generation.Model.generate", lambda *_, **__: pytest.fail("it begins")
    )
    code, out, err = command(
        "generate",
        model,
        "--from",
        "word=123",
        "--to",
        "vector",
        "--out",
        tmp_path / "out",
    )
    assert (code, out, err.splitlines()) == (2, "", [f"flowbind: {MISSING}"])


@pytest.mark.parametrize("use", ["encode", "decode"])
def test_the_libraries_of_a_codec_are_asked_for_before_work(
    tmp_path, world, command, monkeypatch, use
):
    """Of encoding by `flowbind encode`, of both by generation, each of the modalities that it is done with."""
    from tests.released import release
    from tests.toy import Word, WordCodec

    model = release(tmp_path / "model", word=Word(), vector=Vector())
    missing = {"flowbind_missing": "pip install it"}
    monkeypatch.setattr(
        WordCodec, "libraries", lambda self, asked: missing if asked == use else {}
    )
    monkeypatch.setattr(Word, "read", lambda *_: pytest.fail("it begins"))
    message = f"flowbind: WordCodec ({use}) needs flowbind_missing; install it with `pip install it`"
    if use == "encode":
        code, _, err = command(
            "encode", "--config", world / "recipe.yaml", "--skip-bad", "100000"
        )
        assert (code, err.splitlines()) == (2, [message])
    sources = (
        ["--from", "word=123", "--to", "vector"]
        if use == "encode"
        else ["--from", "word=123", "--to", "word"]
    )
    code, _, err = command("generate", model, *sources, "--out", tmp_path / "out")
    assert (code, err.splitlines()) == (2, [message])


@pytest.mark.parametrize("name", sorted(registry.installed("codecs")))
def test_codecs_that_ship_name_extras_that_there_are(name):
    codec = load("codecs", name)
    given = {"weights": "adapter.safetensors"} if name in ("clap-audioldm",) else {}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for use in ("encode", "decode"):
        for install in codec(**given).libraries(use).values():
            assert install.name in extras


@pytest.mark.parametrize("name", ["text", "image", "audio", "points"])
def test_what_ships_names_libraries_that_can_be_imported(name):
    load("modalities", name)().check_libraries()


# Extras


@pytest.fixture
def libraries(monkeypatch):
    """The libraries that are there; flowbind's metadata are told, too."""
    there = set()

    def distribution(name):
        if name not in there:
            raise PackageNotFoundError(name)

    entries = [
        "numpy>=1.26",
        "soundfile>=0.13; extra == 'audio'",
        'soxr<2,>=0.5 ; python_version < "3.14" and extra == "audio"',
        "laion-clap>=1.1.7; extra == 'laion-clap'",
    ]
    monkeypatch.setattr("flowbind.libraries.requires", lambda name: entries)
    monkeypatch.setattr("flowbind.libraries.distribution", distribution)
    return there


def test_an_extra_is_the_command_that_installs_what_it_lacks(libraries):
    assert str(Extra("audio")) == "pip install 'soundfile>=0.13' 'soxr<2,>=0.5'"
    assert str(Extra("laion-clap")) == "pip install 'laion-clap>=1.1.7'"
    libraries.add("soxr")
    assert str(Extra("audio")) == "pip install 'soundfile>=0.13'"
    libraries.add("soundfile")  # there, and yet not to be imported
    assert str(Extra("audio")) == "pip install 'soundfile>=0.13' 'soxr<2,>=0.5'"
    assert str(Extra("newer")) == "pip install -e '.[newer]'"
    message = r"^a test needs flowbind_missing; install it with `pip install 'laion-clap>=1\.1\.7'`$"
    with pytest.raises(ValueError, match=message):
        require("flowbind_missing", "a test", Extra("laion-clap"))


def test_what_installs_a_library_works_without_an_index():
    """Every extra that the code names is one, and nothing tells people to ask an index for flowbind."""
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    sources = [
        path
        for folder in ("flowbind", "modalities")
        for path in (ROOT / folder).rglob("*.py")
    ]
    told = [
        *sources,
        ROOT / "README.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "recipes").rglob("*.yaml"),
    ]
    named = set()
    for path in told:
        text = path.read_text(encoding="utf-8")
        named.update(re.findall(r"""Extra\("([\w-]+)"\)""", text))
        for extras in re.findall(r"pip install -e '\.\[([\w,-]+)\]'", text):
            named.update(extras.split(","))
        named.update(re.findall(r"\[`([\w-]+)`\]\([./]*install\.md#extras\)", text))
        assert not re.search(r"pip install ['\"]?flowbind\b", text), path
    assert len(named) > 8
    assert named <= known.keys()


# What some files alone need


class Dated(Vector):
    """Vectors, of which old files need a program."""

    suffixes = (".vec", ".old")
    needed = "old vectors need the program convert; install it"

    def missing(self, suffix):
        return self.needed if suffix == ".old" else ""


@pytest.fixture
def dated(tmp_path, toys, monkeypatch):
    """A manifest with three old files among five, and a recipe. Returns the modality's class."""
    monkeypatch.chdir(tmp_path)
    names = ["0.vec", "1.OLD", "2.vec", "3.old", "4.old"]
    for name in names:
        (tmp_path / name).write_text("1 2 3")
    lines = [json.dumps({"vector": name, "word": "123"}) for name in names]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    (tmp_path / "recipe.yaml").write_text(
        RECIPE.replace("Limited", "Dated").replace("test_bad_samples", "test_libraries")
    )
    return Dated


def test_what_some_files_need_is_told_before_work_begins(dated, command, monkeypatch):
    needed = f"train.jsonl: 3 of 'vector' with '.old', such as 1.OLD: {Dated.needed}"
    with monkeypatch.context() as reading:
        reading.setattr(Dated, "read", lambda *_: pytest.fail("it begins"))
        code, _, err = command("encode", "--config", "recipe.yaml", "--skip-bad", 2)
        assert (code, err.splitlines()) == (
            2,
            [f"flowbind: {needed}; --skip-bad N leaves out at most N such samples"],
        )

    monkeypatch.setattr(
        Dated,
        "read",
        lambda self, path: (
            super(Dated, self).read(path) if path.suffix == ".vec" else refuse(path)
        ),
    )
    code, _, err = command("encode", "--config", "recipe.yaml", "--skip-bad", 3)
    assert (code, err.count(needed)) == (0, 1)
    assert err.index(needed) < err.index("encoding train.jsonl")
    monkeypatch.undo()


def refuse(path):
    raise ValueError(f"{path}: {Dated.needed}")


def test_what_is_encoded_already_needs_nothing(dated, command, monkeypatch):
    with monkeypatch.context() as there:
        there.setattr(Dated, "missing", lambda *_: "")
        assert command("encode", "--config", "recipe.yaml")[0] == 0
    code, _, err = command("encode", "--config", "recipe.yaml")
    assert (code, Dated.needed in err) == (0, False)


def test_generation_asks_what_its_files_need(tmp_path, dated, command, monkeypatch):
    from tests.released import release
    from tests.toy import Word

    monkeypatch.setattr(Vector, "suffixes", Dated.suffixes)
    monkeypatch.setattr(Vector, "missing", lambda self, suffix: Dated().missing(suffix))
    model = release(tmp_path / "model", word=Word(), vector=Vector())
    code, _, err = command(
        "generate",
        model,
        "--from",
        "vector=.",
        "--to",
        "word",
        "--out",
        tmp_path / "out",
    )
    assert (code, err.splitlines()) == (
        2,
        [f"flowbind: --from: 3 of 'vector' with '.old', such as 1.OLD: {Dated.needed}"],
    )


def test_what_the_files_of_a_modality_need(uninstall, tmp_path, monkeypatch):
    modalities = {
        name: load("modalities", name)() for name in ("audio", "image", "points")
    }
    monkeypatch.setenv("PATH", str(tmp_path))
    uninstall("pi_heif")
    uninstall("trimesh")
    uninstall("collada")
    lacking = {
        suffix: missing
        for modality in modalities.values()
        for suffix in modality.suffixes
        if (missing := modality.missing(suffix))
    }
    assert sorted(lacking) == sorted(
        [
            ".m4a",
            ".aac",
            ".wma",
            ".webm",
            ".mka",
            ".amr",
            ".heic",
            ".heif",
            ".stl",
            ".dae",
        ]
    )
    assert all("install" in line for line in lacking.values())
