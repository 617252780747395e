"""The journal on a disk: one writer, rolls, limits, fences, and what happens to those who come second."""

import asyncio
import os
import subprocess
import sys

import msgspec
import pytest

from obzen_runtime.events import ActorCompleted, Block, Checkpoint, Cursor, Receipt, RunCancelled, RunCompleted, Slice
from obzen_runtime.journal import Fsync, Interval, Memory, Os, SegmentJournal, SegmentOptions, check, level_from
from obzen_runtime.kernel import ConfigInvalid, Fenced, JournalDamaged, JournalFailed, JournalLocked, Seams, Telemetry, ValidationFailed
from obzen_runtime.testing import SimulatedDisk
from tests.journal.kit import EPOCH, FIRST, LOCK, RUN, SEGMENTS, WATERMARK, block, collect, entries, flipped, mark, opened, recover, seams


def test_options_refuse_what_cannot_be():
    for bad in ({"level": Memory()}, {"segment_bytes": 511}, {"max_bytes": 0}, {"max_bytes": "1GiB"}):
        with pytest.raises(ConfigInvalid):
            SegmentOptions(**bad)
    assert SegmentOptions().level == Os()
    with pytest.raises(AttributeError):
        SegmentOptions().level = Fsync()


async def test_a_run_has_these_files_with_these_modes(tmp_path):
    run = tmp_path / "runs" / "r"
    journal = SegmentJournal.open(run)
    journal.append([mark(1)])
    assert sorted(path.name for path in run.iterdir()) == ["EPOCH", "LOCK", "WATERMARK", "journal"]
    assert [path.name for path in (run / "journal").iterdir()] == ["00000000000000000001.seg"]
    for path in (run, run / "journal"):
        assert path.stat().st_mode & 0o777 == 0o700
    for path in (run / "EPOCH", run / "LOCK", run / "WATERMARK", run / "journal" / "00000000000000000001.seg"):
        assert path.stat().st_mode & 0o777 == 0o600
    await journal.close()


async def test_segments_roll_at_their_size_and_are_sealed():
    disk = SimulatedDisk()
    journal = opened(disk, segment_bytes=2048)
    made = [[block(number, 400)] for number in range(20)]
    for records in made:
        journal.append(records)
    assert journal.size == sum(len(disk.content(path)) for path in disk.paths if path.suffix == ".seg")
    await journal.close()
    segments = [path for path in disk.paths if path.parent == SEGMENTS]
    assert len(segments) > 4
    assert all(len(disk.content(path)) <= 2048 + 104 for path in segments)
    assert recover(disk)[1] == entries(made)
    assert check(RUN, files=disk).segments == len(segments)


async def test_a_frame_larger_than_a_segment_gets_one_of_its_own():
    disk = SimulatedDisk()
    journal = opened(disk, segment_bytes=512)
    made = [[mark(0)], [block(1, 5000)], [mark(2)]]
    for records in made:
        journal.append(records)
    await journal.close()
    assert len([path for path in disk.paths if path.suffix == ".seg"]) == 3
    assert recover(disk)[1] == entries(made)


async def test_a_frame_over_64_mib_is_refused_and_nothing_is_written():
    disk = SimulatedDisk()
    journal = opened(disk)
    journal.append([mark(0)])
    huge = Block(stage="s", base=0, count=1, at=1, payloads=bytes(64 << 20))
    with pytest.raises(ValidationFailed) as caught:
        journal.append([huge])
    assert caught.value.code == "too_large"
    with pytest.raises(ValidationFailed):
        journal.append([Block(stage="s", base=0, count=1, at=1, payloads=bytes(33 << 20))] * 2)
    assert journal.append([mark(1)]) == 2
    await journal.close()
    assert recover(disk)[1] == entries([[mark(0)], [mark(1)]])


