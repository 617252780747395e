"""The conformance suite is tried on a backend that somebody else wrote, and on the mistakes they may make."""

import asyncio
from functools import partial
from itertools import count

import pytest

from obzen_runtime.events import KINDS
from obzen_runtime.journal import Entry
from obzen_runtime.testing import JOURNAL_CASES, Case, Harness, NotConforming, failures, harness, sample_records
from obzen_runtime.testing.harness import expect
from tests.testing.lines import LinesJournal


@pytest.fixture
async def harness_of(tmp_path):
    """A harness of a class of journals, in a directory of its own."""
    numbers, everyone = count(), []

    def make(journal):
        place = tmp_path / str(next(numbers))

        def opened():
            everyone.append(journal(place))
            return everyone[-1]

        return Harness(open=opened, survives=True, encodes=True, unlock=lambda: everyone[-1].unlock(), files=lambda: [place / "lines"])

    yield make
    for each in everyone:
        await each.close()


@pytest.mark.parametrize("case", JOURNAL_CASES, ids=str)
async def test_a_backend_of_somebody_else_conforms(case, harness_of):
    await case.check(harness_of(LinesJournal))


class AcknowledgesBeforeItWrites(LinesJournal):
    def open_file(self):
        return self.path.open("ab")


class LeavesAHole(LinesJournal):
    async def read(self, start=0, stop=None, *, kinds=None):
        async for position, record in super().read(start, stop, kinds=kinds):
            yield Entry(position + (position > 100), record)


class MissesTheLast(LinesJournal):
    async def read(self, start=0, stop=None, *, kinds=None):
        async for entry in super().read(start, stop, kinds=kinds):
            if kinds is None or entry.position < self.head:
                yield entry


class LetsTwoIn(LinesJournal):
    def take_lock(self):
        """Everybody is welcome."""


class FencesNobody(LinesJournal):
    def fence(self):
        """Who was first goes on."""


class LosesAWakeUp(LinesJournal):
    async def wait(self):
        await asyncio.sleep(0)  # what is written meanwhile is not heard of
        await super().wait()


class EndsItsTailsAtTheClose(LinesJournal):
    def over(self, position):
        return self.closed


class LosesTheLastWhenItOpens(LinesJournal):
    def begin(self, place):
        super().begin(place)
        if len(self.records) > 2:
            self.records.pop()


class TurnsFramesRoundOnDisk(LinesJournal):
    def line(self, records):
        return super().line(records[::-1])


class TurnsFramesRound(LinesJournal):
    def write(self, records):
        super().write([*records[1:], records[0]])


class RemembersTheNewest(LinesJournal):
    def begin(self, place):
        super().begin(place)
        self.newest = {}

    async def last(self, kinds):
        if kinds not in self.newest:
            self.newest[kinds] = await super().last(kinds)
        return self.newest[kinds]


class TakesHalfAFrame(LinesJournal):
    """A frame is a line a record, so that what a death leaves of it is taken."""

    def write(self, records):
        for record in records:
            super().write([record])


class BelievesWhatItReads(LinesJournal):
    def whole(self, line):
        return True


class ClosesTheDoorOfOthers(LinesJournal):
    async def close(self):
        await super().close()
        (self.path.parent / "lock").unlink(missing_ok=True)


class WritesWhatItRefuses(LinesJournal):
    def line(self, records):
        self.file.write(b"".join(LinesJournal.line(self, [each]) for each in records))
        return b""


class Breaks(LinesJournal):
    async def last(self, kinds):
        raise KeyError(kinds)


BUGS = {
    AcknowledgesBeforeItWrites: "what_was_appended_outlives_its_process",
    LeavesAHole: "ten_thousand_appends_have_gapless_positions",
    MissesTheLast: "only_wanted_kinds_are_read",
    LetsTwoIn: "a_second_opener_is_locked_out",
    FencesNobody: "a_writer_that_was_overtaken_is_fenced_and_writes_nothing",
    LosesAWakeUp: "an_append_wakes_a_tail_at_whatever_moment_it_comes",
    EndsItsTailsAtTheClose: "a_tail_gives_all_that_was_written_before_the_close",
    LosesTheLastWhenItOpens: "records_are_there_after_close_and_open",
    TurnsFramesRoundOnDisk: "records_are_there_after_close_and_open",
    TurnsFramesRound: "records_come_back_in_order",
    RemembersTheNewest: "the_newest_of_some_kinds_is_found",
    TakesHalfAFrame: "of_a_frame_that_was_cut_nothing_is_left",
    BelievesWhatItReads: "a_byte_that_changed_is_never_read_as_what_was_written",
    ClosesTheDoorOfOthers: "the_close_of_who_was_overtaken_lets_nobody_in",
    Breaks: "the_newest_of_some_kinds_is_found",
}


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
async def test_a_mistake_is_found_by_the_promise_it_breaks(bug, harness_of, monkeypatch):
    if bug is LosesAWakeUp:
        monkeypatch.setattr(harness, "PATIENCE", 0.2)
    (case,) = (each for each in JOURNAL_CASES if each.name == BUGS[bug])
    with pytest.raises((NotConforming, KeyError, ValueError)):
        await case.check(harness_of(bug))


async def test_what_a_backend_raises_is_told_like_any_other_failure(harness_of):
    failed = await failures(partial(harness_of, Breaks))
    assert failed["the_newest_of_some_kinds_is_found"].startswith("KeyError: ")
    assert "records_come_back_in_order" not in failed


async def test_a_promise_that_never_ends_is_broken(monkeypatch):
    monkeypatch.setattr(harness, "PATIENCE", 0.01)

    async def waits(given):
        await asyncio.Event().wait()

    with pytest.raises(NotConforming, match="it waits for something that does not come"):
        await Case("waits", waits).check(Harness(open=LinesJournal))


def test_of_a_long_list_the_first_difference_is_told():
    with pytest.raises(NotConforming, match=r"^positions: 99 came, expected 100; number 51 is 52, expected 51$"):
        expect([*range(1, 51), *range(52, 101)], list(range(1, 101)), "positions")
    with pytest.raises(NotConforming, match="number 10 is nothing, expected 9"):
        expect(list(range(9)), list(range(10)), "positions")
    with pytest.raises(NotConforming, match=r"^text: got 'x+\.\.\., expected ''$"):
        expect("x" * 1000, "", "text")


def test_the_samples_are_of_every_kind():
    assert {type(record) for record in sample_records()} == set(KINDS.values())
