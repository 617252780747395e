"""A graph of anything: its rules, and its drawings in characters and as SVG."""

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obzen_runtime.fsm.pictures import Edge, Graph, Node, graph_mermaid, graph_svg, graph_text
from obzen_runtime.kernel import ValidationFailed

ORDERS = Graph(
    (
        Node("orders", ("orders", "csv source"), "pill"),
        Node("clean"),
        Node("totals", ("totals", "stateful"), marked=True),
        Node("report", shape="double"),
        Node("dead_letters", shape="dashed"),
    ),
    (
        Edge("orders", "clean", "Order"),
        Edge("clean", "totals", "Clean\nRefund"),
        Edge("totals", "report"),
        Edge("totals", "clean", "Retry"),
        Edge("totals", "totals", "Tick"),
    ),
    "orders flow",
)


def test_two_nodes_with_one_id_are_refused():
    with pytest.raises(ValidationFailed, match="two nodes of the graph have the id 'a'"):
        Graph((Node("a"), Node("a")), ())


@pytest.mark.parametrize("edge", [Edge("a", "b"), Edge("b", "a")])
def test_an_edge_to_or_from_nowhere_is_refused(edge):
    with pytest.raises(ValidationFailed, match="names 'b', which is not a node"):
        Graph((Node("a"),), (edge,))


def test_the_text_lists_every_node_and_edge_from_left_to_right():
    assert graph_text(ORDERS).splitlines() == [
        "orders flow",
        "",
        "  orders          csv source",
        "               -> clean   Order",
        "  dead_letters",
        "  clean        -> totals  Clean; Refund",
        "* totals          stateful",
        "               -> report",
        "               <- clean   Retry",
        "               <- totals  Tick",
        "  report",
    ]


def test_the_mermaid_drawing_is_a_flowchart_from_left_to_right():
    assert graph_mermaid(ORDERS).splitlines() == [
        "---",
        'title: "orders flow"',
        "---",
        "flowchart LR",
        '    n0(["orders<br/>csv source"])',
        '    n1["clean"]',
        '    n2["totals<br/>stateful"]',
        '    n3[["report"]]',
        '    n4["dead_letters"]',
        '    n0 -->|"Order"| n1',
        '    n1 -->|"Clean<br/>Refund"| n2',
        "    n2 --> n3",
        '    n2 -->|"Retry"| n1',
        '    n2 -->|"Tick"| n2',
        "    classDef dashed stroke-dasharray: 5 4",
        "    class n4 dashed",
        "    classDef marked stroke-width: 3px",
        "    class n2 marked",
    ]


def test_text_that_means_something_to_mermaid_is_written_as_entities():
    drawing = graph_mermaid(Graph((Node('say "hi" <b>; #1'),), ()))
    assert 'n0["say #34;hi#34; #60;b#62;#59; #35;1"]' in drawing


def test_text_that_means_something_to_xml_is_escaped():
    root = ElementTree.fromstring(graph_svg(Graph((Node('<a> & "b"'),), (), "</title>&")))
    shown = [element.text for element in root.iter() if element.tag.endswith(("text", "title"))]
    assert shown == ["</title>&", "</title>&", '<a> & "b"']


@given(st.text(st.characters()), st.text(st.characters()))
def test_any_text_at_all_leaves_the_svg_well_formed(name, label):
    svg = graph_svg(Graph((Node("a", (name,)), Node("b")), (Edge("a", "b", label), Edge("a", "a", label)), label))
    assert ElementTree.fromstring(svg.encode()).tag.endswith("svg")
    assert graph_text(Graph((Node("a", (name,)), Node("b")), (Edge("a", "b", label),), label))


def test_what_a_terminal_would_obey_does_not_reach_it():
    text = graph_text(Graph((Node("a", ("a\x1b[2J", "b\x07")),), (Edge("a", "a", "c\x1b]0;d"),), "e\x1bc"))
    assert all(sign.isprintable() or sign == "\n" for sign in text)


def test_an_empty_graph_can_be_drawn():
    empty = Graph((), ())
    assert ElementTree.fromstring(graph_svg(empty)).tag.endswith("svg")
    assert graph_text(empty) == "\n"
    assert graph_mermaid(empty) == "flowchart LR\n"


def test_drawings_of_equal_graphs_are_equal():
    assert graph_svg(ORDERS) == graph_svg(Graph(ORDERS.nodes, ORDERS.edges, ORDERS.title))


def test_a_colour_scheme_for_dark_pages_is_part_of_the_svg():
    assert "prefers-color-scheme:dark" in graph_svg(ORDERS)


def test_the_svg_refers_to_nothing_outside_itself():
    svg = graph_svg(ORDERS).replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert "http" not in svg
    assert "url(#oz-arrow)" in svg
