"""Reading a journal: from positions to records, by the writer itself and by anybody beside it.

`Log` reads what is known to be whole. `SegmentReader` opens a run's journal without a lock, also while a writer is
at work: what is not complete is not there yet. Below what the writer is known to have written, a fault is damage.
"""

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterator
from functools import partial
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Self

from obzen_runtime.events import KINDS, Record
from obzen_runtime.journal.base import Entry
from obzen_runtime.journal.floor import BEGINNING
from obzen_runtime.journal.format import (
    FRAME_BYTES,
    FRAME_MARK,
    SEAL_FRAME_BYTES,
    SEGMENT_BYTES,
    Newer,
    SegmentHeader,
    read_frame_header,
    read_segment_header,
    segment_name,
    segment_start,
)
from obzen_runtime.journal.place import Place, unusable
from obzen_runtime.journal.scan import Fault, Segment, Walk, Window, damaged, first_link, newer, records_of
from obzen_runtime.kernel import Files, NotFound, SystemFiles

__all__ = ["Log", "SegmentReader", "dropped", "kind_numbers", "newest_records", "numbers"]

_MOST_ENTRIES = 256
_MOST_BYTES = 128 << 10
_POLL = 0.05  # seconds between two looks of a reader that nothing can wake
_LOCK_LOOKS = 20  # looks between two questions whether the writer lives
_BASE = attrgetter("header.base")


def kind_numbers(kinds: frozenset[type[Record]] | None) -> frozenset[int] | None:
    """The numbers in the frames for record types."""
    return None if kinds is None else numbers(kinds)


def numbers(kinds: frozenset[type[Record]]) -> frozenset[int]:
    """As `kind_numbers`, for types that are given."""
    return frozenset(number for number, kind in KINDS.items() if kind in kinds)


class Log:
    """Segments in order, read by position."""

    def __init__(self, files: Files, segments: list[Segment]) -> None:
        self._files = files
        self.segments = segments

    @property
    def first(self) -> int | None:
        """Position of the first record kept, or to come; None without a segment."""
        return self.segments[0].header.base if self.segments else None

    def read(self, start: int, stop: int, kinds: frozenset[int] | None) -> Iterator[list[Entry]]:
        """Records [start, stop) in handfuls worth about a millisecond. All of them must be there."""
        while start < stop:
            segment = self._segment(start)
            walk = Walk(self._files, segment, at=segment.index.find(start))
            try:
                yield from self._entries(walk, start, stop, kinds)
            except FileNotFoundError:  # it was dropped while it was read
                self._segment(start)
                raise
            if walk.position <= start or (walk.position < stop and walk.position <= segment.last):
                fault = walk.fault or Fault(walk.offset, walk.position, "the file ends")
                raise damaged(segment.path, fault, f"positions up to {segment.last} were written")
            start = walk.position

    async def last(self, head: int, kinds: frozenset[int]) -> Entry | None:
        """The newest record of these kinds up to `head`; gives the loop its turn between two looks."""
        for start, stop in self._backwards(head):
            found = None
            for entries in self.read(start, stop, kinds):
                found = entries[-1] if entries else found
                await asyncio.sleep(0)
            if found is not None:
                return found
        return None

    def _backwards(self, head: int) -> Iterator[tuple[int, int]]:
        """Ranges [start, stop) that cover the log from its end to its beginning: what an index tells apart, else whole segments."""
        stop = head + 1
        for segment in reversed(tuple(self.segments)):
            for start in (*reversed(segment.index.positions()), segment.header.base):
                if start < stop:
                    yield start, stop
                    stop = start

    def _entries(self, walk: Walk, start: int, stop: int, kinds: frozenset[int] | None) -> Iterator[list[Entry]]:
        entries: list[Entry] = []
        size = 0
        for frame in walk.frames():
            if walk.position <= start:
                continue
            found = records_of(frame, walk.segment.path, kinds)
            if frame.header.base < start or walk.position > stop:
                entries += [entry for entry in found if start <= entry.position < stop]
            else:
                entries += found
            size += frame.header.size
            if len(entries) >= _MOST_ENTRIES or size >= _MOST_BYTES:
                yield entries
                entries, size = [], 0
            if walk.position >= stop:
                break
        if entries:
            yield entries

    def _segment(self, position: int) -> Segment:
        place = bisect_right(self.segments, position, key=_BASE) - 1
        if place < 0:
            raise dropped(position, self.first)
        return self.segments[place]


