"""A run that drops its past keeps no state of it, and none that it needs is ever gone."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

import obzen_runtime as oz
from obzen_runtime.actor import Ground
from obzen_runtime.events import Cursor, RunResumed, Snapshot
from obzen_runtime.flow import Pipeline, StopFlow
from obzen_runtime.flow.sweeping import Sweeper
from obzen_runtime.journal import (
    ArtifactStore,
    Entry,
    Manifest,
    Retention,
    RunDirectory,
    SegmentJournal,
    SegmentOptions,
    SegmentReader,
    fork,
)
from obzen_runtime.kernel import JournalDamaged, ObzenError, Seams
from obzen_runtime.stages import recollect, snapshots
from obzen_runtime.testing import Crashed, InlineThreads, SimulatedDisk, VirtualClock
from tests.flow.kit import Seen, until
from tests.journal.kit import RUN

SMALL = 2048
COUNT = 1200


@pytest.fixture(autouse=True)
def often(monkeypatch):
    """Snapshots at every step, of pages of two entries, that stand on each other."""
    monkeypatch.setattr(snapshots, "_AGAIN", 0.0)
    monkeypatch.setattr(snapshots, "_SHARE", 1e9)
    monkeypatch.setattr(recollect.Recollects, "page_size", 2)


@pytest.fixture(autouse=True)
def whole(monkeypatch):
    """After every sweep: what is left stands on what is left."""
    sweep = ArtifactStore.sweep

    def checked(self, kept, **named):
        gone = sweep(self, kept, **named)
        for name in filter(self.exists, kept):
            with suppress(JournalDamaged, msgspec.DecodeError):
                base = msgspec.msgpack.decode(self.get(name), type=snapshots.Kept).base
                assert not base or self.exists(base), f"{name} stands on {base}, which is gone"
        return gone

    monkeypatch.setattr(ArtifactStore, "sweep", checked)


class Place:
    """One run on a simulated disk, over several processes."""

    def __init__(self, *, archive: str = "", size: int = 8 * SMALL) -> None:
        self.disk = SimulatedDisk()
        self.seen = Seen()
        self.options = SegmentOptions(segment_bytes=SMALL, retention=Retention(size=size, archive=archive))

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(RUN / "artifacts", self.disk)

    async def live(self, count=COUNT, *, stop_at: int | None = None) -> tuple[str, list[int]]:
        """One process of the flow; its state and what all its sinks got so far."""
        clock = VirtualClock()

        @oz.source
        def s() -> Iterator[int]:
            for number in range(count):
                if number == stop_at:
                    pipeline.command(StopFlow())
                yield number

        @oz.stateful(key=lambda number: number % 40, emit=oz.at_end())
        class Sum:
            total: int = 0

            def fold(self, number: int) -> None:
                self.total += number

            def emit(self, key: int) -> int:
                return self.total

        seams = Seams(clock=clock, files=self.disk, threads=InlineThreads())
        self.disk.make_directory(self.store.directory)
        journal = SegmentJournal.open(RUN, options=self.options, seams=seams)
        ground = Ground(journal, seams, run_id="run", artifacts=self.store)
        pipeline = Pipeline(oz.Flow("f", s >> oz.stage(Sum) >> self.seen.sink(), window=oz.Window(events=12)), ground)
        past = await pipeline.look_back()
        if past is not None:
            pipeline.go_on(past, RunResumed(clock.wall_ms(), journal.epoch))
        state = await pipeline.run()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not [task for task in left if task.get_name() == "obzen sweep"]
        await journal.close()
        return state, sorted(set(self.seen))

    def kept(self) -> set[str]:
        """The artifacts that are there."""
        folders = self.disk.names(self.store.directory)
        return {folder + name for folder in folders for name in self.disk.names(self.store.directory / folder)}

    def ever(self) -> set[str]:
        """All that were ever put."""
        paths = [path for operation, path in self.disk.faults.calls if operation == "replace" and self.store.directory in path.parents]
        return {path.parent.name + path.name for path in paths}

    async def named(self) -> list[Snapshot]:
        """The snapshots on record."""
        reader = SegmentReader.open(RUN, files=self.disk)
        return [entry.record async for entry in reader.read(kinds=frozenset({Snapshot}))]

    async def check(self) -> int:
        """Every snapshot on record can be read, with all that it stands on; how many there are."""
        found = await self.named()
        for each in found:
            artifact = each.artifact
            while artifact:
                artifact = msgspec.msgpack.decode(self.store.get(artifact), type=snapshots.Kept).base
        return len(found)


def sums(count: int = COUNT) -> list[int]:
    return sorted(sum(range(key, count, 40)) for key in range(40))


async def test_a_run_that_drops_its_past_keeps_only_state_that_is_named():
    place = Place()
    assert await place.live() == ("drained", sums())
    assert await place.check()
    assert len(place.kept()) < len(place.ever()) / 2


async def test_a_run_that_keeps_all_sweeps_nothing():
    place = Place()
    place.options = SegmentOptions(segment_bytes=SMALL)
    assert await place.live() == ("drained", sums())
    assert place.kept() == place.ever()


async def test_a_stopped_run_sweeps_what_its_earlier_lives_left():
    place = Place()
    for stop_at in (200, 400, 600):
        assert (await place.live(stop_at=stop_at))[0] == "cancelled"
    orphan = place.store.put(b"written by a process that died before it could record it")
    assert await place.live() == ("drained", sums())
    assert await place.check()
    assert orphan not in place.kept()
    assert len(place.kept()) < len(place.ever()) / 2


async def test_what_goes_is_moved_to_the_archive_of_the_log():
    place = Place(archive="/old")
    assert await place.live() == ("drained", sums())
    await place.check()
    archive = ArtifactStore(Path("/old") / RUN.name / "artifacts", place.disk)
    gone = place.ever() - place.kept()
    assert gone
    assert all(archive.get(name) for name in gone)


async def test_whatever_a_process_dies_at_no_state_that_is_named_is_gone():
    count, deaths = 300, 12
    whole = Place()
    await whole.live(count)
    for number in range(deaths):
        place = Place()
        place.disk.faults.die_at = len(whole.disk.faults.calls) * (2 * number + 1) // (2 * deaths)
        with suppress(Crashed, ObzenError):
            await place.live(count)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        place.disk = place.disk.power_cut() if number % 2 else place.disk.killed()
        await place.check()
        assert await place.live(count) == ("drained", sums(count))
        await place.check()


async def test_a_fork_has_the_state_that_its_past_names():
    place = Place()
    await place.live(stop_at=800)
    run = RunDirectory(RUN, place.disk)
    run.write_manifest(Manifest(run_id="r", flow="f"))
    named = await place.named()
    made = fork(run, RUN.parent, "forked", at=SegmentReader.open(RUN, files=place.disk).head, live=False, seams=Seams(files=place.disk))
    await place.live()
    assert all(made.run.artifacts.get(each.artifact) for each in named)


async def test_what_cannot_be_swept_now_is_swept_later(monkeypatch):
    place, refused = Place(), []
    whole = ArtifactStore.sweep

    def fails(self, *given, **named):
        if not refused:
            refused.append(self)
            raise OSError(5, "Input/output error")
        return whole(self, *given, **named)

    monkeypatch.setattr(ArtifactStore, "sweep", fails)
    assert await place.live() == ("drained", sums())
    assert await place.check()
    assert len(place.kept()) < len(place.ever())
    assert refused


async def test_a_damaged_artifact_keeps_nobody_from_sweeping():
    place = Place()
    await place.live(stop_at=400)
    spoiled = set(sorted(place.kept())[::3])
    for name in spoiled:
        place.disk.replace(place.store.directory / name[:2] / name[2:], b"spoiled")
    assert await place.live() == ("drained", sums())
    assert spoiled - place.kept()


# -- one sweep --------------------------------------------------------------------------------------


class Log:
    """A journal whose first position is told, and which may wait before it gives its snapshots."""

    archive = None
    head = 100
    first = 50
    dropping = False

    def __init__(self, *named: str) -> None:
        self.named = named
        self.looked = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    async def read(self, start=0, stop=None, *, kinds=None):
        self.looked.set()
        await self.open.wait()
        for number, name in enumerate(self.named, 1):
            yield Entry(number, Snapshot("t", name, 1, 1))


class Writes:
    """A stage's keeper that is writing, or not."""

    base = ""
    writing = False


