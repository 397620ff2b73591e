"""The documentation against the code: its commands are parsed, its names exist, and its numbers are those of the constants."""

import ast
import inspect
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

import flowbind
from flowbind import release
from flowbind.cli import VERBS, main
from flowbind.cli.options import CONFIG, split
from flowbind.cli.parser import Parser
from flowbind.registry import installed, load

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("**/*.md"))]
PAGES = [page for page in PAGES if "_build" not in page.parts]
HEADS = sorted((ROOT / "recipes").glob("**/*.*"))
HELP = ROOT / "flowbind/cli/__init__.py"  # its examples
COMMAND = re.compile(
    rf"^(?:#? *)(flowbind (?:{'|'.join(VERBS)}) (?:[^\\\n]|\\\n)*)$", re.MULTILINE
)
REMARK = re.compile(r"\s{4,}(?=[^-\s]).*")  # beside a command
COMMANDS = ROOT / "docs/command-line.md"
OTHER_PROGRAMS = (
    "pip",
    "torchrun",
    "sbatch",
    "srun",
    "pytest",
    "python",
    "img2dataset",
    "git",
    "uv",
)
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
FENCED = re.compile(r"^(`{3,}).*?^\1", re.MULTILINE | re.DOTALL)
RUN = ("fit", "validate", "test", "encode")  # verbs that take a recipe
PARTS = ("model", "training", "evaluation", "data", "trainer")
# A model, for options that hang on its method.
RELEASED = ROOT / "tests/formats/2/run/model"


class Parsed(BaseException):
    """A command line was read to its end."""


def commands():
    """Every command of the documentation and the recipes, once, with where it stands."""
    found = {}
    for page in [*PAGES, *HEADS, HELP]:
        for command in COMMAND.findall(page.read_text(encoding="utf-8")):
            line = REMARK.sub("", re.sub(r"\\\n[# ]*", "", command))
            if "--help" not in line and not line.endswith("..."):
                found.setdefault(line, page.name)
    return [pytest.param(line, id=f"{page}: {line}") for line, page in found.items()]


@pytest.fixture
def parse(monkeypatch):
    """Reads a command line, and does nothing."""
    read = Parser.parse_args

    def parse_args(self, *arguments):
        read(self, *arguments)
        raise Parsed

    monkeypatch.setattr(Parser, "parse_args", parse_args)
    monkeypatch.chdir(ROOT)

    def parse(line):
        _, verb, *arguments = shlex.split(line, comments=True)
        if verb in RUN:
            check_recipes(verb, arguments, monkeypatch)
        elif verb == "prepare" and arguments[0] not in installed("datasets"):
            # Of the tutorial, whose commands have a test of their own.
            assert arguments[0] == "shapes-ink"
        else:
            # Its options hang on the model's method, which its run's folder tells.
            if verb == "generate" and "=" not in arguments[0]:
                _, method, *_ = [*Path(arguments[0]).parts, ""]
                if method in installed("methods"):
                    choices = load("methods", method), {}
                    monkeypatch.setattr(release, "sampling_of", lambda _: choices)
                arguments[0] = str(RELEASED)
            with pytest.raises(Parsed):
                main([verb, *arguments])

    return parse


def check_recipes(verb, arguments, monkeypatch):
    """Follows every option into the recipe's classes; options beside them are those that the verb's help shows."""
    from lightning.pytorch import Trainer

    from flowbind.cli.check import check_recipe
    from flowbind.cli.overrides import check_overrides, merge
    from flowbind.cli.recipe import KEYS

    known = set(
        re.findall(r"^  +(?:-\w[^,]*, )?(--[\w.-]+)", shown_help(verb), re.MULTILINE)
    ) | {"--ckpt_path"}
    for place, argument in enumerate(arguments):
        if (
            arguments[place - 1] in CONFIG and not Path(argument).is_file()
        ):  # one that the page writes
            assert not argument.startswith("recipes/")
            arguments[place] = "recipes/shapes.yaml"
    recipes, options = split(verb, arguments)
    recipe = merge([check_recipe(path, KEYS, Trainer) for path in recipes])
    check_overrides(options, recipe, Trainer)
    others = [
        option.name for option in options if option.name[2:].split(".")[0] not in PARTS
    ]
    assert set(others) <= known


def shown_help(verb):
    """The help of a verb in the documentation, which another test compares with the program's."""
    text = COMMANDS.read_text(encoding="utf-8")
    verb = "encode" if verb == "encode" else "fit"
    return re.search(
        rf"^\$ flowbind {verb} --help\n(.*?)^```$", text, re.MULTILINE | re.DOTALL
    )[1]


