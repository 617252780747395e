"""How long after the start of a process does a run of ten million events, killed near its end, take its next event?"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import obzen_runtime as oz
from benchmarks.harness import Case, Measure, Question, Target
from obzen_runtime.events import Block
from obzen_runtime.journal import SegmentJournal

__all__ = ["QUESTION"]

_TIMEOUT = 900.0
_KEYS = 1000


def ints(size: int) -> oz.Flow:
    """W1-int with a source that seeks."""

    @oz.source
    def numbers(start: oz.Offset = None) -> Iterator[oz.At[int, int]]:
        yield from _from(start, size)

    @oz.transform
    def add(n: int) -> int:
        return n + 1

    @oz.sink
    def take(n: int) -> None: ...

    return oz.Flow("long", numbers >> add.named("add_1") >> add.named("add_2") >> add.named("add_3") >> take)


def keyed(size: int) -> oz.Flow:
    """W2 with a source that seeks: its state comes back from a snapshot."""

    @oz.source
    def numbers(start: oz.Offset = None) -> Iterator[oz.At[int, int]]:
        yield from _from(start, size)

    @oz.stateful(key=lambda n: n % _KEYS, emit=oz.at_end())
    class Sums:
        total: int = 0

        def fold(self, n: int) -> None:
            self.total += n

        def emit(self, key: int) -> int:
            return self.total

    @oz.sink
    def take(n: int) -> None: ...

    return oz.Flow("long", numbers >> oz.stage(Sums) >> take)


def _from(start: Any, size: int) -> Iterator[Any]:
    """Whole numbers, each thousandth with its offset: that is enough to seek to."""
    for number in range(start or 0, size):
        yield oz.At(number + 1, number) if number % 1000 == 999 else number


FLOWS: dict[str, Callable[[int], oz.Flow]] = {"ints": ints, "keyed": keyed}


def resumed(name: str) -> Measure:
    """Seconds from the start of a process that resumes to its source's first new event in the journal."""

    def measure(size: int, place: Path) -> float:
        _child("live", name, size, place)
        begun = time.monotonic()
        return _child("resume", name, size, place) - begun

    return measure


def _child(*words: Any) -> float:
    command = [sys.executable, "-m", "benchmarks.w9_resume", *map(str, words)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_TIMEOUT, cwd=Path(__file__).parent.parent)
    if done.returncode != -signal.SIGKILL:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
    return float(done.stdout)


def _die_at(first: int) -> None:
    """Kill this process when the journal has taken a block of the source that ends behind `first`, and say when that was."""
    append = SegmentJournal.append

    def dying(journal: SegmentJournal, records: Sequence[Any], **options: Any) -> int:
        position = append(journal, records, **options)
        record = records[0]
        if type(record) is Block and record.stage == "numbers" and record.base + record.count > first:
            os.write(1, str(time.monotonic()).encode())
            os.kill(os.getpid(), signal.SIGKILL)
        return position

    SegmentJournal.append = dying  # type: ignore[method-assign, assignment]


def main() -> None:
    """The process that is killed."""
    step, name, size, place = sys.argv[1:]
    if step == "live":
        _die_at(int(size) * 19 // 20)
        oz.run(FLOWS[name](int(size)), journal=Path(place), run_id="r")
    else:
        _die_at(0)
        oz.resume(FLOWS[name](int(size) + 1), "r", journal=Path(place))  # there is one more, however large the last block was


_MOST = Target(2.0, "at most", "figure")

QUESTION = Question(
    name="w9_resume",
    unit="s",
    size=10_000_000,
    rounds=3,
    figure=True,
    cases=tuple(Case(name, resumed(name), "", _MOST) for name in FLOWS),
)

if __name__ == "__main__":
    main()
