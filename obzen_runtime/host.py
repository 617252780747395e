"""The composition root: here, and nowhere else, a flow gets its journal, its clock, its watchdog and its loop.

`run` owns the process: it takes the signals, and ends the process when a handler never lets go. `start` embeds a
flow in a program that has a loop of its own, and changes nothing global.
"""

import asyncio
import contextlib
import os
import platform
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any, NamedTuple, Self, TypedDict, Unpack

import msgspec

from obzen_runtime.actor import Ground, Watchdog, outlast
from obzen_runtime.events import ActorStalled, Record, RunCancelled, RunCompleted, RunFailed, RunResumed
from obzen_runtime.flow import Cancel, Drain, Flow, PauseFlow, Pipeline, ResumeFlow, StopFlow, Verdict, judge_changes
from obzen_runtime.journal import (
    Journal,
    Level,
    Manifest,
    Memory,
    MemoryJournal,
    Os,
    RunDirectory,
    SegmentJournal,
    SegmentOptions,
    find_run,
    level_from,
    level_text,
)
from obzen_runtime.kernel import (
    RUN_ID,
    ErrorInfo,
    IoFailed,
    JournalLocked,
    ObzenError,
    RunId,
    Seams,
    SystemFiles,
    UsageError,
    new_run_id,
    versions,
)
from obzen_runtime.orders import Listener, command_of
from obzen_runtime.stages import code_fingerprint, schema_fingerprint

try:
    _new_loop: Callable[[], asyncio.AbstractEventLoop] = import_module("uvloop").new_event_loop
except ImportError:  # the extra [fast] is not installed
    _new_loop = asyncio.new_event_loop

__all__ = ["LOADING", "FlowFailed", "Handle", "Origin", "Report", "StageReport", "execute", "resume", "run", "start"]

LOADING: ContextVar[str] = ContextVar("LOADING", default="")
"""The program that is being imported for its flow; it must not start one meanwhile."""

_SWITCH_INTERVAL = 0.0002
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StageReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one stage did, in events."""

    state: str
    received: int = 0
    emitted: int = 0
    dropped: int = 0
    dead: int = 0
    doubted: int = 0
    errors: int = 0
    seconds: float = 0.0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended."""

    state: str
    """`drained`, `failed` or `cancelled`."""
    run_id: str
    directory: str
    """Where the run is kept; empty for a run in memory."""
    reason: str = ""
    stages: dict[str, StageReport] = {}
    contracts: tuple[Verdict, ...] = ()
    error: ErrorInfo | None = None
    dead_letters: int = 0
    earlier: bool = False
    """The run had drained before: nothing was done."""


