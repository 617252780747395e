"""What a stage took, read from the log again in the order it took it, and whether folding it again gives the same.

A stage's blocks say which slices of which upstream they took; the upstream's blocks, which always stand before them,
hold the payloads. One pass over the log gives both. What a slower stage has not passed yet is kept undecoded, and
beyond `_KEPT` bytes an upstream only its place: it is read again when its turn comes.
"""

from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from obzen_runtime.events import Block, Cursor, DeadLetter, End, Record, RunResumed, Slice, expand
from obzen_runtime.journal import Journal
from obzen_runtime.kernel import ErrorInfo, NotFound, StateFailed
from obzen_runtime.stages.codec import Codec, difference
from obzen_runtime.stages.edge import Edge
from obzen_runtime.stages.step import BlockTooLarge, Made, columns
from obzen_runtime.stages.versions import Undecoded

__all__ = ["GONE", "Comparison", "Past", "Range", "past_inputs"]

_LETTERS = "dead_letters"
_KEPT = 16 * 1024 * 1024
_SHOWN = 200
_KINDS: frozenset[type[Record]] = frozenset({Block, DeadLetter, RunResumed})
GONE = "Restore the dropped segments from their archive, or start a new run; in memory, MemoryJournal(keep=True) keeps all."
"""What to do when records that are needed were dropped."""


class Past(NamedTuple):
    """Inputs taken in one step, and the block that it wrote; without items where none of them could be decoded."""

    source: str
    ordinals: list[int]
    items: list[Any]
    block: Block

    @property
    def aside(self) -> bool:
        """The events could not be decoded and became letters unseen."""
        return any(lost.reason == "undecodable" for lost in self.block.errors)


class _Held:
    """A block, or a letter, that the stage has not passed."""

    __slots__ = ("base", "count", "items", "position", "record")

    def __init__(self, position: int, base: int, count: int) -> None:
        self.position = position
        self.base = base
        self.count = count
        self.record: Block | DeadLetter | None = None
        self.items: list[Any] | None = None


class _Upstream:
    """What one upstream wrote, from where the stage stands."""

    def __init__(self, edge: Edge, journal: Journal, codec: Codec) -> None:
        self._edge = edge
        self._journal = journal
        self._codec = codec
        self._blocks: deque[_Held] = deque()
        self._kept = 0

    def add(self, position: int, record: Block | DeadLetter) -> None:
        base, count = (record.base, record.count) if isinstance(record, Block) else (record.ordinal, 1)
        held = _Held(position, base, count)
        if self._kept < _KEPT:
            held.record = record
            self._kept += _size(record)
        self._blocks.append(held)

    async def take(self, taken: Slice, block: Block) -> Past:
        """The events of a slice. Raises `StateFailed` when they are not in the log."""
        aside = next((lost.runs for lost in block.errors if lost.reason == "undecodable"), None)
        ordinals = [taken.start + offset for offset in expand(aside)] if aside is not None else []
        items: list[Any] = []
        while self._blocks:
            held = self._blocks[0]
            low, high = max(taken.start, held.base), min(taken.stop, held.base + held.count)
            if low < high and aside is None:
                whole = held.items = held.items if held.items is not None else await self._decoded(held)
                for ordinal in range(low, high):
                    item = whole[ordinal - held.base]
                    if isinstance(item, Undecoded):
                        self._refused(item, ordinal)
                    elif self._edge.routed is None or self._edge.delivers(item):
                        ordinals.append(ordinal)
                        items.append(item)
            if held.base + held.count > taken.stop:
                break
            if held.record is not None:
                self._kept -= _size(held.record)
            self._blocks.popleft()
        if not ordinals:
            raise StateFailed(f"{taken.upstream}@{taken.start} to @{taken.stop - 1} are not in the log any more", remedy=GONE)
        return Past(taken.upstream, ordinals, items, block)

    def _refused(self, item: Undecoded, ordinal: int) -> None:
        """What was taken once and cannot be decoded any more cannot be folded again; what went elsewhere does not matter."""
        if self._edge.routed is None or self._edge.routes(item.kind):
            what = f"{self._edge.target} took {self._edge.source}@{ordinal}, which cannot be folded again: {item.error.message}"
            raise StateFailed(what, remedy="Declare @oz.schema(version=..., upcast=...) on the class and resume.")

    async def _decoded(self, held: _Held) -> list[Any]:
        record = held.record
        if record is None:
            async for entry in self._journal.read(held.position, held.position + 1):
                if isinstance(entry.record, Block | DeadLetter):
                    record = entry.record
        return self._codec.decode(record) if isinstance(record, Block) else [record]


def _size(record: Block | DeadLetter) -> int:
    return (len(record.payloads) if isinstance(record, Block) else len(record.payload)) + 64


class Range(NamedTuple):
    """Where reading the past begins: the stage's position there, and the oldest record that holds what it took later."""

    cursor: Cursor = Cursor()
    floor: int = 1


_ALL = Range()


