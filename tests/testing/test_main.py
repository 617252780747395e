"""`python -m obzen_runtime.testing`: a line for each flow and level, and the first story of a failure."""

import pytest

import obzen_runtime as oz
from obzen_runtime.testing import __main__ as command
from obzen_runtime.testing.flows import FLOWS, numbers
from obzen_runtime.testing.world import world


def test_the_seeds_are_dealt_to_flows_and_levels(monkeypatch, capsys):
    monkeypatch.setattr(command, "FLOWS", {"transform": FLOWS["transform"], "keyed": FLOWS["keyed"]})
    assert command.main(["8", "70"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(", 0 violations")[0] for line in lines] == [
        "transform at os: 2 seeds",
        "transform at fsync: 2 seeds",
        "keyed at os: 2 seeds",
        "keyed at fsync: 2 seeds",
    ]


def test_the_first_violation_ends_it_with_its_story(monkeypatch, capsys):
    def append(number: int, *, key: oz.IdempotencyKey) -> None:
        world().append("table", number)

    @oz.sink(delivery="keyed", simulate=append)
    def store(number: int, *, key: oz.IdempotencyKey) -> None: ...

    monkeypatch.setattr(command, "FLOWS", {"bad": oz.Flow("bad", numbers >> store), "good": FLOWS["keyed"]})
    assert command.main(["800"]) == 1
    told = capsys.readouterr().out
    assert told.startswith("bad at os: seed ")
    assert "twice, once is right" in told
    assert "outside there is: table" in told
    assert "good" not in told


def test_what_is_no_number_is_told_in_a_line(capsys):
    with pytest.raises(SystemExit):
        command.main(["many"])
    assert "invalid int value: 'many'" in capsys.readouterr().err
