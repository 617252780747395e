"""The journal on a disk: one writer, one `writev` per append, segments that are sealed when they are full.

`append` runs on the loop's thread and never waits for the disk. What is acknowledged is in the operating system's
hands (level `os`), or waited for by `durable` (level `fsync`). A write or sync that failed ends the journal: every
later call raises the same error, nothing is tried again, the process ends and the next one reads the disk.

The writer holds LOCK for life. Each opening takes the next number in EPOCH before anything else; a writer whose
number is no longer the newest is fenced: by a word in shared memory at every append, and by the EPOCH file at every
sync and roll, should the shared file itself have been replaced.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Self

import msgspec

from obzen_runtime.events import (
    ActorAborted,
    ActorCompleted,
    Block,
    Checkpoint,
    Contract,
    Dropped,
    Record,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunStarted,
)
from obzen_runtime.journal.base import Entry, Fsync, Level, Memory, Os
from obzen_runtime.journal.commit import Commit, Work
from obzen_runtime.journal.floor import Floor, sweep
from obzen_runtime.journal.place import Place
from obzen_runtime.journal.reader import Log, kind_numbers, numbers
from obzen_runtime.journal.recovery import Opened, Recovery, take_over
from obzen_runtime.journal.retention import Held, Retention, dispensable
from obzen_runtime.journal.scan import Segment
from obzen_runtime.journal.watermark import FENCE, FENCE_AT
from obzen_runtime.journal.writer import Identity, Writer
from obzen_runtime.kernel import Concurrency, ConfigInvalid, Fenced, Files, JournalFailed, Seams, StorageFailed, check_whole

__all__ = ["SegmentJournal", "SegmentOptions"]

_RESERVE = 1 << 20
_LAST_WORDS = 256 << 10
_ENDS = (RunCompleted, RunFailed, RunCancelled, ActorCompleted, ActorAborted, Checkpoint, Contract)
_READ_FENCE = FENCE.unpack_from


class SegmentOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a journal on disk is kept."""

    level: Level = Os()
    """What an acknowledged record survives; any but `memory`."""
    segment_bytes: int = 64 << 20
    """Size at which a segment is sealed and the next begun, bytes, at least 512."""
    max_bytes: int | None = None
    """Bytes after which blocks with payloads are refused with `journal_full`; None: no limit.

    The journal goes on for all else: receipts, letters and steps without outputs may use 1 MiB more, and what says how
    stages and the run ended, with the last checkpoint, another 256 KiB, so that a full journal can always be resumed.
    """

    retention: Retention = Retention()
    """How much is kept of what nobody needs any more."""

    def __post_init__(self) -> None:
        if isinstance(self.level, Memory):
            raise ConfigInvalid("a journal on disk has no level `memory`", remedy="Use os, interval(MILLISECONDS), fsync; or MemoryJournal")
        check_whole("segment_bytes", self.segment_bytes, least=_SMALLEST)
        if self.max_bytes is not None:
            check_whole("max_bytes", self.max_bytes, least=1)


_SMALLEST = 512