async def test_a_full_journal_refuses_blocks_but_lets_the_run_say_how_it_ended():
    disk = SimulatedDisk()
    journal = opened(disk, max_bytes=2000)
    written = 0
    with pytest.raises(JournalFailed) as caught:
        while True:
            journal.append([block(written, 300)])
            written += 1
    assert (caught.value.code, caught.value.exit_code) == ("journal_full", 74)
    assert journal.size <= 2000
    for _ in range(10):
        journal.append([RunCompleted(at=1)])
    with pytest.raises(JournalFailed):
        journal.append([block(written, 300)])
    with pytest.raises(JournalFailed):
        journal.append([RunCompleted(at=1)] * 50_000)
    assert journal.head == written + 10
    await journal.close()
    assert len(recover(disk)[1]) == written + 10


async def test_a_full_journal_takes_receipts_and_then_still_the_ends_and_the_checkpoint():
    disk = SimulatedDisk()
    journal = opened(disk, max_bytes=2000)
    with pytest.raises(JournalFailed):
        for number in range(100):
            journal.append([block(number, 300)])
    receipt = Receipt(stage="k", at=1, inputs=(Slice("s", 0, 1),), cursor=Cursor(next={"s": 1}, mark=bytes(1000)))
    step = Block(stage="f", base=0, count=0, at=1, cursor=Cursor(next={"s": 1}))
    receipts = 0
    with pytest.raises(JournalFailed) as caught:
        while True:
            journal.append([step, receipt])
            receipts += 1
    assert (caught.value.code, caught.value.retryable) == ("journal_full", False)
    assert receipts > 800
    ends = [ActorCompleted(f"stage-{number}", "done", "stopped", 1) for number in range(500)]
    journal.append(ends)
    journal.append([Checkpoint(1, {f"stage-{number}": Cursor(next={"s": 1}) for number in range(500)}), RunCancelled(1, "journal_full")])
    await journal.close()
    again = opened(disk)
    assert (await collect(again.read()))[-1].record == RunCancelled(1, "journal_full")
    await again.close()


async def test_each_opening_takes_the_next_epoch():
    disk = SimulatedDisk()
    for number in (1, 2, 3):
        journal = opened(disk)
        assert (journal.epoch, journal.recovered.epoch) == (number, number)
        assert disk.content(EPOCH).startswith(b"%d " % number)
        await journal.close()


async def test_a_second_opener_is_told_who_holds_the_run(tmp_path):
    journal = SegmentJournal.open(tmp_path / "r")
    with pytest.raises(JournalLocked) as caught:
        SegmentJournal.open(tmp_path / "r")
    assert caught.value.details["pid"] == os.getpid()
    assert f"process {os.getpid()}" in str(caught.value)
    (tmp_path / "r" / "LOCK").write_text("")
    with pytest.raises(JournalLocked, match="another process"):
        SegmentJournal.open(tmp_path / "r")
    assert journal.append([mark(1)]) == 1
    await journal.close()


async def test_another_process_is_locked_out_too(tmp_path):
    journal = SegmentJournal.open(tmp_path / "r")
    program = (
        f"from obzen_runtime.journal import SegmentJournal; import pathlib; SegmentJournal.open(pathlib.Path({str(tmp_path / 'r')!r}))"
    )
    done = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stderr=subprocess.PIPE)
    _, told = await done.communicate()
    assert b"JournalLocked" in told
    assert b"process %d" % os.getpid() in told
    await journal.close()


async def test_a_writer_whose_lock_was_broken_is_fenced_at_its_next_append():
    disk = SimulatedDisk()
    first = opened(disk)
    first.append([mark(0)])
    disk.put(LOCK, None)
    second = opened(disk)
    with pytest.raises(Fenced) as caught:
        first.append([mark(1)])
    assert caught.value.exit_code == 75
    with pytest.raises(Fenced):
        await first.durable(1)
    second.append([mark(2)])
    with pytest.raises(Fenced):
        await first.close()
    await second.close()
    assert recover(disk)[1] == entries([[mark(0)], [mark(2)]])


