"""Batches: full where they can be, whole or one by one."""

import sys
from collections.abc import AsyncIterator

import pytest

import obzen_runtime as oz
from obzen_runtime.stages import SinkStage
from tests.stages.kit import Seen, VirtualClock, ints, passed, passing, play, through


def test_a_batch_handler_gets_full_batches_and_a_rest():
    sizes: list[int] = []

    @oz.transform(batch=100)
    def double(items: list[int]) -> list[int]:
        sizes.append(len(items))
        return [2 * item for item in items]

    done, seen = through(double, count=1050)
    passed(done)
    assert seen == [2 * x for x in range(1050)]
    assert sizes == [100] * 10 + [50]
    assert done.parents("double") == {n: ("s", n) for n in range(1050)}


def test_a_slow_batch_handler_still_gets_full_batches():
    sizes: list[int] = []
    clock = VirtualClock()

    @oz.transform(batch=100)
    def slow(items: list[int]) -> list[int]:
        clock.spend(0.5)
        sizes.append(len(items))
        return items

    done = play(oz.Flow("f", ints(500) >> slow >> Seen().sink()), clock=clock)
    assert done.state == "drained"
    assert sizes == [100] * 5


def test_a_partial_batch_is_given_after_within():
    sizes: list[tuple[float, int]] = []
    clock = VirtualClock()

    @oz.source
    async def slowly() -> AsyncIterator[int]:
        for n in range(6):
            yield n
            if n % 2:
                await passing(10)

    @oz.transform(batch=100, within=0.5)
    async def gather(items: list[int]) -> list[int]:
        sizes.append((round(clock.now - 1000, 1), len(items)))
        return items

    seen = Seen()
    done = play(oz.Flow("f", slowly >> gather >> seen.sink()), clock=clock)
    passed(done)
    assert seen == list(range(6))
    assert sizes == [(0.5, 2), (10.5, 2), (20.5, 2)]


def ticking(name, count, every, after=0.0):
    async def ticks() -> AsyncIterator[int]:
        await passing(after)
        for number in range(count):
            yield number
            await passing(every)

    return oz.source(ticks).named(name)


def test_batches_fill_behind_several_upstreams_each_of_one():
    batches: list[tuple[str, list[int]]] = []

    @oz.transform(batch=10, within=100.0)
    def gather(items: list[int], ctx: oz.Context) -> list[int]:
        batches.append((ctx.event.id.partition("@")[0], list(items)))
        return items

    seen = Seen()
    done = play(oz.Flow("f", [ticking(name, 30, 0.1) for name in "abc"] >> gather >> seen.sink(list[int], batch=10, within=100.0)))
    passed(done)
    assert sorted(batches) == [(name, list(range(at, at + 10))) for name in "abc" for at in (0, 10, 20)]
    assert [len(each) for each in seen] == [10] * 9


def test_an_upstream_does_not_wait_for_the_batch_of_another():
    sizes: list[tuple[float, int]] = []
    clock = VirtualClock()

    @oz.sink(batch=100, within=0.5)
    def store(items: list[int]) -> None:
        sizes.append((round(clock.now - 1000, 1), len(items)))

    sources = [ticking("a", 2, 60.0), ticking("b", 2, 60.0, after=0.2), ticking("c", 200, 0.0, after=0.3)]
    done = play(oz.Flow("f", sources >> store), clock=clock)
    passed(done)
    assert sizes == [(0.3, 100), (0.3, 100), (0.5, 1), (0.7, 1), (60.5, 1), (60.7, 1)]


def test_a_batch_that_is_tried_again_is_not_overtaken_by_a_full_one():
    calls: list[tuple[str, list[int]]] = []
    left = [2]

    @oz.transform(batch=2, within=1.0, retry=oz.Retry.fixed(attempts=5, delay=3.0))
    def gather(items: list[int], ctx: oz.Context) -> list[int]:
        calls.append((ctx.event.id, list(items)))
        if ctx.event.id == "a@0" and left[0]:
            left[0] -= 1
            raise oz.Transient("not yet")
        return items

    seen = Seen()
    done = play(oz.Flow("f", [ticking("a", 2, 50.0), ticking("b", 4, 0.1, after=1.5)] >> gather >> seen.sink()))
    passed(done)
    assert seen == [0, *range(4), 1]
    assert calls == [*[("a@0", [0])] * 3, ("b@0", [0, 1]), ("b@2", [2, 3]), ("a@1", [1])], "as a batch, alone, and once again"


