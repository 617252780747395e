"""A third backend, as somebody else would write one: a file with a line of text for each frame."""

import asyncio
import base64
import fcntl
from pathlib import Path
from zlib import crc32

import msgspec

from obzen_runtime.events import decode_record, encode_record, kind_number
from obzen_runtime.journal import Entry, Os
from obzen_runtime.kernel import Concurrency, Fenced, JournalDamaged, JournalFailed, JournalLocked, ValidationFailed

__all__ = ["LinesJournal"]


class LinesJournal:
    level = Os()
    first = 1

    def __init__(self, place: Path):
        place.mkdir(exist_ok=True)
        self.lock = (place / "lock").open("w")
        try:
            self.begin(place)
        except BaseException:
            self.lock.close()
            raise

    def begin(self, place):
        self.take_lock()
        self.owner = place / "owner"
        self.epoch = int(self.owner.read_text()) + 1 if self.owner.exists() else 1
        self.owner.write_text(str(self.epoch))
        self.path = place / "lines"
        *lines, _ = self.path.read_bytes().split(b"\n") if self.path.exists() else [b""]
        self.records = [record for line in lines for record in self.frame(line)]
        self.size = sum(len(line) + 1 for line in lines)
        self.file = self.open_file()
        self.file.truncate(self.size)
        self.closed = False
        self.waiters = []

    def take_lock(self):
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JournalLocked("somebody else writes", remedy="Wait.") from None

    def unlock(self):
        fcntl.flock(self.lock, fcntl.LOCK_UN)

    def open_file(self):
        return self.path.open("ab", buffering=0)

    def frame(self, line):
        if not self.whole(line):
            raise JournalDamaged(f"a line of {self.path} has changed", remedy="Take the copy.")
        return [decode_record(number, base64.b64decode(data)) for number, data in msgspec.json.decode(line[8:])]

    def whole(self, line):
        return line[:8] == b"%08x" % crc32(line[8:])

    def line(self, records):
        text = msgspec.json.encode([(kind_number(each), base64.b64encode(encode_record(each)).decode()) for each in records])
        return b"%08x%s\n" % (crc32(text), text)

    @property
    def head(self):
        return len(self.records)

    durable_head = head

    def fence(self):
        if int(self.owner.read_text()) != self.epoch:
            raise Fenced("another one writes now", remedy="Stop.")

    def append(self, records, *, expected=None):
        if self.closed:
            raise JournalFailed("closed", remedy="Open it again.")
        self.fence()
        if expected is not None and expected != self.head:
            raise Concurrency("the head moved", remedy="Read on.", head=self.head)
        if len(records) > 65_535:
            raise ValidationFailed("too many", code="too_large")
        if records:
            self.write(records)
            self.wake()
        return self.head

    def write(self, records):
        line = self.line(records)
        self.file.write(line)
        self.size += len(line)
        self.records += records

    def wake(self):
        waiters, self.waiters = self.waiters, []
        for each in waiters:
            if not each.done():
                each.set_result(None)

    async def durable(self, position):
        return

    async def read(self, start=0, stop=None, *, kinds=None):
        position = max(1, start)
        stop = self.head + 1 if stop is None else min(stop, self.head + 1)
        while position < stop:
            record = self.records[position - 1]
            if kinds is None or type(record) in kinds:
                yield Entry(position, record)
            position += 1

    async def tail(self, start=0, *, kinds=None):
        position = max(1, start)
        while True:
            stop = self.head + 1
            async for entry in self.read(position, stop, kinds=kinds):
                yield entry
            position = max(position, stop)
            if self.over(position):
                return
            if position > self.head:
                await self.wait()

    def over(self, position):
        return self.closed and position > self.head

    async def wait(self):
        self.waiters.append(asyncio.get_running_loop().create_future())
        await self.waiters[-1]

    async def last(self, kinds):
        for position in range(self.head, 0, -1):
            if type(self.records[position - 1]) in kinds:
                return Entry(position, self.records[position - 1])
        return None

    def forget(self, below):
        pass

    async def close(self):
        if not self.closed:
            self.closed = True
            self.wake()
            self.file.close()
            self.lock.close()
