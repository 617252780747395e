"""Stages that remember: a fold over all events, and state per key.

State changes only by folding inputs in the order they were taken, so it can always be made again from the log.
That is what a restart and a resume do, from the last snapshot on. Emission at the end happens in blocks; the cursor
says how much has been given.
"""

import copy
import inspect
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import length_hint
from types import NoneType
from typing import Any, ClassVar, TypeVar, get_type_hints

import msgspec

from obzen_runtime.kernel import UsageError, classify
from obzen_runtime.stages.codec import Codec
from obzen_runtime.stages.context import Context
from obzen_runtime.stages.emit import AtEnd, Each, Emit, Every, check_emit
from obzen_runtime.stages.folding import StatefulStage
from obzen_runtime.stages.handling import OnError, check_policy
from obzen_runtime.stages.node import Node, check_called
from obzen_runtime.stages.recollect import unequal
from obzen_runtime.stages.schema import Declared, hints_of, read_handler
from obzen_runtime.stages.shape import Shape, same
from obzen_runtime.stages.shared import Log
from obzen_runtime.stages.step import Made, kinds_of

__all__ = ["Fold", "Stateful", "fold", "stage", "stateful"]

A = TypeVar("A")
E = TypeVar("E")

_PACK = msgspec.msgpack.Encoder().encode
_UNPACK = msgspec.msgpack.Decoder().decode


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


def fold(initial: A, *, emit: Emit) -> Callable[[Callable[[A, E], A]], Fold]:
    """Describe `function(accumulated, event) -> accumulated` as a fold that starts at `initial`."""
    check_emit(emit)

    def make(function: Callable[[A, E], A]) -> Fold:
        signature = read_handler(function, events=2, context=Context)
        if signature.asynchronous or signature.context or signature.many:
            raise UsageError(f"fold {function.__name__!r} is async, takes a context or yields", remedy="A fold only folds: plain def.")
        return Fold(function.__name__, function, signature=signature, initial=initial, emission=emit)

    return make


def stateful(*, key: Callable[[Any], Hashable], emit: Emit, on_error: OnError = "dead_letter") -> Callable[[type[Any]], type[Any]]:
    """Describe a class with `fold(event)` and `emit(key)`: one instance per key, its annotated fields are the state.

    Keyword-only parameters of `fold` are configuration. Mutable defaults are copied for each instance. At run time the
    name stands for the description; `oz.stage(Name)` is its typed view.
    """
    check_called("key", key)
    check_emit(emit)
    check_policy(on_error)

    def make(described: type[Any]) -> Any:
        state = _state_class(described)
        folded = read_handler(_method(described, "fold"), events=2, context=Context)
        given = read_handler(_method(described, "emit"), events=2, context=Context)
        if any(each.asynchronous or each.context or each.many for each in (folded, given)):
            raise UsageError(
                f"{described.__name__}: fold or emit is async, takes a context or yields",
                remedy="They only compute: make them plain methods.",
            )
        if given.parameters:
            raise UsageError(
                f"{described.__name__}.emit has the parameter {next(iter(given.parameters))!r}", remedy="Give it to fold: emit takes none."
            )
        signature = folded._replace(inputs=(folded.inputs[1],), outputs=given.outputs, optional=given.optional)
        return Stateful(described.__name__, state, signature=signature, key=key, emission=emit, on_error=on_error)

    return make


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
    if not isinstance(described, type):
        raise UsageError(f"{described!r} is not a class", remedy="Decorate one that has fold(self, event) and emit(self, key).")
    if described.__bases__ != (object,):
        bases = ", ".join(base.__name__ for base in described.__bases__)
        raise UsageError(
            f"{described.__name__} has a base class, {bases}: its fields would be lost", remedy="Write all of it into one class."
        )
    hints = get_type_hints(described)
    annotated = inspect.get_annotations(described)
    fields: list[Any] = []
    namespace = {}
    for name, value in vars(described).items():
        if name.startswith("__") and inspect.isfunction(value):
            raise UsageError(f"{described.__name__}.{name} would not be called", remedy="State begins with the defaults of its fields.")
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


