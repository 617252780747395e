"""A user's flow made fit for a simulation: sources give their first items, sinks are replaced, blocking work runs inline.

A sink with `simulate=` gets the stand-in it names; any other one a recorder that honours its class of delivery. With
`real` the sinks' own handlers are called.
"""

import dataclasses
import functools
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import msgspec

from obzen_runtime.flow import Flow
from obzen_runtime.stages import Node, Progress, Sink, Source, Transform
from obzen_runtime.testing.world import world

__all__ = ["Troubles", "staged"]

NOTHING: Mapping[str, Any] = {}


class Troubles:
    """What goes wrong in handlers of one life: per stage at which call, and how."""

    def __init__(self, spend: Callable[[float], None]) -> None:
        self.spend = spend
        """Lets virtual time pass."""
        self.left: dict[str, tuple[int, float]] = {}
        """Per stage the calls until it happens, and the seconds the call takes; below 0 the stage crashes."""
        self.resumed = False
        """The process goes on with a run."""

    def call(self, stage: str) -> None:
        """A handler of the stage is called. Raises `SystemExit` where the stage is to crash."""
        found = self.left.get(stage)
        if found is None:
            return
        calls, seconds = found
        if calls > 1:
            self.left[stage] = calls - 1, seconds
            return
        del self.left[stage]
        if seconds < 0:
            raise SystemExit(3)
        self.spend(seconds)


def staged(flow: Flow, troubles: Troubles, *, items: Callable[[str], int | None], real: bool) -> Flow:
    """The flow as a simulation runs it."""
    changed: dict[str, Node] = {}
    for name, node in flow.nodes.items():
        match node:
            case Source():
                changed[name] = dataclasses.replace(node, handler=_some(node.handler, items(name), troubles), thread=False)
            case Sink():
                sink = node if real else node.stand_in() or _recorder(node, troubles)
                changed[name] = dataclasses.replace(sink, options=_inline(sink.options))
            case Transform():
                handler = _troubled(node, troubles)
                changed[name] = dataclasses.replace(node, handler=handler, options=_inline(node.options))
    return flow._with(changed)  # noqa: SLF001 - the same flow with other stages, for us alone


def _inline(options: Any) -> Any:
    """Without an executor: what would run on a thread is called on the loop."""
    return msgspec.structs.replace(options, executor=None)


def _some(handler: Callable[..., Any], items: int | None, troubles: Troubles) -> Callable[..., Any]:
    """The source's first items. One that goes on with a run is pulled by a task, never by a thread."""

    @functools.wraps(handler)
    def given(*arguments: Any, **parameters: Any) -> Any:
        if items is not None:  # what it knows of its whole length is not true of its beginning
            parameters = {name: Progress() if isinstance(each, Progress) else each for name, each in parameters.items()}
        found = handler(*arguments, **parameters)
        if hasattr(found, "__anext__"):
            return found if items is None else _first(found, items)
        some = itertools.islice(found, items)
        return _waiting(some, found) if troubles.resumed else _plain(some, found)

    return given


def _plain(some: Iterator[Any], found: Any) -> Iterator[Any]:
    try:
        yield from some
    finally:
        _closed(found)


async def _waiting(some: Iterator[Any], found: Any) -> AsyncIterator[Any]:
    try:
        for item in some:
            yield item
    finally:
        _closed(found)


async def _first(found: Any, items: int) -> AsyncIterator[Any]:
    left = items
    try:
        async for item in found:
            yield item
            left -= 1
            if not left:
                return
    finally:
        if hasattr(found, "aclose"):
            await found.aclose()


def _closed(found: Any) -> None:
    if hasattr(found, "close"):
        found.close()


def _troubled(node: Transform, troubles: Troubles) -> Callable[..., Any]:
    """The handler, which may be slow or break its stage at a call that was drawn; generators are left alone."""
    handler, name = node.handler, node.name
    if node.signature is None or node.signature.many:
        return handler  # type: ignore[no-any-return]

    @functools.wraps(handler)
    def called(*arguments: Any, **parameters: Any) -> Any:
        troubles.call(name)
        return handler(*arguments, **parameters)

    return called


def _recorder(node: Sink, troubles: Troubles) -> Sink:
    """A stand-in that keeps what it is given in the world, as the sink's class of delivery promises it."""
    name, many = node.name, node.options.batch > 0
    assert node.signature is not None

    def record(given: Any) -> None:
        troubles.call(name)
        here = world()
        for event in given if many else (given,):
            here.append(name, event)

    def upsert(given: Any, **told: Any) -> None:
        troubles.call(name)
        here, keys = world(), told[node.key]
        for key, event in zip(keys, given, strict=True) if many else ((keys, given),):
            here.put(name, key, event)

    class Ledger:
        def __init__(self) -> None:
            self.pending: list[Any] = []

        def write(self, given: Any) -> None:
            troubles.call(name)
            self.pending.extend(given if many else (given,))

        def commit(self, position: bytes) -> None:
            written, self.pending = self.pending, []
            world().transact(name, written, position)

        def stored(self, run: str, stage: str) -> bytes | None:
            return world().at(name).position

    handler: Any = {"keyed": upsert, "transactional": Ledger}.get(node.options.delivery, record)
    plain = node.signature._replace(parameters={}, asynchronous=False, context=False, many=False)
    options = msgspec.structs.replace(node.options, concurrency=1)
    return dataclasses.replace(node, handler=handler, signature=plain, options=options, bound=NOTHING, simulate=None)
