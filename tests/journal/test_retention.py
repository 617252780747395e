"""What nobody needs any more is dropped on purpose: recorded first, provable after, at any moment of a crash."""

import random
from contextlib import suppress
from pathlib import Path
from zlib import crc32

import msgspec
import pytest

from obzen_runtime.events import ActorState, Block, Dropped, RunCompleted, RunStarted
from obzen_runtime.journal import (
    Fsync,
    Manifest,
    Os,
    Retention,
    RunDirectory,
    SegmentJournal,
    SegmentOptions,
    SegmentReader,
    check,
    fork,
    retention_from,
    run_started,
)
from obzen_runtime.journal.floor import Floor, read_floor
from obzen_runtime.journal.format import FRAME_HEAD, SEAL_FRAME_BYTES, read_epoch
from obzen_runtime.journal.retention import Held, dispensable
from obzen_runtime.kernel import ConfigInvalid, JournalDamaged, NotFound, StorageFailed, UsageError
from obzen_runtime.testing import Crashed, SimulatedDisk
from tests.journal.kit import (
    EPOCH,
    RUN,
    SEGMENTS,
    HeldThreads,
    StillClock,
    block,
    collect,
    flipped,
    mark,
    opened,
    recover,
    seams,
    settle,
    tell,
    verdict,
)
from tests.journal.test_damage import changed

SMALL = Retention(size=2048)
BASE = RUN.parent
FLOOR = RUN / "FLOOR"
ARCHIVE = Path("/archive")
STARTED = RunStarted(run_id="r", flow="f", at=1)


def test_a_retention_is_read_from_words():
    assert retention_from("all") == Retention()
    assert retention_from("7d") == Retention(seconds=7 * 86_400)
    assert retention_from(" 90s ") == Retention(seconds=90)
    assert retention_from("10GiB") == Retention(size=10 << 30)
    assert retention_from("2w, 500MB", archive="a") == Retention(seconds=14 * 86_400, size=500_000_000, archive="a")
    assert retention_from(SMALL) is SMALL


@pytest.mark.parametrize("text", ["", "7", "d", "7x", "-1d", "all,7d", "7d,8d", "1GB,2GB", "0d", "0b", "1.5h", "7d,", "1b", "٣d", None, 7])
def test_words_that_name_no_retention_are_refused(text):
    with pytest.raises(ConfigInvalid) as caught:
        retention_from(text)
    assert caught.value.exit_code == 78


def test_an_archive_without_a_limit_is_refused():
    with pytest.raises(ConfigInvalid):
        retention_from("all", archive="somewhere")


def test_the_oldest_go_while_they_are_too_old_or_the_log_too_large():
    held = [Held(100, 1_000), Held(100, 2_000), Held(100, 3_000)]
    assert dispensable(Retention(seconds=1), held, 400, 3_500) == 2
    assert dispensable(Retention(size=512), held, 700, 0) == 2
    assert dispensable(Retention(size=512), held, 512, 0) == 0
    assert dispensable(Retention(size=512, seconds=1), held, 600, 3_500) == 2
    assert dispensable(Retention(), held, 1 << 40, 1 << 60) == 0
    assert dispensable(Retention(size=512), held, 1 << 40, 0) == 3


async def dropped_some(disk, *, archive="", level=None, count=20, closed=True):
    """A journal of which the first segments were dropped; all it ever held."""
    journal = opened(disk, level=level, segment_bytes=1024, retention=Retention(size=2048, archive=archive))
    whole = [STARTED, *(block(number, 300) for number in range(count))]
    for record in whole:
        journal.append([record])
    journal.forget(journal.head + 1)
    await journal.durable(journal.head)
    await settle()
    whole.append(Dropped(journal.first, StillClock().wall_ms(), archive and f"{archive}/r", STARTED, journal._floor.link))
    journal.append([mark(99)])
    whole.append(mark(99))
    if closed:
        await journal.close()
    return journal, whole


async def test_what_is_dropped_is_said_to_be_there_until_it_is_gone_for_good():
    disk, threads = SimulatedDisk(), HeldThreads()
    options = SegmentOptions(segment_bytes=1024, retention=SMALL)
    journal = SegmentJournal.open(RUN, options=options, seams=seams(disk, threads=threads))
    for number in range(20):
        journal.append([block(number, 300)])
    assert not journal.dropping
    names = disk.names(SEGMENTS)
    journal.forget(journal.head + 1)
    assert (journal.dropping, disk.names(SEGMENTS)) == (True, names)
    threads.step()
    await settle()
    assert not journal.dropping
    assert disk.exists(FLOOR)
    assert len(disk.names(SEGMENTS)) < len(names)
    threads.holding = False
    await journal.close()
    assert not (await reopened(disk)).dropping


