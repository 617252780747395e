"""Facts kept: one totally ordered log per run, in memory or in segment files, and what belongs to it on the disk."""

from obzen_runtime.journal.artifacts import ArtifactStore
from obzen_runtime.journal.base import Entry, Fsync, Interval, Journal, Level, Memory, Os, journal_from, level_from, level_text
from obzen_runtime.journal.check import CheckReport, StageCheck, check
from obzen_runtime.journal.fork import Forked, fork
from obzen_runtime.journal.manifest import MANIFEST_FORMAT, Manifest, read_manifest, write_manifest
from obzen_runtime.journal.memory import MemoryJournal
from obzen_runtime.journal.reader import SegmentReader
from obzen_runtime.journal.recovery import Recovery
from obzen_runtime.journal.repair import RepairReport, repair
from obzen_runtime.journal.retention import Retention, retention_from
from obzen_runtime.journal.runs import RunDirectory, RunState, RunSummary, find_run, list_runs, run_started
from obzen_runtime.journal.segments import SegmentJournal, SegmentOptions

__all__ = [
    "MANIFEST_FORMAT",
    "ArtifactStore",
    "CheckReport",
    "Entry",
    "Forked",
    "Fsync",
    "Interval",
    "Journal",
    "Level",
    "Manifest",
    "Memory",
    "MemoryJournal",
    "Os",
    "Recovery",
    "RepairReport",
    "Retention",
    "RunDirectory",
    "RunState",
    "RunSummary",
    "SegmentJournal",
    "SegmentOptions",
    "SegmentReader",
    "StageCheck",
    "check",
    "find_run",
    "fork",
    "journal_from",
    "level_from",
    "level_text",
    "list_runs",
    "read_manifest",
    "repair",
    "retention_from",
    "run_started",
    "write_manifest",
]
