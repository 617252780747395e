"""What a step made, and how that becomes columns: outputs encoded in one call, offsets packed, culprits put aside."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from obzen_runtime.events import DeadLetter, Lost, Offsets, Paired, Parents, Since, runs_of
from obzen_runtime.kernel import ErrorInfo
from obzen_runtime.stages.codec import Codec
from obzen_runtime.stages.edge import Entry
from obzen_runtime.stages.versions import Undecoded

__all__ = ["LARGEST", "BlockTooLarge", "Columns", "Made", "check_size", "columns", "halves", "kinds_of"]

LARGEST = 16 * 1024 * 1024
"""Bytes of one event at the most; a larger one is a dead letter."""
_HEAD = 5
"""Bytes before the first event of a block at the most."""
_UNENCODABLE = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, UnicodeError, RecursionError)


@dataclass(slots=True)
class Made:
    """The result of a step over `taken` inputs. Offsets count those inputs from 0."""

    taken: int = 0
    outputs: list[Any] = field(default_factory=list)
    origins: list[int] | None = None
    """Per output the offset of its input; None: the i-th output comes from the i-th input that was not lost."""
    lost: dict[str, list[int]] = field(default_factory=dict)
    """Inputs that gave no output on purpose, by reason."""
    dead: list[tuple[int, ErrorInfo]] = field(default_factory=list)
    """Inputs whose handler failed."""
    pairs: tuple[str, list[int]] | None = None
    """A join's reference stage, and per output the reference's ordinal."""
    since: list[int] | None = None
    """Per output the first of this stage's inputs it comes from."""
    marks: list[int] | None = None
    """Per output of an emission what `within` is once it is given."""
    within: int = 0
    """Outputs that the input behind those taken has given so far; of an emission, all it has given so far."""
    kinds: set[type] | None = None
    """The classes of the outputs, where somebody has looked."""

    def cut(self, outputs: int, dead: int) -> None:
        """Forget what belongs to inputs that are not taken: all behind this many outputs and failures."""
        del self.outputs[outputs:], self.dead[dead:]
        if self.origins is not None:
            del self.origins[outputs:]
        for offsets in self.lost.values():
            offsets[:] = [offset for offset in offsets if offset < self.taken]


class Columns(NamedTuple):
    """A step, ready to be written."""

    outputs: list[Any]
    payloads: bytes
    kinds: set[type]
    parents: Parents | None
    lost: tuple[Lost, ...]
    letters: tuple[DeadLetter, ...]


def columns(stage: str, codec: Codec, made: Made, entry: Entry | None, upstream: Codec | None, at: int) -> Columns:
    """Turn a step over `entry` (None: without input events) into columns. `upstream` encodes the letters' payloads."""
    payloads, kinds = _encode(codec, made.outputs, made.kinds)
    if payloads is None:
        _put_culprits_aside(stage, codec, made)
        payloads, kinds = _encode(codec, made.outputs)
        if payloads is None:
            raise BlockTooLarge
    if not (made.lost or made.dead or made.origins or made.pairs or made.since) and (entry is None or entry.ordinals is None):
        return Columns(made.outputs, payloads, kinds, None, (), ())
    letters = tuple(_letter(stage, at, offset, error, entry, upstream) for offset, error in made.dead)
    check_size(letters)
    places = _places(made, entry)
    lost = {reason: offsets for reason, offsets in made.lost.items() if offsets}
    if made.dead and entry is not None:
        lost["dead"] = [offset for offset, _ in made.dead]
    return Columns(
        made.outputs,
        payloads,
        kinds,
        _parents(made, places),
        tuple(Lost(reason, runs_of(offsets if places is None else [places[each] for each in offsets])) for reason, offsets in lost.items()),
        letters,
    )


def check_size(letters: Sequence[DeadLetter]) -> None:
    """Letters stand in one frame with their step: raises `BlockTooLarge` when several are too large together."""
    if len(letters) > 1 and sum(len(letter.payload) for letter in letters) > LARGEST:
        raise BlockTooLarge


