"""What an error of somebody else's code says, in one line."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message; the name of its class where there is none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def last_line(error: BaseException) -> str:
    """The last line of an error's message: where torch says which weights do not fit."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
