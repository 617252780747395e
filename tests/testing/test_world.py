"""The outside of a simulation."""

import pytest

import obzen_runtime as oz
from obzen_runtime.testing import Crashed, World, world
from obzen_runtime.testing.world import encoded


async def test_a_put_is_known_again_by_its_key_and_an_append_is_not():
    here = World()
    for _ in range(2):
        here.put("table", "a", 1)
        here.append("topic", 1)
    assert here.places["table"].counted() == {encoded(1): 1}
    assert here.places["topic"].counted() == {encoded(1): 2}
    assert here.places["table"].clashes == []


async def test_another_value_under_the_same_key_is_noted():
    here = World()
    here.put("table", "a", 1)
    here.put("table", "a", 2)
    assert here.places["table"].clashes == ["a"]
    assert here.places["table"].keyed == {"a": encoded(2)}


async def test_a_transaction_stores_rows_and_position_together():
    here = World()
    here.transact("book", [1, 2], b"2")
    assert here.at("book").position == b"2"
    assert len(here.at("book").rows) == 2


async def test_nothing_a_dead_process_wants_happens():
    here = World()
    here.append("topic", 1)
    here.dead = lambda: True
    with pytest.raises(Crashed):
        here.append("topic", 2)
    assert len(here.places["topic"].rows) == 1


async def test_the_process_dies_right_behind_the_delivery_that_was_drawn():
    here, died = World(), []
    here.left, here.die = 2, lambda: died.append(len(here.places["topic"].rows))
    for number in range(4):
        here.append("topic", number)
    assert died == [2]


def test_outside_a_simulation_there_is_none():
    with pytest.raises(oz.ObzenError, match="nothing is simulated"):
        world()
