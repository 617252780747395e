"""`obzen run`: what it prints where, what it leaves behind, and what it exits with."""

import json
import logging

import pytest

from obzen_runtime.host import Report, footer
from tests.cli.kit import HEAD, HELLO, LETTERS


def test_a_flow_runs_to_its_end_and_the_footer_names_only_commands_that_exist(obzen):
    ended = obzen.run(HELLO)
    assert (ended.code, ended.out) == (0, "got 90\n")
    started, state, place, *commands = ended.err.splitlines()
    assert started.startswith("hello: run ")
    assert state.startswith("drained after ")
    assert place.strip().startswith("runs/")
    assert commands == [f"  obzen inspect {place.strip()}", f"  obzen replay {place.strip()} --verify"]
    for command in commands:
        assert obzen(*command.split()[1:]).code == 0


def test_quiet_says_nothing(obzen):
    ended = obzen.run(HELLO, "--quiet")
    assert (ended.code, ended.out, ended.err) == (0, "got 90\n", "")


def test_parameters_are_set_from_text_and_repeated_ones_make_a_list(obzen):
    text = HEAD + (
        "@oz.source\ndef given(names: list[str], at: float = 1.0, where: Path = Path('.')) -> Iterator[str]:\n"
        "    yield from names\n    yield f'{at!r} {where!r}'\n\n"
        "@oz.sink\ndef tell(text: str) -> None:\n    print(text)\n\n"
        'flow = oz.Flow("given", given >> tell)\n'
    )
    options = ["--set", "given.names=a=b", "--set", "given.names=2", "--set", "given.at=3", "--set", "given.where=x/y"]
    assert obzen.run(text, "-q", *options).out == "a=b\n2\n3.0 PosixPath('x/y')\n"
    assert obzen("run", "flow.py", "-q", "--set", 'given.names=["p", "q"]').out.startswith("p\nq\n")


def test_dead_letters_alone_are_no_failure_unless_strict(obzen):
    ended = obzen.run(LETTERS)
    assert ended.code == 0
    assert "2 dead letters" in ended.err
    assert "obzen dead-letters " in ended.err
    assert obzen("run", "flow.py", "--strict").code == 1
    assert obzen.run(HELLO, "--strict").code == 0


def test_a_failed_run_names_stage_and_error_and_exits_with_1(obzen):
    text = LETTERS.replace("@oz.transform\ndef picky", '@oz.transform(on_error="fail")\ndef picky')
    ended = obzen.run(text, "--set", "numbers.count=5")
    assert ended.code == 1
    assert "stage picky: ValueError: no 3" in ended.err
    assert "failed after" in ended.err
    assert "Traceback" not in ended.err
    assert ended.err.count("no 3") == 1
    quiet = obzen("run", "flow.py", "--quiet", "--set", "numbers.count=5")
    assert quiet.code == 1
    assert quiet.err == "obzen: stage picky: ValueError: no 3\n"
    assert "flow failed" in obzen("run", "flow.py", "--verbose", "--set", "numbers.count=5").err


def test_what_the_users_error_says_is_one_line_that_no_terminal_obeys(obzen):
    text = HEAD + '@oz.sink(on_error="fail")\ndef out(n: int) -> None:\n    raise ValueError("on\\nfire \\x1b[31m \\x9b31m")\n'
    ended = obzen.run(text + 'flow = oz.Flow("f", numbers >> out)\n', "--quiet")
    assert (ended.code, ended.err) == (1, "obzen: stage out: ValueError: on fire \ufffd[31m \ufffd31m\n")


def test_a_source_that_raises_fails_the_run(obzen):
    text = (
        HEAD + '@oz.source\ndef broken() -> Iterator[int]:\n    yield 1\n    raise OSError("gone")\n\nflow = oz.Flow("b", broken >> show)\n'
    )
    ended = obzen.run(text)
    assert ended.code == 1
    assert "gone" in ended.err


