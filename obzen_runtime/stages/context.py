"""What a handler may ask of the runtime: which event it has, the time that event stands for, repeatable chance."""

import hashlib
import random
import uuid
from datetime import UTC, datetime
from typing import Any

import msgspec

__all__ = ["Context", "Event"]


class Event(msgspec.Struct, frozen=True):
    """The event a handler was called with, made only when asked for."""

    id: str
    """`upstream@ordinal`, the same in every replay."""
    upstream: str
    ordinal: int


class Context:
    """Given to a handler that has a parameter annotated `oz.Context`. Valid during the call only."""

    __slots__ = ("_calls", "_ordinal", "_seed", "_upstream", "at", "log", "stage")

    def __init__(self, stage: str, upstream: str, ordinal: int, *, at: int, seed: str, log: Any) -> None:
        self.stage = stage
        """Name of the stage."""
        self.at = at
        """Wall milliseconds of the block that brought the event."""
        self.log = log
        """A structured logger that already says run and stage."""
        self._seed = seed
        self._upstream = upstream
        self._ordinal = ordinal
        self._calls = 0

    @property
    def event(self) -> Event:
        """The event at hand."""
        return Event(f"{self._upstream}@{self._ordinal}", self._upstream, self._ordinal)

    def now(self) -> datetime:
        """The wall time, in UTC, at which the stage before this one wrote the event: the same whenever it is processed."""
        return datetime.fromtimestamp(self.at / 1000, UTC)

    @property
    def random(self) -> random.Random:
        """A generator seeded by run, stage, event and call: it draws the same numbers whenever this event is processed."""
        return random.Random(self._draw())  # noqa: S311 - repeatable by design, not for secrets

    def uuid(self) -> uuid.UUID:
        """A version 4 UUID that is the same whenever this event is processed."""
        return uuid.UUID(bytes=self._draw()[:16], version=4)

    def _draw(self) -> bytes:
        self._calls += 1
        text = f"{self._seed}/{self.stage}/{self._upstream}@{self._ordinal}/{self._calls}"
        return hashlib.sha256(text.encode()).digest()
