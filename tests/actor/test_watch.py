"""The watchdog sees from its own thread what the loop cannot say: who holds it, and that time is up."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from obzen_runtime.actor import EXIT_HELD, Ground, Terminate, Transition, Watchdog
from obzen_runtime.actor import watch as module
from obzen_runtime.fsm import on
from obzen_runtime.journal import MemoryJournal
from obzen_runtime.kernel import UsageError
from tests.actor.kit import Broke, Go, Run, Scripted, Work, machine, turns


def hold(seconds):
    """Keep the thread, as a handler in a tight loop does."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        """Work."""


class Watching:
    """A watchdog with quick thresholds, stopped at the end."""

    def __init__(self, **options):
        self.held = []
        self.signals = []
        self.dog = Watchdog(held_after=0.05, period=0.01, on_held=lambda *told: self.held.append(told), **options)

    def __enter__(self):
        self.dog.start(asyncio.get_running_loop())
        return self

    def __exit__(self, *_):
        self.dog.stop()


async def until(done):
    """Let the loop run until something on another thread has happened; the test's own timeout bounds it."""
    while not done():  # noqa: ASYNC110 - the other thread knows no event of ours
        await asyncio.sleep(0)


def test_the_times_are_those_that_are_promised():
    """A hold is told after a second; an order to stop has half a minute, a second signal leaves two seconds."""
    dog = Watchdog()
    assert (dog.held_after, dog.stop_within, module._AGAIN, EXIT_HELD) == (1.0, 30.0, 2.0, 75)
    assert Ground(MemoryJournal()).stop_within == 30.0


async def test_a_hold_is_reported_once_with_the_holders_name_and_stack(caplog):
    with Watching() as watching:
        asyncio.current_task().set_name("obzen payments")
        await turns()
        hold(0.2)
        await until(lambda: watching.held and caplog.records)
    [(name, seconds, stack)] = watching.held
    assert name == "payments"
    assert seconds >= 0.05
    assert "in hold" in stack
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "payments holds the loop for 0." in record.getMessage()
    assert "in hold" in record.getMessage()


async def test_each_hold_is_reported():
    with Watching() as watching:
        for count in (1, 2, 3):
            hold(0.15)
            await until(lambda count=count: len(watching.held) == count)


def test_a_loop_that_answers_in_time_is_not_reported():
    dog = looking(answers=True)
    dog.held_after = 1.0
    now = time.monotonic()
    for step in range(100):
        dog._look(now + step * 10)
    assert not dog._reported


async def test_a_hold_by_no_task_is_the_loops():
    with Watching() as watching:
        asyncio.get_running_loop().call_soon(hold, 0.15)
        await until(lambda: watching.held)
    assert watching.held[0][0] == "the loop"


@pytest.mark.parametrize("where", ["dispatch", "action", "after another actor's turn"])
async def test_an_actor_that_holds_the_loop_is_named_wherever_it_does(where):
    async def work(context):
        if where != "action":
            await turns(3)
            hold(0.15)
            await turns()
        return Transition(Work())

    table = machine(
        on(Go, "idle", "busy"), on(Work, "busy", "end", do=[lambda *_: hold(0.15 if where == "action" else 0)]), on(Broke, "*", "broken")
    )
    other = Run(Scripted({"busy": lambda context: wait_then(Terminate("done"))}))
    with Watching() as watching:
        other_task = other.task() if where.startswith("after") else None
        await Run(Scripted({"busy": work}, table))
        await until(lambda: watching.held)
        if other_task is not None:
            await other_task
    assert watching.held[0][0] == "actor-1"


async def wait_then(directive):
    await turns(2)
    return directive


async def test_nothing_is_told_after_stop():
    watching = Watching()
    with watching:
        await turns()
        hold(0.15)
    await turns()
    assert watching.held == []


async def test_without_a_listener_the_log_still_tells(caplog):
    dog = Watchdog(held_after=0.05, period=0.01)
    dog.start(asyncio.get_running_loop())
    hold(0.15)
    dog.stop()
    assert "holds the loop" in caplog.text


async def test_a_log_that_blocks_does_not_stop_the_watchdog():
    gate = threading.Event()

    class Blocking(logging.Handler):
        def emit(self, record):
            gate.wait(20)

    handler = Blocking()
    logging.getLogger("obzen").addHandler(handler)
    try:
        with Watching() as watching:
            hold(0.1)
            await until(lambda: watching.held)
    finally:
        gate.set()
        logging.getLogger("obzen").removeHandler(handler)


