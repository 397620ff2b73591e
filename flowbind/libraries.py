"""Optional libraries: imported when they are needed, or named with the command that installs them."""

from importlib import import_module
from types import ModuleType


def require(module: str, needing: str, install: str) -> ModuleType:
    """Imports an optional library.

    Args:
        module: its importable name.
        needing: what needs it, for the message.
        install: the command that installs it.

    Raises:
        ValueError: it is not installed, or it is and does not work; one line that says which, and what to do.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            raise ValueError(f"{needing} needs {module}; install it with `{install}`") from None
        fault = error
    except Exception as error:  # a shared library that is missing, or whatever else its own imports come to
        fault = error
    reason = " ".join(f"{type(fault).__name__}: {fault}".split())
    raise ValueError(f"{needing} needs {module}, which is installed but cannot be imported ({reason})") from fault
