"""What a machine answers to an event."""

import asyncio
from functools import partial

import msgspec
import pytest

from obzen_runtime.fsm import Machine, on


class Context(msgspec.Struct):
    ready: bool = False
    seen: list[str] = []


class Start(msgspec.Struct, frozen=True):
    pass


class Stop(msgspec.Struct, frozen=True):
    pass


class Failed(msgspec.Struct, frozen=True):
    pass


class Base:
    pass


class Derived(Base):
    pass


async def first(context: Context, event: object) -> None:
    context.seen.append("first")


def second(context: Context, event: object) -> None:
    context.seen.append("second")


def enter(context: Context, event: object) -> None: ...


def leave(context: Context, event: object) -> None: ...


def ready(context: Context, event: object) -> bool:
    return context.ready


def test_a_row_answers_with_its_target_and_its_actions_in_order():
    machine = Machine("m", initial="idle", table=[on(Start, "idle", "busy", do=[first, second])])
    assert machine.step("idle", Start(), Context()) == ("busy", (first, second))


def test_step_only_decides_and_runs_no_action():
    machine = Machine("m", initial="idle", table=[on(Start, "idle", "busy", do=[second])])
    context = Context()
    machine.step("idle", Start(), context)
    assert context.seen == []


def test_O_09_exit_then_entry_then_the_rows_own_actions():
    machine = Machine(
        "m", initial="idle", table=[on(Start, "idle", "busy", do=[first])], on_enter={"busy": [enter]}, on_exit={"idle": [leave, second]}
    )
    assert machine.step("idle", Start(), Context()) == ("busy", (leave, second, enter, first))


def test_a_row_from_a_state_to_itself_runs_exit_and_entry_too():
    table = [on(Start, "idle", "idle", do=[first]), on(Stop, "idle", "done")]
    machine = Machine("m", initial="idle", table=table, on_enter={"idle": [enter]}, on_exit={"idle": [leave]})
    assert machine.step("idle", Start(), Context()) == ("idle", (leave, enter, first))


def test_an_event_without_a_row_is_answered_with_none():
    machine = Machine("m", initial="idle", table=[on(Start, "idle", "busy")])
    assert machine.step("idle", Stop(), Context()) is None
    assert machine.step("busy", Start(), Context()) is None


@pytest.mark.parametrize("state", ["nowhere", "", "*"])
def test_a_state_the_machine_does_not_have_is_answered_with_none(state):
    machine = Machine("m", initial="idle", table=[on(Start, "idle", "busy"), on(Failed, "*", "broken")])
    assert machine.step(state, Failed(), Context()) is None


def test_events_are_matched_by_their_exact_class():
    machine = Machine("m", initial="idle", table=[on(Base, "idle", "busy")])
    assert machine.step("idle", Base(), Context()) == ("busy", ())
    assert machine.step("idle", Derived(), Context()) is None
    assert machine.step("idle", Base, Context()) is None


def test_two_classes_of_one_name_are_two_events():
    one, two = type("Same", (), {}), type("Same", (), {})
    machine = Machine("m", initial="idle", table=[on(one, "idle", "busy"), on(two, "idle", "done")])
    assert machine.step("idle", one(), Context()) == ("busy", ())
    assert machine.step("idle", two(), Context()) == ("done", ())


def test_an_event_class_named_like_a_word_of_the_library_beneath_is_fine():
    odd = [type(name, (), {}) for name in ("state", "trigger", "initial", "is_idle")]
    machine = Machine("m", initial="idle", table=[on(event, "idle", "busy") for event in odd])
    assert all(machine.step("idle", event(), Context()) == ("busy", ()) for event in odd)


def test_a_row_with_several_sources_holds_in_each_of_them():
    table = [on(Start, "idle", "busy"), on(Stop, ("idle", "busy"), "done"), on(Failed, ["idle"], "busy")]
    machine = Machine("m", initial="idle", table=table)
    assert machine.step("idle", Stop(), Context()) == machine.step("busy", Stop(), Context()) == ("done", ())
    assert machine.step("idle", Failed(), Context()) == ("busy", ())


def test_a_star_row_holds_in_every_state_terminal_ones_included():
    machine = Machine("m", initial="idle", table=[on(Start, "idle", "done"), on(Failed, "*", "broken", do=[first])])
    assert machine.step("idle", Failed(), Context()) == ("broken", (first,))
    assert machine.step("done", Failed(), Context()) == ("broken", (first,))


def test_a_star_row_from_its_own_target_stays_and_runs_nothing():
    table = [on(Start, "idle", "done"), on(Failed, "*", "broken", do=[first])]
    machine = Machine("m", initial="idle", table=table, on_enter={"broken": [enter]}, on_exit={"broken": [leave]})
    assert machine.step("broken", Failed(), Context()) == ("broken", ())


def test_a_states_own_row_beats_a_star_row_wherever_it_stands():
    machine = Machine("m", initial="idle", table=[on(Failed, "*", "broken"), on(Failed, "idle", "done"), on(Start, "idle", "busy")])
    assert machine.step("idle", Failed(), Context()) == ("done", ())
    assert machine.step("busy", Failed(), Context()) == ("broken", ())


