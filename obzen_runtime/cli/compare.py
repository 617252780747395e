"""Two runs beside each other, stage by stage, without the flow's code: what each is, gave, delivered and lost.

Events are compared by their number in their stage; where blocks begin and end does not matter. Each stage takes a pass
over both logs, so that memory stays small whatever lies between the same event in the two.
"""

from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from obzen_runtime.cli.ancestry import Ancestors, Map
from obzen_runtime.descent import Found
from obzen_runtime.events import (
    ActorRestarted,
    Block,
    DeadLetter,
    Receipt,
    Record,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunForked,
    RunResumed,
    RunStarted,
)
from obzen_runtime.journal import Manifest, RunDirectory, SegmentReader, run_started
from obzen_runtime.kernel import ObzenError

__all__ = ["Change", "Difference", "Side", "first_difference", "first_letter", "manifest_changes"]

_BLOCKS: frozenset[type[Record]] = frozenset({Block})
_LETTERS: frozenset[type[Record]] = frozenset({DeadLetter})
_FEW = 3


class Change(msgspec.Struct, frozen=True):
    """Something of a manifest that is not the same."""

    what: str
    a: Any
    b: Any


class Side:
    """One of the two runs, looked through once."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self.reader = SegmentReader.open(run.path)
        self.manifest: Manifest | None = None
        self.started: RunStarted | None = None
        self.map = Map(())
        self.stop: int | None = None
        """The position behind what was looked at: what a living run wrote since is not compared."""
        self.events: Counter[str] = Counter()
        """Per stage the events it gave."""
        self.taken: Counter[str] = Counter()
        """Per stage the events it took."""
        self.letters: Counter[str] = Counter()
        """Per stage its dead letters."""
        self.restarts: Counter[str] = Counter()
        self.end: RunCompleted | RunFailed | RunCancelled | None = None
        self.forked: tuple[int, RunForked] | None = None
        """Where it left the run whose past it shares."""

    @property
    def name(self) -> str:
        return str(self.run.run_id)

    @property
    def stages(self) -> list[str]:
        """Its stages in their order."""
        return [info.name for info in self.started.stages] if self.started is not None else sorted({*self.events, *self.taken})

    def types(self, stage: str) -> tuple[str, ...]:
        """The declared output types of a stage."""
        return self.map.types(stage)

    async def look(self) -> None:
        """Read the log once."""
        try:
            self.manifest = self.run.read_manifest()
        except ObzenError:
            self.manifest = None
        self.started = await run_started(self.reader)
        self.map = Map(self.started.stages if self.started is not None else ())
        self.stop = self.reader.refresh() + 1
        async for position, record in self.reader.read(stop=self.stop):
            self._take(position, record)
            self.map.feed(position, record)

    def _take(self, position: int, record: Record) -> None:
        match record:
            case Block() | Receipt():
                if isinstance(record, Block):
                    self.events[record.stage] = max(self.events[record.stage], record.base + record.count)
                if record.cursor is not None:
                    self.taken[record.stage] = record.cursor.taken
            case DeadLetter(stage=stage):
                self.letters[stage] += 1
            case RunResumed():
                self.end = None
            case RunForked():
                self.forked, self.end = (position, record), None
            case ActorRestarted(actor=actor):
                self.restarts[actor] += 1
            case RunCompleted() | RunFailed() | RunCancelled():
                self.end = record

    async def blocks(self, stage: str) -> AsyncGenerator[Block, None]:
        """The blocks of a stage that hold events."""
        async for _, record in self.reader.read(stop=self.stop, kinds=_BLOCKS):
            if isinstance(record, Block) and record.stage == stage and record.count:
                yield record

    async def dead(self, stage: str) -> AsyncGenerator[DeadLetter, None]:
        """The dead letters of a stage."""
        async for _, record in self.reader.read(stop=self.stop, kinds=_LETTERS):
            if isinstance(record, DeadLetter) and record.stage == stage:
                yield record

    async def event(self, stage: str, ordinal: int) -> Found | None:
        """An event with what it comes of; None when there is none."""
        if ordinal >= self.events[stage]:
            return None
        return await Ancestors(self.reader, self.map, few=_FEW, resolve={}).of(stage, ordinal, 1)


def manifest_changes(a: Manifest, b: Manifest) -> list[Change]:
    """What the two were started with and made of that is not the same, paths and times aside."""
    found = [Change(name, getattr(a, name), getattr(b, name)) for name in ("flow", "file", "variable", "durability", "platform")]
    for name in ("parameters", "options", "versions"):
        one, other = _flat(name, getattr(a, name)), _flat(name, getattr(b, name))
        found += [Change(key, one.get(key), other.get(key)) for key in sorted({*one, *other})]
    for name, words in (("code", "code of {}"), ("schemas", "types of {}")):
        one, other = getattr(a, name), getattr(b, name)
        for stage in dict.fromkeys([*one, *other]):
            both = one.get(stage), other.get(stage)
            found.append(Change(words.format(stage), *(value and value[:12] for value in both)))
    return [change for change in found if change.a != change.b]


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    return {key: inner for name, each in value.items() for key, inner in _flat(f"{prefix}.{name}", each).items()}


class Difference(msgspec.Struct, omit_defaults=True):
    """The first event of a stage that is not the same in both."""

    event: str
    a: Found | None
    """None: the run has no such event."""
    b: Found | None
    why: str = ""
    """`stage`: of the same inputs it made something else; `inputs`: those differ already; `source`: it has none; `end`: one gave more."""


async def first_difference(a: Side, b: Side, stage: str) -> Difference | None:
    """The first event of a stage that differs in value or type; None when one stream is not even longer than the other."""
    ordinal = await _first(a, b, stage)
    if ordinal is None:
        return None
    one, other = await a.event(stage, ordinal), await b.event(stage, ordinal)
    why = _why(one, other)
    if why == "stage" and one is not None:  # of many inputs only the first were looked at
        for upstream in one.more:
            why = "inputs" if await _first(a, b, upstream) is not None else why
    return Difference(f"{stage}@{ordinal}", one, other, why)


def _why(a: Found | None, b: Found | None) -> str:
    if a is None or b is None:
        return "end"
    if not a.events and not b.events:
        return "source"
    return "stage" if _inputs(a) == _inputs(b) else "inputs"


def _inputs(node: Found) -> tuple[list[tuple[str, str, bytes]], dict[str, int]]:
    return [(each.event, each.type, msgspec.msgpack.encode(each.payload)) for each in node.events], node.more


async def _first(a: Side, b: Side, stage: str) -> int | None:
    """Number of the first event that differs."""
    types = a.types(stage), b.types(stage)
    async with aclosing(_spans(a, stage)) as left, aclosing(_spans(b, stage)) as right:
        one, other = await anext(left, None), await anext(right, None)
        while one is not None and other is not None:
            place = one.differs(other, types)
            if place is not None:
                return place
            stop = min(one.stop, other.stop)
            if one.stop == stop:
                one = await anext(left, None)
            if other is not None and other.stop == stop:
                other = await anext(right, None)
        rest = one or other
        return None if rest is None else max(rest.start, min(a.events[stage], b.events[stage]))


class _Span:
    """The events of a block, split when that is needed."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.start = block.base
        self.stop = block.base + block.count
        self._raws: list[bytes] | None = None

    def differs(self, other: "_Span", types: tuple[Sequence[str], Sequence[str]]) -> int | None:
        """Number of the first event both hold and that is not the same."""
        one, two = self.block, other.block
        if types[0] == types[1] and (one.base, one.count, one.payloads, one.types) == (two.base, two.count, two.payloads, two.types):
            return None
        for ordinal in range(max(self.start, other.start), min(self.stop, other.stop)):
            if self.at(ordinal, types[0]) != other.at(ordinal, types[1]):
                return ordinal
        return None

    def at(self, ordinal: int, types: Sequence[str]) -> tuple[bytes, str | int]:
        """An event's bytes and type."""
        if self._raws is None:
            self._raws = [bytes(raw) for raw in msgspec.msgpack.decode(self.block.payloads, type=list[msgspec.Raw])]
        place = ordinal - self.start
        index = self.block.types if isinstance(self.block.types, int) else self.block.types[place]
        return self._raws[place], types[index] if index < len(types) else index


async def _spans(side: Side, stage: str) -> AsyncGenerator[_Span, None]:
    async for block in side.blocks(stage):
        yield _Span(block)


async def first_letter(a: Side, b: Side, stage: str) -> tuple[DeadLetter | None, DeadLetter | None] | None:
    """The first dead letters of a stage that are not the same; None when all are."""
    async with aclosing(a.dead(stage)) as left, aclosing(b.dead(stage)) as right:
        while True:
            one, other = await anext(left, None), await anext(right, None)
            if one is None and other is None:
                return None
            if one is None or other is None or _told(one) != _told(other):
                return one, other


def _told(letter: DeadLetter) -> tuple[object, ...]:
    error = letter.error
    return letter.upstream, letter.event, letter.payload, letter.place, error.code, error.type, error.message
