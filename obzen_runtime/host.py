"""The composition root: here, and nowhere else, a flow gets its journal, its clock, its watchdog and its loop.

`run` owns the process: it takes the signals, and ends the process when a handler never lets go. `start` embeds a
flow in a program that has a loop of its own, and changes nothing global.
"""

import asyncio
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
from typing import Any, Self

import msgspec

from obzen_runtime.actor import Ground, Watchdog, outlast
from obzen_runtime.events import ActorStalled, Record, RunCancelled, RunCompleted, RunFailed
from obzen_runtime.flow import Cancel, Drain, Flow, PauseFlow, Pipeline, ResumeFlow, StopFlow, Verdict
from obzen_runtime.journal import (
    Journal,
    Level,
    Manifest,
    Memory,
    MemoryJournal,
    RunDirectory,
    SegmentJournal,
    SegmentOptions,
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

__all__ = ["LOADING", "FlowFailed", "Handle", "Origin", "Report", "StageReport", "execute", "run", "start"]

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

    def __init__(self, flow: Flow, journal: Journal, opening: "_Opening", run_id: RunId, directory: Path | None = None) -> None:
        """For `start`: `directory` is set when the journal is the handle's own, to be closed at the end."""
        self.flow = flow
        self.run_id = run_id
        self.directory = directory
        self.journal = journal
        self._clock = opening.seams.clock
        self.watchdog = Watchdog(owns_process=opening.owns_process, on_held=self._held)
        ground = Ground(journal, opening.seams, self.watchdog, run_id)
        self.pipeline = Pipeline(flow, ground, manual=opening.manual)
        self._owns_process = opening.owns_process
        listens = isinstance(opening.seams.files, SystemFiles)  # a simulated disk has no FIFOs
        self._orders = Listener(directory, lambda order: self.pipeline.command(command_of(order))) if directory and listens else None
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
        )

    def _held(self, name: str, seconds: float, stack: str) -> None:
        if not self._over:
            self.journal.append([ActorStalled(name, "loop_held", seconds, self._clock.wall_ms(), stack)])


@dataclass(frozen=True)
class _Opening:
    """How a run is begun."""

    journal: str | Path | Journal
    durability: str = "os"
    run_id: str | None = None
    manual: bool = False
    origin: Origin | None = None
    owns_process: bool = False
    seams: Seams = field(default_factory=Seams)


def start(
    flow: Flow, *, journal: str | Path | Journal = "runs", durability: str = "os", run_id: str | None = None, manual: bool = False
) -> Handle:
    """Embed a flow: `async with oz.start(flow) as handle: report = await handle.wait()`.

    `journal` is the directory that holds run directories, or a journal of your own; `durability` is `os`, `fsync` or
    `interval(ms)`. With `manual` sources wait for `handle.start()`. No signal handler is installed and no global
    setting is changed.
    """
    return _prepare(flow, _Opening(journal, durability, run_id, manual=manual))


def _prepare(flow: Flow, opening: _Opening) -> Handle:
    if LOADING.get():
        raise UsageError(
            f"a flow is started while {LOADING.get()} is imported",
            remedy='Put oz.run or oz.start under `if __name__ == "__main__":`; `obzen run` runs the flow itself.',
        )
    seams, journal = opening.seams, opening.journal
    name = RUN_ID.new(opening.run_id) if opening.run_id is not None else new_run_id(seams.clock, seams.entropy)
    level = level_from(opening.durability)
    flow.topology  # noqa: B018 - a parameter that is not bound is told before a directory is made
    if isinstance(level, Memory) and isinstance(journal, str | Path):
        journal = MemoryJournal()
    if not isinstance(journal, str | Path):
        return Handle(flow, journal, opening, name)
    place = _place(Path(journal), name)
    place.write_manifest(_manifest(flow, name, level, opening.origin or _origin(flow), seams.clock.wall_ms()))
    opened = SegmentJournal.open(place.path, options=SegmentOptions(level=level), seams=seams)
    return Handle(flow, opened, opening, name, place.path)


def _place(base: Path, name: RunId) -> RunDirectory:
    """The directory of a new run. Raises `JournalLocked` while a run of this name lives, `IoFailed` when it cannot be made."""
    there = RunDirectory(base / name)
    try:
        if there.exists and there.state() == "running":
            raise JournalLocked(f"run {name} is running", remedy="Wait for its end, or choose another --run-id.", run=name)
        return RunDirectory.create(base, name)
    except OSError as error:
        raise IoFailed(
            f"the run directory {base / name} cannot be made: {error.strerror}", remedy="Choose a directory you may write with --journal."
        ) from error


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
        parameters={stage: _plain(node.bound) for stage, node in topology.nodes.items() if node.bound},
        options={"restart": msgspec.to_builtins(flow.restart), "window": msgspec.to_builtins(flow.window)},
        durability=level_text(level),
        versions=versions(),
        platform=platform.platform(),
        started_ms=started_ms,
    )


def _plain(bound: Mapping[str, Any]) -> Any:
    """Parameters as JSON can hold them."""
    return msgspec.to_builtins(dict(bound), enc_hook=lambda value: str(value) if isinstance(value, PurePath) else repr(value))


def run(flow: Flow, *, journal: str | Path | Journal = "runs", durability: str = "os", run_id: str | None = None) -> Report:
    """Run a flow to its end and return the report. Owns the process: SIGINT and SIGTERM suspend, a second one cancels.

    Raises `FlowFailed` when the flow failed. After a suspension by a signal it raises what the signal would have
    been without us: `KeyboardInterrupt`, or `SystemExit(143)` for SIGTERM.
    """
    report, number = execute(flow, journal=journal, durability=durability, run_id=run_id)
    sys.stderr.write(footer(report) + "\n")
    if report.state == "failed":
        raise FlowFailed(report)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    if number is not None:
        raise SystemExit(128 + number)
    return report


def execute(
    flow: Flow,
    *,
    journal: str | Path | Journal = "runs",
    durability: str = "os",
    run_id: str | None = None,
    watch: Callable[[Handle], Any] | None = None,
    origin: Origin | None = None,
) -> tuple[Report, int | None]:
    """As `run`, but returns the report whatever the end was, with the signal that ended it.

    `watch(handle)` may return a coroutine that is run beside the flow and cancelled at its end.
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
    handle_of = partial(_prepare, flow, _Opening(journal, durability, run_id, origin=origin, owns_process=True))
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
    return f"{head}: {place}\n  obzen inspect {place}"
