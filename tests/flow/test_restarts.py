"""A crashed stage goes on at its last committed position: nothing lost, nothing twice, and an end when it crashes too often."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

import obzen_runtime as oz
from obzen_runtime.events import ActorRestarted, RunFailed
from obzen_runtime.flow import Cancel, Drain, PauseFlow, ResumeFlow, StopFlow
from obzen_runtime.flow import pipeline as pipelines
from tests.flow.kit import Seen, crashing, forever, ints, play, reached, same, total, until

COUNT = 5000
STRATEGIES = ["one_for_one", "rest_for_one", "one_for_all"]


class Break(BaseException):
    """Ends the stage, not the event."""


def breaking(times=1, at=COUNT // 2):
    """A check that raises `times` times, each time it sees the event."""
    left = [times]

    def check(number):
        if number == at and left[0]:
            left[0] -= 1
            raise Break

    return check


def source_of(check):
    @oz.source
    def s() -> Iterator[int]:
        for number in range(COUNT):
            check(number)
            yield number

    return s


def async_source_of(check):
    @oz.source
    async def s() -> AsyncIterator[int]:
        for number in range(COUNT):
            check(number)
            yield number

    return s


def transform_of(check):
    @oz.transform
    def t(number: int) -> int:
        check(number)
        return number

    return ints(COUNT) >> t


def filter_of(check):
    @oz.transform
    def t(number: int) -> int | None:
        check(number)
        return number if number % 3 else None

    return ints(COUNT) >> t


def flatten_of(check):
    @oz.transform
    def t(number: int) -> Iterator[int]:
        yield number
        check(number)
        yield -number

    return ints(COUNT) >> t


def async_transform_of(check):
    @oz.transform(concurrency=7)
    async def t(number: int) -> int:
        check(number)
        return number

    return ints(COUNT) >> t


def fold_of(check):
    @oz.fold(0, emit=oz.each())
    def t(sum_: int, number: int) -> int:
        check(number)
        return sum_ + number

    return ints(COUNT) >> t


def fold_at_end_of(check):
    @oz.fold(0, emit=oz.at_end())
    def t(sum_: int, number: int) -> int:
        check(number)
        return sum_ + number

    return ints(COUNT) >> t


def keyed_of(check):
    @oz.stateful(key=lambda number: number % 7, emit=oz.every(10))
    class T:
        sum: int = 0

        def fold(self, number: int) -> None:
            check(number)
            self.sum += number

        def emit(self, key: int) -> int:
            return self.sum

    return ints(COUNT) >> T


def keyed_emission_of(check):
    @oz.stateful(key=lambda number: number, emit=oz.at_end())
    class T:
        last: int = 0

        def fold(self, number: int) -> None:
            self.last = number

        def emit(self, key: int) -> int:
            check(key)
            return self.last

    return ints(COUNT) >> T


def top_of(check):
    def by(number):
        check(number)
        return number

    return ints(COUNT) >> oz.top(10, by=by, name="t")


def join_of(check):
    @oz.join(how="left", stream_key=lambda number: number, reference_key=lambda number: 2 * number)
    def t(one: int, other: int | None) -> int:
        check(one)
        return one + (other or 0)

    return [ints(COUNT) >> t.stream, ints(100, "r") >> t.reference, t]


def reference_of(check):
    @oz.join(how="left", stream_key=lambda number: number, reference_key=lambda number: check(number) or 2 * number)
    def t(one: int, other: int | None) -> int:
        return one + (other or 0)

    return [ints(COUNT) >> t.stream, ints(COUNT, "r") >> t.reference, t]


STAGES = [
    source_of,
    async_source_of,
    transform_of,
    filter_of,
    flatten_of,
    async_transform_of,
    fold_of,
    fold_at_end_of,
    keyed_of,
    keyed_emission_of,
    top_of,
    join_of,
    reference_of,
]


def flow_of(made, check, seen, **options):
    paths = made(check)
    if isinstance(paths, list):
        return oz.Flow("f", *paths[:-1], paths[-1] >> seen.sink(), **options)
    return oz.Flow("f", paths >> seen.sink(), **options)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("made", STAGES, ids=lambda made: made.__name__)
def test_a_crash_loses_nothing_and_doubles_nothing(made, strategy):
    expected, seen = Seen(), Seen()
    play(flow_of(made, breaking(0), expected), real=True)
    played = play(flow_of(made, breaking(2), seen, restart=oz.Restart(strategy=strategy)), real=True)
    assert (played.state, played.error) == ("drained", None)
    assert len(played.of(ActorRestarted)) == 2
    assert sorted(seen) == sorted(expected) if "join" in made.__name__ else seen == expected
    assert all(each.passed for each in played.pipeline.verdicts)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_sink_that_crashes_may_deliver_again_what_has_no_receipt_and_nothing_else(strategy):
    seen, check = [], breaking(2)

    @oz.sink
    def k(number: int) -> None:
        seen.append(number)
        check(number)

    played = play(oz.Flow("f", ints(COUNT) >> same() >> k, restart=oz.Restart(strategy=strategy)), real=True)
    assert played.state == "drained"
    assert list(dict.fromkeys(seen)) == list(range(COUNT))
    assert {number for number in seen if seen.count(number) > 1} == {COUNT // 2}


def test_a_sink_class_is_made_anew():
    made, seen, check = [], [], breaking()

    @oz.sink
    class Out:
        def __init__(self) -> None:
            made.append(self)

        def write(self, number: int) -> None:
            check(number)
            seen.append(number)

    played = play(oz.Flow("f", ints(COUNT) >> Out))
    assert (played.state, seen) == ("drained", list(range(COUNT)))
    assert len(made) == 2


@pytest.mark.parametrize(
    ("strategy", "taken_along"), [("one_for_one", []), ("rest_for_one", ["b", "k"]), ("one_for_all", ["s", "a", "b", "k"])]
)
def test_a_strategy_takes_along_whom_it_says_and_nobody_twice(strategy, taken_along):
    async def beside(pipeline):
        await until(lambda: pipeline.stages["k"].counters.received > 100)
        pipeline.command(Drain())

    flow = oz.Flow("f", forever() >> same("a") >> crashing(50) >> same("b") >> Seen().sink(), restart=oz.Restart(strategy=strategy))
    played = play(flow, beside=beside)
    assert (played.state, played.error) == ("drained", None)
    restarted = {name: played.walked(name).count("restarting") for name in "satbk"}
    assert restarted == {name: int(name == "t" or name in taken_along) for name in "satbk"}
    assert [each.actor for each in played.of(ActorRestarted)] == ["t"]


def test_exactly_max_restarts_pass_and_one_more_escalates():
    for crashes, expected in ((3, "drained"), (4, "failed")):
        seen = Seen()
        played = play(oz.Flow("f", ints(COUNT) >> crashing(10, crashes) >> seen.sink(), restart=oz.Restart(max=3)))
        assert played.state == expected
        assert [each.count for each in played.of(ActorRestarted)] == [1, 2, 3]
        assert played.states["t"] == expected
    assert isinstance(played.verdict[0], RunFailed)
    assert played.verdict[0].cause == played.error


def test_max_zero_never_restarts():
    played = play(oz.Flow("f", ints(COUNT) >> crashing(10) >> Seen().sink(), restart=oz.Restart(max=0)))
    assert (played.state, played.of(ActorRestarted)) == ("failed", [])


def test_restarts_are_counted_over_all_stages_of_the_flow():
    played = play(oz.Flow("f", ints(COUNT) >> crashing(10, 2) >> crashing(20, 2, "u") >> Seen().sink(), restart=oz.Restart(max=3)))
    assert played.state == "failed"
    assert len(played.of(ActorRestarted)) == 3


def test_old_restarts_leave_the_window():
    crashes = [6]

    @oz.transform
    async def t(number: int) -> int:
        if number % 10 == 9 and crashes[0]:
            crashes[0] -= 1
            done = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(6.0, done.set_result, None)
            await done
            raise Break
        return number

    seen = Seen()
    played = play(oz.Flow("f", ints(100) >> t >> seen.sink(), restart=oz.Restart(max=2, within=10.0)))
    assert (played.state, seen) == ("drained", list(range(100)))
    assert max(each.count for each in played.of(ActorRestarted)) == 2


def test_two_stages_that_crash_in_one_breath_are_both_restarted():
    for strategy in STRATEGIES:
        gate = asyncio.Event()
        left = {"t": 1, "u": 1}

        def broken(name, gate=gate, left=left):
            @oz.transform
            async def given(number: int) -> int:
                await gate.wait()
                if left[name]:
                    left[name] -= 1
                    raise Break
                return number

            return given.named(name)

        async def beside(pipeline, gate=gate):
            await until(lambda: pipeline.stages["t"].counters.received + pipeline.stages["a"].written > 0)
            await until(lambda: pipeline.stages["b"].written > 0)
            for _ in range(10):
                await asyncio.sleep(0)
            gate.set()

        seen = Seen()
        out = seen.sink()
        flow = oz.Flow("f", ints(50, "a") >> broken("t") >> out, ints(50, "b") >> broken("u") >> out, restart=oz.Restart(strategy=strategy))
        played = play(flow, beside=beside, real=True)
        assert (played.state, sorted(seen)) == ("drained", sorted([*range(50), *range(50)])), strategy


def test_a_stage_whose_upstream_has_ended_is_restarted():
    gate, left = asyncio.Event(), [1]

    @oz.transform
    async def t(number: int) -> int:
        await gate.wait()
        if number == 50 and left[0]:
            left[0] -= 1
            raise Break
        return number

    async def beside(pipeline):
        await until(lambda: pipeline.states["s"] == "drained")
        gate.set()

    for strategy in STRATEGIES:
        left[0] = 1
        gate.clear()
        seen = Seen()
        played = play(oz.Flow("f", ints(100) >> t >> total() >> seen.sink(), restart=oz.Restart(strategy=strategy)), beside=beside)
        assert (played.state, seen) == ("drained", [sum(range(100))])


def test_a_crash_while_stopping_ends_suspended_not_restarted():
    gate = asyncio.Event()

    @oz.transform
    async def t(number: int) -> int:
        await gate.wait()
        raise Break

    async def beside(pipeline):
        await until(lambda: pipeline.stages["s"].written > 0)
        pipeline.command(StopFlow())
        await reached(pipeline, "suspending")
        gate.set()

    played = play(oz.Flow("f", forever() >> t >> Seen().sink()), beside=beside)
    assert (played.state, played.reason, played.states["t"]) == ("cancelled", "user_stop", "suspended")
    assert played.of(ActorRestarted) == []


@pytest.mark.parametrize("order", [Drain(), StopFlow(), Cancel()], ids=["drain", "stop", "cancel"])
def test_an_order_that_comes_while_a_source_restarts_is_kept(order):
    left = [1]

    @oz.source
    def s() -> Iterator[int]:
        number = 0
        while True:
            if number == 3000 and left[0]:
                left[0] -= 1
                raise oz.Transient("net")
            yield number
            number += 1

    async def beside(pipeline):
        await until(lambda: pipeline.states["s"] == "restarting")
        pipeline.command(order)

    seen = Seen()
    played = play(oz.Flow("f", s >> total() >> seen.sink()), beside=beside, real=True)
    assert played.state == ("drained" if isinstance(order, Drain) else "cancelled")
    assert seen == ([sum(played.events("s"))] if isinstance(order, Drain) else [])


def test_a_source_that_crashed_while_paused_stays_paused():
    """A stage crashes while the flow is paused; with one_for_all the paused source is rebuilt and waits on."""
    gate, left = asyncio.Event(), [1]

    @oz.transform
    async def t(number: int) -> int:
        if left[0]:
            await gate.wait()
            left[0] = 0
            raise Break
        return number

    seen = Seen()

    async def beside(pipeline):
        await until(lambda: pipeline.stages["s"].written > 0)
        pipeline.command(PauseFlow())
        await until(lambda: pipeline.states["s"] == "paused")
        before = pipeline.stages["s"].written
        gate.set()
        await until(lambda: len(seen) == before)
        for _ in range(100):
            await asyncio.sleep(0)
        assert pipeline.stages["s"].written == before
        assert pipeline.states["s"] == "paused"
        pipeline.command(ResumeFlow())
        await until(lambda: len(seen) > before)
        pipeline.command(StopFlow())

    played = play(oz.Flow("f", forever() >> t >> seen.sink(), restart=oz.Restart(strategy="one_for_all")), beside=beside, real=True)
    assert played.state == "cancelled"
    assert seen == list(range(len(seen)))


def test_a_source_that_breaks_for_good_fails_the_flow():
    @oz.source
    def s() -> Iterator[int]:
        yield 1
        raise ValueError("no such table")

    seen = Seen()
    played = play(oz.Flow("f", s >> seen.sink()))
    assert (played.state, played.error.message) == ("failed", "no such table")
    assert played.of(ActorRestarted) == []


def test_a_source_that_gives_less_after_its_restart_is_refused():
    runs = [0]

    @oz.source
    def s() -> Iterator[int]:
        runs[0] += 1
        if runs[0] == 1:
            yield from range(1000)
            raise oz.Transient("net")
        yield from range(10)

    played = play(oz.Flow("f", s >> Seen().sink()), real=True)
    assert played.state == "failed"
    assert "gave 10 items where it had given 1000" in played.error.message


def test_a_stage_that_cannot_start_fails_the_flow_before_the_first_event():
    @oz.sink
    class Out:
        def __init__(self) -> None:
            raise OSError("no such disk")

        def write(self, number: int) -> None:
            raise AssertionError

    played = play(oz.Flow("f", ints(10) >> Out))
    assert played.state == "failed"
    assert "no such disk" in played.error.message
    assert played.events("s") == []


def test_a_log_whose_beginning_went_before_a_stage_took_anything_still_folds_again(monkeypatch):
    monkeypatch.setattr(pipelines, "_TRIM", 1)
    journal, left = oz.MemoryJournal(), [1]

    @oz.transform
    def late(number: int) -> int | None:
        return number if number >= 30_000 else None

    @oz.fold(0, emit=oz.at_end())
    def summed(total: int, number: int) -> int:
        if number == 30_005 and left[0]:
            left[0] = 0
            raise SystemExit(3)
        return total + number

    seen = Seen()
    flow = oz.Flow("f", ints(30_010) >> late >> summed >> seen.sink(), window=oz.Window(events=100))
    played = play(flow, journal=journal)
    assert journal.first > 1
    assert (played.state, played.error) == ("drained", None)
    assert seen == [sum(range(30_000, 30_010))]
