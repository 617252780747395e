"""A disk in memory that fails, tears and forgets on demand, behind the same seam as the real one.

It keeps apart what the operating system shows and what would survive a power cut: data per sector of 512 bytes, sizes
and directory entries. `killed` gives the disk as the next process finds it after `kill -9`; `power_cut` as the next
start of the machine finds it, with any choice of the unsynced pieces. Faults are given by operation and number.
"""

import asyncio
import errno
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from obzen_runtime.kernel import AppendFile, Lock, SharedBytes

__all__ = ["Crashed", "Faults", "InlineThreads", "Operation", "SimulatedDisk", "Unsynced"]

R = TypeVar("R")
SECTOR = 512
Operation = Literal["create", "open", "write", "sync", "truncate", "replace", "remove", "link", "sync_directory", "share", "lock", "read"]


class Crashed(BaseException):
    """The simulated process died here. No handler of errors may stop it."""


class Unsynced(NamedTuple):
    """A piece that a power cut may keep or lose, independently of every other."""

    kind: Literal["sector", "size", "entry"]
    path: Path
    number: int = 0
    """Of the sector, from 0."""


class _Node:
    __slots__ = ("live", "synced")

    def __init__(self, live: bytes | bytearray = b"", synced: bytes = b"") -> None:
        self.live = bytearray(live)
        self.synced = synced


class InlineThreads:
    """Runs work at once, on the caller's thread: syncs are done when they are asked for."""

    def run(self, name: str, work: Callable[[], R]) -> "asyncio.Future[R]":
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - handed to whoever awaits the future, a simulated death too
            future.set_exception(error)
        return future


class Faults:
    """What goes wrong on a disk, and a record of what was asked of it."""

    def __init__(self) -> None:
        self.calls: list[tuple[Operation, Path]] = []
        """Every operation asked for, in order; the one that failed too."""
        self.budget: int | None = None
        """Bytes that may still be appended before the process dies; None: no limit."""
        self.chunk: int | None = None
        """The most bytes that one write takes, so that an append becomes several writes; None: no limit."""
        self.die_at: int | None = None
        """Number of the operation (from 1, over all kinds) instead of which the process dies; None: it lives."""
        self.torn = 0.0
        """How much of its data (0 … 1) still goes through when that operation is a write."""
        self.fail_at: tuple[int, int] | None = None
        """Number of an operation (as `die_at`) that fails once, and with which errno."""
        self.failed = False
        """Whether `fail_at` was reached."""
        self._plans: list[tuple[Operation, int, int, bool]] = []
        self._counts: dict[Operation, int] = {}
        self._dead = False

    def plan(self, operation: Operation, number: int, code: int = errno.EIO, *, forever: bool = False) -> None:
        """Let the `number`-th (from 1) such operation fail; with `forever` all later ones too."""
        self._plans.append((operation, number, code, forever))

    @property
    def dead(self) -> bool:
        """Whether the process died: nothing it asks for happens any more."""
        return self._dead

    def die(self) -> None:
        """The process dies now. Raises `Crashed`."""
        self._dead = True
        raise Crashed

    def count(self, operation: Operation) -> int:
        """How many such operations there were."""
        return self._counts.get(operation, 0)

    def step(self, operation: Operation, path: Path) -> None:
        """An operation is asked for: raises OSError when it is planned to fail, `Crashed` when the process is dead."""
        if self._dead or (self.die_at is not None and len(self.calls) + 1 >= self.die_at):
            self._dead = True
            raise Crashed
        self.calls.append((operation, path))
        number = self._counts[operation] = self._counts.get(operation, 0) + 1
        if self.fail_at is not None and len(self.calls) == self.fail_at[0]:
            self.failed = True
            raise OSError(self.fail_at[1], os.strerror(self.fail_at[1]), str(path))
        for failing, when, code, forever in self._plans:
            if failing == operation and (number == when or (forever and number > when)):
                raise OSError(code, os.strerror(code), str(path))

    def last_words(self, data: bytes) -> bytes:
        """What of a write goes through in whose middle the process dies."""
        if self._dead:
            return b""
        return data[: round(len(data) * self.torn)] if self.die_at == len(self.calls) + 1 else b""

    def spend(self, data: bytes) -> bytes:
        """What of the data still goes through; the process is dead when it is not all of it."""
        if self.budget is None:
            return data
        allowed = data[: self.budget]
        self.budget -= len(allowed)
        self._dead = len(allowed) < len(data)
        return allowed


