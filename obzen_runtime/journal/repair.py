"""Going on with a damaged journal, once somebody has accepted what is lost.

Kept is everything up to the first place that is not what was written. What stands behind it is not: it rests on
records that are gone, and a log with a hole would tell effects without their causes. The order of the steps lets the
process die between any two of them; run again, it goes on.

    1  everything is kept beside, as `journal.damaged-1`
    2  REPAIR says what is to be done; from here on every step can be repeated
    3  EPOCH takes the next number
    4  segments behind the damage are removed, the last first
    5  the damaged segment is replaced by what is whole of it, a `Loss` record and a seal
    6  FLOOR is replaced where it was damaged
    7  WATERMARK is replaced: the journal is whole again
    8  REPAIR is removed
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar
from zlib import crc32

import msgspec

from obzen_runtime.events import KINDS, Dropped, Loss, Record
from obzen_runtime.journal.ending import Past, closed_mark, ending, past_of, proof
from obzen_runtime.journal.floor import BEGINNING, Floor
from obzen_runtime.journal.format import (
    FRAME_BYTES,
    FRAME_MARK,
    SEGMENT_BYTES,
    Epoch,
    read_frame_header,
    read_segment_header,
    segment_start,
)
from obzen_runtime.journal.place import Place
from obzen_runtime.journal.recovery import locked
from obzen_runtime.journal.scan import Segment, Walk, Window, first_link, records_of
from obzen_runtime.journal.survey import survey
from obzen_runtime.journal.writer import Identity, sync_files
from obzen_runtime.kernel import JournalDamaged, JournalFailed, NotFound, Seams

__all__ = ["RepairReport", "repair"]

T = TypeVar("T")
_DROPPED = frozenset(number for number, kind in KINDS.items() if kind is Dropped)


class RepairReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of a journal, and what was done."""

    directory: str
    verdict: str
    """`whole`: nothing was done. `damaged`: the loss was not accepted. `repaired`."""
    why: str = ""
    """What is damaged."""
    kept: int = 0
    """Position of the last record that is, or would be, kept."""
    lost: tuple[int, int] | None = None
    """Positions [from, to) that are, or would be, lost; None when no record is."""
    old: str = ""
    """Directory beside, with the journal as it was found."""


class _Plan(msgspec.Struct, frozen=True):
    """REPAIR: one line of JSON, a space, its crc in hexadecimal."""

    old: str
    epoch: int
    journal: str
    base: int
    """First position of the segment in which the log ends."""
    source: str
    """Name of the file that holds the beginning of it; empty when nothing of it is whole."""
    kept: int
    stop: int
    """Position after the last that is lost."""
    link: int
    """What the segment's header links to."""
    salt: int
    counter: int
    at: int
    floor: Floor
    proven: bool
    """Whether what is kept says that the floor is on purpose."""

    def encode(self) -> bytes:
        text = msgspec.json.encode(self)
        return b"%s %08x\n" % (text, crc32(text))


def repair(directory: Path, *, accept_loss: bool, seams: Seams | None = None) -> RepairReport:
    """Look at a journal, and with `accept_loss` make a damaged one whole up to its damage. Idempotent.

    Raises `NotFound` (`run_not_found`) when there is none, `JournalLocked` when somebody writes it, `JournalFailed`
    when the disk fails.
    """
    seams, place = seams or Seams(), Place(directory)
    files = seams.files
    if not (files.exists(place.epoch) or place.names(files) or files.exists(place.watermark)):
        raise NotFound(
            f"{directory} holds no journal", code="run_not_found", remedy="Give the directory of a run", directory=str(directory)
        )
    lock = files.lock(place.lock)
    if lock is None:
        raise locked(place, files)
    try:
        return _Repair(place, seams).run(accept_loss=accept_loss)
    except OSError as error:
        raise JournalFailed(
            f"{directory}: the repair could not be finished: {error}",
            remedy="Look at the disk (space, permissions, health), then repair again: nothing more is lost",
            directory=str(directory),
        ) from error
    finally:
        lock.release()


class _Whole(NamedTuple):
    """What is whole of a log."""

    floor: Floor
    proven: bool
    kept: int
    link: int
    """Of the last frame or seal kept."""
    segment: Segment | None
    """In which the log ends in the middle; None when it ends with a seal, or before its first frame."""
    epoch: int
    journal: bytes


