"""Time jumps where only timers are waited for, and passes where another thread may answer."""

import asyncio
import threading

import pytest

from obzen_runtime.flow.jumping import JumpingLoop


def run(coroutine):
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(coroutine)


def test_a_timer_is_reached_at_once():
    async def main():
        loop = asyncio.get_running_loop()
        begun = loop.time()
        over = asyncio.Event()
        loop.call_later(86_400.0, over.set)
        await over.wait()
        return loop.time() - begun

    assert 86_400.0 <= run(main()) < 86_500.0


def test_a_call_on_another_thread_is_waited_for():
    answered = threading.Event()

    def answer():
        answered.wait(0.1)
        return 7

    async def main():
        return await asyncio.wait_for(asyncio.to_thread(answer), timeout=30.0)

    assert run(main()) == 7


def test_a_limit_that_passes_is_a_limit_that_passed():
    async def main():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), timeout=3600.0)

    run(main())
