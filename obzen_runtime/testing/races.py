"""What a journal promises when several use it at once, when it forgets, and when it is closed meanwhile."""

import asyncio

from obzen_runtime.events import KINDS, Record, RunCompleted
from obzen_runtime.journal import Entry
from obzen_runtime.kernel import Concurrency, JournalFailed, NotFound
from obzen_runtime.testing.harness import (
    Check,
    Harness,
    NotConforming,
    every,
    expect,
    filled,
    following,
    hold,
    mark,
    positions,
    refused,
)
from obzen_runtime.testing.samples import sample_records

__all__ = ["RACES", "SURVIVING_RACES"]


async def the_newest_is_found_while_others_read_and_write(harness: Harness) -> None:
    journal = await filled(harness, 5)
    reading = journal.read()
    await following(reading)
    for number in range(20):
        position = journal.append([RunCompleted(at=number), mark(number)])
        expect(await journal.last(frozenset({RunCompleted})), Entry(position - 1, RunCompleted(at=number)), "the newest")
    expect(await positions(reading), [2, 3, 4, 5], "the rest of what was read")
    await journal.close()
    expect(await journal.last(frozenset({RunCompleted})), Entry(44, RunCompleted(at=19)), "the newest of a closed journal")


async def what_is_kept_begins_with_the_first(harness: Harness) -> None:
    journal = await harness.journal()
    expect(journal.first, 1, "first of an empty journal")
    for number in range(1, 10):
        journal.append([mark(number)])
    journal.forget(5)
    await asyncio.sleep(0)
    first = journal.first
    hold(1 <= first <= 5, f"first is {first}, and what was forgotten ends before 5")
    expect(await positions(journal.read()), list(range(first, journal.head + 1)), "reading from the beginning")
    if first > 1:
        try:
            await positions(journal.read(first - 1))
        except NotFound:
            pass
        else:
            raise NotConforming("what was dropped was read")
    await journal.close()


async def forgetting_again_nothing_or_too_much_is_fine(harness: Harness) -> None:
    journal = await filled(harness, 5)
    for below in (0, -3, 2, 2, 1, 1_000):
        journal.forget(below)
    position = journal.append([mark(6)])
    expect((await every(journal.read(position)))[0], Entry(position, mark(6)), "what is written after")
    await journal.close()
    journal.forget(1_000)


async def forgetting_does_not_disturb_who_reads_above(harness: Harness) -> None:
    journal = await filled(harness, 300)
    above, tail = journal.read(200), journal.tail(200)
    got = [(await following(above)).position, (await following(tail)).position]
    journal.forget(150)
    await asyncio.sleep(0)
    last = journal.append([mark(301)])
    expect(got + await positions(above), [200, 200, *range(201, 301)], "who reads")
    followed = [await following(tail) for _ in range(201, last + 1)]
    expect(followed[-1], Entry(last, mark(301)), "who follows")
    await journal.close()


async def who_is_overtaken_by_forgetting_is_told_or_goes_on_without_a_gap(harness: Harness) -> None:
    journal = await filled(harness, 1_000)
    reading = journal.read()
    expected = (await following(reading)).position + 1
    journal.forget(900)
    await asyncio.sleep(0)
    try:
        async for entry in reading:
            expect(entry.position, expected, "the next position")
            expected += 1
    except NotFound:
        return
    expect(expected, 1_001, "the end")
    await journal.close()


async def an_append_wakes_a_tail_at_whatever_moment_it_comes(harness: Harness) -> None:
    journal = await filled(harness, 1)
    tail = journal.tail(2)
    for passes in range(40):
        coming = asyncio.ensure_future(following(tail))
        for _ in range(passes % 20):
            await asyncio.sleep(0)
        position = journal.append([mark(passes)])
        expect(
            await coming, Entry(position, mark(passes)), f"what is appended {passes % 20} passes of the loop after the tail began to wait"
        )
    await journal.close()


async def a_tail_keeps_up_with_a_burst_of_frames(harness: Harness) -> None:
    journal = await harness.journal()
    tail = asyncio.ensure_future(every(journal.tail()))
    wanted: list[Entry] = []
    for number in range(400):
        records = [mark(number * 10 + offset) for offset in range(number % 7 + 1)]
        start = journal.head
        journal.append(records)
        wanted += [Entry(start + offset, record) for offset, record in enumerate(records, 1)]
        if number % 50 == 0:
            await asyncio.sleep(0)
    await journal.close()
    expect(await asyncio.wait_for(tail, 10), wanted, "records")


