"""A terminal to run commands on: a pseudo-terminal whose screen is kept as it would be seen, after every change."""

import os
import select
import sys
import termios
import threading
from collections.abc import Callable

import pyte

COLUMNS, LINES = 200, 60


def is_bar(line: str) -> bool:
    """Whether a line has a bar of flowbind's; tables are drawn with the same, and with corners."""
    return "━" in line and not any(corner in line for corner in "┏┓┡┩┳╇")


class Terminal:
    """A screen, and what was seen on it.

    Attributes:
        written: everything that was written to it, as it came.
        screens: the lines of the screen, without empty ones, each time that they changed.
    """

    def __init__(self) -> None:
        self.reading, self.writing = os.openpty()
        termios.tcsetwinsize(self.writing, (LINES, COLUMNS))
        self.screen = pyte.Screen(COLUMNS, LINES)
        self.stream = pyte.ByteStream(self.screen)
        self.rows = [""] * LINES
        self.written = b""
        self.screens: list[list[str]] = []
        self.reader = threading.Thread(target=self._read)
        self.over = False
        self.reader.start()

    def _read(self) -> None:
        while not self.over or select.select([self.reading], [], [], 0)[0]:
            if not select.select([self.reading], [], [], 0.02)[0]:
                continue
            self.written += (data := os.read(self.reading, 65536))
            for part in data.splitlines(
                keepends=True
            ):  # what came at once may be more than one screen
                self.stream.feed(part)
                self._look()

    def _look(self) -> None:
        for number in self.screen.dirty:
            row = self.screen.buffer[number]
            self.rows[number] = "".join(
                row[column].data for column in range(COLUMNS)
            ).rstrip()
        self.screen.dirty.clear()
        lines = [line for line in self.rows if line]
        if not self.screens or self.screens[-1] != lines:
            self.screens.append(lines)

    def close(self) -> None:
        """Waits until all that was written is on the screen."""
        self.over = True
        self.reader.join()
        os.close(self.writing)
        os.close(self.reading)

    @property
    def lines(self) -> list[str]:
        """What stands on the screen now."""
        return self.screens[-1] if self.screens else []

    @property
    def bars(self) -> list[str]:
        """Every line with a bar that was ever seen."""
        return [line for screen in self.screens for line in screen if is_bar(line)]


def on_terminal(run: Callable[[], object], output: bool = True) -> Terminal:
    """Runs something in this process with standard error on a terminal, and standard output too, or not."""
    terminal = Terminal()
    before = sys.stdout, sys.stderr
    with os.fdopen(os.dup(terminal.writing), "w", buffering=1) as file:
        sys.stderr = file
        sys.stdout = file if output else sys.stdout
        try:
            run()
        finally:
            sys.stdout, sys.stderr = before
            file.flush()
            terminal.close()
    return terminal
