"""The compiled table and `transitions` itself never disagree: random machines, random walks."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from transitions import MachineError

from obzen_runtime.fsm import Machine, on
from obzen_runtime.fsm.definition import define

EVENTS = [type(f"Event{number}", (), {}) for number in range(4)]
STATES = [f"s{number}" for number in range(6)]


class Context(msgspec.Struct):
    yes: frozenset[int]
    done: list[str] = []


class Model:
    """What `transitions` keeps its state on."""


def action(name):
    return lambda context, event: context.done.append(name)


def guard(number):
    return lambda context, event: number in context.yes


hooks = st.dictionaries(st.sampled_from(STATES), st.integers(1, 2))
entries = st.lists(
    st.tuples(
        st.sampled_from([*STATES, *STATES, "*"]),
        st.sampled_from(range(len(EVENTS))),
        st.sampled_from(STATES),
        st.none() | st.integers(0, 5),
    ),
    max_size=24,
)
walks = st.lists(st.sampled_from(EVENTS), max_size=30)


def built(chosen, enter, leave, *, guarded):
    """A machine that passes the checks, made from any choice by leaving out what they would refuse."""
    rows, always = [], set()
    for source, event, target, number in [("s0", 0, "s1", None), *chosen]:
        if (source, event) not in always:
            if not guarded or number is None:
                always.add((source, event))
            rows.append((source, event, target, number if guarded else None))
    reached = {"s0"}
    for _ in STATES:
        reached |= {target for source, _, target, _ in rows if source == "*" or source in reached}
    table = [
        on(EVENTS[event], source, target, when=None if number is None else guard(number), do=[action(f"row {index}")])
        for index, (source, event, target, number) in enumerate(rows)
        if source == "*" or source in reached
    ]
    entry, parting = (
        {state: [action(f"{word} {state} {number}") for number in range(count)] for state, count in given.items() if state in reached}
        for word, given in (("enter", enter), ("exit", leave))
    )
    return Machine("random", initial="s0", table=table, on_enter=entry, on_exit=parting)


def walked(machine, walk, yes):
    context, state, path = Context(yes), machine.initial, []
    for event in walk:
        found = machine.step(state, event(), context)
        if found is not None:
            state, actions = found
            for act in actions:
                act(context, event)
        path.append((state, found is not None))
    return path, context.done


def walked_by_transitions(machine, walk, yes):
    definition, model, context, path = define(machine.spec), Model(), Context(yes), []
    definition.machine.add_model(model)
    for event in walk:
        try:
            taken = model.trigger(definition.triggers[event], context, event()) if event in definition.triggers else False
        except MachineError:
            taken = False
        path.append((model.state, taken))
    return path, context.done


@given(entries, hooks, hooks, walks)
def test_random_walks_give_the_same_states_and_the_same_actions_as_transitions(chosen, enter, leave, walk):
    machine = built(chosen, enter, leave, guarded=False)
    assert walked(machine, walk, frozenset()) == walked_by_transitions(machine, walk, frozenset())


@given(entries, hooks, hooks, walks, st.frozensets(st.integers(0, 5)))
def test_with_guards_they_agree_as_well(chosen, enter, leave, walk, yes):
    machine = built(chosen, enter, leave, guarded=True)
    assert walked(machine, walk, yes) == walked_by_transitions(machine, walk, yes)
