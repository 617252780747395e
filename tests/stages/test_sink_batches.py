"""Batch sinks: lists to the handler, a receipt for each, and one bad event takes no other along."""

import asyncio

import pytest

import obzen_runtime as oz
from tests.stages.kit import ints, play
from tests.stages.test_sink import covered, drained, later


def test_a_batch_sink_gets_lists_and_gives_a_receipt_for_each():
    got = []

    @oz.sink(batch=500)
    async def store(items: list[int]) -> None:
        got.append(list(items))

    done = play(oz.Flow("f", ints(1250) >> store))
    drained(done)
    assert [len(items) for items in got] == [500, 500, 250]
    assert [n for items in got for n in items] == covered(done, "store") == list(range(1250))
    assert done["store"].received == 1250


@pytest.mark.parametrize("given", [5, [], [1, 2, 3, 4], ("rows", 4)])
def test_what_a_batch_sink_returns_is_nobodys_too_and_its_events_are_delivered_once(given):
    got = []

    @oz.sink(batch=4)
    def store(items: list[int]) -> object:
        got.append(list(items))
        return given

    done = play(oz.Flow("f", ints(10) >> store))
    drained(done)
    assert got == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert not done.letters()


def test_a_batch_sink_may_take_events_out_of_its_list_as_it_delivers_them():
    got = []

    @oz.sink(batch=4)
    def store(items: list[int]) -> None:
        while items:
            got.append(items.pop(0))
        if len(got) > 100:
            raise KeyboardInterrupt

    done = play(oz.Flow("f", ints(10) >> store))
    drained(done)
    assert got == covered(done, "store") == list(range(10))


def test_a_batch_handler_that_gives_back_a_coroutine_has_delivered_nothing():
    @oz.sink(batch=4)
    def store(items: list[int]) -> None:
        return later(items)

    done = play(oz.Flow("f", ints(10) >> store))
    assert "store returned a coroutine" in done.error.message
    assert covered(done, "store") == []


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_batch_that_fails_is_delivered_one_by_one_and_the_culprit_is_a_dead_letter(asynchronous):
    got = []

    def work(items):
        if 7 in items:
            raise ValueError("seven")
        got.extend(items)

    if asynchronous:

        @oz.sink(batch=5)
        async def store(items: list[int]) -> None:
            work(items)

    else:

        @oz.sink(batch=5)
        def store(items: list[int]) -> None:
            work(items)

    done = play(oz.Flow("f", ints(10) >> store))
    drained(done)
    assert got == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert done.lost("store") == {"dead": [7]}


def test_a_class_may_take_batches_and_be_async():
    got = []

    class Store:
        async def write(self, items: list[int]) -> None:
            await asyncio.sleep(0)
            got.append(len(items))

        async def flush(self) -> None:
            got.append("flush")

    done = play(oz.Flow("f", ints(25) >> oz.sink(batch=10)(Store)))
    drained(done)
    assert got == [10, "flush", 10, "flush", 5, "flush", "flush"]
