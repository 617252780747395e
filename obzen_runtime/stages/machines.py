"""The machines of all stages, as tables.

Every stage goes created → initialized → … → drained, suspended or failed. Failure is legal everywhere; pause and
crash are legal in every state that works, and lead back to the state that was left.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from obzen_runtime.fsm import Machine, on
from obzen_runtime.kernel import ErrorInfo

__all__ = [
    "JOIN",
    "LETTERS",
    "SINK",
    "SOURCE",
    "TERMINAL",
    "TRANSFORM",
    "BeginDrain",
    "Completed",
    "Crash",
    "DrainComplete",
    "Fail",
    "FlushComplete",
    "GiveUp",
    "Initialize",
    "InputEnded",
    "Pause",
    "Ready",
    "ReferenceEnded",
    "Restarted",
    "Resume",
    "Start",
    "Suspend",
]


class Initialize(msgspec.Struct, frozen=True, tag=True):
    """Make what the stage needs."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Start; a source waits for the gun."""


class Start(msgspec.Struct, frozen=True, tag=True):
    """The gun: everything downstream is running."""


class Completed(msgspec.Struct, frozen=True, tag=True):
    """The source has nothing more."""


class BeginDrain(msgspec.Struct, frozen=True, tag=True):
    """End naturally with what there is."""


class InputEnded(msgspec.Struct, frozen=True, tag=True):
    """Every input has ended."""


class ReferenceEnded(msgspec.Struct, frozen=True, tag=True):
    """The reference side of a join is complete."""


class FlushComplete(msgspec.Struct, frozen=True, tag=True):
    """Everything delivered has its receipt."""


class DrainComplete(msgspec.Struct, frozen=True, tag=True):
    """The last output is written."""


class Suspend(msgspec.Struct, frozen=True, tag=True):
    """End here, to be resumed."""

    reason: str = "user_stop"


class Pause(msgspec.Struct, frozen=True, tag=True):
    """Take nothing until Resume."""


class Resume(msgspec.Struct, frozen=True, tag=True):
    """Go on."""


class Crash(msgspec.Struct, frozen=True, tag=True):
    """The stage itself broke; its last committed position stands."""

    error: ErrorInfo


class Restarted(msgspec.Struct, frozen=True, tag=True):
    """Rebuild at the last committed position and go on."""


class GiveUp(msgspec.Struct, frozen=True, tag=True):
    """No restart is left."""

    error: ErrorInfo


class Fail(msgspec.Struct, frozen=True, tag=True):
    """The stage failed for good."""

    error: ErrorInfo


TERMINAL = frozenset({"drained", "suspended", "failed"})


async def _initialize(stage: Any, event: Initialize) -> None:
    await stage.initialize()


async def _failed(stage: Any, event: Fail | GiveUp) -> None:
    stage.error = event.error


async def _crashed(stage: Any, event: Crash) -> None:
    stage.crashed(event.error)


async def _rebuild(stage: Any, event: Restarted) -> None:
    await stage.rebuild()


async def _drained(stage: Any, event: object) -> None:
    await stage.finish("natural")


async def _suspended(stage: Any, event: object) -> None:
    await stage.finish("truncated")


async def _poisoned(stage: Any, event: object) -> None:
    await stage.finish("poison")


def _remember(state: str) -> Callable[[Any, Any], Any]:
    async def remember(stage: Any, event: object) -> None:
        stage.left = state

    return remember


def _back_to(state: str) -> Callable[[Any, Any], bool]:
    def left(stage: Any, event: object) -> bool:
        return bool(stage.left == state)

    left.__name__ = f"left_{state}"  # drawings show it
    return left


def _machine(name: str, rows: Sequence[Any], active: Sequence[str]) -> Machine[Any]:
    """Complete a stage's own rows with what every stage shares; `active` are the states that work."""
    shared = [
        on(Initialize, "created", "initialized", do=[_initialize]),
        *rows,
        *(on(Resume, "paused", state, when=_back_to(state)) for state in active),
        *(on(Restarted, "restarting", state, when=_back_to(state), do=[_rebuild]) for state in active),
        on(Pause, tuple(active), "paused"),
        on(Suspend, (*active, "created", "initialized", "paused", "restarting"), "suspended"),
        on(Crash, (*active, "paused", "restarting"), "restarting", do=[_crashed]),
        on(GiveUp, "restarting", "failed", do=[_failed]),
        on(Fail, "*", "failed", do=[_failed]),
    ]
    return Machine(
        name,
        initial="created",
        table=shared,
        terminal=tuple(sorted(TERMINAL)),
        on_enter={"drained": [_drained], "suspended": [_suspended], "failed": [_poisoned]},
        on_exit={state: [_remember(state)] for state in active},
    )


SOURCE: Machine[Any] = _machine(
    "source",
    [
        on(Ready, "initialized", "waiting_for_gun"),
        on(Start, "waiting_for_gun", "running"),
        on(Suspend, "waiting_for_gun", "suspended"),
        on(BeginDrain, "waiting_for_gun", "draining"),
        on(BeginDrain, ("running", "paused"), "draining"),
        on(Completed, "running", "draining"),
        on(DrainComplete, "draining", "drained"),
    ],
    ["running", "draining"],
)

TRANSFORM: Machine[Any] = _machine(
    "transform",
    [
        on(Ready, "initialized", "running"),
        on(InputEnded, "running", "draining"),
        on(BeginDrain, "running", "draining"),
        on(DrainComplete, "draining", "drained"),
    ],
    ["running", "draining"],
)

JOIN: Machine[Any] = _machine(
    "join",
    [
        on(Ready, "initialized", "hydrating"),
        on(ReferenceEnded, "hydrating", "enriching"),
        on(InputEnded, "enriching", "draining"),
        on(BeginDrain, ("hydrating", "enriching"), "draining"),
        on(DrainComplete, "draining", "drained"),
    ],
    ["hydrating", "enriching", "draining"],
)

SINK: Machine[Any] = _machine(
    "sink",
    [
        on(Ready, "initialized", "running"),
        on(InputEnded, "running", "flushing"),
        on(BeginDrain, "running", "flushing"),
        on(FlushComplete, "flushing", "draining"),
        on(DrainComplete, "draining", "drained"),
    ],
    ["running", "flushing", "draining"],
)

LETTERS: Machine[Any] = _machine(
    "dead_letters",
    [
        on(Ready, "initialized", "running"),
        on(Completed, "running", "draining"),
        on(DrainComplete, "draining", "drained"),
    ],
    ["running", "draining"],
)
"""`flow.dead_letters`: fed by the other stages, complete when none of them can fail any more."""
