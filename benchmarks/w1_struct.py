"""What does a struct of six fields cost on the same way, rebuilt in each transform, against a bare loop?"""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter

import msgspec

import obzen_runtime as oz
from benchmarks.flows import flow_cost, through
from benchmarks.harness import Case, Question, Target, checked

__all__ = ["QUESTION", "Trade", "bare", "build", "trades"]


_PIECE = 64 << 10


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


def lesser(size: int, place: Path) -> float:
    """The slower of two: the flow at level `os`, and writing the same bytes by hand while a thread syncs them."""
    at_os = flow_cost(build, "os", size, place)
    content = b"".join(path.read_bytes() for path in sorted((place / "run" / "journal").iterdir()))
    return max(at_os, _written(content, place / "by-hand") / size)


def _written(content: bytes, path: Path) -> float:
    """Seconds to write the bytes in pieces of a block's size, one `fdatasync` after the other beside it, until all are synced."""
    done = threading.Event()
    synced: list[int] = []
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def sync() -> None:
        last = False
        while not last:
            last = done.is_set()
            os.fdatasync(descriptor)
            synced.append(1)

    try:
        begun = perf_counter()
        syncing = threading.Thread(target=sync)
        syncing.start()
        written = sum(os.write(descriptor, content[start : start + _PIECE]) for start in range(0, len(content), _PIECE))
        done.set()
        syncing.join()
        seconds = perf_counter() - begun
    finally:
        os.close(descriptor)
    checked("bytes by hand", (written, bool(synced)), (len(content), True))
    return seconds


QUESTION = Question(
    name="w1_struct",
    unit="events",
    size=500_000,
    yardsticks={"bare loop": bare, "os, or by hand": lesser},
    cases=(
        Case("os", through(build, "os"), "bare loop", Target(0.35)),
        Case("memory", through(build, "memory"), "bare loop"),
        Case("fsync", through(build, "fsync"), "os, or by hand", Target(0.8)),
    ),
)
