"""Numbers at the border: what somebody gives as an option, refused everywhere in the same words, and what is told."""

from obzen_runtime.kernel.errors import ConfigInvalid

__all__ = ["check_seconds", "check_whole", "counted"]


def check_whole(option: str, value: object, *, least: int, most: int | None = None) -> None:
    """Raise `ConfigInvalid` unless `value` is a whole number, no bool, from `least` to `most` (None: without a bound)."""
    if type(value) is not int or value < least or (most is not None and value > most):
        bounds = f", at least {least:,}" if most is None else f" from {least:,} to {most:,}"
        raise ConfigInvalid(f"{option}={value!r} is not allowed", remedy=f"Give a whole number{bounds}.", option=option)


def check_seconds(option: str, value: object) -> None:
    """Raise `ConfigInvalid` unless `value` is a length of time: a number above 0, which may be infinite."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
        raise ConfigInvalid(f"{option}={value!r} is not allowed", remedy="Give seconds, more than 0.", option=option)


def counted(count: int, noun: str, nouns: str = "") -> str:
    """A number with its noun: `1 event`, `2,000 events`; `nouns` is a plural that is not made with an s."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"
