"""A check reads everything, changes nothing, and tells damage from a crash and both from a writer's bug."""

import pytest

from obzen_runtime.events import Block, Checkpoint, Cursor, DeadLetter, Receipt, RunCompleted
from obzen_runtime.journal import StageCheck, check
from obzen_runtime.journal.format import ENTRY
from obzen_runtime.kernel import ErrorInfo, JournalDamaged, NewerFormat, NotFound
from obzen_runtime.testing import Crashed, SimulatedDisk, sample_records
from tests.journal.kit import FIRST, RUN, SEGMENTS, WATERMARK, block, flipped, mark, opened
from tests.journal.test_damage import changed


def checked(disk):
    return check(RUN, files=disk)


async def test_a_closed_journal_is_told_whole():
    disk = SimulatedDisk()
    journal = opened(disk, segment_bytes=1024)
    for number in range(6):
        journal.append([block(number, 300), mark(number)])
    await journal.close()
    before = {path: disk.content(path) for path in disk.paths}
    report = checked(disk)
    assert (report.head, report.durable, report.closed, report.epoch, report.frames) == (12, 12, True, 1, 6)
    assert (report.kinds, report.stages, report.tail, report.problems) == ({"Block": 6, "ActorState": 6}, {"s": 6}, 0, ())
    assert report.segments == len([path for path in disk.paths if path.parent == SEGMENTS]) > 1
    assert report.size == sum(len(disk.content(path)) for path in disk.paths if path.parent == SEGMENTS)
    assert {path: disk.content(path) for path in disk.paths} == before


async def test_a_living_journal_is_accepted():
    disk = SimulatedDisk()
    journal = opened(disk)
    assert checked(disk).head == 0
    journal.append([mark(0)])
    report = checked(disk)
    assert (report.head, report.durable, report.closed, report.tail) == (1, 0, False, 0)
    assert journal.append([mark(1)]) == 2


@pytest.mark.parametrize("size", [1, 50, 200])
async def test_a_torn_last_frame_is_accepted_and_told(size):
    disk = SimulatedDisk()
    journal = opened(disk)
    journal.append([mark(0)])
    disk.faults.budget = size
    with pytest.raises(Crashed):
        journal.append([block(1, 300)])
    report = checked(disk.killed())
    assert (report.head, report.tail) == (1, size)
    assert "cut short" in report.tail_why


async def test_damage_is_refused():
    disk = SimulatedDisk()
    journal = opened(disk, segment_bytes=1024)
    for number in range(6):
        journal.append([block(number, 300)])
    await journal.close()
    content = disk.content(FIRST)
    for bit in range(0, len(content) * 8, 101):
        with pytest.raises(JournalDamaged):
            checked(changed(disk, FIRST, flipped(content, bit)))


async def test_nothing_to_check_is_said():
    disk = SimulatedDisk()
    with pytest.raises(NotFound) as caught:
        checked(disk)
    assert caught.value.code == "run_not_found"
    await opened(disk).close()
    assert checked(disk).head == 0
    assert checked(changed(disk, WATERMARK, None)).head == 0  # died between making the one file and the other


async def test_a_record_that_no_version_can_decode_is_damage(monkeypatch):
    disk = SimulatedDisk()
    journal = opened(disk)
    monkeypatch.setattr("obzen_runtime.journal.writer.kind_number", lambda record: 2)
    journal.append([RunCompleted(at=1)])
    monkeypatch.undo()
    await journal.close()
    with pytest.raises(JournalDamaged, match="position 1 cannot be decoded") as caught:
        checked(disk)
    assert caught.value.details["position"] == 1


async def test_a_record_of_a_kind_not_known_yet_is_refused_by_name(monkeypatch):
    disk = SimulatedDisk()
    journal = opened(disk)
    monkeypatch.setattr("obzen_runtime.journal.writer.kind_number", lambda record: 200)
    journal.append([RunCompleted(at=1)])
    monkeypatch.undo()
    await journal.close()
    with pytest.raises(NewerFormat, match="kind 200") as caught:
        checked(disk)
    assert caught.value.exit_code == 78
    assert ENTRY.size == 8


