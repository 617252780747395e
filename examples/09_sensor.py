"""Kill it and resume it: readings come slowly, so there is time to. What is written to the file is the same either way.

    obzen run 09_sensor.py --set readings.count=6000 & sleep 3; kill -9 $!
    obzen resume --last
    obzen replay --last --verify
"""

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

import obzen_runtime as oz
from obzen_runtime.connect import csv_sink


class Reading(msgspec.Struct, frozen=True):
    number: int
    degrees: float


class Mean(msgspec.Struct, frozen=True):
    number: int
    degrees: float


@oz.source
def readings(start: oz.Offset = None, *, count: int = 200) -> Iterator[oz.At[int, Reading]]:
    """Started again, it gets the offset of the last reading that the journal holds, and goes on with the next one."""
    for number in range(0 if start is None else start + 1, count):
        time.sleep(0.001)
        yield oz.At(number, Reading(number, 20.0 + number % 7))


@oz.fold((0, 0.0), emit=oz.each())
def total(acc: tuple[int, float], reading: Reading) -> tuple[int, float]:
    return acc[0] + 1, acc[1] + reading.degrees


@oz.transform
def mean(acc: tuple[int, float]) -> Mean:
    return Mean(acc[0], round(acc[1] / acc[0], 3))


means = csv_sink("means", Mean, path=Path("means.csv"))

flow = oz.Flow("sensor", readings >> total >> mean >> means)

if __name__ == "__main__":
    oz.run(flow)
    print(Path("means.csv").read_text().splitlines()[-1])

# expect: 200,22.97
