"""What an error of somebody else's code says, in one line."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message; the name of its class where there is none."""
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    return lines[0]


def last_line(error: BaseException) -> str:
    """The last line of an error's message: where torch says which weights do not fit."""
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    return lines[-1].strip()
