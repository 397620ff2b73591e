"""The layout: imports point down, the core knows no modality and no method by name, heavy libraries wait until they are needed."""

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Modules of the core by layer, the longest name that fits: a package stands for all that is in it. A new module gets its
# place here.
LAYERS = {
    0: (
        "defaults",
        "draws",
        "padding",
        "nets",
        "flow",
        "batch",
        "distributed",
        "global_batch",
    ),  # mathematics
    1: (
        "arrays",
        "npy",
        "component",
        "exhibit",
        "hub",
        "codec",
        "frozen",
        "judge",
        "modality",
        "method",
        "metric",
        "pickles",
        "tensors",
    ),  # abstractions
    2: (
        "shipped",
        "earlier",
        "readers",
        "samples",
        "outputs",
        "generation",
        "release",
        "card",
        "sharing",
        "methods",
        "metrics",
        "testing",
        "evaluation",
        "data",
    ),  # services
    3: ("data.encoding", "data.latents", "data.raw", "train", "trainer"),  # training
    4: ("cli", "demo", "__main__"),  # face
}
# May be imported from every layer, so it imports nothing of flowbind.
ANYWHERE = (
    "companions",
    "errors",
    "files",
    "libraries",
    "lock",
    "progress",
    "registry",
    "turns",
)
LAYER = {
    name: layer for layer, names in LAYERS.items() for name in names
} | dict.fromkeys(ANYWHERE, -1)

HEAVY = {
    "transformers",
    "sentence_transformers",
    "trimesh",
    "soundfile",
    "diffusers",
    "open_clip",
    "laion_clap",
    "gradio",
}
MODALITIES = PROJECT["entry-points"]["flowbind.modalities"]
CODECS = PROJECT["entry-points"]["flowbind.codecs"]
METHODS = PROJECT["entry-points"]["flowbind.methods"]
# What may import a method: the package's face, which re-exports, and the import of its authors' weights.
DOORS = {"flowbind", "flowbind.cli.import_official"}

# Names of other libraries that happen to hold a modality's, and English phrases that do.
PHRASES = re.compile(r"\b(entry points?|text file|depth(?=: \d))\b")
# Arguments and attributes that mean something else: how many blocks a net has, how deep calls are.
HOMONYMS = {"depth"}
FOREIGN = {
    "entry_points",  # importlib.metadata
    "read_text",  # pathlib
    "write_text",
    "draw.text",  # PIL.ImageDraw
    "pen.text",
    "multiline_text",
    "add_text",  # torch.utils.tensorboard
    "add_image",
    "add_audio",
}


def python_files(folder):
    return sorted(
        path for path in folder.rglob("*.py") if "__pycache__" not in path.parts
    )


CORE = python_files(ROOT / "flowbind")
PLUGINS = sorted(path.parent for path in (ROOT / "modalities").glob("*/__init__.py"))
PLUGIN_FILES = [path for plugin in PLUGINS for path in python_files(plugin)]


def identity(path):
    return str(path.relative_to(ROOT))


def each_of(paths):
    """Makes a law of one file a test of all, which names every file that breaks it."""

    def over_all(law):
        def test():
            broken = []
            for path in paths:
                try:
                    law(path)
                except AssertionError as error:
                    broken.append(f"{identity(path)}: {error}")
            assert not broken, "\n".join(broken)

        test.__doc__ = law.__doc__
        return test

    return over_all


each_core_file = each_of(CORE)
each_plugin_file = each_of(PLUGIN_FILES)


@cache
def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def module_of(path):
    """Dotted name of a file: flowbind/data/__init__.py is flowbind.data."""
    base = ROOT if path.is_relative_to(ROOT / "flowbind") else ROOT / "modalities"
    parts = path.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for path in [*CORE, *PLUGIN_FILES]}


