import pytest

from benchmarks import harness
from benchmarks.harness import Case, Plan, Question, Target, answer, checked


def ask(monkeypatch, question, plan):
    monkeypatch.setattr(harness, "find", lambda name: question)
    monkeypatch.setattr(harness, "asked", lambda name: "What?")
    return answer("made_up", plan)


def given(costs, calls, name):
    values = iter(costs)

    def measure(size, place):
        assert list(place.iterdir()) == []
        calls.append((name, size))
        return next(values)

    return measure


def test_each_case_is_measured_right_after_its_yardstick_and_the_median_of_pairs_counts(monkeypatch):
    calls = []
    question = Question(
        name="made_up",
        unit="events",
        size=100,
        yardsticks={"bare": given([1.0, 1.0, 2.0, 2.0, 4.0, 4.0], calls, "bare")},
        cases=(
            Case("fast", given([2.0, 8.0, 8.0], calls, "fast"), "bare", Target(0.5)),
            Case("slow", given([10.0, 20.0, 40.0], calls, "slow"), "bare", Target(0.2), share=0.5),
        ),
    )
    fast, slow = ask(monkeypatch, question, Plan(None, 3)).cases
    assert [name for name, _ in calls] == ["bare", "fast", "bare", "slow", "bare", "slow", "bare", "fast", "bare", "fast", "bare", "slow"]
    assert [size for name, size in calls if name == "slow"] == [50, 50, 50]
    assert (fast.ratio, fast.met, fast.target) == (0.5, True, "≥ 0.5")
    assert fast.values == [0.5, 0.125, 0.125]
    assert (slow.ratio, slow.met) == (0.1, False)


def test_a_ratio_of_costs_must_stay_below_its_target(monkeypatch):
    question = Question(
        name="made_up",
        unit="events",
        size=1,
        yardsticks={"near": lambda size, place: 2.0},
        cases=(Case("far", lambda size, place: 2.2, "near", Target(1.15, "at most")),),
        cost=True,
    )
    (far,) = ask(monkeypatch, question, Plan(None, 1)).cases
    assert far.ratio == pytest.approx(1.1)
    assert far.met


def test_a_figure_stands_for_itself(monkeypatch):
    question = Question(
        name="made_up",
        unit="MiB",
        size=1,
        cases=(Case("grows", lambda size, place: 20.0, "", Target(16, "at most", "figure")), Case("free", lambda size, place: 1.0)),
        figure=True,
    )
    grows, free = ask(monkeypatch, question, Plan(None, 2)).cases
    assert (grows.values, grows.met, free.met, free.ratio) == ([20.0, 20.0], False, None, None)


def test_a_measurement_that_did_not_do_its_work_gives_no_number():
    with pytest.raises(AssertionError, match="did not do its work"):
        checked("sum", 1, 2)
