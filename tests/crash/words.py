"""The words of a text, counted: a generator that cannot seek, events that become many, one state per word, a CSV."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

import obzen_runtime as oz
from obzen_runtime.connect import csv_sink


class Line(msgspec.Struct, frozen=True):
    number: int
    text: str


class Word(msgspec.Struct, frozen=True):
    text: str


class Count(msgspec.Struct, frozen=True):
    word: str
    count: int


@oz.source
def lines(path: Path = Path("text.txt")) -> Iterator[Line]:
    with path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, 1):
            yield Line(number, text)


@oz.transform
def words(line: Line) -> Iterator[Word]:
    for text in line.text.lower().split():
        yield Word(text.strip(".,;:!?\"'()"))


@oz.stateful(key=lambda word: word.text, emit=oz.at_end())
class Tally:
    count: int = 0

    def fold(self, word: Word) -> None:
        self.count += 1

    def emit(self, key: str) -> Count:
        return Count(key, self.count)


flow = oz.Flow("words", lines >> words >> Tally >> csv_sink("counts", Count, path=Path("counts.csv")))
