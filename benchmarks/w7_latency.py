"""How long is one event on its way, one each millisecond through three stages into a sink, against bare asyncio queues?"""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from time import perf_counter, perf_counter_ns

import obzen_runtime as oz
from benchmarks.flows import run_flow
from benchmarks.harness import Case, Question, Target, checked

__all__ = ["QUESTION"]

_STEP = 0.001
_Share = Callable[[list[int]], float]


def share(hundredths: int, waits: list[int]) -> float:
    """Microseconds that this many hundredths of the events were on their way at the most."""
    return sorted(waits)[max(0, len(waits) * hundredths // 100 - 1)] / 1000


async def moments(size: int) -> AsyncIterator[int]:
    """The time, in ns, once a millisecond; late ones do not shift those that follow."""
    begun = perf_counter()
    for number in range(size):
        await asyncio.sleep(max(0.0, begun + number * _STEP - perf_counter()))
        yield perf_counter_ns()


async def passed_on(given: asyncio.Queue[int | None], taken: asyncio.Queue[int | None]) -> None:
    while (item := await given.get()) is not None:
        await taken.put(item)
    await taken.put(None)


async def _queues(size: int) -> list[int]:
    waits: list[int] = []
    first, second, third, last = (asyncio.Queue[int | None](8192) for _ in range(4))

    async def arrive() -> None:
        while (item := await last.get()) is not None:
            waits.append(perf_counter_ns() - item)

    async with asyncio.TaskGroup() as group:
        group.create_task(passed_on(first, second))
        group.create_task(passed_on(second, third))
        group.create_task(passed_on(third, last))
        group.create_task(arrive())
        async for moment in moments(size):
            await first.put(moment)
        await first.put(None)
    return waits


def queues(figure: _Share, size: int, place: Path) -> float:
    waits = asyncio.run(_queues(size))
    checked("queues", len(waits), size)
    return figure(waits)


def flow(level: str, figure: _Share, size: int, place: Path) -> float:
    waits: list[int] = []

    @oz.source
    async def clock() -> AsyncIterator[int]:
        async for moment in moments(size):
            yield moment

    def same(moment: int) -> int:
        return moment

    @oz.sink
    def arrive(moment: int) -> None:
        waits.append(perf_counter_ns() - moment)

    first, second, third = (oz.transform(same).named(f"pass_{number}") for number in (1, 2, 3))
    run_flow(oz.Flow("latency", clock >> first >> second >> third >> arrive), level, place)
    checked(f"flow at level {level}", len(waits), size)
    return figure(waits)


_HALF, _MOST = partial(share, 50), partial(share, 99)

QUESTION = Question(
    name="w7_latency",
    unit="µs",
    size=2000,
    figure=True,
    cost=True,
    yardsticks={"queues, half": partial(queues, _HALF), "queues, 99 %": partial(queues, _MOST)},
    cases=(
        Case("os, half", partial(flow, "os", _HALF), "queues, half", Target(2.5, "at most")),
        Case("os, 99 %", partial(flow, "os", _MOST), "queues, 99 %", Target(4.0, "at most")),
        Case("fsync, half", partial(flow, "fsync", _HALF), "queues, half"),
        Case("fsync, 99 %", partial(flow, "fsync", _MOST), "queues, 99 %"),
    ),
)
