"""Retries, dead letters, policies and crashes: nothing is lost, nothing comes twice."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

import obzen_runtime as oz
from obzen_runtime.flow import Cancel
from tests.stages.kit import Seen, VirtualClock, ints, passed, passing, play, through


@pytest.mark.parametrize("shape", ["plain", "async", "generator", "async generator", "batch"])
def test_transient_failures_are_tried_again_after_their_delays(shape):
    clock = VirtualClock()
    tries: list[float] = []

    def work(x):
        if x == 2:
            tries.append(round(clock.now - 1000, 1))
            if len(tries) < 4:
                raise oz.Transient("again")
        return x

    options = {"retry": oz.Retry(attempts=5, base=1.0, multiplier=2.0, jitter=False)}
    if shape == "plain":

        @oz.transform(**options)
        def flaky(x: int) -> int:
            return work(x)

    elif shape == "async":

        @oz.transform(**options)
        async def flaky(x: int) -> int:
            return work(x)

    elif shape == "generator":

        @oz.transform(**options)
        def flaky(x: int) -> Iterator[int]:
            yield work(x)

    elif shape == "async generator":

        @oz.transform(**options)
        async def flaky(x: int) -> AsyncIterator[int]:
            yield work(x)

    else:

        @oz.transform(batch=1, **options)
        def flaky(xs: list[int]) -> list[int]:
            if xs[0] == 2 and len(tries) % 2 == 0:
                tries.append(0.0)
                raise oz.Transient("the batch")
            return [work(x) for x in xs]

    seen = Seen()
    done = play(oz.Flow("f", ints(5) >> flaky >> seen.sink()), clock=clock)
    passed(done)
    assert seen == list(range(5))
    assert not done.letters()
    if shape != "batch":
        assert tries == [0.0, 1.0, 3.0, 7.0]
        assert done["flaky"].errors == 3
    assert done.parents("flaky") == {n: ("s", n) for n in range(5)}


def test_an_exhausted_retry_is_a_dead_letter_and_the_next_event_starts_afresh():
    tries: dict[int, int] = {}

    @oz.transform(retry=oz.Retry.fixed(attempts=3, delay=1.0))
    def never(x: int) -> int:
        tries[x] = tries.get(x, 0) + 1
        if x in (1, 2):
            raise oz.Transient("never")
        return x

    done, seen = through(never, count=4)
    passed(done)
    assert seen == [0, 3]
    assert tries == {0: 1, 1: 3, 2: 3, 3: 1}
    assert [letter.event for letter in done.letters()] == [1, 2]
    assert done["never"].errors == 6


def test_retry_after_is_a_floor_for_the_delay():
    clock = VirtualClock()
    tries: list[float] = []

    @oz.transform(retry=oz.Retry(attempts=2, base=0.001))
    def limited(x: int) -> int:
        tries.append(clock.now)
        if len(tries) == 1:
            raise oz.Transient("slow down", retry_after=30.0)
        return x

    done = play(oz.Flow("f", ints(1) >> limited >> Seen().sink()), clock=clock)
    passed(done)
    assert tries[1] - tries[0] >= 30.0


def test_what_is_not_retryable_is_not_tried_again():
    tries: list[int] = []

    @oz.transform(retry=oz.Retry.fixed(attempts=5, delay=1.0))
    def broken(x: int) -> int:
        tries.append(x)
        raise oz.Permanent("no")

    done, _ = through(broken, count=2)
    assert done.state == "drained"
    assert tries == [0, 1]
    assert [letter.error.kind for letter in done.letters()] == ["PERMANENT"] * 2


def test_without_a_policy_transient_is_a_dead_letter_at_once():
    @oz.transform
    def flaky(x: int) -> int:
        raise oz.Transient("no")

    done, _ = through(flaky, count=2)
    assert done.state == "drained"
    assert len(done.letters()) == 2


def test_a_stop_is_heard_while_a_retry_waits():
    @oz.transform(retry=oz.Retry.fixed(attempts=3, delay=1000.0))
    def never(x: int) -> int:
        raise oz.Transient("no")

    async def beside(pipeline):
        await passing(10)
        assert pipeline.command(Cancel())

    clock = VirtualClock()
    done = play(oz.Flow("f", ints(5) >> never >> Seen().sink()), beside=beside, clock=clock)
    assert done.state == "cancelled"
    assert clock.now < 1100


def test_a_dead_letter_holds_the_event_its_error_and_its_place():
    @oz.transform
    def picky(x: int) -> int:
        if x == 3:
            raise ValueError("no threes")
        return x

    done, seen = through(picky, count=5)
    passed(done)
    assert seen == [0, 1, 2, 4]
    [letter] = done.letters()
    assert (letter.stage, letter.upstream, letter.event, letter.payload, letter.ordinal) == ("picky", "s", 3, b"\x03", 0)
    assert letter.error.type == "ValueError"
    assert "no threes" in letter.error.message
    assert done["picky"].dead == done["picky"].errors == 1


def test_on_error_skip_passes_over_and_records():
    @oz.transform(on_error="skip")
    def picky(x: int) -> int:
        if x == 3:
            raise ValueError("no threes")
        return x

    done, seen = through(picky, count=5)
    passed(done)
    assert seen == [0, 1, 2, 4]
    assert not done.letters()
    assert done.lost("picky") == {"skipped": [3]}
    assert done["picky"].errors == 1
    assert done["picky"].dropped == 0


@pytest.mark.parametrize("asynchronous", [False, True])
def test_on_error_fail_ends_the_flow_before_the_event_and_names_it(asynchronous):
    if asynchronous:

        @oz.transform(on_error="fail", concurrency=2)
        async def picky(x: int) -> int:
            if x == 3:
                raise ValueError("no threes")
            return x

    else:

        @oz.transform(on_error="fail")
        def picky(x: int) -> int:
            if x == 3:
                raise ValueError("no threes")
            return x

    done, _ = through(picky, count=5)
    assert done.state == "failed"
    assert "no threes" in done.error.message
    assert done.letters() == [], "it is not taken: a resume tries it again"
    assert done.error.details["event"].endswith("@3")


def test_more_dead_letters_than_allowed_fail_the_flow():
    @oz.transform
    def broken(x: int) -> int:
        raise ValueError("no")

    done, _ = through(broken, count=100, max_dead_letters=7)
    assert done.state == "failed"
    assert "at most 7" in done.error.message


@pytest.mark.parametrize("shape", ["plain", "async", "generator", "async generator", "batch", "async batch", "lanes"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
def test_what_is_no_exception_crashes_the_stage_and_nothing_is_lost_or_twice(shape, error):
    crashes: list[int] = []

    def work(x):
        if x == 3 and len(crashes) < 2:
            crashes.append(x)
            raise error
        return x

    if shape == "plain":

        @oz.transform
        def stage(x: int) -> int:
            return work(x)

    elif shape == "async":

        @oz.transform
        async def stage(x: int) -> int:
            return work(x)

    elif shape == "generator":

        @oz.transform
        def stage(x: int) -> Iterator[int]:
            yield work(x)

    elif shape == "async generator":

        @oz.transform
        async def stage(x: int) -> AsyncIterator[int]:
            yield work(x)

    elif shape == "batch":

        @oz.transform(batch=2)
        def stage(xs: list[int]) -> list[int]:
            return [work(x) for x in xs]

    elif shape == "async batch":

        @oz.transform(batch=2)
        async def stage(xs: list[int]) -> list[int]:
            return [work(x) for x in xs]

    else:

        @oz.transform(concurrency=3)
        async def stage(x: int) -> int:
            return work(x)

    done, seen = through(stage, count=6)
    passed(done)
    assert seen == list(range(6))
    assert len(crashes) == 2
    assert done.parents("stage") == {n: ("s", n) for n in range(6)}


def test_the_fourth_crash_in_a_minute_fails_the_flow():
    @oz.transform
    def broken(x: int) -> int:
        raise KeyboardInterrupt

    done, _ = through(broken, count=3)
    assert done.state == "failed"
    assert done.error.type == "KeyboardInterrupt"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_stage_that_crashes_in_the_middle_of_a_generator_gives_the_rest_once(asynchronous):
    crashes: list[int] = []

    def items(x):
        for n in range(10_000):
            if n == 6000 and not crashes:
                crashes.append(n)
                raise SystemExit
            yield x * 100_000 + n

    if asynchronous:

        @oz.transform
        async def spread(x: int) -> AsyncIterator[int]:
            for each in items(x):
                yield each

    else:

        @oz.transform
        def spread(x: int) -> Iterator[int]:
            yield from items(x)

    done, seen = through(spread, count=2)
    passed(done)
    assert seen == [*range(10_000), *range(100_000, 110_000)]
    assert crashes


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_retry_in_the_middle_of_a_generator_gives_the_rest_once(asynchronous):
    tries: list[int] = []

    def items(x):
        for n in range(10_000):
            if n == 6000 and not tries:
                tries.append(n)
                raise oz.Transient("again")
            yield x * 100_000 + n

    if asynchronous:

        @oz.transform(retry=oz.Retry.fixed(attempts=2, delay=1.0))
        async def spread(x: int) -> AsyncIterator[int]:
            for each in items(x):
                yield each

    else:

        @oz.transform(retry=oz.Retry.fixed(attempts=2, delay=1.0))
        def spread(x: int) -> Iterator[int]:
            yield from items(x)

    done, seen = through(spread, count=2)
    passed(done)
    assert seen == [*range(10_000), *range(100_000, 110_000)]


def test_a_slow_handler_ends_its_step_after_about_a_millisecond():
    clock = VirtualClock()

    @oz.transform
    def slow(x: int) -> int:
        clock.spend(1e-6 if x < 4000 else 0.0005)
        return x

    done = play(oz.Flow("f", ints(5000) >> slow >> Seen().sink()), clock=clock)
    passed(done)
    late = [block for block in done.blocks("slow") if block.base > 4096]
    assert all(block.count <= 3 for block in late)
    assert any(block.count > 100 for block in done.blocks("slow"))


def test_a_parameter_is_bound_and_given():
    @oz.transform
    def add(x: int, *, more: int = 1) -> int:
        return x + more

    done, seen = through(add(more=10), count=3)
    passed(done)
    assert seen == [10, 11, 12]
