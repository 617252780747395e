"""Orders from another process to a flow that has no end of its own."""

import os
import subprocess
import sys

from obzen_runtime.events import Block, Contract, RunCancelled, RunCompleted
from tests.scenarios.kit import ROOT, Program

TOTALS = """
class Reading(msgspec.Struct, frozen=True):
    sensor: str
    value: int

class Total(msgspec.Struct, frozen=True):
    sensor: str
    count: int

@oz.source
def readings() -> Iterator[Reading]:
    number = 0
    while True:
        yield Reading("abc"[number % 3], number)
        number += 1

@oz.stateful(key=lambda reading: reading.sensor, emit=oz.at_end())
class PerSensor:
    count: int = 0
    def fold(self, reading: Reading) -> None:
        self.count += 1
        if self.count == 1000 and reading.sensor == "c":
            say("running")
    def emit(self, key: str) -> Total:
        return Total(key, self.count)

@oz.sink
def out(total: Total) -> None:
    say("total", total.sensor, total.count)

flow = oz.Flow("f", readings >> PerSensor >> out)
"""
EMBEDDED = """
async def embed():
    async with oz.start(flow, journal="runs", run_id="r") as handle:
        report = await handle.wait()
        say("state", report.state)
"""


def obzen(directory, *arguments):
    """The command in a process of its own: its exit code and its two outputs."""
    done = subprocess.run(
        [sys.executable, "-m", "obzen_runtime", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def totals(program):
    return {line.split()[1]: int(line.split()[2]) for line in program.lines if line.startswith("total")}


def written(program, stage):
    return max(record.base + record.count for record in program.of(Block) if record.stage == stage)


def test_a_drain_from_outside_gives_the_totals_of_an_endless_keyed_flow(tmp_path):
    with Program(tmp_path, TOTALS) as program:
        program.until("running")
        code, out, _ = obzen(tmp_path, "stop", "r", "--drain")
        ended = program.end()
    assert (code, out, ended, program.state) == (0, "runs/r: drained\n", 0, "drained")
    found = totals(program)
    assert sorted(found) == ["a", "b", "c"]
    assert sum(found.values()) == written(program, "readings"), "what the source gave is in the totals, all of it, once"
    assert len(program.of(RunCompleted)) == 1
    assert {each.passed for each in program.of(Contract)} == {True}


def test_a_stop_from_outside_suspends_it_and_gives_nothing(tmp_path):
    with Program(tmp_path, TOTALS) as program:
        program.until("running")
        code, out, _ = obzen(tmp_path, "stop", "--last")
        program.end()
    assert (code, out, program.state) == (0, "runs/r: cancelled (user_stop)\n", "cancelled")
    assert totals(program) == {}
    assert program.of(RunCancelled)[0].reason == "user_stop"


def test_an_embedded_flow_drains_when_it_is_told_from_outside(tmp_path):
    with Program(tmp_path, TOTALS + EMBEDDED, run="asyncio.run(embed())") as program:
        program.until("running")
        code, _, _ = obzen(tmp_path, "stop", "r", "--drain")
        ended = program.end()
    assert (code, ended, "state drained" in program.lines) == (0, 0, True)
    assert sum(totals(program).values()) == written(program, "readings")
