"""Sources: where events enter. A generator that returns is a finite source; the flow drains behind it.

A source that raises has crashed. Under its flow's restart policy a `Transient` crash starts the generator again; any
other ends the flow. A row that is no event is `yield Bad(...)`.

Started again, here or by a resumed run, a source that takes an `Offset` begins behind the last one it gave; any other
begins anew, and the items that the journal holds already are passed over and compared.
"""

import asyncio
import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, overload

import msgspec

from obzen_runtime.actor import Directive, Transition
from obzen_runtime.events import Cursor, DeadLetter
from obzen_runtime.kernel import ErrorInfo, Permanent, UsageError, classify
from obzen_runtime.stages.acks import Ack, Acks
from obzen_runtime.stages.again import Again, chain, chain_items, no_offset, not_repeatable
from obzen_runtime.stages.codec import Codec
from obzen_runtime.stages.context import Context
from obzen_runtime.stages.items import At, Bad, asks_for_offset, offset_reader, raw_of
from obzen_runtime.stages.machines import SOURCE, Completed, DrainComplete
from obzen_runtime.stages.node import Node
from obzen_runtime.stages.pull import Inline, Puller, Tasked, Threaded
from obzen_runtime.stages.schema import Signature, hints_of, read_handler
from obzen_runtime.stages.shared import CONTINUE, MOST, Crashed, Failed, Log
from obzen_runtime.stages.stage import Stage
from obzen_runtime.stages.standing import Standing
from obzen_runtime.stages.step import BlockTooLarge, Made, check_size, kinds_of

__all__ = ["Progress", "Source", "SourceStage", "source"]


class Progress:
    """How far a source is. Ask for it with a parameter annotated `oz.Progress`."""

    __slots__ = ("_expected", "done", "total")

    def __init__(self) -> None:
        self.done = 0
        """What is done, in units of the source's own (bytes, rows)."""
        self.total: int | None = None
        """What there is to do, in the same units, where that is known."""
        self._expected: int | None = None

    @property
    def share(self) -> float | None:
        """The part that is done, 0 to 1; None where it is not known."""
        done, total = self.done, self.total
        return max(0.0, min(1.0, done / total)) if isinstance(done, int | float) and isinstance(total, int | float) and total > 0 else None

    @property
    def expected(self) -> int | None:
        """Items the source will give in all, where it knows: a contract of the run, checked at its natural end."""
        return self._expected

    @expected.setter
    def expected(self, count: int | None) -> None:
        if count is not None and type(count) is not int:
            raise UsageError(f"progress.expected={count!r} is not a number of items", remedy="Give a whole number, or None.")
        self._expected = count


@dataclass(frozen=True, eq=False)
class Source(Node):
    """A described source. Every parameter of its function is configuration, but for its offset and its progress."""

    thread: bool = False
    repeatable: bool = True
    ack: Ack | None = None
    endless: bool = False
    seek: str = ""
    """The parameter that takes an offset; empty when the source cannot seek."""
    kind: ClassVar[str] = "source"
    ports: ClassVar[tuple[str, ...]] = ()

    def build(self, log: Log, codec: Codec) -> "SourceStage":
        return SourceStage(self, log, codec)


