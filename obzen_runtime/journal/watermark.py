"""How far the log reached, kept outside of it: catches a tail that is cut exactly between two frames.

Every append stores the new head, every sync what is durable. The file is mapped, so a store costs less than a
microsecond and survives the death of the process; two slots are written in turn, so that one of them is whole at any
instruction. The fence behind them holds the epoch of the newest writer; an older one sees it before it writes.

    WATERMARK, 136 bytes, little-endian: slot 0, slot 1, fence

    slot, 64 bytes
     0  u32  crc, over bytes 32…63, 4…7 and 8…31 in this order
     4  u16  magic
     6  u16  flags (1: closed cleanly)
     8  u64  counter: the higher counts
    16  u64  position written
    24  u64  position synced
    32  16s  boot id of the writer
    48  16s  journal id

    fence at 128
     0  u64  epoch of the newest writer; a signal, not a fact: EPOCH is the fact
"""

import struct
from typing import NamedTuple
from zlib import crc32

__all__ = ["FENCE", "FENCE_AT", "WATERMARK_BYTES", "Marker", "Watermark", "new_watermark", "read_watermark"]

_SLOT = struct.Struct("<IHHQQQ16s16s")
_MAGIC = 0x4D57  # "WM"
_KIND = struct.Struct("<HH")
_REACHED = struct.Struct("<QQQ")
_NAMES_AT = _SLOT.size - 32
FENCE = struct.Struct("<Q")
FENCE_AT = 2 * _SLOT.size
WATERMARK_BYTES = FENCE_AT + FENCE.size


class Watermark(NamedTuple):
    """The newer valid slot."""

    closed: int
    """1 after a clean close: the last segment ends with its seal."""
    counter: int
    written: int
    """Position written. Counts only in the run of the machine that wrote it."""
    durable: int
    """Position synced."""
    boot: bytes
    journal: bytes


def new_watermark() -> bytes:
    """The content of a file that says nothing yet."""
    return bytes(WATERMARK_BYTES)


def read_watermark(data: bytes | memoryview) -> Watermark | None:
    """The newer of the valid slots."""
    newest: Watermark | None = None
    if len(data) != WATERMARK_BYTES:
        return None
    for offset in (0, _SLOT.size):
        crc, magic, *fields = _SLOT.unpack_from(data, offset)
        slot = data[offset : offset + _SLOT.size]
        valid = crc32(slot[8:_NAMES_AT], crc32(slot[4:8], crc32(slot[_NAMES_AT:]))) == crc
        if valid and magic == _MAGIC and (newest is None or fields[1] > newest.counter):
            newest = Watermark._make(fields)
    return newest


class Marker:
    """Stores in a mapped WATERMARK."""

    __slots__ = ("_counter", "_names", "_seed", "_view")

    def __init__(self, view: memoryview, *, boot: bytes, journal: bytes, counter: int) -> None:
        """Stores nothing yet. `counter`: of the newest slot there is."""
        self._view = view
        self._names = boot + journal
        self._counter = counter
        self._seed = crc32(_KIND.pack(_MAGIC, 0), crc32(self._names))

    def reached(self, written: int, durable: int) -> None:
        """Store both positions; the slot before stays. Both slots must bear our names: see `restart`."""
        self._counter = counter = self._counter + 1
        crc = crc32(_REACHED.pack(counter, written, durable), self._seed)
        _PACK_SLOT(self._view, (counter & 1) << 6, crc, _MAGIC, 0, counter, written, durable)

    def restart(self, position: int, *, closed: bool) -> None:
        """Store in both slots, one after the other, that all up to `position` is written and durable."""
        for _ in range(2):
            self._counter += 1
            packed = _REACHED.pack(self._counter, position, position)
            crc = crc32(packed, crc32(_KIND.pack(_MAGIC, closed), crc32(self._names)))
            offset = (self._counter & 1) * _SLOT.size
            head = _HEAD.pack(crc, _MAGIC, closed, self._counter, position, position)
            self._view[offset : offset + _SLOT.size] = head + self._names


_HEAD = struct.Struct("<IHHQQQ")
_PACK_SLOT = _HEAD.pack_into
