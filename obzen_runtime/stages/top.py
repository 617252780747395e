"""The largest n: a stage that remembers the events with the highest ranks, and gives them when its input has ended."""

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from obzen_runtime.events import Block
from obzen_runtime.kernel import check_whole
from obzen_runtime.stages.codec import Codec
from obzen_runtime.stages.folding import StatefulStage
from obzen_runtime.stages.node import Node, check_called
from obzen_runtime.stages.recollect import unequal
from obzen_runtime.stages.schema import Declared
from obzen_runtime.stages.shape import same
from obzen_runtime.stages.shared import Log
from obzen_runtime.stages.snapshots import NEVER
from obzen_runtime.stages.step import Made

__all__ = ["Top", "top"]

_PACK = msgspec.msgpack.Encoder().encode
_UNPACK = msgspec.msgpack.Decoder().decode


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


def top(count: int, *, by: Callable[[Any], Any], name: str = "top") -> Top:
    """Keep the `count` events with the largest `by(event)` and give them at the end, largest first; ties in order of arrival."""
    check_whole("top: count", count, least=1)
    check_called("by", by)
    return Top(name, by, count=count, by=by)


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
                rank = by(item)
                if rank != rank:  # noqa: PLR0124 - NaN
                    raise unequal("rank", rank)
                ranked = (rank, -(first + offset), item)
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

    def forms(self) -> Sequence[Any]:
        return [each.annotation for each in self.codec.declared]

    def entries(self) -> int:
        return 1

    def page(self, index: int, entries: int) -> bytes:
        """Ranks are left out: `by` tells them again."""
        items = [item for _, _, item in self.heap]
        for kind in set(map(type, items)) - self.codec.known:
            self.codec.learn(kind)
        types = self.codec.types(items, set(map(type, items)))
        return _PACK(([number for _, number, _ in self.heap], types, self.codec.encode(items)))

    def prove(self, index: int, entries: int, page: bytes) -> None:
        same([item for _, _, item in self.heap], self._read(page)[1])

    def load(self, page: bytes, mark: int, start: int) -> None:
        numbers, items = self._read(page)
        self.heap = [(self.by(item), number, item) for number, item in zip(numbers, items, strict=True)]
        heapq.heapify(self.heap)

    def _read(self, page: bytes) -> tuple[list[int], list[Any]]:
        numbers, types, payloads = _UNPACK(page)
        return numbers, self.codec.decode(Block(self.name, NEVER, len(numbers), 0, payloads, types))


def _rank(ranked: tuple[Any, int, Any]) -> tuple[Any, int]:
    return ranked[:2]
