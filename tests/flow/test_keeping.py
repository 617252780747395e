"""What the supervisor keeps beside the events: checkpoints with right positions, a memory that does not grow, stalls as facts."""

import asyncio
from itertools import pairwise

import pytest

import obzen_runtime as oz
from obzen_runtime.actor import Ground
from obzen_runtime.events import ActorStalled, Block, Checkpoint, DeadLetter, Receipt
from obzen_runtime.flow import Pipeline
from obzen_runtime.flow import pipeline as pipelines
from tests.flow.kit import Seen, VirtualClock, crashing, forever, ints, play, same, total, until


class Weighed(oz.MemoryJournal):
    """A kept journal in memory that claims a kilobyte for each record."""

    def __init__(self) -> None:
        super().__init__(keep=True)

    @property
    def size(self) -> int:
        return 1024 * self.head


@oz.transform
def picky(number: int) -> int:
    if number % 100 == 0:
        raise ValueError(f"bad {number}")
    return number


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(pipelines, "_CHECKPOINT", 20 * 1024)


def positions(records):
    """What the log itself says of every stage: next ordinals, cursors, letters."""
    written, cursors, letters = {}, {}, 0
    for record in records:
        if isinstance(record, Block | Receipt):
            cursors[record.stage] = record.cursor
        if isinstance(record, Block):
            written[record.stage] = record.base + record.count
        if isinstance(record, DeadLetter):
            letters = record.ordinal + 1
    return written, cursors, letters


def test_each_checkpoint_says_what_the_log_before_it_says(small):
    @oz.join(how="inner", stream_key=lambda n: n, reference_key=lambda n: n)
    def j(one: int, other: int) -> int:
        return one

    flow = oz.Flow(
        "f",
        ints(20_000) >> picky >> crashing(777, name="u") >> j.stream,
        ints(10_000, "r") >> j.reference,
        j >> [total() >> Seen().sink(), Seen().sink("m")],
        oz.dead_letters >> Seen().sink("mail"),
        window=oz.Window(events=500),
    )
    played = play(flow, journal=Weighed())
    assert played.state == "drained"
    places = [number for number, record in enumerate(played.records) if isinstance(record, Checkpoint)]
    assert len(places) > 5
    for place in places:
        checkpoint = played.records[place]
        written, cursors, letters = positions(played.records[:place])
        assert checkpoint.dead_letters == letters
        for name, count in written.items():
            assert checkpoint.written[name] == count, name
        for name, cursor in cursors.items():
            assert checkpoint.cursors[name] == cursor, name
        assert checkpoint.counters["picky"]["dead"] == letters


def test_a_checkpoint_comes_once_per_stretch_of_log(small):
    played = play(oz.Flow("f", ints(20_000) >> same() >> Seen().sink(), window=oz.Window(events=100)), journal=Weighed())
    places = [number for number, record in enumerate(played.records) if isinstance(record, Checkpoint)]
    gaps = [later - earlier for earlier, later in pairwise(places[:-1])]
    assert gaps
    assert all(18 <= gap <= 60 for gap in gaps), gaps


class Dropping(Weighed):
    """One that drops everything it may."""

    gone = 0

    @property
    def size(self) -> int:
        return 1024 * (self.head - self.gone)

    def forget(self, below: int) -> None:
        self.gone = below - 1


def test_checkpoints_of_a_journal_that_drops_its_past_come_as_often(small):
    played = play(oz.Flow("f", ints(20_000) >> same() >> Seen().sink(), window=oz.Window(events=100)), journal=Dropping())
    places = [number for number, record in enumerate(played.records) if isinstance(record, Checkpoint)]
    gaps = [later - earlier for earlier, later in pairwise(places[:-1])]
    assert len(gaps) > 5
    assert all(18 <= gap <= 60 for gap in gaps), gaps


def test_the_last_checkpoint_says_how_every_stream_ended():
    played = play(oz.Flow("f", ints(10) >> same() >> Seen().sink()))
    assert played.of(Checkpoint)[-1].ends == {"s": "natural", "t": "natural", "k": "natural"}


# -- memory -----------------------------------------------------------------------------------------


