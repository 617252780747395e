"""Every call fails once, or the process dies there: what was acknowledged is kept, and nothing is acknowledged after.

Acknowledged means: at level `os` an append that returned, for a process that died; at level `fsync` a `durable` that
returned, for a machine that lost power.
"""

import asyncio
import errno
import random
from contextlib import suppress

import pytest

from obzen_runtime.journal import Fsync, Interval, Os, SegmentJournal, SegmentOptions
from obzen_runtime.kernel import JournalFailed, StorageFailed
from obzen_runtime.testing import Crashed, SimulatedDisk
from tests.journal.kit import LOCK, RUN, HeldThreads, block, entries, mark, opened, seams, settle, tell, verdict

MADE = [[mark(0)], [block(1, 300)], [mark(2), mark(3)], [block(4, 500)], [block(5, 600)], [mark(6)], [block(7, 200)]]
WHOLE = entries(MADE)


class Story:
    """Appends, waits and closes, and notes what it was told."""

    def __init__(self, disk, level):
        self.disk = disk
        self.level = level
        self.written = 0
        self.durable = 0
        self.closed = False
        self.errors = []
        self.failed_at = None

    async def run(self):
        try:
            journal = SegmentJournal.open(RUN, options=SegmentOptions(level=self.level, segment_bytes=1024), seams=seams(self.disk))
        except StorageFailed as error:
            self.note(error)
            return
        for records in MADE:
            try:
                self.written = journal.append(records)
                self.told_after_failure()
                await journal.durable(self.written)
                self.told_after_failure()
                if isinstance(self.level, Fsync):
                    self.durable = self.written
            except StorageFailed as error:
                self.note(error)
            await settle()
        try:
            await journal.close()
            self.told_after_failure()
            self.closed = True
        except StorageFailed as error:
            self.note(error)

    def note(self, error):
        assert error.exit_code == 74
        self.errors.append(error)
        if self.failed_at is None:
            self.failed_at = len(self.disk.faults.calls)

    def told_after_failure(self):
        assert self.failed_at is None, "something was acknowledged after a failure"


LEVELS = [Os(), Interval(1), Fsync()]


async def calls_of(level, operation):
    disk = SimulatedDisk()
    story = Story(disk, level)
    await story.run()
    assert (story.errors, story.closed) == ([], True)
    return disk.faults.count(operation)


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: type(level).__name__)
async def test_T_FSYNC_a_sync_that_fails_at_any_call_ends_the_journal_and_is_never_tried_again(level):
    cases = 0
    for operation in ("sync", "sync_directory"):
        for number in range(1, await calls_of(level, operation) + 1):
            for forever in (False, True):
                disk = SimulatedDisk()
                disk.faults.plan(operation, number, forever=forever)
                story = Story(disk, level)
                await story.run()
                if disk.faults.count(operation) < number:  # at an interval the clock decides how many syncs a run has
                    assert isinstance(level, Interval)
                    assert (story.errors, story.closed) == ([], True)
                    continue
                assert story.errors, (operation, number)
                assert not story.closed
                assert disk.faults.count(operation) == number, "a sync was tried again"
                assert [call for call in disk.faults.calls[story.failed_at :] if call[0] in ("sync", "sync_directory", "write")] == []
                assert verdict(disk.killed())[: story.written] == WHOLE[: story.written]
                assert verdict(disk.power_cut()) == WHOLE[: len(verdict(disk.power_cut()))]
                assert len(verdict(disk.power_cut())) >= story.durable
                cases += 1
    tell(f"{type(level).__name__}: fsync failed at {cases} calls, 0 wrong verdicts")
    assert cases >= 10


