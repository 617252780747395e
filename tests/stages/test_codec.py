"""What crosses an edge comes back as it was, or the stage says what does not."""

import datetime
import decimal
import enum
import math
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, TypedDict, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import obzen_runtime as oz
from obzen_runtime.events import Block
from obzen_runtime.stages import Codec, difference
from obzen_runtime.stages.schema import declare
from tests.stages.kit import Seen, ints, play, small_blocks, source_of


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Inner(msgspec.Struct, frozen=True):
    amount: float
    tags: tuple[str, ...] = ()


class Outer(msgspec.Struct, frozen=True):
    inner: Inner
    more: tuple[Inner, ...] = ()
    price: decimal.Decimal = decimal.Decimal(0)
    flag: int = 0
    colour: Colour = Colour.RED
    level: Level = Level.LOW
    at: datetime.datetime | None = None


@dataclass(frozen=True)
class Point:
    x: float
    y: float


class Base(msgspec.Struct, frozen=True):
    a: int


class Derived(Base, frozen=True):
    b: int = 0


class Nest(msgspec.Struct, frozen=True):
    number: float
    inner: "Nest | None"


class Pair(NamedTuple):
    a: int
    b: float


class Titled(TypedDict):
    a: int


T = TypeVar("T")


class Boxed(msgspec.Struct, Generic[T], frozen=True):
    value: T


UTC = datetime.UTC
AWARE = datetime.datetime(2024, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)


def given_by(item, kind):
    """A flow of three good events and this one."""

    @oz.transform
    def make(x: int) -> Any:
        return item

    make = source_to(make.handler, kind)
    seen = Seen()
    return play(oz.Flow("f", ints(1) >> make >> seen.sink(kind))), seen


def source_to(handler, kind):
    handler.__annotations__["return"] = kind
    return oz.transform(handler).named("make")


GOOD = [
    (5, int),
    (-(2**63), int),
    (2**64 - 1, int),
    (1.0, float),
    (math.nan, float),
    (math.inf, float),
    (-0.0, float),
    (True, bool),
    ("x\u00e4\U0001f600", str),
    (b"\x00\xff", bytes),
    (uuid.UUID(int=7), uuid.UUID),
    (decimal.Decimal("1.10"), decimal.Decimal),
    (decimal.Decimal("NaN"), decimal.Decimal),
    (Colour.RED, Colour),
    (Level.LOW, Level),
    (AWARE, datetime.datetime),
    (datetime.datetime(2024, 1, 2, 3), datetime.datetime),  # noqa: DTZ001 - a naive one is the subject
    (datetime.date(2024, 1, 2), datetime.date),
    (datetime.time(1, 2, 3), datetime.time),
    (datetime.timedelta(days=1, microseconds=5), datetime.timedelta),
    (((1, "a"), ()), tuple[tuple[int, str], tuple[()]]),
    (Outer(Inner(1.0, ("a",)), (Inner(math.nan),), decimal.Decimal("NaN"), 3, Colour.RED, Level.LOW, AWARE), Outer),
    (Point(1.0, 2.0), Point),
    ({"a": [1, {2}]}, oz.Copied[dict[str, list[int | set[int]]]]),
    ({"a": 1.0, "b": math.nan}, oz.Copied[dict[str, float]]),
    ([[1], []], oz.Copied[list[list[int]]]),
    ({1.0, 2.0}, oz.Copied[set[float]]),
    (Pair(1, 2.0), Pair),
    (Boxed(1), Boxed[int]),
    (Boxed(Boxed("a")), Boxed[Boxed[str]]),
    ({"a": 1}, oz.Copied[Mapping[str, int]]),
    ({"a": 1}, oz.Copied[Titled]),
    ([1, "a", {"b": None}], oz.Copied[Any]),
    ("a", oz.Copied[Any]),
    ("a", Literal["a", 1]),
    (1, Literal["a", 1]),
]


