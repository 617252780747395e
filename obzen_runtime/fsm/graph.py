"""A graph to look at: what machines and flows have in common when they are drawn.

Nodes carry lines of text and a shape, edges a label. Drawing knows nothing of states or stages; whoever draws says
what a node looks like.
"""

from typing import Literal

import msgspec

from obzen_runtime.kernel import ValidationFailed

__all__ = ["Edge", "Graph", "Node", "Shape"]

Shape = Literal["box", "pill", "double", "dashed", "dot"]
"""box: the usual one; pill: where things begin; double: where they end; dashed: stands for several; dot: a bare start."""


class Node(msgspec.Struct, frozen=True):
    """One thing in a graph."""

    id: str
    """What edges name it by; unique in its graph, never shown."""
    lines: tuple[str, ...] = ()
    """Text from top to bottom, the first line being its name. Default: its id; a dot shows no text."""
    shape: Shape = "box"
    marked: bool = False
    """Drawn so that it stands out: the present state, a failed stage."""

    def shown(self) -> tuple[str, ...]:
        """The lines as drawn."""
        return () if self.shape == "dot" else self.lines or (self.id,)


class Edge(msgspec.Struct, frozen=True):
    """One arrow in a graph; from a node to itself is allowed, and so are several between the same two."""

    source: str
    target: str
    label: str = ""
    """Text beside the arrow; a newline begins a new line."""

    def lines(self) -> tuple[str, ...]:
        """The label's lines, empty ones left out."""
        return tuple(line for line in self.label.splitlines() if line.strip())


class Graph(msgspec.Struct, frozen=True):
    """Nodes and edges in the order in which a reader should meet them; drawn from left to right.

    Raises `ValidationFailed` when two nodes share an id or an edge names a node that is not there.
    """

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    title: str = ""

    def __post_init__(self) -> None:
        known: set[str] = set()
        for node in self.nodes:
            if node.id in known:
                raise ValidationFailed(f"two nodes of the graph have the id {node.id!r}", remedy="Give every node an id of its own")
            known.add(node.id)
        for edge in self.edges:
            for end in (edge.source, edge.target):
                if end not in known:
                    raise ValidationFailed(
                        f"the edge {edge.source!r} -> {edge.target!r} names {end!r}, which is not a node of the graph",
                        remedy=f"Add a node {end!r}",
                    )
