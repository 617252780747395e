"""Sinks: where events leave the flow. A receipt says what was delivered; it is written after the delivery.

A receipt covers at most 256 events or 50 ms, so that little is delivered twice after a crash. What a sink delivers
rests on durable records: at level `fsync` it waits for them.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack, overload

from obzen_runtime.actor import Directive, Transition
from obzen_runtime.events import EndKind, Input, Lost, Receipt
from obzen_runtime.kernel import ErrorInfo, UsageError, classify
from obzen_runtime.stages.call import Call, Calls, ours
from obzen_runtime.stages.codec import Codec
from obzen_runtime.stages.context import Context
from obzen_runtime.stages.edge import Entry
from obzen_runtime.stages.machines import SINK, DrainComplete, FlushComplete
from obzen_runtime.stages.node import Handling, HandlingKeywords, Node
from obzen_runtime.stages.schema import Declared, hints_of, read_handler
from obzen_runtime.stages.stage import Crashed, Failed, Log
from obzen_runtime.stages.step import Made, columns
from obzen_runtime.stages.transform import Handled, handling

__all__ = ["Sink", "SinkStage", "sink"]


@dataclass(frozen=True, eq=False)
class Sink(Node):
    """A described sink. `handler` is a function of one event, or a class with `write`, and perhaps `flush` and `close`."""

    options: Handling = Handling()
    kind: ClassVar[str] = "sink"

    def outputs(self, upstream: Any) -> tuple[Declared, ...]:
        return ()

    def build(self, log: Log, codec: Codec) -> "SinkStage":
        return SinkStage(self, log, codec)


@overload
def sink(handler: Callable[..., Any] | type[Any], /) -> Sink: ...
@overload
def sink(**options: Unpack[HandlingKeywords]) -> Callable[[Callable[..., Any] | type[Any]], Sink]: ...
def sink(handler: Callable[..., Any] | type[Any] | None = None, /, **options: Unpack[HandlingKeywords]) -> Any:
    """Describe a function of one event, or a class, as a sink.

    A class has `write(event)` and, where it holds something open, `flush()`, called before each receipt, and
    `close()`, called once at the end; its keyword-only constructor parameters are configuration. When the stage starts
    again after a crash it is closed and made anew, or, where it has `restart()`, told to forget what came since the last
    flush: that is given again.
    Keywords are the fields of `Handling`; with `batch=n` the handler gets lists.
    """

    def make(function: Any) -> Sink:
        if inspect.isclass(function):
            return _sink_class(function, options)
        checked, signature = handling(function, options, events=1)
        return Sink(function.__name__, function, signature=signature, options=checked)

    return make if handler is None else make(handler)


def _sink_class(made: type[Any], options: HandlingKeywords) -> Sink:
    if not callable(getattr(made, "write", None)):
        raise UsageError(f"sink {made.__name__} has no write method", remedy="Give it `def write(self, event: T) -> None`.")
    checked, write = handling(_unbound(made, "write"), options, events=1)
    configuration = read_handler(made, events=0, context=Context) if made.__init__ is not object.__init__ else None
    return Sink(
        made.__name__, made, signature=write._replace(parameters=configuration.parameters if configuration else {}), options=checked
    )


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


class SinkStage(Handled):
    """A running sink."""

    machine = SINK
    limit = 256
    gives = False

    def __init__(self, node: Sink, log: Log, codec: Codec) -> None:
        self.writer: Any = None
        self._waits = False
        super().__init__(node, log, codec)
        if self.call.asynchronous:  # it waits without holding the loop, so its receipts may be further apart
            self.longest = 0.05
        if self.options.batch:
            self.limit = max(self.limit, self.options.batch)

    async def initialize(self) -> None:
        if inspect.isclass(self.node.handler):
            if self.writer is None:
                self.writer = self.node.handler(**self.node.bound)
            self.handler = self.writer.write
            self.flushes = hasattr(self.writer, "flush")
            self.call = Call(
                self._with_context if self.node.signature and self.node.signature.context else self.writer.write,
                asynchronous=self.call.asynchronous,
                many=False,
                batch=self.call.batch,
                optional=False,
            )
        await super().initialize()

    async def work(self, state: str) -> Directive:
        match state:
            case "flushing":
                await self.flush()
                return Transition(FlushComplete())
            case "draining":
                return Transition(DrainComplete())
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
        if hasattr(self.writer, "restart"):
            await self._ask(self.writer, "restart")
        else:
            await self._discard()
        await super().rebuild()

    def halt(self) -> None:
        super().halt()
        if self.writer is not None and self.mailbox.killed is not None:  # no other end will come
            self._spawn(self._discard())

    async def flush(self) -> None:
        await self._ask(self.writer, "flush")

    async def _discard(self) -> None:
        """Close a writer whose sink has failed already: that it cannot be closed is told in the log."""
        writer, self.writer = self.writer, None
        try:
            await self._ask(writer, "close")
        except (Crashed, Failed) as broken:
            self.logger.warning("sink did not close", error=str(broken))

    async def _ask(self, writer: Any, method: str) -> None:
        """Call the writer's `flush` or `close` where it has one; an error that may pass crashes the sink, any other fails it."""
        function = getattr(writer, method, None)
        if function is None:
            return
        try:
            done = function()
            if inspect.isawaitable(done):
                await done
        except BaseException as error:
            if ours(error):
                raise
            info = classify(error)
            raise (Crashed(error) if info.retryable or not isinstance(error, Exception) else Failed(info)) from error

    async def _step(self, entry: Entry, items: Sequence[Any], room: int) -> None:
        """Many receipts a step, where the handler is quick: what surrounds a step costs more than 256 calls of it."""
        call, clock = self.call, self.clock
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
                    await self.flush()
                self._finish_step(entry, calls)
                if calls.crash is not None:
                    raise Crashed(calls.crash)
                if self.failures or self._failing is not None:
                    break
        finally:
            self.counters.seconds += now - self.begun

    def may_take(self, entry: Entry) -> bool:
        """At level `fsync` nothing leaves before the records it rests on are durable."""
        if self._undurable is not None:
            raise Failed(self._undurable)
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
        except Exception as error:
            self._undurable = classify(error)
        finally:
            self._waits = False
            self.wake.set()

    _undurable: ErrorInfo | None = None

    def mark(self, inputs: tuple[Input, ...], lost: tuple[Lost, ...] = ()) -> Receipt:
        self.at = self.clock.wall_ms()
        return Receipt(self.name, self.at, inputs, self.cursor(), lost)

    def emit(self, made: Made, inputs: tuple[Input, ...] = (), entry: Entry | None = None) -> None:
        """A sink's step ends in a receipt; what its handler returns is nobody's."""
        upstream = self.log.codecs[entry.edge.source] if entry is not None else None
        made_of = columns(self.name, self.codec, made, entry, upstream, self.at)
        self.append(Receipt(self.name, self.at, inputs, self.cursor(), made_of.lost), made_of.letters)
