"""A journal on a disk that fails against the plainest model of one: a list, and how much of it must survive."""

import asyncio
import random

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from obzen_runtime.events import ActorState, Block, Dropped, RunCompleted
from obzen_runtime.journal import Fsync, Os, Retention, SegmentReader, check
from obzen_runtime.testing import SimulatedDisk
from tests.journal.kit import RUN, block, collect, mark, opened, recover, settle, tell

STEPS = 60
EXAMPLES = 220
KINDS = (Block, ActorState, RunCompleted)
done = {"steps": 0}


class Model(RuleBasedStateMachine):
    """What was appended by position; what of it is acknowledged; where it begins."""

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.disk = SimulatedDisk()
        self.records = []
        self.durable = 0
        self.number = 0
        self.journal = None

    @initialize(level=st.sampled_from([Os(), Fsync()]), prunes=st.booleans())
    def begin(self, level, prunes):
        self.options = {"level": level, "segment_bytes": 700, "retention": Retention(size=1500) if prunes else Retention()}
        self.open()

    def run(self, work):
        async def whole():
            found = await work()
            await settle()
            return found

        return self.loop.run_until_complete(whole())

    def open(self):
        async def work():
            return opened(self.disk, **self.options)

        self.journal = self.run(work)

    def crashed(self, disk, least):
        """The next opener finds a beginning of what was written, at least so much."""
        self.disk = disk
        self.open()
        head = self.journal.head
        assert least <= head <= len(self.records)
        self.records = self.records[:head]
        self.durable = head

    @rule(sizes=st.lists(st.integers(0, 400), min_size=1, max_size=4), kind=st.integers(0, 2))
    def append(self, sizes, kind):
        made = []
        for size in sizes:
            made.append((block(self.number, size), mark(self.number), RunCompleted(at=self.number))[kind])
            self.number += 1

        async def work():
            return self.journal.append(made, expected=len(self.records))

        assert self.run(work) == len(self.records) + len(made)
        self.records += made

    @rule()
    def wait(self):
        self.run(lambda: self.journal.durable(len(self.records)))
        if isinstance(self.options["level"], Fsync):
            self.durable = len(self.records)

    @rule(share=st.integers(0, 10))
    def prune(self, share):
        async def work():
            self.journal.forget(len(self.records) * share // 10 + 1)

        self.run(work)
        if self.journal.head > len(self.records):
            (entry,) = self.run(lambda: collect(self.journal.read(self.journal.head)))
            assert isinstance(entry.record, Dropped)
            self.records.append(entry.record)
            assert self.journal.first <= len(self.records) * share // 10 + 1

    @rule()
    def close_and_open(self):
        self.run(self.journal.close)
        assert check(RUN, files=self.disk).head == len(self.records)
        self.crashed(self.disk, len(self.records))

    @rule()
    def die(self):
        self.crashed(self.disk.killed(), len(self.records))

    @rule(seed=st.integers(0, 1 << 16), share=st.sampled_from([0.0, 0.5, 0.9, 1.0]))
    def lose_power(self, seed, share):
        chance = random.Random(seed)
        kept = [piece for piece in self.disk.unsynced() if chance.random() < share]
        self.crashed(self.disk.power_cut(kept), self.durable)

    @rule(budget=st.integers(0, 400))
    def die_in_a_write(self, budget):
        self.disk.faults.budget = budget
        before = len(self.records)
        record = block(self.number, 300)

        async def work():
            try:
                return self.journal.append([record])
            except BaseException:
                return None

        if self.run(work) is not None:
            self.records.append(record)
        self.crashed(self.disk.killed(), before if len(self.records) == before else before + 1)

    @precondition(lambda self: self.journal is not None)
    @invariant()
    def what_is_kept_is_what_was_written(self):
        done["steps"] += 1
        journal, first = self.journal, self.journal.first
        assert (journal.head, first <= journal.head + 1) == (len(self.records), True)
        start = max(first, len(self.records) - 12)
        found = self.run(lambda: collect(journal.read(start)))
        assert [(entry.position, entry.record) for entry in found] == list(enumerate(self.records[start - 1 :], start))

    @rule()
    def read_all(self):
        first = self.journal.first
        reader = SegmentReader.open(RUN, files=self.disk)
        for of in (self.journal, reader):
            found = self.run(lambda of=of: collect(of.read()))
            assert [(entry.position, entry.record) for entry in found] == list(enumerate(self.records[first - 1 :], first))
        for kind in KINDS:
            at = [position for position in range(first, len(self.records) + 1) if type(self.records[position - 1]) is kind]
            newest = self.run(lambda kind=kind: self.journal.last(frozenset({kind})))
            assert (newest and newest.position) == (at[-1] if at else None)

    def teardown(self):
        if self.journal is not None:
            recover(self.disk.killed())
        self.loop.close()


@pytest.mark.timeout(300)
def test_T_MODEL_a_journal_is_a_list_that_survives(monkeypatch):
    monkeypatch.setattr("obzen_runtime.journal.commit._GAP", 0.0)
    done["steps"] = 0
    run_state_machine_as_test(
        Model,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=True,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )
    tell(f"{done['steps']} steps against the model, 0 differences")
    assert done["steps"] >= 10_000
