"""What a journal promises whoever writes and reads it: each case is one sentence."""

import asyncio

from obzen_runtime.events import ActorState, Block, DeadLetter, Record, RunCompleted
from obzen_runtime.journal import Entry, Fsync, Interval, Journal, Memory, Os
from obzen_runtime.kernel import Concurrency, ErrorInfo, JournalFailed, ValidationFailed
from obzen_runtime.testing.harness import (
    MOST_RECORDS,
    Check,
    Harness,
    every,
    expect,
    filled,
    following,
    hold,
    locked_out,
    mark,
    positions,
    refused,
)
from obzen_runtime.testing.samples import sample_records

__all__ = ["ENCODING", "PLAIN", "SURVIVING"]


async def a_new_journal_is_empty(harness: Harness) -> None:
    journal = await harness.journal()
    expect((journal.head, journal.durable_head), (0, 0), "head of an empty journal")
    expect(await every(journal.read()), [], "records of an empty journal")
    await journal.close()


async def it_is_a_journal_with_a_level(harness: Harness) -> None:
    journal = await harness.journal()
    hold(isinstance(journal, Journal), "it has not all that a Journal has")
    hold(isinstance(journal.level, Memory | Os | Interval | Fsync), f"level is {journal.level!r}, which is none")
    hold(journal.size >= 0, f"size is {journal.size}")
    await journal.close()


async def append_returns_the_position_of_the_last_record(harness: Harness) -> None:
    journal = await harness.journal()
    expect(journal.append([mark(1)]), 1, "first append")
    expect(journal.append([mark(2), mark(3), mark(4)]), 4, "append of three")
    expect(journal.append((mark(5),)), 5, "append of a tuple")
    expect(journal.head, 5, "head")
    await journal.close()


async def records_come_back_in_order(harness: Harness) -> None:
    journal = await harness.journal()
    journal.append([mark(1)])
    journal.append([mark(2), mark(3)])
    expect(await every(journal.read()), [Entry(number, mark(number)) for number in (1, 2, 3)], "records")
    await journal.close()


async def every_type_of_record_comes_back_equal(harness: Harness) -> None:
    journal = await harness.journal()
    records = sample_records()
    journal.append(records)
    expect([entry.record for entry in await every(journal.read())], records, "records")
    await journal.close()


async def appending_nothing_changes_nothing(harness: Harness) -> None:
    journal = await filled(harness, 2)
    expect(journal.append([]), 2, "append of nothing")
    expect(await positions(journal.read()), [1, 2], "positions")
    await journal.close()


async def reading_begins_at_start(harness: Harness) -> None:
    journal = await filled(harness, 5)
    expect(await positions(journal.read(3)), [3, 4, 5], "read(3)")
    await journal.close()


async def reading_ends_before_stop(harness: Harness) -> None:
    journal = await filled(harness, 5)
    expect(await positions(journal.read(2, 4)), [2, 3], "read(2, 4)")
    expect(await positions(journal.read(4, 4)), [], "read(4, 4)")
    expect(await positions(journal.read(4, 2)), [], "read(4, 2)")
    await journal.close()


async def reading_beyond_the_head_gives_nothing(harness: Harness) -> None:
    journal = await filled(harness, 2)
    expect(await positions(journal.read(3)), [], "read from beyond the head")
    expect(await positions(journal.read(100, 200)), [], "read far beyond")
    await journal.close()


async def reading_to_beyond_the_head_ends_at_the_head(harness: Harness) -> None:
    journal = await filled(harness, 2)
    expect(await positions(journal.read(1, 100)), [1, 2], "read(1, 100)")
    await journal.close()


async def reading_from_below_one_begins_at_one(harness: Harness) -> None:
    journal = await filled(harness, 2)
    expect(await positions(journal.read(-5)), [1, 2], "read(-5)")
    expect(await positions(journal.read(0, 2)), [1], "read(0, 2)")
    await journal.close()


async def every_pair_of_bounds_reads_what_is_between(harness: Harness) -> None:
    journal = await harness.journal()
    for size in (1, 3, 1, 2, 4):
        journal.append([mark(number) for number in range(size)])
    for start in range(1, 13):
        for stop in range(1, 13):
            expect(await positions(journal.read(start, stop)), list(range(start, min(stop, 12))), f"read({start}, {stop})")
    await journal.close()


