"""Stages that remember: a fold over all events, state per key, the largest n.

State changes only by folding inputs in the order they were taken, so it can always be made again from the log.
That is what a restart does. Emission at the end happens in blocks; the cursor says how much has been given.
"""

import copy
import heapq
import inspect
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import length_hint
from types import NoneType
from typing import Any, ClassVar, TypeVar, get_type_hints

import msgspec

from obzen_runtime.actor import Directive, Transition
from obzen_runtime.kernel import UsageError, classify
from obzen_runtime.stages.codec import Codec
from obzen_runtime.stages.context import Context
from obzen_runtime.stages.emit import AtEnd, Each, Emit, Every
from obzen_runtime.stages.machines import TRANSFORM, DrainComplete
from obzen_runtime.stages.node import Node, OnError
from obzen_runtime.stages.refold import past_inputs
from obzen_runtime.stages.schema import Declared, read_handler
from obzen_runtime.stages.stage import CONTINUE, Crashed, Failed, Log, Pace, Stage
from obzen_runtime.stages.step import BlockTooLarge, Made, halves, kinds_of

__all__ = ["Fold", "Stateful", "StatefulStage", "Top", "fold", "stage", "stateful", "top"]

A = TypeVar("A")
E = TypeVar("E")


# -- descriptions -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Fold(Node):
    """A described fold: one value over all events."""

    initial: Any = None
    emission: Emit = AtEnd()
    kind: ClassVar[str] = "fold"

    def accepts(self, port: str) -> tuple[Declared, ...]:
        return self.signature.inputs[1] if self.signature is not None else ()

    def build(self, log: Log, codec: Codec) -> "StatefulStage":
        return FoldStage(self, log, codec)


@dataclass(frozen=True, eq=False)
class Stateful(Node):
    """A described class of which one instance is kept per key."""

    key: Callable[[Any], Hashable] = hash
    emission: Emit = AtEnd()
    on_error: OnError = "dead_letter"
    kind: ClassVar[str] = "stateful"

    def build(self, log: Log, codec: Codec) -> "StatefulStage":
        return KeyedStage(self, log, codec)


@dataclass(frozen=True, eq=False)
class Top(Node):
    """A described selection of the `count` largest events."""

    count: int = 10
    by: Callable[[Any], Any] = abs
    kind: ClassVar[str] = "top"

    def outputs(self, upstream: Sequence[Declared]) -> tuple[Declared, ...]:
        return tuple(upstream)

    def build(self, log: Log, codec: Codec) -> "StatefulStage":
        return TopStage(self, log, codec)


def fold(initial: A, *, emit: Emit) -> Callable[[Callable[[A, E], A]], Fold]:
    """Describe `function(accumulated, event) -> accumulated` as a fold that starts at `initial`."""

    def make(function: Callable[[A, E], A]) -> Fold:
        signature = read_handler(function, events=2, context=Context)
        if signature.asynchronous or signature.context:
            raise UsageError(f"fold {function.__name__!r} is async or takes a context", remedy="A fold only folds: plain def.")
        return Fold(function.__name__, function, signature=signature, initial=initial, emission=emit)

    return make


def stateful(*, key: Callable[[Any], Hashable], emit: Emit, on_error: OnError = "dead_letter") -> Callable[[type[Any]], type[Any]]:
    """Describe a class with `fold(event)` and `emit(key)`: one instance per key, its annotated fields are the state.

    Mutable defaults are copied for each instance. At run time the name stands for the description; `oz.stage(Name)`
    is its typed view.
    """

    def make(described: type[Any]) -> Any:
        state = _state_class(described)
        folded = read_handler(_method(described, "fold"), events=2, context=Context)
        given = read_handler(_method(described, "emit"), events=2, context=Context)
        if folded.asynchronous or given.asynchronous or folded.context or given.context:
            raise UsageError(f"{described.__name__}.fold and .emit are plain methods without a context: they only compute")
        signature = folded._replace(inputs=(folded.inputs[1],), outputs=given.outputs, optional=given.optional, many=given.many)
        return Stateful(described.__name__, state, signature=signature, key=key, emission=emit, on_error=on_error)

    return make


