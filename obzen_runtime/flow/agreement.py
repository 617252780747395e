"""Whether two runs gave the same events, stage by stage, whatever the borders of their blocks.

A stage whose input has one order in every run is compared by ordinal; one behind a fan-in, where the order is chance, as
a multiset, by the source events that its events come from. Each log is read once on its own and leaves a digest for
every eight thousand events; only where digests differ is it read again, for the first difference itself.
"""

import asyncio
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import msgspec

from obzen_runtime.events import (
    Block,
    DeadLetter,
    Dropped,
    Loss,
    Receipt,
    Record,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunResumed,
    RunStarted,
    StageInfo,
)
from obzen_runtime.flow.divergence import shown, shown_error
from obzen_runtime.flow.replay import opened
from obzen_runtime.flow.rerun import Reads, incomplete, not_begun
from obzen_runtime.kernel import FlowInvalid, InternalError, UsageError
from obzen_runtime.lineage import parents_of
from obzen_runtime.stages import DEAD_LETTERS

__all__ = ["Agreement", "Disagreement", "VerifyReport", "verify", "verifying"]

How = Literal["ordinal", "multiset"]

_CHUNK = 8192
"""Events to a digest: more than a block has, so that few blocks lie across a border."""
_AGGREGATE = -1
"""Ancestor of what comes from many events."""
_KINDS: frozenset[type[Record]] = frozenset(
    {Block, DeadLetter, Dropped, Loss, Receipt, RunCancelled, RunCompleted, RunFailed, RunResumed, RunStarted}
)


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """How the two runs compare in one stage."""

    how: How
    """By `ordinal`, or behind a fan-in as a `multiset` by source ancestor."""
    first: int
    """Events of the first run."""
    second: int
    same: bool | None
    """None: they could not be compared."""


class Disagreement(msgspec.Struct, frozen=True, kw_only=True):
    """The first difference in one stage."""

    stage: str
    event: str
    """The event `stage@n`; behind a fan-in that of the run that has it, with its source ancestor."""
    first: str
    second: str
    how: How

    def __str__(self) -> str:
        return f"{self.event}: not the same ({self.stage}, by {self.how})\n  first run   {self.first}\n  second run  {self.second}"


class VerifyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What comparing two runs found."""

    first: str
    """Id of the first run."""
    second: str
    flow: str
    stages: dict[str, Agreement] = {}
    differences: tuple[Disagreement, ...] = ()
    """The first of each stage that has one."""
    certified: bool = False
    """Everything was compared and is the same."""
    reason: str = ""
    """Why it is not certified, or how far the comparison went."""


class _Shape:
    """What both runs have in common: stages, and how each is compared."""

    def __init__(self, started: RunStarted) -> None:
        self.infos = {info.name: info for info in started.stages}
        sources = sorted(name for name, info in self.infos.items() if info.kind == "source")
        self.sources = {name: number for number, name in enumerate(sources)}
        self.loose = {name for name in self.infos if self._loose(name)}
        self.traced: set[str] = set()
        for name in self.loose:
            self._trace(name)

    def _loose(self, name: str) -> bool:
        """Whether the order of a stage's inputs is chance."""
        if name == DEAD_LETTERS:
            return True
        info = self.infos[name]
        most = 2 if info.kind == "join" else 1  # its reference is read whole before its stream
        return len(info.inputs) > most or any(self._loose(each) for each in info.inputs)

    def _trace(self, name: str) -> None:
        if name not in self.traced:
            self.traced.add(name)
            for each in self.infos[name].inputs:
                self._trace(each)

    def how(self, name: str) -> How:
        return "multiset" if name in self.loose else "ordinal"


