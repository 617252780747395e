"""What is wrong with the user's input is one clear message and an exit code, never a traceback."""

import os
import re
import sys

import pytest

from tests.cli.kit import HEAD, HELLO, refused


def test_a_missing_file_is_named(obzen):
    refused(obzen("run", "nowhere.py"), 64, "there is no file nowhere.py", "Python file that defines the flow")


def test_a_directory_is_refused_with_a_file_in_it_as_the_hint(obzen):
    obzen.write(HELLO)
    refused(obzen("run", "."), 64, "is a directory", "flow.py")


def test_a_file_that_is_no_python_is_refused(obzen):
    refused(obzen.run("# Read me", name="README.md"), 64, "README.md is not a Python file")


def test_a_syntax_error_is_told_with_its_line(obzen):
    refused(obzen.run("import os\n\ndef broken(:\n"), 78, "flow.py:3: not valid Python", "def broken(:")


@pytest.mark.parametrize("content", [b"x = 1\x00", b"x = '\xff\xfe'", b"\x7fELF\x00\x00"], ids=["null", "not utf-8", "binary"])
def test_bytes_that_are_no_source_are_refused(obzen, content):
    (obzen.folder / "flow.py").write_bytes(content)
    refused(obzen("run", "flow.py"), 78, "flow.py")


def test_a_program_without_a_flow_is_told_how_to_make_one(obzen):
    refused(obzen.run("x = 1\n"), 78, "has no flow at module level", "oz.Flow(")


def test_a_flow_that_is_built_in_a_function_is_told_how_to_be_called(obzen):
    ended = obzen.run(HEAD + 'def build():\n    return oz.Flow("inner", numbers >> show)\n')
    refused(ended, 78, "build() makes one in line", "flow = build()")
    named = obzen("run", "flow.py:build")
    refused(named, 64, "build is a function, not a flow", "flow = build()")


def test_two_flows_and_none_named_lists_both(obzen):
    text = HEAD + 'one = oz.Flow("one", numbers >> show)\ntwo = oz.Flow("two", numbers >> show)\n'
    refused(obzen.run(text), 64, "2 flows: one, two", "flow.py:one or flow.py:two")
    assert obzen("run", "flow.py:two", "-q").code == 0


def test_one_flow_under_two_names_is_one_flow(obzen):
    assert obzen.run(HELLO + "again = flow\n", "--quiet").code == 0


def test_an_unknown_variable_lists_the_flows(obzen):
    obzen.write(HELLO)
    refused(obzen("run", "flow.py:nope"), 64, "no variable 'nope'", "Its flows: flow")


@pytest.mark.parametrize(
    ("name", "words"), [("numbers", "Source, not a flow. It is one stage"), ("path", "Path, not a flow"), ("x", "int, not a flow")]
)
def test_a_variable_that_is_no_flow_is_told_what_it_is(obzen, name, words):
    obzen.write(HELLO + "path = numbers >> show\nx = 3\n")
    refused(obzen("run", f"flow.py:{name}"), 64, words)


def test_what_follows_the_colon_must_be_a_name(obzen):
    obzen.write(HELLO)
    refused(obzen("run", "flow.py:a b"), 64, "not a name for a variable")


def test_an_error_at_import_is_told_with_file_line_and_source(obzen):
    ended = obzen.run("import os\n\nvalue = 1 / 0\n")
    refused(ended, 78, "flow.py:3: value = 1 / 0", "ZeroDivisionError: division by zero")
    assert len(ended.err.splitlines()) == 2


def test_an_error_in_a_module_that_the_file_imports_names_both_places(obzen):
    obzen.write("def load():\n    raise RuntimeError('broken')\n", "part_of_it.py")
    refused(obzen.run("import part_of_it\npart_of_it.load()\n"), 78, "flow.py:2: part_of_it.load()", "broken", "part_of_it.py:2")


def test_a_module_that_is_not_installed_is_named(obzen):
    refused(obzen.run("import not_there_at_all\n"), 78, "flow.py:1", "No module named 'not_there_at_all'", "Install it")


def test_a_file_that_exits_at_import_is_told_to_guard_that(obzen):
    refused(obzen.run("import sys\nsys.exit(3)\n"), 78, "flow.py:2", "SystemExit: 3", '`if __name__ == "__main__":`')


def test_debug_shows_the_traceback_and_the_message(obzen):
    ended = obzen.run("value = 1 / 0\n", "--debug")
    assert ended.code == 78
    assert "Traceback" in ended.err
    assert "obzen: flow.py:1" in ended.err


def test_the_positional_call_of_a_description_names_its_parameter_and_the_handler(obzen):
    ended = obzen.run(HEAD + 'flow = oz.Flow("f", numbers(3) >> show)\n')
    refused(ended, 78, "by name, such as numbers(count=...)", "call numbers.handler(...)", "flow.py:")
    refused(obzen.run(HEAD + "double(3)\n"), 78, "double is a description of a stage: call double.handler(...)")


