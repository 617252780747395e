"""A journal in memory: for tests, for embedding without a disk, and as the plainest reading of the promises."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence

from obzen_runtime.events import Record
from obzen_runtime.journal.base import Entry, Level, Memory
from obzen_runtime.kernel import Concurrency, JournalFailed, NotFound, ValidationFailed

__all__ = ["MemoryJournal"]

_MOST_RECORDS = 65_535


class MemoryJournal:
    """Keeps what is still needed: below the position given to `forget` records are dropped, unless `keep`."""

    def __init__(self, *, keep: bool = False) -> None:
        self.keep = keep
        self._records: deque[Record] = deque()
        self._first = 1
        self._head = 0
        self._closed = False
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def level(self) -> Level:
        return Memory()

    @property
    def first(self) -> int:
        return self._first

    @property
    def head(self) -> int:
        return self._head

    @property
    def durable_head(self) -> int:
        return self._head

    @property
    def size(self) -> int:
        return 0

    def append(self, records: Sequence[Record], *, expected: int | None = None) -> int:
        if self._closed:
            raise JournalFailed("the journal is closed", remedy="Start a new run.")
        if expected is not None and expected != self._head:
            raise Concurrency(f"the head is {self._head}, expected {expected}", remedy="Read on and decide again.", head=self._head)
        if len(records) > _MOST_RECORDS:
            raise ValidationFailed(f"{len(records)} records in one frame, at most {_MOST_RECORDS}", code="too_large")
        self._records.extend(records)
        self._head += len(records)
        if self._waiters:
            self._wake()
        return self._head

    async def durable(self, position: int) -> None:
        return

    async def read(self, start: int = 0, stop: int | None = None, *, kinds: frozenset[type[Record]] | None = None) -> AsyncIterator[Entry]:
        stop = self._head + 1 if stop is None else min(stop, self._head + 1)
        position = start if start > 0 else self._first
        while position < stop:
            if position < self._first:
                raise NotFound(
                    f"position {position} was dropped, the first kept is {self._first}",
                    remedy="Use MemoryJournal(keep=True) to read what every stage has passed.",
                )
            record = self._records[position - self._first]
            if kinds is None or type(record) in kinds:
                yield Entry(position, record)
            position += 1

    async def tail(self, start: int = 0, *, kinds: frozenset[type[Record]] | None = None) -> AsyncIterator[Entry]:
        position = start if start > 0 else self._first
        while True:
            stop = self._head + 1
            async for entry in self.read(position, stop, kinds=kinds):
                yield entry
            position = max(position, stop)
            if position <= self._head:
                continue
            if self._closed:
                return
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    async def last(self, kinds: frozenset[type[Record]]) -> Entry | None:
        for back, record in enumerate(reversed(self._records)):
            if type(record) in kinds:
                return Entry(self._head - back, record)
        return None

    def forget(self, below: int) -> None:
        if self.keep:
            return
        while self._first < below and self._records:
            self._records.popleft()
            self._first += 1

    async def close(self) -> None:
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