class _Ancestors:
    """Per event that some stage has not passed yet, the source event it comes from."""

    def __init__(self, shape: _Shape) -> None:
        self._shape = shape
        self._held: dict[str, deque[tuple[int, array[int]]]] = {name: deque() for name in shape.traced}
        self._readers = {name: [other for other, info in shape.infos.items() if name in info.inputs] for name in shape.traced}
        self._passed: dict[str, dict[str, int]] = {name: {} for name in shape.infos}
        self._before: dict[str, dict[str, int]] = {name: {} for name in shape.infos}

    def of(self, stage: str, ordinal: int) -> int:
        """A source event, packed; `_AGGREGATE` where there are many or none."""
        if stage in self._shape.sources:
            return self._shape.sources[stage] << 44 | ordinal
        for base, found in self._held.get(stage, ()):
            if base <= ordinal < base + len(found):
                return found[ordinal - base]
        return _AGGREGATE

    def feed(self, block: Block) -> "array[int]":
        """The ancestors of a block's outputs, kept until every reader has passed them."""
        if block.stage in self._shape.sources:
            first = self.of(block.stage, block.base)
            return array("q", range(first, first + block.count))
        found = array("q", (self.of(parents[0].stage, parents[0].start) if parents else _AGGREGATE for parents in parents_of(block)))
        if block.count and block.stage in self._held:
            self._held[block.stage].append((block.base, found))
        return found

    def passed(self, record: Block | Receipt) -> None:
        """Let go of what all have passed; a step's own inputs stay until its next, for its letters."""
        name = record.stage
        if record.cursor is None or name not in self._passed:
            return
        self._before[name], self._passed[name] = self._passed[name], record.cursor.next
        for upstream in self._passed[name]:
            held = self._held.get(upstream)
            if held:
                lowest = min(self._before[reader].get(upstream, 0) for reader in self._readers[upstream])
                while held and held[0][0] + len(held[0][1]) <= lowest:
                    held.popleft()


