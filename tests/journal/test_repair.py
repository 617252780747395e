"""A damaged journal is gone on with only when somebody accepts the loss, and then loses nothing that was whole."""

from contextlib import suppress
from pathlib import Path

import pytest

from obzen_runtime.events import Block, Dropped, Loss, RunCompleted
from obzen_runtime.journal import SegmentReader, check, repair
from obzen_runtime.journal.format import FRAME_MARK
from obzen_runtime.kernel import JournalFailed, JournalLocked, NotFound
from obzen_runtime.testing import Crashed, SimulatedDisk
from tests.journal.kit import (
    EPOCH,
    FIRST,
    RUN,
    SEGMENTS,
    WATERMARK,
    block,
    entries,
    flipped,
    mark,
    opened,
    recover,
    seams,
    tell,
    verdict,
)
from tests.journal.test_damage import bounds, changed, written
from tests.journal.test_retention import FLOOR, SMALL, dropped_some

MADE = [[block(number, 300)] for number in range(8)]
WHOLE = entries(MADE)
OLD = RUN / "journal.damaged-1"


def repaired(disk, *, accept=True):
    return repair(RUN, accept_loss=accept, seams=seams(disk))


def paths_of(disk):
    return [path for path in disk.paths if path.parent == SEGMENTS]


def judge(disk, *, whole=WHOLE):
    """Repair a damaged disk; what was kept, checked against the past."""
    before = {path.name: disk.content(path) for path in disk.paths if path.parent == SEGMENTS or path in (EPOCH, WATERMARK, FLOOR)}
    report = repaired(disk)
    assert report.verdict == "repaired"
    kept = report.kept
    assert Path(report.old) == OLD
    assert {path.name: disk.content(path) for path in disk.paths if path.parent == OLD and path.name != "COMPLETE"} == before
    found = recover(disk)[1]
    first = found[0].position
    assert found[: kept - first + 1] == [entry for entry in whole if first <= entry.position <= kept]
    loss = found[kept - first + 1].record
    assert isinstance(loss, Loss)
    assert loss.start == kept + 1
    assert report.lost == ((loss.start, loss.stop) if loss.stop > loss.start else None)
    assert check(RUN, files=disk).problems == ()
    assert not disk.exists(RUN / "REPAIR")
    assert repaired(disk).verdict == "whole"
    return report


@pytest.mark.parametrize("closed", [True, False])
async def test_a_flip_anywhere_keeps_all_before_it_and_says_what_is_lost(closed):
    disk = await written(MADE, closed=closed, segment_bytes=1024)
    cases = 0
    for path in paths_of(disk):
        content = disk.content(path)
        first = int(path.stem)
        for at in range(0, len(content), 97):
            damaged = changed(disk, path, flipped(content, at * 8))
            if verdict(damaged.killed()) != "refused":
                continue
            offsets = bounds(content)
            index = sum(offset <= at for offset in offsets) - 1
            report = judge(damaged)
            assert report.kept == min(first - 1 + max(index, 0), 8), (path.name, at)
            if report.kept < 8:
                assert report.lost == (report.kept + 1, 9)
            cases += 1
    tell(f"repaired after {cases} flips, closed={closed}")
    assert cases > 25


async def test_a_missing_segment_keeps_what_is_before_it():
    disk = await written(MADE, closed=True, segment_bytes=1024)
    for path in paths_of(disk):
        first = int(path.stem)
        report = judge(changed(disk, path, None)) if first > 1 else repaired(changed(disk, path, None))
        assert (report.kept, report.lost) == (first - 1, (first, 9))


@pytest.mark.parametrize("path", [EPOCH, WATERMARK])
@pytest.mark.parametrize("content", [None, b"x"])
async def test_a_small_file_that_is_damaged_costs_no_record(path, content):
    disk = await written(MADE, closed=True, segment_bytes=1024)
    report = judge(changed(disk, path, content))
    assert (report.kept, report.lost) == (8, None)


async def test_without_consent_nothing_is_changed():
    disk = await written(MADE, closed=True, segment_bytes=1024)
    damaged = changed(disk, FIRST, flipped(disk.content(FIRST), 4_000))
    before = {path: damaged.content(path) for path in damaged.paths}
    report = repaired(damaged, accept=False)
    assert (report.verdict, report.kept, report.lost, report.old) == ("damaged", 1, (2, 9), "")
    assert "damaged at byte" in report.why
    assert {path: damaged.content(path) for path in damaged.paths} == before


