"""A machine as it runs: a frozen table, asked once per event, that answers with a state and what to do.

`step` decides and does nothing: no clock, no log, no exception of its own, so that the loop above can be the only
place where anything happens. Without a guard the answer was made when the machine was built and is only looked up.
"""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Generic, NoReturn, TypeAlias, TypeVar

from obzen_runtime.fsm.checks import problems_of
from obzen_runtime.fsm.definition import define, moves
from obzen_runtime.fsm.row import Action, Guard, Row, Spec
from obzen_runtime.kernel import FlowInvalid

__all__ = ["Machine"]

C = TypeVar("C")

Step: TypeAlias = tuple[str, tuple[Action[C], ...]]
Way: TypeAlias = tuple[Guard[C] | None, Step[C]]


class Machine(Generic[C]):
    """States as a table over the context `C`; immutable, and shared by every actor that runs it.

    `table` holds rows made by `on`. For a state and the exact class of an event the state's own rows are asked first,
    then the `*` rows, each in order; the first without a guard, or whose guard says yes, is taken. A `*` row from its
    own target changes nothing and runs nothing. `terminal` names the states the machine ends in; by default those
    without a row of their own. `on_enter` and `on_exit` give actions per state, run on every transition into or out of
    it, also when it is left for itself by a row of its own.

    Raises `FlowInvalid` (code `invalid_machine`) with every fault of the table, each with its fix.
    """

    __slots__ = ("_guarded", "_plain", "compiled", "initial", "name", "rows", "spec", "states", "terminal")

    name: str
    """Name for people, logs and drawings."""
    initial: str
    """State a run begins in."""
    states: tuple[str, ...]
    """Every state: the initial one, then in order of appearance."""
    terminal: frozenset[str]
    """States a run ends in."""
    rows: tuple[Row[C], ...]
    """The table as it was written."""
    spec: Spec[C]
    """The machine as it was written: what drawings and checks read."""
    compiled: Mapping[tuple[str, type[Any]], tuple[Way[C], ...]]
    """For a state and a class of event the ways out, in the order they are asked: (guard or None, (target, actions))."""
    _plain: dict[str, dict[type[Any], Step[C]]]
    _guarded: dict[tuple[str, type[Any]], tuple[Way[C], ...]]

    def __init__(
        self,
        name: str,
        *,
        initial: str,
        table: Sequence[Row[C]],
        terminal: Collection[str] | None = None,
        on_enter: Mapping[str, Sequence[Action[C]]] | None = None,
        on_exit: Mapping[str, Sequence[Action[C]]] | None = None,
    ) -> None:
        spec = Spec.of(name, initial, table, terminal, (on_enter, on_exit))
        problems = problems_of(spec)
        if problems:
            raise FlowInvalid(f"machine {name!r} cannot be built", code="invalid_machine", problems=problems)
        ways = _ways(spec)
        plain: dict[str, dict[type[Any], Step[C]]] = {state: {} for state in spec.states()}
        for (state, event), found in ways.items():
            if found[0][0] is None:
                plain[state][event] = found[0][1]
        values = {
            "name": spec.name,
            "initial": spec.initial,
            "states": spec.states(),
            "terminal": spec.terminal(),
            "rows": spec.rows,
            "spec": spec,
            "compiled": MappingProxyType(ways),
            "_plain": plain,
            "_guarded": {key: found for key, found in ways.items() if found[0][0] is not None},
        }
        for attribute, value in values.items():
            object.__setattr__(self, attribute, value)

    def step(self, state: str, event: object, context: C) -> Step[C] | None:
        """Where `event` leads from `state` and what is then to be done: exit, entry, then the row's own actions.

        None when no row applies. Raises only what a guard raises.
        """
        ways = self._plain.get(state)
        if ways is None:
            return None
        found = ways.get(type(event))
        if found is not None:
            return found
        for guard, way in self._guarded.get((state, type(event)), ()):
            if guard is None or guard(context, event):
                return way
        return None

    def handles(self, state: str, event_type: type[Any]) -> bool:
        """Whether there is a row for this exact class of event in this state; its guards are not asked."""
        return (state, event_type) in self.compiled

    def __repr__(self) -> str:
        return f"Machine({self.name!r}, {len(self.states)} states, initial {self.initial!r})"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"machine {self.name!r} is immutable: build another one instead of setting {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"machine {self.name!r} is immutable: {name!r} cannot be removed")


def _ways(spec: Spec[C]) -> dict[tuple[str, type[Any]], tuple[Way[C], ...]]:
    """All ways by state and class of event; what stands behind a way without a guard is never asked and left out."""
    found: dict[tuple[str, type[Any]], list[Way[C]]] = {}
    for move in moves(define(spec)):
        ways = found.setdefault((move.state, move.event), [])
        if not ways or ways[-1][0] is not None:
            ways.append((move.guards[0] if move.guards else None, (move.target, move.actions)))
    return {key: tuple(ways) for key, ways in found.items()}
