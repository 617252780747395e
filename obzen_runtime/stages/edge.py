"""How blocks travel: an edge counts credit, an inbox keeps what has arrived in the order it arrived.

A writer may go on while every edge it writes to has credit. What a stage has taken but not committed still counts
and stays in its inbox, so a crashed stage finds its input where it was. An edge that spills never withholds
credit: beyond its window an entry keeps only its place in the journal, and its payloads are read back from there.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from obzen_runtime.events import End
from obzen_runtime.kernel import Wake, check_whole

__all__ = ["Edge", "Entry", "Inbox", "Place", "Window", "time_of"]

_WIDEST = 16


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """How much may wait on one edge."""

    events: int = 8192
    """Events that may wait or be in work (at least 1)."""
    size: int = 16 * 1024 * 1024
    """Bytes of payload that may wait (at least 1)."""

    def __post_init__(self) -> None:
        check_whole("window: events", self.events, least=1)
        check_whole("window: size", self.size, least=1)


class Place(NamedTuple):
    """Where a block stands in the journal, and when it was made."""

    position: int
    base: int
    at: int
    """Wall milliseconds of the step that made it: the time that its events stand for."""


def time_of(places: Sequence[Place], ordinal: int) -> int:
    """The time that an event stands for, by the places of the blocks it may stand in, in order."""
    return next(place.at for place in reversed(places) if place.base <= ordinal)


class Entry:
    """A block, or the end of an upstream, waiting in an inbox. `done` of its `count` events are committed."""

    __slots__ = ("bad", "base", "count", "done", "edge", "end", "items", "ordinals", "places", "size")

    def __init__(self, edge: "Edge", base: int, place: Place) -> None:
        self.edge = edge
        self.base = base
        self.places: tuple[Place, ...] = (place,)
        """Of each block it was made of."""
        self.count = 0
        self.size = 0
        self.done = 0
        self.items: Sequence[Any] | None = ()
        self.ordinals: list[int] | None = None
        """Where routing chose some of a block's events: their ordinals."""
        self.end: End | None = None
        self.bad: Sequence[Any] = ()
        """What stands for its events when none of them can be decoded; its items stay out of memory."""

    def ordinal(self, offset: int) -> int:
        """The upstream's ordinal of the event at `offset` in this entry."""
        return self.base + offset if self.ordinals is None else self.ordinals[offset]

    def cut(self, at: int) -> "Entry":
        """Keep the first `at` events; the others are the entry that is returned."""
        rest = Entry(self.edge, self.ordinal(at), self.places[0])
        rest.places = self.places
        rest.ordinals = [self.ordinal(number) for number in range(at, self.count)]
        rest.items = None if self.items is None else self.items[at:]
        rest.count = self.count - at
        rest.size = self.size * rest.count // self.count
        self.ordinals = None if self.ordinals is None else self.ordinals[:at]
        self.items = None if self.items is None else self.items[:at]
        self.count = at
        self.size -= rest.size
        return rest

    def absorb(self, other: "Entry") -> bool:
        """Take in the entry that follows, so that a batch can span blocks; False when they do not join up."""
        if other.edge is not self.edge or other.end is not None or self.items is None or other.items is None:
            return False
        if (self.ordinals is None) != (other.ordinals is None):
            return False
        if self.ordinals is None:
            if self.base + self.count != other.base:
                return False
        else:
            self.ordinals = self.ordinals + (other.ordinals or [])
        self.items = [*self.items, *other.items]
        self.places += other.places
        self.count += other.count
        self.size += other.size
        return True


class Inbox:
    """What one stage may take next, over all its edges, in order of arrival."""

    __slots__ = ("entries", "wake")

    def __init__(self, wake: Wake) -> None:
        self.entries: deque[Entry] = deque()
        self.wake = wake

    def follow(self, entry: Entry, others: Sequence[Entry]) -> None:
        """Put others right behind an entry."""
        for at, other in enumerate(others, self.entries.index(entry) + 1 if others else 0):
            self.entries.insert(at, other)

    def gather(self, head: Entry, count: int, may_take: Callable[[Entry], bool], *, past_others: bool = False) -> int:
        """Let an entry absorb what follows it and may be taken until `count` events wait in it; returns how many do.

        With `past_others` what other upstreams gave may stand between: only the order within one is told by the events.
        """
        at = self.entries.index(head) + 1
        while head.count - head.done < count and at < len(self.entries):
            other = self.entries[at]
            if past_others and other.edge is not head.edge:
                at += 1
            elif may_take(other) and head.absorb(other):
                del self.entries[at]
            else:
                break
        return head.count - head.done

    def firsts(self) -> dict["Edge", Entry]:
        """Of each upstream that has something waiting, what comes next."""
        found: dict[Edge, Entry] = {}
        for entry in self.entries:
            found.setdefault(entry.edge, entry)
        return found

    def prefer(self, entry: Entry) -> None:
        """Put what comes next of one upstream before what others gave."""
        if entry is not self.entries[0]:
            self.entries.remove(entry)
            self.entries.appendleft(entry)


