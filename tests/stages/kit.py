"""Flows on a virtual clock: time passes only when everything waits, so nothing sleeps and a deadlock shows at once."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

import obzen_runtime as oz
from obzen_runtime.actor import Ground
from obzen_runtime.events import Block, DeadLetter, Receipt, Since, Slice, expand
from obzen_runtime.flow import Pipeline
from obzen_runtime.kernel import Seams, Telemetry
from obzen_runtime.stages import step
from obzen_runtime.testing import VirtualClock as SharedClock
from obzen_runtime.testing import VirtualLoop

LONG = 100_000.0
"""Virtual seconds after which a flow that does not end is stuck."""


class VirtualClock(SharedClock):
    """Goes on by a tenth of a microsecond at each look, and by what a handler says it took."""

    def __init__(self) -> None:
        super().__init__(look=1e-7)


class Fixed:
    """Chance that always draws the highest."""

    def bytes(self, count: int) -> bytes:
        return bytes(count)

    def uniform(self, low: float, high: float) -> float:
        return high


@dataclass
class Played:
    """How a flow went."""

    pipeline: Pipeline
    state: str
    records: list[tuple[int, Any]]

    def __getitem__(self, stage: str) -> Any:
        """Counters of a stage."""
        return self.pipeline.stages[stage].counters

    @property
    def error(self) -> Any:
        return self.pipeline.error

    @property
    def verdicts(self) -> list[Any]:
        return self.pipeline.verdicts

    def of(self, kind: type, stage: str | None = None) -> list[Any]:
        return [each for _, each in self.records if type(each) is kind and (stage is None or each.stage == stage)]

    def blocks(self, stage: str) -> list[Block]:
        return self.of(Block, stage)

    def receipts(self, stage: str) -> list[Receipt]:
        return self.of(Receipt, stage)

    def letters(self, stage: str | None = None) -> list[DeadLetter]:
        return self.of(DeadLetter, stage)

    def events(self, stage: str) -> dict[int, Any]:
        """What a stage wrote, by ordinal, read back from the log."""
        codec = self.pipeline.wired.log.codecs[stage]
        found: dict[int, Any] = {}
        for block in self.blocks(stage):
            assert block.base == len(found), "ordinals have no gap"
            found.update(enumerate(codec.decode(block), block.base))
        return found

    def lost(self, stage: str) -> dict[str, list[int]]:
        """Per reason the upstream ordinals that gave no output."""
        found: dict[str, list[int]] = {}
        for block in self.of(Block, stage) + self.of(Receipt, stage):
            for each in block.errors:
                found.setdefault(each.reason, []).extend(inputs_of(block, offset)[1] for offset in expand(each.runs))
        return found

    def parents(self, stage: str) -> dict[int, Any]:
        """Per output the `(upstream, ordinal)` it comes from, as anyone can read it from the log alone."""
        found: dict[int, Any] = {}
        for block in self.blocks(stage):
            found.update(enumerate(parents_of(block), block.base))
        return found


def inputs_of(record: Block | Receipt, offset: int) -> tuple[str, int]:
    """The event at an offset over a step's slices; one past the last is the input a generator is still giving."""
    slices = [each for each in record.inputs if isinstance(each, Slice)]
    for each in slices[:-1]:
        if offset < each.stop - each.start:
            return each.upstream, each.start + offset
        offset -= each.stop - each.start
    return slices[-1].upstream, slices[-1].start + offset


