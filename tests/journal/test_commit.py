"""When a journal syncs: grouped at `fsync`, on a timer at `interval`, never before the close at `os`."""

import asyncio

import pytest

from obzen_runtime.journal import Fsync, Interval, Os, SegmentJournal, SegmentOptions
from obzen_runtime.journal.commit import Commit
from obzen_runtime.kernel import JournalFailed
from obzen_runtime.testing import SimulatedDisk
from tests.journal.kit import RUN, HeldThreads, block, mark, recover, seams, settle


def opened(level, *, holding=True, **options):
    disk, threads = SimulatedDisk(), HeldThreads(holding=holding)
    journal = SegmentJournal.open(RUN, options=SegmentOptions(level=level, **options), seams=seams(disk, threads=threads))
    return disk, threads, journal


async def closed(journal, threads):
    closing = asyncio.ensure_future(journal.close())
    await settle()
    while threads.held:
        threads.step()
        await settle()
    await closing


async def test_os_never_syncs_before_the_close():
    disk, threads, journal = opened(Os(), holding=False, segment_bytes=512)
    syncs = disk.faults.count("sync")
    for number in range(20):
        journal.append([block(number, 200)])
        await journal.durable(journal.head)
    assert disk.faults.count("sync") == syncs
    assert disk.faults.count("sync_directory") == disk.faults.count("sync_directory")
    await journal.close()
    segments = {path for path in disk.paths if path.suffix == ".seg"}
    assert {path for operation, path in disk.faults.calls if operation == "sync"} >= segments
    assert [piece for piece in disk.unsynced() if piece.path.suffix == ".seg"] == []
    assert threads.held == []


async def test_one_sync_runs_at_a_time_and_covers_what_was_written_before_it():
    _, threads, journal = opened(Fsync())
    first = journal.append([mark(0)])
    assert len(threads.held) == 1
    later = [journal.append([mark(number)]) for number in range(1, 5)]
    assert len(threads.held) == 1
    waiting = {position: asyncio.ensure_future(journal.durable(position)) for position in (first, *later)}
    await settle()
    threads.step()
    await settle()
    assert journal.durable_head == first
    assert [position for position, task in waiting.items() if task.done()] == [first]
    await threads.arrival()
    threads.step()
    await asyncio.gather(*waiting.values())
    assert journal.durable_head == later[-1] == journal.head
    await closed(journal, threads)


async def test_there_is_a_gap_between_two_syncs():
    _, threads, journal = opened(Fsync())
    loop = asyncio.get_running_loop()
    journal.append([mark(0)])
    threads.step()
    await settle()
    ended = loop.time()
    journal.append([mark(1)])
    await threads.arrival()
    assert loop.time() - ended > 0.0005
    threads.step()
    await journal.durable(2)
    await closed(journal, threads)


async def test_an_interval_syncs_once_after_a_write_and_not_again_without_one():
    _, threads, journal = opened(Interval(1))
    for number in range(3):
        journal.append([mark(number)])
    assert threads.held == []
    await journal.durable(3)
    assert journal.durable_head == 3
    await threads.arrival()
    journal.append([mark(3)])
    threads.step()
    await settle()
    assert journal._synced == 3
    await threads.arrival()
    threads.step()
    await settle()
    assert journal._synced == 4
    assert journal._commit._timer is None
    await closed(journal, threads)


async def test_a_wait_for_what_is_not_written_yet_ends_when_it_is():
    _, threads, journal = opened(Fsync(), holding=False)
    waiting = asyncio.ensure_future(journal.durable(2))
    journal.append([mark(0)])
    await settle()
    assert not waiting.done()
    journal.append([mark(1)])
    await waiting
    assert threads.held == []
    await journal.close()


