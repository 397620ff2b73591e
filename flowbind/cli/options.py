"""Options of verbs that take recipes, in the order in which they hold: recipes first.

LightningCLI lets whatever comes later override what came before, recipes included, so that an
option before `--config` would be lost. Here an option overrides every recipe wherever it stands,
and none undoes another in silence. Nothing heavy is imported for it.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from flowbind.progress import is_first_process, say
from flowbind.shipped import locate, shipped_recipes

CONFIG = ("--config", "-c")
HELP_ALL = "--help-all"
DRY_RUN = "--dry-run"
# Options that need no value.
FLAGS = ("--help", "-h", HELP_ALL, "--print_config", DRY_RUN)
# What begins like an option, and is a value.
NUMBER = re.compile(r"-\.?\d|-\.?(inf|nan)$", re.IGNORECASE)


@dataclass(frozen=True)
class Option:
    """One option: its name with the dashes, and its value, None where it has none."""

    name: str
    value: str | None = None

    def __str__(self) -> str:
        if self.value is None:
            return self.name
        return f"{self.name}={self.value}"

    @property
    def asks_for_help(self) -> bool:
        """Whether it prints help and nothing else."""
        return self.name in ("--help", "-h", HELP_ALL) or self.name.endswith(".help")


def split(verb: str, arguments: Sequence[str]) -> tuple[list[Path], list[Option]]:
    """The recipes of a command line and its other options, each in the order given.

    Raises:
        ValueError: no recipe, something that is no option, or one that would undo another.
    """
    options = read_options(verb, arguments)
    recipes: list[Option] = []
    others: list[Option] = []
    for option in options:
        kind = recipes if option.name in CONFIG else others
        kind.append(option)

    if not recipes and not any(option.asks_for_help for option in options):
        raise ValueError(
            f"{verb} needs a recipe, such as `flowbind {verb} --config recipes/shapes.yaml`"
        )
    look_for_repetitions(others)
    if not all(recipe.value for recipe in recipes):
        raise ValueError("--config needs the path of a recipe")
    paths = [_recipe(recipe.value or "") for recipe in recipes]
    return paths, others


def _recipe(name: str) -> Path:
    """The file of a recipe, flowbind's own where there is none of this name.

    Raises:
        ValueError: there is no such file; the message has one of flowbind's own with a like name.
    """
    path = locate(name)
    if path.exists():
        return path

    shipped = shipped_recipes()
    close = [recipe for recipe in shipped if Path(recipe).name == path.name]
    close.sort(key=lambda recipe: len(Path(recipe).parts))  # the outermost first
    close = close or get_close_matches(name, shipped, n=1)
    guess = ""
    if close:
        guess = f"did you mean '{close[0]}'? "
    names = ", ".join(shipped)
    raise ValueError(f"{name}: no such recipe; {guess}flowbind's own are {names}")


def read_options(verb: str, arguments: Iterable[str]) -> list[Option]:
    """Every option with its value, whether that stands behind `=` or is the next argument.

    Raises:
        ValueError: something that is no option.
    """
    options: list[Option] = []
    waiting: Option | None = None  # for its value

    for argument in arguments:
        if not argument.startswith("-") or NUMBER.match(argument):
            if waiting is None:
                raise ValueError(_stray(verb, argument))
            options.append(Option(waiting.name, argument))
            waiting = None
            continue

        if waiting is not None:
            options.append(waiting)
        name, equals, value = _parts(argument)
        waiting = None
        if equals:
            options.append(Option(name, value))
        elif name in FLAGS:
            options.append(Option(name))
        else:
            waiting = Option(name)

    if waiting is not None:
        options.append(waiting)
    return options


def _parts(argument: str) -> tuple[str, str, str]:
    """Name, equals sign and value of `--name=value`, `--name`, `-c=value` and `-cvalue`."""
    if argument.startswith("-c") and argument[2:3] not in ("", "="):
        return "-c", "=", argument[2:]
    return argument.partition("=")


def _stray(verb: str, argument: str) -> str:
    if argument.endswith((".yaml", ".yml")):
        return f"{verb}: a recipe is given by --config: flowbind {verb} --config {argument}"
    return f"{verb}: '{argument}' belongs to no option; an option is --name=VALUE or --name VALUE"


def look_for_repetitions(options: Iterable[Option]) -> None:
    """Tells of an option that is given twice with two values, and refuses one that undoes another.

    `--trainer.callbacks+=...` adds to a list: it may be repeated, and so may the options of the new
    element.

    Raises:
        ValueError: an option that goes less deep than one before it.
    """
    seen: dict[str, Option] = {}
    for option in options:
        # Which may be left out.
        name = option.name.removesuffix("+").replace(".init_args", "")
        deeper = [other for other in seen if other.startswith(f"{name}.")]

        if option.name.endswith("+"):
            for other in deeper:
                del seen[other]
            continue
        if deeper:
            raise ValueError(
                f"{option.name} would undo {deeper[0]}, which is before it; "
                f"give {option.name} first"
            )
        if name in seen:
            tell_repetition(name, seen[name].value, option.value)
        seen[name] = option


def tell_repetition(name: str, first: object, last: object) -> None:
    """Says in a line which of two values of an option holds, as in other programs the last."""
    if first != last and is_first_process():
        say(f"{name} is given twice, as '{first}' and as '{last}'; the last holds")
