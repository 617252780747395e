"""Joins: the reference is whole before the first match, and neither side can hold the other up."""

import math
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest

import obzen_runtime as oz
from obzen_runtime.events import End, Slice
from obzen_runtime.flow import StopFlow
from obzen_runtime.kernel import FlowInvalid, UsageError
from tests.stages.kit import Seen, ints, passing, play, small_blocks, source_of


class Price(msgspec.Struct, frozen=True):
    key: int
    cents: int


class Sold(msgspec.Struct, frozen=True):
    value: int
    cents: int
    event: str = ""


PRICES = [Price(key, 100 + key) for key in range(0, 10, 2)]


def key_of(price):
    return price.key


def mod10(value):
    return value % 10


def joined(join, *, count=100, prices=PRICES, journal=None, seen=None, **options):
    seen = Seen() if seen is None else seen
    flow = oz.Flow(
        "f",
        source_of(*prices, kind=Price, name="prices") >> join.reference,
        ints(count) >> join.stream,
        join >> seen.sink(Sold),
        **options,
    )
    return play(flow, journal=journal), seen


def drained(done):
    assert done.error is None
    assert done.state == "drained"
    assert all(verdict.passed for verdict in done.verdicts)


@oz.join(how="inner", stream_key=mod10, reference_key=key_of)
def inner(value: int, price: Price) -> Sold:
    return Sold(value, price.cents)


def test_an_inner_join_gives_matches_and_counts_the_rest_as_dropped():
    done, seen = joined(inner)
    drained(done)
    assert seen == [Sold(value, 100 + value % 10) for value in range(0, 100, 2)]
    assert done["inner"].dropped == 50
    assert done.lost("inner") == {"unmatched": list(range(1, 100, 2))}


