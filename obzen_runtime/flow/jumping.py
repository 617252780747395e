"""A loop for replays: while everything waits for a timer, time jumps to it, so a handler that sleeps costs nothing.

It does not jump while a call of this loop is under way on another thread: that may be what is waited for.
"""

import asyncio
import selectors
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any

__all__ = ["JumpingLoop"]


class _Jumping(selectors.DefaultSelector):
    ahead = 0.0
    """Seconds that were jumped over."""
    busy = 0
    """Calls under way on other threads."""

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None or timeout <= 0 or self.busy:
            return super().select(timeout)
        ready = super().select(0)
        if not ready:
            self.ahead += timeout
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock skips what it would only wait for."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return super().time() + self._jumping.ahead

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":  # type: ignore[override]
        if isinstance(executor, ThreadPoolExecutor | None):  # what a step may not do, it may not do there
            func = partial(copy_context().run, func)
        future = super().run_in_executor(executor, func, *args)
        self._jumping.busy += 1
        future.add_done_callback(self._called)
        return future

    async def shutdown_default_executor(self, *timeout: float | None) -> None:
        """Its threads are waited for too: from Python 3.12 on that has a time limit, which must not be jumped to."""
        self._jumping.busy += 1
        try:
            await super().shutdown_default_executor(*timeout)  # type: ignore[call-arg,unused-ignore]
        finally:
            self._jumping.busy -= 1

    def _called(self, future: "asyncio.Future[Any]") -> None:
        self._jumping.busy -= 1