class FlowFailed(ObzenError):
    """A flow failed. `report` says how."""

    default_code = "flow_failed"

    def __init__(self, report: Report) -> None:
        assert report.error is not None
        where = report.error.details.get("stage") or report.error.details.get("actor")
        super().__init__(f"the flow failed{f' in stage {where}' if where else ''}: {report.error.message}", remedy=report.error.remedy)
        self.report = report


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where a flow comes from, for the manifest: what the command needs to find it again."""

    file: str = ""
    variable: str = ""


class Handle:
    """A flow that runs in your loop. Use it as `async with oz.start(flow) as handle`.

    Leaving the block waits for the end; leaving it by an exception cancels the run.
    """

    def __init__(self, flow: Flow, journal: Journal, opening: "_Opening", run_id: RunId, kept: "_Kept | None" = None) -> None:
        """For `start`: with `kept` the journal is the handle's own, to be closed at the end."""
        self.flow = flow
        self.run_id = run_id
        self.directory = kept.place.path if kept is not None else None
        self._manifest = kept.manifest if kept is not None else None
        self._allowed = opening.allow_code_change
        self.journal = journal
        self._clock = opening.seams.clock
        self.watchdog = Watchdog(owns_process=opening.owns_process, on_held=self._held)
        ground = Ground(journal, opening.seams, self.watchdog, run_id, kept.place.artifacts if kept is not None else None)
        self.pipeline = Pipeline(flow, ground, manual=opening.manual)
        self._owns_process = opening.owns_process
        listens = isinstance(opening.seams.files, SystemFiles)  # a simulated disk has no FIFOs
        self._orders = (
            Listener(self.directory, lambda order: self.pipeline.command(command_of(order))) if self.directory and listens else None
        )
        self._task: asyncio.Task[Report] | None = None
        self._over = False

    async def __aenter__(self) -> Self:
        self.begin()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self.pipeline.command(Cancel("user_cancel"))
        await self.wait()

    def begin(self, *, signals: Callable[[int], None] | None = None) -> None:
        """Start the run's task, once; with `signals` the process's signals come to that function."""
        if self._task is not None:
            raise UsageError("a handle runs its flow once", remedy="Start the flow again for another run.")
        loop = asyncio.get_running_loop()
        self.watchdog.start(loop, signals=tuple(map(int, _SIGNALS)) if signals else (), on_signal=signals)
        if self._orders is not None:
            self._orders.open(loop)
        self._task = loop.create_task(self._live(), name=f"obzen {self.flow.name}")

    @property
    def state(self) -> str:
        """The supervisor's state, such as `running` or `drained`."""
        return self.pipeline.state

    def start(self) -> None:
        """Fire the gun of a flow started with `manual=True`; an early order is remembered."""
        self.pipeline.fire_gun()

    async def wait(self) -> Report:
        """Return the report once the run has ended, whatever the end was."""
        if self._task is None:
            raise UsageError("the flow was not started", remedy="Use `async with oz.start(flow) as handle`.")
        cancelled = await outlast(self._task, lambda times: self.pipeline.command(Cancel("user_cancel")))
        if cancelled is not None:
            raise cancelled
        return self._task.result()

    async def _live(self) -> Report:
        """The run, and what must be put away after it."""
        try:
            await self._go_on()
        except BaseException:
            await self._put_away()
            raise
        await self.pipeline.run()
        if self._orders is not None:
            self._orders.close()
        report = self.report()
        self._over = True
        if self.pipeline.stuck and self._owns_process:
            self.watchdog.end_by(0.0)  # leaving the loop waits for every task: the watchdog ends a process that cannot
        else:
            self.watchdog.stop()
        if self.directory is not None:
            try:
                await self.journal.close()
            except ObzenError:
                if report.error is None:
                    raise
        return report

    async def _go_on(self) -> None:
        """Take over what an earlier process left, if one did."""
        past = await self.pipeline.look_back()
        if past is None:
            return
        before = past.resumed
        recovered = self.journal.recovered if isinstance(self.journal, SegmentJournal) else None
        changed: dict[str, str] = {}
        if self._manifest is not None:
            earlier = before.code if before is not None else {}
            parameters = _parameters(self.flow)
            changed = judge_changes(self.flow, self._manifest, earlier=earlier, parameters=parameters, allowed=self._allowed)
            changed = {**earlier, **changed}
        epoch = recovered.epoch if recovered is not None else before.epoch + 1 if before is not None else 2
        lost = recovered.tail_lost if recovered is not None else None
        self.pipeline.go_on(past, RunResumed(self._clock.wall_ms(), epoch, lost, changed))

    async def _put_away(self) -> None:
        """The run never began: let go of what it holds."""
        self._over = True
        if self._orders is not None:
            self._orders.close()
        self.watchdog.stop()
        if self.directory is not None:
            with contextlib.suppress(ObzenError):
                await self.journal.close()

    async def stop(self, within: float = 30.0) -> Report:
        """Suspend: sources end, what is admitted is processed, folds keep their state; the run can be resumed."""
        self.pipeline.command(StopFlow("user_stop", within))
        return await self.wait()

    async def drain(self) -> Report:
        """Finish: sources end as if they had nothing more, everything behind them completes."""
        self.pipeline.command(Drain())
        return await self.wait()

    async def cancel(self) -> Report:
        """End now: steps in work are dropped or committed, never half."""
        self.pipeline.command(Cancel("user_cancel"))
        return await self.wait()

    def pause(self) -> None:
        """Sources take nothing until `resume`; what is under way is processed."""
        self.pipeline.command(PauseFlow())

    def resume(self) -> None:
        self.pipeline.command(ResumeFlow())

    def metrics(self) -> dict[str, dict[str, float]]:
        """Per stage: events received, emitted, dropped, dead, errors; waiting in its inputs; seconds of work."""
        found: dict[str, dict[str, float]] = {}
        for name, stage in self.pipeline.stages.items():
            waiting = sum(edge.events for edge in stage.inputs)
            found[name] = {**stage.counters.totals(), "waiting": waiting, "seconds": stage.counters.seconds}
        return found

    async def records(self, from_: int = 1) -> AsyncIterator[tuple[int, Record]]:
        """The run's records from position `from_` on, as they are written, to its end.

        Raises `NotFound` when a memory journal without `keep` has dropped what comes next.
        """
        ended = False
        async for entry in self.journal.tail(from_):
            yield entry.position, entry.record
            if ended:
                return  # the supervisor's completion stands right behind the end of the run
            ended = isinstance(entry.record, RunCompleted | RunFailed | RunCancelled)

    def report(self) -> Report:
        """How it stands now."""
        pipeline = self.pipeline
        return Report(
            state=pipeline.state,
            run_id=self.run_id,
            directory=str(self.directory or ""),
            reason=pipeline.reason,
            stages={
                name: StageReport(state=pipeline.states[name], seconds=stage.counters.seconds, **stage.counters.totals())
                for name, stage in pipeline.stages.items()
            },
            contracts=tuple(pipeline.verdicts),
            error=pipeline.error,
            dead_letters=pipeline.wired.log.letters.count,
            earlier=pipeline.past is not None and pipeline.past.over,
        )

    def _held(self, name: str, seconds: float, stack: str) -> None:
        if not self._over:
            self.journal.append([ActorStalled(name, "loop_held", seconds, self._clock.wall_ms(), stack)])


