"""One recorded step, done again by the worker that does it live: the same inputs, the same number of them, the same time.

What the worker writes is caught instead of appended, so that it can be compared with what was recorded. Nothing here
decides how long a step is or when it happens; the record says so. A handler that fails for a moment or breaks its
stage is called again when the record says that it got through.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, cast

from obzen_runtime.actor import Ground
from obzen_runtime.events import Block, DeadLetter, End, Record, Slice, expand
from obzen_runtime.journal import Entry as Recorded
from obzen_runtime.journal import Level, Memory
from obzen_runtime.kernel import ErrorInfo, Seams, Wake, classify
from obzen_runtime.stages.call import Calls
from obzen_runtime.stages.edge import Edge, Entry, Inbox, Place
from obzen_runtime.stages.folding import StatefulStage
from obzen_runtime.stages.join import JoinStage
from obzen_runtime.stages.outside import refusing
from obzen_runtime.stages.shared import MOST, Crashed, Failed, PutAside
from obzen_runtime.stages.stage import Stage
from obzen_runtime.stages.step import Made
from obzen_runtime.stages.transform import Handled

__all__ = ["Catcher", "Redone", "StoppedClock", "finished", "leftover", "redo", "take_over"]

Read = Callable[..., AsyncIterator[Recorded]]

_TRIES = 1000
"""Calls for one event at the most, where the record says that it got through in the end."""
_ROOM = 2 * MOST
"""Outputs of one step at the most: more than any live step gives."""


class StoppedClock:
    """Stands at the time of the step that is done again; no step ends because of it."""

    def __init__(self) -> None:
        self.now = 0

    def wall_ms(self) -> int:
        return self.now

    def monotonic(self) -> float:
        return 0.0


class Catcher:
    """Takes what workers write in place of a journal, and reads from the recorded one."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self.caught: list[Record] = []
        self.level: Level = Memory()
        self.first = 1
        self.head = self.durable_head = self.size = 0

    def append(self, records: Sequence[Record], *, expected: int | None = None) -> int:
        self.caught.extend(records)
        return self.head

    def take(self) -> list[Record]:
        """What was written since the last look."""
        caught, self.caught = self.caught, []
        return caught

    async def durable(self, position: int) -> None:
        """Nothing is kept, so nothing is waited for."""

    def read(self, start: int = 1, stop: int | None = None, *, kinds: frozenset[type[Record]] | None = None) -> AsyncIterator[Recorded]:
        return self._read(start, stop, kinds=kinds)

    def tail(self, start: int = 1, *, kinds: frozenset[type[Record]] | None = None) -> AsyncIterator[Recorded]:
        return self._read(start, kinds=kinds)

    async def last(self, kinds: frozenset[type[Record]]) -> Recorded | None:
        return None

    def forget(self, below: int) -> None:
        """Nothing is kept."""

    async def close(self) -> None:
        """Nothing is open."""


class Redone(NamedTuple):
    """What a worker wrote when it did a step again."""

    records: list[Record]
    error: ErrorInfo | None = None
    """The stage broke."""
    offset: int | None = None
    """Of the input it broke at, where that is known."""


class _BrokeAt(Failed):
    """The stage broke at the input of this offset."""

    def __init__(self, error: ErrorInfo, offset: int) -> None:
        super().__init__(error)
        self.offset = offset


def take_over(stage: Stage) -> None:
    """Make a worker ready: it hands nothing on, and each of its inputs waits in a line of its own."""
    stage.edges.clear()
    for edge in stage.inputs:
        edge.spills = True
        if not isinstance(stage, JoinStage):
            edge.inbox = Inbox(Wake())


async def redo(stage: Stage, record: Block, letters: Sequence[DeadLetter]) -> Redone:
    """Do the step again that `record` and the dead letters beside it tell of."""
    ground = stage.log.ground
    ground.seams.clock.now = record.at  # type: ignore[attr-defined]
    catcher: Any = stage.journal
    stage.at = record.at
    try:
        with refusing(stage.name):
            await _do(stage, record, letters, ground)
    except (Crashed, Failed) as broken:
        return Redone(catcher.take(), broken.error, broken.offset if isinstance(broken, _BrokeAt) else None)
    except Exception as error:
        return Redone(catcher.take(), classify(error))
    return Redone(catcher.take())


