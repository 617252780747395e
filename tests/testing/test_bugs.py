"""The simulator is tested with bugs put in on purpose: a checker that finds none of them proves nothing."""

import asyncio
from collections.abc import Iterator

import msgspec
import pytest

import obzen_runtime as oz
from obzen_runtime.actor import Continue
from obzen_runtime.events import Cursor
from obzen_runtime.flow.restore import Past
from obzen_runtime.journal import SegmentJournal, segments
from obzen_runtime.journal.writer import Writer
from obzen_runtime.kernel import IdempotencyKey, Seams
from obzen_runtime.stages import SinkStage, Stage
from obzen_runtime.stages.edge import Edge
from obzen_runtime.stages.source import SourceStage
from obzen_runtime.stages.stateful import FoldStage
from obzen_runtime.stages.step import Made
from obzen_runtime.testing import InlineThreads, Options, SimulatedDisk, sample_records, simulate
from obzen_runtime.testing.flows import FLOWS
from obzen_runtime.testing.life import Machine

SEEDS = 300


def found(name, *, level="os"):
    """What the simulator says of the first seed that shows the bug."""
    report = simulate(FLOWS[name], SEEDS, options=Options(durability=level))
    assert not report.passed, f"{report.seeds} seeds have not shown it"
    return report.violation.problems


def test_a_sync_that_is_acknowledged_and_not_done(monkeypatch):
    monkeypatch.setattr(Writer, "begin_sync", lambda self: lambda: None)
    problem = found("transform", level="fsync")[0]
    assert "acknowledged records are gone" in problem or "did not open again" in problem


def test_acknowledged_records_that_are_cut_off(monkeypatch):
    right = Machine.after

    def cut(self, crash, number):
        right(self, crash, number)
        for path in self.disk.paths:
            if path.suffix == ".seg":
                self.disk.put(path, self.disk.content(path)[:-1])

    monkeypatch.setattr(Machine, "after", cut)
    told = simulate(FLOWS["transform"], SEEDS)
    assert "acknowledged records are gone: of " in str(told)
    assert str(told).startswith(f"seed {told.violation.seed}:\n")


def test_a_delivery_that_does_not_wait_for_its_records(monkeypatch):
    monkeypatch.setattr(SinkStage, "may_take", lambda self, entry: True)
    assert "no durable record tells of it" in found("transform", level="fsync")[0]


def test_a_position_outside_its_record(monkeypatch):
    """A step's record holds the position before it."""
    right = Stage.cursor

    def stale(self):
        now = right(self)
        before, self.told = getattr(self, "told", Cursor()), now
        return before

    monkeypatch.setattr(Stage, "cursor", stale)
    with pytest.raises(oz.ObzenError, match="even without a crash: replay differs at odd@"):
        found("transform")


def test_a_receipt_before_its_delivery(monkeypatch):
    async def hasty(self, entry, items, room):
        given = list(items[entry.done : entry.done + 4])
        self.at = self.clock.wall_ms()
        self.commit(entry, Made(len(given)))
        await asyncio.sleep(0)
        for item in given:
            self.handler(item)

    monkeypatch.setattr(SinkStage, "_step", hasty)
    assert "never, once is right" in found("stand_in_safe")[0]


def test_events_dropped_at_the_end_of_their_upstream(monkeypatch):
    right = Edge.end

    def drops(self, end):
        waiting = [entry for entry in self.inbox.entries if entry.edge is self and entry.end is None and not entry.done]
        if waiting:
            self.inbox.entries.remove(waiting[-1])
            self.accounted += waiting[-1].count
        right(self, end)

    monkeypatch.setattr(Edge, "end", drops)
    assert found("transform")


def test_a_resume_that_passes_over_an_event(monkeypatch):
    right = Past.give_back

    def skips(self):
        right(self)
        for stage in self._wired.stages.values():
            entry = stage.inbox.entries[0] if stage.inbox.entries else None
            if entry is not None and entry.end is None and entry.count > 1:
                entry.edge.accounted += 1
                entry.done += 1

    monkeypatch.setattr(Past, "give_back", skips)
    assert found("transform")


def test_a_source_that_begins_one_item_too_late(monkeypatch):
    right = SourceStage.restore

    def late(self, standing):
        if standing.cursor.since:
            cursor = msgspec.structs.replace(standing.cursor, since=standing.cursor.since + 1, taken=standing.cursor.taken + 1)
            standing.cursor = cursor
        right(self, standing)

    monkeypatch.setattr(SourceStage, "restore", late)
    assert found("fold_each")


