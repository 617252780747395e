"""`obzen journal check`: one line of verdict, and 65 when the journal is not what was written."""

import asyncio

import pytest

from obzen_runtime.cli.check import verdict
from obzen_runtime.events import Block
from obzen_runtime.journal import CheckReport, Retention, SegmentJournal, SegmentOptions
from tests.cli.kit import HELLO, refused


@pytest.fixture
def run(obzen):
    assert obzen.run(HELLO, "-q", "--run-id", "one", "--set", "numbers.count=5000").code == 0
    return obzen.folder / "runs" / "one"


def segment(run):
    (path,) = (run / "journal").iterdir()
    return path


def test_a_whole_journal_is_said_to_be(obzen, run):
    ended = obzen("journal", "check", "--last")
    assert ended.code == 0
    assert ended.out.startswith("runs/one: whole: ")
    assert "1 segment" in ended.out.splitlines()[0]
    assert "closed" in ended.out.splitlines()[0]
    assert "       5,000  events of numbers" in ended.out
    assert obzen("journal", "check", run).out == ended.out


def test_the_report_is_there_as_json(obzen, run):
    (report,) = obzen("journal", "check", "one", "--json").lines
    assert report["verdict"] == "whole"
    assert report["stages"] == {"numbers": 5000, "double": 5000, "total": 1}


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_one_flipped_bit_is_damage_with_the_place_and_65_for_every_reader(obzen, run, place):
    path = segment(run)
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 0x10
    path.write_bytes(data)
    refused(obzen("journal", "check", "one"), 65, path.name, "damaged at byte", "position")
    assert obzen("inspect", "one", "--type", "event").code == 65
    damaged = obzen("journal", "check", "one", "--json")
    assert damaged.code == 65
    assert damaged.lines[0]["verdict"] == "damaged"


def test_a_journal_that_was_cut_off_below_what_was_written_is_damage(obzen, run):
    path = segment(run)
    path.write_bytes(path.read_bytes()[:-200])
    refused(obzen("journal", "check", "one"), 65, path.name)


def test_a_directory_without_a_journal_is_refused(obzen, run):
    refused(obzen("journal", "check", "runs"), 64, "runs")
    refused(obzen("journal", "check"), 64, "no run is named")


def test_broken_rules_and_an_unfinished_tail_are_told():
    report = CheckReport(
        directory="d", head=9, durable=3, closed=False, epoch=2, segments=2, frames=8, size=4096, kinds={"Block": 9},
        stages={"a": 1, "b": 0}, tail=17, tail_why="short", problems=("position 4: a goes on at ordinal 3, expected 2",),
    )  # fmt: skip
    assert verdict(report).splitlines() == [
        "rules are broken: 9 records in 8 frames, 2 segments, 4,096 bytes, epoch 2, not closed: the run lives or was killed",
        "  position 4: a goes on at ordinal 3, expected 2",
        "  17 bytes behind the last record are none yet (short); resuming cuts them away",
        "  synced up to position 3",
        "             9  block",
        "             1  events of a",
    ]


async def pruned(folder):
    """A run that dropped its first segments into an archive."""
    options = SegmentOptions(segment_bytes=1024, retention=Retention(size=2048, archive=str(folder / "old")))
    journal = SegmentJournal.open(folder / "runs" / "p", options=options)
    for number in range(20):
        journal.append([Block(stage="s", base=number, count=1, at=1, payloads=bytes(300))])
    journal.forget(journal.head)
    await journal.close()
    return journal.first


def test_a_journal_whose_beginning_was_dropped_is_whole_and_more_so_with_its_archive(obzen):
    first = asyncio.run(pruned(obzen.folder))
    ended = obzen("journal", "check", "p")
    assert ended.code == 0
    assert f"positions below {first} were dropped on purpose" in ended.out
    ended = obzen("journal", "check", "p", "--archive", "old", "--json")
    assert (ended.code, ended.lines[0]["first"], ended.lines[0]["stages"]) == (0, 1, {"s": 20})
    assert obzen("journal", "check", "p", "--archive", "old/p").code == 0
    refused(obzen("journal", "check", "p", "--archive", "nowhere"), 64, "nowhere")
    sorted((obzen.folder / "old" / "p").iterdir())[1].unlink()
    refused(obzen("journal", "check", "p", "--archive", "old"), 65, "damaged")