@dataclass(frozen=True)
class _Opening:
    """How a run is begun."""

    journal: str | Path | Journal
    durability: str | None = None
    """A level's name; None: the one it was started with, or `os`."""
    run_id: str | None = None
    manual: bool = False
    resume: bool = False
    """The run must be there already."""
    allow_code_change: bool = False
    origin: Origin | None = None
    owns_process: bool = False
    seams: Seams = field(default_factory=Seams)


class _Kept(NamedTuple):
    """Where a run on disk stands, and its manifest as it was started."""

    place: RunDirectory
    manifest: Manifest


def start(
    flow: Flow, *, journal: str | Path | Journal = "runs", durability: str | None = None, run_id: str | None = None, manual: bool = False
) -> Handle:
    """Embed a flow: `async with oz.start(flow) as handle: report = await handle.wait()`.

    `journal` is the directory that holds run directories, or a journal of your own; `durability` is `os` (default),
    `fsync` or `interval(ms)`. With a `run_id` that was started before the run is resumed. With `manual` sources wait
    for `handle.start()`. No signal handler is installed and no global setting is changed.
    """
    return _prepare(flow, _Opening(journal, durability, run_id, manual=manual))


def _prepare(flow: Flow, opening: _Opening) -> Handle:
    if LOADING.get():
        raise UsageError(
            f"a flow is started while {LOADING.get()} is imported",
            remedy='Put oz.run or oz.start under `if __name__ == "__main__":`; `obzen run` runs the flow itself.',
        )
    seams, journal = opening.seams, opening.journal
    level = level_from(opening.durability) if opening.durability is not None else None
    flow.topology  # noqa: B018 - a parameter that is not bound is told before a directory is made
    if isinstance(level, Memory) and isinstance(journal, str | Path):
        journal = MemoryJournal()
    if not isinstance(journal, str | Path):
        return Handle(flow, journal, opening, _name(opening))
    kept = _earlier(Path(journal), opening) or _new(flow, Path(journal), opening, level or Os())
    options = SegmentOptions(level=level or level_from(kept.manifest.durability))
    opened = SegmentJournal.open(kept.place.path, options=options, seams=seams)
    return Handle(flow, opened, opening, kept.place.run_id, kept)


def _name(opening: _Opening) -> RunId:
    return RUN_ID.new(opening.run_id) if opening.run_id is not None else new_run_id(opening.seams.clock, opening.seams.entropy)


def _earlier(base: Path, opening: _Opening) -> _Kept | None:
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
        raise JournalLocked(f"run {place.run_id} is running", remedy="Wait for its end, end it with `obzen stop`, or choose another --run-id.", run=place.run_id)
    return _Kept(place, place.read_manifest())


def _new(flow: Flow, base: Path, opening: _Opening, level: Level) -> _Kept:
    """Make the directory of a new run. Raises `IoFailed` when it cannot be made."""
    name = _name(opening)
    try:
        place = RunDirectory.create(base, name, opening.seams.files)
    except OSError as error:
        raise IoFailed(
            f"the run directory {base / name} cannot be made: {error.strerror}", remedy="Choose a directory you may write with --journal."
        ) from error
    manifest = _manifest(flow, name, level, opening.origin or _origin(flow), opening.seams.clock.wall_ms())
    place.write_manifest(manifest)
    return _Kept(place, manifest)


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
        parameters=_parameters(flow),
        options={"restart": msgspec.to_builtins(flow.restart), "window": msgspec.to_builtins(flow.window)},
        durability=level_text(level),
        versions=versions(),
        platform=platform.platform(),
        started_ms=started_ms,
    )