def problems(*records):
    rules = StageCheck()
    for position, record in enumerate(records, 1):
        rules.feed(position, record)
    return rules.problems


def step(base, count=1, *, stage="s", cursor=None):
    return Block(stage=stage, base=base, count=count, at=1, cursor=cursor)


def letter(ordinal):
    return DeadLetter(ordinal=ordinal, stage="s", at=1, error=ErrorInfo(kind="IO", code="io", message="x"))


def test_a_story_without_holes_has_no_problems():
    at = Cursor(next={"a": 2}, taken=2)
    later = Cursor(next={"a": 5, "b": 1}, taken=6, gaps={"a": ((3, 4),)})
    records = [
        step(0, 2),
        step(2, 0),
        step(2, 3, cursor=at),
        step(5, cursor=at),
        step(6, cursor=later),
        step(0, stage="t"),
        letter(0),
        letter(1),
    ]
    receipts = [Receipt(stage="k", at=1, cursor=at), Receipt(stage="k", at=2, cursor=later), Receipt(stage="k", at=3)]
    written = {"s": 7, "t": 1, "never": 0, "dead_letters": 1}
    assert problems(*records, *receipts, Checkpoint(at=1, written=written, dead_letters=2), mark(1)) == []


@pytest.mark.parametrize(
    ("records", "problem"),
    [
        ([step(1)], "position 1: s goes on at ordinal 1, expected 0"),
        ([step(0, 2), step(1)], "position 2: s goes on at ordinal 1, expected 2"),
        ([step(0, 2), step(3)], "position 2: s goes on at ordinal 3, expected 2"),
        ([letter(1)], "position 1: dead letter 1, expected 0"),
        ([letter(0), Checkpoint(at=1, dead_letters=2)], "position 2: the checkpoint has 2 dead letters, the log 1"),
        ([step(0, 2), Checkpoint(at=1, written={"s": 3})], "position 2: the checkpoint has s at 3, its blocks end at 2"),
        (
            [step(0, cursor=Cursor(next={"a": 3}, taken=3)), step(1, cursor=Cursor(next={"a": 2}, taken=3))],
            "position 2: s went back from a@3 to 2",
        ),
        ([step(0, cursor=Cursor(next={"a": 3}, taken=3)), step(1, cursor=Cursor(taken=3))], "position 2: s went back from a@3 to 0"),
        (
            [step(0, cursor=Cursor(next={"a": 3}, taken=3)), step(1, cursor=Cursor(next={"a": 3}, taken=2))],
            "position 2: s took 2 inputs, 3 before",
        ),
        (
            [
                Receipt(stage="k", at=1, cursor=Cursor(next={"a": 3}, taken=3)),
                Receipt(stage="k", at=1, cursor=Cursor(next={"a": 1}, taken=4)),
            ],
            "position 2: k went back from a@3 to 1",
        ),
        ([step(0, cursor=Cursor(next={"a": 3}, gaps={"a": ((2, 4),)}))], "position 1: s has a gap of a that is not behind its cursor"),
    ],
)
def test_a_broken_rule_is_told_with_its_place(records, problem):
    assert problems(*records) == [problem]


def test_at_most_a_hundred_problems_are_told():
    assert len(problems(*[step(7, 0) for _ in range(1)], *[step(number * 2 + 9) for number in range(300)])) == 100


async def test_the_check_of_a_journal_tells_broken_rules_of_its_records():
    disk = SimulatedDisk()
    journal = opened(disk)
    journal.append(sample_records())
    journal.append([step(17, stage="a")])
    await journal.close()
    report = checked(disk)
    assert report.problems == ("position 25: a goes on at ordinal 17, expected 2",)
    assert report.stages == {"a": 18, "b": 1, "j": 2}
