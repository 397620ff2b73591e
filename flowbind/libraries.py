"""Optional libraries: imported on use, or named with the command that installs them."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution, requires
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

# Name, versions, extra.
REQUIREMENT = re.compile(r"([\w.-]+)([^;]*)(?:;.*\bextra *== *['\"]([\w-]+)['\"])?")


class Extra(NamedTuple):
    """An extra of a package; as text, the command that installs what it lacks.

    It names the extra's libraries, not the package: so the same command works beside a clone, a
    wheel or an index.

    Args:
        name: Name of the extra.
        package: Package that has it.
    """

    name: str
    package: str = "flowbind"

    def __str__(self) -> str:
        needed = self.requirements()
        if not needed:  # installed from a clone, before the extra was written
            return f"pip install -e '.[{self.name}]'"

        absent = []
        for name, requirement in needed.items():
            if not _is_installed(name):
                absent.append(requirement)
        quoted = [f"'{requirement}'" for requirement in absent or needed.values()]
        return " ".join(["pip install", *quoted])

    def requirements(self) -> dict[str, str]:
        """What the extra brings, by the libraries' names: `{"soundfile": "soundfile>=0.13"}`."""
        return _requirements(self.package, self.name)


def base_requirements(package: str = "flowbind") -> dict[str, str]:
    """What a package needs without any extra, by the libraries' names; empty where unknown."""
    return _requirements(package, None)


def _requirements(package: str, extra: str | None) -> dict[str, str]:
    try:
        entries = requires(package) or []
    except PackageNotFoundError:
        return {}

    requirements = {}
    for entry in entries:
        match = REQUIREMENT.match(entry)
        if match and match[3] == extra:
            name = match[1]
            requirements[name] = name + match[2].strip()
    return requirements


@contextmanager
def importing(
    *modules: str,
    needing: str,
    install: str | Extra,
) -> Iterator[None]:
    """A block of statements that import from optional libraries.

    Args:
        modules: Importable names of the libraries.
        needing: What needs them, for the message.
        install: Command that installs them, or the extra that brings them.

    Raises:
        ValueError: one of them is not installed, or it is and does not work; one line that says
            which, and what to do.
    """
    try:
        yield
    except Exception as error:
        # An import may end in anything, as where a shared library is missing.
        names = " and ".join(modules)
        if _is_absent(modules, error):
            it = "them" if len(modules) > 1 else "it"
            raise ValueError(
                f"{needing} needs {names}; install {it} with `{install}`"
            ) from None

        reason = " ".join(f"{type(error).__name__}: {error}".split())
        verb = "are" if len(modules) > 1 else "is"
        raise ValueError(
            f"{needing} needs {names}, which {verb} installed but cannot be imported ({reason})"
        ) from error


def _is_absent(modules: Sequence[str], error: Exception) -> bool:
    """Whether an import ended because one of these libraries is not installed."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return False
    return any(f"{module}.".startswith(f"{error.name}.") for module in modules)


def require(module: str, needing: str, install: str | Extra) -> ModuleType:
    """Imports one optional library; arguments and errors as of `importing`."""
    with importing(module, needing=needing, install=install):
        return import_module(module)


def absent(module: str, needing: str, install: str | Extra) -> str:
    """The line of `require` where it raises one; empty where the library can be imported."""
    try:
        require(module, needing, install)
    except ValueError as error:
        return str(error)
    return ""


def package_folder(package: str) -> Path | None:
    """The folder of an installed package, which is not imported; None where there is none.

    Nor is a folder of that name without code, which Python takes for a package, one.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
