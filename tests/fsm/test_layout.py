"""Nothing in a drawing lies on anything else."""

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obzen_runtime.fsm.layers import layers_of
from obzen_runtime.fsm.layout import CHARACTER, LINE, SMALL, layout_of, width_of
from obzen_runtime.fsm.pictures import Edge, Graph, Node

words = st.text(st.characters(codec="utf-8"), max_size=24)
shapes = st.sampled_from(["box", "pill", "double", "dashed", "dot"])


@st.composite
def graphs(draw):
    count = draw(st.integers(0, 8))
    nodes = [Node(f"n{number}", tuple(draw(st.lists(words, max_size=3))), draw(shapes)) for number in range(count)]
    ends = st.integers(0, count - 1) if count else st.nothing()
    edges = draw(st.lists(st.builds(lambda a, b, label: Edge(f"n{a}", f"n{b}", label), ends, ends, words), max_size=14)) if count else []
    return Graph(tuple(nodes), tuple(edges), draw(words))


def rectangle_of(label):
    wide = max(width_of(line, SMALL) for line in label.lines)
    return label.x - wide / 2, label.y - LINE * len(label.lines) + 5, label.x + wide / 2, label.y + 3


def rectangles(layout):
    boxes = [(box.x, box.y, box.x + box.width, box.y + box.height) for box in layout.boxes]
    return boxes, [rectangle_of(label) for label in layout.labels]


def points_of(line):
    for left, right, y in line.pieces:
        yield from ((left + (right - left) * part / 8, y) for part in range(9))
    for (_, x, y), (to, _, height) in pairwise(line.pieces):
        for part in range(1, 20):
            t = part / 20
            middle, bend = (x + to) / 2, (1 - t) ** 2 * (1 + 2 * t)
            yield (1 - t) ** 3 * x + 3 * t * (1 - t) * middle + t**3 * to, bend * y + (1 - bend) * height


def inside(point, rectangle):
    return rectangle[0] + 0.6 < point[0] < rectangle[2] - 0.6 and rectangle[1] + 0.6 < point[1] < rectangle[3] - 0.6


def overlap(one, two):
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]


@given(graphs())
def test_no_box_and_no_label_overlaps_another(graph):
    boxes, labels = rectangles(layout_of(graph))
    assert not [pair for pair in combinations([*boxes, *labels], 2) if overlap(*pair)]


@given(graphs())
def test_no_line_runs_through_a_box_or_a_label(graph):
    layout = layout_of(graph)
    boxes, labels = rectangles(layout)
    assert not [(line, box) for line in layout.lines for point in points_of(line) for box in [*boxes, *labels] if inside(point, box)]


@given(graphs())
def test_everything_is_within_the_page(graph):
    layout = layout_of(graph)
    for left, top, right, bottom in [each for group in rectangles(layout) for each in group]:
        assert left >= 0
        assert top >= 0
        assert right <= layout.width
        assert bottom <= layout.height
    for line in layout.lines:
        assert all(0 <= x <= layout.width and 0 <= y <= layout.height for x, y in points_of(line))


@given(graphs())
def test_every_edge_is_drawn_from_the_border_of_its_source_to_that_of_its_target(graph):
    layout = layout_of(graph)
    boxes = {box.node.id: box for box in layout.boxes}
    drawn = [(line.source, line.target) for line in layout.lines]
    assert drawn == [(edge.source, edge.target) for edge in graph.edges if edge.source != edge.target]
    assert len(layout.loops) == len({edge.source for edge in graph.edges if edge.source == edge.target})
    for line in layout.lines:
        for name, x, y in ((line.source, line.pieces[0][0], line.pieces[0][2]), (line.target, line.pieces[-1][1], line.pieces[-1][2])):
            box = boxes[name]
            assert min(abs(x - box.x), abs(x - box.x - box.width)) < 0.3
            assert box.y - 0.3 <= y <= box.y + box.height + 0.3


@given(graphs())
def test_a_box_is_wider_than_its_words_and_every_label_is_drawn(graph):
    layout = layout_of(graph)
    for box in layout.boxes:
        first, *rest = box.node.shown() or ("",)
        assert box.width > max([width_of(first, CHARACTER), *(width_of(line, SMALL) for line in rest)])
        assert box.height >= LINE * len(box.node.shown())
    drawn = sorted(line for label in layout.labels for line in label.lines)
    assert drawn == sorted(line for edge in graph.edges for line in edge.lines())


@given(graphs())
def test_equal_graphs_get_equal_layouts(graph):
    assert layout_of(graph) == layout_of(Graph(graph.nodes, graph.edges, graph.title))


def test_a_chain_runs_straight_from_left_to_right():
    names = [f"n{number}" for number in range(6)]
    layout = layout_of(Graph(tuple(map(Node, names)), tuple(Edge(a, b, "next") for a, b in pairwise(names))))
    assert len({y for line in layout.lines for _, _, y in line.pieces}) == 1
    assert [box.x for box in layout.boxes] == sorted(box.x for box in layout.boxes)


def test_an_edge_back_points_to_the_left():
    layout = layout_of(Graph((Node("a"), Node("b")), (Edge("a", "b"), Edge("b", "a"))))
    there, back = layout.lines
    assert there.pieces[0][0] < there.pieces[-1][1]
    assert back.pieces[0][0] > back.pieces[-1][1]


def test_a_node_that_nothing_leads_to_stands_next_to_what_it_leads_to():
    names = ("a", "b", "c", "late")
    layers = layers_of(Graph(tuple(map(Node, names)), (Edge("a", "b"), Edge("b", "c"), Edge("late", "c"))))
    column = {slot: number for number, slots in enumerate(layers.columns) for slot in slots}
    assert column[3] == column[1] == column[2] - 2


def test_lines_that_need_not_cross_do_not_cross():
    layout = layout_of(Graph(tuple(map(Node, "abxy")), (Edge("a", "y"), Edge("b", "x"))))
    first, second = layout.lines
    assert (first.pieces[0][2] < second.pieces[0][2]) == (first.pieces[-1][2] < second.pieces[-1][2])


@pytest.mark.parametrize("count", [1200])
def test_a_very_deep_graph_is_laid_out_without_recursion(count):
    names = [f"n{number}" for number in range(count)]
    edges = tuple(Edge(a, b) for a, b in pairwise(names))
    assert len(layout_of(Graph(tuple(map(Node, names)), edges)).lines) == count - 1


def test_an_empty_graph_has_a_page():
    layout = layout_of(Graph((), ()))
    assert layout.width >= 0
    assert layout.height > 0
