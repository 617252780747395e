"""What a journal promises when its process dies, when another takes over, and when what it stored changes behind its back.

A dead process is one whose lock is taken away and whose journal nobody uses any more: what it had not written is gone.
"""

from contextlib import suppress
from pathlib import Path

from obzen_runtime.events import Block, Record, RunCompleted
from obzen_runtime.journal import Entry, Journal
from obzen_runtime.kernel import Fenced, JournalDamaged, ObzenError
from obzen_runtime.testing.harness import Check, Harness, every, expect, filled, hold, locked_out, mark, refused
from obzen_runtime.testing.samples import sample_records

__all__ = ["OVERTAKEN", "STORED"]

_PLACES = 24
"""Bytes of one frame that are tried."""


async def what_was_appended_outlives_its_process(harness: Harness) -> None:
    records = sample_records()
    journal = await harness.journal()
    for frame in (records, [mark(1)], [mark(2), mark(3)]):
        journal.append(frame)
    again = await _taken_over(harness)
    expect(await _records(again), [*records, mark(1), mark(2), mark(3)], "records")
    expect(again.append([mark(4)]), len(records) + 4, "the next append")
    await _closed(journal, again)


async def positions_go_on_over_one_death_after_the_other(harness: Harness) -> None:
    opened = [await harness.journal()]
    for number in range(5):
        expect(opened[-1].append([mark(number), RunCompleted(at=number)]), 2 * number + 2, "position")
        opened.append(await _taken_over(harness))
        expect(opened[-1].head, 2 * number + 2, "head")
        expect(await opened[-1].last(frozenset({RunCompleted})), Entry(2 * number + 2, RunCompleted(at=number)), "the newest")
    await _closed(*opened)


async def what_was_refused_is_not_there_after_a_death(harness: Harness) -> None:
    journal = await filled(harness, 1)
    with suppress(Exception):  # a journal that does not encode takes it
        journal.append([mark(2), RunCompleted(at=1 << 70)])
    kept = journal.head
    again = await _taken_over(harness)
    expect([entry.position for entry in await every(again.read())], list(range(1, kept + 1)), "positions")
    await _closed(journal, again)


async def a_writer_that_was_overtaken_is_fenced_and_writes_nothing(harness: Harness) -> None:
    old = await filled(harness, 2)
    new = await _taken_over(harness)
    for records in ([mark(9)], [mark(9)] * 3):
        expect(refused(Fenced, lambda records=records: old.append(records)).exit_code, 75, "exit code")  # type: ignore[misc]
    expect(new.append([mark(3)]), 3, "the new writer's append")
    refused(Fenced, lambda: old.append([mark(9)]))
    await _closed(old, new)
    again = await harness.journal()
    expect(await _records(again), [mark(1), mark(2), mark(3)], "records")
    await again.close()


async def the_close_of_who_was_overtaken_lets_nobody_in(harness: Harness) -> None:
    old = await filled(harness, 1)
    new = await _taken_over(harness)
    await _closed(old)
    await locked_out(harness, "the old writer's close has let a third one in")
    expect(new.append([mark(2)]), 2, "the new writer's append")
    await new.close()


async def of_a_frame_that_was_cut_nothing_is_left(harness: Harness) -> None:
    for part in range(_PLACES):
        journal = await harness.journal()
        before, kept = _sizes(harness), await _records(journal)
        added = [mark(part), Block(stage="a", base=0, count=1, at=part, payloads=b"\x91\x01"), mark(-part)]
        journal.append(added)
        _cut(harness, before, part / _PLACES)
        try:
            again = await _taken_over(harness)
        except JournalDamaged:
            return  # it waits for somebody to decide
        finally:
            await _closed(journal)
        found = await _records(again)
        hold(
            found in (kept, [*kept, *added]), f"of {len(kept)} records and a frame of 3 that was cut {len(found)} are left: no whole frames"
        )
        await again.close()


async def a_byte_that_changed_is_never_read_as_what_was_written(harness: Harness) -> None:
    frames: list[list[Record]] = [
        sample_records(),
        [mark(1), mark(2)],
        [Block(stage="a", base=0, count=1, at=1, payloads=bytes(range(200)))],
    ]
    journal = await harness.journal()
    for frame in frames:
        journal.append(frame)
    records = await _records(journal)
    await journal.close()
    for path, place in _spread(harness):
        content = path.read_bytes()
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        try:
            found = await _found(harness)
        except JournalDamaged:
            path.write_bytes(content)
            continue
        hold(
            found in (records, records[: -len(frames[-1])]),
            f"byte {place} of {path.name} was changed, and something else was read than was written",
        )
        if found != records:
            return  # it took the end for one that was being written, and cut it off


async def _taken_over(harness: Harness) -> Journal:
    """The journal, opened by another while whoever held it was not asked."""
    assert harness.unlock is not None
    harness.unlock()
    return await harness.journal()


async def _closed(*journals: Journal) -> None:
    """Close them; one that was overtaken or damaged may complain."""
    for journal in journals:
        with suppress(ObzenError):
            await journal.close()


async def _records(journal: Journal) -> list[Record]:
    return [entry.record for entry in await every(journal.read())]


async def _found(harness: Harness) -> list[Record]:
    """What is read of a journal that may be damaged."""
    journal = await harness.journal()
    try:
        return await _records(journal)
    finally:
        await _closed(journal)


def _sizes(harness: Harness) -> dict[Path, int]:
    assert harness.files is not None
    return {path: path.stat().st_size for path in harness.files()}


def _cut(harness: Harness, before: dict[Path, int], part: float) -> None:
    """Take away a part of what the files have grown by, one byte at least."""
    for path, size in _sizes(harness).items():
        grown = size - before.get(path, 0)
        if grown > 0:
            with path.open("r+b") as file:
                file.truncate(size - 1 - int((grown - 1) * part))


def _spread(harness: Harness) -> list[tuple[Path, int]]:
    """Bytes in all files, their first and last among them."""
    return [(path, place * (size - 1) // _PLACES) for path, size in _sizes(harness).items() if size for place in range(_PLACES + 1)]


OVERTAKEN: tuple[Check, ...] = (
    what_was_appended_outlives_its_process,
    positions_go_on_over_one_death_after_the_other,
    what_was_refused_is_not_there_after_a_death,
    a_writer_that_was_overtaken_is_fenced_and_writes_nothing,
    the_close_of_who_was_overtaken_lets_nobody_in,
)
"""For one whose lock can be taken away."""
STORED: tuple[Check, ...] = (
    of_a_frame_that_was_cut_nothing_is_left,
    a_byte_that_changed_is_never_read_as_what_was_written,
)
"""For one that stands in files."""
