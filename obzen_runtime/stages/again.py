"""A source that begins anew gives again what the journal holds already: that is passed over, and must be the same.

While it goes well a checksum is compared, so that passing over costs no reading. When the checksum is another one,
the source gives its items once more and each is held against the log, so that the error names the first that differs.
"""

import zlib
from collections import deque
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import msgspec

from obzen_runtime.events import Block, DeadLetter, Record
from obzen_runtime.journal import Journal
from obzen_runtime.kernel import ConfigInvalid, NotFound
from obzen_runtime.stages.codec import Codec, difference
from obzen_runtime.stages.items import At, Bad, raw_of
from obzen_runtime.stages.step import LARGEST
from obzen_runtime.stages.versions import Undecoded

__all__ = ["Again", "chain", "chain_items", "no_offset", "not_repeatable"]

_ARRAY_16, _ARRAY_32 = 0xDC, 0xDD
_NO_EVENT = b"\xc1"
"""A byte that msgpack never writes: stands before what is no event."""
_SHOWN = 100
_REFUSED = frozenset({"undeclared_type", "not_encodable", "too_large"})
"""Codes of letters about items that the source may not give."""
_BLOCKS: frozenset[type[Record]] = frozenset({Block})
_BLOCKS_AND_LETTERS: frozenset[type[Record]] = frozenset({Block, DeadLetter})
_UNENCODABLE = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, UnicodeError, RecursionError)


def chain(crc: int, payloads: bytes) -> int:
    """Go on with a checksum over the events of one block, wherever its borders are: its array's head does not count."""
    if not payloads:
        return crc
    head = 5 if payloads[0] == _ARRAY_32 else 3 if payloads[0] == _ARRAY_16 else 1
    return zlib.crc32(memoryview(payloads)[head:], crc)


def chain_items(crc: int, codec: Codec, items: Sequence[Any]) -> int:
    """The same over items as a source gives them, bad ones among them."""
    for is_bad, some in groupby(items, key=_is_bad):
        if is_bad:
            for each in some:
                crc = zlib.crc32(raw_of(each), zlib.crc32(_NO_EVENT, crc))
            continue
        good = list(some)
        try:
            crc = chain(crc, codec.encode(good))
        except _UNENCODABLE:
            for each in good:
                payload = _encoded(codec, each)
                crc = zlib.crc32(_NO_EVENT if payload is None else payload, crc)
    return crc


def _is_bad(item: Any) -> bool:
    return type(item) is Bad


def _encoded(codec: Codec, item: Any) -> bytes | None:
    try:
        return codec.encode(item)
    except _UNENCODABLE:
        return None


def not_repeatable(name: str) -> ConfigInvalid:
    """A source that said it cannot give the same items again is asked to."""
    return ConfigInvalid(
        f"source {name!r} is declared repeatable=False and does not seek: it cannot go on where it stood",
        code="not_repeatable",
        remedy="Start a new run, or let the source take `start: oz.Offset | None` and yield oz.At(offset, item).",
        stage=name,
    )


def no_offset(name: str, why: str = "it takes none any more") -> ConfigInvalid:
    """The journal holds an offset that the source cannot begin behind."""
    return _changed(f"source {name!r} changed: the offset it stood at cannot be given back: {why}", name)


def _changed(message: str, name: str, **details: Any) -> ConfigInvalid:
    return ConfigInvalid(
        message, code="source_changed", remedy="Give it the same input again and resume, or start a new run.", stage=name, **details
    )


