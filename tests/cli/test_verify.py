"""`obzen verify`: two runs compared, and its exit codes."""

import pytest

from tests.cli.kit import HEAD, HELLO, LETTERS, refused


def two(obzen, first, second, *options):
    obzen.run(first, "-q", "--run-id", "one")
    obzen.run(second, "-q", "--run-id", "two", *options)
    return obzen("verify", "one", "two")


@pytest.mark.parametrize("text", [HELLO, LETTERS])
def test_two_runs_of_the_same_code_match(obzen, text):
    ended = two(obzen, text, text)
    assert ended.code == 0, ended
    assert "\n0 differences" in ended.out
    assert "10 events, by ordinal: the same" in ended.out


def test_the_first_difference_of_each_stage_is_told(obzen):
    ended = two(obzen, HELLO, HELLO.replace("return n * 2", "return n * 2 if n != 6 else 13"))
    assert ended.code == 1
    for word in ("double@6", "12 (int)", "13 (int)", "total@0", "2 differences"):
        assert word in ended.out, word
    (report,) = obzen("verify", "one", "two", "--json").lines
    assert [each["event"] for each in report["differences"]] == ["double@6", "total@0"]


def test_the_report_says_what_was_compared_as_a_multiset(obzen):
    text = HEAD + 'flow = oz.Flow("fan", [numbers, numbers.named("more")] >> double >> show)\n'
    ended = two(obzen, text, text)
    assert ended.code == 0
    assert "20 events, as a multiset by source event: the same" in ended.out


def test_runs_of_other_flows_are_refused(obzen):
    ended = two(obzen, HELLO, LETTERS)
    refused(ended, 3, "different flows", "picky")


def test_a_damaged_run_is_refused(obzen):
    two(obzen, HELLO, HELLO)
    segment = next((obzen.folder / "runs" / "two" / "journal").glob("*.seg"))
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 0xFF
    segment.write_bytes(data)
    refused(obzen("verify", "one", "two"), 3)
