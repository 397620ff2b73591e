"""Files that a mesh names: materials, pictures and numbers beside it, and none elsewhere."""

import re
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path, PureWindowsPath
from urllib.parse import unquote

import numpy as np

from flowbind.companions import note
from flowbind.files import check_regular, read_regular
from flowbind.turns import weigh
from flowbind_points.texture import decode

LARGEST = 2**28  # bytes of all files that one mesh names
WEIGHT = 4  # bytes of memory that a byte of them takes
# What may stand in front of a picture's name in a material file.
OPTIONS = re.compile(r"(-\w+\s+((on|off|[-+]?[.\d]\S*|[rgbmlz])\s+)+)+")


class Beside:
    """Looks for files in a mesh's folder and the folders in it.

    Links in there are followed, as everywhere. Names come from other machines: with the other kind
    of slash, with the whole path that a file had there, or with other capitals. A name that leads
    out of the folder is looked for in the folder itself, by its last part alone.

    Args:
        folder: Folder of the mesh; None where a mesh has no folder, and nothing lies beside it.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.left = LARGEST
        self.pixels = lru_cache(maxsize=2)(self._pixels)  # surfaces share pictures

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            ValueError: it is not there, is no regular file, or is too large; says which, in part of
                a line.
        """
        path = self._find(name)
        if path is None:
            raise ValueError(f"'{name[:80]}', which it names, is not beside it")

        try:
            size = check_regular(path, self.left)
            weigh(WEIGHT * size)
            content = read_regular(path, self.left)
        except (OSError, ValueError):
            raise ValueError(
                f"'{name[:80]}', which it names, cannot be read or is larger than {self.left} bytes"
            ) from None

        self.left -= len(content)
        return content

    def picture(self, name: str) -> Callable[[], np.ndarray]:
        """What gives the pixels of a picture, when it is called: uint8 with shape (h, w, 3).

        It raises as `read` does.
        """
        return partial(self.pixels, name)

    def get(self, name: str) -> bytes:  # as trimesh asks for files
        return self.read(name)

    __getitem__ = get

    def _pixels(self, name: str) -> np.ndarray:
        return decode(self.read(name), name)

    def _find(self, name: str) -> Path | None:
        """The file that is meant, or None; what was looked for is noted."""
        if self.folder is None:
            return None

        without_options = OPTIONS.sub("", name, count=1)
        for written in dict.fromkeys((name, unquote(name), without_options)):
            # It knows both kinds of slashes, and drives.
            path = PureWindowsPath(written.strip().strip('"'))
            candidates = [path.parts[-1:]]
            if not path.anchor and ".." not in path.parts:
                candidates.insert(0, path.parts)
            for parts in candidates:
                note(self.folder.joinpath(*parts))
                file = _inside(self.folder, parts)
                if file is not None:
                    note(file)
                    return file

        return None


def _inside(folder: Path, parts: tuple[str, ...]) -> Path | None:
    """The file that these parts of a path lead to from a folder, capitals or not."""
    if not parts or not all(parts) or {"..", "."} & set(parts):
        return None

    place = folder
    for number, part in enumerate(parts, start=1):
        is_last = number == len(parts)
        try:
            place = _child(place, part)
            if not (place.is_file() if is_last else place.is_dir()):
                return None
        except (OSError, ValueError):
            return None

    return place


def _child(folder: Path, name: str) -> Path:
    """What has this name in a folder, or else one with other capitals.

    Raises:
        FileNotFoundError: there is none.
    """
    if (folder / name).exists():
        return folder / name

    for entry in sorted(entry.name for entry in folder.iterdir()):
        if entry.lower() == name.lower():
            return folder / entry

    raise FileNotFoundError(name)
