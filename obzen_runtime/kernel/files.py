"""Files behind a seam: everything the journal asks of a disk, so that tests can give it a disk that fails.

Only what durability needs is here: appending several buffers in one call, making data and directory entries
durable, locking, renaming. Reading user data goes through ordinary `open`.
"""

import fcntl
import mmap
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

__all__ = ["AppendFile", "Files", "Lock", "SharedBytes", "SystemFiles"]


_MOST_BUFFERS = 1024  # IOV_MAX of Linux and macOS: more in one call is refused
_LOCK_TRIES = 4  # somebody who only asks `locked` holds the file for some microseconds
_LOCK_PAUSE = 0.002
_CLOSED = -1  # a number no open file has: a late write fails instead of reaching another's file


class AppendFile(Protocol):
    """A file open for appending."""

    def write(self, buffers: Sequence[bytes | bytearray | memoryview]) -> int:
        """Append all buffers, retrying short writes; return the bytes written. OSError leaves an unknown tail."""
        ...

    def sync(self) -> None:
        """Return when all data written so far is durable. After an OSError the file must not be trusted again."""
        ...

    def truncate(self, size: int) -> None: ...

    def close(self) -> None:
        """Close; again is fine. Later writes raise OSError."""
        ...


class Lock(Protocol):
    """An exclusive lock held until `release` or the death of the process."""

    def release(self) -> None:
        """Let go; again is fine."""
        ...


class SharedBytes(Protocol):
    """The bytes of a small file as memory: a store is seen at once by every process, and survives the death of this one."""

    @property
    def view(self) -> memoryview:
        """The file's bytes, writable."""
        ...

    def sync(self) -> None:
        """Return when what was stored so far is durable."""
        ...

    def close(self) -> None:
        """Let go; again is fine. The view must not be used after it."""
        ...


class Files(Protocol):
    """A disk."""

    def open_append(self, path: Path, *, create: bool = False) -> AppendFile:
        """Open for appending; with `create` the file must not exist yet (mode 0600)."""
        ...

    def read(self, path: Path, start: int = 0, size: int = -1) -> bytes:
        """`size` bytes from `start`, fewer at the end of the file, all of them with -1."""
        ...

    def size(self, path: Path) -> int: ...

    def exists(self, path: Path) -> bool: ...

    def names(self, directory: Path) -> list[str]:
        """Names in a directory, sorted."""
        ...

    def make_directory(self, path: Path) -> None:
        """Create with parents, mode 0700; existing is fine."""
        ...

    def replace(self, path: Path, content: bytes) -> None:
        """Write a whole file atomically and durably: temporary file, sync, rename, sync of the directory."""
        ...

    def remove(self, path: Path) -> None: ...

    def link(self, path: Path, target: Path) -> None:
        """Give a file a second name, not durable before `sync_directory`. OSError where the disk cannot, or the name is taken."""
        ...

    def sync_directory(self, path: Path) -> None: ...

    def share(self, path: Path) -> SharedBytes:
        """Map an existing file that is not empty and keeps its size."""
        ...

    def lock(self, path: Path) -> Lock | None:
        """Take the exclusive lock and write our process id into the file, or None when another holder lives."""
        ...

    def locked(self, path: Path) -> bool:
        """Whether somebody holds the lock now. False when the file is not there."""
        ...

    def boot_id(self) -> bytes:
        """16 bytes that change with each start of the machine: equal means the page cache survived."""
        ...


class _AppendFile:
    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, buffers: Sequence[bytes | bytearray | memoryview]) -> int:
        if len(buffers) > _MOST_BUFFERS:
            buffers = [b"".join(buffers)]
        if len(buffers) == 1:
            total = len(buffers[0])
            done = os.write(self._fd, buffers[0])
        else:
            total = sum(map(len, buffers))
            done = os.writev(self._fd, buffers)
        if done != total:
            rest = memoryview(b"".join(buffers))
            while done < total:
                done += os.write(self._fd, rest[done:])
        return total

    def sync(self) -> None:
        _sync(self._fd)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def close(self) -> None:
        fd, self._fd = self._fd, _CLOSED
        if fd != _CLOSED:
            os.close(fd)


class _Lock:
    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def release(self) -> None:
        fd, self._fd = self._fd, _CLOSED
        if fd != _CLOSED:
            fcntl.flock(fd, fcntl.LOCK_UN)  # closing is not enough when a forked child holds a copy
            os.close(fd)


class _SharedBytes:
    __slots__ = ("_fd", "_map", "_view")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._map = mmap.mmap(fd, 0)
        self._view = memoryview(self._map)

    @property
    def view(self) -> memoryview:
        return self._view

    def sync(self) -> None:
        self._map.flush()
        _sync(self._fd)

    def close(self) -> None:
        fd, self._fd = self._fd, _CLOSED
        if fd != _CLOSED:
            self._view.release()
            self._map.close()
            os.close(fd)


class SystemFiles:
    """The machine's disk."""

    def open_append(self, path: Path, *, create: bool = False) -> AppendFile:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if create else 0)
        return _AppendFile(os.open(path, flags, 0o600))

    def read(self, path: Path, start: int = 0, size: int = -1) -> bytes:
        with path.open("rb", buffering=0) as file:
            if size < 0:
                size = max(0, os.fstat(file.fileno()).st_size - start)
            parts = []
            while size > 0 and (part := os.pread(file.fileno(), size, start)):
                parts.append(part)
                start += len(part)
                size -= len(part)
            return parts[0] if len(parts) == 1 else b"".join(parts)

    def size(self, path: Path) -> int:
        return path.stat().st_size

    def exists(self, path: Path) -> bool:
        return path.exists()

    def names(self, directory: Path) -> list[str]:
        return sorted(os.listdir(directory))  # noqa: PTH208 - names are asked for, not paths

    def make_directory(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def replace(self, path: Path, content: bytes) -> None:
        temporary = path.with_name(f".{path.name}.new")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            try:
                view = memoryview(content)
                while view:
                    view = view[os.write(fd, view) :]
                _sync(fd)
            finally:
                os.close(fd)
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):  # a full disk keeps no room for what was not finished
                temporary.unlink()
            raise
        self.sync_directory(path.parent)

    def remove(self, path: Path) -> None:
        path.unlink()

    def link(self, path: Path, target: Path) -> None:
        target.hardlink_to(path)

    def sync_directory(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def share(self, path: Path) -> SharedBytes:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            return _SharedBytes(fd)
        except BaseException:
            os.close(fd)
            raise

    def lock(self, path: Path) -> Lock | None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not _flock(fd, fcntl.LOCK_EX):
                os.close(fd)
                return None
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        except BaseException:
            os.close(fd)
            raise
        return _Lock(fd)

    def locked(self, path: Path) -> bool:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def boot_id(self) -> bytes:
        try:
            text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        except OSError:  # not Linux: never equal, so that recovery assumes a reboot
            return os.urandom(16)
        return bytes.fromhex(text.strip().replace("-", ""))


def _flock(fd: int, kind: int) -> bool:
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_PAUSE)
        else:
            return True
    return False


def _sync(fd: int) -> None:
    if hasattr(fcntl, "F_FULLFSYNC"):  # macOS: fsync does not reach the platter
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    elif hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:
        os.fsync(fd)
