"""Files that a flow writes: bytes are collected while events come in and go into the file before each receipt.

The file is made, or emptied, when the flow starts. What a receipt names has been given to the operating system, so
it outlives the process; it is forced to the disk when the sink closes.
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from obzen_runtime.connect.reading import refusal
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
    """What the file ends with, however the sink ends."""


def file_sink(name: str, kind: type[Any], path: Path | str, form: Form) -> Sink:
    """Describe a file in this form as a sink of `kind` whose parameter is `path`."""

    class Writer(FileWriter):
        def __init__(self, *, path: Path) -> None:
            super().__init__(path, form)

        def write(self, batch: list[Any]) -> None:
            self.add(batch)

    Writer.__name__ = name
    Writer.write.__annotations__["batch"] = list[kind]  # type: ignore[valid-type]
    described: Sink = sink(batch=_BATCH)(Writer)
    return described(path=Path(path))


class FileWriter:
    """An open file in a form. A write that fails leaves no torn row and is told once; nothing is written after it."""

    path: Path

    def __init__(self, path: Path | str, form: Form) -> None:
        self.path = Path(path)
        self._form = form
        self._pending: list[bytes] = []
        self._parted = False
        """Something was written behind the head."""
        self._size = 0
        try:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise refusal(self.path, "write", error) from error
        self._open = True
        self._put(form.head)

    def add(self, events: list[Any]) -> None:
        """Take events; raises what the form's encoder raises, and then none of them is taken."""
        self._pending.append(self._form.encode(events))

    def flush(self) -> None:
        """Give what was added to the operating system. Raises `IoFailed`."""
        if not (self._pending and self._open):
            return
        data = self._form.between.join(self._pending)
        self._pending.clear()
        self._put(self._form.between + data if self._parted else data)
        self._parted = True

    def restart(self) -> None:
        """The stage starts again from its last receipt: what was added since is given again."""
        self._pending.clear()

    def close(self) -> None:
        """Write the end of the file and close it; again is nothing."""
        if not self._open:
            return
        try:
            self._put(self._form.tail)
            if stat.S_ISREG(os.fstat(self._fd).st_mode):
                os.fsync(self._fd)
        except OSError as error:
            raise self._failed(error) from error
        finally:
            if self._open:
                self._open = False
                os.close(self._fd)

    def _put(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError as error:
            self._take_back()
            self._open = False
            os.close(self._fd)
            raise self._failed(error) from error
        self._size += len(data)

    def _take_back(self) -> None:
        """Cut off what a failed write left."""
        if stat.S_ISREG(os.fstat(self._fd).st_mode):
            os.ftruncate(self._fd, self._size)

    def _failed(self, error: OSError) -> IoFailed:
        return IoFailed(
            f"cannot write {self.path} behind byte {self._size}: {error.strerror or error}",
            remedy="Make room or repair the disk, then run again; what was written before is whole.",
            path=str(self.path),
            byte=self._size,
        )