class Again:
    """What is still to be passed over of `count` items with checksum `crc`, given behind the offset `mark` (or from the start)."""

    def __init__(self, name: str, codec: Codec, journal: Journal, place: tuple[bytes, int, int]) -> None:
        self._name = name
        self._codec = codec
        self._journal = journal
        self._mark, self._count, self._crc = place
        self.left = self._count
        self._seen = 0
        self._recorded: _Recorded | None = None

    async def took(self, items: Sequence[Any]) -> bool:
        """Compare what the source gave, at most `left`; False when it must give all of them once more, to be held against the log.

        Raises `ConfigInvalid` (`source_changed`) at the first difference.
        """
        given = [item.item if type(item) is At else item for item in items]
        self.left -= len(given)
        if self._recorded is not None:
            try:
                for item in given:
                    await self._recorded.compare(item)
            except NotFound as error:  # dropped while it was read
                raise self._forgotten() from error
            return True
        self._seen = chain_items(self._seen, self._codec, given)
        if self.left or self._seen == self._crc:
            return True
        start = await self._beginning()
        if start is None:
            raise self._forgotten()
        self._recorded = _Recorded(self._name, self._codec, self._journal, start)
        self.left = self._count
        return False

    def _forgotten(self) -> ConfigInvalid:
        return _changed(
            f"source {self._name!r} changed: the {self._count} items it gives again are not those it had given, "
            "which the journal no longer holds",
            self._name,
        )

    async def _beginning(self) -> int | None:
        """The position in the log behind which the items stand; None when it no longer holds them."""
        if not self._mark:
            return 0 if self._journal.first == 1 else None
        found = None
        async for position, record in self._journal.read(kinds=_BLOCKS):
            if isinstance(record, Block) and record.stage == self._name and (cursor := record.cursor) is not None:
                found = position if cursor.mark == self._mark and not cursor.since else found
        return found

    def ended(self) -> None:
        """The source gives nothing more: raises `ConfigInvalid` (`source_changed`) when items are missing."""
        if self.left:
            given = self._count - self.left
            what = "items behind its last offset" if self._mark else "items"
            raise _changed(
                f"source {self._name!r} changed: it gave {given} {what} where it had given {self._count}",
                self._name,
                given=given,
                recorded=self._count,
            )


class _Recorded:
    """The items of one source that stand in the log behind a position: its events, and beside them its bad rows."""

    def __init__(self, name: str, codec: Codec, journal: Journal, start: int) -> None:
        self._name = name
        self._codec = codec
        self._events: deque[tuple[int, Any]] = deque()
        self._rows: deque[DeadLetter] = deque()
        self._entries = journal.read(start + 1, kinds=_BLOCKS_AND_LETTERS)
        self._begun = False
        """A block was read: letters before it belong to one that stands before the start."""

    async def compare(self, item: Any) -> None:
        """Hold the next item against what is recorded. Raises `ConfigInvalid` (`source_changed`) when they differ."""
        if type(item) is Bad:
            await self._read_on(self._rows)
            row = self._rows.popleft() if self._rows else None
            if row is None or row.payload != raw_of(item):
                where = f"bad row {(row.place if row else item.place) or 'without a place'}"
                raise self._differs(where, _shown(raw_of(item)), _shown(row.payload) if row is not None else "an event")
            return
        if self._refused(item):  # its letter does not hold it
            return
        await self._read_on(self._events)
        if not self._events:
            raise self._differs("an item", _shown(item), "a bad row")
        ordinal, recorded = self._events.popleft()
        if isinstance(recorded, Undecoded):
            return  # nobody can say any more what it was
        found = difference(recorded, item, "")
        if found is not None:
            path, was, now = found
            raise self._differs(f"{self._name}@{ordinal}{path}", _shown(now), _shown(was))

    def _refused(self, item: Any) -> bool:
        """Whether the source may not give such an item, so that it became a dead letter."""
        kind = type(item)
        if kind not in self._codec.known and not self._codec.learn(kind):
            return True
        payload = _encoded(self._codec, item)
        return payload is None or len(payload) > LARGEST

    async def _read_on(self, wanted: deque[Any]) -> None:
        while not wanted and (entry := await anext(self._entries, None)) is not None:
            match entry.record:
                case Block(stage=stage, base=base) if stage == self._name:
                    self._begun = True
                    self._events.extend(enumerate(self._codec.decode(entry.record), base))
                case DeadLetter(stage=stage) if stage == self._name and self._begun and entry.record.error.code not in _REFUSED:
                    self._rows.append(entry.record)

    def _differs(self, where: str, now: str, was: str) -> ConfigInvalid:
        return _changed(f"source {self._name!r} changed: {where} is {now}, it was {was}", self._name, where=where)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
