"""Killed by the kernel in the middle of its work: whatever a sink let out is in the log, back to the source."""

import asyncio
import signal

import msgspec
import pytest

from obzen_runtime.events import Block, Receipt
from obzen_runtime.journal import SegmentJournal
from obzen_runtime.lineage import History, parents_of
from tests.scenarios.kit import Program

BODY = """
@oz.source
def s() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1

@oz.source
def r() -> Iterator[int]:
    yield from range(0, 1000, 3)

@oz.transform
def even(number: int) -> int | None:
    return number if number % 2 == 0 else None

@oz.transform
def several(number: int) -> Iterator[tuple[int, int]]:
    for copy in range(number % 5):
        yield number, copy

@oz.join(how="left", stream_key=lambda pair: pair[0] % 1000, reference_key=lambda number: number)
def match(pair: tuple[int, int], other: int | None) -> tuple[int, int, int]:
    return *pair, -1 if other is None else other

@oz.fold((0, 0), emit=oz.every(10))
def counted(seen: tuple[int, int], found: tuple[int, int, int]) -> tuple[int, int]:
    return seen[0] + 1, found[0]

@oz.sink
def k(found: tuple[int, int, int]) -> None:
    say("k", *found)

@oz.sink
async def c(seen: tuple[int, int]) -> None:
    say("c", *seen)

paths = [s >> even >> several >> match.stream, r >> match.reference, match >> [k, counted >> c]]
flow = oz.Flow("f", *paths, window=oz.Window(events={window}))
"""


class Log:
    """A run's events and where they come from, read from its log alone."""

    def __init__(self, records):
        self.events, self.parents, self.receipts, histories = {}, {}, {}, {}
        for record in records:
            if isinstance(record, Block | Receipt):
                histories.setdefault(record.stage, History()).feed(record)
            if isinstance(record, Receipt):
                self.receipts[record.stage] = record.cursor.next
            if isinstance(record, Block) and record.count:
                events = self.events.setdefault(record.stage, [])
                assert record.base == len(events)
                events.extend(msgspec.msgpack.decode(record.payloads))
                found = parents_of(record, histories[record.stage])
                self.parents.setdefault(record.stage, []).extend(found)

    def ancestors(self, stage, ordinal):
        """Every source event that the event comes from."""
        found, waiting, seen = set(), [(stage, ordinal)], set()
        while waiting:
            at = waiting.pop()
            if at in seen:
                continue
            seen.add(at)
            stage, ordinal = at
            assert ordinal < len(self.events[stage]), f"{stage}@{ordinal} is not in the log"
            parents = self.parents[stage][ordinal]
            if not parents:
                found.add((stage, self.events[stage][ordinal]))
            waiting.extend((each.stage, number) for each in parents for number in range(each.start, each.stop))
        return found


@pytest.mark.parametrize(("lines", "window"), [(1, 8192), (700, 8192), (2500, 50)])
def test_everything_a_sink_let_out_is_in_the_log_with_its_ancestors(tmp_path, lines, window):
    with Program(tmp_path, BODY.replace("{window}", str(window))) as program:
        for _ in range(lines):
            program.until("k")
        program.send(signal.SIGKILL)
        assert program.end() == 137
    assert program.state == "crashed"
    log = Log(program.records())
    let_out = [tuple(map(int, line.split()[1:])) for line in program.lines if line.startswith("k ")]
    assert len(let_out) >= lines
    for ordinal, found in enumerate(let_out):
        assert tuple(log.events["match"][ordinal]) == found
        number, _, other = found
        expected = {("s", number)} | ({("r", other)} if other >= 0 else set())
        assert log.ancestors("match", ordinal) == expected
    counts = [tuple(map(int, line.split()[1:])) for line in program.lines if line.startswith("c ")]
    assert [tuple(event) for event in log.events.get("counted", [])][: len(counts)] == counts
    assert log.receipts.get("k", {}).get("match", 0) <= len(let_out), "no receipt for what was not delivered"


def test_the_journal_of_a_killed_run_can_be_taken_over(tmp_path):
    with Program(tmp_path, BODY.replace("{window}", "8192")) as program:
        program.until("k")
        program.send(signal.SIGKILL)
        program.end()
    before = len(program.records())

    async def take_over():
        journal = SegmentJournal.open(program.run)
        head = journal.head
        await journal.close()
        return head

    assert asyncio.run(take_over()) == before
