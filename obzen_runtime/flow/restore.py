"""What the log of an earlier process says of every stage and every edge: where each stood, and what it had not taken yet.

One pass over the log is enough, because a step's outputs and its position are one record. It begins at the floor of
the last checkpoint, the oldest position that anybody still needed then, so its length depends on the tail of the run
and not on its history.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from obzen_runtime.events import (
    ActorCompleted,
    Block,
    Checkpoint,
    Cursor,
    DeadLetter,
    DeliveryIntent,
    DeliveryResolved,
    End,
    Receipt,
    Record,
    RunCompleted,
    RunForked,
    RunResumed,
    RunStarted,
    Slice,
    Snapshot,
    expand,
)
from obzen_runtime.flow.builder import Wired
from obzen_runtime.flow.changes import judge_graph
from obzen_runtime.journal import Journal, run_started
from obzen_runtime.stages import DEAD_LETTERS, Edge, Place, SinkStage, SourceStage, Standing

__all__ = ["Past", "read_past"]

_NO_OUTPUT = frozenset({"dead", "skipped", "undecodable"})
"""Reasons for giving no output that are not counted as dropped."""
_DECIDED = frozenset({"delivered", "deliver", "dead"})
"""What a person's word on a delivery may be; a sink acts on it once, when the run goes on."""


class Waiting(NamedTuple):
    """What of one block its consumer had not passed."""

    place: Place
    ordinals: Sequence[int]
    size: int


