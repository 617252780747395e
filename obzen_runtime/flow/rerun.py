"""The pass of a replay: the code of a flow run again against what a run recorded, and proof that it gives the same.

One pass over the log in its own order. Inputs always stand before what was made of them, so each stage is given exactly
what it took and does its steps again as they come, by the worker that does them live; what it would write is compared
with what stands there. Sources give what is recorded, sinks are not called, and nothing outside is reached.

What waits between two stages is what waited in the run: beyond 16 MiB an edge keeps only places in the log.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol, runtime_checkable

import msgspec

from obzen_runtime.actor import Ground
from obzen_runtime.events import (
    ActorCompleted,
    Block,
    DeadLetter,
    DeliveryResolved,
    Dropped,
    End,
    Loss,
    Receipt,
    Record,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunForked,
    RunResumed,
    RunStarted,
    Since,
    Slice,
)
from obzen_runtime.flow.builder import Flow, Wired, wire
from obzen_runtime.flow.certificate import ReplayReport, StageReplay, comparable
from obzen_runtime.flow.changes import judge_graph, schemas_written
from obzen_runtime.flow.divergence import Divergence, Found, compare, moods_of, shown, shown_error
from obzen_runtime.journal import Manifest
from obzen_runtime.kernel import ErrorInfo, ObzenError, Seams, StateFailed
from obzen_runtime.stages import (
    DEAD_LETTERS,
    LATEST,
    Catcher,
    Edge,
    Entry,
    Place,
    SinkStage,
    SourceStage,
    Stage,
    StoppedClock,
    Window,
    code_fingerprint,
    finished,
    leftover,
    redo,
    refused_by,
    take_over,
)

__all__ = ["NEEDED", "Reads", "Replay", "incomplete", "not_begun"]

_WINDOW = Window(events=1 << 40, size=16 * 1024 * 1024)
_ENDS = (RunCompleted, RunFailed, RunCancelled)
NEEDED: frozenset[type[Record]] = frozenset(
    {ActorCompleted, Block, DeadLetter, DeliveryResolved, Dropped, Loss, Receipt, RunForked, RunResumed, RunStarted, *_ENDS}
)
"""The kinds of records that a replay reads."""


@runtime_checkable
class Reads(Protocol):
    """Where a recorded log is read: a journal, or a reader beside a living one."""

    def read(self, start: int = 1, stop: int | None = None, *, kinds: frozenset[type[Record]] | None = None) -> Any: ...


@dataclass
class _Work:
    """One stage under replay."""

    stage: Stage
    kind: str
    out: list[Edge]
    """Edges to stages that are run."""
    recorded: int = 0
    replayed: int = 0
    steps: int = 0
    letters: int = 0
    seconds: float = 0.0
    diverged: bool = False
    passive: bool = False
    """Its events are taken as they stand: a source, the dead letters."""
    next: dict[str, int] = field(default_factory=dict)
    """Of a sink, the next ordinal by upstream."""
    decided: set[tuple[str, int]] = field(default_factory=set)
    """Of a sink, deliveries in doubt that somebody decided about: each may have a receipt of its own behind the others."""


class Replay:
    """One pass. Feed it the log in order with `add`, then `close` it."""

    def __init__(self, flow: Flow, reads: Reads, *, verify: bool = True, manifest: Manifest | None = None) -> None:
        self.flow = flow
        self.verify = verify
        self.manifest = manifest
        self.clock = StoppedClock()
        self.catcher = Catcher(reads.read)
        self.ground = Ground(self.catcher, Seams(clock=self.clock), run_id=manifest.run_id if manifest is not None else "")
        self.wired: Wired = wire(flow, self.ground, _unheard)
        self.behind = self.wired.log.letters.behind
        self.wired.log.letters.behind = frozenset()
        self.wired.log.letters.handover = None
        self.works = {name: self._work(name, stage) for name, stage in self.wired.stages.items()}
        self.codes = {name: code_fingerprint(node) for name, node in flow.topology.nodes.items()}
        self.then: dict[str, str] = dict(manifest.code) if manifest is not None else {}
        """Per stage the fingerprint of the code that wrote what is being read."""
        if manifest is not None:
            schemas_written(self.wired.log.codecs, manifest, {})
        self.differences: dict[str, Divergence] = {}
        self.records = 0
        self.over = False
        """The run had ended where the log has been read to."""
        self._pending: tuple[int, Block] | None = None
        self._letters: list[DeadLetter] = []

    def _work(self, name: str, stage: Stage) -> _Work:
        kept = {edge.target for edge in stage.edges if isinstance(self.wired.stages[edge.target], SinkStage)}
        out = [edge for edge in stage.edges if edge.target not in kept]
        for edge in stage.edges:
            edge.window = _WINDOW
        take_over(stage)
        passive = isinstance(stage, SourceStage) or name == DEAD_LETTERS
        return _Work(stage, self.flow.topology.nodes[name].kind, out, passive=passive)

    # -- the pass ---------------------------------------------------------------------------------

    async def add(self, position: int, record: Record) -> None:
        """Take the next record. A step is done again once the letters behind it are known."""
        self.records += 1
        if isinstance(record, DeadLetter):
            self._letters.append(record)
            self._lettered(position, record)
            return
        await self.settle()
        match record:
            case Block():
                self._pending = position, record
            case Receipt():
                self._received(position, record)
            case DeliveryResolved(stage, _, upstream, event, outcome) if outcome != "doubted":
                self.works[stage].decided.add((upstream, event))
            case RunStarted():
                self._started(record)
            case RunResumed():
                self.over = False
                self.then.update(record.code)
                if self.manifest is not None:
                    schemas_written(self.wired.log.codecs, self.manifest, record.schemas)
                self._resumed()
            case RunCompleted() | RunFailed() | RunCancelled():
                self.over = True
            case Dropped() | Loss():
                raise incomplete()
            case RunForked(run_id=run_id):
                self.ground.run_id = run_id
            case ActorCompleted(actor=actor) if actor in self.works and not self.over:  # behind the end it is the flow's own, of that name
                self._ended(position, record, self.works[actor])

    async def settle(self) -> None:
        """Do the step again that is waiting for its letters."""
        letters, self._letters = self._letters, []
        if self._pending is None:
            return
        (position, block), self._pending = self._pending, None
        work = self.works[block.stage]
        work.recorded += block.count
        if work.passive:
            work.replayed += block.count
            self._passed(work, position, block)
        elif not work.diverged:
            await self._again(work, position, block, letters)
        self._offer(work, position, block)

    def _started(self, started: RunStarted) -> None:
        self.ground.run_id = started.run_id
        judge_graph(started.run_id, self.flow.name, started, self.wired.infos, remedy="Replay it with the flow it was started with.")

    def _resumed(self) -> None:
        """Ends that a stop made are void: those stages went on."""
        for work in self.works.values():
            natural: dict[str, Any] = {name: kind for name, kind in work.stage.ends.items() if kind == "natural"}
            work.stage.ends = natural
            work.stage.ended = len(natural)

    def _passed(self, work: _Work, position: int, block: Block) -> None:
        if work.stage.written != block.base and self.verify:
            found = Found(
                what="position", event=f"{block.stage}@{block.base}", recorded=f"base {block.base}", replayed=f"base {work.stage.written}"
            )
            self._differs(work, position, found)
        work.stage.written = block.base + block.count

    def _offer(self, work: _Work, position: int, block: Block) -> None:
        """Hand a recorded block to the stages that read it; decoded once, where nobody needs a copy of his own."""
        if not block.count or not work.out:
            return
        codec = work.stage.codec
        items: list[Any] | None = None
        if not codec.earlier(block.base):
            with contextlib.suppress(msgspec.MsgspecError, IndexError):
                items = codec.read(block)
        for edge in work.out:
            if edge.closed:
                continue
            if items is None:  # what cannot be decoded any more is told apart when it is taken
                again = [block.base + number for number, kind in enumerate(codec.kinds(block)) if edge.routed is None or edge.routes(kind)]
                if again:
                    edge.offer_again(Place(position, block.base, block.at), again, len(block.payloads))
                continue
            given = codec.read(block) if codec.copies else items
            kinds = set(map(type, given)) if edge.routed is not None else set()
            edge.offer(given, kinds, Place(position, block.base, block.at), len(block.payloads))

    def _lettered(self, position: int, letter: DeadLetter) -> None:
        if letter.stage in self.works:
            self.works[letter.stage].letters += 1
        letters = self.works.get(DEAD_LETTERS)
        if letters is None or letter.stage in self.behind:
            return
        letters.recorded += 1
        letters.replayed += 1
        letters.stage.written += 1
        for edge in letters.out:
            edge.offer([letter], {DeadLetter}, Place(position, letter.ordinal, letter.at), 64 + len(letter.payload))

    # -- one step -----------------------------------------------------------------------------------

    async def _again(self, work: _Work, position: int, block: Block, letters: Sequence[DeadLetter]) -> None:
        stage = work.stage
        if any(lost.reason == "undecodable" for lost in block.errors):  # no code was called
            work.steps += 1
            _be_where(stage, block)
            return
        block, letters = self._today(block, letters)
        begun = perf_counter()
        given = _head(stage, block)
        again = await redo(stage, block, letters)
        work.seconds += perf_counter() - begun
        work.steps += 1
        work.replayed += sum(record.count for record in again.records if isinstance(record, Block))
        if self.verify:
            error = again.error
            if error is not None:
                self._differs(work, position, _broken(block, error, again.offset), block, given)
            elif (found := compare(stage.codec, block, letters, again.records)) is not None:
                self._differs(work, position, found, block, given)
        if not work.diverged:
            _be_where(stage, block)

    def _today(self, block: Block, letters: Sequence[DeadLetter]) -> tuple[Block, list[DeadLetter]]:
        """A step as it would be written under today's schemas."""
        codecs = self.wired.log.codecs
        told: list[DeadLetter] = []
        for letter in letters:
            told.append(letter)
            if letter.upstream in codecs and letter.payload:
                event = codecs[letter.upstream].today(Block(letter.upstream, LATEST, 1, 0, b"\x91" + letter.payload, letter.type))
                if event.payloads[1:] != letter.payload and isinstance(event.types, int):
                    told[-1] = msgspec.structs.replace(letter, payload=event.payloads[1:], type=event.types)
        return codecs[block.stage].today(block), told

    def _differs(self, work: _Work, position: int, found: Found, block: Block | None = None, given: Entry | None = None) -> None:
        """Note the first difference of a stage; it is not run any further."""
        stage = work.stage
        origin, value = _origin(block, found, given)
        then = self.then.get(stage.name)
        refused = refused_by(stage.name)
        hints = list(moods_of(stage.node))
        if refused:
            hints.append(f"{stage.name} calls the outside ({refused}), and a replay makes no outside call")
        self.differences.setdefault(
            stage.name,
            Divergence(
                stage=stage.name,
                what=found.what,
                event=found.event,
                recorded=found.recorded,
                replayed=found.replayed,
                input=origin,
                input_value=value,
                code_changed=None if then is None else then != self.codes[stage.name],
                hints=tuple(hints),
                position=position,
            ),
        )
        work.diverged = True
        for edge in stage.inputs:
            edge.close()
            edge.inbox.entries.clear()

    # -- sinks and ends -----------------------------------------------------------------------------

    def _received(self, position: int, receipt: Receipt) -> None:
        """A receipt must go on where the one before it ended: nothing is delivered twice on record, nothing left out."""
        work = self.works[receipt.stage]
        work.steps += 1
        if work.diverged:
            return
        for each in receipt.inputs:
            if isinstance(each, Slice | End):
                due = work.next.get(each.upstream, 0)
                told = _taken(work, each, due)
                if told and self.verify:
                    event = f"{each.upstream}@{due}"
                    found = Found(what="position", event=event, recorded=f"a receipt for {told}", replayed=f"{event} is next")
                    self._differs(work, position, found)
                    return

    def _ended(self, position: int, record: ActorCompleted, work: _Work) -> None:
        """Whether a stage that had finished had nothing left to do."""
        stage = work.stage
        if not self.verify or work.diverged or record.state != "drained" or work.passive:
            return
        found = None
        if not finished(stage):
            waits = sorted({edge.source for edge in stage.inputs} - {name for name, kind in stage.ends.items() if kind == "natural"})
            found = Found(what="end", event=stage.name, recorded="drained", replayed=f"not ended: {', '.join(waits)} did not end")
        elif record.written != work.recorded:
            found = Found(
                what="end", event=stage.name, recorded=f"{record.written} events in all", replayed=f"{work.recorded} stand in the log"
            )
        elif (more := leftover(stage)) is not None:
            text = shown_error(more.type, more.message) if isinstance(more, ErrorInfo) else shown(more)
            found = Found(what="count", event=f"{stage.name}@{work.recorded}", recorded="nothing", replayed=text)
        if found is not None:
            self._differs(work, position, found)

    # -- the report -----------------------------------------------------------------------------------

    def report(self, seconds: float) -> ReplayReport:
        """What was found so far."""
        meaningful, why = comparable(self.manifest)
        differences = tuple(self.differences[name] for name in self.works if name in self.differences)
        reason = (
            why
            if differences and not meaningful
            else ""
            if self.over
            else f"the log ends at record {self.records} without an end of the run"
        )
        if not self.verify:
            reason = "nothing was compared"
        return ReplayReport(
            run_id=self.ground.run_id,
            flow=self.flow.name,
            verified=self.verify,
            stages={name: self._stage(name, work) for name, work in self.works.items()},
            differences=differences,
            certified=self.verify and not differences,
            reason=reason,
            comparable=meaningful,
            records=self.records,
            events=sum(work.recorded for work in self.works.values()),
            seconds=seconds,
            complete=self.over,
        )

    def _stage(self, name: str, work: _Work) -> StageReplay:
        then = self.manifest.code.get(name) if self.manifest is not None else None
        return StageReplay(
            kind=work.kind,
            recorded=work.recorded,
            replayed=work.replayed,
            steps=work.steps,
            letters=work.letters,
            seconds=work.seconds,
            code_changed=None if then is None else then != self.codes[name],
        )


