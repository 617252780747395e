"""Retry arithmetic: how long to wait before the next try, and whether there is one. Pure; behaviour is above."""

import sys
from typing import Self

import msgspec

from obzen_runtime.kernel.amounts import check_whole
from obzen_runtime.kernel.errors import ConfigInvalid, ErrorInfo

__all__ = ["Retry"]

_LARGEST = sys.float_info.max


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """When to try again. `attempts` counts the first try; times are seconds.

    The wait after `k` failures (k = 1, 2, ...) is `min(max, base * multiplier ** (k - 1))`, scaled by full jitter.
    A `retry_after` from the error is a floor for it.
    """

    attempts: int = 3
    """Tries in all, at least 1."""
    base: float = 1.0
    """First wait in seconds."""
    multiplier: float = 2.0
    """Growth of the wait; 1.0 keeps it fixed."""
    max: float = 60.0
    """Longest wait in seconds, before `retry_after` is honoured."""
    jitter: bool = True
    """Draw the wait uniformly from [0, wait], so that many callers do not come back together."""
    window: float | None = None
    """Seconds after the first try within which the last try may start; None for no bound."""

    def __post_init__(self) -> None:
        check_whole("attempts", self.attempts, least=1)
        floors = {"base": (self.base, 0), "multiplier": (self.multiplier, 1), "max": (self.max, 0), "window": (self.window or 0, 0)}
        for name, (value, least) in floors.items():
            if not (isinstance(value, int | float) and least <= value <= _LARGEST):
                raise ConfigInvalid(f"{name}={value!r} is not allowed", remedy=f"Give a finite number, at least {least}.", option=name)

    @classmethod
    def exponential(cls, *, attempts: int = 3, base: float = 1.0, multiplier: float = 2.0, max: float = 60.0) -> Self:  # noqa: A002
        """Wait base, base·multiplier, base·multiplier² … seconds, none above `max`."""
        return cls(attempts=attempts, base=base, multiplier=multiplier, max=max)

    @classmethod
    def fixed(cls, *, attempts: int = 3, delay: float = 1.0) -> Self:
        """Wait the same `delay` seconds every time, without jitter."""
        return cls(attempts=attempts, base=delay, multiplier=1.0, max=delay, jitter=False)

    def delay(self, failures: int, error: ErrorInfo, *, elapsed: float = 0.0, chance: float = 1.0) -> float | None:
        """Seconds to wait after `failures` (>= 1) failed tries, or None when there is no next try.

        `elapsed` is the time since the first try began, `chance` a draw from [0, 1] for the jitter.
        """
        if failures >= self.attempts or not error.retryable:
            return None
        wait = self._backoff(failures - 1)
        if self.jitter:
            wait *= chance
        if error.retry_after_ms is not None:
            wait = max(wait, error.retry_after_ms / 1000)
        if self.window is not None and elapsed + wait > self.window:
            return None
        return wait

    def _backoff(self, growths: int) -> float:
        try:
            return min(self.max, self.base * float(self.multiplier) ** growths)
        except OverflowError:  # the growth left the range of floats, unless there is nothing to grow
            return self.max if self.base else 0.0