class Edge:
    """From one stage to one input of another."""

    def __init__(self, source: str, target: str, inbox: Inbox, *, window: Window, spills: bool = False) -> None:
        self.source = source
        self.target = target
        self.inbox = inbox
        self.window = window
        self.most = window.events
        """Events that may wait now: the window's, or more once it was widened."""
        self.spills = spills
        self.routed: dict[type, bool] | None = None
        """Per event class whether the consumer takes it; None delivers everything."""
        self.routes: Callable[[type], bool] = _everything
        self.writer: Wake | None = None
        self.closed = False
        self.events = 0
        self.size = 0
        self.delivered = 0
        """Events handed over since the start."""
        self.accounted = 0
        """Events the consumer has processed, dropped or dead-lettered."""
        self.ended: End | None = None
        self.missed = 0
        """Position of the first block that came after the consumer had ended; 0 for none."""
        self.passed = False
        """The consumer took the natural end in an earlier process."""

    @property
    def name(self) -> str:
        return f"{self.source} -> {self.target}"

    @property
    def credit(self) -> int:
        """Events the writer may add now."""
        if self.closed or self.spills:
            return 1 << 30
        if self.size >= self.window.size:
            return 0
        return max(0, self.most - self.events)

    @property
    def room(self) -> int:
        """Events a writer should add now: none while less than a quarter of the window is free, so that blocks stay large."""
        credit = self.credit
        return credit if credit * 4 >= self.most else 0

    @property
    def ready(self) -> bool:
        """Whether a writer should go on."""
        return self.room > 0

    def widen(self) -> None:
        """Let twice as many events wait, up to sixteen windows; the window's bytes stay what they are."""
        self.most = min(2 * self.most, _WIDEST * self.window.events)
        if self.ready and self.writer is not None:
            self.writer.set()

    def offer(self, items: Sequence[Any], kinds: set[type], place: Place, size: int) -> None:
        """Hand over the block that stands at `place`; `kinds` are the classes of its items."""
        base = place.base
        entry = Entry(self, base, place)
        entry.items = items
        if self.routed is not None and not all(map(self._takes, kinds)):
            takes = self._takes
            chosen = [number for number, item in enumerate(items) if takes(type(item))]
            if not chosen:
                return
            entry.items = [items[number] for number in chosen]
            entry.ordinals = [base + number for number in chosen]
            size = size * len(chosen) // len(items)
        entry.count = len(entry.items)
        entry.size = size
        self.delivered += entry.count
        if self.closed:
            self.missed = self.missed or place.position
            return
        if self.spills and (self.events >= self.window.events or self.size >= self.window.size):
            entry.items = None
        self.events += entry.count
        self.size += size
        self.inbox.entries.append(entry)
        self.inbox.wake.set()

    def offer_again(self, place: Place, ordinals: list[int], size: int) -> None:
        """Hand over what the consumer had not passed of the block at `place` in an earlier process: only its place."""
        entry = Entry(self, ordinals[0], place)
        entry.items = None
        entry.ordinals = ordinals
        entry.count = len(ordinals)
        entry.size = size
        self.events += entry.count
        self.size += size
        self.inbox.entries.append(entry)

    def end(self, end: End) -> None:
        """No more will come. Once."""
        self.ended = end
        if self.closed or self.passed:
            return
        entry = Entry(self, end.total, Place(0, end.total, 0))
        entry.end = end
        self.inbox.entries.append(entry)
        self.inbox.wake.set()

    def commit(self, entry: Entry, count: int) -> None:
        """`count` more events of the inbox's entry are committed; a finished entry leaves the inbox."""
        entry.done += count
        self.accounted += count
        if entry.done < entry.count:
            return
        if self.inbox.entries and self.inbox.entries[0] is entry:
            self.inbox.entries.popleft()
        else:
            self.inbox.entries.remove(entry)
        withheld = not self.ready
        self.events -= entry.count
        self.size -= entry.size
        if withheld and self.writer is not None:
            self.writer.set()

    def forget_payloads(self) -> None:
        """Keep only places in the journal, so that a rebuilt consumer reads everything back."""
        for entry in self.inbox.entries:
            if entry.edge is self and entry.end is None:
                entry.items = None

    def close(self) -> None:
        """The consumer has ended: what comes from now on stays in the log."""
        self.closed = True
        if self.writer is not None:
            self.writer.set()

    def delivers(self, item: Any) -> bool:
        """Whether the consumer takes this event."""
        return self.routed is None or self._takes(type(item))

    def oldest(self) -> int | None:
        """Position of the first block that is not fully committed."""
        waiting = (entry.places[0].position for entry in self.inbox.entries if entry.edge is self and entry.end is None)
        return next(waiting, self.missed or None)

    def _takes(self, kind: type) -> bool:
        assert self.routed is not None
        taken = self.routed.get(kind)
        if taken is None:
            taken = self.routed[kind] = self.routes(kind)
        return taken


def _everything(kind: type) -> bool:
    return True
