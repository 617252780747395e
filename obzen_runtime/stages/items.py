"""What a source yields beside its events: rows that are none, and places; and how its function asks to begin at a place.

An offset belongs to the source: a number, a text, a tuple of these, a frozen struct. It is kept in the journal as
msgpack, and given back as the type that the source's `At[offset, item]` names.
"""

import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Generic, TypeVar

import msgspec

from obzen_runtime.kernel import ErrorInfo, UsageError

__all__ = ["At", "Bad", "Offset", "asks_for_offset", "offset_reader", "raw_of"]

O = TypeVar("O")  # noqa: E741 - offset
T = TypeVar("T")


class Bad(msgspec.Struct, frozen=True):
    """What a source yields for a row that is no event: it becomes a dead letter with its place, and the source goes on.

    A source that gives offsets gives it one too: `oz.At(offset, oz.Bad(row, error))`.

    Raises `UsageError` for values of other types: they would stand in the journal, where nobody could read them back.
    """

    raw: bytes | str
    """The row as it stands in the input."""
    error: BaseException | ErrorInfo | str
    """What is wrong with it."""
    place: str = ""
    """Where it stands, such as `flights.csv:17`."""

    def __post_init__(self) -> None:
        for name, kinds in _BAD.items():
            value = getattr(self, name)
            if not isinstance(value, kinds):
                raise UsageError(
                    f"oz.Bad: {name}={value!r} is of type {type(value).__name__}",
                    remedy=f"Give {' or '.join(each.__name__ for each in kinds)}.",
                )
        if isinstance(self.error, ErrorInfo):
            try:
                _read_error(_encode(self.error))
            except (msgspec.MsgspecError, TypeError, ValueError) as error:
                raise UsageError(f"oz.Bad: its ErrorInfo cannot be kept: {error}", remedy="Give a text or an exception.") from error


_BAD: Final = {"raw": (bytes, str), "error": (BaseException, ErrorInfo, str), "place": (str,)}
_encode = msgspec.msgpack.Encoder().encode
_read_error = msgspec.msgpack.Decoder(ErrorInfo).decode


def raw_of(bad: Bad) -> bytes:
    """The row's bytes; also of a text that is no Unicode."""
    return bad.raw.encode(errors="surrogatepass") if isinstance(bad.raw, str) else bad.raw


class At(msgspec.Struct, Generic[O, T], frozen=True):
    """What a source yields to say where an item stands: given `offset` as its start, the source goes on with what follows it."""

    offset: O
    """Any value msgpack can hold. It is read back as the type that the return annotation names; where it names none, arrays are tuples."""
    item: T
    """The event, or a `Bad`."""


class _Offset:
    def __repr__(self) -> str:
        return "oz.Offset"


_OFFSET: Final = _Offset()

Offset = Annotated[Any, _OFFSET]
"""Annotates the parameter of a source that takes where to begin: `start: oz.Offset | None = None`.

None begins at the beginning; else it is the last `At.offset` in the journal. `Annotated[int, oz.Offset]` also says its type.
"""


def asks_for_offset(annotation: Any) -> bool:
    """Whether a parameter is annotated `Offset`, alone, in a union or as a mark of another type."""
    if annotation is _OFFSET or annotation is Offset:
        return True
    marks = getattr(annotation, "__metadata__", ())
    return any(map(asks_for_offset, (*marks, *typing.get_args(annotation))))


def offset_reader(hints: Mapping[str, Any]) -> Callable[[bytes], Any]:
    """How the offsets of a function with these annotations are read back."""
    kind = _offset_of(hints.get("return"))
    if kind in (Any, None) or isinstance(kind, TypeVar):
        decode_any = msgspec.msgpack.Decoder().decode
        return lambda mark: _frozen(decode_any(mark))
    decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(kind)
    return decoder.decode


def _offset_of(annotation: Any) -> Any:
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is At:
        return arguments[0]
    return next((found for each in arguments if (found := _offset_of(each)) is not None), None)


def _frozen(value: Any) -> Any:
    """A value that came back as msgpack has it: its arrays are tuples again."""
    if isinstance(value, list):
        return tuple(map(_frozen, value))
    if isinstance(value, dict):
        return {key: _frozen(each) for key, each in value.items()}
    return value
