"""Opening a journal that was not closed: which end of the log is an ordinary crash, and which is damage.

Looking (`survey`) only reads; `take_over` locks, takes the next epoch, looks, and puts the log in order. The rules,
by what stands at the first place that is not a valid frame in sequence, with p the position expected there:

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

A log that ends cleanly, but before a position that WATERMARK proves, has lost its tail: refuse. A segment that holds
no frame is an interrupted roll and is removed; segments below what FLOOR names are an interrupted drop and are swept.
Whatever is accepted is synced and sealed, so that only the last segment of a journal can ever lack its seal. A refusal
changes nothing but the epoch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import msgspec

from obzen_runtime.journal.floor import BEGINNING, Floor, sweep
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
from obzen_runtime.journal.scan import Fault, Frame, Segment, Walk, Window, damaged, first_link, records_of
from obzen_runtime.journal.watermark import FENCE, FENCE_AT, Marker, Watermark, new_watermark
from obzen_runtime.journal.writer import Identity, seal_segment, sync_files
from obzen_runtime.kernel import Files, JournalFailed, JournalLocked, Lock, Seams, SharedBytes

__all__ = ["Cut", "Opened", "Recovery", "Survey", "Visit", "locked", "survey", "take_over"]


class Recovery(msgspec.Struct, frozen=True):
    """What opening a journal found and did."""

    head: int
    """Position of the last record."""
    epoch: int
    """The number of this opening."""
    clean: bool = True
    """The journal is new or had been closed."""
    torn: int = 0
    """Bytes of an append nobody was told of, cut off."""
    tail_lost: tuple[int, int] | None = None
    """Bytes [from, to) cut away after a restart of the machine, counted from the start of the segment `segment`, over the
    segments behind it too."""
    segment: str = ""
    """File in which bytes were cut away."""
    lost: tuple[int, int] | None = None
    """Positions [from, to) that had been written, never synced, and did not survive the restart of the machine."""
    kept: tuple[str, ...] = ()
    """Files with a copy of what was cut away."""


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


@dataclass(slots=True)
class Opened:
    """A journal taken over: what its writer holds until it lets go."""

    place: Place
    lock: Lock
    shared: SharedBytes
    epoch: Epoch
    boot: bytes
    segments: list[Segment]
    recovery: Recovery
    marker: Marker
    floor: Floor

    def release(self) -> None:
        self.shared.close()
        self.lock.release()


def survey(files: Files, place: Place, *, visit: Visit | None = None, archive: Path | None = None) -> Survey:
    """Look at a journal. With `visit`, every frame of every segment is read and shown, else only those not proven whole.

    With `archive`, the segments that were moved there come first. Raises `JournalDamaged`.
    """
    floor = place.read_floor(files)  # first: a writer beside us may drop more, and then says so before it does
    mark = place.read_watermark(files)
    epoch = place.read_epoch(files)
    names = place.names(files)
    _check_presence(place, names, epoch, mark)
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
        path = found.segments[-1].path if found.segments else self._place.segments
        fault = Fault(found.segments[-1].size if found.segments else 0, found.head + 1, "the log ends")
        if found.head < found.proven:
            raise damaged(path, fault, f"positions up to {found.proven} were durable")
        if mark.boot == self._boot and found.head < mark.written:
            raise damaged(path, fault, f"positions up to {mark.written} were written since the machine started")
        if mark.closed and (found.head != mark.written or (found.segments and not found.segments[-1].sealed)):
            raise damaged(path, fault, "the journal had been closed cleanly, with a seal at its end")


def take_over(place: Place, seams: Seams, begin: Callable[[], None] | None = None) -> Opened:
    """Lock the journal, take the next epoch, recover. Raises `JournalLocked`, `JournalDamaged`, `JournalFailed`.

    With `begin` the journal must be new: `begin` is called under the lock, before anything says that the run exists.
    """
    files = seams.files
    lock: Lock | None = None
    try:
        fresh = not files.exists(place.directory)
        files.make_directory(place.directory)
        files.make_directory(place.segments)
        if fresh:
            files.sync_directory(place.directory.parent)
        lock = files.lock(place.lock)
        if lock is None:
            raise locked(place, files)
        if begin is not None:
            if files.exists(place.epoch):
                raise JournalLocked(f"{place.directory} was started by another process at this moment", remedy="Try again to go on with it")
            begin()
        return _Opening(place, seams, lock).run()
    except BaseException as error:
        if lock is not None:
            lock.release()
        if isinstance(error, OSError):
            raise JournalFailed(
                f"{place.directory}: the journal could not be opened: {error}",
                remedy="Look at the disk (space, permissions, health), then try again",
                directory=str(place.directory),
            ) from error
        raise


class _Opening:
    """The steps between lock and first append, in the order a crash between any two of them requires."""

    def __init__(self, place: Place, seams: Seams, lock: Lock) -> None:
        self._place = place
        self._seams = seams
        self._files = seams.files
        self._lock = lock
        self._boot = seams.files.boot_id()

    def run(self) -> Opened:
        place, files = self._place, self._files
        previous, names, mark = place.read_epoch(files), place.names(files), place.read_watermark(files)
        _check_presence(place, names, previous, mark)
        journal = previous.journal if previous else self._seams.entropy.bytes(16)
        epoch = Epoch(previous.number + 1 if previous else 1, journal)
        files.replace(place.epoch, epoch.encode())
        if mark is None:
            content = bytearray(new_watermark())
            Marker(memoryview(content), boot=self._boot, journal=journal, counter=0).restart(0, closed=False)
            files.replace(place.watermark, bytes(content))
        shared = files.share(place.watermark)
        try:
            FENCE.pack_into(shared.view, FENCE_AT, epoch.number)
            found = survey(files, place)
            _refuse_newer(files, found)
            assert found.mark is not None
            recovery = self._put_in_order(found, found.mark, epoch)
            marker = Marker(shared.view, boot=self._boot, journal=journal, counter=found.mark.counter)
            marker.restart(recovery.head, closed=False)
            shared.sync()
        except BaseException:
            shared.close()
            raise
        return Opened(place, self._lock, shared, epoch, self._boot, found.segments, recovery, marker, found.floor)

    def _put_in_order(self, found: Survey, mark: Watermark, epoch: Epoch) -> Recovery:
        head, clean = found.head, bool(mark.closed) or not found.paths
        place, files = self._place, self._files
        dropped = [place.segments / name for name in place.names(files) if (segment_start(name) or 0) < found.floor.position]
        sweep(files, dropped, found.floor.archive)
        torn, lost_bytes, name = 0, None, ""
        kept: tuple[str, ...] = ()
        if found.cut is not None:
            name = found.paths[found.cut.number].name
            size, kept = self._cut_away(found, found.cut)
            if found.cut.lost:
                lost_bytes = (found.cut.offset, found.cut.offset + size)
            else:
                torn = size
        while found.segments and found.segments[-1].last < found.segments[-1].header.base:
            self._files.remove(found.segments.pop().path)
            self._files.sync_directory(self._place.segments)
        if not mark.closed:
            self._settle(found, mark, epoch)
        positions = (head + 1, mark.written + 1) if mark.written > head else None
        return Recovery(head, epoch.number, clean, torn, lost_bytes, name, positions, kept)

    def _cut_away(self, found: Survey, cut: Cut) -> tuple[int, tuple[str, ...]]:
        """Copy what follows the cut and remove it, the last first: a crash in between leaves a fault at the same place."""
        files, stamp, size = self._files, self._seams.clock.wall_ms(), 0
        kept: list[str] = []
        for index in range(len(found.paths) - 1, cut.number - 1, -1):
            path = found.paths[index]
            start = cut.offset if index == cut.number else 0
            tail = files.read(path, start)
            size += len(tail)
            if tail:
                copy = path.with_name(f"{path.name}.torn-{stamp}")
                files.replace(copy, tail)
                kept.append(copy.name)
            if start:
                file = files.open_append(path)
                try:
                    file.truncate(start)
                    file.sync()
                finally:
                    file.close()
            else:
                files.remove(path)
                files.sync_directory(self._place.segments)
        return size, tuple(reversed(kept))

    def _settle(self, found: Survey, mark: Watermark, epoch: Epoch) -> None:
        """Make durable what was only written, and seal the end."""
        files = self._files
        # the one that ends at the durable position too: its records were synced, its seal may not have been
        sync_files(files, [segment.path for segment in found.segments if segment.last >= mark.durable])
        files.sync_directory(self._place.segments)
        if found.segments and not found.segments[-1].sealed:
            identity = Identity(epoch.journal, self._boot, epoch.number)
            seal_segment(files, found.segments[-1], identity)


def _refuse_newer(files: Files, found: Survey) -> None:
    """Decode the first record: a journal whose records are of a newer format is not to be gone on with."""
    for segment in found.segments[:1]:
        for frame in islice(Walk(files, segment).frames(), 1):
            next(records_of(frame, segment.path, None))


def locked(place: Place, files: Files) -> JournalLocked:
    """The refusal that names who holds the run."""
    holder = files.read(place.lock).strip().decode("ascii", "replace")
    who = f"process {holder}" if holder.isdigit() else "another process"
    return JournalLocked(
        f"{place.directory} is held by {who}",
        remedy="Wait for its end, or stop it",
        directory=str(place.directory),
        pid=int(holder) if holder.isdigit() else None,
    )


def _check_presence(place: Place, names: list[str], epoch: Epoch | None, mark: Watermark | None) -> None:
    """EPOCH is made first, then WATERMARK, then segments: no crash leaves a later one without the earlier."""
    if epoch is None and (names or mark is not None):
        unusable(place.epoch, "it is missing from a journal that was begun")
    if mark is None and names:
        unusable(place.watermark, "it is missing, and there are segments")