async def test_stop_is_idempotent_and_a_stopped_one_may_start_again():
    watching = Watching()
    watching.dog.stop()
    for count in (1, 2):
        with watching:
            hold(0.15)
            await until(lambda count=count: len(watching.held) == count)
        watching.dog.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "obzen-watchdog"]


async def test_two_starts_are_refused():
    with Watching() as watching, pytest.raises(UsageError, match="watches a loop already"):
        watching.dog.start(asyncio.get_running_loop())


def test_it_ends_with_the_loop_it_watches():
    dog = Watchdog(period=0.01)

    async def main():
        dog.start(asyncio.get_running_loop())

    asyncio.run(main())
    dog._thread.join(5)
    assert not dog._thread.is_alive()
    dog.stop()


@pytest.fixture
def usr1():
    before = signal.getsignal(signal.SIGUSR1)
    yield signal.SIGUSR1
    assert signal.getsignal(signal.SIGUSR1) is before
    assert signal.set_wakeup_fd(-1) == -1


def wakeup():
    """What the wake-up descriptor is now."""
    found = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(found)
    return found


async def test_signals_come_to_the_loop_and_are_given_back(usr1):
    heard = []
    before = wakeup()
    dog = Watchdog(period=0.01)
    dog.start(asyncio.get_running_loop(), signals=(usr1,), on_signal=heard.append)
    assert wakeup() != before
    signal.raise_signal(usr1)
    await until(lambda: heard)
    dog.stop()
    assert heard == [usr1]
    assert wakeup() == before


async def test_signals_without_a_listener_only_set_the_deadline(usr1):
    dog = Watchdog(period=0.01, stop_within=1000.0)
    dog.start(asyncio.get_running_loop(), signals=(usr1,))
    signal.raise_signal(usr1)
    await until(lambda: dog._deadline is not None)
    assert dog._deadline > time.monotonic() + 900
    signal.raise_signal(usr1)
    await until(lambda: dog._deadline < time.monotonic() + 900)
    dog.stop()


async def test_other_signals_go_where_they_went_before_and_are_no_order_to_stop(usr1):
    other, heard, mine = signal.SIGUSR2, [], []
    asyncio.get_running_loop().add_signal_handler(other, heard.append, other)
    dog = Watchdog(period=0.01)
    dog.start(asyncio.get_running_loop(), signals=(usr1,), on_signal=mine.append)
    try:
        signal.raise_signal(other)
        await until(lambda: heard)
    finally:
        dog.stop()
        asyncio.get_running_loop().remove_signal_handler(other)
    assert mine == []
    assert dog._deadline is None


async def test_other_signals_that_went_nowhere_are_passed_over(usr1):
    heard, before = [], signal.signal(signal.SIGUSR2, lambda *_: heard.append("python"))
    dog = Watchdog(period=0.01)
    dog.start(asyncio.get_running_loop(), signals=(usr1,))
    try:
        signal.raise_signal(signal.SIGUSR2)
        await until(lambda: heard)
    finally:
        dog.stop()
        signal.signal(signal.SIGUSR2, before)
    assert dog._deadline is None


async def test_a_handler_that_was_not_set_from_python_is_given_back_as_the_default(monkeypatch):
    given = []
    with monkeypatch.context() as patched:  # the event loop's own runner uses signals too once this test is over
        patched.setattr(module.signal, "signal", lambda number, handler: given.append(handler))
        dog = Watchdog(period=0.01)
        dog.start(asyncio.get_running_loop(), signals=(signal.SIGUSR1,))
        dog.stop()
    assert given[-1] is signal.SIG_DFL


async def test_a_flood_of_signals_does_not_keep_it_from_stopping(usr1, monkeypatch):
    dog = Watchdog(period=0.01)
    dog.start(asyncio.get_running_loop(), signals=(usr1,))
    reader, writer = dog._ears

    class Full:
        def send(self, data):
            raise BlockingIOError

        close = writer.close

    dog._ears = (reader, Full())
    dog.stop()
    assert dog._thread is None


def test_signals_outside_the_main_thread_are_refused_and_nothing_is_left():
    caught = []

    async def main():
        before = len(os.listdir("/dev/fd"))
        try:
            Watchdog().start(asyncio.get_running_loop(), signals=(signal.SIGUSR1,))
        except UsageError as error:
            caught.append((error, len(os.listdir("/dev/fd")) - before))

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    thread.join()
    [(error, left)] = caught
    assert "main thread" in str(error)
    assert "oz.start" in error.remedy
    assert left == 0


