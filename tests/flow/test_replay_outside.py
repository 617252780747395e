"""A replay has the clock and the chance of the run, reaches nothing outside, and names a handler that does."""

import asyncio
import datetime
import os
import random
import socket
import subprocess
import time
import urllib.request
import uuid
from datetime import datetime as moment
from threading import Thread
from uuid import uuid4

import pytest

import obzen_runtime as oz
from obzen_runtime.flow import replay
from tests.flow.kit import Seen, ints
from tests.flow.replaying import diverged, plain, proved, recorded, same

_COUNTED = iter(range(1 << 30))


def by_the_clock(number):
    return time.time_ns()


def by_another_clock(number):
    return int(datetime.datetime.now(datetime.UTC).timestamp() * 1e6)


def by_chance(number):
    return random.randrange(1 << 60)


def by_identity(number):
    return uuid.uuid4().int >> 70


def by_a_name(number):
    return uuid4().int >> 70


def by_a_class(number):
    return int(moment.now(datetime.UTC).timestamp() * 1e6)


def by_a_helper(number):
    return by_chance(number)


MOODS = {
    by_the_clock: ("time.time_ns", "ctx.now()"),
    by_another_clock: ("datetime.datetime.now", "ctx.now()"),
    by_chance: ("random.randrange", "ctx.random"),
    by_identity: ("uuid.uuid4", "ctx.uuid()"),
    by_a_name: ("uuid.uuid4", "ctx.uuid()"),
    by_a_class: ("datetime.datetime.now", "ctx.now()"),
    by_a_helper: ("random.randrange", "ctx.random"),
}


@pytest.mark.parametrize("mood", MOODS)
def test_a_handler_that_asks_the_machine_for_time_or_chance_is_found_and_named(mood):
    @oz.transform
    def moody(number: int) -> int:
        return mood(number)

    flow = oz.Flow("f", ints(5) >> moody >> Seen().sink())
    found = diverged(flow, flow)
    named, instead = MOODS[mood]
    assert (found.stage, found.event, found.what) == ("moody", "moody@0", "value")
    assert [hint for hint in found.hints if named in hint and instead in hint], found


def test_a_handler_that_has_its_own_count_is_found():
    @oz.transform
    def counted(number: int) -> int:
        return next(_COUNTED)

    flow = oz.Flow("f", ints(5) >> counted >> Seen().sink())
    assert diverged(flow, flow).event == "counted@0"


def test_time_and_chance_of_the_context_are_the_same_in_a_replay():
    @oz.transform
    def asks(number: int, ctx: oz.Context) -> tuple[str, ...]:
        return str(ctx.now()), str(ctx.random.random()), str(ctx.uuid()), ctx.event.id, ctx.stage

    proved(oz.Flow("f", ints(100) >> asks >> Seen().sink(), window=oz.Window(events=7)))


@pytest.mark.parametrize("where", ["loop", "thread", "coroutine", "executor"])
def test_a_replay_makes_no_outside_call(where):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        served = []

        def serve():
            connection, _ = server.accept()
            served.append(connection)

        def asks(number: int) -> int:
            with socket.create_connection(address):
                return number

        async def asks_elsewhere(number: int) -> int:
            return await asyncio.get_running_loop().run_in_executor(None, asks, number)

        async def asks_and_waits(number: int) -> int:
            _, writer = await asyncio.open_connection(*address)
            writer.close()
            return number

        asking = {
            "loop": oz.transform(asks),
            "thread": oz.transform(executor=oz.threads(1))(asks),
            "coroutine": oz.transform(asks_and_waits),
            "executor": oz.transform(asks_elsewhere),
        }[where].named("asks")
        thread = Thread(target=serve)
        thread.start()
        flow = oz.Flow("f", ints(1) >> asking >> Seen().sink())
        journal, played = recorded(flow, real=True)
        thread.join()
        assert played.events("asks") == [0]
        found = replay(flow, journal).differences[0]
        assert (found.stage, found.event) == ("asks", "asks@0")
        assert "no outside call" in found.replayed
        assert [hint for hint in found.hints if "socket." in hint], found
        served[0].close()
        with socket.create_connection(address):
            """Outside of a step everything may call."""


OUTSIDE = {
    "os.fork": os.fork,
    "os.posix_spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "socket.gethostbyname": lambda: socket.gethostbyname("localhost"),
    "socket.gethostbyaddr": lambda: socket.gethostbyaddr("127.0.0.1"),
    "socket.getnameinfo": lambda: socket.getnameinfo(("127.0.0.1", 80), 0),
    "urllib.Request": lambda: urllib.request.urlopen("http://127.0.0.1:9"),
}


@pytest.mark.parametrize("call", OUTSIDE)
def test_calls_to_the_outside_are_refused_by_name(call):
    live = [True]

    @oz.transform
    def asks(number: int) -> int:
        if not live:
            OUTSIDE[call]()
        return number

    flow = oz.Flow("f", ints(1) >> asks >> Seen().sink())
    journal, _ = recorded(flow)
    live.clear()
    assert f"({call})" in replay(flow, journal).differences[0].replayed


def test_a_replay_starts_no_program():
    @oz.transform
    def starts(number: int) -> int:
        return subprocess.run(["/bin/true"], check=False).returncode

    flow = oz.Flow("f", ints(1) >> starts >> Seen().sink())
    journal, _ = recorded(flow, real=True)
    assert "subprocess.Popen" in replay(flow, journal).differences[0].replayed


def test_sinks_are_not_called():
    seen = Seen()
    flow = oz.Flow("f", ints(10) >> plain(same) >> seen.sink())
    proved(flow)
    assert seen == list(range(10))