async def reopened(disk):
    journal = opened(disk)
    await journal.close()
    return journal


@pytest.mark.parametrize("level", [Os(), Fsync()])
async def test_whole_sealed_segments_are_dropped_and_positions_keep_their_numbers(level):
    disk = SimulatedDisk()
    journal, whole = await dropped_some(disk, level=level)
    first = journal.first
    assert first > 10
    assert sum(len(disk.content(path)) for path in disk.paths if path.parent == SEGMENTS) == journal.size < 2048 + 1024
    assert min(path.name for path in disk.paths if path.parent == SEGMENTS) == f"{first:020}.seg"
    _, found = recover(disk)
    assert [(entry.position, entry.record) for entry in found] == list(enumerate(whole, 1))[first - 1 :]
    again = opened(disk)
    assert (again.first, again.head, again.append([mark(1)])) == (first, len(whole), len(whole) + 1)
    assert (await collect(again.read()))[0].position == first
    for position in (1, first - 1):
        with pytest.raises(NotFound, match=f"first kept is {first}"):
            await collect(again.read(position))
    assert await run_started(again) == STARTED
    await again.close()
    reader = SegmentReader.open(RUN, files=disk)
    assert (reader.first, reader.head) == (first, len(whole) + 1)
    assert (await collect(reader.read()))[0].position == first
    assert await run_started(reader) == STARTED
    with pytest.raises(NotFound):
        await collect(reader.read(first - 1))
    report = check(RUN, files=disk)
    assert (report.first, report.head, report.problems) == (first, len(whole) + 1, ())


async def test_only_what_is_below_the_floor_is_dropped_and_never_the_segment_being_written():
    disk = SimulatedDisk()
    journal = opened(disk, segment_bytes=1024, retention=SMALL)
    for number in range(20):
        journal.append([block(number, 300)])
    journal.forget(1)
    await settle()
    assert (journal.first, disk.exists(FLOOR)) == (1, False)
    journal.forget(8)
    await settle()
    assert 1 < journal.first <= 8
    journal.forget(10_000)
    await settle()
    assert journal.first <= journal.head
    for _ in range(3):  # the record of a drop takes room itself
        journal.forget(10_000)
        await settle()
    kept = journal.first
    journal.forget(10_000)
    await settle()
    assert journal.first == kept
    await journal.close()
    journal.forget(10_000)


async def test_a_journal_that_keeps_all_forgets_nothing():
    disk = SimulatedDisk()
    journal = opened(disk, segment_bytes=512)
    for number in range(9):
        journal.append([block(number, 300)])
    journal.forget(9)
    await settle()
    assert (journal.first, journal.head) == (1, 9)
    await journal.close()


async def test_what_is_too_old_is_dropped_also_by_a_later_process():
    disk = SimulatedDisk()
    journal = opened(disk, segment_bytes=512)
    now = StillClock().wall_ms()
    for age in (900, 800, 700, 60, 50, 40):
        journal.append([Block(stage="s", base=0, count=0, at=now - age * 1000, payloads=bytes(300))])
    await journal.close()
    journal = opened(disk, segment_bytes=512, retention=Retention(seconds=600))
    journal.forget(journal.head + 1)
    await settle()
    assert journal.first == 3  # the segment is as old as its last record, which is not yet known to be older than the next
    await journal.close()


async def test_dropped_segments_are_moved_to_the_archive_and_read_there_by_a_check():
    disk = SimulatedDisk()
    journal, whole = await dropped_some(disk, archive=str(ARCHIVE))
    first = journal.first
    archived = [path for path in disk.paths if path.parent == ARCHIVE / "r"]
    assert archived[0].stem == f"{1:020}"
    assert all(int(path.stem) < first for path in archived)
    told = next(entry.record for entry in recover(disk)[1] if isinstance(entry.record, Dropped))
    assert (told.archive, told.upto) == (f"{ARCHIVE}/r", first)
    report = check(RUN, files=disk, archive=ARCHIVE / "r")
    assert (report.first, report.head, report.problems) == (1, len(whole), ())
    assert report.stages == {"s": 20}
    with pytest.raises(JournalDamaged, match="expected"):
        check(RUN, files=changed(disk, archived[1], None), archive=ARCHIVE / "r")
    with pytest.raises(JournalDamaged):
        check(RUN, files=changed(disk, archived[0], flipped(disk.content(archived[0]), 2_000)), archive=ARCHIVE / "r")


