"""A block of lines at the foot of a terminal that is drawn again and again, beneath whatever else is printed there.

Only what was drawn here is ever erased: a process that was stopped and goes on draws beneath what the shell has written
meanwhile, and one in the background draws nothing. No mode of the terminal is changed and the cursor stays visible, so
there is nothing to restore: a process that is killed while it draws leaves the terminal as it should be.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, TextIO

__all__ = ["Screen", "in_foreground"]

_UP = "\x1b[{}A"
_ERASE_LINE = "\x1b[K"
_ERASE_BELOW = "\x1b[J"


def in_foreground(stream: TextIO) -> bool:
    """Whether this process is the one that the user of a terminal is looking at, not a job in the background."""
    try:
        return os.tcgetpgrp(stream.fileno()) == os.getpgrp()
    except OSError:  # it is not our terminal: nobody else writes there
        return True


class Screen:
    """The lines at the foot of `stream`, which is a terminal.

    While it is entered, what is printed to standard output and error, where these are terminals too, takes the lines
    away first; the next `draw` puts them beneath it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._drawn = 0
        self._lock = threading.Lock()
        self._guards: list[_Guard] = []
        self._before: tuple[TextIO, TextIO] | None = None
        self._on_continue: Any = None

    def __enter__(self) -> Self:
        self._before = sys.stdout, sys.stderr
        self._on_continue = signal.signal(signal.SIGCONT, lambda *_: self._forget())
        sys.stdout = self._guarded(sys.stdout)
        sys.stderr = self._guarded(sys.stderr)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._before is not None:
            sys.stdout, sys.stderr = self._before
            self._before = None
            signal.signal(signal.SIGCONT, self._on_continue)

    def _forget(self) -> None:
        """What was drawn is not ours any more: others have written beneath it."""
        self._drawn = 0

    def _guarded(self, stream: TextIO) -> Any:
        if not stream.isatty():
            return stream
        guard = _Guard(stream, self.clear)
        self._guards.append(guard)
        return guard

    def size(self) -> tuple[int, int]:
        """Columns and rows of the terminal."""
        try:
            columns, rows = os.get_terminal_size(self._stream.fileno())
        except OSError:
            columns, rows = 0, 0
        return columns or 80, rows or 24

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines in place of the last ones; not while somebody's line is unfinished, nor in the background."""
        with self._lock:
            if not in_foreground(self._stream):
                self._forget()
                return
            if any(guard.unfinished for guard in self._guards):
                return
            up = _UP.format(self._drawn) if self._drawn else ""
            body = "".join(f"{line}{_ERASE_LINE}\n" for line in lines)
            self._drawn = len(lines)
            self._put(f"\r{up}{body}{_ERASE_BELOW}")

    def clear(self) -> None:
        """Take the lines away."""
        if not self._drawn:
            return
        with self._lock:
            drawn, self._drawn = self._drawn, 0
            if drawn:
                self._put(f"\r{_UP.format(drawn)}{_ERASE_BELOW}")

    def _put(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:  # the terminal is gone; the run goes on without it
            self._drawn = 0


class _Guard:
    """A text stream that clears the screen's lines before anything is written to it."""

    def __init__(self, stream: TextIO, clear: Callable[[], None]) -> None:
        self._stream = stream
        self._clear = clear
        self.unfinished = False

    def write(self, text: str) -> int:
        self._clear()
        if text:
            self.unfinished = text[-1] != "\n"
        return self._stream.write(text)

    def writelines(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
