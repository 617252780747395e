"""`obzen simulate`: what it prints, how it exits, and that the command it names repeats what it found."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
HONEST = (EXAMPLES / "08_payments.py").read_text()
LYING = HONEST.replace('world().put("payments", key, payment)', 'world().append("payments", payment)')


def obzen(*words, cwd=EXAMPLES, **environment):
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"}
    path = str(Path(__file__).parents[2])
    return subprocess.run(
        [sys.executable, "-m", "obzen_runtime", *words],
        cwd=cwd,
        env={**kept, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.fixture
def lying(tmp_path):
    assert LYING != HONEST
    (tmp_path / "lying.py").write_text(LYING)
    return tmp_path


def test_a_flow_that_keeps_its_promises():
    done = obzen("simulate", "06_flights.py", "--seeds", "12")
    assert (done.returncode, done.stdout) == (0, "12 seeds, 0 violations\n"), done.stderr


def test_a_keyed_sink_that_ignores_its_key_is_found_and_the_printed_command_finds_it_again(lying):
    done = obzen("simulate", "lying.py", "--seeds", "200", cwd=lying)
    assert done.returncode == 1, done.stderr
    assert "breaks a promise:\n  sink store says it is keyed: in payments there is" in done.stdout
    assert "twice, once is right" in done.stdout
    assert "goes on behind record" in done.stdout
    again = next(line for line in done.stdout.splitlines() if line.startswith("again: ")).removeprefix("again: ")
    setting, command, *words = shlex.split(again)
    assert (setting, command) == ("PYTHONHASHSEED=0", "obzen")
    repeated = obzen(*words, cwd=lying, PYTHONHASHSEED="0")
    assert repeated.returncode == 1
    assert repeated.stdout.partition("again: ")[0] == done.stdout.partition("again: ")[0]


def test_a_sink_without_a_stand_in_is_taken_at_its_word_and_that_is_said(tmp_path):
    (tmp_path / "pay.py").write_text(HONEST.replace(", simulate=upsert", ""))
    done = obzen("simulate", "pay.py", "--seeds", "2", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "2 seeds, 0 violations\n"), done.stderr
    assert "taken at their word, since no simulate= names a stand-in: store (keyed)\n" in done.stderr


def test_every_append_once(lying):
    done = obzen("simulate", "lying.py", "--exhaustive", "--items", "2", cwd=lying)
    honest = obzen("simulate", str(EXAMPLES / "08_payments.py"), "--exhaustive", "--items", "2")
    assert honest.returncode == 0, honest.stdout
    assert honest.stdout.endswith(" crashes, 0 violations\n")
    assert int(honest.stdout.split()[0]) > 40
    assert done.returncode == 1
    assert "killed at disk operation" in done.stdout
    assert " --exhaustive " in done.stdout


def test_json_says_it_all(lying):
    done = obzen("simulate", "lying.py", "--seeds", "200", "--json", cwd=lying)
    told = msgspec.json.decode(done.stdout)
    assert told["violation"]["problems"][0].startswith("sink store says it is keyed")
    assert told["replay"].startswith("PYTHONHASHSEED=0 obzen simulate lying.py --seed ")
    assert told["tried"] == told["violation"]["seed"] + 1


def test_one_seed_alone():
    done = obzen("simulate", "01_hello.py", "--seed", "3")
    assert (done.returncode, done.stdout) == (0, "1 seed, 0 violations\n"), done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("simulate", "01_hello.py", "--seeds", "0"), 64, "--seeds and --items count"),
        (("simulate", "01_hello.py", "--durability", "maybe"), 78, "unknown durability"),
        (("simulate", "01_hello.py", "--durability", "memory"), 64, "a run in memory survives no crash"),
        (("simulate", "nowhere.py"), 64, "there is no file"),
    ],
)
def test_bad_input_is_told_in_a_line(words, code, said):
    done = obzen(*words)
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.returncode == code
