"""Sources: where events enter. A generator that returns is a finite source; the flow drains behind it.

A source that raises has crashed. Under its flow's restart policy a `Transient` crash starts the generator again and
skips the items that are already in the journal; any other ends the flow. A row that is no event is `yield Bad(...)`.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, overload

import msgspec

from obzen_runtime.actor import Directive, Transition
from obzen_runtime.events import Cursor, DeadLetter
from obzen_runtime.kernel import ErrorInfo, Permanent, ProtocolViolated, UsageError, classify
from obzen_runtime.stages.codec import Codec
from obzen_runtime.stages.context import Context
from obzen_runtime.stages.machines import SOURCE, Completed, DrainComplete
from obzen_runtime.stages.node import Node
from obzen_runtime.stages.pull import Inline, Puller, Tasked, Threaded
from obzen_runtime.stages.schema import read_handler
from obzen_runtime.stages.stage import CONTINUE, Crashed, Failed, Log, Stage
from obzen_runtime.stages.step import BlockTooLarge, Made, check_size, kinds_of

__all__ = ["Bad", "Progress", "Source", "SourceStage", "source"]


class Bad(msgspec.Struct, frozen=True):
    """What a source yields for a row that is no event: it becomes a dead letter with its place, and the source goes on."""

    raw: bytes | str
    """The row as it stands in the input."""
    error: BaseException | ErrorInfo | str
    """What is wrong with it."""
    place: str = ""
    """Where it stands, such as `flights.csv:17`."""


class Progress:
    """How far a source is. Ask for it with a parameter annotated `oz.Progress`."""

    __slots__ = ("done", "expected", "total")

    def __init__(self) -> None:
        self.done = 0
        """What is done, in units of the source's own (bytes, rows)."""
        self.total: int | None = None
        """What there is to do, in the same units, where that is known."""
        self.expected: int | None = None
        """Items the source will give in all, where it knows: a contract of the run, checked at its natural end."""


@dataclass(frozen=True, eq=False)
class Source(Node):
    """A described source. Every parameter of its function is configuration."""

    thread: bool = False
    kind: ClassVar[str] = "source"
    ports: ClassVar[tuple[str, ...]] = ()

    def build(self, log: Log, codec: Codec) -> "SourceStage":
        return SourceStage(self, log, codec)


@overload
def source(handler: Callable[..., Any], /) -> Source: ...
@overload
def source(*, thread: bool = False) -> Callable[[Callable[..., Any]], Source]: ...
def source(handler: Callable[..., Any] | None = None, /, *, thread: bool = False) -> Any:
    """Describe a generator (plain or async) as a source: annotate it `-> Iterator[T]` or `-> AsyncIterator[T]`.

    A plain generator is pulled on the loop while that is quick; one whose pulls take over 1 ms is moved to a thread
    of its own, from the start with `thread=True`.
    """

    def make(function: Callable[..., Any]) -> Source:
        signature = read_handler(function, events=0, context=Context, every_parameter=True)
        if not signature.many:
            raise UsageError(
                f"source {function.__name__!r} is not annotated as a stream",
                remedy="Annotate it `-> Iterator[T]` or `-> AsyncIterator[T]`.",
            )
        progress = {name: each for name, each in signature.parameters.items() if each.annotation is not Progress}
        return Source(function.__name__, function, signature=signature._replace(parameters=progress), thread=thread)

    return make if handler is None else make(handler)


