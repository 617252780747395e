"""Transforms: every shape of handler gives what it says, and every input is accounted for once."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator

import pytest

import obzen_runtime as oz
from obzen_runtime.events import End
from obzen_runtime.flow import Cancel
from obzen_runtime.kernel import ConfigInvalid, Telemetry, UsageError
from obzen_runtime.stages.machines import Pause, Resume
from tests.stages.kit import Seen, ints, passed, passing, play, through


def test_a_plain_handler_gives_one_event_for_each():
    @oz.transform
    def double(x: int) -> int:
        return 2 * x

    done, seen = through(double, count=20_000)
    passed(done)
    assert seen == [2 * x for x in range(20_000)]
    assert done.parents("double") == {n: ("s", n) for n in range(20_000)}
    assert max(block.count for block in done.blocks("double")) <= 4096


def test_none_of_an_optional_handler_drops_the_event():
    @oz.transform
    def odd(x: int) -> int | None:
        return x if x % 2 else None

    done, seen = through(odd, count=100)
    passed(done)
    assert seen == list(range(1, 100, 2))
    assert done["odd"].dropped == 50
    assert done.lost("odd") == {"dropped": list(range(0, 100, 2))}
    assert done.parents("odd") == {n: ("s", 2 * n + 1) for n in range(50)}


def test_none_of_a_handler_that_does_not_declare_it_is_a_dead_letter():
    @oz.transform
    def partial(x: int) -> int:
        return [None, 1, 2][x]

    done, seen = through(partial, count=3)
    passed(done)
    assert seen == [1, 2]
    [letter] = done.letters()
    assert (letter.event, letter.error.code) == (0, "undeclared_type")
    assert "NoneType" in letter.error.message
    assert done["partial"].dropped == 0


def test_a_generator_gives_any_number():
    @oz.transform
    def spread(x: int) -> Iterator[int]:
        yield from [x] * (x % 4)

    done, seen = through(spread, count=50)
    passed(done)
    expected = [x for x in range(50) for _ in range(x % 4)]
    assert seen == expected
    assert [parent for _, parent in done.parents("spread").values()] == expected
    assert done.lost("spread") == {"dropped": list(range(0, 50, 4))}
    assert done["spread"].dropped == 13


def test_an_iterable_annotation_flattens_what_is_returned():
    @oz.transform
    def twice(x: int) -> Iterable[int]:
        return [x, x]

    done, seen = through(twice, count=5)
    passed(done)
    assert seen == [x for x in range(5) for _ in range(2)]


def test_none_among_the_outputs_of_an_optional_generator_is_dropped():
    @oz.transform
    def some(x: int) -> Iterator[int | None]:
        yield x
        yield None
        yield x

    done, seen = through(some, count=5)
    passed(done)
    assert seen == [x for x in range(5) for _ in range(2)]
    assert [parent for _, parent in done.parents("some").values()] == seen


def test_a_list_is_one_event():
    @oz.transform
    def pair(x: int) -> tuple[int, ...]:
        return (x, x)

    done, seen = through(pair, count=3, kind=tuple[int, ...])
    passed(done)
    assert seen == [(0, 0), (1, 1), (2, 2)]


@pytest.mark.parametrize("waits", [False, True])
def test_async_handlers_behave_like_plain_ones(waits):
    @oz.transform
    async def odd(x: int) -> int | None:
        if waits:
            await asyncio.sleep(0)
        return x if x % 2 else None

    done, seen = through(odd, count=300)
    passed(done)
    assert seen == list(range(1, 300, 2))
    assert done.parents("odd") == {n: ("s", 2 * n + 1) for n in range(150)}


def test_async_generators_behave_like_plain_ones():
    @oz.transform
    async def spread(x: int) -> AsyncIterator[int]:
        for _ in range(x % 4):
            await asyncio.sleep(0)
            yield x

    done, seen = through(spread, count=50)
    passed(done)
    assert seen == [x for x in range(50) for _ in range(x % 4)]
    assert [parent for _, parent in done.parents("spread").values()] == seen
    assert done["spread"].dropped == 13


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("many", [4095, 4096, 4097, 8192, 10_000])
def test_outputs_of_one_input_may_span_blocks_and_the_cursor_says_how_many_were_given(many, asynchronous):
    if asynchronous:

        @oz.transform
        async def spread(x: int) -> AsyncIterator[int]:
            for n in range(many if x == 1 else 1):
                yield x * 100_000 + n

    else:

        @oz.transform
        def spread(x: int) -> Iterator[int]:
            for n in range(many if x == 1 else 1):
                yield x * 100_000 + n

    done, seen = through(spread, count=3)
    passed(done)
    assert seen == [0, *range(100_000, 100_000 + many), 200_000]
    assert [parent for _, parent in done.parents("spread").values()] == [each // 100_000 for each in seen]
    assert done["spread"].received == 3
    assert done["spread"].dropped == 0
    written = 0
    for block in done.blocks("spread"):
        written += block.count
        given = sum(1 for each in seen[:written] if each // 100_000 == block.cursor.taken)
        assert block.cursor.within == given, "within counts what the unfinished input has given"


def test_a_full_block_that_ends_in_the_first_output_of_an_input_says_its_parents():
    @oz.transform
    def spread(x: int) -> Iterator[int]:
        yield x
        if x == 2:
            yield x

    seen = Seen()
    done = play(oz.Flow("f", ints(8) >> spread >> seen.sink(), window=oz.Window(events=3)))
    passed(done)
    assert seen == [0, 1, 2, 2, 3, 4, 5, 6, 7]
    assert [parent for _, parent in done.parents("spread").values()] == seen


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_full_block_behind_a_routed_edge_says_its_parents(asynchronous, times):
    @oz.transform
    def mixed(x: int) -> int | str:
        return x if x % 3 else str(x)

    if asynchronous:

        @oz.transform
        async def spread(x: int) -> AsyncIterator[int]:
            for _ in range(times):
                yield x

    else:

        @oz.transform
        def spread(x: int) -> Iterator[int]:
            yield from [x] * times

    texts, seen = Seen(), Seen()
    done = play(
        oz.Flow("f", ints(50) >> mixed >> spread >> seen.sink(), mixed >> texts.sink(str).named("texts"), window=oz.Window(events=5))
    )
    passed(done)
    assert seen == [x for x in range(50) if x % 3 for _ in range(times)]
    assert [parent for _, parent in done.parents("spread").values()] == seen
    assert texts == [str(x) for x in range(0, 50, 3)]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_outputs_of_a_generator_that_fails_half_way_are_discarded(asynchronous):
    if asynchronous:

        @oz.transform
        async def spread(x: int) -> AsyncIterator[int]:
            yield x
            if x == 2:
                raise ValueError("no twos")
            yield x

    else:

        @oz.transform
        def spread(x: int) -> Iterator[int]:
            yield x
            if x == 2:
                raise ValueError("no twos")
            yield x

    done, seen = through(spread, count=5)
    passed(done)
    assert seen == [0, 0, 1, 1, 3, 3, 4, 4]
    assert [parent for _, parent in done.parents("spread").values()] == seen
    assert done["spread"].dead == 1
    assert done.lost("spread") == {"dead": [2]}


def test_a_generator_that_fails_after_a_full_block_is_one_dead_letter():
    @oz.transform
    def spread(x: int) -> Iterator[int]:
        yield from [x] * 5000
        if x == 1:
            raise ValueError("no ones")

    done, seen = through(spread, count=3)
    passed(done)
    assert [letter.event for letter in done.letters()] == [1]
    assert seen.count(0) == seen.count(2) == 5000
    assert seen.count(1) == 4096 * 2 - 5000, "what the blocks before had given stands"
    assert [parent for _, parent in done.parents("spread").values()] == seen


def test_a_handler_that_raises_stop_iteration_fails_that_event_alone():
    @oz.transform
    def first(x: int) -> int:
        return next(iter([x] if x != 3 else []))

    done, seen = through(first, count=10)
    passed(done)
    assert seen == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    [letter] = done.letters()
    assert letter.event == 3
    assert "StopIteration" in letter.error.message + str(letter.error.cause)


def test_an_end_is_taken_once_and_written():
    @oz.transform
    def same(x: int) -> int:
        return x

    done, _ = through(same, count=5)
    ends = [each for block in done.blocks("same") for each in block.inputs if isinstance(each, End)]
    assert ends == [End("s", "natural", 5)]


def test_a_generator_that_gives_more_nones_than_fit_a_block_goes_on():
    @oz.transform
    def sparse(x: int) -> Iterator[int | None]:
        yield from [None] * 10_000
        yield x

    done, seen = through(sparse, count=3)
    passed(done)
    assert seen == [0, 1, 2]


def test_a_step_that_is_cancelled_is_committed_up_to_the_last_whole_event():
    @oz.transform
    async def waits(x: int) -> int:
        if x == 5:
            await passing(1000)
        return x

    @oz.transform
    async def spreads(x: int) -> AsyncIterator[int]:
        yield x
        if x == 3:
            await passing(1000)

    @oz.transform(batch=2)
    async def batches(xs: list[int]) -> list[int]:
        if 3 in xs:
            await passing(1000)
        return xs

    async def beside(pipeline):
        await passing(10)
        assert pipeline.command(Cancel())

    for stage, count in ((waits, 5), (spreads, 3), (batches, 2)):
        done = play(oz.Flow("f", ints(20) >> stage >> Seen().sink()), beside=beside)
        assert done.state == "cancelled"
        assert list(done.events(stage.name).values()) == list(range(count))
        assert done.parents(stage.name) == {n: ("s", n) for n in range(count)}
        assert done.pipeline.stages[stage.name].taken == count


def test_a_step_is_told_as_one_event_of_telemetry():
    told: list[tuple[str, dict, dict]] = []

    @oz.transform
    def odd(x: int) -> int | None:
        return x if x % 2 else None

    telemetry = Telemetry(lambda *event: told.append(event))
    play(oz.Flow("f", ints(100) >> odd >> Seen().sink()), telemetry=telemetry)
    steps = [(meta["stage"], each["received"], each["emitted"]) for name, each, meta in told if name == "stage.block"]
    for stage, received, emitted in (("s", 100, 100), ("odd", 100, 50), ("collect", 50, 0)):
        assert sum(each[1] for each in steps if each[0] == stage) == received
        assert sum(each[2] for each in steps if each[0] == stage) == emitted
    assert all(each["seconds"] >= 0 for name, each, _ in told if name == "stage.block")


def test_options_that_do_not_go_together_are_refused_with_the_fix():
    def plain(x: int) -> int: ...
    async def waits(x: int) -> int: ...
    def many(x: int) -> Iterator[int]:
        yield x

    def lists(xs: list[int]) -> list[int]: ...

    for handler, options, why in [
        (plain, {"concurrency": 2}, "async def"),
        (plain, {"concurrency": 0}, "10,000"),
        (waits, {"concurrency": 10_001}, "10,000"),
        (waits, {"executor": oz.threads(2)}, "blocking"),
        (many, {"executor": oz.threads(2)}, "generator"),
        (many, {"batch": 2}, "generator"),
        (lists, {"batch": 4097}, "4,096"),
        (lists, {"batch": -1}, "4,096"),
        (lists, {"batch": 2, "concurrency": 2}, "batch"),
        (lists, {"batch": 2, "within": -1.0}, "seconds"),
        (plain, {"colour": "red"}, "colour"),
        (plain, {"on_error": "ignore"}, "dead_letter, fail, skip"),
        (plain, {"retry": 3}, "oz.Retry"),
        (plain, {"executor": 4}, r"oz.threads\(n\)"),
        (plain, {"executor": "processes"}, "oz.threads"),
        (plain, {"ordered": False}, "ordered"),
        (waits, {"concurrency": "4"}, "10,000"),
        (waits, {"concurrency": 2.0}, "10,000"),
        (lists, {"batch": 2.5}, "4,096"),
        (lists, {"batch": True}, "4,096"),
        (lists, {"batch": 2, "within": "1"}, "seconds"),
        (lists, {"batch": 2, "within": float("nan")}, "seconds"),
        (plain, {"batch": 2}, "list"),
    ]:
        with pytest.raises(UsageError, match=why):
            oz.transform(**options)(handler)
    for count in (0, 257, "2", 2.5, True):
        with pytest.raises(ConfigInvalid, match="1 to 256"):
            oz.threads(count)


def test_a_command_overtakes_the_event_that_woke_the_stage_with_it():
    pipelines, when = [], []

    @oz.source
    async def numbers() -> AsyncIterator[int]:
        for number in range(2):
            await passing(1.0)  # by now the stage waits
            yield number
        await passing(1.0)
        (pipeline,) = pipelines
        when.append((pipeline.stages["t"].left, pipeline.stages["t"].counters.received))
        pipeline.stages["t"].mailbox.post(Resume())

    @oz.transform
    def u(number: int) -> int:
        if number:
            pipelines[0].stages["t"].mailbox.post(Pause())
        return number

    @oz.transform
    def t(number: int) -> int:
        return number

    async def beside(pipeline):
        pipelines.append(pipeline)

    seen = Seen()
    done = play(oz.Flow("f", numbers >> u >> t >> seen.sink()), beside=beside)
    assert (done.state, seen, when) == ("drained", [0, 1], [("running", 1)]), done.error