def test_an_end_taken_twice(monkeypatch):
    right = Past.give_back

    def again(self):
        right(self)
        for queue in self.queues:
            queue.edge.passed = False

    monkeypatch.setattr(Past, "give_back", again)
    assert found("transform")


def test_a_truncated_end_taken_for_a_natural_one(monkeypatch):
    right = Past.begin

    def credulous(self, position, checkpoint):
        right(self, position, checkpoint)
        for name, standing in self.standings.items():
            standing.ends = dict.fromkeys(checkpoint.taken_ends.get(name, {}), "natural")

    monkeypatch.setattr(Past, "begin", credulous)
    assert found("fold_at_end")


def test_a_lost_dead_letter(monkeypatch):
    right = Stage.append

    def forgets(self, record, letters):
        return right(self, record, letters[1:])

    monkeypatch.setattr(Stage, "append", forgets)
    assert "picky gave up" in found("dead_letters")[0]


def test_dead_letters_numbered_anew_after_a_resume(monkeypatch):
    right = Past.give_back

    def anew(self):
        right(self)
        self._wired.log.letters.count = 0

    monkeypatch.setattr(Past, "give_back", anew)
    assert "dead letter" in " ".join(found("dead_letters"))


def test_another_key_after_a_resume(monkeypatch):
    def changing(self, upstream, ordinal, attempt):
        return IdempotencyKey(f"{self.journal.epoch}/{upstream}@{ordinal}", attempt)

    monkeypatch.setattr(SinkStage, "_key", changing)
    assert "sink upsert (keyed) delivered" in found("keyed")[0]
    assert "says it is keyed" in found("stand_in")[0]


def test_a_sensitive_delivery_fired_again(monkeypatch):
    right = SinkStage.restore

    def reckless(self, standing):
        standing.doubted.clear()
        right(self, standing)

    monkeypatch.setattr(SinkStage, "restore", reckless)
    assert "sink pay (sensitive) delivered" in found("sensitive")[0]


def test_a_transaction_that_forgets_what_it_has_stored(monkeypatch):
    async def forgetful(self, writer):
        self._stored = {}

    monkeypatch.setattr(SinkStage, "_find_stored", forgetful)
    assert "sink Book (transactional) delivered" in found("transactional")[0]


def test_state_that_is_lost_with_its_process(monkeypatch):
    async def empty(self):
        """Nothing is folded again."""

    monkeypatch.setattr(FoldStage, "initialize", empty, raising=True)
    assert found("fold_each")


def test_a_stage_that_never_goes_on(monkeypatch):
    right = SinkStage.pull

    async def lazy(self):
        if self.standing.written or self.standing.cursor.taken:
            await self.wake.wait()
            return Continue()
        return await right(self)

    monkeypatch.setattr(SinkStage, "pull", lazy)
    assert "never ended" in found("transform")[0]


def test_code_that_gives_something_else_in_every_process(monkeypatch):
    drawn = []

    @oz.source
    def numbers() -> Iterator[int]:
        yield from range(20)

    @oz.transform
    def unsteady(number: int) -> int:
        drawn.append(number)
        return len(drawn)

    @oz.sink
    def show(number: int) -> None: ...

    with pytest.raises(oz.ObzenError, match="even without a crash: replay differs at unsteady@0"):
        simulate(oz.Flow("f", numbers >> unsteady >> show), SEEDS)


class Everything:
    """Equal to whatever it is compared with."""

    def __ne__(self, other):
        return False


async def test_a_writer_of_an_older_epoch_that_is_let_in(monkeypatch, tmp_path):
    """Two processes are needed to show it, so it is the journals' own check that does."""
    disk = SimulatedDisk()
    seams = Seams(files=disk, threads=InlineThreads())

    def overtaken():
        old = SegmentJournal.open(tmp_path, seams=seams)
        old.append(sample_records())
        disk.put(tmp_path / "LOCK", None)
        SegmentJournal.open(tmp_path, seams=seams)
        return old

    with pytest.raises(oz.ObzenError, match="a newer writer took over"):
        overtaken().append(sample_records())
    disk = SimulatedDisk()
    seams = Seams(files=disk, threads=InlineThreads())
    monkeypatch.setattr(segments, "_READ_FENCE", lambda view, at: (Everything(),))
    assert overtaken().append(sample_records()) > 0, "the fence is what held it"
