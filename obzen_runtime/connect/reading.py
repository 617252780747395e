"""Files as blocks of bytes or of whole lines: opened with one clear error, read in big pieces, never held whole.

A file that cannot be read ends its source; a row that cannot be read is a `Bad` with its place. The first is told
here, the second by each format with `bad`.

A place in a file is known again by the bytes before it. One is made every few blocks: what is read twice after a
resume is little, and hashing costs about a hundredth of reading.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import msgspec

from obzen_runtime.connect.paths import OfFile, refusal
from obzen_runtime.kernel import ConfigInvalid, IoFailed, ValidationFailed
from obzen_runtime.stages import At, Bad, Progress, Source, source

__all__ = ["LARGEST", "FilePlace", "Input", "Overlong", "bad", "file_source", "whole_lines"]

BLOCK: Final = 64 * 1024
"""Bytes read at once: under a millisecond of work for every format here."""
LARGEST: Final = 16 * 1024 * 1024
"""Bytes of one row at the most: no larger event crosses an edge."""
KEPT: Final = 64 * 1024
"""Bytes of a bad row that go into its dead letter; its place says where the rest is."""
BOM: Final = b"\xef\xbb\xbf"
PACKED: Final = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\0": "xz"}
"""How files begin that are no text yet."""
UTF_16: Final = (b"\xff\xfe", b"\xfe\xff")
APART: Final = 2 * 1024 * 1024
"""Bytes between two places at least."""
WINDOW: Final = 64 * 1024
"""Bytes before a place by which it is known again."""


class FileSource(OfFile, Source):
    """A source of the rows of a file."""


def file_source(name: str, kind: type[Any], read: Callable[..., Iterator[Any]], **bound: Any) -> Source:
    """Describe `read`, a generator function that takes a path, as a source of `kind`."""
    read.__name__ = name
    read.__annotations__["return"] = Iterator[At[FilePlace, kind]]  # type: ignore[valid-type]
    return FileSource(**vars(source(read)))(**bound)


class FilePlace(msgspec.Struct, frozen=True, array_like=True):
    """Where a source of rows stands in its file."""

    byte: int
    """The next row begins here."""
    number: int
    """Its line, or its index."""
    size: int
    """Bytes the file had."""
    digest: bytes
    """Hash of the 64 KiB before `byte`."""


class Overlong(NamedTuple):
    """A line of more than `LARGEST` bytes, of which only the beginning was kept."""

    head: bytes
    size: int


class Input:
    """One open file. `progress` learns its size and how many of its bytes were read.

    Opening raises `NotFound`, `PermissionDenied` or `IoFailed`, reading `IoFailed`, and `ValidationFailed` where a file
    is no text, each with the path and a remedy.
    """

    def __init__(self, path: Path | str, progress: Progress) -> None:
        self.path = Path(path)
        self._progress = progress
        try:
            self._file = self.path.open("rb", buffering=0)
            status = os.fstat(self._file.fileno())
        except (OSError, ValueError) as error:
            raise refusal(self.path, "read", error) from error
        self._size = status.st_size if stat.S_ISREG(status.st_mode) else None
        progress.total, progress.done = self._size, 0
        self.begun = 0
        """Bytes of the file that are in no block: a byte order mark, or all before the place it went on from."""
        self._marked = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def blocks(self, *, utf_8: bool = True) -> Iterator[bytes]:
        """The bytes of the file, without a UTF-8 byte order mark, in blocks of at most `BLOCK`."""
        first = self._progress.done == 0
        while block := self._read():
            if first:
                first = False
                self._check_begin(block, utf_8=utf_8)
                if block.startswith(BOM):
                    self.begun, block = len(BOM), block[len(BOM) :]
            yield block
        if self._size is not None and self._progress.done < self._size:
            raise IoFailed(
                f"{self.path} shrank while it was read: {self._progress.done} of {self._size} bytes were there",
                remedy="Let nothing write to the file during the run, then run again.",
                path=str(self.path),
            )

    def _check_begin(self, block: bytes, *, utf_8: bool) -> None:
        how = next((name for magic, name in PACKED.items() if block.startswith(magic)), None)
        if how is not None:
            message, remedy = f"{self.path} is packed with {how}, expected text", "Unpack it, and give the path of what comes out."
        elif utf_8 and block.startswith(UTF_16):
            message, remedy = f"{self.path} is in UTF-16, expected UTF-8", "Convert it; csv_source can read it with encoding='utf-16'."
        else:
            return
        raise ValidationFailed(message, code="invalid_format", remedy=remedy, path=str(self.path))

    @property
    def done(self) -> int:
        """Bytes read, from the beginning of the file."""
        return self._progress.done

    @property
    def due(self) -> bool:
        """Whether it is time to make a place; never for what cannot be read twice, such as a pipe."""
        return self._size is not None and self._progress.done - self._marked >= APART

    def mark(self, items: list[Any], byte: int, number: int, salt: bytes = b"") -> None:
        """Say of the last of `items` that row `number` follows it at `byte`. `salt` is what else must be the same in a resumed run."""
        self._marked = byte
        items[-1] = At(FilePlace(byte, number, self._size or 0, self._digest(byte, salt)), items[-1])

    def go_on(self, place: FilePlace, salt: bytes = b"") -> None:
        """Let the next block begin at a place. Raises `ConfigInvalid` (`source_changed`) when the file before it is another one."""
        if self._size is None or self._size < place.byte:
            now = "no file of bytes any more" if self._size is None else f"{self._size} bytes"
            raise self._changed(f"{self.path} shrank from {place.size} bytes to {now}, and {place.byte} of them were read", place)
        if self._digest(place.byte, salt) != place.digest:
            raise self._changed(f"{self.path} was changed before byte {place.byte}, up to where it was read", place)
        self._file.seek(place.byte)
        self._progress.done = self.begun = self._marked = place.byte

    def _changed(self, message: str, place: FilePlace) -> ConfigInvalid:
        return ConfigInvalid(
            message,
            code="source_changed",
            remedy="Put the file back as it was and resume, or start a new run.",
            path=str(self.path),
            byte=place.byte,
        )

    def _digest(self, byte: int, salt: bytes) -> bytes:
        start = max(0, byte - WINDOW)
        try:
            window = os.pread(self._file.fileno(), byte - start, start)
        except OSError as error:
            raise self._unreadable(start, error) from error
        return hashlib.blake2b(window, digest_size=16, key=hashlib.blake2b(salt).digest()[:16]).digest()

    def _unreadable(self, byte: int, error: OSError) -> IoFailed:
        return IoFailed(
            f"cannot read {self.path} at byte {byte}: {error.strerror or error}",
            remedy="Check the disk or the network it is on, then run again.",
            path=str(self.path),
            byte=byte,
        )

    def _read(self) -> bytes:
        try:
            block = self._file.read(BLOCK)
        except OSError as error:
            raise self._unreadable(self._progress.done, error) from error
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
