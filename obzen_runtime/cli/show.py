"""Records and events in a line each, for people; and as plain values, for programs."""

import datetime
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from obzen_runtime.events import (
    ActorAborted,
    ActorCompleted,
    ActorRestarted,
    ActorStalled,
    ActorState,
    Block,
    Checkpoint,
    Contract,
    DeadLetter,
    DeliveryIntent,
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
    Setting,
    Slice,
    Snapshot,
    Tick,
    Watermark,
)
from obzen_runtime.lineage import Parents, Range, losses_of, sources_of

__all__ = [
    "Event",
    "clock_text",
    "event_line",
    "event_value",
    "json_text",
    "kind_of",
    "letter_origin",
    "payloads_of",
    "plain",
    "record_line",
    "record_value",
    "short",
]

_MOST = 200
_MOST_RANGES = 4
_BYTES = ("payloads", "keys", "types", "payload")


class Event(msgspec.Struct, frozen=True):
    """One event, found in a journal."""

    position: int
    id: str
    type: str
    payload: Any
    parents: Parents


def kind_of(record: type[Record] | Record) -> str:
    """The name of a record's kind, such as `run.started`."""
    return str(record.__struct_config__.tag)


def plain(text: str) -> str:
    """One line without anything a terminal would obey."""
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in " ".join(text.split()))


def short(text: str) -> str:
    """The beginning of a long text."""
    return text if len(text) <= _MOST else f"{text[: _MOST - 1]}…"


def _ranges(ranges: Sequence[Range]) -> str:
    shown = " ".join(map(str, ranges[:_MOST_RANGES]))
    return f"{shown} … {ranges[-1]}" if len(ranges) > _MOST_RANGES else shown


def clock_text(at: int) -> str:
    """The time of day here of a wall time in milliseconds."""
    try:
        moment = datetime.datetime.fromtimestamp(at / 1000, datetime.UTC).astimezone()
    except (OverflowError, OSError, ValueError):
        return "--:--:--.---"
    return moment.strftime("%H:%M:%S.") + f"{moment.microsecond // 1000:03}"


# -- payloads -------------------------------------------------------------------------------------


def payloads_of(data: bytes) -> list[Any] | None:
    """The payloads of a block as plain values; None when they cannot be read without the flow's code."""
    try:
        found = msgspec.msgpack.decode(data) if data else []
    except (msgspec.DecodeError, RecursionError):
        return None
    return found if isinstance(found, list) else None


def json_text(value: Any) -> str:
    """A plain value as JSON; what JSON cannot hold as the text Python has for it."""
    try:
        return msgspec.json.encode(value, enc_hook=repr).decode()
    except (TypeError, ValueError, RecursionError):
        return msgspec.json.encode(repr(value)).decode()


def event_line(event: Event) -> str:
    """An event for people."""
    origin = f"  <- {_ranges(event.parents)}" if event.parents else ""
    return f"{event.position:>8}  {event.id}  {event.type}  {short(plain(json_text(event.payload)))}{origin}"


def event_value(event: Event) -> str:
    """An event as a line of JSON; parents are ids, or ranges `stage@first..last`."""
    head = {"position": event.position, "kind": "event", "event": event.id, "type": event.type, "parents": list(map(str, event.parents))}
    return f'{msgspec.json.encode(head).decode()[:-1]},"payload":{json_text(event.payload)}}}'


# -- records --------------------------------------------------------------------------------------


def record_value(position: int, record: Record) -> str:
    """A record as a line of JSON, without the bytes of payloads."""
    fields = msgspec.to_builtins(record)
    sizes = {f"{name}_bytes": len(value) for name in _BYTES if isinstance(value := getattr(record, name, None), bytes)}
    kept = {name: value for name, value in fields.items() if f"{name}_bytes" not in sizes}
    return json_text({"position": position, "kind": kind_of(record), **kept, **{name: size for name, size in sizes.items() if size}})


def record_line(position: int, record: Record, types: Sequence[str] = ()) -> str:
    """A record for people. `types` are the output types of a block's stage."""
    at = clock_text(getattr(record, "at", 0))
    return f"{position:>8}  {at}  {kind_of(record):<15} {short(plain(_text(record, types)))}"


