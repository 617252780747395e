"""Payload types change while journals stay: which version of a type was written, and how an old one becomes a new one.

A class says its version with `@oz.schema`. A run writes down the versions it was started with, and, where it is gone on
with under others, from which event on those hold. So a block of an earlier schema is known by its ordinals, and only
such blocks take the slow way: each event is read as plain data, brought up by its class, and checked as if it had come
from the log that way.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

import msgspec

from obzen_runtime.events import Block
from obzen_runtime.kernel import ErrorInfo, UsageError, classify
from obzen_runtime.stages.edge import Entry
from obzen_runtime.stages.schema import Declared

__all__ = ["Reader", "Undecoded", "Upcast", "schema", "set_apart", "versions_of"]

Upcast = Callable[[Any, int], Any]
"""Takes an old payload as plain data and its version; returns plain data, or an instance, of the present version."""

_T = TypeVar("_T", bound=type)
_MARK = "__obzen_schema__"
_UNDECODABLE = "undecodable"
_ENCODE = msgspec.msgpack.Encoder().encode
_PLAIN = msgspec.msgpack.Decoder().decode
_RAWS = msgspec.msgpack.Decoder(list[msgspec.Raw])
_FIRST_VERSION = 1


class _Schema(NamedTuple):
    version: int
    upcast: Upcast | None


_UNSAID = _Schema(_FIRST_VERSION, None)


def schema(*, version: int, upcast: Upcast | None = None) -> Callable[[_T], _T]:
    """Say which version of a payload class this is: `@oz.schema(version=2, upcast=fn)`. A class without it is version 1.

    `fn(old, was)` takes the payload of an older event as plain data, as msgpack holds it (a struct is a dict of its
    fields, `array_like` ones a list), and the version `was` it was written in, from 1 to `version - 1`; it returns plain
    data or an instance of the class as it is now. It is called when such an event is read again: by a resume, a restart,
    a replay. One that it raises for becomes a dead letter, with its bytes. It must depend on its arguments alone.

    A change that old payloads decode under (a new field with a default, a field left out) needs neither. What counts is
    the class that crosses the edge: when a struct inside it changes, its own version rises.
    Raises `UsageError` for a version below 1, or above 1 without `upcast`.
    """
    if not isinstance(version, int) or isinstance(version, bool) or version < _FIRST_VERSION:
        raise UsageError(f"@oz.schema(version={version!r}): versions are whole numbers from 1 on", remedy="Write version=2 for the second.")
    if version > _FIRST_VERSION and not callable(upcast):
        raise UsageError(
            f"@oz.schema(version={version}) has no upcast, so nothing is said about older payloads",
            remedy="Give upcast=fn, a function of (plain data, version) that returns the present form.",
        )

    def mark(kind: _T) -> _T:
        if not isinstance(kind, type):
            raise UsageError(
                f"@oz.schema stands above a class, not above {kind!r}", remedy="Put it above the payload's struct or dataclass."
            )
        setattr(kind, _MARK, _Schema(version, upcast))
        return kind

    return mark


def _schema_of(kind: type) -> _Schema:
    """What a class says of itself; what it inherits is said of another."""
    said = vars(kind).get(_MARK, _UNSAID)
    return said if isinstance(said, _Schema) else _UNSAID


def versions_of(declared: Sequence[Declared]) -> dict[str, int]:
    """The version of each declared type, by its text, in declared order: what `types` columns index."""
    return {each.text: _schema_of(each.origin).version for each in declared}


class Undecoded(msgspec.Struct, frozen=True):
    """Stands for an event that was written under an earlier schema and cannot be read as what its stage declares now."""

    raw: bytes
    """Its bytes."""
    number: int
    """Index into the output types that were declared then."""
    error: ErrorInfo
    kind: type
    """The class it would be, `Undecoded` itself where none is declared in its place."""


def set_apart(entry: Entry) -> list[Entry]:
    """Cut an entry where events that cannot be decoded begin or end; returns what is behind the first cut."""
    parts = [entry]
    if not any(map(_is_bad, entry.items or ())):
        return []
    for bad, some in groupby((entry.items or ())[entry.done :], key=_is_bad):
        last, held = parts[-1], list(some)
        if last.done + len(held) < last.count:
            parts.append(last.cut(last.done + len(held)))
        if bad:
            last.items, last.bad = None, held
    return parts[1:]


def _is_bad(item: Any) -> bool:
    return isinstance(item, Undecoded)


class Reader:
    """Reads blocks of one earlier schema of a stage."""

    def __init__(self, stage: str, declared: Sequence[Declared], written: Mapping[str, int]) -> None:
        self._stage = stage
        self._declared = declared
        self._written = tuple(written.items()) or tuple((each.text, _FIRST_VERSION) for each in declared)
        self._decoders = [msgspec.msgpack.Decoder(each.annotation) for each in declared]
        self._now = [self._find(number) for number in range(len(self._written))]

    def _find(self, number: int) -> int | None:
        """Which declared type the one of that number is today: that of its name, or the one that took its place."""
        texts = [each.text for each in self._declared]
        text, _ = self._written[number]
        if text in texts:
            return texts.index(text)
        free = number < len(texts) and texts[number] not in dict(self._written)
        return number if free else None

    def read(self, block: Block) -> list[Any]:
        """The events of a block; `Undecoded` stands for each that cannot be read."""
        numbers = [block.types] * block.count if isinstance(block.types, int) else list(block.types)
        return [self._one(bytes(raw), number) for raw, number in zip(_RAWS.decode(block.payloads), numbers, strict=True)]

    def kinds(self, numbers: Sequence[int]) -> list[type]:
        """The classes declared today in the place of types of these numbers."""
        places = [self._now[number] if number < len(self._now) else None for number in numbers]
        return [Undecoded if now is None else self._declared[now].origin for now in places]

    def _one(self, raw: bytes, number: int) -> Any:
        now = self._now[number] if number < len(self._now) else None
        if now is None:
            name = self._written[number][0] if number < len(self._written) else f"type {number}"
            return self._undecoded(raw, number, f"{self._stage} declares no {name} any more", Undecoded)
        text, version = self._written[number]
        said = _schema_of(self._declared[now].origin)
        try:
            upcast = said.upcast if version < said.version else None
            return self._decoders[now].decode(raw if upcast is None else _ENCODE(upcast(_PLAIN(raw), version)))
        except Exception as error:
            why = classify(error)
            through = f", brought up from version {version}" if version < said.version else ""
            what = f"a {text} written earlier does not decode as {self._declared[now].text}{through}: {why.message}"
            return self._undecoded(raw, number, what, self._declared[now].origin)

    def _undecoded(self, raw: bytes, number: int, why: str, kind: type) -> Undecoded:
        error = ErrorInfo(
            kind="VALIDATION",
            code=_UNDECODABLE,
            message=why,
            remedy="Declare @oz.schema(version=..., upcast=...) on the class, then `obzen dead-letters RUN --requeue`.",
            category="user",
            details={"stage": self._stage},
        )
        return Undecoded(raw, number, error, kind)
