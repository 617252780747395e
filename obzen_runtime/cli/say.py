"""Where the command's words go: results to standard output, everything about them to standard error."""

import os
import sys
from pathlib import Path
from typing import TextIO

__all__ = ["hint", "open_streams", "say", "silence"]

_OBEYED = dict.fromkeys({*range(32), *range(127, 160)} - {*b"\t\n"}, "\ufffd")
"""Control signs that a terminal would obey, and what is shown for them."""


def say(text: str) -> None:
    """One line, or several, of what was asked for. Signs that the stream's encoding does not have are escaped.

    Raises `BrokenPipeError` when nobody reads it any more.
    """
    try:
        sys.stdout.write(f"{text}\n")
    except UnicodeEncodeError as lacking:
        sys.stdout.write(text.encode(lacking.encoding, "backslashreplace").decode(lacking.encoding) + "\n")


def hint(text: str) -> None:
    """One line, or several, about what is done; seen at once. What is done does not end because it cannot be said.

    A text may quote what others wrote: nothing in it is obeyed by a terminal.
    """
    try:
        sys.stderr.write(f"{text.translate(_OBEYED)}\n")
        sys.stderr.flush()
    except OSError:  # its reader has left, or the disk it goes to is full
        silence(sys.stderr)


def open_streams() -> None:
    """A process that was started without a standard stream has one that goes nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - open as long as the process lives


def silence(stream: TextIO) -> None:
    """The reader of a stream has left, as `head` does: nothing more can be said there, not at exit either."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
