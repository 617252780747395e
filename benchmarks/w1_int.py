"""What does an int cost on its way from a source through three transforms into a sink, against a bare loop?"""

from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter

import obzen_runtime as oz
from benchmarks.flows import through
from benchmarks.harness import Case, Question, Target, checked

__all__ = ["QUESTION", "bare", "build", "pipeline"]


def increment(n: int) -> int:
    return n + 1


def bare(size: int, place: Path) -> float:
    """The same work with nothing around it."""
    f = increment
    total = 0
    begun = perf_counter()
    for x in range(size):
        total += f(f(f(x)))
    seconds = perf_counter() - begun
    checked("bare loop", total, expected(size, 3))
    return seconds / size


def expected(size: int, transforms: int) -> int:
    return size * (size - 1) // 2 + transforms * size


def pipeline(size: int, transforms: int) -> tuple[oz.Flow, Callable[[], None]]:
    """A flow of that many transforms that add one, and the check of its sum."""
    total = 0

    @oz.source
    def numbers() -> Iterator[int]:
        yield from range(size)

    def adder() -> Callable[[int], int]:
        def add(n: int) -> int:
            return n + 1

        return add

    @oz.sink
    def add_up(n: int) -> None:
        nonlocal total
        total += n

    stages = numbers
    for number in range(transforms):
        stages = stages >> oz.transform(adder()).named(f"add_{number + 1}")
    return oz.Flow("ints", stages >> add_up), lambda: checked("sum", total, expected(size, transforms))


def build(size: int) -> tuple[oz.Flow, Callable[[], None]]:
    return pipeline(size, 3)


QUESTION = Question(
    name="w1_int",
    unit="events",
    size=1_000_000,
    yardsticks={"bare loop": bare},
    cases=(
        Case("os", through(build, "os"), "bare loop", Target(0.25)),
        Case("memory", through(build, "memory"), "bare loop", Target(0.42)),
        Case("fsync", through(build, "fsync"), "bare loop"),
    ),
)
