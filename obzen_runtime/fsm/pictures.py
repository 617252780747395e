"""The side door to everything that draws. Whoever only runs machines does not pay for importing it."""

from obzen_runtime.fsm.draw import draw_mermaid, draw_svg, draw_text, machine_graph
from obzen_runtime.fsm.graph import Edge, Graph, Node, Shape
from obzen_runtime.fsm.sketch import graph_mermaid, graph_text
from obzen_runtime.fsm.svg import graph_svg

__all__ = [
    "Edge",
    "Graph",
    "Node",
    "Shape",
    "draw_mermaid",
    "draw_svg",
    "draw_text",
    "graph_mermaid",
    "graph_svg",
    "graph_text",
    "machine_graph",
]
