"""`obzen draw`: the graph of a flow and the machines behind it, in three forms."""

from xml.etree import ElementTree

import pytest

from tests.cli.kit import HEAD, HELLO, LETTERS, refused

ACTOR = """
import obzen_runtime as oz

class Go: ...
class Broke: ...

class Own(oz.SelfSupervised[None]):
    machine = oz.Machine("own", initial="idle", table=[oz.on(Go, "idle", "done"), oz.on(Broke, "*", "broken")])

    async def dispatch_state(self, state, context):
        return oz.Transition(Go())

    def event_for_action_error(self, error):
        return Broke()
"""

JOINED = (
    HEAD
    + """
@oz.source
def names() -> Iterator[str]:
    yield "a"

@oz.join(stream_key=lambda n: n, reference_key=lambda s: len(s))
def named(n: int, name: str) -> int:
    return n

flow = oz.Flow("joined", names >> named.reference, numbers >> named.stream, named >> show)
"""
)


def test_the_graph_goes_from_sources_to_sinks_and_edges_carry_types(obzen):
    obzen.write(HELLO)
    lines = obzen("draw", "flow.py").out.splitlines()
    assert lines[0] == "hello"
    edges = [line.split() for line in lines if "->" in line]
    assert [(edge[-2], edge[-1]) for edge in edges] == [("double", "int"), ("total", "int"), ("show", "int")]


def test_a_joins_sides_are_named_on_its_edges(obzen):
    obzen.write(JOINED)
    drawn = obzen("draw", "flow.py").out
    assert "reference; str" in drawn
    assert "stream; int" in drawn


@pytest.mark.parametrize("text", [HELLO, LETTERS, JOINED], ids=["hello", "letters", "joined"])
def test_an_svg_is_well_formed_and_names_every_stage(obzen, text):
    obzen.write(text)
    root = ElementTree.fromstring(obzen("draw", "flow.py", "--format", "svg").out)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert {"numbers", "show"} <= set(root.itertext())


def test_mermaid_is_one_flowchart_and_with_machines_markdown_of_several(obzen):
    obzen.write(HELLO)
    one = obzen("draw", "flow.py", "-f", "mermaid").out
    assert "flowchart LR" in one
    assert "```" not in one
    several = obzen("draw", "flow.py", "-f", "mermaid", "--machines").out
    assert several.count("```mermaid") == several.count("\n```\n") == several.count("stateDiagram-v2") + 1


def test_machines_are_the_pipelines_and_each_stages_once(obzen):
    obzen.write(HELLO)
    drawn = obzen("draw", "flow.py", "--machines").out
    for state in ("materializing", "waiting_for_gun", "flushing", "restarting"):
        assert state in drawn
    heads = [line.split(":")[0] for line in drawn.splitlines() if " states, begins in " in line]
    assert len(heads) == len(set(heads)) == 4


def test_the_machines_of_a_program_without_a_flow_can_be_drawn(obzen):
    obzen.write(ACTOR)
    drawn = obzen("draw", "flow.py", "--machines")
    assert drawn.code == 0
    assert "own: 3 states, begins in idle" in drawn.out
    refused(obzen("draw", "flow.py"), 78, "no flow at module level")


def test_several_svgs_stand_one_above_the_other_in_one_document(obzen):
    obzen.write(HELLO + ACTOR)
    root = ElementTree.fromstring(obzen("draw", "flow.py", "-f", "svg", "--machines").out)
    children = [child for child in root if child.tag.endswith("svg")]
    assert len(children) == 6
    tops = [float(child.get("y", "0")) for child in children]
    assert tops == sorted(set(tops))
    assert float(root.get("height")) == tops[-1] + float(children[-1].get("height"))


def test_the_drawing_goes_to_a_file_when_asked(obzen):
    obzen.write(HELLO)
    ended = obzen("draw", "flow.py", "-f", "svg", "-o", "flow.svg")
    assert (ended.code, ended.out, ended.err) == (0, "", "drawn: flow.svg\n")
    ElementTree.parse(obzen.folder / "flow.svg")
    refused(obzen("draw", "flow.py", "-o", "no/such/place"), 74, "no/such/place", "No such file")


def test_a_flow_with_unbound_parameters_can_be_drawn(obzen):
    obzen.write(
        HEAD + '@oz.source\ndef given(size: int) -> Iterator[int]:\n    yield size\n\nflow = oz.Flow("f", given >> double >> show)\n'
    )
    drawn = obzen("draw", "flow.py")
    assert drawn.code == 0
    assert drawn.out.count("->") == 2


def test_drawing_writes_nothing_else(obzen):
    obzen.write(HELLO)
    obzen("draw", "flow.py")
    assert not (obzen.folder / "runs").exists()
