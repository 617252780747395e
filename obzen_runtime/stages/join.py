"""A reference join: first the reference side is read whole, then each event of the stream meets its match.

While it hydrates, a join is not willing to take its stream side; those events wait in the log, so that a diamond
whose two arms meet here cannot deadlock. Of several reference events with one key the last stands.
"""

from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Literal

import msgspec

from obzen_runtime.actor import Directive, Transition
from obzen_runtime.events import Block, DeadLetter, End, RunResumed
from obzen_runtime.kernel import UsageError, classify
from obzen_runtime.stages.codec import Codec
from obzen_runtime.stages.context import Context
from obzen_runtime.stages.edge import Entry, Inbox
from obzen_runtime.stages.handling import Handling, HandlingKeywords, handling
from obzen_runtime.stages.machines import JOIN, DrainComplete, ReferenceEnded, Suspend
from obzen_runtime.stages.node import Node, Port, check_called
from obzen_runtime.stages.recollect import Recollects, unequal
from obzen_runtime.stages.refold import Comparison, Past, Range, past_inputs
from obzen_runtime.stages.schema import Declared
from obzen_runtime.stages.shape import same
from obzen_runtime.stages.shared import CONTINUE, Crashed, Log
from obzen_runtime.stages.snapshots import NEVER
from obzen_runtime.stages.step import Made
from obzen_runtime.stages.transform import Handled

__all__ = ["How", "Join", "JoinStage", "join"]

How = Literal["inner", "left"]


@dataclass(frozen=True, eq=False)
class Join(Node):
    """A described join; wire its sides as `a >> joined.reference` and `b >> joined.stream`."""

    how: How = "inner"
    stream_key: Callable[[Any], Hashable] = hash
    reference_key: Callable[[Any], Hashable] = hash
    options: Handling = Handling()
    kind: ClassVar[str] = "join"
    ports: ClassVar[tuple[str, ...]] = ("reference", "stream")

    @property
    def reference(self) -> Port:
        """The side that is read whole before the first match."""
        return Port(self, "reference")

    @property
    def stream(self) -> Port:
        """The side whose events are matched one by one."""
        return Port(self, "stream")

    def accepts(self, port: str) -> tuple[Declared, ...]:
        assert self.signature is not None
        return self.signature.inputs[1 if port == "reference" else 0]

    def build(self, log: Log, codec: Codec) -> "JoinStage":
        return JoinStage(self, log, codec)


def join(
    *,
    how: How = "inner",
    stream_key: Callable[[Any], Hashable],
    reference_key: Callable[[Any], Hashable],
    on_error: Literal["dead_letter", "fail", "skip"] = "dead_letter",
) -> Callable[[Callable[..., Any]], Join]:
    """Describe `function(event, match)` as a join of a stream with a finite reference.

    `inner`: an event without a match is dropped as unmatched; `left`: it is given `None` as its match.
    """
    if how not in ("inner", "left"):
        raise UsageError(f"how={how!r} is not a kind of join", remedy="Use 'inner' or 'left'.")

    check_called("stream_key", stream_key)
    check_called("reference_key", reference_key)

    def make(function: Callable[..., Any]) -> Join:
        keywords: HandlingKeywords = {"on_error": on_error}
        options, signature = handling(function, keywords, events=2)
        if signature.context and signature.many:
            raise UsageError(f"{function.__name__}: a join's generator takes no context", remedy=f"Do without {Context.__name__}.")
        return Join(
            function.__name__,
            function,
            signature=signature,
            how=how,
            stream_key=stream_key,
            reference_key=reference_key,
            options=options,
        )

    return make


def _nothing() -> None:
    """An event without a match gives nothing."""


async def _nothing_async() -> None:
    """As `_nothing`, to be awaited."""


async def _no_events() -> AsyncIterator[Any]:
    events: tuple[Any, ...] = ()
    for event in events:
        yield event


