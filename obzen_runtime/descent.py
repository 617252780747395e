"""What became of an event: every event that came of it, directly or not, and where each of them ended.

Pure: fed a run's records in order, it marks what comes of the event and keeps a tree of the first few at each step;
the rest is counted. Where an output comes of many inputs the columns tell only that this may be one of them; who
knows the flow's code can say which outputs a step of such a stage gave because of the marked ones.
"""

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from obzen_runtime.events import (
    Block,
    DeadLetter,
    DeliveryIntent,
    DeliveryResolved,
    Receipt,
    Record,
    Since,
    Slice,
    StageInfo,
    expand,
)
from obzen_runtime.lineage import Range, parents_of

__all__ = ["Descent", "Found", "Given", "Leaf", "Marks"]

_LETTERS = "dead_letters"


class Leaf(msgspec.Struct, omit_defaults=True):
    """Where an event ended, or is for now."""

    what: str
    """`delivered`, `folded`, `intended`, the outcome of a delivery in doubt, or why it gave nothing: `dropped` …"""
    stage: str
    at: int
    perhaps: bool = False
    """The step took only some events of this range, and the record does not say which."""


class Found(msgspec.Struct, omit_defaults=True):
    """An event in a tree of what comes of what."""

    event: str
    type: str = ""
    at: int = 0
    position: int = 0
    payload: Any = None
    among: int = 0
    """It comes of one or more of so many inputs, this way among them; 0 when it is known to."""
    ends: list[Leaf] = []
    events: list["Found"] = []
    """What comes of it, or what it comes of."""
    more: dict[str, int] = {}
    """Per stage the events that are counted and not shown."""
    again: bool = False
    """What stands beneath it was shown above."""
    origin: str = ""
    """Run and event that it was taken up from."""


class Marks:
    """Ordinals of one stage, in ascending order, with the types of these events."""

    def __init__(self) -> None:
        self._ordinals = array("q")
        self._types = array("H")

    def __contains__(self, ordinal: int) -> bool:
        place = bisect_left(self._ordinals, ordinal)
        return place < len(self._ordinals) and self._ordinals[place] == ordinal

    def add(self, ordinal: int, kind: int = 0) -> None:
        """One more, not below the last."""
        if not self._ordinals or self._ordinals[-1] < ordinal:
            self._ordinals.append(ordinal)
            self._types.append(kind)

    def any(self, start: int, stop: int) -> bool:
        """Whether there is one in [start, stop)."""
        place = bisect_left(self._ordinals, start)
        return place < len(self._ordinals) and self._ordinals[place] < stop

    def between(self, start: int, stop: int, kinds: tuple[int, ...] | None = None) -> Sequence[int]:
        """Those in [start, stop); with `kinds` only of these types."""
        first, last = bisect_left(self._ordinals, start), bisect_left(self._ordinals, stop)
        if kinds is None:
            return self._ordinals[first:last]
        return [self._ordinals[place] for place in range(first, last) if self._types[place] in kinds]


Given = Callable[[Block, Marks], Iterable[int]]
"""Of a block of outputs that come of many inputs, those that come of the marked input numbers."""


