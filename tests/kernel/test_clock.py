"""The machine's clock and randomness behind their seams."""

import time

from obzen_runtime.kernel import Clock, Entropy, SystemClock, SystemEntropy


def test_wall_time_is_milliseconds_since_1970():
    clock: Clock = SystemClock()
    before = time.time_ns() // 1_000_000
    now = clock.wall_ms()
    assert isinstance(now, int)
    assert before <= now <= time.time_ns() // 1_000_000


def test_monotonic_time_never_goes_back():
    clock: Clock = SystemClock()
    readings = [clock.monotonic() for _ in range(100)]
    assert readings == sorted(readings)


def test_entropy_gives_as_many_bytes_as_asked_and_not_the_same_twice():
    entropy: Entropy = SystemEntropy()
    assert [len(entropy.bytes(count)) for count in (0, 1, 16)] == [0, 1, 16]
    assert entropy.bytes(16) != entropy.bytes(16)


def test_uniform_stays_within_its_bounds():
    entropy: Entropy = SystemEntropy()
    draws = {entropy.uniform(2.0, 3.0) for _ in range(200)}
    assert len(draws) > 1
    assert all(2.0 <= draw <= 3.0 for draw in draws)
