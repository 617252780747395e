"""Where everything of a drawing stands, in pixels: boxes, labels and the lines between them.

`layers` has decided columns and orders; here they get sizes. Text is measured as monospaced, so that a box is never
smaller than its words. Heights are found by sweeps: a column wants to stand where its neighbours are, and the
nearest arrangement that keeps its order and distances is computed exactly (pooling of adjacent violators).
A label stands on its own line, in a column that holds no box; a line crosses columns in slots of its own.
"""

import unicodedata
from collections.abc import Sequence
from itertools import pairwise

import msgspec

from obzen_runtime.fsm.graph import Graph, Node
from obzen_runtime.fsm.layers import Chain, Layers, layers_of

__all__ = ["CHARACTER", "LINE", "SMALL", "Box", "Label", "Layout", "Line", "Loop", "layout_of", "width_of"]

CHARACTER = 7.3
"""Width of one monospaced character of a node's first line, pixels."""
SMALL = 6.7
"""Width of one character of labels and further lines, pixels."""
LINE = 16.0
"""Height of a line of text, pixels."""

MARGIN = 20.0
HEADING = 30.0
PAD = 12.0
GAP = 26.0
APART = 20.0
PORT = 14.0
LOOP = 20.0
DOT = 12.0
SWEEPS = 60
EFFORT = 300_000
"""Slots looked at in all sweeps together; a graph of thousands of slots is settled more coarsely, not more slowly."""


class Box(msgspec.Struct, frozen=True):
    """A node's place; `x` and `y` are its left upper corner."""

    node: Node
    x: float
    y: float
    width: float
    height: float


class Label(msgspec.Struct, frozen=True):
    """A label's place: its lines are centred on `x`, the last one stands on the height `y`."""

    lines: tuple[str, ...]
    x: float
    y: float


class Line(msgspec.Struct, frozen=True):
    """An arrow: straight, level pieces joined by curves; it points at its last piece's end."""

    source: str
    target: str
    pieces: tuple[tuple[float, float, float], ...]
    """(x of begin, x of end, y) of every level piece, from the edge's source to its target."""


class Loop(msgspec.Struct, frozen=True):
    """An arrow from a node to itself, above its box: from `x + reach` up and back down to `x - reach`, at height `y`."""

    x: float
    y: float
    reach: float
    height: float


class Layout(msgspec.Struct, frozen=True):
    """A drawing without its looks."""

    width: float
    height: float
    title: str
    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]
    loops: tuple[Loop, ...]
    labels: tuple[Label, ...]


class _Slot(msgspec.Struct):
    """What a slot needs around the height of its line: a node, a label, or just a line that passes."""

    width: float
    above: float
    below: float
    y: float = 0.0


def width_of(text: str, character: float) -> float:
    """Pixels of a line of text, wide characters counted as two."""
    return character * sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text)


def layout_of(graph: Graph) -> Layout:
    """Place everything; equal graphs get equal layouts."""
    layers = layers_of(graph)
    loops = _loop_lines(graph, layers)
    ports = _ports(graph, layers)
    slots = _sized(graph, layers, loops, ports)
    _settle(slots, layers, ports)
    _fit(slots, MARGIN + (HEADING if graph.title else 0.0))
    columns = _columns(slots, layers)
    return _placed(graph, layers, loops, (slots, columns, ports))


def _loop_lines(graph: Graph, layers: Layers) -> dict[int, tuple[str, ...]]:
    index = {node.id: number for number, node in enumerate(graph.nodes)}
    lines: dict[int, tuple[str, ...]] = {}
    for edge in layers.loops:
        lines[index[edge.source]] = (*lines.get(index[edge.source], ()), *edge.lines())
    return lines


