"""Signals to a program that owns its process: one suspends, two cancel, and nothing keeps it alive."""

import signal

import pytest

from obzen_runtime.events import Block, Receipt, RunCancelled, RunCompleted
from tests.scenarios.kit import Program

ENDLESS = """
@oz.source
def s() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1

@oz.transform
def t(number: int) -> int:
    return number

@oz.fold(0, emit=oz.at_end())
def total(sum_: int, number: int) -> int:
    return sum_ + number

@oz.sink
def k(number: int) -> None:
    if number == 5000:
        say("running")

@oz.sink
def sums(number: int) -> None:
    say("sum", number)

flow = oz.Flow("f", s >> t >> [k, total >> sums])
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_suspends_every_stage_and_the_exit_code_names_it(tmp_path, number, code):
    with Program(tmp_path, ENDLESS) as program:
        program.until("running")
        program.send(number)
        got, seconds = program.timed_end()
    assert (got, program.state) == (code, "cancelled")
    assert seconds < 5
    (cancelled,) = program.of(RunCancelled, RunCompleted)
    assert cancelled.reason == "user_stop"
    assert program.ends() == {"f": "cancelled", **dict.fromkeys(["s", "t", "k", "total", "sums"], "suspended")}
    assert not any(line.startswith("sum") for line in program.lines), "a suspended fold gives nothing"
    records = program.records()
    written = max(record.base + record.count for record in records if isinstance(record, Block) and record.stage == "s")
    delivered = max(record.cursor.next["t"] for record in records if isinstance(record, Receipt) and record.stage == "k")
    assert delivered == written, "what was admitted is processed"
    assert "cancelled (user_stop)" in program.errors
    assert ("KeyboardInterrupt" in program.errors) == (number == signal.SIGINT)


SLOW = """
@oz.source
async def s() -> AsyncIterator[int]:
    for number in range(8):
        yield number
    await asyncio.Event().wait()

@oz.sink
async def k(number: int) -> None:
    say("begin", number)
    await asyncio.sleep({seconds})
    say("end", number)

flow = oz.Flow("f", s >> k)
"""


def test_a_signal_lets_a_slow_delivery_end_and_delivers_what_was_admitted(tmp_path):
    with Program(tmp_path, SLOW.format(seconds=0.1)) as program:
        program.until("begin 2")
        program.send(signal.SIGTERM)
        code, seconds = program.timed_end()
    assert (code, program.state) == (143, "cancelled")
    assert seconds < 5
    assert [line for line in program.lines if line.startswith("end")] == [f"end {number}" for number in range(8)]
    assert program.of(RunCancelled)[0].reason == "user_stop"
    assert program.of(Receipt)[-1].cursor.next == {"s": 8}


def test_a_second_signal_cancels_a_delivery_that_waits(tmp_path):
    with Program(tmp_path, SLOW.format(seconds=600)) as program:
        program.until("begin 0")
        program.send(signal.SIGTERM)
        program.send(signal.SIGTERM)
        code, seconds = program.timed_end()
    assert (code, program.state) == (143, "cancelled")
    assert seconds < 3
    assert program.of(RunCancelled)[0].reason == "user_cancel"
    assert "end 0" not in program.lines
    assert all(receipt.cursor.next.get("s", 0) == 0 for receipt in program.of(Receipt))


def test_two_signals_of_different_kinds_cancel_too(tmp_path):
    with Program(tmp_path, SLOW.format(seconds=600)) as program:
        program.until("begin 0")
        program.send(signal.SIGTERM)
        program.send(signal.SIGINT)
        code, seconds = program.timed_end()
    assert (code, program.of(RunCancelled)[0].reason) == (143, "user_cancel")
    assert seconds < 3


def test_a_signal_while_the_program_starts_ends_it(tmp_path):
    body = """
    @oz.sink
    class Out:
        def __init__(self) -> None:
            say("making")
            import signal
            os.kill(os.getpid(), signal.SIGTERM)

        def write(self, number: int) -> None:
            say("wrote", number)

    @oz.source
    def s() -> Iterator[int]:
        while True:
            yield 1

    flow = oz.Flow("f", s >> Out)
    """
    with Program(tmp_path, body) as program:
        code, seconds = program.timed_end()
    assert (code, program.state) == (143, "cancelled")
    assert seconds < 5


HELD = """
import threading

