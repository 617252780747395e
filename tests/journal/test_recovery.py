"""One test per row of the recovery table."""

from contextlib import suppress

import pytest

from obzen_runtime.events import Block
from obzen_runtime.journal import Fsync, SegmentJournal, SegmentOptions
from obzen_runtime.journal.format import FRAME_BYTES, SEGMENT_BYTES
from obzen_runtime.kernel import JournalDamaged, JournalFailed
from obzen_runtime.testing import Crashed, SimulatedDisk, Unsynced
from tests.journal.kit import (
    EPOCH,
    FIRST,
    RUN,
    SEGMENTS,
    WATERMARK,
    HeldThreads,
    block,
    entries,
    flipped,
    mark,
    opened,
    recover,
    seams,
    tell,
)
from tests.journal.test_damage import bounds, changed

MADE = [[mark(0)], [block(1, 700)], [mark(2), mark(3)], [block(4, 900)]]


def appended(made=MADE, **options):
    disk = SimulatedDisk()
    journal = opened(disk, **options)
    for records in made:
        journal.append(records)
    return disk, journal


def refused(disk, *words):
    with pytest.raises(JournalDamaged) as caught:
        recover(disk)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    return caught.value


def restarted(disk, path=FIRST, content=None):
    """After a restart of the machine; everything unsynced was kept, then `path` changed."""
    other = disk.power_cut(disk.unsynced())
    if content is not None:
        other.put(path, content)
    return other


async def test_row_1_valid_frames_in_sequence_are_accepted():
    disk, journal = appended()
    found, records = recover(disk.killed())
    assert (found.head, found.clean, found.torn, found.tail_lost, found.epoch) == (5, False, 0, None, 2)
    assert records == entries(MADE)
    await journal.close()
    found, records = recover(disk)
    assert (found.head, found.clean) == (5, True)
    assert records == entries(MADE)


async def test_row_2_only_zeros_to_the_end_of_the_file_end_the_log():
    disk, _ = appended()
    content = disk.content(FIRST)
    found, records = recover(changed(disk, FIRST, content + bytes(600_000)))
    assert (found.torn, found.tail_lost, records) == (600_000, None, entries(MADE))
    found, records = recover(restarted(disk, content=content + bytes(5000)))
    assert (found.torn, found.tail_lost, records) == (0, (len(content), len(content) + 5000), entries(MADE))


async def test_row_2_zeros_over_what_was_written_are_damage():
    disk, _ = appended()
    content = disk.content(FIRST)
    start = bounds(content)[3]
    zeros = content[:start] + bytes(len(content) - start)
    refused(changed(disk, FIRST, zeros), "00000000000000000001.seg", f"byte {start}", "position 5", "positions up to 5 were written")


@pytest.mark.parametrize("number", [0, 1, 2])
async def test_row_3_a_bad_frame_before_a_good_one_is_damage_while_the_machine_runs(number):
    disk, _ = appended()
    content = disk.content(FIRST)
    error = refused(changed(disk, FIRST, flipped(content, (bounds(content)[number] + 70) * 8)), "positions up to 5 were written")
    assert error.details["offset"] == bounds(content)[number]


async def test_row_3_a_bad_frame_before_a_good_one_is_cut_after_a_restart():
    disk, _ = appended()
    content = disk.content(FIRST)
    start = bounds(content)[1]
    found, records = recover(state := restarted(disk, content=flipped(content, (start + 100) * 8)))
    assert records == entries(MADE[:1])
    assert (found.head, found.tail_lost, found.segment, found.lost) == (1, (start, len(content)), FIRST.name, (2, 6))
    (copy,) = found.kept
    assert copy.startswith("00000000000000000001.seg.torn-")
    assert state.content(SEGMENTS / copy) == flipped(content, (start + 100) * 8)[start:]


async def synced_in_the_middle(*, known):
    """Two frames synced, then two more whose headers say so; `known`: the watermark's page reached the disk too."""
    disk, threads = SimulatedDisk(), HeldThreads(holding=False)
    journal = SegmentJournal.open(RUN, options=SegmentOptions(level=Fsync()), seams=seams(disk, threads=threads))
    for records in MADE[:2]:
        journal.append(records)
    await journal.durable(2)
    threads.holding = True
    mark_then = disk.content(WATERMARK)
    for records in MADE[2:]:
        journal.append(records)
    other = disk.power_cut([piece for piece in disk.unsynced() if piece.path != WATERMARK])
    if known:
        other.put(WATERMARK, mark_then)
    return other


