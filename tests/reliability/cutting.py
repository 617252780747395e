"""Cancelling at every await: an operation is run again and again, and cancelled at the first, second, third … suspension.

Every task of the loop is counted, not only the operation's own: a run waits in one place while fifty others move, and a
cancellation may come at each of their steps.
"""

import asyncio
from collections.abc import Coroutine

from obzen_runtime.testing import SimulatedDisk, SimulatedThreads, VirtualClock, VirtualLoop
from tests.journal.kit import CountedEntropy

STUCK = 10_000.0


async def passes(seconds):
    """Virtual seconds pass; refused on a loop that would really wait."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    done = loop.create_future()
    timer = loop.call_later(seconds, lambda: done.done() or done.set_result(None))
    try:
        await done
    finally:
        timer.cancel()


class Counted(Coroutine):
    """A coroutine whose suspensions are counted."""

    def __init__(self, coroutine, cut):
        self.coroutine = coroutine
        self.cut = cut

    def send(self, value):
        got = self.coroutine.send(value)
        self.cut.suspended()
        return got

    def throw(self, *error):
        got = self.coroutine.throw(*error)
        self.cut.suspended()
        return got

    def close(self):
        self.coroutine.close()

    def __await__(self):
        return self.coroutine.__await__()


class Cut:
    """Cancels the target at suspension number `at` and, when it is `stubborn`, at each of the next few."""

    def __init__(self, at, again=0):
        self.at = at
        self.again = again
        self.count = 0
        self.target = None
        self.given = 0
        """Cancellations that reached the target."""

    def suspended(self):
        if self.target is None:
            return
        self.count += 1
        if self.at <= self.count <= self.at + self.again and not self.target.done():
            self.given += self.target.cancel()


def nothing_is_left():
    left = {each for each in asyncio.all_tasks() if each is not asyncio.current_task()}
    assert not left, f"left behind: {left}"


class World:
    """A disk and a clock that outlive the operation."""

    def __init__(self):
        self.disk = SimulatedDisk()
        self.clock = VirtualClock()
        self.complaints = []

    def play(self, main, cut=None, check=None):
        """Run `main(world)` as a task of its own, cancelled where the cut says, then the check; no task may be left by either."""
        cut = cut or Cut(0)

        async def outer():
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: self.complaints.append(context))
            loop.set_task_factory(lambda loop, coroutine, **options: asyncio.Task(Counted(coroutine, cut), loop=loop, **options))
            task = loop.create_task(main(self))
            cut.target = task
            async with asyncio.timeout(STUCK):
                await asyncio.wait([task])
            cut.target = None
            nothing_is_left()
            if not task.cancelled():
                task.result()
            if check is not None:
                await check(self)
                nothing_is_left()
            return task

        with asyncio.Runner(loop_factory=lambda: VirtualLoop(self.clock)) as runner:
            task = runner.run(outer())
        assert self.complaints == []
        return task

    @property
    def seams(self):
        """What a process sees of it."""
        return {"files": self.disk, "clock": self.clock, "threads": SimulatedThreads(0), "entropy": CountedEntropy()}


def cancelled_everywhere(operation, check, *, again=0, raises=True):
    """Run the operation cancelled at K = 1, 2 … until it ends first; returns the number of cancellations.

    `await check(world)` judges what is left, on the same loop. With `raises` a cancellation that was
    given must come out again.
    """
    at = 1
    while True:
        world, cut = World(), Cut(at, again)
        task = world.play(operation, cut, check)
        assert task.cancelled() or not (cut.given and raises), f"a cancellation at await {at} was swallowed: {task}"
        if not cut.given:
            return at - 1
        at += 1
