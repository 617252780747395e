"""Sinks: a receipt says what was delivered, never more; what is opened is closed once at every end."""

import asyncio
from pathlib import Path

import pytest

import obzen_runtime as oz
from obzen_runtime.events import Receipt, Slice
from obzen_runtime.flow import Cancel, StopFlow
from obzen_runtime.journal import Fsync, Os
from obzen_runtime.kernel import JournalFailed, UsageError
from tests.stages.kit import Seen, VirtualClock, ints, passing, play, reached


class Lasting(oz.MemoryJournal):
    """Stands for a journal that outlives its process."""

    level = Os()


def drained(done):
    assert done.error is None, done.error
    assert done.state == "drained"
    assert all(verdict.passed for verdict in done.verdicts)


def covered(done, stage):
    """Ordinals of the receipts, in the order they were written."""
    return [
        n for receipt in done.receipts(stage) for each in receipt.inputs if isinstance(each, Slice) for n in range(each.start, each.stop)
    ]


class Writer:
    """Notes what is asked of it."""

    log: list

    def write(self, x: int) -> None:
        self.log.append(x)

    def flush(self) -> None:
        self.log.append("flush")

    def close(self) -> None:
        self.log.append("close")


def writer(**methods):
    """A sink class with a log of its own; keywords replace its methods."""
    made = type("W", (Writer,), {"log": [], **methods})
    return oz.sink(made), made.log


def noting(method, error=None, times=1, asynchronous=False):
    left = [error] * times

    def plain(self, *x):
        self.log.append(method)
        if left and error is not None:
            raise left.pop()

    async def waiting(self, *x):
        await asyncio.sleep(0)
        plain(self)

    return waiting if asynchronous else plain


# -- receipts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
def test_receipts_are_at_most_256_events_apart(asynchronous):
    seen = []
    if asynchronous:

        @oz.sink
        async def collect(x: int) -> None:
            seen.append(x)

    else:

        @oz.sink
        def collect(x: int) -> None:
            seen.append(x)

    done = play(oz.Flow("f", ints(20_000) >> collect), journal=Lasting(keep=True))
    drained(done)
    assert seen == covered(done, "collect") == list(range(20_000))
    sizes = [each.stop - each.start for receipt in done.receipts("collect") for each in receipt.inputs if isinstance(each, Slice)]
    assert max(sizes) == 256
    assert done.receipts("collect")[-1].cursor.taken == 20_000
    assert done["collect"].received == 20_000


def test_a_receipt_that_dies_with_the_process_covers_a_whole_step():
    seen = Seen()
    done = play(oz.Flow("f", ints(20_000) >> seen.sink()))
    drained(done)
    assert covered(done, "collect") == list(range(20_000))
    assert max(each.stop - each.start for receipt in done.receipts("collect") for each in receipt.inputs if isinstance(each, Slice)) > 256


@pytest.mark.parametrize("options", [{"concurrency": 1000}, {"executor": oz.threads(256)}], ids=["tasks", "threads"])
def test_receipts_of_wide_sinks_are_at_most_256_events_apart(options):
    if "executor" in options:

        @oz.sink(**options)
        def wide(x: int) -> None: ...

    else:

        @oz.sink(**options)
        async def wide(x: int) -> None: ...

    done = play(oz.Flow("f", ints(5000) >> wide), journal=Lasting(keep=True), real="executor" in options)
    drained(done)
    assert covered(done, "wide") == list(range(5000))
    assert max(each.stop - each.start for receipt in done.receipts("wide") for each in receipt.inputs if isinstance(each, Slice)) <= 256


@pytest.mark.parametrize("asynchronous", [False, True])
def test_receipts_of_a_slow_sink_are_about_50_ms_apart_at_most(asynchronous):
    clock = VirtualClock()
    if asynchronous:

        @oz.sink
        async def slow(x: int) -> None:
            await passing(0.01)

    else:

        @oz.sink
        def slow(x: int) -> None:
            clock.spend(0.01)

    done = play(oz.Flow("f", ints(100) >> slow), clock=clock)
    drained(done)
    assert len(done.receipts("slow")) >= (20 if asynchronous else 100)


