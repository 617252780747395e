"""An event loop on virtual time, whose order of wake-ups is drawn from a seed.

Time passes only when everything waits: it jumps to the next timer, so nothing sleeps. When everything waits and there
is no timer, that is a deadlock, and it is told with the place where each task waits.

What is drawn is the order in which tasks that were woken in one pass go on; plain callbacks keep their places, because
asyncio promises their order. Tasks are hashed by a count, so that a set of tasks has the same order in every process.
"""

import asyncio
import heapq
import itertools
import random
import selectors
from collections.abc import Callable
from typing import Any, TypeVar

from obzen_runtime.testing.disk import Crashed

__all__ = ["Chance", "Deadlock", "SeededLoop", "SimulatedThreads", "Stuck", "VirtualClock", "VirtualLoop"]

R = TypeVar("R")
_EPOCH_MS = 1_700_000_000_000
_JUST_BEHIND = 1e-9
_PLACES = 12


class VirtualClock:
    """Time that passes by `look` seconds at each look at it, by what somebody spends, and by the jumps of its loop."""

    def __init__(self, *, look: float = 2e-5, wall_ms: int = _EPOCH_MS) -> None:
        self.now = 1000.0
        self.look = look
        self.wall = wall_ms
        """Wall milliseconds at the monotonic time 0; changing it is a jump of the machine's clock."""

    def monotonic(self) -> float:
        self.now += self.look
        return self.now

    def wall_ms(self) -> int:
        return self.wall + int(self.now * 1000)

    def spend(self, seconds: float) -> None:
        """Let time pass, as work on the loop does."""
        self.now += seconds


class Chance:
    """Randomness drawn from a seed, behind the seam."""

    def __init__(self, seed: int | str) -> None:
        self._random = random.Random(seed)  # noqa: S311 - repeatable by design

    def bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)


class Deadlock(RuntimeError):
    """Everything waits and no timer is set. The message says where each task waits."""


class Stuck(RuntimeError):
    """The loop went round more often, or time went further, than was allowed."""


