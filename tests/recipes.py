"""The recipes that ship: their files, and those that each is given over."""

import re
from pathlib import Path
from typing import Any

from flowbind.cli.check import load_yaml
from flowbind.cli.overrides import merge

RECIPES = Path(__file__).parents[1] / "recipes"
MODELS = sorted(
    path.relative_to(RECIPES).with_suffix("").as_posix()
    for path in RECIPES.rglob("*.yaml")
    if path.parent.name not in ("codecs", "judges")
)
CODECS = sorted(f"codecs/{path.stem}" for path in (RECIPES / "codecs").glob("*.yaml"))
JUDGES = sorted(f"judges/{path.stem}" for path in (RECIPES / "judges").glob("*.yaml"))
BASES = {  # the model that a recipe builds on
    "flowbind/pix3d_bind": "flowbind/normalized",
    "flowbind/shapes_bind": "flowbind/shapes_base",
}
FIT = re.compile(r"^#   flowbind fit +(.*)$", re.MULTILINE)


def configs(name: str) -> list[str]:
    """The recipes of a run, the first one below all others: as the last `flowbind fit` of the recipe's head has them."""
    commands = FIT.findall((RECIPES / f"{name}.yaml").read_text())
    own = [command for command in commands if f"recipes/{name}.yaml" in command]
    return re.findall(r"--config (\S+)", own[-1])


def merged(name: str) -> dict[str, Any]:
    """What the recipes of a run say together."""
    return merge(
        [load_yaml((RECIPES.parent / path).read_text()) for path in configs(name)]
    )


def options(name: str) -> list[str]:
    """The options that give the recipes of a run."""
    return [option for path in configs(name) for option in ("--config", path)]
