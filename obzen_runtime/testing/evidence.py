"""What a simulated run left behind, read from its disk and its world, and the sentences about what is wrong with it.

A run with crashes is held to runs without: a stage's events must be the same, by ordinal; behind a fan-in, where the
order of arrival is chance, as a multiset. What differs between two undisturbed runs already proves nothing and is left
out. What a sink's outside holds is held to the events that the journal says were to be delivered.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Literal, NamedTuple

import msgspec

from obzen_runtime.events import Block, DeadLetter, End, Receipt, Record, Slice, expand
from obzen_runtime.flow import Flow
from obzen_runtime.journal import Entry, SegmentReader, check
from obzen_runtime.kernel import counted
from obzen_runtime.stages import DEAD_LETTERS, Edge, Sink
from obzen_runtime.testing.disk import SimulatedDisk
from obzen_runtime.testing.life import RUN
from obzen_runtime.testing.world import Place, encoded

__all__ = ["Evidence", "Reference", "Sureness", "differences", "entries_on", "evidence_on", "orphans", "references", "rules", "sinks"]

Sureness = Literal["exact", "multiset", "count", "none"]
"""How far a stage's events are the same in every undisturbed run."""
_ORDER: Sequence[Sureness] = ("exact", "multiset", "count", "none")
_RAWS = msgspec.msgpack.Decoder(list[msgspec.Raw])
_REDELIVERED = 256
"""Events that a crash may leave without a receipt at a sink."""


class Evidence(NamedTuple):
    """What a run wrote."""

    streams: dict[str, list[bytes]]
    """Per stage its events, by ordinal."""
    classes: dict[str, list[int]]
    """Per stage the index of each event's declared type."""
    letters: list[DeadLetter]
    taken: dict[tuple[str, str], list[tuple[int, int]]]
    """Per stage and upstream the ordinals taken, as [start, stop), in order of the log."""
    undelivered: dict[tuple[str, str], dict[int, str]]
    """Per sink and upstream the ordinals that have no delivery, and why."""
    ends: Counter[tuple[str, str]]
    """Per stage and upstream how often its natural end was taken."""
    dead: Counter[str]
    """Per stage its inputs that are said to be dead letters."""


def entries_on(disk: SimulatedDisk) -> list[Entry]:
    """Every record of the run's journal on this disk."""
    return _drain(SegmentReader.open(RUN, files=disk.killed()).read())


def _drain(entries: AsyncIterator[Entry]) -> list[Entry]:
    """All of an iterator that waits for nothing but its turn."""
    found: list[Entry] = []
    while True:
        step: Any = anext(entries)
        try:
            while True:
                step.send(None)
        except StopIteration as one:
            found.append(one.value)
        except StopAsyncIteration:
            return found


def evidence_on(disk: SimulatedDisk, upto: int | None = None) -> Evidence:
    """What the journal on this disk says, up to a position."""
    found = Evidence({}, {}, [], {}, {}, Counter(), Counter())
    for position, record in entries_on(disk):
        if upto is None or position <= upto:
            _note(found, record)
    return found


def _note(found: Evidence, record: Record) -> None:
    match record:
        case Block(stage=stage, count=count):
            if count:
                found.streams.setdefault(stage, []).extend(map(bytes, _RAWS.decode(record.payloads)))
                kinds = [record.types] * count if isinstance(record.types, int) else list(record.types)
                found.classes.setdefault(stage, []).extend(kinds)
            _took(found, record)
        case Receipt():
            _took(found, record)
        case DeadLetter():
            found.letters.append(record)


def _took(found: Evidence, record: Block | Receipt) -> None:
    slices = [each for each in record.inputs if isinstance(each, Slice)]
    for each in slices:
        if each.start < each.stop:
            found.taken.setdefault((record.stage, each.upstream), []).append((each.start, each.stop))
    found.ends.update((record.stage, each.upstream) for each in record.inputs if isinstance(each, End) and each.end == "natural")
    for lost in record.errors:
        if lost.reason == "dead":
            found.dead[record.stage] += sum(1 for _ in expand(lost.runs))
    if isinstance(record, Receipt) and record.errors:
        inputs = [(each.upstream, ordinal) for each in slices for ordinal in range(each.start, each.stop)]
        for lost in record.errors:
            for offset in expand(lost.runs):
                upstream, ordinal = inputs[offset]
                found.undelivered.setdefault((record.stage, upstream), {})[ordinal] = lost.reason


def rules(disk: SimulatedDisk, evidence: Evidence) -> list[str]:
    """Rules between records that are broken: no event or end is taken twice, no ordinal and no letter is missing."""
    wrong = [f"the journal breaks a rule: {problem}" for problem in check(RUN, files=disk.killed()).problems]
    wrong += [
        f"{stage} took the natural end of {upstream} {_times(times)}" for (stage, upstream), times in evidence.ends.items() if times > 1
    ]
    letters = Counter(letter.stage for letter in evidence.letters if letter.upstream)
    for stage in {*evidence.dead, *letters}:
        if evidence.dead[stage] != letters[stage]:
            wrong.append(f"{stage} gave up {evidence.dead[stage]} events and wrote {letters[stage]} dead letters")
    for (stage, upstream), slices in evidence.taken.items():
        reached = 0
        for start, stop in slices:
            if start < reached:
                wrong.append(f"{stage} took {upstream}@{start} twice")
            reached = max(reached, stop)
        total = len(evidence.letters if upstream == DEAD_LETTERS else evidence.streams.get(upstream, ()))
        if reached > total:
            wrong.append(f"{stage} took {upstream}@{reached - 1}, which was never written: {upstream} has {total} events")
    return wrong


