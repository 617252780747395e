"""`obzen inspect`: what a run wrote, record by record, and its events with what they come from.

Reads beside a living writer and after a crash, without a lock, in one pass; what is not asked for is passed over
before it is decoded where the journal can tell.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Annotated

import msgspec
import typer

from obzen_runtime.cli.find import WhichOptions, which
from obzen_runtime.cli.say import hint, say
from obzen_runtime.cli.show import Event, event_line, event_value, kind_of, payloads_of, record_line, record_value
from obzen_runtime.events import KINDS, Block, Contract, DeadLetter, Receipt, Record, RunStarted, StageInfo
from obzen_runtime.journal import Entry, SegmentReader, run_started
from obzen_runtime.kernel import UsageError
from obzen_runtime.lineage import History, Range, parents_of

__all__ = ["Events", "InspectOptions", "Selection", "check_stage", "concerns", "events_of", "inspect", "selection_of", "show"]

_LOCAL = frozenset({"source", "transform", "join", "sink", "dead_letters"})
"""Kinds of stages whose outputs come from inputs of the same step."""
_LETTERS = "dead_letters"


class InspectOptions(WhichOptions, frozen=True, kw_only=True):
    """What `obzen inspect` takes."""

    stage: Annotated[str | None, typer.Option("--stage", metavar="NAME", help="Only this stage or actor.")] = None
    type: Annotated[
        list[str],
        typer.Option("--type", metavar="KIND", help="Only records of this kind: block, receipt, dead_letter, run, actor … or event."),
    ] = []  # noqa: RUF012 - a struct copies it
    from_: Annotated[int, typer.Option("--from", metavar="POSITION", min=1, help="From this position on.")] = 1
    to: Annotated[int | None, typer.Option("--to", metavar="POSITION", min=1, help="Up to this position, which is shown too.")] = None
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="Stop after so many lines.")] = None
    events: Annotated[bool, typer.Option("--events", help="Show each block's events, with what they come from.")] = False
    json: Annotated[bool, typer.Option("--json", help="A line of JSON for each record and event.")] = False


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be shown."""

    kinds: frozenset[type[Record]] | None = None
    """Record types; None: all."""
    events: bool = False
    stage: str | None = None
    start: int = 1
    stop: int | None = None
    """Before this position; None: to the end."""

    @property
    def read(self) -> frozenset[type[Record]] | None:
        """Record types to be read for it."""
        return self.kinds if self.kinds is None or not self.events else self.kinds | {Block, DeadLetter}

    def wants(self, record: Record) -> bool:
        """Whether this record is to be shown as a line."""
        return (self.kinds is None or type(record) in self.kinds) and (self.stage is None or concerns(record, self.stage))


def selection_of(options: InspectOptions) -> Selection:
    """Read the options. Raises `UsageError` for a kind there is not."""
    names = [name.strip() for text in options.type for name in text.split(",")]
    kinds: set[type[Record]] = set()
    for name in names:
        found = {kind for kind in KINDS.values() if name in (kind_of(kind), kind_of(kind).partition(".")[0])}
        if not found and name != "event":
            known = sorted({kind_of(kind) for kind in KINDS.values()} | {"run", "actor", "event"})
            raise UsageError(f"--type {name!r} is not a kind of record", remedy=f"There are: {', '.join(known)}")
        kinds |= found
    if options.to is not None and options.to < options.from_:
        raise UsageError(f"--to {options.to} lies before --from {options.from_}")
    return Selection(
        kinds=frozenset(kinds) if names else None,
        events=options.events or "event" in names,
        stage=options.stage,
        start=options.from_,
        stop=None if options.to is None else options.to + 1,
    )


def concerns(record: Record, stage: str) -> bool:
    """Whether a record is about a stage or actor."""
    match record:
        case DeadLetter():
            return stage in (record.stage, _LETTERS)
        case Contract():
            return stage in record.edge.split(" -> ")
    return stage in (getattr(record, "stage", None), getattr(record, "actor", None))


