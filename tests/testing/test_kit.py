"""Sources that crash on cue and sinks that collect, for users' tests."""

import asyncio

import pytest

import obzen_runtime as oz
from obzen_runtime.testing import Collected, crashing


async def run(flow):
    async with oz.start(flow, journal=oz.MemoryJournal(keep=True)) as handle:
        return await handle.wait()


async def test_a_source_that_crashes_on_cue_gives_every_item_once():
    seen = Collected()
    report = await run(oz.Flow("f", crashing(range(10), at=[0, 4]) >> seen.sink(int)))
    assert report.state == "drained"
    assert seen == list(range(10))


async def test_a_source_may_crash_for_good():
    seen = Collected()
    report = await run(oz.Flow("f", crashing(["a", "b"], at=[1], kind=str, error=lambda number: ValueError(number)) >> seen.sink(str)))
    assert report.state == "failed"
    assert report.error.type == "ValueError"


async def test_a_sink_that_crashes_on_cue_gets_the_event_again():
    seen = Collected()
    report = await run(oz.Flow("f", crashing(range(5), at=[]) >> seen.sink(int, fails_at=[2])))
    assert report.state == "drained"
    assert set(seen) == set(range(5))


async def test_two_sinks_may_fill_one_list():
    seen = Collected()
    source = crashing(range(3), at=[])
    await run(oz.Flow("f", source >> [seen.sink(int, name="left"), seen.sink(int, name="right")]))
    assert sorted(seen) == [0, 0, 1, 1, 2, 2]


def test_the_items_are_kept():
    source = crashing(iter([1, 2]), at=[])
    assert [list(source.handler()) for _ in range(2)] == [[1, 2], [1, 2]]
    assert asyncio.iscoroutinefunction(source.handler) is False
    assert source.name == "crashing"
    with pytest.raises(TypeError):
        source.handler(1)
