"""Letters taken up again: what the cut flow is given, and why some letters are not."""

from collections.abc import Iterator

import msgspec
import pytest

import obzen_runtime as oz
from obzen_runtime.events import DeadLetter
from obzen_runtime.flow import Requeue, refusal, requeued
from obzen_runtime.kernel import ErrorInfo, FlowInvalid
from tests.flow.kit import Seen


class Size(msgspec.Struct, frozen=True):
    id: int


class Rate(msgspec.Struct, frozen=True):
    id: int
    cents: int


@oz.schema(version=2, upcast=lambda old, version: {"id": old["id"], "euros": old["cents"] / 100})
class Euro(msgspec.Struct, frozen=True):
    id: int
    euros: float


Euro.__name__ = Euro.__qualname__ = "Rate"


@oz.source
def sizes() -> Iterator[Size]:
    yield from map(Size, range(4))


def rating(kind):
    """A source of rates of that class."""

    def rates() -> Iterator[kind]:
        for number in range(4):
            yield kind(number, number * 50)

    return oz.source(rates)


def checking(name, kind, bad=None):
    def check(event):
        if event.id == bad:
            raise ValueError("no")
        return event

    check.__annotations__ = {"event": kind, "return": kind}
    return oz.transform(check).named(name)


def shop(seen, *, kind=Rate, bad_size=None, bad_rate=None):
    """Sizes and their rates, each checked, joined."""

    def price(size, rate):
        return (size.id, rate.id)

    price.__annotations__ = {"size": Size, "rate": kind, "return": tuple[int, int]}
    joined = oz.join(stream_key=lambda size: size.id, reference_key=lambda rate: rate.id)(price)
    rates = rating(kind)
    return oz.Flow(
        "shop",
        sizes >> checking("sized", Size, bad_size) >> joined.stream,
        rates >> checking("rated", kind, bad_rate) >> joined.reference,
        joined >> seen.sink(),
    )


def again(tmp_path, flow, **stages):
    """The run that takes up the letters of the run `r`."""
    report = oz.run(requeued(flow, Requeue(run=str(tmp_path / "r"), upto=1000, stages=stages)), journal=tmp_path, run_id="again")
    assert report.state == "drained"
    return report


def test_a_join_gets_its_whole_reference_as_it_was_recorded(tmp_path):
    oz.run(shop(Seen(), bad_size=2), journal=tmp_path, run_id="r")
    seen = Seen()
    again(tmp_path, shop(seen), sized=("sizes",))
    assert seen == [(2, 2)]


def test_a_recorded_reference_is_brought_up_to_the_class_of_today(tmp_path):
    oz.run(shop(Seen(), bad_size=2), journal=tmp_path, run_id="r")
    seen = Seen()
    report = again(tmp_path, shop(seen, kind=Euro), sized=("sizes",))
    assert (seen, report.dead_letters) == ([(2, 2)], 0)


class Other(msgspec.Struct, frozen=True):
    id: int
    francs: int


def test_a_recorded_reference_that_cannot_be_read_any_more_becomes_letters(tmp_path):
    oz.run(shop(Seen(), bad_size=2), journal=tmp_path, run_id="r")
    seen = Seen()
    report = again(tmp_path, shop(seen, kind=Other), sized=("sizes",))
    assert (seen, report.dead_letters) == ([], 4)


def test_letters_of_what_feeds_a_reference_meet_a_stream_of_nothing(tmp_path):
    oz.run(shop(Seen(), bad_rate=2), journal=tmp_path, run_id="r")
    seen = Seen()
    report = again(tmp_path, shop(seen), rated=("rates",))
    assert (seen, report.stages["rated"].emitted) == ([], 1)


def test_a_flow_without_the_stage_that_failed_is_refused_by_its_name(tmp_path):
    with pytest.raises(FlowInvalid, match="has no gone any more") as caught:
        requeued(shop(Seen()), Requeue(run=str(tmp_path), upto=1, stages={"gone": ("sizes",)}))
    assert caught.value.code == "flow_changed"


@pytest.mark.parametrize(
    ("stage", "upstream", "why"),
    [
        ("sized", "sizes", ""),
        ("sizes", "", "have no event"),
        ("rated", "dead_letters", "were letters themselves"),
        ("gone", "sizes", "failed in gone, which the flow does not have any more"),
        ("sized", "rates", "came to sized from rates, which does not feed it any more"),
        ("price", "rated", "belong to the reference of price: what they would have matched has passed"),
        ("price", "sized", ""),
    ],
)
def test_why_a_letter_is_not_taken_up_is_said(stage, upstream, why):
    letter = DeadLetter(0, stage, 0, ErrorInfo(kind="USER", code="x", message="no", category="user"), upstream, 3 if upstream else -1)
    assert refusal(letter, shop(Seen())) == why