async def _do(stage: Stage, record: Block, letters: Sequence[DeadLetter], ground: Ground) -> None:
    taken = (record.cursor.taken if record.cursor is not None else 0) - stage.taken
    piece = next((each for each in record.inputs if isinstance(each, Slice | End)), None)
    match piece:
        case End():
            edge = _edge(stage, piece.upstream)
            entry = Entry(edge, piece.total, Place(0, piece.total, record.at))
            entry.end = piece
            edge.inbox.entries.append(entry)
            stage.take_end(entry)
        case Slice():
            within = record.cursor.within if record.cursor is not None else 0
            edge = _edge(stage, piece.upstream)
            entry = await _entry(stage, edge, taken + (within > 0))
            await _step(stage, entry, taken, _Recorded(record, letters, within, ground.seams))
        case None if isinstance(stage, StatefulStage):
            _emission(stage, record.cursor.within if record.cursor is not None else 0)


def _edge(stage: Stage, upstream: str) -> Edge:
    return next(edge for edge in stage.inputs if edge.source == upstream)


async def _entry(stage: Stage, edge: Edge, count: int) -> Entry:
    """The first entry of an edge, with at least `count` events to take and their payloads."""
    entries = edge.inbox.entries
    entry = next(each for each in entries if each.edge is edge)
    start, catcher = entry.ordinal(entry.done), cast("Catcher", stage.journal)
    following: Entry | None = entry
    while following is not None:
        try:
            await stage.payloads(following)
        except PutAside:
            letter = next(record for record in catcher.caught if isinstance(record, DeadLetter))
            raise _BrokeAt(letter.error, letter.event - start) from None
        if following is not entry:
            entry.absorb(following)
            entries.remove(following)
        more = entry.count - entry.done < count
        following = next((each for each in entries if each.edge is edge and each is not entry), None) if more else None
    return entry


class _Recorded(NamedTuple):
    """What the record says of a step."""

    block: Block
    letters: Sequence[DeadLetter]
    within: int
    seams: Seams

    def dead(self, upstream: str, ordinal: int) -> bool:
        """Whether this event gave nothing because its handler failed."""
        if any(letter.event == ordinal and letter.upstream == upstream for letter in self.letters):
            return True
        start = next(each.start for each in self.block.inputs if isinstance(each, Slice))
        return any(lost.reason == "skipped" and ordinal - start in expand(lost.runs) for lost in self.block.errors)


async def _step(stage: Stage, entry: Entry, taken: int, recorded: _Recorded) -> None:
    if isinstance(stage, StatefulStage):
        made = Made()
        items = entry.items or ()
        made.taken = stage.absorb(items[entry.done : entry.done + taken], stage.taken, made, 0)
        stage._commit(entry, made)  # noqa: SLF001 - what the worker itself does in a step
    elif isinstance(stage, JoinStage) and entry.edge.inbox is stage.references:
        stage.pace.calls = taken
        await stage._hydrate()  # noqa: SLF001 - what the worker itself does in a step
    elif isinstance(stage, Handled):
        await _Again(stage, entry, taken, recorded).run()


