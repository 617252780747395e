"""How items are pulled: on the loop while that is quick, ahead of the flow only so far, and with what came before an error."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

import obzen_runtime as oz
from obzen_runtime.kernel import Wake
from obzen_runtime.stages.pull import Inline, Threaded
from tests.stages.kit import VirtualClock, play


def test_an_inline_pull_gives_what_came_before_an_error_and_then_the_error_every_time():
    def items():
        yield 1
        yield 2
        raise ValueError("broken")

    puller = Inline("s", items(), VirtualClock())
    assert puller.take(10) == [1, 2]
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            puller.take(10)
    assert not puller.ended


def test_an_inline_pull_of_something_that_cannot_be_closed_is_closed_all_the_same():
    puller = Inline("s", iter([1, 2]), VirtualClock())
    assert puller.take(1) == [1]
    puller.close()


def test_an_async_source_that_has_all_at_hand_is_not_slow_because_others_are():
    clock = VirtualClock()

    @oz.source
    async def numbers() -> AsyncIterator[int]:
        for n in range(1000):
            yield n

    @oz.sink
    class Slow:
        def write(self, x: int) -> None: ...

        def flush(self) -> None:
            clock.spend(0.05)

    done = play(oz.Flow("f", numbers >> oz.stage(Slow)), clock=clock)
    assert done.state == "drained"
    assert len(done.blocks("numbers")) < 20


class Threads:
    """Keeps the work, to be run by the test."""

    def run(self, name, work):
        self.work = work


async def test_a_thread_stops_pulling_when_eight_batches_wait():
    threads, pulled = Threads(), []

    def items():
        for n in range(100):
            pulled.append(n)
            yield n

    clock = VirtualClock()
    clock.monotonic = lambda: clock.spend(1.0) or clock.now  # every pull is slow: one item a batch
    puller = Threaded("s", items(), Wake(), threads, clock)
    thread = threading.Thread(target=threads.work, daemon=True)
    thread.start()
    while len(pulled) < 8:  # noqa: ASYNC110 - the thread knows no loop
        await asyncio.sleep(0)
    taken = []
    while len(taken) < 3:
        taken += puller.take(3 - len(taken))
        await asyncio.sleep(0)
    assert taken == [0, 1, 2]
    puller.close()
    thread.join(20)
    assert not thread.is_alive()
    assert len(pulled) <= 8 + 3 + 1
