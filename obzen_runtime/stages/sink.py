"""Sinks: where events leave the flow. A receipt says what was delivered; it is written after the delivery.

A receipt covers at most 256 events or 50 ms, so that little is delivered twice after a crash. What a sink delivers
rests on durable records: at level `fsync` it waits for them. A writer that knows its own place says it for each receipt
and goes on from there; what was written behind it is its own to take back.
"""

import asyncio
import dataclasses
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Unpack, overload

import msgspec

from obzen_runtime.actor import Directive, Transition
from obzen_runtime.events import Cursor, DeliveryResolved, EndKind, Input, Lost, Receipt
from obzen_runtime.journal import Fsync, Memory
from obzen_runtime.kernel import ErrorInfo, IdempotencyKey, IoFailed, UsageError, classify
from obzen_runtime.stages.call import Call, Calls, ours
from obzen_runtime.stages.codec import Codec
from obzen_runtime.stages.context import Context
from obzen_runtime.stages.delivery import Delivering, SinkKeywords, check_writer, key_of
from obzen_runtime.stages.doubts import Doubting
from obzen_runtime.stages.edge import Entry
from obzen_runtime.stages.handling import handling
from obzen_runtime.stages.lanes import Slot
from obzen_runtime.stages.machines import SINK, DrainComplete, FlushComplete
from obzen_runtime.stages.node import Node
from obzen_runtime.stages.schema import Declared, hints_of, read_handler
from obzen_runtime.stages.shape import CODEC_ERRORS
from obzen_runtime.stages.shared import CONTINUE, MOST, Crashed, Failed, Log
from obzen_runtime.stages.standing import Standing
from obzen_runtime.stages.step import LARGEST, Made, columns

__all__ = ["Sink", "SinkStage", "sink"]


@dataclass(frozen=True, eq=False)
class Sink(Node):
    """A described sink. `handler` is a function of one event, or a class with `write`, and perhaps `flush` and `close`."""

    options: Delivering = Delivering()
    key: str = ""
    """The handler's parameter that takes the key of an event, or the keys of a batch."""
    simulate: "Sink | None" = None
    """What a simulation calls instead."""
    kind: ClassVar[str] = "sink"

    def outputs(self, upstream: Any) -> tuple[Declared, ...]:
        return ()

    def stand_in(self) -> "Sink | None":
        """The sink a simulation runs in place of this one, under its name and with its parameters; None when none was declared."""
        return dataclasses.replace(self.simulate, name=self.name, bound=self.bound) if self.simulate is not None else None

    def build(self, log: Log, codec: Codec) -> "SinkStage":
        return SinkStage(self, log, codec)


@overload
def sink(handler: Callable[..., Any] | type[Any], /) -> Sink: ...
@overload
def sink(**options: Unpack[SinkKeywords]) -> Callable[[Callable[..., Any] | type[Any]], Sink]: ...
def sink(handler: Callable[..., Any] | type[Any] | None = None, /, **options: Unpack[SinkKeywords]) -> Any:
    """Describe a function of one event, or a class, as a sink.

    A class has `write(event)` and, where it holds something open, `flush()`, called before each receipt, and `close()`,
    called once at the end; its keyword-only constructor parameters are configuration. After a crash, of the stage or of
    the process, it is closed where that can still be, and made anew.

    A class that can go on from a place of its own has `position()`, asked after each flush, and `resume(position)`,
    called before anything is written: with what `position()` said for the last receipt (any value msgpack carries), or
    with None where this run has none yet. `sync()` is called between the two at level `fsync`, on a thread.

    `delivery` is what happens to an event that may have been delivered and has no receipt:

    - `"safe"`, the default: it is delivered again.
    - `"keyed"`: it is delivered again, and the handler's keyword-only parameter `key: oz.IdempotencyKey` (with
      `batch=n` `keys: Sequence[oz.IdempotencyKey]`) is the same as before.
    - `"transactional"`: exactly once. The class has `commit(position: bytes)` in place of `flush`, which stores what was
      written and the position in one transaction, and `stored(run: str, stage: str) -> bytes | None`, asked before
      anything is written, which gives the position stored last for this sink of this run. A `write` that raises, and a
      `close`, must leave nothing to be committed.
    - `"sensitive"`: never by itself. It is in doubt until somebody decides with `obzen resolve`.

    The other keywords say how it is called: `concurrency`, `executor`, `batch` and `within`, `retry`, `on_error`, all as
    for `oz.transform`. `simulate` is a stand-in of the same shape, called in place of the handler when the flow is
    simulated.
    """

    def make(function: Any) -> Sink:
        stand_in = options.get("simulate")
        chosen = {name: value for name, value in options.items() if name != "simulate"}
        made = _describe(function, chosen)
        return made if stand_in is None else dataclasses.replace(made, simulate=_alike(made, _describe(stand_in, chosen)))

    return make if handler is None else make(handler)