async def test_a_writer_is_fenced_on_the_real_disk_too(tmp_path):
    first = SegmentJournal.open(tmp_path / "r")
    first.append([mark(0)])
    (tmp_path / "r" / "LOCK").unlink()
    second = SegmentJournal.open(tmp_path / "r")
    with pytest.raises(Fenced):
        first.append([mark(1)])
    await second.close()
    with pytest.raises(Fenced):
        await first.close()


def taken_over_behind_its_back(disk):
    """Another writer's epoch in the file only, as if WATERMARK had been replaced."""
    other = disk.killed()
    opened(other)
    disk.put(EPOCH, other.content(EPOCH))


async def test_a_writer_that_missed_the_fence_is_stopped_at_a_roll_a_sync_and_a_close():
    disk = SimulatedDisk()
    journal = opened(disk, segment_bytes=512)
    journal.append([block(0, 300)])
    taken_over_behind_its_back(disk)
    before = disk.content(FIRST)
    with pytest.raises(Fenced):
        journal.append([block(1, 300)])
    assert disk.content(FIRST) == before

    disk = SimulatedDisk()
    journal = opened(disk, level=Fsync())
    await journal.durable(journal.append([mark(0)]))
    taken_over_behind_its_back(disk)
    position = journal.append([mark(1)])
    with pytest.raises(Fenced):
        await journal.durable(position)

    disk = SimulatedDisk()
    journal = opened(disk)
    journal.append([mark(0)])
    taken_over_behind_its_back(disk)
    before = disk.content(FIRST)
    with pytest.raises(Fenced):
        await journal.close()
    assert disk.content(FIRST) == before
    assert not disk.locked(LOCK)


async def test_an_interrupt_in_the_middle_of_an_append_ends_the_journal(monkeypatch):
    disk = SimulatedDisk()
    journal = opened(disk)
    journal.append([mark(0)])

    def interrupted(written, durable):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(journal._marker), "reached", lambda self, written, durable: interrupted(written, durable))
    with pytest.raises(KeyboardInterrupt):
        journal.append([mark(1)])
    monkeypatch.undo()
    with pytest.raises(JournalFailed):
        journal.append([mark(2)])
    found = recover(disk.killed())[1]
    assert found == entries([[mark(0)], [mark(1)]])


async def test_what_cannot_be_encoded_leaves_the_journal_as_it_was():
    disk = SimulatedDisk()
    journal = opened(disk)
    journal.append([mark(0)])
    for bad in ([RunCompleted(at=1 << 70)], [mark(1), RunCompleted(at="x" * 3 + "\ud800")], ["no record"], [None]):
        with pytest.raises(Exception):  # noqa: B017
            journal.append(bad)
    journal.append([mark(1)])
    await journal.close()
    assert recover(disk)[1] == entries([[mark(0)], [mark(1)]])


async def test_reading_damage_names_file_offset_and_positions(tmp_path):
    journal = SegmentJournal.open(tmp_path / "r")
    for number in range(3):
        journal.append([mark(number)])
    path = tmp_path / "r" / "journal" / "00000000000000000001.seg"
    path.write_bytes(flipped(path.read_bytes(), 8 * 200))
    with pytest.raises(JournalDamaged) as caught:
        await collect(journal.read())
    assert caught.value.details["file"] == str(path)
    assert caught.value.details["position"] == 2
    assert caught.value.details["offset"] > 64
    assert caught.value.remedy


async def test_reading_finds_a_file_that_was_cut_while_open():
    disk = SimulatedDisk()
    journal = opened(disk)
    for number in range(3):
        journal.append([mark(number)])
    disk.put(FIRST, disk.content(FIRST)[:70])
    with pytest.raises(JournalDamaged, match="positions up to 3 were written"):
        await collect(journal.read())
    disk.put(FIRST, disk.content(FIRST)[:64])
    with pytest.raises(JournalDamaged, match="the file ends"):
        await collect(journal.read())