@overload
def source(handler: Callable[..., Any], /) -> Source: ...
@overload
def source(
    *, thread: bool = False, repeatable: bool = True, ack: Ack | None = None, endless: bool = False
) -> Callable[[Callable[..., Any]], Source]: ...
def source(
    handler: Callable[..., Any] | None = None,
    /,
    *,
    thread: bool = False,
    repeatable: bool = True,
    ack: Ack | None = None,
    endless: bool = False,
) -> Any:
    """Describe a generator (plain or async) as a source: annotate it `-> Iterator[T]` or `-> AsyncIterator[T]`.

    With `T | None` a None is dropped. A plain generator is pulled on the loop while that is quick; one whose pulls take
    over 1 ms is moved to a thread of its own, from the start with `thread=True`.

    A source that can begin anywhere takes `start: oz.Offset | None = None` and yields `oz.At(offset, item)`, for every
    item or for some: started again it gets the last offset that the journal holds, and goes on with what follows it.
    Any other gives everything once more; `repeatable=False` says that it cannot, so that it is not started again.

    `ack` is an `async def ack(offset)`, called once the items up to that `At` are kept at the journal's durability: one
    call at a time, at most one for a block, with the newest offset, and again with the last one when the run is resumed.
    What it raises fails the source, but for `Transient`: then the next offset stands for both.

    `endless=True` says that it does not end by itself: a run of it keeps 10 GiB of its log, unless told otherwise.
    """

    def make(function: Callable[..., Any]) -> Source:
        signature = read_handler(function, events=0, context=Context, every_parameter=True)
        if not signature.many:
            raise UsageError(
                f"source {function.__name__!r} is not annotated as a stream",
                remedy="Annotate it `-> Iterator[T]` or `-> AsyncIterator[T]`.",
            )
        seek = _seek_of(function.__name__, signature)
        if seek and not repeatable:
            raise UsageError(f"source {function.__name__!r} takes an offset and is repeatable=False", remedy="Leave out one of them.")
        if ack is not None and not inspect.iscoroutinefunction(ack):
            raise UsageError(f"source {function.__name__!r}: ack is not a coroutine function", remedy="Write `async def ack(offset)`.")
        parameters = {name: each for name, each in signature.parameters.items() if each.annotation is not Progress and name != seek}
        outputs = tuple(each for each in signature.outputs or () if each.origin is not Bad)
        described = Source(function.__name__, function, signature=signature._replace(parameters=parameters, outputs=outputs))
        return dataclasses.replace(described, thread=thread, repeatable=repeatable, ack=ack, endless=endless, seek=seek)

    return make if handler is None else make(handler)


def _readable(place: str) -> str:
    """A place that can be kept: names of files may be no Unicode."""
    return place.encode(errors="backslashreplace").decode()


def _seek_of(name: str, signature: Signature) -> str:
    """The parameter that takes an offset; empty when there is none."""
    seeks = [each for each in signature.parameters.values() if asks_for_offset(each.annotation)]
    if len(seeks) > 1:
        raise UsageError(f"source {name!r} takes {len(seeks)} offsets", remedy="Give one parameter the annotation oz.Offset.")
    return seeks[0].name if seeks else ""