@pytest.mark.parametrize(("item", "kind"), GOOD, ids=repr)
def test_values_cross_an_edge(item, kind):
    done, seen = given_by(item, kind)
    assert done.error is None, done.error
    assert not done.letters()
    assert difference(item, seen[0], "") is None
    assert type(seen[0]) is type(item)


BAD = [
    (Inner(1), Inner, ".amount", "1 (int)", "1.0 (float)"),
    (Outer(Inner(2)), Outer, ".inner.amount", "2 (int)", "2.0 (float)"),
    (Outer(Inner(1.0), (Inner(1.0), Inner(3))), Outer, ".more[1].amount", "3 (int)", "3.0 (float)"),
    (Outer(Inner(1.0), price="1.5"), Outer, ".price", "'1.5' (str)", "Decimal('1.5') (Decimal)"),
    (Outer(Inner(1.0), colour="red"), Outer, ".colour", "'red' (str)", "Colour"),
    (Outer(Inner(1.0), level=1), Outer, ".level", "1 (int)", "Level"),
    (Outer(Inner(1.0), flag=Level.LOW), Outer, ".flag", "Level", "1 (int)"),
    (Inner(1.0, ["a"]), Inner, ".tags", "['a'] (list)", "('a',) (tuple)"),
    (
        Outer(Inner(1.0), at=AWARE.astimezone(datetime.timezone(datetime.timedelta(hours=2)))),
        Outer,
        ".at",
        "timedelta",
        "datetime.timezone.utc",
    ),
    (Point(1, 2.0), Point, ".x", "1 (int)", "1.0 (float)"),
    ((1.0, 2), tuple[float, float], "[1]", "2 (int)", "2.0 (float)"),
    ({"a": 1}, oz.Copied[dict[str, float]], "['a']", "1 (int)", "1.0 (float)"),
    ({"a": 1}, oz.Copied[dict[Any, int]], None, None, None),
    ({1, 2}, oz.Copied[set[float]], "", "{1, 2} (set)", "{1.0, 2.0} (set)"),
    (Pair(1, 2), Pair, "[1]", "2 (int)", "2.0 (float)"),
    (Boxed(1), Boxed[float], ".value", "1 (int)", "1.0 (float)"),
    ((1,), oz.Copied[Any], "", "(1,) (tuple)", "[1] (list)"),
    (Derived(1, 2), Base, "", "Derived", "Base"),
    (Colour.RED, str, "", "Colour", "'red' (str)"),
]


@pytest.mark.parametrize(("item", "kind", "field", "live", "back"), BAD, ids=repr)
def test_a_value_that_comes_back_different_fails_the_stage_naming_field_and_values(item, kind, field, live, back):
    done, seen = given_by(item, kind)
    if field is None:
        assert done.state == "drained"
        return
    assert done.state == "failed"
    assert seen == []
    error = done.error
    assert error.code == "codec_mismatch"
    for text in ("make", f"{type(item).__name__}{field} is", live, back):
        assert text in error.message
    assert error.details["field"] == (field or "event")
    assert ("UTC" if field == ".at" else "float") in error.remedy


@pytest.mark.parametrize(("item", "kind"), [(Outer(Inner(1.0), flag=True), Outer), (True, int), (Inner("x"), Inner)])
def test_a_value_that_cannot_be_read_back_fails_the_stage(item, kind):
    done, _ = given_by(item, kind)
    assert done.state == "failed"
    assert done.error.code == "codec_mismatch"
    assert getattr(kind, "__name__", "") in done.error.message


def test_nothing_is_committed_by_a_stage_that_fails_the_sample():
    done, _ = given_by(Inner(1), Inner)
    assert done.events("make") == {}
    stage = done.pipeline.stages["make"]
    assert stage.cursor().next.get("s", 0) == 0, "its position is what its last record says"
    assert stage.taken == 0


