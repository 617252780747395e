"""`obzen journal repair`: what would be lost, and going on without it."""

import pytest

from obzen_runtime.journal import SegmentJournal
from tests.cli.kit import HELLO, refused


@pytest.fixture
def run(obzen):
    assert obzen.run(HELLO, "-q", "--run-id", "one", "--set", "numbers.count=5000").code == 0
    return obzen.folder / "runs" / "one"


def damage(run):
    (path,) = (run / "journal").iterdir()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def test_a_whole_journal_needs_no_repair(obzen, run):
    ended = obzen("journal", "repair", "one", "--accept-loss")
    assert (ended.code, ended.err) == (0, "")
    assert "runs/one: whole" in ended.out
    assert sorted(path.name for path in run.iterdir() if "damaged" in path.name) == []


def test_the_loss_is_told_and_nothing_changed_before_it_is_accepted(obzen, run):
    damage(run)
    ended = obzen("journal", "repair", "one")
    assert ended.code == 65
    assert "would be lost" in ended.out
    assert "--accept-loss" in ended.err
    assert obzen("journal", "check", "one").code == 65
    (told,) = obzen("journal", "repair", "one", "--json").lines
    ended = obzen("journal", "repair", "one", "--accept-loss")
    assert ended.code == 0
    assert f"positions {told['lost'][0]} to {told['lost'][1] - 1} are lost" in ended.out
    assert "runs/one/journal.damaged-1" in ended.err
    assert obzen("journal", "check", "one").code == 0
    (loss,) = obzen("inspect", "one", "--type", "loss", "--json").lines
    assert loss["start"] == told["lost"][0]


async def test_a_run_that_lives_is_not_repaired(obzen, run):
    journal = SegmentJournal.open(run)
    refused(obzen("journal", "repair", "one"), 75, "held by process")
    await journal.close()
    refused(obzen("journal", "repair", "none"), 64, "none")
