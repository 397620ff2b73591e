"""`flowbind fit | validate | test`: the command line is read before anything heavy is imported."""

import argparse
import ast
from collections.abc import Iterable

from flowbind.cli.keys import RESUME, SECTIONS, SEED, Key, keys_of
from flowbind.cli.options import DRY_RUN, HELP_ALL, Option, split
from flowbind.cli.parser import Parser

DESCRIPTIONS = {
    "fit": "Trains what a recipe describes: a model, a codec or a judge. Every key of a recipe is "
    "an option, too, and changes what the recipe says.",
    "validate": "The validation loss of what a recipe describes, with its run's last checkpoint.",
    "test": "Measures every direction on the test split, with the run's last checkpoint, and "
    "writes metrics.json, metrics.md and a gallery into the run folder.",
}

# What people change, and what it is for.
FIRST = (
    Key("trainer.max_steps", "int", None, "optimiser steps in all"),
    Key("data.batch_size", "int", None, "samples in a step, over all devices"),
    Key("training.learning_rate", "float", None, "rate of Adam, after warm-up"),
    Key("trainer.devices", "int", None, "devices on each machine; -1 for all of them"),
    Key(
        "trainer.precision",
        "str",
        None,
        "32-true, or bf16-mixed where the device has bfloat16 (`flowbind doctor` tells)",
    ),
    Key("trainer.default_root_dir", "str", None, "the run folder"),
)
CHECKPOINT = Key(
    "ckpt_path", "str", None, "a checkpoint, instead of the run folder's newest"
)
ABOUT = {
    "training": "how it learns",
    "data": "latents that `flowbind encode` made",
    "evaluation": "how `flowbind test` judges it",
}
ABOUT_DRY_RUN = (
    "check everything, take a few steps, tell how long all would take, and keep nothing"
)
METAVARS = {"int": "N", "float": "NUMBER", "bool": "{true,false}"}
LAST = (
    "The model's keys are those of the class that the recipe names: --model.help CLASS lists them, "
    "--data.help CLASS those of other data, and `flowbind recipes explain KEY` tells about one. "
    "--print_config prints the recipe with all that it leaves to defaults."
)


def run(verb: str, arguments: list[str]) -> None:
    """Runs one of Lightning's verbs on recipes.

    Raises:
        ValueError: an error in the arguments or a recipe.
    """
    recipes, options = split(verb, arguments)
    names = [option.name for option in options]
    if "--help" in names or "-h" in names:
        print(short_help(verb))
        return
    if HELP_ALL in names:
        options = [Option("--help")]

    dry_run = [option for option in options if option.name == DRY_RUN]
    options = [option for option in options if option.name != DRY_RUN]
    if dry_run and verb != "fit":
        raise ValueError(f"{verb} has no dry run; {DRY_RUN} is for flowbind fit")
    if any(option.value is not None for option in dry_run):
        raise ValueError(f"{DRY_RUN} takes no value")

    from flowbind.cli.recipe import run_recipe

    run_recipe(verb, recipes, options, dry_run=bool(dry_run))


def short_help(verb: str) -> str:
    """The help of a verb: what people change, then all keys of flowbind's own."""
    parser = Parser(verb, DESCRIPTIONS[verb], add_help=False)
    parser.usage = f"flowbind {verb} --config RECIPE [--KEY VALUE ...]"
    parser.epilog = LAST

    if verb == "fit":
        _add(parser, "what people change", FIRST)
    recipe = parser.add_argument_group("the recipe")
    _add_recipe(recipe)

    if verb == "fit":
        recipe.add_argument(
            DRY_RUN, action="store_const", const=None, help=ABOUT_DRY_RUN
        )
        checkpoints = keys_of("checkpoints", SECTIONS["checkpoints"])
        _add(parser, "the run", [RESUME, *checkpoints, CHECKPOINT, SEED])
        for section in ("training", "data"):
            keys = keys_of(section, SECTIONS[section])
            _add(parser, f"{section}: {ABOUT[section]}", keys)
    else:
        _add(parser, "the run", [CHECKPOINT])
    evaluation = keys_of("evaluation", SECTIONS["evaluation"])
    _add(parser, f"evaluation: {ABOUT['evaluation']}", evaluation)
    return parser.format_help()


def _add_recipe(group: argparse._ArgumentGroup) -> None:
    """Adds the options that are no keys."""
    group.add_argument(
        "-c",
        "--config",
        metavar="RECIPE",
        help="the recipe; a second one may say what differs from the first",
    )
    flags = {
        (
            "--print_config",
        ): "print the recipe as it would be run, with every default, and exit",
        ("-h", "--help"): "this help",
        (HELP_ALL,): "every key, those of Lightning's trainer among them",
    }
    for names, about in flags.items():
        group.add_argument(*names, action="store_const", const=None, help=about)


def _add(parser: Parser, title: str, keys: Iterable[Key]) -> None:
    """Adds a group of options, one for each key that is not there yet."""
    group = parser.add_argument_group(title)
    for key in keys:
        option = f"--{key.name}"
        if option in parser.options:
            continue
        default = None if key.default == "None" else key.default
        group.add_argument(
            option,
            metavar=_metavar(key.type),
            default=default,
            help=key.about.replace("%", "%%"),
        )


def _metavar(kind: str) -> str:
    """What stands for a value in the help, by the type that the source names."""
    if kind.startswith("Literal["):
        values = ast.literal_eval(kind.removeprefix("Literal"))
        return "{" + ",".join(values) + "}"
    name, _, _ = kind.partition(" | ")
    return METAVARS.get(name, "VALUE")
