"""Walking the frames of one segment: every byte that is handed on was checked, in chunks, never a whole segment.

A walk stops at the seal, at the end of the file or at the first fault. What a fault means is not decided here: a
short frame is a crash for recovery, 'not there yet' for a reader of a living run, damage below a durable position.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import msgspec

from obzen_runtime.events import KINDS, RECORD_FORMAT, Record, RunStarted, decode_record
from obzen_runtime.journal.base import Entry
from obzen_runtime.journal.format import (
    ENTRY,
    FRAME_BYTES,
    SEGMENT_BYTES,
    FrameHeader,
    Newer,
    Seal,
    SegmentHeader,
    read_frame_header,
    read_seal,
)
from obzen_runtime.kernel import Files, JournalDamaged, NewerFormat, StorageFailed

__all__ = ["Fault", "Frame", "Index", "Segment", "Walk", "Window", "damaged", "first_link", "newer", "records_of"]

_CHUNK = 256 << 10
_INDEX_STEP = 64 << 10


class Window:
    """The bytes of a file, read in chunks."""

    def __init__(self, files: Files, path: Path) -> None:
        self._files = files
        self._path = path
        self._data = b""
        self._start = 0

    def at(self, offset: int, size: int) -> memoryview:
        """`size` bytes from `offset`, fewer at the end of the file."""
        begin = offset - self._start
        if begin < 0 or begin + size > len(self._data):
            self._data = self._files.read(self._path, offset, max(size, _CHUNK))
            self._start, begin = offset, 0
        return memoryview(self._data)[begin : begin + size]

    def forget(self) -> None:
        """Read again what is asked for next: the end of a living file changes."""
        self._data = b""

    def find(self, mark: bytes, start: int) -> Iterator[int]:
        """Offsets from `start` at which `mark` stands."""
        while len(data := self._files.read(self._path, start, _CHUNK)) >= len(mark):
            place = data.find(mark)
            while place >= 0:
                yield start + place
                place = data.find(mark, place + 1)
            start += len(data) - len(mark) + 1


class Index:
    """Where positions stand in a segment, one entry for every 64 KiB: 16 bytes each."""

    def __init__(self) -> None:
        self._positions = array("Q")
        self._offsets = array("Q")
        self.next = 0
        """The offset from which on an entry is wanted."""

    def add(self, position: int, offset: int) -> None:
        """Note that a frame begins here. Offsets below `next` were noted before."""
        self._positions.append(position)
        self._offsets.append(offset)
        self.next = offset + _INDEX_STEP

    def positions(self) -> tuple[int, ...]:
        """The first positions of the frames noted, ascending."""
        return tuple(self._positions)

    def find(self, position: int) -> tuple[int, int] | None:
        """Position and offset of the last noted frame that does not begin after `position`."""
        place = bisect_right(self._positions, position) - 1
        return None if place < 0 else (self._positions[place], self._offsets[place])


@dataclass(slots=True)
class Segment:
    """One file of the log."""

    path: Path
    header: SegmentHeader
    link: int | None
    """What the first frame must link; None when nobody looked."""
    last: int
    """Position of the last record known."""
    size: int
    """Bytes known to be whole, the seal included."""
    sealed: bool = False
    end_link: int | None = None
    """Header crc of the last frame: what stands next links it. None when nobody looked."""
    digest: bytes = b""
    """Of all frame headers, where a walk from the first frame found it."""
    began_ms: int | None = None
    """Wall time of the first record; None when nobody looked."""
    index: Index = field(default_factory=Index)


def first_link(header: bytes, previous: int) -> int:
    """What the first frame of a segment links: the segment's own header, seeded with the seal before it.

    Without the header's own crc: the crc of bytes and their crc is the same for all bytes, and would link nothing.
    """
    return crc32(header[: SEGMENT_BYTES - 4], previous)


class Frame(NamedTuple):
    """One append, checked."""

    offset: int
    header: FrameHeader
    body: memoryview


class Fault(NamedTuple):
    """Why a walk cannot go on."""

    offset: int
    position: int
    """Position of the first record that cannot be read."""
    why: str
    short: bool = False
    """The file ends before the frame does."""


class Walk:
    """Iterates the frames of a segment and keeps where it is."""

    def __init__(self, files: Files, segment: Segment, *, at: tuple[int, int] | None = None) -> None:
        """`at`: position and offset of a frame to begin with, instead of the first. Its own link is taken as it is."""
        self.segment = segment
        self.position, self.offset = at or (segment.header.base, SEGMENT_BYTES)
        self.link: int | None = segment.link if at is None else None
        self.epoch = segment.header.epoch
        self.durable = 0
        """Highest durable position any frame claims."""
        self.fault: Fault | None = None
        self.seal: Seal | None = None
        self._window = Window(files, segment.path)
        self._digest = blake2b(digest_size=32) if at is None else None

    def frames(self) -> Iterator[Frame]:
        """Data frames until the seal, the end of the file or a fault. Called again it goes on where it stopped."""
        self.fault = None
        segment, salt, at = self.segment, self.segment.header.salt, self._window.at
        while self.seal is None:
            offset = self.offset
            head = bytes(at(offset, FRAME_BYTES))
            if len(head) < FRAME_BYTES:
                if head:
                    self._fail("the frame header is cut short", short=True)
                self._window.forget()
                return
            header = read_frame_header(head, salt)
            if isinstance(header, str):
                return self._fail(header)
            wrong = self._wrong(header)
            if wrong:
                return self._fail(wrong)
            body = at(offset + FRAME_BYTES, header.body)
            if len(body) < header.body:
                return self._fail("the frame is cut short", short=True)
            if crc32(body, salt) != header.body_crc:
                return self._fail(f"positions {header.base} to {header.base + header.records - 1} do not match their checksum")
            if header.seal and not self._accept_seal(body):
                return self._fail("the seal does not match the segment")
            if offset >= segment.index.next and not header.seal:
                segment.index.add(header.base, offset)
            if self._digest is not None:
                self._digest.update(head)
            self.offset += header.size
            self.link, self.epoch = header.crc, header.epoch
            self.durable = max(self.durable, header.durable)
            if not header.seal:
                self.position += header.records
                yield Frame(offset, header, body)

    def digest(self) -> bytes:
        """Of all frame headers passed; empty when the walk began in the middle."""
        return b"" if self._digest is None else self._digest.digest()

    def zeros(self) -> bool:
        """Whether nothing but zeros stands from here to the end of the file."""
        offset = self.offset
        while chunk := self._window.at(offset, _CHUNK):
            if any(chunk):
                return False
            offset += len(chunk)
        return offset > self.offset

    def _wrong(self, header: FrameHeader) -> str | None:
        if header.base != self.position:
            return f"a frame begins with position {header.base}, expected {self.position}"
        if self.link is not None and header.link != self.link:
            return "the frame does not follow the one before it"
        if header.epoch < self.epoch:
            return f"a frame of epoch {header.epoch} follows one of epoch {self.epoch}"
        if bool(header.records) == header.seal:
            return f"the frame holds {header.records} records"
        return None

    def _accept_seal(self, body: memoryview) -> bool:
        seal = read_seal(body)
        if seal is None or seal.last != self.position - 1 or seal.size != self.offset:
            return False
        if self._digest is not None and seal.digest != self._digest.digest():
            return False
        self.seal = seal
        return True

    def _fail(self, why: str, *, short: bool = False) -> None:
        self.fault = Fault(self.offset, self.position, why, short)
        self._window.forget()


def records_of(frame: Frame, path: Path, kinds: frozenset[int] | None) -> Iterator[Entry]:
    """The records of a frame, those of other kinds skipped without decoding."""
    body, offset, position = frame.body, 0, frame.header.base
    for _ in range(frame.header.records):
        if offset + ENTRY.size > len(body):
            break
        length, kind, flags, partition = ENTRY.unpack_from(body, offset)
        if flags or partition:
            raise newer(path, f"the record at position {position} has flags {flags}, partition {partition}: a newer version wrote it")
        offset += ENTRY.size
        if kinds is None or kind in kinds:
            yield Entry(position, _decode(kind, body[offset : offset + length], path, position))
        offset += length
        position += 1
    if position != frame.header.base + frame.header.records or offset > len(body):
        raise damaged(path, Fault(frame.offset, position, "the frame holds fewer records than it says"), "its checksums are right")


def _decode(kind: int, data: memoryview, path: Path, position: int) -> Record:
    if kind not in KINDS:
        raise newer(path, f"record kind {kind} at position {position} is unknown to this version: a newer one wrote it")
    try:
        record = decode_record(kind, data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise JournalDamaged(
            f"{path}: the record at position {position} cannot be decoded: {error}",
            remedy="Read it with the version that wrote it; if that fails too, report a bug",
            file=str(path),
            position=position,
        ) from error
    if isinstance(record, RunStarted) and record.format > RECORD_FORMAT:
        raise newer(path, f"its records have format {record.format}: a newer version wrote it, this one reads up to {RECORD_FORMAT}")
    return record


def newer(path: Path, why: str) -> NewerFormat:
    """The refusal to read what a newer version wrote."""
    return NewerFormat(f"{path}: {why}", remedy="Use the version that wrote it, or a newer one", file=str(path))


def damaged(path: Path, fault: Fault, why: str) -> StorageFailed:
    """The refusal that names file, offset and positions; of what a newer version wrote, one that speaks of no damage."""
    if isinstance(fault.why, Newer):
        return newer(path, fault.why)
    return JournalDamaged(
        f"{path}: damaged at byte {fault.offset}, from position {fault.position} on: {fault.why}; {why}",
        remedy="Restore the file from a copy, or see with `obzen journal repair` what going on without it would lose",
        file=str(path),
        offset=fault.offset,
        position=fault.position,
    )
