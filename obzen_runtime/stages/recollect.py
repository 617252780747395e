"""A stage that remembers: how it gets its state back after a crash or in another process, and lets go of nothing before.

It loads its newest snapshot that can be read and folds what it took since, from the log; without one, all it took.
"""

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Sequence
from typing import Any

from obzen_runtime.events import EndKind, Snapshot
from obzen_runtime.journal import ArtifactStore
from obzen_runtime.kernel import ErrorInfo, JournalDamaged, NotFound, ObzenError, ValidationFailed
from obzen_runtime.stages.codec import Codec
from obzen_runtime.stages.node import Node
from obzen_runtime.stages.refold import Range
from obzen_runtime.stages.shape import CODEC_ERRORS, Unkept, form_of
from obzen_runtime.stages.shared import Log
from obzen_runtime.stages.snapshots import PAGE, Keeper, Kind, read_pages
from obzen_runtime.stages.stage import Stage

__all__ = ["Recollects", "unequal"]

_TURN = 0.0008
"""Seconds after which others may go on."""


def unequal(what: str, value: object) -> ValidationFailed:
    """The failure of an event whose key or rank is not a number: nothing is equal to it, so it is never found or ordered again."""
    return ValidationFailed(f"the {what} {value!r} is not equal to itself", remedy=f"Give such events another {what}, or drop them before.")


class Recollects(Stage):
    """What stages with state share beside their work: restoring it and keeping it."""

    page_size = PAGE

    def __init__(self, node: Node, log: Log, codec: Codec) -> None:
        super().__init__(node, log, codec)
        self.sound = False
        """Whether the state is the one of the last committed position."""
        self._begun = False
        self.keeper: Keeper | None = None
        if log.ground.artifacts is not None:
            self.keeper = Keeper(self, log.ground.artifacts, log.ground.seams.threads, page=self.page_size)
        self._breathed = 0.0

    @abstractmethod
    def reset(self) -> None:
        """Empty state."""

    @abstractmethod
    def load(self, page: bytes, mark: int, start: int) -> None:
        """Add a page of a snapshot that was begun after `start` inputs and saw this page after `mark`."""

    @abstractmethod
    async def refold(self, since: Range) -> None:
        """Fold again what was taken after `since`. Raises `StateFailed`."""

    @abstractmethod
    def entries(self) -> int:
        """How many entries the state has now."""

    @abstractmethod
    def page(self, index: int, entries: int) -> bytes:
        """Encode a page of the first `entries`; pages are asked for in order."""

    @abstractmethod
    def prove(self, index: int, entries: int, page: bytes) -> None:
        """Raise `Unkept` when the page, just encoded, does not decode as what the stage holds."""

    # -- life ---------------------------------------------------------------------------------

    async def initialize(self) -> None:
        await super().initialize()
        if not self._begun and self.standing.cursor.taken and not self.standing.drained:
            await self.recollect()
        self._begun = self.sound = True

    async def rebuild(self) -> None:
        await super().rebuild()
        await self.recollect()
        self.sound = True

    def crashed(self, error: ErrorInfo) -> None:
        self.sound = False
        super().crashed(error)

    async def finish(self, kind: EndKind) -> None:
        if kind == "truncated" and self.sound and self.keeper is not None and self.taken and not self.kept:
            await self.keeper.last(self.breathe)
        await super().finish(kind)

    @property
    def kept(self) -> bool:
        """Whether the newest snapshot is the state as it is now."""
        return self.snapshot is not None and self.snapshot.taken == self.taken

    async def recollect(self) -> None:
        """Be what the last committed position says."""
        if self.keeper is not None:
            self.keeper.forget()
        since = Range()
        store = self.log.ground.artifacts
        if store is not None and self.snapshot is not None:
            since = await self._newest(store, self.snapshot)
        else:
            self.reset()
        begun = self.clock.monotonic()
        await self.refold(since)
        if self.keeper is not None:
            self.keeper.refolded(self.counters.seconds, self.clock.monotonic() - begun)

    async def _newest(self, store: ArtifactStore, newest: Snapshot) -> Range:
        async for snapshot in self._snapshots(newest):
            self.reset()
            try:
                await self._load(store, snapshot)
            except (NotFound, JournalDamaged, OSError, Unkept, *CODEC_ERRORS) as error:
                self.logger.warning("a snapshot cannot be read; an earlier one is tried", artifact=snapshot.artifact, reason=str(error))
                continue
            if snapshot.cursor is not None:
                return Range(snapshot.cursor, snapshot.floor)
        self.logger.warning("no snapshot can be read: all that was taken is folded again")
        self.reset()
        return Range()

    async def _snapshots(self, newest: Snapshot) -> AsyncIterator[Snapshot]:
        """The stage's snapshots, the newest first; the log is only asked for older ones when that is of no use."""
        yield newest
        kinds = frozenset({Snapshot})
        found = [entry.record async for entry in self.journal.read(self.journal.first, kinds=kinds)]
        for record in reversed(found):
            if isinstance(record, Snapshot) and record.actor == self.name and record != newest and record.taken <= self.taken:
                yield record

    async def _load(self, store: ArtifactStore, snapshot: Snapshot) -> None:
        threads, kind = self.log.ground.seams.threads, self.kept_as()
        kept, pages = await threads.run(f"obzen restore {self.name}", lambda: read_pages(store, snapshot.artifact, kind))
        marks = dict(kept.marks)
        mark = snapshot.taken
        for index, page in enumerate(pages):
            mark = marks.get(index, mark)
            self.load(page, mark, snapshot.taken)
            await self.breathe()

    async def breathe(self) -> None:
        """Let others go on, when it is time."""
        now = self.clock.monotonic()
        if now - self._breathed >= _TURN:
            await asyncio.sleep(0)
            self._breathed = self.clock.monotonic()

    # -- the keeper's side ------------------------------------------------------------------------

    def kept_as(self) -> Kind:
        """What its snapshots say they hold."""
        return Kind(self.name, self.node.kind, form_of(self.forms()))

    @abstractmethod
    def forms(self) -> Sequence[Any]:
        """The types that its pages are decoded to."""

    @property
    def needs(self) -> int:
        """The oldest position of the log without which the stage could not be made again."""
        if not self.taken or self.standing.drained:
            return self.floor()
        return self.snapshot.floor if self.snapshot is not None else 1

    def floor(self) -> int:
        """Position of the oldest record that holds what is not taken yet."""
        return min((position for edge in self.inputs if (position := edge.oldest()) is not None), default=self.journal.head + 1)

    def keep(self, snapshot: Snapshot) -> None:
        """Record a snapshot whose artifact is durable."""
        if self.snapshot is not None and snapshot.taken < self.snapshot.taken:
            return
        try:
            self.snapshot_at = self._write([snapshot])
        except ObzenError as error:  # the journal is full or broken, which the stage's next step tells
            self.logger.warning("a snapshot could not be recorded", reason=error.message)
        else:
            self.snapshot = snapshot

    def begin_task(self, coroutine: Any) -> None:
        """Let it run beside the stage; it ends with it."""
        self._spawn(coroutine)