async def test_an_archive_on_a_disk_without_links_gets_copies():
    disk = SimulatedDisk()
    disk.faults.plan("link", 1, 18, forever=True)
    _, whole = await dropped_some(disk, archive=str(ARCHIVE))
    assert disk.faults.count("link") > 3
    assert check(RUN, files=disk, archive=ARCHIVE / "r").head == len(whole)


async def test_an_archive_that_cannot_be_made_is_told_before_the_run(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigInvalid, match="archive"):
        SegmentJournal.open(tmp_path / "r", options=SegmentOptions(retention=Retention(size=512, archive=str(tmp_path / "file" / "x"))))
    assert not (tmp_path / "r").exists()


async def test_a_missing_segment_without_proof_stays_damage():
    disk = SimulatedDisk()
    await dropped_some(disk)
    kept = [path for path in disk.paths if path.parent == SEGMENTS]
    for path in kept:  # the first kept, one in the middle, the last
        assert verdict(changed(disk, path, None)) == "refused"
    for content in (None, b"", b"{}", disk.content(FLOOR)[:-2]):
        assert verdict(changed(disk, FLOOR, content)) == "refused"
        with pytest.raises(JournalDamaged):
            await collect(SegmentReader.open(RUN, files=changed(disk, FLOOR, content)).read())
        with pytest.raises(JournalDamaged):
            check(RUN, files=changed(disk, FLOOR, content))
    content = disk.content(FLOOR)
    wrong = [bit for bit in range(len(content) * 8) if verdict(changed(disk, FLOOR, flipped(content, bit))) != "refused"]
    assert wrong == []


async def test_a_floor_of_another_journal_or_an_older_one_is_refused():
    disk, other = SimulatedDisk(), SimulatedDisk()
    await dropped_some(disk)
    journal = opened(other)
    await journal.close()
    await dropped_some(other)
    assert other.content(FLOOR) != disk.content(FLOOR)
    assert verdict(changed(disk, FLOOR, other.content(FLOOR))) == "refused"
    foreign = msgspec.structs.replace(read_floor(disk.content(FLOOR)), journal="0" * 32)
    with pytest.raises(JournalDamaged, match="another journal"):
        check(RUN, files=changed(disk, FLOOR, foreign.encode()))
    told_wrong = b'{"position":"one"}'
    assert verdict(changed(disk, FLOOR, b"%s %08x\n" % (told_wrong, crc32(told_wrong)))) == "refused"
    old = disk.content(FLOOR)
    journal = opened(disk, segment_bytes=1024, retention=SMALL)
    for number in range(20):
        journal.append([block(20 + number, 300)])
    journal.forget(journal.head)
    await settle()
    await journal.close()
    assert disk.content(FLOOR) != old
    assert verdict(disk.killed()) != "refused"
    assert verdict(changed(disk, FLOOR, old)) == "refused"


async def test_a_floor_whose_record_is_not_in_the_log_is_refused_by_a_check():
    disk = SimulatedDisk()
    await dropped_some(disk)
    floor = read_floor(disk.content(FLOOR))
    recorded = next(entry.position for entry in recover(disk)[1] if isinstance(entry.record, Dropped))
    assert floor.record == recorded
    whole = SimulatedDisk()
    journal = opened(whole, segment_bytes=1024)
    for number in range(20):
        journal.append([block(number, 300)])
    await journal.close()
    first, second = [path for path in whole.paths if path.parent == SEGMENTS][:2]
    seal = whole.content(first)[-SEAL_FRAME_BYTES:]
    forged = Floor(int(second.stem), FRAME_HEAD.unpack_from(seal)[1], 20, read_epoch(whole.content(EPOCH)).journal.hex())
    whole.put(FLOOR, forged.encode())
    whole.put(first, None)
    with pytest.raises(JournalDamaged, match="no record"):
        check(RUN, files=whole)


async def test_ordinals_may_begin_anywhere_behind_a_drop_but_not_jump():
    disk = SimulatedDisk()
    journal, _ = await dropped_some(disk, closed=False)
    journal.append([block(500, 10)])
    await journal.close()
    (problem,) = check(RUN, files=disk).problems
    assert "goes on at ordinal 500, expected 20" in problem


class Story:
    """Appends, and forgets what is behind it, several times."""

    def __init__(self, disk, level, archive):
        self.disk = disk
        self.options = {"level": level, "segment_bytes": 512, "retention": Retention(size=1200, archive=archive)}
        self.whole = []
        self.written = self.durable = 0
        self.first = 1

    async def run(self):
        try:
            journal = opened(self.disk, **self.options)
            for number in range(8):
                record = block(number, 250)
                self.whole.append(record)
                self.written = journal.append([record])
                await journal.durable(self.written)
                if isinstance(self.options["level"], Fsync):
                    self.durable = self.written
                if number % 3 == 2:
                    journal.forget(self.written)
                    if journal.head > self.written:
                        self.whole.append(None)
                    self.first = journal.first
                await settle()
            await journal.close()
        except StorageFailed:
            return


