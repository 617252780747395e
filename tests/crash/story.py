"""What a killed writer does: append, roll, seal, prune, put an artifact, open again. Says on a pipe what was acknowledged."""

import asyncio
import os
import sys
from pathlib import Path

from obzen_runtime.events import ActorState
from obzen_runtime.journal import ArtifactStore, Fsync, Retention, SegmentJournal, SegmentOptions

BEGIN = "/obzen-begins"
"""A path that is looked for right before the first call that may be killed."""


def mark(number):
    return ActorState(actor="a", source="x", event="E", target="y", at=number)


def long(number):
    return ActorState(actor="a", source="x", event="E" * 300, target="y", at=number)


async def tell_and_write(run, told):
    options = SegmentOptions(level=Fsync(), segment_bytes=1024, retention=Retention(size=2048))
    for _ in range(2):
        journal = SegmentJournal.open(run, options=options)
        for number in range(5):
            position = journal.append([mark(journal.head + 1), long(journal.head + 2)])
            await journal.durable(position)
            os.write(told, b"%d\n" % position)
            if number == 3:
                journal.forget(position - 1)
                ArtifactStore(run / "artifacts").put(b"state" * 20)
        await journal.close()


if __name__ == "__main__":
    place, pipe = Path(sys.argv[1]), int(sys.argv[2])
    os.access(BEGIN, os.F_OK)
    asyncio.run(tell_and_write(place, pipe))
