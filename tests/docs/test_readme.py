"""What the documents say a reader can type, typed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text: str, marker: str) -> list[str]:
    """The shell blocks behind a marker such as `<!-- commands`."""
    return re.findall(rf"<!-- {marker}.*?-->\s*```sh\n(.*?)```", text, flags=re.DOTALL)


def commands(text: str) -> list[str]:
    """The lines of every block of commands."""
    return [line for block in blocks(text, "commands") for line in block.splitlines() if line.strip()]


def python_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


@pytest.fixture
def checkout(tmp_path):
    """A place that looks like the top of the checkout and may be written to."""
    for name in ("examples", "README.md"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def environment():
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def test_the_readme_has_commands_to_run():
    assert len(commands(README)) > 5


def test_the_commands_of_the_readme_run_in_their_order(checkout):
    for command in commands(README):
        done = subprocess.run(["bash", "-c", command], cwd=checkout, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert done.stdout or "words.csv" in command, f"{command} printed nothing"
    assert (checkout / "words.csv").read_text().startswith("word,count\n")


def test_the_story_of_the_readme_is_killed_and_ends_as_one_life(checkout):
    (story,) = blocks(README, "story")
    done = subprocess.run(["bash", "-ec", story], cwd=checkout, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "resumed in runs/" in done.stderr
    assert "drained before" not in done.stderr, "it ended before it was killed"
    assert "0 differences" in done.stdout
    rows = (checkout / "means.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["number", *(str(number) for number in range(1, 3001))]


def test_the_first_flow_of_the_readme_prints_its_total(checkout):
    program = checkout / "first.py"
    program.write_text(python_blocks(README)[0])
    done = subprocess.run([sys.executable, program], cwd=checkout, capture_output=True, text=True, check=False)
    assert done.stdout == "total: 2499950000\n", done.stderr


def test_the_flow_over_own_data_of_the_readme_totals_it_and_keeps_what_is_no_reading(checkout):
    (checkout / "power.py").write_text(python_blocks(README)[1])
    (checkout / "today.jsonl").write_text('{"device":"pump","watts":3.5}\n{"device":"fan"}\n{"device":"pump","watts":2}\n')
    (command,) = re.findall(r"`(obzen run power.py [^`]*)`", README)
    done = subprocess.run(["bash", "-c", command], cwd=checkout, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (checkout / "totals.csv").read_text().split() == ["device,watts", "pump,5.5"]
    letters = subprocess.run(
        ["obzen", "dead-letters", "--last"], cwd=checkout, env=environment(), capture_output=True, text=True, check=False
    )
    assert "today.jsonl:2" in letters.stdout


PAGES = sorted([*(path.name for path in ROOT.glob("*.md")), *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
READERS = {"hello.py", "orders.py"}
"""Programs that the reader is told of as his own."""


@pytest.mark.parametrize("page", PAGES)
def test_every_program_that_a_page_names_is_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    folders = ("obzen_runtime", "tests", "examples", "benchmarks")
    there = [f"/{path.relative_to(ROOT).as_posix()}" for folder in folders for path in (ROOT / folder).rglob("*.py")]
    for name in set(re.findall(r"`([a-z_0-9/]+\.py)`", text)) - READERS:
        assert any(file.endswith(f"/{name}") for file in there), f"{page} names {name}"


@pytest.mark.parametrize("page", PAGES)
def test_the_links_of_a_page_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


def test_the_make_targets_of_the_readme_exist():
    targets = re.findall(r"^make (\w+)$", README, flags=re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {"demo", "test"} <= set(targets)
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


@pytest.mark.parametrize("page", ["docs/guarantees.md", "docs/counts.md"])
def test_every_test_that_a_promise_names_exists(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
    assert len(named) > 30
    for file, test in named:
        source = (ROOT / file).read_text(encoding="utf-8")
        assert not test or f"def {test}(" in source, f"{file} has no {test}"