def _text(record: Record, types: Sequence[str]) -> str:
    match record:
        case Block() | Receipt():
            return _step(record, types)
        case DeadLetter(ordinal, stage, _, error):
            return f"dead_letters@{ordinal}: {stage} failed{letter_origin(record)}: {error.type or error.code}: {error.message}"
        case RunStarted(run_id, flow, _, epoch, stages):
            return f"{flow} as {run_id}, epoch {epoch}: {', '.join(info.name for info in stages)}"
        case RunResumed(_, epoch, lost, code):
            tail = f", bytes {lost[0]} to {lost[1]} of the tail were cut away" if lost else ""
            return f"epoch {epoch}{tail}{f', with changed code of {_names(code)}' if code else ''}"
        case RunForked(run_id, origin, _, live):
            return f"{run_id} goes on from here with the past of {origin}, {'and delivers' if live else 'delivering nothing'}"
        case RunCompleted():
            return "drained"
        case RunFailed(_, cause):
            return f"{cause.type or cause.code}: {cause.message}"
        case RunCancelled(_, reason):
            return reason
        case DeliveryIntent(stage, _, upstream, event):
            return f"{stage} is about to deliver {upstream}@{event}"
        case DeliveryResolved(stage, _, upstream, event, outcome):
            return f"{stage}: {upstream}@{event} {_OUTCOMES[outcome]}"
    return _actor(record)


_OUTCOMES = {
    "doubted": "may have been delivered: nobody knows",
    "delivered": "was delivered, it is decided",
    "deliver": "was not delivered, it is decided: it is delivered",
    "dead": "is given up, it is decided: a dead letter",
}


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _actor(record: Record) -> str:
    match record:
        case ActorState(actor, source, event, target):
            return f"{actor}: {source} -{event}-> {target}"
        case ActorCompleted(actor, state, reason, _, written, end):
            return f"{actor}: {state} ({reason}), wrote {written}{'' if end == 'natural' else f', {end}'}"
        case ActorAborted(actor, state, error):
            return f"{actor}: in {state}: {error.type or error.code}: {error.message}"
        case ActorRestarted(actor, count, error):
            return f"{actor}: restart {count} after {error.type or error.code}: {error.message}"
        case ActorStalled(actor, why, seconds, _, detail):
            return f"{actor}: {why} for {seconds:.1f} s {detail}"
        case Contract(edge, written, accounted, passed, _, missing):
            verdict = "passed" if passed else f"violated{f', missing {missing}' if missing else ''}"
            return f"{edge}: {written} written, {accounted} accounted for: {verdict}"
        case Checkpoint():
            return f"all positions of {len(record.written)} stages, {record.dead_letters} dead letters"
        case Snapshot(actor, artifact, taken):
            return f"state of {actor} after {taken} inputs: {artifact[:12]}"
        case Dropped(upto, _, archive):
            return f"records below {upto} {f'were moved to {archive}' if archive else 'are no longer kept'}"
        case Loss(start, stop):
            return f"records {start} to {stop - 1} were lost, and that was accepted"
    return str(record)


def letter_origin(letter: DeadLetter) -> str:
    """Where a dead letter comes from."""
    if letter.upstream:
        return f" on {letter.upstream}@{letter.event}"
    return f" at {letter.place}" if letter.place else ""


def _step(record: Block | Receipt, types: Sequence[str]) -> str:
    parts = [record.stage]
    if isinstance(record, Block):
        outputs = f"{Range(record.stage, record.base, record.base + record.count)}" if record.count else record.stage
        parts = [f"{outputs} {_types(record, types)}".rstrip() if record.count else outputs]
    taken = [each for each in sources_of(record) if each.stop > each.start]
    if taken:
        parts.append(f"took {_ranges(taken)}")
    parts += _signals(record)
    parts += [f"{reason} {_ranges(ranges)}" for reason, ranges in losses_of(record)]
    return ", ".join(parts)


def _types(block: Block, types: Sequence[str]) -> str:
    numbers: Iterable[int] = [block.types] if isinstance(block.types, int) else sorted(set(block.types))
    return " | ".join(types[number] if number < len(types) else f"type {number}" for number in numbers)


def _signals(record: Block | Receipt) -> list[str]:
    found = []
    for each in record.inputs:
        match each:
            case End(upstream, end, total):
                found.append(f"{end} end of {upstream} at {total}")
            case Watermark(upstream, time):
                found.append(f"watermark of {upstream} {clock_text(time)}")
            case Tick(time):
                found.append(f"tick {clock_text(time)}")
            case Setting(parameter, _):
                found.append(f"set {parameter}")
            case Slice():
                continue
    return found
