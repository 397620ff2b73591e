"""`flowbind fit | validate | test`: the command line is read before anything heavy is imported."""

from flowbind.cli.options import split


def run(verb: str, arguments: list[str]) -> None:
    """Runs one of Lightning's verbs on recipes."""
    recipes, options = split(verb, arguments)

    from flowbind.cli.recipe import run_recipe

    run_recipe(verb, recipes, options)