@oz.source
def s() -> Iterator[int]:
    yield from range(10)

@oz.transform
def t(number: int) -> int:
    if number == 3:
        say("held")
        {hold}
    return number

@oz.sink
def k(number: int) -> None:
    say(number)

flow = oz.Flow("f", s >> t >> k)
"""


@pytest.mark.parametrize("hold", ["threading.Event().wait()", "while True: pass"], ids=["waits", "spins"])
def test_two_signals_end_a_process_whose_handler_never_lets_go(tmp_path, hold):
    with Program(tmp_path, HELD.format(hold=hold)) as program:
        program.until("held")
        program.send(signal.SIGTERM)
        program.send(signal.SIGTERM)
        code, seconds = program.timed_end()
    assert code == 75
    assert seconds < 4
    assert program.state == "crashed"
    assert [record.count for record in program.of(Block) if record.stage == "s"]
    assert "holds the loop" in program.errors
    assert "program.py" in program.errors, "with the stack of the handler"
    assert "has not ended by the deadline" in program.errors


def test_a_task_that_swallows_every_cancellation_does_not_keep_the_process(tmp_path):
    body = """
    from obzen_runtime.actor import watch
    from obzen_runtime.flow import pipeline
    watch._HANGS = pipeline._GRACE = pipeline._LAST = 0.2

    @oz.source
    def s() -> Iterator[int]:
        yield from range(10)

    @oz.sink
    async def k(number: int) -> None:
        say("stubborn")
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue

    flow = oz.Flow("f", s >> k)
    """
    with Program(tmp_path, body) as program:
        program.until("stubborn")
        program.send(signal.SIGTERM)
        program.send(signal.SIGTERM)
        code, seconds = program.timed_end()
    assert code == 75
    assert seconds < 6
    assert program.of(RunCancelled)[0].reason == "user_cancel"
    assert "stage does not end" in program.errors


def test_the_handlers_of_the_process_are_given_back(tmp_path):
    body = """
    import signal

    @oz.source
    def s() -> Iterator[int]:
        yield 1

    @oz.sink
    def k(number: int) -> None:
        pass

    flow = oz.Flow("f", s >> k)

    def own(number, frame):
        say("mine")
        raise SystemExit(7)

    def main():
        signal.signal(signal.SIGTERM, own)
        oz.run(flow, journal="runs", run_id="r")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    """
    with Program(tmp_path, body, run="main()") as program:
        assert program.end() == 7
    assert program.lines == ["mine"]


@pytest.mark.parametrize("order", ["stop", "drain"])
def test_a_source_that_never_comes_back_keeps_nobody(tmp_path, order):
    """A generator that blocks for ever on its thread: the run ends without it."""
    body = """
    import threading

    @oz.source(thread=True)
    def s() -> Iterator[int]:
        yield from range(5)
        say("blocked")
        threading.Event().wait()

    @oz.fold(0, emit=oz.at_end())
    def total(sum_: int, number: int) -> int:
        return sum_ + number

    @oz.sink
    def k(number: int) -> None:
        say("sum", number)

    flow = oz.Flow("f", s >> total >> k)

    async def main():
        async with oz.start(flow, journal="runs", run_id="r") as handle:
            while handle.metrics()["total"]["received"] < 5:
                await asyncio.sleep(0.001)
            await handle.drain()
    """
    run = "asyncio.run(main())" if order == "drain" else 'oz.run(flow, journal="runs", run_id="r")'
    with Program(tmp_path, body, run=run) as program:
        program.until("blocked")
        if order == "stop":
            program.send(signal.SIGTERM)
        code, seconds = program.timed_end()
    assert (code, program.state) == ((143, "cancelled") if order == "stop" else (0, "drained"))
    assert seconds < 3
    assert program.lines[1:] == (["sum 10"] if order == "drain" else [])
