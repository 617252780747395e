"""Which of many inputs an output of a keyed stage comes of: known to the flow's code alone, so its key function is asked again."""

from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from obzen_runtime.descent import Marks
from obzen_runtime.events import Block, DeadLetter, Record, Since, Slice, expand
from obzen_runtime.flow import Flow
from obzen_runtime.journal import SegmentReader
from obzen_runtime.kernel import StateFailed
from obzen_runtime.lineage import Range
from obzen_runtime.stages import Codec, Stateful

__all__ = ["Keyed", "keyed_stages"]

_KINDS: frozenset[type[Record]] = frozenset({Block, DeadLetter})


class _NoKey(msgspec.Struct, frozen=True):
    """In the place of the key of an event that the key function fails on."""

    error: str = ""


class Taken(NamedTuple):
    """One input of a stage, with the key it has."""

    number: int
    upstream: str
    ordinal: int
    key: Hashable


def keyed_stages(flow: Flow) -> dict[str, "Keyed"]:
    """The keyed stages of a flow by name."""
    return {name: Keyed(flow, node) for name, node in flow.topology.nodes.items() if isinstance(node, Stateful)}


class Keyed:
    """One keyed stage: fed the log in order, it knows the key of every input, and which input was a key's first."""

    def __init__(self, flow: Flow, node: Stateful) -> None:
        self.name = node.name
        self._node = node
        arcs = flow.topology.upstream(node.name)
        self._routes = {arc.source: arc.routed for arc in arcs}
        self._codecs = {arc.source: Codec(arc.source, flow.topology.outputs[arc.source]) for arc in arcs}
        self.reset()

    def reset(self) -> None:
        """As before the first record."""
        self._waiting: dict[str, deque[Block]] = {source: deque() for source in self._codecs}
        self._first: dict[Hashable, int] = {}
        self._number = 0
        self._open: tuple[Block, list[Any]] | None = None

    def feed(self, record: Record) -> list[Taken]:
        """Take the next record; the inputs that the stage took with it and folded."""
        if not isinstance(record, Block):
            return []
        if record.stage in self._waiting and record.count:
            self._waiting[record.stage].append(record)
        if record.stage != self.name:
            return []
        events = [event for each in record.inputs if isinstance(each, Slice) for event in self._slice(each)]
        number = self._number if record.cursor is None else record.cursor.taken - sum(each[2] for each in events)
        gone = {offset for lost in record.errors if lost.reason in ("dead", "skipped", "undecodable") for offset in expand(lost.runs)}
        found: list[Taken] = []
        for offset, (upstream, ordinal, taken, item) in enumerate(events):
            if not taken:
                continue
            key = _key(self._node.key, item)
            if offset not in gone and not isinstance(key, _NoKey):
                self._first.setdefault(key, number)
                found.append(Taken(number, upstream, ordinal, key))
            number += 1
        self._number = number
        return found

    def first(self, key: Hashable) -> int | None:
        """The number of the first input with this key so far."""
        return self._first.get(key)

    def _slice(self, taken: Slice) -> list[tuple[str, int, bool, Any]]:
        """Per event of a slice its upstream, ordinal, whether the stage takes such events, and the event."""
        blocks, routed = self._waiting[taken.upstream], self._routes[taken.upstream]
        found: list[tuple[str, int, bool, Any]] = []
        while blocks and blocks[0].base < taken.stop:
            block = blocks[0]
            items = self._items(block)
            for ordinal in range(max(taken.start, block.base), min(taken.stop, block.base + block.count)):
                item = items[ordinal - block.base]
                found.append((taken.upstream, ordinal, routed is None or issubclass(type(item), routed), item))
            if block.base + block.count > taken.stop:
                break
            blocks.popleft()
        if len(found) < taken.stop - taken.start:
            raise StateFailed(
                f"{taken.upstream}@{taken.start} to @{taken.stop - 1} are not in the log any more",
                remedy="Trace without --exact, or in the archive",
            )
        return found

    def _items(self, block: Block) -> list[Any]:
        if self._open is None or self._open[0] is not block:
            self._open = block, self._codecs[block.stage].decode(block)
        return self._open[1]

    # -- what it answers ------------------------------------------------------------------------

    async def parents(self, reader: SegmentReader, block: Block, number: int) -> Sequence[Range]:
        """The inputs of the key of a block's output, up to that block."""
        assert isinstance(block.parents, Since)
        since = block.parents.since[number]
        stop = block.cursor.taken if block.cursor is not None else since + 1
        key: Hashable = _NoKey()
        ranges: list[Range] = []
        async for each in self._all(reader):
            if each.number >= stop:
                break
            if each.number == since:
                key = each.key
            if each.key == key:
                _add(ranges, each)
        return ranges

    async def _all(self, reader: SegmentReader) -> AsyncIterator[Taken]:
        self.reset()
        async for entry in reader.read(kinds=_KINDS):
            for each in self.feed(entry.record):
                yield each


def _add(ranges: list[Range], taken: Taken) -> None:
    if ranges and (ranges[-1].stage, ranges[-1].stop) == (taken.upstream, taken.ordinal):
        ranges[-1] = ranges[-1]._replace(stop=taken.ordinal + 1)
    else:
        ranges.append(Range(taken.upstream, taken.ordinal, taken.ordinal + 1))


def _key(function: Callable[[Any], Hashable], item: Any) -> Hashable:
    try:
        key = function(item)
        hash(key)
    except Exception as error:  # noqa: BLE001 - the user's function failed, as it did then: the event has no key
        return _NoKey(repr(error))
    return key


class Watch:
    """Which outputs of a keyed stage come of marked events. Feed it the log, each record after it was marked."""

    def __init__(self, keyed: Keyed, marked: Callable[[str, int], bool]) -> None:
        self._keyed = keyed
        self._marked = marked
        self._keys: set[Hashable] = set()

    def feed(self, record: Record) -> None:
        """Take the next record."""
        for each in self._keyed.feed(record):
            if self._marked(each.upstream, each.ordinal):
                self._keys.add(each.key)

    def given(self, block: Block, marked: Marks) -> Iterable[int]:
        """The outputs of a block that come of them."""
        assert isinstance(block.parents, Since)
        firsts = {self._keyed.first(key) for key in self._keys}
        return (number for number, since in enumerate(block.parents.since) if since in firsts)
