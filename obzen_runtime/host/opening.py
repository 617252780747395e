"""From a flow and the user's wishes to a run on disk: a new directory with its manifest, or one that was started before."""

import platform
import sys
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from obzen_runtime.flow import Flow, flow_from
from obzen_runtime.journal import (
    Journal,
    Level,
    Manifest,
    Memory,
    MemoryJournal,
    Os,
    Retention,
    RunDirectory,
    SegmentJournal,
    SegmentOptions,
    find_run,
    journal_from,
    level_from,
    level_text,
    retention_from,
)
from obzen_runtime.kernel import RUN_ID, IoFailed, JournalLocked, RunId, Seams, UsageError, new_run_id, versions
from obzen_runtime.stages import Source, code_fingerprint, schema_fingerprint, versions_of

__all__ = ["LOADING", "Kept", "Opened", "Opening", "Origin", "open_run", "parameters_of"]

LOADING: ContextVar[str] = ContextVar("LOADING", default="")
"""The program that is being imported for its flow; it must not start one meanwhile."""

_SEGMENT = 64 * 1024 * 1024
_LEAST = 64 * 1024
_ENDLESS = "10GiB"


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where a flow comes from, for the manifest: what the command needs to find it again."""

    file: str = ""
    variable: str = ""
    run: RunId | None = None
    """The run whose events this one takes up."""
    options: dict[str, Any] = {}
    """What makes the flow of that in the file; it stands among the manifest's options."""


@dataclass(frozen=True)
class Opening:
    """How a run is begun, or gone on with."""

    journal: str | Path | Journal = "runs"
    durability: str | None = None
    """A level's name; None: the one it was started with, or `os`."""
    run_id: str | None = None
    manual: bool = False
    resume: bool = False
    """The run must be there already."""
    allow_code_change: bool = False
    origin: Origin | None = None
    owns_process: bool = False
    retention: str | Retention | None = None
    """How much of its past the journal keeps, as `retention_from` reads it.

    None: what it was started with; a new run keeps all, or 10 GiB where a source is endless.
    """
    max_bytes: int | None = None
    """Bytes of journal at which the run suspends."""
    seams: Seams = field(default_factory=Seams)


class Kept(NamedTuple):
    """Where a run on disk stands, and its manifest as it was started."""

    place: RunDirectory
    manifest: Manifest
    new: bool
    """Nothing of it is written yet."""

    def describe(self) -> None:
        """Write the manifest."""
        self.place.write_manifest(self.manifest)


class Opened(NamedTuple):
    """A journal to write to. Without `kept` it is the user's own, or in memory."""

    run_id: RunId
    journal: Journal
    kept: Kept | None


def open_run(flow: Flow, opening: Opening) -> Opened:
    """The journal of a new run, or of the one of that name that was started before. Raises what is wrong with either."""
    if LOADING.get():
        raise UsageError(
            f"a flow is started while {LOADING.get()} is imported",
            remedy='Put oz.run or oz.start under `if __name__ == "__main__":`; `obzen run` runs the flow itself.',
        )
    flow_from(flow)
    journal = opening.journal
    level = level_from(opening.durability) if opening.durability is not None else None
    retention = retention_from(opening.retention) if opening.retention is not None else None
    flow.topology  # noqa: B018 - a parameter that is not bound is told before a directory is made
    if isinstance(level, Memory) and isinstance(journal, str | Path):
        journal = MemoryJournal()
    if not isinstance(journal, str | Path):
        return Opened(_name(opening), journal_from(journal), None)
    kept = _earlier(Path(journal), opening) or _new(flow, Path(journal), opening, level or Os())
    if retention is None:
        retention = msgspec.convert(kept.manifest.options.get("retention", {}), Retention)
    options = SegmentOptions(
        level=level or level_from(kept.manifest.durability),
        segment_bytes=_segment_bytes(retention),
        max_bytes=opening.max_bytes,
        retention=retention,
    )
    begin = kept.describe if kept.new else None
    return Opened(kept.place.run_id, SegmentJournal.open(kept.place.path, options=options, seams=opening.seams, begin=begin), kept)


def _segment_bytes(retention: Retention) -> int:
    """Only whole segments are dropped, so a small size to keep wants small ones."""
    return _SEGMENT if retention.size is None else max(_LEAST, min(_SEGMENT, retention.size // 8))


def _name(opening: Opening) -> RunId:
    return RUN_ID.new(opening.run_id) if opening.run_id is not None else new_run_id(opening.seams.clock, opening.seams.entropy)


def _earlier(base: Path, opening: Opening) -> Kept | None:
    """The run of this name, if it was started before. Raises what is wrong with it."""
    if opening.run_id is None:
        return None
    files = opening.seams.files
    if opening.resume:
        place = find_run(base, opening.run_id, files)
    else:
        place = RunDirectory(base / RUN_ID.new(opening.run_id), files)
        if not place.exists:
            return None
    if place.state() == "running":
        raise JournalLocked(
            f"run {place.run_id} is running",
            remedy="Wait for its end, end it with `obzen stop`, or choose another --run-id.",
            run=place.run_id,
        )
    return Kept(place, place.read_manifest(), new=False)


def _new(flow: Flow, base: Path, opening: Opening, level: Level) -> Kept:
    """Make the directory of a new run. Raises `IoFailed` when it cannot be made."""
    name = _name(opening)
    try:
        place = RunDirectory.create(base, name, opening.seams.files)
    except OSError as error:
        raise IoFailed(
            f"the run directory {base / name} cannot be made: {error.strerror}", remedy="Choose a directory you may write with --journal."
        ) from error
    endless = any(isinstance(node, Source) and node.endless for node in flow.topology.nodes.values())
    retention = retention_from(opening.retention or (_ENDLESS if endless else "all"))
    manifest = _manifest(flow, name, level, opening.origin or _origin(flow), opening.seams.clock.wall_ms())
    manifest.options["retention"] = msgspec.to_builtins(retention)
    return Kept(place, manifest, new=True)


def _origin(flow: Flow) -> Origin:
    """A program that was started as such names its flow by the variable it stands in."""
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    variable = next((name for name, value in vars(main).items() if value is flow), None) if main is not None else None
    return Origin(file=str(Path(file).resolve()), variable=variable) if file and variable else Origin()


def _manifest(flow: Flow, name: RunId, level: Level, origin: Origin, started_ms: int) -> Manifest:
    topology = flow.topology
    return Manifest(
        run_id=name,
        flow=flow.name,
        file=origin.file or None,
        variable=origin.variable or None,
        code={stage: code_fingerprint(node) for stage, node in topology.nodes.items()},
        schemas={stage: schema_fingerprint(declared) for stage, declared in topology.outputs.items()},
        schema_versions={stage: versions_of(declared) for stage, declared in topology.outputs.items() if declared},
        parameters=parameters_of(flow),
        options={"restart": msgspec.to_builtins(flow.restart), "window": msgspec.to_builtins(flow.window), **origin.options},
        durability=level_text(level),
        versions=versions(),
        platform=platform.platform(),
        started_ms=started_ms,
        origin=origin.run,
    )


def parameters_of(flow: Flow) -> dict[str, Any]:
    """What a manifest says of the flow's bound parameters."""
    return {stage: node.plain() for stage, node in flow.topology.nodes.items() if node.bound}
