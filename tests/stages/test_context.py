"""What a handler may ask: which event it has, its time, and chance that repeats."""

from collections.abc import Iterator

import pytest

import obzen_runtime as oz
from tests.stages.kit import Seen, Tag, VirtualClock, ints, passed, play


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_context_names_the_event_at_hand_after_drops_failures_and_routing(asynchronous):
    @oz.transform
    def mixed(x: int) -> int | str | None:
        return None if x % 5 == 0 else str(x) if x % 2 else x

    def tagged(x: int, ctx: oz.Context) -> Tag | None:
        if x % 3 == 0:
            raise ValueError("no multiples of three")
        return None if x % 7 == 0 else Tag(x, ctx.event.id)

    if asynchronous:

        @oz.transform
        async def tag(x: int, ctx: oz.Context) -> Tag | None:
            return tagged(x, ctx)

    else:
        tag = oz.transform(tagged).named("tag")

    seen, texts = Seen(), Seen()
    done = play(oz.Flow("f", ints(200) >> mixed >> tag >> seen.sink(Tag), mixed >> texts.sink(str).named("texts")))
    passed(done)
    values = {ordinal: value for ordinal, value in done.events("mixed").items() if isinstance(value, int)}
    expected = [Tag(value, f"mixed@{ordinal}") for ordinal, value in values.items() if value % 3 and value % 7]
    assert seen == expected
    assert [f"{name}@{number}" for name, number in done.parents("tag").values()] == [each.parent for each in expected]
    assert sorted(done.lost("tag")["dead"]) == [ordinal for ordinal, value in values.items() if value % 3 == 0]


def test_a_context_names_the_event_at_hand_behind_an_unfinished_generator():
    @oz.transform
    def spread(x: int, ctx: oz.Context) -> Iterator[Tag]:
        event = ctx.event.id
        for n in range(5000 if x == 1 else 1):
            yield Tag(n, event)

    seen = Seen()
    done = play(oz.Flow("f", ints(4) >> spread >> seen.sink(Tag)))
    passed(done)
    assert [each.parent for each in seen] == ["s@0", *["s@1"] * 5000, "s@2", "s@3"]


def test_time_and_chance_are_the_same_whenever_an_event_is_processed():
    drawn: list[tuple] = []

    @oz.transform
    def draw(x: int, ctx: oz.Context) -> int:
        drawn.append((ctx.event.ordinal, ctx.random.random(), ctx.random.random(), ctx.uuid(), ctx.uuid()))
        return x

    for window in (4, 4096):
        drawn.append(())
        play(oz.Flow("f", ints(10) >> draw >> Seen().sink(), window=oz.Window(events=window)))
    runs = drawn[1:11], drawn[12:]
    assert runs[0] == runs[1], "whatever the slicing"
    assert len({each for row in runs[0] for each in row[1:]}) == 40, "each draw and each event differs"
    assert all(row[3].version == 4 for row in runs[0])


@pytest.mark.parametrize("options", [{}, {"concurrency": 3}])
def test_the_time_of_a_context_is_that_of_the_block_that_brought_the_event(options):
    times: list[int] = []
    clock = VirtualClock()

    @oz.source
    def slow() -> Iterator[int]:
        for number in range(5):
            clock.spend(0.01)
            yield number

    def stamped(x: int, ctx: oz.Context) -> int:
        clock.spend(0.01)
        times.append(round(ctx.now().timestamp() * 1000))
        assert ctx.stage == "stamp"
        return x

    async def waits(x: int, ctx: oz.Context) -> int:
        return stamped(x, ctx)

    stamp = oz.transform(**options)(waits if options else stamped).named("stamp")
    done = play(oz.Flow("f", slow >> stamp >> Seen().sink()), clock=clock)
    assert times == [block.at for block in done.blocks("slow") for _ in range(block.count)]
    assert len(set(times)) > 1
