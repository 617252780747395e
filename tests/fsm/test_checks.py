"""Every fault of a table is told when the machine is built, all at once, each with its fix."""

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obzen_runtime.fsm import Machine, on
from obzen_runtime.kernel import FlowInvalid, classify


class Start:
    pass


class Stop:
    pass


class Failed:
    pass


def act(context: object, event: object) -> None: ...


def ready(context: object, event: object) -> bool:
    return True


def problems(table, *, name="m", initial="idle", **given):
    with pytest.raises(FlowInvalid) as caught:
        Machine(name, initial=initial, table=table, **given)
    assert caught.value.code == "invalid_machine"
    assert all(": " in problem for problem in caught.value.problems), "each fault is followed by its fix"
    return caught.value.problems


def only(table, **given):
    (problem,) = problems(table, **given)
    return problem


def test_two_rows_for_a_state_and_event_without_guards_are_refused():
    problem = only([on(Start, "idle", "busy"), on(Start, "idle", "done")])
    assert "state 'idle' has two rows for Start without a guard, to 'busy' and to 'done'" in problem


def test_two_star_rows_for_an_event_without_guards_are_refused():
    assert "any state has two rows for Failed" in only([on(Start, "idle", "busy"), on(Failed, "*", "busy"), on(Failed, "*", "done")])


def test_a_row_repeated_through_several_sources_is_refused():
    assert "state 'busy' has two rows" in only([on(Start, "idle", "busy"), on(Stop, ("idle", "busy"), "done"), on(Stop, "busy", "idle")])


def test_a_source_named_twice_in_one_row_is_no_duplicate():
    assert Machine("m", initial="idle", table=[on(Start, ("idle", "idle"), "busy")]).states == ("idle", "busy")


def test_guarded_rows_and_a_last_one_without_guard_are_no_duplicates():
    rows = [on(Start, "idle", "busy", when=ready), on(Start, "idle", "done", when=ready), on(Start, "idle", "late")]
    assert Machine("m", initial="idle", table=rows).handles("idle", Start)


def test_a_guarded_row_behind_one_without_guard_is_never_taken_and_refused():
    problem = only([on(Start, "idle", "busy"), on(Start, "idle", "done", when=ready), on(Stop, "idle", "done")])
    assert "never takes its guarded row for Start to 'done'" in problem
    assert "put the guarded row first" in problem


def test_a_star_row_behind_an_own_row_is_no_duplicate():
    assert Machine("m", initial="idle", table=[on(Failed, "idle", "busy"), on(Failed, "*", "done")])


def test_a_state_that_no_row_leads_to_is_refused():
    assert "state 'lost' is never reached from 'idle'" in only([on(Start, "idle", "busy"), on(Stop, "lost", "busy")])


def test_states_that_only_lead_to_each_other_are_refused():
    found = problems([on(Start, "idle", "busy"), on(Start, "here", "there"), on(Start, "there", "here")])
    assert [problem.split(" is ")[0] for problem in found] == ["state 'here'", "state 'there'"]


def test_a_state_reached_through_a_star_row_alone_is_reached():
    machine = Machine("m", initial="idle", table=[on(Start, "idle", "busy"), on(Failed, "*", "broken"), on(Stop, "broken", "done")])
    assert machine.terminal == {"busy", "done"}


def test_an_unreached_state_is_told_its_likely_misspelling():
    assert "did you mean 'opne'?" in only([on(Start, "idle", "opne"), on(Stop, "open", "done")])


@pytest.mark.parametrize(
    "table",
    [
        [on(Start, "idle", "idle")],
        [on(Start, "busy", "idle"), on(Failed, "*", "busy")],
        [on(Failed, "*", "broken")],
        [on(Failed, "*", "idle"), on(Start, "idle", "idle")],
    ],
    ids=["only to itself", "only leads in", "only any state leaves it", "any state leads back"],
)
def test_an_initial_state_with_no_way_out_is_refused(table):
    assert any("initial state 'idle' has no way out" in problem or "'idle' is in no row" in problem for problem in problems(table))


def test_an_initial_state_that_leaves_through_a_star_row_and_is_not_terminal_is_fine():
    table = [on(Start, "idle", "idle"), on(Failed, "*", "broken")]
    assert Machine("m", initial="idle", table=table).terminal == {"broken"}


def test_an_initial_state_that_is_terminal_has_no_way_out():
    found = problems([on(Failed, "*", "broken"), on(Start, "broken", "idle")], terminal=["idle"])
    assert any("initial state 'idle' has no way out" in problem for problem in found)


def test_an_empty_table_is_refused():
    assert "initial state 'idle' is in no row" in only([])


def test_an_unknown_initial_state_is_refused_with_the_likely_one():
    assert "initial state 'idel' is in no row (did you mean 'idle'?)" in only([on(Start, "idle", "busy")], initial="idel")


def test_an_unknown_terminal_state_is_refused_with_the_likely_one():
    found = problems([on(Start, "idle", "done")], terminal=["dome"])
    assert any("terminal state 'dome' is in no row (did you mean 'done'?)" in problem for problem in found)


def test_one_terminal_state_may_be_named_by_a_bare_string():
    assert Machine("m", initial="idle", table=[on(Start, "idle", "done")], terminal="done").terminal == {"done"}


def test_a_target_without_a_row_is_refused_when_the_terminal_states_are_named():
    table = [on(Start, "idle", "busy"), on(Stop, "busy", "done"), on(Failed, "busy", "dnoe")]
    problem = only(table, terminal={"done"})
    assert "target 'dnoe' of on(Failed, 'busy' -> 'dnoe') is not in terminal and has no row of its own (did you mean 'done'?)" in problem