def test_what_a_sink_returns_is_nobodys():
    @oz.sink
    def giving(x: int) -> str:
        return "thanks"

    done = play(oz.Flow("f", ints(10) >> giving))
    drained(done)
    assert done["giving"].emitted == done["giving"].dropped == 0


def test_failures_and_skips_are_on_the_receipt():
    @oz.sink(on_error="skip")
    def skipping(x: int) -> None:
        if x == 3:
            raise ValueError("three")

    @oz.sink
    def failing(x: int) -> None:
        if x == 4:
            raise ValueError("four")

    done = play(oz.Flow("f", ints(10) >> [skipping, failing]))
    drained(done)
    assert done.lost("skipping") == {"skipped": [3]}
    assert done.lost("failing") == {"dead": [4]}
    assert [(letter.stage, letter.event) for letter in done.letters()] == [("failing", 4)]


def test_the_context_of_a_sink_names_the_event():
    ids = []

    class Write:
        def write(self, x: int, ctx: oz.Context) -> None:
            ids.append(ctx.event.id)

    @oz.sink
    def tell(x: int, ctx: oz.Context) -> None:
        ids.append(ctx.event.id)

    drained(play(oz.Flow("f", ints(5) >> tell)))
    drained(play(oz.Flow("f", ints(5) >> oz.sink(Write))))
    assert ids == [f"s@{n}" for n in range(5)] * 2


def test_a_sink_takes_from_several_writers_in_the_order_it_says():
    seen = Seen()
    done = play(oz.Flow("f", [ints(100, "a"), ints(100, "b")] >> seen.sink()))
    drained(done)
    taken = [
        (each.upstream, n)
        for receipt in done.receipts("collect")
        for each in receipt.inputs
        if isinstance(each, Slice)
        for n in range(each.start, each.stop)
    ]
    assert [n for _, n in taken] == seen
    assert sorted(taken) == [(name, n) for name in "ab" for n in range(100)]


# -- classes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_class_is_flushed_before_each_receipt_and_closed_once(asynchronous):
    sink, log = writer(flush=noting("flush", asynchronous=asynchronous), close=noting("close", asynchronous=asynchronous))
    told = []

    class Telling(oz.MemoryJournal):
        def append(self, records, **options):
            for record in records:
                if isinstance(record, Receipt) and any(isinstance(each, Slice) for each in record.inputs):
                    told.append(record)
                    log.append("receipt")
            return super().append(records, **options)

    done = play(oz.Flow("f", ints(1000) >> sink), journal=Telling(keep=True))
    drained(done)
    assert [each for each in log if isinstance(each, int)] == list(range(1000))
    assert log.count("close") == 1
    assert log[-1] == "close"
    assert told
    for place, each in enumerate(log):
        if each == "receipt":
            assert log[place - 1] == "flush"


def test_parameters_of_the_constructor_are_configuration_with_their_types():
    made = []

    class File:
        def __init__(self, *, path: Path, tries: int = 3, name: str) -> None:
            made.append((path, tries, name))

        def write(self, x: int) -> None: ...

    sink = oz.sink(File)
    assert list(sink.parameters) == ["path", "tries", "name"]
    assert sink.unbound == ("path", "name")
    bound = sink.bind_text("path", ["a.csv"]).bind_text("tries", ["5"]).bind_text("name", ["7"])
    drained(play(oz.Flow("f", ints(1) >> bound)))
    assert made == [(Path("a.csv"), 5, "7")]


