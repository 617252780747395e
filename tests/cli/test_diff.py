"""`obzen diff`: what is said of two runs, and that nothing is said where they did the same."""

import asyncio

import pytest

from obzen_runtime.cli.compare import Side, first_difference, first_letter
from obzen_runtime.events import Block, DeadLetter, RunCompleted, RunForked, RunStarted, StageInfo
from obzen_runtime.journal import RunDirectory, SegmentJournal
from obzen_runtime.kernel import ErrorInfo
from tests.cli.kit import HELLO, LETTERS, refused
from tests.cli.test_inspect import EVERY


def test_two_runs_of_the_same_flow_did_the_same(obzen):
    obzen.run(HELLO, "--run-id", "a")
    obzen.run(HELLO, "--run-id", "b")
    told = obzen("diff", "a", "b")
    assert (told.code, told.out.splitlines()) == (0, ["A  a", "B  b", "they did the same in 4 stages"])


def test_another_parameter_is_named_and_the_streams_that_grew(obzen):
    obzen.run(HELLO, "--run-id", "a")
    obzen.run(HELLO, "--run-id", "b", "--set", "numbers.count=12")
    told = obzen("diff", "a", "b")
    assert told.code == 1
    lines = told.out.splitlines()
    assert "  parameters.numbers.count: none | 12" in lines
    assert "numbers: gave 10 | 12, took 10 | 12" in lines
    at = lines.index("  first difference numbers@10: one gave more")
    assert lines[at + 1 : at + 3] == ["    A  no such event", "    B  numbers@10  int  10"]
    at = lines.index("  first difference total@0: its inputs differ already")
    assert lines[at + 1] == "    A  total@0  int  90"
    assert "         of double@0  int  0" in lines
    assert "         … and 9 more of double" in lines
    assert lines[-1] == "the same: show", "it was given one event in both, though another"


def test_code_that_made_something_else_of_the_same_input_is_told_apart_from_what_follows(obzen):
    obzen.run(HELLO, "--run-id", "a")
    obzen.run(HELLO.replace("return n * 2", "return n * 3 if n == 4 else n * 2"), "--run-id", "b")
    (told,) = obzen("diff", "a", "b", "--json").lines
    assert [each["what"] for each in told["manifest"]] == ["code of double"]
    double, total = told["stages"]["double"]["first"], told["stages"]["total"]["first"]
    assert (double["event"], double["why"], double["a"]["payload"], double["b"]["payload"]) == ("double@4", "stage", 8, 12)
    assert [each["event"] for each in double["a"]["events"]] == ["numbers@4"]
    assert (total["why"], total["a"]["payload"], total["b"]["payload"]) == ("inputs", 90, 94)
    assert (told["same"], told["equal"]) == (["numbers", "show"], False)


def test_ends_and_dead_letters_that_differ_are_told(obzen):
    obzen.run(LETTERS, "--run-id", "a")
    obzen.run(LETTERS.replace("n % 4 == 3", "n % 4 == 2").replace('print("got", n)', "pass"), "--run-id", "b")
    lines = obzen("diff", "a", "b").out.splitlines()
    assert "picky: gave 8, took 10, dead letters 2" in lines
    at = lines.index("  first dead letter that differs")
    assert lines[at + 1 : at + 3] == [
        "    A  dead_letters@0 on numbers@3: ValueError: no 3",
        "    B  dead_letters@0 on numbers@2: ValueError: no 2",
    ]
    obzen.run(LETTERS.replace("@oz.transform\ndef picky", '@oz.transform(on_error="fail")\ndef picky'), "--run-id", "c")
    lines = obzen("diff", "a", "c").out.splitlines()
    at = lines.index("ended")
    assert lines[at + 1] == "  A  drained"
    assert lines[at + 2].startswith("  B  failed: ValueError: no ")


def test_a_stage_that_one_run_has_not_is_told(obzen):
    obzen.run(HELLO, "--run-id", "a")
    obzen.run(HELLO.replace("numbers >> double >> total", "numbers >> total"), "--run-id", "b")
    assert "double: B has no such stage" in obzen("diff", "a", "b").out


