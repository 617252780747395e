"""`obzen draw`: a flow and its machines as pictures, made from what runs."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, get_type_hints

import typer

from obzen_runtime.actor import SelfSupervised
from obzen_runtime.cli.command import Common
from obzen_runtime.cli.loading import import_file, pick, split
from obzen_runtime.cli.say import hint, say
from obzen_runtime.flow import PIPELINE, Flow
from obzen_runtime.fsm import Machine
from obzen_runtime.fsm.pictures import (
    Edge,
    Graph,
    Node,
    Shape,
    draw_mermaid,
    draw_svg,
    draw_text,
    graph_mermaid,
    graph_svg,
    graph_text,
)
from obzen_runtime.kernel import FlowInvalid
from obzen_runtime.stages import Node as StageNode

__all__ = ["DrawOptions", "Format", "draw", "flow_graph", "machines_of", "picture"]

Format = Literal["text", "mermaid", "svg"]
_SHAPES: Mapping[str, Shape] = {"source": "pill", "dead_letters": "pill", "sink": "double"}


class DrawOptions(Common, frozen=True, kw_only=True):
    """What `obzen draw` takes."""

    file: Annotated[str, typer.Argument(metavar="FILE[:VARIABLE]", help="The Python file that defines the flow.")]
    format: Annotated[Format, typer.Option("--format", "-f", help="How to draw: text, mermaid or svg.")] = "text"
    machines: Annotated[
        bool, typer.Option("--machines", help="Draw the state machines of the pipeline, its stages and your own actors.")
    ] = False
    output: Annotated[str | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write it; default: standard output.")] = (
        None
    )


def draw(options: DrawOptions) -> int:
    """Draw the graph of a flow, and with --machines the state machines behind it."""
    file, variable = split(options.file)
    module = import_file(file)
    machines = machines_of(module) if options.machines else {}
    flow: Flow | None = None
    try:
        flow = vars(module)[pick(module, file, variable)]
    except FlowInvalid:
        if not machines:
            raise
    drawn = picture(flow, _all(flow, machines) if options.machines else [], options.format)
    if options.output is None:
        say(drawn.rstrip("\n"))
    else:
        Path(options.output).write_text(drawn, encoding="utf-8")
        hint(f"drawn: {options.output}")
    return 0


def machines_of(module: ModuleType) -> dict[str, Machine[Any]]:
    """The machines of the self-supervised classes that a program defines, by the class's name."""
    return {
        name: value.machine
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, SelfSupervised) and value is not SelfSupervised
    }


def _all(flow: Flow | None, own: Mapping[str, Machine[Any]]) -> list[Machine[Any]]:
    """Each machine once: the pipeline's, those of the flow's stages, the user's."""
    found: list[Machine[Any]] = []
    if flow is not None:
        found = [PIPELINE, *map(_machine, flow.nodes.values())]
    return list({id(machine): machine for machine in [*found, *own.values()]}.values())


def _machine(node: StageNode) -> Machine[Any]:
    """The machine of the worker that a description is built into."""
    builder: Any = type(node)
    machine: Machine[Any] = get_type_hints(builder.build)["return"].machine
    return machine


def picture(flow: Flow | None, machines: Sequence[Machine[Any]], form: Format) -> str:
    """Everything in one document: text under text, Mermaid blocks in Markdown when there are several, one SVG above the other."""
    graphs = [] if flow is None else [flow_graph(flow)]
    match form:
        case "text":
            return "\n".join([*map(graph_text, graphs), *map(draw_text, machines)])
        case "mermaid":
            parts = [*map(graph_mermaid, graphs), *map(draw_mermaid, machines)]
            return parts[0] if len(parts) == 1 else "\n".join(f"```mermaid\n{part}```\n" for part in parts)
        case "svg":
            return _stacked([*map(graph_svg, graphs), *map(draw_svg, machines)])


def _stacked(documents: Sequence[str]) -> str:
    if len(documents) == 1:
        return documents[0]
    sizes = [_size(document) for document in documents]
    width, height = max(wide for wide, _ in sizes), sum(high for _, high in sizes)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}">']
    top = 0.0
    for document, (_, high) in zip(documents, sizes, strict=True):
        parts.append(document.replace("<svg ", f'<svg y="{top:g}" ', 1).rstrip("\n"))
        top += high
    return "\n".join([*parts, "</svg>"]) + "\n"


def _size(document: str) -> tuple[float, float]:
    found = re.match(r'<svg [^>]*?width="([\d.]+)" height="([\d.]+)"', document)
    assert found is not None
    return float(found[1]), float(found[2])


def flow_graph(flow: Flow) -> Graph:
    """The graph of a flow: sources begin, sinks end, edges say what they carry. A flow with unbound parameters can be drawn too."""
    try:
        topology = flow.topology
    except FlowInvalid:
        links = {(link.source.name, link.target.name, link.port): None for path in flow.paths for link in path.links}
        return Graph(tuple(map(_node, flow.nodes.values())), tuple(Edge(source, target, port) for source, target, port in links), flow.name)
    edges = []
    for arc in topology.arcs:
        carried = [each.__name__ for each in arc.routed] if arc.routed is not None else [each.text for each in arc.declared]
        edges.append(Edge(arc.source, arc.target, "\n".join(filter(None, [arc.port, " | ".join(carried)]))))
    return Graph(tuple(map(_node, topology.nodes.values())), tuple(edges), flow.name)


def _node(node: StageNode) -> Node:
    lines = (node.name,) if node.kind == node.name else (node.name, node.kind)
    return Node(node.name, lines, _SHAPES.get(node.kind, "box"))