async def reading_shows_what_was_there_when_it_began(harness: Harness) -> None:
    journal = await filled(harness, 2)
    reading = journal.read()
    first = await following(reading)
    journal.append([mark(3)])
    expect([first.position, *await positions(reading)], [1, 2], "positions")
    await journal.close()


async def two_readers_do_not_disturb_each_other(harness: Harness) -> None:
    journal = await filled(harness, 6)
    one, two = journal.read(), journal.read(3)
    got = [((await following(one)).position, (await following(two)).position) for _ in range(4)]
    expect(got, [(1, 3), (2, 4), (3, 5), (4, 6)], "positions of both")
    await journal.close()


async def only_wanted_kinds_are_read(harness: Harness) -> None:
    journal = await harness.journal()
    records = sample_records()
    journal.append(records)
    wanted = frozenset[type[Record]]({Block, RunCompleted})
    inside = [position for position, record in enumerate(records, 1) if type(record) in wanted]
    expect([type(entry.record) for entry in await every(journal.read(kinds=wanted))], [type(records[each - 1]) for each in inside], "kinds")
    expect(await positions(journal.read(3, kinds=wanted)), [each for each in inside if each >= 3], "positions of the kinds from 3")
    expect(await positions(journal.read(kinds=frozenset())), [], "no kinds")
    await journal.close()


async def an_expected_head_that_matches_lets_append(harness: Harness) -> None:
    journal = await harness.journal()
    expect(journal.append([mark(1)], expected=0), 1, "append at 0")
    expect(journal.append([mark(2)], expected=1), 2, "append at 1")
    await journal.close()


async def an_expected_head_that_moved_refuses(harness: Harness) -> None:
    journal = await filled(harness, 2)
    for expected in (0, 1, 3, -1):
        error = refused(Concurrency, lambda expected=expected: journal.append([mark(9)], expected=expected))  # type: ignore[misc]
        expect((error.code, error.details.get("head")), ("stale_sequence", 2), "what the refusal says")
    expect(await positions(journal.read()), [1, 2], "positions after refusals")
    expect(journal.append([mark(3)], expected=2), 3, "the next append")
    await journal.close()


async def too_many_records_are_refused_and_nothing_is_written(harness: Harness) -> None:
    journal = await filled(harness, 1)
    many = [mark(1)] * (MOST_RECORDS + 1)
    expect(refused(ValidationFailed, lambda: journal.append(many)).code, "too_large", "code")
    expect((journal.head, journal.append([mark(2)])), (1, 2), "head and the next append")
    await journal.close()


async def the_most_records_of_one_frame_fit(harness: Harness) -> None:
    journal = await harness.journal()
    expect(journal.append([mark(1)] * MOST_RECORDS), MOST_RECORDS, "position")
    expect(await positions(journal.read(MOST_RECORDS - 1)), [MOST_RECORDS - 1, MOST_RECORDS], "the last two")
    await journal.close()


async def what_cannot_be_encoded_is_refused_and_nothing_is_written(harness: Harness) -> None:
    journal = await filled(harness, 1)
    bad = RunCompleted(at=1 << 70)
    for records in ([bad], [mark(2), bad], [bad, mark(2)]):
        refused(Exception, lambda records=records: journal.append(records))  # type: ignore[misc]
    expect(journal.append([mark(2)]), 2, "the next append")
    expect([entry.record for entry in await every(journal.read())], [mark(1), mark(2)], "records")
    await journal.close()


async def durable_returns_for_what_was_written(harness: Harness) -> None:
    journal = await filled(harness, 3)
    for position in (0, 1, 3, 2):
        await asyncio.wait_for(journal.durable(position), 10)
    expect(journal.durable_head, 3, "durable head")
    await journal.close()


async def durable_wakes_all_who_wait(harness: Harness) -> None:
    journal = await harness.journal()
    waiting = []
    for number in range(1, 21):
        position = journal.append([mark(number)])
        waiting.append(asyncio.ensure_future(journal.durable(position)))
        if number % 5 == 0:
            await asyncio.sleep(0)
    await asyncio.wait_for(asyncio.gather(*waiting), 10)
    expect(journal.durable_head, 20, "durable head")
    await journal.close()


async def a_cancelled_wait_for_durability_harms_nobody(harness: Harness) -> None:
    journal = await filled(harness, 1)
    one, two = asyncio.ensure_future(journal.durable(1)), asyncio.ensure_future(journal.durable(1))
    await asyncio.sleep(0)
    one.cancel()
    await asyncio.wait_for(two, 10)
    journal.append([mark(2)])
    await asyncio.wait_for(journal.durable(2), 10)
    await journal.close()


