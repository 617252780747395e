"""Reading a run's journal beside its writer, after its death and after its end, without a lock and without a change."""

import asyncio

import pytest

from obzen_runtime.events import DeadLetter, RunCompleted
from obzen_runtime.journal import Entry, SegmentJournal, SegmentOptions, SegmentReader
from obzen_runtime.journal.reader import Log
from obzen_runtime.kernel import JournalDamaged, NotFound
from obzen_runtime.testing import Crashed, SimulatedDisk
from tests.journal.kit import FIRST, LOCK, RUN, SEGMENTS, WATERMARK, block, collect, entries, flipped, mark, opened, recover, seams
from tests.journal.test_damage import bounds, changed, written


def reader_of(disk):
    return SegmentReader.open(RUN, files=disk)


async def test_a_reader_sees_what_a_living_writer_has_written():
    disk = SimulatedDisk()
    journal = opened(disk, segment_bytes=1024)
    reader = reader_of(disk)
    assert (reader.head, reader.closed, await collect(reader.read())) == (0, False, [])
    made = []
    for number in range(12):
        made.append([block(number, 300)])
        journal.append(made[-1])
        assert await collect(reader.read()) == entries(made)
    assert await collect(reader.read(3, 5)) == entries(made)[2:4]
    assert await collect(reader.read(5, 100, kinds=frozenset({RunCompleted}))) == []
    await journal.close()
    assert (reader.refresh(), reader.closed) == (12, True)


async def test_a_reader_takes_no_lock_and_changes_nothing():
    disk = SimulatedDisk()
    journal = opened(disk, segment_bytes=1024)
    for number in range(6):
        journal.append([block(number, 300)])
    before = {path: disk.content(path) for path in disk.paths}
    calls = len(disk.faults.calls)
    assert len(await collect(reader_of(disk).read())) == 6
    assert {operation for operation, _ in disk.faults.calls[calls:]} == {"read"}
    assert {path: disk.content(path) for path in disk.paths} == before
    await journal.close()


async def test_an_incomplete_last_frame_is_not_there_yet():
    disk = SimulatedDisk()
    journal = opened(disk)
    made = [[mark(0)], [block(1, 300)]]
    journal.append(made[0])
    before = len(disk.content(FIRST))
    journal.append(made[1])
    live = disk.killed()
    content = live.content(FIRST)
    old_mark = disk.killed()
    for size in range(before, len(content) + 1, 3):
        state = changed(old_mark, FIRST, content[:size])
        state.put(WATERMARK, None)  # what the writer of this moment had said: nothing yet
        reader = reader_of(state)
        assert reader.head == (2 if size == len(content) else 1)
        state.put(FIRST, content)
        assert await collect(reader.read()) == entries(made)


async def test_a_reader_opened_at_every_byte_of_a_writers_life_reads_the_acknowledged_part():
    whole = SimulatedDisk()
    journal = opened(whole, segment_bytes=512)
    made = [[block(number, 150)] for number in range(5)]
    for records in made:
        journal.append(records)
    total = sum(len(whole.content(path)) for path in whole.paths if path.parent == SEGMENTS)
    for budget in range(0, total, 5):
        disk = SimulatedDisk()
        disk.faults.budget = budget
        journal = opened(disk, segment_bytes=512)
        written = 0
        with pytest.raises(Crashed):
            for records in made:
                written = journal.append(records)
        state = disk.killed()
        reader = reader_of(state)
        assert await collect(reader.read()) == entries(made)[:written]
        recover(state)
        again = opened(state, segment_bytes=512)
        again.append([mark(77)])
        assert await collect(reader.read()) == entries([*made[:written], [mark(77)]])


async def test_a_reader_refuses_damage_below_what_was_written():
    disk = SimulatedDisk()
    journal = opened(disk)
    for number in range(3):
        journal.append([mark(number)])
    content = disk.content(FIRST)
    with pytest.raises(JournalDamaged, match="positions up to 3 were written"):
        reader_of(changed(disk, FIRST, flipped(content, 200 * 8)))
    with pytest.raises(JournalDamaged):
        reader_of(changed(disk, FIRST, content[: bounds(content)[2]]))
    with pytest.raises(JournalDamaged):
        reader_of(changed(disk, FIRST, None))
    with pytest.raises(JournalDamaged):
        reader_of(changed(disk, FIRST, content[:20]))
    reader = reader_of(disk)
    disk.put(FIRST, flipped(content, 200 * 8))
    with pytest.raises(JournalDamaged):
        await collect(reader.read())
    await asyncio.gather(journal.close())


async def test_a_reader_after_a_power_cut_reads_up_to_the_cut():
    disk = SimulatedDisk()
    journal = opened(disk)
    for number in range(3):
        journal.append([mark(number)])
    cut = disk.power_cut(disk.unsynced())
    content = cut.content(FIRST)
    cut.put(FIRST, flipped(content, (bounds(content)[1] + 9) * 8))
    assert await collect(reader_of(cut).read()) == entries([[mark(0)]])


async def test_a_reader_refuses_a_bad_header_before_another_segment():
    disk = SimulatedDisk()
    journal = opened(disk, segment_bytes=512)
    for number in range(5):
        journal.append([block(number, 300)])
    with pytest.raises(JournalDamaged, match="another segment follows"):
        reader_of(changed(disk, FIRST, flipped(disk.content(FIRST), 80)))