async def test_row_4_damage_below_a_durable_position_that_a_later_frame_proves_is_refused_after_a_restart():
    disk = await synced_in_the_middle(known=False)
    content = disk.content(FIRST)
    starts = bounds(content)
    for number in (0, 1):
        refused(changed(disk, FIRST, flipped(content, (starts[number] + 60) * 8)), "positions up to 2 were durable")
    found, records = recover(changed(disk, FIRST, flipped(content, (starts[2] + 60) * 8)))
    assert (found.tail_lost, records) == ((starts[2], len(content)), entries(MADE[:2]))


async def test_row_4_the_proof_may_stand_behind_the_damage_only():
    disk = await synced_in_the_middle(known=False)
    content = disk.content(FIRST)
    starts = bounds(content)
    lost_second = flipped(content, (starts[1] + 60) * 8)
    refused(changed(disk, FIRST, lost_second), "positions up to 2 were durable")
    found, records = recover(changed(disk, FIRST, lost_second[: starts[2]]))  # without the proof it is an ordinary power cut
    assert (found.tail_lost, records) == ((starts[1], starts[2]), entries(MADE[:1]))


async def test_row_4_a_watermark_proves_a_durable_position_after_a_restart():
    disk = await synced_in_the_middle(known=True)
    content = disk.content(FIRST)
    starts = bounds(content)
    refused(changed(disk, FIRST, content[: starts[2] - 1]), "positions up to 2 were durable")
    refused(changed(disk, FIRST, content[: starts[1]]), "positions up to 2 were durable")
    assert recover(changed(disk, FIRST, content[: starts[2]]))[1] == entries(MADE[:2])


async def test_row_4_a_bad_segment_before_another_is_damage_while_the_machine_runs():
    disk, _ = appended(segment_bytes=1024)
    paths = [path for path in disk.paths if path.parent == SEGMENTS]
    content = disk.content(paths[0])
    refused(changed(disk, paths[0], content[:-1]), paths[0].name)


async def torn(size_of_tail):
    """A process that died in the middle of the write of one more frame."""
    disk, journal = appended()
    whole = disk.content(FIRST)
    disk.faults.budget = size_of_tail
    with pytest.raises(Crashed):
        journal.append([block(5, 300)])
    return disk.killed(), whole


@pytest.mark.parametrize("size", [1, 7, 47, 48, 49, 100, 300])
async def test_row_5_a_short_last_frame_is_cut_off_and_copied(size):
    disk, whole = await torn(size)
    tail = disk.content(FIRST)[len(whole) :]
    found, records = recover(disk)
    assert (found.head, found.torn, found.tail_lost, found.segment) == (5, size, None, FIRST.name)
    assert records == entries(MADE)
    assert [disk.content(SEGMENTS / name) for name in found.kept] == [tail]
    again, records = recover(disk)
    assert (again.head, again.torn, records) == (5, 0, entries(MADE))


async def test_row_5_what_follows_a_cut_is_appended_and_read():
    disk, _ = await torn(100)
    journal = opened(disk)
    assert journal.recovered.torn == 100
    assert journal.append([mark(9)]) == 6
    await journal.close()
    assert recover(disk)[1] == entries([*MADE, [mark(9)]])


async def test_row_6_sectors_that_were_never_written_are_cut_after_a_restart():
    disk, _ = appended()
    lost = [piece for piece in disk.unsynced() if not (piece.path == FIRST and piece.kind == "sector" and piece.number == 2)]
    found, records = recover(disk.power_cut(lost))
    assert records == entries(MADE[:2])
    assert found.tail_lost is not None


async def test_row_7_a_full_last_frame_that_rotted_is_refused_while_the_machine_runs():
    disk, _ = appended()
    content = disk.content(FIRST)
    start = bounds(content)[3]
    refused(changed(disk, FIRST, flipped(content, (start + FRAME_BYTES + 5) * 8)), "positions 5 to 5", f"byte {start}")


async def test_row_7_a_full_frame_that_nobody_was_told_of_is_refused_too_when_it_is_bad():
    disk, _ = appended()
    content = disk.content(FIRST)
    refused(changed(disk, FIRST, content + b"x" * 64), "has not been restarted")


