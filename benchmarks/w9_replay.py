"""What does a replay with proof cost against the live run of the same struct flow?"""

from pathlib import Path
from time import perf_counter

import obzen_runtime as oz
from benchmarks.flows import flow_cost
from benchmarks.harness import Case, Question, Target, checked
from benchmarks.w1_struct import build
from obzen_runtime.journal import SegmentReader

__all__ = ["QUESTION"]


def live(size: int, place: Path) -> float:
    """W1-struct at level `os`."""
    return flow_cost(build, "os", size, place)


def replayed(size: int, place: Path) -> float:
    """The same run, which nobody times, replayed and verified."""
    flow_cost(build, "os", size, place)
    begun = perf_counter()
    report = oz.replay(build(size)[0], SegmentReader.open(place / "run"))
    seconds = perf_counter() - begun
    checked("replay", (report.certified, report.differences, report.events), (True, (), 4 * size))
    return seconds / size


QUESTION = Question(
    name="w9_replay",
    unit="events",
    size=300_000,
    yardsticks={"live run": live},
    cases=(Case("verified", replayed, "live run", Target(0.6)),),
)
