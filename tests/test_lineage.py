"""Parents from columns: every shape of `parents`, over slices, signals and losses."""

from hypothesis import given
from hypothesis import strategies as st

from obzen_runtime.events import Block, Cursor, End, Lost, Offsets, Paired, Receipt, Since, Slice, runs_of
from obzen_runtime.lineage import History, Range, joined, losses_of, parents_of, sources_of


def block(count, inputs=(), parents=None, errors=(), taken=0):
    return Block("s", 0, count, 0, inputs=inputs, parents=parents, errors=errors, cursor=Cursor(taken=taken))


def ids(found):
    return [[str(each) for each in parents] for parents in found]


def test_a_range_shows_one_event_by_its_id_and_several_by_first_and_last():
    assert [str(Range("up", 3, 4)), str(Range("up", 3, 9))] == ["up@3", "up@3..8"]


def test_what_a_source_gives_has_no_parents():
    assert ids(parents_of(block(2))) == [[], []]


def test_without_a_column_output_i_comes_from_input_i():
    assert ids(parents_of(block(3, (Slice("up", 5, 8),)))) == [["up@5"], ["up@6"], ["up@7"]]


def test_without_a_column_lost_inputs_are_passed_over_whatever_the_reason():
    errors = (Lost("dropped", runs_of([0, 3])), Lost("dead", runs_of([1])))
    assert ids(parents_of(block(2, (Slice("up", 10, 15),), errors=errors))) == [["up@12"], ["up@14"]]


def test_offsets_run_over_all_slices_in_order_and_signals_do_not_count():
    inputs = (Slice("a", 7, 9), End("b", "natural", 3), Slice("b", 0, 2))
    assert ids(parents_of(block(4, inputs))) == [["a@7"], ["a@8"], ["b@0"], ["b@1"]]
    assert ids(parents_of(block(3, inputs, Offsets(runs_of([1, 2, 2]))))) == [["a@8"], ["b@0"], ["b@0"]]


def test_the_offset_behind_the_last_slice_is_the_input_that_a_generator_still_gives_for():
    assert ids(parents_of(block(3, (Slice("up", 4, 6),), Offsets(runs_of([0, 1, 2]))))) == [["up@4"], ["up@5"], ["up@6"]]


def test_a_slice_of_no_length_marks_the_input_that_a_generator_still_gives_for():
    assert ids(parents_of(block(2, (Slice("up", 9, 9),), Offsets(runs_of([0, 0]))))) == [["up@9"], ["up@9"]]


def test_a_slice_of_no_length_behind_another_marks_its_own_upstream():
    inputs = (Slice("a", 0, 3), Slice("b", 5, 5))
    assert ids(parents_of(block(2, inputs, Offsets(runs_of([2, 3]))))) == [["a@2"], ["b@5"]]


def test_a_join_adds_the_reference_and_says_nothing_where_there_was_none():
    paired = Paired(runs_of([0, 2]), "ref", (4, -1))
    assert ids(parents_of(block(2, (Slice("up", 0, 3),), paired))) == [["up@0", "ref@4"], ["up@2"]]


def test_an_emission_without_inputs_has_no_parents_beyond_its_column():
    assert ids(parents_of(block(1, parents=Since((0,))))) == [[]]


def test_what_is_lost_and_what_is_taken_are_told_as_ranges():
    receipt = Receipt("s", 0, (Slice("a", 0, 3), Slice("a", 3, 5), Slice("b", 1, 2)), errors=(Lost("dead", runs_of([1, 2, 5])),))
    assert list(map(str, sources_of(receipt))) == ["a@0..4", "b@1"]
    assert [(reason, list(map(str, ranges))) for reason, ranges in losses_of(receipt)] == [("dead", ["a@1..2", "b@1"])]


def test_ranges_that_do_not_follow_each_other_stay_apart():
    assert joined([Range("a", 0, 2), Range("a", 3, 4), Range("b", 4, 5)]) == [Range("a", 0, 2), Range("a", 3, 4), Range("b", 4, 5)]


def fed(*steps):
    history, taken = History(), 0
    for inputs, count in steps:
        taken += count
        history.feed(block(0, inputs, taken=taken))
    return history


def since(history, number):
    return list(map(str, history.since(number)))


