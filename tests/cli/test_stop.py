"""`obzen stop`: orders to a run in another process, and what is said when there is nobody to order."""

import os

import pytest

from obzen_runtime.journal import RunDirectory
from tests.cli.kit import HELLO, refused, spawn
from tests.cli.test_process import ENDLESS, ended

SUMS = ENDLESS.replace("endless >> tell", "endless >> [tell, total >> show]")


@pytest.fixture
def living(obzen):
    """A run `r` that lives in another process and has delivered something."""
    obzen.write(SUMS)
    process = spawn("run", "flow.py", "--run-id", "r", cwd=obzen.folder, stdout=-1, stderr=-1)
    assert process.stdout.readline() == b"0\n"
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate()


def state(obzen):
    return RunDirectory(obzen.folder / "runs" / "r").state()


def test_a_drain_finishes_the_run_and_waits_for_its_end(obzen, living):
    told = obzen("stop", "r", "--drain")
    assert (told.code, told.out) == (0, "runs/r: drained\n"), told.err
    assert "drain ordered: runs/r" in told.err
    code, out, err = ended(living)
    assert (code, state(obzen)) == (0, "drained"), err
    assert out.count("got") == 1, "the fold gave its total"


@pytest.mark.parametrize(("option", "reason"), [((), "user_stop"), (("--cancel",), "user_cancel"), (("--within", "5"), "user_stop")])
def test_a_stop_suspends_and_a_cancel_ends(obzen, living, option, reason):
    told = obzen("stop", "--last", *option)
    assert (told.code, told.out) == (0, f"runs/r: cancelled ({reason})\n"), told.err
    code, out, err = ended(living)
    assert state(obzen) == "cancelled"
    assert "got" not in out
    assert f"cancelled ({reason})" in err
    assert code == 75, "what was suspended by an order is not done: it can be gone on with"


def test_without_waiting_the_order_is_given_and_the_command_returns(obzen, living):
    told = obzen("stop", "r", "--no-wait")
    assert (told.code, told.out, "stop ordered" in told.err) == (0, "", True)
    ended(living)
    assert state(obzen) == "cancelled"


def test_what_has_ended_so_already_is_as_good_as_stopped(obzen):
    obzen.run(HELLO, "--run-id", "r")
    for option in ((), ("--drain",), ("--cancel",)):
        told = obzen("stop", "r", *option)
        assert (told.code, told.out) == (0, "runs/r: had ended already: drained\n")


def test_a_run_that_has_ended_otherwise_is_not_running(obzen, living):
    obzen("stop", "r")
    refused(obzen("stop", "r", "--drain"), 64, "not running: it is cancelled", "obzen resume")


def test_a_killed_run_takes_no_order_and_what_it_left_does_not_deceive(obzen, living):
    living.kill()
    living.wait()
    assert (obzen.folder / "runs" / "r" / "ORDERS").is_fifo()
    refused(obzen("stop", "r"), 64, "not running: it is crashed", "obzen resume")


def test_a_run_that_is_killed_while_it_is_waited_for_is_told(obzen, living):
    os.kill(living.pid, 19)
    waiting = spawn("stop", "r", cwd=obzen.folder, stdout=-1, stderr=-1)
    assert waiting.stderr.readline().startswith(b"stop ordered")
    living.kill()
    code, out, _ = ended(waiting)
    assert (code, out) == (1, "runs/r: its process ended without a word about its end\n")


def test_a_living_run_without_a_fifo_says_what_to_do(obzen, living):
    (obzen.folder / "runs" / "r" / "ORDERS").unlink()
    refused(obzen("stop", "r"), 75, "takes no orders", f"Send its process {living.pid} a signal")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--drain", "--cancel"), ("both --drain and --cancel",)),
        (("--drain", "--within", "3"), ("--within goes with a stop",)),
        (("--within", "-3"), ("not a number of seconds",)),
        (("--within", "nan"), ("not a number of seconds",)),
    ],
)
def test_options_that_contradict_each_other_are_refused(obzen, arguments, words):
    obzen.run(HELLO, "--run-id", "r")
    refused(obzen("stop", "r", *arguments), 64, *words)


def test_a_run_that_is_not_there_is_told(obzen):
    refused(obzen("stop", "r"), 64, "no run in runs")
