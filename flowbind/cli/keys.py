"""The keys of a recipe and what each is for, read from the source of the classes that take them.

Nothing is imported for it: torch takes seconds, Lightning more.
"""

import ast
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from flowbind.cli.docstrings import arguments_in

# The classes of sections whatever a recipe says, and of nearly every recipe's data.
SECTIONS = {
    "training": "flowbind.train.training:TrainingConfig",
    "data": "flowbind.data.latents:LatentDataModule",
    "evaluation": "flowbind.evaluation.evaluation:EvaluationConfig",
    "checkpoints": "flowbind.train.checkpoints:Checkpoints",
    "trainer": "lightning.pytorch.trainer.trainer:Trainer",
}
# Arguments that no recipe gives: a run's folder is the trainer's.
NO_KEYS = ("self", "folder")


class Key(NamedTuple):
    """One key of a recipe.

    Args:
        name: Dotted name, such as `training.learning_rate`.
        type: Type of its values, as the source has it.
        default: Default, as the source has it; None where a value is required.
        about: What it is for, in one line.
        is_section: Whether it is a mapping of further keys.
    """

    name: str
    type: str
    default: str | None
    about: str
    is_section: bool = False


# Of every recipe, whatever its classes are.
CLASS = Key(
    "class_path",
    "str",
    None,
    "The class that stands here: the name of one that is installed (`flowbind plugins` lists them), "
    "or its dotted path. `flowbind recipes explain NAME` tells what the arguments of an installed "
    "one are for.",
)
ARGUMENTS = Key(
    "init_args",
    "dict",
    "{}",
    "Arguments of the class that `class_path` beside it names.",
)
SEED = Key(
    "seed_everything",
    "int",
    "0",
    "Seed of the initial weights; with the seeds of the model, its training and the data it decides "
    "every number of the run.",
)
RESUME = Key(
    "resume",
    "Literal['auto', 'never']",
    "auto",
    "auto: resume from the run folder's newest intact checkpoint of this very recipe, and do "
    "nothing if it is trained already; never: train from the beginning.",
)


def keys_of(section: str, owner: str) -> list[Key]:
    """The keys of a section of recipes, those of the dataclasses within it among them.

    Args:
        section: Dotted name of the section, such as `training`.
        owner: Class that takes them, by module and name: `package.module:Class`.

    Raises:
        ValueError: there is no such class.
    """
    module, _, name = owner.partition(":")
    definition = _definition(module, name)
    if definition is None:
        raise ValueError(f"{owner}: no such class")

    keys = []
    for field in _fields(definition):
        path = f"{section}.{field.name}"
        is_section = bool(field.config)
        keys.append(Key(path, field.type, field.default, field.about, is_section))
        if field.config:
            keys += keys_of(path, field.config)
    return keys


def sampling_of(owner: str) -> str:
    """The dataclass of what a method lets one choose, as `keys_of` takes it; empty if it has none.

    Args:
        owner: Class of the method, by module and name: `package.module:Class`.
    """
    module, _, name = owner.partition(":")
    definition = _definition(module, name)
    if definition is None:
        return ""

    for node in definition.node.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "Sampling":
            choices = _definition(definition.module, ast.unparse(node.value))
            return f"{choices.module}:{choices.node.name}" if choices else ""
    for base in definition.node.bases:
        inherited = sampling_of(f"{definition.module}:{ast.unparse(base)}")
        if inherited:
            return inherited
    return ""


class _Definition(NamedTuple):
    """A class in its source, whose lines it has."""

    module: str
    node: ast.ClassDef
    lines: list[str]


class _Field(NamedTuple):
    """An argument of a class; `config` is the dataclass that it takes, as `keys_of` names it."""

    name: str
    type: str
    default: str | None
    about: str
    config: str


def _definition(module: str, name: str) -> _Definition | None:
    """The class of a name in a module, wherever it is imported from; None if it is no class."""
    lines, tree = _parsed(module)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _Definition(module, node, lines)

    # Other libraries' classes are no configurations.
    for node in tree.body:
        if not isinstance(node, ast.ImportFrom):
            continue
        origin = _followed(node, module)
        if not origin:
            continue
        for alias in node.names:
            if (alias.asname or alias.name) == name:
                return _definition(origin, alias.name)
    return None


