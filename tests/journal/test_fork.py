"""A fork shares the past of its origin, goes its own way, and can do it no harm."""

from contextlib import suppress

import pytest

from obzen_runtime.events import Dropped, RunCompleted, RunForked
from obzen_runtime.journal import Manifest, Retention, RunDirectory, SegmentJournal, SegmentOptions, SegmentReader, check, fork, repair
from obzen_runtime.kernel import IdValidationError, JournalDamaged, JournalFailed, NotFound, UsageError
from obzen_runtime.testing import Crashed, SimulatedDisk
from tests.journal.kit import RUN, SEGMENTS, block, collect, entries, flipped, mark, opened, seams, settle, tell
from tests.journal.test_damage import changed

BASE = RUN.parent
FORK = BASE / "f"
MADE = [[block(0, 300)], [mark(1), block(1, 300)], [block(2, 300)], [mark(4), mark(5), mark(6)], [block(3, 300)], [RunCompleted(at=1)]]
WHOLE = entries(MADE)
ENDS = [1, 3, 4, 7, 8, 9]


async def origin_of(made=MADE, *, closed=True, retention=None):
    disk = SimulatedDisk()
    run = RunDirectory.create(BASE, "r", disk)
    run.write_manifest(Manifest(run_id=run.run_id, flow="f", parameters={"s": {"count": 3}}))
    run.artifacts.put(b"a state")
    journal = opened(disk, segment_bytes=1024, retention=retention or Retention())
    for records in made:
        journal.append(records)
    if retention is not None:
        journal.forget(journal.head)
        await settle()
        journal.append([mark(100)])
    if closed:
        await journal.close()
        return disk
    return disk.killed()


def forked(disk, at, *, name="f", live=False):
    return fork(RunDirectory(RUN, disk), BASE, name, at=at, live=live, seams=seams(disk))


def open_fork(disk):
    return SegmentJournal.open(FORK, options=SegmentOptions(segment_bytes=1024), seams=seams(disk))


def origin_files(disk):
    return {path: disk.content(path) for path in disk.paths if RUN in path.parents and path.name != "LOCK"}


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("at", range(1, 10))
async def test_a_fork_has_the_past_up_to_the_border_at_or_below_the_position(at, closed):
    disk = await origin_of(closed=closed)
    before = origin_files(disk)
    run, position = forked(disk, at, live=at == 4)
    assert position == max(end for end in ENDS if end <= at)
    report = check(FORK, files=disk)
    assert (report.head, report.closed, report.problems) == (position + 1, True, ())
    assert run.read_manifest().origin == "r"
    assert run.read_manifest().parameters == {"s": {"count": 3}}
    assert run.state() == "forked"
    journal = open_fork(disk)
    found = await collect(journal.read())
    assert found[:-1] == WHOLE[:position]
    assert (found[-1].record.origin, found[-1].record.run_id, found[-1].record.live) == ("r", "f", at == 4)
    assert [journal.append([block(50 + number, 300)]) for number in range(6)] == list(range(position + 2, position + 8))
    await journal.close()
    assert check(FORK, files=disk).head == position + 7
    assert origin_files(disk) == before


async def test_a_fork_of_a_living_run_leaves_it_alone():
    disk = SimulatedDisk()
    RunDirectory.create(BASE, "r", disk).write_manifest(Manifest(run_id="r", flow="f"))
    journal = opened(disk, segment_bytes=1024)
    for records in MADE:
        journal.append(records)
    assert forked(disk, 8).position == 8
    assert journal.append([mark(9)]) == 10
    assert forked(disk, 10, name="g").position == 10
    await journal.close()
    assert check(RUN, files=disk).head == 10


async def test_forks_may_be_forked():
    disk = await origin_of()
    forked(disk, 7)
    journal = open_fork(disk)
    journal.append([block(70, 300)])
    await journal.close()
    made = fork(RunDirectory(FORK, disk), BASE, "g", at=9, live=False, seams=seams(disk))
    reader = SegmentReader.open(BASE / "g", files=disk)
    assert [entry.record.origin for entry in await collect(reader.read()) if isinstance(entry.record, RunForked)] == ["r", "f"]
    assert (made.position, reader.head) == (9, 10)


