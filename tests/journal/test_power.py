"""A power cut keeps any of the unsynced sectors, sizes and names, and loses the others: always an ordinary day.

Wrong is: to refuse such a state, to return anything but the first so many records, or fewer than were acknowledged as
durable before the cut.
"""

import random
from itertools import combinations

import pytest

from obzen_runtime.journal import Fsync, SegmentJournal, SegmentOptions
from obzen_runtime.testing import Crashed, SimulatedDisk
from obzen_runtime.testing.disk import SECTOR
from tests.journal.kit import LOCK, RUN, WATERMARK, HeldThreads, block, entries, mark, opened, recover, seams, tell, verdict


def pieces(disk):
    return [piece for piece in disk.unsynced() if piece.path != LOCK]


def subsets(items):
    for size in range(len(items) + 1):
        yield from combinations(items, size)


def judge(disk, kept, made, durable):
    """None, or what is wrong with what the next opener makes of this cut."""
    cut = disk.power_cut(kept)
    before = cut.killed()
    found = verdict(cut)
    if found == "refused":
        return ("refused", kept)
    whole = entries(made)
    if found != whole[: len(found)] or len(found) < durable:
        return (f"{len(found)} records", kept)
    known = before.content(WATERMARK) != disk.power_cut().content(WATERMARK)
    recovery, _ = recover(before)
    if known and len(found) < len(whole) and recovery.lost != (len(found) + 1, len(whole) + 1):
        return ("the loss was not reported", kept)
    return None


async def test_T_TORN_3_any_subset_of_unsynced_sectors_over_several_frames_at_level_os():
    disk = SimulatedDisk()
    journal = opened(disk)
    made = [[mark(0)], [block(1, 100)], [block(2, 700), mark(3)], [block(4, 900)], [mark(5)]]
    for records in made[:2]:
        journal.append(records)
    await journal.close()
    journal = opened(disk)
    for records in made[2:]:
        journal.append(records)
    loose = pieces(disk)
    wrong = [fault for kept in subsets(loose) if (fault := judge(disk, kept, made, 2))]
    tell(f"level os: {2 ** len(loose)} cuts, {len(wrong)} wrong verdicts")
    assert wrong == []
    assert 2 ** len(loose) >= 256


async def test_T_TORN_3_any_subset_of_unsynced_sectors_behind_a_sync():
    disk, threads = SimulatedDisk(), HeldThreads(holding=False)
    journal = SegmentJournal.open(RUN, options=SegmentOptions(level=Fsync()), seams=seams(disk, threads=threads))
    made = [[mark(0)], [block(1, 300)], [block(2, 700)], [mark(3), mark(4)], [block(5, 1600)], [mark(6)]]
    for records in made[:2]:
        journal.append(records)
    await journal.durable(2)
    threads.holding = True
    for records in made[2:]:
        journal.append(records)
    loose = pieces(disk)
    wrong = [fault for kept in subsets(loose) if (fault := judge(disk, kept, made, 2))]
    tell(f"level fsync: {2 ** len(loose)} cuts, {len(wrong)} wrong verdicts")
    assert wrong == []
    assert 2 ** len(loose) >= 256


async def test_T_TORN_3_subsets_over_several_unsynced_segments():
    disk = SimulatedDisk()
    journal = opened(disk, segment_bytes=1024)
    made = [[block(number, 350)] for number in range(8)]
    for records in made:
        journal.append(records)
    loose, chance = pieces(disk), random.Random(7)
    assert len({piece.path for piece in loose}) >= 4
    cases = [(), tuple(loose)]
    cases += [tuple(piece for piece in loose if piece != lost) for lost in loose]
    cases += [tuple(piece for piece in loose if chance.random() < share) for share in (0.3, 0.6, 0.9, 0.95) for _ in range(300)]
    wrong = [fault for kept in cases if (fault := judge(disk, kept, made, 0))]
    tell(f"several segments: {len(cases)} cuts, {len(wrong)} wrong verdicts")
    assert wrong == []
    assert len(cases) >= 1200