def test_a_constructor_that_fails_fails_the_flow():
    class Broken:
        def __init__(self) -> None:
            raise ValueError("no disk")

        def write(self, x: int) -> None: ...

    done = play(oz.Flow("f", ints(1) >> oz.sink(Broken)))
    assert done.state == "failed"
    assert "no disk" in done.error.message


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("how", ["stop", "cancel", "failure", "failure elsewhere", "fail policy"])
def test_a_class_is_closed_once_in_every_ending(how, asynchronous):
    def write(self, x: int) -> None:
        self.log.append(x)
        if x == 50 and how == "fail policy":
            raise ValueError("fifty")
        if x == 50 and how == "failure":
            raise KeyboardInterrupt

    sink, log = writer(write=write, close=noting("close", asynchronous=asynchronous))
    if how == "fail policy":
        sink = oz.sink(on_error="fail")(sink.handler)

    @oz.transform(on_error="fail")
    def picky(x: int) -> int:
        if x == 5000 and how == "failure elsewhere":
            raise ValueError("there")
        return x

    async def beside(pipeline):
        if how in ("stop", "cancel"):
            await reached(pipeline, "running")
            for _ in range(5):
                await asyncio.sleep(0)
            assert pipeline.command(StopFlow() if how == "stop" else Cancel())

    done = play(oz.Flow("f", ints(100_000) >> picky >> sink, restart=oz.Restart(max=0)), beside=beside)
    assert done.state == ("cancelled" if how in ("stop", "cancel") else "failed")
    assert log.count("close") == 1
    assert log[-1] == "close"


def test_a_class_that_crashed_is_closed_and_made_anew_and_nothing_lacks_a_delivery():
    made = []

    class Fragile:
        def __init__(self) -> None:
            self.got = []
            made.append(self)

        def write(self, x: int) -> None:
            self.got.append(x)
            if x == 700 and len(made) < 3:
                raise SystemExit

        def close(self) -> None:
            self.got.append("close")

    done = play(oz.Flow("f", ints(1000) >> oz.sink(Fragile)))
    drained(done)
    assert [each.got.count("close") for each in made] == [1, 1, 1]
    assert covered(done, "Fragile") == list(range(1000))
    assert {x for each in made for x in each.got} == {*range(1000), "close"}


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_flush_that_may_pass_is_tried_again_by_a_restart_and_no_receipt_is_ahead_of_it(asynchronous):
    sink, log = writer(flush=noting("flush", oz.Transient("busy"), asynchronous=asynchronous))
    done = play(oz.Flow("f", ints(10) >> sink))
    drained(done)
    assert covered(done, "W") == list(range(10))
    assert log[:1] == [0]
    assert log.count("close") == 2, "the old writer and the new one"
    assert [each for each in log[log.index("close") :] if isinstance(each, int)] == list(range(10))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_flush_that_will_not_pass_fails_the_flow_and_what_was_not_flushed_has_no_receipt(asynchronous):
    sink, log = writer(flush=noting("flush", ValueError("disk full"), times=9, asynchronous=asynchronous))
    done = play(oz.Flow("f", ints(10) >> sink))
    assert done.state == "failed"
    assert done.error.message == "disk full"
    assert covered(done, "W") == []
    assert log.count("close") == 1


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_close_that_fails_at_a_good_end_fails_the_flow(asynchronous):
    sink, log = writer(close=noting("close", ValueError("not closed"), times=9, asynchronous=asynchronous))
    done = play(oz.Flow("f", ints(10) >> sink))
    assert done.state == "failed"
    assert "not closed" in done.error.message
    assert log.count("close") == 1


def test_a_close_that_fails_at_a_bad_end_leaves_the_first_cause(caplog):
    def write(self, x: int) -> None:
        raise ValueError("first")

    sink, log = writer(write=write, close=noting("close", ValueError("second"), times=9))
    done = play(oz.Flow("f", ints(10) >> oz.sink(on_error="fail")(sink.handler)))
    assert done.state == "failed"
    assert done.error.message == "first"
    assert log.count("close") == 1
    assert "second" in caplog.text


def test_an_old_writer_that_cannot_be_closed_does_not_keep_a_new_one_from_working():
    sink, _log = writer(flush=noting("flush", oz.Transient("busy")), close=noting("close", ValueError("stuck")))
    done = play(oz.Flow("f", ints(10) >> sink))
    drained(done)
    assert covered(done, "W") == list(range(10))


async def later(x):
    await asyncio.sleep(0)


@pytest.mark.parametrize("count", [1, 600])
def test_a_handler_that_gives_back_a_coroutine_has_delivered_nothing_and_no_receipt_says_it_has(count):
    @oz.sink
    def store(x: int) -> None:
        return later(x)

    done = play(oz.Flow("f", ints(count) >> store))
    assert done.state == "failed"
    assert done.error.message == "sink store returned a coroutine, which nobody awaits: it delivered nothing"
    assert "async def" in done.error.remedy
    assert covered(done, "store") == []