def test_oz_run_at_import_is_refused_and_runs_nothing(obzen):
    refused(obzen.run(HELLO + "oz.run(flow)\n"), 78, "is imported", "__main__")
    assert not (obzen.folder / "runs").exists()


def test_oz_start_at_import_is_refused_too(obzen):
    text = (
        HELLO
        + "import asyncio\nasync def main():\n    async with oz.start(flow) as handle:\n        await handle.wait()\nasyncio.run(main())\n"
    )
    refused(obzen.run(text), 78, "is imported")
    assert not (obzen.folder / "runs").exists()


def test_oz_run_in_a_running_loop_at_import_is_refused(obzen):
    text = HELLO + "import asyncio\nasync def main():\n    oz.run(flow)\nasyncio.run(main())\n"
    refused(obzen.run(text), 78, "running event loop", "oz.start")


def test_the_main_guard_is_not_entered(obzen):
    assert "entered" not in obzen.run(HELLO + 'if __name__ == "__main__":\n    print("entered")\n').out


def test_all_faults_of_a_topology_are_listed_at_once(obzen):
    text = """
    from collections.abc import Iterator
    import obzen_runtime as oz

    @oz.source
    def texts() -> Iterator[str]:
        yield "x"

    @oz.transform
    def square(n: int) -> int:
        return n

    @oz.transform
    def silent(n: str):
        return n

    @oz.transform
    def lost(n: int) -> int:
        return n

    @oz.sink
    def out(n: int) -> None: ...

    @oz.sink
    def other(n: bytes) -> None: ...

    flow = oz.Flow("wrong", texts >> square >> out, lost >> out, texts >> silent >> out, out >> other, texts >> square)
    """
    ended = obzen.run(text)
    refused(ended, 78, "flow.py:", "flow 'wrong' has")
    faults = [line for line in ended.err.splitlines() if line.strip()[:1].isdigit()]
    assert len(faults) >= 5
    for word in (
        "stands there twice",
        "not reached by any source",
        "does not say what it gives",
        "leaves a sink",
        "texts gives str, square takes int",
    ):
        assert word in ended.err


def test_a_payload_that_does_not_survive_the_codec_fails_with_field_and_types(obzen):
    text = """
    from collections.abc import Iterator
    import msgspec
    import obzen_runtime as oz

    class Row(msgspec.Struct, frozen=True):
        price: float

    @oz.source
    def rows() -> Iterator[Row]:
        yield Row(3)

    @oz.sink
    def out(row: Row) -> None: ...

    flow = oz.Flow("codec", rows >> out)
    """
    ended = obzen.run(text)
    assert ended.code == 1
    assert "price is 3 (int) live and 3.0 (float) when read back" in ended.err
    assert "Traceback" not in ended.err


def test_a_parameter_that_is_not_bound_is_told_before_a_directory_is_made(obzen):
    text = HEAD + '@oz.source\ndef given(size: int) -> Iterator[int]:\n    yield size\n\nflow = oz.Flow("f", given >> show)\n'
    refused(obzen.run(text), 78, "needs its parameter 'size'", "--set given.size=")
    assert not (obzen.folder / "runs").exists()
    assert obzen("run", "flow.py", "--set", "given.size=3").code == 0


@pytest.mark.parametrize("setting", ["", "numbers", "numbers.count", "numbers=3", ".count=3", "numbers.=3", "a b.c=3", "=", "1.2=3"])
def test_a_malformed_setting_is_shown_with_its_form(obzen, setting):
    obzen.write(HELLO)
    refused(obzen("run", "flow.py", "--set", setting), 64, f"--set {setting!r}", "STAGE.PARAMETER=VALUE")


def test_an_unknown_stage_or_parameter_lists_what_there_is(obzen):
    obzen.write(HELLO)
    refused(obzen("run", "flow.py", "--set", "nobody.count=3"), 64, "no stage 'nobody'", "numbers, double, total, show")
    refused(obzen("run", "flow.py", "--set", "numbers.size=3"), 64, "no parameter 'size'", "It has: count")


@pytest.mark.parametrize("value", ["many", "1.5", "[1]", ""])
def test_a_value_of_the_wrong_type_is_shown_with_the_type_expected(obzen, value):
    obzen.write(HELLO)
    refused(obzen("run", "flow.py", "--set", f"numbers.count={value}"), 64, f"numbers.count: {value!r}", "int")


def test_two_values_for_a_parameter_that_is_no_list_are_refused(obzen):
    obzen.write(HELLO)
    refused(
        obzen("run", "flow.py", "--set", "numbers.count=1", "--set", "numbers.count=2"), 64, "numbers.count", "['1', '2']", "Set it once"
    )


@pytest.mark.parametrize("durability", ["none", "interval(0)", "interval(x)", "interval", ""])
def test_an_unknown_durability_lists_the_known_ones(obzen, durability):
    obzen.write(HELLO)
    refused(obzen("run", "flow.py", "--durability", durability), 78, "interval")


