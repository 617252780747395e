"""Every operation on the disk fails: once and for ever, with each error, and again while recovering from the first.

Whatever fails, nothing is acknowledged after it, and the next opening on a sound disk finds all that was acknowledged.
"""

import asyncio
import errno
from contextlib import suppress
from itertools import count, product

import pytest

from obzen_runtime.journal import Fsync, Interval, Os
from obzen_runtime.kernel import JournalDamaged, StorageFailed
from obzen_runtime.testing import Crashed, Faults, SimulatedDisk
from tests.crash.scale import spread
from tests.journal.kit import mark, opened, tell, verdict
from tests.journal.test_faults import WHOLE, Story

ERRORS = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "EINTR": errno.EINTR, "EDQUOT": errno.EDQUOT, "EROFS": errno.EROFS}
LEVELS = {"os": Os(), "interval": Interval(1), "fsync": Fsync()}
CHUNKS = {"whole": None, "short": 40}
"""Bytes that one write takes: with `short` an append is many writes, of which some go through."""


class FailingFrom(Faults):
    """Every operation from number `first` on fails, or that one alone."""

    def __init__(self, first, code, *, forever):
        super().__init__()
        self.first = first
        self.code = code
        self.forever = forever

    def step(self, operation, path):
        super().step(operation, path)
        number = len(self.calls)
        if number == self.first or (self.forever and number > self.first):
            self.failed = True
            raise OSError(self.code, "as it was told", str(path))


async def operations(level, chunk):
    disk = SimulatedDisk()
    disk.faults.chunk = chunk
    await Story(disk, level).run()
    return len(disk.faults.calls)


def sound(disk):
    """The disk after a fault, on which nothing fails any more."""
    found = verdict(disk)
    assert found == WHOLE[: len(found)]
    return len(found)


async def goes_on(disk):
    journal = opened(disk)
    assert journal.append([mark(9)]) == journal.head
    await journal.close()


def compare(disk, story):
    assert sound(disk.killed()) >= story.written
    assert sound(disk.power_cut()) >= story.durable


@pytest.mark.timeout(900)
@pytest.mark.parametrize("level", LEVELS)
async def test_T_SYS_2_every_operation_fails_once_and_for_ever_with_every_error(level):
    cases = failed = 0
    for (kind, code), forever, chunk in product(ERRORS.items(), (False, True), CHUNKS.values()):
        for number in spread(range(1, await operations(LEVELS[level], chunk) + 1), 8):
            disk = SimulatedDisk()
            disk.faults = FailingFrom(number, code, forever=forever)
            disk.faults.chunk = chunk
            story = Story(disk, LEVELS[level])
            with suppress(JournalDamaged):
                await story.run()
            assert story.errors or story.closed, (kind, number)
            compare(disk, story)
            await goes_on(disk.killed())
            cases += 1
            failed += bool(story.errors)
    tell(
        f"{level}: {cases} failing operations with 5 errors, once and for ever, whole and short writes; {failed} ended the journal, 0 wrong"
    )
    assert failed > cases / 2


async def recovered(disk):
    """Open and append on what a fault left; whether it went through."""
    try:
        journal = opened(disk)
        journal.append([mark(9)])
        await journal.close()
    except (StorageFailed, Crashed):
        return False
    return True


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("first", ["dies", "EIO", "ENOSPC"])
@pytest.mark.parametrize("second", ["dies", "EIO"])
async def test_T_SYS_3_a_second_fault_while_recovering_from_the_first(first, second):
    pairs = 0
    for number in spread(range(1, await operations(Fsync(), 40) + 1), 4):
        disk = SimulatedDisk()
        if first == "dies":
            disk.faults.die_at, disk.faults.torn = number, 0.5
        else:
            disk.faults = FailingFrom(number, ERRORS[first], forever=False)
        disk.faults.chunk = 40
        story = Story(disk, Fsync())
        with suppress(Crashed):
            await story.run()
        for again in count(1):
            after = disk.killed()
            if second == "dies":
                after.faults.die_at, after.faults.torn = again, 0.5
            else:
                after.faults = FailingFrom(again, errno.EIO, forever=False)
            if await recovered(after):
                break
            third = after.killed()
            found = verdict(third)
            assert found[: len(WHOLE)] == WHOLE[: len(found)] or found[-1].record == mark(9), (number, again)
            assert found[: story.written] == WHOLE[: story.written], (number, again)
            cut = verdict(after.power_cut())
            assert cut[: story.durable] == WHOLE[: story.durable], (number, again)
            pairs += 1
        await asyncio.sleep(0)
    tell(f"{first}, then {second}: {pairs} pairs of faults, 0 wrong")
    assert pairs > 40