async def test_an_artifact_that_is_swept_while_its_run_is_forked_is_not_missed(monkeypatch):
    disk = await origin_of()
    store = RunDirectory(RUN, disk).artifacts
    swept, link = store.put(b"of a record that was dropped"), disk.link

    def sweeps_first(path, target):
        if path.parent.name + path.name == swept:
            disk.remove(path)
        link(path, target)

    monkeypatch.setattr(disk, "link", sweeps_first)
    run, _ = forked(disk, 9)
    assert run.artifacts.exists(store.put(b"a state"))
    assert not run.artifacts.exists(swept)


async def test_sealed_segments_and_artifacts_are_shared_and_copied_where_they_cannot_be():
    for links in (True, False):
        disk = await origin_of()
        if not links:
            disk.faults.plan("link", 1, 18, forever=True)
        forked(disk, 9)
        shared = [
            path.name
            for path in disk.paths
            if path.parent == FORK / "journal" and disk._nodes[path] is disk._nodes.get(SEGMENTS / path.name)
        ]
        assert bool(shared) == links
        assert RunDirectory(FORK, disk).artifacts.get(RunDirectory(RUN, disk).artifacts.put(b"a state")) == b"a state"
        assert check(FORK, files=disk).head == 10


@pytest.mark.parametrize("at", [-1, 0, 10, 1000])
async def test_a_position_that_is_not_there_is_refused(at):
    disk = await origin_of()
    with pytest.raises(UsageError, match="1 to 9"):
        forked(disk, at)
    assert not disk.exists(FORK)


async def test_a_fork_that_would_be_empty_exists_or_has_no_origin_is_refused():
    disk = await origin_of([[mark(1), mark(2)]])
    with pytest.raises(UsageError, match="empty"):
        forked(disk, 1)
    forked(disk, 2)
    with pytest.raises(UsageError, match="exists"):
        forked(disk, 2)
    with pytest.raises(UsageError, match="exists"):
        forked(disk, 2, name="r")
    with pytest.raises(IdValidationError):
        forked(disk, 2, name="a/b")
    with pytest.raises(NotFound):
        fork(RunDirectory(BASE / "none", disk), BASE, "x", at=1, live=False, seams=seams(disk))


async def test_damage_in_what_is_shared_refuses_and_damage_behind_it_does_not_matter():
    disk = await origin_of()
    last = max(path for path in disk.paths if path.parent == SEGMENTS)
    content = disk.content(last)
    damaged = changed(disk, last, flipped(content, (len(content) - 300) * 8))
    with pytest.raises(JournalDamaged):
        forked(damaged, 9)


async def test_a_damaged_fork_and_its_repair_leave_the_origin_as_it_was():
    disk = await origin_of()
    forked(disk, 8)
    before = origin_files(disk)
    journal = open_fork(disk)
    journal.append([block(80, 300)])
    await journal.close()
    own = max(path for path in disk.paths if path.parent == FORK / "journal")
    disk.put(own, flipped(disk.content(own), 800))
    assert repair(FORK, accept_loss=True, seams=seams(disk)).verdict == "repaired"
    missing = min(path for path in disk.paths if path.parent == FORK / "journal")
    disk.put(missing, None)
    assert repair(FORK, accept_loss=True, seams=seams(disk)).lost is not None
    assert origin_files(disk) == before
    assert check(RUN, files=disk).head == 9


async def test_a_segment_of_the_origin_put_into_the_fork_is_refused():
    disk = await origin_of()
    forked(disk, 3)
    journal = open_fork(disk)
    for number in range(6):
        journal.append([block(30 + number, 300)])
    await journal.close()
    shared = 0
    for path in [path for path in disk.paths if path.parent == FORK / "journal"]:
        theirs = SEGMENTS / path.name
        if not disk.exists(theirs) or disk.content(theirs) == disk.content(path):
            shared += disk.exists(theirs)
            continue
        with pytest.raises(JournalDamaged):
            check(FORK, files=changed(disk, path, disk.content(theirs)))
        with pytest.raises(JournalDamaged):
            await collect(SegmentReader.open(FORK, files=changed(disk, path, disk.content(theirs))).read())
    later = [path for path in disk.paths if path.parent == SEGMENTS][-1]
    other = disk.killed()
    other.put(FORK / "journal" / later.name, disk.content(later))
    with pytest.raises(JournalDamaged):
        check(FORK, files=other)