class SegmentReader:
    """A run's journal for reading only: takes no lock, changes nothing, may stand beside a living writer."""

    def __init__(self, place: Place, files: Files) -> None:
        """For `open`."""
        self._place = place
        self._files = files
        self._log = Log(files, [])
        self._journal = b""
        self._floor = BEGINNING
        self._walk: Walk | None = None
        self._closed = False

    @classmethod
    def open(cls, directory: Path, *, files: Files | None = None) -> Self:
        """Raises `NotFound` (`run_not_found`) when the directory holds no journal, `JournalDamaged` when it is damaged."""
        files, place = files or SystemFiles(), Place(directory)
        if not files.exists(place.epoch):
            if place.names(files):
                unusable(place.epoch, "it is missing from a journal that was begun")
            raise NotFound(
                f"{directory} holds no journal", code="run_not_found", remedy="Give the directory of a run", directory=str(directory)
            )
        reader = cls(place, files)
        place.steadily(files, reader._begin)
        reader.refresh()
        return reader

    @property
    def head(self) -> int:
        """Position of the last record seen; `refresh` looks again."""
        return self._log.segments[-1].last if self._log.segments else self._floor.position - 1

    @property
    def first(self) -> int:
        """Position of the first record kept at the last look; the one below it was dropped, or never was."""
        return self._floor.position

    @property
    def closed(self) -> bool:
        """Whether the journal had been closed cleanly at the last look."""
        return self._closed

    def refresh(self) -> int:
        """Look for what was written since the last look and return the head."""
        mark = self._place.read_watermark(self._files)  # first: the log reaches at least this far
        known = 0
        if mark is not None:
            known = max(mark.durable, mark.written if mark.boot == self._files.boot_id() else 0)
        self._place.steadily(self._files, partial(self._follow, known))
        self._closed = mark is not None and bool(mark.closed) and self.head == mark.written
        return self.head

    async def read(self, start: int = 0, stop: int | None = None, *, kinds: frozenset[type[Record]] | None = None) -> AsyncIterator[Entry]:
        """Records from `start` (below 1: the first kept) to before `stop` (default: all there is now), in order.

        `kinds`: only these types. Raises `NotFound` when `start` was dropped, or what comes next is while it is read.
        """
        head = self.refresh()
        first = start if start > 0 else self.first
        try:
            for entries in self._log.read(first, head + 1 if stop is None else min(stop, head + 1), kind_numbers(kinds)):
                for entry in entries:
                    yield entry
                    first = entry.position + 1
                await asyncio.sleep(0)
        except FileNotFoundError as error:
            self._rise()
            if first < self.first:
                raise dropped(first, self.first) from None
            raise damaged(Path(error.filename), Fault(0, first, "the file is missing"), "nothing says that it was dropped") from error

    async def tail(self, start: int = 0, *, kinds: frozenset[type[Record]] | None = None) -> AsyncIterator[Entry]:
        """Like `read`, and goes on as the writer does; ends when the journal is closed or its writer is dead."""
        position, looks = start if start > 0 else self.first, 0
        while True:
            alive = looks % _LOCK_LOOKS > 0 or self._files.locked(self._place.lock)
            head = self.refresh()
            if position <= head:
                async for entry in self.read(position, head + 1, kinds=kinds):
                    yield entry
                position, looks = head + 1, 0
                continue
            if self._closed or not alive:
                return
            looks += 1
            await asyncio.sleep(_POLL)

    async def last(self, kinds: frozenset[type[Record]]) -> Entry | None:
        """The newest record of these types that is there now; None when there is none."""
        return await self._log.last(self.refresh(), numbers(kinds))

    def _follow(self, known: int) -> None:
        """Go on to the end of what can be read, which is at least `known` unless something is wrong."""
        self._rise()
        fault = self._advance()
        if self.head < known:
            segments = self._log.segments
            path, why = (segments[-1].path, "the log ends") if segments else (self._place.segments, "no segment is there")
            raise damaged(path, fault or Fault(0, self.head + 1, why), f"positions up to {known} were written")

    def _rise(self) -> None:
        """Let go of segments that were dropped since the last look."""
        floor, segments = self._place.read_floor(self._files), self._log.segments
        if floor != self._floor and self.head < floor.position:
            self._walk = None
            self._begin()
            return
        self._floor = floor
        while segments and segments[0].sealed and segments[0].last < floor.position:
            del segments[0]

    def _begin(self) -> None:
        """Take all segments but the last by their names and headers."""
        epoch = self._place.read_epoch(self._files)
        assert epoch is not None
        self._journal, self._floor, self._log.segments = epoch.journal, self._place.read_floor(self._files), []
        names = [name for name in self._place.names(self._files) if (segment_start(name) or 0) >= self._floor.position]
        if names and segment_start(names[0]) != self._floor.position:
            why = f"the first segment is missing: {names[0]} begins with another position than {self._floor.position}"
            raise damaged(self._place.segments, Fault(0, self._floor.position, why), "nothing says that it was dropped")
        link: int | None = self._floor.link
        for name, following in pairwise(names):
            path = self._place.segments / name
            data = self._files.read(path, 0, SEGMENT_BYTES)
            header = read_segment_header(data)
            if isinstance(header, str):
                raise damaged(path, Fault(0, segment_start(name) or 0, header), "another segment follows")
            self._check_place(path, header)
            known = None if link is None else first_link(data, link)
            size = self._files.size(path)
            seal = read_frame_header(self._files.read(path, max(0, size - SEAL_FRAME_BYTES), FRAME_BYTES), header.salt)
            link = None if isinstance(seal, str) else seal.crc
            self._log.segments.append(Segment(path, header, known, (segment_start(following) or 1) - 1, size, sealed=True, end_link=link))
        if names:
            self._enter(names[-1], link=link)

    def _check_place(self, path: Path, header: SegmentHeader) -> None:
        """A file of another journal, or of another place in this one, is not read: its own checksums are right."""
        if header.journal != self._journal or header.base != segment_start(path.name):
            why = "it is a segment of another journal, or of another place in this one"
            raise damaged(path, Fault(0, segment_start(path.name) or 0, why), "its name promises something else")

    def _enter(self, name: str, *, link: int | None) -> bool:
        """Begin with a segment; False when it is not there yet."""
        path = self._place.segments / name
        if not self._files.exists(path):
            return False
        data = self._files.read(path, 0, SEGMENT_BYTES)
        header = read_segment_header(data)
        if isinstance(header, Newer):
            raise newer(path, header)
        if isinstance(header, str):
            return False
        self._check_place(path, header)
        known = None if link is None else first_link(data, link)
        segment = Segment(path, header, known, header.base - 1, SEGMENT_BYTES)
        self._log.segments.append(segment)
        self._walk = Walk(self._files, segment)
        return True

    def _advance(self) -> Fault | None:
        """Walk to the end of what can be read; return why it ends there."""
        while self._walk is not None or self._enter(segment_name(self.head + 1), link=self._end_link()):
            walk = self._walk
            assert walk is not None
            for _ in walk.frames():
                pass
            walk.segment.last, walk.segment.size = walk.position - 1, walk.offset
            if walk.seal is None:
                if walk.position == walk.segment.header.base:  # recovery may put another file in its place
                    self._log.segments.pop()
                    self._walk = None
                if walk.fault is not None and isinstance(walk.fault.why, Newer):
                    raise newer(walk.segment.path, walk.fault.why)
                return walk.fault
            walk.segment.sealed, walk.segment.end_link = True, walk.link
            self._walk = None
        return None

    def _end_link(self) -> int | None:
        return self._log.segments[-1].end_link if self._log.segments else self._floor.link