def test_a_handler_that_yields_is_refused():
    class Yields:
        def write(self, x: int):
            yield x

    class Gives:
        async def write(self, x: int):
            yield x

    def yields(x: int):
        yield x

    for handler in (Yields, Gives, yields):
        with pytest.raises(UsageError, match=r"is a generator"):
            oz.sink(handler)


def test_a_sink_that_cannot_write_is_refused():
    class Mute:
        pass

    with pytest.raises(UsageError, match="no write method"):
        oz.sink(Mute)

    class Single:
        def write(self, x: int) -> None: ...

    with pytest.raises(UsageError, match="list"):
        oz.sink(batch=5)(Single)


# -- durability ---------------------------------------------------------------------------------


class Lagging(oz.MemoryJournal):
    """A journal whose disk is slow, or broken."""

    def __init__(self, *, seconds=1.0, broken=False):
        super().__init__(keep=True)
        self.seconds = seconds
        self.broken = broken
        self.synced = 0

    @property
    def level(self):
        return Fsync()

    @property
    def durable_head(self):
        return self.synced

    async def durable(self, position):
        if position <= self.synced:
            return
        head = self.head
        await passing(self.seconds)
        if self.broken:
            raise JournalFailed("the disk is gone")
        self.synced = max(self.synced, head)


@pytest.mark.parametrize("shape", ["plain", "batch", "lanes"])
def test_nothing_is_delivered_before_what_it_rests_on_is_durable(shape):
    journal = Lagging()
    early = []

    def deliver(x):
        position = next(
            at
            for at, record in enumerate(journal._records, 1)
            if getattr(record, "stage", "") == "s" and record.base <= x < record.base + record.count
        )
        if position > journal.durable_head:
            early.append(x)
        seen.append(x)

    if shape == "batch":

        @oz.sink(batch=300, within=10.0)
        async def store(items: list[int]) -> None:
            for x in items:
                deliver(x)

    elif shape == "lanes":

        @oz.sink(concurrency=50)
        async def store(x: int) -> None:
            deliver(x)

    else:

        @oz.sink
        def store(x: int) -> None:
            deliver(x)

    seen: list[int] = []
    done = play(oz.Flow("f", ints(3000) >> store, window=oz.Window(events=400)), journal=journal)
    drained(done)
    assert seen == list(range(3000))
    assert early == []


def test_the_window_before_a_sink_grows_with_what_is_written_during_a_sync():
    """Or the disk would wait for the flow and the flow for the disk, in turn."""
    clock, seen = VirtualClock(), Seen()
    begun = clock.monotonic()
    done = play(oz.Flow("f", ints(20_000) >> seen.sink(), window=oz.Window(events=64)), journal=Lagging(seconds=1.0), clock=clock)
    drained(done)
    assert done.pipeline.stages["collect"].inputs[0].most == 16 * 64
    assert clock.monotonic() - begun < 30, "a sync for each 64 events would take 312 seconds"


def test_the_window_before_a_slow_sink_stays_what_it_is():
    class Prompt(Lagging):
        durable_head = property(lambda self: self.head)

    @oz.sink
    async def store(x: int) -> None:
        await passing(0.1)

    done = play(oz.Flow("f", ints(500) >> store, window=oz.Window(events=64)), journal=Prompt())
    drained(done)
    assert done.pipeline.stages["store"].inputs[0].most == 64


def test_a_transform_does_not_wait_for_the_disk():
    @oz.transform
    def same(x: int) -> int:
        ran.append((x, journal.durable_head))
        return x

    ran: list[tuple[int, int]] = []
    journal = Lagging()
    drained(play(oz.Flow("f", ints(100) >> same >> Seen().sink()), journal=journal))
    assert ran[-1] == (99, 0)


def test_a_disk_that_fails_ends_the_flow():
    done = play(oz.Flow("f", ints(100) >> Seen().sink()), journal=Lagging(broken=True))
    assert done.state == "failed"
    assert "the disk is gone" in done.error.message