def test_a_fold_comes_from_everything_it_took_and_a_key_from_its_first_event_on():
    history = fed(((Slice("up", 0, 4),), 4), ((Slice("up", 4, 10),), 6))
    assert [since(history, number) for number in (0, 3, 9, 10)] == [["up@0..9"], ["up@3..9"], ["up@9"], []]


def test_outputs_that_come_of_the_same_inputs_are_told_the_same():
    made = block(3, (Slice("up", 0, 4),), Since((0, 2, 0)), taken=4)
    history = History()
    history.feed(made)
    assert ids(parents_of(made, history)) == [["up@0..3"], ["up@2..3"], ["up@0..3"]]


def test_a_past_output_comes_from_nothing_that_was_taken_after_it():
    history = fed(((Slice("a", 0, 4),), 4), ((Slice("b", 0, 3),), 3), ((Slice("a", 4, 9),), 5))
    assert [list(map(str, history.since(1, until))) for until in (1, 3, 4, 6, 8)] == [
        [],
        ["a@1..2"],
        ["a@1..3"],
        ["a@1..3", "b@0..1"],
        ["a@1..4", "b@0..2"],
    ]


def test_with_several_upstreams_each_begins_where_it_was_at_that_input():
    history = fed(((Slice("a", 0, 2),), 2), ((Slice("b", 0, 2),), 2), ((Slice("a", 2, 5),), 3))
    assert since(history, 0) == ["a@0..4", "b@0..1"]
    assert since(history, 1) == ["a@1..4", "b@0..1"]
    assert since(history, 3) == ["a@2..4", "b@1"]
    assert since(history, 4) == ["a@2..4"]


def test_one_step_with_several_slices_counts_through_them():
    history = fed(((Slice("a", 0, 2), End("c", "natural", 0), Slice("b", 5, 7)), 4))
    assert since(history, 3) == ["b@6"]


def test_where_routing_passed_over_events_the_whole_slice_is_told_never_less():
    history = fed(((Slice("up", 0, 10),), 3), ((Slice("up", 10, 12),), 2))
    assert since(history, 2) == ["up@0..11"]
    assert since(history, 4) == ["up@11"]


def test_a_receipt_is_history_too_and_a_record_without_a_cursor_counts_its_slices():
    history = History()
    history.feed(Receipt("s", 0, (Slice("up", 0, 3),)))
    history.feed(Receipt("s", 0, (Slice("up", 3, 5),)))
    assert since(history, 4) == ["up@4"]


def test_a_long_alternation_is_kept_in_little_room_and_never_tells_less_than_the_parents():
    history = History()
    steps = 40_000
    for step in range(steps):
        upstream = "ab"[step % 2]
        history.feed(block(0, (Slice(upstream, step // 2, step // 2 + 1),), taken=step + 1))
    kept = sum(len(track.first) for track in history._tracks.values())
    assert kept <= 2 * 16_384
    for number in (0, 1, 777, steps // 2, steps - 1):
        exact = {"a": (number + 1) // 2, "b": number // 2}
        for stage, start, stop in history.since(number):
            assert exact[stage] - 8 < start <= exact[stage]
            assert stop == steps // 2


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5)), min_size=1, max_size=40), st.data())
def test_since_is_exactly_what_was_taken_from_then_on(steps, data):
    taken, history, next_of = [], History(), dict.fromkeys("abc", 0)
    for upstream, length in steps:
        start = next_of[upstream]
        next_of[upstream] += length
        taken += [(upstream, ordinal) for ordinal in range(start, start + length)]
        history.feed(block(0, (Slice(upstream, start, start + length),), taken=len(taken)))
    number = data.draw(st.integers(0, len(taken)))
    until = data.draw(st.none() | st.integers(number, len(taken)))
    found = {(stage, ordinal) for stage, start, stop in history.since(number, until) for ordinal in range(start, stop)}
    assert found == set(taken[number:until])


@given(st.lists(st.booleans(), max_size=60), st.integers(0, 1000))
def test_without_a_column_the_survivors_are_the_parents(lost, start):
    errors = (Lost("dropped", runs_of([offset for offset, gone in enumerate(lost) if gone])),)
    alive = [start + offset for offset, gone in enumerate(lost) if not gone]
    found = list(parents_of(block(len(alive), (Slice("up", start, start + len(lost)),), errors=errors)))
    assert found == [(Range("up", ordinal, ordinal + 1),) for ordinal in alive]
