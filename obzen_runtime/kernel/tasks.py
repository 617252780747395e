"""Waiting and threads behind a seam: a wake-up costs one loop future, and a simulation can run threads inline."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Protocol, TypeVar

from obzen_runtime.kernel.clock import Clock, Entropy, SystemClock, SystemEntropy
from obzen_runtime.kernel.errors import InternalError
from obzen_runtime.kernel.files import Files, SystemFiles
from obzen_runtime.kernel.telemetry import Telemetry

__all__ = ["Seams", "SystemThreads", "Threads", "Wake"]

R = TypeVar("R")


class Wake:
    """What one actor waits on. Many may `set`, one waits; a set before the wait is not lost."""

    __slots__ = ("_flag", "_waiter", "waits")

    def __init__(self) -> None:
        self.waits = 0
        """How often a wait had to wait."""
        self._flag = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Wake the waiter, now or at its next wait. From the loop's thread only."""
        self._flag = True
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def wait(self) -> None:
        """Return once `set` was called since the last return. A second waiter is refused: it would take the first one's wake-up."""
        if not self._flag:
            if self._waiter is not None:
                raise InternalError("two tasks wait on one Wake", remedy="Give each waiter a Wake of its own")
            self.waits += 1
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._flag = False


class Threads(Protocol):
    """How blocking work leaves the loop."""

    def run(self, name: str, work: Callable[[], R]) -> "asyncio.Future[R]":
        """Start `work` on a thread of its own; the future belongs to the running loop.

        The thread is a daemon: a blocked call never keeps the process alive.
        """
        ...


Job = tuple[str, Callable[[], Callable[[], None]]]
"""A name for the thread, and work that gives what tells of its end; that raises RuntimeError when nobody listens any more."""
_IDLE = 10.0  # seconds a thread waits for more work before it ends


class SystemThreads:
    """Real threads. One that is done waits a while for more: starting a thread beside a busy loop stalls the loop."""

    def __init__(self) -> None:
        self._idle: list[SimpleQueue[Job]] = []

    def run(self, name: str, work: Callable[[], R]) -> "asyncio.Future[R]":
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()

        def settle(result: R | None, error: BaseException | None) -> None:
            if future.done():
                return
            if isinstance(error, StopIteration):  # a future refuses it, and its waiter would wait for ever
                future.set_exception(InternalError(f"{name} raised StopIteration").caused_by(error))
            elif error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def body() -> Callable[[], None]:
            result: R | None = None
            failure: BaseException | None = None
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 - handed to whoever awaits the future
                failure = error

            def tell() -> None:
                loop.call_soon_threadsafe(settle, result, failure)

            return tell

        try:
            self._idle.pop().put((name, body))
        except IndexError:
            inbox: SimpleQueue[Job] = SimpleQueue()
            inbox.put((name, body))
            threading.Thread(target=self._serve, args=(inbox,), name=name, daemon=True).start()
        return future

    def _serve(self, inbox: SimpleQueue[Job]) -> None:
        patience = _IDLE
        while True:
            try:
                name, body = inbox.get(timeout=patience)
            except Empty:
                if self._retired(inbox):
                    return
                continue
            threading.current_thread().name = name
            tell = body()
            self._idle.append(inbox)  # before the end is told: who hears of it may bring the next work at once
            try:
                tell()
            except RuntimeError:  # the loop has closed: nobody waits any more
                patience = 0.0
            del body, tell  # an idle thread must not keep what its last work held

    def _retired(self, inbox: SimpleQueue[Job]) -> bool:
        try:
            self._idle.remove(inbox)
        except ValueError:  # taken in this moment: work is on its way
            return False
        return True


@dataclass(frozen=True, slots=True)
class Seams:
    """All that reaches the outside world, in one value handed down from the composition root."""

    clock: Clock = field(default_factory=SystemClock)
    entropy: Entropy = field(default_factory=SystemEntropy)
    files: Files = field(default_factory=SystemFiles)
    threads: Threads = field(default_factory=SystemThreads)
    telemetry: Telemetry = field(default_factory=Telemetry)
