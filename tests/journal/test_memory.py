"""The journal in memory drops what nobody needs any more."""

import pytest

from obzen_runtime.journal import MemoryJournal
from obzen_runtime.kernel import JournalFailed, NotFound
from tests.journal.kit import collect, mark


async def test_what_is_forgotten_cannot_be_read_and_says_so():
    journal = MemoryJournal()
    journal.append([mark(number) for number in range(5)])
    journal.forget(3)
    assert [entry.position for entry in await collect(journal.read(3))] == [3, 4, 5]
    with pytest.raises(NotFound, match="keep=True"):
        await collect(journal.read(2))
    journal.forget(100)
    assert (journal.head, journal.append([mark(5)])) == (5, 6)
    assert [entry.position for entry in await collect(journal.read(6))] == [6]


async def test_a_keeping_journal_forgets_nothing():
    journal = MemoryJournal(keep=True)
    journal.append([mark(0), mark(1)])
    journal.forget(2)
    assert len(await collect(journal.read())) == 2
    assert (journal.size, journal.durable_head) == (0, 2)


async def test_a_closed_journal_says_it_is_closed():
    journal = MemoryJournal()
    await journal.close()
    with pytest.raises(JournalFailed, match="closed"):
        journal.append([mark(0)])
