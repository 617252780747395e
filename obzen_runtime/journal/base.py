"""What every journal promises, whatever keeps it: one order, one writer, facts that do not change.

A journal is one run's totally ordered log of records, positions 1, 2, 3 … `append` takes several records as one
frame: all of them are there after a crash, or none. `append` never waits; what durability a record has is the
level's business:

    memory         kept by the process
    os             written before anyone sees it: survives the death of the process
    interval(ms)   as `os`, and synced at least every `ms` milliseconds: a power cut loses at most that
    fsync          `durable` returns when the record survives a power cut; syncs are grouped
"""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol, runtime_checkable

import msgspec

from obzen_runtime.events import Record
from obzen_runtime.kernel import ConfigInvalid, UsageError, check_whole

__all__ = ["Entry", "Fsync", "Interval", "Journal", "Level", "Memory", "Os", "journal_from", "level_from", "level_text"]


class Memory(msgspec.Struct, frozen=True, tag="memory"):
    """Nothing survives the process."""


class Os(msgspec.Struct, frozen=True, tag="os"):
    """Written to the operating system before anyone sees it."""


class Interval(msgspec.Struct, frozen=True, tag="interval"):
    """Written like `Os`, synced at least every `ms` milliseconds (1 … 60,000)."""

    ms: int

    def __post_init__(self) -> None:
        check_whole("interval: ms", self.ms, least=1, most=60_000)


class Fsync(msgspec.Struct, frozen=True, tag="fsync"):
    """Synced before what leaves the process rests on it."""


Level = Memory | Os | Interval | Fsync

_NAMED: Mapping[str, Level] = MappingProxyType({"memory": Memory(), "os": Os(), "fsync": Fsync()})
_INTERVAL = re.compile(r"interval\(\s*([0-9]{1,12})\s*\)")


def level_from(text: str | Level) -> Level:
    """`"os"`, `"fsync"`, `"memory"`, `"interval(50)"` or a level itself."""
    if isinstance(text, Level):
        return text
    words = text.strip().lower() if isinstance(text, str) else ""
    if words in _NAMED:
        return _NAMED[words]
    interval = _INTERVAL.fullmatch(words)
    if interval is not None:
        return Interval(int(interval[1]))
    raise ConfigInvalid(f"unknown durability {text!r}", remedy="Use os, fsync, interval(MILLISECONDS) or memory.")


def level_text(level: Level) -> str:
    """How a level is written on the command line."""
    return f"interval({level.ms})" if isinstance(level, Interval) else type(level).__name__.lower()


def journal_from(given: object) -> "Journal":
    """An open journal that a user gives. Raises `UsageError` for what is none."""
    if isinstance(given, Journal) and not isinstance(given, type):
        return given
    raise UsageError(f"journal={given!r} is not a journal", remedy="Give a directory for runs, or a journal that is open.")


class Entry(NamedTuple):
    """A record and where it stands."""

    position: int
    record: Record


@runtime_checkable
class Journal(Protocol):
    """One run's log. Made open; used by one loop; `close` once.

    Raises `JournalFailed` from every call after a write or a sync failed: nothing is acknowledged after that.
    """

    @property
    def level(self) -> Level:
        """What an acknowledged record survives."""
        ...

    @property
    def first(self) -> int:
        """Position of the first record that is kept, or that will be written when none is: 1 until something was dropped."""
        ...

    @property
    def head(self) -> int:
        """Position of the last record written; 0 when empty."""
        ...

    @property
    def durable_head(self) -> int:
        """Position of the last record that has the level's durability. At `memory`, `os` and `interval` this is `head`."""
        ...

    @property
    def size(self) -> int:
        """Bytes the log occupies."""
        ...

    def append(self, records: Sequence[Record], *, expected: int | None = None) -> int:
        """Write the records as one frame and return the position of the last.

        With `expected`, refuses with `Concurrency` when the head is another. Refuses with `Fenced` when a newer
        epoch has taken over, with `ValidationFailed` (`too_large`) when the frame is over 64 MiB or 65,535 records
        (nothing is written then), with `JournalFailed` when the disk fails.
        """
        ...

    async def durable(self, position: int) -> None:
        """Return once every record up to `position` has the level's durability."""
        ...

    def read(self, start: int = 0, stop: int | None = None, *, kinds: frozenset[type[Record]] | None = None) -> AsyncIterator[Entry]:
        """Records from `start` (below 1: the first kept) to before `stop` (default: what was the head at the first step), in order.

        With `kinds`, only records of these types; the others are passed over without being decoded. Refuses with
        `NotFound` when `start`, or what comes next, lies below what is kept, with `JournalDamaged` when what is read is
        not what was written.
        """
        ...

    def tail(self, start: int = 0, *, kinds: frozenset[type[Record]] | None = None) -> AsyncIterator[Entry]:
        """Like `read`, but goes on: waits for each next append and ends when the journal is closed."""
        ...

    async def last(self, kinds: frozenset[type[Record]]) -> Entry | None:
        """The newest record of these types; None when none is kept.

        Costs what lies behind it, not the history before it.
        """
        ...

    def forget(self, below: int) -> None:
        """Records below this position are no longer needed; whether they go, and when, is the journal's retention.

        Never raises; a journal that keeps all ignores it.
        """
        ...

    async def close(self) -> None:
        """Write out, sync at levels above memory, release the lock. Idempotent."""
        ...