def _parameters(flow: Flow) -> dict[str, Any]:
    return {stage: _plain(node.bound) for stage, node in flow.topology.nodes.items() if node.bound}


def _plain(bound: Mapping[str, Any]) -> Any:
    """Parameters as JSON can hold them."""
    return msgspec.to_builtins(dict(bound), enc_hook=lambda value: str(value) if isinstance(value, PurePath) else repr(value))


def run(flow: Flow, *, journal: str | Path | Journal = "runs", durability: str | None = None, run_id: str | None = None) -> Report:
    """Run a flow to its end and return the report. Owns the process: SIGINT and SIGTERM suspend, a second one cancels.

    With a `run_id` that was started before the run is resumed: what it had committed stays, the rest is done.
    Raises `FlowFailed` when the flow failed. After a suspension by a signal it raises what the signal would have
    been without us: `KeyboardInterrupt`, or `SystemExit(143)` for SIGTERM.
    """
    return _told(*execute(flow, journal=journal, durability=durability, run_id=run_id))


def resume(flow: Flow, run: str | Path, *, journal: str | Path = "runs", allow_code_change: bool = False) -> Report:
    """Go on with a cancelled, failed or crashed run, from its last committed position, and return the report. As `run`.

    `run` is its id, the beginning of one, `--last`, or its directory; `journal` the directory that holds runs. A run
    that has drained is not touched: its report comes back. Raises `JournalLocked` while the run lives, and
    `FlowInvalid` (`flow_changed`, `code_changed`) when the flow is not the one that was started; with
    `allow_code_change` changed code of stages with state, and other parameters, are taken as they are.
    """
    return _told(*execute(flow, journal=journal, run_id=str(run), resume=True, allow_code_change=allow_code_change))


def _told(report: Report, number: int | None) -> Report:
    sys.stderr.write(footer(report) + "\n")
    if report.state == "failed":
        raise FlowFailed(report)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    if number is not None:
        raise SystemExit(128 + number)
    return report


class _How(TypedDict, total=False):
    resume: bool
    allow_code_change: bool
    origin: Origin | None


def execute(
    flow: Flow,
    *,
    journal: str | Path | Journal = "runs",
    durability: str | None = None,
    run_id: str | None = None,
    watch: Callable[[Handle], Any] | None = None,
    **how: Unpack[_How],
) -> tuple[Report, int | None]:
    """As `run`, but returns the report whatever the end was, with the signal that ended it.

    `watch(handle)` may return a coroutine that is run beside the flow and cancelled at its end. `resume` wants a run that
    is there already.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        """No loop runs in this thread: we may own it."""
    else:
        raise UsageError("oz.run was called inside a running event loop", remedy="Use `async with oz.start(flow) as handle` there.")
    if threading.current_thread() is not threading.main_thread():
        raise UsageError(
            "oz.run was called outside the main thread, where no signals can be taken over",
            remedy="Run there, or embed with `async with oz.start(flow) as handle`.",
        )
    handle_of = partial(_prepare, flow, _Opening(journal, durability, run_id, owns_process=True, **how))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_INTERVAL)
    try:
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            return runner.run(_execute(handle_of, watch))
    finally:
        sys.setswitchinterval(interval)


async def _execute(handle_of: Callable[[], Handle], watch: Callable[[Handle], Any] | None) -> tuple[Report, int | None]:
    handle = handle_of()
    first: list[int] = []

    def on_signal(number: int) -> None:
        first.append(number)
        handle.pipeline.command(StopFlow("user_stop") if len(first) == 1 else Cancel("user_cancel"))

    handle.begin(signals=on_signal)
    watching = watch(handle) if watch is not None else None
    beside = asyncio.ensure_future(watching) if watching is not None else None
    try:
        report = await handle.wait()
    finally:
        if beside is not None:
            beside.cancel()
            await asyncio.wait([beside])
    return report, first[0] if first and report.state != "drained" else None


def footer(report: Report) -> str:
    """What to look at next, for standard error."""
    letters = f", {report.dead_letters} dead letters" if report.dead_letters else ""
    head = f"{report.state}{f' ({report.reason})' if report.state == 'cancelled' else ''}{letters}"
    if not report.directory:
        return head
    place = os.path.relpath(report.directory) if not report.directory.startswith("..") else report.directory
    then = "" if report.state == "drained" else f"\n  obzen resume {place}"
    return f"{head}: {place}\n  obzen inspect {place}{then}"
