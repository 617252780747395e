"""A graph in characters: a list for a terminal, and Mermaid for a page that renders it."""

import json

from obzen_runtime.fsm.graph import Edge, Graph, Node
from obzen_runtime.fsm.layers import layers_of

__all__ = ["graph_mermaid", "graph_text", "quoted"]

_SHAPES = {"box": ("[", "]"), "pill": ("([", "])"), "double": ("[[", "]]"), "dashed": ("[", "]"), "dot": ("((", "))")}


def graph_text(graph: Graph) -> str:
    """The graph as lines, one for each edge, nodes from left to right.

    `->` leads on, `<-` back to a node already met, `*` marks a node; a node that leads nowhere stands alone.
    """
    layers = layers_of(graph)
    back = {chain.edge for chain in layers.chains if chain.back}
    nodes = [graph.nodes[slot] for column in layers.columns for slot in column if slot < len(graph.nodes)]
    names = {node.id: _name(node) for node in nodes}
    wide = max((len(name) for name in names.values()), default=0)
    far = max((len(names[edge.target]) for edge in graph.edges), default=0)
    lines = [_plain(graph.title), ""] if graph.title else []
    for node in nodes:
        edges = [edge for edge in graph.edges if edge.source == node.id]
        head = f"{'*' if node.marked else ' '} {names[node.id]:<{wide}}"
        more = ", ".join(map(_plain, node.shown()[1:]))
        if more or not edges:
            lines.append(f"{head}    {more}".rstrip())
            head = " " * len(head)
        for edge in edges:
            arrow = "<-" if edge in back or edge.source == edge.target else "->"
            lines.append(f"{head} {arrow} {names[edge.target]:<{far}}  {'; '.join(map(_plain, edge.lines()))}".rstrip())
            head = " " * len(head)
    return "\n".join(lines) + "\n"


def _name(node: Node) -> str:
    return _plain(node.shown()[0]) if node.shown() else "(start)"


def _plain(text: str) -> str:
    """One line without anything a terminal would obey."""
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in " ".join(text.split()))


def graph_mermaid(graph: Graph) -> str:
    """The graph as a Mermaid flowchart from left to right."""
    ids = {node.id: f"n{number}" for number, node in enumerate(graph.nodes)}
    lines = [*heading(graph.title), "flowchart LR"]
    for node in graph.nodes:
        begin, end = _SHAPES[node.shape]
        lines.append(f'    {ids[node.id]}{begin}"{"<br/>".join(map(quoted, node.shown())) or " "}"{end}')
    lines += [f"    {ids[edge.source]} -->{_label(edge)} {ids[edge.target]}" for edge in graph.edges]
    for looks, style, chosen in (
        ("dashed", "stroke-dasharray: 5 4", [node for node in graph.nodes if node.shape == "dashed"]),
        ("marked", "stroke-width: 3px", [node for node in graph.nodes if node.marked]),
    ):
        if chosen:
            lines += [f"    classDef {looks} {style}", f"    class {','.join(ids[node.id] for node in chosen)} {looks}"]
    return "\n".join(lines) + "\n"


def heading(title: str) -> list[str]:
    """The front matter that gives a Mermaid drawing its title."""
    return ["---", f"title: {json.dumps(title)}", "---"] if title else []


def quoted(text: str) -> str:
    """Text as it may stand in a Mermaid string: what means something there is written as an entity."""
    plain = " ".join(text.split())
    return "".join(sign if sign not in '"#<>&;`' and sign.isprintable() else f"#{ord(sign)};" for sign in plain)


def _label(edge: Edge) -> str:
    return f'|"{"<br/>".join(map(quoted, edge.lines()))}"|' if edge.lines() else ""
