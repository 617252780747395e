"""The supervisor of a flow: how many crashes it forgives, in which order it starts and ends its stages, whom it does not wait for."""

import asyncio

import pytest

import obzen_runtime as oz
from obzen_runtime.events import ActorCompleted, ActorRestarted, ActorState
from obzen_runtime.flow import Cancel, StopFlow
from tests.flow.kit import Seen, crashing, forever, ints, play, reached, same, total
from tests.reliability.cutting import passes

STRATEGIES = ["one_for_one", "rest_for_one", "one_for_all"]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("most", [0, 1, 3])
def test_T_SUP_exactly_max_restarts_pass_and_one_more_escalates(strategy, most):
    for crashes in (most, most + 1):
        seen = Seen()
        restart = oz.Restart(strategy=strategy, max=most)
        played = play(oz.Flow("f", ints(20) >> same("a") >> crashing(7, crashes) >> seen.sink(), restart=restart))
        assert len(played.of(ActorRestarted)) == min(crashes, most)
        assert played.state == ("drained" if crashes <= most else "failed")
        assert set(seen) == set(range(20)) if crashes <= most else set(seen) <= set(range(7))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_T_SUP_the_window_slides(strategy):
    left = [5]

    @oz.transform
    async def t(number: int) -> int:
        if number % 4 == 3 and left[0]:
            left[0] -= 1
            await passes(6.0)
            raise SystemExit(3)
        return number

    played = play(oz.Flow("f", ints(40) >> t >> Seen().sink(), restart=oz.Restart(strategy=strategy, max=2, within=10.0)))
    assert (played.state, len(played.of(ActorRestarted))) == ("drained", 5)


def first(played, state):
    """Stages in the order in which they first came to a state."""
    names = [each.actor for each in played.of(ActorState) if each.target == state and each.actor in played.pipeline.stages]
    return list(dict.fromkeys(names))


@pytest.mark.parametrize("order", ["drained", "stop"])
def test_T_SUP_who_starts_last_ends_first(order):
    async def beside(pipeline):
        await reached(pipeline, "running")
        if order == "stop":
            pipeline.command(StopFlow("user_stop", 5.0))

    source = ints(20) if order == "drained" else forever()
    played = play(oz.Flow("f", source >> same() >> total() >> Seen().sink()), beside=beside)
    ended = [each.actor for each in played.of(ActorCompleted) if each.actor in played.pipeline.stages]
    assert first(played, "running")[-1] == "s"
    assert ended == ["s", "t", "total", "k"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_T_SUP_a_stage_that_fails_in_its_start_fails_the_flow_before_the_first_event(strategy):
    @oz.sink
    class Broken:
        def __init__(self) -> None:
            raise OSError("no connection")

        def write(self, number: int) -> None:
            raise AssertionError("nothing is given to it")

    played = play(oz.Flow("f", ints(20) >> same() >> oz.stage(Broken), restart=oz.Restart(strategy=strategy)))
    assert played.state == "failed"
    assert "no connection" in played.error.message
    assert played.pipeline.stages["s"].written == 0


@pytest.mark.parametrize("order", [Cancel("user_cancel"), StopFlow("user_stop", 5.0)], ids=["cancel", "stop"])
def test_T_SUP_a_stage_that_ignores_its_cancellation_is_ended_by_the_next(order):
    swallowed = []

    @oz.transform
    async def t(number: int) -> int:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            swallowed.append(number)
            await asyncio.get_running_loop().create_future()
        return number

    async def beside(pipeline):
        await reached(pipeline, "running")
        await passes(1.0)
        pipeline.command(order)

    played = play(oz.Flow("f", ints(3) >> t >> Seen().sink()), beside=beside)
    assert (played.state, swallowed) == ("cancelled", [0])
    assert played.seconds < 15