def _ports(graph: Graph, layers: Layers) -> dict[tuple[int, int], float]:
    """How far off the middle of slot a the line to its neighbour b leaves it; only nodes have more than one line a side."""
    place = {slot: number for column in layers.columns for number, slot in enumerate(column)}
    sides: dict[tuple[int, bool], list[int]] = {}
    for chain in layers.chains:
        sides.setdefault((chain.slots[0], True), []).append(chain.slots[1])
        sides.setdefault((chain.slots[-1], False), []).append(chain.slots[-2])
    return {
        (node, far): (number - (len(lines) - 1) / 2) * PORT
        for (node, _), lines in sides.items()
        for number, far in enumerate(sorted(lines, key=lambda slot: place[slot]))
        if graph.nodes[node].shape != "dot"
    }


def _sized(graph: Graph, layers: Layers, loops: dict[int, tuple[str, ...]], ports: dict[tuple[int, int], float]) -> list[_Slot]:
    slots = []
    spread = dict.fromkeys(range(len(graph.nodes)), 0.0)
    for (end, _), offset in ports.items():
        spread[end] = max(spread[end], abs(offset))
    for number, node in enumerate(graph.nodes):
        width, height = _box(node, spread[number])
        lines = loops.get(number)
        over = 0.0 if lines is None else LOOP + LINE * len(lines) + 4
        slots.append(_Slot(max([width, *(width_of(line, SMALL) for line in lines or ())]), height / 2 + over, height / 2))
    labels = {chain.labelled: chain.edge.lines() for chain in layers.chains}
    passing = sorted({slot for chain in layers.chains for slot in chain.slots[1:-1]})
    for slot in passing:
        lines = labels.get(slot, ())
        wide = max((width_of(line, SMALL) + 8 for line in lines), default=0.0)
        slots.append(_Slot(wide, LINE * len(lines) + 2 if lines else 3.0, 4.0))
    return slots


def _box(node: Node, spread: float) -> tuple[float, float]:
    if node.shape == "dot":
        return DOT, DOT
    first, *rest = node.shown()
    wide = max([width_of(first, CHARACTER), *(width_of(line, SMALL) for line in rest)])
    return max(wide + 2 * PAD + (8 if node.shape in ("pill", "double") else 0), 56.0), max(
        LINE * (1 + len(rest)) + 18, 2 * spread + 2 * PAD
    )


