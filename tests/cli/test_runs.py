"""`obzen runs`: newest first, every state, nothing hidden because something is damaged."""

import pytest

from obzen_runtime.cli.runs import sizes
from tests.cli.kit import HEAD, HELLO, LETTERS, refused, spawn

KILLED = HELLO.replace('print("got", n)', "import os\n    os.kill(os.getpid(), 9)")


def listed(obzen, *arguments):
    return {line["run"]: line for line in obzen("runs", "--json", *arguments).lines}


def test_runs_are_listed_newest_first_with_how_they_ended(obzen):
    obzen.write(HELLO)
    failing = '@oz.transform(on_error="fail")\ndef no(n: int) -> int:\n    raise ValueError("no")\n'
    obzen.write(HEAD + failing + 'flow = oz.Flow("bad", numbers >> no >> show)\n', "bad.py")
    assert obzen("run", "flow.py", "-q", "--run-id", "first").code == 0
    assert obzen("run", "bad.py", "-q", "--run-id", "second").code == 1
    found = listed(obzen)
    assert list(found) == ["second", "first"]
    assert [(each["flow"], each["state"], each["events"]) for each in found.values()] == [("bad", "failed", 10), ("hello", "drained", 10)]
    for name, each in found.items():
        assert each["started_ms"] > 1_600_000_000_000
        assert 0 <= each["seconds"] < 60
        assert each["size"] == sizes(obzen.folder / "runs" / name) > 1000


def test_the_table_has_a_line_a_run(obzen):
    assert obzen.run(HELLO, "-q", "--run-id", "one", "--journal", "elsewhere").code == 0
    head, row = obzen("runs", "elsewhere").out.splitlines()
    assert head.split() == ["run", "flow", "state", "started", "seconds", "events", "size"]
    assert row.split()[:3] == ["one", "hello", "drained"]


def test_a_directory_that_is_not_there_is_refused_and_an_empty_one_is_said_to_be(obzen):
    refused(obzen("runs"), 64, "there is no directory runs", "obzen run")
    (obzen.folder / "runs").mkdir()
    ended = obzen("runs")
    assert (ended.code, ended.out, ended.err) == (0, "", "there is no run in runs\n")


def test_other_files_beside_the_runs_are_passed_over(obzen):
    assert obzen.run(HELLO, "-q", "--run-id", "one").code == 0
    (obzen.folder / "runs" / "notes.txt").write_text("x")
    (obzen.folder / "runs" / "empty").mkdir()
    assert list(listed(obzen)) == ["one"]


@pytest.mark.parametrize("broken", ["manifest.json", "WATERMARK", "journal/00000000000000000001.seg"])
def test_a_damaged_run_is_listed_with_what_is_wrong_and_hides_no_other(obzen, broken):
    assert obzen.run(HELLO, "-q", "--run-id", "good").code == 0
    assert obzen("run", "flow.py", "-q", "--run-id", "broken").code == 0
    (obzen.folder / "runs" / "broken" / broken).write_bytes(b"\x00\xffnothing")
    ended = obzen("runs", "--json")
    assert ended.code == 0
    found = {line["run"]: line for line in ended.lines}
    assert found["good"]["state"] == "drained"
    if broken == "manifest.json":
        assert (found["broken"]["state"], found["broken"]["flow"]) == ("drained", "hello")
    else:
        assert found["broken"]["state"] == "damaged"
        assert "broken" in ended.err


def test_a_run_that_was_gone_on_with_and_one_that_comes_from_another_say_so(obzen):
    obzen.run(LETTERS, "-q", "--run-id", "old")
    assert obzen("dead-letters", "old", "--requeue", "-q", "--run-id", "new").code == 0
    obzen.write(KILLED, "killed.py")
    assert spawn("run", "killed.py", "-q", "--run-id", "twice", cwd=obzen.folder).wait(timeout=30) == -9
    obzen.write(KILLED.replace("os.kill(os.getpid(), 9)", "pass"), "killed.py")
    assert obzen("resume", "twice", "-q").code == 0
    rows = {line.split()[0]: line for line in obzen("runs").out.splitlines()}
    assert rows["new"].endswith("  letters of old")
    assert rows["twice"].endswith("  epoch 2")
    assert rows["old"].endswith("B")
    found = listed(obzen)
    assert [(found[name]["epoch"], found[name]["origin"], found[name]["requeue"]) for name in ("old", "new", "twice")] == [
        (1, "", False),
        (1, "old", True),
        (2, "", False),
    ]
    shown = obzen("inspect", "twice", "--type", "run").out.splitlines()
    assert [line.split()[2] for line in shown] == ["run.started", "run.resumed", "run.completed"]