# -- what undisturbed runs have in common ---------------------------------------------------------------------------------


class Reference(NamedTuple):
    """Undisturbed runs, and what of them is the same in each."""

    evidence: Evidence
    places: Mapping[str, Place]
    sure: dict[str, Sureness]
    """Per stage."""


def references(flow: Flow, runs: Sequence[tuple[Evidence, Mapping[str, Place]]]) -> Reference:
    """Learn from undisturbed runs, each on another schedule, what does not depend on it."""
    topology = flow.topology
    sure: dict[str, Sureness] = {}
    for name in topology.nodes:
        arcs = topology.upstream(name)
        before: list[Sureness] = [sure.get(arc.source, "multiset") for arc in arcs]
        if name == DEAD_LETTERS or sum(arc.port != "reference" for arc in arcs) > 1:
            before.append("multiset")
        level: Sureness = max(before, key=_ORDER.index, default="exact")
        for other, _ in runs[1:]:
            level = max(level, _alike(name, runs[0][0], other), key=_ORDER.index)
        sure[name] = level
    return Reference(*runs[0], sure)


def _alike(name: str, one: Evidence, other: Evidence) -> Sureness:
    mine, theirs = _stream(one, name), _stream(other, name)
    if mine == theirs and _letters(one, name) == _letters(other, name):
        return "exact"
    if Counter(mine) == Counter(theirs) and _letters(one, name) == _letters(other, name):
        return "multiset"
    return "count" if len(mine) == len(theirs) else "none"


def _stream(evidence: Evidence, name: str) -> list[bytes]:
    if name == DEAD_LETTERS:
        return [encoded(_essence(letter)) for letter in evidence.letters]
    return evidence.streams.get(name, [])


def _essence(letter: DeadLetter) -> tuple[Any, ...]:
    """What of a letter does not depend on when it was written."""
    return letter.stage, letter.upstream, letter.payload, letter.error.code, letter.place


def _letters(evidence: Evidence, name: str) -> Counter[tuple[Any, ...]]:
    return Counter(_essence(letter) for letter in evidence.letters if letter.stage == name)


def differences(reference: Reference, evidence: Evidence) -> list[str]:
    """What a stage lost, doubled or changed against the undisturbed runs."""
    wrong = []
    for name, level in reference.sure.items():
        expected, got = _stream(reference.evidence, name), _stream(evidence, name)
        match level:
            case "exact" if expected != got:
                wrong.append(_first_difference(name, expected, got))
            case "multiset" if Counter(expected) != Counter(got):
                wrong.append(_surplus(f"stage {name} wrote", Counter(got), Counter(expected)))
            case "count" if len(expected) != len(got):
                wrong.append(f"{name} wrote {counted(len(got), 'event')}, {len(expected)} without a crash")
        if level in ("exact", "multiset") and (mine := _letters(evidence, name)) != (theirs := _letters(reference.evidence, name)):
            wrong.append(f"{name} has {mine.total()} dead letters, {theirs.total()} without a crash")
    return wrong


def _first_difference(name: str, expected: list[bytes], got: list[bytes]) -> str:
    ordinal = next(number for number, (one, other) in enumerate(zip_longest(expected, got)) if one != other)
    if len(got) < len(expected) and got == expected[: len(got)]:
        return f"{name} lost {counted(len(expected) - len(got), 'event')}, the first is {name}@{ordinal}: {_shown(expected[ordinal])}"
    if len(got) > len(expected) and got[: len(expected)] == expected:
        return f"{name} wrote {counted(len(got) - len(expected), 'event')} too many, the first is {name}@{ordinal}: {_shown(got[ordinal])}"
    counts = f"; it has {counted(len(got), 'event')}, {len(expected)} without a crash" if len(got) != len(expected) else ""
    return f"{name}@{ordinal} is {_shown(got[ordinal])}, without a crash {_shown(expected[ordinal])}{counts}"


def _shown(data: bytes) -> str:
    text = repr(msgspec.msgpack.decode(data))
    return text if len(text) <= 120 else text[:117] + "..."


def _surplus(what: str, got: Counter[bytes], expected: Counter[bytes]) -> str:
    """The first difference between two multisets that differ."""
    data = next(iter((got - expected) or (expected - got)))
    return f"{what} {_shown(data)} {_times(got[data])}, {_times(expected[data])} is right"


def _times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")


# -- what left the flow ---------------------------------------------------------------------------------------------------


