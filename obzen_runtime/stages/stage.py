"""What every running stage shares: its inputs and outputs, its position, and the one place where a step is committed.

A step takes events from the inbox, makes outputs, and commits: one append holds the outputs, the position they
bring the stage to, and the letters of events that failed. Only after that are the outputs handed on. So a stage
that crashes, at any instruction, is exactly where its last record says.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from obzen_runtime.actor import Control, Directive, Mailbox, Terminate, Transition
from obzen_runtime.events import (
    ActorCompleted,
    ActorStalled,
    Block,
    Cursor,
    DeadLetter,
    End,
    EndKind,
    Input,
    Lost,
    Receipt,
    Record,
    Slice,
    Snapshot,
    runs_of,
    worst_end,
)
from obzen_runtime.fsm import Machine
from obzen_runtime.kernel import ErrorInfo, IoFailed, ObzenError, classify, logger
from obzen_runtime.stages.codec import Codec
from obzen_runtime.stages.edge import Edge, Entry, Inbox, Place
from obzen_runtime.stages.machines import TERMINAL, Crash, Fail, InputEnded, Suspend
from obzen_runtime.stages.node import Node
from obzen_runtime.stages.shared import CONTINUE, DEAD_LETTERS, MOST, Counters, Crashed, Failed, Log, PutAside
from obzen_runtime.stages.standing import Standing
from obzen_runtime.stages.step import LARGEST, BlockTooLarge, Made, columns, halves
from obzen_runtime.stages.versions import set_apart

__all__ = ["Stage"]

_FULL = 1024 * 1024
"""Bytes of payload at which a block should end."""
_UNKNOWN = 64
"""Events in a stage's first block at the most, as long as nobody knows how large they are."""
_CLOSING = 5.0


