"""Supervision as data: which children a crash takes along, and when a supervisor gives up.

The rules are those of Erlang/OTP. `max` restarts within `within` seconds pass; one more and the supervisor gives
up and escalates. Children are stopped in the reverse of the order in which they were started.
"""

from collections import deque
from collections.abc import Sequence
from typing import Literal, get_args

import msgspec

from obzen_runtime.kernel import ConfigInvalid, check_seconds, check_whole

__all__ = ["Intensity", "Restart", "Strategy", "affected"]

Strategy = Literal["one_for_one", "rest_for_one", "one_for_all"]


class Restart(msgspec.Struct, frozen=True, kw_only=True):
    """When and with whom a crashed child is rebuilt. Raises `ConfigInvalid` for a value that means nothing."""

    strategy: Strategy = "one_for_one"
    """`one_for_one`: the crashed one; `rest_for_one`: also those started after it; `one_for_all`: every child."""
    max: int = 3
    """Restarts allowed within the window; 0 never restarts."""
    within: float = 60.0
    """Length of the sliding window in seconds."""

    def __post_init__(self) -> None:
        if self.strategy not in get_args(Strategy):
            raise ConfigInvalid(f"there is no strategy {self.strategy!r}", remedy=f"Use one of {', '.join(get_args(Strategy))}.")
        check_whole("max", self.max, least=0)
        check_seconds("within", self.within)


class Intensity:
    """Counts restarts of one supervisor in a sliding window."""

    def __init__(self, restart: Restart) -> None:
        self.restart = restart
        self._times: deque[float] = deque()

    @property
    def count(self) -> int:
        """Restarts in the window as of the last `permits`."""
        return len(self._times)

    def permits(self, now: float) -> bool:
        """Whether one more restart at `now` (monotonic seconds) is within the limit; if so it is counted."""
        while self._times and now - self._times[0] >= self.restart.within:
            self._times.popleft()
        if len(self._times) >= self.restart.max:
            return False
        self._times.append(now)
        return True


def affected(strategy: Strategy, children: Sequence[str], crashed: str) -> tuple[str, ...]:
    """The children to rebuild when `crashed` crashed, in start order as `children` are. Raises ValueError for a stranger."""
    place = list(children).index(crashed)
    if strategy == "one_for_one":
        return (crashed,)
    return tuple(children[place:] if strategy == "rest_for_one" else children)
