"""Where an actor is spoken to: commands overtake work, and one wake-up serves every reason to look again.

A mailbox has a control lane, ordered by urgency (kill, stop, supervision, then FSM events in order of arrival),
and a data lane of messages that `dispatch_state` takes when it likes. Posting never waits and never fails
silently: a closed mailbox refuses. All calls are made on the loop's thread.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import Generic, TypeVar

import msgspec

from obzen_runtime.kernel import ProtocolViolated, Wake

__all__ = ["Mailbox", "Stop", "Urgency"]

M = TypeVar("M")


class Urgency(IntEnum):
    """Order in which control events are taken."""

    STOP = 0
    SUPERVISION = 1
    EVENT = 2


class Stop(msgspec.Struct, frozen=True, tag=True):
    """End in good order within `within` seconds; the actor's own stop event carries the reason."""

    reason: str
    within: float


class Mailbox(Generic[M]):
    """One actor's mailbox.

    `pending` is the number of control events that wait, `killed` the reason of a kill, `closed` whether posting is
    refused. `driven` and `on_kill` are the loop's.
    """

    __slots__ = ("_control", "_data", "_fresh", "closed", "driven", "killed", "on_kill", "pending", "wake")

    def __init__(self) -> None:
        self.wake = Wake()
        self.pending = 0
        self.closed = False
        self.driven = False
        self.killed: str | None = None
        self.on_kill: Callable[[], object] | None = None
        self._control: tuple[deque[object], ...] = tuple(deque() for _ in Urgency)
        self._data: deque[M] = deque()
        self._fresh = False
        """A message waits that was neither taken nor has ended a rest."""

    def post(self, event: object, urgency: Urgency = Urgency.EVENT) -> None:
        """Put an event for the machine into the control lane. Raises `ProtocolViolated` when closed."""
        if self.closed:
            raise ProtocolViolated("the mailbox is closed: its actor has ended", remedy="Ask for the actor's state before posting.")
        self._control[urgency].append(event)
        self.pending += 1
        self.wake.set()

    def kill(self, reason: str) -> None:
        """End now: beats everything else, and a dispatch that waits is cancelled. The first reason stands."""
        if self.killed is not None:
            return
        self.killed = str(reason)
        self.wake.set()
        if self.on_kill is not None:
            self.on_kill()

    def tell(self, message: M) -> None:
        """Put a message into the data lane. Raises `ProtocolViolated` when closed."""
        if self.closed:
            raise ProtocolViolated("the mailbox is closed: its actor has ended", remedy="Ask for the actor's state before telling.")
        self._data.append(message)
        self._fresh = True
        self.wake.set()

    def control(self) -> object | None:
        """The most urgent control event, or None."""
        for lane in self._control:
            if lane:
                self.pending -= 1
                return lane.popleft()
        return None

    def take(self) -> M | None:
        """The oldest message, or None."""
        message = self._data.popleft() if self._data else None
        self._fresh = len(self._data) > 0
        return message

    async def rest(self, seconds: float | None = None, *, messages: bool) -> bool:
        """Wait for a control event, a kill, the closing, or a message if `messages` count; False when `seconds` passed first.

        A message that nobody takes ends one rest, not every further one.
        """
        over = False

        def end() -> None:
            nonlocal over
            over = True
            self.wake.set()

        def called() -> bool:
            return self.pending > 0 or self.closed or self.killed is not None or (messages and self._fresh)

        timer = None if seconds is None else asyncio.get_running_loop().call_later(seconds, end)
        try:
            while not (called() or over):
                await self.wake.wait()
        finally:
            if timer is not None:
                timer.cancel()
            self.wake.set()  # what woke us may have been work, which the next dispatch must not miss
        heard = called()
        self._fresh = self._fresh and not messages
        return heard

    def close(self) -> list[object]:
        """Refuse from now on; what was never taken is returned, so that it can be told, and is taken by nobody else."""
        self.closed = True
        left = [event for lane in self._control for event in lane]
        left.extend(self._data)
        for lane in self._control:
            lane.clear()
        self._data.clear()
        self.pending = 0
        self.wake.set()
        return left
