"""The conformance suite for journals: what every backend must do, as cases that anybody can run against their own.

A backend gives a `Harness`: how to open a journal, and what it can do beyond keeping records in one process. Each
case gets a fresh harness. With pytest:

    @pytest.mark.parametrize("case", JOURNAL_CASES, ids=str)
    async def test_my_journal(case, tmp_path):
        await case.check(Harness(open=lambda: MyJournal.open(tmp_path), survives=True, encodes=True))

Without it: `asyncio.run(failures(make_harness))` gives the cases that failed, with the reason.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from obzen_runtime.events import ActorState, Block, DeadLetter, Record, RunCompleted
from obzen_runtime.journal import Entry, Fsync, Interval, Journal, Memory, Os
from obzen_runtime.kernel import Concurrency, ErrorInfo, JournalFailed, JournalLocked, ObzenError, ValidationFailed
from obzen_runtime.testing.samples import sample_records

__all__ = ["JOURNAL_CASES", "Case", "Harness", "NotConforming", "failures"]

E = TypeVar("E", bound=BaseException)
_MOST_RECORDS = 65_535


class NotConforming(AssertionError):
    """A backend does not do what a journal promises."""


@dataclass(frozen=True)
class Harness:
    """What a backend brings to the suite."""

    open: Callable[[], Journal | Awaitable[Journal]]
    """Open the journal: an empty one at first; after a close, the same again if it `survives`."""
    survives: bool = False
    """Whether records are there again after close and open, and a second opener is locked out."""
    encodes: bool = False
    """Whether records are turned into bytes at `append`, so that what cannot be encoded is refused there."""

    async def journal(self) -> Journal:
        """The opened journal."""
        opened = self.open()
        return opened if isinstance(opened, Journal) else await opened


@dataclass(frozen=True)
class Case:
    """One promise."""

    name: str
    check: Callable[[Harness], Awaitable[None]]
    """Raises `NotConforming`, or whatever the backend raised."""
    needs: frozenset[str] = frozenset()
    """Fields of the harness that must be true for the promise to apply."""

    def __str__(self) -> str:
        return self.name

    def applies(self, harness: Harness) -> bool:
        """Whether the backend claims what this case is about."""
        return all(getattr(harness, need) for need in self.needs)


async def failures(make: Callable[[], Harness]) -> dict[str, str]:
    """Run every case that applies, each with a fresh harness; names of those that failed, with the reason."""
    failed = {}
    for case in JOURNAL_CASES:
        harness = make()
        if case.applies(harness):
            try:
                await case.check(harness)
            except (NotConforming, ObzenError, OSError, TypeError, ValueError) as error:
                failed[case.name] = f"{type(error).__name__}: {error}"
    return failed


def _mark(number: int) -> Record:
    return ActorState(actor="a", source="x", event="E", target="y", at=number)


def _expect(got: object, wanted: object, what: str) -> None:
    if got != wanted:
        raise NotConforming(f"{what}: got {got!r}, expected {wanted!r}")


def _refused(kind: type[E], call: Callable[[], object]) -> E:
    try:
        call()
    except kind as error:
        return error
    raise NotConforming(f"nothing was refused, expected {kind.__name__}")


async def _all(entries: AsyncIterator[Entry]) -> list[Entry]:
    return [entry async for entry in entries]


async def _positions(entries: AsyncIterator[Entry]) -> list[int]:
    return [entry.position async for entry in entries]


async def _next(entries: AsyncIterator[Entry]) -> Entry:
    return await asyncio.wait_for(anext(entries), 10)


async def _filled(harness: Harness, count: int) -> Journal:
    journal = await harness.journal()
    for number in range(1, count + 1):
        journal.append([_mark(number)])
    return journal


async def a_new_journal_is_empty(harness: Harness) -> None:
    journal = await harness.journal()
    _expect((journal.head, journal.durable_head), (0, 0), "head of an empty journal")
    _expect(await _all(journal.read()), [], "records of an empty journal")
    await journal.close()


async def it_is_a_journal_with_a_level(harness: Harness) -> None:
    journal = await harness.journal()
    _expect(isinstance(journal, Journal), True, "isinstance of Journal")
    _expect(isinstance(journal.level, Memory | Os | Interval | Fsync), True, "level is a Level")
    _expect(journal.size >= 0, True, "size is not negative")
    await journal.close()


async def append_returns_the_position_of_the_last_record(harness: Harness) -> None:
    journal = await harness.journal()
    _expect(journal.append([_mark(1)]), 1, "first append")
    _expect(journal.append([_mark(2), _mark(3), _mark(4)]), 4, "append of three")
    _expect(journal.append((_mark(5),)), 5, "append of a tuple")
    _expect(journal.head, 5, "head")
    await journal.close()


async def records_come_back_in_order(harness: Harness) -> None:
    journal = await harness.journal()
    journal.append([_mark(1)])
    journal.append([_mark(2), _mark(3)])
    _expect(await _all(journal.read()), [Entry(number, _mark(number)) for number in (1, 2, 3)], "records")
    await journal.close()


async def every_type_of_record_comes_back_equal(harness: Harness) -> None:
    journal = await harness.journal()
    records = sample_records()
    journal.append(records)
    _expect([entry.record for entry in await _all(journal.read())], records, "records")
    await journal.close()


async def appending_nothing_changes_nothing(harness: Harness) -> None:
    journal = await _filled(harness, 2)
    _expect(journal.append([]), 2, "append of nothing")
    _expect(await _positions(journal.read()), [1, 2], "positions")
    await journal.close()


async def reading_begins_at_start(harness: Harness) -> None:
    journal = await _filled(harness, 5)
    _expect(await _positions(journal.read(3)), [3, 4, 5], "read(3)")
    await journal.close()


async def reading_ends_before_stop(harness: Harness) -> None:
    journal = await _filled(harness, 5)
    _expect(await _positions(journal.read(2, 4)), [2, 3], "read(2, 4)")
    _expect(await _positions(journal.read(4, 4)), [], "read(4, 4)")
    _expect(await _positions(journal.read(4, 2)), [], "read(4, 2)")
    await journal.close()


async def reading_beyond_the_head_gives_nothing(harness: Harness) -> None:
    journal = await _filled(harness, 2)
    _expect(await _positions(journal.read(3)), [], "read from beyond the head")
    _expect(await _positions(journal.read(100, 200)), [], "read far beyond")
    await journal.close()


async def reading_to_beyond_the_head_ends_at_the_head(harness: Harness) -> None:
    journal = await _filled(harness, 2)
    _expect(await _positions(journal.read(1, 100)), [1, 2], "read(1, 100)")
    await journal.close()


async def reading_from_below_one_begins_at_one(harness: Harness) -> None:
    journal = await _filled(harness, 2)
    _expect(await _positions(journal.read(-5)), [1, 2], "read(-5)")
    _expect(await _positions(journal.read(0, 2)), [1], "read(0, 2)")
    await journal.close()


async def every_pair_of_bounds_reads_what_is_between(harness: Harness) -> None:
    journal = await harness.journal()
    for size in (1, 3, 1, 2, 4):
        journal.append([_mark(number) for number in range(size)])
    for start in range(1, 13):
        for stop in range(1, 13):
            _expect(await _positions(journal.read(start, stop)), list(range(start, min(stop, 12))), f"read({start}, {stop})")
    await journal.close()


async def reading_shows_what_was_there_when_it_began(harness: Harness) -> None:
    journal = await _filled(harness, 2)
    reading = journal.read()
    first = await _next(reading)
    journal.append([_mark(3)])
    _expect([first.position, *await _positions(reading)], [1, 2], "positions")
    await journal.close()


async def two_readers_do_not_disturb_each_other(harness: Harness) -> None:
    journal = await _filled(harness, 6)
    one, two = journal.read(), journal.read(3)
    got = [((await _next(one)).position, (await _next(two)).position) for _ in range(4)]
    _expect(got, [(1, 3), (2, 4), (3, 5), (4, 6)], "positions of both")
    await journal.close()


async def only_wanted_kinds_are_read(harness: Harness) -> None:
    journal = await harness.journal()
    journal.append(sample_records())
    wanted = frozenset[type[Record]]({Block, RunCompleted})
    _expect([type(entry.record) for entry in await _all(journal.read(kinds=wanted))], [Block, Block, RunCompleted], "kinds")
    _expect(await _positions(journal.read(3, kinds=wanted)), [3, 18], "positions of the kinds from 3")
    _expect(await _positions(journal.read(kinds=frozenset())), [], "no kinds")
    await journal.close()


async def an_expected_head_that_matches_lets_append(harness: Harness) -> None:
    journal = await harness.journal()
    _expect(journal.append([_mark(1)], expected=0), 1, "append at 0")
    _expect(journal.append([_mark(2)], expected=1), 2, "append at 1")
    await journal.close()


async def an_expected_head_that_moved_refuses(harness: Harness) -> None:
    journal = await _filled(harness, 2)
    for expected in (0, 1, 3, -1):
        error = _refused(Concurrency, lambda expected=expected: journal.append([_mark(9)], expected=expected))  # type: ignore[misc]
        _expect((error.code, error.details.get("head")), ("stale_sequence", 2), "what the refusal says")
    _expect(await _positions(journal.read()), [1, 2], "positions after refusals")
    _expect(journal.append([_mark(3)], expected=2), 3, "the next append")
    await journal.close()


async def too_many_records_are_refused_and_nothing_is_written(harness: Harness) -> None:
    journal = await _filled(harness, 1)
    many = [_mark(1)] * (_MOST_RECORDS + 1)
    _expect(_refused(ValidationFailed, lambda: journal.append(many)).code, "too_large", "code")
    _expect((journal.head, journal.append([_mark(2)])), (1, 2), "head and the next append")
    await journal.close()


async def the_most_records_of_one_frame_fit(harness: Harness) -> None:
    journal = await harness.journal()
    _expect(journal.append([_mark(1)] * _MOST_RECORDS), _MOST_RECORDS, "position")
    _expect(await _positions(journal.read(_MOST_RECORDS - 1)), [_MOST_RECORDS - 1, _MOST_RECORDS], "the last two")
    await journal.close()


async def what_cannot_be_encoded_is_refused_and_nothing_is_written(harness: Harness) -> None:
    journal = await _filled(harness, 1)
    bad = RunCompleted(at=1 << 70)
    for records in ([bad], [_mark(2), bad], [bad, _mark(2)]):
        _refused(Exception, lambda records=records: journal.append(records))  # type: ignore[misc]
    _expect(journal.append([_mark(2)]), 2, "the next append")
    _expect([entry.record for entry in await _all(journal.read())], [_mark(1), _mark(2)], "records")
    await journal.close()


async def durable_returns_for_what_was_written(harness: Harness) -> None:
    journal = await _filled(harness, 3)
    for position in (0, 1, 3, 2):
        await asyncio.wait_for(journal.durable(position), 10)
    _expect(journal.durable_head, 3, "durable head")
    await journal.close()


async def durable_wakes_all_who_wait(harness: Harness) -> None:
    journal = await harness.journal()
    waiting = []
    for number in range(1, 21):
        position = journal.append([_mark(number)])
        waiting.append(asyncio.ensure_future(journal.durable(position)))
        if number % 5 == 0:
            await asyncio.sleep(0)
    await asyncio.wait_for(asyncio.gather(*waiting), 10)
    _expect(journal.durable_head, 20, "durable head")
    await journal.close()


async def a_cancelled_wait_for_durability_harms_nobody(harness: Harness) -> None:
    journal = await _filled(harness, 1)
    one, two = asyncio.ensure_future(journal.durable(1)), asyncio.ensure_future(journal.durable(1))
    await asyncio.sleep(0)
    one.cancel()
    await asyncio.wait_for(two, 10)
    journal.append([_mark(2)])
    await asyncio.wait_for(journal.durable(2), 10)
    await journal.close()


async def a_tail_gives_the_past_and_then_what_comes(harness: Harness) -> None:
    journal = await _filled(harness, 2)
    tail = journal.tail()
    _expect([(await _next(tail)).position for _ in range(2)], [1, 2], "the past")
    coming = asyncio.ensure_future(_next(tail))
    await asyncio.sleep(0)
    journal.append([_mark(3), _mark(4)])
    _expect(await coming, Entry(3, _mark(3)), "what comes")
    _expect((await _next(tail)).position, 4, "the rest of the frame")
    await journal.close()


async def a_tail_ends_when_the_journal_is_closed(harness: Harness) -> None:
    journal = await _filled(harness, 2)
    tail = asyncio.ensure_future(_positions(journal.tail()))
    await asyncio.sleep(0)
    journal.append([_mark(3)])
    await journal.close()
    _expect(await asyncio.wait_for(tail, 10), [1, 2, 3], "all that was written")


async def a_tail_may_begin_anywhere(harness: Harness) -> None:
    journal = await _filled(harness, 3)
    middle, future = asyncio.ensure_future(_positions(journal.tail(3))), asyncio.ensure_future(_positions(journal.tail(5)))
    await asyncio.sleep(0)
    for number in (4, 5, 6):
        journal.append([_mark(number)])
    await journal.close()
    _expect(await asyncio.wait_for(middle, 10), [3, 4, 5, 6], "from the middle")
    _expect(await asyncio.wait_for(future, 10), [5, 6], "from the future")


async def several_tails_see_everything(harness: Harness) -> None:
    journal = await harness.journal()
    tails = [asyncio.ensure_future(_positions(journal.tail())) for _ in range(5)]
    for number in range(1, 101):
        journal.append([_mark(number)])
        if number % 7 == 0:
            await asyncio.sleep(0)
    await journal.close()
    for tail in tails:
        _expect(await asyncio.wait_for(tail, 10), list(range(1, 101)), "positions")


async def a_cancelled_tail_harms_nobody(harness: Harness) -> None:
    journal = await harness.journal()
    one, two = asyncio.ensure_future(_positions(journal.tail())), asyncio.ensure_future(_positions(journal.tail()))
    await asyncio.sleep(0)
    one.cancel()
    await asyncio.gather(one, return_exceptions=True)
    journal.append([_mark(1)])
    await journal.close()
    _expect(await asyncio.wait_for(two, 10), [1], "the other tail")


async def a_tail_gives_only_wanted_kinds(harness: Harness) -> None:
    journal = await harness.journal()
    tail = asyncio.ensure_future(_positions(journal.tail(kinds=frozenset({RunCompleted}))))
    await asyncio.sleep(0)
    for number in range(3):
        journal.append([_mark(number), RunCompleted(at=number)])
        await asyncio.sleep(0)
    await journal.close()
    _expect(await asyncio.wait_for(tail, 10), [2, 4, 6], "positions")


async def a_closed_journal_refuses_appends(harness: Harness) -> None:
    journal = await _filled(harness, 1)
    await journal.close()
    _refused(JournalFailed, lambda: journal.append([_mark(2)]))
    _expect(journal.head, 1, "head")


async def closing_again_is_fine(harness: Harness) -> None:
    journal = await _filled(harness, 1)
    await asyncio.gather(journal.close(), journal.close())
    await journal.close()


async def what_is_written_is_durable_after_close(harness: Harness) -> None:
    journal = await _filled(harness, 3)
    await journal.close()
    await asyncio.wait_for(journal.durable(3), 10)
    _expect(journal.durable_head, 3, "durable head")


async def an_unused_journal_can_be_closed(harness: Harness) -> None:
    await (await harness.journal()).close()


async def a_large_record_comes_back_whole(harness: Harness) -> None:
    journal = await harness.journal()
    payload = bytes(range(256)) * 4096
    journal.append([Block(stage="a", base=0, count=1, at=1, payloads=payload), _mark(2)])
    entries = await _all(journal.read())
    _expect([entry.position for entry in entries], [1, 2], "positions")
    _expect(getattr(entries[0].record, "payloads", None) == payload, True, "a megabyte comes back equal")
    await journal.close()


async def bytes_of_every_length_come_back(harness: Harness) -> None:
    journal = await harness.journal()
    records = [
        DeadLetter(ordinal=0, stage="a", at=1, error=ErrorInfo(kind="IO", code="io", message=""), payload=bytes(n)) for n in range(80)
    ]
    for record in records:
        journal.append([record])
    _expect([entry.record for entry in await _all(journal.read())], records, "records")
    await journal.close()


async def ten_thousand_appends_have_gapless_positions(harness: Harness) -> None:
    journal = await _filled(harness, 10_000)
    _expect(await _positions(journal.read()), list(range(1, 10_001)), "positions")
    for start in (1, 4_999, 9_999):
        _expect(await _all(journal.read(start, start + 1)), [Entry(start, _mark(start))], f"record {start}")
    await journal.close()


async def forgetting_keeps_what_is_above(harness: Harness) -> None:
    journal = await _filled(harness, 5)
    journal.forget(3)
    _expect(await _positions(journal.read(3)), [3, 4, 5], "positions from 3")
    _expect((journal.head, journal.append([_mark(6)])), (5, 6), "head and the next append")
    await journal.close()


async def the_newest_of_some_kinds_is_found(harness: Harness) -> None:
    journal = await harness.journal()
    wanted = frozenset[type[Record]]({RunCompleted, Block})
    _expect(await journal.last(wanted), None, "the newest of an empty journal")
    journal.append([_mark(1), RunCompleted(at=2), _mark(3)])
    _expect(await journal.last(wanted), Entry(2, RunCompleted(at=2)), "in the middle of a frame")
    journal.append([RunCompleted(at=4)])
    _expect(await journal.last(wanted), Entry(4, RunCompleted(at=4)), "at the head")
    _expect(await journal.last(frozenset()), None, "no kinds")
    _expect(await journal.last(frozenset({DeadLetter})), None, "a kind that is not there")
    await journal.close()


async def the_newest_is_found_behind_thousands_of_others(harness: Harness) -> None:
    journal = await harness.journal()
    journal.append([RunCompleted(at=1), RunCompleted(at=2)])
    for number in range(3_000):
        journal.append([_mark(number)])
    _expect(await journal.last(frozenset({RunCompleted})), Entry(2, RunCompleted(at=2)), "far back")
    _expect(await journal.last(frozenset({ActorState})), Entry(3_002, _mark(2_999)), "the head")
    await journal.close()


async def records_are_there_after_close_and_open(harness: Harness) -> None:
    records = sample_records()
    journal = await harness.journal()
    journal.append(records)
    await journal.close()
    again = await harness.journal()
    _expect((again.head, again.durable_head), (len(records), len(records)), "head")
    _expect([entry.record for entry in await _all(again.read())], records, "records")
    await again.close()


async def positions_go_on_after_close_and_open(harness: Harness) -> None:
    for opening in range(4):
        journal = await harness.journal()
        _expect(journal.append([_mark(opening)]), opening + 1, "position")
        _expect(await _positions(journal.read()), list(range(1, opening + 2)), "positions")
        await journal.close()


async def opening_without_appending_changes_nothing(harness: Harness) -> None:
    await (await _filled(harness, 2)).close()
    for _ in range(3):
        await (await harness.journal()).close()
    journal = await harness.journal()
    _expect([entry.record for entry in await _all(journal.read())], [_mark(1), _mark(2)], "records")
    await journal.close()


async def a_second_opener_is_locked_out(harness: Harness) -> None:
    journal = await _filled(harness, 1)
    try:
        await harness.journal()
    except JournalLocked as error:
        _expect(error.exit_code, 75, "exit code")
    else:
        raise NotConforming("a second writer was let in")
    _expect(journal.append([_mark(2)]), 2, "the first writer goes on")
    await journal.close()
    await (await harness.journal()).close()


async def the_size_grows_with_what_is_written(harness: Harness) -> None:
    journal = await harness.journal()
    before = journal.size
    journal.append([Block(stage="a", base=0, count=1, at=1, payloads=bytes(10_000))])
    _expect(journal.size - before >= 10_000, True, "growth")
    await journal.close()


_PLAIN: tuple[Callable[[Harness], Awaitable[None]], ...] = (
    a_new_journal_is_empty,
    it_is_a_journal_with_a_level,
    append_returns_the_position_of_the_last_record,
    records_come_back_in_order,
    every_type_of_record_comes_back_equal,
    appending_nothing_changes_nothing,
    reading_begins_at_start,
    reading_ends_before_stop,
    reading_beyond_the_head_gives_nothing,
    reading_to_beyond_the_head_ends_at_the_head,
    reading_from_below_one_begins_at_one,
    every_pair_of_bounds_reads_what_is_between,
    reading_shows_what_was_there_when_it_began,
    two_readers_do_not_disturb_each_other,
    only_wanted_kinds_are_read,
    an_expected_head_that_matches_lets_append,
    an_expected_head_that_moved_refuses,
    too_many_records_are_refused_and_nothing_is_written,
    the_most_records_of_one_frame_fit,
    durable_returns_for_what_was_written,
    durable_wakes_all_who_wait,
    a_cancelled_wait_for_durability_harms_nobody,
    a_tail_gives_the_past_and_then_what_comes,
    a_tail_ends_when_the_journal_is_closed,
    a_tail_may_begin_anywhere,
    several_tails_see_everything,
    a_cancelled_tail_harms_nobody,
    a_tail_gives_only_wanted_kinds,
    a_closed_journal_refuses_appends,
    closing_again_is_fine,
    what_is_written_is_durable_after_close,
    an_unused_journal_can_be_closed,
    a_large_record_comes_back_whole,
    bytes_of_every_length_come_back,
    ten_thousand_appends_have_gapless_positions,
    forgetting_keeps_what_is_above,
    the_newest_of_some_kinds_is_found,
    the_newest_is_found_behind_thousands_of_others,
)
_SURVIVING: tuple[Callable[[Harness], Awaitable[None]], ...] = (
    records_are_there_after_close_and_open,
    positions_go_on_after_close_and_open,
    opening_without_appending_changes_nothing,
    a_second_opener_is_locked_out,
    the_size_grows_with_what_is_written,
)


def _case(check: Any, *needs: str) -> Case:
    return Case(check.__name__, check, frozenset(needs))


JOURNAL_CASES: tuple[Case, ...] = (
    *map(_case, _PLAIN),
    *(_case(check, "survives") for check in _SURVIVING),
    _case(what_cannot_be_encoded_is_refused_and_nothing_is_written, "encodes"),
)
"""All cases, each a promise in words."""
