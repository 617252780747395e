"""Which events an event comes from, worked out from the columns of its block. Pure: records in, ranges out.

A block's `parents` column names offsets into what its step took; a fold's or a key's outputs come from the stage's own
inputs since a number, which only the stage's earlier records place. `History` keeps those as runs of ordinals, a few
per upstream however long the log is, coarser when a fan-in alternates more often than it can keep.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import NamedTuple

from obzen_runtime.events import Block, Offsets, Paired, Receipt, Since, Slice, expand

__all__ = ["History", "Range", "joined", "losses_of", "parents_of", "sources_of"]

_MOST_PIECES = 16_384


class Range(NamedTuple):
    """Events `stage@start … stage@(stop - 1)`."""

    stage: str
    start: int
    stop: int

    def __str__(self) -> str:
        last = self.stop - 1
        return f"{self.stage}@{self.start}" if last <= self.start else f"{self.stage}@{self.start}..{last}"


Parents = tuple[Range, ...]
_NONE: Parents = ()


class _Track:
    """What a stage took from one upstream: pieces of input numbers beside pieces of ordinals, both ascending."""

    def __init__(self) -> None:
        self.first = array("q")
        self.last = array("q")
        self.start = array("q")
        self.stop = array("q")

    def add(self, numbers: tuple[int, int], ordinals: tuple[int, int]) -> None:
        """Inputs number [first, last) were events [start, stop)."""
        if len(self.first) and self.last[-1] == numbers[0] and self.stop[-1] == ordinals[0] and self._whole(-1, numbers, ordinals):
            self.last[-1], self.stop[-1] = numbers[1], ordinals[1]
            return
        for column, value in zip((self.first, self.last, self.start, self.stop), (*numbers, *ordinals), strict=True):
            column.append(value)
        if len(self.first) > _MOST_PIECES:
            self._coarsen()

    def _whole(self, piece: int, numbers: tuple[int, int], ordinals: tuple[int, int]) -> bool:
        """Whether piece and addition both map number to ordinal one to one."""
        return (
            self.last[piece] - self.first[piece] == self.stop[piece] - self.start[piece]
            and numbers[1] - numbers[0] == ordinals[1] - ordinals[0]
        )

    def _coarsen(self) -> None:
        """Join pieces in pairs: what is found afterwards may hold more than the parents, never less."""
        even = len(self.first) // 2 * 2
        rest = [column[even:] for column in (self.first, self.last, self.start, self.stop)]
        self.first = self.first[:even:2] + rest[0]
        self.last = self.last[1:even:2] + rest[1]
        self.start = self.start[:even:2] + rest[2]
        self.stop = self.stop[1:even:2] + rest[3]

    def since(self, number: int, until: int | None = None) -> tuple[int, int] | None:
        """The ordinals taken as input `number` and later, but before input `until`; None when there are none."""
        if until is not None and until <= number:
            return None
        piece = bisect_right(self.last, number)
        end = len(self.last) - 1 if until is None else bisect_left(self.first, until) - 1
        if piece > end:
            return None
        start, into = self.start[piece], number - self.first[piece]
        if into > 0 and self._straight(piece):
            start += into
        stop = self.stop[end]
        if until is not None and until < self.last[end] and self._straight(end):
            stop = self.start[end] + until - self.first[end]
        return start, stop

    def _straight(self, piece: int) -> bool:
        """Whether each input number of a piece stands for one ordinal."""
        return self.last[piece] - self.first[piece] == self.stop[piece] - self.start[piece]


class History:
    """What one stage has taken so far, fed record by record in the order of the log."""

    def __init__(self) -> None:
        self._tracks: dict[str, _Track] = {}
        self._taken = 0

    def feed(self, record: Block | Receipt) -> None:
        """Take the next record of the stage."""
        slices = [taken for taken in record.inputs if isinstance(taken, Slice) and taken.stop > taken.start]
        whole = sum(taken.stop - taken.start for taken in slices)
        before = first = self._taken
        self._taken = record.cursor.taken if record.cursor is not None else before + whole
        exact = self._taken - before == whole  # fewer were taken where routing passed over events of a slice
        for each in slices:
            stop = first + each.stop - each.start
            self._tracks.setdefault(each.upstream, _Track()).add((first, stop) if exact else (before, self._taken), (each.start, each.stop))
            first = stop

    def since(self, number: int, until: int | None = None) -> Parents:
        """One range per upstream: what was taken as input `number` or later, before `until`. Routing may have passed over some of it."""
        found = ((stage, track.since(number, until)) for stage, track in self._tracks.items())
        return tuple(Range(stage, *span) for stage, span in found if span is not None)


def parents_of(block: Block, history: History | None = None) -> Iterator[Parents]:
    """For each output of a block, the events it comes from; nothing for what a source gives.

    `history` is that of the block's stage, this block included; only outputs that come from many inputs need it.
    """
    match block.parents:
        case Since(since):
            yield from map(_remembered(history), since)
        case Offsets(runs):
            yield from ((place,) for place in map(_placed(block), expand(runs)))
        case Paired(runs, reference, ordinals):
            for place, ordinal in zip(map(_placed(block), expand(runs)), ordinals, strict=True):
                yield (place,) if ordinal < 0 else (place, Range(reference, ordinal, ordinal + 1))
        case _:
            survivors = _survivors(block)
            for _ in range(block.count):
                survivor = next(survivors, None)
                yield _NONE if survivor is None else (survivor,)


def _remembered(history: History | None) -> Callable[[int], Parents]:
    known: dict[int, Parents] = {}

    def since(number: int) -> Parents:
        found = known.get(number)
        if found is None:
            found = known[number] = history.since(number) if history is not None else _NONE
        return found

    return since


def _placed(record: Block | Receipt) -> Callable[[int], Range]:
    """From an offset over the slices of a step to the event there.

    An offset behind the last slice is the next input, which a generator is still giving for; a slice of no length
    marks the place of such an input at the start of a step.
    """
    slices = [taken for taken in record.inputs if isinstance(taken, Slice)]
    before = [0, *accumulate(taken.stop - taken.start for taken in slices)]

    def place(offset: int) -> Range:
        which = min(bisect_right(before, offset), len(slices)) - 1
        ordinal = slices[which].start + offset - before[which]
        return Range(slices[which].upstream, ordinal, ordinal + 1)

    return place


def _survivors(block: Block) -> Iterator[Range]:
    """The inputs of a step that are not in its errors, in order."""
    gone = {offset for lost in block.errors for offset in expand(lost.runs)}
    offset = 0
    for taken in block.inputs:
        if isinstance(taken, Slice):
            for ordinal in range(taken.start, taken.stop):
                if offset not in gone:
                    yield Range(taken.upstream, ordinal, ordinal + 1)
                offset += 1


def losses_of(record: Block | Receipt) -> Iterator[tuple[str, list[Range]]]:
    """By reason, the inputs of a step that gave nothing, neighbours joined."""
    place = _placed(record)
    for lost in record.errors:
        yield lost.reason, joined(map(place, expand(lost.runs)))


def sources_of(record: Block | Receipt) -> list[Range]:
    """What a step took, neighbours joined."""
    return joined(Range(taken.upstream, taken.start, taken.stop) for taken in record.inputs if isinstance(taken, Slice))


def joined(ranges: Iterable[Range]) -> list[Range]:
    """Ranges in order, those that follow each other joined into one."""
    found: list[Range] = []
    for each in ranges:
        if found and found[-1].stage == each.stage and found[-1].stop == each.start:
            found[-1] = Range(each.stage, found[-1].start, each.stop)
        else:
            found.append(each)
    return found
