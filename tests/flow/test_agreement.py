"""Two runs agree when their events do, whatever the borders of their blocks; behind a fan-in, when their multisets do."""

import asyncio
from collections.abc import Iterator

import pytest

import obzen_runtime as oz
from obzen_runtime.events import Loss, Receipt, RunStarted
from obzen_runtime.flow import StopFlow, verify
from tests.flow.kit import Seen, Valve, ints, play, reached, until


def recorded(flow, **options):
    journal = oz.MemoryJournal(keep=True)
    play(flow, journal=journal, **options)
    return journal


def mapped(body, name="t", gives=int):
    def t(number):
        return body(number)

    t.__annotations__ = {"number": int, "return": gives}
    return oz.transform(t).named(name)


def same(number):
    return number


def line(*stages, count=5000, events=8192):
    path = ints(count)
    for stage in stages:
        path = path >> stage
    return oz.Flow("f", path >> Seen().sink(), window=oz.Window(events=events))


@pytest.mark.parametrize("events", [1, 7, 300])
def test_the_borders_of_blocks_do_not_count(events):
    @oz.transform
    def thrice(number: int) -> Iterator[int]:
        for step in range(number % 4):
            yield number * 10 + step

    report = verify(recorded(line(thrice)), recorded(line(thrice, events=events)))
    assert (report.differences, report.certified, report.reason) == ((), True, "")
    assert report.stages["thrice"].how == "ordinal"
    assert report.stages["thrice"].first == report.stages["thrice"].second == 7500


@pytest.mark.parametrize("at", [0, 8191, 8192, 12_000, 19_999])
def test_the_first_event_that_differs_is_told_with_both_values(at):
    report = verify(recorded(line(mapped(same), count=20_000)), recorded(line(mapped(lambda n: n + (n >= at)), count=20_000, events=1000)))
    assert not report.certified
    assert [(each.stage, each.event, each.first, each.second) for each in report.differences] == [
        ("t", f"t@{at}", f"{at} (int)", f"{at + 1} (int)")
    ]
    assert report.stages["s"].same
    assert not report.stages["t"].same


def test_one_event_more_is_a_difference():
    report = verify(recorded(line(mapped(same), count=16_384)), recorded(line(mapped(same), count=16_385)))
    assert [(each.event, each.first, each.second) for each in report.differences] == [
        ("s@16384", "nothing", "16384 (int)"),
        ("t@16384", "nothing", "16384 (int)"),
    ]


def test_another_type_of_the_same_bytes_is_a_difference():
    one = mapped(lambda n: n, gives=int | bool)
    report = verify(recorded(line(one, count=10)), recorded(line(mapped(lambda n: True if n == 4 else n, gives=int | bool), count=10)))
    assert [each.event for each in report.differences] == ["t@4"]


def merged(order, wrong=None):
    """A flow in which two sources meet in an order of one's choice."""
    one, two = Valve(), Valve()

    @oz.transform
    def twice(number: int) -> Iterator[int]:
        yield number
        yield number + (number == wrong)

    flow = oz.Flow("f", [one.source("a"), two.source("b")] >> mapped(same, "meet") >> twice >> Seen().sink(), window=oz.Window(events=64))

    async def beside(pipeline):
        await reached(pipeline, "running")
        for name, count in order:
            valve = one if name == "a" else two
            valve.give(count)
            stage = pipeline.stages[name]
            await until(lambda valve=valve, stage=stage: stage.written >= valve.allowed)
        one.end()
        two.end()

    return recorded(flow, beside=beside)


def test_behind_a_fan_in_events_are_compared_as_multisets_and_the_report_says_so():
    report = verify(merged([("a", 2000), ("b", 1500)]), merged([("b", 700), ("a", 2000), ("b", 800)]))
    assert report.certified, report.differences
    assert {name: stage.how for name, stage in report.stages.items()} == {
        "a": "ordinal",
        "b": "ordinal",
        "meet": "multiset",
        "twice": "multiset",
    }


def test_behind_a_fan_in_a_difference_names_an_event_of_its_source():
    report = verify(merged([("a", 2000), ("b", 100)]), merged([("b", 100), ("a", 2000)], wrong=1234))
    assert [(each.stage, each.how) for each in report.differences] == [("twice", "multiset")]
    found = report.differences[0]
    assert [each for each in (found.first, found.second) if "1234 (int)" in each or "1235 (int)" in each]


def test_dead_letters_are_compared():
    def picky(bad):
        def body(number):
            if number == bad:
                raise ValueError(f"no {number}")
            return number

        return mapped(body)

    one, other = recorded(line(picky(7), count=20)), recorded(line(picky(7), count=20, events=3))
    assert verify(one, other).certified
    found = verify(one, recorded(line(picky(8), count=20))).differences
    assert {each.stage for each in found} == {"t", "dead_letters"}
    assert [each for each in found if "s@7 t: ValueError: no 7" in each.first]