@pytest.mark.parametrize("size", ["much", "7d", "0", "1B", "7d,1GiB", "all"])
def test_a_size_that_is_none_is_shown_with_its_form(obzen, size):
    obzen.write(HELLO)
    refused(obzen("run", "flow.py", "--max-bytes", size), 64, f"--max-bytes {size!r} is not a size", "50GiB")
    assert not (obzen.folder / "runs").exists()


@pytest.mark.parametrize("name", ["../escape", "a/b", "UPPER", "", "x" * 65, ".hidden", "new\nline"])
def test_a_run_id_that_is_none_is_refused_with_the_rule(obzen, name):
    obzen.write(HELLO)
    refused(obzen("run", "flow.py", "--run-id", name), 64, "invalid run_id", "1 to 64 characters")
    assert not (obzen.folder / "runs").exists()


def test_a_run_directory_that_cannot_be_made_is_input_or_output(obzen):
    (obzen.folder / "runs").write_text("a file where a directory should be")
    refused(obzen.run(HELLO), 74, "runs", "--journal")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission_is_input_or_output(obzen):
    (obzen.folder / "runs").mkdir(mode=0o500)
    refused(obzen.run(HELLO), 74, "runs", "Permission denied")


def test_a_run_of_this_name_that_has_drained_is_not_run_again(obzen):
    assert obzen.run(HELLO, "--run-id", "nightly", "-q").code == 0
    again = obzen("run", "flow.py", "--run-id", "nightly")
    assert (again.code, again.out) == (0, "")
    assert "drained before, nothing was left to do" in again.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fly"], "No such command 'fly'. Try"),
        (["rnu"], "Did you mean 'run'? Try"),
        (["journal", "chekc"], "Did you mean 'check'? Try"),
        (["run", "flow.py", "--sett", "x"], "--set"),
        (["run"], "Missing argument"),
        (["run", "flow.py", "--nope"], "No such option"),
        (["run", "flow.py", "--set"], "requires an argument"),
        (["run", "flow.py", "extra"], "extra"),
        (["inspect", "--from", "x"], "valid integer"),
        (["inspect", "--limit", "0"], "greater than or equal to 1"),
        (["draw", "flow.py", "--format", "png"], "png"),
        (["journal", "fix"], "No such command 'fix'"),
    ],
)
def test_wrong_arguments_are_usage_with_the_way_to_help(obzen, arguments, words):
    refused(obzen(*arguments), 64, words, "--help")


def test_no_argument_shows_the_help(obzen):
    ended = obzen()
    assert ended.code == 64
    assert "Usage: obzen" in ended.out
    assert "dead-letters" in ended.out
    assert "obzen:" not in ended.err


def test_the_help_of_every_command_has_its_own_options_first(obzen):
    names = re.findall(r"^│ ([a-z][a-z-]+) ", obzen("--help").out, flags=re.MULTILINE)
    assert len(names) > 15
    for command in [*([name] for name in names if name != "journal"), ["journal", "check"], ["journal", "repair"]]:
        shown = obzen(*command, "--help").out
        options = re.findall(r"^│ \*? *(--[a-z-]+)", shown, flags=re.MULTILINE)
        assert options[-2:] == ["--debug", "--help"], command


def test_a_shell_can_complete_commands_and_options(obzen, monkeypatch):
    for name, value in {"_OBZEN_COMPLETE": "complete_bash", "COMP_WORDS": "obzen res", "COMP_CWORD": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        obzen()
    assert obzen.capsys.readouterr().out.split() == ["resume", "resolve"]


def test_a_program_may_be_named_like_a_module_at_work(obzen):
    before = sys.modules["json"]
    assert obzen.run(HELLO, "-q", name="json.py").code == 0
    assert sys.modules["json"] is before


def test_a_program_may_import_what_stands_beside_it_from_anywhere(obzen, monkeypatch):
    folder = obzen.folder / "deep"
    folder.mkdir()
    (folder / "beside_it.py").write_text("NAME = 'beside'\n")
    (folder / "flow.py").write_text("from beside_it import NAME\n" + HELLO.replace('"hello"', "NAME"))
    assert obzen("run", "deep/flow.py", "-q").code == 0


def test_control_characters_of_the_user_do_not_reach_the_terminal_through_inspect(obzen):
    source = '@oz.source\ndef words() -> Iterator[str]:\n    yield "\\x1b[2Jred\\x9b31m"\n'
    text = HEAD + source + "@oz.sink\ndef out(w: str) -> None:\n    raise ValueError(w)\n"
    assert obzen.run(text + 'flow = oz.Flow("w", words >> out)\n', "-q").code == 0
    shown = obzen("inspect", "--last", "--events").out
    assert "red" in shown
    assert [sign for sign in shown if not sign.isprintable() and sign != "\n"] == []