async def test_T_FSYNC_all_who_wait_get_the_same_error():
    disk, threads = SimulatedDisk(), HeldThreads()
    journal = SegmentJournal.open(RUN, options=SegmentOptions(level=Fsync()), seams=seams(disk, threads=threads))
    waiting = [asyncio.ensure_future(journal.durable(journal.append(records))) for records in MADE]
    await settle()
    disk.faults.plan("sync", disk.faults.count("sync") + 1)
    threads.step()
    await settle()
    errors = [task.exception() for task in waiting]
    assert len({id(error) for error in errors}) == 1
    assert isinstance(errors[0], JournalFailed)
    assert errors[0].__cause__.errno == errno.EIO
    with pytest.raises(JournalFailed):
        journal.append([mark(1)])
    with pytest.raises(JournalFailed):
        await journal.durable(0)
    with pytest.raises(JournalFailed):
        [entry async for entry in journal.read()]
    with pytest.raises(JournalFailed):
        [entry async for entry in journal.tail()]
    with pytest.raises(JournalFailed):
        await journal.close()
    with pytest.raises(JournalFailed):
        await journal.close()
    assert not disk.locked(LOCK)


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: type(level).__name__)
@pytest.mark.parametrize("chunk", [None, 40])
async def test_T_FULL_a_full_disk_at_any_call_loses_nothing_acknowledged(level, chunk):
    cases = 0
    for operation in ("write", "create", "replace", "truncate", "open"):
        counted = SimulatedDisk()
        counted.faults.chunk = chunk
        await Story(counted, level).run()
        for number in range(1, counted.faults.count(operation) + 1):
            disk = SimulatedDisk()
            disk.faults.chunk = chunk
            disk.faults.plan(operation, number, errno.ENOSPC)
            story = Story(disk, level)
            await story.run()
            assert story.errors
            found = verdict(disk.killed())
            assert found == WHOLE[: len(found)], (operation, number)
            assert len(found) >= story.written
            assert len(verdict(disk.power_cut())) >= story.durable
            cases += 1
    tell(f"{type(level).__name__}: no space at {cases} calls, 0 wrong verdicts")
    assert cases >= 10


async def test_T_FULL_a_partial_write_is_cut_off_at_once_and_the_next_opener_finds_no_tail():
    disk = SimulatedDisk()
    journal = opened(disk)
    journal.append([mark(0)])
    size = journal.size
    disk.faults.chunk = 30
    disk.faults.plan("write", disk.faults.count("write") + 3, errno.ENOSPC)
    with pytest.raises(JournalFailed) as caught:
        journal.append([block(1, 300)])
    assert caught.value.code == "journal_failed"
    assert len(disk.content(disk.paths[-1])) == size
    with pytest.raises(JournalFailed):
        await journal.close()
    again = opened(disk)
    assert (again.recovered.torn, again.head) == (0, 1)


async def test_T_FULL_a_partial_write_that_cannot_be_cut_off_is_torn():
    disk = SimulatedDisk()
    journal = opened(disk)
    journal.append([mark(0)])
    disk.faults.chunk = 30
    disk.faults.plan("write", disk.faults.count("write") + 3, errno.ENOSPC)
    disk.faults.plan("truncate", 1)
    with pytest.raises(JournalFailed):
        journal.append([block(1, 300)])
    disk.faults.chunk = None
    again = opened(disk.killed())
    assert (again.recovered.torn, again.head) == (60, 1)


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: type(level).__name__)
async def test_a_process_that_dies_at_any_operation_loses_nothing_acknowledged(level):
    counted = SimulatedDisk()
    await Story(counted, level).run()
    chance, cases = random.Random(3), 0
    for number in range(1, len(counted.faults.calls) + 1):
        disk = SimulatedDisk()
        disk.faults.die_at = number
        story = Story(disk, level)
        with suppress(Crashed):  # within a sync it reaches the story as the journal's failure
            await story.run()
        if not disk.faults.dead:  # at an interval the clock decides how many syncs a run has
            assert isinstance(level, Interval)
            continue
        assert verdict(disk.killed())[: story.written] == WHOLE[: story.written]
        loose = disk.unsynced()
        for share in (0.0, 0.5, 0.9, 1.0):
            found = verdict(disk.power_cut([piece for piece in loose if chance.random() < share]))
            assert found == WHOLE[: len(found)], number
            assert len(found) >= story.durable
            cases += 1
    tell(f"{type(level).__name__}: {cases} deaths at operations, 0 wrong verdicts")
    assert cases >= 100


async def test_T_TORN_2_a_process_that_dies_at_any_byte_loses_nothing_acknowledged():
    counted = SimulatedDisk()
    await Story(counted, Os()).run()
    total = sum(len(counted.content(path)) for path in counted.paths if path.suffix == ".seg")
    for budget in range(total):
        disk = SimulatedDisk()
        disk.faults.budget = budget
        story = Story(disk, Os())
        with pytest.raises(Crashed):
            await story.run()
        found = verdict(disk.killed())
        assert found == WHOLE[: len(found)]
        assert len(found) == story.written, budget
    tell(f"{total} deaths at bytes, 0 wrong verdicts")
    assert total > 2_300