def _unheard() -> None:
    """Nobody keeps checkpoints of a replay."""


def _taken(work: _Work, taken: Slice | End, due: int) -> str:
    """A sink took this, and `due` is the event it comes to next; returns what it took where that does not follow."""
    upstream = taken.upstream
    some = upstream == DEAD_LETTERS or any(edge.source == upstream and edge.routed is not None for edge in work.stage.inputs)
    if isinstance(taken, End):
        work.stage.ends[upstream] = taken.end
        follows = some or taken.end != "natural" or taken.total == due
        return "" if follows else f"the end of {upstream} at @{taken.total}"
    settled = {each for each in work.decided if each[0] == upstream and taken.start <= each[1] < taken.stop}
    work.decided -= settled
    if settled and taken.stop == taken.start + 1 <= due:
        return ""
    work.next[upstream] = taken.stop
    follows = taken.start >= due if some else taken.start == due
    return "" if follows else f"{upstream}@{taken.start} to @{taken.stop - 1}"


def _head(stage: Stage, block: Block) -> Entry | None:
    """The entry that a step takes from."""
    upstream = next((each.upstream for each in block.inputs if isinstance(each, Slice)), None)
    edge = next((edge for edge in stage.inputs if edge.source == upstream), None)
    if edge is None:
        return None
    return next((entry for entry in edge.inbox.entries if entry.edge is edge), None)


