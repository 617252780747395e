"""Messages that hurt: one that always raises, one that ends the interpreter, one that hangs, one of 100 MiB, one that cannot be decoded.

Each becomes a dead letter, or is met again at its own place, and what stands around it is processed once.
"""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import obzen_runtime as oz
from obzen_runtime.events import Block, DeadLetter
from obzen_runtime.flow import Cancel
from obzen_runtime.journal import SegmentReader
from tests.flow.kit import Seen, ints, play, same, until

ROOT = Path(__file__).parents[2]
AROUND = [number for number in range(20) if number != 7]
HEAD = """
import asyncio, ctypes, os, sys, time
from collections.abc import Iterator
import obzen_runtime as oz

@oz.source
def s() -> Iterator[int]:
    yield from range(20)

@oz.sink
def k(number: int) -> None:
    with open("seen", "a") as file:
        file.write(f"{number}\\n")
"""


def run(place, body, *arguments):
    (place / "flow.py").write_text(HEAD + body + '\nflow = oz.Flow("f", s >> t >> k)\n')
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "POISON": "1"}
    command = [sys.executable, "-m", "obzen_runtime", *arguments, "--quiet"]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=60, check=False)


def seen(place):
    return sorted(map(int, (place / "seen").read_text().split()))


async def letters(place):
    reader = SegmentReader.open(place / "runs" / "r")
    return [record async for _, record in reader.read(kinds=frozenset({DeadLetter}))]


def test_T_POISON_one_that_always_raises_is_a_letter_after_its_last_try_and_the_rest_goes_on():
    tries = []

    @oz.transform(retry=oz.Retry(attempts=4))
    async def t(number: int) -> int:
        if number == 7:
            tries.append(number)
            raise oz.Transient("poison")
        return number

    found = Seen()
    played = play(oz.Flow("f", ints(20) >> t >> found.sink()))
    assert (played.state, found, len(tries)) == ("drained", AROUND, 4)
    (letter,) = played.of(DeadLetter)
    assert (letter.event, letter.error.message) == (7, "poison")
    order = [type(record) for record in played.records if isinstance(record, DeadLetter) or (isinstance(record, Block) and record.errors)]
    assert order == [Block, DeadLetter], "the letter is in the frame that commits its event"


async def test_T_POISON_one_that_ends_the_interpreter_is_met_again_at_its_place_and_can_be_left_out(tmp_path):
    body = """
@oz.transform
def t(number: int) -> int:
    if number == 7 and not os.path.exists("cured"):
        ctypes.string_at(0)
    return number
"""
    died = run(tmp_path, body, "run", "flow.py", "--run-id", "r")
    assert died.returncode == -signal.SIGSEGV
    again = run(tmp_path, body, "resume", "r")
    assert again.returncode == -signal.SIGSEGV, "it is not passed over by itself"
    body = body.replace("ctypes.string_at(0)", 'raise oz.Permanent("poison")')
    cured = run(tmp_path, body, "resume", "r")
    assert cured.returncode == 0, cured.stderr
    assert seen(tmp_path) == AROUND
    (letter,) = await letters(tmp_path)
    assert letter.error.message == "poison"


async def test_T_POISON_one_that_hangs_is_ended_by_a_timeout_and_the_rest_goes_on(tmp_path):
    body = """
@oz.transform
async def t(number: int) -> int:
    if number == 7:
        async with asyncio.timeout(0.1):
            await asyncio.get_running_loop().create_future()
    return number
"""
    done = run(tmp_path, body, "run", "flow.py", "--run-id", "r")
    assert done.returncode == 0, done.stderr
    assert seen(tmp_path) == AROUND
    (letter,) = await letters(tmp_path)
    assert letter.error.kind == "TIMEOUT"


def test_T_POISON_one_that_holds_the_loop_for_ever_ends_with_its_process_and_is_met_again(tmp_path):
    body = """
@oz.transform
def t(number: int) -> int:
    if number == 7 and not os.path.exists("cured"):
        print("held", flush=True)
        while True:
            pass
    return number
"""
    (tmp_path / "flow.py").write_text(HEAD + body + '\nflow = oz.Flow("f", s >> t >> k)\n')
    command = [sys.executable, "-m", "obzen_runtime", "run", "flow.py", "--run-id", "r", "--quiet"]
    with subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout.readline() == b"held\n"
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 75
    (tmp_path / "cured").touch()
    done = run(tmp_path, body, "resume", "r")
    assert done.returncode == 0, done.stderr
    assert seen(tmp_path) == list(range(20))


@pytest.mark.timeout(120)
def test_T_POISON_one_of_100_mib_is_a_letter_and_the_rest_goes_on():
    @oz.transform
    def t(number: int) -> bytes:
        return bytes(100 << 20) if number == 7 else b"small"

    sizes = []

    @oz.sink
    def k(data: bytes) -> None:
        sizes.append(len(data))

    played = play(oz.Flow("f", ints(20) >> t >> k))
    assert (played.state, sizes) == ("drained", [5] * 19)
    (letter,) = played.of(DeadLetter)
    assert letter.error.code == "too_large"


def with_other_payloads(payloads):
    """The journal of a run that was cancelled before its 20 events were taken, with other bytes in their block."""

    @oz.transform
    async def t(number: int) -> int:
        await asyncio.get_running_loop().create_future()
        return number

    async def beside(pipeline):
        await until(lambda: pipeline.stages["s"].written == 20)
        pipeline.command(Cancel("user_cancel"))

    journal = oz.MemoryJournal(keep=True)
    play(oz.Flow("f", ints(20) >> t >> Seen().sink()), journal=journal, beside=beside)
    (place,) = [place for place, record in enumerate(journal._records) if isinstance(record, Block) and record.stage == "s"]
    written = journal._records[place]
    assert written.count == 20
    journal._records[place] = msgspec.structs.replace(written, payloads=payloads)
    return journal, place, written


def test_T_POISON_an_event_in_the_log_that_does_not_decode_is_a_letter_with_its_bytes_and_the_rest_goes_on():
    journal, _, _ = with_other_payloads(msgspec.msgpack.encode([*range(7), "text", *range(8, 20)]))
    found = Seen()
    played = play(oz.Flow("f", ints(20) >> same() >> found.sink()), journal=journal)
    (letter,) = played.of(DeadLetter)
    assert (played.state, found) == ("drained", [n for n in range(20) if n != 7])
    assert (letter.stage, letter.event, letter.error.code, letter.payload) == ("t", 7, "undecodable", msgspec.msgpack.encode("text"))


def test_T_POISON_bytes_in_the_log_that_nobody_wrote_are_passed_to_nobody_and_the_run_can_be_resumed():
    journal, place, written = with_other_payloads(b"\xc1" * 30)
    found = Seen()
    played = play(oz.Flow("f", ints(20) >> same() >> found.sink()), journal=journal)
    assert (played.state, found, played.of(DeadLetter)) == ("failed", [], [])
    journal._records[place] = written
    played = play(oz.Flow("f", ints(20) >> same() >> found.sink()), journal=journal)
    assert (played.state, found) == ("drained", list(range(20)))
