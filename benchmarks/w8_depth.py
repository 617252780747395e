"""Does a stage-event cost the same in a deep flow? Ints through 1, 3, 10, 30 and 100 transforms."""

from collections.abc import Callable
from pathlib import Path

import obzen_runtime as oz
from benchmarks.flows import flow_cost
from benchmarks.harness import Case, Measure, Question, Target
from benchmarks.w1_int import pipeline

__all__ = ["QUESTION"]

DEPTHS = (1, 3, 10, 30, 100)


def at_depth(transforms: int) -> Measure:
    """Seconds per event and stage; the source and the sink are stages too. The size is in stage-events."""
    stages = transforms + 2

    def build(size: int) -> tuple[oz.Flow, Callable[[], None]]:
        return pipeline(size, transforms)

    def measure(size: int, place: Path) -> float:
        return flow_cost(build, "os", max(1, size // stages), place) / stages

    return measure


QUESTION = Question(
    name="w8_depth",
    unit="stage-events",
    size=10_000_000,
    yardsticks={"3 transforms": at_depth(3)},
    cases=tuple(
        Case(f"{depth} transforms", at_depth(depth), "3 transforms", Target(1.15, "at most") if depth == max(DEPTHS) else None)
        for depth in DEPTHS
    ),
    cost=True,
)
