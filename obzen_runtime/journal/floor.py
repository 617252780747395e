"""Where a journal begins whose first segments were dropped, and the dropping itself.

A journal without its first segments is damaged, unless FLOOR says that it was on purpose: FLOOR names the first
position kept, the link its segment continues, and the `Dropped` record in the log that says the same. The order is

    1  the record is appended, and everything written so far is synced
    2  FLOOR is replaced
    3  the segments below it are moved to the archive or removed, the oldest first

so that a crash before 2 leaves the journal whole, and one after it leaves segments that the next opening sweeps away.

    FLOOR, one line: the fields of `Floor` in JSON, a space, their crc in hexadecimal
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from zlib import crc32

import msgspec

from obzen_runtime.journal.format import segment_start
from obzen_runtime.kernel import Files

__all__ = ["BEGINNING", "Floor", "read_floor", "sweep"]


class Floor(msgspec.Struct, frozen=True):
    """Where what is kept begins."""

    position: int
    """The first position kept."""
    link: int
    """What the header of its segment is linked to: the seal of the segment before it."""
    record: int
    """Position of the `Dropped` record that tells of it."""
    journal: str
    """The journal's id, in hexadecimal."""
    archive: str = ""
    """Directory that holds the segments below; empty when they were deleted."""

    def encode(self) -> bytes:
        text = msgspec.json.encode(self)
        return b"%s %08x\n" % (text, crc32(text))


BEGINNING = Floor(1, 0, 0, "")
"""Of a journal that has all its segments."""


def read_floor(data: bytes) -> Floor | None:
    """The floor; None when the bytes are not what was written."""
    text, _, check = data.rpartition(b" ")
    if check != b"%08x\n" % crc32(text):
        return None
    with suppress(msgspec.DecodeError):
        return msgspec.json.decode(text, type=Floor)
    return None


def sweep(files: Files, paths: Sequence[Path], archive: str) -> None:
    """Move segments to the archive, or remove them; again after a crash is fine. Raises OSError."""
    if not paths:
        return
    if archive:
        there = Path(archive)
        if not files.exists(there):
            files.make_directory(there)
            files.sync_directory(there.parent)
        for path in paths:
            _copy(files, path, there / path.name)
        files.sync_directory(there)
    for path in sorted(paths, key=lambda path: segment_start(path.name) or 0):
        files.remove(path)
    files.sync_directory(paths[0].parent)


def _copy(files: Files, path: Path, target: Path) -> None:
    """The same file under another name, or another file with the same bytes where that cannot be."""
    if files.exists(target) and files.size(target) == files.size(path) and files.read(target) == files.read(path):
        return
    try:
        files.link(path, target)
    except OSError:
        files.replace(target, files.read(path))