def right(found, story, *, least):
    """Whether what an opener found is the past from some place at or below the last drop to at least `least`."""
    if found == "refused":
        return False
    positions = [entry.position for entry in found]
    if positions != list(range(positions[0], positions[0] + len(positions))) if positions else least > 0:
        return False
    records = [(entry.position, entry.record) for entry in found if not isinstance(entry.record, Dropped)]
    whole = {position: record for position, record in enumerate(story.whole, 1) if record is not None}
    return (
        all(whole.get(position) == record for position, record in records)
        and (not positions or positions[0] <= story.first)
        and (positions[-1] if positions else 0) >= least
    )


@pytest.mark.parametrize("archive", ["", "/archive"])
@pytest.mark.parametrize("level", [Os(), Fsync()], ids=lambda level: type(level).__name__)
async def test_a_process_that_dies_at_any_operation_of_a_drop_leaves_a_journal_that_opens(level, archive):
    counted = SimulatedDisk()
    await Story(counted, level, archive).run()
    assert counted.faults.count("remove") >= 3
    chance, cases = random.Random(5), 0
    for number in range(1, len(counted.faults.calls) + 1):
        disk = SimulatedDisk()
        disk.faults.die_at = number
        story = Story(disk, level, archive)
        with suppress(Crashed):
            await story.run()
        after = disk.killed()
        assert right(verdict(after), story, least=story.written), number
        if archive and after.exists(RUN / "FLOOR"):
            opened(after, **story.options)
            names = sorted(int(path.stem) for path in after.paths if path.suffix == ".seg")
            assert names[0] == 1, "a segment is in neither place"
            assert len(names) == len(set(names))
        loose = disk.unsynced()
        for share in (0.0, 0.5, 1.0):
            cut = disk.power_cut([piece for piece in loose if chance.random() < share])
            assert right(verdict(cut), story, least=story.durable), (number, share)
            cases += 1
    tell(f"{type(level).__name__}: {cases} deaths while dropping, 0 wrong verdicts")
    assert cases >= 100


@pytest.mark.parametrize("level", [Os(), Fsync()], ids=lambda level: type(level).__name__)
async def test_a_disk_that_fails_at_any_operation_of_a_drop_leaves_a_journal_that_opens(level):
    cases = 0
    for operation in ("replace", "remove", "link", "sync_directory", "sync", "write"):
        counted = SimulatedDisk()
        await Story(counted, level, "/archive").run()
        for number in range(1, counted.faults.count(operation) + 1):
            disk = SimulatedDisk()
            disk.faults.plan(operation, number)
            story = Story(disk, level, "/archive")
            await story.run()
            assert right(verdict(disk.killed()), story, least=story.written), (operation, number)
            cases += 1
    assert cases >= 40


async def test_a_process_that_dies_while_it_sweeps_what_another_left_is_followed_by_one_that_does():
    disk = SimulatedDisk()
    story = Story(disk, Os(), "")
    disk.faults.plan("remove", 1)
    await story.run()
    left = disk.killed()
    assert left.exists(FLOOR)
    for number in range(1, 40):
        again = left.killed()
        again.faults.die_at = number
        with suppress(Crashed):
            recover(again)
        assert right(verdict(again.killed()), story, least=story.written), number
        done = again.killed()
        recover(done)
        first = min(int(path.stem) for path in done.paths if path.parent == SEGMENTS)
        assert first == recover(done)[1][0].position > 1


async def test_a_reader_beside_a_writer_that_drops_goes_on_or_is_told():
    disk = SimulatedDisk()
    journal = opened(disk, segment_bytes=1024, retention=SMALL)
    for number in range(12):
        journal.append([block(number, 300)])
    ahead, behind, idle = (SegmentReader.open(RUN, files=disk) for _ in range(3))
    reading = behind.read()
    await anext(reading)
    inside = journal.read()
    await anext(inside)
    for number in range(12, 40):
        journal.append([block(number, 300)])
        if number == 20:
            ahead.refresh()
        if number % 5 == 0:
            journal.forget(journal.head)
            await settle()
    assert ahead.refresh() == idle.refresh() == journal.head
    assert ahead.first == idle.first == journal.first > 20
    assert [entry.position for entry in await collect(idle.read())] == list(range(journal.first, journal.head + 1))
    with pytest.raises(NotFound):
        await collect(reading)
    with pytest.raises(NotFound):
        await collect(inside)
    assert await ahead.last(frozenset({Block})) == await journal.last(frozenset({Block}))
    assert await ahead.last(frozenset({ActorState})) is None
    await journal.close()


