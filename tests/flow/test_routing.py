"""An edge delivers what its consumer declares: that class, and the classes below it."""

from collections.abc import Iterator

import msgspec
import pytest

import obzen_runtime as oz
from obzen_runtime.events import Slice
from tests.flow.kit import play


class Base(msgspec.Struct, frozen=True, tag=True):
    number: int


class Left(Base, frozen=True, tag=True):
    pass


class Lower(Left, frozen=True, tag=True):
    pass


class Right(Base, frozen=True, tag=True):
    pass


KINDS = (Base, Left, Lower, Right)


@oz.source
def mixed() -> Iterator[Base | Left | Lower | Right]:
    for number in range(4000):
        yield KINDS[number * 7 % 4](number)


ALL = [KINDS[number * 7 % 4](number) for number in range(4000)]


def taking(kind, name="k"):
    seen = []

    def handler(event):
        seen.append(event)

    handler.__annotations__ = {"return": None} | ({"event": kind} if kind is not None else {})
    return oz.sink(handler).named(name), seen


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (None, KINDS),
        (Base, KINDS),
        (Left, (Left, Lower)),
        (Lower, (Lower,)),
        (Right, (Right,)),
        (Lower | Right, (Lower, Right)),
    ],
    ids=str,
)
def test_a_consumer_gets_its_class_and_the_classes_below(kind, expected):
    sink, seen = taking(kind)
    played = play(oz.Flow("f", mixed >> sink, oz.ignored(*KINDS)))
    assert (played.state, played.error) == ("drained", None)
    assert seen == [each for each in ALL if type(each) in expected]
    (verdict,) = played.pipeline.verdicts
    assert (verdict.written, verdict.accounted, verdict.passed) == (len(seen), len(seen), True)


def test_both_consumers_of_a_type_get_it_in_order():
    (one, first), (other, second) = taking(Left, "one"), taking(Base, "other")
    assert play(oz.Flow("f", mixed >> [one, other])).state == "drained"
    assert first == [each for each in ALL if isinstance(each, Left)]
    assert second == ALL


def test_credit_is_taken_for_delivered_events_only():
    sink, seen = taking(Right)
    rest, others = taking(Left, "rest")
    played = play(oz.Flow("f", mixed >> [sink, rest], oz.ignored(Base), window=oz.Window(events=3)))
    assert played.state == "drained"
    assert (len(seen), len(others)) == (1000, 2000)


def test_the_slices_of_a_routed_consumer_name_upstream_ordinals():
    sink, _ = taking(Right)
    played = play(oz.Flow("f", mixed >> sink, oz.ignored(*KINDS)))
    last = played.steps("k")[-2]
    (taken,) = (each for each in last.inputs if isinstance(each, Slice))
    assert taken.stop == max(number for number, each in enumerate(ALL) if type(each) is Right) + 1


def test_a_routed_stage_that_crashes_is_rebuilt_with_its_own_events_only():
    left = [1]

    @oz.fold(0, emit=oz.at_end())
    def counted(count: int, event: Right) -> int:
        if count == 500 and left[0]:
            left[0] = 0
            raise SystemExit(1)
        return count + 1

    sink, seen = taking(int)
    played = play(oz.Flow("f", mixed >> counted >> sink, oz.ignored(*KINDS)))
    assert (played.state, seen) == ("drained", [1000])