def test_none_in_a_batch_drops_that_event():
    @oz.transform(batch=10)
    async def odd(items: list[int]) -> list[int | None]:
        return [item if item % 2 else None for item in items]

    done, seen = through(odd, count=25)
    passed(done)
    assert seen == list(range(1, 25, 2))
    assert done["odd"].dropped == 13
    assert done.parents("odd") == {n: ("s", 2 * n + 1) for n in range(12)}


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_failing_batch_is_tried_one_by_one(asynchronous):
    calls: list[list[int]] = []

    def work(items: list[int]) -> list[int]:
        calls.append(list(items))
        if 7 in items:
            raise ValueError("seven")
        return items

    if asynchronous:

        @oz.transform(batch=5)
        async def careful(items: list[int]) -> list[int]:
            return work(items)

    else:
        careful = oz.transform(batch=5)(work).named("careful")

    done, seen = through(careful, count=10)
    passed(done)
    assert seen == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert [letter.event for letter in done.letters()] == [7]
    assert calls == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [5], [6], [7], [8], [9]]


@pytest.mark.parametrize("wrong", [lambda items: items[:-1], lambda items: 5, lambda items: (*items,)], ids=["short", "int", "tuple"])
def test_a_batch_handler_that_returns_something_else_is_told_so(wrong):
    @oz.transform(batch=5)
    def careless(items: list[int]) -> list[int]:
        return wrong(items)

    done, seen = through(careless, count=5)
    assert done.state == "drained"
    assert not seen
    assert len(done.letters()) == 5
    assert "a list with one output per event" in done.letters()[0].error.remedy


def test_the_context_of_a_batch_names_its_first_event_also_when_tried_one_by_one():
    ids: list[tuple[str, list[int]]] = []

    @oz.transform(batch=4)
    def gather(items: list[int], ctx: oz.Context) -> list[int]:
        ids.append((ctx.event.id, list(items)))
        if 5 in items:
            raise ValueError("five")
        return items

    _, seen = through(gather, count=12)
    assert len(seen) == 11
    assert ids == [
        ("s@0", [0, 1, 2, 3]),
        ("s@4", [4, 5, 6, 7]),
        *((f"s@{n}", [n]) for n in (4, 5, 6, 7)),
        ("s@8", [8, 9, 10, 11]),
    ]


def test_a_batch_that_no_window_lets_fill_does_not_wait():
    sizes: list[int] = []

    @oz.transform(batch=100, within=0.5)
    def gather(items: list[int]) -> list[int]:
        sizes.append(len(items))
        return items

    seen, clock = Seen(), VirtualClock()
    done = play(oz.Flow("f", ints(60) >> gather >> seen.sink(), window=oz.Window(events=3)), clock=clock)
    passed(done)
    assert seen == list(range(60))
    assert clock.now - 1000 < 1, "its writer waited for it, and it for its writer"
    assert max(sizes) == 3


def test_a_step_that_may_fail_whole_is_no_larger_than_its_letters_may_be_together(monkeypatch):
    monkeypatch.setattr(sys.modules[SinkStage.__module__], "LARGEST", 3000)
    sizes = []

    @oz.transform
    def text(n: int) -> str:
        return "x" * 1000

    @oz.sink(batch=50)
    def store(batch: list[str]) -> None:
        sizes.append(len(batch))

    passed(play(oz.Flow("f", ints(40) >> text >> store, window=oz.Window(events=1))))
    passed(play(oz.Flow("f", ints(40) >> text >> store, window=oz.Window(events=8))))
    assert max(sizes) <= 8