def kinds_of(items: Sequence[Any]) -> set[type]:
    """The classes of `items`. Counting the first one costs two thirds of a set of all, and mostly it is the only one."""
    if not items:
        return set()
    every = list(map(type, items))
    first = every[0]
    return {first} if every.count(first) == len(every) else set(every)


def _encode(codec: Codec, outputs: list[Any], kinds: set[type] | None = None) -> tuple[bytes | None, set[type]]:
    if not outputs:
        return b"", set()
    if kinds is None:
        kinds = kinds_of(outputs)
    if not kinds <= codec.known and not all(kind in codec.known or codec.learn(kind) for kind in kinds):
        return None, kinds
    try:
        payloads = codec.encode(outputs)
    except _UNENCODABLE:
        return None, kinds
    return (payloads if len(payloads) <= LARGEST + _HEAD else None), kinds


def _places(made: Made, entry: Entry | None) -> list[int] | None:
    """Where routing skipped events of the slice, each input's offset within it."""
    if entry is None or entry.ordinals is None:
        return None
    ordinals = entry.ordinals[entry.done : entry.done + made.taken + 1]  # one more: the input a generator is still giving
    return [ordinal - ordinals[0] for ordinal in ordinals]


def _parents(made: Made, places: list[int] | None) -> Parents | None:
    if made.since is not None:
        return Since(tuple(made.since))
    if not made.outputs:
        return None
    origins = made.origins
    if origins is None and (places is not None or made.pairs is not None):
        origins = _survivors(made)
    if origins is None:
        return None
    runs = runs_of(origins if places is None else [places[each] for each in origins])
    return Offsets(runs) if made.pairs is None else Paired(runs, made.pairs[0], tuple(made.pairs[1]))


def _survivors(made: Made) -> list[int]:
    gone = {offset for offset, _ in made.dead}.union(*made.lost.values())
    return [offset for offset in range(made.taken) if offset not in gone]


def _letter(stage: str, at: int, offset: int, error: ErrorInfo, entry: Entry | None, upstream: Codec | None) -> DeadLetter:
    if entry is None or entry.items is None or upstream is None:
        return DeadLetter(0, stage, at, error)
    number = entry.done + offset
    item = entry.items[number]
    if isinstance(item, Undecoded):
        return DeadLetter(0, stage, at, error, entry.edge.source, entry.ordinal(number), item.raw, type=item.number)
    kind = upstream.types((item,), {type(item)})
    assert isinstance(kind, int)
    return DeadLetter(0, stage, at, error, entry.edge.source, entry.ordinal(number), upstream.encode(item), type=kind)


def _put_culprits_aside(stage: str, codec: Codec, made: Made) -> None:
    """Find the outputs that cannot be encoded or were not declared; their inputs become dead, with all their outputs."""
    origins = made.origins if made.origins is not None else _survivors(made)
    if len(origins) < len(made.outputs):  # an emission: outputs without an input of this step
        origins = list(range(len(made.outputs)))
    failed: dict[int, ErrorInfo] = {}
    for origin, item in zip(origins, made.outputs, strict=True):
        if origin not in failed and (error := _problem(stage, codec, item)) is not None:
            failed[origin] = error
    keep = [number for number, origin in enumerate(origins) if origin not in failed]
    if not failed:  # each is small enough, all together are not: the caller makes smaller blocks
        raise BlockTooLarge
    made.outputs = [made.outputs[number] for number in keep]
    if made.origins is not None or made.pairs is not None:
        made.origins = [origins[number] for number in keep]
    if made.pairs is not None:
        made.pairs = (made.pairs[0], [made.pairs[1][number] for number in keep])
    if made.since is not None:
        made.since = [made.since[number] for number in keep]
    if made.marks is not None:
        made.marks = [made.marks[number] for number in keep]
    made.dead = sorted([*made.dead, *failed.items()], key=_offset)
    if made.within and made.taken in failed and made.since is None:  # an input that is not done yet: now it is
        made.taken, made.within = made.taken + 1, 0
        raise BlockTooLarge