def test_the_first_row_whose_guard_passes_wins():
    table = [on(Start, "idle", "busy", when=ready), on(Start, "idle", "waiting"), on(Stop, "idle", "done")]
    machine = Machine("m", initial="idle", table=table)
    assert machine.step("idle", Start(), Context(ready=True)) == ("busy", ())
    assert machine.step("idle", Start(), Context(ready=False)) == ("waiting", ())


def test_when_all_own_guards_refuse_a_star_row_is_asked():
    machine = Machine("m", initial="idle", table=[on(Failed, "*", "broken"), on(Failed, "idle", "done", when=ready)])
    assert machine.step("idle", Failed(), Context(ready=True)) == ("done", ())
    assert machine.step("idle", Failed(), Context(ready=False)) == ("broken", ())


def test_when_every_guard_refuses_no_row_applies():
    machine = Machine("m", initial="idle", table=[on(Start, "idle", "busy", when=ready)])
    assert machine.step("idle", Start(), Context(ready=False)) is None


def test_a_guard_sees_the_context_and_the_event():
    asked = []
    machine = Machine("m", initial="idle", table=[on(Start, "idle", "busy", when=lambda *given: bool(asked.append(given)) or True)])
    context, event = Context(), Start()
    machine.step("idle", event, context)
    assert asked == [(context, event)]
    assert asked[0][1] is event


def test_what_a_guard_raises_passes_through():
    def broken(context: Context, event: object) -> bool:
        raise KeyError("no such line")

    machine = Machine("m", initial="idle", table=[on(Start, "idle", "busy", when=broken)])
    with pytest.raises(KeyError, match="no such line"):
        machine.step("idle", Start(), Context())


def test_handles_tells_of_a_row_without_asking_its_guard():
    machine = Machine("m", initial="idle", table=[on(Start, "idle", "busy", when=lambda *_: 1 / 0), on(Failed, "*", "broken")])
    assert machine.handles("idle", Start)
    assert machine.handles("broken", Failed)
    assert not machine.handles("busy", Start)
    assert not machine.handles("nowhere", Failed)


def test_states_stand_in_order_of_appearance_with_the_initial_one_first():
    machine = Machine("m", initial="idle", table=[on(Stop, "busy", "done"), on(Start, "idle", "busy"), on(Failed, "*", "broken")])
    assert machine.states == ("idle", "busy", "done", "broken")


def test_states_without_a_row_of_their_own_are_terminal_by_default():
    machine = Machine("m", initial="idle", table=[on(Start, "idle", "done"), on(Failed, "*", "broken")])
    assert machine.terminal == {"done", "broken"}


def test_terminal_states_are_those_named_when_some_are_named():
    table = [on(Start, "idle", "done"), on(Stop, "done", "done"), on(Failed, "*", "broken")]
    assert Machine("m", initial="idle", table=table, terminal=["done", "broken"]).terminal == {"done", "broken"}


def test_a_machine_cannot_be_changed():
    machine = Machine("m", initial="idle", table=[on(Start, "idle", "busy")], on_enter={"busy": [enter]})
    with pytest.raises(AttributeError, match="immutable"):
        machine.name = "other"
    with pytest.raises(AttributeError, match="immutable"):
        machine._plain = {}
    with pytest.raises(AttributeError, match="immutable"):
        del machine.rows
    with pytest.raises(TypeError):
        machine.compiled["idle", Stop] = ()
    with pytest.raises(TypeError):
        machine.spec.on_enter["busy"] = ()


def test_a_machine_keeps_nothing_of_the_lists_it_was_built_from():
    actions, table, entry = [first], [], {"busy": [enter]}
    table.append(on(Start, "idle", "busy", do=actions))
    machine = Machine("m", initial="idle", table=table, on_enter=entry)
    actions.clear(), table.clear(), entry["busy"].clear()
    assert machine.step("idle", Start(), Context()) == ("busy", (enter, first))


def test_the_compiled_table_shows_every_way_in_the_order_it_is_asked():
    table = [on(Failed, "*", "broken"), on(Start, "idle", "busy", when=ready), on(Start, "idle", "done", do=[first])]
    machine = Machine("m", initial="idle", table=table)
    assert machine.compiled["idle", Start] == ((ready, ("busy", ())), (None, ("done", (first,))))
    assert machine.compiled["broken", Failed] == ((None, ("broken", ())),)


def test_a_machine_names_itself():
    assert repr(Machine("m", initial="idle", table=[on(Start, "idle", "busy")])) == "Machine('m', 2 states, initial 'idle')"


def test_a_single_function_is_taken_for_a_list_of_one():
    assert on(Start, "idle", "busy", do=first).do == (first,)


def test_plain_and_async_actions_and_partials_are_handed_back_as_they_were_given():
    bound = partial(second)
    machine = Machine("m", initial="idle", table=[on(Start, "idle", "busy", do=[first, bound])])
    _, actions = machine.step("idle", Start(), Context())
    assert actions == (first, bound)
    context = Context()
    asyncio.run(actions[0](context, Start()))
    actions[1](context, Start())
    assert context.seen == ["first", "second"]


def test_building_a_machine_writes_nothing_to_the_log(caplog):
    caplog.set_level("DEBUG")
    machine = Machine("m", initial="idle", table=[on(Start, "idle", "busy", do=[first])])
    machine.step("idle", Start(), Context())
    assert caplog.records == []
