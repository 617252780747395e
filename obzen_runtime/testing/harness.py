"""What the cases of the conformance suite are made of: the harness a backend gives, and the words they are told in."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from obzen_runtime.events import ActorState, Record
from obzen_runtime.journal import Entry, Journal

__all__ = [
    "MOST_RECORDS",
    "Case",
    "Check",
    "Harness",
    "NotConforming",
    "every",
    "expect",
    "filled",
    "following",
    "mark",
    "positions",
    "refused",
]

E = TypeVar("E", bound=BaseException)
MOST_RECORDS = 65_535


class NotConforming(AssertionError):
    """A backend does not do what a journal promises."""


@dataclass(frozen=True)
class Harness:
    """What a backend brings to the suite."""

    open: Callable[[], Journal | Awaitable[Journal]]
    """Open the journal: an empty one at first; after a close, the same again if it `survives`."""
    survives: bool = False
    """Whether records are there again after close and open, and a second opener is locked out."""
    encodes: bool = False
    """Whether records are turned into bytes at `append`, so that what cannot be encoded is refused there."""

    async def journal(self) -> Journal:
        """The opened journal."""
        opened = self.open()
        return opened if isinstance(opened, Journal) else await opened


class Check(Protocol):
    """One promise, tried on a fresh journal. Raises `NotConforming`, or whatever the backend raised."""

    __name__: str

    def __call__(self, harness: Harness) -> Awaitable[None]: ...


@dataclass(frozen=True)
class Case:
    """One promise."""

    name: str
    check: Callable[[Harness], Awaitable[None]]
    """Raises `NotConforming`, or whatever the backend raised."""
    needs: frozenset[str] = frozenset()
    """Fields of the harness that must be true for the promise to apply."""

    def __str__(self) -> str:
        return self.name

    def applies(self, harness: Harness) -> bool:
        """Whether the backend claims what this case is about."""
        return all(getattr(harness, need) for need in self.needs)


def mark(number: int) -> Record:
    """A small record that differs by number."""
    return ActorState(actor="a", source="x", event="E", target="y", at=number)


def expect(got: object, wanted: object, what: str) -> None:
    """Raise `NotConforming` when they differ."""
    if got != wanted:
        raise NotConforming(f"{what}: got {got!r}, expected {wanted!r}")


def refused(kind: type[E], call: Callable[[], object]) -> E:
    """The error of that kind which the call raised; `NotConforming` when it raised none."""
    try:
        call()
    except kind as error:
        return error
    raise NotConforming(f"nothing was refused, expected {kind.__name__}")


async def every(entries: AsyncIterator[Entry]) -> list[Entry]:
    """All entries."""
    return [entry async for entry in entries]


async def positions(entries: AsyncIterator[Entry]) -> list[int]:
    """The positions of all entries."""
    return [entry.position async for entry in entries]


async def following(entries: AsyncIterator[Entry]) -> Entry:
    """The next entry; TimeoutError when none comes in ten seconds."""
    return await asyncio.wait_for(anext(entries), 10)


async def filled(harness: Harness, count: int) -> Journal:
    """A journal with the marks 1 to `count`, one an append."""
    journal = await harness.journal()
    for number in range(1, count + 1):
        journal.append([mark(number)])
    return journal