def _settle(slots: Sequence[_Slot], layers: Layers, ports: dict[tuple[int, int], float]) -> None:
    """Move the columns to where their neighbours are, from both ends, until it hardly changes any more."""
    wishes: list[list[tuple[int, float, float]]] = [[] for _ in slots]
    for chain in layers.chains:
        for near, far in pairwise(chain.slots):
            offset = ports.get((near, far), 0.0) - ports.get((far, near), 0.0)
            weight = 1.0 if near == chain.slots[0] or far == chain.slots[-1] else 6.0
            wishes[far].append((near, offset, weight))
            wishes[near].append((far, -offset, weight))
    for column in layers.columns:
        _spread(slots, column, [0.0] * len(column), [1.0] * len(column))
    for sweep in range(max(4, min(SWEEPS, EFFORT // (len(slots) + 1)))):
        for column in layers.columns if sweep % 2 == 0 else reversed(layers.columns):
            weights = [sum(weight for _, _, weight in wishes[slot]) for slot in column]
            wanted = [
                sum((slots[near].y + offset) * weight for near, offset, weight in wishes[slot]) / total if total else slots[slot].y
                for slot, total in zip(column, weights, strict=True)
            ]
            _spread(slots, column, wanted, [weight or 0.1 for weight in weights])


def _spread(slots: Sequence[_Slot], column: Sequence[int], wanted: Sequence[float], weights: Sequence[float]) -> None:
    """Put a column as near as can be to the wanted heights (least squares) with its order and distances kept."""
    sums: list[float] = []
    for number, slot in enumerate(column):
        above = slots[column[number - 1]] if number else None
        sums.append(sums[-1] + above.below + APART / 2 + slots[slot].above if above else 0.0)
    pools: list[tuple[float, float, int]] = []
    for want, weight, shift in zip(wanted, weights, sums, strict=True):
        pool = (want - shift, weight, 1)
        while pools and pools[-1][0] > pool[0]:
            value, heavy, size = pools.pop()
            pool = ((value * heavy + pool[0] * pool[1]) / (heavy + pool[1]), heavy + pool[1], size + pool[2])
        pools.append(pool)
    values = [value for value, _, size in pools for _ in range(size)]
    for slot, value, shift in zip(column, values, sums, strict=True):
        slots[slot].y = value + shift


def _fit(slots: Sequence[_Slot], top: float) -> None:
    highest = min((slot.y - slot.above for slot in slots), default=0.0)
    for slot in slots:
        slot.y = round(slot.y - highest + top, 1)


def _columns(slots: Sequence[_Slot], layers: Layers) -> dict[int, tuple[float, float]]:
    """Left and right end of the column that each slot stands in; steep lines get a wider gap."""
    places: dict[int, tuple[float, float]] = {}
    steepest = [0.0] * len(layers.columns)
    column_of = {slot: number for number, column in enumerate(layers.columns) for slot in column}
    for chain in layers.chains:
        for near, far in pairwise(chain.slots):
            steepest[column_of[near]] = max(steepest[column_of[near]], abs(slots[near].y - slots[far].y))
    x = MARGIN
    for number, column in enumerate(layers.columns):
        width = max((slots[slot].width for slot in column), default=0.0)
        places.update(dict.fromkeys(column, (x, x + width)))
        x += width + GAP + min(40.0, steepest[number] / 8)
    return places


_Places = tuple[Sequence[_Slot], dict[int, tuple[float, float]], dict[tuple[int, int], float]]


def _placed(graph: Graph, layers: Layers, loops: dict[int, tuple[str, ...]], places: _Places) -> Layout:
    slots, columns, ports = places
    boxes, rounds, labels = [], [], []
    for number, node in enumerate(graph.nodes):
        (left, right), slot = columns[number], slots[number]
        width = _box(node, 0.0)[0]
        box = Box(node, round((left + right - width) / 2, 1), round(slot.y - slot.below, 1), round(width, 1), round(2 * slot.below, 1))
        boxes.append(box)
        if number in loops:
            middle = round((left + right) / 2, 1)
            rounds.append(Loop(middle, box.y, min(16.0, width / 4), LOOP))
            if loops[number]:
                labels.append(Label(loops[number], middle, round(box.y - LOOP - 4, 1)))
    lines = []
    for chain in layers.chains:
        lines.append(_line(chain, boxes, (slots, columns, ports)))
        if chain.edge.lines():
            left, right = columns[chain.labelled]
            labels.append(Label(chain.edge.lines(), round((left + right) / 2, 1), round(slots[chain.labelled].y - 5, 1)))
    heading = [MARGIN * 2 + width_of(graph.title, CHARACTER + 1)] if graph.title else [0.0]
    width = max([*heading, *(right + MARGIN for _, right in columns.values())])
    height = max((slot.y + slot.below for slot in slots), default=MARGIN + (HEADING if graph.title else 0.0)) + MARGIN
    return Layout(round(width, 1), round(height, 1), graph.title, tuple(boxes), tuple(lines), tuple(rounds), tuple(labels))


def _line(chain: Chain, boxes: Sequence[Box], places: _Places) -> Line:
    slots, columns, ports = places
    first, *between, last = chain.slots
    begin, end = boxes[first], boxes[last]
    pieces = [(begin.x + begin.width, columns[first][1], round(slots[first].y + ports.get((first, chain.slots[1]), 0.0), 1))]
    pieces += [(*columns[slot], slots[slot].y) for slot in between]
    pieces.append((columns[last][0], end.x, round(slots[last].y + ports.get((last, chain.slots[-2]), 0.0), 1)))
    if chain.back:
        pieces = [(right, left, y) for left, right, y in reversed(pieces)]
    rounded = tuple((round(left, 1), round(right, 1), y) for left, right, y in pieces)
    return Line(chain.edge.source, chain.edge.target, rounded)