async def test_row_8_a_log_that_ends_before_what_was_written_has_lost_its_tail():
    disk, _ = appended()
    content = disk.content(FIRST)
    for end in bounds(content)[:-1]:
        refused(changed(disk, FIRST, content[:end]), "positions up to 5 were written")


async def test_row_8_a_tail_that_was_never_synced_may_be_missing_after_a_restart_and_is_reported():
    disk, _ = appended()
    content = disk.content(FIRST)
    found, records = recover(restarted(disk, content=content[: bounds(content)[2]]))
    assert (found.head, found.lost, found.tail_lost, records) == (2, (3, 6), None, entries(MADE[:2]))


@pytest.mark.parametrize("size", range(0, SEGMENT_BYTES, 9))
async def test_row_9_a_segment_that_was_only_begun_is_removed(size):
    disk, journal = appended(segment_bytes=512)
    paths = set(disk.paths)
    disk.faults.budget = 104 + size
    with pytest.raises(Crashed):
        journal.append([block(5, 700)])
    (begun,) = set(disk.paths) - paths
    state = disk.killed()
    found, records = recover(state)
    assert records == entries(MADE)
    assert found.torn == size
    assert begun not in state.paths
    journal = opened(state)
    journal.append([mark(7)])
    await journal.close()
    assert recover(state)[1] == entries([*MADE, [mark(7)]])


async def test_row_9_a_segment_of_a_whole_header_and_no_frame_is_removed():
    disk, journal = appended(segment_bytes=512)
    disk.faults.budget = 104 + SEGMENT_BYTES
    with pytest.raises(Crashed):
        journal.append([block(5, 700)])
    found, records = recover(disk.killed())
    assert (found.torn, found.head, records) == (0, 5, entries(MADE))


async def test_row_9_a_bad_header_of_full_length_is_refused_while_the_machine_runs_and_cut_after_a_restart():
    disk, _ = appended(segment_bytes=512)
    last = disk.paths[-1]
    content = disk.content(last)
    refused(changed(disk, last, flipped(content, 20 * 8)), last.name, "byte 0")
    found, _ = recover(restarted(disk, last, flipped(content, 20 * 8)))
    assert found.tail_lost == (0, len(content))
    refused(changed(disk, last, b"\0" * 10), "were written")


async def test_row_10_a_gap_between_segments_is_refused():
    disk, journal = appended(segment_bytes=512)
    await journal.close()
    paths = [path for path in disk.paths if path.parent == SEGMENTS]
    refused(changed(disk, paths[1], None), "begins with position")


async def test_row_10_a_gap_between_unsynced_segments_is_an_ordinary_restart():
    disk, _ = appended(segment_bytes=512)
    paths = [path for path in disk.paths if path.parent == SEGMENTS]
    kept = [piece for piece in disk.unsynced() if piece.path != paths[1]]
    state = disk.power_cut(kept)
    found, records = recover(state)
    assert records == entries(MADE[: found.head])
    assert found.segment == paths[2].name
    assert [path for path in state.paths if path.suffix == ".seg"] == paths[:1]


async def test_row_10_a_segment_of_another_epoch_than_can_be_is_refused():
    disk, journal = appended()
    await journal.close()
    journal = opened(disk)
    journal.append([mark(5)])
    await journal.close()
    fresh = SimulatedDisk()
    await opened(fresh).close()
    old_epoch = changed(disk, EPOCH, fresh.content(EPOCH))
    old_epoch.put(EPOCH, fresh.content(EPOCH))
    epoch_2 = recover(old_epoch)  # the next epoch is 2 again: both segments fit
    assert epoch_2[0].epoch == 2
    reversed_epochs = disk.killed()
    third = [path for path in disk.paths if path.parent == SEGMENTS][1]
    header = disk.content(third)
    from obzen_runtime.journal.format import read_segment_header  # noqa: PLC0415

    newer = read_segment_header(header)._replace(epoch=99).encode()
    reversed_epochs.put(third, newer + header[SEGMENT_BYTES:])
    refused(reversed_epochs, "epoch 99")


async def test_row_10_a_watermark_of_another_journal_is_refused():
    disk, journal = appended()
    await journal.close()
    other = SimulatedDisk()
    entropy = seams(other)
    entropy.entropy.next = 7
    await SegmentJournal.open(RUN, seams=entropy).close()
    refused(changed(disk, WATERMARK, other.content(WATERMARK)), "WATERMARK", "another journal")


