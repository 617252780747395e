"""Log lines say who, in which run, in what state and round, and where in the journal."""

import logging

import pytest

from obzen_runtime.actor import Continue, Terminate
from obzen_runtime.fsm import on
from tests.actor.kit import Broke, Go, Run, Scripted, fail, machine, say


@pytest.fixture
def told(caplog):
    caplog.set_level(logging.DEBUG, "obzen")
    return lambda: [(record.levelname, record.getMessage().split(" actor=")[0], record.fields) for record in caplog.records]


def at(state, round_, position):
    return {"actor": "actor-1", "run": "r1", "state": state, "round": round_, "position": position}


async def test_O_14_info_at_start_and_end_and_debug_for_each_transition(told):
    await Run(Scripted({"busy": [Continue(), Continue(), Terminate("done")]}))
    assert told() == [
        ("INFO", "actor started", at("idle", 0, 0)),
        ("DEBUG", "transition", {**at("busy", 1, 1), "source": "idle", "fsm_event": "Go", "target": "busy"}),
        ("INFO", "actor ended", {**at("busy", 4, 2), "how": "completed", "reason": "done"}),
    ]


async def test_O_14_error_with_the_index_of_the_action_that_failed(told):
    table = machine(on(Go, "idle", "busy", do=[say("one"), say("two"), fail()]), on(Broke, "*", "broken"))
    await Run(Scripted({}, table))
    [line] = [line for line in told() if line[0] == "ERROR"]
    assert line == ("ERROR", "action failed", {**at("busy", 1, 1), "action": 2, "error": "peer vanished"})


async def test_O_14_error_for_each_failing_dispatch_with_its_count(told):
    table = machine(on(Go, "idle", "busy"), on(Broke, "*", "busy"))
    await Run(Scripted({"busy": [ValueError("a"), ValueError("b"), Terminate("done")]}, table))
    fields = [line[2] for line in told() if line[0] == "ERROR"]
    lines = [(line["failures"], line["error"], line["round"]) for line in fields]
    assert lines == [
        (1, "in state 'busy': a", 2),
        (2, "in state 'busy': b", 3),
    ]


async def test_O_14_error_when_an_actor_is_aborted(told):
    table = machine(on(Go, "idle", "busy"), on(Broke, "*", "broken", do=[fail()]))
    await Run(Scripted({"busy": ValueError("a")}, table))
    assert [line[1] for line in told() if line[0] == "ERROR"] == ["dispatch failed", "action failed", "actor aborted"]
    assert told()[-1][2]["how"] == "aborted"


async def test_O_04_every_line_and_record_bears_the_actors_name(told):
    run = Run(Scripted({"busy": Terminate("done")}))
    await run
    assert {line[2]["actor"] for line in told()} == {record.actor for record in run.records} == {"actor-1"}
