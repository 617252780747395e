"""How a source's items are pulled: on the loop while that is quick, on a thread or in a task of its own when it waits."""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from typing import Any, Protocol

from obzen_runtime.kernel import Clock, Threads, Wake, logger
from obzen_runtime.stages.call import ours
from obzen_runtime.stages.shared import MOST, Pace

__all__ = ["Inline", "Puller", "Tasked", "Threaded"]

_SLOW = 0.001
_SLOW_PULLS = 2
_WAITING = 0.02
_SINGLE = 16
"""A source must give this many items quickly, one by one, before several are pulled at once."""
_AHEAD = 8


class Puller(Protocol):
    """Gives items in order."""

    @property
    def ended(self) -> bool:
        """Nothing will come any more and nothing is left to take."""
        ...

    def take(self, room: int) -> list[Any]:
        """Up to `room` items that are there now. Raises what the source raised, after all items before it."""
        ...

    def close(self) -> None: ...


class Inline:
    """Pulled on the loop's thread: one item at first, then as many as take about 0.2 ms."""

    def __init__(self, name: str, items: Iterator[Any], clock: Clock) -> None:
        self._name = name
        self.items = items
        self.ended = False
        self.waits = False
        """Two pulls took over a millisecond, or one over 20: this source belongs on a thread of its own."""
        self.error: BaseException | None = None
        self._clock = clock
        self._pace = Pace()
        self._slow = 0
        self._single = 0

    def take(self, room: int) -> list[Any]:
        if self.error is not None:
            raise self.error
        taken: list[Any] = []
        most = min(room, MOST)
        monotonic = self._clock.monotonic
        begun = now = monotonic()
        while len(taken) < most and now - begun < _SLOW:
            wanted = min(self._pace.calls, most - len(taken)) if self._single >= _SINGLE else 1
            before = len(taken)
            try:
                taken.extend(islice(self.items, wanted))
            except BaseException as error:
                self.error = error
                if not taken:
                    raise
                return taken
            last, now = now, monotonic()
            got = len(taken) - before
            if got < wanted:
                self.ended = True
                return taken
            self._single += 1
            self._pace.took(got, now - last)
            if now - last > got * _SLOW:
                self._single = 0
                self._slow += 1
                self.waits = self._slow >= _SLOW_PULLS or now - last > _WAITING
                break
        return taken

    def close(self) -> None:
        _close(self._name, self.items)


def _close(name: str, items: object) -> None:
    """Run a generator's `finally`. It may raise: the source is over all the same."""
    close = getattr(items, "close", None)
    if close is None:
        return
    try:
        close()
    except BaseException as error:
        _not_closed(name, error)


def _not_closed(name: str, error: BaseException) -> None:
    logger(actor=name).warning("source did not close", error=f"{type(error).__name__}: {error}")


class _Buffer:
    """Items pulled ahead elsewhere, a few batches at the most."""

    def __init__(self, wake: Wake) -> None:
        self._wake = wake
        self._batches: deque[list[Any]] = deque()
        self._over = False
        self._error: BaseException | None = None
        self.closed = False

    @property
    def ended(self) -> bool:
        return self._over and not self._batches and self._error is None

    def put(self, items: list[Any], over: bool, error: BaseException | None) -> None:
        if self.closed:
            return
        if items:
            self._batches.append(items)
        self._over = self._over or over
        self._error = self._error or error
        self._wake.set()

    def take(self, room: int) -> list[Any]:
        if not self._batches:
            if self._error is not None:
                raise self._error
            return []
        items = self._batches.popleft()
        while self._batches and len(items) + len(self._batches[0]) <= room:
            items.extend(self._batches.popleft())
            self.freed()
        if len(items) > room:
            self._batches.appendleft(items[room:])
            return items[:room]
        self.freed()
        return items

    def freed(self) -> None:
        """A batch was taken: one more may be pulled."""