class SimulatedDisk:
    """A disk, and the kernel's memory before it."""

    def __init__(self) -> None:
        self.boot = 1
        """Number of the machine's start."""
        self.faults = Faults()
        self._nodes: dict[Path, _Node] = {}
        self._entries: dict[Path, _Node] = {}
        self._directories: set[Path] = {Path("/")}
        self._locks: dict[Path, object] = {}

    def killed(self) -> "SimulatedDisk":
        """The disk after the death of every process: what was written is there, locks are not."""
        other = SimulatedDisk()
        other.boot = self.boot
        other._directories = set(self._directories)
        copies = {id(node): _Node(node.live, node.synced) for node in (*self._nodes.values(), *self._entries.values())}
        other._nodes = {path: copies[id(node)] for path, node in self._nodes.items()}
        other._entries = {path: copies[id(node)] for path, node in self._entries.items()}
        return other

    def unsynced(self) -> list[Unsynced]:
        """What a power cut may keep or lose."""
        pieces = []
        for path in sorted({*self._nodes, *self._entries}):
            node = self._nodes.get(path)
            if node is not self._entries.get(path):
                pieces.append(Unsynced("entry", path))
            if node is not None:
                pieces += self._sectors(path, node)
        return pieces

    def power_cut(self, kept: Collection[Unsynced] = ()) -> "SimulatedDisk":
        """The disk at the next start of the machine, of the unsynced pieces only these kept."""
        other = SimulatedDisk()
        other.boot = self.boot + 1
        other._directories = set(self._directories)
        for path in {*self._nodes, *self._entries}:
            node = (self._nodes if Unsynced("entry", path) in kept else self._entries).get(path)
            if node is None:
                continue
            content = bytearray(node.synced)
            if Unsynced("size", path) in kept:
                content = content[: len(node.live)].ljust(len(node.live), b"\0")
            for piece in self._sectors(path, node):
                if piece.kind == "sector" and piece in kept:
                    start = piece.number * SECTOR
                    sector = node.live[start : start + SECTOR]
                    content = content.ljust(start + len(sector), b"\0")
                    content[start : start + len(sector)] = sector
            other._nodes[path] = other._entries[path] = _Node(content, bytes(content))
        return other

    def content(self, path: Path) -> bytes:
        """What a process sees in a file."""
        return bytes(self._nodes[path].live)

    def put(self, path: Path, content: bytes | None) -> None:
        """Change a file behind everybody's back, durably; None removes it, and a lock on it with it."""
        if content is None:
            del self._nodes[path]
            self._locks.pop(path, None)
            self._entries.pop(path, None)
        else:
            self._nodes[path] = self._entries[path] = _Node(content, content)

    @property
    def paths(self) -> list[Path]:
        """All files, sorted."""
        return sorted(self._nodes)

    # --- the seam ---------------------------------------------------------------------------------------------

    def open_append(self, path: Path, *, create: bool = False) -> AppendFile:
        self.faults.step("create" if create else "open", path)
        if create:
            if path in self._nodes:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
            self._in_directory(path)
            self._nodes[path] = _Node()
        return _Append(self.faults, path, self._node(path))

    def read(self, path: Path, start: int = 0, size: int = -1) -> bytes:
        self.faults.step("read", path)
        live = self._node(path).live
        return bytes(live[start:] if size < 0 else live[start : start + size])

    def size(self, path: Path) -> int:
        return len(self._node(path).live)

    def exists(self, path: Path) -> bool:
        return path in self._nodes or path in self._directories

    def names(self, directory: Path) -> list[str]:
        if directory not in self._directories:
            raise _missing(directory)
        return sorted(path.name for path in (*self._nodes, *self._directories) if path.parent == directory and path != directory)

    def make_directory(self, path: Path) -> None:
        self._directories.update((path, *path.parents))

    def replace(self, path: Path, content: bytes) -> None:
        self.faults.step("replace", path)
        self._in_directory(path)
        self._nodes[path] = self._entries[path] = _Node(content, content)

    def remove(self, path: Path) -> None:
        self.faults.step("remove", path)
        self._node(path)
        del self._nodes[path]

    def link(self, path: Path, target: Path) -> None:
        self.faults.step("link", target)
        if target in self._nodes:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        self._in_directory(target)
        self._nodes[target] = self._node(path)

    def sync_directory(self, path: Path) -> None:
        self.faults.step("sync_directory", path)
        if path not in self._directories:
            raise _missing(path)
        for entry in {*self._nodes, *self._entries}:
            if entry.parent == path:
                if entry in self._nodes:
                    self._entries[entry] = self._nodes[entry]
                else:
                    del self._entries[entry]

    def share(self, path: Path) -> SharedBytes:
        self.faults.step("share", path)
        return _Shared(self.faults, path, self._node(path))

    def lock(self, path: Path) -> Lock | None:
        self.faults.step("lock", path)
        self._in_directory(path)
        if path in self._locks:
            return None
        if path not in self._nodes:
            self._nodes[path] = _Node()
        self._nodes[path].live[:] = b"%d\n" % os.getpid()
        held = _Lock(self._locks, path)
        self._locks[path] = held
        return held

    def locked(self, path: Path) -> bool:
        return path in self._locks

    def boot_id(self) -> bytes:
        return self.boot.to_bytes(16, "little")

    # --- inside -----------------------------------------------------------------------------------------------

    def _sectors(self, path: Path, node: _Node) -> list[Unsynced]:
        live, synced = node.live, node.synced
        pieces = [Unsynced("size", path)] if len(live) != len(synced) else []
        for index in range(-(-len(live) // SECTOR)):
            start = index * SECTOR
            if live[start : start + SECTOR] != synced[start : start + SECTOR]:
                pieces.append(Unsynced("sector", path, index))
        return pieces

    def _node(self, path: Path) -> _Node:
        try:
            return self._nodes[path]
        except KeyError:
            raise _missing(path) from None

    def _in_directory(self, path: Path) -> None:
        if path.parent not in self._directories:
            raise _missing(path)


class _Append:
    def __init__(self, faults: Faults, path: Path, node: _Node) -> None:
        self._faults = faults
        self._path = path
        self._file: _Node | None = node

    def write(self, buffers: Sequence[bytes | bytearray | memoryview]) -> int:
        data = b"".join(buffers)
        size = self._faults.chunk or len(data)
        for start in range(0, len(data), size):
            self._node.live += self._faults.last_words(data[start : start + size])
            self._faults.step("write", self._path)
            piece = data[start : start + size]
            allowed = self._faults.spend(piece)
            self._node.live += allowed
            if len(allowed) < len(piece):
                raise Crashed
        return len(data)

    def sync(self) -> None:
        self._faults.step("sync", self._path)
        self._node.synced = bytes(self._node.live)

    def truncate(self, size: int) -> None:
        self._faults.step("truncate", self._path)
        del self._node.live[size:]

    def close(self) -> None:
        self._file = None

    @property
    def _node(self) -> _Node:
        if self._file is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), str(self._path))
        return self._file


class _Shared:
    def __init__(self, faults: Faults, path: Path, node: _Node) -> None:
        self._faults = faults
        self._path = path
        self._node = node
        self._view = memoryview(node.live)

    @property
    def view(self) -> memoryview:
        return self._view

    def sync(self) -> None:
        self._faults.step("sync", self._path)
        self._node.synced = bytes(self._node.live)

    def close(self) -> None:
        self._view.release()


class _Lock:
    def __init__(self, locks: dict[Path, object], path: Path) -> None:
        self._locks = locks
        self._path = path

    def release(self) -> None:
        if self._locks.get(self._path) is self:
            del self._locks[self._path]


def _missing(path: Path) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
