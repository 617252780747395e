"""Orders to a run that lives in another process: a FIFO in its directory, one line of JSON an order.

The process that runs the flow holds the FIFO open while it lives and reads it in its loop; whoever may write into the
run's directory may give orders, nobody else. An order that nobody reads does not wait: the system forgets what a FIFO
holds with the last process that has it open, so a run that was killed leaves nothing behind that could stop the next.
Like the signals of the process, this is the composition root's own door to the outside.
"""

import asyncio
import contextlib
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from obzen_runtime.flow import Cancel, Drain, StopFlow
from obzen_runtime.kernel import logger

__all__ = ["ORDERS", "Listener", "Order", "OrderKind", "command_of", "send"]

ORDERS = "ORDERS"
"""The FIFO's name in the run's directory."""

OrderKind = Literal["stop", "drain", "cancel"]
_MOST = 4096
"""Bytes of an order at the most: what a FIFO takes whole or not at all."""
_ABSENT = (errno.ENXIO, errno.ENOENT)


class Order(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What is wanted of a run."""

    order: OrderKind
    """`stop` suspends, `drain` finishes, `cancel` ends now."""
    within: float = 30.0
    """Seconds a stop may take before it cancels."""

    def __post_init__(self) -> None:
        if not 0 <= self.within < float("inf"):
            raise ValueError(f"within={self.within} is not a number of seconds")


def command_of(order: Order) -> StopFlow | Drain | Cancel:
    """What an order says to the flow's supervisor."""
    match order.order:
        case "stop":
            return StopFlow("user_stop", order.within)
        case "drain":
            return Drain()
        case "cancel":
            return Cancel("user_cancel")


class Listener:
    """The run's side: from `open` to `close` every order is given to `obey`, in the loop's thread.

    Open it while the run's lock is held and close it before the lock is let go: the FIFO is then this process's alone.
    A directory that can hold no FIFO, or a loop that cannot wait for one, is logged and costs the run nothing else.
    """

    def __init__(self, directory: Path, obey: Callable[[Order], object]) -> None:
        self._path = directory / ORDERS
        self._obey = obey
        self._fd: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rest = b""
        self._log = logger(run=directory.name)

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to listen. Never raises."""
        try:
            self._fd = _open(self._path)
            loop.add_reader(self._fd, self._readable)
            self._loop = loop
        except (OSError, NotImplementedError) as error:
            self._log.warning("takes no orders", file=str(self._path), error=str(error) or type(error).__name__)
            self.close()

    def close(self) -> None:
        """Listen no more, and take the FIFO away. Again is fine."""
        fd, self._fd = self._fd, None
        if fd is None:
            return
        loop, self._loop = self._loop, None
        if loop is not None and not loop.is_closed():
            loop.remove_reader(fd)
        with contextlib.suppress(OSError):  # a directory that was taken away, or is read only by now
            self._path.unlink()
        os.close(fd)

    def _readable(self) -> None:
        assert self._fd is not None
        with contextlib.suppress(BlockingIOError):
            *lines, self._rest = (self._rest + os.read(self._fd, _MOST)).split(b"\n")
            if len(self._rest) > _MOST:
                self._rest = b""
            for line in lines:
                self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            order = msgspec.json.decode(line, type=Order)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._log.warning("an order cannot be read", error=str(error))
            return
        self._log.info("ordered", order=order.order)
        self._obey(order)


def _open(path: Path) -> int:
    """The FIFO, made where there is none. One that an earlier process left is as good as a new one: it is empty."""
    with contextlib.suppress(FileExistsError):
        os.mkfifo(path, 0o600)
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)  # for writing too: it never comes to its end
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EEXIST, "a file of that name is no FIFO", str(path))
    return fd


def send(directory: Path, order: Order) -> bool:
    """Give an order to the process that runs in this directory; False when none listens. Raises OSError."""
    try:
        fd = os.open(directory / ORDERS, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in _ABSENT:
            return False
        raise
    try:
        if not stat.S_ISFIFO(os.fstat(fd).st_mode):
            return False
        os.write(fd, msgspec.json.encode(order) + b"\n")
    finally:
        os.close(fd)
    return True