async def test_what_an_attempt_before_left_half_is_put_in_its_place():
    disk = await origin_of()
    shared = next(path for path in disk.paths if path.parent == SEGMENTS)
    run = RunDirectory.create(BASE, "f", disk)
    run.write_manifest(Manifest(run_id="f", flow="f", origin="r"))
    disk.make_directory(run.journal)
    disk.put(run.journal / shared.name, disk.content(shared)[:100])
    forked(disk, 8)
    assert disk.content(run.journal / shared.name) == disk.content(shared)
    assert check(FORK, files=disk).head == 9


async def test_a_run_without_artifacts_is_forked():
    disk = SimulatedDisk()
    disk.make_directory(RUN)
    RunDirectory(RUN, disk).write_manifest(Manifest(run_id="r", flow="f"))
    journal = opened(disk)
    journal.append([mark(0)])
    await journal.close()
    assert forked(disk, 1).position == 1
    assert check(FORK, files=disk).head == 2


async def test_a_fork_of_a_run_that_dropped_its_beginning_tells_that_it_did():
    for at_end in (True, False):
        disk = await origin_of([[block(number, 300)] for number in range(20)], retention=Retention(size=2048))
        first = SegmentReader.open(RUN, files=disk).first
        assert first > 5
        head = SegmentReader.open(RUN, files=disk).head
        forked(disk, head if at_end else first + 1)
        report = check(FORK, files=disk)
        assert (report.first, report.problems) == (first, ())
        found = await collect(SegmentReader.open(FORK, files=disk).read())
        assert [type(entry.record) for entry in found].count(Dropped) == 1
        with pytest.raises(UsageError):
            forked(disk, first - 1, name="g")


async def test_a_fork_that_dies_at_any_operation_is_finished_by_the_next_and_harms_nobody():
    origin = await origin_of()
    counted = origin.killed()
    counted.faults.calls.clear()
    forked(counted, 8)
    total = len(counted.faults.calls)
    before = origin_files(origin)
    for number in range(1, total + 1):
        for power in (False, True):
            disk = origin.killed()
            disk.faults.die_at = number
            with suppress(Crashed):
                forked(disk, 8)
            after = disk.power_cut() if power else disk.killed()
            assert origin_files(after) == before
            if after.exists(FORK / "EPOCH"):
                assert number == total
            else:
                with suppress(NotFound, JournalDamaged):
                    open_fork(after.killed()) if (FORK / "journal") in after._directories and after.names(FORK / "journal") else None
                assert forked(after, 8).position == 8
            assert check(FORK, files=after).head == 9
    tell(f"{total * 2} deaths while forking, 0 harmed")
    assert total > 20


async def test_a_disk_that_fails_says_so():
    disk = await origin_of()
    disk.faults.plan("replace", disk.faults.count("replace") + 2)
    with pytest.raises(JournalFailed) as caught:
        forked(disk, 8)
    assert caught.value.exit_code == 74
    assert forked(disk, 8).position == 8


@pytest.mark.parametrize("links", [True, False])
async def test_a_fork_that_keeps_nothing_of_a_segment_begins_one_of_its_own_in_its_place(links):
    disk = await origin_of([[block(0, 900)], [mark(1), mark(2), block(1, 900)], [block(2, 10)]])
    assert len([path for path in disk.paths if path.parent == SEGMENTS]) >= 2
    if not links:
        disk.faults.plan("link", 1, 18, forever=True)
    assert forked(disk, 3).position == 1
    assert [type(entry.record).__name__ for entry in await collect(SegmentReader.open(FORK, files=disk).read())] == ["Block", "RunForked"]
    journal = open_fork(disk)
    assert journal.append([mark(5)]) == 3
    await journal.close()
    assert check(FORK, files=disk).head == 3


async def test_damage_in_the_middle_of_the_segment_that_is_cut_is_refused():
    disk = await origin_of()
    first = min(path for path in disk.paths if path.parent == SEGMENTS)
    damaged = changed(disk, first, flipped(disk.content(first), 150 * 8))
    with pytest.raises(JournalDamaged, match="wanted"):
        forked(damaged, 1)
    assert not damaged.exists(FORK / "EPOCH")


async def test_a_directory_with_another_run_that_was_begun_is_not_taken_for_this_fork():
    disk = await origin_of()
    disk.make_directory(FORK / "journal")
    disk.put(FORK / "journal" / f"{1:020}.seg", b"somebody's")
    with pytest.raises(UsageError, match="exists"):
        forked(disk, 4)
    assert disk.content(FORK / "journal" / f"{1:020}.seg") == b"somebody's"
