"""How long does a whole process take for a flow of one event, from the command and from a program?"""

import subprocess
import sys
from pathlib import Path
from time import perf_counter

from benchmarks.harness import Case, Measure, Question, Target, checked

__all__ = ["QUESTION"]

PROGRAM = """\
from collections.abc import Iterator

import obzen_runtime as oz


@oz.source
def one() -> Iterator[int]:
    yield 42


@oz.sink
def show(n: int) -> None:
    print("got", n)


flow = oz.Flow("one", one >> show)

if __name__ == "__main__":
    oz.run(flow)
"""
COMMAND = ["-c", "import sys; from obzen_runtime.cli import main; sys.exit(main())", "run"]
_TIMEOUT = 60.0


def process(*before: str) -> Measure:
    """Seconds from starting the interpreter to its end; the size is how often."""

    def measure(size: int, place: Path) -> float:
        program = place / "one.py"
        program.write_text(PROGRAM, encoding="utf-8")
        command = [sys.executable, *before, str(program)]
        seconds = 0.0
        for _ in range(size):
            begun = perf_counter()
            done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_TIMEOUT, cwd=place)
            seconds += perf_counter() - begun
            checked("output", "got 42" in done.stdout, True)
        return seconds / size

    return measure


QUESTION = Question(
    name="start",
    unit="s",
    size=3,
    figure=True,
    cases=(
        Case("obzen run", process(*COMMAND), "", Target(0.6, "at most", "figure")),
        Case("python, oz.run", process()),
        Case("python, nothing", lambda size, place: _nothing(size)),
    ),
)


def _nothing(size: int) -> float:
    """What the interpreter takes by itself."""
    begun = perf_counter()
    for _ in range(size):
        subprocess.run([sys.executable, "-c", "pass"], check=True, timeout=_TIMEOUT)
    return (perf_counter() - begun) / size