def _origin(block: Block | None, found: Found, entry: Entry | None) -> tuple[str, str]:
    """The event that a difference comes from, and its value where that is at hand."""
    taken = next((each for each in block.inputs if isinstance(each, Slice)), None) if block is not None else None
    if block is not None and isinstance(block.parents, Since) and block.cursor is not None:
        return f"the inputs of {block.stage} up to number {block.cursor.taken - 1}", ""
    if taken is None or found.offset is None:
        return "", ""
    ordinal = taken.start + found.offset
    value = ""
    if entry is not None and entry.items is not None:
        places = range(entry.base, entry.base + entry.count) if entry.ordinals is None else entry.ordinals
        if ordinal in places:
            value = shown(entry.items[places.index(ordinal)])
    return f"{taken.upstream}@{ordinal}", value


def _broken(block: Block, error: ErrorInfo, offset: int | None) -> Found:
    return Found(
        what="crash",
        event=f"{block.stage}@{block.base}",
        recorded=f"a step of {block.count} events",
        replayed=shown_error(error.type or error.code, error.message),
        offset=offset,
    )


def _be_where(stage: Stage, block: Block) -> None:
    """Stand where the record says, whatever the step did: what comes next is judged by itself."""
    stage.written = block.base + block.count
    cursor = block.cursor
    if cursor is None or (stage.next == cursor.next and stage.taken == cursor.taken and stage.within == cursor.within):
        return
    stage.next, stage.taken, stage.within = dict(cursor.next), cursor.taken, cursor.within
    for edge in stage.inputs:
        stop = cursor.next.get(edge.source, 0)
        for entry in [each for each in edge.inbox.entries if each.edge is edge]:
            ordinals = range(entry.base, entry.base + entry.count) if entry.ordinals is None else entry.ordinals
            entry.done = sum(ordinal < stop for ordinal in ordinals)
            if entry.done == entry.count:
                edge.commit(entry, 0)


def not_begun() -> ObzenError:
    """The refusal of a log in which nothing stands."""
    return StateFailed("the log is empty: the run had not begun", remedy="Start it again with `obzen run`.")


def incomplete() -> ObzenError:
    """The refusal of a log that does not hold the whole run."""
    return StateFailed(
        "the log does not hold the whole run any more: records were dropped or lost, so nothing can be proved",
        remedy="Replay a copy or an archive that holds the run from its first record.",
    )