def dropped(position: int, first: int | None) -> NotFound:
    """The refusal to read what is no longer kept."""
    kept = "nothing is kept" if first is None else f"the first kept is {first}, what came before was dropped"
    return NotFound(f"position {position} is not in this journal: {kept}", remedy="It may be in the archive, if there is one")


def newest_records(files: Files, place: Place, kinds: frozenset[int]) -> list[Entry]:
    """Records of these kinds in the last quarter of a MiB of the log, without reading the rest."""
    found: list[Entry] = []
    for name in reversed(place.names(files)[-2:]):
        path = place.segments / name
        header = read_segment_header(files.read(path, 0, SEGMENT_BYTES))
        if isinstance(header, str):
            continue
        window, begin = Window(files, path), max(SEGMENT_BYTES, files.size(path) - _NEWEST)
        for offset in window.find(FRAME_MARK, begin):
            frame = read_frame_header(window.at(offset, FRAME_BYTES), header.salt)
            if not isinstance(frame, str) and offset % 8 == 0:
                walk = Walk(files, Segment(path, header, None, 0, 0), at=(frame.base, offset))
                found = [entry for frame in walk.frames() for entry in records_of(frame, path, kinds)]
                break
        if found or begin > SEGMENT_BYTES:  # what was not read may contradict an older segment
            break
    return found


_NEWEST = 256 << 10
