"""`obzen resume`, and every reason why it may not: each one message, and the exit code it stands for."""

import fcntl
import json
import os
import signal
import subprocess
import sys

import pytest

from obzen_runtime.journal import RunDirectory
from tests.cli.kit import HEAD, HELLO, LETTERS, refused
from tests.scenarios.kit import ROOT

STOPS = (
    HEAD
    + """
import os, signal

@oz.stateful(key=lambda n: n % 3, emit=oz.at_end())
class Sums:
    total: int = 0
    def fold(self, n: int) -> None:
        self.total += n
    def emit(self, key: int) -> str:
        return f"{key}: {self.total}"

@oz.sink
def tell(text: str) -> None:
    print(text)

@oz.transform
def deadly(n: int) -> int:
    if n == 500 and os.environ.get("DIE"):
        os.kill(os.getpid(), int(os.environ["DIE"]))
    return n

flow = oz.Flow("sums", numbers(count=300_000) >> deadly >> Sums >> tell)
"""
)
TOTALS = [f"{key}: {sum(range(key, 300_000, 3))}" for key in range(3)]


def ended(obzen, number, *options, name="r"):
    """Start the flow in a process of its own, which ends by the signal at its event 500."""
    obzen.write(STOPS)
    command = [sys.executable, "-m", "obzen_runtime", "run", "flow.py", "--run-id", name, *options]
    environment = {**os.environ, "DIE": str(int(number)), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=obzen.folder, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == (-9 if number == signal.SIGKILL else 128 + number), done.stderr
    return done


def killed(obzen, number=signal.SIGKILL, *, name="r"):
    return ended(obzen, number, "--quiet", name=name).stdout


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_totals_of_a_windowless_keyed_flow_come_once_and_right_whatever_ended_the_process(obzen, number):
    assert killed(obzen, number) == "", "a stop emits nothing"
    resumed = obzen("resume", "r")
    assert (resumed.code, resumed.out.splitlines()) == (0, TOTALS)
    again = obzen("resume", "r")
    assert (again.code, again.out) == (0, "")
    assert "drained before, nothing was left to do" in again.err


def test_a_second_start_under_the_same_name_resumes(obzen):
    killed(obzen)
    resumed = obzen("run", "flow.py", "--run-id", "r", "--json")
    report = json.loads(resumed.out.splitlines()[-1])
    assert resumed.out.splitlines()[:-1] == TOTALS
    assert (report["state"], report["run_id"], report["stages"]["Sums"]["received"]) == ("drained", "r", 300_000)


def test_last_means_the_newest_run(obzen):
    killed(obzen)
    assert obzen("resume", "--last").out.splitlines() == TOTALS


def test_the_footer_of_a_run_that_did_not_drain_says_how_to_go_on(obzen):
    told = ended(obzen, signal.SIGTERM).stderr.splitlines()
    assert "  obzen resume runs/r" in told
    assert not any("obzen replay" in line for line in told)


def test_parameters_come_back_from_the_manifest(obzen):
    obzen.write(HELLO)
    assert obzen("run", "flow.py", "--run-id", "r", "--set", "numbers.count=4").code == 0
    refused(obzen("run", "flow.py", "--run-id", "r"), 78, "numbers.count is 10", "started with 4", "--allow-code-change")
    assert obzen("resume", "r").code == 0


def test_a_parameter_that_is_not_given_is_its_default(obzen):
    obzen.write(HELLO)
    assert obzen("run", "flow.py", "--run-id", "r").code == 0
    refused(obzen("run", "flow.py", "--run-id", "r", "--set", "numbers.count=4"), 78, "numbers.count is 4", "started with 10")
    assert obzen("run", "flow.py", "--run-id", "r", "--set", "numbers.count=10").code == 0


@pytest.mark.parametrize(("annotation", "value"), [("tuple[int, int]", "(3, 4)"), ("dict[int, str]", "{1: 'a'}"), ("object", "object()")])
def test_a_parameter_that_json_does_not_hold_as_it_is_comes_back_as_the_same(obzen, annotation, value):
    program = HELLO.replace("count: int = 10", f"count: int = 10, more: {annotation} = None").replace(
        "numbers >>", f"numbers(more={value}) >>"
    )
    obzen.write(program)
    assert obzen("run", "flow.py", "--run-id", "r").code == 0
    assert obzen("run", "flow.py", "--run-id", "r").code == 0
    assert obzen("resume", "r").code == 0


def test_a_file_whose_name_is_no_text_is_refused_in_words(obzen):
    obzen.write(HELLO.replace("count: int = 10", "count: int = 10, path: Path = Path('a')"))
    refused(obzen("run", "flow.py", "--set", "numbers.path=\udc80.csv"), 64, "numbers", "no Unicode text", "Rename the file")


def test_a_parameter_that_the_code_does_not_have_any_more_is_named(obzen):
    obzen.write(HELLO)
    assert obzen("run", "flow.py", "--run-id", "r", "--set", "numbers.count=4").code == 0
    obzen.write(HELLO.replace("count: int = 10", "size: int = 10").replace("range(count)", "range(size)"))
    refused(obzen("run", "flow.py", "--run-id", "r"), 78, "numbers has no parameter 'count'", "started with 4")


def test_a_run_that_lives_is_locked(obzen):
    obzen.run(HELLO, "--run-id", "r", "-q")
    with (obzen.folder / "runs" / "r" / "LOCK").open("rb+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(obzen("resume", "r"), 75, "run r is running", "obzen stop")


def test_changed_code_of_a_stage_without_state_goes_on_and_is_recorded(obzen):
    killed(obzen)
    obzen.write(STOPS.replace("    return n\n\nflow", "    return n + 0\n\nflow").replace("n == 500", "n == 501"))
    resumed = obzen("resume", "r")
    assert (resumed.code, resumed.out.splitlines()) == (0, TOTALS)
    shown = obzen("inspect", "r", "--json")
    changed = [line["code"] for line in shown.lines if line.get("kind") == "run.resumed"]
    assert [sorted(each) for each in changed] == [["deadly"]]


def test_changed_code_of_a_stage_with_state_needs_a_word(obzen):
    killed(obzen)
    obzen.write(STOPS.replace("self.total += n", "self.total += 2 * n"))
    refused(obzen("resume", "r"), 78, "the code of Sums has changed", "--allow-code-change")
    assert obzen("resume", "r", "--allow-code-change").code == 0


def test_a_stage_that_came_or_went_is_named(obzen):
    killed(obzen)
    obzen.write(STOPS.replace("numbers(count=300_000) >> deadly >> Sums", "numbers(count=300_000) >> deadly >> odd >> Sums"))
    refused(obzen("resume", "r"), 78, "odd is new")
    obzen.write(STOPS.replace("numbers(count=300_000) >> deadly >> Sums", "numbers(count=300_000) >> Sums"))
    refused(obzen("resume", "r"), 78, "deadly is gone")


def test_a_flow_of_another_name_is_refused(obzen):
    killed(obzen)
    obzen.write(STOPS.replace('"sums"', '"others"'))
    refused(obzen("resume", "r"), 78, "'sums'", "'others'")


def test_a_source_that_gives_other_items_is_refused(obzen):
    killed(obzen)
    obzen.write(STOPS.replace("yield from range(count)", "yield from range(1, count + 1)"))
    resumed = obzen("resume", "r")
    assert resumed.code == 78
    assert "source 'numbers' changed: numbers@0 is 1, it was 0" in resumed.err


def test_a_manifest_that_is_missing_or_edited(obzen):
    killed(obzen)
    path = RunDirectory(obzen.folder / "runs" / "r").manifest_path
    text = path.read_text()
    path.write_text(text.replace('"flow": "sums"', '"flow": 7'))
    refused(obzen("resume", "r"), 78, "manifest.json is not a manifest")
    path.write_text(text.replace('"format": 1', '"format": 99'))
    refused(obzen("resume", "r"), 78, "format 99")
    path.unlink()
    refused(obzen("resume", "r"), 78, "manifest.json is missing", "Restore it from a copy")


def test_a_flow_whose_file_was_moved_is_named_with_flow(obzen):
    obzen.run(HELLO, "--run-id", "r", "-q")
    (obzen.folder / "flow.py").rename(obzen.folder / "moved.py")
    for command in ("resume", "replay", "dead-letters"):
        options = ["--requeue"] if command == "dead-letters" else []
        told = obzen(command, "r", *options)
        assert told.code in (2, 64)
        assert [word for word in ("there is no file", "run r was started from", "give it with --flow FILE") if word not in told.err] == []
        assert "there is no file" not in obzen(command, "r", *options, "--flow", "moved.py").err
    refused(obzen("trace", "r", "total@0", "--exact"), 64, "there is no file", "Put it there again")


def test_a_flow_built_inside_a_function_is_resumed_by_its_program(obzen):
    obzen.write(
        """
        from collections.abc import Iterator
        import obzen_runtime as oz

        def main():
            @oz.source
            def s() -> Iterator[int]:
                yield from range(5)

            @oz.sink
            def k(n: int) -> None: ...

            oz.run(oz.Flow("f", s >> k), run_id="r")

        main()
        """
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "flow.py"], cwd=obzen.folder, env=environment, check=True, capture_output=True, timeout=60)
    refused(obzen("resume", "r"), 78, "built inside a function", "oz.resume(flow, 'r')", "--flow FILE:VARIABLE")


def test_a_directory_is_meant_also_where_another_run_has_its_name(obzen):
    obzen.run(HELLO, "--run-id", "r", "-q")
    killed(obzen, signal.SIGTERM, name="here")
    obzen.run(HELLO, "--run-id", "here", "--journal", "others", "-q")
    (obzen.folder / "runs" / "here").rename(obzen.folder / "here")
    (obzen.folder / "others" / "here").rename(obzen.folder / "runs" / "here")
    obzen.write(STOPS)
    assert obzen("resume", "here").out.splitlines() == TOTALS


def test_a_run_that_is_not_there(obzen):
    obzen.run(LETTERS, "--run-id", "r", "-q")
    refused(obzen("resume", "x"), 64, "no run in runs is named 'x'")
    refused(obzen("resume"), 64, "no run is named")
