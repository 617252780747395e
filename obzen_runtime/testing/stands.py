"""A user's flow made fit for a simulation: sources give their first items, sinks are replaced, blocking work runs inline.

A sink with `simulate=` gets the stand-in it names; any other one a recorder that honours its class of delivery. With
`real` the sinks' own handlers are called.
"""

import dataclasses
import dis
import functools
import inspect
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import msgspec

from obzen_runtime.flow import Flow
from obzen_runtime.stages import At, Node, Progress, Sink, Source, Transform
from obzen_runtime.testing.world import encoded, world

__all__ = ["Troubles", "staged"]


class Troubles:
    """What goes wrong in handlers of one life: per stage at which call, and how."""

    def __init__(self, spend: Callable[[float], None]) -> None:
        self.spend = spend
        """Lets virtual time pass."""
        self.left: dict[str, tuple[int, float]] = {}
        """Per stage the calls until it happens, and the seconds the call takes; below 0 the stage crashes."""

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
                changed[name] = dataclasses.replace(node, handler=_some(node, items(name)), thread=False)
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


def _some(node: Source, items: int | None) -> Callable[..., Any]:
    """The source's first items, also where it begins behind an offset that it gave in an earlier process."""
    handler = node.handler
    if items is None:
        return handler  # type: ignore[no-any-return]
    given_at: dict[bytes, int] = {}
    """Per offset how many items it had given then."""

    @functools.wraps(handler)
    def given(*arguments: Any, **parameters: Any) -> Any:
        # What it knows of its whole length is not true of its beginning.
        parameters = {name: Progress() if isinstance(each, Progress) else each for name, each in parameters.items()}
        start = parameters.get(node.seek) if node.seek else None
        before = given_at[encoded(start)] if start is not None else 0
        found = handler(*arguments, **parameters)
        return (_first_async if hasattr(found, "__anext__") else _first)(found, before, items, given_at)

    return given


def _first(found: Any, before: int, items: int, given_at: dict[bytes, int]) -> Iterator[Any]:
    try:
        for number, item in enumerate(itertools.islice(found, items - before), before + 1):
            if type(item) is At:
                given_at[encoded(item.offset)] = number
            yield item
    finally:
        _closed(found)


async def _first_async(found: Any, before: int, items: int, given_at: dict[bytes, int]) -> AsyncIterator[Any]:
    number = before
    try:
        while number < items:
            try:
                item = await anext(found)
            except StopAsyncIteration:
                return
            number += 1
            if type(item) is At:
                given_at[encoded(item.offset)] = number
            yield item
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
    """A stand-in that keeps what it is given in the world, as the sink's class of delivery promises it.

    A keyed sink whose code never looks at its key cannot keep that promise, so neither does its stand-in.
    """
    name, many = node.name, node.options.batch > 0
    honours = _reads(node.handler, node.key)
    assert node.signature is not None

    def record(given: Any) -> None:
        troubles.call(name)
        here = world()
        for event in given if many else (given,):
            here.append(name, event)

    def upsert(given: Any, **told: Any) -> None:
        if not honours:
            record(given)
            return
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
    return Sink(name, handler, signature=plain, options=options, key=node.key)


def _reads(handler: Any, parameter: str) -> bool:
    """Whether a handler's code looks at this parameter at all; true where there is no code to see."""
    code = getattr(inspect.unwrap(getattr(handler, "write", handler)), "__code__", None)
    if code is None or parameter in code.co_cellvars:
        return True
    return any(each.argval == parameter and each.opname.startswith("LOAD_") for each in dis.get_instructions(code))
