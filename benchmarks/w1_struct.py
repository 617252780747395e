"""What does a struct of six fields cost on the same way, rebuilt in each transform, against a bare loop?"""

from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter

import msgspec

import obzen_runtime as oz
from benchmarks.flows import through
from benchmarks.harness import Case, Question, Target, checked

__all__ = ["QUESTION", "Trade", "bare", "build", "trades"]


class Trade(msgspec.Struct, frozen=True):
    """About 85 bytes encoded."""

    ident: int
    at: int
    price: float
    symbol: str
    venue: str
    trader: str


def trades(size: int) -> Iterator[Trade]:
    for n in range(size):
        yield Trade(n, 1_700_000_000_000 + n, 100.25, "OBZN", "XETRA", "desk-7")


def amend(trade: Trade) -> Trade:
    return Trade(trade.ident + 1, trade.at, trade.price * 2.0, trade.symbol, trade.venue, trade.trader)


def bare(size: int, place: Path) -> float:
    """The same generator and functions with nothing around them."""
    f = amend
    total = 0
    begun = perf_counter()
    for trade in trades(size):
        total += f(f(f(trade))).ident
    seconds = perf_counter() - begun
    checked("bare loop", total, expected(size))
    return seconds / size


def expected(size: int) -> int:
    return size * (size - 1) // 2 + 3 * size


def build(size: int) -> tuple[oz.Flow, Callable[[], None]]:
    total = 0

    @oz.source
    def made() -> Iterator[Trade]:
        yield from trades(size)

    @oz.sink
    def add_up(trade: Trade) -> None:
        nonlocal total
        total += trade.ident

    first, second, third = (oz.transform(amend).named(f"amend_{number}") for number in (1, 2, 3))
    flow = oz.Flow("structs", made >> first >> second >> third >> add_up)
    return flow, lambda: checked("sum", total, expected(size))


QUESTION = Question(
    name="w1_struct",
    unit="events",
    size=500_000,
    yardsticks={"bare loop": bare},
    cases=(
        Case("os", through(build, "os"), "bare loop", Target(0.35)),
        Case("memory", through(build, "memory"), "bare loop"),
        Case("fsync", through(build, "fsync"), "bare loop"),
    ),
)
