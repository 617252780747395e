"""Which payload types may cross an edge.

What crosses must survive the codec, because a restart, a resume and a replay read it back. So payloads are values:
numbers, text, bytes, enums, dates in UTC, tuples, frozen structs and frozen dataclasses of these. Mutable ones are
accepted under `Annotated[T, copied]`: consumers then get decoded copies, never the producer's object.
"""

import dataclasses
import datetime
import decimal
import enum
import itertools
import types
import typing
import uuid
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar, Union

import msgspec
import msgspec.inspect

from obzen_runtime.stages.schema import Declared, copied, renamed, text_of

__all__ = ["payload_problem", "same_class"]

_SCALARS = (
    int,
    float,
    bool,
    str,
    bytes,
    type(None),
    uuid.UUID,
    decimal.Decimal,
    datetime.datetime,
    datetime.date,
    datetime.time,
    datetime.timedelta,
)


def payload_problem(declared: Declared) -> str | None:
    """Why a declared type cannot cross an edge, with the fix; None when it can."""
    text, annotation = declared.text, declared.annotation
    try:
        msgspec.msgpack.Decoder(list[annotation])  # type: ignore[valid-type]
        foreign = _foreign(msgspec.inspect.type_info(annotation))
    except Exception as error:  # msgspec refuses what it cannot decode in several ways
        return f"{text} cannot cross an edge: {error}"
    if foreign:
        return f"{text} cannot cross an edge: the log cannot hold {foreign}; put what is in it into a frozen struct"
    if not declared.copied and (why := _mutable(annotation, frozenset())):
        return f"{text} cannot cross an edge: {why}; use what cannot (a frozen struct, a tuple), or declare it as oz.Copied[{text}]"
    return None


def same_class(declared: Sequence[Declared]) -> tuple[Declared, Declared] | None:
    """Two declared types whose events are of one class, so that nobody could say which of them an event is."""
    for one, other in itertools.combinations(declared, 2):
        if one.origin is other.origin and renamed(one.annotation) != renamed(other.annotation):
            return one, other
    return None


def _foreign(info: msgspec.inspect.Type) -> str:
    """A class inside a type that msgspec does not know; empty when there is none."""
    waiting: list[Any] = [info]
    seen: set[int] = set()
    while waiting:
        part = waiting.pop()
        if isinstance(part, msgspec.inspect.CustomType):
            return part.cls.__name__
        if isinstance(part, tuple):
            waiting.extend(part)
        elif isinstance(part, msgspec.inspect.Type | msgspec.inspect.Field) and id(part) not in seen:
            seen.add(id(part))
            waiting.extend(getattr(part, name) for name in part.__struct_fields__ if name != "default")
    return ""


def _mutable(annotation: Any, seen: frozenset[Any]) -> str | None:
    """What in a type can change or is unknown, or None."""
    annotation = renamed(annotation)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return None if any(extra is copied for extra in arguments[1:]) else _mutable(arguments[0], seen)
    if origin is typing.Literal:
        return None
    if origin in (Union, types.UnionType):
        return next(filter(None, (_mutable(member, seen) for member in arguments)), None)
    if origin is tuple or annotation is tuple:
        if annotation in (tuple, typing.Tuple):  # noqa: UP006 - the bare old name
            return "a bare tuple may hold what can change"
        return next(filter(None, (_mutable(member, seen) for member in arguments if member is not ...)), None)
    plain = origin or annotation
    if isinstance(plain, TypeVar) or plain is Any:
        return f"{text_of(annotation)} may be what can change"
    if not isinstance(plain, type):
        return f"{text_of(annotation)} is not a plain type"
    return None if annotation in seen else _mutable_class(plain, arguments, seen | {annotation})


def _mutable_class(plain: type, arguments: tuple[Any, ...], seen: frozenset[Any]) -> str | None:
    if plain in _SCALARS or issubclass(plain, enum.Enum):
        return None
    if issubclass(plain, msgspec.Struct):
        if not plain.__struct_config__.frozen:
            return f"{plain.__name__} is a struct that can change"
    elif dataclasses.is_dataclass(plain):
        if not plain.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            return f"{plain.__name__} is a dataclass that can change"
    elif issubclass(plain, frozenset):
        return "the order in a frozenset can change from one process to the next"
    elif not (issubclass(plain, tuple) and hasattr(plain, "_fields")):
        return f"{plain.__name__} can change"
    given = dict(zip(getattr(plain, "__parameters__", ()), arguments, strict=False))
    for field, kind in typing.get_type_hints(plain, include_extras=True).items():
        if typing.get_origin(kind) is typing.ClassVar:
            continue
        if why := _mutable(_filled(kind, given), seen):
            return f"{plain.__name__}.{field}: {why}"
    return None


def _filled(kind: Any, given: Mapping[Any, Any]) -> Any:
    """The annotation of a generic class's field, with its type variables replaced by what is given for them."""
    if isinstance(kind, TypeVar):
        return given.get(kind, kind)
    open_ = () if isinstance(kind, type) else getattr(kind, "__parameters__", ())
    return kind[tuple(given.get(each, each) for each in open_)] if open_ else kind
