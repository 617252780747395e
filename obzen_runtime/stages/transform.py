"""Transforms: one event in; one, none or many out."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, ParamSpec, TypeVar, Unpack, overload

import msgspec

from obzen_runtime.actor import Directive, Transition
from obzen_runtime.kernel import ErrorInfo, classify
from obzen_runtime.stages.call import Call, Calls
from obzen_runtime.stages.codec import Codec
from obzen_runtime.stages.context import Context
from obzen_runtime.stages.edge import Edge, Entry, Place, time_of
from obzen_runtime.stages.handling import Handling, HandlingKeywords, handling, items_of
from obzen_runtime.stages.lanes import Lanes, Slot, TaskLanes, ThreadLanes
from obzen_runtime.stages.machines import TRANSFORM, DrainComplete
from obzen_runtime.stages.node import Node
from obzen_runtime.stages.shared import CONTINUE, MOST, Crashed, Failed, Log, Pace
from obzen_runtime.stages.stage import Stage

__all__ = ["Handled", "Transform", "TransformStage", "transform"]

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class Transform(Node):
    """A described transform."""

    options: Handling = Handling()
    kind: ClassVar[str] = "transform"

    def build(self, log: Log, codec: Codec) -> "TransformStage":
        return TransformStage(self, log, codec)


@overload
def transform(handler: Callable[P, R], /) -> Transform: ...
@overload
def transform(**options: Unpack[HandlingKeywords]) -> Callable[[Callable[P, R]], Transform]: ...
def transform(handler: Callable[..., Any] | None = None, /, **options: Unpack[HandlingKeywords]) -> Any:
    """Describe a function of one event as a transform.

    Its return annotation is what it gives: `T`; `T | None`, where None drops the event; `Iterator[T]` for a generator
    of any number of events. `async def` works wherever `def` does.

    Keywords: `on_error`, what becomes of an event whose handler failed (`"dead_letter"`, `"fail"`, `"skip"`); `retry`, an
    `oz.Retry` for failures that may pass; `concurrency`, events in work at once (1 to 10,000, `async def` only);
    `executor=oz.threads(n)` for a handler that blocks; `batch` and `within`, to be given lists of up to so many events of
    one upstream (at most 4,096), after so many seconds also fewer. Raises `UsageError` for those that do not go together.
    """

    def make(function: Callable[..., Any]) -> Transform:
        checked, signature = handling(function, options, events=1)
        if checked.batch and signature.outputs:
            given, optional = items_of(f"{function.__name__}: with batch it returns", signature.outputs)
            signature = signature._replace(outputs=given, optional=optional)
        return Transform(function.__name__, function, signature=signature, options=checked)

    return make if handler is None else make(handler)


class Handled(Stage):
    """A stage that calls a handler for each event: what transforms and sinks share."""

    limit = MOST
    """Events in one step at the most."""
    gives = True
    """Whether what the handler returns goes on."""
    flushes = False
    """Whether what was done must be flushed before it is committed."""

    def __init__(self, node: Any, log: Log, codec: Codec) -> None:
        super().__init__(node, log, codec)
        self.options: Handling = node.options
        self.pace = Pace()
        self.call = self._call(node)
        self.live: Any = None
        self.lanes: Lanes | None = None
        self.failures = 0
        self.first_failed = 0.0
        self.not_before = 0.0
        self._waiting: dict[Edge, float] = {}
        """Since when a batch of each upstream waits to fill, monotonic seconds."""

    def _call(self, node: Node) -> Call:
        handler = node.handler
        signature = node.signature
        if node.bound:
            handler = partial(handler, **node.bound)
        self.handler = handler
        if signature is not None and signature.context:
            handler = self._with_context
        asynchronous = signature is not None and signature.asynchronous
        many = signature is not None and signature.many
        optional = signature is not None and signature.optional
        return Call(handler, asynchronous=asynchronous, many=many, batch=self.options.batch > 0, optional=optional)

    def _with_context(self, item: Any) -> Any:
        """Call the handler with the context of the event at hand; calls come in input order."""
        return self.handler(item, self._context(next(self._ordinals)))

    def _context(self, ordinal: int) -> Context:
        """The context of the upstream's event `ordinal`, one of the entry at hand."""
        return self._context_of(self._upstream, ordinal, time_of(self._places, ordinal))

    def _context_of(self, upstream: str, ordinal: int, at: int) -> Context:
        return Context(self.name, upstream, ordinal, at=at, seed=self.log.ground.run_id, log=self.logger)

    @property
    def _contextual(self) -> bool:
        return self.node.signature is not None and self.node.signature.context

    def _in_lane(self, slot: Slot) -> Any:
        if self._contextual:
            return self.handler(slot.item, self._context_of(slot.upstream, slot.ordinal, slot.at))
        return self.handler(slot.item)

    def _number(self, entry: Entry, first: int) -> None:
        """The next call is about the event at this place of the entry."""
        self._upstream = entry.edge.source
        self._places = entry.places
        ordinals = range(entry.base + first, entry.base + entry.count) if entry.ordinals is None else entry.ordinals[first:]
        self._ordinals = iter(ordinals)  # not of the entry: its events may be let go of as soon as they are committed

    _upstream = ""
    _places: tuple[Place, ...] = ()
    _ordinals: Iterator[int] = iter(())

    async def initialize(self) -> None:
        if self.options.concurrency > 1:
            self.lanes = TaskLanes(self._in_lane, self.options.concurrency, self.wake, self._spawn)
        elif self.options.executor is not None:
            threads = self.log.ground.seams.threads
            self.lanes = ThreadLanes(self.name, self._in_lane, self.options.executor.count, self.wake, threads)

    async def rebuild(self) -> None:
        await super().rebuild()
        self.live = None
        self.failures = 0
        self._waiting.clear()
        await self.initialize()

    async def flush(self, entry: Entry | None = None, calls: Calls | None = None) -> None:
        """Make sure of what the handler did, in these calls over this entry, before that is committed."""

    def halt(self) -> None:
        if self.lanes is not None:
            self.lanes.close()
        super().halt()

    # -- one step -----------------------------------------------------------------------------

    async def pull(self) -> Directive:
        """Take the next entry and do a step over it, or wait for something to do."""
        found = await self._next_entry()
        if not isinstance(found, tuple):
            return found
        entry, room = found
        items = await self.payloads(entry)
        if self.not_before:
            return await self._wait_to_retry()
        if self.lanes is not None:
            return await self._pull_lanes(self.lanes, entry, room)
        if self.options.batch and not self.failures:
            batch = await self._next_batch()
            if batch is None:
                return CONTINUE
            entry = batch
        await self._step(entry, entry.items or items, min(room, self.limit))
        return CONTINUE

    async def _step(self, entry: Entry, items: Sequence[Any], room: int) -> None:
        monotonic = self.clock.monotonic
        self.begun = now = monotonic()
        call = self.call
        room = max(room, self.options.batch)
        calls = Calls(call, items[entry.done :] if entry.done else items, self._holds, live=self.live, within=self.within)
        self._number(entry, entry.done + (self.live is not None))
        self.live = None
        most = min(entry.count - entry.done, room, 1 if self.failures else MOST, self.options.batch or MOST)
        self.at = self.clock.wall_ms()
        try:
            while True:
                taken = calls.taken
                if call.batch:
                    if not await calls.batch(most):
                        self._number(entry, entry.done)
                        await calls.singly(most)
                else:
                    await self._piece(calls, min(most, taken + self.pace.calls), room)
                before, now = now, monotonic()
                self.pace.took(max(1, calls.taken - taken), now - before)
                if calls.over or calls.taken >= most or len(calls.raw) >= room or now - self.begun >= self.longest:
                    break
        finally:
            if self.flushes and calls.taken:
                await self.flush(entry, calls)
            self._finish_step(entry, calls)
            self.counters.seconds += monotonic() - self.begun
        if calls.crash is not None:
            raise Crashed(calls.crash)

    longest = 0.0008
    """Seconds after which a step ends."""

    async def _piece(self, calls: Calls, stop: int, room: int) -> None:
        call = self.call
        if call.many:
            if call.asynchronous:
                await calls.many_async(stop, room)
            else:
                calls.many(stop, room)
        elif call.asynchronous:
            await calls.one_async(stop)
        else:
            calls.one(stop)

    def _finish_step(self, entry: Entry, calls: Calls) -> None:
        """Commit what the step made, whatever ended it: a cancelled step is committed up to the last whole event."""
        if self._failing is not None:
            self._failing = self._named(self._failing, entry, entry.ordinal(entry.done + calls.taken))
        if calls.taken or calls.raw:
            self.failures = 0
            made = calls.made(self._judge, flatten=self.call.many, outputs=self.gives)
            self.live = calls.live
            self.commit(entry, made)
            if not self.within:
                self.live = None
            if made.dead:
                self.log.letters.check_flood()
        if calls.held is not None and self._failing is None:
            self._hold()

    def _judge(self, error: BaseException) -> ErrorInfo | None:
        """An event's failure under the stage's policy: a letter's error, or None to skip."""
        self.counters.errors += 1
        info = classify(error)
        if self.options.on_error == "skip":
            self.logger.warning("event skipped", error=info.message)
            return None
        return info

    def _named(self, error: ErrorInfo, entry: Entry, ordinal: int) -> ErrorInfo:
        """The error with the event that it is about."""
        details = {**error.details, "stage": self.name, "event": f"{entry.edge.source}@{ordinal}"}
        return msgspec.structs.replace(error, details=details)

    _failing: ErrorInfo | None = None
    """Under `on_error="fail"`: why the stage ends. The event itself is not taken, so a resume tries it again."""

    # -- retry --------------------------------------------------------------------------------

    def _holds(self, error: BaseException) -> bool:
        """Whether the step ends before this event: it is tried again, its delay begins now, or the stage ends at it."""
        if self._tries_again(error):
            return True
        if self.options.on_error == "fail":
            self.counters.errors += 1
            self._failing = classify(error)
            return True
        return False

    _delay: float | None = None
    """Seconds until the event at hand is tried again."""

    def _tries_again(self, error: BaseException) -> bool:
        now = self.clock.monotonic()
        if not self.failures:
            self.first_failed = now
        self._delay = self._delay_of(error, self.failures + 1, now - self.first_failed)
        return self._delay is not None

    def _delay_of(self, error: BaseException, failures: int, elapsed: float) -> float | None:
        """Seconds after which an event is tried again that failed so often, `elapsed` seconds after the first time; None: it is not."""
        if self.options.retry is None:
            return None
        chance = self.log.ground.seams.entropy.uniform(0.0, 1.0)
        return self.options.retry.delay(failures, classify(error), elapsed=elapsed, chance=chance)

    def _hold(self) -> None:
        """The event at hand is tried again, after its delay."""
        self.failures += 1
        self.counters.errors += 1
        self.not_before = self.clock.monotonic() + (self._delay or 0.0)

    async def _wait_to_retry(self) -> Directive:
        """Hold this event's lane until its time has come; a command cuts the wait short and is heard first."""
        now = self.clock.monotonic()
        if now < self.not_before:
            timer = asyncio.get_running_loop().call_later(self.not_before - now, self.wake.set)
            try:
                await self.wake.wait()
            finally:
                timer.cancel()
            return CONTINUE
        self.not_before = 0.0
        return CONTINUE

    # -- batches and lanes ----------------------------------------------------------------------

    async def _next_batch(self) -> Entry | None:
        """The upstream whose batch is full, cannot grow, or began `within` ago, brought to the front; None after a wait for one."""
        now = self.clock.monotonic()
        head = self.inbox.entries[0]
        due = now + self.options.within
        for edge, entry in self.inbox.firsts().items():
            if entry is not head and (entry.end is not None or not entry.items or entry.bad or not self.may_take(entry)):
                continue
            since = self._waiting.setdefault(edge, now)
            if self._filled(entry) or since + self.options.within <= now:
                del self._waiting[edge]
                self.inbox.prefer(entry)
                return entry
            due = min(due, since + self.options.within)
        timer = asyncio.get_running_loop().call_later(due - now, self.wake.set)
        try:
            await self.wake.wait()
        finally:
            timer.cancel()
        return None

    def _filled(self, entry: Entry) -> bool:
        """Whether waiting would add nothing: the batch is full, or what comes next is none of it, or the writer has no credit."""
        if self.inbox.gather(entry, self.options.batch, self.may_take, past_others=True) >= self.options.batch:
            return True
        more = any(other.edge is entry.edge for other in self.inbox.entries if other is not entry)
        return more or not entry.edge.ready or self.ended == len(self.inputs)

    async def _pull_lanes(self, lanes: Lanes, entry: Entry, room: int) -> Directive:
        """Keep the lanes filled and commit what is done of this entry, the first one, up to the first event that is not."""
        slots = lanes.slots
        while lanes.failed:
            self._try_again(lanes, lanes.failed.popleft())
        width = self.options.executor.count if self.options.executor is not None else self.options.concurrency
        self.inbox.gather(entry, 2 * width, self.may_take)
        self._fill(lanes, 2 * width)
        calls = Calls(self.call, (), self._holds)
        self.at = self.clock.wall_ms()
        most = min(room, self.limit, entry.count - entry.done)
        while slots and slots[0].done and calls.crash is None and calls.taken < most:
            slot = slots[0]
            if isinstance(slot.error, Exception) and self.options.on_error == "fail":
                self._failing = classify(slot.error)
                break
            slots.popleft()
            calls.settle(slot.result, slot.error)
        if not calls.taken and calls.crash is None and self._failing is None:
            await self.wake.wait()
            return CONTINUE
        if self.flushes and calls.taken:
            await self.flush(entry, calls)
        self._finish_step(entry, calls)
        if calls.crash is not None:
            raise Crashed(calls.crash)
        return CONTINUE

    def _fill(self, lanes: Lanes, most: int) -> None:
        """Put what comes next in the inbox to work, of whatever upstream it is, until `most` events are."""
        passed = len(lanes.slots)
        for entry in self.inbox.entries:
            begun = entry.done + passed
            if begun >= entry.count:
                passed = begun - entry.count
                continue
            free = most - len(lanes.slots)
            if not free or entry.items is None or entry.bad or not self.may_take(entry):
                return
            numbers = range(begun, min(entry.count, begun + free))
            ordinals = ((number, entry.ordinal(number)) for number in numbers)
            source, items, places = entry.edge.source, entry.items, entry.places
            lanes.submit([Slot(items[number], source, ordinal, time_of(places, ordinal)) for number, ordinal in ordinals])
            passed = 0

    def _try_again(self, lanes: Lanes, slot: Slot) -> None:
        """Work on the slot's event once more after a delay, where the policy says so; the others go on meanwhile."""
        if not isinstance(slot.error, Exception):
            return
        now = self.clock.monotonic()
        if not slot.failures:
            slot.first_failed = now
        slot.failures += 1
        wait = self._delay_of(slot.error, slot.failures, now - slot.first_failed)
        if wait is not None:
            self.counters.errors += 1
            slot.done = False
            asyncio.get_running_loop().call_later(wait, lanes.again, slot)

    def raise_failing(self) -> None:
        """Under `on_error="fail"` what came before the failed event is committed; now the stage ends."""
        if self._failing is not None:
            raise Failed(self._failing)


class TransformStage(Handled):
    """A running transform."""

    machine = TRANSFORM

    async def work(self, state: str) -> Directive:
        if state == "draining":
            return Transition(DrainComplete())
        directive = await self.pull()
        self.raise_failing()
        return directive
