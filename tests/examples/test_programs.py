"""The numbered programs print what they say they print."""

import csv
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
EXPECT = "# expect: "


def expected(program: Path) -> list[str]:
    lines = program.read_text(encoding="utf-8").splitlines()
    return [line.removeprefix(EXPECT) for line in lines if line.startswith(EXPECT)]


PROGRAMS = [program for program in sorted(EXAMPLES.glob("[0-9][0-9]_*.py")) if expected(program)]


def play(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=directory, env=environment, capture_output=True, text=True, timeout=50, check=False
    )


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_a_program_prints_what_its_last_lines_say(program, tmp_path):
    done = play(tmp_path, str(program))
    assert done.stdout.splitlines() == expected(program), done.stderr
    assert done.returncode == 0, done.stderr


def test_the_programs_with_expectations_are_found():
    assert {"01_hello", "04_actor", "05_orders_join", "06_flights"} <= {program.stem for program in PROGRAMS}


def test_02_counts_the_words_of_a_text_from_the_command_line(tmp_path):
    text = "The cat; the dog. THE end\nA cat, a dog and (the) rest\n" + "".join(f"{'w' * n} " * n for n in range(5, 15))
    (tmp_path / "words.txt").write_text(text)
    done = play(
        tmp_path,
        "-m",
        "obzen_runtime",
        "run",
        str(EXAMPLES / "02_wordcount.py"),
        "--set",
        "lines.paths=words.txt",
        "--set",
        "report.path=out.csv",
    )
    assert done.returncode == 0, done.stderr
    counts = Counter(word.strip(".,;:!?\"'()") for word in text.lower().split())
    with (tmp_path / "out.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["word", "count"]
    assert rows == [[word, str(count)] for word, count in counts.most_common(10)]
    assert not (tmp_path / "words.csv").exists()


def test_06_reads_other_files_from_the_command_line(tmp_path):
    (tmp_path / "f.json").write_text('[{"date":"","delay":20,"distance":1,"origin":"X","destination":"Y"}]')
    (tmp_path / "a.csv").write_text("iata,name,city,state,country,latitude,longitude\nX,x,x,ZZ,USA,1.0,2.0\n")
    done = play(
        tmp_path,
        "-m",
        "obzen_runtime",
        "run",
        str(EXAMPLES / "06_flights.py"),
        "--set",
        "flights.path=f.json",
        "--set",
        "airports.path=a.csv",
    )
    assert done.returncode == 0, done.stderr
    assert "ZZ: 1 late departures, 20 minutes" in done.stdout.splitlines()


FLOWS = {
    "01_hello": {"numbers"},
    "02_wordcount": {"lines"},
    "06_flights": {"flights", "airports"},
    "08_payments": {"payments"},
    "09_sensor": {"readings"},
}
"""The programs that `obzen run` takes, with their sources."""


@pytest.mark.parametrize(("name", "sources"), FLOWS.items(), ids=FLOWS)
def test_inspect_finds_every_event_of_every_stage_of_a_program_with_its_parents(name, sources, tmp_path):
    (tmp_path / "README.md").symlink_to(ROOT / "README.md")  # what 02 reads
    command = ("-m", "obzen_runtime")
    done = play(tmp_path, *command, "run", str(EXAMPLES / f"{name}.py"), "--run-id", "r", "--quiet", "--json")
    assert done.returncode == 0, done.stderr
    stages = json.loads(done.stdout.splitlines()[-1])["stages"]
    lines = play(tmp_path, *command, "inspect", "r", "--type", "event", "--json").stdout.splitlines()
    parents = {event["event"]: event["parents"] for event in map(json.loads, lines)}
    found = Counter(event.partition("@")[0] for event in parents)
    assert found == {stage: told["emitted"] for stage, told in stages.items() if told["emitted"]}
    for event, ids in parents.items():
        assert bool(ids) != (event.partition("@")[0] in sources), event
        for each in ids:
            stage, _, ordinals = each.partition("@")
            first, _, last = ordinals.partition("..")
            assert f"{stage}@{first}" in parents
            assert f"{stage}@{last or first}" in parents


def test_the_flows_among_the_programs_are_inspected():
    assert set(FLOWS) == {path.stem for path in EXAMPLES.glob("*.py") if "\nflow = " in path.read_text(encoding="utf-8")}
