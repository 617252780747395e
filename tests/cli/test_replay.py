"""`obzen replay`: its words, and an exit code for each way a proof may go."""

import json

import msgspec
import pytest

from obzen_runtime.journal import RunDirectory
from tests.cli.kit import HEAD, HELLO, LETTERS


def only(obzen):
    return next((obzen.folder / "runs").iterdir())


def changed_manifest(obzen, **changes):
    place = only(obzen)
    path = RunDirectory(place).manifest_path
    fields = json.loads(path.read_bytes()) | changes
    del fields["crc"]  # what an older version wrote has none
    path.write_bytes(msgspec.json.encode(fields))
    return place


@pytest.mark.parametrize("text", [HELLO, LETTERS])
def test_a_run_that_comes_out_the_same_is_a_match(obzen, text):
    obzen.run(text, "-q")
    ended = obzen("replay", "--last", "--verify")
    assert ended.code == 0, ended
    assert "\n0 differences\n" in ended.out
    assert "numbers" in ended.out
    assert "got" not in ended.out, "sinks are not called"


def test_parameters_are_those_the_run_was_started_with(obzen):
    obzen.run(HELLO, "-q", "--set", "numbers.count=500")
    ended = obzen("replay", "--last", "--verify")
    assert ended.code == 0
    assert "500 recorded events" in ended.out


def test_changed_code_is_told_with_its_event_both_values_and_the_input(obzen):
    obzen.run(HELLO, "-q")
    obzen.write(HELLO.replace("return n * 2", "return n * 2 if n != 6 else 13"))
    ended = obzen("replay", "--last", "--verify")
    assert ended.code == 1
    assert "1 difference" in ended.out
    for word in ("double@6", "12", "13", "numbers@6 6", "its code changed since the run"):
        assert word in ended.out, word


def test_the_report_is_there_for_machines(obzen):
    obzen.run(HELLO, "-q")
    obzen.write(HELLO.replace("return n * 2", "return n * 2 + 1"))
    ended = obzen("replay", "--last", "--verify", "--json")
    assert ended.code == 1
    (report,) = ended.lines
    assert report["certified"] is False
    assert [(each["stage"], each["event"], each["recorded"], each["replayed"]) for each in report["differences"]] == [
        ("double", "double@0", "0", "1")
    ]
    assert report["differences"][0]["code_changed"] is True


def test_without_verify_it_says_what_came_out(obzen):
    obzen.run(HELLO, "-q")
    obzen.write(HELLO.replace("return n * 2", "return n * 3"))
    ended = obzen("replay", "--last")
    assert ended.code == 0
    assert "10 of 10 events" in ended.out
    assert "difference" not in ended.out
    assert "nothing was compared" in ended.err


def test_a_missing_file_cannot_be_certified(obzen):
    obzen.run(HELLO, "-q")
    (obzen.folder / "flow.py").unlink()
    ended = obzen("replay", "--last", "--verify")
    assert ended.code == 2
    assert "there is no file" in ended.err
    obzen.write(HELLO, "moved.py")
    assert obzen("replay", "--last", "--verify", "--flow", "moved.py:flow").code == 0


def test_a_flow_built_inside_a_function_names_the_call(obzen):
    obzen.run(HELLO, "-q")
    changed_manifest(obzen, file=None, variable=None)
    ended = obzen("replay", "--last", "--verify")
    assert ended.code == 2
    assert "oz.replay(flow" in ended.err


def test_another_flow_cannot_be_certified(obzen):
    obzen.run(HELLO, "-q")
    obzen.write(HEAD + 'flow = oz.Flow("hello", numbers >> total >> show)\n')
    ended = obzen("replay", "--last", "--verify")
    assert ended.code == 2
    assert "double" in ended.err


def test_differences_under_another_python_cannot_be_certified_and_a_match_is_one(obzen):
    obzen.run(HELLO, "-q")
    changed_manifest(obzen, versions={"python": "3.9.1"})
    assert obzen("replay", "--last", "--verify").code == 0
    obzen.write(HELLO.replace("return n * 2", "return n * 3"))
    ended = obzen("replay", "--last", "--verify")
    assert ended.code == 2
    assert "Python 3.9.1" in ended.err
    assert "double@1" in ended.out


def test_a_damaged_run_is_refused(obzen):
    obzen.run(HELLO, "-q")
    segment = next((only(obzen) / "journal").glob("*.seg"))
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 0xFF
    segment.write_bytes(data)
    ended = obzen("replay", "--last", "--verify")
    assert ended.code == 3, ended
    assert "Traceback" not in ended.err


def test_what_fails_here_is_the_tools_failure(obzen, monkeypatch):
    obzen.run(HELLO, "-q")

    def broken(*arguments, **options):
        raise RuntimeError("boom")

    monkeypatch.setattr("obzen_runtime.cli.replay.replay", broken)
    ended = obzen("replay", "--last", "--verify")
    assert ended.code == 4
    assert "boom" in ended.err


def test_a_run_that_is_not_there_is_wrong_usage(obzen):
    assert obzen("replay", "nothing", "--verify").code not in (0, 1, 2, 3, 4)
    assert obzen("replay", "--verify").code == 64
