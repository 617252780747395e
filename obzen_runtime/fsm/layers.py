"""Which column a node stands in, and in which order: the decisions of a layered drawing, made without any measure.

Edges that would lead back are turned round for the time of the layout; every node then stands right of all that lead
to it. Nodes take the even columns; the odd ones between belong to labels. An edge passes each column between its ends
as a chain of slots, so that nothing else is ever put where it runs. The order in a column is found by sweeps to the
middle of the neighbours; the one with the fewest crossings is kept. Everything is a function of the graph alone.
"""

from bisect import bisect, insort
from collections.abc import Sequence
from itertools import pairwise

import msgspec

from obzen_runtime.fsm.graph import Edge, Graph

__all__ = ["Chain", "Layers", "layers_of"]

SWEEPS = 12


class Chain(msgspec.Struct, frozen=True):
    """An edge as it passes the columns: slots from its left end to its right one."""

    edge: Edge
    back: bool
    """Whether the arrow points to the left."""
    slots: tuple[int, ...]
    """The left node, one slot for every column between, the right node."""
    labelled: int
    """The slot that holds the label."""


class Layers(msgspec.Struct, frozen=True):
    """The order of everything: slot n is node n of the graph, or, behind the nodes, a place where an edge passes."""

    columns: tuple[tuple[int, ...], ...]
    """Slots from top to bottom for every column from left to right."""
    chains: tuple[Chain, ...]
    loops: tuple[Edge, ...]
    """Edges from a node to itself."""


def layers_of(graph: Graph) -> Layers:
    """Decide columns and orders for a graph; equal graphs get equal answers."""
    index = {node.id: number for number, node in enumerate(graph.nodes)}
    edges = [edge for edge in graph.edges if edge.source != edge.target]
    pairs = [(index[edge.source], index[edge.target]) for edge in edges]
    back = _back(len(graph.nodes), pairs)
    forward = [(target, source) if turned else (source, target) for (source, target), turned in zip(pairs, back, strict=True)]
    ranks = _ranks(len(graph.nodes), forward)
    columns: list[list[int]] = [[] for _ in range(max(ranks, default=-1) + 1)]
    for node, rank in enumerate(ranks):
        columns[rank].append(node)
    chains = []
    free = len(graph.nodes)
    for edge, turned, (left, right) in zip(edges, back, forward, strict=True):
        between = range(ranks[left] + 1, ranks[right])
        slots = (left, *range(free, free + len(between)), right)
        for slot, rank in zip(slots[1:-1], between, strict=True):
            columns[rank].append(slot)
        free += len(between)
        middle = len(between) // 2
        chains.append(Chain(edge, turned, slots, slots[1 + middle - middle % 2]))
    return Layers(_ordered(columns, chains, free), tuple(chains), tuple(edge for edge in graph.edges if edge.source == edge.target))


def _back(count: int, pairs: Sequence[tuple[int, int]]) -> list[bool]:
    """Which edges close a circle in a walk that goes deep first, from the first node on."""
    leaving: list[list[int]] = [[] for _ in range(count)]
    entered = [False] * count
    for number, (source, target) in enumerate(pairs):
        leaving[source].append(number)
        entered[target] = True
    back = [False] * len(pairs)
    state = [0] * count
    for root in sorted(range(count), key=lambda node: (entered[node], node)):
        path = [(root, iter(leaving[root]))] if not state[root] else []
        state[root] = state[root] or 1
        while path:
            node, rest = path[-1]
            edge = next(rest, None)
            if edge is None:
                state[node] = 2
                path.pop()
                continue
            target = pairs[edge][1]
            back[edge] = state[target] == 1
            if not state[target]:
                state[target] = 1
                path.append((target, iter(leaving[target])))
    return back


def _ranks(count: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Even columns, each node as far left as it can be; what nothing leads to then moves up to what it leads to."""
    after: list[list[int]] = [[] for _ in range(count)]
    missing = [0] * count
    for left, right in pairs:
        after[left].append(right)
        missing[right] += 1
    starts = [node for node in range(count) if not missing[node]]
    ranks = [0] * count
    ready = list(starts)
    for node in ready:
        for right in after[node]:
            ranks[right] = max(ranks[right], ranks[node] + 2)
            missing[right] -= 1
            if not missing[right]:
                ready.append(right)
    for node in starts:
        if after[node]:
            ranks[node] = min(ranks[right] for right in after[node]) - 2
    least = min(ranks, default=0)
    return [rank - least for rank in ranks]


def _ordered(columns: list[list[int]], chains: Sequence[Chain], count: int) -> tuple[tuple[int, ...], ...]:
    left: list[list[int]] = [[] for _ in range(count)]
    right: list[list[int]] = [[] for _ in range(count)]
    for chain in chains:
        for near, far in pairwise(chain.slots):
            right[near].append(far)
            left[far].append(near)
    best = [list(column) for column in columns]
    fewest = _crossings(best, right)
    for sweep in range(SWEEPS):
        if not fewest:
            break
        to_right = sweep % 2 == 0
        for column in range(1, len(columns)) if to_right else range(len(columns) - 2, -1, -1):
            _sort(columns[column], columns[column - 1 if to_right else column + 1], left if to_right else right)
        crossings = _crossings(columns, right)
        if crossings < fewest:
            best, fewest = [list(column) for column in columns], crossings
    return tuple(tuple(column) for column in best)


def _sort(column: list[int], beside: Sequence[int], neighbours: Sequence[Sequence[int]]) -> None:
    """Order a column by the mean place of its neighbours; a slot without any keeps its place."""
    place = {slot: number for number, slot in enumerate(beside)}
    weights = {slot: sum(place[near] for near in neighbours[slot]) / len(neighbours[slot]) if neighbours[slot] else None for slot in column}
    moving = iter(sorted((slot for slot in column if weights[slot] is not None), key=lambda slot: weights[slot] or 0.0))
    column[:] = [slot if weights[slot] is None else next(moving) for slot in column]


def _crossings(columns: Sequence[Sequence[int]], right: Sequence[Sequence[int]]) -> int:
    total = 0
    for column, beside in pairwise(columns):
        place = {slot: number for number, slot in enumerate(beside)}
        seen: list[int] = []
        for slot in column:
            ends = [place[far] for far in right[slot]]
            total += sum(len(seen) - bisect(seen, end) for end in ends)
            for end in ends:
                insort(seen, end)
    return total
