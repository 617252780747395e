"""What a newer version wrote is told to be that: one line, exit code 78, and never called damaged."""

import pytest

from obzen_runtime.events import RunStarted
from obzen_runtime.journal import SegmentJournal, SegmentReader, check, repair
from obzen_runtime.journal import format as layout
from obzen_runtime.kernel import NewerFormat, error_from
from obzen_runtime.kernel.errors import classify
from obzen_runtime.testing import SimulatedDisk
from tests.journal.kit import FIRST, RUN, collect, mark, opened, seams
from tests.journal.test_damage import changed


async def of_version(what, *, closed):
    """A journal that a newer version wrote: its segments, a frame of them, or its records."""
    disk = SimulatedDisk()
    journal = opened(disk)
    journal.append([RunStarted(run_id="r", flow="f", at=1, format=2 if what == "records" else 1)])
    journal.append([mark(1)])
    if closed:
        await journal.close()
    content = disk.content(FIRST)
    if what == "segment":
        packed = layout._SEGMENT.pack(b"OBZNJRN1", 2, 0, *layout.read_segment_header(content))
        content = packed + layout._U32.pack(layout.crc32(packed)) + content[layout.SEGMENT_BYTES :]
    elif what == "frame":
        header = layout.read_segment_header(content)
        frame = layout.read_frame_header(content[64:], header.salt)
        content = content[:64] + layout.frame_header(frame._replace(flags=2), header.salt) + content[64 + layout.FRAME_BYTES :]
    return changed(disk, FIRST, content)


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("what", ["segment", "frame", "records"])
async def test_whoever_opens_or_reads_it_is_told_so_and_nothing_is_changed(what, closed):
    disk = await of_version(what, closed=closed)
    before = disk.content(FIRST)

    async def read():
        await collect(SegmentReader.open(RUN, files=disk).read())

    def write():
        SegmentJournal.open(RUN, seams=seams(disk))

    def mend():
        repair(RUN, accept_loss=True, seams=seams(disk))

    acts = [write, lambda: check(RUN, files=disk), *([] if what == "records" else [mend])]
    told = []
    for act in acts:
        with pytest.raises(NewerFormat) as caught:
            act()
        told.append(caught.value)
    with pytest.raises(NewerFormat) as caught:
        await read()
    for error in (*told, caught.value):
        assert (error.code, error.exit_code) == ("newer_format", 78)
        assert "newer" in str(error)
        assert "damaged" not in str(error)
        assert "\n" not in str(error)
        assert type(error_from(classify(error))) is NewerFormat
    assert disk.content(FIRST) == before
