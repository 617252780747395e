"""A machine as text, as Mermaid and as SVG: everything of the table is in it, nothing is invented."""

from functools import partial
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obzen_runtime.fsm import Machine, on
from obzen_runtime.fsm.pictures import Edge, Node, draw_mermaid, draw_svg, draw_text, machine_graph
from obzen_runtime.kernel import UsageError

SVG = "{http://www.w3.org/2000/svg}"


class Dialled:
    pass


class Done:
    pass


class Retry:
    pass


class Failed:
    pass


def greet(context: object, event: object) -> None: ...


def report(context: object, event: object) -> None: ...


def willing(context: object, event: object) -> bool:
    return True


LINE = Machine(
    "line",
    initial="idle",
    table=[
        on(Dialled, "idle", "open", when=willing, do=[greet]),
        on(Retry, "open", "open"),
        on(Retry, "idle", "idle", do=[greet]),
        on(Done, "open", "closed", do=[greet, report]),
        on(Failed, "open", "idle"),
        on(Failed, "*", "broken", do=[report]),
    ],
    on_enter={"open": [report]},
)


def texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_the_text_shows_the_whole_table_and_marks_the_present_state():
    assert draw_text(LINE, state="open").splitlines() == [
        "line: 4 states, begins in idle",
        "",
        "   state        event    target  guard    actions",
        "   -----------  -------  ------  -------  -------------",
        "   idle         Dialled  open    willing  greet",
        "                Retry    idle             greet",
        ">  open         (entry)                   report",
        "                Retry    open",
        "                Done     closed           greet, report",
        "                Failed   idle",
        "   closed       (end)",
        "   broken       (end)",
        "   (any state)  Failed   broken           report",
    ]


def test_without_a_present_state_nothing_is_marked():
    assert ">" not in draw_text(LINE)


def test_the_mermaid_drawing_is_a_state_diagram_with_every_row():
    assert draw_mermaid(LINE).splitlines() == [
        "---",
        'title: "line"',
        "---",
        "stateDiagram-v2",
        "    direction LR",
        '    state "any state" as ANY',
        "    [*] --> idle",
        "    idle --> open : Dialled [willing] / greet",
        "    open --> open : Retry",
        "    idle --> idle : Retry / greet",
        "    open --> closed : Done / greet, report",
        "    open --> idle : Failed",
        "    ANY --> broken : Failed / report",
        "    open : entry / report",
        "    closed --> [*]",
        "    broken --> [*]",
    ]


def test_states_named_like_words_of_mermaid_get_another_id_and_keep_their_name():
    table = [on(Done, "state", "class"), on(Retry, "state", "class_state"), on(Failed, "class_state", "note")]
    lines = draw_mermaid(Machine("m", initial="state", table=table)).splitlines()
    ids = {line.split('"')[1]: line.split(" as ")[1] for line in lines if " as " in line}
    assert set(ids) == {"state", "class", "note"}
    assert len({*ids.values(), "class_state"}) == 4
    assert not set(ids.values()) & set(ids)
    assert f"    {ids['state']} --> {ids['class']} : Done" in lines
    assert f"    {ids['state']} --> class_state : Retry" in lines


def test_a_lambda_as_action_leaves_the_mermaid_drawing_valid():
    machine = Machine("m", initial="idle", table=[on(Done, "idle", "busy", do=[lambda context, event: None])])
    assert "<" not in draw_mermaid(machine)
    assert "idle --> busy : Done / ‹lambda›" in draw_mermaid(machine)


def test_the_present_state_is_set_off_in_mermaid():
    assert draw_mermaid(LINE, state="open").endswith("    classDef current stroke-width:3px\n    class open current\n")


def test_the_graph_has_a_start_a_box_for_any_state_and_one_edge_for_each_pair():
    graph = machine_graph(LINE, state="open")
    assert graph.nodes == (
        Node("[*]", shape="dot"),
        Node("*", ("any state",), "dashed"),
        Node("idle", ("idle",)),
        Node("open", ("open", "entry / report"), marked=True),
        Node("closed", ("closed",), "double"),
        Node("broken", ("broken",), "double"),
    )
    assert Edge("[*]", "idle") in graph.edges
    assert Edge("*", "broken", "Failed / report") in graph.edges
    assert [edge for edge in graph.edges if edge.target == "broken"] == [Edge("*", "broken", "Failed / report")]


