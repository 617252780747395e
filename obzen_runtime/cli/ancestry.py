"""What an event comes of, walked backwards: each event's parents, theirs, and so on to the sources.

A log is read forwards, so one pass keeps a sparse map of where each stage's events stand; a step back reads the few
frames behind a known place. The map and the histories stay small however long the log is.
"""

from array import array
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from obzen_runtime.cli.show import payloads_of
from obzen_runtime.descent import Found
from obzen_runtime.events import Block, DeadLetter, Receipt, Record, Since, StageInfo
from obzen_runtime.journal import SegmentReader
from obzen_runtime.lineage import History, Range, parents_of

__all__ = ["Ancestors", "Map", "Resolve", "found_in", "letter_found"]

_MOST = 4096
_LETTERS = "dead_letters"
_STANDING: frozenset[type[Record]] = frozenset({Block, DeadLetter})
_REMEMBERING = ("fold", "stateful", "top")

Resolve = Callable[[Block, int], Awaitable[Sequence[Range]]]
"""For an output that comes of many inputs, those of them that it does come of."""


class _Places:
    """Where some of a stage's blocks stand; every second one is forgotten when there are too many."""

    def __init__(self) -> None:
        self.bases = array("q")
        self.positions = array("q")
        self.stop = 0
        self._each = 1
        self._met = 0

    def add(self, base: int, count: int, position: int) -> None:
        self.stop = base + count
        if self._met % self._each == 0:
            self.bases.append(base)
            self.positions.append(position)
            if len(self.bases) >= _MOST:
                self.bases, self.positions, self._each = self.bases[::2], self.positions[::2], self._each * 2
        self._met += 1

    def before(self, ordinal: int) -> int | None:
        """A position at or before the block that holds this ordinal."""
        place = bisect_right(self.bases, ordinal) - 1
        return self.positions[place] if place >= 0 else None


class Map:
    """Made in one pass over a log: where events stand, and what stages that remember have taken."""

    def __init__(self, infos: Iterable[StageInfo]) -> None:
        self.infos = {info.name: info for info in infos}
        self.places: dict[str, _Places] = {}
        self.histories = {name: History() for name, info in self.infos.items() if info.kind in _REMEMBERING}

    def feed(self, position: int, record: Record) -> None:
        """Take the next record."""
        match record:
            case Block(stage=stage, base=base, count=count) if count:
                self.places.setdefault(stage, _Places()).add(base, count, position)
            case DeadLetter(ordinal=ordinal):
                self.places.setdefault(_LETTERS, _Places()).add(ordinal, 1, position)
        if isinstance(record, Block | Receipt) and (history := self.histories.get(record.stage)) is not None:
            history.feed(record)

    def types(self, stage: str) -> tuple[str, ...]:
        """The declared output types of a stage."""
        info = self.infos.get(stage)
        return info.types if info is not None else ()


def found_in(position: int, block: Block, number: int, types: Sequence[str]) -> Found:
    """The node of one event of a block."""
    payloads = payloads_of(block.payloads)
    index = block.types if isinstance(block.types, int) else block.types[number]
    payload: Any = (
        payloads[number] if payloads is not None and number < len(payloads) else f"<cannot be decoded, {len(block.payloads)} bytes>"
    )
    name = types[index] if index < len(types) else f"type {index}"
    return Found(f"{block.stage}@{block.base + number}", name, block.at, position, payload)


def letter_found(position: int, letter: DeadLetter) -> Found:
    """The node of a dead letter."""
    error = f"{letter.error.type or letter.error.code}: {letter.error.message}"
    place = {"place": letter.place} if letter.place else {}
    return Found(f"{_LETTERS}@{letter.ordinal}", "DeadLetter", letter.at, position, {"stage": letter.stage, "error": error, **place})


class Ancestors:
    """Walks back from events. `few` parents of each are followed, `resolve` tells which of many, where the code can."""

    def __init__(self, reader: SegmentReader, known: Map, *, few: int, resolve: dict[str, Resolve]) -> None:
        self._reader = reader
        self._map = known
        self._few = few
        self._resolve = resolve
        self._seen: set[tuple[str, int]] = set()
        self._held: tuple[int, Block] | None = None

    async def of(self, stage: str, ordinal: int, depth: int) -> Found | None:
        """The event with what it comes of, `depth` steps back; None when it is not kept."""
        at, record = await self._locate(stage, ordinal)
        if isinstance(record, DeadLetter):
            node = letter_found(at, record)
            parents: Sequence[Range] = (Range(record.upstream, record.event, record.event + 1),) if record.upstream else ()
        elif record is not None:
            node = found_in(at, record, ordinal - record.base, self._map.types(stage))
            parents = await self._parents(record, ordinal - record.base, node)
        else:
            return None
        if (stage, ordinal) in self._seen and parents:
            node.again = True
            return node
        self._seen.add((stage, ordinal))
        if depth > 0:
            await self._follow(node, parents, depth - 1)
        return node

    async def _follow(self, node: Found, parents: Sequence[Range], depth: int) -> None:
        for upstream in dict.fromkeys(each.stage for each in parents):
            ranges = [each for each in parents if each.stage == upstream]
            total = sum(each.stop - each.start for each in ranges)
            shown = 0
            for ordinal in islice(_ordinals(ranges), self._few if total > self._few else None):
                above = await self.of(upstream, ordinal, depth)
                node.events.append(above if above is not None else Found(f"{upstream}@{ordinal}", "no longer kept"))
                shown += 1
            if total > shown:
                node.more = {**node.more, upstream: total - shown}

    async def _parents(self, block: Block, number: int, node: Found) -> Sequence[Range]:
        if not isinstance(block.parents, Since):
            return next(islice(parents_of(block), number, None), ())
        resolve = self._resolve.get(block.stage)
        if resolve is not None:
            return await resolve(block, number)
        history, info = self._map.histories.get(block.stage), self._map.infos.get(block.stage)
        if history is None or block.cursor is None:
            return ()
        since, taken = block.parents.since[number], block.cursor.taken
        if info is not None and info.kind == "top":
            taken = since + 1  # what it keeps is the one event that came as this input
        found = history.since(since, taken)
        if info is not None and info.kind == "stateful":
            node.among = sum(each.stop - each.start for each in found)
        return found

    async def _locate(self, stage: str, ordinal: int) -> tuple[int, Block | DeadLetter | None]:
        if self._held is not None and self._held[1].stage == stage and _holds(self._held[1], ordinal):
            return self._held
        places = self._map.places.get(stage)
        start = places.before(ordinal) if places is not None else None
        if start is None:
            return 0, None
        async for position, record in self._reader.read(start, kinds=_STANDING):
            match record:
                case Block() if record.stage == stage and _holds(record, ordinal):
                    self._held = position, record
                    return position, record
                case Block(base=base) if record.stage == stage and base > ordinal:
                    break
                case DeadLetter() if stage == _LETTERS and record.ordinal == ordinal:
                    return position, record
        return 0, None


def _holds(block: Block, ordinal: int) -> bool:
    return block.base <= ordinal < block.base + block.count


def _ordinals(ranges: Iterable[Range]) -> Iterator[int]:
    for each in ranges:
        yield from range(each.start, each.stop)
