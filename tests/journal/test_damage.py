"""Damage is never taken for a crash, and never read.

The journals here were acknowledged whole: cleanly closed, or left open by a process that died in the same run of the
machine. A verdict is wrong when the next opener returns anything but exactly what was acknowledged, or refuses without
naming the file. It may refuse, or find the damage in bytes that carry no facts (one of the watermark's two slots, the
fence, the lock) and return everything.
"""

from collections import Counter
from itertools import pairwise

import msgspec
import pytest

from obzen_runtime.journal import (
    ArtifactStore,
    Manifest,
    Retention,
    RunDirectory,
    SegmentJournal,
    SegmentOptions,
    SegmentReader,
    check,
)
from obzen_runtime.journal.format import FRAME_BYTES, FRAME_HEAD, FRAME_REST, SEGMENT_BYTES
from obzen_runtime.kernel import FlowInvalid, JournalDamaged, artifact_id
from obzen_runtime.testing import SimulatedDisk
from obzen_runtime.testing.samples import sample_records
from tests.crash.scale import NIGHT
from tests.journal.kit import (
    EPOCH,
    FIRST,
    LOCK,
    RUN,
    SEGMENTS,
    WATERMARK,
    block,
    collect,
    entries,
    flipped,
    frames,
    looks_damaged,
    opened,
    seams,
    settle,
    tell,
    verdict,
)

FACTLESS = {LOCK, WATERMARK}


async def written(made, *, closed, **options):
    disk = SimulatedDisk()
    journal = opened(disk, **options)
    for records in made:
        journal.append(records)
    if not closed:
        return disk.killed()
    await journal.close()
    return disk


def changed(disk, path, content):
    other = disk.killed()
    other.put(path, content)
    return other


def bounds(content):
    """Offsets at which frames begin, and the end."""
    offsets = [SEGMENT_BYTES]
    while offsets[-1] < len(content):
        body = FRAME_REST.unpack_from(content, offsets[-1] + FRAME_HEAD.size)[0]
        offsets.append(offsets[-1] + FRAME_BYTES + body)
    return offsets


def judge(disk, cases, whole):
    """Count right verdicts by kind; collect the wrong ones. Opening refuses what looks damaged; all else is opened and read."""
    counts, wrong = {"refused": 0, "whole": 0}, []
    state, originals = disk.killed(), {path: disk.content(path) for path in disk.paths}
    for what, path, content in cases:
        state.put(path, content)
        found = "refused" if looks_damaged(state) else verdict(state.killed())
        state.put(path, originals[path])
        if found == "refused":
            counts["refused"] += 1
        elif found == whole and path in FACTLESS:
            counts["whole"] += 1
        else:
            wrong.append((what, path.name, found))
    return counts, wrong


@pytest.mark.parametrize("closed", [True, False])
async def test_T_TORN_1_a_journal_cut_at_any_byte_is_refused(closed):
    made = frames(13)
    disk = await written(made, closed=closed)
    content = disk.content(FIRST)
    counts, wrong = judge(disk, ((size, FIRST, content[:size]) for size in range(len(content))), entries(made))
    tell(f"truncated at every byte, closed={closed}: {counts}, {len(wrong)} wrong verdicts")
    assert wrong == []
    assert counts == {"refused": len(content), "whole": 0}
    assert len(content) > 3_500  # twice: over 7,000


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("bit", range(8))
async def test_T_FLIP_1_a_flipped_bit_anywhere_in_the_log_is_refused(closed, bit):
    made = frames(13)
    disk = await written(made, closed=closed)
    content = disk.content(FIRST)
    counts, wrong = judge(disk, ((at, FIRST, flipped(content, at)) for at in range(bit, len(content) * 8, 8)), entries(made))
    tell(f"bit {bit} of every byte flipped, closed={closed}: {counts}, {len(wrong)} wrong verdicts")
    assert wrong == []
    assert counts == {"refused": len(content), "whole": 0}
    assert len(content) > 3_690  # times 8 bits, times 2 journals: over 59,000


@pytest.mark.parametrize("closed", [True, False])
async def test_a_flipped_bit_or_a_cut_in_the_small_files_loses_nothing(closed):
    made = frames(4)
    disk = await written(made, closed=closed)
    for path in (EPOCH, WATERMARK, LOCK):
        content = disk.content(path)
        cases = [(bit, path, flipped(content, bit)) for bit in range(len(content) * 8)]
        cases += [(-size, path, content[:size]) for size in range(len(content))]
        counts, wrong = judge(disk, cases, entries(made))
        tell(f"{path.name}, closed={closed}: {counts}, {len(wrong)} wrong verdicts")
        assert wrong == []
        assert counts["refused"] == {EPOCH: len(cases), WATERMARK: len(content), LOCK: 0}[path]


