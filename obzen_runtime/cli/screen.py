"""A block of lines at the foot of a terminal that is drawn again and again, beneath whatever else is printed there.

No mode of the terminal is changed and the cursor stays visible, so there is nothing to restore: a process that is
killed while it draws leaves the terminal as it should be.
"""

import os
import sys
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, TextIO

__all__ = ["Screen"]

_UP = "\x1b[{}A"
_ERASE_LINE = "\x1b[K"
_ERASE_BELOW = "\x1b[J"


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

    def __enter__(self) -> Self:
        self._before = sys.stdout, sys.stderr
        sys.stdout = self._guarded(sys.stdout)
        sys.stderr = self._guarded(sys.stderr)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._before is not None:
            sys.stdout, sys.stderr = self._before
            self._before = None

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
        """Show these lines in place of the last ones; not while somebody's line is unfinished."""
        with self._lock:
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
