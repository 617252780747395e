"""The seeded loop: virtual time, an order of wake-ups that a seed repeats, and deadlocks that say where."""

import asyncio
import socket

import pytest

from obzen_runtime.kernel import Wake
from obzen_runtime.testing import Crashed
from obzen_runtime.testing.loop import Deadlock, SeededLoop, SimulatedThreads, Stuck, VirtualClock


def run(main, seed=0, **options):
    loop = SeededLoop(VirtualClock(), seed, **options)
    try:
        return loop.run_until_complete(main(loop))
    finally:
        loop.close()


async def passes(loop, seconds):
    """Virtual time."""
    over = loop.create_future()
    loop.call_later(seconds, over.set_result, None)
    await over


async def racing(loop):
    order, gun = [], asyncio.Event()

    async def runner(number):
        await gun.wait()
        order.append(number)

    tasks = [asyncio.create_task(runner(number)) for number in range(8)]
    await asyncio.sleep(0)
    gun.set()
    await asyncio.gather(*tasks)
    return order


def test_a_seed_repeats_its_order_and_another_seed_has_another():
    orders = [run(racing, seed) for seed in (1, 1, 2)]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 2
    assert sorted(orders[0]) == list(range(8))


def test_without_jitter_the_order_is_that_of_asyncio():
    assert run(racing, 1, jitter=0.0) == list(range(8))


def test_plain_callbacks_keep_the_order_that_asyncio_promises():
    async def main(loop):
        seen = []
        for number in range(50):
            loop.call_soon(seen.append, number)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return seen

    assert all(run(main, seed) == list(range(50)) for seed in range(20))


def test_time_jumps_to_the_next_timer():
    async def main(loop):
        before = loop.time()
        await passes(loop, 86_400)
        return loop.time() - before

    assert run(main) == pytest.approx(86_400, abs=0.01)


def test_timers_come_in_the_order_of_their_times_and_cancelled_ones_never():
    async def main(loop):
        seen = []
        timers = [loop.call_later(10 - number, seen.append, number) for number in range(10)]
        timers[3].cancel()
        await passes(loop, 20)
        return seen

    assert run(main) == [9, 8, 7, 6, 5, 4, 2, 1, 0]


def test_a_deadlock_says_where_each_task_waits():
    async def main(loop):
        await Wake().wait()

    with pytest.raises(Deadlock, match=r"everything waits(.|\n)*kernel/tasks.py:\d+ \(wait\)"):
        run(main)


def test_a_loop_that_never_rests_is_stuck():
    async def main(loop):
        loop.most = 1000
        while True:  # noqa: ASYNC110 - it never rests
            await asyncio.sleep(0)

    with pytest.raises(Stuck, match="1,0"):
        run(main)


def test_a_loop_that_goes_on_for_too_long_is_stuck():
    async def main(loop):
        loop.until = loop.time() + 100
        while True:
            await passes(loop, 30)

    with pytest.raises(Stuck, match="it did not end by virtual second 1,1"):
        run(main)


def test_what_was_woken_and_called_off_in_the_same_pass_never_runs():
    async def main(loop):
        seen = []
        loop.call_soon(lambda: second.cancel())
        second = loop.call_soon(seen.append, "second")
        await passes(loop, 1)
        return seen

    assert run(main) == []


def test_who_waits_for_a_socket_of_their_own_hears_of_it_before_time_jumps():
    async def main(loop):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            theirs.send(b"x")
            begun = loop.time()
            return await loop.sock_recv(ours, 1), loop.time() - begun

    assert run(main) == (b"x", 0.0)


def test_a_dead_process_runs_nothing_more():
    seen = []

    async def main(loop):
        loop.call_soon(seen.append, "last words")
        loop.call_soon(seen.append, "never")
        await passes(loop, 100)

    with pytest.raises(Crashed):
        run(main, dead=lambda: bool(seen))
    assert seen == ["last words"]


def test_a_set_of_tasks_has_the_same_order_in_every_loop():
    async def main(loop):
        tasks = {asyncio.create_task(asyncio.sleep(0), name=str(number)) for number in range(40)}
        names = [task.get_name() for task in tasks]
        await asyncio.gather(*tasks)
        return names

    held = [object() for _ in range(1000)]
    first = run(main)
    del held[::3]
    assert run(main) == first


def test_work_for_threads_is_done_on_the_loop_after_a_drawn_time():
    async def main(loop):
        threads, before = SimulatedThreads(7, longest=1.0), loop.time()
        results = await asyncio.gather(*(threads.run("x", lambda number=number: number) for number in range(10)))
        return results, loop.time() - before

    results, seconds = run(main)
    assert results == list(range(10))
    assert 0 < seconds <= 1.0
    assert run(main) == (results, seconds)


def test_what_the_work_raised_is_given_to_who_waits():
    async def main(loop):
        with pytest.raises(OSError, match="no"):
            await SimulatedThreads(1).run("x", fail)

    def fail():
        raise OSError("no")

    run(main)