async def past_inputs(
    journal: Journal, stage: str, inputs: Iterable[Edge], codecs: Mapping[str, Codec], *, since: Range = _ALL, until_end: bool = False
) -> AsyncIterator[Past | DeadLetter | RunResumed]:
    """What `stage` took from its `inputs` after `since`, step by step, with the letters it wrote, and each resume of the run.

    With `until_end` it stops where the first of these inputs had ended. Raises `StateFailed` when the log no longer
    reaches back.
    """
    upstreams = {edge.source: _Upstream(edge, journal, codecs[edge.source]) for edge in inputs}
    passed = since.cursor.next
    start = max(since.floor, 1)
    if start < journal.first:
        if since != _ALL:
            raise StateFailed(f"{stage} needs the log from position {start}, and the first kept is {journal.first}", remedy=GONE)
        start = journal.first
        await _nothing_taken_before(journal, stage)
    try:
        async for position, record in journal.read(start, kinds=_KINDS):
            match record:
                case Block(stage=source) if source in upstreams and record.count and record.base + record.count > passed.get(source, 0):
                    upstreams[source].add(position, record)
                case DeadLetter(ordinal=ordinal):
                    if _LETTERS in upstreams and ordinal >= passed.get(_LETTERS, 0):
                        upstreams[_LETTERS].add(position, record)
                    if record.stage == stage:
                        yield record
                case RunResumed():
                    yield record
            if isinstance(record, Block) and record.stage == stage:
                for taken in record.inputs:
                    if until_end and isinstance(taken, End) and taken.upstream in upstreams and taken.end == "natural":
                        return
                    if not isinstance(taken, Slice) or taken.upstream not in upstreams:
                        continue
                    if taken.stop > max(taken.start, passed.get(taken.upstream, 0)):
                        yield await upstreams[taken.upstream].take(taken, record)
    except NotFound as error:
        raise StateFailed(f"{stage} needs the log from position {start} on, which was dropped", remedy=GONE) from error


async def _nothing_taken_before(journal: Journal, stage: str) -> None:
    """The log's beginning was dropped: that may only be while the stage had taken nothing, which its first step says."""
    async for _, record in journal.read(journal.first, kinds=frozenset({Block})):
        if isinstance(record, Block) and record.stage == stage and record.cursor is not None and record.cursor.taken:
            if record.cursor.taken != sum(each.stop - each.start for each in record.inputs if isinstance(each, Slice)):
                raise StateFailed(f"{stage} took inputs before position {journal.first}, the first that is kept", remedy=GONE)
            return


class Comparison:
    """Whether folding again does what was recorded. The first difference counts, unless the stage's code was changed since."""

    def __init__(self, stage: str, codec: Codec) -> None:
        self._stage = stage
        self._codec = codec
        self._failed: dict[tuple[str, int], ErrorInfo] = {}
        """Failures of this time whose letters have not been read."""
        self._difference: tuple[str, str, str] | None = None
        """Which event or input, what was recorded, what came now."""

    def step(self, past: Past, made: Made) -> None:
        """What one step made now, against its block."""
        block = past.block
        if not (made.outputs or made.dead or made.lost or block.count or block.errors) or self._difference is not None:
            return
        try:
            payloads = columns(self._stage, self._codec, made, None, None, 0).payloads
        except BlockTooLarge:
            payloads = b""
        failed = {past.ordinals[offset] for offset in made.lost.get("skipped", ())}
        for offset, error in made.dead:
            failed.add(past.ordinals[offset])
            self._failed[past.source, past.ordinals[offset]] = error
        start = next(taken.start for taken in block.inputs if isinstance(taken, Slice))
        recorded = {start + offset for lost in block.errors if lost.reason in ("dead", "skipped") for offset in expand(lost.runs)}
        if failed != recorded:
            ordinal = min(failed ^ recorded)
            words = ("it failed", "it did not") if ordinal in recorded else ("it did not fail", "it fails")
            self._difference = (f"{past.source}@{ordinal}", *words)
        elif payloads != block.payloads:
            self._outputs(made.outputs, block)

    def _outputs(self, now: Sequence[Any], block: Block) -> None:
        then = self._codec.decode(block)
        for number, (old, new) in enumerate(zip(then, now, strict=False)):
            if difference(old, new, "") is not None:
                self._difference = (f"{self._stage}@{block.base + number}", repr(old)[:_SHOWN], repr(new)[:_SHOWN])
                return
        if len(then) != len(now):
            ordinal = block.base + min(len(then), len(now))
            self._difference = (f"{self._stage}@{ordinal}", f"{len(then)} events of its step", f"{len(now)}")

    def letter(self, letter: DeadLetter) -> None:
        """A letter that the stage wrote, which stands behind its block."""
        now, then = self._failed.pop((letter.upstream, letter.event), None), letter.error
        if now is not None and self._difference is None and (now.code, now.type) != (then.code, then.type):
            self._difference = (
                f"{letter.upstream}@{letter.event}",
                f"{then.type or then.code}: {then.message}",
                f"{now.type or now.code}: {now.message}",
            )

    def resumed(self, record: RunResumed) -> bool:
        """From here on the run has the code that it was resumed with; returns whether a difference is forgiven for that."""
        if self._stage not in record.code:
            return False
        forgiven, self._difference = self._difference is not None, None
        return forgiven

    def check(self) -> None:
        """Raise `StateFailed` (`diverged`) when there is a difference."""
        if self._difference is None:
            return
        event, then, now = self._difference
        raise StateFailed(
            f"stage {self._stage!r} diverged at {event}: recorded {then}; folded again {now}",
            code="diverged",
            remedy="A fold depends on its events alone: no clock, no chance, no global. After a change of code, start a new run.",
            stage=self._stage,
            event=event,
        )