def test_json_prints_the_report_as_the_last_line_of_standard_output(obzen):
    ended = obzen.run(LETTERS, "--json", "-q")
    report = json.loads(ended.out.splitlines()[-1])
    assert (report["state"], report["dead_letters"]) == ("drained", 2)
    assert report["stages"]["picky"] == {
        "state": "drained",
        "received": 10,
        "emitted": 8,
        "dropped": 0,
        "dead": 2,
        "errors": 2,
        "doubted": 0,
    } | {"seconds": report["stages"]["picky"]["seconds"]}
    assert ended.err == ""


def test_a_run_in_memory_leaves_nothing_behind(obzen):
    ended = obzen.run(HELLO, "--durability", "memory")
    assert ended.code == 0
    assert ended.out == "got 90\n"
    assert "in memory" in ended.err
    assert "inspect" not in ended.err
    assert not (obzen.folder / "runs").exists()


@pytest.mark.parametrize("durability", ["os", "fsync", "interval(5)"])
def test_every_level_on_disk_runs(obzen, durability):
    assert obzen.run(HELLO, "--durability", durability, "-q", "--journal", "elsewhere").code == 0
    assert obzen("journal", "check", "--last", "--runs", "elsewhere").code == 0


def test_the_manifest_names_file_variable_and_parameters(obzen):
    assert obzen.run(HELLO, "-q", "--run-id", "named", "--set", "numbers.count=3").code == 0
    manifest = json.loads((obzen.folder / "runs" / "named" / "manifest.json").read_text())
    assert manifest["file"] == str(obzen.folder / "flow.py")
    assert manifest["variable"] == "flow"
    assert manifest["parameters"] == {"numbers": {"count": 3}}


def test_the_log_goes_to_standard_error_and_the_loggers_settings_come_back(obzen):
    log = logging.getLogger("obzen")
    before = log.level, log.propagate, list(log.handlers)
    ended = obzen.run(HELLO, "--verbose")
    assert " INFO " in ended.err
    assert ended.out == "got 90\n"
    assert (log.level, log.propagate, list(log.handlers)) == before
    assert " INFO " not in obzen("run", "flow.py").err


def test_a_quiet_run_leaves_the_log_as_loud_as_it_was(obzen):
    asks = """
import logging
from collections.abc import Iterator
import obzen_runtime as oz

@oz.source
def numbers() -> Iterator[int]:
    yield 1

@oz.sink
def asks(n: int) -> None:
    assert not logging.getLogger("obzen").isEnabledFor(logging.WARNING)  # and the logger remembers it

flow = oz.Flow("asks", numbers >> asks)
"""
    assert obzen.run(asks, "-q", "--strict").code == 0
    assert logging.getLogger("obzen").isEnabledFor(logging.WARNING)


def test_what_a_handler_prints_stays_on_the_stream_it_was_printed_to(obzen):
    text = HEAD + "import sys\n@oz.sink\ndef both(n: int) -> None:\n    print('out', n)\n    print('err', n, file=sys.stderr)\n"
    ended = obzen.run(text + 'flow = oz.Flow("both", numbers(count=2) >> both)\n', "-q")
    assert (ended.out, ended.err) == ("out 0\nout 1\n", "err 0\nerr 1\n")


def test_a_path_with_blanks_is_quoted_in_the_footer(obzen):
    report = Report(state="drained", run_id="r", directory=str(obzen.folder / "my runs" / "r"))
    assert "  obzen inspect 'my runs/r'" in footer(report, 1.0).splitlines()


def test_a_run_beside_the_current_directory_is_named_so_that_inspect_takes_it(obzen):
    assert obzen.run(HELLO, "--journal", ".", "--run-id", "r").err.splitlines()[-2] == "  obzen inspect ./r"
    assert obzen("inspect", "./r").code == 0


def test_the_same_program_runs_twice_in_one_process(obzen):
    assert obzen.run(HELLO, "-q").out == "got 90\n"
    assert obzen.run(HELLO.replace("n * 2", "n * 4"), "-q").out == "got 180\n"


@pytest.mark.parametrize("arguments", [["version"], ["--version"]])
def test_the_version_is_told(obzen, arguments):
    ended = obzen(*arguments)
    assert ended.code == 0
    assert ended.out.startswith("obzen 0.")