class Sinks(NamedTuple):
    """What sinks are held to."""

    reference: Reference
    evidence: Evidence
    places: Mapping[str, Place]
    edges: Sequence[Edge]
    declared: Callable[[str, int], type]
    """The class of an event, from its stage and type index."""
    missing: int
    """Receipts that may be missing: one for each process and stage that ended before it was done, and each record that the power took."""
    lossy: bool
    """The journal was allowed to lose its tail."""


def orphans(flow: Flow, known: Sinks, delivered: Mapping[str, Counter[bytes]]) -> list[str]:
    """What was `delivered` before a loss of power, and rests on records that did not survive it."""
    wrong = []
    for name, node in flow.nodes.items():
        if isinstance(node, Sink) and node.simulate is None and name in delivered:
            truth, doubted = _to_deliver(name, known)
            got = delivered[name]
            early = got - truth - doubted if node.options.delivery != "safe" else Counter(got.keys() - truth.keys())
            wrong += [f"sink {name} delivered {_shown(each)}, and no durable record tells of it" for each in sorted(early)[:1]]
    return wrong


def sinks(flow: Flow, known: Sinks) -> list[str]:
    """What sinks delivered too often, or never."""
    wrong = []
    for name, node in flow.nodes.items():
        if isinstance(node, Sink):
            if node.simulate is None:
                wrong += _held(name, node, known)
            else:
                wrong += _as_undisturbed(name, node, known)
    return wrong


def _to_deliver(name: str, known: Sinks) -> tuple[Counter[bytes], Counter[bytes]]:
    """What the journal says a sink had to deliver, and what of it may or may not have been delivered."""
    truth: Counter[bytes] = Counter()
    doubted: Counter[bytes] = Counter()
    for edge in known.edges:
        if edge.target != name:
            continue
        without = known.evidence.undelivered.get((name, edge.source), {})
        if edge.source == DEAD_LETTERS:
            events = [(letter.ordinal, encoded(letter)) for letter in known.evidence.letters]
        else:
            stream, kinds = known.evidence.streams.get(edge.source, []), known.evidence.classes.get(edge.source, [])
            routed = edge.routed is not None
            takes = {kind: not routed or edge.routes(known.declared(edge.source, kind)) for kind in set(kinds)}
            events = [(ordinal, data) for ordinal, (data, kind) in enumerate(zip(stream, kinds, strict=True)) if takes[kind]]
        truth.update(data for ordinal, data in events if ordinal not in without)
        doubted.update(data for ordinal, data in events if without.get(ordinal) == "doubted")
    return truth, doubted


def _held(name: str, node: Sink, known: Sinks) -> list[str]:
    """What the recorder of a sink holds, against what was to be delivered."""
    truth, doubted = _to_deliver(name, known)
    place = known.places.get(name) or Place()
    got = place.counted()
    delivery = node.options.delivery
    wrong = []
    if delivery == "keyed" and place.clashes and not known.lossy:
        wrong.append(f"sink {name} was given another event under the key {place.clashes[0]} than before the crash")
    if known.lossy and (delivery != "transactional" or known.reference.sure[name] != "exact"):
        missing = truth - got
        if missing and delivery == "safe":
            wrong.append(_surplus(f"sink {name} (safe) delivered", got, truth))
        return wrong
    match delivery:
        case "safe":
            most = known.missing * max(_REDELIVERED, node.options.batch, 2 * node.options.concurrency)
            if truth - got:
                wrong.append(_surplus(f"sink {name} (safe) delivered", got, truth | got))
            elif surplus := set(got) - set(truth):
                wrong.append(f"sink {name} delivered {_shown(surplus.pop())}, which is not an event of the journal")
            elif (got - truth).total() > most:
                again = counted((got - truth).total(), "event")
                wrong.append(f"sink {name} (safe) delivered {again} again, at most {most} can be without a receipt")
        case "sensitive":
            if got - truth - doubted:
                wrong.append(_surplus(f"sink {name} (sensitive) delivered", got, truth + doubted))
            elif truth - got:
                wrong.append(_surplus(f"sink {name} (sensitive) delivered", got, truth | got))
        case _ if got != truth:
            wrong.append(_surplus(f"sink {name} ({delivery}) delivered", got, truth))
    return wrong


def _as_undisturbed(name: str, node: Sink, known: Sinks) -> list[str]:
    """What the user's stand-in of a sink did to the world, against what it did in a run without crashes."""
    if known.reference.sure[name] not in ("exact", "multiset") or (known.lossy and known.reference.sure[name] != "exact"):
        return []
    delivery = node.options.delivery
    wrong = []
    for place, mine in known.places.items():
        if name not in mine.writers:
            continue
        theirs = known.reference.places.get(place, Place())
        got, expected = mine.counted(), theirs.counted()
        what = f"sink {name} says it is {delivery}: in {place} there is"
        if expected - got and delivery != "sensitive":
            wrong.append(_surplus(what, got, expected | got))
        elif got - expected and delivery != "safe" and not (known.lossy and delivery == "sensitive"):
            wrong.append(_surplus(what, got, expected))
    never = sorted(known.reference.places.keys() - known.places.keys())
    wrong += [f"sink {name} never wrote to {place}" for place in never if name in known.reference.places[place].writers]
    return wrong