@pytest.mark.parametrize("closed", [True, False])
async def test_T_FLIP_2_a_smear_of_four_bytes_anywhere_is_refused(closed):
    made = frames(5)
    disk = await written(made, closed=closed)
    content = disk.content(FIRST)
    cases = []
    for offset in range(len(content)):
        smeared = content[:offset] + bytes(byte ^ 0x5A for byte in content[offset : offset + 4]) + content[offset + 4 :]
        cases.append((offset, FIRST, smeared))
    counts, wrong = judge(disk, cases, entries(made))
    assert (counts["refused"], wrong) == (len(content), [])


@pytest.mark.parametrize("closed", [True, False])
async def test_T_FLIP_2_frames_deleted_swapped_and_duplicated_are_refused(closed):
    made = frames(9)
    disk = await written(made, closed=closed)
    content = disk.content(FIRST)
    pieces = [content[start:stop] for start, stop in pairwise(bounds(content))]
    orders = [[other for other in range(len(pieces)) if other != gone] for gone in range(len(pieces))]
    orders += [[*range(at), at, *range(at, len(pieces))] for at in range(len(pieces))]
    for one in range(len(pieces)):
        for two in range(one):
            order = list(range(len(pieces)))
            order[one], order[two] = two, one
            orders.append(order)
    head = content[:SEGMENT_BYTES]
    cases = [(order, FIRST, head + b"".join(pieces[number] for number in order)) for order in orders]
    counts, wrong = judge(disk, cases, entries(made))
    tell(f"frames deleted, duplicated, swapped, closed={closed}: {counts}, {len(wrong)} wrong verdicts")
    assert wrong == []
    assert counts["refused"] == len(orders) > 50


@pytest.mark.parametrize("closed", [True, False])
async def test_bytes_behind_the_end_are_refused(closed):
    made = frames(3)
    disk = await written(made, closed=closed)
    content = disk.content(FIRST)
    last = content[bounds(content)[-2] :]
    for extra in (b"x" * 48, b"x" * 4096, last, content):
        assert verdict(changed(disk, FIRST, content + extra)) == "refused"
    for few in (b"x", b"\0", b"\0" * 4096):  # the beginning of a frame that nobody was told of, when the journal was open
        assert verdict(changed(disk, FIRST, content + few)) == ("refused" if closed else entries(made))


@pytest.mark.parametrize("closed", [True, False])
async def test_segments_deleted_swapped_or_from_elsewhere_are_refused(closed):
    made = [[block(number, 300)] for number in range(8)]
    disk = await written(made, closed=closed, segment_bytes=1024)
    foreign = await written([[block(number, 200)] for number in range(8)], closed=closed, segment_bytes=1024)
    paths = [path for path in disk.paths if path.parent == SEGMENTS]
    assert len(paths) >= 4
    assert verdict(disk.killed()) == entries(made)
    for path in paths:
        assert verdict(changed(disk, path, None)) == "refused"
        for other in paths:
            if other != path:
                assert verdict(changed(disk, path, disk.content(other))) == "refused"
        if path in foreign.paths:
            assert verdict(changed(disk, path, foreign.content(path))) == "refused"
    for path in (EPOCH, WATERMARK):
        assert verdict(changed(disk, path, None)) == "refused"


@pytest.mark.parametrize("closed", [True, False])
async def test_flips_and_cuts_in_every_segment_of_several_are_refused(closed):
    made = [[block(number, 150)] for number in range(6)]
    disk = await written(made, closed=closed, segment_bytes=512)
    for path in [path for path in disk.paths if path.parent == SEGMENTS]:
        content = disk.content(path)
        cases = [(bit, path, flipped(content, bit)) for bit in range(0, len(content) * 8, 13)]
        cases += [(-size, path, content[:size]) for size in range(0, len(content), 3)]
        counts, wrong = judge(disk, cases, entries(made))
        assert (wrong, counts["whole"]) == ([], 0)


async def run_of_every_kind(*, closed, dropped):
    """A whole run directory: segments with every kind of record and column, floor, manifest, an artifact."""
    disk = SimulatedDisk()
    run = RunDirectory.create(RUN.parent, RUN.name, disk)
    run.write_manifest(Manifest(run_id=run.run_id, flow="f", parameters={"s": {"limit": 1000}}, code={"s": "00ff"}))
    run.artifacts.put(b"a state")
    journal = opened(disk, segment_bytes=700, retention=Retention(size=512) if dropped else Retention())
    for record in sample_records():
        journal.append([record])
    if dropped:
        journal.forget(12)
        await settle()
    if not closed:
        return disk.killed()
    await journal.close()
    return disk


async def told(disk):
    """What each of those who read a run is told: itself, or that it is refused."""

    async def reader():
        return await collect(SegmentReader.open(RUN, files=disk).read())

    async def opener():
        return "refused" if looks_damaged(disk) else verdict(disk.killed())

    async def checker():
        return msgspec.structs.replace(check(RUN, files=disk), durable=0)  # the slot before knows less

    async def manifest():
        return RunDirectory(RUN, disk).read_manifest()

    async def artifact():
        return ArtifactStore(RUN / "artifacts", disk).get(artifact_id(b"a state"))

    async def asked(who):
        try:
            return await who()
        except (JournalDamaged, FlowInvalid):
            return "refused"

    return {who.__name__: await asked(who) for who in (reader, opener, checker, manifest, artifact)}