def test_one_stage_can_be_looked_at_alone(obzen):
    obzen.run(HELLO, "--run-id", "a")
    obzen.run(HELLO.replace("n * 2", "n * 5"), "--run-id", "b")
    assert obzen("diff", "a", "b", "--stage", "numbers").code == 0
    assert obzen("diff", "a", "b", "--stage", "double").code == 1
    refused(obzen("diff", "a", "b", "--stage", "nope"), 64, "neither run has a stage 'nope'")
    refused(obzen("diff", "a", "nope"), 64, "no run in runs")


def test_every_kind_of_stage_is_compared(obzen):
    obzen.run(EVERY, "--run-id", "a")
    obzen.run(EVERY, "--run-id", "b")
    told = obzen("diff", "a", "b")
    assert (told.code, told.out.splitlines()[-1]) == (0, "they did the same in 13 stages")


def test_a_requeue_names_what_it_comes_from(obzen):
    obzen.run(LETTERS, "--run-id", "old")
    obzen("dead-letters", "old", "--requeue", "--run-id", "new")
    told = obzen("diff", "old", "new")
    assert "new takes up dead letters of old" in told.out
    assert "numbers: B has no such stage" in told.out
    assert "picky_requeued: A has no such stage" in told.out


def written(path, name, *frames):
    """A journal of one stage `s`; a frame is the list of events of a block, or a record."""
    at, base = 1_700_000_000_000, 0
    journal = SegmentJournal.open(path)
    journal.append([RunStarted(name, "f", at, stages=(StageInfo("s", "source", (), ("int",)),))])
    for frame in frames:
        if isinstance(frame, list):
            journal.append([Block("s", base, len(frame), at, bytes([0x90 + len(frame), *frame]))])
            base += len(frame)
        else:
            journal.append([frame])
    asyncio.run(journal.close())
    return Side(RunDirectory(path))


@pytest.mark.parametrize(
    ("a", "b", "event"),
    [
        ([[1, 2, 3], [4, 5]], [[1], [2, 3, 4], [5]], None),
        ([[1, 2, 3], [4, 5]], [[1], [2, 3, 9], [5]], "s@3"),
        ([[1, 2, 3]], [[9, 2, 3]], "s@0"),
        ([[1, 2, 3]], [[1, 2], [3, 4]], "s@3"),
        ([[1, 2, 3], [4]], [[1, 2]], "s@2"),
        ([], [[1]], "s@0"),
        ([], [], None),
    ],
)
def test_where_blocks_begin_and_end_does_not_matter(tmp_path, a, b, event):
    one, other = written(tmp_path / "a", "a", *a), written(tmp_path / "b", "b", *b)

    async def first():
        await one.look()
        await other.look()
        return await first_difference(one, other, "s")

    found = asyncio.run(first())
    assert (found and found.event) == event


async def test_what_a_living_run_writes_after_it_was_looked_at_is_not_compared(tmp_path):
    journal = SegmentJournal.open(tmp_path / "a")
    journal.append([RunStarted("a", "f", 0, stages=(StageInfo("s", "source", (), ("int",)),)), Block("s", 0, 2, 0, b"\x92\x01\x02")])
    one, other = Side(RunDirectory(tmp_path / "a")), Side(RunDirectory(tmp_path / "a"))
    await one.look()
    journal.append([Block("s", 2, 1, 0, b"\x91\x03"), DeadLetter(0, "s", 0, ErrorInfo(kind="PERMANENT", code="permanent", message="no"))])
    assert await first_difference(one, one, "s") is None
    await other.look()
    found = await first_difference(one, other, "s")
    assert (found.event, found.a, found.b.payload, found.why) == ("s@2", None, 3, "end")
    without, letter = await first_letter(one, other, "s")
    assert (without, letter.ordinal) == (None, 0)
    await journal.close()


def test_a_fork_tells_where_it_left(tmp_path, obzen):
    written(tmp_path / "runs" / "a", "a", [1, 2], [3], RunCompleted(0))
    written(tmp_path / "runs" / "b", "a", [1, 2], RunForked("b", "a", 0), [4], RunCompleted(0))
    told = obzen("diff", "a", "b")
    assert "b was forked from a at position 3, delivering nothing" in told.out
    assert "first difference s@2: it comes from outside" in told.out