def top(count: int, *, by: Callable[[Any], Any], name: str = "top") -> Top:
    """Keep the `count` events with the largest `by(event)` and give them at the end, largest first; ties in order of arrival."""
    if count < 1:
        raise UsageError(f"top({count}) keeps nothing", remedy="Give at least 1.")
    return Top(name, by, count=count, by=by)


def stage(described: type[Any]) -> Node:
    """The typed view of a decorated class, where it stands leftmost or is renamed."""
    if not isinstance(described, Node):
        raise UsageError(f"{getattr(described, '__name__', described)} is not a stage", remedy="Decorate it with @oz.stateful(...).")
    return described


def _method(described: type[Any], name: str) -> Callable[..., Any]:
    method = vars(described).get(name)
    if method is None:
        raise UsageError(f"{described.__name__} has no method {name!r}", remedy="Give it fold(self, event) and emit(self, key).")
    return method  # type: ignore[no-any-return]


def _state_class(described: type[Any]) -> type[Any]:
    """The class again as a struct: fields from annotations, mutable defaults copied, state without annotation refused."""
    hints = get_type_hints(described)
    annotated = inspect.get_annotations(described)
    fields: list[Any] = []
    namespace = {}
    for name, value in vars(described).items():
        if name.startswith("__") and name not in ("__doc__", "__module__", "__qualname__"):
            continue
        if name in annotated:
            continue
        if not callable(value) and not isinstance(value, property | classmethod | staticmethod) and not name.startswith("__"):
            raise UsageError(f"{described.__name__}.{name} is state without an annotation", remedy=f"Write `{name}: TYPE = {value!r}`.")
        namespace[name] = value
    for name in annotated:
        if name not in vars(described):
            raise UsageError(f"{described.__name__}.{name} has no default", remedy="Every field starts somewhere: give it a default.")
        default = vars(described)[name]
        if isinstance(default, list | dict | set) or type(default).__hash__ is None:
            fields.append((name, hints[name], msgspec.field(default_factory=partial(copy.deepcopy, default))))
        else:
            fields.append((name, hints[name], default))
    return msgspec.defstruct(described.__name__, fields, namespace=namespace, module=described.__module__)


# -- workers --------------------------------------------------------------------------------------


