"""Two sources into one stage: the order they are taken in differs from run to run, what is taken does not."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

import obzen_runtime as oz
from obzen_runtime.connect import jsonl_sink


class Reading(msgspec.Struct, frozen=True):
    sensor: str
    number: int


@oz.source
def north(count: int = 60_000) -> Iterator[Reading]:
    for number in range(count):
        yield Reading("north", number)


@oz.source
def south(count: int = 40_000) -> Iterator[Reading]:
    for number in range(count):
        yield Reading("south", number)


@oz.transform
def doubled(reading: Reading) -> Iterator[Reading]:
    yield reading
    if reading.number % 3 == 0:
        yield Reading(reading.sensor + "'", reading.number)


@oz.transform
def checked(reading: Reading) -> Reading:
    if reading.number % 1000 == 999:
        raise ValueError(f"{reading.number} is out of range")
    return reading


flow = oz.Flow("fanin", [north, south] >> doubled >> checked >> jsonl_sink("readings", Reading, path=Path("readings.jsonl")))
