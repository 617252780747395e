"""From lists of payloads to the bytes of a block and back, one call a block, and the sample that proves it.

A payload that comes back different would make a restart or a replay differ from the live run without a word. So
the first 64 events of a stage and one block in 256 are decoded and compared, types included.
"""

import dataclasses
import datetime
import decimal
import hashlib
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from obzen_runtime.events import Block, SchemaChange
from obzen_runtime.kernel import ProtocolViolated
from obzen_runtime.stages.schema import Declared
from obzen_runtime.stages.versions import Reader, Undecoded, versions_of

__all__ = ["LATEST", "Codec", "difference", "schema_fingerprint"]

_ENCODE = msgspec.msgpack.Encoder().encode
_FIRST = 64
_ONE_IN = 256
_PLAIN = frozenset({int, str, bool, bytes, type(None)})


LATEST = 1 << 62
"""Stands for the ordinal of an event that is of the newest schema in the log."""


class _Era(NamedTuple):
    """Events from ordinal `since` up to `until` were written under one schema."""

    since: int
    until: int
    reader: Reader


class Codec:
    """Encodes and decodes the events of one stage, whose declared types are `declared`."""

    __slots__ = (
        "_blocks",
        "_decoders",
        "_eras",
        "_events",
        "_index",
        "_learned",
        "_raws",
        "_until",
        "_whole",
        "copies",
        "declared",
        "known",
        "stage",
    )

    def __init__(self, stage: str, declared: Sequence[Declared]) -> None:
        self.stage = stage
        self.declared = tuple(declared)
        self.copies = any(each.copied for each in declared)
        self._index: dict[type, int] = {each.origin: number for number, each in reversed(list(enumerate(declared)))}
        self.known = frozenset(self._index)
        self._whole = [msgspec.msgpack.Decoder(list[each.annotation]) for each in declared]  # type: ignore[name-defined]
        self._decoders = [msgspec.msgpack.Decoder(each.annotation) for each in declared]
        self._raws = msgspec.msgpack.Decoder(list[msgspec.Raw])
        self._events = 0
        self._blocks = 0
        self._learned = False
        """A class was learned since the last proof."""
        self._eras: tuple[_Era, ...] = ()
        self._until = 0
        """Events below this ordinal may be of an earlier schema."""

    encode = staticmethod(_ENCODE)
    """A list of payloads, or one payload, to bytes. Raises what msgspec raises for what it cannot encode."""

    def learn(self, kind: type) -> bool:
        """Whether events of this class may leave the stage: a declared class, or a subclass of one (nearest first).

        Most subclasses are read back as the class that was declared, so the block that brings one is proved.
        """
        named = (each for each in tuple(self._index) if issubclass(kind, each))  # such as a dict where a Mapping is declared
        for base in (*kind.__mro__, *named):
            if base in self._index:
                self._index[kind] = self._index[base]
                self.known = frozenset(self._index)
                self._learned = True
                return True
        return False

    def types(self, items: Sequence[object], kinds: set[type]) -> int | bytes:
        """The `types` column for items of these classes."""
        numbers = {self._index[kind] for kind in kinds}
        if len(numbers) <= 1:
            return numbers.pop() if numbers else 0
        index = self._index
        return bytes([index[type(item)] for item in items])

    def written(self, wrote: Sequence[SchemaChange]) -> None:
        """Learn under which schemas the stage's events stand in the log, in order; the last one may be today's."""
        now = self.schema(0)
        stops = [*(change.since for change in wrote[1:]), sys.maxsize]
        eras = [(change, stop) for change, stop in zip(wrote, stops, strict=True) if change.since < stop]
        while eras and msgspec.structs.replace(eras[-1][0], since=0) == now:
            eras.pop()
        self._eras = tuple(_Era(change.since, stop, Reader(self.stage, self.declared, change.versions)) for change, stop in eras)
        self._until = eras[-1][1] if eras else 0

    def schema(self, since: int) -> SchemaChange:
        """Today's schema of the stage's events, as what holds from ordinal `since` on."""
        return SchemaChange(since, schema_fingerprint(self.declared), versions_of(self.declared))

    def earlier(self, ordinal: int) -> bool:
        """Whether the event of that ordinal may be of an earlier schema, so that it may not be readable any more."""
        return ordinal < self._until

    def decode(self, block: Block) -> list[Any]:
        """The payloads of a block of this stage; `Undecoded` stands for what nobody can read any more."""
        if block.base < self._until:
            return self._migrated(block)
        try:
            return self.read(block)
        except (msgspec.MsgspecError, IndexError):  # the same types with a check that was not there before, or fewer of them
            return Reader(self.stage, self.declared, versions_of(self.declared)).read(block)

    def _migrated(self, block: Block) -> list[Any]:
        return self._reader(block).read(block) if block.count else []

    def _reader(self, block: Block) -> Reader:
        return next(era.reader for era in self._eras if era.since <= block.base < era.until)

    def kinds(self, block: Block) -> list[type]:
        """The class of each event of a block, or of what stands in its place today, without decoding it."""
        numbers = [block.types] * block.count if isinstance(block.types, int) else list(block.types)
        if block.base < self._until:
            return self._reader(block).kinds(numbers)
        return [self.declared[number].origin if number < len(self.declared) else Undecoded for number in numbers]

    def today(self, block: Block) -> Block:
        """The block as it would be written now; itself, where that is so or some event cannot be decoded."""
        if block.base >= self._until or not block.count:
            return block
        items = self._migrated(block)
        kinds = set(map(type, items))
        if Undecoded in kinds or not all(kind in self.known or self.learn(kind) for kind in kinds):
            return block
        return msgspec.structs.replace(block, payloads=self.encode(items), types=self.types(items, kinds))

    def read(self, block: Block) -> list[Any]:
        """The payloads of a block that was written under today's schema, whatever its ordinals."""
        if not block.count:
            return []
        if isinstance(block.types, int):
            return self._whole[block.types].decode(block.payloads)
        decoders = self._decoders
        return [decoders[number].decode(raw) for number, raw in zip(block.types, self._raws.decode(block.payloads), strict=True)]

    def sample_due(self, count: int) -> int:
        """How many events of this block of `count` are to be proved, from its first; counts the block."""
        self._blocks += 1
        whole = self._learned or self._blocks % _ONE_IN == 0
        due = count if whole else min(count, max(0, _FIRST - self._events))
        self._learned = False
        self._events += count
        return due

    def prove(self, items: Sequence[object], block: Block) -> None:
        """Decode a block and compare its first events with `items`, what was encoded; raises `ProtocolViolated` (`codec_mismatch`)."""
        try:
            decoded = self.read(block)
        except msgspec.MsgspecError as error:
            raise ProtocolViolated(
                f"stage {self.stage!r}: an event does not decode as {self._text()}: {error}",
                code="codec_mismatch",
                remedy="Return exactly the declared types.",
                stage=self.stage,
            ) from error
        for number, (got, back) in enumerate(zip(items, decoded[: len(items)], strict=True)):
            where = difference(got, back, "")
            if where is not None:
                path, sent, received = where
                raise ProtocolViolated(
                    f"stage {self.stage!r}, event {self.stage}@{block.base + number}: "
                    f"{type(got).__name__}{path} is {sent!r} ({type(sent).__name__}) live "
                    f"and {received!r} ({type(received).__name__}) when read back",
                    code="codec_mismatch",
                    remedy="Give times in UTC: moment.astimezone(datetime.UTC)."
                    if isinstance(sent, datetime.datetime)
                    else "Return exactly the declared types: a float field wants a float, also for whole numbers.",
                    stage=self.stage,
                    field=path or "event",
                )

    def _text(self) -> str:
        return " | ".join(each.text for each in self.declared)