def test_the_parents_of_a_match_are_the_event_and_its_reference():
    done, seen = joined(inner)
    assert list(done.parents("inner").values()) == [("s", each.value, "prices", each.value % 10 // 2) for each in seen]


def test_a_left_join_gives_none_for_what_has_no_match():
    @oz.join(how="left", stream_key=mod10, reference_key=key_of)
    def left(value: int, price: Price | None) -> Sold:
        return Sold(value, price.cents if price else -1)

    done, seen = joined(left)
    drained(done)
    assert seen == [Sold(value, -1 if value % 2 else 100 + value % 10) for value in range(100)]
    assert done["left"].dropped == 0
    assert list(done.parents("left").values()) == [("s", value, "prices", -1 if value % 2 else value % 10 // 2) for value in range(100)]


def test_of_several_references_with_one_key_the_last_stands():
    done, seen = joined(inner, count=1, prices=[Price(0, 1), Price(0, 2), Price(0, 3)])
    drained(done)
    assert seen == [Sold(0, 3)]
    assert done.parents("inner") == {0: ("s", 0, "prices", 2)}


def test_a_handler_may_drop_fail_or_give_many():
    @oz.join(how="inner", stream_key=mod10, reference_key=key_of)
    def picky(value: int, price: Price) -> Sold | None:
        if value % 10 == 4:
            raise ValueError("four")
        return Sold(value, price.cents) if value % 10 == 2 else None

    done, seen = joined(picky, count=30)
    drained(done)
    assert [each.value for each in seen] == [2, 12, 22]
    assert done.lost("picky") == {
        "unmatched": list(range(1, 30, 2)),
        "dropped": [value for value in range(0, 30, 2) if value % 10 not in (2, 4)],
        "dead": [4, 14, 24],
    }
    assert list(done.parents("picky").values()) == [("s", value, "prices", 1) for value in (2, 12, 22)]


@pytest.mark.parametrize("many", [3, 5000])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_parents_of_a_generators_outputs_stand_also_over_several_blocks(asynchronous, many):
    if asynchronous:

        @oz.join(how="inner", stream_key=mod10, reference_key=key_of)
        async def spread(value: int, price: Price) -> AsyncIterator[Sold]:
            for _ in range(many if value == 2 else 1):
                yield Sold(value, price.cents)

    else:

        @oz.join(how="inner", stream_key=mod10, reference_key=key_of)
        def spread(value: int, price: Price) -> Iterator[Sold]:
            for _ in range(many if value == 2 else 1):
                yield Sold(value, price.cents)

    done, seen = joined(spread, count=10)
    drained(done)
    assert [each.value for each in seen] == [0, *[2] * many, 4, 6, 8]
    assert list(done.parents("spread").values()) == [("s", each.value, "prices", each.value // 2) for each in seen]
    assert done.lost("spread") == {"unmatched": [1, 3, 5, 7, 9]}


def test_an_async_handler_joins_too():
    @oz.join(how="inner", stream_key=mod10, reference_key=key_of)
    async def wait(value: int, price: Price) -> Sold:
        await passing(1)
        return Sold(value, price.cents)

    done, seen = joined(wait, count=10)
    drained(done)
    assert [each.value for each in seen] == [0, 2, 4, 6, 8]
    assert not done.letters()


def test_the_context_names_the_stream_event_also_behind_unmatched_ones_and_failures():
    @oz.join(how="inner", stream_key=lambda value: 1 / (value - 3) and value % 10, reference_key=key_of)
    def tag(value: int, price: Price, ctx: oz.Context) -> Sold:
        return Sold(value, price.cents, ctx.event.id)

    done, seen = joined(tag, count=30)
    drained(done)
    assert len(seen) > 3
    assert all(each.event == f"s@{each.value}" for each in seen)
    assert [letter.event for letter in done.letters()] == [3]


def test_a_key_that_cannot_be_made_or_used_is_a_dead_letter_on_either_side():
    @oz.join(
        how="inner",
        stream_key=lambda value: [] if value == 4 else 1 / value and value,
        reference_key=lambda price: 1 / price.key and price.key,
    )
    def odd(value: int, price: Price) -> Sold:
        return Sold(value, price.cents)

    done, seen = joined(odd, count=10)
    drained(done)
    assert [each.value for each in seen] == [2, 6, 8]
    assert {(letter.upstream, letter.event) for letter in done.letters()} == {("prices", 0), ("s", 0), ("s", 4)}
    assert done["odd"].received == 15


def test_a_key_that_is_not_a_number_matches_nothing_and_is_a_dead_letter_of_the_reference():
    @oz.join(how="inner", stream_key=lambda value: value or math.nan, reference_key=lambda price: price.key or math.nan)
    def odd(value: int, price: Price) -> Sold:
        return Sold(value, price.cents)

    done, seen = joined(odd, count=10)
    drained(done)
    assert [each.value for each in seen] == [2, 4, 6, 8]
    assert [(letter.upstream, letter.event, letter.error.message) for letter in done.letters()] == [
        ("prices", 0, "the key nan is not equal to itself")
    ]


@pytest.mark.parametrize("policy", ["skip", "fail"])
def test_the_policy_holds_for_reference_keys(policy):
    @oz.join(how="left", stream_key=mod10, reference_key=lambda price: 1 / price.key, on_error=policy)
    def odd(value: int, price: Price | None) -> Sold:
        return Sold(value, 0)

    done, seen = joined(odd, count=3)
    if policy == "skip":
        drained(done)
        assert not done.letters()
        assert done.lost("odd") == {"skipped": [0]}
        assert len(seen) == 3
    else:
        assert done.state == "failed"
        assert done.error.type == "ZeroDivisionError"
        assert not done.letters()
        assert done.error.details["event"] == "prices@0"


@pytest.mark.parametrize("side", ["reference", "stream"])
def test_what_is_no_exception_in_a_key_crashes_the_stage_and_nothing_is_lost(side):
    crashes = []

    def key(value, at):
        if value == 4 and not crashes:
            crashes.append(at)
            raise KeyboardInterrupt
        return value % 10

    @oz.join(
        how="inner",
        stream_key=(lambda value: key(value, side)) if side == "stream" else mod10,
        reference_key=(lambda price: key(price.key, side)) if side == "reference" else key_of,
    )
    def broken(value: int, price: Price) -> Sold:
        return Sold(value, price.cents)

    done, seen = joined(broken)
    drained(done)
    assert crashes == [side]
    assert [each.value for each in seen] == list(range(0, 100, 2))
    assert list(done.parents("broken").values()) == [("s", each.value, "prices", each.value % 10 // 2) for each in seen]


def test_a_crash_while_enriching_reads_the_reference_back():
    crashes = []

    @oz.join(how="inner", stream_key=mod10, reference_key=key_of)
    def fragile(value: int, price: Price) -> Sold:
        if value == 50 and len(crashes) < 2:
            crashes.append(value)
            raise SystemExit
        return Sold(value, price.cents)

    done, seen = joined(fragile)
    drained(done)
    assert len(crashes) == 2
    assert [each.value for each in seen] == list(range(0, 100, 2))


def test_reference_events_that_failed_fail_again_when_read_back():
    crashes = []

    @oz.join(how="inner", stream_key=mod10, reference_key=lambda price: 1 / price.key and price.key)
    def fragile(value: int, price: Price) -> Sold:
        if not crashes:
            crashes.append(value)
            raise SystemExit
        return Sold(value, price.cents)

    done, seen = joined(fragile, count=10)
    drained(done)
    assert [each.value for each in seen] == [2, 4, 6, 8]
    assert len(done.letters()) == 1


def test_a_reference_larger_than_every_window_is_read_whole():
    done, seen = joined(inner, prices=[Price(key, key) for key in range(30_000)], window=oz.Window(events=100))
    drained(done)
    assert len(seen) == 100


def test_a_stream_that_waits_longer_than_its_window_is_read_back_from_the_log():
    @oz.source
    async def prices() -> AsyncIterator[Price]:
        await passing(100)
        for price in PRICES:
            yield price

    seen = Seen()
    done = play(
        oz.Flow("f", prices >> inner.reference, ints(30_000) >> inner.stream, inner >> seen.sink(Sold), window=oz.Window(events=100))
    )
    drained(done)
    assert [each.value for each in seen] == list(range(0, 30_000, 2))


@oz.transform
def to_price(value: int) -> Price:
    return Price(value, value * 3)


@oz.join(how="inner", stream_key=lambda value: value, reference_key=key_of)
def met(value: int, price: Price) -> Sold:
    return Sold(value, price.cents)


def diamond(seen, count=20_000):
    numbers = ints(count)
    return oz.Flow("f", numbers >> to_price >> met.reference, numbers >> met.stream, met >> seen.sink(Sold), window=oz.Window(events=64))


@pytest.mark.parametrize("kept", ["memory", "segments"])
def test_a_diamond_larger_than_every_window_passes(kept, tmp_path):
    seen = Seen()
    journal = oz.MemoryJournal(keep=True) if kept == "memory" else oz.SegmentJournal.open(tmp_path / "run")
    done = play(diamond(seen), journal=journal)
    drained(done)
    assert seen == [Sold(value, value * 3) for value in range(20_000)]
    assert list(done.parents("met").values()) == [("s", value, "to_price", value) for value in range(20_000)]


def test_a_diamond_is_refused_with_a_journal_that_forgets():
    with pytest.raises(FlowInvalid) as refused:
        play(diamond(Seen()), journal=oz.MemoryJournal())
    assert "MemoryJournal(keep=True)" in refused.value.problems[0]
    assert "met" in refused.value.problems[0]


def test_one_source_on_both_sides_is_refused_with_the_fix():
    numbers = ints(5)
    with pytest.raises(FlowInvalid) as refused:
        oz.Flow("f", numbers >> met.reference, numbers >> met.stream, met >> Seen().sink(Sold))
    assert any("on both sides: put a transform between" in problem for problem in refused.value.problems)


def test_a_join_that_is_stopped_while_it_hydrates_leaves_its_stream_in_the_log():
    @oz.source
    async def prices() -> AsyncIterator[Price]:
        yield PRICES[0]
        await passing(1000)
        yield PRICES[1]

    async def beside(pipeline):
        await passing(10)
        assert pipeline.command(StopFlow())

    seen = Seen()
    done = play(oz.Flow("f", prices >> inner.reference, ints(500) >> inner.stream, inner >> seen.sink(Sold)), beside=beside)
    assert (done.state, done.pipeline.reason) == ("cancelled", "user_stop")
    assert seen == []
    assert len(done.events("s")) == 500, "the stream side is all there"
    taken = [each for block in done.blocks("inner") for each in block.inputs]
    assert taken == [Slice("prices", 0, 1), End("prices", "truncated", 1)]


@small_blocks()
def test_pairs_stand_where_a_step_is_split_and_where_an_output_cannot_be_encoded():
    @oz.join(how="inner", stream_key=mod10, reference_key=key_of)
    def large(value: int, price: Price) -> bytes:
        return bytes([value]) * (300_000 if value == 20 else 16_000)

    seen = Seen()
    prices = source_of(*PRICES, kind=Price, name="prices")
    done = play(oz.Flow("f", prices >> large.reference, ints(60) >> large.stream, large >> seen.sink(bytes)))
    drained(done)
    kept = [value for value in range(0, 60, 2) if value != 20]
    assert [each[0] for each in seen] == kept
    assert list(done.parents("large").values()) == [("s", value, "prices", value % 10 // 2) for value in kept]
    assert [letter.event for letter in done.letters()] == [20]
    assert len([block for block in done.blocks("large") if block.count]) > 1


def test_an_async_generator_joins_too_where_nothing_matches():
    @oz.join(how="inner", stream_key=mod10, reference_key=key_of)
    async def spread(value: int, price: Price) -> AsyncIterator[Sold]:
        yield Sold(value, price.cents)

    done, seen = joined(spread, prices=[])
    drained(done)
    assert (seen, done["spread"].dropped) == ([], 100)


def test_an_empty_reference_matches_nothing_and_an_empty_stream_gives_nothing():
    done, seen = joined(inner, prices=[])
    drained(done)
    assert (seen, done["inner"].dropped) == ([], 100)
    done, seen = joined(inner, count=0)
    drained(done)
    assert seen == []


def test_what_is_no_join_is_refused():
    with pytest.raises(UsageError, match="not a kind of join"):
        oz.join(how="outer", stream_key=mod10, reference_key=key_of)
    with pytest.raises(UsageError, match="expected 2 events"):

        @oz.join(stream_key=mod10, reference_key=key_of)
        def one(value: int) -> int: ...

    with pytest.raises(UsageError, match="generator takes no context"):

        @oz.join(stream_key=mod10, reference_key=key_of)
        def many(value: int, price: Price, ctx: oz.Context) -> Iterator[int]: ...
