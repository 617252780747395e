"""The bytes of a segment: layouts, checksums and nothing that reads or writes a file.

All integers are little-endian. A segment is a header and frames; a frame is what one append wrote.

    segment header, 64 bytes              frame header, 48 bytes                  in the body, `count` times
     0  8s   magic OBZNJRN1                0  u32  magic                           u32  length of the payload
     8  u16  version                       4  u32  crc of bytes 8…47, from salt    u8   kind (255: seal)
    10  u16  flags (0)                     8  u32  body length, multiple of 8      u8   flags (0)
    12  u32  salt, random                 12  u16  records                         u16  partition (0)
    16  16s  journal id                   14  u16  flags (1: seal)                      payload
    32  16s  boot id of the writer        16  u64  position of the first record   then zeros up to a multiple of 8
    48  u64  position of the first record 24  u32  epoch
    56  u32  epoch                        28  u32  link: what stands before        seal, 48 bytes
    60  u32  crc of bytes 0…59            32  u64  position proven durable          0  u64  last position
                                          40  u32  crc of the body, from salt       8  u64  bytes before the seal
                                          44  u32  reserved (0)                    16  32s  blake2b of all frame headers

The link of a frame is the header crc of the frame before it; the first frame of a segment links bytes 0…59 of the
segment's own header, seeded with the link of the previous segment's seal. So a missing, swapped or foreign piece breaks the chain
wherever it is. The salt keeps old bytes, and journals quoted inside records, from looking like frames.

The number of a segment is its place in the order of first positions, which its name repeats; that left room for
the boot id. Bodies are stored as they are: no decision of recovery rests on sectors of zeros (see survey.py), so
zero runs need neither compression nor a flag.

    EPOCH, one line of text: epoch, journal id in hexadecimal, crc of both in hexadecimal
"""

import re
import struct
from typing import NamedTuple
from zlib import crc32

__all__ = [
    "ENTRY",
    "FRAME_BYTES",
    "FRAME_HEAD",
    "FRAME_MAGIC",
    "FRAME_MARK",
    "FRAME_REST",
    "MOST_BODY",
    "MOST_RECORDS",
    "SEAL_FLAG",
    "SEAL_FRAME_BYTES",
    "SEAL_KIND",
    "SEGMENT_BYTES",
    "Epoch",
    "FrameHeader",
    "Newer",
    "Seal",
    "SegmentHeader",
    "frame_header",
    "read_epoch",
    "read_frame_header",
    "read_seal",
    "read_segment_header",
    "seal_body",
    "segment_name",
    "segment_start",
]

VERSION = 1
MOST_BODY = 64 << 20
"""Bytes of one frame's body."""
MOST_RECORDS = 65_535
SEAL_KIND = 255
SEAL_FLAG = 1

_MAGIC = b"OBZNJRN1"
_SEGMENT = struct.Struct("<8sHHI16s16sQI")
_U32 = struct.Struct("<I")
SEGMENT_BYTES = _SEGMENT.size + _U32.size

FRAME_MAGIC = 0x4D52465A  # "ZFRM"
FRAME_MARK = _U32.pack(FRAME_MAGIC)
FRAME_HEAD = struct.Struct("<II")
FRAME_REST = struct.Struct("<IHHQIIQII")
FRAME_BYTES = FRAME_HEAD.size + FRAME_REST.size
ENTRY = struct.Struct("<IBBH")
_SEAL = struct.Struct("<QQ32s")
SEAL_FRAME_BYTES = FRAME_BYTES + ENTRY.size + _SEAL.size

_NAME = re.compile(r"([0-9]{20})\.seg")


class Newer(str):
    """Why bytes cannot be read that are whole: a newer version wrote them."""

    __slots__ = ()


class SegmentHeader(NamedTuple):
    """What a segment says of itself."""

    salt: int
    journal: bytes
    """16 bytes that name the journal."""
    boot: bytes
    """16 bytes that name the run of the machine."""
    base: int
    """Position of the first record."""
    epoch: int

    def encode(self) -> bytes:
        packed = _SEGMENT.pack(_MAGIC, VERSION, 0, *self)
        return packed + _U32.pack(crc32(packed))


