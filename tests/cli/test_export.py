"""`obzen export`: every event once, with what it is and where it comes from, and payloads any program can read."""

import json

import pytest

from tests.cli.kit import HEAD, HELLO, LETTERS, refused, spawn
from tests.cli.test_process import ENDLESS, ended

KINDS = HEAD + (
    "import datetime\n\n"
    "class Odd(msgspec.Struct, frozen=True):\n    raw: bytes\n    at: datetime.datetime\n    far: int\n"
    "    names: tuple[tuple[int, str], ...]\n\n"
    "@oz.source\ndef odds() -> Iterator[Odd]:\n"
    '    yield Odd(b"\\x00\\xff", datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC), 2**63, ((7, "seven"),))\n\n'
    "@oz.sink\ndef keep(odd: Odd) -> None:\n    pass\n\n"
    'flow = oz.Flow("odd", odds >> keep)\n'
)


def exported(obzen, *arguments):
    told = obzen("export", "--last", "--jsonl", *arguments)
    assert told.code == 0, told
    return told.lines


def test_every_event_is_a_line_with_its_id_type_time_parents_and_payload(obzen):
    obzen.run(HELLO)
    found = exported(obzen)
    assert [each["id"] for each in found] == [*(f"numbers@{n}" for n in range(10)), *(f"double@{n}" for n in range(10)), "total@0"]
    assert {tuple(each) for each in found} == {("id", "stage", "type", "at", "parents", "payload")}
    assert found[13] == {"id": "double@3", "stage": "double", "type": "int", "at": found[13]["at"], "parents": ["numbers@3"], "payload": 6}
    assert (found[-1]["parents"], found[-1]["payload"]) == (["double@0..9"], 90)
    assert all(each["at"] > 1_600_000_000_000 for each in found)


def test_one_stage_is_exported_with_its_parents_right(obzen):
    obzen.run(HELLO)
    assert exported(obzen, "--stage", "total")[0]["parents"] == ["double@0..9"]
    assert len(exported(obzen, "--stage", "double")) == 10


def test_dead_letters_are_events_with_their_error(obzen):
    obzen.run(LETTERS)
    first, _ = exported(obzen, "--stage", "dead_letters")
    assert (first["id"], first["parents"], first["payload"]["error"]) == ("dead_letters@0", ["numbers@3"], "ValueError: no 3")


def test_bytes_moments_large_numbers_and_tuples_are_as_json_has_them(obzen):
    obzen.run(KINDS)
    (found,) = exported(obzen)
    assert found["payload"] == {"raw": "AP8=", "at": "2024-02-29T12:00:00Z", "far": 2**63, "names": [[7, "seven"]]}


def test_records_are_whole_and_stand_in_order(obzen):
    obzen.run(HELLO)
    found = exported(obzen, "--records")
    assert [each["position"] for each in found] == list(range(1, len(found) + 1))
    assert (found[0]["kind"], found[-1]["kind"]) == ("run.started", "actor.completed")
    block = next(each for each in found if each["kind"] == "block" and each["stage"] == "numbers")
    assert block["payloads"] == "mgABAgMEBQYHCAk="
    assert {each["stage"] for each in exported(obzen, "--records", "--stage", "show") if each["kind"] == "receipt"} == {"show"}


def test_a_file_is_written_whole_and_nothing_is_printed(obzen):
    obzen.run(HELLO)
    told = obzen("export", "--last", "--to", "out.jsonl")
    assert (told.code, told.out, told.err) == (0, "", "21 events: ./out.jsonl\n")
    assert [json.loads(line)["id"] for line in (obzen.folder / "out.jsonl").read_text().splitlines()][-1] == "total@0"
    assert sorted(path.name for path in obzen.folder.iterdir()) == ["flow.py", "out.jsonl", "runs"]


def test_a_failed_export_leaves_the_file_as_it_was(obzen):
    obzen.run(HELLO)
    (obzen.folder / "out.jsonl").write_text("before")
    refused(obzen("export", "--last", "--to", "out.jsonl", "--stage", "nope"), 64, "no stage 'nope'", "numbers")
    refused(obzen("export", "--last", "--to", "runs"), 64, "is a directory")
    refused(obzen("export", "--last", "--to", "nowhere/out.jsonl"), 74, "obzen: nowhere/out.jsonl: No such file")
    assert (obzen.folder / "out.jsonl").read_text() == "before"
    assert sorted(path.name for path in obzen.folder.iterdir()) == ["flow.py", "out.jsonl", "runs"]


@pytest.mark.parametrize("kill", [False, True])
def test_a_living_and_a_killed_run_are_exported_up_to_now(obzen, kill):
    obzen.write(ENDLESS)
    process = spawn("run", "flow.py", "--run-id", "r", cwd=obzen.folder, stdout=-1, stderr=-1)
    assert process.stdout.readline() == b"0\n"
    if kill:
        process.kill()
        process.wait()
    found = exported(obzen, "--stage", "endless")
    assert [each["payload"] for each in found] == list(range(len(found)))
    process.kill()
    ended(process)


def test_a_reader_that_leaves_early_ends_it_quietly(obzen):
    obzen.run(HELLO, "-q", "--set", "numbers.count=30000")
    process = spawn("export", "--last", cwd=obzen.folder, stdout=-1, stderr=-1)
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=30) == 0
    assert process.stderr.read() == b""
    process.stderr.close()