@pytest.mark.parametrize("late", [Derived(1, 2), Colour.RED, True])
def test_a_subclass_is_refused_also_long_after_the_first_events(late):
    kind = {Derived: Base, Colour: str, bool: int}[type(late)]
    good = {Base: Base(1), str: "x", int: 1}[kind]

    def make(x: int):
        return late if x == 5000 else good

    seen = Seen()
    done = play(oz.Flow("f", ints(6000) >> source_to(make, kind) >> seen.sink(kind)))
    assert done.state == "failed"
    assert done.error.code == "codec_mismatch"


def test_one_block_in_256_is_proved_after_the_first_events():
    def make(x: int):
        return Inner(1.0) if x < 64 else Inner(1)

    seen = Seen()
    done = play(oz.Flow("f", ints(1000) >> source_to(make, Inner) >> seen.sink(Inner), window=oz.Window(events=1)))
    assert done.state == "failed"
    assert 64 < len(seen) < 400


# -- mixed types --------------------------------------------------------------------------------


def test_the_column_of_types_is_one_number_or_a_byte_each():
    @oz.transform
    def mixed(x: int) -> int | str | Inner:
        return x if x < 10 else str(x) if x % 2 else Inner(float(x))

    seen = Seen()
    done = play(oz.Flow("f", ints(20) >> mixed >> seen.sink(int | str | Inner), window=oz.Window(events=10)))
    assert done.state == "drained"
    assert seen == [x if x < 10 else str(x) if x % 2 else Inner(float(x)) for x in range(20)]
    blocks = [block for block in done.blocks("mixed") if block.count]
    assert [type(block.types) for block in blocks] == [int] * (len(blocks) - blocks_mixed(blocks)) + [bytes] * blocks_mixed(blocks)
    assert list(done.events("mixed").values()) == list(seen)


def blocks_mixed(blocks):
    return sum(isinstance(block.types, bytes) for block in blocks)


def test_two_types_of_one_class_are_told_apart_by_the_codec():
    codec = Codec("s", declare(int | str)[0])
    assert codec.types([1, 2], {int}) == 0
    assert codec.types(["a"], {str}) == 1
    assert codec.types([1, "a", 2], {int, str}) == b"\x00\x01\x00"
    assert codec.types([], set()) == 0


@given(st.lists(st.one_of(st.integers(-(2**63), 2**64 - 1), st.text(), st.floats(allow_nan=False), st.booleans())))
def test_mixed_lists_are_read_back_in_order(items):
    codec = Codec("s", declare(int | str | float | bool)[0])
    kinds = set(map(type, items))
    block = oz_block(len(items), codec.encode(items), codec.types(items, kinds))
    assert [(type(item), item) for item in codec.decode(block)] == [(type(item), item) for item in items]


def oz_block(count, payloads, types):
    return Block("s", 0, count, 0, payloads, types)


# -- what cannot be encoded ---------------------------------------------------------------------


def test_an_int_beyond_64_bits_is_a_dead_letter_of_that_event_alone():
    @oz.transform
    def grow(x: int) -> int:
        return 2**70 if x == 50 else x

    seen = Seen()
    done = play(oz.Flow("f", ints(100) >> grow >> seen.sink()))
    assert done.state == "drained"
    assert seen == [x for x in range(100) if x != 50]
    [letter] = done.letters()
    assert (letter.upstream, letter.event, letter.payload, letter.error.code) == ("s", 50, b"\x32", "not_encodable")
    assert done.lost("grow") == {"dead": [50]}
    assert done.parents("grow") == dict(enumerate(("s", x) for x in range(100) if x != 50))
    assert done["grow"].dead == 1


def test_all_outputs_of_the_culprit_are_discarded():
    @oz.transform
    def spread(x: int) -> Iterator[int]:
        yield x
        yield 2**70 if x == 5 else x

    seen = Seen()
    done = play(oz.Flow("f", ints(10) >> spread >> seen.sink()))
    assert seen == [x for x in range(10) if x != 5 for _ in range(2)]
    assert [parent for _, parent in done.parents("spread").values()] == seen
    assert [letter.event for letter in done.letters()] == [5]