class Stage:
    """A worker made from a node. Subclasses give the states' work; this class commits it."""

    machine: ClassVar[Machine[Any]]
    blocking: ClassVar[frozenset[str]] = frozenset({"created", "initialized", "waiting_for_gun", "paused", "restarting"})

    def __init__(self, node: Node, log: Log, codec: Codec) -> None:
        self.node = node
        self.name = node.name
        self.log = log
        self.journal = log.ground.journal
        self.clock = log.ground.seams.clock
        self.codec = codec
        self.mailbox: Mailbox[Any] = Mailbox()
        self.wake = self.mailbox.wake
        self.inbox = Inbox(self.wake)
        self.inputs: list[Edge] = []
        self.edges: list[Edge] = []
        self.counters = Counters()
        self.written = 0
        self.taken = 0
        self.within = 0
        self.inside = ""
        self.next: dict[str, int] = {}
        self._fit = _UNKNOWN
        """Events that fill a block, going by the last one."""
        self.ends: dict[str, EndKind] = {}
        self.ended = 0
        """Inputs whose end was taken."""
        self.left = "running"
        self.at = 0
        """Wall milliseconds of the step at hand."""
        self.begun = 0.0
        """Monotonic seconds at which it began."""
        self.error: ErrorInfo | None = None
        self.end_kind: EndKind = "natural"
        self.tasks: set[asyncio.Task[None]] = set()
        self.standing = Standing()
        """Where an earlier process left it."""
        self.snapshot: Snapshot | None = None
        """The newest record of its state, where it has one that is kept."""
        self.snapshot_at = 0
        """Position of that record."""
        self._stall: asyncio.TimerHandle | None = None
        self.logger = logger(actor=self.name, run=log.ground.run_id)

    # -- the actor's side ---------------------------------------------------------------------

    async def dispatch_state(self, state: str, context: Any, /) -> Directive:
        """One state's work; a crash or failure inside it becomes the event of that name."""
        if state in TERMINAL:
            return Terminate(state)
        try:
            return await self.work(state)
        except Crashed as crash:
            return Transition(Crash(crash.error))
        except PutAside:
            return CONTINUE
        except Failed as failed:
            return Transition(Fail(failed.error))
        except (ObzenError, OSError, msgspec.MsgspecError) as error:
            info = classify(error)
            return Transition(Suspend("journal_full") if info.code == "journal_full" else Fail(info))

    async def work(self, state: str) -> Directive:
        """Do the work of a state that is not terminal."""
        raise TypeError(f"{type(self).__name__} has no work for {state}")

    def event_for_action_error(self, error: ErrorInfo, /) -> object:
        return Fail(error)

    def event_for_stop(self, reason: str, /) -> object | None:
        return Suspend(reason)

    def control(self, state: str, /) -> Control:
        if state in TERMINAL:
            return "ignore"
        return "block" if state in self.blocking else "poll"

    def completion(self, state: str, reason: str, at: int, /) -> ActorCompleted:
        return ActorCompleted(self.name, state, reason, at, self.written, self.end_kind)

    # -- life ---------------------------------------------------------------------------------

    def restore(self, standing: Standing) -> None:
        """Before it starts: be where an earlier process left it. Waiting inputs are offered again afterwards."""
        self.standing = standing
        self.snapshot, self.snapshot_at = standing.snapshot, standing.snapshot_at
        self.written = standing.written
        cursor = standing.cursor
        self.next, self.taken, self.within, self.inside = dict(cursor.next), cursor.taken, cursor.within, cursor.inside
        self.ends = dict(standing.ends)
        self.ended = len(standing.ends)
        for name, count in standing.counters.items():
            setattr(self.counters, name, count)

    async def initialize(self) -> None:
        """Make what the stage needs before it is ready."""

    async def rebuild(self) -> None:
        """After a crash: be again what the last committed position says. Payloads are read back from the log."""
        for edge in self.inputs:
            edge.forget_payloads()

    def crashed(self, error: ErrorInfo) -> None:
        """The machine is in `restarting`; the supervisor decides what comes next."""
        self.error = error
        self.counters.errors += 1
        self.halt()

    def halt(self) -> None:
        """End the stage's own tasks."""
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        for task in self.tasks:  # each leaves the set when it has ended
            if not task.cancelling():
                task.cancel()

    async def finish(self, kind: EndKind) -> None:
        """The stage is in a terminal state: tell those behind it, let go of those before it."""
        self.halt()
        self.end_kind = worst_end([kind, *self.ends.values()]) if kind != "natural" else "natural"
        end = End(self.name, self.end_kind, self.written)
        for edge in self.inputs:
            edge.close()
        for edge in self.edges:
            edge.end(end)
        if self.tasks:  # what they hold open is closed before the stage has ended
            await asyncio.wait(set(self.tasks), timeout=_CLOSING)

    def _spawn(self, coroutine: Any) -> None:
        """Start a task of the stage's own; it ends with the stage."""
        task = asyncio.get_running_loop().create_task(coroutine, name=f"obzen {self.name}")
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    # -- reading ------------------------------------------------------------------------------

    def _room(self) -> int:
        """Events the stage may write now; 0 while some edge withholds credit."""
        room = self._fit if self.edges else MOST
        for edge in self.edges:
            free = edge.room
            if not free:
                self._blocked(edge)
                return 0
            room = min(room, free)
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        return room

    def _blocked(self, edge: Edge) -> None:
        """A wait for credit that lasts is a fact for the journal, once per wait."""
        if self._stall is None:
            self._stall = asyncio.get_running_loop().call_later(self.log.stall_after, self._stalled, edge)

    def _stalled(self, edge: Edge) -> None:
        self.logger.warning("stalled: no credit", edge=edge.name, seconds=self.log.stall_after)
        self._write([ActorStalled(self.name, "no_credit", self.log.stall_after, self.clock.wall_ms(), edge.name)])

    async def _next_entry(self) -> tuple[Entry, int] | Directive:
        """The first entry with events to take, with the room for outputs; or what there is to do before that."""
        if not self.inbox.entries:
            if self.ended == len(self.inputs):
                return Transition(InputEnded() if set(self.ends.values()) == {"natural"} else Suspend())
            await self.wake.wait()
            if not self.inbox.entries or self.mailbox.pending:  # commands overtake work
                return CONTINUE
        entry = self.inbox.entries[0]
        if entry.end is not None:
            self.take_end(entry)
            return CONTINUE
        room = self._room()
        if not room or not self.may_take(entry):
            await self.wake.wait()
            return CONTINUE
        return entry, room

    def may_take(self, entry: Entry) -> bool:
        """Whether what the entry rests on is durable enough for this stage."""
        return True

    async def payloads(self, entry: Entry) -> Sequence[Any]:
        """The payloads of an entry, read back from the journal when they are no longer in memory.

        Raises `PutAside` when its first events cannot be decoded any more; they are letters then.
        """
        if entry.bad:
            self._put_aside(entry)
        if entry.items is None:
            items: list[Any] = []
            for position, base, _ in entry.places:
                block = await self._read_back(entry.edge.source, position, base)
                if entry.ordinals is not None:
                    stop = base + len(block)
                    block = [block[ordinal - base] for ordinal in entry.ordinals if base <= ordinal < stop]
                items.extend(block)
            entry.items = items[: entry.count]
            entry.edge.inbox.follow(entry, set_apart(entry))
            if entry.bad:
                self._put_aside(entry)
        return entry.items or ()

    def _put_aside(self, entry: Entry) -> None:
        """Commit a step over events that cannot be decoded: each is a letter with its bytes, in frames of a fair size."""
        letters, size = list[DeadLetter](), 0
        self.at = self.clock.wall_ms()
        source, start = entry.edge.source, entry.ordinal(entry.done)
        for offset, bad in enumerate(entry.bad[entry.done - entry.count :]):
            size += len(bad.raw)
            if letters and size > LARGEST:
                break
            event = entry.ordinal(entry.done + offset)
            letters.append(DeadLetter(0, self.name, self.at, bad.error, source, event, bad.raw, type=bad.number))
        before = self.next.get(source, 0), self.taken, self.within
        stop = letters[-1].event + 1
        self.next[source], self.taken, self.within = stop, self.taken + len(letters), 0
        try:
            lost = Lost("undecodable", runs_of([letter.event - start for letter in letters]))
            self.append(self.mark((Slice(source, start, stop),), (lost,)), letters)
        except BaseException:  # nothing was written: the position is what it was
            self.next[source], self.taken, self.within = before
            raise
        self.counters.received += len(letters)
        self.counters.errors += len(letters)
        entry.edge.commit(entry, len(letters))
        self.log.letters.check_flood()
        raise PutAside

    async def _read_back(self, source: str, position: int, base: int) -> list[Any]:
        letters = source == DEAD_LETTERS
        found: list[Any] = []
        async for _, record in self.journal.read(position, None if letters else position + 1):
            match record:
                case Block(stage=stage, base=first) if stage == source and first == base:
                    return self.log.codecs[source].decode(record)
                case DeadLetter(ordinal=ordinal) if letters and ordinal == base + len(found):
                    found.append(record)
                case _:
                    break
        if found:
            return found
        raise IoFailed(
            f"block {source}@{base} is not at position {position} of the journal",
            remedy="Run `obzen journal check`; this journal and this run do not belong together.",
        )

    def take_end(self, entry: Entry) -> None:
        """Take the end of an upstream, and write that it was taken."""
        end = entry.end
        assert end is not None
        entry.edge.inbox.entries.remove(entry)
        self.ended += 1
        self.ends[entry.edge.source] = worst_end([end.end, self.ends.get(entry.edge.source, "natural")])
        self._write([self.mark((end,))])

    # -- writing ------------------------------------------------------------------------------

    def mark(self, inputs: tuple[Input, ...], lost: tuple[Lost, ...] = ()) -> Block | Receipt:
        """The record of a step without outputs."""
        self.at = self.clock.wall_ms()
        return Block(self.name, self.written, 0, self.at, inputs=inputs, cursor=self.cursor(), errors=lost)

    def cursor(self) -> Cursor:
        return Cursor(dict(self.next), self.taken, self.within, inside=self.inside if self.within else "")

    def _write(self, records: Sequence[Record]) -> int:
        position = self.journal.append(records)
        self.log.noted()
        return position

    def commit(self, entry: Entry, made: Made) -> None:
        """Write one step over `made.taken` events of `entry`, then hand its outputs on; in parts where it is too large for a block."""
        try:
            self._commit_block(entry, made)
        except BlockTooLarge:
            for half in halves(made, self.within):
                self.commit(entry, half)

    def _commit_block(self, entry: Entry, made: Made) -> None:
        taken = made.taken
        slices: tuple[Input, ...] = ()
        source = entry.edge.source
        before = self.next.get(source, 0), self.taken
        start = entry.ordinal(entry.done)
        if taken:
            stop = entry.ordinal(entry.done + taken - 1) + 1
            slices = (Slice(source, start, stop),)
            self.next[source] = stop
            self.taken += taken
        elif made.within:
            slices = (Slice(source, start, start),)
        self.inside = source
        try:
            self.emit(made, slices, entry)
        except BaseException:  # nothing was written: the position is what it was
            self.next[source], self.taken = before
            raise
        self.counters.received += taken
        entry.edge.commit(entry, taken)
        if self.log.ground.seams.telemetry.handlers:
            self._told(taken, len(made.outputs))

    def _told(self, received: int, emitted: int) -> None:
        """The telemetry event of a step."""
        seconds = self.clock.monotonic() - self.begun
        told = {"received": received, "emitted": emitted, "seconds": seconds}
        self.log.ground.seams.telemetry.emit("stage.block", told, {"stage": self.name})

    def emit(self, made: Made, inputs: tuple[Input, ...] = (), entry: Entry | None = None) -> None:
        """Encode, append and hand on what a step made; `entry` is what it was made of."""
        upstream = self.log.codecs[entry.edge.source] if entry is not None else None
        made_of = columns(self.name, self.codec, made, entry, upstream, self.at)
        outputs, payloads, kinds, parents, lost, letters = made_of
        before, self.within = self.within, made.within
        count = len(outputs)
        block = Block(
            self.name,
            self.written,
            count,
            self.at,
            payloads,
            self.codec.types(outputs, kinds) if count else 0,
            inputs,
            self.cursor(),
            parents,
            errors=lost,
        )
        try:
            if count and (sample := self.codec.sample_due(count)):
                self.codec.prove(outputs[:sample], block)
            position = self.append(block, letters)
        except BaseException:
            self.within = before
            raise
        self.written += count
        self.counters.emitted += count
        self.counters.dropped += sum(len(offsets) for reason, offsets in made.lost.items() if reason != "skipped")
        if count:
            self._fit = max(1, min(MOST, _FULL * count // len(payloads)))
            self._hand_on(outputs, kinds, block, position)

    def append(self, record: Block | Receipt, letters: Sequence[DeadLetter]) -> int:
        """Write a step's record and its letters as one frame; returns the record's position."""
        if not letters:
            return self._write([record])
        shared = self.log.letters
        numbered = shared.number(letters)
        position = self._write([record, *numbered]) - len(numbered)
        self.counters.dead += len(numbered)
        shared.written(self.name, numbered, position + 1)
        return position

    def _hand_on(self, outputs: Sequence[Any], kinds: set[type], block: Block, position: int) -> None:
        """Give a written block to every edge."""
        size, place = len(block.payloads), Place(position, block.base, block.at)
        for edge in self.edges:
            items = self.codec.decode(block) if self.codec.copies else outputs
            edge.offer(items, kinds, place, size)
