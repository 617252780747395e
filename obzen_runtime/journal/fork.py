"""A new run that shares the past of another: sealed segments by a second link, the one in which they part as a copy.

The fork keeps the journal's id: the frames it shares name it, and every one of them is still checked. What tells the
two apart from there on is the chain: each segment continues the seal before it, and the seals differ. Nobody writes
to a shared file: appends go to segments of the fork's own, recovery cuts nothing that is durable, and a repair
replaces files instead of changing them.

EPOCH is written last. A directory without it is no run yet; the same fork asked for again finishes it.
"""

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from obzen_runtime.events import Dropped, Record, RunForked
from obzen_runtime.journal.ending import Past, closed_mark, ending, past_of, proof
from obzen_runtime.journal.floor import Floor
from obzen_runtime.journal.format import Epoch
from obzen_runtime.journal.manifest import Manifest
from obzen_runtime.journal.place import Place
from obzen_runtime.journal.reader import numbers
from obzen_runtime.journal.runs import RunDirectory
from obzen_runtime.journal.scan import Segment, Walk, records_of
from obzen_runtime.journal.survey import Survey, survey
from obzen_runtime.journal.writer import Identity, sync_files
from obzen_runtime.kernel import RUN_ID, Files, JournalFailed, NotFound, ObzenError, Seams, UsageError

__all__ = ["Forked", "fork"]

_DROPPED = numbers(frozenset({Dropped}))


class Forked(NamedTuple):
    """A fork, and where it parts from its origin."""

    run: RunDirectory
    position: int
    """The last position shared: a border between appends, at or below the one asked for."""


def fork(origin: RunDirectory, base: Path, name: str, *, at: int, live: bool, seams: Seams | None = None) -> Forked:
    """Make the run `base/name` of what `origin`, living or ended, had written up to position `at`.

    Raises `UsageError` when `at` is not in the origin or the run exists, `NotFound` when the origin is no run or drops
    meanwhile what is to be shared, `JournalDamaged` when that is damaged, `JournalFailed` when the disk fails. Blocks.
    """
    seams = seams or Seams()
    try:
        return _Fork(origin, RunDirectory(base / RUN_ID.new(name), seams.files), seams).make(at, live=live)
    except FileNotFoundError as error:
        raise NotFound(f"{error.filename} was dropped meanwhile", remedy="Fork at a later position") from error
    except OSError as error:
        raise JournalFailed(
            f"{base / name}: the fork could not be finished: {error}",
            remedy="Look at the disk (space, permissions), then fork again",
            directory=str(base / name),
        ) from error


