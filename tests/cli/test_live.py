"""The table as a pure function of a sample, and the rates it shows."""

import pytest
from rich.cells import cell_len

from obzen_runtime.cli.live import Rates, Row, Snapshot, line, render


def shown(*rows, state="running", seconds=1.0, place="runs/x"):
    return Snapshot(flow="orders", state=state, seconds=seconds, place=place, rows=rows)


def test_a_table_has_a_head_the_names_of_the_columns_and_a_row_a_stage():
    rows = (
        Row(name="read", state="running", received=12_345, emitted=12_345, rate=1000.4, progress=0.455),
        Row(name="enrich", state="paused", received=10_000, emitted=9_990, rate=900.0, waiting=2345, dead=10),
    )
    assert render(shown(*rows), 100) == [
        "orders: running  1.0 s  runs/x",
        "stage   state        in     out  events/s  waiting  dead  progress",
        "read    running  12,345  12,345     1,000                      46%",
        "enrich  paused   10,000   9,990       900    2,345    10",
    ]


def test_columns_that_say_nothing_are_left_out():
    assert render(shown(Row(name="a", state="created")))[1] == "stage  state    in  out  events/s"


@pytest.mark.parametrize("width", [2, 5, 20, 40, 79, 200])
@pytest.mark.parametrize("height", [1, 3, 8, 24])
def test_no_line_is_wider_and_no_table_higher_than_the_terminal(width, height):
    rows = [Row(name=f"stage_{n}_数据" * 3, state="running", received=10**12, rate=1e9, dead=n, progress=1.0) for n in range(40)]
    lines = render(shown(*rows, place="runs/" + "x" * 200), width, height)
    assert max(map(cell_len, lines)) <= width
    assert len(lines) <= max(height, 3)


def test_stages_that_have_no_room_are_counted():
    lines = render(shown(*(Row(name=f"s{n}", state="running") for n in range(10))), 80, 8)
    assert lines[-1].startswith("… and 7 more stages")
    assert [row.split()[0] for row in lines[2:-1]] == ["s0", "s1", "s2"]


def test_of_stages_that_have_no_room_the_dead_letters_are_told():
    rows = [Row(name=f"s{n}", state="running", received=9, dead=n) for n in range(10)]
    _, head, _, last = render(shown(*rows), 80, 6)
    assert last.split() == ["…", "and", "9", "more", "stages", "45"]
    assert head.index("dead") + 4 == len(last)


def test_a_narrow_terminal_loses_whole_columns_and_dead_letters_last():
    rows = (Row(name="readings", state="running", received=25_970, emitted=25_970, rate=8000, waiting=9, dead=3, progress=0.5),)
    assert render(shown(*rows), 100)[1].split() == ["stage", "state", "in", "out", "events/s", "waiting", "dead", "progress"]
    assert render(shown(*rows), 44)[1].split() == ["stage", "state", "in", "dead", "progress"]
    assert render(shown(*rows), 30)[1:] == ["stage         in  dead", "readings  25,970     3"]
    assert render(shown(*rows), 16)[1:] == ["stage     dead", "readings     3"]


def test_a_slow_rate_has_a_decimal():
    assert [render(shown(Row(name="a", state="r", rate=rate)))[2].split()[2:] for rate in (0.04, 0.3, 9.94, 9.96)] == [
        [],
        ["0.3"],
        ["9.9"],
        ["10"],
    ]


def test_while_a_run_suspends_it_is_told_how_to_cancel_it():
    assert render(shown(state="suspending"))[0] == "orders: suspending (a second Ctrl-C cancels)  1.0 s  runs/x"
    assert line(shown(state="suspending")).startswith("orders: suspending (a second Ctrl-C cancels) 1.0 s")


def test_a_flow_without_stages_is_a_table_too():
    assert render(shown(place=""))[0] == "orders: running  1.0 s"


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0 s"), (59.94, "59.9 s"), (60, "1:00"), (3599.9, "59:59"), (3661, "1:01:01")])
def test_time_is_told_in_the_unit_that_fits(seconds, text):
    assert f"  {text}" in render(shown(seconds=seconds, place=""))[0]


def test_the_rate_is_that_of_the_last_second_of_samples():
    rates = Rates()
    assert rates.take(0.0, {"a": 0}) == {}
    assert rates.take(0.2, {"a": 100}) == {"a": pytest.approx(500)}
    for sample in range(2, 20):
        found = rates.take(sample / 5, {"a": 100})
    assert found == {"a": 0.0}


def test_a_stage_that_appears_later_has_a_rate_from_its_first_sample():
    rates = Rates()
    rates.take(0.0, {})
    assert rates.take(1.0, {"late": 50}) == {"late": 50.0}


def test_a_run_in_one_line_for_a_log():
    rows = (
        Row(name="read", state="running", received=1200),
        Row(name="letters", state="running", emitted=3),
        Row(name="w", state="r", dead=2),
    )
    assert line(shown(*rows, seconds=61)) == "orders: running 1:01, read 1,200, letters 3, w 0, 2 dead letters"
