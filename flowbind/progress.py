"""Progress of long work: a bar on a terminal, plain lines in a log.

Everything goes to standard error, so that a command's output can be piped.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import closing
from typing import Any

QUIET_INTERVAL = 10.0  # seconds between lines when standard error is not a terminal


def say(message: str) -> None:
    """Prints one line about what is being done."""
    print(message, file=sys.stderr, flush=True)


def track(
    iterable: Iterable,
    description: str,
    total: int | None = None,
    unit: str = "",
    size: Callable[[Any], int] = lambda item: 1,
) -> Iterator:
    """Yields the items of `iterable`, showing how much of them is done and how fast.

    Args:
        iterable: the items.
        description: of the work.
        total: all that is to be done; by default the number of items.
        unit: what is counted, in plural.
        size: how much of it an item is.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with closing(Progress(description, total, unit)) as progress:
        begun = 0
        try:
            for item in iterable:
                begun = size(item)
                yield item
                progress.advance(begun)
                begun = 0
        finally:  # a loop that knows the length may never ask for the end
            progress.advance(begun)


class Progress:
    """Work whose progress is shown, from now until all of it is done or it is closed.

    Args:
        description: of the work.
        total: all that is to be done, if that is known.
        unit: what is counted, in plural.
    """

    def __init__(self, description: str, total: int | None = None, unit: str = "") -> None:
        self.total, self.done, self.shown = total, 0, True
        self._display = (_Bar if sys.stderr.isatty() else _Lines)(description, total, unit)

    def advance(self, count: int = 1) -> None:
        """Adds what was done since."""
        self.done += count
        if self.done == self.total:
            self.close()
        elif self.shown:
            self._display.show(self.done)

    def close(self) -> None:
        """Shows no more."""
        if self.shown:
            self.shown = False
            self._display.close(self.done)


class _Lines:
    """A line now and then, and one at the end."""

    def __init__(self, description: str, total: int | None, unit: str) -> None:
        self.description, self.all = description, (f"/{total}" if total else "") + (f" {unit}" if unit else "")
        self.begin = self.last = time.monotonic()

    def show(self, done: int) -> None:
        now = time.monotonic()
        if now - self.last >= QUIET_INTERVAL:
            self.last = now
            say(f"{self.description}: {done}{self.all} ({done / (now - self.begin):.1f}/s)")

    def close(self, done: int) -> None:
        passed = time.monotonic() - self.begin
        say(f"{self.description}: {done}{self.all} done in {passed:.1f} s ({done / max(passed, 1e-9):.1f}/s)")


class _Bar:
    """A bar with the speed and the time that is left."""

    def __init__(self, description: str, total: int | None, unit: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Display

        about, speed = TextColumn("{task.description}"), TextColumn("{task.fields[speed]}")
        columns = about, BarColumn(), MofNCompleteColumn(), speed, TimeRemainingColumn()
        self.unit, self.begin = f" {unit}" if unit else "", time.monotonic()
        self.bar = Display(*columns, console=Console(stderr=True))
        self.task = self.bar.add_task(description, total=total, speed="")
        self.bar.start()

    def show(self, done: int) -> None:
        speed = done / max(time.monotonic() - self.begin, 1e-9)
        self.bar.update(self.task, completed=done, speed=f"{speed:.1f}{self.unit}/s")

    def close(self, done: int) -> None:
        self.show(done)
        self.bar.stop()
