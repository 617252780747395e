"""The one place that speaks to `transitions`: it defines a machine in that library's words and reads it back.

`transitions` gives the vocabulary and expands the table; it does not run anything here. A trigger through it costs
tens of microseconds, writes to the log at info level and looks up callbacks by name, so a machine is read out of it
once (`moves`) and runs from a frozen table (`compiled`). Callbacks are functions, never strings. The library logs
only when somebody configures its logger; nobody here does.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

import transitions

from obzen_runtime.fsm.row import ANY, Action, Guard, Row, Spec

__all__ = ["Definition", "Move", "define", "moves"]


class Definition(NamedTuple):
    """A machine in the words of `transitions`, without a model."""

    machine: transitions.Machine
    triggers: Mapping[type[Any], str]
    """Name of the trigger that stands for each class of event."""


class Move(NamedTuple):
    """One way from a state by an event; several for the same pair are asked in order."""

    state: str
    event: type[Any]
    target: str
    actions: tuple[Action[Any], ...]
    """Exit actions of the state, entry actions of the target, then the row's own."""
    guards: tuple[Guard[Any], ...]


def define(spec: Spec[Any]) -> Definition:
    """Define a checked machine in `transitions`.

    A state's own rows come before `*` rows, each in table order. A `*` row from its own target is an internal
    transition without callbacks. The number in a trigger's name keeps two classes of one name apart.
    """
    events = dict.fromkeys(row.event for row in spec.rows)
    triggers = {event: f"{event.__name__}_{number}" for number, event in enumerate(events)}
    states = spec.states()
    own = [_entry(row, source, triggers) for row in spec.rows for source in dict.fromkeys(row.sources) if source != ANY]
    wild = [_entry(row, state, triggers, wild=True) for row in spec.rows if ANY in row.sources for state in states]
    machine = transitions.Machine(
        model=None,
        name=spec.name,
        initial=spec.initial,
        states=[
            {"name": state, "on_enter": list(spec.on_enter.get(state, ())), "on_exit": list(spec.on_exit.get(state, ()))}
            for state in states
        ],
        transitions=[*own, *wild],
        auto_transitions=False,
    )
    return Definition(machine, triggers)


def _entry(row: Row[Any], state: str, triggers: Mapping[type[Any], str], *, wild: bool = False) -> dict[str, Any]:
    idle = wild and state == row.target
    return {
        "trigger": triggers[row.event],
        "source": state,
        "dest": None if idle else row.target,
        "conditions": [] if row.when is None else [row.when],
        "after": [] if idle else list(row.do),
    }


def moves(definition: Definition) -> Iterator[Move]:
    """Read a defined machine back, in the order in which its ways are asked."""
    machine = definition.machine
    for event, trigger in definition.triggers.items():
        for state, ways in machine.events[trigger].transitions.items():
            for way in ways:
                target = way.dest or state
                around = [] if way.dest is None else [*machine.states[state].on_exit, *machine.states[target].on_enter]
                actions = cast(tuple[Action[Any], ...], (*around, *way.after))
                guards = cast(tuple[Guard[Any], ...], tuple(condition.func for condition in way.conditions))
                yield Move(state, event, target, actions, guards)
