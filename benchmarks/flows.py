"""How a benchmark runs a flow: embedded, its journal opened before and closed after the time that counts.

Opening a journal and sealing it at the end cost a few syncs whatever the run was like; the length of a run should not
decide what its events cost. At level `fsync` the interpreter's switch interval is what `oz.run` sets, since a sync
that comes back beside a busy loop waits for that.
"""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import obzen_runtime as oz
from benchmarks.harness import Measure, checked
from obzen_runtime.journal import SegmentOptions, level_from

__all__ = ["Build", "flow_cost", "run_flow", "through"]

_SWITCH_INTERVAL = 0.0002


Build = Callable[[int], tuple[oz.Flow, Callable[[], None]]]
"""For a size: a new flow, and what checks its result after the run."""


def through(build: Build, level: str) -> Measure:
    """Seconds per event of the flow at this level of durability."""

    def measure(size: int, place: Path) -> float:
        return flow_cost(build, level, size, place)

    return measure


def flow_cost(build: Build, level: str, size: int, place: Path) -> float:
    """One run, checked; seconds per event."""
    flow, verify = build(size)
    seconds = run_flow(flow, level, place)
    verify()
    return seconds / size


def run_flow(flow: oz.Flow, level: str, place: Path) -> float:
    """Run to the end and return the seconds from start to drained."""
    interval = sys.getswitchinterval()
    if level == "fsync":
        sys.setswitchinterval(_SWITCH_INTERVAL)
    try:
        return asyncio.run(_timed(flow, level, place))
    finally:
        sys.setswitchinterval(interval)


async def _timed(flow: oz.Flow, level: str, place: Path) -> float:
    journal: oz.MemoryJournal | oz.SegmentJournal
    if level == "memory":
        journal = oz.MemoryJournal()
    else:
        journal = oz.SegmentJournal.open(place / "run", options=SegmentOptions(level=level_from(level)))
    begun = perf_counter()
    async with oz.start(flow, journal=journal) as handle:
        report = await handle.wait()
    seconds = perf_counter() - begun
    await journal.close()
    checked(f"{flow.name} at level {level}", (report.state, report.dead_letters), ("drained", 0))
    return seconds
