"""What does an append cost, of 256 structs or of one, against encoding, summing and writing the same bytes by hand?"""

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from zlib import crc32

import msgspec

import obzen_runtime as oz
from benchmarks.harness import Case, Measure, Question, Target, checked
from benchmarks.w1_struct import Trade, trades
from obzen_runtime.events import Block, Cursor, Slice
from obzen_runtime.journal import SegmentOptions, level_from

__all__ = ["QUESTION"]

BLOCK = 256
_AT = 1_700_000_000_000
_ROUND = 64  # appends between two looks of the loop at other work: a sync that is done
_SWITCH_INTERVAL = 0.0002
encode = msgspec.msgpack.Encoder().encode


def by_hand(length: int) -> Measure:
    """One payload encoded, one CRC, one write for each `length` events."""

    def measure(size: int, place: Path) -> float:
        lists = _lists(size, length)
        written = 0
        descriptor = os.open(place / "by-hand", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            begun = perf_counter()
            for items in lists:
                payload = encode(items)
                crc32(payload)
                written += os.write(descriptor, payload)
            seconds = perf_counter() - begun
        finally:
            os.close(descriptor)
        checked("bytes by hand", (place / "by-hand").stat().st_size, written)
        return seconds / size

    return measure


def appended(level: str, length: int) -> Measure:
    """The journal's way for each `length` events, until all of it has the level's durability."""

    def measure(size: int, place: Path) -> float:
        interval = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_INTERVAL)
        try:
            return asyncio.run(_append(level, _lists(size, length), place)) / size
        finally:
            sys.setswitchinterval(interval)

    return measure


async def _append(level: str, lists: Sequence[list[Trade]], place: Path) -> float:
    journal = oz.SegmentJournal.open(place / "run", options=SegmentOptions(level=level_from(level)))
    base = 0
    begun = perf_counter()
    for number, items in enumerate(lists, 1):
        length = len(items)
        inputs = (Slice("trades", base, base + length),)
        cursor = Cursor({"trades": base + length}, base + length)
        journal.append([Block("amend", base, length, _AT, encode(items), inputs=inputs, cursor=cursor)])
        base += length
        if number % _ROUND == 0:
            await asyncio.sleep(0)
    await journal.durable(journal.head)
    seconds = perf_counter() - begun
    checked("positions", journal.head, len(lists))
    last = [entry.record async for entry in journal.read(journal.head)]
    checked("last block", [(each.base, each.payloads) for each in last if isinstance(each, Block)], [(base - length, encode(lists[-1]))])
    await journal.close()
    return seconds


def _lists(size: int, length: int) -> list[list[Trade]]:
    every = list(trades(size))
    return [every[start : start + length] for start in range(0, size, length)]


def _case(level: str, length: int, target: Target | None = None, share: float = 1.0) -> Case:
    name = level if length == BLOCK else f"{level}, one an append"
    return Case(name, appended(level, length), _by(length), target, share)


def _by(length: int) -> str:
    return "by hand" if length == BLOCK else "by hand, one a write"


QUESTION = Question(
    name="w5_journal",
    unit="events",
    size=300_000,
    yardsticks={_by(BLOCK): by_hand(BLOCK), _by(1): by_hand(1)},
    cases=(
        _case("os", BLOCK, Target(0.8)),
        _case("interval(10)", BLOCK),
        _case("fsync", BLOCK),
        _case("os", 1, share=0.1),
    ),
)
