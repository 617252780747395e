"""Several events in work at once, in order at the exit: long-lived workers draw events, the stage commits the prefix that is done."""

import asyncio
import queue
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from obzen_runtime.kernel import Threads as ThreadSeam
from obzen_runtime.kernel import Wake
from obzen_runtime.stages.call import ours

__all__ = ["Lanes", "Slot", "TaskLanes", "ThreadLanes"]


class Slot:
    """One event in work."""

    __slots__ = ("at", "done", "error", "failures", "first_failed", "item", "ordinal", "result", "upstream")

    def __init__(self, item: Any, upstream: str, ordinal: int, at: int) -> None:
        self.item = item
        self.upstream = upstream
        self.ordinal = ordinal
        self.at = at
        """Wall milliseconds of the block that brought it."""
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.failures = 0
        self.first_failed = 0.0


class Lanes(Protocol):
    """Where a stage's events are worked on. `slots` are in input order."""

    slots: deque[Slot]
    failed: deque[Slot]
    """Those whose handler raised since it was last looked at, in the order in which they failed."""

    def submit(self, slots: Sequence[Slot]) -> None: ...

    def again(self, slot: Slot) -> None:
        """Try a slot's event once more."""
        ...

    def close(self) -> None: ...


class TaskLanes:
    """`count` tasks that await `handler(slot)`; no coroutine ever changes task."""

    def __init__(self, handler: Callable[[Slot], Any], count: int, wake: Wake, spawn: Callable[[Any], None]) -> None:
        self.slots: deque[Slot] = deque()
        self.failed: deque[Slot] = deque()
        self._handler = handler
        self._wake = wake
        self._queue: asyncio.Queue[Slot] = asyncio.Queue()
        for _ in range(count):
            spawn(self._work())

    def submit(self, slots: Sequence[Slot]) -> None:
        for slot in slots:
            self.slots.append(slot)
            self._queue.put_nowait(slot)

    def again(self, slot: Slot) -> None:
        slot.error = None
        slot.done = False
        self._queue.put_nowait(slot)

    def close(self) -> None:
        self.slots.clear()

    async def _work(self) -> None:
        handler, wake = self._handler, self._wake
        while True:
            slot = await self._queue.get()
            try:
                slot.result = await handler(slot)
            except BaseException as error:
                if ours(error):
                    raise
                slot.error = error
                self.failed.append(slot)
            slot.done = True
            wake.set()


class ThreadLanes:
    """`count` daemon threads that call a blocking `handler(slot)`."""

    def __init__(self, name: str, handler: Callable[[Slot], Any], count: int, wake: Wake, threads: ThreadSeam) -> None:
        self.slots: deque[Slot] = deque()
        self.failed: deque[Slot] = deque()
        self._handler = handler
        self._wake = wake
        self._count = count
        self._queue: queue.SimpleQueue[Slot | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        for number in range(count):
            threads.run(f"obzen {name} {number}", self._work)

    def submit(self, slots: Sequence[Slot]) -> None:
        for slot in slots:
            self.slots.append(slot)
            self._queue.put(slot)

    def again(self, slot: Slot) -> None:
        slot.error = None
        slot.done = False
        self._queue.put(slot)

    def close(self) -> None:
        self.slots.clear()
        for _ in range(self._count):
            self._queue.put(None)

    def _work(self) -> None:
        while (slot := self._queue.get()) is not None:
            try:
                slot.result = self._handler(slot)
            except BaseException as error:
                slot.error = error
            try:
                self._loop.call_soon_threadsafe(self._finished, slot)
            except RuntimeError:
                return  # the loop has closed

    def _finished(self, slot: Slot) -> None:
        if slot.error is not None:
            self.failed.append(slot)
        slot.done = True
        self._wake.set()