def parents_of(block: Block) -> list[Any]:
    """The rule of the column `parents`, read plainly."""
    parents = block.parents
    if not block.count:
        assert parents is None
        return []
    if isinstance(parents, Since):
        assert len(parents.since) == block.count
        return [("since", since) for since in parents.since]
    if parents is None:
        if not any(isinstance(each, Slice) for each in block.inputs):
            return [None] * block.count
        gone = {offset for each in block.errors for offset in expand(each.runs)}
        alive = (offset for offset in range(2 * block.count + len(gone)) if offset not in gone)
        return [inputs_of(block, next(alive)) for _ in range(block.count)]
    offsets = list(expand(parents.runs))
    assert len(offsets) == block.count
    direct = [inputs_of(block, offset) for offset in offsets]
    if hasattr(parents, "ordinals"):
        assert len(parents.ordinals) == block.count
        return [(*one, parents.reference, other) for one, other in zip(direct, parents.ordinals, strict=True)]
    return direct


def play(flow, *, journal=None, clock=None, real=False, beside=None, telemetry=None) -> Played:
    """Run a flow to its end. `beside(pipeline)` is a coroutine function that runs at its side; `real` uses the machine's time."""
    clock = clock or VirtualClock()
    journal = journal if journal is not None else oz.MemoryJournal(keep=True)
    telemetry = telemetry or Telemetry()
    seams = Seams(entropy=Fixed(), telemetry=telemetry) if real else Seams(clock=clock, entropy=Fixed(), telemetry=telemetry)

    async def main() -> Played:
        ground = Ground(journal, seams, run_id="run")
        pipeline = Pipeline(flow, ground)
        async with asyncio.timeout(30.0 if real else LONG):
            side = asyncio.ensure_future(beside(pipeline)) if beside is not None else None
            state = await pipeline.run()
            if side is not None:
                await side
        try:
            records = [(entry.position, entry.record) async for entry in journal.read(1)]
        except oz.ObzenError:  # a journal that forgets
            records = []
        return Played(pipeline, state, records)

    factory = asyncio.SelectorEventLoop if real else lambda: VirtualLoop(clock)
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())


async def passing(seconds: float) -> None:
    """Let virtual time pass."""
    assert isinstance(asyncio.get_running_loop(), VirtualLoop)
    await asyncio.sleep(seconds)


async def reached(pipeline: Pipeline, state: str) -> None:
    """Wait until the supervisor is in a state."""
    there = asyncio.Event()
    pipeline.watchers.append(lambda now: there.set() if now == state else None)
    if pipeline.state != state:
        await there.wait()


async def turning(pipeline: Pipeline) -> None:
    """Keep virtual time still while threads work."""
    while not pipeline.mailbox.closed:  # noqa: ASYNC110 - busy on purpose
        await asyncio.sleep(0)


def source_of(*items: Any, kind: Any = int, name: str = "s", **options: Any) -> Any:
    """A source of these items."""

    def given():
        yield from items

    given.__annotations__ = {"return": Iterator[kind]}
    return (oz.source(**options)(given) if options else oz.source(given)).named(name)


def ints(count: int, name: str = "s") -> Any:
    """A source of 0 … count - 1."""
    return source_of(*range(count), name=name)


@contextmanager
def small_blocks() -> Iterator[None]:
    """Blocks and events of 1/64 of the real bound."""
    largest, step.LARGEST = step.LARGEST, step.LARGEST // 64
    try:
        yield
    finally:
        step.LARGEST = largest


class Seen(list):
    """A list with a sink that fills it."""

    def sink(self, kind: Any = int, **options: Any) -> Any:
        def collect(event):
            self.append(event)

        collect.__annotations__ = {"event": kind, "return": None}
        return oz.sink(**options)(collect) if options else oz.sink(collect)


class Tag(msgspec.Struct, frozen=True):
    """An event that says which event it was made of."""

    value: int
    parent: str


def through(*stages, count=10, kind=int, **options):
    """How a flow of ints through these stages went, and what came out."""
    seen = Seen()
    path = ints(count)
    for stage in stages:
        path = path >> stage
    done = play(oz.Flow("f", path >> seen.sink(kind), **options))
    return done, seen


def passed(done: Played) -> None:
    """The flow drained and every contract passed."""
    assert done.error is None, done.error
    assert done.state == "drained"
    assert all(verdict.passed for verdict in done.verdicts)
