"""Replay: a flow, and the log of a run, to a report. On a loop of its own, or in one that runs."""

import asyncio
from pathlib import Path
from time import perf_counter

from obzen_runtime.events import RunStarted
from obzen_runtime.flow.builder import Flow, flow_from
from obzen_runtime.flow.certificate import ReplayReport
from obzen_runtime.flow.jumping import JumpingLoop
from obzen_runtime.flow.rerun import NEEDED, Reads, Replay, incomplete, not_begun
from obzen_runtime.journal import Manifest, RunDirectory, SegmentReader, find_run
from obzen_runtime.kernel import UsageError

__all__ = ["opened", "replay", "replay_log", "replaying"]


async def replay_log(flow: Flow, reads: Reads, *, verify: bool = True, manifest: Manifest | None = None) -> ReplayReport:
    """Replay what a journal holds now. Raises as `replay` does."""
    begun = perf_counter()
    found = Replay(flow, reads, verify=verify, manifest=manifest)
    async for entry in reads.read(1, kinds=NEEDED):
        if not found.records and not isinstance(entry.record, RunStarted):
            raise incomplete()
        await found.add(entry.position, entry.record)
    await found.settle()
    if not found.records:
        raise not_begun()
    return found.report(perf_counter() - begun)


async def replaying(flow: Flow, run: str | Path | Reads, *, journal: str | Path = "runs", verify: bool = True) -> ReplayReport:
    """`replay` inside a running loop: handlers that wait do so in real time."""
    flow = flow_from(flow)
    reads, place = opened(run, journal)
    manifest = place.read_manifest() if place is not None else None
    if manifest is not None and "requeue" not in manifest.options:  # such a flow is cut out of one that has its parameters
        flow = flow.started_with(manifest.parameters)
    return await replay_log(flow, reads, verify=verify, manifest=manifest)


def opened(run: str | Path | Reads, journal: str | Path) -> tuple[Reads, RunDirectory | None]:
    """The log of a run, and its directory where it has one. Raises `NotFound` when there is no such run."""
    if isinstance(run, Reads):
        return run, None
    if not isinstance(run, str | Path):
        raise UsageError(f"{run!r} is not a run", remedy="Give a run's id, its directory, or its journal.")
    here = RunDirectory(Path(run))
    place = here if here.exists else find_run(Path(journal), str(run))
    return SegmentReader.open(place.path), place


def replay(flow: Flow, run: str | Path | Reads, *, journal: str | Path = "runs", verify: bool = True) -> ReplayReport:
    """Run the code of `flow` again against what `run` recorded, and with `verify` compare what comes out.

    `run` is a run's id, the beginning of one, its directory, or a journal of your own; `journal` the directory that
    holds runs. A run that lives is replayed up to now, without disturbing it. Sources give what is recorded, sinks are
    not called, and a handler that opens a connection or starts a program is refused. Memory stays flat, whatever the
    length of the run.

    Raises `NotFound` when there is no such run or the beginning of its log is gone, `FlowInvalid` (`flow_changed`) when
    the flow has other stages than the run, `JournalDamaged` and `StateFailed` when the log cannot be relied on,
    `UsageError` inside a running event loop.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        """No loop runs in this thread: we may own one."""
    else:
        raise UsageError("oz.replay was called inside a running event loop", remedy="Use `await oz.replaying(flow, run)` there.")
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(replaying(flow, run, journal=journal, verify=verify))