async def test_a_reader_finds_a_missing_segment_when_it_comes_there():
    disk = SimulatedDisk()
    journal = opened(disk, segment_bytes=512)
    for number in range(5):
        journal.append([block(number, 300)])
    paths = [path for path in disk.paths if path.parent == SEGMENTS]
    reader = reader_of(changed(disk, paths[1], None))
    with pytest.raises(JournalDamaged, match="were written"):
        await collect(reader.read())
    with pytest.raises(JournalDamaged, match="the first segment is missing"):
        reader_of(changed(disk, paths[0], None))


@pytest.mark.parametrize("closed", [True, False])
async def test_a_reader_refuses_segments_that_are_missing_swapped_or_from_another_journal(closed):
    made = [[block(number, 300)] for number in range(8)]
    disk = await written(made, closed=closed, segment_bytes=1024)
    others = seams(SimulatedDisk())
    others.entropy.next = 77
    journal = SegmentJournal.open(RUN, options=SegmentOptions(segment_bytes=1024), seams=others)
    for number in range(8):
        journal.append([block(100 + number, 300)])
    foreign = others.files.killed() if not closed else others.files
    if closed:
        await journal.close()
    paths = [path for path in disk.paths if path.parent == SEGMENTS]
    assert len(paths) == 4
    for path in paths:
        for content in (None, foreign.content(path), *(disk.content(other) for other in paths if other != path)):
            with pytest.raises(JournalDamaged) as caught:
                await collect(reader_of(changed(disk, path, content)).read())
            assert caught.value.details["file"]
    assert await collect(reader_of(disk).read()) == entries(made)


async def test_a_segment_that_goes_while_it_is_read_and_was_not_dropped_is_damage():
    disk = SimulatedDisk()
    journal = opened(disk, segment_bytes=1024)
    for number in range(12):
        journal.append([block(number, 300)])
    reading = reader_of(disk).read()
    await anext(reading)
    disk.put([path for path in disk.paths if path.parent == SEGMENTS][2], None)
    with pytest.raises(JournalDamaged, match="the file is missing"):
        await collect(reading)


async def test_no_journal_is_no_reader():
    with pytest.raises(NotFound) as caught:
        reader_of(SimulatedDisk())
    assert (caught.value.code, caught.value.exit_code) == ("run_not_found", 64)
    with pytest.raises(NotFound):
        list(Log(SimulatedDisk(), []).read(1, 2, None))


async def test_a_tail_of_a_closed_journal_ends():
    disk = SimulatedDisk()
    journal = opened(disk)
    journal.append([mark(0), mark(1)])
    await journal.close()
    assert await collect(reader_of(disk).tail()) == entries([[mark(0), mark(1)]])
    assert await collect(reader_of(disk).tail(2)) == entries([[mark(0), mark(1)]])[1:]
    assert await collect(reader_of(disk).tail(5)) == []


async def test_a_tail_of_a_dead_writer_ends():
    disk = SimulatedDisk()
    opened(disk).append([mark(0)])
    disk.put(LOCK, None)
    assert await collect(reader_of(disk).tail()) == entries([[mark(0)]])


async def test_a_tail_follows_a_living_writer_over_rolls_until_it_closes(monkeypatch):
    monkeypatch.setattr("obzen_runtime.journal.reader._POLL", 0)
    disk = SimulatedDisk()
    journal = opened(disk, segment_bytes=1024)
    following = asyncio.ensure_future(collect(reader_of(disk).tail(kinds=frozenset({RunCompleted}))))
    for number in range(50):
        journal.append([block(number, 100), RunCompleted(at=number)])
        for _ in range(3):
            await asyncio.sleep(0)
    await journal.close()
    assert [entry.position for entry in await following] == list(range(2, 101, 2))


async def test_a_reader_on_the_real_disk_follows_a_writer(tmp_path, monkeypatch):
    monkeypatch.setattr("obzen_runtime.journal.reader._POLL", 0)
    journal = SegmentJournal.open(tmp_path / "r")
    following = asyncio.ensure_future(collect(SegmentReader.open(tmp_path / "r").tail()))
    made = [[mark(number)] for number in range(20)]
    for records in made:
        journal.append(records)
        await asyncio.sleep(0)
    await journal.close()
    assert await following == entries(made)


async def test_the_newest_of_a_kind_is_found_without_reading_the_history():
    disk = SimulatedDisk()
    journal = opened(disk, segment_bytes=4096)
    for number in range(100):
        journal.append([block(number, 300)])
    journal.append([RunCompleted(at=7), mark(1)])
    await journal.close()
    reader, journal, wanted = reader_of(disk), opened(disk), frozenset({RunCompleted})
    for of in (reader, journal):
        disk.faults.calls.clear()
        assert await of.last(wanted) == Entry(101, RunCompleted(at=7))
        assert len({path for operation, path in disk.faults.calls if operation == "read" and path.suffix == ".seg"}) == 1
    assert await reader.last(frozenset({DeadLetter})) is None
    await journal.close()


async def test_the_newest_of_a_kind_is_read_from_the_end_of_a_segment_backwards():
    disk = SimulatedDisk()
    journal = opened(disk)
    for number in range(40):
        journal.append([block(number, 64 << 10)])
    journal.append([RunCompleted(at=7)])
    starts = []
    read = disk.read

    def noted(path, start=0, size=-1):
        starts.append(start)
        return read(path, start, size)

    disk.read = noted
    assert await journal.last(frozenset({RunCompleted})) == Entry(41, RunCompleted(at=7))
    assert min(starts) > 2 << 20
    assert await journal.last(frozenset({DeadLetter})) is None
    await journal.close()
