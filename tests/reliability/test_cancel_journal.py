"""Every waiting call of a journal, cancelled at every await: nothing acknowledged is lost, the journal works on and opens again."""

import asyncio

import pytest

from obzen_runtime.journal import Fsync, Interval, MemoryJournal, Os, SegmentJournal, SegmentOptions, SegmentReader
from obzen_runtime.kernel import JournalFailed, Seams
from tests.journal.kit import LOCK, RUN, block, entries, mark, tell
from tests.reliability.cutting import cancelled_everywhere

MADE = [[mark(0)], [block(1, 300)], [mark(2), mark(3)], [block(4, 500)], [block(5, 600)], [mark(6)], [block(7, 200)]]
WHOLE = entries(MADE)
LEVELS = {"os": Os(), "interval": Interval(5), "fsync": Fsync()}


async def following(iterator, count):
    """The next so many, and the iterator put away."""
    found = []
    async for entry in iterator:
        found.append(entry)
        await asyncio.sleep(0)
        if len(found) == count:
            break
    await iterator.aclose()
    return found


async def durable(journal):
    await journal.durable(journal.head)


async def durable_of_each(journal):
    for position in range(1, journal.head + 1):
        await journal.durable(position)


async def durable_beside_others(journal):
    await asyncio.gather(*(journal.durable(position) for position in range(1, journal.head + 1)))


async def read(journal):
    assert await following(journal.read(), -1) == WHOLE


async def read_a_piece(journal):
    assert await following(journal.read(3, 6), -1) == WHOLE[2:5]


async def read_kinds(journal):
    assert len(await following(journal.read(kinds=frozenset({type(mark(0))})), -1)) == 4


async def tail(journal):
    assert await following(journal.tail(), len(WHOLE)) == WHOLE


async def tail_that_waits(journal):
    asyncio.get_running_loop().call_later(1.0, journal.append, [mark(99)])
    assert (await following(journal.tail(journal.head + 1), 1))[0].record == mark(99)


async def tail_kinds(journal):
    assert len(await following(journal.tail(kinds=frozenset({type(block(0, 1))})), 4)) == 4


async def last(journal):
    assert (await journal.last(frozenset({type(mark(0))}))).position == 7


async def last_of_none(journal):
    from_the_start = await journal.last(frozenset({type(mark(0)), type(block(0, 1))}))
    assert from_the_start == WHOLE[-1]


async def append_and_durable(journal):
    for number in range(3):
        await journal.durable(journal.append([mark(20 + number), block(number, 700)]))


async def close(journal):
    await journal.close()


async def close_while_others_wait(journal):
    waiting = asyncio.gather(following(journal.tail(), -1), journal.durable(journal.head), return_exceptions=True)
    try:
        await asyncio.sleep(0)
        await journal.close()
        await waiting
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def close_twice(journal):
    await asyncio.gather(journal.close(), journal.close())


CALLS = [durable, durable_of_each, durable_beside_others, read, read_a_piece, read_kinds, tail, tail_that_waits, tail_kinds, last]
CALLS += [last_of_none, append_and_durable, close, close_while_others_wait, close_twice]
CLOSES = (close, close_while_others_wait, close_twice)


def on_disk(call, level):
    """The call on a journal with records; the journal stays open for the check."""

    async def operation(world):
        world.closing = call in CLOSES
        world.journal = journal = SegmentJournal.open(
            RUN, options=SegmentOptions(level=level, segment_bytes=1024), seams=Seams(**world.seams)
        )
        for records in MADE:
            journal.append(records)
        await call(journal)

    return operation


async def works_on(world):
    """What was appended is all there; what was durable survives the loss of power."""
    if not hasattr(world, "journal"):
        return  # cancelled before its first step
    journal, head = world.journal, world.journal.head
    after = SegmentJournal.open(RUN, seams=Seams(**{**world.seams, "files": world.disk.power_cut()}))
    assert after.head >= (journal.durable_head if isinstance(journal.level, Fsync) else 0)
    await after.close()
    try:
        more = journal.append([mark(50)])
    except JournalFailed:
        assert world.closing
    else:
        assert more == head + 1
        await journal.durable(more)
        assert [each.position async for each in journal.read()] == list(range(1, more + 1))
    await journal.close()
    assert not world.disk.locked(LOCK)
    assert journal._waiters == journal._tails == []
    again = SegmentJournal.open(RUN, seams=Seams(**world.seams))
    found = [each async for each in again.read()]
    assert found[: len(WHOLE)] == WHOLE
    assert len(found) >= head
    assert again.recovered.torn == 0
    await again.close()


def told(counts):
    return f"{sum(map(bool, counts.values()))} of them wait; cancelled at {sum(counts.values())} awaits"


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("again", [0, 3], ids=["once", "repeatedly"])
def test_T_CAN_every_call_of_a_journal_on_disk(level, again):
    counts = {call.__name__: cancelled_everywhere(on_disk(call, LEVELS[level]), works_on, again=again) for call in CALLS}
    tell(f"segments at {level}: {len(CALLS)} operations, {told(counts)}")
    assert all(counts[name] for name in ("read", "tail", "close"))
    assert counts["durable"] or level != "fsync"


async def _collected(journal):
    return [each async for each in journal.read()]


@pytest.mark.parametrize("again", [0, 3], ids=["once", "repeatedly"])
def test_T_CAN_every_call_of_a_journal_in_memory(again):
    def in_memory(call):
        async def operation(world):
            world.journal = journal = MemoryJournal(keep=True)
            for records in MADE:
                journal.append(records)
            await call(journal)

        return operation

    async def check(world):
        if not hasattr(world, "journal"):
            return
        found = await _collected(world.journal)
        assert found[: len(WHOLE)] == WHOLE
        assert len(found) == world.journal.head

    counts = {call.__name__: cancelled_everywhere(in_memory(call), check, again=again) for call in CALLS}
    tell(f"memory: {len(CALLS)} operations, {told(counts)}")
    assert counts["tail_that_waits"] > 1


@pytest.mark.parametrize("call", [read, read_a_piece, read_kinds, last, last_of_none], ids=lambda call: call.__name__)
def test_T_CAN_every_call_of_a_reader_beside_the_writer(call):
    async def operation(world):
        journal = SegmentJournal.open(RUN, options=SegmentOptions(segment_bytes=1024), seams=Seams(**world.seams))
        for records in MADE:
            journal.append(records)
        try:
            await call(SegmentReader.open(RUN, files=world.disk))
        finally:
            await journal.close()

    async def check(world):
        if world.disk.exists(RUN):
            assert await _collected(SegmentReader.open(RUN, files=world.disk)) == WHOLE
        assert not world.disk.locked(LOCK)

    tell(f"a reader's {call.__name__}: cancelled at {cancelled_everywhere(operation, check)} awaits")
