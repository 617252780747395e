"""The pattern of the runtime in a user's hands: a class with a machine and `dispatch_state`, driven by the one loop."""

import asyncio
import inspect
import platform
import types
import typing
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, final

import msgspec

from obzen_runtime.actor.directives import Control, Directive, Ended, Ground
from obzen_runtime.actor.loop import check_unused, drive
from obzen_runtime.actor.mailbox import Mailbox
from obzen_runtime.actor.outlast import outlast
from obzen_runtime.actor.watch import Watchdog
from obzen_runtime.events import ActorCompleted, ActorStalled, RunCancelled, RunCompleted, RunFailed, RunStarted, StageInfo
from obzen_runtime.fsm import Machine
from obzen_runtime.journal import Journal, Manifest, RunDirectory, SegmentJournal, SegmentOptions, journal_from, level_from, level_text
from obzen_runtime.kernel import ErrorInfo, FlowInvalid, Seams, UsageError, error_from, new_run_id, versions

__all__ = ["SelfSupervised"]

C = TypeVar("C")


class SelfSupervised(Generic[C]):
    """An actor of your own.

    Give a class attribute `machine`, `dispatch_state(state, context)` that does the work of one state and returns
    `Continue()`, `Transition(event)` or `Terminate(reason)`, and `event_for_action_error(error)` that names the
    event a failing action becomes. `run` drives it, once; nothing else can move the machine.

    `mailbox.post(event)` feeds an event from outside, ahead of the next work; `mailbox.tell(message)` leaves a message
    that `dispatch_state` takes with `mailbox.take()`; `mailbox.kill(reason)` ends it at once, whatever it waits for.
    Work under way is not interrupted by an event, so a state that has nothing to do waits with `idle`.
    """

    machine: ClassVar[Machine[Any]]

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise UsageError(f"{name!r} is not a name for an actor", remedy="Give one line of text, such as 'connection-1'.")
        self.name = name
        self.mailbox: Mailbox[Any] = Mailbox()
        self.ground: Ground | None = None
        """What it stands on, from the moment it runs."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        problems = []
        if cls.run is not SelfSupervised.run:
            problems.append(f"{cls.__name__}.run is overridden: only the loop drives a machine; put the work into dispatch_state")
        if not isinstance(getattr(cls, "machine", None), Machine):
            problems.append(f"{cls.__name__}.machine is missing: give it an oz.Machine(...)")
        problems += [
            f"{cls.__name__}.{method} is missing: define it"
            for method in ("dispatch_state", "event_for_action_error")
            if getattr(cls, method) is getattr(SelfSupervised, method)
        ]
        if not problems and not inspect.iscoroutinefunction(inspect.unwrap(cls.dispatch_state)):
            problems.append(f"{cls.__name__}.dispatch_state is not async: define it with async def")
        if inspect.iscoroutinefunction(cls.event_for_action_error):
            problems.append(f"{cls.__name__}.event_for_action_error is async: it only names an event, define it with a plain def")
        if not problems:
            problems.extend(_failure_rows_missing(cls))
        if problems:
            raise FlowInvalid(f"{cls.__name__} cannot be supervised", code="invalid_machine", problems=tuple(problems))

    @property
    def writer_id(self) -> str:
        """Stands on every log line and record of this actor."""
        return self.name

    async def dispatch_state(self, state: str, context: C) -> Directive:
        """Do the work of one state. The only place for waiting and for the outside world."""
        raise TypeError(f"{type(self).__name__} has no dispatch_state")

    def event_for_action_error(self, error: ErrorInfo) -> object:
        """The event that a failing action or dispatch becomes. Pure."""
        raise TypeError(f"{type(self).__name__} has no event_for_action_error")

    def event_for_stop(self, reason: str) -> object | None:
        """The event an order to stop (such as the task's cancellation) becomes; None ends the actor where it stands."""
        return None

    def control(self, state: str) -> Control:
        """Terminal states take no more events; every other one takes one before each dispatch; `"block"` only waits for one."""
        return "ignore" if state in self.machine.terminal else "poll"

    def completion(self, state: str, reason: str, at: int) -> ActorCompleted:
        """The record that is written once, when the actor terminates."""
        return ActorCompleted(self.name, state, reason, at)

    async def idle(self, seconds: float | None = None) -> bool:
        """Have nothing to do in `dispatch_state`: wait until an event or a message comes to `mailbox`.

        Returns True when `seconds` passed first. After False return `Continue()`: the event is taken then.
        """
        return not await self.mailbox.rest(seconds, messages=True)

    @final
    async def run(
        self,
        context: C,
        *,
        journal: str | Path | Journal = "runs",
        durability: str = "os",
        seams: Seams | None = None,
        parent: "SelfSupervised[Any] | None" = None,
    ) -> str:
        """Drive the actor to its end and return the reason it terminated with.

        `journal` is a directory, in which the run gets a directory of its own with a manifest and a journal, or a
        journal of yours, which gets the actor's records and is not closed. `durability` is that of a journal made
        here: `os`, `fsync` or `interval(ms)`. With `parent`, an actor that runs, it runs in the parent's run, with its
        journal and clock; the parent ends its children before itself.

        Raises the failure as an `ObzenError` that names actor and state when the actor aborted. Cancelling the task
        is an order to stop: the actor gets its own stop event and 30 seconds to end, then the cancellation goes on.
        """
        check_unused(self)  # before a run is made on disk
        seams = seams or Seams()
        if parent is not None:
            ended = await _run_on(self, context, _ground_of(parent))
        elif isinstance(journal, str | Path):
            ended = await _run_in_directory(self, context, Path(journal), SegmentOptions(level=level_from(durability)), seams)
        else:
            ended = await _run_on(self, context, Ground(journal_from(journal), seams))
        if ended.cancelled is not None and ended.how != "aborted":
            raise ended.cancelled
        if ended.error is not None:
            message = f"{self.name} {ended.how} in state {ended.state!r}: {ended.error.message}"
            raise error_from(msgspec.structs.replace(ended.error, message=message))
        return ended.reason


def _ground_of(parent: SelfSupervised[Any]) -> Ground:
    if parent.ground is None:
        raise UsageError(f"{parent.name} does not run, so it cannot be the parent of one that does", remedy="Run the parent first.")
    return parent.ground


async def _run_on(actor: SelfSupervised[C], context: C, ground: Ground) -> Ended:
    actor.ground = ground
    return await drive(actor, context, ground)


async def _run_in_directory(actor: SelfSupervised[C], context: C, base: Path, options: SegmentOptions, seams: Seams) -> Ended:
    """A run of one actor, with all that a run on disk has: directory, manifest, journal, watchdog, first and last record."""
    now = seams.clock.wall_ms
    run = RunDirectory.create(base, new_run_id(seams.clock, seams.entropy), seams.files)
    run.write_manifest(_manifest(actor, run, options, now()))
    journal = SegmentJournal.open(run.path, options=options, seams=seams)

    def held(name: str, seconds: float, stack: str) -> None:
        journal.append([ActorStalled(name, "loop_held", seconds, now(), stack)])

    watchdog = Watchdog(on_held=held)
    try:
        journal.append([RunStarted(run.run_id, actor.name, now(), journal.epoch, (StageInfo(actor.name, "actor"),))])
        watchdog.start(asyncio.get_running_loop())
        ended = await _run_on(actor, context, Ground(journal, seams, watchdog, run.run_id))
        journal.append([_last_record(ended, now())])
    finally:
        watchdog.stop()
        closing = asyncio.get_running_loop().create_task(journal.close())
        cancelled = await outlast(closing)
        closing.result()
        if cancelled is not None:
            raise cancelled
    return ended


def _manifest(actor: SelfSupervised[Any], run: RunDirectory, options: SegmentOptions, started_ms: int) -> Manifest:
    return Manifest(
        run_id=run.run_id,
        flow=actor.name,
        options={"machine": actor.machine.name, "class": type(actor).__qualname__},
        durability=level_text(options.level),
        versions=versions(),
        platform=platform.platform(),
        started_ms=started_ms,
    )


def _last_record(ended: Ended, at: int) -> RunCompleted | RunFailed | RunCancelled:
    if ended.how == "killed":
        return RunCancelled(at, ended.reason)
    if ended.error is not None:
        return RunFailed(at, ended.error)
    return RunCompleted(at) if ended.cancelled is None else RunCancelled(at, "user_stop")


def _failure_rows_missing(cls: type[SelfSupervised[Any]]) -> list[str]:
    """Each event type that `event_for_action_error` is annotated to return must have a row; a base may have it for a subclass."""
    machine = cls.machine
    events = {row.event.__name__: row.event for row in machine.rows}
    method = inspect.unwrap(cls.event_for_action_error)
    annotated = types.SimpleNamespace(__annotations__={"return": inspect.get_annotations(method).get("return", object)})
    try:
        returned = typing.get_type_hints(annotated, getattr(method, "__globals__", {}), events)["return"]
    except (NameError, AttributeError, TypeError, SyntaxError):  # an annotation that only a type checker understands
        return []
    kinds = [kind for kind in typing.get_args(returned) or (returned,) if isinstance(kind, type) and kind is not Any]
    return [
        f'machine {machine.name!r} has no row for {kind.__name__}, which event_for_action_error returns: add on({kind.__name__}, "*", ...)'
        for kind in kinds
        if not any(kind in event.__mro__ for event in events.values()) and kind is not object
    ]
