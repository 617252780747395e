"""Where the command's words go: results to standard output, everything about them to standard error."""

import os
import sys
from typing import TextIO

__all__ = ["counted", "hint", "say", "silence"]


def counted(count: int, noun: str) -> str:
    """A number with its noun: `1 event`, `2,000 events`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def say(text: str) -> None:
    """One line, or several, of what was asked for. Raises `BrokenPipeError` when nobody reads it any more."""
    sys.stdout.write(f"{text}\n")


def hint(text: str) -> None:
    """One line, or several, about what is done; seen at once. What is done does not end because nobody reads it."""
    try:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
    except BrokenPipeError:
        silence(sys.stderr)


def silence(stream: TextIO) -> None:
    """The reader of a stream has left, as `head` does: nothing more can be said there, not at exit either."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
