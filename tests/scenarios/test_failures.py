"""What users' code does wrong, in a program of its own, and what is on record and on the terminal afterwards."""

import signal

from obzen_runtime.events import ActorRestarted, ActorStalled, DeadLetter, RunCompleted, RunFailed
from tests.scenarios.kit import Program


def test_a_handler_that_raises_makes_dead_letters_and_the_run_drains(tmp_path):
    body = """
    @oz.source
    def s() -> Iterator[int]:
        yield from range(1000)

    @oz.transform
    def t(number: int) -> int:
        if number % 100 == 7:
            raise ValueError(f"no {number}")
        return number

    @oz.fold(0, emit=oz.at_end())
    def count(sum_: int, number: int) -> int:
        return sum_ + 1

    @oz.sink
    def k(number: int) -> None:
        say("count", number)

    flow = oz.Flow("f", s >> t >> count >> k)
    """
    with Program(tmp_path, body) as program:
        assert program.end() == 0
    assert (program.state, program.lines) == ("drained", ["count 990"])
    letters = program.of(DeadLetter)
    assert [(each.stage, each.event, each.error.message) for each in letters] == [("t", n, f"no {n}") for n in range(7, 1000, 100)]
    assert "drained, 10 dead letters" in program.errors
    assert "Traceback" not in program.errors


def test_a_handler_that_holds_the_loop_is_reported_with_its_stack_and_the_run_drains(tmp_path):
    body = """
    @oz.source
    def s() -> Iterator[int]:
        yield from range(3)

    @oz.transform
    def t(number: int) -> int:
        if number == 1:
            time.sleep(2)
        return number

    @oz.sink
    def k(number: int) -> None:
        say(number)

    flow = oz.Flow("f", s >> t >> k)
    """
    with Program(tmp_path, body) as program:
        assert program.end() == 0
    assert program.lines == ["0", "1", "2"]
    (stall,) = program.of(ActorStalled)
    assert (stall.actor, stall.why) == ("t", "loop_held")
    assert 1 <= stall.seconds < 2
    assert "program.py" in stall.detail.splitlines()[-1]
    assert stall.detail.endswith(", in t")
    assert "t holds the loop for 1." in program.errors
    assert stall.detail in program.errors
    assert program.of(RunCompleted)


def test_a_source_that_sleeps_holds_nobody_up(tmp_path):
    body = """
    @oz.source
    def slow() -> Iterator[int]:
        number = 0
        while True:
            time.sleep(0.3)
            yield number
            number += 1

    @oz.source
    async def beat() -> AsyncIterator[float]:
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            await asyncio.sleep(0.02)
            yield loop.time() - begun

    worst = [0.0]

    @oz.sink
    def measure(seconds: float) -> None:
        worst[0] = max(worst[0], seconds)

    @oz.sink
    def show(number: int) -> None:
        say(number, worst[0])

    @oz.sink
    def both(number) -> None:
        pass

    flow = oz.Flow("f", slow >> [show, both], beat >> [measure, both])
    """
    with Program(tmp_path, body) as program:
        program.until("4 ")
        program.send(signal.SIGTERM)
        code, seconds = program.timed_end()
    assert code == 143
    assert seconds < 2
    *_, lag = program.lines[4].split()
    assert float(lag) < 0.5
    assert [line.split()[0] for line in program.lines[:5]] == ["0", "1", "2", "3", "4"]


CRASHING = """
@oz.source
def s() -> Iterator[int]:
    yield from range(1000)

left = [{crashes}]

@oz.transform
def t(number: int) -> int:
    if number == 500 and left[0]:
        left[0] -= 1
        sys.exit(3)
    return number

@oz.fold(0, emit=oz.at_end())
def total(sum_: int, number: int) -> int:
    return sum_ + number

@oz.sink
def k(number: int) -> None:
    say("sum", number)

flow = oz.Flow("f", s >> t >> total >> k, restart=oz.Restart(max=2))
"""


def test_a_stage_that_crashes_goes_on_while_restarts_are_left(tmp_path):
    with Program(tmp_path, CRASHING.format(crashes=2)) as program:
        assert program.end() == 0
    assert program.lines == [f"sum {sum(range(1000))}"]
    assert [(each.actor, each.count) for each in program.of(ActorRestarted)] == [("t", 1), ("t", 2)]


def test_a_stage_that_crashes_once_too_often_fails_the_run(tmp_path):
    with Program(tmp_path, CRASHING.format(crashes=3)) as program:
        assert program.end() == 1
    assert program.state == "failed"
    assert len(program.of(ActorRestarted)) == 2
    (failed,) = program.of(RunFailed, RunCompleted)
    assert failed.cause.type == "SystemExit"
    assert program.ends()["t"] == "failed"
    assert "FlowFailed" in program.errors


def test_a_run_whose_name_lives_is_refused_beside_it(tmp_path):
    body = """
    @oz.source
    async def s() -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()

    @oz.sink
    def k(number: int) -> None:
        say("running")

    flow = oz.Flow("f", s >> k)
    """
    with Program(tmp_path, body) as first:
        first.until("running")
        with Program(tmp_path, body) as second:
            assert second.end() == 1
        assert "run r is running" in second.errors
        first.send(signal.SIGTERM)
        assert first.end() == 143
