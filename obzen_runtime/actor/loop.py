"""The loop that every actor runs.

The machine says what an event means in the present state; the actor does the work of a state and answers with a
directive; this file only moves between the two. Nothing here knows what it drives, so a source, a join, a flow's
supervisor and a user's connection all share these lines.

What can go wrong has one path each: a failing action or dispatch becomes the actor's failure event, taken in the
state the machine has already moved to; a failure inside that path, an event without a row, or work that fails
sixteen times running ends the actor as aborted. Every end is a record in the journal and a value for the parent.

The loop has a task of its own, so that a cancellation of whoever waits for it is an order and not an accident: work
that waits is interrupted, an action under way is not, and the machine decides what stopping means.
"""

import asyncio
import inspect
from typing import Any, Generic, Literal, TypeVar

import msgspec

from obzen_runtime.actor.directives import Actor, Continue, Directive, Ended, Ground, Terminate, Transition
from obzen_runtime.actor.mailbox import Stop, Urgency
from obzen_runtime.actor.outlast import outlast
from obzen_runtime.events import ActorAborted, ActorState, Record
from obzen_runtime.kernel import Cancelled, ErrorInfo, InternalError, ProtocolViolated, UsageError, classify, logger

__all__ = ["check_unused", "drive"]

C = TypeVar("C")

_SLICE = 0.001
_MOST_FAILURES = 16


async def drive(actor: Actor[C], context: C, ground: Ground) -> Ended:
    """Run the actor to its end, once.

    Cancelling the calling task is an order to stop: the actor gets its own stop event and `ground.stop_within`
    seconds, then a hard end; a second cancellation is a hard end. `Ended.cancelled` holds the cancellation, which
    still counts for the calling task. User code that swallows the hard end cannot be ended.

    Raises what the journal raises, and `UsageError` for an actor that has been driven before.
    """
    check_unused(actor)
    actor.mailbox.driven = True
    loop = _Loop(actor, context, ground)
    task = asyncio.get_running_loop().create_task(loop.run(), name=f"obzen {actor.name}")

    def told(times: int) -> None:
        if times == 1:
            loop.stop()
        else:
            actor.mailbox.kill("user_cancel")
            task.cancel()

    cancelled = await outlast(task, told)
    ended = (None if task.cancelled() else task.result()) or loop.ended or loop.never_ran()
    return ended if cancelled is None else msgspec.structs.replace(ended, cancelled=cancelled)


def check_unused(actor: Actor[Any]) -> None:
    """Raises `UsageError` for an actor that has been driven before."""
    if actor.mailbox.driven:
        raise UsageError(f"{actor.name} has been run: an actor runs once", remedy="Make a new one for each run.")


class _Abort(Exception):
    """The actor cannot go on."""

    def __init__(self, error: ErrorInfo, how: Literal["aborted", "killed"] = "aborted") -> None:
        self.error = error
        self.how = how


class _Failed(Exception):
    """A dispatch or an action failed; the machine decides what that means."""

    def __init__(self, error: ErrorInfo) -> None:
        self.error = error


