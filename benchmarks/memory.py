"""How much does a process grow between the first tenth of a long run and its end?

Growth is that of the greatest resident size a process of its own ever had, so that what was given back counts too.
"""

import logging
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import obzen_runtime as oz
from benchmarks.flows import run_flow
from benchmarks.harness import Case, Measure, Question, Target, checked
from benchmarks.w1_int import expected
from benchmarks.w2_keyed import build as build_keyed

__all__ = ["QUESTION"]

_UNIT = 1024 if sys.platform == "darwin" else 1  # bytes there, KiB elsewhere
_TIMEOUT = 900.0


def most_resident() -> float:
    """The greatest resident size so far, MiB. On Linux that of this program alone: `ru_maxrss` remembers the parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _UNIT / 1024


class Gauge:
    """Notes the resident size when a tenth of the events has passed the source."""

    def __init__(self) -> None:
        self.early = 0.0

    def watch(self, size: int) -> Iterator[int]:
        yield from range(size // 10)
        self.early = most_resident()
        yield from range(size // 10, size)


def ints(size: int, gauge: Gauge) -> tuple[oz.Flow, Callable[[], None]]:
    """W1-int."""
    total = 0

    @oz.source
    def numbers() -> Iterator[int]:
        yield from gauge.watch(size)

    @oz.transform
    def add(n: int) -> int:
        return n + 1

    @oz.sink
    def add_up(n: int) -> None:
        nonlocal total
        total += n

    flow = oz.Flow("long", numbers >> add.named("add_1") >> add.named("add_2") >> add.named("add_3") >> add_up)
    return flow, lambda: checked("sum", total, expected(size, 3))


def keyed(size: int, gauge: Gauge) -> tuple[oz.Flow, Callable[[], None]]:
    """W2."""
    return build_keyed(size, gauge.watch(size))


WORKLOADS = {"ints": ints, "keyed": keyed}


def grown(workload: str, level: str) -> Measure:
    """MiB between a tenth and the end, in a fresh process."""

    def measure(size: int, place: Path) -> float:
        command = [sys.executable, "-m", "benchmarks.memory", workload, level, str(size), str(place)]
        root = Path(__file__).parent.parent
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=_TIMEOUT, cwd=root)
        return float(done.stdout)

    return measure


def main() -> None:
    """The fresh process: prints the growth."""
    logging.disable(logging.CRITICAL)
    workload, level, size, place = sys.argv[1:]
    gauge = Gauge()
    flow, verify = WORKLOADS[workload](int(size), gauge)
    run_flow(flow, level, Path(place))
    verify()
    print(most_resident() - gauge.early)


_MOST = Target(16, "at most", "figure")

QUESTION = Question(
    name="memory",
    unit="MiB",
    size=10_000_000,
    rounds=1,
    figure=True,
    cases=tuple(
        Case(f"{workload}, {level}", grown(workload, level), "", _MOST)
        for workload in WORKLOADS
        for level in ("memory", "os", "interval(10)", "fsync")
    ),
)

if __name__ == "__main__":
    main()
