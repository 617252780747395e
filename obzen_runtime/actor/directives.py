"""What an actor and the loop say to each other: directives, how commands are heard, how it ended, what it stands on."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from obzen_runtime.actor.mailbox import Mailbox
from obzen_runtime.actor.watch import Watchdog
from obzen_runtime.events import ActorCompleted
from obzen_runtime.fsm import Machine
from obzen_runtime.journal import ArtifactStore, Journal
from obzen_runtime.kernel import ErrorInfo, Seams

__all__ = ["Actor", "Continue", "Control", "Directive", "Ended", "Ground", "Terminate", "Transition"]

C_contra = TypeVar("C_contra", contravariant=True)


class Continue(msgspec.Struct, frozen=True, tag=True):
    """Stay in this state and be asked again."""


class Transition(msgspec.Struct, frozen=True, tag=True):
    """Feed `event` to the machine."""

    event: Any


class Terminate(msgspec.Struct, frozen=True, tag=True):
    """Leave the loop; whoever watches learns `reason`."""

    reason: str


Directive = Continue | Transition | Terminate

Control = Literal["block", "poll", "ignore"]
"""How a state hears control events: *block* waits for one, *poll* takes one before each dispatch, *ignore* takes none."""


class Ended(msgspec.Struct, frozen=True):
    """How an actor ended, told to its parent, always."""

    actor: str
    how: Literal["completed", "aborted", "killed"]
    state: str
    reason: str
    error: ErrorInfo | None = None
    """Why it aborted or was killed; None when it completed."""
    cancelled: asyncio.CancelledError | None = None
    """The cancellation of the driving task that the end answers to: raise it again once your own work is done."""


class Actor(Protocol[C_contra]):
    """What the loop asks of whom it drives."""

    name: str
    mailbox: Mailbox[Any]

    @property
    def machine(self) -> Machine[Any]: ...

    async def dispatch_state(self, state: str, context: C_contra, /) -> Directive:
        """Do the work of one state; the only place that waits for the outside."""
        ...

    def event_for_action_error(self, error: ErrorInfo, /) -> object:
        """The FSM event a failure becomes. Pure."""
        ...

    def event_for_stop(self, reason: str, /) -> object | None:
        """The FSM event an order to stop becomes; None ends the actor where it stands. Pure."""
        ...

    def control(self, state: str, /) -> Control: ...

    def completion(self, state: str, reason: str, at: int, /) -> ActorCompleted:
        """The record of the end."""
        ...


def _nobody(state: str) -> None:
    """Nobody watches."""


@dataclass(slots=True)
class Ground:
    """What an actor stands on: the journal it shares, the seams, and who is told."""

    journal: Journal
    seams: Seams = field(default_factory=Seams)
    watchdog: Watchdog = field(default_factory=Watchdog)
    run_id: str = ""
    artifacts: ArtifactStore | None = None
    """Where snapshots are kept; None for a run in memory."""
    on_state: Callable[[str], None] = _nobody
    """Told each new state after the actions that led to it have run."""
    stop_within: float = 30.0
    """Seconds a cancelled actor has to end in good order."""
