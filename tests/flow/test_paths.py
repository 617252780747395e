"""Flows are values: joined with >>, bound from text, and never changed."""

from collections.abc import Iterator

import pytest

import obzen_runtime as oz
from obzen_runtime.kernel import UsageError
from tests.flow.kit import Seen, ints, play, same


def edges(flow):
    return sorted((arc.source, arc.target) for arc in flow.topology.arcs)


def test_lists_join_every_end_with_every_beginning():
    a, b, c = ints(1, "a"), ints(1, "b"), same("c")
    d, e = Seen().sink("d"), Seen().sink("e")
    flow = oz.Flow("f", [a, b] >> c >> [d, e])
    assert edges(flow) == [("a", "c"), ("b", "c"), ("c", "d"), ("c", "e")]


def test_paths_of_paths_join_at_their_outer_ends():
    a, b, c, d, k = ints(1, "a"), same("b"), same("c"), same("d"), Seen().sink("k")
    front, back = a >> b, c >> d
    assert edges(oz.Flow("f", front >> back >> k)) == edges(oz.Flow("f", a >> b >> c >> d >> k))
    fan = [b >> c, d]
    assert edges(oz.Flow("f", a >> fan >> k)) == [("a", "b"), ("a", "d"), ("b", "c"), ("c", "k"), ("d", "k")]


def test_one_path_may_be_part_of_many():
    front = ints(3, "a") >> same("b")
    one, other = Seen(), Seen()
    assert play(oz.Flow("f", front >> one.sink("k"), front >> other.sink("m"))).state == "drained"


def test_an_empty_list_and_a_thing_that_is_no_stage_are_refused():
    with pytest.raises(UsageError, match="an empty list"):
        ints(1) >> []
    with pytest.raises(TypeError, match="is not a stage; decorate it"):
        ints(1) >> print
    for name in (" ", "two\nlines", 5, ints(1) >> Seen().sink()):
        with pytest.raises(UsageError, match="is not a name for a flow"):
            oz.Flow(name, ints(1) >> Seen().sink())


def test_a_flow_does_not_change():
    flow = oz.Flow("f", ints(1) >> Seen().sink())
    for name in ("name", "restart", "window", "paths", "max_dead_letters", "stall_after", "anything"):
        with pytest.raises(AttributeError, match="does not change"):
            setattr(flow, name, None)
    with pytest.raises(AttributeError, match="does not change"):
        del flow.name
    assert isinstance(flow.paths, tuple)
    with pytest.raises(TypeError):
        flow.nodes["s"] = same()


def test_one_flow_may_run_many_times():
    seen = Seen()
    flow = oz.Flow("f", ints(3) >> seen.sink())
    assert [play(flow).state for _ in range(2)] == ["drained", "drained"]
    assert seen == [0, 1, 2, 0, 1, 2]


@oz.source
def rows(path: str = "none", *, limit: int = 3, tags: tuple[str, ...] = ()) -> Iterator[str]:
    yield f"{path} {limit} {','.join(tags)}"


def bound(settings):
    seen = Seen()
    before = oz.Flow("f", rows >> seen.sink(), oz.ignored(int), window=oz.Window(events=7), max_dead_letters=1, stall_after=2.0)
    flow = before.bind(settings)
    assert (flow.window, flow.max_dead_letters, flow.stall_after, flow.ignoring) == (oz.Window(events=7), 1, 2.0, (int,))
    play(flow)
    play(before)
    return seen


def test_bind_sets_parameters_from_text_and_leaves_the_flow_as_it_was():
    assert bound({"rows": {"path": ["a b"], "limit": ["5"], "tags": ["x", "y"]}}) == ["a b 5 x,y", "none 3 "]


def test_text_stays_text_where_text_is_wanted():
    assert bound({"rows": {"path": ["5"]}})[0] == "5 3 "
    assert bound({"rows": {"path": ["null"]}})[0] == "null 3 "


def test_bind_names_what_it_does_not_know():
    with pytest.raises(UsageError, match="flow 'f' has no stage 'row'") as caught:
        bound({"row": {"limit": ["5"]}})
    assert "rows" in str(caught.value.remedy)
    with pytest.raises(UsageError, match="stage 'rows' has no parameter 'limits'"):
        bound({"rows": {"limits": ["5"]}})
    with pytest.raises(UsageError, match=r"rows\.limit: 'five' is not a value of type int"):
        bound({"rows": {"limit": ["five"]}})


def test_a_stage_used_in_two_paths_is_bound_in_both():
    one, other = Seen(), Seen()
    flow = oz.Flow("f", rows >> one.sink("k"), rows >> other.sink("m")).bind({"rows": {"limit": ["9"]}})
    assert play(flow).state == "drained"
    assert one == other == ["none 9 "]


def test_parameters_bound_in_python_come_first_and_text_replaces_them():
    seen = Seen()
    flow = oz.Flow("f", rows(limit=1, path="p") >> seen.sink())
    play(flow)
    play(flow.bind({"rows": {"limit": ["2"]}}))
    assert seen == ["p 1 ", "p 2 "]