def test_what_reads_dead_letters_is_compared_as_a_multiset():
    def read(bad):
        @oz.transform
        def picky(number: int) -> int:
            if number in bad:
                raise ValueError(f"no {number}")
            return number

        @oz.transform
        def kind(letter: oz.DeadLetter) -> int:
            return letter.event

        return recorded(oz.Flow("f", ints(50) >> picky >> Seen().sink(), oz.dead_letters >> kind >> Seen().sink("kinds")))

    report = verify(read({3, 5}), read({5, 3}))
    assert (report.certified, report.stages["kind"].how, report.stages["kind"].first) == (True, "multiset", 2)
    found = {each.stage: each for each in verify(read({3, 5}), read({3, 6})).differences}
    assert found.keys() == {"picky", "dead_letters", "kind"}
    assert {found["kind"].first, found["kind"].second} & {"no such event"}


def totalled(order, bad=None):
    """The sum of two sources that meet in an order of one's choice."""
    one, two = Valve(), Valve()

    @oz.fold(0, emit=oz.at_end())
    def total(sum_: int, number: int) -> int:
        if number == bad:
            raise ValueError("bad")
        return sum_ + number

    async def beside(pipeline):
        await reached(pipeline, "running")
        for name in order:
            valve = {"a": one, "b": two}[name]
            valve.give(100)
            await until(lambda name=name: pipeline.stages[name].written >= 100)
        one.end()
        two.end()

    return recorded(oz.Flow("f", [one.source("a"), two.source("b")] >> total >> Seen().sink()), beside=beside)


def test_what_comes_of_many_events_behind_a_fan_in_is_compared_by_its_value():
    one, other = totalled("ab", bad=7), totalled("ba", bad=7)
    assert verify(one, other).certified
    found = {each.stage: each for each in verify(one, totalled("ab", bad=70)).differences}
    assert found.keys() == {"total", "dead_letters"}
    assert "total: ValueError: bad" in found["dead_letters"].first + found["dead_letters"].second


def without(kind):
    """A log in which the records of a kind are told as lost."""

    class Told:
        def __init__(self, journal):
            self.journal = journal

        async def read(self, start=1, stop=None, *, kinds=None):
            async for entry in self.journal.read(start, stop, kinds=kinds):
                yield entry._replace(record=Loss(entry.position, entry.position + 1, 0)) if isinstance(entry.record, kind) else entry

    return Told


@pytest.mark.parametrize("kind", [RunStarted, Receipt])
def test_a_run_that_is_not_whole_is_refused(kind):
    journal = recorded(line(mapped(same), count=20))
    with pytest.raises(oz.ObzenError, match="does not hold the whole run"):
        verify(journal, without(kind)(journal))


def test_a_run_that_had_not_begun_is_told_so():
    with pytest.raises(oz.ObzenError, match="had not begun"):
        verify(recorded(line(mapped(same), count=20)), oz.MemoryJournal(keep=True))


def stopped(after):
    valve = Valve()

    async def beside(pipeline):
        await reached(pipeline, "running")
        valve.give(after)
        await until(lambda: pipeline.stages["s"].written >= after)
        pipeline.command(StopFlow(within=100.0))

    return recorded(oz.Flow("f", valve.source() >> mapped(same) >> Seen().sink()), beside=beside)


def test_runs_that_have_not_drained_are_compared_up_to_where_both_are():
    report = verify(stopped(3000), stopped(1700))
    assert report.certified
    assert "up to where both are" in report.reason
    assert (report.stages["t"].first, report.stages["t"].second) == (3000, 1700)


def test_behind_a_fan_in_only_runs_that_have_drained_are_compared():
    def met(count):
        one, two = Valve(), Valve()

        async def beside(pipeline):
            await reached(pipeline, "running")
            one.give(count)
            await until(lambda: pipeline.stages["a"].written >= count)
            pipeline.command(StopFlow(within=100.0))

        return recorded(oz.Flow("f", [one.source("a"), two.source("b")] >> mapped(same) >> Seen().sink()), beside=beside)

    report = verify(met(30), met(20))
    assert (report.certified, report.differences) == (False, ())
    assert report.reason == "t cannot be compared: behind a fan-in only runs that have drained can"
    assert (report.stages["a"].same, report.stages["t"].same) == (True, None), "nothing is said of what was not compared"
    assert verify(met(20), met(20)).certified


def test_runs_of_different_flows_are_refused():
    with pytest.raises(oz.ObzenError, match="different flows"):
        verify(recorded(line(mapped(same))), recorded(line(mapped(same, "u"))))


def test_inside_a_loop_it_is_awaited():
    one = recorded(line(mapped(same), count=10))

    async def inside():
        with pytest.raises(oz.ObzenError, match=r"oz\.verifying"):
            verify(one, one)
        return await oz.verifying(one, one)

    assert asyncio.run(inside()).certified
