"""Restart intensity is arithmetic: how many, in which window, with whom."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obzen_runtime.actor import Intensity, Restart, affected
from obzen_runtime.kernel import ConfigInvalid

CHILDREN = ("a", "b", "c", "d")


@pytest.mark.parametrize("most", [1, 2, 3, 10])
def test_T_SUP_exactly_max_restarts_pass_and_the_next_one_escalates(most):
    intensity = Intensity(Restart(max=most, within=60.0))
    assert [intensity.permits(float(second)) for second in range(most + 1)] == [True] * most + [False]


def test_T_SUP_max_0_never_restarts():
    intensity = Intensity(Restart(max=0))
    assert not intensity.permits(0.0)
    assert not intensity.permits(1e9)


def test_T_SUP_the_window_slides_with_each_restart():
    intensity = Intensity(Restart(max=2, within=10.0))
    assert [intensity.permits(at) for at in (0.0, 6.0, 9.0, 11.0, 12.0, 16.5, 17.0)] == [True, True, False, True, False, True, False]


def test_T_SUP_a_restart_exactly_within_ago_is_outside_the_window():
    intensity = Intensity(Restart(max=1, within=10.0))
    assert intensity.permits(5.0)
    assert not intensity.permits(14.999)
    assert intensity.permits(15.0)


def test_T_SUP_a_refused_restart_is_not_counted():
    intensity = Intensity(Restart(max=1, within=10.0))
    assert intensity.permits(0.0)
    assert not any(intensity.permits(float(at)) for at in range(1, 10))
    assert intensity.permits(10.0)


def test_T_SUP_all_at_one_instant_count_one_by_one():
    intensity = Intensity(Restart(max=3, within=1.0))
    assert [intensity.permits(7.0) for _ in range(5)] == [True, True, True, False, False]


def test_T_SUP_the_whole_window_passes_and_all_is_forgiven():
    intensity = Intensity(Restart(max=3, within=1.0))
    assert all(intensity.permits(0.5) for _ in range(3))
    assert [intensity.permits(1.5) for _ in range(4)] == [True, True, True, False]


def test_T_SUP_the_count_is_that_of_the_window():
    intensity = Intensity(Restart(max=3, within=10.0))
    counts = []
    for at in (0.0, 1.0, 2.0, 3.0, 10.5):
        intensity.permits(at)
        counts.append(intensity.count)
    assert counts == [1, 2, 3, 3, 3]


def test_T_SUP_two_supervisors_count_apart():
    restart = Restart(max=1)
    first, second = Intensity(restart), Intensity(restart)
    assert first.permits(0.0)
    assert second.permits(0.0)


def test_T_SUP_the_defaults_are_three_in_a_minute_one_for_one():
    assert Restart() == Restart(strategy="one_for_one", max=3, within=60.0)


@given(st.integers(0, 5), st.floats(0.1, 100), st.lists(st.floats(0, 50), max_size=40))
def test_T_SUP_no_window_ever_holds_more_than_max(most, within, gaps):
    intensity, now, passed = Intensity(Restart(max=most, within=within)), 0.0, []
    for gap in gaps:
        now += gap
        in_window = [at for at in passed if now - at < within]
        assert intensity.permits(now) == (len(in_window) < most)
        if len(in_window) < most:
            passed.append(now)


@pytest.mark.parametrize(("crashed", "along"), [("a", "a"), ("b", "b"), ("d", "d")])
def test_T_SUP_one_for_one_takes_nobody_along(crashed, along):
    assert affected("one_for_one", CHILDREN, crashed) == tuple(along)


@pytest.mark.parametrize(("crashed", "along"), [("a", "abcd"), ("b", "bcd"), ("d", "d")])
def test_T_SUP_rest_for_one_takes_those_started_after_it_in_start_order(crashed, along):
    assert affected("rest_for_one", CHILDREN, crashed) == tuple(along)


@pytest.mark.parametrize("crashed", CHILDREN)
def test_T_SUP_one_for_all_takes_every_child_in_start_order(crashed):
    assert affected("one_for_all", CHILDREN, crashed) == CHILDREN


@pytest.mark.parametrize("strategy", ["one_for_one", "rest_for_one", "one_for_all"])
def test_T_SUP_a_crash_of_a_stranger_is_refused(strategy):
    with pytest.raises(ValueError, match="stranger"):
        affected(strategy, CHILDREN, "stranger")


def test_T_SUP_a_strategy_that_does_not_exist_is_refused():
    with pytest.raises(ConfigInvalid, match="one_for_some"):
        Restart(strategy="one_for_some")


@pytest.mark.parametrize("wrong", [{"max": -1}, {"within": 0.0}, {"within": -1.0}, {"within": float("nan")}, {"max": 2.5}, {"max": True}])
def test_T_SUP_bounds_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ConfigInvalid, match=next(iter(wrong))):
        Restart(**wrong)


def test_T_SUP_an_endless_window_is_a_limit_for_life():
    intensity = Intensity(Restart(max=1, within=float("inf")))
    assert intensity.permits(0.0)
    assert not intensity.permits(1e12)
