"""How a run ends is what its stages and its contracts say, never what time it is."""

import asyncio
from collections.abc import Iterator

import pytest

import obzen_runtime as oz
from obzen_runtime.events import ActorCompleted, ActorState, Checkpoint, Contract, RunCompleted, RunFailed, RunStarted
from obzen_runtime.flow import PIPELINE, Cancel, Drain, PauseFlow, ResumeFlow, StopFlow
from obzen_runtime.stages import Edge, Stage
from tests.flow.kit import Seen, Valve, crashing, forever, ints, play, reached, same, total, until


def test_a_natural_end_walks_the_whole_machine_in_order():
    played = play(oz.Flow("f", ints(10) >> same() >> Seen().sink()))
    assert played.walked("f") == [
        "materializing",
        "materialized",
        "ready_for_run",
        "running",
        "source_completed",
        "draining",
        "drained",
    ]
    assert isinstance(played.records[0], RunStarted)
    assert [type(each) for each in played.records[-3:]] == [Checkpoint, RunCompleted, ActorCompleted]
    assert set(played.ends.values()) == {"natural"}


def test_the_first_record_says_what_the_flow_is_made_of():
    started = play(oz.Flow("f", ints(10) >> same() >> total() >> Seen().sink())).records[0]
    assert (started.run_id, started.flow) == ("run", "f")
    assert [(each.name, each.kind, each.inputs, each.types) for each in started.stages] == [
        ("s", "source", (), ("int",)),
        ("t", "transform", ("s",), ("int",)),
        ("total", "fold", ("t",), ("int",)),
        ("k", "sink", ("total",), ()),
    ]


def test_contracts_are_in_the_report_and_in_the_log():
    played = play(oz.Flow("f", ints(10) >> same() >> Seen().sink()))
    told = [(each.edge, each.written, each.accounted, each.passed) for each in played.of(Contract)]
    assert told == [("s -> t", 10, 10, True), ("t -> k", 10, 10, True)]
    assert told == [(each.edge, each.written, each.accounted, each.passed) for each in played.pipeline.verdicts]


def test_dropped_and_dead_events_are_accounted_for():
    @oz.transform
    def t(number: int) -> int | None:
        if number == 3:
            raise ValueError("three")
        return number if number % 2 else None

    played = play(oz.Flow("f", ints(10) >> t >> Seen().sink()))
    assert [(each.edge, each.written, each.accounted) for each in played.of(Contract)] == [("s -> t", 10, 10), ("t -> k", 4, 4)]


def losing(monkeypatch, edge_name):
    """Make an edge lose the events of one block on the way."""
    whole = Edge.offer
    lost = []

    def offer(self, items, kinds, place, size):
        if self.name == edge_name and not lost:
            lost.append(len(items))
            self.delivered += len(items)
            return
        whole(self, items, kinds, place, size)

    monkeypatch.setattr(Edge, "offer", offer)
    return lost


def test_a_violated_contract_fails_the_run_with_both_numbers(monkeypatch):
    lost = losing(monkeypatch, "t -> k")
    played = play(oz.Flow("f", ints(10_000) >> same() >> Seen().sink()))
    assert played.state == "failed"
    assert played.error.code == "contract_violated"
    assert f"t -> k: 10000 written, {10_000 - lost[0]} accounted for" in played.error.message
    (broken,) = (each for each in played.of(Contract) if not each.passed)
    assert (broken.edge, broken.written, broken.accounted) == ("t -> k", 10_000, 10_000 - lost[0])
    assert isinstance(played.verdict[0], RunFailed)
    assert played.of(RunCompleted) == []


def test_events_that_never_came_onto_an_edge_are_named_as_missing_evidence(monkeypatch):
    whole = Edge.offer
    calls = []

    def offer(self, *given):
        if self.name == "s -> t" and not calls:
            calls.append(given)
            return
        whole(self, *given)

    monkeypatch.setattr(Edge, "offer", offer)
    played = play(oz.Flow("f", ints(10_000) >> same() >> Seen().sink()))
    assert played.state == "failed"
    missing = next(each.missing for each in played.of(Contract) if each.edge == "s -> t")
    assert missing.startswith("s wrote 10000 events, ")
    assert missing in played.error.message


def test_an_end_that_was_never_taken_is_named(monkeypatch):
    whole = Stage.take_end

    def take_end(self, entry):
        whole(self, entry)
        if self.name == "k":
            self.ends.clear()
            self.ends["nobody"] = "natural"

    monkeypatch.setattr(Stage, "take_end", take_end)
    played = play(oz.Flow("f", ints(10) >> same() >> Seen().sink()))
    assert played.state == "failed"
    assert "k never took the end of t" in played.error.message


