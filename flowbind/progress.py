"""Progress of long work: a bar on a terminal, plain lines in a log.

Everything goes to standard error, so that a command's output can be piped.
"""

import sys
import time
from collections.abc import Iterable, Iterator, Sized

QUIET_INTERVAL = 10.0  # seconds between lines when standard error is not a terminal


def say(message: str) -> None:
    """Prints one line about what is being done."""
    print(message, file=sys.stderr, flush=True)


def track(iterable: Iterable, description: str, total: int | None = None) -> Iterator:
    """Yields the items of `iterable`, showing how many of `total` (default: its length) are done."""
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    return _bar(iterable, description, total) if sys.stderr.isatty() else _lines(iterable, description, total)


def _bar(iterable, description, total):
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield from progress.track(iterable, total=total, description=description)


def _lines(iterable, description, total):
    begin = last = time.monotonic()
    done = 0
    try:
        for done, item in enumerate(iterable, start=1):
            yield item
            now = time.monotonic()
            if now - last >= QUIET_INTERVAL:
                last = now
                say(f"{description}: {done}{f'/{total}' if total else ''} ({done / (now - begin):.1f}/s)")
    finally:  # a loop that knows the length may never ask for the end
        say(f"{description}: {done}{f'/{total}' if total else ''} done in {time.monotonic() - begin:.1f} s")
