"""How keys and values of a state become bytes, so that they come back as exactly what they were.

Scalars are written as themselves, containers spelled out with what they are, all else (and what is large) by its
annotation. What comes back as something else is refused, and such a state is not kept.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from obzen_runtime.stages.codec import difference

__all__ = ["CODEC_ERRORS", "Shape", "Unkept", "form_of", "same"]

CODEC_ERRORS = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError, LookupError)
"""What encoding or decoding a user's value raises when it cannot be done."""
_ENCODE = msgspec.msgpack.Encoder().encode
_EXACT = frozenset({int, str, bool, float, bytes, type(None)})


class Unkept(Exception):
    """State that does not come back from its bytes as it was."""


def form_of(annotations: Iterable[Any]) -> str:
    """A hash of types that changes when state of these types would be read as another."""
    forms: list[Any] = []
    for annotation in annotations:
        try:
            forms.append(msgspec.json.schema(annotation))
        except (TypeError, ValueError):
            forms.append(str(annotation))
    return hashlib.sha256(msgspec.json.encode(forms, order="sorted")).hexdigest()


class Shape:
    """How values of an annotated (or unknown) type become bytes and are exactly themselves again."""

    def __init__(self, annotation: Any) -> None:
        self.annotation = annotation
        self._trusted: bool | None = None
        try:
            self._typed: msgspec.msgpack.Decoder[Any] | None = msgspec.msgpack.Decoder(annotation)
        except TypeError:
            self._typed = None

    def pack(self, values: Sequence[Any]) -> list[Any]:
        """What stands for these values in a page; raises `Unkept`."""
        if _EXACT.issuperset(map(type, values)):
            return [0, list(values)]
        try:
            return [1, [_spelled(value) for value in values]]
        except Unkept:
            packed = [2, [_ENCODE(value) for value in values]]
            for value, back in zip(values, self.unpack(packed), strict=True):
                _same(value, back)
            return packed

    def pack_large(self, value: Any) -> list[Any]:
        """As `pack` for one value that may be large: by its annotation when that brought the first one back."""
        if type(value) in _EXACT:
            return [0, [value]]
        if self._trusted is None:
            self._trusted = self._comes_back(value)
        return [2, [_ENCODE(value)]] if self._trusted else self.pack([value])

    def _comes_back(self, value: Any) -> bool:
        try:
            return self._typed is not None and difference(value, self._typed.decode(_ENCODE(value)), "") is None
        except CODEC_ERRORS:
            return False

    def unpack(self, packed: Sequence[Any]) -> list[Any]:
        """The values again."""
        how, values = packed
        if how == 0:
            return list(values)
        if how == 1:
            return [_read(value) for value in values]
        if self._typed is None:
            raise Unkept(f"{self.annotation!r} cannot be decoded")
        return [self._typed.decode(value) for value in values]


def _spelled(value: Any) -> Any:
    """Scalars are themselves, containers say what they are."""
    kind = type(value)
    if kind in _EXACT:
        return value
    if kind is tuple:
        return ["t", *map(_spelled, value)]
    if kind is list:
        return ["l", *map(_spelled, value)]
    if kind is dict:
        return ["d", *((_spelled(key), _spelled(each)) for key, each in value.items())]
    raise Unkept(f"{value!r} ({kind.__name__}) does not say what it is")


def _read(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    parts: Iterator[Any] = iter(value)
    match next(parts):
        case "t":
            return tuple(map(_read, parts))
        case "l":
            return list(map(_read, parts))
        case "d":
            return {_read(key): _read(each) for key, each in parts}
        case other:
            raise Unkept(f"unknown spelling {other!r}")


def same(live: Sequence[Any], back: Sequence[Any]) -> None:
    """Raise `Unkept` at the first value that came back as another."""
    if len(live) != len(back):
        raise Unkept(f"{len(live)} values came back as {len(back)}")
    for one, other in zip(live, back, strict=True):
        _same(one, other)


def _same(live: Any, back: Any) -> None:
    found = difference(live, back, "")
    if found is not None:
        path, one, other = found
        raise Unkept(f"{type(live).__name__}{path} is {one!r} ({type(one).__name__}) and comes back as {other!r} ({type(other).__name__})")
