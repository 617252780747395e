"""Pieces whose checksums are right but that stand in the wrong place, as only a forger or a mixed-up restore makes them."""

import random
from zlib import crc32

import msgspec
import pytest

from obzen_runtime.events import Loss
from obzen_runtime.journal import SegmentReader
from obzen_runtime.journal.format import (
    ENTRY,
    FRAME_BYTES,
    SEAL_FLAG,
    SEGMENT_BYTES,
    frame_header,
    read_frame_header,
    read_segment_header,
    seal_body,
    segment_start,
)
from obzen_runtime.journal.format import Seal as SealFacts
from obzen_runtime.journal.scan import Index, Window
from obzen_runtime.kernel import JournalDamaged, NewerFormat, StorageFailed
from obzen_runtime.testing import SimulatedDisk
from obzen_runtime.testing.samples import sample_records
from tests.journal.kit import FIRST, RUN, block, collect, entries, mark, opened, recover
from tests.journal.test_damage import bounds, changed, written

MADE = [[mark(0)], [block(1, 100)], [mark(2), mark(3)]]


def forged(content, number, *, body=None, **changes):
    """The segment with frame `number` changed and its checksums made right again."""
    salt = read_segment_header(content).salt
    starts = bounds(content)
    start, stop = starts[number], starts[number + 1]
    header = read_frame_header(content[start:], salt)
    body = content[start + FRAME_BYTES : stop] if body is None else body
    header = header._replace(body=len(body), body_crc=crc32(body, salt), **changes)
    return content[:start] + frame_header(header, salt) + body + content[stop:]


def says(disk, content):
    with pytest.raises(JournalDamaged) as caught:
        recover(changed(disk, FIRST, content))
    return str(caught.value)


async def test_a_frame_that_breaks_a_rule_is_refused_with_the_rule():
    disk = await written(MADE, closed=False)
    content = disk.content(FIRST)
    assert "expected 2" in says(disk, forged(content, 1, base=3))
    assert "does not follow" in says(disk, forged(content, 1, link=77))
    assert "epoch 0 follows" in says(disk, forged(content, 1, epoch=0))
    assert "holds 0 records" in says(disk, forged(content, 1, records=0))
    assert "holds 2 records" in says(disk, forged(content, 2, flags=SEAL_FLAG))


async def test_a_changed_body_with_right_checksums_breaks_the_chain_behind_it():
    disk = await written(MADE, closed=False)
    content = disk.content(FIRST)
    start, stop = bounds(content)[1:3]
    body = bytearray(content[start + FRAME_BYTES : stop])
    body[40] ^= 1
    assert "does not follow" in says(disk, forged(content, 1, body=bytes(body)))


async def test_a_seal_that_tells_another_story_is_refused():
    disk = await written(MADE, closed=True)
    content = disk.content(FIRST)
    digest = content[-32:]
    size = len(content) - 104
    for seal in (SealFacts(3, size, digest), SealFacts(4, size + 8, digest), SealFacts(4, size, b"\0" * 32)):
        assert "the seal does not match" in says(disk, forged(content, 3, body=seal_body(seal)))
    assert "the seal does not match" in says(disk, forged(content, 3, body=ENTRY.pack(48, 1, 0, 0) + bytes(48)))
    assert recover(changed(disk, FIRST, forged(content, 3, body=seal_body(SealFacts(4, size, digest)))))[0].head == 4


async def test_a_segment_of_another_journal_with_the_same_positions_is_refused():
    disk = await written(MADE, closed=False)
    content = disk.content(FIRST)
    header = read_segment_header(content)
    assert "another journal" in says(disk, header._replace(journal=b"x" * 16).encode() + content[SEGMENT_BYTES:])
    assert "were written" in says(disk, header._replace(boot=b"x" * 16).encode() + content[SEGMENT_BYTES:])


def body_of(content, number):
    start, stop = bounds(content)[number : number + 2]
    return bytearray(content[start + FRAME_BYTES : stop])


@pytest.mark.parametrize("length", [0, 39, 1 << 30])
async def test_a_record_of_another_length_than_it_says_is_damage(length):
    disk = await written(MADE, closed=False)
    content = disk.content(FIRST)
    body = body_of(content, 2)
    body[:4] = length.to_bytes(4, "little")
    assert "cannot be decoded" in says(disk, forged(content, 2, body=bytes(body)))


