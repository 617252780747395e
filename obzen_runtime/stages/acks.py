"""Acknowledgements: a source's system hears how far its items are kept, once they are.

`ack` is called with the newest offset whose items have the journal's durability, by one task, one call at a time. What
fails for a while is said again with the next offset; at the end of the source it is tried a few times more.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from obzen_runtime.journal import Journal
from obzen_runtime.kernel import ErrorInfo, Retry, Wake, classify, logger
from obzen_runtime.stages.call import ours

__all__ = ["Ack", "Acks"]

Ack = Callable[[Any], Awaitable[None]]
"""`async def ack(offset)`: may be called with an offset again after a crash, never with an older one behind a newer."""

_LAST_TRIES = Retry.exponential(attempts=5, base=0.1, max=5.0)


class Acks:
    """What one source owes its system. `run` is the body of its task."""

    def __init__(self, name: str, ack: Ack, journal: Journal, wake: Wake) -> None:
        self._name = name
        self._ack = ack
        self._journal = journal
        self._wake = wake
        self._owed: tuple[int, Any] | None = None
        """Position of the record, and its offset."""
        self._more = Wake()
        self._working = False
        self._last = False
        self.error: ErrorInfo | None = None
        """Why the source must fail."""

    @property
    def idle(self) -> bool:
        """Everything owed is acknowledged."""
        return self._owed is None and not self._working

    def owe(self, position: int, offset: Any) -> None:
        """Items up to `offset` stand in the journal up to `position`."""
        self._owed = position, offset
        self._more.set()

    def finish(self) -> None:
        """No further offset will come: what is owed and failed for a while is tried again."""
        if not self._last:
            self._last = True
            self._more.set()

    async def run(self) -> None:
        """Acknowledge until cancelled, or until an error that lasts."""
        failures = 0
        while self.error is None:
            await self._more.wait()
            while self._owed is not None:
                owed, self._owed = self._owed, None
                self._working = True
                failed = await self._acknowledge(*owed)
                self._working = False
                if failed is None:
                    failures = 0
                    continue
                failures += 1
                wait = _LAST_TRIES.delay(failures, failed) if self._last else 0.0
                if not failed.retryable or wait is None:
                    self.error = failed
                    break
                logger(actor=self._name).warning("acknowledgement failed", error=failed.message)
                if self._owed is None:
                    self._owed = owed
                    if not self._last:
                        break
                    await asyncio.sleep(wait)
            self._wake.set()

    async def _acknowledge(self, position: int, offset: Any) -> ErrorInfo | None:
        try:
            await self._journal.durable(position)
            await self._ack(offset)
        except BaseException as error:
            if ours(error):
                raise
            return classify(error)
        return None
