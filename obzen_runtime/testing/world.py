"""The outside that a simulation puts in place of the real one: a store that outlives every simulated process.

A sink's stand-in reaches it by `world()`. What a stand-in does there is done for good, whatever becomes of the process,
exactly as with the system it stands for: `put` is known again by its key, `append` is not.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import msgspec

from obzen_runtime.kernel import UsageError
from obzen_runtime.testing.disk import Crashed

__all__ = ["HERE", "Place", "World", "encoded", "world"]

_ENCODER = msgspec.msgpack.Encoder(enc_hook=repr, order="deterministic")


def encoded(value: Any) -> bytes:
    """A value as bytes that can be compared."""
    return _ENCODER.encode(value)


class Place:
    """One table, topic or file of the outside."""

    def __init__(self) -> None:
        self.rows: list[bytes] = []
        """What was appended, in order."""
        self.keyed: dict[str, bytes] = {}
        """What was put, by key."""
        self.clashes: list[str] = []
        """Keys under which another value was put than before."""
        self.position: bytes | None = None
        """What a transaction stored with its rows."""
        self.writers: set[str] = set()
        """Stages that wrote here."""

    def counted(self) -> Counter[bytes]:
        """Every row and value, and how often it is there."""
        return Counter([*self.rows, *self.keyed.values()])


class World:
    """Places by name, shared by all processes of one simulated history."""

    def __init__(self) -> None:
        self._places: dict[str, Place] = {}
        self.dead: Callable[[], bool] = bool
        """Whether the process that asks has died: then nothing it wants happens."""
        self.left = 0
        """Deliveries until the process dies, right behind the last of them; 0: it does not."""
        self.die: Callable[[], object] = bool

    @property
    def places(self) -> Mapping[str, Place]:
        """All places written to, by name."""
        return MappingProxyType(self._places)

    def put(self, place: str, key: str, value: Any) -> None:
        """Store a value under a key; again under the same key replaces it, as an upsert does."""
        there, data = self.at(place), encoded(value)
        if there.keyed.get(key, data) != data:
            there.clashes.append(key)
        there.keyed[key] = data
        self._delivered()

    def append(self, place: str, value: Any) -> None:
        """Add a row; the same row again is another row."""
        self.at(place).rows.append(encoded(value))
        self._delivered()

    def transact(self, place: str, values: list[Any], position: bytes) -> None:
        """Add rows and store a position, both or neither."""
        there = self.at(place)
        there.rows += map(encoded, values)
        there.position = position
        self._delivered()

    def _delivered(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.die()

    def at(self, place: str) -> Place:
        """The place, made when it is not there. Raises `Crashed` when the process that asks is dead."""
        if self.dead():
            raise Crashed
        there = self._places.setdefault(place, Place())
        task = asyncio.current_task()
        if task is not None:
            there.writers.add(task.get_name().removeprefix("obzen "))
        return there


HERE: ContextVar[World] = ContextVar("HERE")
"""The world of the simulation at hand."""


def world() -> World:
    """The simulation's outside, for a stand-in. Raises `UsageError` outside a simulation."""
    try:
        return HERE.get()
    except LookupError:
        raise UsageError(
            "world() was asked for and nothing is simulated",
            remedy="Call it only in what a sink names as `simulate=`, and run the flow with `obzen simulate`.",
        ) from None
