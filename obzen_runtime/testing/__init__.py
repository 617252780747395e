"""The public test kit: a conformance suite for journals, and a disk in memory that fails on demand."""

from obzen_runtime.testing.disk import Crashed, Faults, InlineThreads, SimulatedDisk, Unsynced
from obzen_runtime.testing.journals import JOURNAL_CASES, Case, Harness, NotConforming, failures
from obzen_runtime.testing.samples import sample_records

__all__ = [
    "JOURNAL_CASES",
    "Case",
    "Crashed",
    "Faults",
    "Harness",
    "InlineThreads",
    "NotConforming",
    "SimulatedDisk",
    "Unsynced",
    "failures",
    "sample_records",
]
