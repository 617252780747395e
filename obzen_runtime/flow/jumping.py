"""A loop for replays: while everything waits for a timer, time jumps to it, so a handler that sleeps costs nothing.

It jumps only when nothing else can happen: as soon as a second thread lives, that thread may be what is waited for,
and time passes as usual.
"""

import asyncio
import selectors
import threading
from typing import Any

__all__ = ["JumpingLoop"]


class _Jumping(selectors.DefaultSelector):
    ahead = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None or timeout <= 0 or threading.active_count() > 1:
            return super().select(timeout)
        ready = super().select(0)
        if not ready:
            self.ahead += timeout
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock skips what it would only wait for."""

    def __init__(self) -> None:
        selector = _Jumping()
        super().__init__(selector)
        self._jumping = selector

    def time(self) -> float:
        return super().time() + self._jumping.ahead