class StatefulStage(Stage):
    """What all stages with state share: take, fold, emit at the end, refold after a crash."""

    machine = TRANSFORM

    def __init__(self, node: Node, log: Log, codec: Codec) -> None:
        super().__init__(node, log, codec)
        self.pace = Pace()
        self.on_error: OnError = getattr(node, "on_error", "dead_letter")
        self.emission: Iterator[tuple[Any, int]] | None = None
        self.reset()

    def reset(self) -> None:
        """Empty state."""
        raise TypeError(f"{type(self).__name__} has no reset")

    def absorb(self, items: Sequence[Any], first: int, made: Made, start: int) -> int:
        """Fold `items`, of which the first is this stage's input number `first` and offset `start` of the step.

        Adds outputs and failures to `made`; returns how many were taken (fewer only before a crash).
        """
        raise TypeError(f"{type(self).__name__} has no absorb")

    def final(self) -> Iterator[tuple[Any, int]]:
        """What is given at the end: outputs with the first input each comes from."""
        return iter(())

    async def work(self, state: str) -> Directive:
        if state == "draining":
            return await self._drain()
        found = await self._next_entry()
        if not isinstance(found, tuple):
            return found
        entry, room = found
        items = await self.payloads(entry)
        monotonic = self.clock.monotonic
        self.begun = now = monotonic()
        self.at = self.clock.wall_ms()
        made = Made()
        most = min(entry.count - entry.done, room)
        try:
            while made.taken < most:
                start = entry.done + made.taken
                piece = items[start : min(entry.done + most, start + self.pace.calls)]
                outputs, dead = len(made.outputs), len(made.dead)
                try:
                    taken = self.absorb(piece, self.taken + made.taken, made, made.taken)
                except Crashed:
                    made.cut(outputs, dead)
                    raise
                made.taken += taken
                before, now = now, monotonic()
                self.pace.took(max(1, taken), now - before)
                if now - self.begun >= _LONGEST:
                    break
        finally:
            if made.taken:
                self._commit(entry, made)
            self.counters.seconds += monotonic() - self.begun
        return CONTINUE

    def _commit(self, entry: Any, made: Made) -> None:
        self.counters.errors += len(made.dead)
        failing = made.dead[-1][1] if made.dead and self.on_error == "fail" else None
        if made.dead and self.on_error == "skip":
            made.lost["skipped"] = [offset for offset, _ in made.dead]
            made.dead = []
        self.commit(entry, made)
        if made.dead:
            self.log.letters.check_flood()
        if failing is not None:
            raise Failed(failing)

    def fails(self, made: Made, offset: int, error: BaseException) -> None:
        """Note that folding the event at `offset` failed; what is no event's failure crashes the stage."""
        if not isinstance(error, Exception):
            raise Crashed(error) from error
        made.dead.append((offset, classify(error)))

    async def _drain(self) -> Directive:
        """One block of the final emission."""
        room = self._room()
        if not room:
            await self.wake.wait()
            return CONTINUE
        if self.emission is None:
            self.emission = self.final()
            for _ in zip(range(self.within), self.emission, strict=False):
                """Already given before a crash."""
        self.at = self.clock.wall_ms()
        made = Made(since=[], marks=[], within=self.within)
        assert made.since is not None
        assert made.marks is not None
        begun = self.clock.monotonic()
        try:
            for output, since in self.emission:
                made.within += 1
                if output is not None:
                    made.outputs.append(output)
                    made.since.append(since)
                    made.marks.append(made.within)
                if len(made.outputs) >= room or self.clock.monotonic() - begun >= _LONGEST:
                    break
        except BaseException as error:
            raise Crashed(error) from error
        if made.within == self.within:
            return Transition(DrainComplete())
        self._give(made)
        self.log.letters.check_flood()
        return CONTINUE

    def _give(self, made: Made) -> None:
        """Write a piece of the emission, in parts where it is too large for a block."""
        try:
            self.emit(made)
        except BlockTooLarge:
            for half in halves(made, 0):
                self._give(half)

    async def rebuild(self) -> None:
        await super().rebuild()
        self.reset()
        self.emission = None
        number = 0
        async for past in past_inputs(self.journal, self.name, self.inputs, self.log.codecs):
            self.absorb(past.items, number, Made(), 0)
            number += len(past.items)


_LONGEST = 0.0008


class FoldStage(StatefulStage):
    """A running fold."""

    def reset(self) -> None:
        node = self.node
        assert isinstance(node, Fold)
        self.value = copy.deepcopy(node.initial)
        self.function = partial(node.handler, **node.bound) if node.bound else node.handler
        self.policy = node.emission
        self.folded = 0

    def absorb(self, items: Sequence[Any], first: int, made: Made, start: int) -> int:
        if isinstance(self.policy, AtEnd):
            return self._quietly(items, made, start)
        every = self.policy.count if isinstance(self.policy, Every) else 1
        origins: list[int] = made.origins if made.origins is not None else []
        for offset, item in enumerate(items, start):
            try:
                self.value = self.function(self.value, item)
            except BaseException as error:
                self.fails(made, offset, error)
                continue
            self.folded += 1
            if self.folded % every:
                continue
            if self.value is not None:
                made.outputs.append(copy.deepcopy(self.value) if self.codec.copies else self.value)
                origins.append(offset)
            elif isinstance(self.policy, Each):
                made.lost.setdefault("dropped", []).append(offset)
        made.origins = origins
        return len(items)

    def _quietly(self, items: Sequence[Any], made: Made, start: int) -> int:
        value, function = self.value, self.function
        last, left = len(items) - 1, iter(items)
        while True:
            try:
                for item in left:
                    value = function(value, item)
                break
            except BaseException as error:
                self.value = value
                self.fails(made, start + last - length_hint(left), error)  # `left` stands behind the culprit
        self.value = value
        self.folded += len(items)
        return len(items)

    def final(self) -> Iterator[tuple[Any, int]]:
        if isinstance(self.policy, AtEnd) or (isinstance(self.policy, Every) and self.folded % self.policy.count):
            yield self.value, 0