def test_a_culprit_in_a_generator_that_is_not_done_ends_its_input():
    @oz.transform
    def spread(x: int) -> Iterator[int]:
        for n in range(5000 if x == 1 else 1):
            yield 2**70 if n == 30 else x

    seen = Seen()
    done = play(oz.Flow("f", ints(4) >> spread >> seen.sink()))
    assert done.state == "drained"
    assert all(verdict.passed for verdict in done.verdicts)
    assert seen == [0, 2, 3]
    assert [letter.event for letter in done.letters()] == [1]
    assert done["spread"].received == 4
    assert [parent for _, parent in done.parents("spread").values()] == seen


def test_an_undeclared_type_is_a_typed_error_naming_stage_expected_and_got():
    @oz.transform
    def wrong(x: int) -> int | str:
        return 1.5 if x == 1 else x

    seen = Seen()
    done = play(oz.Flow("f", ints(3) >> wrong >> seen.sink(int | str)))
    assert seen == [0, 2]
    [letter] = done.letters()
    assert letter.error.details == {"stage": "wrong", "expected": "int | str", "got": "float"}
    assert "expected int | str" in letter.error.message


def test_a_text_that_is_no_unicode_is_a_dead_letter():
    def make(x: int):
        return "\ud800" if x == 1 else "x"

    seen = Seen()
    done = play(oz.Flow("f", ints(3) >> source_to(make, str) >> seen.sink(str)))
    assert seen == ["x", "x"]
    assert len(done.letters()) == 1


@pytest.mark.parametrize("over", [False, True])
def test_an_event_over_16_mib_is_a_dead_letter_and_one_of_just_that_size_is_not(over):
    head = 5
    size = 16 * 1024 * 1024 - head + over

    def make(x: int):
        return bytes(size) if x == 1 else b""

    seen = Seen()
    done = play(oz.Flow("f", ints(3) >> source_to(make, bytes) >> seen.sink(bytes)))
    assert done.state == "drained"
    assert [len(each) for each in seen] == ([0, 0] if over else [0, size, 0])
    assert [letter.error.code for letter in done.letters()] == ["too_large"] * over


@small_blocks()
def test_a_block_over_16_mib_in_sum_is_split():
    def make(x: int):
        if x == 7:
            raise ValueError("seven")
        return None if x == 9 else bytes([x]) * 16_000

    seen = Seen()
    done = play(oz.Flow("f", ints(50) >> source_to(make, bytes | None) >> seen.sink(bytes)))
    assert done.state == "drained"
    kept = [x for x in range(50) if x not in (7, 9)]
    assert [each[0] for each in seen] == kept
    assert [parent for _, parent in done.parents("make").values()] == kept
    assert done.lost("make") == {"dead": [7], "dropped": [9]}
    assert [letter.event for letter in done.letters()] == [7]
    assert all(verdict.passed for verdict in done.verdicts)


@small_blocks()
def test_a_block_over_16_mib_with_a_culprit_in_it_is_split():
    def make(x: int):
        return bytes(17 * 16 * 1024) if x == 20 else bytes([x]) * 16_000

    seen = Seen()
    done = play(oz.Flow("f", ints(40) >> source_to(make, bytes) >> seen.sink(bytes)))
    assert done.state == "drained"
    assert [each[0] for each in seen] == [x for x in range(40) if x != 20]
    assert [letter.event for letter in done.letters()] == [20]


