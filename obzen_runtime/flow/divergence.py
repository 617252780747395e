"""Where a replay went another way: which event, what was recorded, what came out now, what it was made of, and why it may be.

A difference is told for people and for programs alike; what it cannot know (whose fault it is) it does not say, but it
names what a handler asks the machine for, since that is what mostly differs.
"""

import datetime
import os
import random
import secrets
import time
import types
import uuid
from collections.abc import Iterator, Sequence
from itertools import count, islice, zip_longest
from typing import Any

import msgspec

from obzen_runtime.events import Block, DeadLetter, Offsets, Paired, Record, Since, Slice, expand
from obzen_runtime.stages import Codec, Node, Undecoded

__all__ = ["Divergence", "Found", "compare", "moods_of", "shown", "shown_error"]

_MOST = 400
_DRAWS: dict[str, str] = {
    "time": "ctx.now()",
    "datetime": "ctx.now()",
    "random": "ctx.random",
    "secrets": "ctx.random",
    "os": "ctx.random",
    "uuid": "ctx.uuid()",
}
"""By module, what a handler asks for instead."""
_MOODS: dict[object, str] = {
    **{
        getattr(time, name): f"time.{name}"
        for name in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "localtime", "gmtime")
    },
    **{
        getattr(random, name): f"random.{name}"
        for name in ("random", "randint", "randrange", "choice", "choices", "shuffle", "sample", "uniform", "gauss", "getrandbits")
    },
    **{getattr(uuid, name): f"uuid.{name}" for name in ("uuid1", "uuid4")},
    **{getattr(secrets, name): f"secrets.{name}" for name in ("token_bytes", "token_hex", "token_urlsafe", "randbelow", "choice")},
    os.urandom: "os.urandom",
}
_CLASSES = {datetime.datetime: ("now", "utcnow", "today"), datetime.date: ("today",)}


