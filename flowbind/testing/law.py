"""A law of plugins: a check whose docstring states it, and that says where it is broken."""

from collections.abc import Callable
from functools import wraps
from typing import Any

Law = Callable[[Any], None]  # of a subject, which has the plugin


def adding_to(laws: list[Law], attribute: str) -> Callable[[Law], Law]:
    """A decorator that adds laws to a list: functions whose docstring states the law in one line.

    A law that fails, however that may be, raises AssertionError with one line that names the
    plugin's class and the law.

    Args:
        laws: List that they are added to.
        attribute: Attribute of a subject that is the plugin.
    """

    def law(check: Law) -> Law:
        @wraps(check)
        def named(subject: Any) -> None:
            plugin = type(getattr(subject, attribute)).__name__
            broken = f"{plugin} breaks the law '{check.__name__}': {check.__doc__} But"
            try:
                check(subject)
            except AssertionError as error:
                raise AssertionError(f"{broken} {error}") from None
            except Exception as error:
                raise AssertionError(f"{broken} {error!r} is raised") from error

        laws.append(named)
        return named

    return law


def demand(holds: Any, otherwise: str) -> None:
    """What a law asks for.

    Raises:
        AssertionError: it does not hold; with what was seen.
    """
    if not holds:
        raise AssertionError(otherwise)
