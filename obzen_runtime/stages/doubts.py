"""Sensitive deliveries: an intent before each call and a receipt behind it, so that no call is repeated by itself.

A delivery with an intent and no receipt is in doubt. What somebody decides about it (`obzen resolve`) is an order to
the next process: it is carried out where the sink comes to the event, or at once for one that the sink has passed.
"""

from collections.abc import Sequence
from typing import Any

from obzen_runtime.events import Block, DeadLetter, DeliveryIntent, DeliveryResolved, Input, Slice
from obzen_runtime.kernel import ErrorInfo, NotFound
from obzen_runtime.stages.call import Calls
from obzen_runtime.stages.codec import Codec
from obzen_runtime.stages.edge import Entry, Place
from obzen_runtime.stages.shared import DEAD_LETTERS, Crashed, Log
from obzen_runtime.stages.step import Made
from obzen_runtime.stages.transform import Handled
from obzen_runtime.stages.versions import Undecoded

__all__ = ["Doubting"]

_GIVEN_UP = ErrorInfo(
    kind="OUTCOME_UNKNOWN",
    code="outcome_unknown",
    message="nobody knows whether it was delivered; it was given up",
    category="user",
)


class Doubting(Handled):
    """A sink that knows which of its deliveries are in doubt."""

    silent = False
    """Takes its inputs and calls nobody: the sinks of a fork that may not deliver."""

    def __init__(self, node: Any, log: Log, codec: Codec) -> None:
        super().__init__(node, log, codec)
        self.doubted: dict[tuple[str, int], str] = {}
        """Deliveries that are not settled: `open` (an intent and no receipt), or what was decided about it."""
        self.orders: list[tuple[str, int]] = []
        """Events behind the cursor about which something was decided."""

    def settle_orders(self) -> None:
        """What was decided about events behind the cursor is to be done; what only stays in doubt is not."""
        behind = {key for key in self.doubted if key[1] < self.next.get(key[0], 0)}
        self.orders = sorted(key for key in behind if self.doubted[key] != "doubted" and not self.silent)
        self.doubted = {key: outcome for key, outcome in self.doubted.items() if key not in behind or outcome != "doubted"}

    async def deliver_one(self, entry: Entry, items: Sequence[Any]) -> None:
        """Deliver the next event, or do what was decided about it; one whose delivery was cut off is put in doubt."""
        key = entry.edge.source, entry.ordinal(entry.done)
        self.at = self.clock.wall_ms()
        match self.doubted.get(key):
            case None | "deliver":
                await self._announce(key)
                await super()._step(entry, items, 1)
            case "delivered":
                self.commit(entry, Made(1))
            case "dead":
                self.commit(entry, Made(1, dead=[(0, _GIVEN_UP)]))
            case _:
                self.commit(entry, Made(1, lost={"doubted": [0]}))
                self.logger.warning("delivery in doubt", delivery=f"{key[0]}@{key[1]}")

    async def _announce(self, key: tuple[str, int]) -> None:
        position = self._write([DeliveryIntent(self.name, self.at, *key)])
        self.doubted[key] = "open"
        await self.journal.durable(position)

    async def carry_out(self) -> None:
        """Do what was decided about the next event that the sink has passed."""
        key = upstream, ordinal = self.orders.pop(0)
        self.at = self.clock.wall_ms()
        if self.doubted[key] == "open":
            self._write([DeliveryResolved(self.name, self.at, upstream, ordinal, "doubted")])
            del self.doubted[key]
            return
        entry = Entry(next(edge for edge in self.inputs if edge.source == upstream), ordinal, Place(0, ordinal, self.at))
        item = await self._event(upstream, ordinal)
        entry.items, entry.count = [item], 1
        made = Made(1)
        match self.doubted[key]:
            case "deliver" if isinstance(item, Undecoded):
                made.dead = [(0, item.error)]
            case "deliver":
                await self._announce(key)
                made = await self._again(entry)
            case "dead":
                made.dead = [(0, _GIVEN_UP)]
        self.emit(made, (Slice(upstream, ordinal, ordinal + 1),), entry)
        self.counters.doubted -= 1

    async def _again(self, entry: Entry) -> Made:
        calls = Calls(self.call, entry.items or (), lambda error: False)
        self._number(entry, 0)
        if self.call.batch:
            if not await calls.batch(1):
                self._number(entry, 0)
                await calls.singly(1)
        else:
            await self._piece(calls, 1, 1)
        if calls.crash is not None:
            raise Crashed(calls.crash)
        if self.flushes:
            await self.flush(entry, calls)
        return calls.made(self._judge, outputs=False)

    async def _event(self, upstream: str, ordinal: int) -> Any:
        """An event that was taken before, from the journal."""
        async for _, record in self.journal.read(0, kinds=frozenset({Block, DeadLetter})):
            match record:
                case Block(stage=stage, base=base, count=count) if stage == upstream and base <= ordinal < base + count:
                    return self.log.codecs[upstream].decode(record)[ordinal - base]
                case DeadLetter(ordinal=number) if upstream == DEAD_LETTERS and number == ordinal:
                    return record
        raise NotFound(
            f"event {upstream}@{ordinal} is no longer in the journal, so {self.name} cannot deliver it",
            remedy=f"Settle it with `obzen resolve RUN {self.name} {upstream}@{ordinal} --as delivered` or `--as dead`.",
        )

    def settled(self, inputs: tuple[Input, ...]) -> None:
        """These have their receipt."""
        if self.doubted:
            for taken in inputs:
                if isinstance(taken, Slice):
                    for ordinal in range(taken.start, taken.stop):
                        self.doubted.pop((taken.upstream, ordinal), None)
