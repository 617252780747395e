"""What the cases of the conformance suite are made of: the harness a backend gives, and the words they are told in."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Protocol, TypeVar

from obzen_runtime.events import ActorState, Record
from obzen_runtime.journal import Entry, Journal
from obzen_runtime.kernel import JournalLocked

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
    "hold",
    "locked_out",
    "mark",
    "positions",
    "refused",
]

E = TypeVar("E", bound=BaseException)
MOST_RECORDS = 65_535
PATIENCE = 60.0
"""Seconds a promise may take. All of them together take a few."""
_FEW = 8
_SHOWN = 200
"""Items of a list, and characters of a value, that a message tells whole."""


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
    unlock: Callable[[], object] | None = None
    """Take the lock away from who holds it, as a death does, or a file system that forgets its locks: the next opener
    gets it. With this, and `survives`, deaths are tried, and that a writer who was overtaken is fenced."""
    files: Callable[[], Sequence[Path]] | None = None
    """The files that hold the records, there for the suite to cut and to change bytes of. With this, `survives` and `unlock`,
    damage is tried."""

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
    promise: Check
    needs: frozenset[str] = frozenset()
    """Fields of the harness that must be given or true for the promise to apply."""

    def __str__(self) -> str:
        return self.name

    def applies(self, harness: Harness) -> bool:
        """Whether the backend claims what this case is about."""
        return all(getattr(harness, need) for need in self.needs)

    async def check(self, harness: Harness) -> None:
        """Try the promise. Raises `NotConforming`, or whatever the backend raised."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self.promise(harness)
        except TimeoutError as error:
            raise NotConforming("it waits for something that does not come") from error


def mark(number: int) -> Record:
    """A small record that differs by number."""
    return ActorState(actor="a", source="x", event="E", target="y", at=number)


def expect(got: object, wanted: object, what: str) -> None:
    """Raise `NotConforming` when they differ; of long lists it tells the first difference."""
    if got == wanted:
        return
    if isinstance(got, list) and isinstance(wanted, list) and max(len(got), len(wanted)) > _FEW:
        place = next(place for place, (one, other) in enumerate(zip_longest(got, wanted)) if one != other)
        what = f"{what}: {len(got):,} came, expected {len(wanted):,}; number {place + 1} is"
        got, wanted = (_short(each[place]) if place < len(each) else "nothing" for each in (got, wanted))
        raise NotConforming(f"{what} {got}, expected {wanted}")
    raise NotConforming(f"{what}: got {_short(got)}, expected {_short(wanted)}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def hold(truth: bool, what: str) -> None:
    """Raise `NotConforming` unless it is true."""
    if not truth:
        raise NotConforming(what)


def refused(kind: type[E], call: Callable[[], object]) -> E:
    """The error of that kind which the call raised; `NotConforming` when it raised none."""
    try:
        call()
    except kind as error:
        return error
    raise NotConforming(f"nothing was refused, expected {kind.__name__}")


async def locked_out(harness: Harness, what: str) -> None:
    """Raise `NotConforming`, with these words, unless another opener is refused."""
    try:
        await harness.journal()
    except JournalLocked as error:
        expect(error.exit_code, 75, "exit code")
    else:
        raise NotConforming(what)


async def every(entries: AsyncIterator[Entry]) -> list[Entry]:
    """All entries."""
    return [entry async for entry in entries]


async def positions(entries: AsyncIterator[Entry]) -> list[int]:
    """The positions of all entries."""
    return [entry.position async for entry in entries]


async def following(entries: AsyncIterator[Entry]) -> Entry:
    """The next entry; TimeoutError when none comes in ten seconds."""
    try:
        return await asyncio.wait_for(anext(entries), 10)
    except StopAsyncIteration:
        raise NotConforming("there is no next entry") from None


async def filled(harness: Harness, count: int) -> Journal:
    """A journal with the marks 1 to `count`, one an append."""
    journal = await harness.journal()
    for number in range(1, count + 1):
        journal.append([mark(number)])
    return journal