async def test_a_whole_journal_is_left_alone():
    disk = await written(MADE, closed=False, segment_bytes=1024)
    before = {path: disk.content(path) for path in paths_of(disk)}
    assert (repaired(disk).verdict, repaired(disk).kept) == ("whole", 8)
    assert {path: disk.content(path) for path in paths_of(disk)} == before
    assert not disk.exists(OLD)


async def test_a_journal_that_is_written_is_not_repaired():
    disk = SimulatedDisk()
    journal = opened(disk)
    with pytest.raises(JournalLocked) as caught:
        repaired(disk)
    assert caught.value.exit_code == 75
    await journal.close()
    with pytest.raises(NotFound):
        repaired(SimulatedDisk())


async def test_the_run_goes_on_after_a_repair_and_may_be_damaged_again():
    disk = await written(MADE, closed=True, segment_bytes=1024)
    disk = changed(disk, paths_of(disk)[2], None)
    judge(disk)
    kept = recover(disk)[0].head
    journal = opened(disk, segment_bytes=1024)
    assert [journal.append([mark(number)]) for number in range(3)] == [kept + 1, kept + 2, kept + 3]
    await journal.close()
    assert SegmentReader.open(RUN, files=disk).head == kept + 3
    last = paths_of(disk)[-1]
    again = changed(disk, last, disk.content(last)[:-10])
    report = repaired(again)
    assert (report.kept, report.old) == (kept + 3, str(RUN / "journal.damaged-2"))
    assert [type(entry.record) for entry in recover(again)[1]].count(Loss) == 2


async def test_a_stale_plan_is_not_carried_out():
    disk = await written(MADE, closed=True, segment_bytes=1024)
    disk = changed(disk, paths_of(disk)[2], None)
    disk.faults.plan("remove", 1)  # the last step of all
    with suppress(JournalFailed):
        repaired(disk)
    disk.faults.plan("remove", 2)
    with suppress(JournalFailed):
        repaired(disk)
    disk = disk.killed()
    assert disk.exists(RUN / "REPAIR")
    repaired(disk)
    assert not disk.exists(RUN / "REPAIR")


async def test_a_floor_that_is_damaged_is_found_again_in_the_log():
    disk = SimulatedDisk()
    journal, whole = await dropped_some(disk)
    past = entries([whole])[journal.first - 1 :]
    for content in (None, b"x"):
        report = judge(changed(disk, FLOOR, content), whole=past)
        assert (report.kept, report.lost) == (len(whole), None)


async def test_a_floor_is_found_again_also_when_its_own_segment_cannot_be_read():
    disk = SimulatedDisk()
    journal, whole = await dropped_some(disk)
    first = journal.first
    damaged = changed(changed(disk, FLOOR, b"x"), SEGMENTS / f"{first:020}.seg", flipped(disk.content(SEGMENTS / f"{first:020}.seg"), 70))
    report = repaired(damaged)
    assert (report.kept, report.lost) == (first - 1, (first, len(whole) + 1))
    assert (check(RUN, files=damaged).first, check(RUN, files=damaged).head) == (first, first + 1)


async def test_what_an_interrupted_drop_left_below_the_floor_is_not_kept():
    disk = SimulatedDisk()
    journal = opened(disk, segment_bytes=1024, retention=SMALL)
    for number in range(20):
        journal.append([block(number, 300)])
    left = {path: disk.content(path) for path in paths_of(disk)[:2]}
    journal.forget(journal.head + 1)
    await journal.close()
    for path, content in left.items():
        assert not disk.exists(path)
        disk.put(path, content)
    damaged = changed(disk, paths_of(disk)[-1], flipped(disk.content(paths_of(disk)[-1]), 70))
    report = repaired(damaged)
    found = recover(damaged)[1]
    assert (found[0].position, found[-1].position) == (journal.first, report.kept + 2)
    assert not any(damaged.exists(path) for path in left)


async def test_a_journal_that_dropped_and_says_so_nowhere_is_kept_from_no_position():
    disk = SimulatedDisk()
    journal, _ = await dropped_some(disk)
    told = next(path for path in reversed(paths_of(disk)) if b"journal.dropped" in disk.content(path))
    damaged = changed(changed(disk, FLOOR, None), told, flipped(disk.content(told), 70))
    report = repaired(damaged)
    assert (report.kept, report.lost) == (0, (1, journal.head + 1))
    assert [type(entry.record) for entry in recover(damaged)[1]] == [Loss]


