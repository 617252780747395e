"""When a stateful stage gives what it holds."""

import msgspec

from obzen_runtime.kernel import UsageError, check_whole

__all__ = ["AtEnd", "Each", "Emit", "Every", "at_end", "check_emit", "each", "every"]


class AtEnd(msgspec.Struct, frozen=True, tag="at_end"):
    """Once, when the input has ended naturally."""


class Each(msgspec.Struct, frozen=True, tag="each"):
    """After every input."""


class Every(msgspec.Struct, frozen=True, tag="every"):
    """After every `count` inputs (of a key, where there are keys), and at the end for what is left."""

    count: int

    def __post_init__(self) -> None:
        check_whole("every: count", self.count, least=1)


Emit = AtEnd | Each | Every


def at_end() -> AtEnd:
    """Give once, when the input has ended naturally; a stopped flow gives nothing and can be resumed."""
    return AtEnd()


def each() -> Each:
    """Give after every input: a running value."""
    return Each()


def every(count: int) -> Every:
    """Give after every `count` inputs, per key where there are keys, and at the end for what is left."""
    return Every(count)


def check_emit(emit: object) -> None:
    """Raises `UsageError` for what is not a policy, such as `oz.each` without its parentheses."""
    if not isinstance(emit, Emit):
        raise UsageError(f"emit={emit!r} does not say when to give", remedy="Write oz.at_end(), oz.each() or oz.every(n).")
