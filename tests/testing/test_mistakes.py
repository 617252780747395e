"""Mistakes that users make, and how a simulation tells of them."""

from collections.abc import Iterator

import pytest

import obzen_runtime as oz
from obzen_runtime.testing import Options, Simulator, simulate, world


@oz.source
def numbers() -> Iterator[int]:
    yield from range(20)


@oz.sink
def show(number: int) -> None: ...


def test_a_stage_that_remembers_something_outside_of_its_state_is_told_before_any_crash():
    seen = set()

    @oz.stateful(key=lambda number: number % 3, emit=oz.each())
    class Firsts:
        count: int = 0

        def fold(self, number: int) -> None:
            self.count += number % 3 not in seen
            seen.add(number % 3)

        def emit(self, key: int) -> int:
            return self.count

    with pytest.raises(oz.ObzenError, match="gives something else when the same comes again") as told:
        simulate(oz.Flow("f", numbers >> Firsts >> show), 100)
    assert "Firsts@0 (value): recorded is 1, now it is 0, made of numbers@0 0" in told.value.message
    assert "belongs into its state" in told.value.remedy


def test_a_source_that_has_nothing_left_the_second_time_is_told_before_any_crash():
    items = iter(range(20))

    @oz.source
    def once() -> Iterator[int]:
        yield from items

    with pytest.raises(oz.ObzenError, match="source once gives something else when it is run again: 20 events, then 0"):
        simulate(oz.Flow("f", once >> show), 100)


def test_a_story_tells_what_sinks_had_done_when_a_process_ended():
    def insert(number: int, *, key: oz.IdempotencyKey) -> None:
        world().append("table", number)

    @oz.sink(delivery="keyed", simulate=insert)
    def store(number: int, *, key: oz.IdempotencyKey) -> None: ...

    found = simulate(oz.Flow("f", numbers >> store), 200).violation
    outside = [line.strip() for line in found.story if "outside" in line]
    assert outside == ["outside there is: table 1", "outside there is: table 2"]


def test_sinks_that_are_taken_at_their_word_are_named():
    @oz.sink(delivery="keyed")
    def store(number: int, *, key: oz.IdempotencyKey) -> None:
        str(key)

    def append(number: int) -> None:
        world().append("log", number)

    @oz.sink(simulate=append)
    def note(number: int) -> None: ...

    flow = oz.Flow("f", numbers >> [store, note, show])
    assert Simulator(flow).trusted == ["store (keyed)"]
    assert Simulator(flow, Options(real=True)).trusted == []