async def test_bytes_that_only_look_like_a_frame_say_nothing_of_what_is_lost():
    lures = [[Block(stage="s", base=0, count=1, at=1, payloads=bytes(shift) + FRAME_MARK * 40)] for shift in range(8)]
    disk = await written(lures, closed=True)
    for path in (EPOCH, WATERMARK):
        disk.put(path, None)
    report = repaired(changed(disk, FIRST, flipped(disk.content(FIRST), 70 * 8)))
    assert (report.kept, report.lost) == (0, (1, 9))


async def test_what_is_kept_of_a_pruned_journal_tells_again_that_it_was_pruned():
    disk = SimulatedDisk()
    journal, whole = await dropped_some(disk)
    first = journal.first
    damaged = changed(disk, SEGMENTS / f"{first:020}.seg", flipped(disk.content(SEGMENTS / f"{first:020}.seg"), 70 * 8))
    report = repaired(damaged)
    assert (report.kept, report.lost) == (first - 1, (first, len(whole) + 1))
    found = recover(damaged)[1]
    assert [type(entry.record) for entry in found] == [Loss, Dropped]
    assert check(RUN, files=damaged).first == first


async def test_a_repair_that_dies_at_any_operation_can_be_repeated_and_loses_nothing_more():
    made = [*MADE[:6], [RunCompleted(at=1)], [mark(7)]]
    whole = await written(made, closed=True, segment_bytes=1024)
    second = paths_of(whole)[1]
    content = whole.content(second)
    damaged = changed(whole, second, flipped(content, (bounds(content)[1] + 60) * 8))
    expected = repaired(damaged.killed())
    clean = damaged.killed()
    clean.faults.calls.clear()
    repaired(clean)
    total = len(clean.faults.calls)
    goal = recover(clean.killed())[1]
    for number in range(1, total + 1):
        for power in (False, True):
            disk = damaged.killed()
            disk.faults.die_at = number
            with suppress(Crashed):
                repaired(disk)
            after = disk.power_cut() if power else disk.killed()
            found = verdict(after.killed())
            assert found in ("refused", goal), number
            with suppress(Crashed):  # opened in between, which takes the next epoch
                verdict(after)
            after = after.killed()
            report = repaired(after)
            assert report.verdict in ("repaired", "whole")
            if report.verdict == "repaired":
                assert (report.kept, report.lost) == (expected.kept, expected.lost), number
            assert recover(after)[1] == goal, number
            assert check(RUN, files=after).problems == ()
    tell(f"{total * 2} deaths while repairing, nothing more lost")
    assert total > 40


async def test_a_disk_that_fails_at_any_operation_of_a_repair_can_be_repaired_again():
    whole = await written(MADE, closed=True, segment_bytes=1024)
    damaged = changed(whole, paths_of(whole)[1], None)
    for operation in ("replace", "remove", "sync_directory", "link"):
        counted = damaged.killed()
        repaired(counted)
        for number in range(1, counted.faults.count(operation) + 1):
            disk = damaged.killed()
            disk.faults.plan(operation, number)
            with suppress(JournalFailed):
                repaired(disk)
            after = disk.killed()
            assert repaired(after).verdict in ("repaired", "whole")
            assert recover(after)[1] == recover(counted.killed())[1], (operation, number)


async def test_a_plan_that_cannot_be_read_is_made_again():
    disk = changed(await written(MADE, closed=True, segment_bytes=1024), FIRST, None)
    disk.put(RUN / "REPAIR", b"half a pl")
    assert (repaired(disk).verdict, recover(disk)[0].head) == ("repaired", 1)


async def test_a_floor_that_is_none_is_removed():
    disk = changed(await written(MADE, closed=True, segment_bytes=1024), FLOOR, b"x")
    report = judge(disk)
    assert (report.kept, report.lost, disk.exists(FLOOR)) == (8, None, False)


async def test_a_foreign_segment_counts_for_nothing_but_its_name():
    disk = await written(MADE, closed=True, segment_bytes=1024)
    other = await written([[block(number, 900)] for number in range(8)], closed=True, segment_bytes=1024)
    path = paths_of(disk)[1]
    foreign = bytearray(other.content(FIRST))
    foreign[16:32] = b"another journal!"
    report = judge(changed(disk, path, bytes(foreign)))
    assert (report.kept, report.lost) == (int(path.stem) - 1, (int(path.stem), 9))