def test_a_source_that_knows_its_count_is_held_to_it():
    def counted(expected):
        @oz.source
        def s(progress: oz.Progress) -> Iterator[int]:
            progress.expected = expected
            yield from range(10)

        return play(oz.Flow("f", s >> Seen().sink()))

    assert counted(10).state == "drained"
    played = counted(12)
    assert (played.state, played.error.code) == ("failed", "contract_violated")
    assert "s said that it gives 12 items, and gave 10" in played.error.message
    assert "progress.expected" in played.error.remedy


def test_a_slow_stage_ends_nothing():
    """Hours pass; nothing gives up."""

    @oz.transform
    async def t(number: int) -> int:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        loop.call_later(3600.0, done.set_result, None)
        await done
        return number

    seen = Seen()
    played = play(oz.Flow("f", ints(2) >> t >> seen.sink()))
    assert (played.state, seen) == ("drained", [0, 1])
    assert played.seconds == pytest.approx(7200, abs=1)


def test_worst_end_wins_over_several_inputs():
    valve = Valve(opened=3)
    seen = Seen()

    async def beside(pipeline):
        await until(lambda: pipeline.states["a"] == "drained" and len(seen) == 13)
        pipeline.command(StopFlow())

    played = play(oz.Flow("f", [ints(10, "a"), valve.source("b")] >> same() >> seen.sink()), beside=beside)
    assert played.state == "cancelled"
    assert played.ends == {"a -> t": "natural", "b -> t": "truncated", "t -> k": "truncated"}
    assert (played.states["a"], played.states["t"]) == ("drained", "suspended")


def test_a_failed_stage_poisons_what_is_behind_it():
    @oz.transform(on_error="fail")
    def t(number: int) -> int:
        raise ValueError("no")

    seen = Seen()
    played = play(oz.Flow("f", ints(10) >> t >> total() >> seen.sink()))
    assert (played.state, played.error.message, seen) == ("failed", "no", [])
    assert played.ends["t -> total"] == "poison"
    assert played.ends.get("total -> k", "poison") == "poison"
    assert played.states["t"] == "failed"
    assert "drained" not in (played.states["total"], played.states["k"])


def test_two_failures_at_once_end_the_run_with_one():
    @oz.transform(on_error="fail")
    def t(number: int) -> int:
        raise ValueError("no")

    played = play(oz.Flow("f", ints(10) >> [t >> Seen().sink(), t.named("u") >> Seen().sink("m")]))
    assert played.state == "failed"
    assert len(played.verdict) == 1


# -- the machine ------------------------------------------------------------------------------------


def test_every_row_of_the_supervisors_machine_is_walked_by_some_run():
    """Rows as (event, source, target), collected from runs that provoke them."""
    walked = set()

    def run(flow, *orders, at="running", manual=False, hold=None):
        async def beside(pipeline):
            if at != "created" and orders:
                await reached(pipeline, at)
            for order in orders:
                pipeline.command(order)
                for _ in range(10):
                    await asyncio.sleep(0)
            if hold is not None:
                hold.set()

        played = play(flow, beside=beside, manual=manual)
        walked.update((each.event, each.source, each.target) for each in played.of(ActorState) if each.actor == "f")

    def endless():
        return oz.Flow("f", forever() >> total() >> Seen().sink())

    def held(gate, tail=None):
        @oz.transform
        async def t(number: int) -> int:
            await gate.wait()
            return number

        return oz.Flow("f", ints(3) >> t >> (tail or Seen().sink()))

    def broken():
        @oz.sink
        class Out:
            def __init__(self) -> None:
                raise ValueError("no")

            def write(self, number: int) -> None:
                raise AssertionError

        return oz.Flow("f", ints(3) >> Out)

    run(oz.Flow("f", ints(10) >> Seen().sink()))
    run(endless(), PauseFlow(), ResumeFlow(), PauseFlow(), Drain())
    run(endless(), Drain())
    run(endless(), Drain(), at="ready_for_run", manual=True)
    run(endless(), PauseFlow(), Cancel())
    run(endless(), PauseFlow(), StopFlow())
    run(broken())
    for state in ("created", "materializing", "materialized", "ready_for_run", "running"):
        run(endless(), Cancel(), at=state, manual=state == "ready_for_run")
        run(endless(), StopFlow(), at=state, manual=state == "ready_for_run")
    for order in (StopFlow(), Cancel()):
        gate = asyncio.Event()
        run(held(gate), order, at="draining", hold=gate)
    gate = asyncio.Event()
    run(held(gate), StopFlow(within=5.0))
    gate = asyncio.Event()
    run(held(gate), StopFlow(), Cancel())
    run(oz.Flow("f", ints(100) >> crashing(50, 9) >> Seen().sink()))
    every = {
        (row.event.__name__, source, row.target)
        for row in PIPELINE.rows
        for source in row.sources
        if (source != row.target or row.do) and row.event.__name__ != "Abort"
    }
    every -= {(order, "source_completed", "suspending") for order in ("StopFlow", "Cancel")}  # left in the same breath
    assert every - walked == set()
    assert {target for event, _, target in walked if event == "Abort"} == {"abort_requested"}