class Queue:
    """One edge: blocks in the log that the consumer has not passed, and both sides of its contract."""

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.blocks: deque[Waiting] = deque()
        self.delivered = 0
        self.accounted = 0

    def add(self, place: Place, ordinals: Sequence[int], size: int) -> None:
        """A block stands in the log."""
        self.blocks.append(Waiting(place, ordinals, size))

    def pass_to(self, stop: int) -> int:
        """The consumer stands at ordinal `stop`; returns how many events it passed."""
        passed = 0
        while self.blocks and (first := self.blocks[0]).ordinals[0] < stop:
            gone = bisect_left(first.ordinals, stop)
            passed += gone
            if gone == len(first.ordinals):
                self.blocks.popleft()
            else:
                left = first.ordinals[gone:]
                self.blocks[0] = first._replace(ordinals=left, size=first.size * len(left) // len(first.ordinals))
        return passed


class Past:
    """Stages and edges as the log leaves them. Fed the last checkpoint, then every record from its floor on."""

    def __init__(self, wired: Wired) -> None:
        self._wired = wired
        self.standings = {name: Standing() for name in wired.stages}
        self.queues = [Queue(edge) for edge in wired.edges]
        self.letters = 0
        """Letters written."""
        self.completed = False
        """The run drained."""
        self.resumed: RunResumed | None = None
        """The newest of its kind."""
        self.forked: RunForked | None = None
        """The newest of its kind."""
        self.begun = False
        """A flow has run in this log."""
        self.origins: tuple[tuple[str, dict[str, int]], ...] = ()
        """The runs it was forked from, with what every stage had written then."""
        self._out = {name: [queue for queue in self.queues if queue.edge.source == name] for name in wired.stages}
        self._in = {(queue.edge.target, queue.edge.source): queue for queue in self.queues}
        self._known = 0
        """Position of the checkpoint: what stands before it is in it."""

    @property
    def over(self) -> bool:
        """Whether nothing is left to do: it drained, and no delivery was ordered since."""
        ordered = any(outcome in _DECIDED for standing in self.standings.values() for outcome in standing.doubted.values())
        return self.completed and not ordered

    def begin(self, position: int, checkpoint: Checkpoint) -> None:
        """Start from the checkpoint at this position."""
        self._known = position
        self.letters = checkpoint.dead_letters
        self.origins = checkpoint.origins
        self.resumed, self.forked, self.begun = checkpoint.resumed, checkpoint.forked, True
        for name, standing in self.standings.items():
            standing.cursor = checkpoint.cursors.get(name, Cursor())
            standing.written = checkpoint.written.get(name, 0)
            standing.counters = dict(checkpoint.counters.get(name, {}))
            standing.ends = {upstream: end for upstream, end in checkpoint.taken_ends.get(name, {}).items() if end == "natural"}
            standing.drained = checkpoint.ends.get(name) == "natural"
            for event, outcome in checkpoint.doubted.get(name, {}).items():
                upstream, _, ordinal = event.rpartition("@")
                standing.doubted[upstream, int(ordinal)] = outcome
        for queue in self.queues:
            queue.delivered, queue.accounted = checkpoint.edges.get(queue.edge.name, (0, 0))

    def add(self, position: int, record: Record) -> None:
        """Take the record at a position; positions rise."""
        new = position > self._known
        match record:
            case Block(stage=stage) if stage in self.standings:
                if record.count:
                    self._offered(position, record, new)
                if new:
                    self._stepped(stage, record)
                    self.standings[stage].written = record.base + record.count
                    self._count(stage, "emitted", record.count)
            case Receipt(stage=stage) if new and stage in self.standings:
                self._stepped(stage, record)
            case DeadLetter():
                self._lettered(position, record, new)
            case Snapshot(actor=actor) if new and actor in self.standings:
                self.standings[actor].snapshot, self.standings[actor].snapshot_at = record, position
            case _ if new:
                self._told(record)

    def _told(self, record: Record) -> None:
        match record:
            case ActorCompleted(actor=actor, state="drained") if actor in self.standings:
                self.standings[actor].drained = True
            case DeliveryIntent(stage=stage, upstream=upstream, event=event) if stage in self.standings:
                self.standings[stage].doubted[upstream, event] = "open"
            case DeliveryResolved(stage=stage, upstream=upstream, event=event) if stage in self.standings:
                self.standings[stage].doubted[upstream, event] = record.outcome
            case RunCompleted():
                self.completed = True
            case RunStarted():
                self.begun = True
            case RunResumed():
                self.completed, self.resumed = False, record
            case RunForked(origin=origin):
                self.forked = record
                self.origins = (*self.origins, (origin, {name: standing.written for name, standing in self.standings.items()}))

    def _offered(self, position: int, block: Block, new: bool) -> None:
        codec = self._wired.log.codecs[block.stage]
        for queue in self._out[block.stage]:
            edge = queue.edge
            chosen: Sequence[int] = range(block.base, block.base + block.count)
            if edge.routed is not None:
                kinds = codec.kinds(block)
                takes = {kind: edge.routes(kind) for kind in set(kinds)}
                chosen = [ordinal for ordinal, kind in zip(chosen, kinds, strict=True) if takes[kind]]
            self._queued(queue, Place(position, block.base, block.at), chosen, len(block.payloads) * len(chosen) // block.count, new)

    def _lettered(self, position: int, letter: DeadLetter, new: bool) -> None:
        if new:
            self.letters = letter.ordinal + 1
            self._count(letter.stage, "dead", 1)
            self._count(letter.stage, "errors", 1)
        if DEAD_LETTERS not in self.standings or letter.stage in self._wired.log.letters.behind:
            return
        if new:
            self.standings[DEAD_LETTERS].written += 1
            self._count(DEAD_LETTERS, "emitted", 1)
        for queue in self._out[DEAD_LETTERS]:
            self._queued(queue, Place(position, letter.ordinal, letter.at), [letter.ordinal], 64 + len(letter.payload), new)

    def _queued(self, queue: Queue, place: Place, chosen: Sequence[int], size: int, new: bool) -> None:
        if new:
            queue.delivered += len(chosen)
        passed = self.standings[queue.edge.target].cursor.next.get(queue.edge.source, 0)
        left = chosen[bisect_left(chosen, passed) :]
        if left:
            queue.add(place, left, size)

    def _stepped(self, stage: str, record: Block | Receipt) -> None:
        standing = self.standings[stage]
        if isinstance(record, Receipt):
            self._settled(standing, record)
        if record.cursor is not None:
            self._count(stage, "received", record.cursor.taken - standing.cursor.taken)
            standing.cursor = record.cursor
        for lost in record.errors:
            if lost.reason == "doubted":
                self._count(stage, "doubted", sum(1 for _ in expand(lost.runs)))
            elif lost.reason not in _NO_OUTPUT:
                self._count(stage, "dropped", sum(1 for _ in expand(lost.runs)))
        for taken in record.inputs:
            match taken:
                case Slice(upstream=upstream, stop=stop) if taken.start < stop:
                    queue = self._in[stage, upstream]
                    queue.accounted += queue.pass_to(stop)
                case End(upstream=upstream, end="natural"):
                    standing.ends[upstream] = "natural"

    def _settled(self, standing: Standing, receipt: Receipt) -> None:
        """What has a receipt is not open any more; one for an event that was passed before ends a doubt."""
        for taken in receipt.inputs:
            match taken:
                case Slice(upstream=upstream, start=start, stop=stop) if start < stop:
                    for ordinal in range(start, stop) if standing.doubted else ():
                        standing.doubted.pop((upstream, ordinal), None)
                    if stop <= standing.cursor.next.get(upstream, 0):
                        self._count(receipt.stage, "doubted", start - stop)

    def _count(self, stage: str, name: str, count: int) -> None:
        if stage in self.standings:
            counters = self.standings[stage].counters
            counters[name] = counters.get(name, 0) + count

    def give_back(self) -> None:
        """Put the stages and edges of this process where those of the earlier one stood."""
        wired = self._wired
        wired.log.letters.count = self.letters
        for name, stage in wired.stages.items():
            if isinstance(stage, SinkStage | SourceStage):
                stage.silent = self.forked is not None and not self.forked.live
            if isinstance(stage, SinkStage):
                stage.origins = self.origins
            stage.restore(self.standings[name])
        for queue in self.queues:
            edge = queue.edge
            edge.delivered, edge.accounted = queue.delivered, queue.accounted
            edge.passed = edge.source in self.standings[edge.target].ends
        for name, standing in self.standings.items():
            waiting = [(queue, block) for queue in self.queues if queue.edge.target == name for block in queue.blocks]
            waiting.sort(key=lambda each: (each[0].edge.source != standing.cursor.inside, each[1].place))
            for queue, block in waiting:
                queue.edge.offer_again(block.place, list(block.ordinals), block.size)


async def read_past(wired: Wired, journal: Journal) -> Past | None:
    """Read what is needed of the log, from the last checkpoint's floor on; None when no flow has run in it.

    Raises `FlowInvalid` when the run began with other stages, or stages that were joined in another way.
    """
    if not journal.head:
        return None
    started = await run_started(journal)
    if started is not None and started.stages:
        judge_graph(wired.log.ground.run_id, wired.flow.name, started, wired.infos)
    past = Past(wired)
    start = 1
    found = await journal.last(frozenset({Checkpoint}))
    if found is not None and isinstance(found.record, Checkpoint) and found.record.floor:
        past.begin(found.position, found.record)
        start = found.record.floor
        for name, position in found.record.snapshots.items():
            async for entry in journal.read(position, position + 1):
                if name in past.standings and isinstance(entry.record, Snapshot):
                    past.standings[name].snapshot, past.standings[name].snapshot_at = entry.record, position
    async for entry in journal.read(start):
        past.add(entry.position, entry.record)
    return past if past.begun else None
