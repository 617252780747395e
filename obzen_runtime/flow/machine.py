"""The machine of a flow's supervisor, as a table."""

from typing import Any

import msgspec

from obzen_runtime.fsm import Machine, on
from obzen_runtime.kernel import ErrorInfo, UsageError

__all__ = [
    "PIPELINE",
    "Abort",
    "AllStagesCompleted",
    "AllStagesEnded",
    "BeginFlowDrain",
    "Cancel",
    "DeadlinePassed",
    "Drain",
    "MaterializationComplete",
    "Materialize",
    "PauseFlow",
    "ResumeFlow",
    "Run",
    "SourcesCompleted",
    "StageReadinessComplete",
    "StopFlow",
]


_LONGEST = 10 * 365 * 86_400
"""Seconds; the timers of the system do not take any number."""


class Materialize(msgspec.Struct, frozen=True, tag=True):
    """Make and initialise the stages."""


class MaterializationComplete(msgspec.Struct, frozen=True, tag=True):
    """Every stage is initialised."""


class StageReadinessComplete(msgspec.Struct, frozen=True, tag=True):
    """Every stage but the sources is running; the sources wait for the gun."""


class Run(msgspec.Struct, frozen=True, tag=True):
    """Fire the gun."""


class SourcesCompleted(msgspec.Struct, frozen=True, tag=True):
    """Every source has ended."""


class BeginFlowDrain(msgspec.Struct, frozen=True, tag=True):
    """The rest of the flow finishes."""


class AllStagesCompleted(msgspec.Struct, frozen=True, tag=True):
    """Every stage has drained and every contract has passed."""


class AllStagesEnded(msgspec.Struct, frozen=True, tag=True):
    """Every stage has ended, one way or another."""


class PauseFlow(msgspec.Struct, frozen=True, tag=True):
    """Sources take nothing until ResumeFlow."""


class ResumeFlow(msgspec.Struct, frozen=True, tag=True):
    """Go on."""


class Drain(msgspec.Struct, frozen=True, tag=True):
    """Sources end naturally; everything is finished."""


class StopFlow(msgspec.Struct, frozen=True, tag=True):
    """Sources end cut short; what is admitted is processed; the run can be resumed."""

    reason: str = "user_stop"
    within: float = 30.0
    """Seconds; less than ten years."""

    def __post_init__(self) -> None:
        if not isinstance(self.within, int | float) or not 0 <= self.within < _LONGEST:
            raise UsageError(f"within={self.within!r} is not a number of seconds", remedy="Give one, such as 30.")


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """End now: current steps are dropped or committed, never half."""

    reason: str = "user_cancel"


class DeadlinePassed(msgspec.Struct, frozen=True, tag=True):
    """A stop took too long."""


class Abort(msgspec.Struct, frozen=True, tag=True):
    """A failure ends the run."""

    error: ErrorInfo


_LIVE = ("created", "materializing", "materialized", "ready_for_run", "running", "source_completed", "draining", "paused")


def _call(name: str) -> Any:
    """The action that calls the supervisor's method of this name."""

    async def action(pipeline: Any, event: object) -> None:
        await getattr(pipeline, name)(event)

    action.__name__ = name
    return action


PIPELINE: Machine[Any] = Machine(
    "pipeline",
    initial="created",
    table=[
        on(Materialize, "created", "materializing", do=[_call("_materialize")]),
        on(MaterializationComplete, "materializing", "materialized", do=[_call("_ready_stages")]),
        on(StageReadinessComplete, "materialized", "ready_for_run", do=[_call("_ready_sources")]),
        on(Run, "ready_for_run", "running"),
        on(SourcesCompleted, "running", "source_completed"),
        on(BeginFlowDrain, "source_completed", "draining"),
        on(AllStagesCompleted, "draining", "drained", do=[_call("_complete")]),
        on(PauseFlow, "running", "paused"),
        on(ResumeFlow, "paused", "running"),
        on(Drain, ("ready_for_run", "running", "paused"), "running", do=[_call("_drain_sources")]),
        on(StopFlow, _LIVE, "suspending", do=[_call("_stop_sources")]),
        on(Cancel, (*_LIVE, "suspending"), "suspending", do=[_call("_cancel_stages")]),
        on(DeadlinePassed, "suspending", "suspending", do=[_call("_escalate")]),
        on(AllStagesCompleted, "suspending", "drained", do=[_call("_complete")]),
        on(AllStagesEnded, "suspending", "cancelled", do=[_call("_cancelled")]),
        on(Abort, (*_LIVE, "suspending"), "abort_requested", do=[_call("_abort_stages")]),
        on(Cancel, "abort_requested", "abort_requested"),
        on(AllStagesEnded, "abort_requested", "failed", do=[_call("_failed")]),
    ],
    terminal=("drained", "cancelled", "failed"),
)
