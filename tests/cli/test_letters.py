"""`obzen dead-letters`: what is shown of letters, and what a requeue gives to which stage."""

import asyncio
import hashlib
import subprocess
import sys

import pytest

from obzen_runtime.events import Block, DeadLetter, Receipt
from obzen_runtime.journal import RunDirectory, SegmentReader, check
from tests.cli.kit import HEAD, LETTERS, refused, spawn
from tests.cli.test_process import ended

FIXED = LETTERS.replace('raise ValueError(f"no {n}")', "return -n")
SHAPES = (
    HEAD
    + """

class Small(msgspec.Struct, frozen=True):
    id: int


class Large(msgspec.Struct, frozen=True):
    id: int


class Rate(msgspec.Struct, frozen=True):
    id: int
    factor: int


class Priced(msgspec.Struct, frozen=True):
    id: int
    price: int


BROKEN = True


@oz.source
def sizes() -> Iterator[Small | Large]:
    for n in range(8):
        yield oz.Bad(b"raw", "no size", f"sizes:{n}") if n == 5 else Small(n) if n % 2 else Large(n)


@oz.source
def rates() -> Iterator[Rate]:
    for n in range(8):
        yield Rate(n, n * 10)


@oz.transform
def check(size: Small | Large) -> Small | Large:
    if BROKEN and size.id in (2, 3):
        raise ValueError(f"bad {size.id}")
    return size


@oz.join(stream_key=lambda size: size.id, reference_key=lambda rate: rate.id)
def priced(size: Small | Large, rate: Rate) -> Priced:
    if BROKEN and size.id == 6:
        raise oz.Permanent("six", code="action_failed")
    return Priced(size.id, rate.factor + (1 if isinstance(size, Small) else 2))


@oz.stateful(key=lambda priced: priced.id % 2, emit=oz.at_end())
class Sums:
    sum: int = 0

    def fold(self, priced: Priced) -> None:
        self.sum += priced.price

    def emit(self, key: int) -> int:
        return self.sum


@oz.sink
def each(priced: Priced) -> None:
    print("each", priced.id, priced.price)


rates >> priced.reference
flow = oz.Flow("shapes", sizes >> check >> priced.stream, rates >> priced.reference, priced >> [each, Sums >> show])
"""
)


def records(obzen, run):
    directory = obzen.folder / "runs" / run
    assert check(directory).problems == ()

    async def read():
        return [entry.record async for entry in SegmentReader.open(directory).read()]

    return asyncio.run(read())


def of(obzen, run, *kinds):
    return [record for record in records(obzen, run) if type(record) in kinds]