class Events:
    """Makes events of records, remembering per stage what must be remembered. Feed it the log in order."""

    def __init__(self, infos: Sequence[StageInfo], stage: str | None = None) -> None:
        self.infos: Mapping[str, StageInfo] = {info.name: info for info in infos}
        self._stage = stage
        self._histories = {info.name: History() for info in infos if info.kind not in _LOCAL and stage in (None, info.name)}

    @property
    def remembers(self) -> bool:
        """Whether it must see the log from its start."""
        return bool(self._histories)

    def feed(self, record: Record) -> None:
        """Remember what a later event may come from."""
        if isinstance(record, Block | Receipt) and (history := self._histories.get(record.stage)) is not None:
            history.feed(record)

    def of(self, entry: Entry) -> Iterator[Event]:
        """The events of a record that was fed."""
        position, record = entry
        match record:
            case Block(stage=stage) if self._stage in (None, stage):
                yield from events_of(position, record, self.types(stage), self._histories.get(stage))
            case DeadLetter() if self._stage in (None, _LETTERS):
                yield _letter(position, record)

    def types(self, stage: str) -> tuple[str, ...]:
        """The declared output types of a stage."""
        info = self.infos.get(stage)
        return info.types if info is not None else ()


def events_of(position: int, block: Block, types: Sequence[str], history: History | None) -> Iterator[Event]:
    """The events of a block, in order."""
    if not block.count:
        return
    payloads = payloads_of(block.payloads)
    for number, parents in enumerate(parents_of(block, history)):
        index = block.types if isinstance(block.types, int) else block.types[number]
        payload = (
            payloads[number] if payloads is not None and number < len(payloads) else f"<cannot be decoded, {len(block.payloads)} bytes>"
        )
        name = types[index] if index < len(types) else f"type {index}"
        yield Event(position, f"{block.stage}@{block.base + number}", name, payload, parents)


def _letter(position: int, letter: DeadLetter) -> Event:
    parents = (Range(letter.upstream, letter.event, letter.event + 1),) if letter.upstream else ()
    shown = {"stage": letter.stage, "error": f"{letter.error.type or letter.error.code}: {letter.error.message}"}
    if letter.place:
        shown["place"] = letter.place
    found = payloads_of(b"\x91" + letter.payload) if letter.upstream else None
    return Event(
        position,
        f"{_LETTERS}@{letter.ordinal}",
        "DeadLetter",
        {**shown, "payload": found[0] if found else letter.payload.decode("utf-8", "replace")},
        parents,
    )


async def show(reader: SegmentReader, selection: Selection, *, as_json: bool = False) -> AsyncGenerator[str, None]:
    """The lines for what is selected of a journal. Raises `UsageError` for a stage that the run does not have."""
    started = await run_started(reader)
    events = Events(started.stages if started is not None else (), selection.stage)
    if started is not None:
        check_stage(started, selection.stage)
    remembers = selection.events and events.remembers
    start = 0 if remembers or selection.start == 1 else selection.start
    async for entry in reader.read(start, selection.stop, kinds=selection.read):
        position, record = entry
        if remembers:
            events.feed(record)
        if position < selection.start:
            continue
        if selection.wants(record):
            types = events.types(record.stage) if isinstance(record, Block) else ()
            yield record_value(position, record) if as_json else record_line(position, record, types)
        if selection.events:
            for event in events.of(entry):
                yield event_value(event) if as_json else event_line(event)


def check_stage(started: RunStarted, stage: str | None) -> None:
    """Raises `UsageError` when the run has no stage of this name."""
    names = [info.name for info in started.stages]
    if stage is not None and stage not in (*names, started.flow, _LETTERS):
        raise UsageError(f"the run has no stage {stage!r}", remedy=f"It has: {', '.join(names)}")


def inspect(options: InspectOptions) -> int:
    """Show what a run wrote: its records in order, and with --events its events with what they come from.

    Works on a run that lives, has ended or was killed. Times of day are local.
    """
    selection = selection_of(options)
    run = which(options)
    asyncio.run(_print(SegmentReader.open(run.path), selection, options))
    return 0


async def _print(reader: SegmentReader, selection: Selection, options: InspectOptions) -> None:
    shown = 0
    async with aclosing(show(reader, selection, as_json=options.json)) as lines:
        async for line in lines:
            say(line)
            shown += 1
            if shown == options.limit:
                return
    if not shown:
        hint("nothing there matches" if reader.head else "the run has not written anything yet")