class _Loop(Generic[C]):
    def __init__(self, actor: Actor[C], context: C, ground: Ground) -> None:
        self.actor = actor
        self.context = context
        self.ground = ground
        self.mailbox = actor.mailbox
        self.machine = actor.machine
        self.state = self.published = actor.machine.initial
        self.log = logger(actor=actor.name, run=ground.run_id)
        self.round = 0
        self.failures = 0
        self.dispatching = False
        self.interrupted = False
        self.stopping = False
        self.closed_told = False
        self.over = False
        self.deadline: asyncio.TimerHandle | None = None
        self.ended: Ended | None = None

    async def run(self) -> Ended:
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self.mailbox.on_kill = task.cancel
        self.log.info("actor started", **self._where())
        try:
            try:
                reason = await self._rounds()
                self._write(self.actor.completion(self.state, reason, self._now()))
                self.ended = Ended(self.actor.name, "completed", self.state, reason)
            except _Abort as abort:
                self.ended = self._aborted(abort.error, abort.how)
            except Exception as error:
                self.ended = self._aborted(self._located(error, "the loop"), "aborted")
            except BaseException as error:
                self._aborted(self._located(error, "the loop"), "aborted")
                raise
        finally:
            self._close()
        self.log.info("actor ended", how=self.ended.how, reason=self.ended.reason, **self._where())
        telemetry = self.ground.seams.telemetry
        if telemetry.handlers:
            telemetry.emit("actor.ended", {}, {"actor": self.actor.name, "state": self.state, "reason": self.ended.reason})
        return self.ended

    async def _rounds(self) -> str:
        """Rounds until the end; returns the reason. The clock is read once a round, the loop yielded to once a millisecond."""
        monotonic, wake = self.ground.seams.clock.monotonic, self.mailbox.wake
        yielded, waits = monotonic(), wake.waits
        while True:
            self.round += 1
            try:
                reason = await self._round()
                if reason is not None:
                    return reason
                if wake.waits != waits:  # others ran meanwhile
                    yielded, waits = monotonic(), wake.waits
                elif monotonic() - yielded >= _SLICE:
                    await asyncio.sleep(0)
                    yielded = monotonic()
            except asyncio.CancelledError as error:
                self._cancelled(error)

    async def _round(self) -> str | None:
        """One order or one piece of work, and what follows from it; returns the reason when that was the end."""
        self._check_killed()
        ordered = False
        try:
            directive = await self._order()
            ordered = directive is not None
            if directive is None:
                directive = await self._dispatch()
            self._check_killed()
            match directive:
                case Continue():
                    """Asked again in the next round."""
                case Transition(event):
                    await self._transit(event)
                case Terminate(str() as reason):
                    return reason
                case _:
                    raise _Abort(self._misuse(f"dispatch_state({self.state!r}) returned {directive!r}", _DIRECTIVES))
        except _Failed as failed:
            await self._fail(failed.error, own=not ordered)
        else:
            if not ordered:
                self.failures = 0
        return None

    # -- orders ---------------------------------------------------------------------------------

    async def _order(self) -> Directive | None:
        """What the most urgent control event asks for, waited for in a blocking state; None lets the actor work."""
        mailbox, mode = self.mailbox, self.actor.control(self.state)
        if mode == "ignore":
            return None
        if mode == "block":
            await self._until_ordered()
        elif mode != "poll":
            raise _Abort(self._misuse(f"control({self.state!r}) returned {mode!r}", "Return 'block', 'poll' or 'ignore'."))
        if mailbox.pending:
            return self._meaning(mailbox.control())
        if mailbox.closed and not self.closed_told:
            self.closed_told = True
            raise _Failed(self._misuse("its mailbox was closed while it runs", "Leave closing to the loop; post a stop event instead."))
        return None

    async def _until_ordered(self) -> None:
        mailbox = self.mailbox
        if mailbox.pending:
            return
        await mailbox.rest(messages=False)
        self._check_killed()
        if mailbox.closed and self.closed_told:
            raise _Abort(self._misuse(f"{self.state!r} waits for a command and its mailbox is closed", "Let the failure event end it."))

    def _meaning(self, event: object) -> Directive:
        if not isinstance(event, Stop):
            return Transition(event)
        if self.stopping:
            return Continue()
        self.stopping = True
        self._arm(event.within)
        own = self.actor.event_for_stop(event.reason)
        return Terminate(event.reason) if own is None else Transition(own)

    def stop(self) -> None:
        """Turn a cancellation into the actor's own stop event, with a bounded time to finish."""
        if self.over:
            return
        self._arm(self.ground.stop_within)
        if self.mailbox.closed:
            self.mailbox.kill("cancelled")
            return
        self.log.info("cancelled: stopping", within=self.ground.stop_within, **self._where())
        self.mailbox.post(Stop("cancelled", self.ground.stop_within), Urgency.STOP)
        if self.dispatching:
            self.interrupted = self.task.cancel()

    def _arm(self, within: float) -> None:
        """The hard end, `within` seconds from now; nobody gets a fresh budget."""
        if self.deadline is None:
            self.deadline = asyncio.get_running_loop().call_later(within, self.mailbox.kill, "stop_timeout")

    def _cancelled(self, error: asyncio.CancelledError) -> None:
        """The task was cancelled: by a kill, to interrupt a dispatch, or from outside, which is an order to stop too."""
        self._check_killed()
        if not self.task.cancelling():
            raise _Abort(self._located(error, "a guard"))
        if not self.interrupted:
            self.stop()
        self._calm()

    def _calm(self) -> None:
        """The cancellation has been understood: what the actor does next is not cancelled."""
        self.interrupted = False
        while self.task.cancelling():
            self.task.uncancel()

    def _check_killed(self) -> None:
        if self.mailbox.killed is not None:
            raise _Abort(classify(Cancelled(self.mailbox.killed)), "killed")

    # -- work -----------------------------------------------------------------------------------

    async def _dispatch(self) -> Directive:
        self.dispatching = True
        try:
            directive = await self.actor.dispatch_state(self.state, self.context)
        except (Exception, asyncio.CancelledError) as error:
            if self._ours(error):
                raise
            info = self._located(error, "dispatch_state")
            info = msgspec.structs.replace(info, message=f"in state {self.state!r}: {info.message}")
            self.log.error("dispatch failed", error=info.message, failures=self.failures + 1, **self._where())
            raise _Failed(info) from error
        finally:
            self.dispatching = False
        if self.interrupted:
            self._calm()
        return directive

    def _ours(self, error: BaseException) -> bool:
        """Whether this is a cancellation of the task; otherwise something the user's code waited for was cancelled."""
        return isinstance(error, asyncio.CancelledError) and self.task.cancelling() > 0

    async def _transit(self, event: object) -> None:
        """Move the machine, then run the actions; the first that fails drops those behind it."""
        source, name = self.state, type(event).__name__
        try:
            step = self.machine.step(source, event, self.context)
        except Exception as error:
            raise _Abort(self._located(error, f"a guard for {name}")) from error
        if step is None:
            what, remedy = name, f"Add a row on({name}, {source!r}, ...) to machine {self.machine.name!r}."
            if isinstance(event, type):
                what, remedy = f"the class {event.__name__} itself", f"Give an event of that class, such as {event.__name__}()."
            raise _Abort(self._misuse(f"no row for {what} in state {source!r}", remedy, code="unhandled_event"))
        self.state, actions = step
        if self.state != source or actions:
            self._moved(source, name)
        for index, action in enumerate(actions):
            try:
                done = action(self.context, event)
                if inspect.isawaitable(done):
                    await done
            except (Exception, asyncio.CancelledError) as error:
                if self._ours(error):
                    raise
                info = self._located(error, f"action {getattr(action, '__name__', action)!s}")
                self.log.error("action failed", action=index, error=info.message, **self._where())
                raise _Failed(info) from error
            self._check_killed()
        if self.state != self.published:
            self.published = self.state
            self.ground.on_state(self.state)

    async def _fail(self, error: ErrorInfo, *, own: bool) -> None:
        """The failure path; a failure inside it ends the actor, and so does work of its own that fails too often."""
        if own:
            self.failures += 1
            if self.failures >= _MOST_FAILURES:
                message = f"{self.failures} failures running, the last in state {self.state!r}"
                often = InternalError(message, code="supervisor_aborted", remedy=f"Last error: {error.message}")
                raise _Abort(msgspec.structs.replace(self._located(often, "dispatch_state"), cause=error))
        try:
            event = self.actor.event_for_action_error(error)
        except Exception as broken:
            raise _Abort(_because(self._located(broken, "event_for_action_error"), error)) from broken
        try:
            await self._transit(event)
        except _Failed as second:
            raise _Abort(_because(second.error, error)) from second
        except _Abort as abort:
            raise _Abort(_because(abort.error, error), abort.how) from abort
        if own:
            await self._back_off()

    async def _back_off(self) -> None:
        """Wait after a failure, longer each time; a command cuts the wait short."""
        if self.failures < 2:
            await asyncio.sleep(0)
            return
        await self.mailbox.rest(min(0.001 * 2**self.failures, 0.1), messages=False)

    # -- what is told ---------------------------------------------------------------------------

    def _moved(self, source: str, event: str) -> None:
        self._write(ActorState(self.actor.name, source, event, self.state, self._now()))
        self.log.debug("transition", source=source, fsm_event=event, target=self.state, **self._where())
        telemetry = self.ground.seams.telemetry
        if telemetry.handlers:
            telemetry.emit("actor.transition", {}, {"actor": self.actor.name, "source": source, "event": event, "target": self.state})

    def _aborted(self, error: ErrorInfo, how: Literal["aborted", "killed"]) -> Ended:
        say = self.log.info if how == "killed" else self.log.error
        say(f"actor {how}", error=error.message, **self._where())
        self._write(ActorAborted(self.actor.name, self.state, error, self._now()))
        return Ended(self.actor.name, how, self.state, error.message, error)

    def never_ran(self) -> Ended:
        """Its task was cancelled before the first step."""
        self._close()
        return self._aborted(classify(Cancelled(f"{self.actor.name} was cancelled before its first round")), "killed")

    def _close(self) -> None:
        self.over = True
        if self.deadline is not None:
            self.deadline.cancel()
        for left in self.mailbox.close():
            self.log.debug("event never taken", left=type(left).__name__, **self._where())

    def _located(self, error: BaseException, where: str) -> ErrorInfo:
        info = classify(error)
        return msgspec.structs.replace(info, details={**info.details, "state": self.state, "where": where, "actor": self.actor.name})

    def _misuse(self, what: str, remedy: str, *, code: str | None = None) -> ErrorInfo:
        return self._located(ProtocolViolated(f"{self.actor.name}: {what}", code=code, remedy=remedy), "the loop")

    def _where(self) -> dict[str, Any]:
        return {"state": self.state, "round": self.round, "position": self.ground.journal.head}

    def _write(self, record: Record) -> None:
        self.ground.journal.append([record])

    def _now(self) -> int:
        return self.ground.seams.clock.wall_ms()


_DIRECTIVES = "Return Continue(), Transition(event) or Terminate(reason), the reason being a string."


def _because(error: ErrorInfo, cause: ErrorInfo) -> ErrorInfo:
    """The failure of a failure path, with the failure it was to handle."""
    return error if error.cause is not None else msgspec.structs.replace(error, cause=cause)
