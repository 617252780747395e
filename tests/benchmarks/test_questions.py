import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.harness import Plan, answer, asked, find, names
from benchmarks.report import svg, table

SMALL = {"memory": 3_000, "idle": 20, "start": 1, "w8_depth": 600}
"""Sizes at which a question is only shown to work."""
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", names())
def test_a_question_is_asked_and_answered_with_its_work_checked(name, tmp_path):
    found = answer(name, Plan(SMALL.get(name, 300), 1, tmp_path))
    assert [case.case for case in found.cases] == [case.name for case in find(name).cases]
    for case in found.cases:
        assert len(case.values) == 1
        assert case.values[0] >= 0
        assert len(case.ratios) == (1 if case.yardstick else 0)
        assert (case.met is None) == (case.target == "")
    assert asked(name) in table(found)
    assert svg(found).count("<rect") == 1 + sum(2 if case.yardstick else 1 for case in found.cases)
    assert list(tmp_path.iterdir()) == []


def test_the_command_lists_every_question_with_what_it_asks():
    done = subprocess.run([sys.executable, "-m", "benchmarks"], capture_output=True, text=True, check=True, cwd=ROOT, timeout=50)
    assert [line.split()[0] for line in done.stdout.splitlines()] == names()
    assert all(asked(name) in done.stdout for name in names())


def test_the_command_keeps_json_and_a_drawing_where_it_is_told(tmp_path):
    options = ["--size", "100", "--rounds", "2", "--json", "--plot", "--results", str(tmp_path / "new" / "one")]
    command = [sys.executable, "-m", "benchmarks", "w4_machine", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=50)
    printed = json.loads(done.stdout)
    made = sorted((tmp_path / "new" / "one").iterdir())
    assert [each.suffix for each in made] == [".json", ".svg"]
    assert json.loads(made[0].read_text()) == printed
    assert printed["machine"]["cores"] >= 1
    assert printed["rounds"] == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["w99"], "there is no question 'w99'; there are idle, "),
        (["w4_machine", "--size", "0"], "argument --size: 0 is no number from 1 on"),
        (["w4_machine", "--rounds", "few"], "argument --rounds: few is no number from 1 on"),
        (["w4_machine", "--results", "{file}/x"], "results cannot be kept in "),
    ],
)
def test_the_command_refuses_in_a_line_what_it_cannot_do(words, said, tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as refused:
        main([word.format(file=tmp_path / "file") for word in words])
    assert refused.value.code == 2
    assert said in capsys.readouterr().err