class _Digests:
    """What is kept of one log: per stage its length, and a digest for every `_CHUNK` events."""

    def __init__(self, started: RunStarted) -> None:
        self.started = started
        self.shape = shape = _Shape(started)
        self.counts = dict.fromkeys((name for name, info in shape.infos.items() if info.kind != "sink"), 0)
        self.chunks: dict[str, dict[object, int]] = {name: {} for name in self.counts}
        self.ended: type[Record] | None = None
        self._open = {name: _Chunk() for name in self.counts}
        self._ancestors = _Ancestors(shape)

    def feed(self, record: Record) -> None:
        """Take the next record of the log."""
        match record:
            case Block(stage=stage) if stage in self.counts:
                if self.shape.how(stage) == "ordinal":
                    self._ordered(record)
                for _, bucket, digest, _ in self.loose(record):
                    self._add(stage, bucket, digest)
                self._ancestors.passed(record)
                self.counts[stage] += record.count
            case Receipt():
                self._ancestors.passed(record)
            case DeadLetter():
                self.counts[DEAD_LETTERS] = self.counts.get(DEAD_LETTERS, 0) + 1
                self._add(DEAD_LETTERS, *self.letter(record))
            case RunCompleted() | RunFailed() | RunCancelled():
                self.ended = type(record)
            case RunResumed():
                self.ended = None
            case Dropped() | Loss():
                raise incomplete()

    def pass_by(self, block: Block) -> None:
        """Count a block whose events were looked at one by one."""
        self._ancestors.passed(block)

    def _ordered(self, block: Block) -> None:
        """Add a block in pieces that lie within one chunk each."""
        kinds, start = self._kinds(block), 0
        while start < block.count:
            stop = min(block.count, start + _CHUNK - (block.base + start) % _CHUNK)
            whole = stop - start == block.count
            chunk = self._open[block.stage]
            chunk.payloads.update(_body(block) if whole else b"".join(_raws(block)[start:stop]))
            chunk.kinds.update(b"".join(kinds[start:stop]))
            if (block.base + stop) % _CHUNK == 0:
                self.chunks[block.stage][(block.base + stop) // _CHUNK - 1] = chunk.digest()
                self._open[block.stage] = _Chunk()
            start = stop

    def events(self, block: Block) -> Iterator[tuple[bytes, bytes]]:
        """Bytes and type of each event of a block."""
        return zip(_raws(block), self._kinds(block), strict=True)

    def loose(self, block: Block) -> Iterator[tuple[int, int, int, tuple[bytes, bytes]]]:
        """Of each event of a block its number, its bucket, its digest with its ancestor, and its bytes and type."""
        if block.stage not in self.shape.traced:
            return
        ancestors = self._ancestors.feed(block)
        if block.stage not in self.shape.loose or not block.count:
            return
        for number, ((raw, kind), ancestor) in enumerate(zip(self.events(block), ancestors, strict=True)):
            digest = blake2b(raw + kind + ancestor.to_bytes(8, signed=True), digest_size=16).digest()
            yield number, ancestor // _CHUNK, int.from_bytes(digest), (raw, kind)

    def letter(self, letter: DeadLetter) -> tuple[object, int]:
        """Bucket and digest of a dead letter; it is known by its source event where the order of its inputs is chance."""
        error = letter.error
        loose = letter.stage in self.shape.loose or letter.upstream in self.shape.loose
        event = self._ancestors.of(letter.upstream, letter.event) if loose else letter.event
        told = (letter.stage, letter.upstream, event, letter.place, error.kind, error.code, error.type, error.message, letter.payload)
        return letter.stage, int.from_bytes(blake2b(msgspec.msgpack.encode(told), digest_size=16).digest())

    def _add(self, stage: str, bucket: object, digest: int) -> None:
        chunks = self.chunks.setdefault(stage, {})
        chunks[bucket] = (chunks.get(bucket, 0) + digest) % (1 << 128)

    def _kinds(self, block: Block) -> Sequence[bytes]:
        """The name of each event's type."""
        texts = [name.encode() + b"\0" for name in self.shape.infos[block.stage].types] or [b"\0"]
        if isinstance(block.types, int):
            return [texts[min(block.types, len(texts) - 1)]] * block.count
        return [texts[min(kind, len(texts) - 1)] for kind in block.types]

    def last(self, stage: str) -> int:
        """Digest of the chunk that is not full yet."""
        return self._open[stage].digest()


class _Chunk:
    """`_CHUNK` events in order. Payloads and types have a digest each, so that where a block ends leaves no trace."""

    def __init__(self) -> None:
        self.payloads = blake2b(digest_size=16)
        self.kinds = blake2b(digest_size=16)

    def digest(self) -> int:
        return int.from_bytes(blake2b(self.payloads.digest() + self.kinds.digest(), digest_size=16).digest())


def _body(block: Block) -> bytes:
    """The events of a block without the head of the array: they say themselves where each ends."""
    return block.payloads[1 if block.count < 16 else 3 if block.count < 1 << 16 else 5 :]


def _raws(block: Block) -> list[bytes]:
    return list(map(bytes, msgspec.msgpack.decode(block.payloads, type=list[msgspec.Raw]))) if block.count else []


# -- the comparison -------------------------------------------------------------------------------


async def verifying(first: str | Path | Reads, second: str | Path | Reads, *, journal: str | Path = "runs") -> VerifyReport:
    """`verify` inside a running loop."""
    logs = [opened(run, journal)[0] for run in (first, second)]
    starts = [await _started(log) for log in logs]
    _same_flow(*starts)
    digests = []
    for log, started in zip(logs, starts, strict=True):
        digests.append(_Digests(started))
        async for entry in log.read(1, kinds=_KINDS):
            digests[-1].feed(entry.record)
    return await _compared(logs, digests)


async def _started(log: Reads) -> RunStarted:
    async for entry in log.read(1, 2):
        if isinstance(entry.record, RunStarted):
            return entry.record
        raise incomplete()
    raise not_begun()


def _same_flow(one: RunStarted, other: RunStarted) -> None:
    def shape(infos: Sequence[StageInfo]) -> dict[str, tuple[str, tuple[str, ...]]]:
        return {info.name: (info.kind, tuple(sorted(info.inputs))) for info in infos}

    first, second = shape(one.stages), shape(other.stages)
    different = sorted(name for name in {*first, *second} if first.get(name) != second.get(name))
    if different:
        raise FlowInvalid(
            f"runs {one.run_id} and {other.run_id} are of different flows; stages that differ: {', '.join(different)}",
            code="flow_changed",
            remedy="Compare two runs of one flow.",
        )


async def _compared(logs: Sequence[Reads], digests: Sequence[_Digests]) -> VerifyReport:
    one, other = digests
    whole = one.ended is RunCompleted and other.ended is RunCompleted
    stages: dict[str, Agreement] = {}
    differences: list[Disagreement] = []
    skipped: list[str] = []
    for name in {**one.counts, **other.counts}:
        how = _how(name, digests)
        counts = one.counts.get(name, 0), other.counts.get(name, 0)
        where = _where(name, how, digests)
        if how == "multiset" and not whole and where is not None:
            skipped.append(name)
            where = None
        found = None if where is None else await _difference(name, where, logs, digests, whole=whole)
        if found is not None:
            differences.append(found)
        stages[name] = Agreement(how=how, first=counts[0], second=counts[1], same=None if name in skipped else found is None)
    short = "" if whole else "not both runs have drained: compared up to where both are"
    reason = f"{', '.join(skipped)} cannot be compared: behind a fan-in only runs that have drained can" if skipped else short
    return VerifyReport(
        first=one.started.run_id,
        second=other.started.run_id,
        flow=one.started.flow,
        stages=stages,
        differences=tuple(differences),
        certified=not differences and not skipped,
        reason=reason,
    )


def _how(name: str, digests: Sequence[_Digests]) -> How:
    """Dead letters come from every stage, so their order is chance."""
    shape = digests[0].shape
    return shape.how(name) if name in shape.infos else "multiset"


def _where(name: str, how: How, digests: Sequence[_Digests]) -> object | None:
    """The first chunk or bucket whose digests differ; None when none does."""
    one, other = (digest.chunks.get(name, {}) for digest in digests)
    if how == "multiset":
        return next((bucket for bucket in {**one, **other} if one.get(bucket) != other.get(bucket)), None)
    common = min(len(one), len(other))
    found = next((chunk for chunk in range(common) if one[chunk] != other[chunk]), None)
    if found is None and digests[0].counts[name] == digests[1].counts[name]:
        return common if digests[0].last(name) != digests[1].last(name) else None
    return common if found is None else found


async def _difference(name: str, where: object, logs: Sequence[Reads], digests: Sequence[_Digests], *, whole: bool) -> Disagreement | None:
    """Read both logs again for the first difference in a chunk or bucket; of runs that are not whole, among what both have."""
    how = _how(name, digests)
    one, other = [await _side(name, how, where, log, digest.started) for log, digest in zip(logs, digests, strict=True)]
    keys = [key for key in sorted({*one, *other}) if whole or (key in one and key in other)]
    key = next((key for key in keys if _differ(one.get(key), other.get(key), how)), None)
    if key is None:
        if whole:
            raise InternalError(f"two digests of {name} differ and no event does", remedy="Report it with both runs.")
        return None
    event = f"{name}@{key}" if how == "ordinal" else (one.get(key) or other.get(key) or [(name, b"")])[0][0].partition(" ")[0]
    nothing = "nothing" if how == "ordinal" else "no such event"
    texts = ["; ".join(text for text, _ in side[key][:3]) if key in side else nothing for side in (one, other)]
    return Disagreement(stage=name, event=event, first=texts[0], second=texts[1], how=how)


_Told = list[tuple[str, bytes]]
"""Events as text, with what makes them the same."""


def _differ(one: _Told | None, other: _Told | None, how: How) -> bool:
    if how == "multiset":
        return len(one or ()) != len(other or ())
    return [exact for _, exact in one or ()] != [exact for _, exact in other or ()]


async def _side(name: str, how: How, where: object, log: Reads, started: RunStarted) -> dict[int, _Told]:
    """One run's events in a chunk (by ordinal) or in a bucket (by digest), told."""
    again = _Digests(started)
    found: dict[int, _Told] = {}
    async for entry in log.read(1, kinds=_KINDS):
        match entry.record:
            case DeadLetter() as letter if name == DEAD_LETTERS:
                bucket, digest = again.letter(letter)
                if bucket == where:
                    found.setdefault(digest, []).append((_letter(letter), b""))
            case Block(stage=stage) as block if stage == name and how == "ordinal" and _touches(block, where):
                for number, (raw, kind) in enumerate(again.events(block), block.base):
                    if number // _CHUNK == where:
                        found[number] = [(_event(raw, kind), raw + kind)]
            case Block(stage=stage) as block if stage == name and how == "multiset":
                for number, bucket, digest, (raw, kind) in again.loose(block):
                    if bucket == where:
                        found.setdefault(digest, []).append((f"{name}@{block.base + number} {_event(raw, kind)}", b""))
                again.pass_by(block)
                continue
        again.feed(entry.record)
    return found


def _event(raw: bytes, kind: bytes) -> str:
    return f"{shown(msgspec.msgpack.decode(raw))} ({kind.decode().rstrip(chr(0))})"


def _touches(block: Block, chunk: object) -> bool:
    return isinstance(chunk, int) and block.base < (chunk + 1) * _CHUNK and block.base + block.count > chunk * _CHUNK


def _letter(letter: DeadLetter) -> str:
    where = f"{letter.upstream}@{letter.event}" if letter.upstream else letter.place
    return f"{where} {letter.stage}: {shown_error(letter.error.type or letter.error.code, letter.error.message)}"


def verify(first: str | Path | Reads, second: str | Path | Reads, *, journal: str | Path = "runs") -> VerifyReport:
    """Compare the events of two runs of one flow, stage by stage; the borders of blocks do not count.

    Runs are named as in `replay`. Behind a fan-in, where the order is chance, events are compared as multisets by the
    source events they come from, and the report says so. Runs that have not both drained are compared up to where
    both are. Reads each log once, and once more for each stage that differs; memory grows by 100 bytes for eight
    thousand events. Raises `NotFound` when there is no such run, `FlowInvalid` (`flow_changed`) when they are of different
    flows, `StateFailed` and `JournalDamaged` when a log cannot be relied on.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(verifying(first, second, journal=journal))
    raise UsageError("oz.verify was called inside a running event loop", remedy="Use `await oz.verifying(one, other)` there.")