class SourceStage(Stage):
    """A running source."""

    machine = SOURCE

    def __init__(self, node: Source, log: Log, codec: Codec) -> None:
        super().__init__(node, log, codec)
        self.thread = node.thread
        self.puller: Puller | None = None
        self.progress = Progress()

    @property
    def told_to_drain(self) -> bool:
        """Whether it ended because it was told to, not because it had nothing more."""
        return self.puller is None or not self.puller.ended

    async def work(self, state: str) -> Directive:
        if state == "draining":
            return Transition(DrainComplete())
        room = self._room()
        if not room:
            await self.wake.wait()
            return CONTINUE
        self.begun = self.clock.monotonic()
        self.at = self.clock.wall_ms()
        try:
            if self.puller is None:
                self.puller = self._open()
            puller = self.puller
            items = puller.take(room)
        except BaseException as error:
            raise self._broken(error) from error
        if items:
            self._commit_items(items)
            self.counters.seconds += self.clock.monotonic() - self.begun
            if self.log.ground.seams.telemetry.handlers:
                self._told(len(items), len(items))
            if isinstance(puller, Inline) and puller.waits and not puller.ended:
                self.logger.debug("source moved to a thread of its own")
                self.puller = Threaded(self.name, puller.items, self.wake, self.log.ground.seams.threads, self.clock)
            return CONTINUE
        if puller.ended:
            return Transition(Completed())
        await self.wake.wait()
        return CONTINUE

    def _broken(self, error: BaseException) -> Exception:
        """`Transient` may be restarted; anything else a source raises ends the flow."""
        if isinstance(error, asyncio.CancelledError):
            error = RuntimeError("the source raised CancelledError")
        info = classify(error)
        return Crashed(error) if info.retryable or not isinstance(error, Exception) else Failed(info)

    def _open(self) -> Puller:
        node = self.node
        assert node.signature is not None
        extra = {name: self.progress for name in inspect.signature(node.handler).parameters if name not in node.parameters}
        items = node.handler(**{**dict(node.bound), **extra})
        if hasattr(items, "__anext__"):
            skipping = _skip_async(items, self.taken) if self.taken else items
            tasked = Tasked(self.name, skipping, self.wake, self.clock)
            self._spawn(tasked.pull())
            return tasked
        if not hasattr(items, "__next__"):
            items = iter(items)
        if self.thread or self.taken:
            moved = _skip(items, self.taken) if self.taken else items
            return Threaded(self.name, moved, self.wake, self.log.ground.seams.threads, self.clock)
        return Inline(self.name, items, self.clock)

    def cursor(self) -> Cursor:
        return Cursor(taken=self.taken)

    def _commit_items(self, items: list[Any]) -> None:
        """Write what was pulled, in parts where it is too large for a block; the position goes with each part."""
        kinds = kinds_of(items)
        bad: list[Bad] = []
        made = Made(outputs=items, kinds=kinds)
        if Bad in kinds:
            bad = [item for item in items if type(item) is Bad]
            made = Made(outputs=[item for item in items if type(item) is not Bad])
        letters = tuple(self._letter(each) for each in bad)
        before = self.taken
        self.taken += len(items)
        try:
            check_size(letters)
            self._emit_items(made, letters)
        except BlockTooLarge:
            self.taken = before
            half = len(items) // 2
            self._commit_items(items[:half])
            self._commit_items(items[half:])
            return
        except BaseException:  # nothing was written: the position is what it was
            self.taken = before
            raise
        self.counters.received += len(items)
        if bad or made.dead:
            self.log.letters.check_flood()

    def _emit_items(self, made: Made, letters: tuple[DeadLetter, ...]) -> None:
        self._bad = letters
        self.emit(made)

    _bad: tuple[DeadLetter, ...] = ()

    def append(self, record: Any, letters: Any) -> int:
        self.counters.errors += len(self._bad)
        every, self._bad = (*letters, *self._bad), ()
        return super().append(record, every)

    def _letter(self, bad: Bad) -> DeadLetter:
        raw = bad.raw.encode() if isinstance(bad.raw, str) else bytes(bad.raw)
        match bad.error:
            case ErrorInfo():
                error = bad.error
            case str():
                error = classify(Permanent(bad.error, code="bad_row"))
            case _:
                error = classify(bad.error)
        return DeadLetter(0, self.name, self.at, error, payload=raw, place=bad.place)

    async def rebuild(self) -> None:
        await super().rebuild()
        self.puller = None

    def halt(self) -> None:
        if self.puller is not None:
            self.puller.close()
        super().halt()


def _skip(items: Iterator[Any], count: int) -> Iterator[Any]:
    """What follows the first `count` items; a generator that now gives fewer has changed."""
    skipped = sum(1 for _ in islice(items, count))
    if skipped < count:
        raise ProtocolViolated(
            f"the source gave {skipped} items where it had given {count} before its restart",
            remedy="A source that restarts must give the same items again.",
        )
    yield from items


async def _skip_async(items: AsyncIterator[Any], count: int) -> AsyncIterator[Any]:
    left = count
    try:
        async for item in items:
            if left:
                left -= 1
            else:
                yield item
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()
    if left:
        raise ProtocolViolated(
            f"the source gave {count - left} items where it had given {count} before its restart",
            remedy="A source that restarts must give the same items again.",
        )