class _Again:
    """The calls of one recorded step."""

    def __init__(self, stage: Handled, entry: Entry, taken: int, recorded: _Recorded) -> None:
        self.stage = stage
        self.entry = entry
        self.recorded = recorded
        self.tries = 0
        before = stage.within
        self.taken = taken
        self.more = recorded.within - (0 if taken else before)
        """Outputs that the input behind those taken gave in this step, where it was not finished."""
        items = entry.items or ()
        stop = entry.done + taken + (recorded.within > 0)
        self.calls = Calls(stage.call, items[entry.done : stop], self._holds, live=stage.live, within=before)

    async def run(self) -> None:
        try:
            await self._run()
        finally:
            del self.calls  # no circle keeps a step's events until the collector comes

    async def _run(self) -> None:
        stage, calls, call = self.stage, self.calls, self.stage.call
        if isinstance(stage, JoinStage):
            stage.matched = [] if stage.live is None else stage.matched[-1:]
        self._number()
        stage.live = None
        if stage.options.executor is not None:
            await self.recorded.seams.threads.run(f"obzen {stage.name}", partial(self._on_thread, stage.name))
        elif call.batch:
            if self.taken and not await calls.batch(self.taken):
                await self._until(self.taken, partial(calls.singly, self.taken))
        elif call.many:
            await self._many()
        elif call.asynchronous:
            await self._until(self.taken, partial(calls.one_async, self.taken))
        else:
            self._plain()
        if calls.crash is not None:
            entry = self.entry
            raise _BrokeAt(classify(calls.crash), entry.ordinal(entry.done + calls.taken) - entry.ordinal(entry.done))
        made = calls.made(stage._judge, flatten=call.many, outputs=stage.gives)  # noqa: SLF001 - what the worker itself does in a step
        stage.live = calls.live
        stage.commit(self.entry, made)
        if not stage.within:
            stage.live = None

    def _plain(self) -> None:
        self.calls.one(self.taken)
        while self._again(self.taken):
            self.calls.one(self.taken)

    def _on_thread(self, name: str) -> None:
        with refusing(name):
            self._plain()

    async def _many(self) -> None:
        """All outputs of the inputs that were finished, then as many of the next one as it gave."""
        calls = self.calls
        many = self._drawn_async if self.stage.call.asynchronous else self._drawn
        if self.taken:
            await self._until(self.taken, partial(many, self.taken, len(calls.raw) + _ROOM))
        if self.more > 0 and calls.crash is None and (calls.live is None or not self.taken):
            stop = self.taken + 1
            await self._until(stop, partial(many, stop, len(calls.raw) + self.more))

    async def _drawn(self, stop: int, room: int) -> None:
        self.calls.many(stop, room)

    async def _drawn_async(self, stop: int, room: int) -> None:
        await self.calls.many_async(stop, room)

    async def _until(self, stop: int, calling: Callable[[], Any]) -> None:
        await calling()
        while self._again(stop):
            await calling()

    def _again(self, stop: int) -> bool:
        """Whether the calls stopped at an event that got through in the end."""
        calls = self.calls
        if calls.held is None and (calls.crash is None or isinstance(calls.crash, KeyboardInterrupt) or not self._tried()):
            return False
        calls.held = calls.crash = None
        if isinstance(self.stage, JoinStage):
            del self.stage.matched[calls.taken :]
        self._number()
        return calls.taken < stop

    def _tried(self) -> bool:
        self.tries += 1
        return self.tries < _TRIES

    def _number(self) -> None:
        self.stage._number(self.entry, self.entry.done + self.calls.taken + (self.calls.live is not None))  # noqa: SLF001 - what the worker itself does in a step

    def _holds(self, error: BaseException) -> bool:
        """Whether this event is tried again: the policy would, and the record says that it did not fail for good."""
        retry = self.stage.options.retry
        if retry is None or retry.delay(1, classify(error), elapsed=0.0, chance=0.0) is None:
            return False
        ordinal = self.entry.ordinal(self.entry.done + self.calls.taken)
        return not self.recorded.dead(self.entry.edge.source, ordinal) and self._tried()


# -- the end --------------------------------------------------------------------------------------


def _emission(stage: StatefulStage, until: int) -> None:
    """One block of the final emission, up to the recorded place."""
    emission = _begun(stage)
    made = Made(since=[], marks=[], within=stage.within)
    assert made.since is not None
    assert made.marks is not None
    try:
        for output, since in islice(emission, max(0, until - stage.within)):
            made.within += 1
            if output is not None:
                made.outputs.append(output)
                made.since.append(since)
                made.marks.append(made.within)
    except BaseException as error:
        raise Crashed(error) from error
    stage._give(made)  # noqa: SLF001 - what the worker itself does in a step


def _begun(stage: StatefulStage) -> Any:
    if stage.emission is None:
        stage.emission = stage.final()
    return stage.emission


def leftover(stage: Stage) -> object | None:
    """What a stage that has drained would still give: nothing, unless its code has changed."""
    if not isinstance(stage, StatefulStage):
        return None
    try:
        with refusing(stage.name):
            return next((output for output, _ in _begun(stage) if output is not None), None)
    except Exception as error:
        return classify(error)


def finished(stage: Stage) -> bool:
    """Whether every input of the stage has ended naturally."""
    return len(stage.ends) == len(stage.inputs) and set(stage.ends.values()) <= {"natural"}
