"""How often a stage looks at the clock: often enough to share the loop, seldom enough to be fast."""

import pytest

import obzen_runtime as oz
from obzen_runtime.stages.shared import MOST, Pace
from tests.stages.kit import Seen, VirtualClock, ints, play


def settled(seconds_a_call, *, pieces=40):
    pace = Pace()
    for _ in range(pieces):
        pace.took(pace.calls, pace.calls * seconds_a_call)
    return pace


def test_the_first_call_is_looked_at_by_itself():
    assert Pace().calls == 1


@pytest.mark.parametrize(("seconds", "calls"), [(0.00001, 20), (0.0001, 2), (0.0003, 1)])
def test_calls_between_two_looks_take_about_a_fifth_of_a_millisecond(seconds, calls):
    assert settled(seconds).calls in (calls - 1, calls) if calls > 1 else settled(seconds).calls == 1


def test_it_grows_no_faster_than_twice_because_what_was_fast_may_not_stay_so():
    pace = Pace()
    steps = []
    for _ in range(5):
        pace.took(pace.calls, 1e-9)
        steps.append(pace.calls)
    assert steps == [2, 4, 8, 16, 32]


def test_it_never_goes_beyond_a_block():
    assert settled(0.0).calls == MOST


def test_after_a_slow_call_each_is_looked_at_again():
    pace = settled(1e-7)
    pace.took(1, 0.002)
    assert pace.calls == 1


@pytest.mark.parametrize("seconds", [0.002, 0.3])
def test_a_handler_that_is_slow_from_the_start_holds_the_loop_for_one_call_at_a_time(seconds):
    clock = VirtualClock()

    @oz.transform
    def slow(x: int) -> int:
        clock.spend(seconds)
        return x

    played = play(oz.Flow("f", ints(20) >> slow >> Seen().sink()), clock=clock)
    assert [block.count for block in played.blocks("slow") if block.count] == [1] * 20
