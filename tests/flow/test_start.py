"""Nobody writes before everybody reads: sources wait for the gun."""

import asyncio
from collections.abc import Iterator

import pytest

import obzen_runtime as oz
from obzen_runtime.events import ActorState, Block
from obzen_runtime.flow import StopFlow
from tests.flow.kit import Seen, forever, ints, play, reached, same, total, until


def index(played, matches):
    return next(number for number, record in enumerate(played.records) if matches(record))


def test_no_event_stands_before_every_reader_runs():
    @oz.join(how="inner", stream_key=int, reference_key=int)
    def j(one: int, other: int) -> int:
        return one

    flow = oz.Flow(
        "f",
        ints(10, "a") >> same() >> j.stream,
        ints(10, "b") >> j.reference,
        j >> total() >> Seen().sink(),
        oz.dead_letters >> Seen().sink("mail"),
    )
    played = play(flow)
    assert played.state == "drained"
    first_block = index(played, lambda each: isinstance(each, Block))
    running = {"t": "running", "j": "hydrating", "total": "running", "k": "running", "mail": "running", "dead_letters": "running"}
    for name, state in running.items():
        begun = index(
            played, lambda each, name=name, state=state: isinstance(each, ActorState) and (each.actor, each.target) == (name, state)
        )
        gun = index(played, lambda each: isinstance(each, ActorState) and each.event == "Start")
        assert begun < gun < first_block, name


def test_a_slow_reader_holds_up_the_gun_not_the_order():
    order = []

    @oz.sink
    class Out:
        def __init__(self) -> None:
            order.append("made")

        def write(self, number: int) -> None:
            order.append(number)

    @oz.source
    def s() -> Iterator[int]:
        order.append("pulled")
        yield 1

    played = play(oz.Flow("f", s >> Out))
    assert (played.state, order) == ("drained", ["made", "pulled", 1])


def test_a_manual_flow_waits_in_ready_for_run():
    seen = Seen()

    async def beside(pipeline):
        await reached(pipeline, "ready_for_run")
        await until(lambda: pipeline.states["s"] == "waiting_for_gun")
        assert seen == []
        pipeline.fire_gun()

    played = play(oz.Flow("f", ints(3) >> seen.sink()), manual=True, beside=beside)
    assert (played.state, seen) == ("drained", [0, 1, 2])


@pytest.mark.parametrize("state", ["created", "materializing", "materialized"])
def test_a_gun_that_is_fired_too_early_is_remembered(state):
    async def beside(pipeline):
        if state != "created":
            await reached(pipeline, state)
        pipeline.fire_gun()
        pipeline.fire_gun()

    seen = Seen()
    played = play(oz.Flow("f", ints(3) >> seen.sink()), manual=True, beside=beside)
    assert (played.state, seen) == ("drained", [0, 1, 2])


def test_a_manual_flow_waits_for_ever_without_a_gun():
    async def beside(pipeline):
        asyncio.get_running_loop().call_later(5000.0, pipeline.command, StopFlow())

    played = play(oz.Flow("f", ints(3) >> Seen().sink()), manual=True, beside=beside)
    assert (played.state, played.events("s")) == ("cancelled", [])
    assert played.seconds >= 5000


def test_the_gun_means_nothing_to_a_flow_that_runs():
    async def beside(pipeline):
        await reached(pipeline, "running")
        pipeline.fire_gun()
        await until(lambda: pipeline.stages["s"].written > 1000)
        pipeline.fire_gun()
        pipeline.mailbox.kill("enough")

    played = play(oz.Flow("f", forever() >> Seen().sink()), beside=beside)
    assert played.state == "failed"
    assert played.seconds < 1, "its stages are ended at once"