def content(obzen, run):
    """A hash of every file of a run."""
    paths = sorted(path for path in (obzen.folder / "runs" / run).rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def fix(obzen, text):
    """The same file with other code; what was imported is forgotten."""
    obzen.write(text)


# -- the list -------------------------------------------------------------------------------------


def test_each_letter_is_a_line_with_its_stage_event_error_and_payload(obzen):
    obzen.run(LETTERS)
    told = obzen("dead-letters", "--last")
    assert told.code == 0
    assert told.out.splitlines() == [
        "dead_letters@0  picky on numbers@3  ValueError: no 3  3",
        "dead_letters@1  picky on numbers@7  ValueError: no 7  7",
    ]
    assert told.err == "2 dead letters: picky ValueError 2\n"


def test_a_bad_row_is_shown_with_its_place_and_text(obzen):
    obzen.run(SHAPES)
    told = obzen("dead-letters", "--last", "--stage", "sizes")
    assert told.out.endswith('  sizes at sizes:5  Permanent: no size  "raw"\n')


def test_letters_as_json_have_the_whole_error(obzen):
    obzen.run(LETTERS)
    first, second = obzen("dead-letters", "--last", "--json").lines
    assert (first["id"], first["stage"], first["event"], first["payload"], first["place"]) == (
        "dead_letters@0",
        "picky",
        "numbers@3",
        3,
        "",
    )
    assert (first["error"]["code"], first["error"]["type"], first["error"]["message"]) == ("internal", "ValueError", "no 3")
    assert second["position"] > first["position"]


@pytest.mark.parametrize(
    ("options", "count"),
    [((), 4), (("--stage", "check"), 2), (("--code", "action_failed"), 1), (("--code", "ValueError"), 2), (("--stage", "each"), 0)],
)
def test_letters_are_chosen_by_stage_and_error(obzen, options, count):
    obzen.run(SHAPES)
    told = obzen("dead-letters", "--last", *options)
    assert (told.code, len(told.out.splitlines())) == (0, count), told
    if not count:
        assert "no dead letter matches" in told.err


def test_a_run_without_letters_says_so_and_strict_makes_letters_a_failure(obzen):
    obzen.run(FIXED, "--run-id", "fine")
    assert obzen("dead-letters", "fine").err == "there are no dead letters\n"
    obzen.run(LETTERS, "--run-id", "bad")
    assert [obzen("dead-letters", run, "--strict").code for run in ("fine", "bad")] == [0, 1]


# -- requeue ----------------------------------------------------------------------------------------


def test_a_requeue_gives_the_events_to_the_fixed_stage_and_what_is_behind_it(obzen):
    obzen.run(LETTERS, "--run-id", "old")
    before = content(obzen, "old")
    fix(obzen, FIXED)
    told = obzen("dead-letters", "old", "--requeue", "--run-id", "new")
    assert (told.code, told.out) == (0, "got -3\ngot -7\n"), told.err
    assert "requeued: 2 events to picky, from picky_requeued" in told.err
    assert content(obzen, "old") == before, "the run that has the letters is not changed"
    assert {record.stage for record in of(obzen, "new", Block, Receipt)} == {"picky_requeued", "picky", "show"}
    assert of(obzen, "new", DeadLetter) == []


def test_the_manifest_of_the_new_run_names_its_origin_and_the_letters(obzen):
    obzen.run(LETTERS, "--run-id", "old")
    fix(obzen, FIXED)
    obzen("dead-letters", "old", "--requeue", "--run-id", "new")
    manifest = RunDirectory(obzen.folder / "runs" / "new").read_manifest()
    assert (manifest.origin, manifest.file, manifest.variable) == ("old", str(obzen.folder / "flow.py"), "flow")
    assert manifest.options["requeue"]["run"] == str(obzen.folder / "runs" / "old")
    assert manifest.options["requeue"]["stages"] == {"picky": ["numbers"]}


def test_what_fails_again_is_a_letter_of_the_new_run_and_can_be_requeued_from_there(obzen):
    obzen.run(LETTERS, "--run-id", "one")
    told = obzen("dead-letters", "one", "--requeue", "--run-id", "two")
    assert (told.code, told.out) == (0, "")
    assert [(letter.upstream, letter.event) for letter in of(obzen, "two", DeadLetter)] == [("picky_requeued", 0), ("picky_requeued", 1)]
    fix(obzen, FIXED)
    told = obzen("dead-letters", "two", "--requeue", "--run-id", "three")
    assert (told.code, told.out) == (0, "got -3\ngot -7\n"), told.err


def test_several_stages_that_failed_get_a_source_each_and_a_join_its_reference_as_it_was(obzen):
    obzen.run(SHAPES, "--run-id", "old")
    fix(obzen, SHAPES.replace("BROKEN = True", "BROKEN = False"))
    told = obzen("dead-letters", "old", "--requeue", "--run-id", "new")
    assert told.code == 0, told.err
    assert sorted(line for line in told.out.splitlines() if line.startswith("each")) == ["each 2 22", "each 3 31", "each 6 62"]
    assert sorted(line for line in told.out.splitlines() if line.startswith("got")) == ["got 31", "got 84"]
    assert "requeued: 2 events to check, from check_requeued" in told.err
    assert "requeued: 1 event to priced, from priced_requeued" in told.err
    assert "Sums begins empty" in told.err
    assert "not requeued: 1 of sizes, which never became events" in told.err
    stages = {record.stage for record in of(obzen, "new", Block, Receipt)}
    assert stages == {"check_requeued", "priced_requeued", "rates_recorded", "check", "priced", "each", "Sums", "show"}


def test_only_the_chosen_letters_are_requeued(obzen):
    obzen.run(SHAPES, "--run-id", "old")
    fix(obzen, SHAPES.replace("BROKEN = True", "BROKEN = False"))
    told = obzen("dead-letters", "old", "--requeue", "--code", "action_failed", "-q")
    assert (told.code, told.out) == (0, "each 6 62\ngot 62\n"), told.err
    assert "not requeued" not in told.err


def test_bad_rows_alone_start_nothing(obzen):
    obzen.run(SHAPES, "--run-id", "old")
    told = obzen("dead-letters", "old", "--requeue", "--stage", "sizes")
    assert (told.code, told.out) == (0, "")
    assert "there is nothing to requeue" in told.err
    assert [path.name for path in (obzen.folder / "runs").iterdir()] == ["old"]


def test_a_second_requeue_says_that_there_was_one(obzen):
    obzen.run(LETTERS, "--run-id", "old")
    obzen("dead-letters", "old", "--requeue", "--run-id", "new")
    assert "were requeued before: runs/new" in obzen("dead-letters", "old", "--requeue").err


def test_an_event_that_no_longer_is_one_becomes_a_letter_with_its_bytes(obzen):
    obzen.run(LETTERS, "--run-id", "old")
    text = (
        FIXED.replace("n: int) -> int:", "n: str) -> str:").replace("(n: int) -> None", "(n: str) -> None").replace("return -n", "return n")
    )
    fix(obzen, text.replace("(count: int = 10) -> Iterator[int]", "(count: int = 10) -> Iterator[str]"))
    told = obzen("dead-letters", "old", "--requeue", "--run-id", "new")
    assert told.code == 0, told.err
    assert [(letter.stage, letter.place, letter.payload) for letter in of(obzen, "new", DeadLetter)] == [
        ("picky_requeued", "dead_letters@0", b"\x03"),
        ("picky_requeued", "dead_letters@1", b"\x07"),
    ]


def test_a_name_that_is_taken_and_options_without_a_requeue_are_refused(obzen):
    obzen.run(LETTERS, "--run-id", "old")
    before = content(obzen, "old")
    refused(obzen("dead-letters", "old", "--requeue", "--run-id", "old"), 64, "run old exists")
    refused(obzen("dead-letters", "old", "--run-id", "new"), 64, "go with --requeue")
    assert content(obzen, "old") == before


def test_a_stage_that_is_gone_is_told_not_guessed(obzen):
    obzen.run(LETTERS, "--run-id", "old")
    fix(obzen, LETTERS.replace("numbers >> picky >> show", "numbers >> odd >> show"))
    told = obzen("dead-letters", "old", "--requeue")
    assert told.code == 0
    assert "2 of picky, which failed in picky, which the flow does not have any more" in told.err


def test_a_requeue_that_was_killed_is_resumed_like_any_run(obzen):
    obzen.run(LETTERS, "--run-id", "old")
    fix(obzen, FIXED.replace('print("got", n)', "import os\n    os.kill(os.getpid(), 9)"))
    assert ended(spawn("dead-letters", "old", "--requeue", "--run-id", "new", cwd=obzen.folder, stdout=-1, stderr=-1))[0] == -9
    fix(obzen, FIXED)
    told = obzen("resume", "new")
    assert (told.code, told.out) == (0, "got -3\ngot -7\n"), told.err


def test_a_flow_that_only_a_function_builds_must_be_named(obzen):
    text = LETTERS.replace("flow = oz.Flow", "def build():\n    return oz.Flow") + "\n\nif __name__ == '__main__':\n    oz.run(build())\n"
    obzen.write(text)
    assert subprocess.run([sys.executable, "flow.py"], cwd=obzen.folder, check=False, capture_output=True).returncode == 0
    refused(obzen("dead-letters", "--last", "--requeue"), 78, "built inside a function", "--flow FILE:VARIABLE")
    obzen.write(FIXED, "other.py")
    told = obzen("dead-letters", "--last", "--requeue", "--flow", "other.py:flow")
    assert (told.code, told.out) == (0, "got -3\ngot -7\n"), told.err


TO_A_FILE = """
from obzen_runtime.connect import jsonl_sink

@oz.transform
def ordered(n: int) -> Order:
    if n % 4 == 3:
        raise ValueError(f"no {n}")
    return Order(n, "x", 1.0)

flow = oz.Flow("file", numbers >> ordered >> jsonl_sink("orders", Order, path=Path("orders.jsonl")))
"""


def test_a_file_that_the_old_run_wrote_is_not_written_anew_by_the_way(obzen):
    text = HEAD + TO_A_FILE
    assert obzen.run(text, "--run-id", "old", "-q").code == 0
    before = (obzen.folder / "orders.jsonl").read_text()
    obzen.write(text.replace("n % 4 == 3", "n > 99"))
    refused(obzen("dead-letters", "old", "--requeue"), 64, "orders.path is orders.jsonl", "--set orders.path=PATH")
    assert (obzen.folder / "orders.jsonl").read_text() == before
    told = obzen("dead-letters", "old", "--requeue", "--set", "orders.path=again.jsonl", "-q")
    assert told.code == 0, told.err
    assert len((obzen.folder / "again.jsonl").read_text().splitlines()) == 2


def test_a_requeue_with_parameters_of_its_own_that_was_killed_is_resumed_with_them(obzen):
    text = HEAD + TO_A_FILE
    assert obzen.run(text, "--run-id", "old", "-q").code == 0
    before = (obzen.folder / "orders.jsonl").read_text()
    obzen.write(text.replace("n % 4 == 3", "__import__('os').kill(__import__('os').getpid(), 9)"))
    requeue = ("dead-letters", "old", "--requeue", "--run-id", "new", "--set", "orders.path=again.jsonl")
    assert ended(spawn(*requeue, cwd=obzen.folder, stdout=-1, stderr=-1))[0] == -9
    obzen.write(text.replace("n % 4 == 3", "n > 99"))
    told = obzen("resume", "new", "-q")
    assert told.code == 0, told.err
    assert len((obzen.folder / "again.jsonl").read_text().splitlines()) == 2
    assert (obzen.folder / "orders.jsonl").read_text() == before