class _Repair:
    def __init__(self, place: Place, seams: Seams) -> None:
        self._place = place
        self._seams = seams
        self._files = seams.files
        self._note = place.directory / "REPAIR"

    def run(self, *, accept_loss: bool) -> RepairReport:
        files, where = self._files, str(self._place.directory)
        try:
            found = survey(files, self._place, visit=lambda frame, path: None)
        except JournalDamaged as damage:
            why = damage.message
        else:
            if files.exists(self._note):
                self._finish()
            return RepairReport(directory=where, verdict="whole", kept=found.head)
        begun = self._begun()
        plan = begun or self._planned()
        lost = (plan.kept + 1, plan.stop) if plan.stop > plan.kept + 1 else None
        report = RepairReport(directory=where, verdict="damaged", why=why, kept=plan.kept, lost=lost)
        if not accept_loss:
            return report
        if begun is None:
            plan = self._keep_beside(plan)
            files.replace(self._note, plan.encode())
        self._carry_out(plan)
        survey(files, self._place)
        self._finish()
        return msgspec.structs.replace(report, verdict="repaired", old=str(self._place.directory / plan.old))

    # -- what is whole ----------------------------------------------------------------------------

    def _planned(self) -> _Plan:
        whole, mark = self._whole(), _or_none(lambda: self._place.read_watermark(self._files))
        segment = whole.segment
        stop = max(whole.kept + 1, self._highest(whole.journal) + 1)
        if mark is not None and mark.journal == whole.journal:
            stop = max(stop, mark.durable + 1, mark.written + 1)
        return _Plan(
            old="",
            epoch=whole.epoch + 1,
            journal=whole.journal.hex(),
            base=segment.header.base if segment else whole.kept + 1,
            source=segment.path.name if segment else "",
            kept=whole.kept,
            stop=stop,
            link=segment.link or 0 if segment else whole.link,
            salt=int.from_bytes(self._seams.entropy.bytes(4), "little"),
            counter=mark.counter if mark is not None else 0,
            at=self._seams.clock.wall_ms(),
            floor=whole.floor,
            proven=whole.proven,
        )

    def _whole(self) -> _Whole:
        """Walk every frame from the first kept to the first fault."""
        files, place = self._files, self._place
        epoch = _or_none(lambda: place.read_epoch(files))
        headers = [read_segment_header(files.read(place.segments / name, 0, SEGMENT_BYTES)) for name in place.names(files)]
        known = next((header for header in headers if not isinstance(header, str)), None)
        journal = epoch.journal if epoch else known.journal if known else self._seams.entropy.bytes(16)
        newest = max([epoch.number if epoch else 0, *(header.epoch for header in headers if not isinstance(header, str))])
        floor = _or_none(lambda: place.read_floor(files))
        if floor is None or not floor.record or floor.journal != journal.hex():
            floor = self._told_floor(journal) or BEGINNING
        position, link, proven = floor.position, floor.link, floor.position == 1
        ended: Segment | None = None
        for name in place.names(files):
            if (segment_start(name) or 0) < floor.position:
                continue
            path = place.segments / name
            data = files.read(path, 0, SEGMENT_BYTES)
            header = read_segment_header(data)
            if isinstance(header, str) or (header.base, header.journal, segment_start(name)) != (position, journal, position):
                break
            segment = Segment(path, header, first_link(data, link), position - 1, SEGMENT_BYTES)
            walk = Walk(files, segment)
            for frame in walk.frames():
                proven = proven or any(_says(record, floor) for _, record in records_of(frame, path, _DROPPED))
            position, newest = walk.position, max(newest, walk.epoch)
            if walk.seal is None or files.size(path) > walk.offset:
                ended = segment
                break
            assert walk.link is not None
            link = walk.link
        return _Whole(floor, proven, position - 1, link, ended, newest, journal)

    def _told_floor(self, journal: bytes) -> Floor | None:
        """The floor as the log itself tells it, for a journal whose FLOOR is damaged."""
        files, names = self._files, self._place.names(self._files)
        first = segment_start(names[0]) if names else None
        if first in (None, 1):
            return None
        for name in names:
            path = self._place.segments / name
            header = read_segment_header(files.read(path, 0, SEGMENT_BYTES))
            if isinstance(header, str) or header.journal != journal:
                continue
            for frame in Walk(files, Segment(path, header, None, 0, 0)).frames():
                for position, record in records_of(frame, path, _DROPPED):
                    if isinstance(record, Dropped) and record.upto == first:
                        return Floor(record.upto, record.link, position, journal.hex(), record.archive)
        return None

    def _highest(self, journal: bytes) -> int:
        """The highest position that any valid frame header claims, wherever it stands."""
        highest = 0
        for name in self._place.names(self._files):
            window = Window(self._files, self._place.segments / name)
            header = read_segment_header(window.at(0, SEGMENT_BYTES))
            if isinstance(header, str) or header.journal != journal:
                highest = max(highest, (segment_start(name) or 1) - 1)
                continue
            for offset in window.find(FRAME_MARK, SEGMENT_BYTES):
                frame = read_frame_header(window.at(offset, FRAME_BYTES), header.salt)
                if offset % 8 == 0 and not isinstance(frame, str):
                    highest = max(highest, frame.base + frame.records - 1)
        return highest

    # -- what is done -----------------------------------------------------------------------------

    def _begun(self) -> _Plan | None:
        """The plan of a repair that did not come to its end; None when there is none, or others have written since."""
        files = self._files
        if not files.exists(self._note):
            return None
        text, _, check = files.read(self._note).rpartition(b" ")
        if check != b"%08x\n" % crc32(text):
            return None
        plan = msgspec.json.decode(text, type=_Plan)
        names = self._place.names(files)
        headers = [read_segment_header(files.read(self._place.segments / name, 0, SEGMENT_BYTES)) for name in names]
        newer = any(not isinstance(header, str) and header.epoch > plan.epoch for header in headers)
        return None if newer else plan

    def _keep_beside(self, plan: _Plan) -> _Plan:
        """Everything as it is, under other names; segments by a second link where the disk can."""
        files, place, number = self._files, self._place, 1
        while files.exists(place.directory / f"journal.damaged-{number}"):
            if self._unfinished(place.directory / f"journal.damaged-{number}"):
                break
            number += 1
        old = place.directory / f"journal.damaged-{number}"
        files.make_directory(old)
        files.sync_directory(place.directory)
        for path in (*(place.segments / name for name in place.names(files)), place.epoch, place.floor, place.watermark):
            if not files.exists(path) or files.exists(old / path.name):
                continue
            linked = False
            if path.suffix == ".seg":
                with suppress(OSError):
                    files.link(path, old / path.name)
                    linked = True
            if not linked:
                files.replace(old / path.name, files.read(path))
        files.sync_directory(old)
        files.replace(old / "COMPLETE", b"")
        return msgspec.structs.replace(plan, old=old.name)

    def _unfinished(self, old: Path) -> bool:
        return not self._files.exists(old / "COMPLETE")

    def _carry_out(self, plan: _Plan) -> None:
        files, place = self._files, self._place
        identity = Identity(bytes.fromhex(plan.journal), files.boot_id(), plan.epoch)
        epoch = _or_none(lambda: place.read_epoch(files))  # who tried to open it meanwhile took a number
        files.replace(place.epoch, Epoch(max(plan.epoch, epoch.number if epoch else 0), identity.journal).encode())
        for name in reversed(place.names(files)):
            if (segment_start(name) or 0) > plan.base:
                files.remove(place.segments / name)
                files.sync_directory(place.segments)
        sync_files(files, [place.segments / name for name in place.names(files) if (segment_start(name) or 0) < plan.base])
        floor, records = plan.floor, self._last_words(plan)
        done = ending(self._past(plan), plan.base, records, identity)
        files.make_directory(place.segments)
        files.replace(place.segments / done.name, done.content)
        if floor.position > 1:
            if not plan.proven:
                floor = msgspec.structs.replace(floor, record=plan.kept + 2)
            files.replace(place.floor, floor.encode())
        elif files.exists(place.floor):
            files.remove(place.floor)
            files.sync_directory(place.directory)
        files.replace(place.watermark, closed_mark(identity, done.last, plan.counter))

    def _last_words(self, plan: _Plan) -> list[Record]:
        records: list[Record] = [Loss(plan.kept + 1, plan.stop, plan.at)]
        if plan.floor.position > 1 and not plan.proven:
            records.append(proof(plan.floor, plan.at))
        return records

    def _past(self, plan: _Plan) -> Past:
        """What is kept of the damaged segment, from the copy beside: the segment itself may have been replaced already."""
        if not plan.source:
            return Past(b"", plan.kept, plan.link, plan.salt, b"")
        path = self._place.directory / plan.old / plan.source
        header = read_segment_header(self._files.read(path, 0, SEGMENT_BYTES))
        assert not isinstance(header, str)
        return past_of(self._files, Segment(path, header, plan.link, header.base - 1, SEGMENT_BYTES), plan.kept)

    def _finish(self) -> None:
        self._files.remove(self._note)
        self._files.sync_directory(self._place.directory)


def _says(record: Record, floor: Floor) -> bool:
    return isinstance(record, Dropped) and record.upto == floor.position


def _or_none(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except JournalDamaged:
        return None
