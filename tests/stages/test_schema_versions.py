"""A run is gone on with under other payload types: what can be brought up is, what cannot becomes a letter with its bytes."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest

import obzen_runtime as oz
from obzen_runtime.events import ActorCompleted, Block, DeadLetter, RunResumed, SchemaChange
from obzen_runtime.flow import Requeue, requeued
from obzen_runtime.journal import SegmentReader
from obzen_runtime.kernel import FlowInvalid, UsageError
from obzen_runtime.stages import LATEST, Codec, Join, Sink, Undecoded, schema_fingerprint, versions_of
from obzen_runtime.stages.schema import declare

COUNT = 10
STOPS_AT = 3


def order(*fields, name="Order"):
    """A class of that name with the field `number` and these."""
    return msgspec.defstruct(name, [("number", int), *fields], frozen=True)


FIRST = order(("cents", int))
WIDER = order(("cents", int), ("currency", str, "EUR"))
OTHER = order(("amount", float))


def upcast(old, version):
    assert version == 1
    return {"number": old["number"], "amount": old["cents"] / 100}


SECOND = oz.schema(version=2, upcast=upcast)(order(("amount", float)))


def codec(*kinds):
    return Codec("orders", [declared for kind in kinds for declared in declare(kind)[0]])


def block(of, *events, base=0):
    return Block("orders", base, len(events), 0, of.encode(list(events)), of.types(events, set(map(type, events))))


def wrote(of, since=0):
    return SchemaChange(since, schema_fingerprint(of.declared), versions_of(of.declared))


# -- the decorator and the codec ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"version": 0}, "whole numbers from 1"),
        ({"version": "2", "upcast": upcast}, "whole numbers from 1"),
        ({"version": 2}, "has no upcast"),
    ],
)
def test_a_version_without_a_way_up_is_refused(options, words):
    with pytest.raises(UsageError, match=words):
        oz.schema(**options)(FIRST)


def test_a_version_stands_above_a_class_and_is_not_inherited():
    with pytest.raises(UsageError, match="above a class"):
        oz.schema(version=1)(lambda: None)

    class Below(SECOND):
        """Has a schema of its own."""

    assert versions_of(declare(SECOND | Below)[0]) == {"Order": 2, "Below": 1}


def test_todays_blocks_are_read_as_ever():
    now = codec(SECOND)
    now.written([wrote(codec(FIRST)), wrote(now, since=5)])
    assert now.decode(block(now, SECOND(7, 1.5), base=5)) == [SECOND(7, 1.5)]
    assert not now.earlier(5)
    assert now.decode(Block("orders", LATEST, 1, 0, now.encode([SECOND(1, 1.0)]))) == [SECOND(1, 1.0)]


def test_an_old_block_is_brought_up_by_its_class():
    then, now = codec(FIRST), codec(SECOND)
    now.written([wrote(then), wrote(now, since=2)])
    assert now.decode(block(then, FIRST(1, 150), FIRST(2, 25))) == [SECOND(1, 1.5), SECOND(2, 0.25)]


def test_an_upcast_is_told_the_version_that_was_written():
    told = []

    def up(old, version):
        told.append((version, old))
        return Third(old["number"], str(version))

    Third = oz.schema(version=3, upcast=up)(order(("text", str)))
    one, two, now = codec(FIRST), codec(SECOND), codec(Third)
    now.written([wrote(one), wrote(two, since=1), wrote(now, since=2)])
    assert now.decode(block(one, FIRST(1, 5))) == [Third(1, "1")]
    assert now.decode(block(two, SECOND(2, 5.0), base=1)) == [Third(2, "2")]
    assert told == [(1, {"number": 1, "cents": 5}), (2, {"number": 2, "amount": 5.0})]


def test_a_field_with_a_default_needs_no_upcast():
    then, now = codec(FIRST), codec(WIDER)
    assert wrote(then).fingerprint != wrote(now).fingerprint
    now.written([wrote(then), wrote(now, since=1)])
    assert now.decode(block(then, FIRST(1, 5))) == [WIDER(1, 5, "EUR")]


def test_each_event_that_cannot_be_decoded_is_told_with_its_bytes_and_the_others_are_read():
    def up(old, version):
        if old["number"] == 2:
            raise ValueError("no two")
        return {"number": old["number"], "amount": "x" if old["number"] == 3 else 1.0}

    now = codec(oz.schema(version=2, upcast=up)(order(("amount", float))))
    then = codec(FIRST)
    now.written([wrote(then), wrote(now, since=4)])
    one, two, three, four = now.decode(block(then, *(FIRST(number, 0) for number in (1, 2, 3, 4))))
    assert (one.number, four.number) == (1, 4)
    assert isinstance(two, Undecoded)
    assert "no two" in two.error.message
    assert "version 1" in two.error.message
    assert msgspec.msgpack.decode(two.raw) == {"number": 2, "cents": 0}
    assert isinstance(three, Undecoded)
    assert three.error.code == "undecodable"


def test_types_are_found_by_name_when_their_order_changed_and_one_that_is_gone_is_undecodable():
    other = order(name="Refund")
    then, now = codec(FIRST, int, other), codec(other, FIRST)
    now.written([wrote(then), wrote(now, since=3)])
    refund, number, sold = now.decode(block(then, other(1), 5, FIRST(2, 3)))
    assert (refund, sold) == (other(1), FIRST(2, 3))
    assert "declares no int" in number.error.message


def test_a_class_of_another_name_takes_the_place_of_the_one_before():
    renamed = order(("cents", int), name="Sale")
    then, now = codec(FIRST), codec(renamed)
    now.written([wrote(then), wrote(now, since=1)])
    assert now.decode(block(then, FIRST(1, 5))) == [renamed(1, 5)]


def test_a_block_of_an_earlier_schema_is_written_as_it_would_be_today():
    then, now = codec(FIRST), codec(SECOND)
    now.written([wrote(then), wrote(now, since=1)])
    assert now.today(block(then, FIRST(1, 150))).payloads == now.encode([SECOND(1, 1.5)])


# -- resumed runs ---------------------------------------------------------------------------------


def made(Order, number):
    cents = 100 * number
    values = {"number": number, "cents": cents, "amount": cents / 100, "currency": "EUR"}
    return Order(**{name: values[name] for name in Order.__struct_fields__})


def orders_of(Order):
    @oz.source
    def orders() -> Iterator[Order]:
        for number in range(COUNT):
            yield made(Order, number)

    return orders


def shop(Order, *, until=COUNT, reached=None):
    """Orders through a stage that waits for ever at event number `until`."""

    @oz.transform
    async def check(event: Order) -> Order:
        if event.number == until:
            reached.set()
            await asyncio.Event().wait()
        return event

    @oz.sink
    def out(event: Order) -> None: ...

    return oz.Flow("shop", orders_of(Order) >> check >> out)


def records_of(base, run="r"):
    async def read():
        return [entry.record async for entry in SegmentReader.open(base / run).read()]

    return asyncio.run(read())


def events_of(records, stage):
    blocks = [record for record in records if isinstance(record, Block) and record.stage == stage and record.count]
    return [event for each in blocks for event in msgspec.msgpack.decode(each.payloads)]


def cut(Order, base, *, until=STOPS_AT):
    """A run, or the same one gone on with, that is cancelled when event number `until` is in work."""

    async def main():
        reached = asyncio.Event()
        async with oz.start(shop(Order, until=until, reached=reached), journal=base, run_id="r") as handle:
            await reached.wait()
            await handle.cancel()

    asyncio.run(main())


def verified(flow, base):
    report = oz.replay(flow, base / "r")
    assert report.differences == (), [str(each) for each in report.differences]


def test_a_compatible_change_goes_on_and_is_recorded(tmp_path):
    cut(FIRST, tmp_path)
    report = oz.resume(shop(WIDER), "r", journal=tmp_path)
    records = records_of(tmp_path)
    assert (report.state, report.dead_letters) == ("drained", 0)
    assert [event["number"] for event in events_of(records, "check")] == list(range(COUNT))
    changes = next(each for each in records if isinstance(each, RunResumed)).schemas
    assert {stage: [(each.since, each.versions) for each in found] for stage, found in changes.items()} == {
        "orders": [(COUNT, {"Order": 1})],
        "check": [(STOPS_AT, {"Order": 1})],
    }
    verified(shop(WIDER), tmp_path)


def test_a_run_of_the_same_schema_records_no_change(tmp_path):
    cut(FIRST, tmp_path)
    oz.resume(shop(FIRST), "r", journal=tmp_path)
    assert next(each for each in records_of(tmp_path) if isinstance(each, RunResumed)).schemas == {}


def test_old_events_are_brought_up_when_they_are_fed_again(tmp_path):
    cut(FIRST, tmp_path)
    report = oz.resume(shop(SECOND), "r", journal=tmp_path)
    records = records_of(tmp_path)
    assert (report.state, report.dead_letters) == ("drained", 0)
    old = [{"number": number, "cents": 100 * number} for number in range(STOPS_AT)]
    assert events_of(records, "check") == [*old, *({"number": number, "amount": float(number)} for number in range(STOPS_AT, COUNT))]
    verified(shop(SECOND), tmp_path)


def test_an_older_program_is_refused(tmp_path):
    cut(SECOND, tmp_path)
    with pytest.raises(FlowInvalid, match="later version of Order") as refused:
        oz.resume(shop(FIRST), "r", journal=tmp_path)
    assert refused.value.code == "schema_changed"


def test_each_change_stays_on_record_through_later_resumes(tmp_path):
    cut(FIRST, tmp_path, until=2)
    cut(WIDER, tmp_path, until=5)
    oz.resume(shop(SECOND), "r", journal=tmp_path)
    records = records_of(tmp_path)
    *_, last = (each for each in records if isinstance(each, RunResumed))
    assert [(each.since, each.versions) for each in last.schemas["check"]] == [(2, {"Order": 1}), (5, {"Order": 2})]
    assert [sorted(event) for event in events_of(records, "check")] == [
        *[["cents", "number"]] * 2,
        *[["cents", "currency", "number"]] * 3,
        *[["amount", "number"]] * 5,
    ]
    verified(shop(SECOND), tmp_path)


# -- what cannot be decoded -----------------------------------------------------------------------


BAD = (3, 4, 7)
GOOD = tuple(number for number in range(COUNT) if number not in BAD)


def picky(old, version):
    return {"number": old["number"], "amount": "?" if old["number"] in BAD else 1.0}


PICKY = oz.schema(version=2, upcast=picky)(order(("amount", float)))


@oz.source
def ticks() -> Iterator[int]:
    yield from (1, 3, 5)


@oz.sink
def out(number: int | tuple[int, ...]) -> None: ...


def of_shop(orders, work):
    """A flow whose stages are called orders, ticks, work and out, whatever they are."""
    if isinstance(work, Sink):
        return oz.Flow("shop", orders >> work)
    if isinstance(work, Join):
        stream, reference = (orders, ticks) if work.how == "left" else (ticks, orders)
        return oz.Flow("shop", stream >> work.stream, reference >> work.reference, work >> out)
    return oz.Flow("shop", orders >> work >> out)


def left_waiting(consumer, base):
    """A run with all orders in its log, of which `work` has taken none."""

    @oz.transform
    async def work(event: FIRST | int) -> int:
        await asyncio.Event().wait()
        return 0

    @oz.sink
    async def last(event: FIRST) -> None:
        await asyncio.Event().wait()

    orders = orders_of(FIRST)
    if isinstance(consumer, Sink):
        flow = oz.Flow("shop", orders >> last.named("work"))
    elif isinstance(consumer, Join):
        flow = oz.Flow("shop", orders >> work, ticks >> work, work >> out)
    else:
        flow = oz.Flow("shop", orders >> work >> out)

    async def main():
        async with oz.start(flow, journal=base, run_id="r") as handle:
            ended = set()
            async for _, record in handle.records():
                if isinstance(record, ActorCompleted):
                    ended.add(record.actor)
                if ended >= {"orders"} | ({"ticks"} if isinstance(consumer, Join) else set()):
                    break
            await handle.cancel()

    asyncio.run(main())


def consumers():
    @oz.transform
    def plain(event: PICKY) -> int:
        return event.number

    @oz.transform(concurrency=3)
    async def lanes(event: PICKY) -> int:
        return event.number

    @oz.transform(executor=oz.threads(2))
    def threads(event: PICKY) -> int:
        return event.number

    @oz.transform(batch=4)
    def batch(events: list[PICKY]) -> list[int]:
        return [event.number for event in events]

    @oz.transform
    def generator(event: PICKY) -> Iterator[int]:
        yield event.number

    @oz.fold((), emit=oz.each())
    def each(numbers: tuple[int, ...], event: PICKY) -> tuple[int, ...]:
        return (*numbers, event.number)

    @oz.stateful(key=lambda event: event.number % 2, emit=oz.each())
    class keyed:
        last: int = -1

        def fold(self, event: PICKY) -> None:
            self.last = event.number

        def emit(self, key: int) -> int:
            return self.last

    @oz.join(how="left", stream_key=lambda event: event.number, reference_key=lambda tick: tick)
    def stream(event: PICKY, tick: int | None) -> int:
        return event.number

    @oz.join(how="inner", stream_key=lambda tick: tick, reference_key=lambda event: event.number)
    def reference(tick: int, event: PICKY) -> int:
        return event.number

    @oz.sink
    def deliver(event: PICKY) -> None:
        SEEN.append(event.number)

    @oz.sink(delivery="sensitive")
    def sensitive(event: PICKY) -> None:
        SEEN.append(event.number)

    return [plain, lanes, threads, batch, generator, each, keyed, stream, reference, deliver, sensitive]


SEEN: list[int] = []
CONSUMERS = consumers()


@pytest.mark.parametrize("consumer", CONSUMERS, ids=[each.name for each in CONSUMERS])
def test_events_that_cannot_be_decoded_are_letters_of_their_consumer_and_the_rest_goes_on(consumer, tmp_path):
    SEEN.clear()
    left_waiting(consumer, tmp_path)
    flow = of_shop(orders_of(PICKY), consumer.named("work"))
    report = oz.resume(flow, "r", journal=tmp_path, allow_code_change=True)
    records = records_of(tmp_path)
    letters = [each for each in records if isinstance(each, DeadLetter)]
    assert report.state == "drained"
    assert [(each.stage, each.upstream, each.event, each.error.code) for each in letters] == [
        ("work", "orders", number, "undecodable") for number in BAD
    ]
    assert [msgspec.msgpack.decode(each.payload) for each in letters] == [{"number": number, "cents": 100 * number} for number in BAD]
    expected = {"reference": [1, 5], "each": [list(GOOD[: number + 1]) for number in range(len(GOOD))]}
    if isinstance(consumer, Sink):
        assert list(GOOD) == SEEN
    else:
        assert events_of(records, "work") == expected.get(consumer.name, list(GOOD))
    assert report.stages["work"].dead == len(BAD)
    verified(flow, tmp_path)


@pytest.mark.parametrize("kind", ["fold", "top"])
def test_state_is_made_again_over_what_was_put_aside(kind, tmp_path):
    """The second resume folds from the log: the undecodable inputs are passed over, the others are folded once."""
    broken = []

    def shown(event: PICKY) -> int:
        if event.number == 5 and not broken:
            broken.append(event)
            raise KeyboardInterrupt
        return event.number

    @oz.fold((), emit=oz.at_end())
    def numbers(sofar: tuple[int, ...], event: PICKY) -> tuple[int, ...]:
        return (*sofar, shown(event))

    @oz.sink
    def last(event: PICKY | tuple[int, ...]) -> None: ...

    consumer = numbers if kind == "fold" else oz.top(20, by=shown)
    left_waiting(consumer, tmp_path)
    flow = oz.Flow("shop", orders_of(PICKY) >> consumer.named("work") >> last.named("out"))
    report = oz.resume(flow, "r", journal=tmp_path, allow_code_change=True)
    found = events_of(records_of(tmp_path), "work")
    assert (report.state, len(broken)) == ("drained", 1)
    assert found == [list(GOOD)] if kind == "fold" else [each["number"] for each in found] == list(reversed(GOOD))
    verified(flow, tmp_path)


def test_state_over_events_that_cannot_be_read_any_more_says_what_is_missing(tmp_path):
    @oz.source
    async def orders() -> AsyncIterator[FIRST]:
        for number in range(COUNT):
            yield made(FIRST, number)
        await asyncio.Event().wait()

    @oz.fold(0, emit=oz.at_end())
    def work(count: int, event: FIRST) -> int:
        return count + 1

    @oz.fold(0, emit=oz.at_end())
    def later(count: int, event: PICKY) -> int:
        return count + 1

    async def main():
        async with oz.start(oz.Flow("shop", orders >> work >> out), journal=tmp_path, run_id="r") as handle:
            async for _, record in handle.records():
                if isinstance(record, Block) and record.stage == "work" and record.cursor.taken == COUNT:
                    break
            await handle.cancel()

    asyncio.run(main())
    for each in (tmp_path / "r" / "artifacts").rglob("*"):
        if each.is_file():
            each.unlink()
    with pytest.raises(oz.FlowFailed, match="orders@3, which cannot be folded again"):
        oz.resume(oz.Flow("shop", orders_of(PICKY) >> later.named("work") >> out), "r", journal=tmp_path, allow_code_change=True)


def test_letters_are_taken_up_again_once_there_is_a_way_up(tmp_path):
    consumer = CONSUMERS[0]
    left_waiting(consumer, tmp_path)
    oz.resume(of_shop(orders_of(PICKY), consumer.named("work")), "r", journal=tmp_path, allow_code_change=True)

    @oz.transform
    def work(event: SECOND) -> int:
        return event.number

    flow = oz.Flow("shop", orders_of(SECOND) >> work >> out)
    again = requeued(flow, Requeue(run=str(tmp_path / "r"), upto=len(records_of(tmp_path)), stages={"work": ("orders",)}))
    oz.run(again, journal=tmp_path, run_id="again")
    assert events_of(records_of(tmp_path, "again"), "work") == list(BAD)
