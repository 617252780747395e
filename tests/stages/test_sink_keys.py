"""Keyed sinks: an event has one key, whatever died, and a try of it is counted."""

from collections.abc import Iterator, Sequence

import pytest

import obzen_runtime as oz
from tests.flow.kit import Mortal, ints, play
from tests.stages.deliveries import DEATHS, count_appends, sound


@DEATHS
@pytest.mark.parametrize("shape", ["function", "class", "batch", "async", "lanes"])
def test_a_keyed_sink_gets_the_same_key_for_an_event_after_every_death(shape, written):
    got = []

    def flow_of():
        if shape == "class":

            @oz.sink(delivery="keyed")
            class Charge:
                def write(self, n: int, *, key: oz.IdempotencyKey) -> None:
                    got.append((n, key))

        elif shape == "batch":

            @oz.sink(delivery="keyed", batch=4)
            def Charge(batch: list[int], *, keys: Sequence[oz.IdempotencyKey]) -> None:
                got.extend(zip(batch, keys, strict=True))

        elif shape == "function":

            @oz.sink(delivery="keyed")
            def Charge(n: int, ctx: oz.Context, *, key: oz.IdempotencyKey) -> None:
                assert key.endswith(ctx.event.id)
                got.append((n, key))

        else:

            @oz.sink(delivery="keyed", concurrency=3 if shape == "lanes" else 1)
            async def Charge(n: int, ctx: oz.Context, *, key: oz.IdempotencyKey) -> None:
                assert key.endswith(ctx.event.id)
                got.append((n, key))

        return oz.Flow("f", ints(12) >> Charge, window=oz.Window(events=4))

    for death in range(count_appends(flow_of)):
        got.clear()
        journal = Mortal(written=written)
        journal.live(flow_of(), death)
        sound(journal.live(flow_of()))
        assert set(got) == {(n, f"run/Charge/s@{n}") for n in range(12)}, death
        assert all(key.attempt == 1 for _, key in got)


def test_a_key_counts_the_tries_of_its_event():
    tries = []

    @oz.sink(delivery="keyed", retry=oz.Retry(attempts=3, base=1.0))
    def pay(n: int, *, key: oz.IdempotencyKey) -> None:
        tries.append((n, key.attempt))
        if n == 2 and key.attempt < 3:
            raise oz.Transient("busy")

    sound(play(oz.Flow("f", ints(4) >> pay)))
    assert tries == [(0, 1), (1, 1), (2, 1), (2, 2), (2, 3), (3, 1)]


def test_a_batch_that_failed_counts_as_a_try_of_each_of_its_events():
    tries = []

    @oz.sink(delivery="keyed", batch=3)
    def pay(batch: list[int], *, keys: Sequence[oz.IdempotencyKey]) -> None:
        tries.append([(str(key), key.attempt) for key in keys])
        if 1 in batch:
            raise ValueError("one")

    sound(play(oz.Flow("f", ints(4) >> pay)))
    first = [f"run/pay/s@{n}" for n in range(4)]
    assert tries == [[(key, 1) for key in first[:3]], *[[(key, 2)] for key in first[:3]], [(first[3], 1)]]


def test_two_writers_into_one_sink_are_told_apart():
    keys = []

    @oz.source
    def more() -> Iterator[int]:
        yield from range(3)

    @oz.sink(delivery="keyed")
    def pay(n: int, *, key: oz.IdempotencyKey) -> None:
        keys.append(key)

    sound(play(oz.Flow("f", [ints(3), more] >> pay)))
    assert sorted(keys) == sorted(f"run/pay/{source}@{n}" for source in ("s", "more") for n in range(3))
