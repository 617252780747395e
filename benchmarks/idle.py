"""How much of a core do 100 stages take that have nothing to do?"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from time import perf_counter, process_time

import obzen_runtime as oz
from benchmarks.harness import Case, Measure, Question, Target, checked
from benchmarks.w1_int import increment

__all__ = ["QUESTION"]

STAGES = 100


def idling(level: str) -> Measure:
    """Percent of a core, over `size` milliseconds."""

    def measure(size: int, place: Path) -> float:
        return asyncio.run(_idle(level, size / 1000, place))

    return measure


async def _idle(level: str, seconds: float, place: Path) -> float:
    seen = asyncio.Event()
    never = asyncio.Event()

    @oz.source
    async def waits() -> AsyncIterator[int]:
        yield 1
        await never.wait()

    @oz.sink
    def arrived(n: int) -> None:
        checked("event", n, STAGES - 1)
        seen.set()

    stages = waits
    for number in range(STAGES - 2):
        stages = stages >> oz.transform(increment).named(f"add_{number}")
    journal = oz.MemoryJournal() if level == "memory" else str(place)
    async with oz.start(oz.Flow("idle", stages >> arrived), journal=journal) as handle:
        await seen.wait()
        begun, used = perf_counter(), process_time()
        await asyncio.sleep(seconds)
        share = (process_time() - used) / (perf_counter() - begun)
        report = await handle.cancel()
    checked("stages", (len(report.stages), report.state), (STAGES, "cancelled"))
    return 100 * share


QUESTION = Question(
    name="idle",
    unit="% of a core",
    size=3_000,
    rounds=3,
    figure=True,
    cases=tuple(Case(level, idling(level), "", Target(0.5, "at most", "figure")) for level in ("memory", "os")),
)
