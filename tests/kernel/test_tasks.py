"""Waiting and threads: no wake-up is lost, and every outcome of a thread reaches whoever waits."""

import asyncio
import threading

import pytest

from obzen_runtime.kernel import InternalError, Seams, SystemClock, SystemEntropy, SystemFiles, SystemThreads, Telemetry, Wake


async def settle():
    """Let everything that can run, run."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_set_before_the_wait_is_not_lost():
    wake = Wake()
    wake.set()
    async with asyncio.timeout(5):
        await wake.wait()


async def test_a_set_wakes_the_waiter_and_only_then():
    wake = Wake()
    waiter = asyncio.create_task(wake.wait())
    await settle()
    assert not waiter.done()
    wake.set()
    await settle()
    assert waiter.done()


async def test_many_sets_are_one_wake_up():
    wake = Wake()
    for _ in range(3):
        wake.set()
    await wake.wait()
    waiter = asyncio.create_task(wake.wait())
    await settle()
    wake.set()
    wake.set()
    await waiter
    again = asyncio.create_task(wake.wait())
    await settle()
    assert not again.done()
    again.cancel()


async def test_a_set_after_the_cancel_of_the_wait_is_kept_for_the_next():
    wake = Wake()
    waiter = asyncio.create_task(wake.wait())
    await settle()
    waiter.cancel()
    wake.set()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    async with asyncio.timeout(5):
        await wake.wait()


async def test_a_set_just_before_the_cancel_of_the_wait_is_kept_for_the_next():
    wake = Wake()
    waiter = asyncio.create_task(wake.wait())
    await settle()
    wake.set()
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    async with asyncio.timeout(5):
        await wake.wait()


async def test_no_item_is_left_when_producer_and_consumer_interleave():
    wake, queue, seen = Wake(), [], []

    async def consume():
        while len(seen) < 1000:
            while queue:
                seen.append(queue.pop(0))
                if len(seen) % 7 == 0:
                    await asyncio.sleep(0)
            if len(seen) < 1000:
                await wake.wait()

    async def produce(start):
        for item in range(start, 1000, 2):
            queue.append(item)
            wake.set()
            if item % 3:
                await asyncio.sleep(0)

    async with asyncio.timeout(10):
        await asyncio.gather(consume(), produce(0), produce(1))
    assert sorted(seen) == list(range(1000))


async def test_a_second_waiter_is_refused_and_the_first_still_wakes():
    wake = Wake()
    first = asyncio.create_task(wake.wait())
    await settle()
    with pytest.raises(InternalError, match="two tasks wait"):
        await wake.wait()
    wake.set()
    async with asyncio.timeout(5):
        await first


async def test_a_thread_returns_its_result_under_its_name():
    async with asyncio.timeout(5):
        name = await SystemThreads().run("writer", lambda: threading.current_thread().name)
        daemon = await SystemThreads().run("writer", lambda: threading.current_thread().daemon)
        nothing = await SystemThreads().run("writer", lambda: None)
    assert (name, daemon, nothing) == ("writer", True, None)


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(3), asyncio.CancelledError()], ids=repr)
async def test_a_thread_s_failure_reaches_whoever_waits(error):
    def work():
        raise error

    async with asyncio.timeout(5):
        future = SystemThreads().run("t", work)
        await asyncio.wait([future])
    if isinstance(error, asyncio.CancelledError):
        with pytest.raises(asyncio.CancelledError):
            future.result()
    else:
        assert future.exception() is error


async def test_a_stop_iteration_on_a_thread_does_not_hang_its_waiter():
    async with asyncio.timeout(5):
        with pytest.raises(InternalError, match="reader raised StopIteration") as caught:
            await SystemThreads().run("reader", lambda: next(iter(())))
    assert isinstance(caught.value.__cause__, StopIteration)


async def test_a_result_nobody_waits_for_any_more_is_dropped():
    gate, left = threading.Event(), threading.Event()

    def work():
        gate.wait(5)
        left.set()
        return 1

    future = SystemThreads().run("t", work)
    future.cancel()
    gate.set()
    async with asyncio.timeout(5):
        await SystemThreads().run("watcher", lambda: left.wait(5))
        await SystemThreads().run("barrier", lambda: None)
    assert future.cancelled()


def test_a_thread_that_outlives_its_loop_ends_quietly():
    gate, started, threads = threading.Event(), threading.Event(), []

    def work():
        threads.append(threading.current_thread())
        started.set()
        gate.wait(5)

    async def start():
        future = SystemThreads().run("late", work)
        await SystemThreads().run("watcher", lambda: started.wait(5))
        future.cancel()

    asyncio.run(start())
    gate.set()
    threads[0].join(5)
    assert not threads[0].is_alive()


def test_the_seams_are_the_machine_s_unless_told_otherwise():
    seams = Seams()
    assert isinstance(seams.clock, SystemClock)
    assert isinstance(seams.entropy, SystemEntropy)
    assert isinstance(seams.files, SystemFiles)
    assert isinstance(seams.threads, SystemThreads)
    assert isinstance(seams.telemetry, Telemetry)
    assert Seams().telemetry is not seams.telemetry
