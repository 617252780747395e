"""How much of its past a journal keeps, and which segments may go: a decision about values, nothing that touches a file."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from obzen_runtime.kernel import ConfigInvalid, check_seconds, check_whole

__all__ = ["Held", "Retention", "dispensable", "retention_from"]

_LEAST_BYTES = 512
_TIMES = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SIZES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
_AMOUNT = re.compile(r"([0-9]{1,12})\s*([a-z]+)")


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """What may be dropped of what nobody needs any more. With neither `seconds` nor `size`, all is kept."""

    seconds: float | None = None
    """Drop what is older than this."""
    size: int | None = None
    """Drop the oldest while the log takes more than this, bytes."""
    archive: str = ""
    """Directory to which dropped segments are moved, in a folder named by the run; empty: they are deleted."""

    def __post_init__(self) -> None:
        if self.seconds is not None:
            check_seconds("retention: seconds", self.seconds)
        if self.size is not None:
            check_whole("retention: size", self.size, least=_LEAST_BYTES)
        if self.archive and self.keeps_all:
            raise ConfigInvalid("an archive is given, and nothing is ever dropped", remedy="Give an age such as 7d or a size such as 10GiB")

    @property
    def keeps_all(self) -> bool:
        """Whether nothing is ever dropped."""
        return self.seconds is None and self.size is None


def retention_from(text: str | Retention, *, archive: str = "") -> Retention:
    """`all`, an age (`90s`, `30m`, `12h`, `7d`, `2w`), a size (`500MB`, `10GiB`), or both with a comma between. Raises `ConfigInvalid`."""
    if isinstance(text, Retention):
        return text
    if not isinstance(text, str):
        raise _unknown(text)
    seconds: int | None = None
    size: int | None = None
    for part in text.lower().split(","):
        match = _AMOUNT.fullmatch(part.strip())
        amount, unit = (int(match[1]), match[2]) if match else (0, "")
        if unit in _TIMES and seconds is None:
            seconds = amount * _TIMES[unit]
        elif unit in _SIZES and size is None:
            size = amount * _SIZES[unit]
        elif part.strip() != "all" or text.strip().lower() != "all":
            raise _unknown(text)
    return Retention(seconds=seconds, size=size, archive=archive)


def _unknown(text: object) -> ConfigInvalid:
    return ConfigInvalid(f"unknown retention {text!r}", remedy="Use all, an age such as 7d, a size such as 10GiB, or 7d,10GiB")


class Held(NamedTuple):
    """A segment that may be dropped, as the decision sees it."""

    size: int
    """Bytes."""
    ended_ms: int
    """Wall time at which it was full, milliseconds since 1970 UTC."""


def dispensable(retention: Retention, held: Sequence[Held], total: int, now_ms: int) -> int:
    """How many of these segments, oldest first, are to go. `total`: bytes of the whole log."""
    going = 0
    for segment in held:
        too_old = retention.seconds is not None and now_ms - segment.ended_ms > retention.seconds * 1000
        too_much = retention.size is not None and total > retention.size
        if not (too_old or too_much):
            break
        total -= segment.size
        going += 1
    return going
