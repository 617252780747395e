"""`obzen resolve`: deliveries of which nobody knows whether they were made, and a person's word on one of them.

A sink with `delivery="sensitive"` that dies in a call cannot know what became of it. What is decided is written into
the run's journal, and done when the run is resumed.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterable
from typing import Annotated, Any, Literal, get_args

import msgspec
import typer

from obzen_runtime.cli.find import WhichOptions, which
from obzen_runtime.cli.say import hint, say
from obzen_runtime.cli.show import clock_text, json_text, payloads_of, plain, short
from obzen_runtime.events import Block, DeliveryIntent, DeliveryResolved, Receipt, Record, Slice
from obzen_runtime.host import near
from obzen_runtime.journal import Entry, RunDirectory, SegmentJournal, SegmentOptions, SegmentReader, level_from
from obzen_runtime.kernel import JournalLocked, NotFound, ObzenError, UsageError

__all__ = ["Doubt", "ResolveOptions", "doubts_of", "resolve"]

_EVENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]{0,62})@([0-9]{1,18})")
_KINDS: frozenset[type[Record]] = frozenset({DeliveryIntent, DeliveryResolved, Receipt})
_Outcome = Literal["delivered", "deliver", "dead"]
_OUTCOMES: tuple[_Outcome, ...] = get_args(_Outcome)
_STATES = {
    "open": "cut off in its call",
    "doubted": "in doubt",
    "delivered": "decided: it was delivered",
    "deliver": "decided: to be delivered by the next resume",
    "dead": "decided: to become a dead letter at the next resume",
}


class ResolveOptions(WhichOptions, frozen=True, kw_only=True):
    """What `obzen resolve` takes."""

    stage: Annotated[str | None, typer.Argument(metavar="[STAGE]", help="The sink.", show_default=False)] = None
    event: Annotated[str | None, typer.Argument(metavar="[EVENT]", help="The event, such as orders@17.", show_default=False)] = None
    as_: Annotated[
        str | None,
        typer.Option(
            "--as", metavar="OUTCOME", help="delivered (it was), deliver (it was not: deliver it), dead (give it up as a dead letter)."
        ),
    ] = None
    json: Annotated[bool, typer.Option("--json", help="A line of JSON for each delivery.")] = False


class Doubt(msgspec.Struct):
    """One delivery that is not settled."""

    stage: str
    event: str
    state: str
    """`open`, `doubted`, or what was decided and not yet done."""
    at: int
    """Wall milliseconds of the intent, or of the last word on it."""
    payload: Any = None


async def doubts_of(entries: AsyncIterable[Entry]) -> dict[tuple[str, str, int], Doubt]:
    """The deliveries that are not settled, by stage, upstream and ordinal, in the order of their intents."""
    found: dict[tuple[str, str, int], Doubt] = {}
    async for _, record in entries:
        match record:
            case DeliveryIntent(stage=stage, upstream=upstream, event=event, at=at):
                found[stage, upstream, event] = Doubt(stage, f"{upstream}@{event}", "open", at)
            case DeliveryResolved(stage=stage, upstream=upstream, event=event, at=at, outcome=outcome):
                found[stage, upstream, event] = Doubt(stage, f"{upstream}@{event}", outcome, at)
            case Receipt() if found and not any(lost.reason == "doubted" for lost in record.errors):
                for taken in record.inputs:
                    if isinstance(taken, Slice):
                        for ordinal in range(taken.start, taken.stop):
                            found.pop((record.stage, taken.upstream, ordinal), None)
    return found


def resolve(options: ResolveOptions) -> int:
    """List the deliveries of a run that are in doubt; with STAGE EVENT --as OUTCOME decide about one.

    What is decided is done by the next `obzen resume`, of a run that had drained too. A run that lives is not written
    to (75).
    """
    words: list[str | None] = [options.run, options.stage, options.event]
    if options.last:
        words = [None, *words[:2]] if options.event is None else [options.run, *words[1:]]
    run = which(WhichOptions(run=words[0], last=options.last, runs=options.runs))
    stage, event = words[1:]
    if options.as_ is None and stage is None:
        return asyncio.run(_list(run, as_json=options.json))
    outcome = next((each for each in _OUTCOMES if each == options.as_), None)
    if outcome is None:
        raise UsageError(
            "no outcome is given" if options.as_ is None else f"--as {options.as_!r} is not an outcome",
            remedy="Add --as delivered, --as deliver or --as dead",
        )
    if stage is None or event is None:
        raise UsageError("no delivery is named", remedy="Give STAGE and EVENT, as `obzen resolve RUN` lists them")
    asyncio.run(_decide(run, stage, event, outcome))
    say(f"{stage} {event}: {_STATES[outcome]}")
    hint(f"  obzen resume {near(run.path)}")
    return 0


async def _list(run: RunDirectory, *, as_json: bool) -> int:
    reader = SegmentReader.open(run.path)
    found = await doubts_of(reader.read(0, kinds=_KINDS))
    left = {key: doubt for key, doubt in found.items() if doubt.state != "delivered"}
    if left:
        async for _, record in reader.read(0, kinds=frozenset({Block})):
            _payloads(record, left)
    for doubt in left.values():
        say(msgspec.json.encode(doubt, enc_hook=repr).decode() if as_json else _line(doubt))
    if not as_json:
        undecided = sum(doubt.state in ("open", "doubted") for doubt in left.values())
        if run.state() == "running" and undecided:
            hint("the run lives: what is in its call now is not settled yet")
        elif undecided:
            hint(f"decide with: obzen resolve {near(run.path)} STAGE EVENT --as delivered|deliver|dead")
        else:
            hint("no delivery is in doubt")
    return 0


def _payloads(record: Record, doubts: dict[tuple[str, str, int], Doubt]) -> None:
    if not isinstance(record, Block):
        return
    for (_, upstream, ordinal), doubt in doubts.items():
        if upstream == record.stage and record.base <= ordinal < record.base + record.count:
            payloads = payloads_of(record.payloads)
            doubt.payload = payloads[ordinal - record.base] if payloads is not None else None


def _line(doubt: Doubt) -> str:
    return f"{doubt.stage}  {doubt.event}  {clock_text(doubt.at)}  {_STATES[doubt.state]}  {short(plain(json_text(doubt.payload)))}"


async def _decide(run: RunDirectory, stage: str, event: str, outcome: _Outcome) -> None:
    matched = _EVENT.fullmatch(event)
    if matched is None:
        raise UsageError(f"{event!r} names no event", remedy="Events are named as orders@17")
    if run.state() == "running":
        raise JournalLocked(f"run {run.run_id} is running", remedy="Decide when it has ended", run=run.run_id)
    upstream, ordinal = matched[1], int(matched[2])
    found = await doubts_of(SegmentReader.open(run.path).read(0, kinds=_KINDS))
    if (stage, upstream, ordinal) not in found:
        known = ", ".join(f"{doubt.stage} {doubt.event}" for doubt in list(found.values())[:5])
        raise NotFound(f"no delivery of {event} by {stage} is in doubt", remedy=f"There are: {known}" if known else "None is")
    journal = SegmentJournal.open(run.path, options=SegmentOptions(level=level_from(_durability(run))))
    try:
        resolved = DeliveryResolved(stage, int(time.time() * 1000), upstream, ordinal, outcome)
        await journal.durable(journal.append([resolved]))
    finally:
        await journal.close()


def _durability(run: RunDirectory) -> str:
    try:
        return run.read_manifest().durability
    except ObzenError:  # the journal does not need it
        return "os"