def statements(tree, deferred):
    """Import statements; without `deferred` only those that run when the module is imported."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and ast.unparse(node.test) in (
            "TYPE_CHECKING",
            "typing.TYPE_CHECKING",
        ):
            continue
        elif deferred or not isinstance(
            node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
        ):
            yield from statements(node, deferred)


@cache
def imported(path, deferred=True):
    """Dotted modules that a file imports; `from package import module` counts as the module where it is one of ours."""
    found = set()
    for node in statements(parsed(path), deferred):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            continue
        base = node.module or ""
        if node.level:
            package = module_of(path).split(".")
            package = package if path.name == "__init__.py" else package[:-1]
            base = ".".join(
                [
                    *package[: len(package) - node.level + 1],
                    *filter(None, [node.module]),
                ]
            )
        found |= {
            full if (full := f"{base}.{alias.name}") in FILES else base
            for alias in node.names
        }
    return found


def top(module):
    return module.split(".")[0]


def layer_of(module):
    """Layer of a module of flowbind; the package itself is the face, since it re-exports what stands above."""
    parts = module.split(".")[1:]
    names = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next((LAYER[name] for name in names if name in LAYER), max(LAYERS))


def test_the_documented_layers_are_these():
    page = (ROOT / "docs/walk.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) [^|]+ \| ([^|]+) \|", page, re.MULTILINE)
    documented = {
        int(layer): set(re.findall(r"`([\w.]+)`", names)) for layer, names in rows
    }
    assert documented == {
        layer: {*names} - {"__main__"} for layer, names in LAYERS.items()
    }, "see docs/walk.md"

    (anywhere,) = re.findall(r"^(.*) import nothing of flowbind", page, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", anywhere)) == set(ANYWHERE), "see docs/walk.md"


@each_core_file
def test_every_module_has_a_layer(path):
    parts = module_of(path).split(".")
    assert len(parts) == 1 or parts[1] in LAYER, (
        f"give '{parts[1]}' ({identity(path)}) a layer in LAYERS of {__file__}"
    )


@each_core_file
def test_imports_never_point_up(path):
    own = module_of(path)
    above = {
        m
        for m in imported(path)
        if top(m) == "flowbind" and layer_of(m) > layer_of(own)
    }
    assert not above, (
        f"{own} (layer {layer_of(own)}) imports from a layer above: {sorted(above)}"
    )


def test_imports_have_no_cycle():
    """Function-level imports included; the package's own face, which imports on use, apart."""
    edges = {
        name: sorted(imported(path) & FILES.keys())
        for name, path in FILES.items()
        if name != "flowbind"
    }
    done, walking = set(), []

    def visit(name):
        if name in walking:
            pytest.fail(
                "import cycle: " + " -> ".join([*walking[walking.index(name) :], name])
            )
        if name not in done and name in edges:
            walking.append(name)
            for other in edges[name]:
                visit(other)
            done.add(walking.pop())

    for name in edges:
        visit(name)


@each_core_file
def test_lightning_is_training_s_alone(path):
    if layer_of(module_of(path)) < 3:
        assert not {
            m for m in imported(path) if top(m) in ("lightning", "pytorch_lightning")
        }


@each_core_file
def test_mathematics_needs_torch_alone(path):
    if layer_of(module_of(path)) == 0:
        allowed = {"flowbind", "torch", *sys.stdlib_module_names}
        if path.stem == "solver":
            allowed.add("torchdiffeq")
        assert {top(m) for m in imported(path)} <= allowed


@each_core_file
def test_the_core_imports_no_plugin(path):
    assert not {
        m for m in imported(path) if top(m) in {plugin.name for plugin in PLUGINS}
    }


@each_plugin_file
def test_a_plugin_imports_no_other_plugin(path):
    others = {plugin.name for plugin in PLUGINS} - {
        path.relative_to(ROOT / "modalities").parts[0]
    }
    assert not {m for m in imported(path) if top(m) in others}


@each_plugin_file
def test_a_plugin_imports_public_names_of_flowbind(path):
    for node in statements(parsed(path), deferred=True):
        if (
            isinstance(node, ast.ImportFrom)
            and top(node.module or "") == "flowbind"
            and not node.level
        ):
            names = [*node.module.split("."), *(alias.name for alias in node.names)]
            assert not [name for name in names if name.startswith("_")], ast.unparse(
                node
            )
            assert node.module == "flowbind" or node.module in FILES, (
                f"{ast.unparse(node)}: no such module"
            )


@each_core_file
def test_the_core_imports_heavy_libraries_only_on_use(path):
    """The page of `flowbind demo` apart, which is itself imported only on use."""
    heavy = {m for m in imported(path, deferred=False) if top(m) in HEAVY}
    if module_of(path).startswith("flowbind.demo"):
        assert heavy <= {"gradio", "gradio.components"}
        return
    assert not heavy
    at_once = imported(path, deferred=False)
    assert not {m for m in at_once if m.startswith("flowbind.demo")}


@pytest.mark.parametrize("entry", sorted({*MODALITIES.values(), *CODECS.values()}))
def test_naming_a_modality_or_codec_imports_nothing_heavy(entry):
    """What its module and the packages around it import, and what those import of plugins and of flowbind in turn."""
    reached, todo = set(), [entry.split(":")[0]]
    while todo:
        module = todo.pop()
        if module not in reached and module in FILES:
            todo += [
                *imported(FILES[module], deferred=False),
                module.rpartition(".")[0],
            ]
        reached.add(module)
    assert not {m for m in reached if top(m) in HEAVY | {"lightning"}}


@pytest.mark.parametrize("plugin", PLUGINS, ids=identity)
def test_a_plugin_s_face_imports_nothing_heavy(plugin):
    assert not {
        m for m in imported(plugin / "__init__.py", deferred=False) if top(m) in HEAVY
    }


def words(text):
    """Lower-case words of an identifier or a string: snake_case and camelCase are taken apart."""
    return {
        word.lower()
        for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", PHRASES.sub("", text))
    }


def names_a_modality(text):
    return not words(text).isdisjoint(MODALITIES)


def is_homonym(node, text, path):
    """Whether an identifier, or a net's string that is one, only sounds like a modality."""
    is_string = isinstance(node, ast.Constant)
    return text in HOMONYMS and (not is_string or path.parent.name == "nets")


