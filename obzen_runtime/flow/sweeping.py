"""Removes state that nobody can go on from any more: artifacts that no record which is still in the log names.

A log that drops its past drops records of snapshots with it; an endless run would fill its disk with the artifacts that
those named. A sweep reads the log that is kept for the artifacts it names, adds those that they stand on, and removes
what is left over, or moves it to the archive of the log. It is due once all that stood in the log at the last one has
been dropped, so that in the long run each record is read once for it, and each artifact.

It begins only when what was dropped is gone for good and no snapshot is being written; what is written meanwhile
stays. So whatever the process dies at, an artifact that some record names is there. What is left over when a process
dies is swept by a later one.
"""

import asyncio
from collections.abc import Sequence
from itertools import takewhile

from obzen_runtime.events import Snapshot
from obzen_runtime.journal import ArtifactStore, SegmentJournal
from obzen_runtime.kernel import ObzenError, Seams, logger
from obzen_runtime.stages import Keeper, stands_on

__all__ = ["Sweeper"]

_KINDS = frozenset({Snapshot})


class Sweeper:
    """Sweeps the artifacts of one run while it lives. Call `turn` now and then, more often while it `waits`, and `end` at its end."""

    def __init__(self, journal: SegmentJournal, store: ArtifactStore, seams: Seams) -> None:
        self._journal = journal
        self._store = store
        self._threads = seams.threads
        self._archive = ArtifactStore(journal.archive / "artifacts", seams.files) if journal.archive is not None else None
        self._seen = 1
        """Where the log ended at the last sweep."""
        self._task: asyncio.Task[None] | None = None
        self.waits = False
        """Whether a sweep is due once no snapshot is being written."""
        self._reads = False
        self._ended = False
        self._log = logger(artifacts=str(store.directory))

    def turn(self, keepers: Sequence[Keeper]) -> None:
        """Begin a sweep when one is due. `keepers`: of all stages that may still take snapshots."""
        journal = self._journal
        if self._task is not None or journal.first <= self._seen or journal.dropping:
            return
        self.waits = any(keeper.writing for keeper in keepers)
        if not self.waits:
            self._reads = True
            self._store.watch()
            self._task = asyncio.get_running_loop().create_task(self._sweep({keeper.base for keeper in keepers}), name="obzen sweep")

    async def end(self) -> None:
        """Sweep no more; a sweep under way ends early."""
        self._ended = True
        if self._task is not None:
            if self._reads:
                self._task.cancel()
            await asyncio.wait([self._task])

    async def _sweep(self, named: set[str]) -> None:
        head = self._journal.head
        try:
            async for entry in self._journal.read(kinds=_KINDS):
                if isinstance(entry.record, Snapshot):
                    named.add(entry.record.artifact)
            self._reads = False
            gone = await self._threads.run("obzen sweep", lambda: self._remove(named))
        except (ObzenError, OSError) as error:  # what is read was dropped meanwhile, or the disk failed: another turn tries again
            self._log.info("snapshots that nobody needs were not removed", reason=str(error))
        else:
            self._seen = head
            self._log.debug("removed snapshots that nobody needs", count=gone)
        finally:
            self._store.rest()
            self._task = None

    def _remove(self, named: set[str]) -> int:
        """On a thread."""
        kept = stands_on(self._store, takewhile(lambda _: not self._ended, named))
        return self._store.sweep(kept, archive=self._archive, ended=lambda: self._ended)
