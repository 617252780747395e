"""The supervisor of a flow: starts stages behind a barrier, watches them, and decides what the end of the run was.

It learns everything from its children's states and ends, and from evidence; elapsed time alone never ends a run.
Stop suspends, drain finishes, cancel ends now; cancel beats stop beats drain, and there is one deadline for all.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from obzen_runtime.actor import (
    Continue,
    Control,
    Directive,
    Ended,
    Ground,
    Intensity,
    Mailbox,
    Terminate,
    Transition,
    Urgency,
    affected,
    drive,
)
from obzen_runtime.events import (
    ActorCompleted,
    ActorRestarted,
    Checkpoint,
    EndKind,
    Record,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunResumed,
    RunStarted,
)
from obzen_runtime.flow.builder import Flow, wire
from obzen_runtime.flow.contracts import Verdict, judge, records, violation
from obzen_runtime.flow.machine import (
    PIPELINE,
    Abort,
    AllStagesCompleted,
    AllStagesEnded,
    BeginFlowDrain,
    Cancel,
    DeadlinePassed,
    MaterializationComplete,
    Materialize,
    PauseFlow,
    Run,
    SourcesCompleted,
    StageReadinessComplete,
    StopFlow,
)
from obzen_runtime.flow.restore import Past, read_past
from obzen_runtime.flow.sweeping import Sweeper
from obzen_runtime.journal import MemoryJournal, SegmentJournal
from obzen_runtime.kernel import ErrorInfo, InternalError, classify, logger
from obzen_runtime.stages import (
    DEAD_LETTERS,
    TERMINAL,
    BeginDrain,
    Completed,
    Crash,
    GiveUp,
    Initialize,
    LettersStage,
    Pause,
    Ready,
    Recollects,
    Restarted,
    Resume,
    SinkStage,
    SourceStage,
    Stage,
    Start,
    Suspend,
)

__all__ = ["Pipeline"]

_CHECKPOINT = 16 * 1024 * 1024
_TRIM = 16
_GRACE = 5.0
_LAST = 1.0
_EARLY = ("created", "materializing", "materialized", "ready_for_run")


class Pipeline:
    """One run of a flow. `run` it once; everything else may be called from the loop's thread while it runs."""

    machine = PIPELINE

    def __init__(self, flow: Flow, ground: Ground, *, manual: bool = False) -> None:
        self.flow = flow
        self.name = flow.name
        self.ground = replace(ground, on_state=self._published)
        self.journal = ground.journal
        self.clock = ground.seams.clock
        self.mailbox: Mailbox[Any] = Mailbox()
        self.wired = wire(flow, ground, self._noted)
        self.stages = self.wired.stages
        self.sources = {name: stage for name, stage in self.stages.items() if isinstance(stage, SourceStage)}
        self.states = dict.fromkeys(self.stages, "created")
        self.ended: dict[str, Ended] = {}
        self.state = PIPELINE.initial
        self.gun = not manual
        self.error: ErrorInfo | None = None
        self.reason = ""
        self.verdicts: list[Verdict] = []
        self.past: Past | None = None
        """What an earlier process left."""
        self.resumed: RunResumed | None = None
        self.stuck = False
        """Some task outlived the run, because it swallows every cancellation."""
        self.watchers: list[Callable[[str], None]] = []
        self._intensity = Intensity(flow.restart)
        self._crashed: list[str] = []
        self._taken_along: set[str] = set()
        """Stages that were told to restart because another crashed."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._deadline: asyncio.TimerHandle | None = None
        self._grace: asyncio.TimerHandle | None = None
        self._abandoned = False
        self._born = 0
        """Stages whose tasks were started."""
        self._orders: list[object] = []
        """What was ordered from outside and not yet done, in order."""
        self._draining = False
        self._stretch = _CHECKPOINT
        """Bytes of log between two checkpoints; several a segment, so that whole segments can be let go."""
        self._sweeper: Sweeper | None = None
        if isinstance(ground.journal, SegmentJournal):
            self._stretch = min(_CHECKPOINT, ground.journal.options.segment_bytes // 4)
            if ground.artifacts is not None and not ground.journal.options.retention.keeps_all:
                self._sweeper = Sweeper(ground.journal, ground.artifacts, ground.seams)
        self._checkpointed = ground.journal.size
        self._commits = 0
        self._forgetful = isinstance(ground.journal, MemoryJournal) and not ground.journal.keep
        self._log = logger(actor=self.name, run=ground.run_id)

    async def look_back(self) -> Past | None:
        """What an earlier process left in the journal; None for a new run. Raises what reading the journal raises."""
        return await read_past(self.wired, self.journal)

    def go_on(self, past: Past, resumed: RunResumed) -> None:
        """Before `run`: begin where the past ends, with this record; a past that has drained is only taken over."""
        self.past = past
        self.resumed = resumed
        self._checkpointed = 0  # lives that all end before their first checkpoint would else never have one
        past.give_back()
        if past.over:
            self.state, self.reason = "drained", "drained"
            self.states = dict.fromkeys(self.stages, "drained")
        else:
            self._write(resumed)

    async def run(self) -> str:
        """Drive the run to its end; returns the final state. Never raises: what went wrong is in `error`."""
        if self.state in PIPELINE.terminal:
            return self.state
        try:
            if self.past is None:
                self._write(RunStarted(self.ground.run_id, self.name, self.clock.wall_ms(), stages=self.wired.infos))
            ended = await drive(self, self, self.ground)
            if ended.error is not None and self.error is None:
                self.error = ended.error
                self._set("failed")
        except Exception as error:  # noqa: BLE001 - the journal failed: nothing more can be recorded, everything ends
            self.error = classify(error)
            self._set("failed")
        finally:
            for timer in (self._deadline, self._grace):
                if timer is not None:
                    timer.cancel()
            await self._end_tasks()
        return self.state

    async def _end_tasks(self) -> None:
        """No stage outlives its supervisor."""
        if self._sweeper is not None:
            await self._sweeper.end()
        for stage in self.stages.values():
            stage.mailbox.kill(self.reason or "the flow has ended")
            stage.halt()
        for seconds in (0.0 if self._abandoned else _GRACE, _LAST):
            for task in await self._left(seconds):
                task.cancel()  # one that swallowed its cancellation hears it again
        for task in await self._left(0.0):
            self.stuck = True
            self._log.error("stage does not end", task=task.get_name())

    async def _left(self, seconds: float) -> set[asyncio.Task[None]]:
        """The tasks that have not ended after so many seconds."""
        tasks = self._tasks.union(*(stage.tasks for stage in self.stages.values()))
        return (await asyncio.wait(tasks, timeout=seconds))[1] if tasks else set()

    # -- commands, from outside ---------------------------------------------------------------

    def fire_gun(self) -> None:
        """Let the sources start; an order that comes too early is remembered."""
        self.gun = True
        self.mailbox.wake.set()

    def command(self, event: object) -> bool:
        """Give the flow an order; False when it has ended. One that comes too early is remembered, one too late is passed over."""
        if self.mailbox.closed or self.state in PIPELINE.terminal:
            return False
        self._orders.append(event)
        self.mailbox.wake.set()
        return True

    # -- the actor's side ---------------------------------------------------------------------

    async def dispatch_state(self, state: str, context: Any, /) -> Directive:
        if state in PIPELINE.terminal:
            return Terminate(self.reason or state)
        self._keep()
        failure = self._children()
        if failure is not None and state != "abort_requested":
            return Transition(Abort(failure))
        order = self._order(state)
        if order is not None:
            return Transition(order)
        self._steer(state)
        event = self._next(state)
        if event is not None:
            return Transition(event)
        await self.mailbox.wake.wait()
        return Continue()

    def event_for_action_error(self, error: ErrorInfo, /) -> object:
        return Abort(error)

    def event_for_stop(self, reason: str, /) -> object | None:
        return Cancel(reason)

    def control(self, state: str, /) -> Control:
        return "ignore" if state in PIPELINE.terminal else "poll"

    def completion(self, state: str, reason: str, at: int, /) -> ActorCompleted:
        return ActorCompleted(self.name, state, reason, at)

    def _order(self, state: str) -> object | None:
        """The first order that means something now. Those that come too early wait, those that come too late are passed over."""
        for order in tuple(self._orders):
            late = isinstance(order, PauseFlow) and self._draining
            if PIPELINE.handles(state, type(order)) and not late:
                self._orders.remove(order)
                return order
            if late or state not in _EARLY:
                self._orders.remove(order)
        return None

    def _steer(self, state: str) -> None:
        """Tell each source what the flow's state asks of its own. One that has not yet heard the last word is told later."""
        for name, source in self.sources.items():
            if source.mailbox.pending:
                continue
            match state, self.states[name]:
                case "running", "waiting_for_gun" | "running" | "paused" if self._draining:
                    self._post(name, BeginDrain())
                case "running", "waiting_for_gun":
                    self._post(name, Start())
                case "running", "paused":
                    self._post(name, Resume())
                case "paused", "running":
                    self._post(name, Pause())

    def _next(self, state: str) -> object | None:
        """The event that the children's states and ends amount to, or None while there is nothing to decide. Pure."""
        match state:
            case "created":
                return Materialize()
            case "materializing" if self._all("initialized"):
                return MaterializationComplete()
            case "materialized" if not self._any(self._workers(), "created", "initialized"):
                return StageReadinessComplete()
            case "ready_for_run" if self.gun and not self._any(self.sources, "initialized"):
                return Run()
            case "running" if all(name in self.ended for name in self.sources):
                return SourcesCompleted()
            case "source_completed":
                return BeginFlowDrain()
            case "draining" if self._everything_ended():
                self.verdicts = judge(self.wired.edges, self.stages)
                broken = violation(self.verdicts) or self.wired.log.letters.excess(at_end=True)
                return AllStagesCompleted() if broken is None else Abort(broken)
            case "suspending" if self._everything_ended():
                if all(ended.state == "drained" for ended in self.ended.values()) and len(self.ended) == len(self.stages):
                    self.verdicts = judge(self.wired.edges, self.stages)
                    if violation(self.verdicts) is None:
                        return AllStagesCompleted()
                return AllStagesEnded()
            case "abort_requested" if self._everything_ended():
                return AllStagesEnded()
        return None

    def _children(self) -> ErrorInfo | None:
        """See to crashed stages; the failure of one that failed for good."""
        while self._crashed:
            self._restart(self._crashed.pop(0))
        self._close_letters()
        for ended in self.ended.values():
            if ended.how == "aborted" and ended.error is not None:
                return ended.error
            if ended.state == "failed":
                return self.stages[ended.actor].error
            if ended.state == "suspended" and not self.reason:  # nobody told it to
                self._orders.append(StopFlow("journal_full"))
        return None

    def _close_letters(self) -> None:
        """The letters are complete once no stage that is not behind them can still write one."""
        if DEAD_LETTERS not in self.stages or self.states[DEAD_LETTERS] != "running" or self.stages[DEAD_LETTERS].mailbox.pending:
            return
        behind = self.flow.topology.behind(DEAD_LETTERS)
        if all(name in self.ended for name in self.stages if name != DEAD_LETTERS and name not in behind):
            cut = any(ended.state != "drained" for ended in self.ended.values())
            self._post(DEAD_LETTERS, Suspend() if cut else Completed())

    def _restart(self, name: str) -> None:
        """Restart a crashed stage, and those its strategy takes along, or let it fail."""
        error = self.stages[name].error or classify(InternalError(f"stage {name} crashed", code="crashed"))
        if self.state in ("suspending", "abort_requested"):
            self._post(name, Suspend())
            return
        if not self._intensity.permits(self.clock.monotonic()):
            self._log.error("no restart left", stage=name, error=error.message)
            self._post(name, GiveUp(error))
            return
        self._log.warning("restarting", stage=name, count=self._intensity.count, error=error.message)
        self._write(ActorRestarted(name, self._intensity.count, error, self.clock.wall_ms()))
        for each in affected(self.flow.restart.strategy, list(self.stages), name):
            if each != name:
                ended = self.states[each] in TERMINAL or isinstance(self.stages[each], LettersStage)
                if ended or self.states[each] == "restarting" or each in self._taken_along:
                    continue
                self._taken_along.add(each)
                self._post(each, Crash(error))
            self._post(each, Restarted())

    def _post(self, name: str, event: object) -> None:
        stage = self.stages[name]
        if not stage.mailbox.closed:
            stage.mailbox.post(event, Urgency.SUPERVISION)

    def _all(self, state: str) -> bool:
        return all(each == state for each in self.states.values())

    def _any(self, among: Any, *states: str) -> bool:
        return any(self.states[name] in states for name in among)

    def _workers(self) -> list[str]:
        return [name for name in self.stages if name not in self.sources]

    def _everything_ended(self) -> bool:
        return self._abandoned or len(self.ended) == self._born

    # -- the machine's actions ------------------------------------------------------------------

    async def _materialize(self, event: object) -> None:
        for stage in self.stages.values():
            task = asyncio.get_running_loop().create_task(self._child(stage), name=f"obzen stage {stage.name}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            self._born += 1
            self._post(stage.name, Initialize())

    async def _child(self, stage: Stage) -> None:
        """One stage's life; whatever ends it is told."""

        def published(state: str) -> None:
            before, self.states[stage.name] = self.states[stage.name], state
            if state == "restarting" and before != state:
                if stage.name in self._taken_along:
                    self._taken_along.remove(stage.name)
                else:
                    self._crashed.append(stage.name)
            self.mailbox.wake.set()

        try:
            ended = await drive(stage, stage, replace(self.ground, on_state=published))
        except BaseException as error:  # noqa: BLE001 - a dead task is never silent
            ended = Ended(stage.name, "aborted", self.states[stage.name], str(error), classify(error))
        self.ended[stage.name] = ended
        self.mailbox.wake.set()

    async def _ready_stages(self, event: object) -> None:
        for name in self._workers():
            self._post(name, Ready())

    async def _ready_sources(self, event: object) -> None:
        for name in self.sources:
            self._post(name, Ready())

    async def _drain_sources(self, event: object) -> None:
        self._draining = True

    async def _stop_sources(self, event: StopFlow) -> None:
        """The sources end; what they gave is processed. Stages that do not run yet end with them."""
        self.reason = event.reason
        before = self.state in ("created", "materializing", "materialized")
        for name, state in self.states.items():
            if (name in self.sources or before) and state not in TERMINAL and state != "draining":
                self._post(name, Suspend(event.reason))
        self._deadline = asyncio.get_running_loop().call_later(event.within, self.command, DeadlinePassed())
        self.ground.watchdog.end_by(event.within)

    async def _escalate(self, event: object) -> None:
        await self._cancel_stages(Cancel("stop_timeout" if self.reason == "user_stop" else self.reason))

    async def _cancel_stages(self, event: Cancel) -> None:
        if self.reason != "stop_timeout":
            self.reason = event.reason
        for stage in self.stages.values():
            stage.mailbox.kill(self.reason)
        self._give_up_in(_GRACE)

    async def _abort_stages(self, event: Abort) -> None:
        self.error = event.error
        self.reason = "failed"
        self._log.error("flow failed", error=event.error.message)
        for stage in self.stages.values():
            stage.mailbox.kill("the flow failed")
        self._give_up_in(_GRACE)

    def _give_up_in(self, seconds: float) -> None:
        """A stage that swallows its cancellation must not keep the run from ending."""

        def abandon() -> None:
            self._abandoned = True
            self.mailbox.wake.set()

        if self._grace is None:
            self._grace = asyncio.get_running_loop().call_later(seconds, abandon)

    async def _complete(self, event: object) -> None:
        now = self.clock.wall_ms()
        self.reason = "drained"
        self._write(*records(self.verdicts, now), self._checkpoint(), RunCompleted(now))

    async def _cancelled(self, event: object) -> None:
        self._write(self._checkpoint(), RunCancelled(self.clock.wall_ms(), self.reason))

    async def _failed(self, event: object) -> None:
        assert self.error is not None
        now = self.clock.wall_ms()
        self._write(*records(self.verdicts, now), self._checkpoint(), RunFailed(now, self.error))

    # -- bookkeeping ------------------------------------------------------------------------------

    def _published(self, state: str) -> None:
        self._set(state)

    def _set(self, state: str) -> None:
        if state == self.state:
            return
        self.state = state
        telemetry = self.ground.seams.telemetry
        if telemetry.handlers:
            telemetry.emit("run.state", {}, {"run": self.ground.run_id, "state": state})
        for watcher in self.watchers:
            watcher(state)

    def _write(self, *written: Record) -> None:
        self.journal.append(written)

    def _noted(self) -> None:
        """After each append of a stage. What is due is done in the supervisor's next round, when no commit is half done."""
        self._commits += 1
        if self._commits >= _TRIM if self._forgetful else self.journal.size - self._checkpointed >= self._stretch:
            self.mailbox.wake.set()
        if self._sweeper is not None and self._sweeper.waits:
            self._sweep()

    def _keep(self) -> None:
        """Checkpoint the log every 16 MiB; let a memory journal forget what all have passed."""
        if self._forgetful:
            if self._commits >= _TRIM:
                self._commits = 0
                self.journal.forget(self._floor())
        elif self.journal.size - self._checkpointed >= self._stretch:
            self._write(self._checkpoint())
            needs = [stage.needs for stage in self.stages.values() if isinstance(stage, Recollects)]
            self.journal.forget(min([self._floor(), *needs]))
            self._sweep()
            self._checkpointed = self.journal.size  # what was dropped is not there to grow beyond

    def _sweep(self) -> None:
        """Let go of state that only dropped records named."""
        if self._sweeper is not None:
            remember = [stage for stage in self.stages.values() if isinstance(stage, Recollects) and stage.name not in self.ended]
            self._sweeper.turn([stage.keeper for stage in remember if stage.keeper is not None])

    def _checkpoint(self) -> Checkpoint:
        stages, edges = self.stages.values(), self.wired.edges
        return Checkpoint(
            self.clock.wall_ms(),
            {stage.name: stage.cursor() for stage in stages},
            {stage.name: stage.written for stage in stages},
            self._ends(),
            {stage.name: stage.counters.totals() for stage in stages},
            dead_letters=self.wired.log.letters.count,
            floor=self._floor(),
            taken_ends={stage.name: dict(stage.ends) for stage in stages if stage.ends},
            edges={edge.name: (edge.delivered, edge.accounted) for edge in edges},
            snapshots={stage.name: stage.snapshot_at for stage in stages if stage.snapshot_at},
            doubted={
                stage.name: {f"{upstream}@{ordinal}": outcome for (upstream, ordinal), outcome in stage.doubted.items()}
                for stage in stages
                if isinstance(stage, SinkStage) and stage.doubted
            },
            origins=self.past.origins if self.past is not None else (),
            resumed=self.resumed,
            forked=self.past.forked if self.past is not None else None,
        )

    def _ends(self) -> dict[str, EndKind]:
        """How the stages that have drained ended, in this process or an earlier one."""
        earlier: dict[str, EndKind] = {name: "natural" for name, stage in self.stages.items() if stage.standing.drained}
        return earlier | {name: self.stages[name].end_kind for name, ended in self.ended.items() if ended.state == "drained"}

    def _floor(self) -> int:
        """The oldest position that some consumer has not passed."""
        return min((position for edge in self.wired.edges if (position := edge.oldest()) is not None), default=self.journal.head + 1)