async def test_a_wait_for_what_is_never_written_fails_at_the_close():
    _, _, journal = opened(Fsync(), holding=False)
    waiting = asyncio.ensure_future(journal.durable(9))
    given_up = asyncio.ensure_future(journal.durable(9))
    await settle()
    given_up.cancel()
    await settle()
    await journal.close()
    with pytest.raises(JournalFailed):
        await waiting
    with pytest.raises(JournalFailed):
        await journal.durable(9)


async def test_a_close_waits_for_the_sync_that_runs_and_then_syncs_the_rest():
    disk, threads, journal = opened(Fsync())
    journal.append([mark(0)])
    journal.append([mark(1)])
    waiting = asyncio.ensure_future(journal.durable(2))
    closing = asyncio.ensure_future(journal.close())
    await settle()
    assert [name for name, _, _ in threads.held] == ["journal-sync"]
    threads.step()
    await settle()
    assert [name for name, _, _ in threads.held] == ["journal-close"]
    assert not closing.done()
    threads.step()
    await closing
    await waiting
    assert recover(disk)[0].clean


async def test_a_close_that_is_cancelled_goes_on():
    disk, threads, journal = opened(Fsync())
    journal.append([mark(0)])
    closing = asyncio.ensure_future(journal.close())
    await settle()
    closing.cancel()
    await settle()
    assert closing.cancelled()
    again = asyncio.ensure_future(journal.close())
    await settle()
    while threads.held:
        threads.step()
        await settle()
    await again
    assert recover(disk)[0].clean


async def test_a_close_stops_a_timer():
    disk, threads, journal = opened(Interval(60_000))
    journal.append([mark(0)])
    assert journal._commit._timer is not None
    await closed(journal, threads)
    assert journal._commit._timer is None
    assert recover(disk)[0].clean


@pytest.mark.parametrize("stage", ["sync", "close"])
async def test_work_that_is_cancelled_from_outside_ends_the_journal(stage):
    _, threads, journal = opened(Fsync())
    journal.append([mark(0)])
    if stage == "close":
        threads.step()
        await settle()
        closing = asyncio.ensure_future(journal.close())
        await settle()
    threads.held.pop()[2].cancel()
    await settle()
    with pytest.raises(JournalFailed):
        journal.append([mark(1)])
    with pytest.raises(JournalFailed):
        await (closing if stage == "close" else journal.close())


async def test_a_cancelled_waiter_is_passed_over_when_the_journal_fails():
    disk, threads, journal = opened(Fsync())
    journal.append([mark(0)])
    gone, stays = asyncio.ensure_future(journal.durable(1)), asyncio.ensure_future(journal.durable(1))
    await settle()
    gone.cancel()
    disk.faults.plan("sync", disk.faults.count("sync") + 1)
    threads.step()
    await settle()
    assert isinstance(stays.exception(), JournalFailed)
    with pytest.raises(JournalFailed):
        await journal.close()


async def test_syncs_at_fsync_reach_retired_segments_and_the_directory():
    disk, threads, journal = opened(Fsync(), segment_bytes=512)
    for number in range(6):
        journal.append([block(number, 200)])
    threads.step()
    await threads.arrival()
    threads.step()
    await journal.durable(6)
    assert [piece for piece in disk.unsynced() if piece.path.suffix == ".seg"] == []
    await closed(journal, threads)


async def test_a_failure_with_retired_segments_lets_all_files_go():
    disk, threads, journal = opened(Fsync(), segment_bytes=512)
    for number in range(6):
        journal.append([block(number, 200)])
    disk.faults.plan("sync", disk.faults.count("sync") + 1)
    threads.step()
    await settle()
    with pytest.raises(JournalFailed):
        await journal.close()
    assert journal._writer._file is None
    assert journal._writer._unsynced == []


async def test_nothing_is_wanted_of_a_commit_that_waits_for_nothing():
    commit = Commit(Os(), HeldThreads(), begin=lambda: 1 / 0, succeeded=lambda *_: None, failed=lambda _: None)
    commit.want()
    stopped = []
    commit.stop(lambda: stopped.append(1))
    assert stopped == [1]
