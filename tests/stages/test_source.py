"""Sources: pulled where they do not hold anybody up, never further than there is room, closed at every end."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

import obzen_runtime as oz
from obzen_runtime.events import ActorStalled
from obzen_runtime.flow import Cancel, Drain, PauseFlow, ResumeFlow, StopFlow
from obzen_runtime.kernel import UsageError
from tests.stages.kit import Seen, VirtualClock, ints, passing, play, reached, source_of, turning


def drained(done):
    assert done.error is None, done.error
    assert done.state == "drained"
    assert all(verdict.passed for verdict in done.verdicts)


def positions(done, stage="s"):
    return [(block.base + block.count, block.cursor.taken) for block in done.blocks(stage)]


# -- pace and threads ---------------------------------------------------------------------------


def test_a_quick_source_is_pulled_in_ever_larger_blocks():
    seen = Seen()
    done = play(oz.Flow("f", ints(50_000) >> seen.sink()))
    drained(done)
    assert seen == list(range(50_000))
    counts = [block.count for block in done.blocks("s")]
    assert max(counts) > 500
    assert max(counts) <= 4096
    assert positions(done)[-1] == (50_000, 50_000)


def test_a_source_of_nothing_ends_at_once():
    seen = Seen()
    done = play(oz.Flow("f", ints(0) >> seen.sink()))
    drained(done)
    assert seen == []
    assert done["s"].received == 0


def slow_pulls(clock, slow, seconds):
    @oz.source
    def numbers() -> Iterator[int]:
        for n in range(60):
            names.append(threading.current_thread().name)
            if n in slow:
                clock.spend(seconds)
            yield n

    names: list[str] = []
    return numbers, names


@pytest.mark.parametrize(
    ("slow", "seconds", "moved"),
    [((5,), 0.002, False), ((5, 6), 0.002, True), ((5,), 0.05, True), ((), 0.0, False), ((5, 6, 7), 0.0005, False)],
)
def test_a_source_moves_to_a_thread_after_two_slow_pulls_or_one_very_slow_one(slow, seconds, moved):
    clock = VirtualClock()
    numbers, names = slow_pulls(clock, slow, seconds)
    seen = Seen()
    done = play(oz.Flow("f", numbers >> seen.sink()), clock=clock, beside=turning)
    drained(done)
    assert seen == list(range(60))
    assert ("obzen source numbers" in names) is moved
    assert names[0] == threading.main_thread().name


def test_a_source_may_be_on_a_thread_from_the_start():
    names = set()

    @oz.source(thread=True)
    def numbers() -> Iterator[int]:
        for n in range(10_000):
            names.add(threading.current_thread().name)
            yield n

    seen = Seen()
    done = play(oz.Flow("f", numbers >> seen.sink()), real=True)
    drained(done)
    assert seen == list(range(10_000))
    assert names == {"obzen source numbers"}


def test_a_blocked_source_on_a_thread_holds_nobody_up_and_a_stop_is_heard():
    blocked, release, closed = threading.Event(), threading.Event(), threading.Event()

    @oz.source(thread=True)
    def numbers() -> Iterator[int]:
        try:
            yield 1
            blocked.set()
            release.wait(20)
            yield 2
        finally:
            closed.set()

    async def beside(pipeline):
        await asyncio.get_running_loop().run_in_executor(None, blocked.wait, 20)
        assert pipeline.command(StopFlow())

    seen = Seen()
    done = play(oz.Flow("f", numbers >> seen.sink()), real=True, beside=beside)
    assert (done.state, seen) == ("cancelled", [1])
    release.set()
    assert closed.wait(20), "the generator is closed on its thread"


def test_an_async_source_is_heard_while_it_waits():
    closed = []

    @oz.source
    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            await passing(1000)
            yield 2
        finally:
            await asyncio.sleep(0)
            closed.append(True)

    async def beside(pipeline):
        await passing(10)
        assert pipeline.command(StopFlow())

    clock, seen = VirtualClock(), Seen()
    done = play(oz.Flow("f", numbers >> seen.sink()), clock=clock, beside=beside)
    assert (done.state, seen, closed) == ("cancelled", [1], [True])
    assert clock.now < 1100


def test_an_async_source_gives_everything_in_order():
    @oz.source
    async def numbers() -> AsyncIterator[int]:
        for n in range(10_000):
            if n % 1000 == 0:
                await passing(1)
            yield n

    seen = Seen()
    done = play(oz.Flow("f", numbers >> seen.sink()))
    drained(done)
    assert seen == list(range(10_000))


def test_an_iterable_may_stand_for_a_generator():
    @oz.source
    def listed() -> Iterator[int]:
        return [1, 2, 3]

    seen = Seen()
    drained(play(oz.Flow("f", listed >> seen.sink())))
    assert seen == [1, 2, 3]


# -- credit -------------------------------------------------------------------------------------


class Stuck:
    """A sink that takes one event and waits."""

    def __init__(self):
        self.seen = []

    def sink(self):
        @oz.sink
        async def stuck(x: int) -> None:
            self.seen.append(x)
            await passing(1000)

        return stuck


@pytest.mark.parametrize("window", [1, 10, 100, 5000])
def test_no_more_than_the_window_is_pulled_ahead_of_a_stuck_consumer(window):
    pulled = []

    @oz.source
    def numbers() -> Iterator[int]:
        for n in range(100_000):
            pulled.append(n)
            yield n

    async def beside(pipeline):
        await passing(50)
        assert len(pulled) <= window + 1
        assert len(pulled) >= 3 * window // 4
        assert pipeline.command(Cancel())

    done = play(oz.Flow("f", numbers >> Stuck().sink(), window=oz.Window(events=window)), beside=beside)
    assert done.state == "cancelled"


def test_an_async_source_is_pulled_a_few_batches_ahead_at_the_most():
    pulled = []

    @oz.source
    async def numbers() -> AsyncIterator[int]:
        for n in range(10_000_000):
            pulled.append(n)
            yield n

    async def beside(pipeline):
        await passing(50)
        assert len(pulled) <= 100 + 9 * 4096
        assert pipeline.command(Cancel())

    done = play(oz.Flow("f", numbers >> Stuck().sink(), window=oz.Window(events=100)), beside=beside)
    assert done.state == "cancelled"


def test_a_writer_without_credit_is_reported_once_as_stalled():
    async def beside(pipeline):
        await passing(200)
        assert pipeline.command(Cancel())

    flow = oz.Flow("f", ints(1000) >> Stuck().sink(), window=oz.Window(events=10), stall_after=30.0)
    [stalled] = play(flow, beside=beside).of(ActorStalled)
    assert (stalled.actor, stalled.why, stalled.detail, stalled.seconds) == ("s", "no_credit", "s -> stuck", 30.0)


# -- bad rows -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "items",
    [
        [oz.Bad("a", "no", "f:1"), 1, 2],
        [1, 2, oz.Bad("a", "no", "f:3")],
        [1, oz.Bad("a", "no", "f:2"), 2, oz.Bad("b", "no", "f:4")],
        [oz.Bad("a", "no", "f:1"), oz.Bad("b", "no", "f:2")],
    ],
    ids=["before", "after", "between", "all"],
)
def test_bad_rows_are_dead_letters_with_their_place(items):
    seen = Seen()
    done = play(oz.Flow("f", source_of(*items) >> seen.sink()))
    drained(done)
    bad = [item for item in items if isinstance(item, oz.Bad)]
    assert seen == [item for item in items if not isinstance(item, oz.Bad)]
    assert [(letter.payload, letter.place, letter.upstream, letter.event) for letter in done.letters()] == [
        (each.raw.encode(), each.place, "", -1) for each in bad
    ]
    assert [letter.ordinal for letter in done.letters()] == list(range(len(bad)))
    assert (done["s"].received, done["s"].dead, done["s"].errors) == (len(items), len(bad), len(bad))
    assert positions(done)[-1] == (len(seen), len(items))


def test_the_error_of_a_bad_row_may_be_a_text_an_exception_or_an_error_of_ours():
    info = oz.ErrorInfo(kind="VALIDATION", code="wrong_type", message="mine")
    seen = Seen()
    done = play(oz.Flow("f", source_of(oz.Bad(b"\xff", "text"), oz.Bad("x", ValueError("raised")), oz.Bad("y", info)) >> seen.sink()))
    drained(done)
    text, raised, mine = done.letters()
    assert (text.error.message, text.payload) == ("text", b"\xff")
    assert (raised.error.type, raised.error.message) == ("ValueError", "raised")
    assert mine.error == info


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ({"raw": 5}, "raw=5"),
        ({"error": None}, "error=None"),
        ({"place": 7}, "place=7"),
        ({"error": oz.ErrorInfo(kind="BROKEN", code="x", message="m")}, "ErrorInfo"),
        ({"error": oz.ErrorInfo(kind="IO", code="io", message=object())}, "ErrorInfo"),
    ],
    ids=["raw", "error", "place", "a kind there is not", "a message that is none"],
)
def test_a_bad_row_that_nobody_could_read_back_fails_where_it_is_made(told, named):
    @oz.source
    def s() -> Iterator[int]:
        yield 1
        yield oz.Bad(**{"raw": "x", "error": "no", **told})

    done = play(oz.Flow("f", s >> Seen().sink()))
    assert done.state == "failed"
    assert named in done.error.message
    assert not done.letters()


def test_a_bad_row_may_be_no_unicode():
    done = play(oz.Flow("f", source_of(oz.Bad("a\ud800", "\udcff", "\udcff.csv:3"), 1) >> Seen().sink()))
    drained(done)
    (letter,) = done.letters()
    assert (letter.payload, letter.place) == (b"a\xed\xa0\x80", "\\udcff.csv:3")


def test_a_count_that_is_no_number_fails_the_source_where_it_is_said():
    @oz.source
    def s(progress: oz.Progress) -> Iterator[int]:
        progress.expected = "2"
        yield 1

    done = play(oz.Flow("f", s >> Seen().sink()))
    assert done.state == "failed"
    assert "progress.expected='2'" in done.error.message


def test_too_many_bad_rows_fail_the_flow():
    done = play(oz.Flow("f", source_of(*[oz.Bad("x", "no")] * 100) >> Seen().sink(), max_dead_letters=5))
    assert done.state == "failed"


def test_an_item_that_was_not_declared_is_a_dead_letter():
    seen = Seen()
    done = play(oz.Flow("f", source_of(1, "two", 3) >> seen.sink()))
    assert done.state == "drained"
    assert seen == [1, 3]
    assert done.letters()[0].error.code == "undeclared_type"
    assert all(not block.errors for block in done.blocks("s"))


def test_none_of_a_source_that_declares_it_is_dropped():
    def given(number):
        return None if number % 3 == 0 else oz.Bad(str(number), "five") if number % 5 == 0 else number

    seen = Seen()
    done = play(oz.Flow("f", source_of(*map(given, range(3000)), kind=int | None) >> seen.sink()))
    drained(done)
    assert seen == [number for number in range(3000) if number % 3 and number % 5]
    counts = done["s"]
    assert (counts.received, counts.dropped, counts.dead) == (3000, 1000, 400)
    assert done.pipeline.stages["s"].taken == 3000


def test_a_source_of_nothing_but_none_ends():
    done = play(oz.Flow("f", source_of(*[None] * 100, kind=int | None) >> Seen().sink()))
    drained(done)
    assert done["s"].dropped == 100


# -- failures -----------------------------------------------------------------------------------


def failing(error, *, at=50, times=1, asynchronous=False, count=100, fewer=None):
    opened = []

    def items():
        opened.append(True)
        for n in range(count if len(opened) <= times or fewer is None else fewer):
            if n == at and len(opened) <= times:
                raise error
            yield n

    if asynchronous:

        @oz.source
        async def numbers() -> AsyncIterator[int]:
            for n in items():
                yield n

    else:

        @oz.source
        def numbers() -> Iterator[int]:
            yield from items()

    return numbers.named("s"), opened


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("error", [oz.Transient("again"), KeyboardInterrupt(), SystemExit(1)], ids=lambda error: type(error).__name__)
def test_a_source_that_may_be_tried_again_restarts_and_skips_what_is_committed(error, asynchronous):
    numbers, opened = failing(error, times=2, asynchronous=asynchronous)
    seen = Seen()
    done = play(oz.Flow("f", numbers >> seen.sink()), beside=turning)
    drained(done)
    assert len(opened) == 3
    assert seen == list(range(100))
    assert positions(done)[-1] == (100, 100)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("error", [ValueError("broken"), oz.Permanent("broken")], ids=lambda error: type(error).__name__)
def test_any_other_failure_of_a_source_fails_the_flow_and_what_came_before_is_kept(error, asynchronous):
    numbers, opened = failing(error, asynchronous=asynchronous)
    done = play(oz.Flow("f", numbers >> Seen().sink()), beside=turning)
    assert done.state == "failed"
    assert done.error.message == "broken"
    assert len(opened) == 1
    assert len(done.events("s")) == 50


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_cancellation_that_a_source_raises_of_its_own_is_its_failure(asynchronous):
    numbers, _ = failing(asyncio.CancelledError(), asynchronous=asynchronous)
    done = play(oz.Flow("f", numbers >> Seen().sink()), beside=turning)
    assert done.state == "failed"
    assert "CancelledError" in done.error.message
    assert len(done.events("s")) == 50


def test_a_source_on_a_thread_fails_like_any_other():
    @oz.source(thread=True)
    def numbers() -> Iterator[int]:
        yield from range(50)
        raise ValueError("broken")

    done = play(oz.Flow("f", numbers >> Seen().sink()), real=True)
    assert (done.state, done.error.message) == ("failed", "broken")
    assert len(done.events("numbers")) == 50


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_source_that_gives_fewer_items_when_it_restarts_is_refused(asynchronous):
    numbers, _ = failing(oz.Transient("again"), asynchronous=asynchronous, fewer=10)
    done = play(oz.Flow("f", numbers >> Seen().sink()), beside=turning)
    assert done.state == "failed"
    assert "gave 10 items where it had given 50" in done.error.message


@pytest.mark.parametrize(
    "error", [oz.Transient("again"), ValueError("broken"), KeyboardInterrupt()], ids=lambda error: type(error).__name__
)
def test_a_source_function_may_fail_before_it_gives_anything(error):
    opened = []

    @oz.source
    def numbers() -> Iterator[int]:
        opened.append(True)
        if len(opened) == 1:
            raise error
        return iter(range(10))

    seen = Seen()
    done = play(oz.Flow("f", numbers >> seen.sink()), beside=turning)
    if isinstance(error, ValueError):
        assert (done.state, done.error.message) == ("failed", "broken")
    else:
        drained(done)
        assert seen == list(range(10))


# -- ends ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("how", ["natural", "stop", "drain", "cancel", "failure behind"])
def test_the_finally_of_a_generator_runs_at_every_end(how, asynchronous):
    closed = []

    def each():
        try:
            yield from range(10 if how in ("natural", "failure behind") else 10_000_000)
        finally:
            closed.append(True)

    if asynchronous:

        @oz.source
        async def numbers() -> AsyncIterator[int]:
            items = each()
            try:
                for n in items:
                    yield n
            finally:
                await asyncio.sleep(0)
                items.close()

    else:
        numbers = oz.source(plain_annotated(each))

    @oz.transform(on_error="fail")
    def picky(x: int) -> int:
        if how == "failure behind" and x == 5:
            raise ValueError("five")
        return x

    async def beside(pipeline):
        if how in ("stop", "drain", "cancel"):
            await reached(pipeline, "running")
            for _ in range(20):
                await asyncio.sleep(0)
            assert pipeline.command({"stop": StopFlow(), "drain": Drain(), "cancel": Cancel()}[how])

    done = play(oz.Flow("f", numbers >> picky >> Seen().sink()), beside=beside)
    assert done.state == {"natural": "drained", "drain": "drained", "failure behind": "failed"}.get(how, "cancelled")
    assert closed == [True]


def plain_annotated(function):
    function.__annotations__["return"] = Iterator[int]
    return function


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_finally_that_raises_is_told_in_the_log_and_ends_nothing_else(asynchronous, caplog):
    if asynchronous:

        @oz.source
        async def numbers() -> AsyncIterator[int]:
            try:
                while True:
                    yield 1
                    await passing(1)
            finally:
                raise ValueError("not closed")

    else:

        @oz.source
        def numbers() -> Iterator[int]:
            try:
                while True:
                    yield 1
            finally:
                raise ValueError("not closed")

    async def beside(pipeline):
        await reached(pipeline, "running")
        for _ in range(20):
            await asyncio.sleep(0)
        assert pipeline.command(StopFlow())

    done = play(oz.Flow("f", numbers >> Seen().sink()), beside=beside)
    assert done.state == "cancelled"
    assert "not closed" in caplog.text


def test_a_paused_source_gives_nothing_and_goes_on_where_it_was():
    seen = Seen()

    @oz.source
    async def numbers() -> AsyncIterator[int]:
        for n in range(100):
            yield n
            await passing(1)

    async def beside(pipeline):
        await passing(10)
        assert pipeline.command(PauseFlow())
        await passing(5)
        count = len(seen)
        await passing(50)
        assert len(seen) == count
        assert pipeline.command(ResumeFlow())

    done = play(oz.Flow("f", numbers >> seen.sink()), beside=beside)
    drained(done)
    assert seen == list(range(100))


def test_progress_is_given_to_a_source_that_asks_and_is_no_parameter():
    @oz.source
    def numbers(progress: oz.Progress, count: int = 5) -> Iterator[int]:
        progress.total = count
        for n in range(count):
            progress.done = n + 1
            yield n

    assert list(numbers.parameters) == ["count"]
    done = play(oz.Flow("f", numbers(count=7) >> Seen().sink()))
    drained(done)
    progress = done.pipeline.stages["numbers"].progress
    assert (progress.done, progress.total) == (7, 7)


def test_progress_has_a_share_where_the_source_says_numbers():
    progress = oz.Progress()
    for done, total, share in [(0, None, None), (1, 4, 0.25), (9, 4, 1.0), (-1, 4, 0.0), ("x", 4, None), (1, "y", None), (1, 0, None)]:
        progress.done, progress.total = done, total
        assert progress.share == share


def test_a_source_must_be_annotated_as_a_stream():
    with pytest.raises(UsageError) as refused:

        @oz.source
        def one() -> int: ...

    assert "Iterator[T]" in refused.value.remedy
