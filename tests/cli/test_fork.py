"""`obzen fork`: another run from the same past, beside the first."""

import pytest

from tests.cli.kit import HELLO, refused


@pytest.fixture
def head(obzen):
    assert obzen.run(HELLO, "-q", "--run-id", "one", "--set", "numbers.count=50").code == 0
    (report,) = obzen("journal", "check", "one", "--json").lines
    return report["head"]


def test_a_fork_is_made_beside_its_origin_and_says_where_it_parts(obzen, head):
    ended = obzen("fork", "one", "--at", str(head), "--run-id", "two")
    assert ended.code == 0
    assert ended.out == f"runs/two: forked from one behind position {head:,}\n"
    assert "obzen resume runs/two" in ended.err
    assert obzen("journal", "check", "two").code == 0
    assert obzen("journal", "check", "one").code == 0


def test_a_fork_gets_a_name_of_its_own_and_is_told_as_json(obzen, head):
    (told,) = obzen("fork", "--last", "--at", str(head // 2), "--live", "--json").lines
    assert told["origin"] == "one"
    assert 0 < told["position"] <= head // 2
    (forked,) = obzen("inspect", told["run"], "--type", "run.forked", "--json").lines
    assert (forked["origin"], forked["live"]) == ("one", True)


def test_what_cannot_be_forked_is_refused_in_a_line(obzen, head):
    refused(obzen("fork", "one", "--at", "0"), 64, "position 0")
    refused(obzen("fork", "one", "--at", str(head + 1)), 64, f"1 to {head}")
    refused(obzen("fork", "one", "--at", "x"), 64)
    refused(obzen("fork", "one"), 64, "--at")
    refused(obzen("fork", "none", "--at", "1"), 64, "none")
    refused(obzen("fork", "one", "--at", "5", "--run-id", "one"), 64, "exists")
    refused(obzen("fork", "one", "--at", "5", "--run-id", "a b"), 64)