class SegmentJournal:
    """One run's log in segment files. Made by `open`; used by one loop; `close` once."""

    def __init__(self, opened: Opened, options: SegmentOptions, seams: Seams) -> None:
        """For `open`, which takes the lock and recovers first."""
        self.options = options
        self._opened = opened
        self._seams = seams
        self._telemetry = seams.telemetry
        self._grouped = isinstance(options.level, Fsync)
        self._lazy = isinstance(options.level, Os)
        self._most = options.max_bytes
        self._epoch = opened.epoch.number
        self._head = self._synced = opened.recovery.head
        self._view = opened.shared.view
        self._marker = opened.marker
        identity = Identity(opened.epoch.journal, opened.boot, self._epoch)
        self._writer = Writer(
            seams.files, seams.entropy, opened.place.segments, identity=identity, segments=opened.segments, limit=options.segment_bytes
        )
        self._log = Log(seams.files, opened.segments)
        self._commit = Commit(options.level, seams.threads, begin=self._begin_sync, succeeded=self._sync_done, failed=self._sync_failed)
        self._floor = opened.floor
        self._drop: Work | None = None
        """What removes segments that were let go, once the record of it is synced."""
        self._refusal: StorageFailed | None = None
        self._failed = False
        self._closed: asyncio.Future[None] | None = None
        self._tails: list[asyncio.Future[None]] = []
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []

    @classmethod
    def open(
        cls, directory: Path, *, options: SegmentOptions | None = None, seams: Seams | None = None, begin: Callable[[], None] | None = None
    ) -> Self:
        """Open or create the journal of the run in `directory`: lock, next epoch, recovery.

        Blocks for a few syncs and the scan of the last segment. Raises `JournalLocked` when another process holds
        the run, `JournalDamaged` when what is there is not what was written, `JournalFailed` when the disk fails,
        `ConfigInvalid` when the archive cannot be made.

        With `begin` the run must be new: it is called under the lock, before anything says that the run exists, so that
        of two processes that start a run of one name only one describes it. The other gets `JournalLocked`.
        """
        options, seams = options or SegmentOptions(), seams or Seams()
        _prepare_archive(options.retention.archive, seams.files)
        return cls(take_over(Place(directory), seams, begin), options, seams)

    @property
    def level(self) -> Level:
        return self.options.level

    @property
    def recovered(self) -> Recovery:
        """What opening found."""
        return self._opened.recovery

    @property
    def epoch(self) -> int:
        """The number of this opening, from 1."""
        return self._epoch

    @property
    def first(self) -> int:
        return self._log.first or self._head + 1

    @property
    def dropping(self) -> bool:
        """Whether what was let go may still be there, or come back after a crash."""
        return self._synced < self._floor.record

    @property
    def archive(self) -> Path | None:
        """The directory to which this run's segments are moved when they are dropped."""
        archive = self.options.retention.archive
        return Path(archive, self._opened.place.directory.name).absolute() if archive else None

    @property
    def head(self) -> int:
        return self._head

    @property
    def durable_head(self) -> int:
        return self._synced if self._grouped else self._head

    @property
    def size(self) -> int:
        return self._writer.size

    def append(self, records: Sequence[Record], *, expected: int | None = None) -> int:
        if self._refusal is not None:
            raise self._refusal
        if expected is not None and expected != self._head:
            raise Concurrency(f"the head is {self._head}, expected {expected}", remedy="Read on and decide again", head=self._head)
        if _READ_FENCE(self._view, FENCE_AT)[0] != self._epoch:
            raise self._fail(_fenced(self._epoch))
        count = len(records)
        if not count:
            return self._head
        writer = self._writer
        size = writer.encode(records)
        if self._most is not None:
            self._check_room(size, records)
        try:
            if writer.offset + size > writer.end:
                self._roll()
            writer.write(self._head, count, self._synced)
            self._head = head = self._head + count
            self._marker.reached(head, self._synced)
        except (OSError, StorageFailed) as error:
            raise self._fail(error) from error
        except BaseException as error:  # an interrupt before the frame was counted: the next one would take its position
            self._fail(error)
            raise
        if self._tails:
            self._wake_tails()
        if not self._lazy:
            self._commit.want()
        if self._telemetry.handlers:
            self._telemetry.emit("journal.append", {"records": count, "bytes": size}, {"position": head})
        return head

    async def durable(self, position: int) -> None:
        if self._failed and self._refusal is not None:
            raise self._refusal
        if not self._grouped or position <= self._synced:
            return
        if self._refusal is not None and position > self._head:
            raise self._refusal
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append((position, waiter))
        await waiter

    async def read(self, start: int = 0, stop: int | None = None, *, kinds: frozenset[type[Record]] | None = None) -> AsyncIterator[Entry]:
        self._check_failed()
        stop = self._head + 1 if stop is None else min(stop, self._head + 1)
        for entries in self._log.read(start if start > 0 else self.first, stop, kind_numbers(kinds)):
            for entry in entries:
                yield entry
            await asyncio.sleep(0)
            self._check_failed()

    async def tail(self, start: int = 0, *, kinds: frozenset[type[Record]] | None = None) -> AsyncIterator[Entry]:
        position = start if start > 0 else self.first
        while True:
            head = self._head
            async for entry in self.read(position, head + 1, kinds=kinds):
                yield entry
            position = max(position, head + 1)
            if position <= self._head:
                continue
            if self._refusal is not None:
                self._check_failed()
                return
            waiter = asyncio.get_running_loop().create_future()
            self._tails.append(waiter)
            await waiter

    async def last(self, kinds: frozenset[type[Record]]) -> Entry | None:
        self._check_failed()
        found = await self._log.last(self._head, numbers(kinds))
        self._check_failed()
        return found

    def forget(self, below: int) -> None:
        """Drop whole segments below the position, as far as the retention wants it: recorded first, then synced, then removed."""
        if self.options.retention.keeps_all or self._refusal is not None or self._drop is not None:
            return
        try:
            self._drop_below(below)
        except (StorageFailed, OSError):
            return  # it has ended, and says so at its next call; or what is to go cannot be read, and stays

    async def close(self) -> None:
        if self._closed is None:
            self._closed = asyncio.get_running_loop().create_future()
            if self._refusal is None:
                self._refusal = JournalFailed("the journal is closed", remedy="Start a new run")
            self._wake_tails()
            self._commit.stop(self._shut)
        await asyncio.shield(self._closed)

    def _check_failed(self) -> None:
        if self._failed and self._refusal is not None:
            raise self._refusal

    def _check_room(self, size: int, records: Sequence[Record]) -> None:
        most = self._most
        assert most is not None
        if not any(isinstance(record, Block) and record.count for record in records):
            most += _RESERVE
        if all(isinstance(record, _ENDS) for record in records):
            most += _LAST_WORDS
        if self._writer.size + size > most:
            raise JournalFailed(
                f"the journal holds {self._writer.size} bytes and may not grow beyond {self.options.max_bytes}",
                code="journal_full",
                remedy="Give the journal a larger max_bytes",
                size=self._writer.size,
            )

    def _drop_below(self, below: int) -> None:
        retention, segments, now = self.options.retention, self._writer.segments, self._seams.clock.wall_ms()
        held: list[Held] = []
        for segment, following in pairwise(segments):
            if not segment.sealed or segment.last >= below:
                break
            held.append(Held(segment.size, self._began(following)))
        count = dispensable(retention, held, self.size, now)
        if not count:
            return
        last = segments[count - 1]
        started = self._started()
        archive = str(self.archive or "")
        assert last.end_link is not None
        record = self.append([Dropped(last.last + 1, now, archive, started, last.end_link)])
        floor = Floor(last.last + 1, last.end_link, record, self._opened.epoch.journal.hex(), archive)
        paths = [segment.path for segment in segments[:count]]
        self._floor, self._drop = floor, partial(_drop, self._seams.files, self._opened.place, floor, paths)
        self._writer.drop(count)
        self._commit.force()

    def _began(self, segment: Segment) -> int:
        """Wall time of the first record of a segment."""
        if segment.began_ms is None:
            base = segment.header.base
            segment.began_ms = next((entry.record.at for some in self._log.read(base, base + 1, None) for entry in some), 0)
        return segment.began_ms

    def _started(self) -> RunStarted | None:
        """The run's first record: where it stood, or in the record of the last drop."""
        position = self._floor.record or 1
        record = next(entry.record for some in self._log.read(position, position + 1, None) for entry in some)
        if isinstance(record, RunStarted):
            return record
        return record.started if isinstance(record, Dropped) else None

    def _roll(self) -> None:
        self._check_epoch()
        self._writer.seal(self._head, self._synced, keep_open=not self._lazy or self._commit.running)
        self._writer.begin(self._head)

    def _check_epoch(self) -> None:
        if self._opened.place.read_epoch(self._seams.files) != self._opened.epoch:
            raise _fenced(self._epoch)

    def _begin_sync(self) -> tuple[Work, int]:
        sync = self._writer.begin_sync()
        drop, self._drop = self._drop, None

        def work() -> None:
            sync()
            self._check_epoch()
            if drop is not None:
                drop()

        return work, self._head

    def _sync_done(self, covered: int, seconds: float) -> None:
        self._synced = covered
        self._marker.reached(self._head, covered)
        self._settle(covered)
        if self._telemetry.handlers:
            self._telemetry.emit("journal.sync", {"seconds": seconds}, {"position": covered})

    def _sync_failed(self, error: BaseException) -> None:
        self._fail(error)

    def _settle(self, covered: int) -> None:
        waiting, self._waiters = self._waiters, []
        for position, waiter in waiting:
            if position > covered:
                self._waiters.append((position, waiter))
            elif not waiter.done():
                waiter.set_result(None)

    def _fail(self, error: BaseException) -> StorageFailed:
        """Nothing is acknowledged from here on, and nothing tried again."""
        if not self._failed:
            self._failed = True
            self._refusal = error if isinstance(error, StorageFailed) else _failure(error, self._opened.place.directory)
            waiting, self._waiters = self._waiters, []
            for _, waiter in waiting:
                if not waiter.done():
                    waiter.set_exception(self._refusal)
            self._wake_tails()
        assert self._refusal is not None
        return self._refusal

    def _wake_tails(self) -> None:
        tails, self._tails = self._tails, []
        for waiter in tails:
            if not waiter.done():
                waiter.set_result(None)

    def _shut(self) -> None:
        """No sync runs any more: seal, sync, say that all of it is durable, let go."""
        if self._failed:
            self._release()
            return
        try:
            self._check_epoch()
            self._writer.seal(self._head, self._synced, keep_open=not self._lazy)
        except (OSError, StorageFailed) as error:
            self._fail(error)
            self._release()
            return
        sync, head = self._writer.begin_sync(), self._head

        def work() -> None:
            sync()
            self._marker.restart(head, closed=True)
            self._opened.shared.sync()

        def done(future: "asyncio.Future[None]") -> None:
            error = asyncio.CancelledError() if future.cancelled() else future.exception()
            if error is None:
                self._synced = head
                self._settle(head)
            else:
                self._fail(error)
            self._release()

        self._seams.threads.run("journal-close", work).add_done_callback(done)

    def _release(self) -> None:
        self._writer.close()
        self._opened.release()
        assert self._closed is not None
        assert self._refusal is not None
        for _, waiter in self._waiters:  # for positions that were never written
            if not waiter.done():
                waiter.set_exception(self._refusal)
        self._waiters.clear()
        if self._failed:
            self._closed.set_exception(self._refusal)
        else:
            self._closed.set_result(None)


def _prepare_archive(archive: str, files: Files) -> None:
    """Said before a run begins, not when its first segment is to go there."""
    if archive:
        try:
            files.make_directory(Path(archive))
        except OSError as error:
            raise ConfigInvalid(f"the archive {archive} cannot be made: {error}", remedy="Give a directory you may write") from error


def _drop(files: Files, place: Place, floor: Floor, paths: Sequence[Path]) -> None:
    files.replace(place.floor, floor.encode())
    sweep(files, paths, floor.archive)


def _fenced(epoch: int) -> Fenced:
    return Fenced(f"a newer writer took over; this one is of epoch {epoch}", remedy="Stop this process; the newer one goes on", epoch=epoch)


def _failure(error: BaseException, directory: Path) -> JournalFailed:
    failure = JournalFailed(
        f"{directory}: the journal could not be written: {error if isinstance(error, OSError) else repr(error)}",
        remedy="Look at the disk (space, health), then resume the run; what was written before is whole",
        directory=str(directory),
    )
    return failure.caused_by(error)