@pytest.mark.parametrize("line", commands())
def test_commands_are_those_that_there_are(parse, line):
    parse(line)


def test_the_keys_of_a_class_are_explained_where_the_page_says(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    code, out, err = command("fit", "--model.help", "flowbind.FlowBind")
    assert code == 0, err
    assert "--model.objective.noise_variance" in out
    code, out, err = command("fit", "--config", "recipes/shapes.yaml", "--print_config")
    assert code == 0, err
    assert "warmup_steps: " in out


def test_options_that_are_mentioned_are_those_that_there_are():
    from flowbind.cli.prepare import options_of

    help = "".join(
        re.findall(
            r"^\$ flowbind .*? --help\n.*?^```$",
            COMMANDS.read_text(),
            re.MULTILINE | re.DOTALL,
        )
    )
    known = set(re.findall(r"--[a-z][\w.-]*", help)) | {
        "--ckpt_path",
        "--help",
        "--version",
    }
    for name in installed("datasets"):
        known.update(
            "--" + option.replace("_", "-")
            for option in options_of(load("datasets", name))
        )
    for name in installed("methods"):
        for choice in fields(load("methods", name).Sampling):
            known.add("--" + choice.name.replace("_", "-"))
    for page in PAGES:
        prose = FENCED.sub("", page.read_text(encoding="utf-8"))
        codes = [
            code for code in CODE.findall(prose) if not code.startswith(OTHER_PROGRAMS)
        ]
        options = {
            option
            for code in codes
            for option in re.findall(r"(?<![\w-])--[a-z][\w.-]*\w", code)
        }
        plain = {option for option in options if option[2:].split(".")[0] not in PARTS}
        assert plain <= known, f"{page.name}: {plain - known}"


def test_a_command_that_is_not_one_is_found(parse):
    for line in (
        "fit --config recipes/shapes.yaml --model.learnin_rate=1",
        "generate m --form text=a --to image --out o",
    ):
        with pytest.raises((ValueError, SystemExit)):
            parse(f"flowbind {line}")
    with pytest.raises(AssertionError):
        parse("flowbind test --config recipes/shapes.yaml --resum never")


# Names

NAME = re.compile(r"(?<![\w./-])[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*(?![\w/-])")
TELLING = re.compile(r"[A-Z].*[a-z]|_")  # of a name of code, rather than a word
OTHERS = {  # names of other programs, and of files
    "AWS_ACCESS_KEY_ID",
    "AWS_ENDPOINT_URL",
    "find_unused_parameters",
    "max_map_count",
    "lightweight_audio_ae",
    "version_1",
    "basement_0001b",  # a scene of NYU Depth
    "YOUTUBEID_START",
    "YOUTUBEID_START_END",
    "max_period",
    "HF_ENDPOINT",
}


def names_in_code():
    """Every identifier of the code, and every word of its short strings."""
    names = set()
    for folder in ("tests", "docs"):  # of which pages show files
        for path in (ROOT / folder).rglob("*.py"):
            names.update(re.findall(r"\w+", path.read_text(encoding="utf-8")))
    for folder in ("flowbind", "modalities"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                for field in ("name", "arg", "attr", "id"):
                    names.update(str(getattr(node, field, "")).split("."))
                if (
                    isinstance(node, ast.Constant)
                    and isinstance(node.value, str)
                    and len(node.value) < 60
                ):
                    names.update(re.findall(r"[\w-]+", node.value))
    return names


def test_names_are_those_of_the_code():
    known = names_in_code() | OTHERS
    unknown = set()
    for page in PAGES:
        prose = FENCED.sub("", page.read_text(encoding="utf-8"))
        dotted = {name for code in CODE.findall(prose) for name in NAME.findall(code)}
        parts = {
            part for name in dotted for part in name.split(".") if TELLING.search(part)
        }
        unknown.update(f"{page.name}: {part}" for part in parts - known)
    assert not unknown


def test_public_names_are_public():
    for page in PAGES:
        for name in re.findall(
            r"\bflowbind\.([A-Z]\w+|load)\b(?!\.)", page.read_text(encoding="utf-8")
        ):
            assert hasattr(flowbind, name), f"{page.name}: flowbind.{name}"


def test_editors_complete_the_names_that_are_imported_on_use():
    stub = ast.parse((ROOT / "flowbind/__init__.pyi").read_text(encoding="utf-8"))
    imported = {
        alias.asname: node.module
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == flowbind._PUBLIC
    assert (ROOT / "flowbind/py.typed").is_file()


def test_every_public_name_has_its_place_in_the_documentation():
    pages = [page.read_text(encoding="utf-8") for page in PAGES]
    documented = re.findall(
        r"^\.\. auto(?:class|function):: flowbind\.(\w+)$",
        "\n".join(pages),
        re.MULTILINE,
    )
    assert set(documented) == set(flowbind.__all__)


# Numbers


def million(pixels):
    return f"{int(pixels / 1e5) / 10:.1f}"


def default(of, argument):
    return inspect.signature(of).parameters[argument].default


def numbers():
    """What pages say, with the constants that it is about."""
    from flowbind_audio.frechet_audio import KAD_SCALE
    from flowbind_audio.modality import Audio
    from flowbind_audio.sound import FASTEST
    from flowbind_depth.files import HIGHEST
    from flowbind_depth.files import MOST as MOST_DEPTHS
    from flowbind_depth.modality import Depth
    from flowbind_depth.pixels import DepthPixels
    from flowbind_image import fidelity
    from flowbind_image.memory import MEMORY
    from flowbind_points.cloud import MOST
    from flowbind_points.surface import DRAWN
    from flowbind_text.captions import BETA
    from flowbind_text.modality import LONGEST

    from flowbind.cli import MISTAKE
    from flowbind.cli.check import DEEPEST, MOST_NODES
    from flowbind.data import manifest, plan
    from flowbind.metrics.kernel import MEDIAN_ROWS
    from flowbind.train.checkpoints import Checkpoints

    pixels = {size: million(MEMORY / size) for size in (7, 10, 12, 16)}
    return [
        ("codecs/image.md", f"more than {MEMORY >> 20} MiB"),
        ("codecs/image.md", f"so {pixels[7]} million pixels are read"),
        (
            "codecs/image.md",
            f"10 in JPEG (12 in CMYK), {pixels[10]} million; 16 in WebP, {pixels[16]} million",
        ),
        ("codecs/image.md", f"precision[...,k={fidelity.NEIGHBOURS}]"),
        ("codecs/image.md", f"density[flowbind,...,k={fidelity.DENSITY_NEIGHBOURS}]"),
        ("codecs/image.md", f"It needs {fidelity.Fidelity.minimum} samples"),
        (
            "codecs/audio.md",
            f"is {KAD_SCALE} times the squared maximum mean discrepancy",
        ),
        ("codecs/audio.md", f"more than {MEDIAN_ROWS:,} embeddings"),
        ("codecs/points.md", f"{MOST:,}"),
        ("codecs/depth.md", f"{MOST_DEPTHS:,}"),
        (
            "codecs/depth.md",
            f"up to {HIGHEST / default(Depth, 'scale'):g} m; 256 in KITTI",
        ),
        ("codecs/depth.md", f"| `near` | {default(DepthPixels, 'near')} |"),
        ("codecs/depth.md", f"| `far` | {default(DepthPixels, 'far'):g} |"),
        ("codecs/points.md", f"{DRAWN:,}"),
        ("metrics.md", f"rouge-l[beta={BETA},1-reference"),
        ("formats.md", f"at most {plan.SHARD_ROWS:,} rows"),
        ("formats.md", f"unfold to {MOST_NODES:,} values, {DEEPEST} deep"),
        (
            "formats.md",
            f"every `checkpoints.every` ({default(Checkpoints, 'every')}) steps",
        ),
        (
            "reliability.md",
            f"what takes {MEMORY >> 20} MiB to read ({pixels[7]} million pixels of a PNG)",
        ),
        (
            "reliability.md",
            f"`longest` ({Audio().longest:.0f} s) and {FASTEST // 1000} kHz",
        ),
        (
            "reliability.md",
            f"a caption, {LONGEST >> 20} MiB; a line of a manifest, {manifest.LONGEST >> 20} Mi characters",
        ),
        ("command-line.md", f"| {MISTAKE} | "),
    ]


def test_numbers_are_those_of_the_code():
    pages = {
        page.relative_to(ROOT / "docs").as_posix(): page
        for page in PAGES
        if page.is_relative_to(ROOT / "docs")
    }
    words = {
        name: " ".join(page.read_text(encoding="utf-8").split())
        for name, page in pages.items()
    }
    missing = [(page, text) for page, text in numbers() if text not in words[page]]
    assert not missing