async def a_tail_gives_the_past_and_then_what_comes(harness: Harness) -> None:
    journal = await filled(harness, 2)
    tail = journal.tail()
    expect([(await following(tail)).position for _ in range(2)], [1, 2], "the past")
    coming = asyncio.ensure_future(following(tail))
    await asyncio.sleep(0)
    journal.append([mark(3), mark(4)])
    expect(await coming, Entry(3, mark(3)), "what comes")
    expect((await following(tail)).position, 4, "the rest of the frame")
    await journal.close()


async def a_tail_ends_when_the_journal_is_closed(harness: Harness) -> None:
    journal = await filled(harness, 2)
    tail = asyncio.ensure_future(positions(journal.tail()))
    await asyncio.sleep(0)
    journal.append([mark(3)])
    await journal.close()
    expect(await asyncio.wait_for(tail, 10), [1, 2, 3], "all that was written")


async def a_tail_may_begin_anywhere(harness: Harness) -> None:
    journal = await filled(harness, 3)
    middle, future = asyncio.ensure_future(positions(journal.tail(3))), asyncio.ensure_future(positions(journal.tail(5)))
    await asyncio.sleep(0)
    for number in (4, 5, 6):
        journal.append([mark(number)])
    await journal.close()
    expect(await asyncio.wait_for(middle, 10), [3, 4, 5, 6], "from the middle")
    expect(await asyncio.wait_for(future, 10), [5, 6], "from the future")


async def several_tails_see_everything(harness: Harness) -> None:
    journal = await harness.journal()
    tails = [asyncio.ensure_future(positions(journal.tail())) for _ in range(5)]
    for number in range(1, 101):
        journal.append([mark(number)])
        if number % 7 == 0:
            await asyncio.sleep(0)
    await journal.close()
    for tail in tails:
        expect(await asyncio.wait_for(tail, 10), list(range(1, 101)), "positions")


async def a_cancelled_tail_harms_nobody(harness: Harness) -> None:
    journal = await harness.journal()
    one, two = asyncio.ensure_future(positions(journal.tail())), asyncio.ensure_future(positions(journal.tail()))
    await asyncio.sleep(0)
    one.cancel()
    await asyncio.gather(one, return_exceptions=True)
    journal.append([mark(1)])
    await journal.close()
    expect(await asyncio.wait_for(two, 10), [1], "the other tail")


async def a_tail_gives_only_wanted_kinds(harness: Harness) -> None:
    journal = await harness.journal()
    tail = asyncio.ensure_future(positions(journal.tail(kinds=frozenset({RunCompleted}))))
    await asyncio.sleep(0)
    for number in range(3):
        journal.append([mark(number), RunCompleted(at=number)])
        await asyncio.sleep(0)
    await journal.close()
    expect(await asyncio.wait_for(tail, 10), [2, 4, 6], "positions")


async def a_closed_journal_refuses_appends(harness: Harness) -> None:
    journal = await filled(harness, 1)
    await journal.close()
    refused(JournalFailed, lambda: journal.append([mark(2)]))
    expect(journal.head, 1, "head")


async def closing_again_is_fine(harness: Harness) -> None:
    journal = await filled(harness, 1)
    await asyncio.gather(journal.close(), journal.close())
    await journal.close()


async def what_is_written_is_durable_after_close(harness: Harness) -> None:
    journal = await filled(harness, 3)
    await journal.close()
    await asyncio.wait_for(journal.durable(3), 10)
    expect(journal.durable_head, 3, "durable head")


async def an_unused_journal_can_be_closed(harness: Harness) -> None:
    await (await harness.journal()).close()


async def a_large_record_comes_back_whole(harness: Harness) -> None:
    journal = await harness.journal()
    payload = bytes(range(256)) * 4096
    journal.append([Block(stage="a", base=0, count=1, at=1, payloads=payload), mark(2)])
    entries = await every(journal.read())
    expect([entry.position for entry in entries], [1, 2], "positions")
    hold(getattr(entries[0].record, "payloads", None) == payload, "a megabyte comes back as something else")
    await journal.close()