class Descent:
    """What comes of event `stage@ordinal`. Feed it the log in order; `few` is how much of a kind is shown."""

    def __init__(self, stage: str, ordinal: int, infos: Sequence[StageInfo], *, few: int, given: dict[str, Given]) -> None:
        self.root: Found | None = None
        """The event itself, once it has been met."""
        self.counts: Counter[str] = Counter()
        """Per stage the events that came of it."""
        self.ends: Counter[tuple[str, str]] = Counter()
        """By stage and what: how often an event ended so."""
        self._target = stage, ordinal
        self._infos = {info.name: info for info in infos}
        self._few = few
        self._given = given
        self._marks: dict[str, Marks] = {}
        self._numbers: dict[str, Marks] = {}
        """Per stage that remembers, which of its inputs are marked."""
        self._vague = {info.name for info in infos if info.kind != "join" and not info.takes}
        """Stages of which a step that took fewer events than its slices hold does not say which."""
        self._taken: dict[str, int] = {}
        self._nodes: dict[tuple[str, int], Found] = {}
        self._folded: dict[str, list[Found]] = {}
        self._shown: Counter[tuple[str, str]] = Counter()
        """Per event of the tree and stage: how many are shown beneath it."""

    def feed(self, position: int, record: Record, found: Callable[[Block, int], Found]) -> None:
        """Take the next record. `found(block, n)` makes the node of the n-th event of a block."""
        match record:
            case Block() | Receipt():
                if self._marks:
                    self._step(position, record, found)
                if self.root is None and isinstance(record, Block) and self._holds(record):
                    number = self._target[1] - record.base
                    self._begin(found(record, number), _kind(record, number))
                self._count(record)
            case DeadLetter():
                self._letter(position, record)
            case DeliveryIntent(stage, at, upstream, event):
                self._end((Range(upstream, event, event + 1),), Leaf("intended", stage, at))
            case DeliveryResolved(stage, at, upstream, event, outcome):
                self._end((Range(upstream, event, event + 1),), Leaf(outcome, stage, at))

    def marked(self, stage: str, ordinal: int) -> bool:
        """Whether this event, met so far, is the one or came of it."""
        return ordinal in self._marks.get(stage, _NONE)

    def _holds(self, block: Block) -> bool:
        stage, ordinal = self._target
        return block.stage == stage and block.base <= ordinal < block.base + block.count

    def _begin(self, root: Found, kind: int = 0) -> None:
        stage, ordinal = self._target
        self.root = root
        self._nodes[stage, ordinal] = root
        self._marks.setdefault(stage, Marks()).add(ordinal, kind)

    def _count(self, record: Block | Receipt) -> None:
        self._taken[record.stage] = record.cursor.taken if record.cursor is not None else self._taken.get(record.stage, 0)

    # -- one step -------------------------------------------------------------------------------

    def _step(self, position: int, record: Block | Receipt, found: Callable[[Block, int], Found]) -> None:
        slices = [each for each in record.inputs if isinstance(each, Slice) and each.upstream in self._marks]
        hits = [Range(each.upstream, ordinal, ordinal + 1) for each in slices for ordinal in self._among(record.stage, each)]
        gone = self._lost(record) if hits else set()
        whole = sum(each.stop - each.start for each in record.inputs if isinstance(each, Slice))
        partly = (
            record.stage in self._vague and record.cursor is not None and record.cursor.taken - self._taken.get(record.stage, 0) < whole
        )
        if isinstance(record, Receipt):
            alive = [hit for hit in hits if hit not in gone]
            self._end(alive, Leaf("delivered", record.stage, record.at, partly))
            return
        if hits and self._remembers(record.stage):
            self._fold(record, [hit for hit in hits if hit not in gone], partly)
        if record.count and (hits or self._touches(record, slices)):
            for number, parents in self._outputs(record):
                self._mark(record, number, parents, position, found)

    def _among(self, stage: str, taken: Slice) -> Sequence[int]:
        """The marked events of a slice that the stage takes."""
        info = self._infos.get(stage)
        return self._marks[taken.upstream].between(taken.start, taken.stop, info.takes.get(taken.upstream) if info is not None else None)

    def _remembers(self, stage: str) -> bool:
        info = self._infos.get(stage)
        return info is not None and info.kind in ("fold", "stateful", "top")

    def _touches(self, block: Block, slices: Sequence[Slice]) -> bool:
        """Whether outputs may come of a marked event that the step's slices do not hold."""
        if isinstance(block.parents, Since):
            return block.stage in self._numbers
        reference = getattr(block.parents, "reference", None)
        return reference in self._marks or any(each.stop in self._marks[each.upstream] for each in slices)

    def _lost(self, record: Block | Receipt) -> set[Range]:
        """The marked inputs that gave nothing; each is told with its reason, the dead ones by their letters."""
        slices = [each for each in record.inputs if isinstance(each, Slice)]
        gone: set[Range] = set()
        for lost in record.errors:
            places = _places(slices, expand(lost.runs))
            ends = [Range(stage, ordinal, ordinal + 1) for stage, ordinal in places if ordinal in self._marks.get(stage, _NONE)]
            gone.update(ends)
            if lost.reason not in ("dead", "undecodable"):
                self._end(ends, Leaf(lost.reason, record.stage, record.at))
        return gone

    def _fold(self, block: Block, hits: Sequence[Range], partly: bool) -> None:
        numbers = self._numbers.setdefault(block.stage, Marks())
        offsets = _offsets(block)
        before = self._taken.get(block.stage, 0)
        for hit in hits:
            number = before + offsets[hit.stage, hit.start]
            numbers.add(min(number, block.cursor.taken - 1) if partly and block.cursor is not None else number)
            node = self._nodes.get((hit.stage, hit.start))
            if node is not None:
                self._folded.setdefault(block.stage, []).append(node)
        self._end(hits, Leaf("folded", block.stage, block.at, partly))

    def _outputs(self, block: Block) -> Iterator[tuple[int, tuple[tuple[str, int], ...]]]:
        """The outputs that come of marked events, each with those."""
        if isinstance(block.parents, Since):
            marked = self._numbers.get(block.stage, _NONE)
            top = self._infos[block.stage].kind == "top" if block.stage in self._infos else False
            for number in self._given.get(block.stage, _kept if top else _perhaps)(block, marked):
                yield number, ()
            return
        for number, parents in enumerate(parents_of(block)):
            among = tuple((each.stage, each.start) for each in parents if each.start in self._marks.get(each.stage, _NONE))
            if among:
                yield number, among

    def _mark(
        self, block: Block, number: int, parents: Iterable[tuple[str, int]], position: int, found: Callable[[Block, int], Found]
    ) -> None:
        ordinal = block.base + number
        self._marks.setdefault(block.stage, Marks()).add(ordinal, _kind(block, number))
        self.counts[block.stage] += 1
        above = [self._nodes[each] for each in parents if each in self._nodes]
        if isinstance(block.parents, Since):
            above = self._folded.get(block.stage, [])
        if not above:
            return
        shown = above[0].event, block.stage
        if self._shown[shown] >= self._few:
            above[0].more[block.stage] = above[0].more.get(block.stage, 0) + 1
            return
        self._shown[shown] += 1
        node = found(block, number)
        info = self._infos.get(block.stage)
        if isinstance(block.parents, Since) and block.stage not in self._given and info is not None and info.kind == "stateful":
            taken = block.cursor.taken if block.cursor is not None else 0
            node.among = max(0, taken - block.parents.since[number])
        self._nodes[block.stage, ordinal] = node
        above[0].events.append(node)

    # -- ends -------------------------------------------------------------------------------------

    def _letter(self, position: int, letter: DeadLetter) -> None:
        error = f"{letter.error.type or letter.error.code}: {letter.error.message}"
        node = Found(f"{_LETTERS}@{letter.ordinal}", "DeadLetter", letter.at, position, {"stage": letter.stage, "error": error})
        if self.root is None and self._target == (_LETTERS, letter.ordinal):
            self._begin(node)
            return
        if letter.event not in self._marks.get(letter.upstream, _NONE):
            return
        self.counts[_LETTERS] += 1
        self._marks.setdefault(_LETTERS, Marks()).add(letter.ordinal)
        above = self._nodes.get((letter.upstream, letter.event))
        if above is not None:
            self._nodes[_LETTERS, letter.ordinal] = node
            above.events.append(node)

    def _end(self, events: Iterable[Range], leaf: Leaf) -> None:
        for stage, ordinal, _ in events:
            if ordinal not in self._marks.get(stage, _NONE):
                continue
            self.ends[leaf.stage, leaf.what] += 1
            node = self._nodes.get((stage, ordinal))
            if node is not None:
                node.ends.append(leaf)


