"""What comes of an event, from records alone: marks that follow it through every shape of a step, and where it ends."""

from time import process_time

import pytest

from obzen_runtime.descent import Descent, Found, Leaf, Marks
from obzen_runtime.events import (
    Block,
    Cursor,
    DeadLetter,
    DeliveryIntent,
    DeliveryResolved,
    End,
    Lost,
    Offsets,
    Paired,
    Receipt,
    Since,
    Slice,
    StageInfo,
    runs_of,
)
from obzen_runtime.kernel import ErrorInfo

SOURCE = StageInfo("a", "source")
ERROR = ErrorInfo(kind="PERMANENT", code="permanent", message="no")


def found(block, number):
    return Found(f"{block.stage}@{block.base + number}")


def descent(*infos, few=9, given=None, of=("a", 1)):
    return Descent(*of, [SOURCE, *infos], few=few, given=given or {})


def fed(made, *records):
    for position, record in enumerate(records, 1):
        made.feed(position, record, found)
    return made


def given(count=3):
    return Block("a", 0, count, 1)


def step(stage, base, count, *inputs, taken=0, **columns):
    return Block(stage, base, count, 2, inputs=inputs, cursor=Cursor(taken=taken), **columns)


def tree(node):
    return {node.event: [tree(each) for each in node.events]} if node.events else node.event


def test_marks_are_kept_in_order_once_and_told_by_range_and_type():
    marks = Marks()
    for ordinal, kind in ((2, 0), (5, 1), (5, 1), (9, 0)):
        marks.add(ordinal, kind)
    assert [ordinal in marks for ordinal in (1, 2, 5, 9, 10)] == [False, True, True, True, False]
    assert (marks.any(3, 5), marks.any(3, 6)) == (False, True)
    assert list(marks.between(2, 9)) == [2, 5]
    assert list(marks.between(2, 10, (0,))) == [2, 9]


def test_what_comes_of_an_event_is_followed_from_stage_to_stage_and_nothing_else_is():
    records = [
        given(),
        step("b", 0, 2, Slice("a", 0, 3), taken=3, parents=Offsets(runs_of([1, 1]))),
        step("c", 0, 2, Slice("b", 0, 2), End("b", "natural", 2), taken=2),
        Receipt("k", 3, (Slice("c", 0, 1),), Cursor(taken=1)),
    ]
    made = fed(descent(StageInfo("b", "transform", ("a",)), StageInfo("c", "transform", ("b",)), StageInfo("k", "sink", ("c",))), *records)
    assert tree(made.root) == {"a@1": [{"b@0": ["c@0"]}, {"b@1": ["c@1"]}]}
    assert (made.counts, made.ends) == ({"b": 2, "c": 2}, {("k", "delivered"): 1})
    assert made.root.events[0].events[0].ends == [Leaf("delivered", "k", 3)]
    assert (made.marked("c", 1), made.marked("c", 2), made.marked("x", 0)) == (True, False, False)


def test_an_event_that_was_never_met_has_no_tree():
    made = fed(descent(of=("a", 7)), given(), step("b", 0, 3, Slice("a", 0, 3), taken=3))
    assert (made.root, made.counts) == (None, {})


def test_an_input_that_gave_nothing_ends_with_its_reason_and_a_dead_one_with_its_letter():
    dropped = fed(descent(), given(), step("b", 0, 1, Slice("a", 0, 3), taken=3, errors=(Lost("dropped", runs_of([1, 2])),)))
    assert dropped.root.ends == [Leaf("dropped", "b", 2)]
    letters = [DeadLetter(0, "b", 2, ERROR, "a", 0), DeadLetter(1, "b", 2, ERROR, "a", 1)]
    step_of_dead = step("b", 0, 1, Slice("x", 0, 2), Slice("a", 0, 3), taken=3, errors=(Lost("dead", runs_of([2, 3])),))
    dead = fed(descent(), given(), *letters, step_of_dead, step("q", 0, 1, Slice("dead_letters", 1, 2), taken=1))
    assert tree(dead.root) == {"a@1": [{"dead_letters@1": ["q@0"]}]}
    assert dead.root.events[0].payload == {"stage": "b", "error": "permanent: no"}
    assert not dead.root.ends


