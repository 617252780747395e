"""Files that a flow writes: bytes are collected while events come in and go into the file before each receipt.

Each receipt names the size the file has then. A run that goes on cuts the file back to the size of its last receipt,
so that what a dead process wrote behind it, torn or whole, and the end of a stopped one are gone, and writes on. What a
receipt names has been given to the operating system, so it outlives the process; at level `fsync` it is on the disk
before its receipt is written, else when the sink closes.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from obzen_runtime.connect.paths import OfFile, refusal
from obzen_runtime.kernel import IoFailed
from obzen_runtime.stages import Sink, sink

__all__ = ["FileWriter", "Form", "file_sink"]

_BATCH = 256


class Form(NamedTuple):
    """How events become bytes of a file."""

    encode: Callable[[list[Any]], bytes]
    """Bytes of some events."""
    head: bytes = b""
    """What the file begins with."""
    between: bytes = b""
    """What parts one call's bytes from the next one's."""
    tail: bytes = b""
    """What the file ends with, however the sink ends; no receipt counts it."""


def file_sink(name: str, kind: type[Any], path: Path | str, form: Form) -> Sink:
    """Describe a file in this form as a sink of `kind` whose parameter is `path`."""

    class Writer(FileWriter):
        def __init__(self, *, path: Path) -> None:
            super().__init__(path, form)

        def write(self, batch: list[Any]) -> None:
            self.add(batch)

    Writer.__name__ = name
    Writer.write.__annotations__["batch"] = list[kind]  # type: ignore[valid-type]
    return FileSink(**vars(sink(batch=_BATCH)(Writer)))(path=Path(path))


class FileSink(OfFile, Sink):
    """A sink that has the file it writes to itself."""


class FileWriter:
    """A file in a form, opened by `resume`. A write that fails leaves no torn row and is told once; nothing is written after it."""

    path: Path

    def __init__(self, path: Path | str, form: Form) -> None:
        self.path = Path(path)
        self._form = form
        self._pending: list[bytes] = []
        self._size = 0
        self._fd = -1
        self._plain = True
        """A regular file, which has a size and can be cut."""
        self._new = True
        """Its name in the directory is not on the disk yet."""

    def resume(self, position: int | None) -> None:
        """Open the file: made or emptied where `position` is None, else cut back to so many bytes.

        Raises `IoFailed` when another process writes it, or (`sink_changed`) when it is not there or is shorter than that.
        """
        flags = os.O_WRONLY | os.O_CLOEXEC | (os.O_CREAT if position is None else 0)
        try:
            self._fd = os.open(self.path, flags, 0o666)
            self._cut(position or 0)
        except FileNotFoundError as error:
            if position is None:
                raise refusal(self.path, "write", error) from error
            raise self._changed(position, "it is gone") from error
        except (OSError, ValueError) as error:
            self._shut()
            raise refusal(self.path, "write", error) from error
        except IoFailed:
            self._shut()  # what is refused is left alone: closing writes no end into it
            raise
        if position is None:
            self._put(self._form.head)

    def _cut(self, position: int) -> None:
        status = os.fstat(self._fd)
        self._plain = stat.S_ISREG(status.st_mode)
        if self._plain:
            self._lock()
            if status.st_size < position:
                raise self._changed(position, f"it has {status.st_size} bytes")
            os.ftruncate(self._fd, position)
            os.lseek(self._fd, position, os.SEEK_SET)
        self._size = position

    def _lock(self) -> None:
        """Keep other processes off the file until it is closed, where its file system can."""
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise IoFailed(
                    f"cannot write {self.path}: another process is writing it",
                    remedy="Wait until that one has ended, or give another path.",
                    path=str(self.path),
                ) from error

    def add(self, events: list[Any]) -> None:
        """Take events; raises what the form's encoder raises, and then none of them is taken."""
        self._pending.append(self._form.encode(events))

    def flush(self) -> None:
        """Give what was added to the operating system. Raises `IoFailed`."""
        if not (self._pending and self._fd >= 0):
            return
        data = self._form.between.join(self._pending)
        self._pending.clear()
        self._put(self._form.between + data if self._size > len(self._form.head) else data)

    def sync(self) -> None:
        """Return when what was flushed survives a power cut. Raises `IoFailed`."""
        try:
            self._sync()
        except OSError as error:
            raise self._failed(error) from error

    def position(self) -> int:
        """Bytes given to the operating system."""
        return self._size

    def close(self) -> None:
        """Write the end of the file and close it; again is nothing."""
        if self._fd < 0:
            return
        try:
            size = self._size
            self._put(self._form.tail)
            self._size = size
            self._sync()
        except OSError as error:
            raise self._failed(error) from error
        finally:
            self._shut()

    def _sync(self) -> None:
        if not (self._plain and self._fd >= 0):
            return
        os.fsync(self._fd)
        if self._new:
            directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
            self._new = False

    def _put(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError as error:
            if self._plain:
                os.ftruncate(self._fd, self._size)
            self._shut()
            raise self._failed(error) from error
        self._size += len(data)

    def _shut(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _changed(self, position: int, found: str) -> IoFailed:
        return IoFailed(
            f"cannot go on writing {self.path}: this run wrote {position} bytes of it, and {found}",
            code="sink_changed",
            remedy="Put the file back as the run left it and resume, or start a new run, which writes the file anew.",
            path=str(self.path),
            byte=position,
        )

    def _failed(self, error: OSError) -> IoFailed:
        return IoFailed(
            f"cannot write {self.path} behind byte {self._size}: {error.strerror or error}",
            remedy="Make room or repair the disk, then run again; what was written before is whole.",
            path=str(self.path),
            byte=self._size,
        )