def _describe(function: Any, options: dict[str, Any]) -> Sink:
    is_class = inspect.isclass(function)
    if is_class and not callable(getattr(function, "write", None)):
        raise UsageError(f"sink {function.__name__} has no write method", remedy="Give it `def write(self, event: T) -> None`.")
    written = function.write if is_class else function
    if inspect.isgeneratorfunction(written) or inspect.isasyncgenfunction(written):
        raise UsageError(f"sink {function.__name__} is a generator, and nobody asks a sink for what it yields", remedy="Remove the yield.")
    called = _unbound(function, "write") if is_class else function
    checked, signature = handling(called, options, events=1, kind=Delivering)
    assert isinstance(checked, Delivering)
    check_writer(function, is_class=is_class, options=checked)
    key = key_of(function.__name__, signature.parameters, checked)
    parameters = {name: each for name, each in signature.parameters.items() if name != key}
    if is_class:
        has_own = function.__init__ is not object.__init__
        parameters = dict(read_handler(function, events=0, context=Context).parameters) if has_own else {}
    return Sink(function.__name__, function, signature=signature._replace(parameters=parameters), options=checked, key=key)


def _alike(made: Sink, other: Sink) -> Sink:
    """The stand-in, when it can be called as the sink is. Raises `UsageError`."""
    if inspect.isclass(made.handler) != inspect.isclass(other.handler):
        raise UsageError(
            f"sink {made.name}: of it and its stand-in {other.name} one is a class and one a function", remedy="Make both the same."
        )
    if set(made.parameters) != set(other.parameters):
        raise UsageError(
            f"sink {made.name} has the parameters ({', '.join(made.parameters)}), its stand-in {other.name} has "
            f"({', '.join(other.parameters)})",
            remedy="Give both the same keyword-only parameters.",
        )
    return other


def _unbound(made: type[Any], method: str) -> Callable[..., Any]:
    """A method as a function of its arguments behind `self`, with its annotations."""
    function = getattr(made, method)
    signature = inspect.signature(function)

    async def asynchronous(*arguments: Any) -> Any:
        """Only its signature is read."""

    def synchronous(*arguments: Any) -> Any:
        """Only its signature is read."""

    shape: Any = asynchronous if inspect.iscoroutinefunction(function) else synchronous
    shape.__name__ = f"{made.__name__}.{method}"
    shape.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])
    shape.__annotations__ = hints_of(function)
    return shape  # type: ignore[no-any-return]