def test_a_row_out_of_a_named_terminal_state_is_refused():
    problem = only([on(Start, "idle", "done"), on(Stop, "done", "idle", when=ready)], terminal=["done"])
    assert "terminal state 'done' is left by on(Stop, 'done' -> 'idle', when=ready)" in problem


def test_a_row_of_a_named_terminal_state_to_itself_is_allowed():
    assert Machine("m", initial="idle", table=[on(Start, "idle", "done"), on(Stop, "done", "done")], terminal=["done"])


@pytest.mark.parametrize("word", ["on_enter", "on_exit"])
@pytest.mark.parametrize("wrong", [[act], [("busy", [act])], act, "busy", 7])
def test_entry_and_exit_actions_that_name_no_states_are_refused(word, wrong):
    problem = only([on(Start, "idle", "busy")], **{word: wrong})
    assert f"{word} is {wrong!r}" in problem
    assert "{'state': [action]}" in problem


async def later(context, event):
    return False


@pytest.mark.parametrize("guard", [later, partial(later)])
def test_an_async_guard_is_refused_because_a_promise_always_says_yes(guard):
    assert "row 1 has an async guard: define it with a plain def" in only([on(Start, "idle", "busy", when=guard)])


@pytest.mark.parametrize("word", ["on_enter", "on_exit"])
def test_entry_and_exit_actions_of_an_unknown_state_are_refused(word):
    problem = only([on(Start, "idle", "busy")], **{word: {"bussy": [act]}})
    assert f"{word} names the unknown state 'bussy' (did you mean 'busy'?)" in problem


@pytest.mark.parametrize("name", ["Idle", "9lives", "with-dash", "with.dot", "", "_idle", "a" * 64, "idle\n", "ïdle", "a b"])
def test_M_001_a_state_name_that_is_no_segment_is_refused(name):
    assert any(f"state name {name!r} is not allowed" in problem for problem in problems([on(Start, "idle", name)]))
    assert any(f"state name {name!r} is not allowed" in problem for problem in problems([on(Start, name, "busy")]))


@given(st.from_regex(r"[a-z][a-z0-9_]{0,62}", fullmatch=True).filter(lambda name: name != "idle"))
def test_M_001_every_segment_is_a_state_name(name):
    assert Machine("m", initial="idle", table=[on(Start, "idle", name)]).states == ("idle", name)


@pytest.mark.parametrize("name", ["", " ", "two\nlines", None, 7])
def test_a_machine_without_a_name_of_one_line_is_refused(name):
    assert "is not one line of text" in only([on(Start, "idle", "busy")], name=name)


def test_a_star_as_target_or_initial_state_is_refused():
    assert any("'*' stands where one state is meant" in problem for problem in problems([on(Start, "idle", "*")]))
    assert any("'*' stands where one state is meant" in problem for problem in problems([on(Start, "idle", "busy")], initial="*"))


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (on(Start(), "idle", "busy"), "which is not a class"),
        (on("Start", "idle", "busy"), "which is not a class"),
        (on(Start | Stop, "idle", "busy"), "which is not a class"),
        (on(Start, [], "busy"), "row 1 names no source"),
        (on(Start, ["idle", "*"], "busy"), "mixes '*' with other sources"),
        (on(Start, "idle", "busy", when="ready"), "'ready' (str) as guard"),
        (on(Start, "idle", "busy", do="act"), "'act' (str) as action"),
        (on(Start, "idle", "busy", do=["act"]), "'act' (str) as action"),
        (on(Start, "idle", "busy", do=[act(None, None)]), "None (NoneType) as action"),
        (on(Start, 7, "busy"), "state 7 is not a string"),
        (on(Start, [["idle"]], "busy"), "state ['idle'] is not a string"),
        (on(Start, "idle", None), "state None is not a string"),
        (("Start", "idle", "busy"), "not a row: write on("),
    ],
)
def test_a_malformed_row_is_told_instead_of_breaking_the_check(row, fault):
    assert fault in only([row])


def test_no_table_at_all_is_told():
    assert "item 1 of the table is None" in only(None)


def test_an_entry_action_that_is_no_function_is_told():
    assert "on_enter of 'busy' has 'act' (str) as action" in only([on(Start, "idle", "busy")], on_enter={"busy": "act"})


def test_all_faults_are_told_in_one_error():
    table = [on(Start, "Idle", "busy"), on(Start, "Idle", "done"), on(Stop, "lost", "done")]
    found = problems(table, initial="Idle", terminal=["over"], on_exit={"nowhere": [act]})
    text = " | ".join(found)
    faults = ["'Idle' is not allowed", "two rows for Start", "'lost' is never reached", "'over' is in no row", "'nowhere'", "target 'busy'"]
    assert [fault for fault in faults if fault not in text] == []
    assert len(set(found)) == len(found)


def test_the_error_reads_as_a_numbered_list_and_is_classified_as_a_plan_fault():
    with pytest.raises(FlowInvalid, match=r"machine 'line' cannot be built:\n  1\. initial state") as caught:
        Machine("line", initial="idle", table=[on(Start, "idle", "idle")])
    assert classify(caught.value).kind == "PLAN"


def test_what_is_only_cut_off_by_a_lost_state_is_not_told_as_well():
    table = [
        on(Start, "idle", "busy"),
        on(Start, "lost", "behind"),
        on(Stop, "behind", "further"),
        on(Stop, "ring", "back"),
        on(Stop, "back", "ring"),
    ]
    assert [problem.split("'")[1] for problem in problems(table)] == ["lost", "ring", "back"]
