"""What can be wrong with a table, told all at once and before anything runs.

Faults of form (a name that is no name, an action that is no function) come first, because the questions about
the table (is every state reached, does any row hide another) only make sense for a well-formed one.
"""

import difflib
import inspect
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from obzen_runtime.fsm.row import ANY, Row, Spec, label_of

__all__ = ["problems_of"]

SEGMENT = re.compile(r"[a-z][a-z0-9_]{0,62}\Z")


def problems_of(spec: Spec[Any]) -> tuple[str, ...]:
    """Every fault of a machine, each with its fix; empty when it can be built."""
    broken = tuple(dict.fromkeys(_form(spec)))
    if broken:
        return broken
    return tuple(dict.fromkeys((*_names(spec), *_unknown(spec), *_hidden(spec), *_ends(spec), *_reach(spec))))


def _form(spec: Any) -> Iterator[str]:
    """Faults of form; types promise there are none, which whoever runs no type checker has not read."""
    if not isinstance(spec.name, str) or not spec.name.strip() or not spec.name.isprintable():
        yield f"the machine's name {spec.name!r} is not one line of text: give it a name such as 'connection'"
    for number, row in enumerate(spec.rows, 1):
        if not isinstance(row, Row):
            yield f"item {number} of the table is {_kind(row)}, not a row: write on(Event, 'source', 'target')"
            continue
        if not isinstance(row.event, type):
            yield f"row {number} is for {row.event!r}, which is not a class: give the class of the event"
        if not row.sources:
            yield f"row {number} names no source: give a state, several states, or '*' for any state"
        if ANY in row.sources and len(row.sources) > 1:
            yield f"row {number} mixes '*' with other sources: '*' already means every state, use it alone"
        if row.when is not None and not callable(row.when):
            yield f"row {number} has {_kind(row.when)} as guard: give a function (context, event) -> bool"
        if inspect.iscoroutinefunction(row.when):
            yield f"row {number} has an async guard: define it with a plain def, because nobody waits for its answer"
        for wrong in _uncallable(row.do):
            yield f"row {number} has {_kind(wrong)} as action: give functions (context, event), such as do=[greet]"
    for word, hooks in (("on_enter", spec.on_enter), ("on_exit", spec.on_exit)):
        if not isinstance(hooks, Mapping):
            yield f"{word} is {_kind(hooks)}: give actions by state, such as {{'state': [action]}}"
            return
        for state, actions in hooks.items():
            for wrong in _uncallable(actions):
                yield f"{word} of {state!r} has {_kind(wrong)} as action: give functions (context, event)"
    yield from (f"state {name!r} is not a string: name states by strings" for name in _all_names(spec) if not isinstance(name, str))


def _uncallable(given: Sequence[Any]) -> list[Any]:
    return [item for item in given if not callable(item)]


def _names(spec: Spec[Any]) -> Iterator[str]:
    for name in _all_names(spec):
        if name == ANY:
            yield "'*' stands where one state is meant: it can only be the source of a row"
        elif not SEGMENT.match(name):
            yield f"state name {name!r} is not allowed: use a-z first, then a-z, 0-9 or _, at most 63 characters"


def _all_names(spec: Any) -> list[Any]:
    rows = [row for row in spec.rows if isinstance(row, Row)]
    in_rows = [name for row in rows for name in (*(source for source in row.sources if source != ANY), row.target)]
    return [spec.initial, *in_rows, *(spec.given_terminal or ()), *spec.on_enter, *spec.on_exit]


def _unknown(spec: Spec[Any]) -> Iterator[str]:
    states = spec.states()
    if spec.initial not in states:
        yield f"initial state {spec.initial!r} is in no row{_meant(spec.initial, states)}: correct it or add a row that leaves it"
    for name in spec.given_terminal or ():
        if name not in states:
            yield f"terminal state {name!r} is in no row{_meant(name, states)}: correct it, remove it, or add a row that leads to it"
    for word, hooks in (("on_enter", spec.on_enter), ("on_exit", spec.on_exit)):
        for name in hooks:
            if name not in states:
                yield f"{word} names the unknown state {name!r}{_meant(name, states)}: correct it or remove its actions"
    if spec.given_terminal is not None:
        ends = {*spec.own_sources(), *spec.given_terminal}
        for row in spec.rows:
            if row.target not in ends:
                yield (
                    f"target {row.target!r} of {_told(row)} is not in terminal and has no row of its own{_meant(row.target, ends)}: "
                    "correct it, name it in terminal, or give it a row"
                )


def _hidden(spec: Spec[Any]) -> Iterator[str]:
    always: dict[tuple[str, type[Any]], Row[Any]] = {}
    for row in spec.rows:
        for source in dict.fromkeys(row.sources):
            before = always.get((source, row.event))
            where = "any state" if source == ANY else f"state {source!r}"
            if before is None:
                if row.when is None:
                    always[source, row.event] = row
            elif row.when is None:
                yield (
                    f"{where} has two rows for {row.event.__name__} without a guard, to {before.target!r} and to {row.target!r}: "
                    "remove one or give the first a guard (when=)"
                )
            else:
                yield (
                    f"{where} never takes its guarded row for {row.event.__name__} to {row.target!r}, because the row to "
                    f"{before.target!r} before it has no guard: put the guarded row first"
                )


def _ends(spec: Spec[Any]) -> Iterator[str]:
    terminal = spec.terminal()
    leaving = {source: row for row in reversed(spec.rows) for source in row.sources if source != row.target}
    if spec.given_terminal is not None:
        for name in spec.given_terminal:
            if name in leaving:
                yield f"terminal state {name!r} is left by {_told(leaving[name])}: do not name it, remove the row, or use a '*' row"
    out = spec.initial in leaving or any(ANY in row.sources and row.target != spec.initial for row in spec.rows)
    if spec.initial in spec.states() and (spec.initial in terminal or not out):
        yield f"initial state {spec.initial!r} has no way out: add a row from {spec.initial!r} to another state"


def _reach(spec: Spec[Any]) -> Iterator[str]:
    """States never reached; what is only cut off by another one that is told is not told as well."""
    states = spec.states()
    if spec.initial not in states:
        return
    lost = [name for name in states if name not in _reached(spec, {spec.initial})]
    led_to = {row.target for row in spec.rows for source in row.sources if source != row.target}
    first = [name for name in lost if name not in led_to]
    covered = _reached(spec, {spec.initial, *first})
    ends = [name for name in states if name not in spec.own_sources()]
    for name in lost:
        if name in first or name not in covered:
            yield f"state {name!r} is never reached from {spec.initial!r}{_meant(name, ends)}: add a row that leads to it or remove it"


def _reached(spec: Spec[Any], start: set[str]) -> set[str]:
    reached = set(start)
    growing = True
    while growing:
        new = {row.target for row in spec.rows if ANY in row.sources or reached.intersection(row.sources)}
        growing = not new <= reached
        reached |= new
    return reached


def _told(row: Row[Any]) -> str:
    guard = f", when={label_of(row.when)}" if row.when else ""
    return f"on({row.event.__name__}, {', '.join(map(repr, row.sources))} -> {row.target!r}{guard})"


def _meant(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, sorted(set(known) - {name}), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _kind(value: object) -> str:
    return f"{value!r} ({type(value).__name__})"
