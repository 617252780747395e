"""How sure a sink is of what it delivered, as its author declares it: four classes, and what each asks of the handler.

- safe: what may have been delivered without a receipt is delivered again
- keyed: the same, and the handler gets a key by which the other side knows a repetition
- transactional: the writer stores the position in the transaction that stores the events: exactly once
- sensitive: an intent before and a receipt behind each event; what is unknown is in doubt, never tried again by itself
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from obzen_runtime.kernel import ConfigInvalid, IdempotencyKey, UsageError
from obzen_runtime.stages.handling import Handling, HandlingKeywords
from obzen_runtime.stages.schema import Parameter

__all__ = ["Delivering", "Delivery", "SinkKeywords", "check_writer", "key_of"]

Delivery = Literal["safe", "keyed", "transactional", "sensitive"]
"""What a sink does about an event that may have been delivered, and has no receipt."""


_ASKED = ("flush", "close", "sync", "position", "resume", "commit", "stored")
"""What a writer may have beside `write`."""


class Delivering(Handling, frozen=True, kw_only=True):
    """How a sink calls its handler, and what it promises."""

    delivery: Delivery = "safe"
    """What happens, after a crash, to an event that may have been delivered."""

    def __post_init__(self) -> None:
        Handling.__post_init__(self)
        if self.delivery not in get_args(Delivery):
            raise ConfigInvalid(
                f"delivery={self.delivery!r} is not a class of delivery", remedy=f"Give one of {', '.join(get_args(Delivery))}."
            )
        if self.delivery in ("transactional", "sensitive") and (self.concurrency > 1 or self.executor is not None):
            raise ConfigInvalid(f"a {self.delivery} sink delivers one after the other", remedy="Take concurrency and executor away.")
        if self.delivery == "sensitive" and (self.batch or self.retry is not None):
            raise ConfigInvalid(
                "a sensitive sink makes one call for each event and never repeats it",
                remedy='Take batch and retry away, or use delivery="keyed" where the other side knows repetitions.',
            )


class SinkKeywords(HandlingKeywords, total=False):
    """The keywords of `oz.sink`: the fields of `Delivering`, and a stand-in."""

    delivery: Delivery
    simulate: Callable[..., Any] | type[Any] | None


def key_of(name: str, parameters: Mapping[str, Parameter], options: Delivering) -> str:
    """The parameter that takes the key, or the keys of a batch; empty for sinks without. Raises `UsageError` where both disagree."""
    found = [each for each in parameters.values() if _is_key(each.annotation) or _are_keys(each.annotation)]
    if options.delivery != "keyed":
        if found:
            raise UsageError(
                f"sink {name}: parameter {found[0].name!r} is an oz.IdempotencyKey, and the sink is not keyed",
                remedy='Write @oz.sink(delivery="keyed").',
            )
        return ""
    fits = _are_keys if options.batch else _is_key
    if len(found) == 1 and fits(found[0].annotation):
        return found[0].name
    wanted = "keys: Sequence[oz.IdempotencyKey]" if options.batch else "key: oz.IdempotencyKey"
    raise UsageError(
        f"sink {name} is keyed and its handler has no parameter for the key{'s of its batch' if options.batch else ''}",
        remedy=f"Give it a keyword-only one: *, {wanted}.",
    )


def _is_key(annotation: Any) -> bool:
    return annotation is IdempotencyKey


def _are_keys(annotation: Any) -> bool:
    return IdempotencyKey in get_args(annotation)


def check_writer(handler: Any, *, is_class: bool, options: Delivering) -> None:
    """Whether a handler has what its class of delivery asks. Raises `UsageError`."""
    name = handler.__name__
    for method in _ASKED:
        if is_class and hasattr(handler, method) and not _has(handler, method):
            raise UsageError(f"sink {name}: {method} is not a method", remedy="Make it one, or give it another name.")
    if options.delivery == "transactional" and not (is_class and _has(handler, "commit") and _has(handler, "stored")):
        raise UsageError(
            f"sink {name} is transactional and cannot store its position",
            remedy="Make it a class with write(event), commit(position: bytes) and stored(run: str, stage: str) -> bytes | None.",
        )
    if is_class and _has(handler, "position") != _has(handler, "resume"):
        there, missing = ("position()", "resume(position)") if _has(handler, "position") else ("resume(position)", "position()")
        raise UsageError(f"sink {name} has {there} and no {missing}", remedy="They go together: give it both, or neither.")


def _has(made: Any, method: str) -> bool:
    return callable(getattr(made, method, None))