class _Selector(selectors.DefaultSelector):
    """Time jumps instead of waiting. `patience()` is real seconds to wait first for who lives in real time."""

    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        loop = self.loop
        patience = loop.patience(timeout)
        if patience and (ready := super().select(patience)):
            return ready
        if timeout is None:
            raise loop.deadlock()
        loop.clock.now += timeout + _JUST_BEHIND
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop on virtual time; callbacks run in the order that asyncio gives them."""

    def __init__(self, clock: VirtualClock, *, patience: Callable[[float | None], float] | None = None) -> None:
        """`patience(timeout)`: real seconds to wait for threads before time jumps; none by default."""
        selector = _Selector()
        selector.loop = self
        self.clock = clock
        self.patience = patience or _impatient
        super().__init__(selector)

    def time(self) -> float:
        return self.clock.now

    def deadlock(self) -> Deadlock:
        """What waits, and where."""
        tasks = sorted((task for task in asyncio.all_tasks(self)), key=lambda task: task.get_name())
        waiting = [f"  {task.get_name()} waits {_place(task)}" for task in tasks[:_PLACES]]
        return Deadlock("\n".join(["everything waits and no timer is set", *waiting]))


def _impatient(timeout: float | None) -> float:
    return 0.0


def _place(task: "asyncio.Task[Any]") -> str:
    """Where a task waits: the innermost line of its stack."""
    coroutine: Any = task.get_coro()
    line = "in a wait of its own"
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "ag_frame", None)
        if frame is None:
            break
        line = f"at {frame.f_code.co_filename.rpartition('obzen_runtime/')[2]}:{frame.f_lineno} ({frame.f_code.co_name})"
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "ag_await", None)
    return line


class SeededLoop(VirtualLoop):
    """A loop whose order of wake-ups is drawn: with chance `jitter` a pass runs its woken tasks in another order.

    `dead()` is asked after each callback; once it is true the loop stops at once by raising `Crashed`, like the
    process whose death it plays. `most` bounds the callbacks, `until` the virtual time: beyond them it raises `Stuck`.
    """

    def __init__(self, clock: VirtualClock, seed: int | str, *, jitter: float = 1.0, dead: Callable[[], bool] | None = None) -> None:
        super().__init__(clock)
        self.dead = dead or _alive
        self.most = 1 << 62
        self.until = float("inf")
        self.ran = 0
        """Callbacks that ran."""
        self._jitter = jitter
        self._random = random.Random(f"{seed}/order")  # noqa: S311 - repeatable by design
        self._count = itertools.count(1)
        self.set_task_factory(self._make_task)

    def _make_task(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> "asyncio.Task[Any]":
        task = _CountedTask(coroutine, loop=loop, **options)
        task.number = next(self._count)
        return task

    def _run_once(self) -> None:
        """One pass, as the base class does it, on internals that have been the same since Python 3.4."""
        internal: Any = self
        ready, scheduled = internal._ready, internal._scheduled  # noqa: SLF001
        if not ready:
            self._jump(scheduled)
        self._due(ready, scheduled)
        handles = list(ready)
        ready.clear()
        if len(handles) > 1 and self._random.random() < self._jitter:
            self._shuffle(handles)
        for number, handle in enumerate(handles, 1):
            if handle._cancelled:  # noqa: SLF001
                continue
            handle._run()  # noqa: SLF001
            self.ran += 1
            if self.dead():
                ready.extendleft(reversed(handles[number:]))  # its tasks are ended later, so none may be left out
                raise Crashed
        if self.ran > self.most:
            raise Stuck(f"it went round {self.ran:,} times without an end")
        if self.clock.now > self.until:
            raise Stuck(f"it did not end by virtual second {self.until:,.0f}")

    def _due(self, ready: Any, scheduled: list[Any]) -> None:
        """Timers whose time has come are ready, the earliest first."""
        now = self.clock.now + _JUST_BEHIND
        while scheduled and (scheduled[0]._cancelled or scheduled[0]._when <= now):  # noqa: SLF001
            handle = heapq.heappop(scheduled)
            handle._scheduled = False  # noqa: SLF001
            if not handle._cancelled:  # noqa: SLF001
                ready.append(handle)

    def _jump(self, scheduled: list[Any]) -> None:
        """Nothing is ready: let what waits for a socket of its own come, then go to the next timer."""
        internal: Any = self
        if len(internal._selector.get_map()) > 1:  # noqa: SLF001 - one is the loop's own
            internal._process_events(selectors.DefaultSelector.select(internal._selector, 0))  # noqa: SLF001
            if internal._ready:  # noqa: SLF001
                return
        while scheduled and scheduled[0]._cancelled:  # noqa: SLF001
            heapq.heappop(scheduled)._scheduled = False  # noqa: SLF001
        if not scheduled:
            raise self.deadlock()
        self.clock.now = max(self.clock.now, scheduled[0]._when)  # noqa: SLF001

    def _shuffle(self, handles: list[Any]) -> None:
        """Another order of the woken tasks, in the places they have together."""
        places = [place for place, handle in enumerate(handles) if isinstance(_owner(handle), asyncio.Task)]
        if len(places) > 1:
            order = places.copy()
            self._random.shuffle(order)
            moved = [handles[place] for place in order]
            for place, handle in zip(places, moved, strict=True):
                handles[place] = handle


def _alive() -> bool:
    return False


def _owner(handle: Any) -> Any:
    return getattr(handle._callback, "__self__", None)  # noqa: SLF001


class _CountedTask(asyncio.Task[Any]):
    """A task whose hash is its number on its loop."""

    number = 0

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return self is other


class SimulatedThreads:
    """Work that goes to a thread is done on the loop instead, at once or some virtual time later, as the seed says."""

    def __init__(self, seed: int | str, *, longest: float = 0.0) -> None:
        """`longest`: seconds that work may take at the most."""
        self._random = random.Random(f"{seed}/threads")  # noqa: S311 - repeatable by design
        self._longest = longest

    def run(self, name: str, work: Callable[[], R]) -> "asyncio.Future[R]":
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()

        def do() -> None:
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 - handed to whoever awaits the future, a simulated death too
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        if self._longest and self._random.random() < 0.5:
            loop.call_later(self._random.uniform(0.0, self._longest), do)
        else:
            loop.call_soon(do)
        return future