def docstrings(tree):
    for node in ast.walk(tree):
        if isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ):
            for statement in (
                node.body
            ):  # a string that stands for itself documents the one before it
                if isinstance(statement, ast.Expr) and isinstance(
                    statement.value, ast.Constant
                ):
                    yield statement.value


def spoken(tree):
    """Identifiers and strings of a file, docstrings and what is imported from other libraries apart."""
    foreign = {
        alias.asname or top(alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        and top(getattr(node, "module", None) or "") != "flowbind"
        for alias in node.names
    }
    silent = {id(node) for node in docstrings(tree)}
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if id(node) not in silent:
                yield node, text
            case ast.Name(id=name) if name not in foreign:
                yield node, name
            case ast.Attribute(attr=name, value=value):
                owner = ast.unparse(value)
                if {name, f"{owner}.{name}"}.isdisjoint(FOREIGN) and owner.split(".")[
                    0
                ] not in foreign:
                    yield node, name
            case ast.arg(arg=name) | ast.keyword(arg=str(name)):
                yield node, name
            case (
                ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.ClassDef(name=name)
            ):
                yield node, name
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                yield from ((node, alias.asname) for alias in names if alias.asname)


@cache
def spoken_in(path):
    return list(spoken(parsed(path)))


@each_core_file
def test_the_core_never_names_a_modality(path):
    # The face's help and messages, prose, may give some.
    examples = layer_of(module_of(path)) == max(LAYERS)
    named = {
        f"line {node.lineno}: {text!r}"
        for node, text in spoken_in(path)
        if names_a_modality(text)
        and not (examples and " " in text)
        and not is_homonym(node, text, path)
    }
    assert not named, f"{identity(path)} names a modality: {sorted(named)}"


def names_a_method(text):
    """By its class, or by its name, where that is not the package's."""
    classes = {value.partition(":")[2] for value in METHODS.values()}
    names = METHODS.keys() - {PROJECT["name"]}
    return any(name in text for name in classes) or not words(text).isdisjoint(names)


@each_core_file
def test_the_core_never_names_a_method(path):
    """Its doors apart, and what reads earlier versions, in which there was one."""
    own = module_of(path)
    if own in (*DOORS, "flowbind.earlier") or own.startswith("flowbind.methods"):
        return
    examples = layer_of(own) == max(LAYERS)
    named = {
        f"line {node.lineno}: {text!r}"
        for node, text in spoken_in(path)
        if names_a_method(text) and not (examples and " " in text)
    }
    assert not named, f"{identity(path)} names a method: {sorted(named)}"


@each_of([*CORE, *PLUGIN_FILES])
def test_only_doors_import_a_method(path):
    own = module_of(path)
    if own not in DOORS and not own.startswith("flowbind.methods"):
        assert not {m for m in imported(path) if m.startswith("flowbind.methods")}


@pytest.mark.parametrize(
    "source", ["class FlowBindModel: ...", "kind == 'FlowBind'", "f(FlowBind)"]
)
def test_a_named_method_is_seen(source):
    assert any(names_a_method(text) for _, text in spoken(ast.parse(source)))


def fresh(code):
    """Modules that a fresh interpreter has loaded after running `code`."""
    code += "\nimport sys; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return set(run.stdout.split())


def test_importing_flowbind_is_light():
    assert not fresh("import flowbind") & (HEAVY | {"torch", "lightning", "numpy"})


# The rules above, on sources that break them.


@pytest.mark.parametrize(
    "source",
    [
        "image = 1",
        "def read_audio(): ...",
        "class TextCodec: ...",
        "batch.points",
        "f(n_points=3)",
        "def f(image_size): ...",
        "kind == 'audio'",
        "f'the text {x}'",
        "import numpy as image",
    ],
)
def test_a_named_modality_is_seen(source):
    assert any(names_a_modality(text) for _, text in spoken(ast.parse(source)))


@pytest.mark.parametrize(
    "source",
    [
        "'''About images and text.'''",
        "def f():\n    'Reads text.'",
        "from PIL import Image\nImage.new('RGB', (1, 1))",
        "import PIL.Image\ndef f() -> PIL.Image.Image: ...",
        "from rich.progress import TextColumn\nTextColumn('x')",
        "path.read_text()",
        "from importlib.metadata import entry_points\nentry_points(group='x')",
        "draw.text((0, 0), 'x')",
        "checkpoints = contexts = 1",
        "raise ValueError('not a UTF-8 text file')",
    ],
)
def test_other_libraries_words_are_not_taken_for_modalities(source):
    assert not any(names_a_modality(text) for _, text in spoken(ast.parse(source)))


def test_deferred_imports_are_told_apart():
    tree = ast.parse(
        "import a\nif TYPE_CHECKING:\n    import b\ntry:\n    import c\nexcept ImportError:\n    d = 0\n"
        "class E:\n    import e\n    def f(self):\n        import g"
    )
    assert [node.names[0].name for node in statements(tree, deferred=False)] == [
        "a",
        "c",
        "e",
    ]
    assert [node.names[0].name for node in statements(tree, deferred=True)] == [
        "a",
        "c",
        "e",
        "g",
    ]