async def test_a_frame_of_fewer_records_than_it_says_is_damage_also_for_who_decodes_none_of_them():
    disk = await written(MADE, closed=False)
    content = disk.content(FIRST)
    fewer = forged(content, 2, records=3)
    long = body_of(content, 2)
    long[:4] = (1 << 20).to_bytes(4, "little")
    for forgery in (fewer, forged(content, 2, body=bytes(long))):
        state = changed(disk, FIRST, forgery)
        with pytest.raises(JournalDamaged, match="fewer records than it says"):
            await collect(SegmentReader.open(RUN, files=state).read(kinds=frozenset({Loss})))
    assert "fewer records than it says" in says(disk, fewer)


@pytest.mark.parametrize("field", [5, 6, 7])
async def test_a_record_with_flags_or_a_partition_is_of_a_newer_version(field):
    disk = await written(MADE, closed=False)
    content = disk.content(FIRST)
    body = body_of(content, 2)
    body[field] = 1
    with pytest.raises(NewerFormat, match="newer version wrote it"):
        recover(changed(disk, FIRST, forged(content, 2, body=bytes(body))))


@pytest.mark.parametrize(
    "payload",
    [
        msgspec.msgpack.encode({"kind": "actor.state", "actor": "a"}).replace(b"\xa1a", b"\xa1\xff"),
        b"\x81\xa4kind" + b"\x91" * 5000,
        b"\xc1",
        b"",
    ],
)
async def test_a_record_that_is_no_text_or_too_deep_is_damage_and_no_bug(payload):
    disk = await written([[mark(0)], [mark(1)]], closed=False)
    content = disk.content(FIRST)
    body = ENTRY.pack(len(payload), 9, 0, 0) + payload
    body += bytes(-len(body) % 8)
    assert "position 2 cannot be decoded" in says(disk, forged(content, 1, body=body))


async def test_forged_bodies_are_read_or_refused_and_nothing_else():
    made = [[record] for record in sample_records()]
    disk = await written(made, closed=False)
    content, chance, refused = disk.content(FIRST), random.Random(5), 0
    for _ in range(1500):
        number = chance.randrange(len(made))
        body = body_of(content, number)
        for _ in range(chance.choice([1, 1, 2, 8])):
            body[chance.randrange(len(body))] = chance.randrange(256)
        last = changed(disk, FIRST, forged(content, number, body=bytes(body))[: bounds(content)[number + 1]])
        last.boot += 1  # what is missing behind it was lost with the power
        try:
            assert recover(last)[1][:number] == entries(made)[:number]
        except StorageFailed:
            refused += 1
    assert refused > 500


@pytest.mark.parametrize("name", ["1.seg", "٠" * 19 + "١.seg", "0" * 19 + "1.seg\n", "0" * 19 + "1.seg.torn-5", "." + "0" * 19 + "1.seg"])
def test_only_twenty_digits_name_a_segment(name):
    assert segment_start(name) is None
    assert segment_start("0" * 19 + "1.seg") == 1


def test_a_window_finds_marks_also_where_two_chunks_meet(monkeypatch, tmp_path):
    monkeypatch.setattr("obzen_runtime.journal.scan._CHUNK", 8)
    disk = SimulatedDisk()
    disk.make_directory(tmp_path)
    disk.put(tmp_path / "x", b"abcd" * 3 + b"xabcdab")
    window = Window(disk, tmp_path / "x")
    assert list(window.find(b"abcd", 0)) == [0, 4, 8, 13]
    assert list(window.find(b"abcd", 5)) == [8, 13]
    assert list(window.find(b"abcd", 100)) == []
    assert bytes(window.at(2, 3)) == b"cda"
    assert bytes(window.at(0, 100)) == disk.content(tmp_path / "x")
    assert bytes(window.at(18, 5)) == b"b"


def test_an_index_gives_the_last_frame_not_behind_a_position():
    index = Index()
    assert index.find(5) is None
    index.add(1, 64)
    index.add(100, 70_000)
    assert index.next == 70_000 + 65_536
    assert [index.find(position) for position in (0, 1, 99, 100, 500)] == [None, (1, 64), (1, 64), (100, 70_000), (100, 70_000)]


async def test_zeros_are_told_from_other_bytes_over_many_chunks(monkeypatch):
    monkeypatch.setattr("obzen_runtime.journal.scan._CHUNK", 64)
    disk = await written(MADE, closed=False)
    content = disk.content(FIRST)
    assert recover(changed(disk, FIRST, content + bytes(1000)))[0].torn == 1000
    assert "no frame begins" in says(disk, content + bytes(1000) + b"x")
    journal = opened(disk)
    assert journal.head == 4