class SinkStage(Doubting):
    """A running sink."""

    machine = SINK
    limit = 256
    gives = False
    _proved = False
    """What its handler returns was looked at once."""
    origins: tuple[tuple[str, dict[str, int]], ...] = ()
    """The runs this one was forked from, the oldest first, each with the next ordinal of every stage at the fork."""

    def __init__(self, node: Sink, log: Log, codec: Codec) -> None:
        self.writer: Any = None
        self.key = node.key
        self.delivery = node.options.delivery
        self.place = b""
        """The writer's own position at the last receipt, in msgpack."""
        self._ahead = b""
        """The writer's position when it was last asked: the next receipt's."""
        self._stored: dict[str, int] = {}
        """Per upstream the ordinal up to which a transactional writer has stored, where receipts may lack."""
        self._grouped: tuple[str, frozenset[int]] = "", frozenset()
        """The last batch that was handed over as a whole."""
        self._went_on = False
        """It stands in a run that began before it was made."""
        self._syncing: asyncio.Future[Any] | None = None
        self._waits = False
        super().__init__(node, log, codec)
        if self.call.asynchronous:  # it waits without holding the loop, so its receipts may be further apart
            self.longest = 0.05
        if isinstance(self.journal.level, Memory):  # no receipt outlives the process, so none need be near
            self.limit = MOST
        if self.options.batch:
            self.limit = max(self.limit, self.options.batch)

    # -- life ---------------------------------------------------------------------------------

    def restore(self, standing: Standing) -> None:
        super().restore(standing)
        self.place = self._ahead = standing.cursor.mark
        self.doubted = dict(standing.doubted)
        self._went_on = True
        self.settle_orders()

    async def initialize(self) -> None:
        done = self.standing.drained and not self.orders
        if inspect.isclass(self.node.handler) and self.writer is None and not (done or self.silent):
            await self._open()
        await super().initialize()

    async def _open(self) -> None:
        """Make the writer, and let it go on where it stood."""
        self.writer = writer = self.node.handler(**self.node.bound)
        self.handler = writer.write
        self.call.handler = self._reached()
        self.flushes = any(hasattr(writer, method) for method in ("flush", "position", "commit"))
        if self.delivery == "transactional":
            await self._find_stored(writer)
        elif hasattr(writer, "resume"):
            await _result(writer.resume(msgspec.msgpack.decode(self.place) if self.place else None))
        self._went_on = True

    async def _find_stored(self, writer: Any) -> None:
        run = self.log.ground.run_id
        stored = await _result(writer.stored(run, self.name))
        if stored is None:
            return
        if not self._went_on:
            raise IoFailed(
                f"sink {self.name} has stored a position for run {run}, and this run {run} only begins",
                code="sink_changed",
                remedy="Start it under another --run-id, or delete that position and what was stored with it.",
                stage=self.name,
            )
        self._stored = msgspec.msgpack.decode(stored, type=Cursor).next

    def _call(self, node: Node) -> Call:
        call = super()._call(node)
        call.handler = self._reached()
        call.gives = self.gives
        return call

    def _reached(self) -> Callable[..., Any]:
        """What is called with an event: the handler itself, or what tells it of the event at hand."""
        if self.key:
            return self._with_key
        return self._with_context if self._contextual else self.handler

    def _with_key(self, item: Any) -> Any:
        """Call the handler with the key of the event at hand, or the keys of its batch; calls come in input order."""
        upstream, attempt = self._upstream, self.failures + 1
        ordinals = list(islice(self._ordinals, len(item) if self.call.batch else 1))
        if len(ordinals) > 1:
            self._grouped = upstream, frozenset(ordinals)
        elif self._grouped[0] == upstream and ordinals[0] in self._grouped[1]:
            attempt += 1
        keys = [self._key(upstream, ordinal, attempt) for ordinal in ordinals]
        told: dict[str, Any] = {self.key: keys if self.call.batch else keys[0]}
        if self._contextual:
            return self.handler(item, self._context(ordinals[0]), **told)
        return self.handler(item, **told)

    def _in_lane(self, slot: Slot) -> Any:
        if not self.key:
            return super()._in_lane(slot)
        told: dict[str, Any] = {self.key: self._key(slot.upstream, slot.ordinal, slot.failures + 1)}
        if self._contextual:
            return self.handler(slot.item, self._context_of(slot.upstream, slot.ordinal, slot.at), **told)
        return self.handler(slot.item, **told)

    def _key(self, upstream: str, ordinal: int, attempt: int) -> IdempotencyKey:
        born = next((run for run, written in self.origins if ordinal < written.get(upstream, 0)), self.log.ground.run_id)
        return IdempotencyKey(f"{born}/{self.name}/{upstream}@{ordinal}", attempt)

    async def work(self, state: str) -> Directive:
        match state:
            case "flushing":
                await self.flush()
                return Transition(FlushComplete())
            case "draining":
                return Transition(DrainComplete())
        if self.orders:
            await self.carry_out()
            directive: Directive = CONTINUE
        else:
            directive = await self.pull()
        self.raise_failing()
        return directive

    async def finish(self, kind: EndKind) -> None:
        if kind == "poison":
            await self._discard()
        else:
            writer, self.writer = self.writer, None
            await self._ask(writer, "close")
        await super().finish(kind)

    async def rebuild(self) -> None:
        await self._discard()
        self._ahead = self.place
        self.settle_orders()
        await super().rebuild()

    def halt(self) -> None:
        super().halt()
        if self.writer is not None and self.mailbox.killed is not None:  # no other end will come
            self._spawn(self._discard())

    async def _discard(self) -> None:
        """Close a writer whose sink has failed already: that it cannot be closed is told in the log."""
        writer, self.writer = self.writer, None
        if self._syncing is not None and not self._syncing.done():  # the thread must not find closed what it syncs
            await asyncio.wait([self._syncing])
        try:
            await self._ask(writer, "close")
        except (Crashed, Failed) as broken:
            self.logger.warning("sink did not close", error=str(broken))

    async def _ask(self, writer: Any, method: str, *told: Any) -> Any:
        """Call a method of the writer where it has it; an error that may pass crashes the sink, any other fails it."""
        function = getattr(writer, method, None)
        if function is None:
            return None
        try:
            return await _result(function(*told))
        except BaseException as error:
            if ours(error):
                raise
            info = classify(error)
            raise (Crashed(error) if info.retryable or not isinstance(error, Exception) else Failed(info)) from error

    # -- delivering ---------------------------------------------------------------------------

    async def _next_entry(self) -> tuple[Entry, int] | Directive:
        found = await super()._next_entry()
        if (self._stored or self.silent) and isinstance(found, tuple) and self._pass_over(found[0]):
            return CONTINUE
        return found

    def _pass_over(self, entry: Entry) -> bool:
        """Give their receipt to the next events, if they need no delivery: they are stored, or nothing is to be delivered."""
        stop = self._stored.get(entry.edge.source, 0)
        known = entry.done
        while known < entry.count and (self.silent or entry.ordinal(known) < stop):
            known += 1
        if known == entry.done:
            return False
        self.at = self.clock.wall_ms()
        self.commit(entry, Made(known - entry.done))
        return True

    async def flush(self, entry: Entry | None = None, calls: Calls | None = None) -> None:
        writer = self.writer
        if self.delivery == "transactional":
            if entry is not None and calls is not None and not calls.errors:
                stop = entry.ordinal(entry.done + calls.taken - 1) + 1
                reached = {**self.next, entry.edge.source: max(stop, self.next.get(entry.edge.source, 0))}
                await self._ask(writer, "commit", msgspec.msgpack.encode(Cursor(reached)))
            return
        await self._ask(writer, "flush")
        if isinstance(self.journal.level, Fsync) and hasattr(writer, "sync"):
            await self._sync(writer)
        if hasattr(writer, "position"):
            self._ahead = self._packed(await self._ask(writer, "position"))

    def _packed(self, position: Any) -> bytes:
        try:
            return msgspec.msgpack.encode(position)
        except CODEC_ERRORS as error:
            message = f"sink {self.name} cannot keep its position, of type {type(position).__name__}: {error}"
            raise Failed(
                classify(UsageError(message, remedy="Let position() return numbers, text, bytes, or lists or dicts of them."))
            ) from error

    async def _sync(self, writer: Any) -> None:
        """Wait, off the loop, until what was flushed survives a power cut: its receipt must not do so alone."""
        self._syncing = self.log.ground.seams.threads.run(f"obzen sync {self.name}", writer.sync)
        try:
            await asyncio.shield(self._syncing)
        except Exception as error:
            raise Failed(classify(error)) from error

    async def _step(self, entry: Entry, items: Sequence[Any], room: int) -> None:
        """Many receipts a step, where the handler is quick: what surrounds a step costs more than 256 calls of it."""
        call, clock = self.call, self.clock
        if self.delivery == "sensitive":
            await self.deliver_one(entry, items)
            return
        if call.asynchronous or call.batch or self.failures or self.pace.calls < self.limit:
            await super()._step(entry, items, room)
            return
        self.begun = now = clock.monotonic()
        until = now + self.longest
        try:
            while now < until and self.pace.calls >= self.limit and entry.done < entry.count:
                calls = Calls(call, items[entry.done : entry.done + self.limit], self._holds)
                self._number(entry, entry.done)
                self.at = clock.wall_ms()
                calls.one(len(calls.items))
                before, now = now, clock.monotonic()
                self.pace.took(max(1, calls.taken), now - before)
                if self.flushes and calls.taken:
                    await self.flush(entry, calls)
                self._finish_step(entry, calls)
                if calls.crash is not None:
                    raise Crashed(calls.crash)
                if self.failures or self._failing is not None:
                    break
        finally:
            self.counters.seconds += now - self.begun

    def _finish_step(self, entry: Entry, calls: Calls) -> None:
        if not self._proved and calls.raw:
            self._check_delivered(calls.raw)
            self._proved = True
        super()._finish_step(entry, calls)

    def _check_delivered(self, returned: Sequence[Any]) -> None:
        """A handler that returns a coroutine has delivered nothing: wrapping an async function often makes it a plain one."""
        waiting = [each for each in returned if inspect.isawaitable(each)]
        for each in filter(inspect.iscoroutine, waiting):
            each.close()
        if waiting:
            error = UsageError(
                f"sink {self.name} returned a {type(waiting[0]).__name__}, which nobody awaits: it delivered nothing",
                remedy="Make its handler, and what is wrapped around it, `async def`.",
            )
            raise Failed(classify(error))

    def _holds(self, error: BaseException) -> bool:
        # What a transaction stores must not share a step with an event that failed: the letter of that one is written
        # with the receipt only, and a crash between the two would lose it. So it is tried again, alone.
        if self.delivery == "transactional" and not self.failures:
            self._tries_again(error)
            return True
        return super()._holds(error)

    # -- durability and receipts ----------------------------------------------------------------

    def may_take(self, entry: Entry) -> bool:
        """At level `fsync` nothing leaves before the records it rests on are durable."""
        if self._undurable is not None:
            raise Failed(self._undurable)
        head = self.inbox.entries[0]
        if entry is not head and head.size + entry.size > LARGEST:
            return False  # were all of a step to fail, its letters must fit into one frame with its receipt
        position = entry.places[-1][0]
        if position <= self.journal.durable_head:
            return True
        if not self._waits:
            self._waits = True
            self._spawn(self._wait_durable(position))
        return False

    async def _wait_durable(self, position: int) -> None:
        try:
            await self.journal.durable(position)
            for edge in self.inputs:
                if not edge.ready:  # what is written during a sync must fit, or the disk and the flow wait for each other in turn
                    edge.widen()
        except Exception as error:
            self._undurable = classify(error)
        finally:
            self._waits = False
            self.wake.set()

    _undurable: ErrorInfo | None = None

    def cursor(self) -> Cursor:
        cursor = super().cursor()
        return msgspec.structs.replace(cursor, mark=self.place) if self.place else cursor

    def mark(self, inputs: tuple[Input, ...], lost: tuple[Lost, ...] = ()) -> Receipt:
        self.at = self.clock.wall_ms()
        return Receipt(self.name, self.at, inputs, self.cursor(), lost)

    def emit(self, made: Made, inputs: tuple[Input, ...] = (), entry: Entry | None = None) -> None:
        """A sink's step ends in a receipt; what its handler returns is nobody's."""
        upstream = self.log.codecs[entry.edge.source] if entry is not None else None
        made_of = columns(self.name, self.codec, made, entry, upstream, self.at)
        before, self.place = self.place, self._ahead
        try:
            receipt = Receipt(self.name, self.at, inputs, self.cursor(), made_of.lost)
            if "doubted" in made.lost and entry is not None:
                event = entry.ordinal(entry.done)
                self._write([DeliveryResolved(self.name, self.at, entry.edge.source, event, "doubted"), receipt])
                self.counters.doubted += 1
            else:
                self.append(receipt, made_of.letters)
        except BaseException:
            self.place = before
            raise
        self.settled(inputs)


async def _result(done: Any) -> Any:
    return await done if inspect.isawaitable(done) else done