async def bytes_of_every_length_come_back(harness: Harness) -> None:
    journal = await harness.journal()
    records = [
        DeadLetter(ordinal=0, stage="a", at=1, error=ErrorInfo(kind="IO", code="io", message=""), payload=bytes(n)) for n in range(80)
    ]
    for record in records:
        journal.append([record])
    expect([entry.record for entry in await every(journal.read())], records, "records")
    await journal.close()


async def ten_thousand_appends_have_gapless_positions(harness: Harness) -> None:
    journal = await filled(harness, 10_000)
    expect(await positions(journal.read()), list(range(1, 10_001)), "positions")
    for start in (1, 4_999, 9_999):
        expect(await every(journal.read(start, start + 1)), [Entry(start, mark(start))], f"record {start}")
    await journal.close()


async def forgetting_keeps_what_is_above(harness: Harness) -> None:
    journal = await filled(harness, 5)
    journal.forget(3)
    expect(await positions(journal.read(3)), [3, 4, 5], "positions from 3")
    expect((journal.head, journal.append([mark(6)])), (5, 6), "head and the next append")
    await journal.close()


async def the_newest_of_some_kinds_is_found(harness: Harness) -> None:
    journal = await harness.journal()
    wanted = frozenset[type[Record]]({RunCompleted, Block})
    expect(await journal.last(wanted), None, "the newest of an empty journal")
    journal.append([mark(1), RunCompleted(at=2), mark(3)])
    expect(await journal.last(wanted), Entry(2, RunCompleted(at=2)), "in the middle of a frame")
    journal.append([RunCompleted(at=4)])
    expect(await journal.last(wanted), Entry(4, RunCompleted(at=4)), "at the head")
    expect(await journal.last(frozenset()), None, "no kinds")
    expect(await journal.last(frozenset({DeadLetter})), None, "a kind that is not there")
    await journal.close()


async def the_newest_is_found_behind_thousands_of_others(harness: Harness) -> None:
    journal = await harness.journal()
    journal.append([RunCompleted(at=1), RunCompleted(at=2)])
    for number in range(3_000):
        journal.append([mark(number)])
    expect(await journal.last(frozenset({RunCompleted})), Entry(2, RunCompleted(at=2)), "far back")
    expect(await journal.last(frozenset({ActorState})), Entry(3_002, mark(2_999)), "the head")
    await journal.close()


async def records_are_there_after_close_and_open(harness: Harness) -> None:
    records = sample_records()
    journal = await harness.journal()
    journal.append(records)
    await journal.close()
    again = await harness.journal()
    expect((again.head, again.durable_head), (len(records), len(records)), "head")
    expect([entry.record for entry in await every(again.read())], records, "records")
    await again.close()


async def positions_go_on_after_close_and_open(harness: Harness) -> None:
    for opening in range(4):
        journal = await harness.journal()
        expect(journal.append([mark(opening)]), opening + 1, "position")
        expect(await positions(journal.read()), list(range(1, opening + 2)), "positions")
        await journal.close()


async def opening_without_appending_changes_nothing(harness: Harness) -> None:
    await (await filled(harness, 2)).close()
    for _ in range(3):
        await (await harness.journal()).close()
    journal = await harness.journal()
    expect([entry.record for entry in await every(journal.read())], [mark(1), mark(2)], "records")
    await journal.close()


async def a_second_opener_is_locked_out(harness: Harness) -> None:
    journal = await filled(harness, 1)
    await locked_out(harness, "a second writer was let in")
    expect(journal.append([mark(2)]), 2, "the first writer goes on")
    await journal.close()
    await (await harness.journal()).close()


async def the_size_grows_with_what_is_written(harness: Harness) -> None:
    journal = await harness.journal()
    before = journal.size
    journal.append([Block(stage="a", base=0, count=1, at=1, payloads=bytes(10_000))])
    hold(journal.size - before >= 10_000, f"10,000 bytes were written, and the size grew by {journal.size - before:,}")
    await journal.close()


PLAIN: tuple[Check, ...] = (
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
"""For every journal."""
SURVIVING: tuple[Check, ...] = (
    records_are_there_after_close_and_open,
    positions_go_on_after_close_and_open,
    opening_without_appending_changes_nothing,
    a_second_opener_is_locked_out,
    the_size_grows_with_what_is_written,
)
"""For one that is there again after close and open."""
ENCODING: tuple[Check, ...] = (what_cannot_be_encoded_is_refused_and_nothing_is_written,)
"""For one that encodes at `append`."""