class _Fork:
    def __init__(self, origin: RunDirectory, run: RunDirectory, seams: Seams) -> None:
        self._origin = origin
        self._run = run
        self._seams = seams
        self._files = seams.files

    def make(self, at: int, *, live: bool) -> Forked:
        files, origin, run = self._files, self._origin, self._run
        there, here = Place(origin.path), Place(run.path)
        if not origin.exists:
            raise NotFound(f"{origin.path} holds no journal", code="run_not_found", remedy="Give the directory of a run")
        manifest = origin.read_manifest()
        if files.exists(here.epoch) or (run.exists and not self._ours()):
            raise UsageError(f"run {run.run_id} exists in {run.path.parent}", remedy="Choose another --run-id", run=run.run_id)
        found = there.steadily(files, partial(survey, files, there))
        shared, last = _cut(found, at)
        assert found.epoch is not None
        past = past_of(files, last, at)
        if past.last < found.floor.position:
            raise UsageError(
                f"no whole append of {origin.run_id} ends at or below position {at}: the fork would be empty",
                remedy="Give a later position",
            )
        self._directories()
        now = self._seams.clock.wall_ms()
        run.write_manifest(_manifest(manifest, self._origin, self._run, now), allowed=("$",))  # told where the origin was started
        self._artifacts()
        identity = Identity(found.epoch.journal, files.boot_id(), found.epoch.number + 1)
        self._share(here, shared)
        records: list[Record] = [RunForked(run.run_id, origin.run_id, now, live)]
        floor = found.floor
        if floor.position > 1:
            if not self._proven(floor, [*shared, last], past.last):
                records.append(proof(floor, now))
                floor = msgspec.structs.replace(floor, record=past.last + 2)
            files.replace(here.floor, floor.encode())
        base = last.header.base
        if not past.headers:  # nothing of the segment is kept: one of the fork's own takes its place
            link = shared[-1].end_link if shared else found.floor.link
            past = Past(b"", past.last, link or 0, int.from_bytes(self._seams.entropy.bytes(4), "little"), b"")
        done = ending(past, base, records, identity)
        files.replace(here.segments / done.name, done.content)
        files.replace(here.watermark, closed_mark(identity, done.last, 0))
        files.replace(here.epoch, Epoch(identity.epoch, identity.journal).encode())
        return Forked(run, past.last)

    def _ours(self) -> bool:
        """Whether what stands there is this fork, begun and not finished."""
        try:
            return self._run.read_manifest().origin == self._origin.run_id
        except ObzenError:
            return False

    def _directories(self) -> None:
        files, run = self._files, self._run
        for directory in (run.path, run.journal, run.artifacts.directory):
            if not files.exists(directory):
                files.make_directory(directory)
                files.sync_directory(directory.parent)

    def _artifacts(self) -> None:
        """All that the origin kept: what is not in the fork's past does no harm."""
        files, source, target = self._files, self._origin.artifacts.directory, self._run.artifacts.directory
        if not files.exists(source):
            return
        for folder in files.names(source):
            if not files.exists(target / folder):
                files.make_directory(target / folder)
                files.sync_directory(target)
            for name in files.names(source / folder):
                with suppress(FileNotFoundError):  # swept in this moment: no record that is kept names it
                    _link(files, source / folder / name, target / folder / name)
            files.sync_directory(target / folder)

    def _share(self, here: Place, shared: list[Segment]) -> None:
        """Whole sealed segments, durable before anything says so."""
        files = self._files
        for name in here.names(files):  # of an attempt that did not come to its end
            if name not in {segment.path.name for segment in shared}:
                files.remove(here.segments / name)
        for segment in shared:
            _link(files, segment.path, here.segments / segment.path.name)
        sync_files(files, [here.segments / segment.path.name for segment in shared])
        files.sync_directory(here.segments)

    def _proven(self, floor: Floor, segments: list[Segment], stop: int) -> bool:
        """Whether what is shared says itself that the origin's first segments were dropped on purpose."""
        if not 0 < floor.record <= stop:
            return False
        segment = next(segment for segment in segments if segment.last >= floor.record)
        frames = Walk(self._files, segment).frames()
        return any(position == floor.record for frame in frames for position, _ in records_of(frame, segment.path, _DROPPED))


def _cut(found: Survey, at: int) -> tuple[list[Segment], Segment]:
    """The segments shared whole, and the one in which the fork parts."""
    if not found.floor.position <= at <= found.head:
        raise UsageError(
            f"position {at} is not in the run, which holds {found.floor.position} to {found.head}", remedy="Give one of these positions"
        )
    index = next(index for index, segment in enumerate(found.segments) if segment.last >= at)
    return found.segments[:index], found.segments[index]


def _manifest(manifest: Manifest, origin: RunDirectory, run: RunDirectory, now: int) -> Manifest:
    return msgspec.structs.replace(manifest, run_id=run.run_id, origin=origin.run_id, started_ms=now)


def _link(files: Files, path: Path, target: Path) -> None:
    if files.exists(target):
        if files.size(target) == files.size(path):
            return
        files.remove(target)
    try:
        files.link(path, target)
    except FileNotFoundError:
        raise
    except OSError:
        files.replace(target, files.read(path))
