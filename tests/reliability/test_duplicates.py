"""Deliveries repeated twice and ten times: the process dies behind a delivery, before its receipt, again and again.

What is repeated comes to a sink under the same key, or in the same transaction, or not at all; a safe sink sees it as
often as its process died behind it, and no more. Between stages nothing can come twice: a block is committed by its
ordinals (`tests/flow/test_restarts.py`, `tests/reliability/test_cancel_runs.py`).
"""

from collections import Counter

import pytest

import obzen_runtime as oz
from obzen_runtime.testing import Crash, Options, Plan, Simulator, world
from obzen_runtime.testing.flows import FLOWS, numbers
from tests.journal.kit import tell

ITEMS = 6
SINKS = ["transform", "keyed", "batch", "stand_in", "stand_in_safe", "concurrent", "transactional", "sensitive", "fan_out", "fan_in"]


def repeated(at, times):
    """The process dies behind delivery `at`, then at once behind the first of each next life."""
    return tuple(Crash(kind="delivery", at=at if number == 0 else 1) for number in range(times - 1))


@pytest.mark.parametrize("times", [2, 10])
@pytest.mark.parametrize("name", SINKS)
def test_T_DUP_what_is_delivered_again_is_applied_as_its_sink_declares(name, times):
    simulator = Simulator(FLOWS[name], Options(items=ITEMS))
    deaths = 0
    for at in range(1, ITEMS + 1):
        plan = Plan(seed=at, items=ITEMS, crashes=repeated(at, times))
        history = simulator.history(plan)
        assert not history.problems, at
        deaths += sum(life.crash is not None for life in history.machine.lives)
    tell(f"{name} x{times}: {deaths} deaths behind a delivery, 0 violations")
    assert deaths >= (1 if name == "transactional" else ITEMS // 2)  # all its rows are one delivery


@pytest.mark.parametrize("times", [2, 10])
def test_T_DUP_the_delivery_is_really_repeated(times):
    simulator = Simulator(FLOWS["stand_in_safe"], Options(items=ITEMS))
    history = simulator.history(Plan(seed=1, items=ITEMS, crashes=repeated(3, times)))
    most = Counter(max(place.counted().values()) for place in history.machine.world.places.values())
    assert most == {times: 1}


@pytest.mark.parametrize("times", [2, 10])
def test_T_DUP_a_sink_that_ignores_its_key_is_caught(times):
    def insert(number: int, *, key: oz.IdempotencyKey) -> None:
        world().append("rows", number)

    @oz.sink(delivery="keyed", simulate=insert)
    def careless(number: int, *, key: oz.IdempotencyKey) -> None:
        raise AssertionError("the real one is not called")

    simulator = Simulator(oz.Flow("careless", numbers >> careless), Options(items=ITEMS))
    found = simulator.violation(Plan(seed=1, items=ITEMS, crashes=repeated(3, times)))
    assert "twice" in found.problems[0] or "times" in found.problems[0], found
