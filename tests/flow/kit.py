"""Whole flows on a virtual clock: time passes only when everything waits, so nothing sleeps and a deadlock shows at once."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import obzen_runtime as oz
from obzen_runtime.actor import Ground
from obzen_runtime.events import ActorState, Block, Receipt, RunCancelled, RunCompleted, RunFailed, RunResumed
from obzen_runtime.flow import Pipeline
from obzen_runtime.kernel import JournalFailed, Seams
from obzen_runtime.testing import VirtualClock, VirtualLoop

STUCK = 10_000.0
"""Virtual seconds after which a flow that does not end is stuck."""


def _patience(timeout: float | None) -> float:
    """A source on a thread lives in real time."""
    if not any(thread.name.startswith("obzen source") for thread in threading.enumerate()):
        return 0.0
    return 2.0 if timeout is None or timeout > STUCK / 2 else 0.002


@dataclass
class Played:
    """How a flow went."""

    pipeline: Pipeline
    state: str
    records: list[Any] = field(default_factory=list)
    seconds: float = 0.0
    """Virtual (or real) seconds it took."""
    complaints: list[Any] = field(default_factory=list)
    """What the loop's exception handler was told."""

    @property
    def reason(self) -> str:
        return self.pipeline.reason

    @property
    def error(self) -> Any:
        return self.pipeline.error

    @property
    def states(self) -> dict[str, str]:
        return self.pipeline.states

    @property
    def ends(self) -> dict[str, str]:
        """Per edge how its writer ended."""
        return {edge.name: edge.ended.end for edge in self.pipeline.wired.edges if edge.ended is not None}

    def of(self, *kinds: type) -> list[Any]:
        return [each for each in self.records if type(each) in kinds]

    @property
    def verdict(self) -> list[Any]:
        """The records of the end of the run."""
        return self.of(RunCompleted, RunCancelled, RunFailed)

    def walked(self, actor: str) -> list[str]:
        """The states an actor went through."""
        return [each.target for each in self.of(ActorState) if each.actor == actor]

    def events(self, stage: str) -> list[Any]:
        """What a stage wrote, read back from the log; ordinals without a gap."""
        codec = self.pipeline.wired.log.codecs[stage]
        found: list[Any] = []
        for block in self.of(Block):
            if block.stage == stage:
                assert block.base == len(found), f"{stage}: block at {block.base} after {len(found)} events"
                found.extend(codec.decode(block))
        return found

    def steps(self, stage: str) -> list[Any]:
        return [each for each in self.of(Block, Receipt) if each.stage == stage]


def play(flow, *, journal=None, beside=None, manual=False, real=False, seams=None, artifacts=None) -> Played:
    """Run a flow to its end, with `beside(pipeline)` at its side; a run that is in the journal is gone on with. No task is left."""
    clock = VirtualClock()
    journal = journal if journal is not None else oz.MemoryJournal(keep=True)

    async def main() -> Played:
        loop = asyncio.get_running_loop()
        complaints: list[Any] = []
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        ground = Ground(journal, seams or Seams(**({} if real else {"clock": clock})), run_id="run", artifacts=artifacts)
        pipeline = Pipeline(flow, ground, manual=manual)
        past = await pipeline.look_back()
        if past is not None:
            epoch = past.resumed.epoch + 1 if past.resumed is not None else 2
            pipeline.go_on(past, RunResumed(clock.wall_ms(), epoch))
        begun = loop.time()
        async with asyncio.timeout(30.0 if real else STUCK):
            side = asyncio.ensure_future(beside(pipeline)) if beside is not None else None
            state = await pipeline.run()
            seconds = loop.time() - begun
            if side is not None:
                await side
        assert real or seconds < STUCK, "stuck: everything waited"
        left = {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
        assert not left, f"left behind: {left}"
        records = [entry.record async for entry in journal.read(1)] if getattr(journal, "keep", True) else []
        return Played(pipeline, state, records, seconds, complaints)

    factory = asyncio.SelectorEventLoop if real else lambda: VirtualLoop(clock, patience=_patience)
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())


async def reached(pipeline: Pipeline, state: str) -> None:
    """Wait until the supervisor is in a state."""
    there = asyncio.Event()

    def watch(now: str) -> None:
        if now == state:
            there.set()

    pipeline.watchers.append(watch)
    watch(pipeline.state)
    await there.wait()


async def until(condition) -> None:
    """Go round until it holds."""
    while not condition():  # noqa: ASYNC110 - what the runtime does inside has no event of its own
        await asyncio.sleep(0)


def ints(count: int, name: str = "s") -> Any:
    """A source of 0 … count - 1."""

    @oz.source
    def given() -> Iterator[int]:
        yield from range(count)

    return given.named(name)


class Valve:
    """A source of whole numbers that gives while it is open, and the count of those given."""

    def __init__(self, *, opened: int = 0) -> None:
        self.given = 0
        self.allowed = opened
        self.closed = False
        self._more = asyncio.Event()

    def give(self, count: int) -> None:
        self.allowed += count
        self._more.set()

    def end(self) -> None:
        self.closed = True
        self._more.set()

    def source(self, name: str = "s") -> Any:
        @oz.source
        async def given() -> AsyncIterator[int]:
            number = 0
            while True:
                while number >= self.allowed and not self.closed:
                    self._more.clear()
                    await self._more.wait()
                if number >= self.allowed:
                    return
                yield number
                number += 1
                self.given = max(self.given, number)

        return given.named(name)


class Seen(list):
    """A list with a sink that fills it."""

    def sink(self, name: str = "k") -> Any:
        @oz.sink
        def collect(event) -> None:
            self.append(event)

        return collect.named(name)


def same(name: str = "t") -> Any:
    """A transform that gives what it gets."""

    @oz.transform
    def given(number: int) -> int:
        return number

    return given.named(name)


def total(name: str = "total") -> Any:
    """The sum of all, at the end."""

    @oz.fold(0, emit=oz.at_end())
    def added(sum_: int, number: int) -> int:
        return sum_ + number

    return added.named(name)


def forever(name: str = "s") -> Any:
    """A source without an end."""

    @oz.source
    def given() -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1

    return given.named(name)


def crashing(at: int, times: int = 1, name: str = "t") -> Any:
    """A transform that breaks its stage at an event, `times` times."""
    left = [times]

    @oz.transform
    def given(number: int) -> int:
        if number == at and left[0]:
            left[0] -= 1
            raise SystemExit(3)
        return number

    return given.named(name)


class Mortal(oz.MemoryJournal):
    """A journal that outlives the processes that use it; each dies at its append number `left`, before or behind the writing of it."""

    def __init__(self, *, written: bool = False) -> None:
        super().__init__(keep=True)
        self.left: int | None = None
        self.written = written
        self.dead = False
        self.appends = 0

    def append(self, records, *, expected=None):
        self.appends += 1
        if self.left != 0:
            self.dead = False
        elif not self.dead:
            if self.written:
                super().append(records, expected=expected)
            self.dead = True
            self.died()
        if self.dead:
            raise JournalFailed("the process is dead")
        if self.left is not None:
            self.left -= 1
        return super().append(records, expected=expected)

    def died(self) -> None:
        """The moment of a death."""

    def live(self, flow, death=None) -> Played | None:
        """One process, which dies at its append number `death`; None where it died before anything ran."""
        self.left, self.dead = death, False
        try:
            return play(flow, journal=self)
        except JournalFailed:
            return None