def test_rows_between_the_same_two_states_share_an_edge():
    machine = Machine("m", initial="idle", table=[on(Done, "idle", "busy"), on(Retry, "idle", "busy")])
    assert machine_graph(machine).edges[1:] == (Edge("idle", "busy", "Done\nRetry"),)


def test_the_svg_is_well_formed_and_holds_every_state_and_label():
    shown = texts(draw_svg(LINE))
    for expected in ("line", "any state", "idle", "open", "closed", "broken", "Dialled [willing] / greet", "Retry", "Done / greet, report"):
        assert expected in shown
    assert shown.count("Failed / report") == 1


def test_the_svg_marks_the_present_state_once():
    assert draw_svg(LINE, state="open").count('class="oz-box oz-marked"') == 1
    assert 'class="oz-box oz-marked"' not in draw_svg(LINE)


def test_the_svg_has_an_arrow_for_each_edge_self_loops_and_edges_back_included():
    paths = [element for element in ElementTree.fromstring(draw_svg(LINE)).iter(f"{SVG}path") if element.get("marker-end")]
    assert len(paths) == len(machine_graph(LINE).edges)


def test_drawings_are_the_same_every_time():
    assert draw_svg(LINE) == draw_svg(LINE)
    assert draw_mermaid(LINE) == draw_mermaid(LINE)


def test_long_labels_go_on_in_a_new_line_and_lose_nothing():
    actions = [type(f"Act{number}", (), {"__call__": greet})() for number in range(8)]
    machine = Machine("m", initial="idle", table=[on(Done, "idle", "busy", do=actions)])
    lines = machine_graph(machine).edges[1].lines()
    assert len(lines) > 1
    assert max(map(len, lines)) <= 30
    assert " ".join(line.strip() for line in lines) == "Done / " + ", ".join(f"Act{number}" for number in range(8))


def test_a_name_longer_than_a_line_is_never_cut():
    def this_action_has_a_name_that_is_longer_than_a_line(context: object, event: object) -> None: ...

    name = this_action_has_a_name_that_is_longer_than_a_line.__name__
    table = [on(Done, "idle", "busy", do=[greet, this_action_has_a_name_that_is_longer_than_a_line, report])]
    machine = Machine("m", initial="idle", table=table, on_enter={"busy": [this_action_has_a_name_that_is_longer_than_a_line]})
    assert [line.strip() for line in machine_graph(machine).edges[1].lines()] == ["Done / greet,", f"{name},", "report"]
    assert sorted(text.strip() for text in texts(draw_svg(machine)) if name in text) == [name, f"{name},"]


@pytest.mark.parametrize("draw", [draw_text, draw_mermaid, draw_svg])
def test_a_partial_is_drawn_with_the_name_of_its_function(draw):
    table = [on(Done, "idle", "busy", when=partial(willing), do=[partial(partial(greet), event=None)])]
    drawn = draw(Machine("m", initial="idle", table=table))
    assert "willing" in drawn
    assert "greet" in drawn
    assert "partial" not in drawn


@pytest.mark.parametrize("draw", [draw_text, draw_mermaid, draw_svg])
def test_a_state_the_machine_does_not_have_cannot_be_marked(draw):
    with pytest.raises(UsageError, match="no state 'opne'"):
        draw(LINE, state="opne")


@given(st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" "), min_size=1).filter(str.strip))
def test_whatever_a_machine_and_its_events_are_called_the_svg_stays_well_formed(name):
    event = type("Event", (), {})
    event.__name__ = name
    machine = Machine(name, initial="idle", table=[on(event, "idle", "busy")])
    assert ElementTree.fromstring(draw_svg(machine)).tag == f"{SVG}svg"