def read_segment_header(data: bytes | memoryview) -> SegmentHeader | str:
    """The header, or why the bytes are none."""
    if len(data) < SEGMENT_BYTES:
        return "the segment header is cut short"
    magic, version, flags, *fields = _SEGMENT.unpack_from(data)
    if magic != _MAGIC:
        return "the segment header has the wrong magic"
    if crc32(data[: _SEGMENT.size]) != _U32.unpack_from(data, _SEGMENT.size)[0]:
        return "the segment header does not match its checksum"
    if version != VERSION or flags:
        return Newer(f"the segment has format {version}, flags {flags}: a newer version wrote it, this one reads format {VERSION}")
    return SegmentHeader(*fields)


class FrameHeader(NamedTuple):
    """What a frame says of itself. `crc` is also its link: the next frame repeats it."""

    crc: int
    body: int
    """Bytes of the body."""
    records: int
    flags: int
    base: int
    """Position of the first record; of a seal, the position after the last."""
    epoch: int
    link: int
    durable: int
    """Everything up to this position was synced when the frame was written."""
    body_crc: int

    @property
    def size(self) -> int:
        return FRAME_BYTES + self.body

    @property
    def seal(self) -> bool:
        return self.flags == SEAL_FLAG


def frame_header(header: FrameHeader, salt: int) -> bytes:
    """Encode; `crc` is computed, what stands in it is ignored."""
    rest = FRAME_REST.pack(*header[1:], 0)
    return FRAME_HEAD.pack(FRAME_MAGIC, crc32(rest, salt)) + rest


def read_frame_header(data: bytes | memoryview, salt: int) -> FrameHeader | str:
    """The header in the first 48 bytes, or why they are none."""
    if len(data) < FRAME_BYTES:
        return "the frame header is cut short"
    magic, crc = FRAME_HEAD.unpack_from(data)
    if magic != FRAME_MAGIC:
        return "no frame begins here"
    if crc32(data[FRAME_HEAD.size : FRAME_BYTES], salt) != crc:
        return "the frame header does not match its checksum"
    *fields, reserved = FRAME_REST.unpack_from(data, FRAME_HEAD.size)
    header = FrameHeader(crc, *fields)
    if header.flags > SEAL_FLAG or reserved:
        return Newer(f"a frame has flags {header.flags}: a newer version wrote it, this one reads up to {SEAL_FLAG}")
    if header.body > MOST_BODY or header.body % 8:
        return f"the frame's body length {header.body} is impossible"
    return header


class Seal(NamedTuple):
    """The last frame of a finished segment."""

    last: int
    """Position of the segment's last record."""
    size: int
    """Bytes before the seal."""
    digest: bytes
    """BLAKE2b-256 of all frame headers."""


def seal_body(seal: Seal) -> bytes:
    """The body of the frame that seals."""
    return ENTRY.pack(_SEAL.size, SEAL_KIND, 0, 0) + _SEAL.pack(*seal)


def read_seal(body: bytes | memoryview) -> Seal | None:
    """The seal in a frame's body; None when it holds something else."""
    if len(body) != ENTRY.size + _SEAL.size or ENTRY.unpack_from(body) != (_SEAL.size, SEAL_KIND, 0, 0):
        return None
    return Seal(*_SEAL.unpack_from(body, ENTRY.size))


def segment_name(base: int) -> str:
    """The file name of the segment that begins with position `base`."""
    return f"{base:020}.seg"


def segment_start(name: str) -> int | None:
    """The first position a file name promises; None when it names no segment."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


class Epoch(NamedTuple):
    """Which opening of the journal writes now. A writer of an older one is fenced off."""

    number: int
    journal: bytes

    def encode(self) -> bytes:
        text = f"{self.number} {self.journal.hex()}"
        return f"{text} {crc32(text.encode()):08x}\n".encode()


_EPOCH = re.compile(rb"((\d{1,10}) ([0-9a-f]{32})) ([0-9a-f]{8})\n")


def read_epoch(data: bytes) -> Epoch | None:
    """The epoch; None when the bytes are not what was written."""
    match = _EPOCH.fullmatch(data)
    if match is None or crc32(match[1]) != int(match[4], 16):
        return None
    return Epoch(int(match[2]), bytes.fromhex(match[3].decode()))
