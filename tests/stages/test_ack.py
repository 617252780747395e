"""Acknowledgements: after the journal has it, the newest offset, one call at a time, and all of them before the end."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

import obzen_runtime as oz
from obzen_runtime.actor import Restart
from obzen_runtime.events import RunForked
from obzen_runtime.flow import StopFlow
from obzen_runtime.journal import Fsync
from obzen_runtime.kernel import UsageError
from obzen_runtime.stages import Source
from tests.flow.kit import Seen, VirtualClock, play, until


async def passing(seconds: float) -> None:
    """Let virtual time pass."""
    assert isinstance(asyncio.get_running_loop().clock, VirtualClock)
    await asyncio.sleep(seconds)


class Acked(list):
    """What was acknowledged; `fails` are errors raised first."""

    def __init__(self, *fails: BaseException) -> None:
        super().__init__()
        self.fails = list(fails)
        self.tries = 0
        self.inside = 0

    async def ack(self, offset) -> None:
        self.tries += 1
        self.inside += 1
        assert self.inside == 1, "never two at once"
        try:
            await passing(0.01)
            if self.fails:
                raise self.fails.pop(0)
            self.append(offset)
        finally:
            self.inside -= 1


def numbers_of(count, ack, *, seeks=True, gate=None, fails_at=None) -> Source:
    async def items(start):
        for number in range(0 if start is None else start + 1, count):
            if number == fails_at:
                raise oz.Permanent("no more today")
            if gate is not None and number == count // 2:
                await gate()
            yield oz.At(number, number)

    if not seeks:

        @oz.source(ack=ack)
        async def numbers() -> AsyncIterator[oz.At[int, int]]:
            async for each in items(None):
                yield each

        return numbers

    @oz.source(ack=ack)
    async def numbers(start: oz.Offset | None = None) -> AsyncIterator[oz.At[int, int]]:
        async for each in items(start):
            yield each

    return numbers


class Slow(oz.MemoryJournal):
    """A journal whose records become durable when the test says so."""

    def __init__(self) -> None:
        super().__init__(keep=True)
        self.synced = 0
        self._more = asyncio.Event()

    level = Fsync()

    @property
    def durable_head(self) -> int:
        return self.synced

    def sync(self) -> None:
        self.synced = self.head
        self._more.set()
        self._more = asyncio.Event()

    async def durable(self, position: int) -> None:
        while self.synced < position:
            await self._more.wait()


def ran(source, **options):
    seen = Seen()
    restart = options.pop("restart", None)
    played = play(oz.Flow("f", source >> seen.sink(), **({"restart": restart} if restart else {})), **options)
    return played, seen


def test_the_newest_offset_is_acknowledged_once_a_block_at_most_and_the_last_before_the_end():
    acked = Acked()
    played, seen = ran(numbers_of(5000, acked.ack))
    assert (played.state, len(seen)) == ("drained", 5000)
    assert acked == sorted(set(acked))
    assert acked[-1] == 4999
    assert len(acked) <= len(played.steps("numbers"))


def test_items_without_an_offset_are_acknowledged_with_the_next_one():
    acked = Acked()

    @oz.source(ack=acked.ack)
    def numbers(start: oz.Offset | None = None) -> Iterator[oz.At[str, int] | int]:
        yield oz.At("one", 1)
        yield 2

    played, _ = ran(numbers)
    assert (played.state, acked) == ("drained", ["one"])


def test_nothing_is_acknowledged_before_it_is_durable():
    journal, acked = Slow(), Acked()

    async def beside(pipeline):
        await until(lambda: pipeline.stages["numbers"].taken == 10)
        await passing(100)
        assert acked == []
        assert pipeline.states["numbers"] == "draining"
        while pipeline.state not in ("drained", "failed"):
            journal.sync()
            await passing(1)

    played, seen = ran(numbers_of(10, acked.ack), journal=journal, beside=beside)
    assert played.state == "drained", played.error
    assert (seen, acked[-1]) == (list(range(10)), 9)


def test_a_failure_that_passes_is_made_good_by_the_next_offset():
    acked, open_gate = Acked(oz.Transient("busy")), asyncio.Event()

    async def gate():
        await open_gate.wait()

    async def beside(pipeline):
        await until(lambda: acked.tries == 1)
        await passing(1000)
        assert acked == []
        open_gate.set()

    played, _ = ran(numbers_of(2, acked.ack, gate=gate), beside=beside)
    assert played.state == "drained", played.error
    assert acked == [1]


def test_at_the_end_a_failure_that_passes_is_tried_again_a_few_times():
    acked = Acked(*[oz.Transient("busy")] * 3)
    played, _ = ran(numbers_of(1, acked.ack))
    assert (played.state, acked) == ("drained", [0])
    acked = Acked(*[oz.Transient("busy")] * 50)
    played, _ = ran(numbers_of(1, acked.ack))
    assert (played.state, played.error.message) == ("failed", "busy")
    assert acked.tries < 10


@pytest.mark.parametrize("error", [oz.Permanent("no such queue"), ValueError("no such queue")])
def test_a_failure_that_lasts_fails_the_source(error):
    async def gate():
        await asyncio.Event().wait()

    played, _ = ran(numbers_of(10, Acked(error).ack, gate=gate))
    assert played.state == "failed"
    assert "no such queue" in played.error.message


def test_the_last_offset_is_acknowledged_again_by_a_resumed_run():
    journal, acked = oz.MemoryJournal(keep=True), Acked()

    async def beside(pipeline):
        await until(lambda: pipeline.stages["numbers"].taken == 5)
        assert pipeline.command(StopFlow())

    played, _ = ran(numbers_of(10, acked.ack, gate=asyncio.Event().wait), journal=journal, beside=beside)
    assert played.state == "cancelled"
    acked.clear()
    played, rest = ran(numbers_of(10, acked.ack), journal=journal)
    assert (played.state, rest) == ("drained", list(range(5, 10)))
    assert acked[0] == 4
    assert acked[-1] == 9


@pytest.mark.parametrize("seeks", [True, False])
def test_a_source_that_was_restarted_goes_on_acknowledging(seeks):
    acked, left = Acked(), [1]

    def broken(number):
        if number == 50 and left:
            left.pop()
            raise oz.Transient("gone for a while")
        return number

    if seeks:

        @oz.source(ack=acked.ack)
        def numbers(start: oz.Offset | None = None) -> Iterator[oz.At[int, int]]:
            for number in range(0 if start is None else start + 1, 100):
                yield oz.At(number, broken(number))

    else:

        @oz.source(ack=acked.ack)
        def numbers() -> Iterator[oz.At[int, int]]:
            for number in range(100):
                yield oz.At(number, broken(number))

    played, seen = ran(numbers)
    assert (played.state, seen) == ("drained", list(range(100))), played.error
    assert acked[-1] == 99


def test_a_drain_waits_for_the_last_acknowledgement():
    acked = Acked()
    played, _ = ran(numbers_of(3, acked.ack))
    assert played.walked("numbers")[-2:] == ["draining", "drained"]
    assert acked[-1] == 2
    assert played.seconds >= 0.01


def test_a_source_that_had_completed_acknowledges_nothing_more():
    journal, acked, left = oz.MemoryJournal(keep=True), Acked(), [1]

    @oz.sink
    async def broken(number: int) -> None:
        await passing(1)
        if left:
            left.pop()
            raise SystemExit(1)

    source = numbers_of(3, acked.ack)
    assert play(oz.Flow("f", source >> broken, restart=Restart(max=0)), journal=journal).state == "failed"
    assert acked.pop() == 2
    acked.clear()
    played = play(oz.Flow("f", source >> broken), journal=journal)
    assert (played.state, acked) == ("drained", []), played.error


def test_a_fork_acknowledges_nothing():
    journal, acked = oz.MemoryJournal(keep=True), Acked()
    played, _ = ran(numbers_of(10, Acked().ack, fails_at=5), journal=journal)
    assert played.state == "failed"
    journal.append([RunForked("fork", "run", 0)])
    played, rest = ran(numbers_of(10, acked.ack), journal=journal)
    assert (played.state, rest, acked) == ("drained", [], []), played.error


def test_ack_must_be_a_coroutine_function():
    def numbers() -> Iterator[int]:
        yield 1

    with pytest.raises(UsageError, match="ack is not a coroutine function"):
        oz.source(ack=print)(numbers)
