"""Optional libraries: imported when they are needed, or named with the command that installs them."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType


@contextmanager
def importing(*modules: str, needing: str, install: str) -> Iterator[None]:
    """A block of statements that import from optional libraries.

    Args:
        modules: the libraries' importable names.
        needing: what needs them, for the message.
        install: the command that installs them.

    Raises:
        ValueError: one of them is not installed, or it is and does not work; one line that says which, and what to do.
    """
    try:
        yield
    except Exception as error:  # an import may come to anything, such as a shared library that is missing
        names = " and ".join(modules)
        absent = isinstance(error, ModuleNotFoundError) and error.name is not None
        if absent and any(f"{module}.".startswith(f"{error.name}.") for module in modules):
            it = "them" if len(modules) > 1 else "it"
            raise ValueError(f"{needing} needs {names}; install {it} with `{install}`") from None
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        verb = "are" if len(modules) > 1 else "is"
        raise ValueError(
            f"{needing} needs {names}, which {verb} installed but cannot be imported ({reason})"
        ) from error


def require(module: str, needing: str, install: str) -> ModuleType:
    """Imports one optional library; arguments and errors as of `importing`."""
    with importing(module, needing=needing, install=install):
        return import_module(module)
