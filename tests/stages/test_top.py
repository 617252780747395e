"""The largest n: largest first, ties in order of arrival, and the same again after a crash."""

import math

import pytest

import obzen_runtime as oz
from obzen_runtime.kernel import ConfigInvalid
from tests.stages.test_stateful import drained, through


def test_top_gives_the_largest_first_and_ties_in_order_of_arrival():
    items = [(1, "a"), (3, "b"), (3, "c"), (2, "d"), (3, "e"), (1, "f"), (2, "g")]
    pair = tuple[int, str]
    done, seen = through(oz.top(5, by=lambda item: item[0]), items=items, kind=pair, given=pair)
    drained(done)
    assert seen == [(3, "b"), (3, "c"), (3, "e"), (2, "d"), (2, "g")]
    assert list(done.parents("top").values()) == [("since", n) for n in (1, 2, 4, 3, 6)]


@pytest.mark.parametrize("count", [1, 3, 1000])
def test_top_of_many_is_what_sorting_gives(count):
    items = [(n * 7919) % 1000 for n in range(5000)]
    done, seen = through(oz.top(count, by=lambda item: item // 10), items=items)
    drained(done)
    assert seen == sorted(items, key=lambda item: -(item // 10))[:count]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_events_that_cannot_be_ranked_are_dead_letters(size):
    ranks = {0: 5, 1: 6, 2: "x", 3: None, 4: 7, 5: 1}

    def by(value):
        if value == 6:
            raise ValueError("six")
        return ranks[value]

    done, seen = through(oz.top(size, by=by), count=7)
    drained(done)
    assert seen == [4, 1, 0, 5][:size]
    assert [letter.event for letter in done.letters()] == [2, 3, 6]


def test_top_survives_a_crash():
    crashes = []

    def by(value):
        if value == 900 and not crashes:
            crashes.append(value)
            raise KeyboardInterrupt
        return -value

    done, seen = through(oz.top(3, by=by), count=1000)
    drained(done)
    assert seen == [0, 1, 2]
    assert crashes


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_rank_that_is_no_number_hides_no_other_event_and_is_a_dead_letter(size):
    done, seen = through(oz.top(size, by=lambda value: math.nan if value in (0, 3) else value), count=5)
    drained(done)
    assert seen == [4, 2, 1][:size]
    assert [(letter.event, letter.error.message) for letter in done.letters()] == [
        (0, "the rank nan is not equal to itself"),
        (3, "the rank nan is not equal to itself"),
    ]


def test_top_of_nothing_is_refused():
    for count in (0, "2", 2.5, True):
        with pytest.raises(ConfigInvalid, match="at least 1"):
            oz.top(count, by=abs)
