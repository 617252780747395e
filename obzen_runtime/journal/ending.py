"""A segment that ends on purpose: what is whole up to a position, a last frame that tells why, a seal.

Repair ends a log before its damage so, a fork ends the past it shares so. Only bytes are made here; who writes them
replaces a file, so that no other name of the old one is touched.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple
from zlib import crc32

from obzen_runtime.events import Dropped, Record
from obzen_runtime.journal.floor import Floor
from obzen_runtime.journal.format import (
    FRAME_BYTES,
    FRAME_HEAD,
    SEAL_FLAG,
    SEGMENT_BYTES,
    FrameHeader,
    Seal,
    SegmentHeader,
    frame_header,
    seal_body,
    segment_name,
)
from obzen_runtime.journal.scan import Segment, Walk, damaged, first_link
from obzen_runtime.journal.watermark import Marker, new_watermark
from obzen_runtime.journal.writer import Identity, encode_frame
from obzen_runtime.kernel import Files

__all__ = ["Ending", "Past", "closed_mark", "ending", "past_of", "proof"]


class Past(NamedTuple):
    """What a log keeps of the segment in which it ends."""

    content: bytes
    """Its header and whole frames; empty when it keeps nothing of it."""
    last: int
    """The last position kept."""
    link: int
    """What stands next links to this: the last frame's, or the seal before when there is no content."""
    salt: int
    headers: bytes
    """Of the frames kept, for the seal."""


class Ending(NamedTuple):
    """The segment in which a log ends."""

    name: str
    content: bytes
    last: int
    """Position of its last record."""


def past_of(files: Files, segment: Segment, stop: int) -> Past:
    """The whole frames of a segment that hold nothing beyond position `stop`. Its first link must be known.

    Raises `JournalDamaged` when one of them cannot be read.
    """
    assert segment.link is not None
    last, link, end, headers = segment.header.base - 1, segment.link, SEGMENT_BYTES, bytearray()
    walk = Walk(files, segment)
    for frame in walk.frames():
        if frame.header.base + frame.header.records - 1 > stop:
            break
        last, link, end = frame.header.base + frame.header.records - 1, frame.header.crc, frame.offset + frame.header.size
        headers += frame_header(frame.header, segment.header.salt)
    if walk.fault is not None and last < stop:
        raise damaged(segment.path, walk.fault, f"positions up to {stop} are wanted")
    return Past(files.read(segment.path, 0, end), last, link, segment.header.salt, bytes(headers))


def ending(past: Past, base: int, records: Sequence[Record], identity: Identity) -> Ending:
    """End the log with these records. `base`: position of the segment's first record, of a new one when nothing is kept."""
    content, salt, link, headers = bytearray(past.content), past.salt, past.link, bytearray(past.headers)
    if not content:
        content += SegmentHeader(salt, identity.journal, identity.boot, base, identity.epoch).encode()
        link = first_link(bytes(content), link)
    frame = bytearray()
    encode_frame(records, frame)
    last = past.last + len(records)
    for body, count, flags in ((bytes(frame[FRAME_BYTES:]), len(records), 0), (b"", 0, SEAL_FLAG)):
        if flags:
            body = seal_body(Seal(last, len(content), blake2b(headers, digest_size=32).digest()))  # noqa: PLW2901
        first = last + 1 if flags else past.last + 1
        header = frame_header(
            FrameHeader(0, len(body), count, flags, first, identity.epoch, link, past.last, crc32(body, salt)),
            salt,
        )
        content += header + body
        headers += header
        link = FRAME_HEAD.unpack_from(header)[1]
    return Ending(segment_name(base), bytes(content), last)


def proof(floor: Floor, at: int) -> Dropped:
    """The record that what lies below a floor was dropped, said again where the first one is not kept."""
    return Dropped(floor.position, at, floor.archive, link=floor.link)


def closed_mark(identity: Identity, last: int, counter: int) -> bytes:
    """The WATERMARK of a journal closed at this position."""
    content = bytearray(new_watermark())
    Marker(memoryview(content), boot=identity.boot, journal=identity.journal, counter=counter).restart(last, closed=True)
    return bytes(content)