class Threaded(_Buffer):
    """Pulled on a thread of its own: a source that sleeps holds nobody up, and each item is there before the next is asked for."""

    def __init__(self, name: str, items: Iterator[Any], wake: Wake, threads: Threads, clock: Clock) -> None:
        super().__init__(wake)
        self._name = name
        self._items = items
        self._fresh: deque[Any] = deque()
        """Pulled and not yet gathered; the thread appends, the loop takes away."""
        self._told = False
        self._pulled = 0
        self._taken = 0
        self._room = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        threads.run(f"obzen source {name}", self._pull)

    def take(self, room: int) -> list[Any]:
        items = super().take(room)
        self._taken += len(items)
        self._room.set()
        return items

    def close(self) -> None:
        self.closed = True
        self._room.set()

    def _pull(self) -> None:
        pace, looked, begun = Pace(), 0, self._clock.monotonic()
        error: BaseException | None = None
        try:
            for item in self._items:
                if self.closed:
                    break
                self._fresh.append(item)
                self._pulled += 1
                if not self._told:
                    self._told = True
                    self._loop.call_soon_threadsafe(self._gather)
                if self._pulled - looked >= pace.calls:
                    pace.took(self._pulled - looked, self._clock.monotonic() - begun)
                    self._wait_for_room(_AHEAD * pace.calls)
                    looked, begun = self._pulled, self._clock.monotonic()
                    if self.closed:
                        break
        except BaseException as raised:
            error = raised
        if self.closed:
            _close(self._name, self._items)
            return
        with contextlib.suppress(RuntimeError):  # the loop has closed
            self._loop.call_soon_threadsafe(self._finish, error)

    def _wait_for_room(self, most: int) -> None:
        """Stop the thread while `most` items wait."""
        while self._pulled - self._taken >= most and not self.closed:
            self._room.clear()
            if self._pulled - self._taken >= most and not self.closed:
                self._room.wait()

    def _gather(self) -> None:
        self._told = False  # first: an item that comes meanwhile asks anew
        self.put([self._fresh.popleft() for _ in range(len(self._fresh))], over=False, error=None)

    def _finish(self, error: BaseException | None) -> None:
        self._gather()
        self.put([], over=True, error=error)


class Tasked(_Buffer):
    """An async source, pulled by a task of its own, so that a stop is heard while it waits."""

    def __init__(self, name: str, items: AsyncIterator[Any], wake: Wake, clock: Clock) -> None:
        super().__init__(wake)
        self._name = name
        self._items = items
        self._clock = clock
        self._room = Wake()
        self._ahead = 0

    def freed(self) -> None:
        self._ahead -= 1
        self._room.set()

    def close(self) -> None:
        self.closed = True
        self._ahead = 0
        self._room.set()

    async def pull(self) -> None:
        """The task's body. Items are handed over in batches when the source waits or a millisecond has passed."""
        batch: list[Any] = []
        flush: asyncio.Handle | None = None
        loop = asyncio.get_running_loop()

        def hand_over() -> None:
            nonlocal batch, flush
            flush = None
            if batch:
                self._ahead += 1
                full, batch = batch, []
                self.put(full, over=False, error=None)

        pace = Pace()
        begun = self._clock.monotonic()
        try:
            async for item in self._items:
                if self.closed:
                    break
                batch.append(item)
                if flush is None:
                    flush = loop.call_soon(hand_over)
                if len(batch) >= pace.calls:
                    pace.took(len(batch), self._clock.monotonic() - begun)
                    hand_over()
                    await asyncio.sleep(0)
                    begun = self._clock.monotonic()  # what others did meanwhile is not the source's
                while self._ahead >= _AHEAD:
                    await self._room.wait()
                    begun = self._clock.monotonic()
            hand_over()
            self.put([], over=True, error=None)
        except BaseException as error:
            if ours(error):
                raise
            if self.closed:
                _not_closed(self._name, error)
            hand_over()
            self.put([], over=True, error=error)
        finally:
            if flush is not None:
                flush.cancel()
            close = getattr(self._items, "aclose", None)
            if close is not None:
                try:
                    await close()
                except Exception as error:
                    _not_closed(self._name, error)
