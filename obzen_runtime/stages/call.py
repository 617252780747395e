"""How a handler is called over a list of events: the innermost lines of the runtime.

One function call, one append and one look at the class: that is all an event costs here. A loop over an iterator keeps
what was made before an exception and stands behind the event that raised, so an error costs nothing until it happens.
"""

import asyncio
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from obzen_runtime.kernel import ErrorInfo, ProtocolViolated
from obzen_runtime.stages.step import Made

__all__ = ["Call", "Calls", "ours"]

_FAILED = object()
"""Stands in the raw outputs where a handler raised."""


def ours(error: BaseException) -> bool:
    """Whether this is a cancellation of the task at hand, not one that user code raised of its own."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


class Call:
    """A handler and what is known of it. `optional`: None drops; `many`: a generator."""

    __slots__ = ("asynchronous", "batch", "gives", "handler", "many", "optional")

    def __init__(self, handler: Callable[..., Any], *, asynchronous: bool, many: bool, batch: bool, optional: bool) -> None:
        self.handler = handler
        self.asynchronous = asynchronous
        self.many = many
        self.batch = batch
        self.optional = optional
        self.gives = True
        """What it returns is its outputs, and not nobody's."""


class Calls:
    """One step's calls over `items`. Run pieces until the step is long enough, then ask for what was `made`.

    The step must end where `crash` (the stage itself broke), `held` (an error to be tried again) or `live` (a
    generator that has more to give than fits) is set. `within` outputs of the first input were given in earlier
    steps: by the generator `live`, or, where that is gone, by one that is made again and must pass over them.
    """

    def __init__(
        self, call: Call, items: Sequence[Any], holds: Callable[[BaseException], bool], *, live: Any = None, within: int = 0
    ) -> None:
        self.handler = call.handler
        self.asynchronous = call.asynchronous
        self.optional = call.optional
        self.gives = call.gives
        self.holds = holds
        self.held: BaseException | None = None
        self.resumed = within > 0
        self.items = items
        self.taken = 0
        self.raw: list[Any] = []
        self.counts: list[int] = []
        """Per input the outputs it gave, for generators."""
        self.errors: dict[int, BaseException] = {}
        self.crash: BaseException | None = None
        self.live = live
        self.within = within

    @property
    def over(self) -> bool:
        """Whether the step must end here."""
        return self.crash is not None or self.held is not None or self.live is not None

    def _fail(self, error: Exception) -> bool:
        """Note a handler's error; True when it is to be tried again and the step ends before it."""
        if self.holds(error):
            self.held = error
            return True
        self.errors[len(self.raw)] = error
        self.raw.append(_FAILED)
        return False

    def one(self, stop: int) -> None:
        """Call a plain function for items up to `stop`."""
        raw, handler = self.raw, self.handler
        start = self.taken
        piece = iter(self.items[start:stop] if start or stop < len(self.items) else self.items)
        while len(raw) < stop:
            try:
                for item in piece:
                    raw.append(handler(item))
            except Exception as error:  # user code: an event's failure is a value
                if self._fail(error):
                    break
            except BaseException as error:
                self.crash = error
                break
        self.taken = len(raw)

    async def one_async(self, stop: int) -> None:
        """Await a coroutine function for items up to `stop`, in this task."""
        raw, handler = self.raw, self.handler
        append = raw.append
        try:
            for item in self.items[self.taken : stop]:
                try:
                    append(await handler(item))
                except Exception as error:
                    if self._fail(error):
                        break
                except BaseException as error:
                    if ours(error):
                        raise
                    self.crash = error
                    break
        finally:
            self.taken = len(raw)

    def many(self, stop: int, room: int) -> None:
        """Flatten generators for items up to `stop`, at most `room` outputs in all."""
        raw = self.raw
        while self.taken < stop:
            before = len(raw)
            try:
                source = self.live
                if source is None:
                    source = iter(self.handler(self.items[self.taken]))
                    for _ in islice(filter(self._given, source), self.within):
                        """Given in an earlier step."""
                self.live = None
                full = self._draw(source, room)
            except Exception as error:
                del raw[before:]
                if self.holds(error):
                    self.held = error
                    return
                self._next_input(0, error)
                continue
            except BaseException as error:
                del raw[before:]
                self.crash = error
                return
            made = len(raw) - before
            if full:
                self._unfinished(source, made)
                return
            self._next_input(made)

    def _given(self, output: Any) -> bool:
        return output is not None or not self.optional

    def _draw(self, source: Any, room: int) -> bool:
        """Take what a generator gives; True when there is no room for more."""
        raw = self.raw
        while True:
            before, space = len(raw), room - len(raw)
            raw.extend(islice(source, space))
            full = len(raw) - before == space
            if self.optional and None in raw:
                raw[before:] = [output for output in raw[before:] if output is not None]
            if not full or len(raw) >= room:
                return full

    async def many_async(self, stop: int, room: int) -> None:
        """Flatten async generators, as `many`."""
        raw = self.raw
        while self.taken < stop:
            before = len(raw)
            try:
                source, skip = self.live, 0
                if source is None:
                    source, skip = self.handler(self.items[self.taken]), self.within
                self.live = None
                async for output in source:
                    if not self._given(output):
                        continue
                    if skip:
                        skip -= 1
                        continue
                    raw.append(output)
                    if len(raw) >= room:
                        break
                else:
                    self._next_input(len(raw) - before)
                    continue
                self._unfinished(source, len(raw) - before)
                return
            except Exception as error:
                del raw[before:]
                if self.holds(error):
                    self.held = error
                    return
                self._next_input(0, error)
            except BaseException as error:
                del raw[before:]
                if ours(error):
                    raise
                self.crash = error
                return

    def _next_input(self, made: int, error: BaseException | None = None) -> None:
        if error is not None:
            self.errors[self.taken] = error
        self.counts.append(made)
        self.taken += 1
        self.within = 0

    def _unfinished(self, source: Any, made: int) -> None:
        """The block is full in the middle of an input: its generator waits for the next step."""
        self.live = source
        self.counts.append(made)
        self.within += made

    async def batch(self, stop: int) -> bool:
        """Give the handler one list; False when that failed and each event must be tried on its own."""
        error = await self._batched(list(self.items[self.taken : stop]))
        if isinstance(error, Exception):
            return False
        self.crash = error
        return True

    async def singly(self, stop: int) -> None:
        """Give a batch handler one event at a time."""
        for item in self.items[self.taken : stop]:
            error = await self._batched([item])
            if isinstance(error, Exception):
                if self._fail(error):
                    break
                self.taken = len(self.raw)
            elif error is not None:
                self.crash = error
                break

    async def _batched(self, items: list[Any]) -> BaseException | None:
        count = len(items)  # the list is the handler's own: it may have taken out what it did
        try:
            outputs = self.handler(items)
            if self.asynchronous:
                outputs = await outputs
            if outputs is None or not self.gives:
                outputs = [outputs] * count
            if not isinstance(outputs, list) or len(outputs) != count:
                got = f"{len(outputs)} outputs" if isinstance(outputs, list) else type(outputs).__name__
                raise ProtocolViolated(
                    f"a batch handler was given {count} events and returned {got}",
                    remedy="Return a list with one output per event, None to drop one.",
                )
        except BaseException as error:
            if ours(error):
                raise
            return error
        self.raw.extend(outputs)
        self.taken = len(self.raw)
        return None

    def settle(self, result: Any, error: BaseException | None) -> None:
        """Take the outcome of one event that was worked on elsewhere."""
        if error is None:
            self.raw.append(result)
        elif isinstance(error, Exception):
            self.errors[len(self.raw)] = error
            self.raw.append(_FAILED)
        else:
            self.crash = error
            return
        self.taken += 1

    def made(self, on_error: Callable[[BaseException], ErrorInfo | None], *, flatten: bool = False, outputs: bool = True) -> Made:
        """What the step made. `on_error` gives the letter's error, or None to skip the event without a letter.

        Without `outputs` (a sink) what the handler returned is nobody's.
        """
        made = Made(self.taken, within=self.within)
        if self.errors:
            for offset, error in self.errors.items():
                info = on_error(error)
                if info is None:
                    made.lost.setdefault("skipped", []).append(offset)
                else:
                    made.dead.append((offset, info))
        if not outputs:
            return made
        if flatten:
            self._flattened(made)
        elif self.optional and None in self.raw:
            made.outputs = [output for output in self.raw if output is not None and output is not _FAILED]
            made.lost["dropped"] = [offset for offset, output in enumerate(self.raw) if output is None]
        elif self.errors:
            made.outputs = [output for output in self.raw if output is not _FAILED]
        else:
            made.outputs = self.raw
        return made

    def _flattened(self, made: Made) -> None:
        made.outputs = self.raw
        if self.counts and (set(self.counts) != {1} or self.errors or self.live is not None):
            made.origins = [offset for offset, count in enumerate(self.counts) for _ in range(count)]
            empty = [
                offset
                for offset, count in enumerate(self.counts[: self.taken])
                if not count and offset not in self.errors and not (self.resumed and offset == 0)
            ]
            if empty:
                made.lost["dropped"] = empty