def test_without_signals_any_thread_may_watch_its_loop():
    held = []

    async def main():
        dog = Watchdog(held_after=0.05, period=0.01, on_held=lambda *told: held.append(told))
        dog.start(asyncio.get_running_loop())
        hold(0.15)
        await until(lambda: held)
        dog.stop()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    thread.join()
    assert "in hold" in held[0][2]


async def test_embedded_it_never_ends_the_process(monkeypatch):
    ended = []
    monkeypatch.setattr(module.os, "_exit", ended.append)
    with Watching(owns_process=False) as watching:
        watching.dog.end_by(0.0)
        hold(0.2)
        await until(lambda: watching.held)
    assert ended == []


class Exited(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def exits(monkeypatch):
    """`os._exit` as an exception, for looks taken by hand."""

    def leave(code):
        raise Exited(code)

    monkeypatch.setattr(module.os, "_exit", leave)


class StillLoop:
    """A loop that never comes to what it is asked."""

    def call_soon_threadsafe(self, function, *arguments):
        """Later, perhaps."""


def looking(*, answers):
    dog = Watchdog(owns_process=True, held_after=1000.0)
    loop = StillLoop()
    if answers:
        loop.call_soon_threadsafe = lambda function, *arguments: function(*arguments)
    dog._loop = loop
    return dog


def test_the_deadline_ends_a_process_whose_loop_is_held(exits):
    dog = looking(answers=False)
    now = time.monotonic()
    dog.end_by(10.0)
    dog.end_by(99.0)
    dog._look(now)
    dog._look(now + 9.9)
    with pytest.raises(Exited, match=str(EXIT_HELD)):
        dog._look(now + 10.1)


def test_an_earlier_deadline_beats_a_later_one(exits):
    dog = looking(answers=False)
    now = time.monotonic()
    dog.end_by(99.0)
    dog.end_by(10.0)
    dog._look(now)
    with pytest.raises(Exited):
        dog._look(now + 10.1)


def test_a_loop_that_answers_has_some_seconds_more(exits):
    dog = looking(answers=True)
    now = time.monotonic()
    dog.end_by(10.0)
    for after in (0.0, 10.1, 15.0, 17.9):
        dog._look(now + after)
    with pytest.raises(Exited):
        dog._look(now + 18.1)


def test_a_thread_that_has_ended_has_no_stack():
    dog = Watchdog()
    assert dog._stack() == ""


def program(body):
    """Run a program that holds its loop for ever; returns the process, once it has said that it holds."""
    text = textwrap.dedent(
        """
        import asyncio, signal, sys
        from obzen_runtime.actor import Watchdog

        def hold():
            print("holding", flush=True)
            while True:
                pass

        async def main():
            dog = Watchdog(period=0.05, owns_process=True{options})
            dog.start(asyncio.get_running_loop(), signals=(signal.SIGTERM, signal.SIGINT), on_signal=lambda number: None)
            asyncio.current_task().set_name("obzen payments")
            {body}
            hold()

        asyncio.run(main())
        """
    )
    text = text.replace("{options}", body.get("options", "")).replace("{body}", body.get("body", ""))
    process = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "holding\n"
    return process


def ended(process):
    try:
        _, told = process.communicate(timeout=20)
    finally:
        process.kill()
    return process.returncode, told


def test_a_deadline_that_passes_with_the_loop_held_ends_the_process_with_75():
    code, told = ended(program({"body": "dog.end_by(0.3)"}))
    assert code == 75
    assert "payments has not ended by the deadline" in told


def test_two_signals_end_a_process_whose_python_code_runs_for_ever():
    process = program({})
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    code, _ = ended(process)
    assert code == 75
    assert 1.5 < time.monotonic() - began < 6


def test_one_signal_ends_it_once_the_time_to_stop_is_over():
    process = program({"options": ", stop_within=0.3"})
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 75


def test_a_log_that_blocks_does_not_keep_the_process_alive():
    body = "import logging; handler = logging.StreamHandler(); logging.getLogger().addHandler(handler); "
    body += "handler.lock.acquire(); dog.end_by(0.2)"
    assert ended(program({"body": body}))[0] == 75
