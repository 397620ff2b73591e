"""Progress of long work: one bar on a terminal, plain lines in a log.

Everything goes to standard error, so that a command's output can be piped. Of processes that work
together the first one shows it. Work may be part of other work: the innermost is shown, and the
outer again when that is done.
"""

import os
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import closing, contextmanager, suppress
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, ClassVar

QUIET_INTERVAL = 10.0  # seconds between lines when standard error is not a terminal
# Variables of the environment in which launchers give a process its number.
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
# Lines said so far, where somebody listens.
_HEARD: ContextVar[list[str] | None] = ContextVar("heard", default=None)


@contextmanager
def listening() -> Iterator[list[str]]:
    """A block whose lines go into a list, too, for those who see no standard error."""
    lines: list[str] = []
    token = _HEARD.set(lines)
    try:
        yield lines
    finally:
        _HEARD.reset(token)


def say(message: str) -> None:
    """Prints one line about what is being done."""
    lines = _HEARD.get()
    if lines is not None:
        lines.append(message)
    printable = message.encode(
        errors="backslashreplace"
    ).decode()  # names of files may be no UTF-8
    print(printable, file=sys.stderr, flush=True)


def is_first_process() -> bool:
    """Whether this process is the first, or the only one, of those that were started together."""
    return all(os.environ.get(name, "0") == "0" for name in RANKS)


def leave_closed_terminal() -> None:
    """Sends to nowhere what would be said on a terminal that is closed: writing there is an error."""
    for descriptor in (1, 2):
        with suppress(OSError):  # there may be none
            is_device = stat.S_ISCHR(os.fstat(descriptor).st_mode)
            if is_device and not os.isatty(descriptor):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)


def track(
    iterable: Iterable,
    description: str,
    total: int | None = None,
    unit: str = "",
    size: Callable[[Any], int] = lambda item: 1,
) -> Iterator:
    """Yields the items of `iterable`, showing how much of them is done and how fast.

    Args:
        iterable: Items of the work.
        description: Description of the work.
        total: Amount of all work; by default the number of items.
        unit: What is counted, in plural.
        size: Function that gives the amount of an item.
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
        description: Description of the work.
        total: Amount of all work, if that is known.
        unit: What is counted, in plural.
        done: Amount that was done before, which does not count for the speed.
    """

    def __init__(
        self,
        description: str,
        total: int | None = None,
        unit: str = "",
        done: int = 0,
    ) -> None:
        self.description = description
        self.total = total
        self.unit = f" {unit}" if unit else ""
        self.done = done
        self.first = done
        self.detail = ""
        self.begin = time.monotonic()
        self.now = self.begin
        self.is_open = True

        self._display: _Nothing | _Bar | _Lines
        if not is_first_process():
            self._display = _Nothing(self)
        elif sys.stderr.isatty():
            self._display = _Bar(self)
        else:
            self._display = _Lines(self)

    @property
    def amount(self) -> str:
        """How much is done, of how much."""
        total = f"/{self.total}" if self.total else ""
        return f"{self.done}{total}{self.unit}"

    @property
    def speed(self) -> float:
        """How much was done a second, up to the last that was."""
        seconds = max(self.now - self.begin, 1e-9)
        return (self.done - self.first) / seconds

    @property
    def left(self) -> str:
        """How long the rest takes at this speed, as `0:03:20`; empty if that is not known."""
        if not self.total or self.done <= self.first:
            return ""
        seconds = (self.total - self.done) / self.speed
        return str(timedelta(seconds=round(seconds)))

    def advance(self, count: int = 1, detail: str | None = None) -> None:
        """Adds what was done since, and what to say beside it."""
        self.done += count
        if detail is not None:
            self.detail = detail

        if self.done == self.total:
            self.close()
        elif self.is_open:
            self.now = time.monotonic()
            self._display.show()

    def close(self) -> None:
        """Shows no more, and says what was done in all."""
        if not self.is_open:
            return
        self.is_open = False
        self.now = time.monotonic()

        seconds = self.now - self.begin
        passed = f"{seconds:.1f} s ({self.speed:.1f}/s)"
        end = "done in" if self.total in (None, self.done) else "stopped after"
        line = f"{self.description}: {self.amount} {end} {passed} {self.detail}"
        self._display.close(line.rstrip())


class _Nothing:
    """For processes that are not the first."""

    def __init__(self, work: Progress) -> None: ...
    def show(self) -> None: ...
    def close(self, line: str) -> None: ...


class _Lines:
    """A line now and then, with the speed and the time left, and one at the end."""

    def __init__(self, work: Progress) -> None:
        self.work = work
        self.last = work.begin

    def show(self) -> None:
        work = self.work
        if work.now - self.last >= QUIET_INTERVAL:
            self.last = work.now
            pace = f"{work.speed:.1f}/s"
            if work.left:
                pace += f", {work.left} left"
            say(f"{work.description}: {work.amount} ({pace}) {work.detail}".rstrip())

    def close(self, line: str) -> None:
        say(line)


class _Bar:
    """A bar in a terminal's last line, with the speed and the time left, and a line at the end.

    Whatever else is printed meanwhile stands above it.
    """

    open: ClassVar[
        list["_Bar"]
    ] = []  # one within the other; the last one is on the screen

    def __init__(self, work: Progress) -> None:
        from rich.console import Console

        self.work = work
        self.console = Console(stderr=True)
        self.width = 20 if self.console.width >= 100 else 10

        if self.open:
            self.open[-1].hide()
        self.open.append(self)
        self.appear()

    def appear(self) -> None:
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar
        from rich.table import Column

        def column(name: str) -> TextColumn:
            return TextColumn(
                f"{{task.{name}}}",
                markup=False,
                table_column=Column(no_wrap=True),
            )

        # Results on standard output wait for the bar only where they would land in the same
        # terminal.
        self.bar = Bar(
            column("description"),
            BarColumn(self.width),
            column("fields[amount]"),
            column("fields[speed]"),
            TimeRemainingColumn(),
            column("fields[detail]"),
            console=self.console,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
        )
        self.task = self.bar.add_task(**self.fields(), total=self.work.total)
        self.bar.start()

    def fields(self) -> dict[str, Any]:
        """The parts of the line, cut to the width of the terminal.

        First the detail is cut, then the description.
        """
        work = self.work
        speed = f"{work.speed:.1f}/s" if work.done > work.first else ""

        others = f"{work.amount} {speed} 00:00:00"
        room = self.console.width - self.width - len(others) - 4
        least = min(len(work.description), 12)
        detail = _cut(work.detail, room - least)
        about = _cut(work.description, room - len(detail))

        return {
            "description": about,
            "completed": work.done,
            "amount": work.amount,
            "speed": speed,
            "detail": detail,
        }

    def hide(self) -> None:
        self.bar.stop()

    def show(self) -> None:
        if self.open[-1] is self:
            self.bar.update(self.task, **self.fields())

    def close(self, line: str) -> None:
        is_shown = self.open[-1] is self
        self.open.remove(self)
        if is_shown:
            self.hide()

        say(line)
        if is_shown and self.open:
            self.open[-1].appear()
            self.open[-1].show()


def _cut(words: str, width: int) -> str:
    """At most so many characters."""
    if len(words) <= width:
        return words
    end = max(width - 1, 0)
    return f"{words[:end]}…"