async def test_reading_goes_on_over_a_roll_that_happens_meanwhile():
    disk = SimulatedDisk()
    journal = opened(disk, segment_bytes=2048)
    for number in range(3):
        journal.append([block(number, 100)])
    reading = journal.read()
    assert (await anext(reading)).position == 1
    for number in range(3, 30):
        journal.append([block(number, 300)])
    assert [entry.position async for entry in reading] == [2, 3]
    assert [entry.position async for entry in journal.read()] == list(range(1, 31))


async def test_reading_at_a_position_uses_the_index():
    disk = SimulatedDisk()
    journal = opened(disk)
    for number in range(2000):
        journal.append([block(number, 900)])
    before = disk.faults.count("read")
    assert [entry.position async for entry in journal.read(1500, 1501)] == [1500]
    assert disk.faults.count("read") - before == 1
    await journal.close()
    journal = opened(disk)
    before = disk.faults.count("read")
    assert [entry.position async for entry in journal.read(1500, 1501)] == [1500]
    assert disk.faults.count("read") - before == 1
    assert await collect(journal.read(-3, 0)) == []


async def test_a_reader_lets_others_run():
    disk = SimulatedDisk()
    journal = opened(disk)
    for number in range(3000):
        journal.append([mark(number)])
    turns = 0

    async def others():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(others())
    await collect(journal.read())
    task.cancel()
    assert turns > 8


async def test_what_is_read_again_after_close_is_the_same():
    disk = SimulatedDisk()
    journal = opened(disk)
    journal.append([mark(0), mark(1)])
    await journal.close()
    assert await collect(journal.read()) == entries([[mark(0), mark(1)]])
    assert await collect(journal.tail()) == entries([[mark(0), mark(1)]])
    with pytest.raises(JournalFailed, match="closed"):
        journal.append([mark(2)])


async def test_telemetry_tells_each_append_and_each_sync():
    heard = []
    telemetry = Telemetry(lambda name, measurements, metadata: heard.append((name, dict(measurements), dict(metadata))))
    disk = SimulatedDisk()
    journal = SegmentJournal.open(RUN, options=SegmentOptions(level=Fsync()), seams=seams(disk, telemetry=telemetry))
    position = journal.append([mark(0), mark(1)])
    await journal.durable(position)
    names = [name for name, _, _ in heard]
    assert names == ["journal.append", "journal.sync"]
    assert heard[0][1]["records"] == 2
    assert heard[0][1]["bytes"] == journal.size - 64
    assert heard[0][2] == heard[1][2] == {"position": 2}
    await journal.close()


async def test_opening_a_directory_that_cannot_be_made_says_so(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(JournalFailed) as caught:
        SegmentJournal.open(tmp_path / "file" / "run")
    assert caught.value.exit_code == 74


async def test_opening_takes_default_seams_and_every_level_by_name(tmp_path):
    for text in ("os", "interval(5)", "fsync"):
        journal = SegmentJournal.open(tmp_path / text, options=SegmentOptions(level=level_from(text)))
        assert journal.level == level_from(text)
        journal.append([mark(1)])
        await journal.durable(1)
        await journal.close()
    assert Interval(5) == level_from("interval(5)")


async def test_a_hundred_thousand_small_appends_keep_memory_flat():
    disk = SimulatedDisk()
    journal = opened(disk)
    for number in range(20_000):
        journal.append([mark(number)])
    segment = journal._log.segments[-1]
    assert len(segment.index._positions) <= segment.size / (64 << 10) + 1
    assert len(journal._writer._headers) <= 64 << 10
    await journal.close()


async def test_frames_are_encoded_as_the_codec_of_records_says():
    disk = SimulatedDisk()
    journal = opened(disk)
    record = block(0, 100)
    journal.append([record])
    assert msgspec.msgpack.Encoder(order="deterministic").encode(record) in disk.content(FIRST)
    await journal.close()
    assert disk.content(WATERMARK) != b""
    assert isinstance(seams(disk), Seams)
