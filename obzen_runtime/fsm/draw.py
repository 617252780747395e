"""A machine as a picture, made from the table it runs by, so that a drawing cannot be out of date."""

from collections.abc import Iterator, Sequence
from textwrap import TextWrapper
from typing import Any

from obzen_runtime.fsm.compiled import Machine
from obzen_runtime.fsm.graph import Edge, Graph, Node, Shape
from obzen_runtime.fsm.row import ANY, Row, label_of
from obzen_runtime.fsm.sketch import heading
from obzen_runtime.fsm.svg import graph_svg
from obzen_runtime.kernel import UsageError

__all__ = ["draw_mermaid", "draw_svg", "draw_text", "machine_graph"]

WIDE = 30
"""Characters after which a label goes on in a new line; a name is never cut."""

_START = "[*]"
_RESERVED = frozenset(
    {
        "accdescr",
        "acctitle",
        "class",
        "classdef",
        "click",
        "default",
        "href",
        "note",
        "root",
        "root_end",
        "root_start",
        "scale",
        "state",
        "statediagram",
        "style",
    }
)
"""State names that a Mermaid state diagram reads as words of its own."""
_PLAIN = str.maketrans({":": "\u2236", ";": ",", "<": "\u2039", ">": "\u203a", '"': "'", "#": "\uff03", "\n": " "})


def draw_text(machine: Machine[Any], *, state: str | None = None) -> str:
    """The table for a terminal; `state` is marked with `>`. Raises `UsageError` when there is no such state."""
    _known(machine, state)
    rows = [(" ", "state", "event", "target", "guard", "actions")]
    for name in machine.states:
        mark = ">" if name == state else " "
        lines = list(_table(machine, name))
        if name in machine.terminal:
            lines.append(("(end)", "", "", ""))
        rows += [(mark if not number else " ", name if not number else "", *line) for number, line in enumerate(lines)]
    for row in machine.rows:
        if ANY in row.sources:
            rows.append((" ", "(any state)", *_cells(row)))
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    rows.insert(1, tuple("-" * width if number else " " for number, width in enumerate(widths)))  # type: ignore[arg-type]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([f"{machine.name}: {len(machine.states)} states, begins in {machine.initial}", "", *table]) + "\n"


def _table(machine: Machine[Any], name: str) -> Iterator[tuple[str, str, str, str]]:
    for word, hooks in (("entry", machine.spec.on_enter), ("exit", machine.spec.on_exit)):
        if hooks.get(name):
            yield f"({word})", "", "", _names(hooks[name])
    for row in machine.rows:
        if name in row.sources:
            yield _cells(row)


def _cells(row: Row[Any]) -> tuple[str, str, str, str]:
    return row.event.__name__, row.target, label_of(row.when) if row.when else "", _names(row.do)


def draw_mermaid(machine: Machine[Any], *, state: str | None = None) -> str:
    """The machine as a Mermaid state diagram; `state` is set off. Raises `UsageError` when there is no such state."""
    _known(machine, state)
    ids = {name: f"{name}_state" if name in _RESERVED else name for name in machine.states}
    while len(set(ids.values())) < len(ids):
        ids = {name: key if key == name else f"{key}_" for name, key in ids.items()}
    lines = [*heading(machine.name), "stateDiagram-v2", "    direction LR"]
    lines += [f'    state "{name}" as {key}' for name, key in ids.items() if key != name]
    if any(ANY in row.sources for row in machine.rows):
        lines.append('    state "any state" as ANY')
    lines.append(f"    [*] --> {ids[machine.initial]}")
    for row in machine.rows:
        lines += [f"    {ids.get(source, 'ANY')} --> {ids[row.target]} : {_told(row).translate(_PLAIN)}" for source in row.sources]
    for name, key in ids.items():
        for word, hooks in (("entry", machine.spec.on_enter), ("exit", machine.spec.on_exit)):
            if hooks.get(name):
                lines.append(f"    {key} : {word} / {_names(hooks[name]).translate(_PLAIN)}")
    lines += [f"    {key} --> [*]" for name, key in ids.items() if name in machine.terminal]
    if state is not None:
        lines += ["    classDef current stroke-width:3px", f"    class {ids[state]} current"]
    return "\n".join(lines) + "\n"


def draw_svg(machine: Machine[Any], *, state: str | None = None) -> str:
    """The machine as an SVG document; `state` is set off. Raises `UsageError` when there is no such state."""
    return graph_svg(machine_graph(machine, state=state))


def machine_graph(machine: Machine[Any], *, state: str | None = None) -> Graph:
    """The machine as a graph: a start dot, a node for each state, and one box that stands for any state.

    Rows between the same two states share an edge. Raises `UsageError` when there is no such state.
    """
    _known(machine, state)
    nodes = [Node(_START, shape="dot")]
    if any(ANY in row.sources for row in machine.rows):
        nodes.append(Node(ANY, ("any state",), "dashed"))
    for name in machine.states:
        inner = [
            line
            for word, hooks in (("entry", machine.spec.on_enter), ("exit", machine.spec.on_exit))
            if hooks.get(name)
            for line in _lines(f"{word} / {_names(hooks[name])}")
        ]
        shape: Shape = "double" if name in machine.terminal else "box"
        nodes.append(Node(name, (name, *inner), shape, name == state))
    labels: dict[tuple[str, str], list[str]] = {}
    for row in machine.rows:
        for source in dict.fromkeys(row.sources):
            labels.setdefault((source, row.target), []).extend(_lines(_told(row)))
    edges = [Edge(_START, machine.initial), *(Edge(source, target, "\n".join(lines)) for (source, target), lines in labels.items())]
    return Graph(tuple(nodes), tuple(edges), machine.name)


def _told(row: Row[Any]) -> str:
    guard = f" [{label_of(row.when)}]" if row.when else ""
    return f"{row.event.__name__}{guard}{' / ' + _names(row.do) if row.do else ''}"


def _lines(label: str) -> list[str]:
    return TextWrapper(WIDE, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False).wrap(label)


def _names(functions: Sequence[Any]) -> str:
    return ", ".join(label_of(function) for function in functions)


def _known(machine: Machine[Any], state: str | None) -> None:
    if state is not None and state not in machine.states:
        raise UsageError(f"machine {machine.name!r} has no state {state!r}", remedy=f"Its states are {', '.join(machine.states)}")