def test_a_letter_is_followed_from_itself_on():
    made = fed(descent(of=("dead_letters", 0)), DeadLetter(0, "b", 2, ERROR, "a", 0), step("q", 4, 1, Slice("dead_letters", 0, 1), taken=1))
    assert tree(made.root) == {"dead_letters@0": ["q@4"]}


def test_a_letter_of_an_event_that_is_only_counted_is_counted():
    records = [given(), step("b", 0, 2, Slice("a", 1, 2), taken=1, parents=Offsets(runs_of([0, 0]))), DeadLetter(0, "c", 3, ERROR, "b", 1)]
    made = fed(descent(few=1), *records, step("c", 0, 1, Slice("b", 1, 2), taken=1), Receipt("k", 3, (Slice("c", 0, 1),), Cursor(taken=1)))
    assert (tree(made.root), made.root.more) == ({"a@1": ["b@0"]}, {"b": 1})
    assert (made.counts, made.ends) == ({"b": 2, "c": 1, "dead_letters": 1}, {("k", "delivered"): 1})


def test_a_step_that_took_fewer_than_its_slice_says_perhaps_unless_its_types_tell():
    records = [given(), Receipt("k", 3, (Slice("a", 0, 3),), Cursor(taken=2))]
    assert fed(descent(StageInfo("k", "sink", ("a",))), *records).root.ends == [Leaf("delivered", "k", 3, perhaps=True)]
    mixed = Block("a", 0, 3, 1, types=b"\0\1\0")
    for takes, ends in (((1,), [Leaf("delivered", "k", 3)]), ((0,), [])):
        told = fed(descent(StageInfo("k", "sink", ("a",), takes={"a": takes})), mixed, records[1])
        assert told.root.ends == ends


def test_a_delivery_in_doubt_is_told_step_by_step():
    made = fed(descent(), given(), DeliveryIntent("k", 2, "a", 1), DeliveryIntent("k", 2, "a", 2), DeliveryResolved("k", 3, "a", 1, "dead"))
    assert made.root.ends == [Leaf("intended", "k", 2), Leaf("dead", "k", 3)]


def test_a_join_follows_the_reference_too():
    paired = step("j", 0, 2, Slice("s", 0, 2), taken=2, parents=Paired(runs_of([0, 1]), "a", (1, -1)))
    assert tree(fed(descent(StageInfo("j", "join", ("s", "a"))), given(), paired).root) == {"a@1": ["j@0"]}


def test_an_output_of_an_input_that_is_still_being_given_for_counts():
    later = step("b", 1, 1, Slice("a", 1, 1), taken=1, parents=Offsets(runs_of([0])))
    assert tree(fed(descent(), given(), later).root) == {"a@1": ["b@1"]}


@pytest.mark.parametrize(
    ("kind", "since", "events"), [("stateful", (0, 2), ["k@0"]), ("top", (1, 0), ["k@0"]), ("fold", (0, 1), ["k@0", "k@1"])]
)
def test_what_remembers_gives_what_may_come_of_it_later(kind, since, events):
    records = [given(), step("k", 0, 0, End("b", "natural", 0), Slice("a", 0, 3), taken=3), step("k", 0, 2, taken=3, parents=Since(since))]
    made = fed(descent(StageInfo("k", kind, ("a",))), *records)
    assert [node.event for node in made.root.events] == events
    assert [node.among for node in made.root.events] == [3 if kind == "stateful" else 0] * len(events)
    assert made.root.ends == [Leaf("folded", "k", 2)]


def test_who_knows_the_code_says_which_outputs_come_of_it():
    records = [given(), step("k", 0, 0, Slice("a", 0, 3), taken=3), step("k", 0, 2, taken=3, parents=Since((0, 0)))]
    made = fed(descent(StageInfo("k", "stateful", ("a",)), given={"k": lambda block, marked: [1]}), *records)
    assert [(node.event, node.among) for node in made.root.events] == [("k@1", 0)]


def test_a_tree_of_all_that_comes_of_one_event_takes_time_in_proportion():
    def seconds(count):
        made = descent(StageInfo("k", "stateful", ("a",)), few=1 << 60)
        begun = process_time()
        emitted = step("k", 0, count, taken=3, parents=Since((0,) * count))
        assert len(fed(made, given(), step("k", 0, 0, Slice("a", 0, 3), taken=3), emitted).root.events) == count
        return process_time() - begun

    assert seconds(20_000) < 5  # counting again at each one what was shown before took minutes
