"""Looking at a journal without changing it: which end of the log is an ordinary crash, and which is damage.

The rules, by what stands at the first place that is not a valid frame in sequence, with p the position expected there:

    the journal was closed cleanly                                    refuse: everything in it was durable
    p is at or below the highest position proven durable              refuse; proof is WATERMARK, or `durable` of any
                                                                      valid frame, also of one behind the fault
    same run of the machine as the writer, so no page was lost:
        p is at or below the position WATERMARK says was written      refuse
        last segment, and the file ends inside the frame or           torn: the writer died in the middle of a write
        its header, or only zeros follow                              that nobody was told of; cut off, copy kept
        anything else                                                 refuse
    the machine was restarted since                                   cut there, keep a copy of all that follows and
                                                                      report it: unsynced sectors are lost in any order

A log that ends cleanly, but before a position that WATERMARK proves, has lost its tail: refuse.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from obzen_runtime.journal.floor import BEGINNING, Floor
from obzen_runtime.journal.format import (
    FRAME_BYTES,
    FRAME_MARK,
    SEAL_FRAME_BYTES,
    SEGMENT_BYTES,
    Epoch,
    Newer,
    read_frame_header,
    read_seal,
    read_segment_header,
    segment_start,
)
from obzen_runtime.journal.place import Place, unusable
from obzen_runtime.journal.scan import Fault, Frame, Segment, Walk, Window, damaged, first_link
from obzen_runtime.journal.watermark import Watermark
from obzen_runtime.kernel import Files

__all__ = ["Cut", "Survey", "Visit", "check_presence", "survey"]


class Cut(NamedTuple):
    """Where the log ends before its files do."""

    number: int
    """Of the segment, from 0."""
    offset: int
    lost: bool
    """Whether acknowledged records may have been in it: only after a restart of the machine."""
    why: str


Visit = Callable[[Frame, Path], None]


@dataclass(slots=True)
class Survey:
    """What the files say, nothing changed."""

    epoch: Epoch | None
    mark: Watermark | None
    floor: Floor
    paths: list[Path]
    """Of the segments that are kept, in order."""
    segments: list[Segment]
    """Those that hold records, with what is whole in them."""
    cut: Cut | None
    proven: int
    """Everything up to here was proven durable."""
    frames: int = 0

    @property
    def head(self) -> int:
        return self.segments[-1].last if self.segments else self.floor.position - 1


def survey(files: Files, place: Place, *, visit: Visit | None = None, archive: Path | None = None) -> Survey:
    """Look at a journal. With `visit`, every frame of every segment is read and shown, else only those not proven whole.

    With `archive`, the segments that were moved there come first. Raises `JournalDamaged`.
    """
    floor = place.read_floor(files)  # first: a writer beside us may drop more, and then says so before it does
    mark = place.read_watermark(files)
    epoch = place.read_epoch(files)
    names = place.names(files)
    check_presence(place, names, epoch, mark)
    paths = [place.segments / name for name in names if (segment_start(name) or 0) >= floor.position]
    if mark is None or epoch is None:
        return Survey(epoch, mark, floor, paths, [], None, 0)
    if mark.journal != epoch.journal:
        unusable(place.watermark, "it belongs to another journal")
    if floor.record and floor.journal != epoch.journal.hex():
        unusable(place.floor, "it belongs to another journal")
    if archive is not None:
        archived = [name for name in files.names(archive) if 0 < (segment_start(name) or 0) < floor.position]
        floor, paths = BEGINNING, [*(archive / name for name in archived), *paths]
    found = Survey(epoch, mark, floor, paths, [], None, mark.durable)
    _Look(files, place, found, mark, epoch).all(visit)
    return found


class _Look:
    """One survey of a journal that has been opened before."""

    def __init__(self, files: Files, place: Place, found: Survey, mark: Watermark, epoch: Epoch) -> None:
        self._files = files
        self._place = place
        self._found = found
        self._mark = mark
        self._epoch = epoch
        self._boot = files.boot_id()

    def all(self, visit: Visit | None) -> None:
        found, position, link = self._found, self._found.floor.position, self._found.floor.link
        for index, path in enumerate(found.paths):
            last = index == len(found.paths) - 1
            segment = self._header(index, path, position, link)
            if segment is None:
                break
            if visit is not None or last or not self._trusted(segment):
                walk = Walk(self._files, segment)
                for frame in walk.frames():
                    found.frames += 1
                    if visit is not None:
                        visit(frame, segment.path)
                self._take(segment, walk)
                fault = walk.fault or self._after(walk, last=last)
                if fault is not None:
                    self._judge(index, fault, segment, zeros=walk.zeros())
                    break
            position, link = segment.last + 1, segment.end_link or 0
        self._end()

    def _header(self, index: int, path: Path, position: int, link: int) -> Segment | None:
        """The segment with its header checked; None when the log ends before it."""
        data = self._files.read(path, 0, SEGMENT_BYTES)
        header = read_segment_header(data)
        previous = self._found.segments[-1].header.epoch if self._found.segments else 0
        if isinstance(header, str):
            self._judge(index, Fault(0, position, header, short=len(data) < SEGMENT_BYTES), None, zeros=not any(self._files.read(path)))
            return None
        why = None
        if header.base != position or segment_start(path.name) != position:
            why = f"the segment begins with position {header.base}, expected {position}"
        elif header.journal != self._epoch.journal:
            why = "the segment belongs to another journal"
        elif not previous <= header.epoch <= self._epoch.number:
            why = f"the segment is of epoch {header.epoch}, expected {previous} to {self._epoch.number}"
        if why is not None:
            self._judge(index, Fault(0, position, why), None, zeros=False)
            return None
        return Segment(path, header, first_link(data, link), position - 1, SEGMENT_BYTES)

    def _take(self, segment: Segment, walk: Walk) -> None:
        segment.last, segment.size = walk.position - 1, walk.offset
        segment.sealed = walk.seal is not None
        segment.end_link = walk.link
        segment.digest = walk.digest()
        self._found.segments.append(segment)
        self._found.proven = max(self._found.proven, walk.durable)

    def _after(self, walk: Walk, *, last: bool) -> Fault | None:
        """What is wrong behind the last frame of a walk that met no fault."""
        if walk.seal is not None:
            if self._files.size(walk.segment.path) > walk.offset:
                return Fault(walk.offset, walk.position, "something stands behind the seal")
        elif not last:
            return Fault(walk.offset, walk.position, "the segment has no seal")
        return None

    def _trusted(self, segment: Segment) -> bool:
        """Take a segment that another one follows by its first frame and its seal, when nothing can have been lost from it."""
        size = self._files.size(segment.path)
        first = self._files.read(segment.path, SEGMENT_BYTES, FRAME_BYTES)
        end = self._files.read(segment.path, max(0, size - SEAL_FRAME_BYTES), SEAL_FRAME_BYTES)
        if len(first) < FRAME_BYTES or len(end) < SEAL_FRAME_BYTES:
            return False
        salt = segment.header.salt
        opening, closing = read_frame_header(first, salt), read_frame_header(end, salt)
        seal = read_seal(end[FRAME_BYTES:])
        if isinstance(opening, str) or isinstance(closing, str) or seal is None:
            return False
        whole = (
            (opening.base, opening.link) == (segment.header.base, segment.link)
            and closing.seal
            and (closing.base, seal.size) == (seal.last + 1, size - SEAL_FRAME_BYTES)
            and closing.body_crc == crc32(end[FRAME_BYTES:], salt)
            and (segment.header.boot == self._boot or seal.last <= self._found.proven)
        )
        if whole:
            segment.last, segment.size = seal.last, size
            segment.sealed, segment.end_link = True, closing.crc
            self._found.segments.append(segment)
            self._found.proven = max(self._found.proven, closing.durable)
        return whole

    def _judge(self, index: int, fault: Fault, segment: Segment | None, *, zeros: bool) -> None:
        """Refuse, or end the log before the fault."""
        found, mark = self._found, self._mark
        path = found.paths[index]
        if mark.closed or isinstance(fault.why, Newer):
            raise damaged(path, fault, "the journal had been closed cleanly")
        if fault.position > found.proven:
            found.proven = max(found.proven, self._proof_behind(index, fault.offset))
        if fault.position <= found.proven:
            raise damaged(path, fault, f"positions up to {found.proven} were durable")
        boot = mark.boot if segment is None else segment.header.boot
        if boot == self._boot:
            if fault.position <= mark.written:
                raise damaged(path, fault, f"positions up to {mark.written} were written since the machine started")
            if index < len(found.paths) - 1 or not (fault.short or zeros):
                raise damaged(path, fault, "the machine has not been restarted since, so this is no crash")
        found.cut = Cut(index, fault.offset, boot != self._boot, fault.why)

    def _proof_behind(self, index: int, offset: int) -> int:
        """The highest durable position claimed by a valid frame behind the fault. Frames begin at multiples of 8 bytes."""
        proof = 0
        for path in self._found.paths[index:]:
            window = Window(self._files, path)
            header = read_segment_header(window.at(0, SEGMENT_BYTES))
            if not isinstance(header, str) and header.journal == self._epoch.journal:
                for place in window.find(FRAME_MARK, max(offset, SEGMENT_BYTES)):
                    frame = read_frame_header(window.at(place, FRAME_BYTES), header.salt)
                    if place % 8 == 0 and not isinstance(frame, str):
                        proof = max(proof, frame.durable)
            offset = 0
        return proof

    def _end(self) -> None:
        """The log may not end before what is known to have been in it."""
        found, mark = self._found, self._mark
        path, size, why = self._place.segments, 0, "no segment is there"
        if found.segments:
            path, size, why = found.segments[-1].path, found.segments[-1].size, "the log ends"
        fault = Fault(size, found.head + 1, why)
        if found.head < found.proven:
            raise damaged(path, fault, f"positions up to {found.proven} were durable")
        if mark.boot == self._boot and found.head < mark.written:
            raise damaged(path, fault, f"positions up to {mark.written} were written since the machine started")
        if mark.closed and (found.head != mark.written or (found.segments and not found.segments[-1].sealed)):
            raise damaged(path, fault, "the journal had been closed cleanly, with a seal at its end")


def check_presence(place: Place, names: list[str], epoch: Epoch | None, mark: Watermark | None) -> None:
    """EPOCH is made first, then WATERMARK, then segments: no crash leaves a later one without the earlier."""
    if epoch is None and (names or mark is not None):
        unusable(place.epoch, "it is missing from a journal that was begun")
    if mark is None and names:
        unusable(place.watermark, "it is missing, and there are segments")
