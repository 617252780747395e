"""What does an int cost on the same way through `async def` handlers that do not wait, against a bare loop of awaits?"""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter

import obzen_runtime as oz
from benchmarks.flows import through
from benchmarks.harness import Case, Question, Target, checked
from benchmarks.w1_int import expected

__all__ = ["QUESTION", "bare", "build"]


async def increment(n: int) -> int:
    return n + 1


async def _loop(size: int) -> int:
    f = increment
    total = 0
    for x in range(size):
        total += await f(await f(await f(x)))
    return total


def bare(size: int, place: Path) -> float:
    """The same work with nothing around it."""
    begun = perf_counter()
    total = asyncio.run(_loop(size))
    seconds = perf_counter() - begun
    checked("bare loop", total, expected(size, 3))
    return seconds / size


def build(size: int) -> tuple[oz.Flow, Callable[[], None]]:
    total = 0

    @oz.source
    def numbers() -> Iterator[int]:
        yield from range(size)

    @oz.sink
    async def add_up(n: int) -> None:
        nonlocal total
        total += n

    first, second, third = (oz.transform(increment).named(f"add_{number}") for number in (1, 2, 3))
    flow = oz.Flow("awaited", numbers >> first >> second >> third >> add_up)
    return flow, lambda: checked("sum", total, expected(size, 3))


QUESTION = Question(
    name="w1_async",
    unit="events",
    size=500_000,
    yardsticks={"bare loop": bare},
    cases=(
        Case("os", through(build, "os"), "bare loop", Target(0.3)),
        Case("memory", through(build, "memory"), "bare loop"),
    ),
)