_NONE = Marks()


def _perhaps(block: Block, marked: Marks) -> Iterable[int]:
    """Without the code: every output that takes in what came since some number at or below a marked one."""
    since = block.parents.since if isinstance(block.parents, Since) else ()
    taken = block.cursor.taken if block.cursor is not None else 0
    return (number for number, first in enumerate(since) if marked.any(first, taken))


def _kept(block: Block, marked: Marks) -> Iterable[int]:
    """A selection gives events as they came: each since its own number."""
    since = block.parents.since if isinstance(block.parents, Since) else ()
    return (number for number, first in enumerate(since) if first in marked)


def _kind(block: Block, number: int) -> int:
    """The type of one event of a block."""
    return block.types if isinstance(block.types, int) else block.types[number]


def _places(slices: Sequence[Slice], offsets: Iterable[int]) -> Iterator[tuple[str, int]]:
    """The events at ascending offsets over slices."""
    which, before = 0, 0
    for offset in offsets:
        while offset - before >= (size := slices[which].stop - slices[which].start):
            which, before = which + 1, before + size
        yield slices[which].upstream, slices[which].start + offset - before


def _offsets(record: Block) -> dict[tuple[str, int], int]:
    """From an event of a step to its offset."""
    found: dict[tuple[str, int], int] = {}
    offset = 0
    for each in record.inputs:
        if isinstance(each, Slice):
            for ordinal in range(each.start, each.stop):
                found[each.upstream, ordinal] = offset
                offset += 1
    return found
