"""Retry arithmetic: the waits, their bounds, and when there is no next try."""

import math
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from obzen_runtime.kernel import ConfigInvalid, ErrorInfo, Permanent, Retry, Transient, classify

AGAIN = classify(Transient("x"))
NEVER = classify(Permanent("x"))
STEADY = Retry(attempts=1000, jitter=False)
finite = st.floats(0, 1e9)


@pytest.mark.parametrize(("k", "wait"), [(0, 1.0), (1, 2.0), (2, 4.0), (5, 32.0), (6, 60.0), (998, 60.0)])
def test_M_012_the_wait_after_k_plus_one_failures_is_base_times_2_to_the_k_below_max(k, wait):
    assert STEADY.delay(k + 1, AGAIN) == wait


@given(st.integers(0, 10**9), finite, st.floats(1, 1e300), finite)
def test_M_012_no_growth_overflows_and_none_exceeds_max(k, base, multiplier, most):
    retry = Retry(attempts=10**9 + 2, base=base, multiplier=multiplier, max=most, jitter=False)
    wait = retry.delay(k + 1, AGAIN)
    assert 0 <= wait <= most
    assert math.isfinite(wait)


@given(st.integers(0, 200), st.integers(0, 100), st.integers(100, 300), st.integers(0, 10**6))
def test_C3_the_wait_is_the_exact_power_cut_at_max(k, base, percent, most):
    multiplier = percent / 100
    retry = Retry(attempts=1000, base=base, multiplier=multiplier, max=most, jitter=False)
    exact = min(Fraction(most), base * Fraction(multiplier) ** k)
    assert retry.delay(k + 1, AGAIN) == pytest.approx(float(exact), rel=1e-9)


@given(st.integers(1, 50), finite, st.floats(1, 10), finite)
def test_C3_waits_never_shrink(failures, base, multiplier, most):
    retry = Retry(attempts=100, base=base, multiplier=multiplier, max=most, jitter=False)
    assert retry.delay(failures, AGAIN) <= retry.delay(failures + 1, AGAIN)


@given(st.integers(1, 20), st.floats(0, 1))
def test_C3_full_jitter_scales_the_wait(failures, chance):
    jittered = msgspec.structs.replace(STEADY, jitter=True)
    assert jittered.delay(failures, AGAIN, chance=chance) == STEADY.delay(failures, AGAIN) * chance


@given(st.integers(1, 10), st.integers(1, 20))
def test_M_013_attempts_counts_the_first_try(attempts, failures):
    assert (Retry(attempts=attempts).delay(failures, AGAIN) is None) == (failures >= attempts)


def test_M_013_one_attempt_means_no_retry():
    assert Retry(attempts=1).delay(1, AGAIN) is None


def test_M_013_only_retryable_errors_are_retried():
    assert Retry().delay(1, NEVER) is None
    assert Retry().delay(1, ErrorInfo(kind="IO", code="missing_fact", message="x", retryable=True)) is not None


def test_N_065_retry_after_overrides_a_shorter_wait_even_above_max_and_jitter():
    asked = classify(Transient("x", retry_after=90.0))
    assert Retry().delay(1, asked, chance=0.0) == 90.0


def test_retry_after_is_a_floor_not_a_shortcut():
    assert Retry(jitter=False, base=10).delay(1, classify(Transient("x", retry_after=1.0))) == 10.0


@pytest.mark.parametrize(("elapsed", "wait"), [(0.0, 1.0), (4.0, 1.0), (4.001, None), (9.0, None)])
def test_the_last_try_starts_within_the_window(elapsed, wait):
    assert Retry(jitter=False, window=5.0).delay(1, AGAIN, elapsed=elapsed) == wait


def test_fixed_waits_the_same_and_exponential_grows():
    assert [Retry.fixed(attempts=4, delay=0.5).delay(n, AGAIN, chance=0.0) for n in (1, 2, 3, 4)] == [0.5, 0.5, 0.5, None]
    grown = Retry.exponential(attempts=5, base=1, multiplier=3, max=20)
    assert [grown.delay(n, AGAIN) for n in (1, 2, 3, 4)] == [1, 3, 9, 20]
    assert grown.jitter


@pytest.mark.parametrize(
    "option",
    [
        {"attempts": 0},
        {"attempts": -1},
        {"base": -0.1},
        {"base": math.nan},
        {"base": math.inf},
        {"multiplier": 0.9},
        {"multiplier": math.nan},
        {"max": -1.0},
        {"max": math.inf},
        {"window": -1.0},
        {"window": math.nan},
        {"attempts": "3"},
        {"attempts": 2.5},
        {"base": "1"},
        {"multiplier": 10**400},
        {"max": None},
        {"window": "5s"},
    ],
    ids=str,
)
def test_a_policy_that_makes_no_sense_cannot_be_made(option):
    with pytest.raises(ConfigInvalid) as caught:
        Retry(**option)
    assert caught.value.remedy


def test_a_policy_survives_its_codec():
    retry = Retry(attempts=7, window=3.0)
    assert msgspec.json.decode(msgspec.json.encode(retry), type=Retry) == retry