async def a_tail_that_stands_still_holds_nobody_up(harness: Harness) -> None:
    journal = await filled(harness, 1)
    tail = journal.tail()
    await following(tail)
    for number in range(2, 2_001):
        journal.append([mark(number)])
    await asyncio.wait_for(journal.durable(2_000), 10)
    expect([(await following(tail)).position for _ in range(1_999)], list(range(2, 2_001)), "what it missed")
    await asyncio.wait_for(journal.close(), 10)


async def a_tail_gives_all_that_was_written_before_the_close(harness: Harness) -> None:
    journal = await filled(harness, 2)
    tail = journal.tail()
    first = await following(tail)
    journal.append([mark(3), mark(4)])
    await journal.close()
    expect([first.position, *await positions(tail)], [1, 2, 3, 4], "what was written behind its back")


async def a_tail_left_behind_does_not_hold_up_the_close(harness: Harness) -> None:
    journal = await filled(harness, 3)
    reading, tail = journal.read(), journal.tail()
    await following(reading)
    await following(tail)
    await asyncio.wait_for(journal.close(), 10)
    expect(await positions(tail), [2, 3], "what the tail had not seen")
    expect(await positions(reading), [2, 3], "what the reader had not seen")


async def all_kinds_are_as_good_as_no_filter(harness: Harness) -> None:
    journal = await harness.journal()
    journal.append(sample_records())
    expect(await every(journal.read(kinds=frozenset(KINDS.values()))), await every(journal.read()), "records")
    await journal.close()


async def bounds_and_kinds_go_together(harness: Harness) -> None:
    journal = await harness.journal()
    for number in range(10):
        journal.append([mark(number), RunCompleted(at=number), mark(number)])
    wanted = frozenset[type[Record]]({RunCompleted})
    for start, stop in ((1, 31), (2, 3), (3, 5), (3, 6), (5, 29), (29, 40)):
        inside = [position for position in range(2, 31, 3) if start <= position < stop]
        expect(await positions(journal.read(start, stop, kinds=wanted)), inside, f"read({start}, {stop})")
    await journal.close()


async def of_two_who_decide_on_the_same_head_one_wins(harness: Harness) -> None:
    journal = await filled(harness, 3)
    seen = journal.head
    expect(journal.append([mark(4), mark(5)], expected=seen), 5, "the first")
    error = refused(Concurrency, lambda: journal.append([mark(9)], expected=seen))
    expect((error.exit_code, error.retryable), (75, True), "what the second is told")
    expect(journal.append([mark(6)], expected=5), 6, "the second, decided again")
    await journal.close()


async def an_expected_head_is_held_against_nothing_too(harness: Harness) -> None:
    journal = await filled(harness, 2)
    refused(Concurrency, lambda: journal.append([], expected=1))
    expect(journal.append([], expected=2), 2, "nothing at the head")
    await journal.close()


async def durable_returns_at_once_for_what_is_before_the_beginning(harness: Harness) -> None:
    journal = await harness.journal()
    for position in (0, -1):
        await asyncio.wait_for(journal.durable(position), 10)
    await journal.close()


async def who_waits_for_durability_is_woken_when_it_is_so_and_not_before(harness: Harness) -> None:
    journal = await harness.journal()
    early: list[int] = []

    async def wait(position: int) -> None:
        await journal.durable(position)
        if journal.durable_head < position:
            early.append(position)

    tasks = []
    for number in range(60):
        position = journal.append([mark(number)])
        tasks += [asyncio.ensure_future(wait(wanted)) for wanted in (position, max(1, position - 7), 1)]
        if number % 9 == 0:
            await asyncio.sleep(0)
    await asyncio.wait_for(asyncio.gather(*tasks), 10)
    expect(early, [], "woken before")
    await journal.close()


async def the_durable_head_never_goes_back_nor_beyond_the_head(harness: Harness) -> None:
    journal = await harness.journal()
    before = 0
    for number in range(500):
        journal.append([mark(number)])
        durable = journal.durable_head
        hold(before <= durable <= journal.head, f"durable_head went from {before} to {durable}, and head is {journal.head}")
        before = durable
        if number % 20 == 0:
            await asyncio.sleep(0)
    await journal.close()
    expect(journal.durable_head, 500, "durable head of a closed journal")