@small_blocks()
def test_outputs_of_one_input_over_16_mib_in_sum_are_split():
    @oz.transform
    def spread(x: int) -> Iterator[bytes]:
        for n in range(45 if x == 1 else 2):
            yield bytes([x, n]) * 8_000

    seen = Seen()
    done = play(oz.Flow("f", ints(3) >> spread >> seen.sink(bytes)))
    assert done.state == "drained"
    assert [tuple(each[:2]) for each in seen] == [(x, n) for x in range(3) for n in range(45 if x == 1 else 2)]
    assert [parent for _, parent in done.parents("spread").values()] == [each[0] for each in seen]
    written = 0
    for block in done.blocks("spread"):
        written += block.count
        assert block.cursor.within == sum(1 for each in seen[:written] if each[0] == block.cursor.taken)


@small_blocks()
def test_a_source_of_large_events_is_split_and_its_position_with_it():
    seen = Seen()
    items = [bytes([n]) * 16_000 for n in range(40)]
    items[10] = oz.Bad("ten", "is bad")
    done = play(oz.Flow("f", source_of(*items, kind=bytes) >> seen.sink(bytes)))
    assert done.state == "drained"
    assert [each[0] for each in seen] == [n for n in range(40) if n != 10]
    for block in done.blocks("s"):
        assert block.cursor.taken - (block.base + block.count) in (0, 1), "its position is that of its outputs"
    assert done["s"].received == 40


# -- copies -------------------------------------------------------------------------------------


def test_every_consumer_of_a_copied_payload_gets_a_copy_of_its_own():
    kept = {"a": [1]}

    def make(x: int):
        return kept

    one, other = Seen(), Seen()
    kind = oz.Copied[dict[str, list[int]]]
    origin = source_to(make, kind)
    done = play(oz.Flow("f", ints(1) >> origin >> [one.sink(kind).named("one"), other.sink(kind).named("other")]))
    assert done.state == "drained"
    assert one == other == [kept]
    assert one[0] is not other[0]
    assert one[0] is not kept
    one[0]["a"].append(2)
    assert kept == other[0] == {"a": [1]}


def test_what_is_not_copied_is_the_same_object_everywhere():
    item = Inner(1.0)
    one, other = Seen(), Seen()
    play(oz.Flow("f", source_of(item, kind=Inner) >> [one.sink(Inner).named("one"), other.sink(Inner).named("other")]))
    assert one[0] is other[0] is item


def test_a_payload_may_be_nested_as_deep_as_it_can_be_encoded():
    event = None
    for number in range(900):
        event = Nest(float(number), event)
    seen = Seen()
    done = play(oz.Flow("f", source_of(event, kind=Nest) >> seen.sink(Nest)))
    assert done.state == "drained", done.error
    assert difference(Nest(1, event), Nest(1.0, event), "") == (".number", 1, 1.0)
    assert len(seen) + len(done.letters()) == 1


# -- difference ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("live", "back", "path"),
    [
        (1, 1, None),
        (1, 1.0, ""),
        (True, 1, ""),
        (math.nan, math.nan, None),
        ((1, 2), (1,), ""),
        ([1, [2]], [1, [2.0]], "[1][0]"),
        ({"a": 1}, {"b": 1}, ""),
        ({1: "a"}, {1.0: "a"}, ""),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, "['a']['b']"),
        ({1}, {1.0}, ""),
        (frozenset({1}), frozenset({1}), None),
        (frozenset({math.inf}), frozenset({1}), ""),
        (decimal.Decimal("1.0"), decimal.Decimal("1.00"), ""),
        (decimal.Decimal("sNaN"), decimal.Decimal("sNaN"), None),
        (0.0, -0.0, ""),
        (AWARE, AWARE.replace(tzinfo=None), ""),
        (Inner(1.0), Inner(2.0), ".amount"),
        (Pair(1, 1.0), Pair(1, 1), "[1]"),
        (Pair(1, 1.0), Pair(1, 1.0), None),
    ],
)
def test_a_difference_is_found_and_its_place_told(live, back, path):
    found = difference(live, back, "")
    assert (found[0] if found else None) == path
