"""Orders from outside: stop suspends, drain finishes, cancel ends now; at any moment, in any number, in any sequence."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

import obzen_runtime as oz
from obzen_runtime.events import Block, RunCancelled, RunCompleted
from obzen_runtime.flow import Cancel, Drain, PauseFlow, ResumeFlow, StopFlow
from obzen_runtime.flow import pipeline as pipelines
from tests.flow.kit import Seen, Valve, forever, ints, play, reached, same, total, until

ORDERS = {
    "stop": StopFlow(),
    "drain": Drain(),
    "cancel": Cancel(),
    "pause": PauseFlow(),
    "resume": ResumeFlow(),
}


def stubborn_until(release):
    """A sink that swallows every cancellation before it is released."""

    @oz.sink
    async def stubborn(number: int) -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    return stubborn


def ordering(*names, at="running"):
    """Give these orders in one breath once the flow is in a state."""

    async def beside(pipeline):
        if at != "created":
            await reached(pipeline, at)
        for name in names:
            pipeline.command(ORDERS[name])

    return beside


# -- one order ------------------------------------------------------------------------------------


def test_stop_suspends_every_stage_and_processes_what_was_admitted():
    seen = Seen()
    played = play(oz.Flow("f", forever() >> same() >> seen.sink()), beside=ordering("stop"))
    assert played.state == "cancelled"
    assert [type(each) for each in played.verdict] == [RunCancelled]
    assert played.verdict[0].reason == "user_stop"
    assert set(played.states.values()) == {"suspended"}
    assert seen == played.events("s") == list(range(len(seen)))
    assert set(played.ends.values()) == {"truncated"}


def test_stop_gives_no_final_emission():
    seen = Seen()
    valve = Valve(opened=100)
    flow = oz.Flow("f", valve.source() >> total() >> seen.sink())

    async def beside(pipeline):
        await until(lambda: pipeline.stages["total"].taken == 100)
        pipeline.command(StopFlow())

    played = play(flow, beside=beside)
    assert (played.state, seen, played.events("total")) == ("cancelled", [], [])
    assert played.steps("total")[-1].cursor.taken == 100


def test_drain_ends_sources_naturally_and_gives_the_final_emission():
    seen = Seen()
    played = play(oz.Flow("f", forever() >> total() >> seen.sink()), beside=ordering("drain"))
    assert played.state == "drained"
    assert [type(each) for each in played.verdict] == [RunCompleted]
    assert seen == [sum(played.events("s"))]
    assert set(played.ends.values()) == {"natural"}
    assert all(each.passed for each in played.pipeline.verdicts)


def test_cancel_ends_now_and_commits_no_half_step():
    seen = Seen()

    async def beside(pipeline):
        await until(lambda: len(seen) > 1000)
        pipeline.command(Cancel())

    played = play(oz.Flow("f", forever() >> same() >> seen.sink()), beside=beside)
    assert (played.state, played.reason) == ("cancelled", "user_cancel")
    assert seen == list(range(len(seen)))
    assert played.steps("k")[-1].cursor.next["t"] == len(seen)


def test_pause_takes_nothing_more_and_resume_goes_on():
    seen = Seen()
    valve = Valve(opened=10)

    async def beside(pipeline):
        await until(lambda: len(seen) == 10)
        pipeline.command(PauseFlow())
        await reached(pipeline, "paused")
        await until(lambda: pipeline.states["s"] == "paused")
        valve.give(5)
        valve.end()
        for _ in range(100):
            await asyncio.sleep(0)
        assert (len(seen), pipeline.state) == (10, "paused")
        pipeline.command(ResumeFlow())

    played = play(oz.Flow("f", valve.source() >> same() >> seen.sink()), beside=beside)
    assert (played.state, seen) == ("drained", list(range(15)))


# -- every moment ---------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["stop", "cancel"])
@pytest.mark.parametrize("state", ["created", "materializing", "materialized", "ready_for_run", "running"])
def test_an_order_to_end_is_obeyed_in_every_state_at_once(order, state):
    played = play(oz.Flow("f", forever() >> same() >> total() >> Seen().sink()), beside=ordering(order, at=state))
    assert played.state == "cancelled"
    assert played.reason == f"user_{order}"
    assert played.seconds < 1


@pytest.mark.parametrize("order", ["stop", "cancel"])
def test_an_order_to_end_is_obeyed_before_the_gun(order):
    played = play(oz.Flow("f", forever() >> same() >> Seen().sink()), manual=True, beside=ordering(order, at="ready_for_run"))
    assert (played.state, played.events("s")) == ("cancelled", [])
    assert played.seconds < 1


@pytest.mark.parametrize("state", ["created", "materializing", "materialized", "ready_for_run"])
def test_a_drain_that_comes_early_is_remembered(state):
    seen = Seen()
    played = play(oz.Flow("f", forever() >> total() >> seen.sink()), beside=ordering("drain", at=state))
    assert played.state == "drained"
    assert seen == [sum(played.events("s"))]


def test_a_drain_before_the_gun_finishes_without_an_event():
    seen = Seen()
    played = play(oz.Flow("f", forever() >> total() >> seen.sink()), manual=True, beside=ordering("drain", at="ready_for_run"))
    assert (played.state, played.events("s"), seen) == ("drained", [], [0])


@pytest.mark.parametrize("state", ["created", "ready_for_run"])
def test_a_pause_that_comes_early_is_remembered(state):
    async def beside(pipeline):
        if state != "created":
            await reached(pipeline, state)
        pipeline.command(PauseFlow())
        await reached(pipeline, "paused")
        pipeline.command(ResumeFlow())

    assert play(oz.Flow("f", ints(10) >> Seen().sink()), beside=beside).state == "drained"


def test_stop_while_paused_suspends():
    async def beside(pipeline):
        await reached(pipeline, "running")
        pipeline.command(PauseFlow())
        await reached(pipeline, "paused")
        pipeline.command(StopFlow())

    played = play(oz.Flow("f", forever() >> Seen().sink()), beside=beside)
    assert (played.state, played.reason) == ("cancelled", "user_stop")


def test_drain_while_paused_finishes():
    async def beside(pipeline):
        await reached(pipeline, "running")
        pipeline.command(PauseFlow())
        await until(lambda: pipeline.states["s"] == "paused")
        pipeline.command(Drain())

    seen = Seen()
    played = play(oz.Flow("f", forever() >> total() >> seen.sink()), beside=beside)
    assert (played.state, seen) == ("drained", [sum(played.events("s"))])


def hydrating(valve, seen):
    @oz.join(how="inner", stream_key=int, reference_key=int)
    def pair(one: int, other: int) -> int:
        return one + other

    return oz.Flow("f", valve.source("r") >> pair.reference, forever("s") >> pair.stream, pair >> seen.sink())


def test_stop_while_a_join_hydrates_leaves_its_stream_in_the_log():
    valve, seen = Valve(opened=5), Seen()

    async def beside(pipeline):
        await until(lambda: pipeline.states["pair"] == "hydrating" and pipeline.stages["s"].written > 100)
        pipeline.command(StopFlow())

    played = play(hydrating(valve, seen), beside=beside)
    assert (played.state, played.states["pair"], seen) == ("cancelled", "suspended", [])
    assert played.events("s")
    assert "s" not in (played.steps("pair")[-1].cursor.next if played.steps("pair") else {})


def test_drain_while_a_join_hydrates_matches_everything():
    valve, seen = Valve(opened=5), Seen()

    async def beside(pipeline):
        await until(lambda: pipeline.stages["s"].written > 100 and pipeline.stages["r"].written == 5)
        pipeline.command(Drain())

    played = play(hydrating(valve, seen), beside=beside)
    assert (played.state, seen) == ("drained", [0, 2, 4, 6, 8])


def emitting(keys):
    @oz.stateful(key=lambda number: number, emit=oz.at_end())
    class Each:
        last: int = 0

        def fold(self, number: int) -> None:
            self.last = number

        def emit(self, key: int) -> int:
            return self.last

    return ints(keys) >> Each


def test_stop_during_a_long_final_emission_lets_it_end():
    seen = Seen()

    async def beside(pipeline):
        await reached(pipeline, "draining")
        await until(lambda: pipeline.stages["Each"].written > 0)
        pipeline.command(StopFlow())

    played = play(oz.Flow("f", emitting(20_000) >> same() >> seen.sink()), beside=beside)
    assert (played.state, len(seen)) == ("drained", 20_000)
    assert [type(each) for each in played.verdict] == [RunCompleted]


def test_cancel_during_a_long_final_emission_ends_it():
    async def beside(pipeline):
        await reached(pipeline, "draining")
        await until(lambda: pipeline.stages["Each"].written > 0)
        pipeline.command(Cancel())

    played = play(oz.Flow("f", emitting(200_000) >> same() >> Seen().sink()), beside=beside)
    assert (played.state, played.reason) == ("cancelled", "user_cancel")
    assert len(played.events("Each")) < 200_000


# -- several orders -------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ORDERS)
@pytest.mark.parametrize("second", ORDERS)
def test_two_orders_in_one_breath_never_break_the_supervisor(first, second):
    async def beside(pipeline):
        await reached(pipeline, "running")
        for name in (first, second):
            pipeline.command(ORDERS[name])
        for _ in range(20):
            await asyncio.sleep(0)
        if not {first, second} & {"stop", "drain", "cancel"}:
            pipeline.command(ResumeFlow())
            pipeline.command(Drain())

    seen = Seen()
    played = play(oz.Flow("f", forever() >> total() >> seen.sink()), beside=beside)
    assert played.error is None
    expected = "cancelled" if {first, second} & {"stop", "cancel"} else "drained"
    assert played.state == expected
    assert played.reason == ("user_cancel" if "cancel" in (first, second) else "user_stop" if expected == "cancelled" else "drained")


def test_pause_and_resume_in_one_breath_leave_the_flow_running():
    async def beside(pipeline):
        await reached(pipeline, "running")
        for _ in range(3):
            pipeline.command(PauseFlow())
            pipeline.command(ResumeFlow())

    played = play(oz.Flow("f", ints(20_000) >> Seen().sink()), beside=beside)
    assert played.state == "drained"


def test_cancel_beats_stop_beats_drain():
    played = play(oz.Flow("f", forever() >> total() >> Seen().sink()), beside=ordering("drain", "stop"))
    assert (played.state, played.reason) == ("cancelled", "user_stop")
    played = play(oz.Flow("f", forever() >> total() >> Seen().sink()), beside=ordering("drain", "stop", "cancel", "stop", "drain"))
    assert (played.state, played.reason) == ("cancelled", "user_cancel")


def test_an_order_after_the_end_is_refused():
    played = play(oz.Flow("f", ints(3) >> Seen().sink()))
    assert not any(played.pipeline.command(order) for order in ORDERS.values())
    assert played.state == "drained"


# -- deadlines ------------------------------------------------------------------------------------


def waiting(*, swallows=0):
    """A sink that waits for ever, and swallows its cancellation some times."""
    left = [swallows]

    @oz.sink
    async def stuck(number: int) -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if not left[0]:
                    raise
                left[0] -= 1

    return stuck


def test_a_stop_that_takes_too_long_becomes_a_cancel_by_the_deadline():
    async def beside(pipeline):
        await until(lambda: pipeline.stages["s"].written > 0)
        pipeline.command(StopFlow(within=7.0))

    played = play(oz.Flow("f", forever() >> waiting()), beside=beside)
    assert (played.state, played.reason) == ("cancelled", "stop_timeout")
    assert played.verdict[0].reason == "stop_timeout"
    assert played.seconds == pytest.approx(7.0, abs=0.1)


def test_there_is_one_deadline_and_a_second_stop_does_not_move_it():
    async def beside(pipeline):
        loop = asyncio.get_running_loop()
        await until(lambda: pipeline.stages["s"].written > 0)
        pipeline.command(StopFlow(within=7.0))
        loop.call_later(5.0, pipeline.command, StopFlow(within=100.0))
        loop.call_later(6.0, pipeline.command, Drain())

    played = play(oz.Flow("f", forever() >> waiting()), beside=beside)
    assert (played.state, played.reason) == ("cancelled", "stop_timeout")
    assert played.seconds == pytest.approx(7.0, abs=0.1)


def test_a_cancel_after_the_deadline_does_not_change_the_reason():
    async def beside(pipeline):
        loop = asyncio.get_running_loop()
        await until(lambda: pipeline.stages["s"].written > 0)
        pipeline.command(StopFlow(within=1.0))
        loop.call_later(1.5, pipeline.command, Cancel())

    played = play(oz.Flow("f", forever() >> waiting(swallows=1)), beside=beside)
    assert (played.state, played.reason, played.verdict[0].reason) == ("cancelled", "stop_timeout", "stop_timeout")


def test_a_deadline_that_passes_after_a_cancel_does_not_change_the_reason():
    async def beside(pipeline):
        loop = asyncio.get_running_loop()
        await until(lambda: pipeline.stages["s"].written > 0)
        pipeline.command(StopFlow(within=2.0))
        loop.call_later(1.0, pipeline.command, Cancel())

    played = play(oz.Flow("f", forever() >> waiting(swallows=1)), beside=beside)
    assert played.seconds > 2.0
    assert (played.state, played.reason, played.verdict[0].reason) == ("cancelled", "user_cancel", "user_cancel")


def test_a_full_journal_stays_the_reason_when_its_stop_takes_too_long():
    async def beside(pipeline):
        await until(lambda: pipeline.stages["s"].written > 0)
        pipeline.command(StopFlow("journal_full", within=2.0))

    played = play(oz.Flow("f", forever() >> waiting()), beside=beside)
    assert played.seconds == pytest.approx(2.0, abs=0.1)
    assert (played.state, played.verdict[0].reason) == ("cancelled", "journal_full")


@pytest.mark.parametrize("within", [-1, float("nan"), float("inf"), 10**400, "5", None])
def test_a_stop_within_no_number_of_seconds_is_refused_before_anything_happens(within):
    with pytest.raises(oz.ObzenError, match="not a number of seconds"):
        StopFlow(within=within)


def test_an_escalation_gives_nobody_a_fresh_budget():
    """What ignores every order is left behind one grace after the first that ends at once, whatever is ordered after it."""
    release = asyncio.Event()

    async def beside(pipeline):
        loop = asyncio.get_running_loop()
        await until(lambda: pipeline.stages["s"].written > 0)
        begun = loop.time()
        pipeline.command(StopFlow(within=3.0))
        for later in (2.0, 2.5, 4.0, 6.0):
            loop.call_later(later, pipeline.command, Cancel())
        loop.call_later(5.0, pipeline.command, StopFlow(within=100.0))
        await reached(pipeline, "cancelled")
        assert loop.time() - begun == pytest.approx(2.0 + pipelines._GRACE, abs=0.1)
        release.set()

    assert play(oz.Flow("f", ints(1) >> stubborn_until(release)), beside=beside).reason == "user_cancel"


def test_cancel_does_not_wait_for_the_deadline_of_a_stop():
    async def beside(pipeline):
        await until(lambda: pipeline.stages["s"].written > 0)
        pipeline.command(StopFlow(within=50.0))
        asyncio.get_running_loop().call_later(1.0, pipeline.command, Cancel())

    played = play(oz.Flow("f", forever() >> waiting()), beside=beside)
    assert (played.state, played.reason) == ("cancelled", "user_cancel")
    assert played.seconds == pytest.approx(1.0, abs=0.1)


def test_a_handler_that_swallows_its_cancellation_once_is_ended_by_the_next():
    async def beside(pipeline):
        await until(lambda: pipeline.stages["s"].written > 0)
        pipeline.command(Cancel())

    played = play(oz.Flow("f", forever() >> waiting(swallows=1)), beside=beside)
    assert played.state == "cancelled"
    assert played.seconds < 60


def test_a_stage_that_swallows_every_cancellation_does_not_keep_the_run_alive(monkeypatch):
    release = asyncio.Event()

    async def beside(pipeline):
        await until(lambda: pipeline.stages["s"].written > 0)
        pipeline.command(Cancel())
        await reached(pipeline, "cancelled")
        # the run has its end on record while the stage still hangs; let go, so that its task can be seen to end
        asyncio.get_running_loop().call_later(2 * pipelines._GRACE, release.set)

    flow = oz.Flow("f", ints(1) >> stubborn_until(release))

    async def main_beside(pipeline):
        await beside(pipeline)
        await release.wait()
        await until(lambda: all(task.get_name() != "obzen stage stubborn" for task in asyncio.all_tasks()))

    played = play(flow, beside=main_beside)
    assert (played.state, played.reason) == ("cancelled", "user_cancel")
    assert played.seconds < 10 * pipelines._GRACE


def test_the_deadline_that_passes_while_the_flow_fails_does_no_harm():
    """A stop, then a failure: the failure stands, and the deadline finds nobody who minds."""
    held = asyncio.Event()

    @oz.transform(on_error="fail")
    async def fails(number: int) -> int:
        await held.wait()
        raise ValueError("no")

    @oz.sink
    async def slow(number: int) -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        loop.call_later(3.0, done.set_result, None)
        while not done.done():
            try:
                await asyncio.shield(done)
            except asyncio.CancelledError:
                continue

    async def beside(pipeline):
        await until(lambda: pipeline.stages["s"].written > 0 and pipeline.stages["r"].written > 0)
        await until(lambda: not pipeline.stages["slow"].wake._waiter)
        pipeline.command(StopFlow(within=1.0))
        await reached(pipeline, "suspending")
        held.set()

    flow = oz.Flow("f", ints(1) >> fails >> slow, ints(1, "r") >> slow)
    played = play(flow, beside=beside)
    assert played.state == "failed"
    assert played.error.message == "no"


def test_an_async_source_that_waits_hears_every_order():
    for order, expected in (("stop", "cancelled"), ("drain", "drained"), ("cancel", "cancelled")):
        closed = []

        @oz.source
        async def waits(closed=closed) -> AsyncIterator[int]:
            try:
                yield 1
                await asyncio.Event().wait()
            finally:
                closed.append(True)

        seen = Seen()

        async def beside(pipeline, order=order, seen=seen):
            await until(lambda: seen == [1])
            pipeline.command(ORDERS[order])

        played = play(oz.Flow("f", waits >> seen.sink()), beside=beside)
        assert (played.state, closed) == (expected, [True])
        assert played.seconds < 1


def test_a_plain_source_is_closed_when_it_is_stopped():
    closed = []

    @oz.source
    def given() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    assert play(oz.Flow("f", given >> Seen().sink()), beside=ordering("stop")).state == "cancelled"
    assert closed == [True]


def test_what_was_written_before_a_stop_is_complete_blocks():
    played = play(oz.Flow("f", forever() >> same() >> Seen().sink()), beside=ordering("stop"))
    for name in ("s", "t"):
        assert played.events(name) == list(range(played.pipeline.stages[name].written))
    assert all(block.cursor is not None for block in played.of(Block))
