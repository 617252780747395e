"""Runs on the disk: where each keeps what, which there are, how each ended, and which one a user means."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from obzen_runtime.events import KINDS, Dropped, Record, RunCancelled, RunCompleted, RunFailed, RunForked, RunResumed, RunStarted
from obzen_runtime.journal.artifacts import ArtifactStore
from obzen_runtime.journal.base import Entry
from obzen_runtime.journal.manifest import Manifest, read_manifest, write_manifest
from obzen_runtime.journal.place import Place
from obzen_runtime.journal.reader import newest_records
from obzen_runtime.kernel import RUN_ID, Files, NotFound, ObzenError, RunId, SystemFiles, UsageError

__all__ = ["RunDirectory", "RunState", "RunSummary", "find_run", "list_runs", "run_started"]

RunState = Literal["running", "drained", "failed", "cancelled", "crashed", "forked", "damaged"]
"""How a run stands. `crashed`: it did not say how it ended and nobody holds it. `forked`: nobody has gone on with it yet.
`damaged`: what it wrote cannot be read."""

_ENDS: dict[type, RunState] = {RunCompleted: "drained", RunFailed: "failed", RunCancelled: "cancelled", RunForked: "forked"}
_TOLD = frozenset(number for number, kind in KINDS.items() if kind in {*_ENDS, RunStarted, RunResumed})


class RunDirectory:
    """One run's directory. Holds nothing open."""

    def __init__(self, path: Path, files: Files | None = None) -> None:
        self.path = path
        self._files = files or SystemFiles()
        self.artifacts = ArtifactStore(path / "artifacts", self._files)

    @classmethod
    def create(cls, base: Path, run_id: str, files: Files | None = None) -> "RunDirectory":
        """Make the directory of a new run, mode 0700. Raises `UsageError` when the run exists, `IdValidationError` for a bad name."""
        run = cls(base / RUN_ID.new(run_id), files)
        if run.exists:
            raise UsageError(f"run {run_id} exists in {base}", remedy="Choose another name", run=run_id)
        run._files.make_directory(run.path)
        run._files.sync_directory(base)
        run._files.make_directory(run.artifacts.directory)
        run._files.sync_directory(run.path)
        return run

    @property
    def run_id(self) -> RunId:
        return RunId(self.path.name)

    @property
    def manifest_path(self) -> Path:
        return self.path / "manifest.json"

    @property
    def journal(self) -> Path:
        """What `SegmentJournal.open` takes is `path`; the segments stand here."""
        return Place(self.path).segments

    @property
    def exists(self) -> bool:
        """Whether a run was started here."""
        return self._files.exists(Place(self.path).epoch) or bool(Place(self.path).names(self._files))

    def write_manifest(self, manifest: Manifest, *, allowed: tuple[str, ...] = ()) -> None:
        """See `manifest.write_manifest`."""
        write_manifest(self.manifest_path, manifest, files=self._files, allowed=allowed)

    def read_manifest(self) -> Manifest:
        """See `manifest.read_manifest`."""
        return read_manifest(self.manifest_path, files=self._files)

    @property
    def epoch(self) -> int:
        """How many processes have opened the run to write it: 1, and one more each time it was gone on with; 0 when that cannot be read."""
        try:
            found = Place(self.path).read_epoch(self._files)
        except (ObzenError, OSError):
            return 0
        return found.number if found is not None else 0

    def state(self) -> RunState:
        """How the run stands: judged from who holds the lock and from the last records."""
        place = Place(self.path)
        try:
            if self._files.locked(place.lock):
                return "running"
            told = newest_records(self._files, place, _TOLD)
        except (ObzenError, OSError):
            return "damaged"
        return _ENDS.get(type(told[-1].record), "crashed") if told else "crashed"


class RunSummary(NamedTuple):
    """One line of a list of runs."""

    run: RunDirectory
    state: RunState
    manifest: Manifest | None
    """None when it is missing or cannot be read."""


def list_runs(base: Path, files: Files | None = None) -> list[RunSummary]:
    """The runs in a directory, the newest first. One that cannot be read is listed, not raised.

    Raises `UsageError` when `base` is a file.
    """
    files = files or SystemFiles()
    found = []
    for run in _runs(base, files):
        try:
            manifest = run.read_manifest()
        except ObzenError:
            manifest = None
        found.append(RunSummary(run, run.state(), manifest))
    return sorted(found, key=lambda summary: (summary.manifest.started_ms if summary.manifest else 0, summary.run.run_id), reverse=True)


class _Log(Protocol):
    """What reads: a journal, or a reader beside it."""

    @property
    def first(self) -> int: ...

    def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[Entry]: ...

    async def last(self, kinds: frozenset[type[Record]]) -> Entry | None: ...


async def run_started(log: _Log) -> RunStarted | None:
    """What a run is made of: its first record, also when that was dropped; None when it is not there."""
    async for entry in log.read(log.first, log.first + 1):
        if isinstance(entry.record, RunStarted):
            return entry.record
    told = await log.last(frozenset({Dropped}))
    return told.record.started if told is not None and isinstance(told.record, Dropped) else None


def find_run(base: Path, words: str, files: Files | None = None) -> RunDirectory:
    """The run a user means: `--last`, the path of its directory, a run id, or the beginning of one.

    Raises `NotFound` (`run_not_found`) when there is none, `UsageError` when several begin so.
    """
    files = files or SystemFiles()
    if words == "--last":
        summaries = list_runs(base, files)
        if not summaries:
            raise _no_run(f"there is no run in {base}", ())
        return summaries[0].run
    here = RunDirectory(Path(words), files)
    if here.exists:
        return here
    if "/" in words:
        raise _no_run(f"{words} is not the directory of a run", ())
    runs = _runs(base, files)
    matching = [run for run in runs if run.run_id == words] or [run for run in runs if words and run.run_id.startswith(words)]
    if not matching:
        raise _no_run(f"no run in {base} is named {words!r} or begins so", [run.run_id for run in runs])
    if len(matching) > 1:
        raise UsageError(
            f"{len(matching)} runs begin with {words!r}",
            remedy=f"Give more of the name: {_some([run.run_id for run in matching])}",
            run=words,
        )
    return matching[0]


def _runs(base: Path, files: Files) -> list[RunDirectory]:
    if not files.exists(base):
        return []
    try:
        names = files.names(base)
    except NotADirectoryError as error:
        raise UsageError(f"{base} is not a directory", remedy="Give the directory that holds the runs") from error
    return [run for run in (RunDirectory(base / name, files) for name in names) if _is_run(run, files)]


def _is_run(run: RunDirectory, files: Files) -> bool:
    try:
        return files.exists(run.manifest_path) or run.exists
    except OSError:  # it may not be looked into
        return False


def _no_run(message: str, names: Sequence[str]) -> NotFound:
    remedy = f"There are: {_some(names)}" if names else "Start one with `obzen run`, or give --runs"
    return NotFound(message, code="run_not_found", remedy=remedy)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(sorted(names, reverse=True)[:5])
    return shown + (" …" if len(names) > 5 else "")