@cache
def _parsed(module: str) -> tuple[list[str], ast.Module]:
    """The lines of a module and its syntax, without importing the packages around it."""
    package, *parts = module.split(".")
    spec = find_spec(package)
    if spec is None:
        raise ValueError(f"{package} is not installed: pip install {package}")

    path = Path(spec.origin or "")
    if parts:
        folder = path.parent.joinpath(*parts)
        path = folder.with_suffix(".py")
        if folder.is_dir():
            path = folder / "__init__.py"
    source = path.read_text(encoding="utf-8")
    return source.splitlines(), ast.parse(source)


def _fields(definition: _Definition) -> list[_Field]:
    """The arguments of a class: those of its constructor, or the fields of a dataclass.

    Those of its bases come first, where it has no constructor or passes `**kwargs` on.
    """
    module, cls, _ = definition
    init = None
    entries: list[tuple[str, ast.expr | None, ast.expr | None]] = []
    for node in cls.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            init = node
        if isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.unparse(
            node.annotation
        ):
            entries.append((ast.unparse(node.target), node.annotation, node.value))

    docstring = ast.get_docstring(cls) or ""
    if init:
        docstring += "\n\n" + (ast.get_docstring(init) or "")
        entries = _arguments(init.args)
    elif not _is_dataclass(cls):
        entries = []

    inherited: dict[str, _Field] = {}
    for base in cls.bases:
        parent = _definition(module, ast.unparse(base).rpartition(".")[2])
        for field in _fields(parent) if parent else []:
            inherited[field.name] = field

    fields = inherited if init is None or init.args.kwarg else {}
    # What a class says nothing of is for what its base says that it is.
    texts = {name: field.about for name, field in inherited.items()}
    texts |= arguments_in(docstring)
    for name, annotation, default in entries:
        kind = ast.unparse(annotation) if annotation else ""
        fields[name] = _Field(
            name,
            kind,
            _default(default, definition),
            texts.get(name, ""),
            _config_in(module, annotation),
        )
    return list(fields.values())


def _is_dataclass(cls: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(node) for node in cls.decorator_list)


def _config_in(module: str, annotation: ast.expr | None) -> str:
    """The dataclass that an annotation names, as `keys_of` takes it; empty if it names none."""
    if annotation is None:
        return ""
    for node in ast.walk(annotation):
        if isinstance(node, ast.Name):
            definition = _definition(module, node.id)
            if definition and _is_dataclass(definition.node):
                return f"{definition.module}:{definition.node.name}"
    return ""


def _arguments(
    arguments: ast.arguments,
) -> list[tuple[str, ast.expr | None, ast.expr | None]]:
    """Name, annotation and default of each argument that a recipe may give."""
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults: Sequence[ast.expr | None] = arguments.defaults
    without = len(positional) - len(defaults)
    defaults = [*[None] * without, *defaults, *arguments.kw_defaults]

    triples = []
    every = [*positional, *arguments.kwonlyargs]
    for argument, default in zip(every, defaults, strict=True):
        if argument.arg not in NO_KEYS:
            triples.append((argument.arg, argument.annotation, default))
    return triples


def _default(node: ast.expr | None, definition: _Definition) -> str | None:
    """A default as it was written; what a factory makes, or a constant is, instead of its name."""
    if node is None:
        return None
    if isinstance(node, ast.Call):
        for keyword in node.keywords:
            if keyword.arg == "default_factory":
                factory = ast.unparse(keyword.value)
                return {"dict": "{}", "list": "[]"}.get(factory, factory)
    written = ast.unparse(node)
    if isinstance(node, ast.Name):
        written = _constant(definition.module, node.id) or written
    if isinstance(node, ast.Constant) and isinstance(node.value, float):
        line = definition.lines[node.lineno - 1]
        written = line[node.col_offset : node.end_col_offset]  # 1e-4
    return written.strip("\"'")


def _constant(module: str, name: str) -> str:
    """The literal that a module has by a name, wherever it is imported from; empty if it is none."""
    _, tree = _parsed(module)
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.unparse(node.value) if _is_literal(node.value) else ""
        if isinstance(node, ast.ImportFrom) and _followed(node, module):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _constant(str(node.module), alias.name)
    return ""


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except ValueError:
        return False
    return True


def _followed(node: ast.ImportFrom, module: str) -> str:
    """What an import is from, if that is looked into: flowbind, or a module's own package; or ""."""
    origin = "" if node.level else node.module or ""
    is_followed = origin.partition(".")[0] in (module.partition(".")[0], "flowbind")
    return origin if is_followed else ""
