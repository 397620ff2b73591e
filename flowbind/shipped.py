"""Recipes that come with flowbind: beside the package in a clone, within it in a wheel."""

from pathlib import Path

from flowbind.progress import is_first_process, say

FOLDER = "recipes"
PACKAGE = Path(__file__).parent


def shipped_folder() -> Path:
    """The folder of flowbind's own recipes."""
    within = PACKAGE / FOLDER
    if within.is_dir():
        return within
    return PACKAGE.parent / FOLDER


def shipped_recipes() -> list[str]:
    """The recipes that come with flowbind, as they are named everywhere: `recipes/shapes.yaml`."""
    folder = shipped_folder()
    names = []
    for path in folder.rglob("*.yaml"):
        relative = path.relative_to(folder)
        names.append(f"{FOLDER}/{relative.as_posix()}")
    return sorted(names)


def locate(path: str | Path) -> Path:
    """The file that a path names: one that is there or else, for `recipes/...`, flowbind's own.

    Where it is flowbind's own, a line says so. A path that is neither is returned as it is.
    """
    path = Path(path)
    if path.exists() or path.parts[:1] != (FOLDER,):
        return path

    folder = shipped_folder()
    shipped = folder.joinpath(*path.parts[1:])
    if not shipped.is_file():
        return path
    if is_first_process():
        say(f"{path}: no such file here; flowbind's own is taken, {shipped}")
    return shipped