def sweeping(tmp_path, log, seams=None):
    store = ArtifactStore(tmp_path)
    return store, [store.put(b"one"), store.put(b"two")], Sweeper(log, store, seams or Seams())


async def gone(store, name):
    await until(lambda: not store.exists(name))


async def test_nothing_is_swept_while_a_drop_is_under_way_or_a_snapshot_is_written_or_nothing_new_was_dropped(tmp_path):
    log, keeper = Log(), Writes()
    store, (one, two), sweeper = sweeping(tmp_path, log)
    for thing, name, unfit, fit in ((log, "dropping", True, False), (keeper, "writing", True, False), (log, "first", 1, 50)):
        setattr(thing, name, unfit)
        sweeper.turn([keeper])
        await sweeper.end()
        assert not log.looked.is_set(), name
        setattr(thing, name, fit)
    log.named = (two,)
    sweeper = Sweeper(log, store, Seams())
    sweeper.turn([keeper])
    await gone(store, one)
    await sweeper.end()
    assert store.exists(two)
    again = store.put(b"three")
    log.first = log.head  # a part of what stood there at the last sweep is still kept
    log.looked.clear()
    sweeper.turn([keeper])
    await sweeper.end()
    assert store.exists(again)
    assert not log.looked.is_set()


class Later:
    """Threads whose work waits until it is told to go on."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    def run(self, name, work):
        async def later():
            await self.go_on.wait()
            return work()

        return asyncio.ensure_future(later())


class Stateful:
    """As much of a stage as a keeper asks for; without an entry of state."""

    name, taken, clock = "t", 1, VirtualClock()

    def __init__(self) -> None:
        self.snapshots: list[Snapshot] = []

    def cursor(self):
        return Cursor()

    def floor(self):
        return 1

    def entries(self):
        return 0

    def kept_as(self):
        return snapshots.Kind("t", "stateful", "")

    def keep(self, snapshot):
        self.snapshots.append(snapshot)


async def test_a_keeper_writes_until_its_snapshot_is_on_record(tmp_path):
    threads, stage = Later(), Stateful()
    keeper = snapshots.Keeper(stage, ArtifactStore(tmp_path), threads)
    last = asyncio.ensure_future(keeper.last(lambda: asyncio.sleep(0)))
    await until(lambda: keeper.writing)
    assert (stage.snapshots, keeper.base) == ([], "")
    threads.go_on.set()
    await last
    assert (keeper.writing, [each.artifact for each in stage.snapshots]) == (False, [keeper.base])


async def test_a_sweep_that_waits_for_a_snapshot_begins_behind_its_record(tmp_path):
    log, keeper = Log(), Writes()
    store, (one, two), sweeper = sweeping(tmp_path, log)
    keeper.writing = True
    sweeper.turn([keeper])
    assert sweeper.waits
    keeper.writing, keeper.base = False, two
    sweeper.turn([keeper])
    assert not sweeper.waits
    assert store.put(b"one") == one, "from the turn on, not from when the log is read"
    three = store.put(b"three")
    await until(log.looked.is_set)
    await sweeper.end()
    assert all(map(store.exists, (one, two, three)))


async def test_what_the_next_snapshot_may_stand_on_is_kept(tmp_path):
    keeper = Writes()
    store, (one, two), sweeper = sweeping(tmp_path, Log())
    keeper.base = two
    sweeper.turn([keeper])
    await gone(store, one)
    await sweeper.end()
    assert store.exists(two)


async def test_what_a_snapshot_on_record_stands_on_is_kept(tmp_path):
    store, (one, two), _ = sweeping(tmp_path, Log())
    kind, names = Stateful().kept_as(), [""]
    for _ in range(4):
        names.append(store.put(msgspec.msgpack.encode(snapshots.Kept(kind, 0, 0, (), {}, names[-1]))))
    log = Log(names[3], one)
    sweeper = Sweeper(log, store, Seams())
    sweeper.turn([])
    await gone(store, two)
    await gone(store, names[4])
    await sweeper.end()
    assert all(map(store.exists, [*names[1:4], one]))


async def test_what_is_put_while_the_log_is_read_is_kept_also_when_it_was_there_before(tmp_path):
    log = Log()
    store, (one, two), sweeper = sweeping(tmp_path, log)
    log.open.clear()
    sweeper.turn([])
    await log.looked.wait()
    assert store.put(b"two") == two
    log.open.set()
    await gone(store, one)
    await sweeper.end()
    assert store.exists(two)


async def test_the_end_of_a_run_waits_for_no_look_at_the_log(tmp_path):
    log = Log()
    store, names, sweeper = sweeping(tmp_path, log)
    log.open.clear()
    sweeper.turn([])
    await log.looked.wait()
    await asyncio.wait_for(sweeper.end(), 5)
    assert all(map(store.exists, names))
    assert store.put(b"more")


async def test_the_end_of_a_run_stops_a_sweep_at_its_next_file(tmp_path, monkeypatch):
    whole, begun = ArtifactStore.sweep, threading.Event()

    def waits(self, kept, *, archive, ended: Callable[[], bool]):
        begun.set()
        while not ended():
            """As long as the run lives."""
        return whole(self, kept, archive=archive, ended=ended)

    monkeypatch.setattr(ArtifactStore, "sweep", waits)
    store, names, sweeper = sweeping(tmp_path, Log())
    sweeper.turn([])
    await asyncio.get_running_loop().run_in_executor(None, begun.wait)
    await asyncio.wait_for(sweeper.end(), 5)
    assert all(map(store.exists, names))