async def closing_satisfies_all_who_wait_for_what_was_written(harness: Harness) -> None:
    journal = await harness.journal()
    waiting = [asyncio.ensure_future(journal.durable(journal.append([mark(number)]))) for number in range(10)]
    await asyncio.wait_for(asyncio.gather(journal.close(), *waiting), 10)
    expect(journal.durable_head, 10, "durable head")


async def closing_ends_the_wait_for_what_was_never_written(harness: Harness) -> None:
    journal = await filled(harness, 1)
    waiting = asyncio.ensure_future(journal.durable(99))
    await asyncio.sleep(0)
    await asyncio.wait_for(journal.close(), 10)
    (error,) = await asyncio.wait_for(asyncio.gather(waiting, return_exceptions=True), 10)
    hold(error is None or isinstance(error, JournalFailed), f"the wait ended with {error!r}")


async def a_cancelled_close_closes_all_the_same(harness: Harness) -> None:
    journal = await filled(harness, 5)
    closing = asyncio.ensure_future(journal.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    await asyncio.wait_for(journal.close(), 10)
    refused(JournalFailed, lambda: journal.append([mark(6)]))


async def a_closed_journal_can_still_be_read(harness: Harness) -> None:
    journal = await filled(harness, 4)
    await journal.close()
    expect(await positions(journal.read()), [1, 2, 3, 4], "positions")
    expect(await positions(journal.tail(3)), [3, 4], "a tail of what is closed")


async def writers_that_take_turns_share_one_order(harness: Harness) -> None:
    journal = await harness.journal()
    given: list[int] = []

    async def write(count: int) -> None:
        for number in range(count):
            given.append(journal.append([mark(number), mark(number)]))
            await asyncio.sleep(0)

    await asyncio.gather(*(write(30) for _ in range(5)))
    expect(given, list(range(2, 302, 2)), "positions given")
    expect(await positions(journal.read()), list(range(1, 301)), "positions kept")
    await journal.close()


async def the_newest_is_found_after_close_and_open(harness: Harness) -> None:
    journal = await filled(harness, 3)
    journal.append([RunCompleted(at=9)])
    await journal.close()
    again = await harness.journal()
    expect(await again.last(frozenset({RunCompleted})), Entry(4, RunCompleted(at=9)), "the newest")
    expect((again.first, again.append([RunCompleted(at=10)])), (1, 5), "first, and the next append")
    expect(await again.last(frozenset({RunCompleted})), Entry(5, RunCompleted(at=10)), "the newest")
    await again.close()


async def what_was_written_right_before_the_close_is_there(harness: Harness) -> None:
    journal = await filled(harness, 1)
    waiting = asyncio.ensure_future(journal.durable(1))
    await asyncio.sleep(0)
    journal.append([mark(2)])
    await asyncio.gather(journal.close(), waiting)
    again = await harness.journal()
    expect([entry.record for entry in await every(again.read())], [mark(1), mark(2)], "records")
    await again.close()


RACES: tuple[Check, ...] = (
    the_newest_is_found_while_others_read_and_write,
    what_is_kept_begins_with_the_first,
    forgetting_again_nothing_or_too_much_is_fine,
    forgetting_does_not_disturb_who_reads_above,
    who_is_overtaken_by_forgetting_is_told_or_goes_on_without_a_gap,
    an_append_wakes_a_tail_at_whatever_moment_it_comes,
    a_tail_keeps_up_with_a_burst_of_frames,
    a_tail_that_stands_still_holds_nobody_up,
    a_tail_gives_all_that_was_written_before_the_close,
    a_tail_left_behind_does_not_hold_up_the_close,
    all_kinds_are_as_good_as_no_filter,
    bounds_and_kinds_go_together,
    of_two_who_decide_on_the_same_head_one_wins,
    an_expected_head_is_held_against_nothing_too,
    durable_returns_at_once_for_what_is_before_the_beginning,
    who_waits_for_durability_is_woken_when_it_is_so_and_not_before,
    the_durable_head_never_goes_back_nor_beyond_the_head,
    closing_satisfies_all_who_wait_for_what_was_written,
    closing_ends_the_wait_for_what_was_never_written,
    a_cancelled_close_closes_all_the_same,
    a_closed_journal_can_still_be_read,
    writers_that_take_turns_share_one_order,
)
"""For every journal."""
SURVIVING_RACES: tuple[Check, ...] = (
    the_newest_is_found_after_close_and_open,
    what_was_written_right_before_the_close_is_there,
)
"""For one that is there again after close and open."""
