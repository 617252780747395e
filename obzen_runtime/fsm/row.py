"""The words a machine is written in: one row says which event leads from where to where, and what is done then.

A row is only a description. It is checked when a machine is made of it (`checks`), so that all faults of a table
are told at once.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec

__all__ = ["ANY", "Action", "Guard", "Row", "Spec", "label_of", "listed", "on"]

C = TypeVar("C")
E = TypeVar("E")

ANY = "*"
"""The source of a row that holds in every state."""

Action: TypeAlias = Callable[[C, Any], Awaitable[None] | None]
"""What a transition does: called with the context and the event; what it returns is awaited if it can be."""

Guard: TypeAlias = Callable[[C, Any], bool]
"""Whether a row applies: called with the context and the event; pure, because it may be asked in vain."""


class Row(msgspec.Struct, Generic[C], frozen=True):
    """One line of a machine's table; made by `on`."""

    event: type[Any]
    """Exact class of the FSM event."""
    sources: tuple[str, ...]
    """States the row holds in; `("*",)` for every state."""
    target: str
    """State it leads to."""
    when: Guard[C] | None = None
    """Guard; the row applies only if it says yes. Default: always."""
    do: tuple[Action[C], ...] = ()
    """Actions of the transition, run after the exit and entry actions."""


def on(
    event: type[E],
    source: str | Sequence[str],
    target: str,
    *,
    when: Callable[[C, E], bool] | None = None,
    do: Sequence[Callable[[C, E], Awaitable[None] | None]] = (),
) -> Row[C]:
    """One row: in `source` the event leads to `target`, if `when` says yes, and `do` is run.

    `source` is a state, several states, or `"*"` for any state. `event` is matched by its exact class, never by a base.
    `do` holds functions `(context, event)`, async or plain. Nothing is checked here: `Machine` tells all faults at once.
    """
    return Row(event, listed(source), target, when, listed(do))


def listed(given: Any) -> tuple[Any, ...]:
    """The tuple somebody meant: a sequence as it is, a single thing (a string too) as a tuple of one."""
    if isinstance(given, set | frozenset):
        return tuple(sorted(given, key=repr))
    return tuple(given) if isinstance(given, Sequence) and not isinstance(given, str | bytes) else (given,)


def _by_state(given: Any) -> Any:
    """Actions by state; what is no mapping stays what it is, for the checks to tell."""
    if given is not None and not isinstance(given, Mapping):
        return given
    return MappingProxyType({state: listed(actions) for state, actions in (given or {}).items()})


def label_of(function: Any) -> str:
    """The name of a guard or action for people."""
    inner = function
    while not hasattr(inner, "__name__") and hasattr(inner, "func"):
        inner = inner.func
    return str(getattr(inner, "__name__", type(inner).__name__))


class Spec(msgspec.Struct, Generic[C], frozen=True, kw_only=True):
    """A machine as it was written, before checks: what `checks`, `definition` and `compiled` read."""

    name: str
    initial: str
    rows: tuple[Row[C], ...]
    given_terminal: tuple[str, ...] | None
    """Terminal states as named; None when the table decides."""
    on_enter: Mapping[str, tuple[Action[C], ...]]
    on_exit: Mapping[str, tuple[Action[C], ...]]

    @staticmethod
    def of(
        name: str,
        initial: str,
        table: Sequence[Row[C]],
        terminal: Collection[str] | None,
        hooks: tuple[Mapping[str, Sequence[Action[C]]] | None, Mapping[str, Sequence[Action[C]]] | None],
    ) -> "Spec[C]":
        """Take what was given as it is, without judging it; `hooks` are the entry and the exit actions."""
        enter, leave = map(_by_state, hooks)
        return Spec(
            name=name,
            initial=initial,
            rows=listed(table),
            given_terminal=None if terminal is None else listed(terminal),
            on_enter=enter,
            on_exit=leave,
        )

    def own_sources(self) -> set[str]:
        """States with a row of their own."""
        return {source for row in self.rows for source in row.sources if source != ANY}

    def states(self) -> tuple[str, ...]:
        """Every state of the table in order of appearance, each once; a state only named in `terminal` is none."""
        named = [name for row in self.rows for name in (*row.sources, row.target) if name != ANY]
        known = dict.fromkeys(named)
        return tuple(dict.fromkeys([self.initial, *known])) if self.initial in known else tuple(known)

    def terminal(self) -> frozenset[str]:
        """States the machine ends in: those named, else those without a row of their own."""
        return frozenset(self.states()) - self.own_sources() if self.given_terminal is None else frozenset(self.given_terminal)
