"""Opening a journal, closed or not: lock it, take the next epoch, look at it (`survey.py`), put it in order.

What the survey lets go is cut off and kept in a copy. A segment that holds no frame is an interrupted roll and is
removed; segments below what FLOOR names are an interrupted drop and are swept. Whatever is accepted is synced and
sealed, so that only the last segment of a journal can ever lack its seal. A refusal changes nothing but the epoch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import msgspec

from obzen_runtime.journal.floor import Floor, sweep
from obzen_runtime.journal.format import Epoch, segment_start
from obzen_runtime.journal.place import Place
from obzen_runtime.journal.scan import Segment, Walk, records_of
from obzen_runtime.journal.survey import Cut, Survey, check_presence, survey
from obzen_runtime.journal.watermark import FENCE, FENCE_AT, Marker, Watermark, new_watermark
from obzen_runtime.journal.writer import Identity, seal_segment, sync_files
from obzen_runtime.kernel import Files, JournalFailed, JournalLocked, Lock, Seams, SharedBytes

__all__ = ["Opened", "Recovery", "locked", "take_over"]


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
        check_presence(place, names, previous, mark)
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