class SourceStage(Stage):
    """A running source."""

    machine = SOURCE

    def __init__(self, node: Source, log: Log, codec: Codec) -> None:
        super().__init__(node, log, codec)
        self.thread = node.thread
        self.puller: Puller | None = None
        self.progress = Progress()
        self.silent = False
        """It acknowledges nothing: this run is a fork."""
        self.offset = b""
        """The last offset in msgpack, where the source can begin behind it."""
        self.since = 0
        """Items given behind `offset`, or in all."""
        self.crc = 0
        """Checksum over those."""
        self._seek = node.seek
        self._repeatable = node.repeatable or bool(node.seek)
        self._read_offset = offset_reader(hints_of(node.handler)) if node.seek else None
        self._again: Again | None = None
        self._optional = node.signature is not None and node.signature.optional
        self._gaps = False
        """Of the items at hand some are None, and dropped."""
        self._ack = node.ack
        self._acks: Acks | None = None
        self._owed: tuple[int, Any] | None = None
        """The newest offset that is to be acknowledged, with its position in the journal."""
        self._pulled: list[Any] = []
        self._bad: tuple[DeadLetter, ...] = ()
        self._at: At[Any, Any] | None = None

    @property
    def told_to_drain(self) -> bool:
        """Whether it ended because it was told to, not because it had nothing more."""
        return self.puller is None or not self.puller.ended

    def restore(self, standing: Standing) -> None:
        """Raises `ConfigInvalid` when the source said that it cannot go on."""
        super().restore(standing)
        cursor = standing.cursor
        self.offset, self.since, self.crc = cursor.mark, cursor.since, cursor.crc
        if standing.drained:
            return
        self._check_repeatable()
        if cursor.mark and not self._seek:
            raise no_offset(self.name)

    def _check_repeatable(self) -> None:
        if self.taken and not self._repeatable:
            raise not_repeatable(self.name)

    async def work(self, state: str) -> Directive:
        if state == "draining":
            return await self._drain()
        if self.standing.drained:
            return Transition(Completed())
        if self._acks is not None and self._acks.error is not None:
            raise Failed(self._acks.error)
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
            items = puller.take(room if self._again is None else min(MOST, self._again.left))
        except BaseException as error:
            raise self._broken(error) from error
        if self._ack is not None:
            self._keep_acknowledging()
        if self._again is not None:
            await self._pass_over(self._again, puller, items)
        elif items:
            self._commit_items(items)
            self.counters.seconds += self.clock.monotonic() - self.begun
            if self.log.ground.seams.telemetry.handlers:
                self._told(len(items), len(items))
        elif puller.ended:
            return Transition(Completed())
        if not items:
            await self.wake.wait()
        elif isinstance(puller, Inline) and puller.waits and not puller.ended and self.puller is puller:
            self.logger.debug("source moved to a thread of its own")
            self.puller = Threaded(self.name, puller.items, self.wake, self.log.ground.seams.threads, self.clock)
        return CONTINUE

    def _broken(self, error: BaseException) -> Exception:
        """`Transient` may be restarted; anything else a source raises ends the flow."""
        if isinstance(error, asyncio.CancelledError):
            error = RuntimeError("the source raised CancelledError")
        info = classify(error)
        return Crashed(error) if info.retryable or not isinstance(error, Exception) else Failed(info)

    # -- beginning, and beginning again -----------------------------------------------------------

    def _open(self) -> Puller:
        node = self.node
        assert node.signature is not None
        extra: dict[str, Any] = {
            name: self.progress for name in inspect.signature(node.handler).parameters if name not in node.parameters and name != self._seek
        }
        if self._seek:
            extra[self._seek] = self._start()
        items = node.handler(**{**dict(node.bound), **extra})
        if self.since and self._again is None:
            self._again = Again(self.name, self.codec, self.journal, (self.offset, self.since, self.crc))
        if hasattr(items, "__anext__"):
            tasked = Tasked(self.name, items, self.wake, self.clock)
            self._spawn(tasked.pull())
            return tasked
        if not hasattr(items, "__next__"):
            items = iter(items)
        if self.thread:
            return Threaded(self.name, items, self.wake, self.log.ground.seams.threads, self.clock)
        return Inline(self.name, items, self.clock)

    def _start(self) -> Any:
        """The offset to begin behind; None at the beginning."""
        if not self.offset or self._read_offset is None:
            return None
        try:
            return self._read_offset(self.offset)
        except msgspec.MsgspecError as error:
            raise no_offset(self.name, str(error)) from error

    async def _pass_over(self, again: Again, puller: Puller, items: list[Any]) -> None:
        """Compare what the source gives again with what the journal holds."""
        if not items:
            if puller.ended:
                again.ended()
            return
        if not await again.took(items):
            puller.close()
            self.puller = None
        elif not again.left:
            self._again = None
        last = next((each for each in reversed(items) if type(each) is At), None)
        if last is not None:
            self._owe(self.journal.head, last.offset)

    async def rebuild(self) -> None:
        await super().rebuild()
        self._check_repeatable()
        self.puller = self._again = self._acks = None

    def halt(self) -> None:
        if self.puller is not None:
            self.puller.close()
        super().halt()

    # -- writing ----------------------------------------------------------------------------------

    def cursor(self) -> Cursor:
        return Cursor(taken=self.taken, mark=self.offset, since=self.since, crc=self.crc)

    def _commit_items(self, items: list[Any]) -> None:
        """Write what was pulled, in parts where it is too large for a block. An offset stands at the end of its block."""
        kinds = kinds_of(items)
        given, at = items, None
        if At in kinds:
            cut = max(number for number, each in enumerate(items, 1) if type(each) is At)
            if cut < len(items):
                self._commit_items(items[:cut])
                self._commit_items(items[cut:])
                return
            at = items[-1]
            given = [each.item if type(each) is At else each for each in items]
            kinds = kinds_of(given)
        bad: list[Bad] = []
        made = Made(outputs=given, kinds=kinds)
        self._gaps = type(None) in kinds and self._optional
        if Bad in kinds or self._gaps:
            bad = [item for item in given if type(item) is Bad]
            made = Made(outputs=[item for item in given if type(item) is not Bad and not (self._gaps and item is None)])
        dropped = len(given) - len(bad) - len(made.outputs)
        self._pulled, self._at, self._bad = given, at, tuple(self._letter(each) for each in bad)
        try:
            check_size(self._bad)
            self.emit(made)
        except BlockTooLarge:
            half = len(items) // 2
            self._commit_items(items[:half])
            self._commit_items(items[half:])
            return
        self.counters.received += len(items)
        self.counters.dropped += dropped
        if bad or made.dead:
            self.log.letters.check_flood()

    def append(self, record: Any, letters: Any) -> int:
        """Write a block with the position that its items bring the source to."""
        every = (*letters, *self._bad)
        offset, since, crc = self.offset, self.since + len(self._pulled), self.crc
        if self._at is not None and self._seek:
            offset, since, crc = self._encoded(self._at.offset), 0, 0
        elif every or self._gaps:
            crc = chain_items(crc, self.codec, self._pulled)
        else:
            crc = chain(crc, record.payloads)
        taken = self.taken + len(self._pulled)
        cursor = Cursor(taken=taken, mark=offset, since=since, crc=crc)
        position = super().append(msgspec.structs.replace(record, cursor=cursor), every)
        self.taken, self.offset, self.since, self.crc = taken, offset, since, crc
        self.counters.errors += len(self._bad)
        if self._at is not None:
            self._owe(position, self._at.offset)
        return position

    def _encoded(self, offset: Any) -> bytes:
        try:
            return self.codec.encode(offset)
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise UsageError(
                f"source {self.name!r} gave an offset that cannot be encoded: {error}",
                remedy="Offsets are numbers, text, bytes and tuples or structs of these.",
            ) from error

    def _letter(self, bad: Bad) -> DeadLetter:
        match bad.error:
            case ErrorInfo():
                error = bad.error
            case str():
                error = classify(Permanent(bad.error, code="bad_row"))
            case _:
                error = classify(bad.error)
        return DeadLetter(0, self.name, self.at, error, payload=raw_of(bad), place=_readable(bad.place))

    # -- acknowledging ----------------------------------------------------------------------------

    def _owe(self, position: int, offset: Any) -> None:
        """What stands in the journal up to `position` may be acknowledged once it is durable."""
        if self._ack is not None:
            self._owed = position, offset
            if self._acks is not None:
                self._acks.owe(position, offset)

    def _keep_acknowledging(self) -> Acks | None:
        """The task that acknowledges, begun with what an earlier one may have left."""
        if self._acks is None and self._ack is not None and not self.silent:
            if self._owed is None and self.offset:
                self._owed = self.journal.head, self._start()
            self._acks = Acks(self.name, self._ack, self.journal, self.wake)
            if self._owed is not None:
                self._acks.owe(*self._owed)
            self._spawn(self._acks.run())
        return self._acks

    async def _drain(self) -> Directive:
        """Everything is written: end once it is acknowledged."""
        acks = self._keep_acknowledging() if not self.standing.drained else None
        if acks is not None:
            acks.finish()
            if acks.error is not None:
                raise Failed(acks.error)
            if not acks.idle:
                await self.wake.wait()
                return CONTINUE
        return Transition(DrainComplete())
