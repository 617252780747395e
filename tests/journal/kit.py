"""What the tests of the journal share: a small journal on a simulated disk, and the verdict of the next opener on it."""

import asyncio
import sys
from pathlib import Path

from obzen_runtime.events import ActorState, Block
from obzen_runtime.journal import Entry, Os, SegmentJournal, SegmentOptions
from obzen_runtime.journal.place import Place
from obzen_runtime.journal.reader import Log
from obzen_runtime.journal.recovery import take_over
from obzen_runtime.journal.survey import survey
from obzen_runtime.kernel import Clock, JournalDamaged, Seams
from obzen_runtime.testing import InlineThreads

RUN = Path("/runs/r")
SEGMENTS = RUN / "journal"
FIRST = SEGMENTS / "00000000000000000001.seg"
WATERMARK = RUN / "WATERMARK"
EPOCH = RUN / "EPOCH"
LOCK = RUN / "LOCK"


class StillClock(Clock):
    def wall_ms(self):
        return 1_700_000_000_000

    def monotonic(self):
        return 0.0


class CountedEntropy:
    """The same 'random' bytes in every test."""

    def __init__(self):
        self.next = 0

    def bytes(self, count):
        self.next += 1
        return (self.next * 0x9E3779B97F4A7C15).to_bytes(16, "little")[:count].ljust(count, b"\xa5")

    def uniform(self, low, high):
        return low


def seams(disk, **others):
    return Seams(**{"files": disk, "threads": InlineThreads(), "clock": StillClock(), "entropy": CountedEntropy(), **others})


def mark(number):
    return ActorState(actor="a", source="x", event="E", target="y", at=number)


def block(number, size):
    return Block(stage="s", base=number, count=1, at=1, payloads=bytes([1 + (number * 7 + i) % 255 for i in range(size)]))


def opened(disk, *, level=None, **options):
    return SegmentJournal.open(RUN, options=SegmentOptions(level=level or Os(), **options), seams=seams(disk))


def frames(count=5):
    """Appends of one to three records, of differing sizes."""
    made, number = [], 0
    for index in range(count):
        made.append([mark(number + i) if index % 2 else block(number + i, 10 + 30 * index) for i in range(1 + index % 3)])
        number += len(made[-1])
    return made


def entries(made):
    records = [record for records in made for record in records]
    return [Entry(position, record) for position, record in enumerate(records, 1)]


def recover(disk, *, read=True):
    """What the next opener finds: its recovery and all records. Raises what it raises."""
    taken = take_over(Place(RUN), seams(disk))
    found = []
    if read:
        for handful in Log(disk, taken.segments).read(taken.floor.position, taken.recovery.head + 1, None):
            found += handful
    taken.release()
    return taken.recovery, found


def verdict(disk):
    """`refused`, or the records found."""
    try:
        return recover(disk)[1]
    except JournalDamaged as error:
        return "refused" if error.exit_code == 65 and error.details["file"] else "refused without naming the file"


def flipped(content, bit):
    changed = bytearray(content)
    changed[bit >> 3] ^= 1 << (bit & 7)
    return bytes(changed)


class HeldThreads:
    """Keeps work back until `step` runs the oldest; runs it at once while not `holding`."""

    def __init__(self, *, holding=True):
        self.holding = holding
        self.held = []
        self.arrived = asyncio.Event()

    def run(self, name, work):
        future = asyncio.get_running_loop().create_future()
        self.held.append((name, work, future))
        self.arrived.set()
        if not self.holding:
            self.step()
        return future

    async def arrival(self):
        """Return when some work is held."""
        while not self.held:
            self.arrived.clear()
            await self.arrived.wait()

    def step(self):
        _name, work, future = self.held.pop(0)
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)


async def settle():
    """Let everything that is ready run."""
    for _ in range(6):
        await asyncio.sleep(0)


async def collect(entries):
    return [entry async for entry in entries]


def tell(what):
    """Print a count for whoever runs with `-s`, or reads the captured output of a failure."""
    sys.stdout.write(f"\n{what}\n")


def looks_damaged(disk):
    """Whether opening refuses, found without opening."""
    try:
        survey(disk, Place(RUN))
    except JournalDamaged:
        return True
    return False