def spoiled(disk, cut, kept, chance):
    """The cut, but unsynced sectors of the log that were not kept hold bytes of elsewhere, or of nowhere, instead of zeros."""
    for path in [path for path in cut.paths if path.suffix == ".seg"]:
        content, source = bytearray(cut.content(path)), disk.content(path)
        for piece in pieces(disk):
            start = SECTOR * piece.number
            size = min(SECTOR, len(content) - start)
            if piece.kind == "sector" and piece.path == path and piece not in kept and size > 0:
                at = SECTOR * chance.randrange(1 + len(source) // SECTOR)
                content[start : start + size] = chance.choice([source[at : at + SECTOR], chance.randbytes(SECTOR)]).ljust(SECTOR, b"\0")[
                    :size
                ]
        cut.put(path, bytes(content))
    return cut


async def test_T_TORN_3_sectors_that_come_back_as_others_are_cut_away_too():
    made = [[block(number, 350 + 90 * (number % 3))] for number in range(8)]
    disk = SimulatedDisk()
    journal = opened(disk, segment_bytes=1024)
    for records in made:
        journal.append(records)
    loose, chance, wrong = pieces(disk), random.Random(13), []
    for _ in range(400):
        kept = {piece for piece in loose if chance.random() < chance.choice([0.3, 0.8, 0.97])}
        cut = spoiled(disk, disk.power_cut(kept), kept, chance)
        found = verdict(cut)
        if found == "refused" or found != entries(made)[: len(found)]:
            wrong.append((kept, found))
    tell(f"400 cuts with spoiled sectors, {len(wrong)} wrong verdicts")
    assert wrong == []


async def test_a_journal_goes_on_after_any_cut():
    disk = SimulatedDisk()
    journal = opened(disk, segment_bytes=1024)
    made = [[block(number, 350)] for number in range(5)]
    for records in made:
        journal.append(records)
    loose, chance = pieces(disk), random.Random(11)
    for _ in range(60):
        cut = disk.power_cut([piece for piece in loose if chance.random() < 0.85])
        journal = opened(cut, segment_bytes=1024)
        head = journal.head
        journal.append([mark(99)])
        second = cut.power_cut([piece for piece in pieces(cut) if chance.random() < 0.5])
        found = verdict(second)
        assert found[:head] == entries(made)[:head]
        assert len(found) in (head, head + 1)
        await journal.close()
        assert verdict(cut.power_cut()) == entries([*[[entry.record] for entry in entries(made)[:head]], [mark(99)]])


async def test_a_closed_journal_survives_any_cut():
    disk = SimulatedDisk()
    journal = opened(disk, segment_bytes=1024)
    made = [[block(number, 350)] for number in range(5)]
    for records in made:
        journal.append(records)
    await journal.close()
    assert [piece for piece in pieces(disk) if piece.path.suffix == ".seg"] == []
    for kept in subsets(pieces(disk)):
        assert verdict(disk.power_cut(kept)) == entries(made)


async def test_a_seal_that_a_dead_process_wrote_is_synced_by_the_next_one():
    """Its records were durable, so nothing but the seal was lost with it: and with the seal all that stood behind."""
    disk = SimulatedDisk()
    journal = opened(disk, level=Fsync(), segment_bytes=512)
    journal.append([block(0, 300)])
    await journal.durable(1)
    disk.faults.die_at = len(disk.faults.calls) + 4  # the roll reads EPOCH, writes the seal, creates the next segment
    with pytest.raises(Crashed):
        journal.append([block(1, 300)])
    after = disk.killed()
    assert after.unsynced()
    journal = opened(after, level=Fsync(), segment_bytes=512)
    journal.append([block(1, 300)])
    await journal.durable(2)
    assert verdict(after.power_cut()) == entries([[block(0, 300)], [block(1, 300)]])