def test_a_memory_journal_forgets_what_all_have_passed():
    journal, most = oz.MemoryJournal(), []

    async def beside(pipeline):
        while pipeline.stages["k"].taken < 200_000:
            most.append(len(journal._records))
            await asyncio.sleep(0)
        pipeline.mailbox.kill("enough")

    play(oz.Flow("f", forever() >> same() >> Seen().sink(), window=oz.Window(events=100)), journal=journal, beside=beside)
    assert journal.head > 4000
    assert max(most) < 300


def test_what_one_slow_reader_still_needs_is_kept(monkeypatch):
    monkeypatch.setattr(pipelines, "_TRIM", 1)
    journal, gate = oz.MemoryJournal(), asyncio.Event()

    @oz.sink
    async def slow(number: int) -> None:
        await gate.wait()

    fast = Seen()

    async def beside(pipeline):
        await until(lambda: len(fast) > 50)
        needed = min(entry.places[0][0] for entry in pipeline.stages["slow"].inbox.entries)
        async for entry in journal.read(needed):
            assert entry.position >= needed
        pipeline.stages["slow"].inputs[0].forget_payloads()
        gate.set()

    played = play(oz.Flow("f", ints(300) >> [slow, same() >> fast.sink()], window=oz.Window(events=100)), journal=journal, beside=beside)
    assert (played.state, len(fast)) == ("drained", 300)


def test_a_stateless_stage_restarts_over_a_journal_that_forgets(monkeypatch):
    monkeypatch.setattr(pipelines, "_TRIM", 1)
    seen = Seen()
    flow = oz.Flow("f", ints(50_000) >> crashing(40_001, 3) >> seen.sink(), window=oz.Window(events=64))
    played = play(flow, journal=oz.MemoryJournal())
    assert (played.state, seen) == ("drained", list(range(50_000)))


def test_a_stage_with_state_cannot_be_rebuilt_from_a_journal_that_forgot_and_says_so():
    left = [1]

    @oz.fold(0, emit=oz.at_end())
    def t(sum_: int, number: int) -> int:
        if number == 40_001 and left[0]:
            left[0] = 0
            raise SystemExit(1)
        return sum_ + number

    played = play(oz.Flow("f", ints(50_000) >> t >> Seen().sink(), window=oz.Window(events=64)), journal=oz.MemoryJournal())
    assert played.state == "failed"
    assert "MemoryJournal(keep=True)" in (played.error.remedy or "") + played.error.message


# -- stalls -----------------------------------------------------------------------------------------


def stuck_for(seconds, times):
    """A sink that holds the first `times` events for so long each."""
    left = [times]

    @oz.sink
    async def k(number: int) -> None:
        if left[0]:
            left[0] -= 1
            loop = asyncio.get_running_loop()
            done = loop.create_future()
            loop.call_later(seconds, done.set_result, None)
            await done

    return k


def test_a_wait_for_credit_is_reported_once_however_long_it_lasts():
    flow = oz.Flow("f", ints(1000) >> stuck_for(500.0, 1), window=oz.Window(events=10), stall_after=30.0)
    played = play(flow)
    assert played.state == "drained"
    (stall,) = played.of(ActorStalled)
    assert (stall.actor, stall.why, stall.seconds, stall.detail) == ("s", "no_credit", 30.0, "s -> k")


def test_each_wait_is_reported_anew():
    flow = oz.Flow("f", ints(10) >> stuck_for(500.0, 10), window=oz.Window(events=1), stall_after=30.0)
    played = play(flow)
    assert played.state == "drained"
    assert len(played.of(ActorStalled)) == 10


def test_a_short_wait_is_not_reported():
    flow = oz.Flow("f", ints(40) >> stuck_for(20.0, 40), window=oz.Window(events=1), stall_after=30.0)
    played = play(flow)
    assert (played.state, played.of(ActorStalled)) == ("drained", [])


def test_no_stall_is_reported_after_the_end():
    played = play(oz.Flow("f", ints(1000) >> stuck_for(29.0, 1), window=oz.Window(events=10), stall_after=30.0))
    assert (played.of(ActorStalled), played.complaints) == ([], [])


def test_a_supervisor_may_be_made_without_a_loop():
    assert Pipeline(oz.Flow("f", ints(1) >> Seen().sink()), Ground(oz.MemoryJournal())).state == "created"
    assert VirtualClock().wall_ms() > 0
