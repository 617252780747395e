"""What does a running sum per key cost, over 1,000 keys, against a bare loop over a dict?"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from time import perf_counter

import obzen_runtime as oz
from benchmarks.flows import through
from benchmarks.harness import Case, Question, Target, checked

__all__ = ["QUESTION", "bare", "build"]

KEYS = 1_000


def key_of(n: int) -> int:
    return n % KEYS


def add_to(value: int, n: int) -> int:
    return value + n


def bare(size: int, place: Path) -> float:
    """The same sums in a dict: key and sum are the user's functions there too."""
    key, add = key_of, add_to
    sums: dict[int, int] = {}
    total = 0
    begun = perf_counter()
    for x in range(size):
        k = key(x)
        sums[k] = value = add(sums.get(k, 0), x)
        total += value
    seconds = perf_counter() - begun
    checked("bare loop", total, expected(size))
    return seconds / size


def expected(size: int) -> int:
    """All running sums added up: n is in its own sum and in those of all later events with its key."""
    total = 0
    for key in range(min(KEYS, size)):
        count = (size - key + KEYS - 1) // KEYS
        total += key * count * (count + 1) // 2 + KEYS * (count - 1) * count * (count + 1) // 6
    return total


def build(size: int, given: Iterable[int] | None = None) -> tuple[oz.Flow, Callable[[], None]]:
    """The flow over 0 … size - 1, or over an iterable that gives the same."""
    total = 0

    @oz.source
    def numbers() -> Iterator[int]:
        yield from range(size) if given is None else given

    @oz.stateful(key=key_of, emit=oz.each())
    class Sum:
        value: int = 0

        def fold(self, n: int) -> None:
            self.value += n

        def emit(self, key: int) -> int:
            return self.value

    @oz.sink
    def add_up(value: int) -> None:
        nonlocal total
        total += value

    flow = oz.Flow("sums", numbers >> oz.stage(Sum) >> add_up)
    return flow, lambda: checked("running sums", total, expected(size))


QUESTION = Question(
    name="w2_keyed",
    unit="events",
    size=1_000_000,
    yardsticks={"bare loop": bare},
    cases=(
        Case("os", through(build, "os"), "bare loop", Target(0.3)),
        Case("memory", through(build, "memory"), "bare loop"),
    ),
)