class Meanwhile:
    """A disk on which something else happens just before one call."""

    def __init__(self, disk, number, happens):
        self.disk = disk
        self.left = number
        self.happens = happens

    def __getattr__(self, name):
        asked = getattr(self.disk, name)

        def call(*arguments, **options):
            self.left -= 1
            if self.left == 0:
                self.happens()
            return asked(*arguments, **options)

        return call


async def read_all(files):
    reader = SegmentReader.open(RUN, files=files)
    found = await collect(reader.read())
    assert [entry.position for entry in found] == list(range(found[0].position, reader.head + 1))


async def refresh_and_read(files):
    reader = SegmentReader.open(RUN, files=files.disk)
    reader._files = files
    reader.refresh()
    assert reader.head >= 20


async def check_all(files):
    assert check(RUN, files=files).head >= 20


async def fork_late(files):
    fork(RunDirectory(RUN, files), BASE, "f", at=20, live=False, seams=seams(files))
    assert check(BASE / "f", files=files).head >= 20


async def fork_early(files):
    with suppress(UsageError):  # it was dropped before it was looked for
        fork(RunDirectory(RUN, files), BASE, "f", at=6, live=False, seams=seams(files))
        assert check(BASE / "f", files=files).head == 7


@pytest.mark.parametrize("look", [read_all, refresh_and_read, check_all, fork_late, fork_early])
async def test_a_drop_in_any_moment_of_whoever_looks_is_never_called_damage(look):
    number = 0
    while True:
        number += 1
        disk = SimulatedDisk()
        RunDirectory.create(BASE, "r", disk).write_manifest(Manifest(run_id="r", flow="f"))
        journal = opened(disk, segment_bytes=1024, retention=SMALL)
        for ordinal in range(20):
            journal.append([block(ordinal, 300)])
        meanwhile = Meanwhile(disk, number, lambda journal=journal: journal.forget(journal.head))
        with suppress(NotFound):  # it says what is gone
            await look(meanwhile)
        await settle()
        await journal.close()
        if meanwhile.left > 0:
            break
        assert journal.first > 1
    tell(f"{number} moments of {look.__name__}, none called damage")
    assert number > 5


async def test_a_full_journal_has_room_again_when_something_was_dropped():
    disk = SimulatedDisk()
    journal = opened(disk, segment_bytes=1024, max_bytes=4096, retention=Retention(size=1024))
    with pytest.raises(StorageFailed):
        for number in range(100):
            journal.append([block(number, 300)])
    full = journal.head
    journal.forget(full)
    await settle()
    assert journal.append([block(full, 300)]) == full + 2
    await journal.close()


@pytest.mark.parametrize("damage", [False, True])
async def test_what_cannot_be_read_is_not_dropped_and_the_journal_goes_on(damage):
    disk = SimulatedDisk()
    journal = opened(disk, segment_bytes=1024, retention=SMALL)
    for number in range(20):
        journal.append([block(number, 300)])
    first = next(path for path in disk.paths if path.parent == SEGMENTS)
    if damage:
        disk.put(first, flipped(disk.content(first), 100 * 8))
    else:
        disk.faults.plan("read", disk.faults.count("read") + 1)
    journal.forget(journal.head)
    await settle()
    assert (journal.first, journal.append([mark(20)])) == (1, 21)
    await journal.close()


async def test_a_run_that_was_never_started_has_no_first_record():
    disk = SimulatedDisk()
    journal = opened(disk)
    assert await run_started(journal) is None
    journal.append([RunCompleted(at=1)])
    assert await run_started(journal) is None
    await journal.close()


async def test_a_segment_that_rolls_while_a_drop_is_synced_stays_open_until_that_is_done():
    disk, threads = SimulatedDisk(), HeldThreads()
    options = SegmentOptions(segment_bytes=1024, retention=SMALL)
    journal = SegmentJournal.open(RUN, options=options, seams=seams(disk, threads=threads))
    for number in range(12):
        journal.append([block(number, 300)])
    journal.forget(journal.head)
    await threads.arrival()
    for number in range(12, 20):
        journal.append([block(number, 300)])
    threads.step()
    await settle()
    assert journal.append([mark(1)]) == 22
    threads.holding = False
    await journal.close()
    assert check(RUN, files=disk).first > 1