class KeyedStage(StatefulStage):
    """Running state per key, in first-seen order."""

    def reset(self) -> None:
        node = self.node
        assert isinstance(node, Stateful)
        self.key = node.key
        self.policy = node.emission
        self.new = node.handler
        self.give = self._copied if self.codec.copies else self.new.emit
        self.states: dict[Any, Any] = {}
        self.born: dict[Any, int] = {}
        self.counts: dict[Any, int] = {}

    def _copied(self, state: Any, key: Any) -> Any:
        """What is given must not change with the state."""
        return copy.deepcopy(self.new.emit(state, key))

    def absorb(self, items: Sequence[Any], first: int, made: Made, start: int) -> int:
        states, born, key, new = self.states, self.born, self.key, self.new
        fold_into, emit = new.fold, self.give
        given = isinstance(self.policy, Each)
        counted = isinstance(self.policy, Every)
        outputs = made.outputs
        last, left = len(items) - 1, iter(items)
        while True:
            try:
                for item in left:
                    at = key(item)
                    state = states.get(at)
                    if state is None:
                        state = new()
                        fold_into(state, item)
                        states[at] = state
                        born[at] = first + last - length_hint(left)
                    else:
                        fold_into(state, item)
                    if given:
                        outputs.append(emit(state, at))
                    elif counted:
                        self._count(at, state, made, start + last - length_hint(left))
                break
            except BaseException as error:
                self.fails(made, start + last - length_hint(left), error)  # `left` stands behind the culprit
        return len(items)

    def _count(self, key: Any, state: Any, made: Made, offset: int) -> None:
        assert isinstance(self.policy, Every)
        count = self.counts[key] = self.counts.get(key, 0) + 1
        if made.origins is None:
            made.origins = []
        if count % self.policy.count == 0 and (output := self.give(state, key)) is not None:
            made.outputs.append(output)
            made.origins.append(offset)

    def _commit(self, entry: Any, made: Made) -> None:
        if isinstance(self.policy, Each):
            made.kinds = kinds_of(made.outputs)
            if NoneType in made.kinds:
                self._drop_nothing(made)
        super()._commit(entry, made)

    def _drop_nothing(self, made: Made) -> None:
        """`emit` gave None for some inputs: those gave no output."""
        gone = {offset for offset, _ in made.dead}
        alive = [offset for offset in range(made.taken) if offset not in gone]
        made.lost["dropped"] = [offset for offset, output in zip(alive, made.outputs, strict=True) if output is None]
        made.outputs = [output for output in made.outputs if output is not None]
        made.kinds = None

    def final(self) -> Iterator[tuple[Any, int]]:
        if isinstance(self.policy, Each):
            return
        every = self.policy.count if isinstance(self.policy, Every) else 0
        for key, state in self.states.items():
            if not every or self.counts[key] % every:
                yield self.give(state, key), self.born[key]


class TopStage(StatefulStage):
    """The running `count` largest."""

    def reset(self) -> None:
        node = self.node
        assert isinstance(node, Top)
        self.by = node.by
        self.count = node.count
        self.heap: list[tuple[Any, int, Any]] = []

    def absorb(self, items: Sequence[Any], first: int, made: Made, start: int) -> int:
        heap, by, count = self.heap, self.by, self.count
        for offset, item in enumerate(items):
            try:
                ranked = (by(item), -(first + offset), item)
                larger = not heap or ranked > heap[0]  # what cannot be compared raises before it is in the heap
                if len(heap) < count:
                    heapq.heappush(heap, ranked)
                elif larger:
                    heapq.heapreplace(heap, ranked)
            except BaseException as error:
                self.fails(made, start + offset, error)
        return len(items)

    def final(self) -> Iterator[tuple[Any, int]]:
        for _, number, item in sorted(self.heap, key=_rank, reverse=True):
            yield item, -number


def _rank(ranked: tuple[Any, int, Any]) -> tuple[Any, int]:
    return ranked[:2]