class BlockTooLarge(Exception):
    """The step must be written as smaller ones: its events are each small enough for a block, but not together."""


def halves(made: Made, given: int) -> tuple[Made, Made]:
    """Two smaller steps that amount to this one, of whose first input `given` outputs were given before."""
    if made.since is not None and made.marks is not None:
        cut = len(made.outputs) // 2
        one = Made(outputs=made.outputs[:cut], since=made.since[:cut], marks=made.marks[:cut], dead=made.dead, within=made.marks[cut - 1])
        return one, Made(outputs=made.outputs[cut:], since=made.since[cut:], marks=made.marks[cut:], within=made.within)
    origins = made.origins if made.origins is not None else _survivors(made)
    inputs = made.taken + (made.within > 0)
    if inputs == 1:
        cut = len(made.outputs) // 2
        one = Made(outputs=made.outputs[:cut], origins=[0] * cut, within=given + cut)
        other = Made(made.taken, made.outputs[cut:], [0] * (len(made.outputs) - cut), made.lost, made.dead, within=made.within)
    else:
        first = inputs // 2
        cut = sum(origin < first for origin in origins)
        one = Made(first, made.outputs[:cut], origins[:cut], *_before(made, first))
        rest = [origin - first for origin in origins[cut:]]
        other = Made(made.taken - first, made.outputs[cut:], rest, *_behind(made, first), within=made.within)
    if made.pairs is not None:
        reference, ordinals = made.pairs
        one.pairs, other.pairs = (reference, ordinals[:cut]), (reference, ordinals[cut:])
    return one, other


def _before(made: Made, first: int) -> tuple[dict[str, list[int]], list[tuple[int, ErrorInfo]]]:
    lost = {reason: [offset for offset in offsets if offset < first] for reason, offsets in made.lost.items()}
    return lost, [dead for dead in made.dead if dead[0] < first]


def _behind(made: Made, first: int) -> tuple[dict[str, list[int]], list[tuple[int, ErrorInfo]]]:
    lost = {reason: [offset - first for offset in offsets if offset >= first] for reason, offsets in made.lost.items()}
    return lost, [(offset - first, error) for offset, error in made.dead if offset >= first]


def _offset(dead: tuple[int, ErrorInfo]) -> int:
    return dead[0]


def _problem(stage: str, codec: Codec, item: Any) -> ErrorInfo | None:
    kind = type(item)
    if kind not in codec.known and not codec.learn(kind):
        expected = " | ".join(each.text for each in codec.declared) or "nothing"
        return ErrorInfo(
            kind="PROTOCOL",
            code="undeclared_type",
            message=f"stage {stage!r} returned {kind.__name__}, expected {expected}",
            remedy=f"Add {kind.__name__} to the return annotation of {stage}, or return what it declares.",
            category="user",
            details={"stage": stage, "expected": expected, "got": kind.__name__},
        )
    try:
        size = len(codec.encode(item))
    except _UNENCODABLE as error:
        return ErrorInfo(
            kind="VALIDATION",
            code="not_encodable",
            message=f"stage {stage!r} returned a {kind.__name__} that cannot be encoded: {error}",
            remedy="Payloads are numbers within 64 bits, text, bytes, dates, enums, tuples and frozen structs of these.",
            category="user",
            type=type(error).__name__,
            details={"stage": stage},
        )
    if size > LARGEST:
        return ErrorInfo(
            kind="VALIDATION",
            code="too_large",
            message=f"stage {stage!r} returned an event of {size} bytes, at most {LARGEST} cross an edge",
            remedy="Split it, or store the bytes elsewhere and send their name.",
            category="user",
            details={"stage": stage, "size": size},
        )
    return None
