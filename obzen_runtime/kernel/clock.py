"""Time and chance behind seams, so that the same code runs on a simulated clock and a seeded generator."""

import os
import random
import time
from typing import Protocol

__all__ = ["Clock", "Entropy", "SystemClock", "SystemEntropy"]


class Clock(Protocol):
    """Two readings that must not be mixed: wall time is for people, monotonic time measures."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970 UTC; may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds since some start; never goes back."""
        ...


class Entropy(Protocol):
    """Where randomness comes from."""

    def bytes(self, count: int) -> bytes:
        """`count` random bytes, for ids and salts."""
        ...

    def uniform(self, low: float, high: float) -> float:
        """A float in [low, high], for jitter."""
        ...


class SystemClock:
    """The machine's clocks."""

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    monotonic = staticmethod(time.monotonic)


class SystemEntropy:
    """The machine's randomness."""

    def bytes(self, count: int) -> bytes:
        return os.urandom(count)

    def uniform(self, low: float, high: float) -> float:
        return random.uniform(low, high)  # noqa: S311 - jitter needs no secrecy
