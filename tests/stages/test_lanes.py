"""Several events in work at once, in order at the exit."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

import obzen_runtime as oz
from tests.stages.kit import Seen, VirtualClock, ints, passed, passing, play, through


def test_concurrency_keeps_order_and_has_at_most_n_in_flight():
    flying: set[int] = set()
    most = 0

    @oz.transform(concurrency=8)
    async def wait(x: int) -> int:
        nonlocal most
        flying.add(x)
        most = max(most, len(flying))
        await passing(1 + (x * 7) % 5)
        flying.discard(x)
        return x

    done, seen = through(wait, count=200)
    passed(done)
    assert seen == list(range(200))
    assert most == 8
    assert done.parents("wait") == {n: ("s", n) for n in range(200)}


@pytest.mark.parametrize("to", ["transform", "sink"])
def test_events_of_several_upstreams_are_in_work_at_once(to):
    flying: set[tuple[str, int]] = set()
    most = 0

    def ticks(name):
        async def tick() -> AsyncIterator[int]:
            for number in range(40):
                await passing(1.0)
                yield number

        return oz.source(tick).named(name)

    async def work(x: int, ctx: oz.Context) -> int:
        nonlocal most
        flying.add(ctx.event.id)
        most = max(most, len(flying))
        await passing(10.0 - x % 7)
        flying.discard(ctx.event.id)
        return x

    async def store(x: int, ctx: oz.Context) -> None:
        await work(x, ctx)

    clock, seen, names = VirtualClock(), Seen(), ("a", "b", "c")
    begun = clock.monotonic()
    tail = oz.sink(concurrency=8)(store) if to == "sink" else oz.transform(concurrency=8)(work) >> seen.sink()
    done = play(oz.Flow("f", *(ticks(name) >> tail for name in names)), clock=clock)
    passed(done)
    assert most == 8
    assert clock.monotonic() - begun < 3 * 40 * 7 / 8 * 1.3, "the lanes were full from beginning to end"
    if to == "transform":
        parents = list(done.parents("work").values())
        assert seen == [number for _, number in parents]
        assert all([number for up, number in parents if up == name] == list(range(40)) for name in names)


def test_errors_and_drops_in_lanes_are_those_of_their_events():
    @oz.transform(concurrency=4)
    async def picky(x: int) -> int | None:
        await passing(x % 3)
        if x % 10 == 4:
            raise ValueError("four")
        return x if x % 2 == 0 else None

    done, seen = through(picky, count=50)
    passed(done)
    assert seen == [x for x in range(0, 50, 2) if x % 10 != 4]
    assert done.lost("picky") == {"dead": [4, 14, 24, 34, 44], "dropped": list(range(1, 50, 2))}


def test_a_retry_holds_its_lane_alone():
    order: list[int] = []
    tries: dict[int, int] = {}

    @oz.transform(concurrency=2, retry=oz.Retry.fixed(attempts=3, delay=10.0))
    async def flaky(x: int) -> int:
        tries[x] = tries.get(x, 0) + 1
        if x == 0 and tries[x] < 3:
            raise oz.Transient("again")
        order.append(x)
        return x

    done, seen = through(flaky, count=4)
    passed(done)
    assert seen == [0, 1, 2, 3]
    assert order == [1, 2, 3, 0], "the others went on meanwhile"
    assert tries[0] == 3
    assert done["flaky"].errors == 2


@pytest.mark.parametrize("to", ["transform", "sink"])
def test_events_that_fail_together_wait_together(to):
    clock, tries = VirtualClock(), dict[int, int]()
    begun = clock.monotonic()

    async def flaky(x: int) -> int:
        tries[x] = tries.get(x, 0) + 1
        if tries[x] < 3:
            raise oz.Transient("again")
        return x

    async def store(x: int) -> None:
        await flaky(x)

    seen, retry = Seen(), oz.Retry.fixed(attempts=3, delay=10.0)
    tail = oz.sink(concurrency=8, retry=retry)(store) if to == "sink" else oz.transform(concurrency=8, retry=retry)(flaky) >> seen.sink()
    passed(play(oz.Flow("f", ints(16) >> tail), clock=clock))
    assert set(tries.values()) == {3}
    assert clock.monotonic() - begun < 25, "all that are in work wait for their two delays at the same time"
    assert seen == ([] if to == "sink" else list(range(16)))


def test_retries_in_lanes_end_with_the_policy():
    clock = VirtualClock()
    tries: list[float] = []

    @oz.transform(concurrency=2, retry=oz.Retry(attempts=100, base=10.0, multiplier=1.0, jitter=False, window=25.0))
    async def never(x: int) -> int:
        if x:
            return x
        tries.append(round(clock.now - 1000))
        raise oz.Transient("again")

    seen = Seen()
    done = play(oz.Flow("f", ints(3) >> never >> seen.sink()), clock=clock)
    passed(done)
    assert tries == [0, 10, 20]
    assert seen == [1, 2]
    assert done.letters()[0].event == 0


def test_the_context_in_lanes_has_its_event_and_the_time_of_the_block_that_brought_it():
    clock = VirtualClock()
    told: dict[int, tuple[str, int]] = {}

    @oz.transform(concurrency=3)
    async def stamp(x: int, ctx: oz.Context) -> int:
        told[x] = ctx.event.id, round(ctx.now().timestamp() * 1000)
        await passing(1 + x % 2)
        return x

    done = play(oz.Flow("f", ints(20) >> stamp >> Seen().sink()), clock=clock)
    assert {x: event for x, (event, _) in told.items()} == {x: f"s@{x}" for x in range(20)}
    at = {block.base + n: block.at for block in done.blocks("s") for n in range(block.count)}
    assert {x: when for x, (_, when) in told.items()} == at


@pytest.mark.parametrize("context", [False, True])
def test_threads_keep_order_and_leave_the_loop_free(context):
    inside, free = threading.Event(), threading.Event()
    names: set[str] = set()

    def work(x: int) -> int:
        names.add(threading.current_thread().name)
        if x == 5:
            inside.set()
            assert free.wait(20)
        if x == 7:
            raise ValueError("seven")
        return x

    if context:

        @oz.transform(executor=oz.threads(3))
        def block(x: int, ctx: oz.Context) -> int:
            assert ctx.event.id == f"s@{x}"
            return work(x)

    else:
        block = oz.transform(executor=oz.threads(3))(work).named("block")

    async def beside(pipeline):
        await asyncio.get_running_loop().run_in_executor(None, inside.wait, 20)
        free.set()  # the loop was free to do this while a handler blocked

    seen = Seen()
    done = play(oz.Flow("f", ints(100) >> block >> seen.sink()), real=True, beside=beside)
    passed(done)
    assert seen == [x for x in range(100) if x != 7]
    assert len(names) <= 3
    assert threading.main_thread().name not in names


def test_a_retry_in_a_thread_is_made_again():
    tries: list[int] = []

    @oz.transform(executor=oz.threads(1), retry=oz.Retry.fixed(attempts=2, delay=0.0))
    def flaky(x: int) -> int:
        tries.append(x)
        if tries.count(x) == 1:
            raise oz.Transient("again")
        return x

    seen = Seen()
    done = play(oz.Flow("f", ints(3) >> flaky >> seen.sink()), real=True)
    passed(done)
    assert seen == [0, 1, 2]
    assert sorted(tries) == [0, 0, 1, 1, 2, 2]


def test_a_wide_stage_still_writes_blocks_of_4096():
    @oz.transform(concurrency=3000)
    async def same(x: int) -> int:
        return x

    done, seen = through(same, count=12_000, window=oz.Window(events=100_000))
    passed(done)
    assert seen == list(range(12_000))
    assert max(block.count for block in done.blocks("same")) <= 4096
