"""Group commit: when to sync, one sync at a time, and who is woken by it.

A sync takes as long as the disk needs, so it runs on a thread; all appends made meanwhile are covered by the next
one. Between two syncs there is a small gap: a thread that comes back from the disk beside a busy loop must wait for
the interpreter, and a sync per append would make both slow. A sync that failed is never tried again: the kernel has
dropped the pages it could not write, and a second try would succeed without having written them.
"""

import asyncio
from collections.abc import Callable
from functools import partial

from obzen_runtime.journal.base import Fsync, Interval, Level
from obzen_runtime.kernel import Threads

__all__ = ["Commit", "Work"]

Work = Callable[[], None]
_GAP = 0.001  # seconds between the end of a sync and the start of the next


class Commit:
    """One journal's syncs. Everything here runs on the loop's thread but for the work itself."""

    def __init__(
        self,
        level: Level,
        threads: Threads,
        *,
        begin: Callable[[], tuple[Work, int]],
        succeeded: Callable[[int, float], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """`begin` gives what syncs and the position that will be durable after it."""
        self._threads = threads
        self._begin = begin
        self._succeeded = succeeded
        self._failed = failed
        self._timer: asyncio.TimerHandle | None = None
        self._running = False
        self._wanted = False
        self._forced = False
        self._not_before = 0.0
        self._delay = level.ms / 1000 if isinstance(level, Interval) else 0.0
        self._waits = isinstance(level, Interval | Fsync)
        self._rest: Callable[[], None] | None = None

    @property
    def running(self) -> bool:
        """Whether a sync is under way, which needs the files it began with."""
        return self._running

    def want(self) -> None:
        """Something was written."""
        if self._running or self._timer is not None:
            self._wanted = True
        elif self._waits:
            self._arm()

    def force(self) -> None:
        """Sync soon, whatever the level."""
        if self._running:
            self._forced = True
        elif self._timer is None:
            self._start()

    def stop(self, then: Callable[[], None]) -> None:
        """Start no further sync; call `then` when none is running."""
        self._waits = False
        self._wanted = self._forced = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._running:
            self._rest = then
        else:
            then()

    def _arm(self) -> None:
        loop = asyncio.get_running_loop()
        self._wanted = False
        now = loop.time()
        when = max(now + self._delay, self._not_before)
        if when <= now:
            self._start()
        else:
            self._timer = loop.call_at(when, self._start)

    def _start(self) -> None:
        self._timer = None
        self._wanted = self._forced = False
        self._running = True
        work, covered = self._begin()
        started = asyncio.get_running_loop().time()
        self._threads.run("journal-sync", work).add_done_callback(partial(self._done, covered, started))

    def _done(self, covered: int, started: float, future: "asyncio.Future[None]") -> None:
        self._running = False
        now = future.get_loop().time()
        self._not_before = now + _GAP
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        if error is not None:
            self._waits = self._forced = False
            self._failed(error)
        else:
            self._succeeded(covered, now - started)
        if self._rest is not None:
            self._rest()
        elif self._forced or (self._wanted and self._waits):
            self._arm()
