"""How a stage calls its handler: the options of its decorator, checked against each other and against the handler's shape."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypedDict, get_args

import msgspec

from obzen_runtime.kernel import ConfigInvalid, Retry, UsageError, check_seconds, check_whole
from obzen_runtime.stages.context import Context
from obzen_runtime.stages.schema import Declared, declare, read_handler

__all__ = ["Handling", "HandlingKeywords", "OnError", "Threads", "check_policy", "handling", "items_of", "threads"]

OnError = Literal["dead_letter", "fail", "skip"]
"""What happens to an event whose handler failed: kept with its error, the flow fails, or counted and passed over."""


def check_policy(on_error: object) -> None:
    """Raises `UsageError` for what is no `OnError`."""
    if on_error not in get_args(OnError):
        raise UsageError(
            f"on_error={on_error!r} is not a policy for events that fail", remedy=f"Give one of {', '.join(get_args(OnError))}."
        )


class Threads(msgspec.Struct, frozen=True, tag="threads"):
    """Run a blocking handler on `count` threads of the stage's own (1 … 256)."""

    count: int

    def __post_init__(self) -> None:
        check_whole("threads: count", self.count, least=1, most=256)


def threads(count: int) -> Threads:
    """`executor=oz.threads(4)`: the handler may block; up to `count` events are in work at once, in order at the exit."""
    return Threads(count)


class Handling(msgspec.Struct, frozen=True, kw_only=True):
    """How a stage calls its handler."""

    on_error: OnError = "dead_letter"
    """What happens to an event whose handler failed."""
    retry: Retry | None = None
    """Policy for handler errors that are retryable (`oz.Transient`, timeouts); None never tries again."""
    concurrency: int = 1
    """Events in work at once, for `async def` handlers (1 … 10,000)."""
    executor: Threads | None = None
    """Where a blocking handler runs; None is the loop's own thread."""
    batch: int = 0
    """Give the handler lists of up to this many events, each of one upstream (0: one event at a time; at most 4,096)."""
    within: float = 0.05
    """Seconds to wait for a batch to fill."""

    def __post_init__(self) -> None:
        check_policy(self.on_error)
        if not (self.retry is None or isinstance(self.retry, Retry)):
            raise ConfigInvalid(f"retry={self.retry!r} is not a policy", remedy="Give an oz.Retry, such as oz.Retry(attempts=3).")
        if not (self.executor is None or isinstance(self.executor, Threads)):
            raise ConfigInvalid(f"executor={self.executor!r} is not an executor", remedy="Give oz.threads(n).")
        check_whole("concurrency", self.concurrency, least=1, most=10_000)
        check_whole("batch", self.batch, least=0, most=4096)
        if self.within != 0:
            check_seconds("within", self.within)
        if self.batch and (self.concurrency > 1 or self.executor is not None):
            raise ConfigInvalid(
                "batch does not go with concurrency or an executor: a batch is the unit of work", remedy="Leave out one of them."
            )


class HandlingKeywords(TypedDict, total=False):
    """The fields of `Handling` as keywords of a decorator."""

    on_error: OnError
    retry: Retry | None
    concurrency: int
    executor: Threads | None
    batch: int
    within: float


def handling(
    function: Callable[..., Any], options: Mapping[str, Any], *, events: int, kind: type[Handling] = Handling
) -> tuple[Handling, Any]:
    """Check a handler's options against its shape."""
    name = getattr(function, "__name__", function)
    unknown = [option for option in options if option not in kind.__struct_fields__]
    if unknown:
        raise UsageError(f"{name} has no option {unknown[0]!r}", remedy=f"It has: {', '.join(sorted(kind.__struct_fields__))}.")
    try:
        checked = kind(**options)
    except ConfigInvalid as error:
        raise UsageError(f"{name}: {error.message}", remedy=error.remedy) from error
    signature = read_handler(function, events=events, context=Context)
    if checked.concurrency > 1 and not signature.asynchronous:
        raise UsageError(
            f"{function.__name__}: concurrency={checked.concurrency} needs an async def handler",
            remedy="Use executor=oz.threads(n) for a blocking one.",
        )
    if checked.executor is not None and signature.asynchronous:
        raise UsageError(f"{function.__name__}: an executor runs blocking handlers; an async def one waits on the loop")
    if signature.many and (checked.concurrency > 1 or checked.executor is not None or checked.batch):
        raise UsageError(f"{function.__name__}: a generator cannot be combined with concurrency, an executor or batch")
    if checked.batch and signature.inputs[0]:
        taken, _ = items_of(f"{function.__name__}: with batch its event parameter is", signature.inputs[0])
        signature = signature._replace(inputs=(taken,))
    return checked, signature


def items_of(what: str, declared: tuple[Declared, ...]) -> tuple[tuple[Declared, ...], bool]:
    """What the items of a declared list are."""
    items = get_args(declared[0].annotation)
    if len(declared) == 1 and declared[0].origin is list and items:
        return declare(items[0])
    raise UsageError(f"{what} a list", remedy="Annotate it as list[T].")
