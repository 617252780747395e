"""A run in hand: the flow, its journal, its clock and its watchdog come together here and nowhere else."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from obzen_runtime.actor import Ground, Watchdog, outlast
from obzen_runtime.events import ActorStalled, Record, RunCancelled, RunCompleted, RunFailed, RunResumed, SchemaChange
from obzen_runtime.flow import Cancel, Drain, Flow, PauseFlow, Pipeline, ResumeFlow, StopFlow, judge_changes, judge_schemas, schemas_written
from obzen_runtime.host.opening import Opening, open_run, parameters_of
from obzen_runtime.host.report import Report, StageReport
from obzen_runtime.journal import Journal, Retention, SegmentJournal
from obzen_runtime.kernel import ObzenError, SystemFiles, UsageError
from obzen_runtime.orders import Listener, command_of

__all__ = ["Handle", "start"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Handle:
    """A flow that runs in your loop. Use it as `async with oz.start(flow) as handle`.

    Leaving the block waits for the end; leaving it by an exception cancels the run.
    """

    def __init__(self, flow: Flow, opening: Opening) -> None:
        """For `start`. A journal on disk is the handle's own, to be closed at the end."""
        self.flow = flow
        self.run_id, self.journal, kept = open_run(flow, opening)
        self.directory = kept.place.path if kept is not None else None
        self._manifest = kept.manifest if kept is not None else None
        self._allowed = opening.allow_code_change
        self._clock = opening.seams.clock
        self.watchdog = Watchdog(owns_process=opening.owns_process, on_held=self._held)
        ground = Ground(self.journal, opening.seams, self.watchdog, self.run_id, kept.place.artifacts if kept is not None else None)
        self.pipeline = Pipeline(flow, ground, manual=opening.manual)
        self._owns_process = opening.owns_process
        listens = isinstance(opening.seams.files, SystemFiles)  # a simulated disk has no FIFOs
        self._orders = (
            Listener(self.directory, lambda order: self.pipeline.command(command_of(order))) if self.directory and listens else None
        )
        self.begun = asyncio.Event()
        """Set when the run has begun, or gone on; one that is refused never does."""
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

    @property
    def resumed(self) -> bool:
        """Whether it goes on with what an earlier process left."""
        return self.pipeline.past is not None

    @property
    def earlier(self) -> bool:
        """Whether an earlier process left nothing to do."""
        return self.pipeline.past is not None and self.pipeline.past.over

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
        self.begun.set()
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
        schemas: dict[str, tuple[SchemaChange, ...]] = {}
        if self._manifest is not None:
            earlier = before.code if before is not None else {}
            parameters = parameters_of(self.flow)
            changed = judge_changes(self.flow, self._manifest, earlier=earlier, parameters=parameters, allowed=self._allowed)
            changed = {**earlier, **changed}
            codecs, known = self.pipeline.wired.log.codecs, before.schemas if before is not None else {}
            written = {name: standing.written for name, standing in past.standings.items()}
            schemas = judge_schemas(codecs, self._manifest, earlier=known, written=written, allowed=self._allowed)
            schemas_written(codecs, self._manifest, schemas)
        epoch = recovered.epoch if recovered is not None else before.epoch + 1 if before is not None else 2
        lost = recovered.tail_lost if recovered is not None else None
        self.pipeline.go_on(past, RunResumed(self._clock.wall_ms(), epoch, lost, changed, schemas))

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
        """Let sources go on after `pause`."""
        self.pipeline.command(ResumeFlow())

    def metrics(self) -> dict[str, dict[str, float]]:
        """Per stage: events received, emitted, dropped, dead, errors; waiting in its inputs; seconds of work."""
        found: dict[str, dict[str, float]] = {}
        for name, stage in self.pipeline.stages.items():
            waiting = sum(edge.events for edge in stage.inputs)
            found[name] = {**stage.counters.totals(), "waiting": waiting, "seconds": stage.counters.seconds}
        return found

    async def records(self, from_: int = 0) -> AsyncIterator[tuple[int, Record]]:
        """The run's records from position `from_` on (0: from the first that is kept), as they are written, to its end.

        Raises `NotFound` when what comes next has been dropped.
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
            earlier=self.earlier,
        )

    def _held(self, name: str, seconds: float, stack: str) -> None:
        if not self._over:
            self.journal.append([ActorStalled(name, "loop_held", seconds, self._clock.wall_ms(), stack)])


def start(
    flow: Flow,
    *,
    journal: str | Path | Journal = "runs",
    durability: str | None = None,
    run_id: str | None = None,
    retention: str | Retention | None = None,
    manual: bool = False,
) -> Handle:
    """Embed a flow: `async with oz.start(flow) as handle: report = await handle.wait()`.

    `journal` is the directory that holds run directories, or a journal of your own; `durability` is `os` (default),
    `fsync` or `interval(ms)`. With the `run_id` of an earlier run that one is resumed. `retention` says how much of
    its past the journal keeps: `all`, an age such as `7d`, a size such as `10GiB` (the default where a source is
    endless), or both with a comma. With `manual`
    sources wait for `handle.start()`. No signal handler is installed and no global setting is changed.
    """
    return Handle(flow, Opening(journal, durability, run_id, manual=manual, retention=retention))
