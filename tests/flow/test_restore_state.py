"""A stopped run on disk gets its state back from its artifacts: nothing that was folded is folded again."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator

import pytest

import obzen_runtime as oz
from obzen_runtime.events import Checkpoint, Snapshot
from obzen_runtime.journal import RunDirectory
from obzen_runtime.kernel import JournalDamaged

COUNT = 6000


class Told:
    """What the folds of all processes saw, and the gate at which the first one waits."""

    def __init__(self) -> None:
        self.folded: list[int] = []
        self.open = asyncio.Event()
        self.reached = asyncio.Event()


def flow_of(told, given):
    @oz.source
    async def numbers() -> AsyncIterator[int]:
        for number in range(COUNT):
            if number == COUNT // 2:
                told.reached.set()
                await told.open.wait()
            yield number

    @oz.source
    def names() -> Iterator[tuple[int, str]]:
        for number in range(50):
            yield number, f"name {number}"

    @oz.stateful(key=lambda number: (number % 100, "key"), emit=oz.every(7))
    class Sum:
        total: int = 0

        def fold(self, number: int) -> None:
            told.folded.append(number)
            self.total += number

        def emit(self, key: tuple[int, str]) -> int:
            return key[0] * 10_000_000 + self.total

    @oz.join(how="inner", stream_key=lambda number: number // 10_000_000, reference_key=lambda pair: pair[0])
    def named(number: int, match: tuple[int, str]) -> str:
        return f"{match[1]}: {number}"

    @oz.sink
    def out(text: str) -> None:
        given.append(text)

    return oz.Flow("f", numbers >> oz.stage(Sum) >> named.stream, names >> named.reference, named >> out)


async def stopped_and_resumed(place, between=lambda run: None):
    """A run that is stopped at its half and resumed: what was folded in each process, what was given, and the records."""
    first, second, given = Told(), Told(), []
    async with oz.start(flow_of(first, given), journal=place, run_id="r") as handle:
        await first.reached.wait()
        report = await handle.stop()
    assert report.state == "cancelled"
    between(RunDirectory(place / "r"))
    second.open.set()
    async with oz.start(flow_of(second, given), journal=place, run_id="r") as handle:
        report = await handle.wait()
        journal = handle.pipeline.journal
        records = [entry.record async for entry in journal.read(1)]
    assert (report.state, report.error) == ("drained", None)
    return first.folded, second.folded, given, records


async def whole(place):
    told, given = Told(), []
    told.open.set()
    async with oz.start(flow_of(told, given), journal=place, run_id="w") as handle:
        await handle.wait()
    return given


async def test_a_stopped_run_folds_only_what_is_new(tmp_path):
    first, second, given, records = await stopped_and_resumed(tmp_path)
    assert first + second == list(range(COUNT))
    assert sorted(given) == sorted(await whole(tmp_path))
    kept = {record.actor for record in records if isinstance(record, Snapshot)}
    assert kept == {"Sum", "named"}
    last = next(record for record in reversed(records) if isinstance(record, Checkpoint))
    assert {records[position - 1].actor for position in last.snapshots.values()} == kept


async def test_without_its_artifacts_it_folds_all_again(tmp_path):
    first, second, given, _ = await stopped_and_resumed(tmp_path, lambda run: shutil.rmtree(run.artifacts.directory))
    assert second == list(range(COUNT))
    assert first == second[: len(first)]
    assert sorted(given) == sorted(await whole(tmp_path))


async def test_a_flipped_bit_in_an_artifact_is_never_taken_for_state(tmp_path):
    def flip(run):
        for path in run.artifacts.directory.glob("*/*"):
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)
            with pytest.raises(JournalDamaged):
                run.artifacts.get(path.parent.name + path.name)

    first, second, given, _ = await stopped_and_resumed(tmp_path, flip)
    assert second == list(range(COUNT))
    assert sorted(given) == sorted(await whole(tmp_path))
    assert first == second[: len(first)]