_UNMATCHED: dict[tuple[bool, bool], Callable[[], Any]] = {
    (False, False): _nothing,
    (False, True): tuple,
    (True, False): _nothing_async,
    (True, True): _no_events,
}
"""What a handler of this shape (asynchronous, many) gives for nothing."""


class JoinStage(Recollects, Handled):
    """A running join."""

    machine = JOIN
    node: Join

    def __init__(self, node: Join, log: Log, codec: Codec) -> None:
        super().__init__(node, log, codec)
        self.references = Inbox(self.wake)
        self.streams = self.inbox
        self.table: dict[Hashable, tuple[int, Any]] = {}
        self.reference = ""
        """Name of the stage behind the reference side; set when the flow is wired."""
        self.matched: list[int] = []
        """Per call of the step at hand the ordinal of its match, -1 for none."""
        self.call.handler = self._match
        self.call.optional = self.call.optional or node.how == "inner"
        self.unmatched = _UNMATCHED[self.call.asynchronous, self.call.many]

    def _match(self, item: Any) -> Any:
        matched = self.matched
        matched.append(-1)
        ordinal = next(self._ordinals)
        found = self.table.get(self.node.stream_key(item))
        if found is not None:
            matched[-1] = found[0]
        elif self.node.how == "inner":
            return self.unmatched()
        match = None if found is None else found[1]
        if self._contextual:
            return self.handler(item, match, self._context(ordinal))
        return self.handler(item, match)

    async def work(self, state: str) -> Directive:
        if state == "draining":
            return Transition(DrainComplete())
        if state == "hydrating":
            return Transition(ReferenceEnded()) if self.hydrated else await self._hydrate()
        if self.keeper is not None and not self.kept:
            self.keeper.turn(_DUE)
        self.matched = [] if self.live is None else self.matched[-1:]
        directive = await self.pull()
        self.raise_failing()
        return directive

    async def _hydrate(self) -> Directive:
        entries = self.references.entries
        if not entries:
            await self.wake.wait()
            return CONTINUE
        entry = entries[0]
        if entry.end is not None:
            return self._reference_ended(entry, entry.end)
        items = await self.payloads(entry)
        self.at = self.clock.wall_ms()
        self.begun = self.clock.monotonic()
        made = Made()
        most = min(entry.count - entry.done, self.pace.calls)
        self._add(items[entry.done : entry.done + most], [entry.ordinal(entry.done + offset) for offset in range(most)], made)
        if self._failing is not None:
            self._failing = self._named(self._failing, entry, entry.ordinal(entry.done + made.taken))
        self.pace.took(made.taken, self.clock.monotonic() - self.begun)
        if made.taken:
            self.commit(entry, made)
        if made.dead:
            self.log.letters.check_flood()
        self.raise_failing()
        return CONTINUE

    def _add(self, items: Sequence[Any], ordinals: Sequence[int], made: Made) -> None:
        """Put reference events into the table."""
        key, table = self.node.reference_key, self.table
        for item, ordinal in zip(items, ordinals, strict=True):
            offset = made.taken
            made.taken += 1
            try:
                at = key(item)
                if at != at:  # noqa: PLR0124 - NaN
                    raise unequal("key", at)
                table[at] = ordinal, item
            except Exception as error:
                if self.options.on_error == "fail":
                    self._failing = classify(error)
                    made.taken -= 1
                    return
                info = self._judge(error)
                if info is not None:
                    made.dead.append((offset, info))
                else:
                    made.lost.setdefault("skipped", []).append(offset)
            except BaseException as error:
                raise Crashed(error) from error

    def _reference_ended(self, entry: Entry, end: End) -> Directive:
        self.take_end(entry)
        return Transition(ReferenceEnded() if end.end == "natural" else Suspend())

    def commit(self, entry: Entry, made: Made) -> None:
        """Tell unmatched events from dropped ones, and pair outputs with their matches."""
        matched = self.matched
        if entry.edge.inbox is self.streams and made.pairs is None:
            dropped = made.lost.pop("dropped", [])
            if self.node.how == "inner" and dropped:
                made.lost["unmatched"] = [offset for offset in dropped if matched[offset] < 0]
                dropped = [offset for offset in dropped if matched[offset] >= 0]
            if dropped:
                made.lost["dropped"] = dropped
            if made.origins is None:
                gone = {offset for offset, _ in made.dead}.union(*made.lost.values())
                ordinals = [ordinal for offset, ordinal in enumerate(matched[: made.taken]) if offset not in gone]
            else:
                ordinals = [matched[offset] for offset in made.origins]
            made.pairs = (self.reference, ordinals)
        super().commit(entry, made)

    # -- restoring ------------------------------------------------------------------------------

    @property
    def hydrated(self) -> bool:
        """Whether the reference was taken to its natural end."""
        return self.ends.get(self.reference) == "natural"

    @property
    def kept(self) -> bool:
        """Whether the whole table is in a snapshot."""
        cursor = self.snapshot.cursor if self.snapshot is not None else None
        return cursor is not None and cursor.next.get(self.reference, 0) == self.next.get(self.reference, 0)

    def reset(self) -> None:
        self.table.clear()

    async def refold(self, since: Range) -> None:
        if since.cursor.next.get(self.reference, 0) == self.next.get(self.reference, 0):
            return
        references = [edge for edge in self.inputs if edge.inbox is self.references]
        comparison = Comparison(self.name, self.codec)
        errors = self.counters.errors
        async for past in past_inputs(self.journal, self.name, references, self.log.codecs, since=since, until_end=True):
            match past:
                case Past() if not past.aside:
                    made = Made()
                    while made.taken < len(past.items):
                        start = made.taken
                        stop = start + self.pace.calls
                        self._add(past.items[start:stop], past.ordinals[start:stop], made)
                        await self.breathe()
                    self._failing, self.counters.errors = None, errors
                    comparison.step(past, made)
                case DeadLetter():
                    comparison.letter(past)
                case RunResumed() if comparison.resumed(past):
                    self.logger.warning("folded again with other code than recorded")
        comparison.check()

    @property
    def needs(self) -> int:
        return self.floor() if self.hydrated and self.kept else super().needs

    def forms(self) -> Sequence[Any]:
        return [each.annotation for each in self.log.codecs[self.reference].declared]

    def floor(self) -> int:
        return self.journal.head + 1 if self.hydrated else super().floor()

    def entries(self) -> int:
        self._walk = iter(self.table.values())  # the table stands still while it is kept
        return len(self.table)

    _walk: Iterator[tuple[int, Any]] = iter(())

    def page(self, index: int, entries: int) -> bytes:
        """Keys are left out: `reference_key` tells them again."""
        rows = list(islice(self._walk, self.page_size))
        codec, items = self.log.codecs[self.reference], [item for _, item in rows]
        self._shown = items
        types = codec.types(items, set(map(type, items)))
        return _PACK(([ordinal for ordinal, _ in rows], types, codec.encode(items)))

    _shown: Sequence[Any] = ()

    def prove(self, index: int, entries: int, page: bytes) -> None:
        same(self._shown, self._read(page)[1])

    def load(self, page: bytes, mark: int, start: int) -> None:
        key = self.node.reference_key
        for ordinal, item in zip(*self._read(page), strict=True):
            self.table[key(item)] = ordinal, item

    def _read(self, page: bytes) -> tuple[list[int], list[Any]]:
        ordinals, types, payloads = _UNPACK(page)
        return ordinals, self.log.codecs[self.reference].decode(Block(self.reference, NEVER, len(ordinals), 0, payloads, types))


_DUE = 1e9
"""Seconds of work after which everything is due: the table is kept once, when it is complete."""
_PACK = msgspec.msgpack.Encoder().encode
_UNPACK = msgspec.msgpack.Decoder().decode
