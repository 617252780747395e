"""What may cross an edge, and what is refused with its fix."""

import collections
import dataclasses
import datetime
import decimal
import enum
import typing
import uuid
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple, NewType, Protocol, TypedDict, TypeVar

import msgspec
import pytest

import obzen_runtime as oz
from obzen_runtime.stages.crossing import payload_problem
from obzen_runtime.stages.schema import Declared, declare

T = TypeVar("T")


class Frozen(msgspec.Struct, frozen=True):
    a: int


class Mutable(msgspec.Struct):
    a: int


class Tree(msgspec.Struct, frozen=True):
    left: "Tree | None" = None
    right: "Tree | None" = None


class Holder(msgspec.Struct, frozen=True):
    constant: ClassVar[dict[str, int]] = {}
    inner: Frozen
    many: tuple[Frozen, ...] = ()


class Leaky(msgspec.Struct, frozen=True):
    inner: Mutable


class DeepLeak(msgspec.Struct, frozen=True):
    deep: tuple[Leaky, ...]


@dataclasses.dataclass(frozen=True)
class FrozenData:
    a: int
    b: Frozen


@dataclasses.dataclass
class MutableData:
    a: int


class Pair(NamedTuple):
    a: int
    b: int


class OpenPair(NamedTuple):
    a: int
    b: list[int]


class Record(TypedDict):
    a: int


class Boxed(msgspec.Struct, Generic[T], frozen=True):
    value: T


class Chain(msgspec.Struct, Generic[T], frozen=True):
    values: tuple[T, ...]
    rest: "Chain[T] | None" = None


class Holding(msgspec.Struct, frozen=True):
    number: int = 3
    inner: "tuple[Opaque | None, ...]" = ()


class Shape(Protocol):
    a: int


class Colour(enum.Enum):
    RED = 1


class Opaque:
    pass


UserId = NewType("UserId", int)


VALUES = [
    int,
    float,
    bool,
    str,
    bytes,
    uuid.UUID,
    decimal.Decimal,
    datetime.datetime,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    Colour,
    Frozen,
    FrozenData,
    Holder,
    Tree,
    UserId,
    Literal["a", "b"],
    Pair,
    Boxed[int],
    Boxed[Boxed[str]],
    Chain[int],
    tuple[int, ...],
    tuple[int, tuple[str, Frozen]],
    tuple[()],
    tuple[int | None, ...],
    Annotated[int, msgspec.Meta(ge=0)],
    oz.Copied[dict[str, list[int]]],
    oz.Copied[Mutable],
    oz.Copied[MutableData],
    oz.Copied[list[Any]],
    oz.Copied[Any],
    oz.Copied[Record],
    oz.Copied[Mapping[str, int]],
    oz.Copied[frozenset[str]],
    oz.Copied[dict[str, int] | list[int]],
]


@pytest.mark.parametrize("kind", VALUES, ids=str)
def test_values_cross_an_edge(kind):
    [declared] = declare(kind)[0]
    assert payload_problem(declared) is None


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (list[int], "list can change"),
        (list, "list can change"),
        (dict[str, int], "dict can change"),
        (set[int], "set can change"),
        (bytearray, "bytearray can change"),
        (Mutable, "Mutable is a struct that can change"),
        (MutableData, "MutableData is a dataclass that can change"),
        (frozenset[str], "the order in a frozenset can change"),
        (Sequence[int], "Sequence can change"),
        (Record, "Record can change"),
        (OpenPair, "OpenPair.b: list can change"),
        (Boxed[list[int]], "Boxed.value: list can change"),
        (Boxed[Boxed[list[int]]], "Boxed.value: Boxed.value: list can change"),
        (Chain[list[int]], "Chain.values: list can change"),
        (Boxed, "~T may be what can change"),
        (tuple, "a bare tuple"),
        (typing.Tuple, "a bare tuple"),  # noqa: UP006 - the old spelling
        (tuple[int, list[int]], "list can change"),
        (tuple[Mutable, ...], "Mutable is a struct that can change"),
        (Leaky, "Leaky.inner: Mutable is a struct that can change"),
        (DeepLeak, "DeepLeak.deep: Leaky.inner: Mutable is a struct"),
        (Annotated[list[int], "note"], "list can change"),
        (NewType("Ids", list[int]), "list can change"),
        (tuple[Any, ...], "Any may be what can change"),
        (tuple[typing.TypeVar("T"), ...], "may be what can change"),
        (typing.Final[int], "Final[int] is not a plain type"),
    ],
    ids=str,
)
def test_what_can_change_is_refused_naming_the_place_and_both_fixes(kind, why):
    [declared] = declare(kind)[0]
    problem = payload_problem(declared)
    assert why in problem
    assert "use what cannot (a frozen struct, a tuple), or declare it as" in problem
    assert "oz.Copied[" in problem


@pytest.mark.parametrize("kind", [oz.Copied[int | list[int] | set[int]], oz.Copied[Frozen | Mutable]], ids=str)
def test_what_no_codec_reads_back_is_refused_also_when_copied(kind):
    assert "cannot cross an edge" in payload_problem(declare(kind)[0][0])


@pytest.mark.parametrize("kind", [complex, Opaque, Shape, ValueError, collections.deque[int], Boxed[Opaque], Holding], ids=str)
@pytest.mark.parametrize("copied", [False, True])
def test_what_the_log_cannot_hold_is_refused_also_when_copied(kind, copied):
    problem = payload_problem(declare(oz.Copied[kind] if copied else kind)[0][0])
    assert "the log cannot hold" in problem
    assert "oz.Copied" not in problem


def test_a_copied_field_may_change():
    class Open(msgspec.Struct, frozen=True):
        tags: oz.Copied[list[str]]

    assert payload_problem(Declared(Open, Open)) is None


def test_a_union_inside_is_looked_into():
    class Either(msgspec.Struct, frozen=True):
        value: int | list[int]

    assert "Either.value" in payload_problem(Declared(Either, Either))