async def test_row_11_a_closed_journal_may_show_nothing_but_valid_frames_even_after_a_restart():
    disk, journal = appended()
    await journal.close()
    content = disk.content(FIRST)
    for damaged in (content[:-1], content[:-104], content + b"\0" * 8, flipped(content, (len(content) - 5) * 8)):
        refused(changed(disk, FIRST, damaged), "closed cleanly")
        refused(restarted(disk, content=damaged), "closed cleanly")
    refused(changed(disk, FIRST, content[: bounds(content)[1]]))


async def test_row_12_a_refusal_changes_no_segment():
    disk, _ = appended()
    content = flipped(disk.content(FIRST), 100 * 8)
    state = changed(disk, FIRST, content)
    for _ in range(3):
        refused(state)
    assert state.content(FIRST) == content
    assert [path for path in state.paths if path.parent == SEGMENTS] == [FIRST]
    assert not state.locked(RUN / "LOCK")


async def test_a_journal_that_died_before_its_first_append_opens():
    counted = SimulatedDisk()
    await opened(counted).close()
    for number in range(1, len(counted.faults.calls) + 1):
        disk = SimulatedDisk()
        disk.faults.die_at = number
        with suppress(Crashed, JournalFailed):  # within the last sync it reaches the caller as the journal's failure
            await opened(disk).close()
        assert disk.faults.dead
        for state in (disk.killed(), disk.power_cut(), disk.power_cut(disk.unsynced())):
            found, records = recover(state)
            assert (found.head, records) == (0, [])


async def test_a_watermark_without_an_epoch_is_refused():
    disk = SimulatedDisk()
    await opened(disk).close()
    refused(changed(disk, EPOCH, None), "EPOCH", "missing")


async def test_everything_accepted_is_durable_afterwards():
    disk, _ = await torn(60)
    recover(disk)
    assert [piece for piece in disk.unsynced() if piece.path.parent == SEGMENTS] == []
    found, records = recover(disk.power_cut())
    assert (found.tail_lost, found.lost, records) == (None, None, entries(MADE))


async def test_a_recovery_that_dies_anywhere_is_done_again():
    """Kill or power cut at every operation of the recovery of a power cut over three segments."""
    disk, _ = appended([*MADE, [block(6, 700)], [mark(7)]], segment_bytes=1024)
    cut = disk.power_cut([piece for piece in disk.unsynced() if piece != Unsynced("sector", FIRST, 1)])
    counted = cut.killed()
    expected = recover(counted)[1]
    cases = 0
    for number in range(1, len(counted.faults.calls) + 1):
        state = cut.killed()
        state.faults.die_at = number
        with pytest.raises(Crashed):
            recover(state, read=False)
            opened(state)  # the last operations belong to reading: any further one dies
        for after in (state.killed(), state.power_cut(), state.power_cut(state.unsynced())):
            assert recover(after)[1] == expected
            cases += 1
    tell(f"{cases} crashes within recovery, 0 wrong verdicts")
    assert cases > 60


async def test_a_recovery_whose_disk_fails_says_so_and_lets_go():
    disk, _ = await torn(60)
    counted = disk.killed()
    recover(counted)
    kinds = {operation for operation, _ in counted.faults.calls}
    for kind in kinds - {"read"}:
        for number in range(1, counted.faults.count(kind) + 1):
            state = disk.killed()
            state.faults.plan(kind, number)
            with pytest.raises(JournalFailed) as caught:
                recover(state)
            assert caught.value.exit_code == 74
            assert recover(state.killed())[1] == entries(MADE)


async def test_a_large_journal_is_recovered_by_its_last_segment_only():
    disk = SimulatedDisk()
    journal = opened(disk, segment_bytes=20_000)
    for number in range(100):
        journal.append([Block(stage="s", base=number, count=1, at=1, payloads=bytes(2000))])
    await journal.close()
    state = disk.killed()
    taken = recover(state, read=False)[0]
    assert taken.head == 100
    segments = [path for path in state.paths if path.suffix == ".seg"]
    reads = [path for operation, path in state.faults.calls if operation == "read"]
    assert len(segments) > 10
    assert max(reads.count(path) for path in segments[1:-1]) <= 3
    assert reads.count(segments[0]) <= 4  # the first record, which tells the format