@pytest.mark.timeout(1800 if NIGHT else 60)
@pytest.mark.parametrize(("closed", "dropped"), [(True, False), (False, True), *([(True, True), (False, False)] if NIGHT else [])])
async def test_T_FLIP_a_flip_in_any_file_of_a_run_is_refused_or_changes_nothing_for_whoever_reads(closed, dropped):
    """A sample of bits, every one of them in a whole night."""
    disk = await run_of_every_kind(closed=closed, dropped=dropped)
    whole = await told(disk)
    assert "refused" not in whole.values()
    state, wrong, counts = disk.killed(), [], Counter()
    for path in disk.paths:
        content, in_log = disk.content(path), path.parent == SEGMENTS
        for bit in range(8 * len(content)) if NIGHT >= 1 else range(0, 8 * len(content), 97 if in_log else 9):
            state.put(path, flipped(content, bit))
            for who, found in (await told(state)).items():
                counts[who, "refused" if found == "refused" else "whole"] += 1
                missed = in_log and who in ("opener", "checker")
                if found != "refused" and (missed or found != whole[who]):
                    wrong.append((path.name, bit, who))
        state.put(path, content)
    tell(f"flips in {len(disk.paths)} files of a run, closed={closed}, dropped={dropped}: {dict(counts)}, {len(wrong)} wrong verdicts")
    assert wrong == []
    assert all(counts[who, "refused"] for who in whole)


async def test_an_older_copy_of_the_log_is_refused():
    disk = SimulatedDisk()
    journal = opened(disk)
    journal.append([block(0, 50)])
    old = disk.content(FIRST)
    old_mark = disk.content(WATERMARK)
    journal.append([block(1, 50)])
    live = disk.killed()
    await journal.close()
    for state in (live, disk):
        assert verdict(changed(state, FIRST, old)) == "refused"
    assert verdict(changed(disk, WATERMARK, old_mark)) == entries([[block(0, 50)], [block(1, 50)]])


async def test_T_FLIP_3_a_flip_in_a_frame_with_a_run_of_zeros_is_refused():
    """Zeros in a payload are no sign of a sector that was never written."""
    for size in (1100,):
        disk = SimulatedDisk()
        journal = opened(disk)
        journal.append([block(0, 20)])
        journal.append([block(1, 1).__class__(stage="s", base=1, count=1, at=1, payloads=bytes(size))])
        for state in (disk.killed(), disk):
            if state is disk:
                await journal.close()
            content = state.content(FIRST)
            start, stop = bounds(content)[1:3]
            counts, wrong = judge(state, ((bit, FIRST, flipped(content, bit)) for bit in range(start * 8, stop * 8, 4)), None)
            tell(f"{counts['refused']} flips beside a run of zeros, {len(wrong)} wrong verdicts")
            assert (wrong, counts["refused"]) == ([], (stop - start) * 2)


@pytest.mark.parametrize("closed", [True, False])
async def test_T_FLIP_2_an_old_copy_of_any_file_put_back_is_refused(closed):
    disk = SimulatedDisk()
    journal = opened(disk, segment_bytes=1024)
    kept = []
    made = [[block(number, 300)] for number in range(8)]
    for records in made:
        journal.append(records)
        kept.append({path: disk.content(path) for path in disk.paths})
    if closed:
        await journal.close()
    state, wrong, cases = disk.killed(), [], 0
    for old in kept:
        for path, content in old.items():
            if content == state.content(path) or path == LOCK:
                continue
            found = verdict(changed(state, path, content))
            if found != "refused" and not (path == WATERMARK and found == entries(made)):
                wrong.append((path.name, found))
            cases += 1
    tell(f"{cases} old files put back, closed={closed}, {len(wrong)} wrong verdicts")
    assert wrong == []
    assert cases >= 10


@pytest.mark.parametrize("closed", [True, False])
async def test_T_FLIP_2_a_file_of_another_journal_of_the_same_records_is_refused(closed):
    made = [[block(number, 300)] for number in range(8)]
    disk = await written(made, closed=closed, segment_bytes=1024)
    other = SimulatedDisk()
    other_seams = seams(other)
    other_seams.entropy.next = 100
    journal = SegmentJournal.open(RUN, options=SegmentOptions(segment_bytes=1024), seams=other_seams)
    for records in made:
        journal.append(records)
    if closed:
        await journal.close()
    assert other.paths == disk.paths
    for path in disk.paths:
        if path != LOCK:
            assert other.content(path) != disk.content(path)
            assert verdict(changed(disk, path, other.content(path))) == "refused", path