class FoldStage(StatefulStage):
    """A running fold."""

    def reset(self) -> None:
        node = self.node
        assert isinstance(node, Fold)
        self.value = copy.deepcopy(node.initial)
        self.function = partial(node.handler, **node.bound) if node.bound else node.handler
        self.policy = node.emission
        self.folded = 0
        hints = hints_of(node.handler)
        self.shape = Shape(hints.get(next(iter(inspect.signature(node.handler).parameters)), Any))

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

    def forms(self) -> Sequence[Any]:
        return [self.shape.annotation]

    def entries(self) -> int:
        return 1

    def page(self, index: int, entries: int) -> bytes:
        return _PACK((self.shape.pack_large(self.value), self.folded))

    def prove(self, index: int, entries: int, page: bytes) -> None:
        same([self.value], self.shape.unpack(_UNPACK(page)[0]))

    def load(self, page: bytes, mark: int, start: int) -> None:
        packed, self.folded = _UNPACK(page)
        (self.value,) = self.shape.unpack(packed)


class KeyedStage(StatefulStage):
    """Running state per key, in first-seen order."""

    def reset(self) -> None:
        node = self.node
        assert isinstance(node, Stateful)
        self.key = node.key
        self.policy = node.emission
        self.new = node.handler
        self.fold_into = partial(self.new.fold, **node.bound) if node.bound else self.new.fold
        self.give = self._copied if self.codec.copies else self.new.emit
        self.states: dict[Any, Any] = {}
        self.keys: list[Any] = []
        """In first-seen order."""
        self.born: list[int] = []
        """Per key the first of this stage's inputs that was folded."""
        self.counts: dict[Any, int] = {}
        self.marks = {}
        self.window = 0
        given = hints_of(self.new.emit)
        self.shape = Shape(given.get(list(inspect.signature(self.new.emit).parameters)[1], Any))
        self._whole = msgspec.msgpack.Decoder(_page_of(self.new))

    def _copied(self, state: Any, key: Any) -> Any:
        """What is given must not change with the state."""
        return copy.deepcopy(self.new.emit(state, key))

    def absorb(self, items: Sequence[Any], first: int, made: Made, start: int) -> int:
        states, key, new = self.states, self.key, self.new
        fold_into, emit = self.fold_into, self.give
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
                        if at != at:  # noqa: PLR0124 - NaN
                            raise unequal("key", at)
                        state = new()
                        fold_into(state, item)
                        states[at] = state
                        self.keys.append(at)
                        self.born.append(first + last - length_hint(left))
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

    def settle(self, made: Made) -> None:
        if isinstance(self.policy, Each):
            made.kinds = kinds_of(made.outputs)
            if NoneType in made.kinds:
                self._drop_nothing(made)
        super().settle(made)

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
        for key, born in zip(self.keys, self.born, strict=True):
            if not every or self.counts[key] % every:
                yield self.give(self.states[key], key), born

    def forms(self) -> Sequence[Any]:
        return [self.new, self.shape.annotation]

    def entries(self) -> int:
        return len(self.keys)

    def page(self, index: int, entries: int) -> bytes:
        low, high = index * self.page_size, min((index + 1) * self.page_size, entries)
        keys = self.keys[low:high]
        counts = [self.counts.get(key, 0) for key in keys] if isinstance(self.policy, Every) else []
        return _PACK((self.shape.pack(keys), self.born[low:high], counts, [self.states[key] for key in keys]))

    def prove(self, index: int, entries: int, page: bytes) -> None:
        packed, _, _, states = self._whole.decode(page)
        keys = self.keys[index * self.page_size : min((index + 1) * self.page_size, entries)]
        same(keys, self.shape.unpack(packed))
        same([self.states[key] for key in keys], states)

    def load(self, page: bytes, mark: int, start: int) -> None:
        packed, born, counts, states = self._whole.decode(page)
        keys = self.shape.unpack(packed)
        self.keys += keys
        self.born += born
        self.states.update(zip(keys, states, strict=True))
        self.counts.update(zip(keys, counts, strict=False))
        if mark > start:
            self.marks.update(dict.fromkeys(keys, mark))
            self.window = max(self.window, mark)

    def seen(self, item: Any, number: int) -> bool:
        try:
            return number < self.marks.get(self.key(item), 0)
        except Exception as error:  # it has no key, now as then
            self.logger.debug("an input has no key", error=classify(error).message)
            return False


def _page_of(state: type[Any]) -> Any:
    return tuple[list[Any], list[int], list[int], list[state]]  # type: ignore[valid-type]
