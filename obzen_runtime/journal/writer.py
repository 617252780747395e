"""Writing segments: frames encoded into one buffer and handed over in one `writev`, rolls, seals, what is unsynced.

Nothing here decides: every OSError goes up to the journal, which ends. A frame that could only be written in part
is cut off again where that is possible, since nobody was told of it.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from zlib import crc32

import msgspec

from obzen_runtime.events import Record, kind_number
from obzen_runtime.journal.format import (
    ENTRY,
    FRAME_BYTES,
    FRAME_HEAD,
    FRAME_MAGIC,
    FRAME_REST,
    MOST_BODY,
    MOST_RECORDS,
    SEAL_FLAG,
    SEGMENT_BYTES,
    FrameHeader,
    Seal,
    SegmentHeader,
    frame_header,
    seal_body,
    segment_name,
)
from obzen_runtime.journal.scan import Segment, first_link
from obzen_runtime.kernel import AppendFile, Entropy, Files, ValidationFailed

__all__ = ["Identity", "Writer", "encode_frame", "seal_segment", "sync_files"]

_ENCODE_INTO = msgspec.msgpack.Encoder(order="deterministic").encode_into
_PACK_ENTRY = ENTRY.pack_into
_PACK_HEAD = FRAME_HEAD.pack
_PACK_REST = FRAME_REST.pack
_PADS = tuple(bytes(-size % 8) for size in range(8))
_KEEP_BUFFER = 1 << 20
_HASH_STEP = 64 << 10


class Identity(msgspec.Struct, frozen=True):
    """What a writer puts into the headers of its segments."""

    journal: bytes
    boot: bytes
    epoch: int


def encode_frame(records: Sequence[Record], frame: bytearray) -> None:
    """Fill `frame` with the records as one body, behind room for its header. Raises `ValidationFailed` when it is too large."""
    if len(records) > MOST_RECORDS:
        raise ValidationFailed(
            f"{len(records)} records in one frame, at most {MOST_RECORDS}", code="too_large", remedy="Append them in several frames"
        )
    end = FRAME_BYTES
    for record in records:
        start = end + ENTRY.size
        _ENCODE_INTO(record, frame, start)
        end = len(frame)
        _PACK_ENTRY(frame, start - ENTRY.size, end - start, kind_number(record), 0, 0)
        if end > FRAME_BYTES + MOST_BODY:
            raise ValidationFailed(f"a frame is over {MOST_BODY} bytes", code="too_large", remedy="Append fewer or smaller records")
    if end & 7:
        frame += _PADS[end & 7]


class Writer:
    """Appends frames to the newest segment of `segments`, and keeps that list up to date."""

    def __init__(self, files: Files, entropy: Entropy, directory: Path, *, identity: Identity, segments: list[Segment], limit: int) -> None:
        """`limit`: bytes at which a segment is sealed and the next one begun."""
        self.segments = segments
        self.end = 0
        """The size up to which a frame may take the segment being written."""
        self.offset = 0
        """Bytes written to that segment."""
        self._before = sum(segment.size for segment in segments)
        self._files = files
        self._entropy = entropy
        self._directory = directory
        self._identity = identity
        self._epoch = identity.epoch
        self._limit = limit
        self._frame = bytearray()
        self._link = (segments[-1].end_link if segments else None) or 0
        self._file: AppendFile | None = None
        self._salt = 0
        self._headers = bytearray()
        self._digest = blake2b(digest_size=32)
        self._unsynced: list[AppendFile | Path] = []
        self._new_name = False

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        return self._before + self.offset

    def encode(self, records: Sequence[Record]) -> int:
        """Prepare a frame for `write` and return its bytes."""
        if len(self._frame) > _KEEP_BUFFER:
            self._frame = bytearray()
        encode_frame(records, self._frame)
        return len(self._frame)

    def write(self, head: int, count: int, durable: int, *, flags: int = 0) -> None:
        """Write the prepared frame of `count` records after position `head`. Raises OSError."""
        frame, salt, segment, offset, file = self._frame, self._salt, self.segments[-1], self.offset, self._file
        assert file is not None
        size = len(frame)
        body = memoryview(frame)[FRAME_BYTES:]
        rest = _PACK_REST(size - FRAME_BYTES, count, flags, head + 1, self._epoch, self._link, durable, crc32(body, salt), 0)
        crc = crc32(rest, salt)
        frame[:FRAME_BYTES] = header = _PACK_HEAD(FRAME_MAGIC, crc) + rest
        try:
            file.write((frame,))
        except OSError:
            with suppress(OSError):
                file.truncate(offset)
            raise
        if offset >= segment.index.next and not flags:
            segment.index.add(head + 1, offset)
        self._link = crc
        self.offset = segment.size = offset + size
        segment.last = head + count
        self._headers += header
        if len(self._headers) >= _HASH_STEP:
            self._digest.update(self._headers)
            self._headers.clear()

    def seal(self, head: int, durable: int, *, keep_open: bool) -> None:
        """Finish the segment being written, if there is one. `keep_open`: it will be synced soon, through the same descriptor."""
        if self._file is None:
            return
        segment = self.segments[-1]
        self._digest.update(self._headers)
        self._headers.clear()
        seal = Seal(segment.last, self.offset, self._digest.digest())
        prepared, self._frame = self._frame, bytearray(bytes(FRAME_BYTES) + seal_body(seal))
        self.write(head, 0, durable, flags=SEAL_FLAG)
        self._frame = prepared
        segment.sealed, segment.end_link = True, self._link
        self._before += self.offset
        file, self._file, self.offset, self.end = self._file, None, 0, 0
        if keep_open:
            self._unsynced.append(file)
        else:
            self._unsynced.append(segment.path)
            file.close()

    def begin(self, head: int) -> None:
        """Create the segment whose first record follows position `head`."""
        header = SegmentHeader(
            int.from_bytes(self._entropy.bytes(4), "little"), self._identity.journal, self._identity.boot, head + 1, self._epoch
        )
        encoded = header.encode()
        path = self._directory / segment_name(head + 1)
        self._file = self._files.open_append(path, create=True)
        self._new_name = True
        self._file.write((encoded,))
        self._link = first_link(encoded, self._link)
        self._salt, self.offset, self.end = header.salt, SEGMENT_BYTES, self._limit
        self._digest = blake2b(digest_size=32)
        self._headers.clear()
        self.segments.append(Segment(path, header, self._link, head, SEGMENT_BYTES))

    def drop(self, count: int) -> None:
        """Let go of the first segments; their files are somebody else's business."""
        self._before -= sum(segment.size for segment in self.segments[:count])
        del self.segments[:count]

    def begin_sync(self) -> Callable[[], None]:
        """Work for a thread that makes durable all that is written by now. Files of finished segments are closed by it."""
        done, self._unsynced = self._unsynced, []
        new_name, self._new_name = self._new_name, False
        files, current, directory = self._files, self._file, self._directory

        def work() -> None:
            sync_files(files, done)
            if current is not None:
                current.sync()
            if new_name:
                files.sync_directory(directory)

        return work

    def close(self) -> None:
        """Let go of the files, nothing else."""
        for file in self._unsynced:
            if not isinstance(file, Path):
                file.close()
        self._unsynced.clear()
        if self._file is not None:
            self._file.close()
            self._file = None


def sync_files(files: Files, targets: Sequence[AppendFile | Path]) -> None:
    """Make finished files durable and close them."""
    for target in targets:
        file = files.open_append(target) if isinstance(target, Path) else target
        try:
            file.sync()
        finally:
            file.close()


def seal_segment(files: Files, segment: Segment, identity: Identity) -> None:
    """Seal a segment that an earlier writer left open; all in it is durable already."""
    body = seal_body(Seal(segment.last, segment.size, segment.digest))
    salt = segment.header.salt
    last, link = segment.last, segment.end_link or 0
    header = frame_header(FrameHeader(0, len(body), 0, SEAL_FLAG, last + 1, identity.epoch, link, last, crc32(body, salt)), salt)
    file = files.open_append(segment.path)
    try:
        segment.size += file.write((header, body))
        file.sync()
    finally:
        file.close()
    segment.sealed = True
    segment.end_link = FRAME_HEAD.unpack_from(header)[1]
