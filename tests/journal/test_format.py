"""The bytes of a segment are what the tables say, for ever."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obzen_runtime.events import RunCompleted
from obzen_runtime.journal import format as layout
from obzen_runtime.journal.format import Epoch, FrameHeader, Seal, SegmentHeader
from obzen_runtime.journal.watermark import FENCE_AT, WATERMARK_BYTES, Marker, Watermark, new_watermark, read_watermark
from obzen_runtime.testing import SimulatedDisk
from tests.journal.kit import EPOCH, FIRST, WATERMARK, flipped, opened

HEADER = SegmentHeader(0x01020304, bytes(range(16)), bytes(range(16, 32)), 7, 3)
FRAME = FrameHeader(0, 16, 2, 0, 7, 3, 0xAABBCCDD, 5, 0x11223344)


def test_the_sizes_are_those_of_the_tables():
    sizes = (layout.SEGMENT_BYTES, layout.FRAME_BYTES, layout.ENTRY.size, layout.SEAL_FRAME_BYTES, WATERMARK_BYTES, FENCE_AT)
    assert sizes == (64, 48, 8, 104, 136, 128)


def test_a_segment_header_has_these_bytes():
    assert HEADER.encode().hex() == (
        "4f425a4e4a524e31"  # magic
        "01000000"  # version, flags
        "04030201"  # salt
        "000102030405060708090a0b0c0d0e0f"  # journal
        "101112131415161718191a1b1c1d1e1f"  # boot
        "0700000000000000"  # first position
        "03000000"  # epoch
        "9e176e3f"
    )


def test_a_frame_header_has_these_bytes():
    assert layout.frame_header(FRAME, HEADER.salt).hex() == (
        "5a46524d"  # magic
        "c7156faf"  # crc
        "10000000"  # body length
        "0200"  # records
        "0000"  # flags
        "0700000000000000"  # first position
        "03000000"  # epoch
        "ddccbbaa"  # link
        "0500000000000000"  # durable
        "44332211"  # body crc
        "00000000"  # reserved
    )


def test_a_seal_has_these_bytes():
    assert layout.seal_body(Seal(9, 400, bytes(range(32)))).hex() == (
        "30000000" "ff" "00" "0000"  # length, kind, flags, partition
        "0900000000000000"  # last position
        "9001000000000000"  # bytes before the seal
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
    )  # fmt: skip


async def test_a_whole_journal_has_these_bytes():
    disk = SimulatedDisk()
    journal = opened(disk)
    journal.append([RunCompleted(at=1)])
    journal.append([RunCompleted(at=2), RunCompleted(at=3)])
    await journal.close()
    assert disk.content(EPOCH) == b"1 157c4a7fb979379e0000000000000000 5df330ce\n"
    assert disk.content(FIRST).hex() == (
        "4f425a4e4a524e31010000002af894fe157c4a7fb979379e000000000000000001000000000000000000000000000000"
        "0100000000000000010000003cb07d845a46524db68c460820000000010000000100000000000000010000003cb07d84"
        "00000000000000004ee32d5e00000000180000000600000082a46b696e64ad72756e2e636f6d706c65746564a2617401"
        "5a46524dc382cbf84000000002000000020000000000000001000000b68c46080000000000000000b88923c000000000"
        "180000000600000082a46b696e64ad72756e2e636f6d706c65746564a2617402180000000600000082a46b696e64ad72"
        "756e2e636f6d706c65746564a26174035a46524d9d027d213800000000000100040000000000000001000000c382cbf8"
        "0000000000000000589154030000000030000000ff00000003000000000000000001000000000000bc326977e2326357"
        "52741da0f2076b4149667e5836d2f74982bb19f1f94e1d7b"
    )
    assert disk.content(WATERMARK).hex() == (
        "97c2588f574d010008000000000000000300000000000000030000000000000001000000000000000000000000000000"
        "157c4a7fb979379e00000000000000005ec94d6c574d0100070000000000000003000000000000000300000000000000"
        "01000000000000000000000000000000157c4a7fb979379e00000000000000000100000000000000"
    )


def test_headers_come_back():
    assert layout.read_segment_header(HEADER.encode()) == HEADER
    encoded = layout.frame_header(FRAME, 9)
    assert layout.read_frame_header(encoded, 9) == FRAME._replace(crc=int.from_bytes(encoded[4:8], "little"))
    assert layout.read_seal(layout.seal_body(Seal(1, 2, b"x" * 32))) == Seal(1, 2, b"x" * 32)
    assert layout.read_epoch(Epoch(12, b"j" * 16).encode()) == Epoch(12, b"j" * 16)


@given(st.integers(0, 64 * 8 - 1))
def test_a_flipped_bit_in_a_segment_header_is_seen(bit):
    assert isinstance(layout.read_segment_header(flipped(HEADER.encode(), bit)), str)


@given(st.integers(0, 48 * 8 - 1))
def test_a_flipped_bit_in_a_frame_header_is_seen(bit):
    assert isinstance(layout.read_frame_header(flipped(layout.frame_header(FRAME, 9), bit), 9), str)


def test_another_salt_makes_no_frame():
    assert layout.read_frame_header(layout.frame_header(FRAME, 9), 10) == "the frame header does not match its checksum"


def test_short_and_foreign_bytes_are_no_headers():
    assert "cut short" in layout.read_segment_header(b"OBZ")
    assert "magic" in layout.read_segment_header(b"x" * 64)
    assert "cut short" in layout.read_frame_header(b"x" * 47, 0)
    assert "no frame" in layout.read_frame_header(b"x" * 48, 0)


@pytest.mark.parametrize(
    ("change", "why"), [({"flags": 2}, "newer version"), ({"body": 12}, "impossible"), ({"body": layout.MOST_BODY + 8}, "impossible")]
)
def test_a_frame_of_another_version_or_an_impossible_length_is_refused(change, why):
    assert why in layout.read_frame_header(layout.frame_header(FRAME._replace(**change), 1), 1)


def test_a_segment_of_a_newer_format_is_refused_by_name():
    packed = layout._SEGMENT.pack(b"OBZNJRN1", 2, 0, *HEADER)
    assert "a newer version wrote it" in layout.read_segment_header(packed + layout._U32.pack(layout.crc32(packed)))


@pytest.mark.parametrize(
    "body", [b"", b"x" * 56, layout.ENTRY.pack(48, 1, 0, 0) + bytes(48), layout.seal_body(Seal(1, 2, b"x" * 32)) + b"x"]
)
def test_other_bodies_are_no_seals(body):
    assert layout.read_seal(body) is None


def test_a_segment_is_named_by_its_first_position():
    assert layout.segment_name(1) == "00000000000000000001.seg"
    assert layout.segment_start(layout.segment_name(12_345)) == 12_345
    for name in ("1.seg", "00000000000000000001.seg.torn-5", ".00000000000000000001.seg", "0000000000000000000x.seg", ""):
        assert layout.segment_start(name) is None


@pytest.mark.parametrize("data", [b"", b"1 2 3\n", b"1 " + b"0" * 32 + b" 00000000\n", Epoch(1, bytes(16)).encode() + b"\n"])
def test_other_bytes_are_no_epoch(data):
    assert layout.read_epoch(data) is None


def test_every_flipped_bit_of_an_epoch_is_seen():
    encoded = Epoch(7, bytes(range(16))).encode()
    assert all(layout.read_epoch(flipped(encoded, bit)) is None for bit in range(len(encoded) * 8))


def marked():
    content = bytearray(new_watermark())
    marker = Marker(memoryview(content), boot=b"b" * 16, journal=b"j" * 16, counter=0)
    marker.restart(0, closed=False)
    return content, marker


def test_the_newer_slot_of_a_watermark_counts():
    content, marker = marked()
    for number in range(1, 5):
        marker.reached(number, number - 1)
        assert read_watermark(content) == Watermark(0, number + 2, number, number - 1, b"b" * 16, b"j" * 16)


def test_a_watermark_with_one_damaged_slot_tells_the_state_before():
    content, marker = marked()
    marker.reached(1, 0)
    marker.reached(2, 1)
    newest = read_watermark(content)
    for bit in range(128 * 8):
        found = read_watermark(flipped(content, bit))
        assert found in (newest, newest._replace(counter=newest.counter - 1, written=1, durable=0))


def test_a_closed_watermark_says_so_in_both_slots():
    content, marker = marked()
    marker.reached(1, 0)
    marker.restart(1, closed=True)
    for bit in range(128 * 8):
        found = read_watermark(flipped(content, bit))
        assert (found.closed, found.written, found.durable) == (1, 1, 1)


def test_a_watermark_without_a_valid_slot_or_of_another_size_is_none():
    assert read_watermark(new_watermark()) is None
    content, _ = marked()
    assert read_watermark(content[:-1]) is None
    assert read_watermark(content + b"x") is None
