"""Files as blocks of bytes or of whole lines: opened with one clear error, read in big pieces, never held whole.

A file that cannot be read ends its source; a row that cannot be read is a `Bad` with its place. The first is told
here, the second by each format with `bad`.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from obzen_runtime.kernel import IoFailed, NotFound, ObzenError, PermissionDenied, ValidationFailed
from obzen_runtime.stages import Bad, Progress

__all__ = ["LARGEST", "Input", "Overlong", "bad", "refusal", "whole_lines"]

BLOCK: Final = 64 * 1024
"""Bytes read at once: under a millisecond of work for every format here."""
LARGEST: Final = 16 * 1024 * 1024
"""Bytes of one row at the most: no larger event crosses an edge."""
KEPT: Final = 64 * 1024
"""Bytes of a bad row that go into its dead letter; its place says where the rest is."""
BOM: Final = b"\xef\xbb\xbf"


class Overlong(NamedTuple):
    """A line of more than `LARGEST` bytes, of which only the beginning was kept."""

    head: bytes
    size: int


class Input:
    """One open file. `progress` learns its size and how many of its bytes were read.

    Opening raises `NotFound`, `PermissionDenied` or `IoFailed`, reading `IoFailed`, each with the path and a remedy.
    """

    def __init__(self, path: Path | str, progress: Progress) -> None:
        self.path = Path(path)
        self._progress = progress
        try:
            self._file = self.path.open("rb", buffering=0)
            status = os.fstat(self._file.fileno())
        except OSError as error:
            raise refusal(self.path, "read", error) from error
        self._size = status.st_size if stat.S_ISREG(status.st_mode) else None
        progress.total, progress.done = self._size, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def blocks(self) -> Iterator[bytes]:
        """The bytes of the file, without a UTF-8 byte order mark, in blocks of at most `BLOCK`."""
        first = True
        while block := self._read():
            if first:
                first = False
                block = block.removeprefix(BOM)
            yield block
        if self._size is not None and self._progress.done < self._size:
            raise IoFailed(
                f"{self.path} shrank while it was read: {self._progress.done} of {self._size} bytes were there",
                remedy="Let nothing write to the file during the run, then run again.",
                path=str(self.path),
            )

    def _read(self) -> bytes:
        try:
            block = self._file.read(BLOCK)
        except OSError as error:
            done = self._progress.done
            raise IoFailed(
                f"cannot read {self.path} at byte {done}: {error.strerror or error}",
                remedy="Check the disk or the network it is on, then run again.",
                path=str(self.path),
                byte=done,
            ) from error
        self._progress.done += len(block)
        return block


def whole_lines(blocks: Iterator[bytes]) -> Iterator[bytes | Overlong]:
    r"""The same bytes cut behind line ends (`\n`); what follows the last line end comes last."""
    held: list[bytes] = []
    size = 0
    for each in blocks:
        block = each
        if size > LARGEST:
            end = block.find(b"\n") + 1
            size += end or len(block)
            if not end:
                continue
            yield Overlong(held[0], size)
            held, size, block = [], 0, block[end:]
        cut = block.rfind(b"\n") + 1
        if cut:
            yield b"".join((*held, block[:cut]))
            held, size = [], 0
        if cut < len(block):
            held.append(block[cut:])
            size += len(block) - cut
            if size > LARGEST:
                held = [b"".join(held)[:KEPT]]
    if size > LARGEST:
        yield Overlong(held[0], size)
    elif held:
        yield b"".join(held)


def bad(raw: bytes, place: str, problem: str, remedy: str) -> Bad:
    """A row that is no event: what stands there, where, what is wrong and what to do."""
    return Bad(raw[:KEPT], ValidationFailed(f"{place}: {problem}", code="bad_row", remedy=remedy, place=place), place)


def refusal(path: Path, doing: str, error: OSError) -> ObzenError:
    """What the system's refusal to open a file means, with the remedy."""
    match error:
        case FileNotFoundError():
            return NotFound(
                f"cannot {doing} {path}: there is no such file"
                if doing == "read"
                else f"cannot {doing} {path}: no directory {path.parent}",
                code="file_not_found",
                remedy=f"Check the path; it is taken from {Path.cwd()}." if doing == "read" else f"Make it: mkdir -p {path.parent}",
                path=str(path),
            )
        case IsADirectoryError():
            return IoFailed(f"cannot {doing} {path}: it is a directory", remedy="Give the path of a file.", path=str(path))
        case NotADirectoryError():
            return IoFailed(f"cannot {doing} {path}: a part of the path is no directory", remedy="Check the path.", path=str(path))
        case PermissionError():
            return PermissionDenied(f"cannot {doing} {path}: permission denied", remedy=f"Allow this user to {doing} it.", path=str(path))
    return IoFailed(f"cannot {doing} {path}: {error.strerror or error}", remedy="Check the file system, then run again.", path=str(path))
