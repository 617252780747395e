"""Reading a stage's own past back from the log: what it took, in the order it took it.

A stage's blocks say which slices of which upstream they took; the upstream's blocks, which always stand before
them, hold the payloads. One pass over the log gives both, keeping only what no slice has passed yet.
"""

from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, NamedTuple

from obzen_runtime.events import Block, DeadLetter, End, Receipt, Slice
from obzen_runtime.journal import Journal
from obzen_runtime.kernel import StateFailed
from obzen_runtime.stages.codec import Codec
from obzen_runtime.stages.edge import Edge

__all__ = ["Past", "past_inputs"]


class Past(NamedTuple):
    """Inputs taken in one step."""

    source: str
    ordinals: list[int]
    items: list[Any]


async def past_inputs(
    journal: Journal, stage: str, inputs: Iterable[Edge], codecs: Mapping[str, Codec], *, until_end: bool = False
) -> AsyncIterator[Past]:
    """Everything `stage` took from its `inputs`, step by step, from the start of the log.

    With `until_end` it stops where the first of these inputs had ended. Raises `StateFailed` when the log no longer
    reaches back.
    """
    edges = {edge.source: edge for edge in inputs}
    waiting: dict[str, deque[tuple[int, list[Any]]]] = {source: deque() for source in edges}
    async for _, record in journal.read(1):
        match record:
            case Block(stage=source) if source in edges and record.count:
                waiting[source].append((record.base, codecs[source].decode(record)))
            case DeadLetter() if "dead_letters" in edges:
                waiting["dead_letters"].append((record.ordinal, [record]))
        if isinstance(record, Block | Receipt) and record.stage == stage:
            for taken in record.inputs:
                if until_end and isinstance(taken, End) and taken.upstream in edges:
                    return
                if isinstance(taken, Slice) and taken.upstream in edges and taken.stop > taken.start:
                    yield _slice(taken, waiting[taken.upstream], edges[taken.upstream])


def _slice(taken: Slice, blocks: deque[tuple[int, list[Any]]], edge: Edge) -> Past:
    ordinals: list[int] = []
    items: list[Any] = []
    while blocks:
        base, block = blocks[0]
        low, high = max(taken.start, base), min(taken.stop, base + len(block))
        for ordinal in range(low, high):
            item = block[ordinal - base]
            if edge.delivers(item):
                ordinals.append(ordinal)
                items.append(item)
        if base + len(block) > taken.stop:
            break
        blocks.popleft()
    if not ordinals:
        raise StateFailed(
            f"{taken.upstream}@{taken.start} to @{taken.stop - 1} are not in the log any more",
            remedy="A stateful stage is rebuilt from the start of the log; keep the whole log, or a MemoryJournal(keep=True).",
        )
    return Past(taken.upstream, ordinals, items)