class Divergence(msgspec.Struct, frozen=True, kw_only=True):
    """The first place where a stage did not do what is recorded."""

    stage: str
    what: str
    """`value`, `type`, `count`, `parents`, `dead letter`, `position`, `end`, or `crash`."""
    event: str
    """The event, `stage@n`; for a dead letter the event that failed."""
    recorded: str
    """What the run wrote."""
    replayed: str
    """What the code gives now."""
    input: str = ""
    """The event that led to it."""
    input_value: str = ""
    code_changed: bool | None = None
    """Whether the stage's code is another than the one that wrote this; None when the run does not say."""
    hints: tuple[str, ...] = ()
    """What may be the reason."""
    position: int = 0
    """Where the record stands in the log."""

    def __str__(self) -> str:
        changed = {
            True: "its code changed since the run",
            False: "its code is the same as in the run",
            None: "whether its code changed is unknown",
        }
        what = "a crash" if self.what == "crash" else f"another {self.what}"
        lines = [f"{self.event}: {what} ({self.stage}: {changed[self.code_changed]}; record {self.position})"]
        lines += [f"  recorded  {self.recorded}", f"  replayed  {self.replayed}"]
        if self.input:
            lines.append(f"  made of   {self.input}{' ' + self.input_value if self.input_value else ''}")
        return "\n".join([*lines, *(f"  {hint}" for hint in self.hints)])


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What differs in one record, before it is told of whom."""

    what: str
    event: str
    recorded: str
    replayed: str
    offset: int | None = None
    """Of the input it comes from, over the slices of the step."""


def shown(value: object) -> str:
    """A value in one line, not too long."""
    text = repr(value)
    return text if len(text) <= _MOST else f"{text[: _MOST - 1]}…"


def compare(codec: Codec, block: Block, letters: Sequence[DeadLetter], again: Sequence[Record]) -> Found | None:
    """The first difference between what a step wrote and what it writes now, in the order of its inputs; None when there is none."""
    now = next((record for record in again if isinstance(record, Block)), None)
    if now is None and not (block.count or block.inputs or letters):  # half of a step that had nothing left
        return None
    if now is None:
        return Found(what="position", event=_first(block), recorded=_step(block), replayed="nothing")
    other = [record for record in again if isinstance(record, DeadLetter)]
    if now == block and len(other) == len(letters) and all(map(_same_letter, letters, other)):
        return None
    if sum(isinstance(record, Block) for record in again) > 1:
        return Found(what="count", event=_first(block), recorded=_step(block), replayed="more than fits into one block")
    return _outcome(codec, (block, letters), (now, other)) or _columns(block, now)


def _first(block: Block) -> str:
    return f"{block.stage}@{block.base}"


def _step(block: Block) -> str:
    taken = [
        f"{each.upstream}@{each.start} to @{each.stop - 1}" for each in block.inputs if isinstance(each, Slice) and each.stop > each.start
    ]
    return f"{block.count} events{' of ' + ', '.join(taken) if taken else ''}"


class _Outcome(msgspec.Struct):
    """What became of one input."""

    outputs: list[tuple[bytes, int]] = []
    """Payload and type of each."""
    first: int = -1
    """Number of its first output in the block."""
    letter: DeadLetter | None = None
    reason: str = ""

    def same(self, other: "_Outcome") -> bool:
        letters = [None if each.letter is None else _told(each.letter) for each in (self, other)]
        return (self.outputs, self.reason) == (other.outputs, other.reason) and letters[0] == letters[1]

    def text(self, codec: Codec, block: Block, number: int) -> str:
        """Its output of this number, or why there is none."""
        if self.letter is not None:
            error = self.letter.error
            return f"a dead letter, {shown_error(error.type or error.code, error.message)}"
        if number < len(self.outputs):
            return _value(codec, block, self.first + number)
        return f"nothing ({self.reason})" if self.reason else "nothing"


_Step = tuple[Block, Sequence[DeadLetter]]


def _outcome(codec: Codec, before: _Step, after: _Step) -> Found | None:
    """The first input that became something else."""
    block, now = before[0], after[0]
    one, other = _outcomes(*before), _outcomes(*after)
    for offset in sorted({*one, *other}):
        was, came = one.get(offset, _Outcome()), other.get(offset, _Outcome())
        if was.same(came):
            continue
        pairs = enumerate(zip_longest(was.outputs, came.outputs))
        number = next((number for number, (left, right) in pairs if left != right), 0)
        first = was.first if was.first >= 0 else came.first
        letter = was.letter or came.letter
        event = f"{block.stage}@{block.base + first + number}" if first >= 0 or letter is None else _failed(letter)
        has_inputs = any(isinstance(each, Slice) for each in block.inputs)
        return Found(
            what=_kind(was, came, number),
            event=event,
            recorded=was.text(codec, block, number),
            replayed=came.text(codec, now, number),
            offset=offset if has_inputs and not isinstance(block.parents, Since) else None,
        )
    return None


def _kind(was: _Outcome, came: _Outcome, number: int) -> str:
    if was.letter is not None or came.letter is not None:
        return "dead letter"
    if number >= len(was.outputs) or number >= len(came.outputs):
        return "count"
    return "value" if was.outputs[number][0] != came.outputs[number][0] else "type"


def _outcomes(block: Block, letters: Sequence[DeadLetter]) -> dict[int, _Outcome]:
    """By offset of the input (of the output, where it comes from many) what became of it."""
    found: dict[int, _Outcome] = {}
    for lost in block.errors:
        for offset in expand(lost.runs):
            found[offset] = _Outcome(reason=lost.reason)
    raws = msgspec.msgpack.decode(block.payloads, type=list[msgspec.Raw]) if block.count else []
    kinds = [block.types] * block.count if isinstance(block.types, int) else block.types
    for number, (offset, raw, kind) in enumerate(zip(_origins(block), raws, kinds, strict=True)):
        outcome = found.setdefault(offset, _Outcome())
        if outcome.first < 0:
            outcome.first = number
        outcome.outputs.append((bytes(raw), kind))
    start = next((each.start for each in block.inputs if isinstance(each, Slice)), 0)
    for letter in letters:
        found.setdefault(max(0, letter.event - start), _Outcome()).letter = letter
    return found


def _origins(block: Block) -> list[int]:
    match block.parents:
        case Offsets(runs) | Paired(runs):
            return list(expand(runs))
        case None if any(isinstance(each, Slice) for each in block.inputs):
            gone = {offset for lost in block.errors for offset in expand(lost.runs)}
            return list(islice((offset for offset in count() if offset not in gone), block.count))
    return list(range(block.count))


def _value(codec: Codec, block: Block, number: int) -> str:
    value = codec.decode(block)[number]
    if not isinstance(value, Undecoded):
        return shown(value)
    raw = msgspec.msgpack.decode(value.raw)
    return f"{shown(raw)} (does not decode as what {block.stage} declares now)"


def _same_letter(one: DeadLetter, other: DeadLetter) -> bool:
    return _told(one) == _told(other)


def _told(letter: DeadLetter) -> tuple[object, ...]:
    """What of a letter does not depend on where the code stands."""
    error = letter.error
    return letter.stage, letter.upstream, letter.event, letter.payload, letter.place, error.kind, error.code, error.type, error.message


def _failed(letter: DeadLetter) -> str:
    return f"{letter.upstream}@{letter.event}" if letter.upstream else letter.place or letter.stage


def shown_error(kind: str, message: str) -> str:
    """An error in one line."""
    text = f"{kind}: {message}"
    return text if len(text) <= _MOST else f"{text[: _MOST - 1]}…"


def _columns(block: Block, now: Block) -> Found | None:
    """What else a block says."""
    for name in ("parents", "inputs", "keys", "times", "depth"):
        if getattr(block, name) != getattr(now, name):
            if name == "parents" and not isinstance(block.parents, Paired | Since) and not isinstance(now.parents, Paired | Since):
                continue  # the same origins, said or left unsaid: each was compared with its input
            what = "parents" if name == "parents" else "position"
            return Found(what=what, event=_first(block), recorded=shown(getattr(block, name)), replayed=shown(getattr(now, name)))
    one, other = block.cursor, now.cursor
    if one is not None and other is not None and (one.next, one.taken, one.within) != (other.next, other.taken, other.within):
        return Found(what="position", event=_first(block), recorded=shown(one), replayed=shown(other))
    return None


# -- reasons --------------------------------------------------------------------------------------


def moods_of(node: Node) -> tuple[str, ...]:
    """What the code of a stage asks the machine for, as sentences: clocks and chance that differ at each call."""
    found: dict[str, str] = {}
    seen: set[int] = set()
    for value in vars(node).values():
        for mood in _moods(value, seen):
            found[mood] = f"{node.name} uses {mood}, which differs at every call: use {_DRAWS[mood.partition('.')[0]]}"
    return tuple(found.values())


def _moods(value: object, seen: set[int]) -> Iterator[str]:
    if id(value) in seen:
        return
    seen.add(id(value))
    match value:
        case types.FunctionType():
            names = _names(value.__code__)
            known = {**value.__globals__, **_closed(value)}
            for name in names:
                yield from _asked(known.get(name), names)
                if isinstance(inner := known.get(name), types.FunctionType | type) and inner.__module__ == value.__module__:
                    yield from _moods(inner, seen)
        case type():
            for member in vars(value).values():
                function = getattr(member, "__func__", member)
                if isinstance(function, types.FunctionType):
                    yield from _moods(function, seen)


def _closed(function: types.FunctionType) -> dict[str, Any]:
    """What a function closes over."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return {name: cell.cell_contents for name, cell in cells if cell != types.CellType()}


def _asked(named: object, names: Sequence[str]) -> Iterator[str]:
    """What a name stands for: such a function itself, or a module or class of which one is named beside it."""
    if isinstance(named, types.ModuleType):
        for name in names:
            member = vars(named).get(name)
            if _hashable(member) and member in _MOODS:
                yield _MOODS[member]
            elif isinstance(member, type) and member in _CLASSES:
                yield from _asked(member, names)
    elif isinstance(named, type) and named in _CLASSES:
        yield from (f"datetime.{named.__name__}.{name}" for name in names if name in _CLASSES[named])
    elif _hashable(named) and named in _MOODS:
        yield _MOODS[named]


def _hashable(value: object) -> bool:
    return isinstance(value, types.BuiltinFunctionType | types.FunctionType | types.MethodType)


def _names(code: types.CodeType) -> list[str]:
    inner = [name for const in code.co_consts if isinstance(const, types.CodeType) for name in _names(const)]
    return [*code.co_names, *code.co_freevars, *inner]