def schema_fingerprint(declared: Iterable[Declared]) -> str:
    """SHA-256 of the JSON Schemas of declared types, in order."""
    schemas = [_json_schema(each) for each in declared]
    return hashlib.sha256(msgspec.json.encode(schemas, order="sorted")).hexdigest()


def _json_schema(declared: Declared) -> Any:
    try:
        return msgspec.json.schema(declared.annotation)
    except TypeError:  # a type msgspec encodes but has no schema for
        return str(declared.annotation)


def difference(live: Any, back: Any, path: str) -> tuple[str, Any, Any] | None:
    """The first place where two payloads differ, types included, as (path, live value, value read back).

    Payloads may be nested deeper than functions may call themselves.
    """
    waiting = [(path, live, back)]
    while waiting:
        place = waiting.pop()
        parts = _parts(*place)
        if parts is None:
            return place
        waiting.extend(reversed(parts))
    return None


_Places = list[tuple[str, Any, Any]]


def _parts(path: str, live: Any, back: Any) -> _Places | None:
    """The parts of two values that are still to be compared; None when they differ already."""
    kind = type(live)
    if kind is not type(back):
        return None
    if kind in _PLAIN:
        return [] if live == back else None
    if isinstance(live, msgspec.Struct):
        return [(f"{path}.{name}", getattr(live, name), getattr(back, name)) for name in live.__struct_fields__]
    if dataclasses.is_dataclass(kind):
        return [(f"{path}.{each.name}", getattr(live, each.name), getattr(back, each.name)) for each in dataclasses.fields(kind)]
    if isinstance(live, list | tuple):
        if len(live) != len(back):
            return None
        return [(f"{path}[{number}]", one, other) for number, (one, other) in enumerate(zip(live, back, strict=True))]
    if kind is dict:
        if list(live) != list(back) or any(type(one) is not type(other) for one, other in zip(live, back, strict=True)):
            return None
        return [(f"{path}[{key!r}]", live[key], back[key]) for key in live]
    return [] if _same(live, back) else None


def _same(live: Any, back: Any) -> bool:
    """Whether two values of one class that has no parts are the same."""
    if isinstance(live, float | decimal.Decimal):  # NaN equals itself here, 1.0 is not 1.00
        return repr(live) == repr(back)
    if isinstance(live, set | frozenset):
        return {(type(each), each) for each in live} == {(type(each), each) for each in back}
    if isinstance(live, datetime.datetime) and live.utcoffset() != back.utcoffset():
        return False
    return bool(live == back)
