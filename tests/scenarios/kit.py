"""Programs that own a process, run as a user runs them; the test acts when the program says where it is."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import BinaryIO

from obzen_runtime.events import ActorCompleted, Record
from obzen_runtime.journal import RunDirectory, SegmentReader, check

ROOT = Path(__file__).parents[2]
HEAD = """\
import asyncio, os, sys, time
from collections.abc import AsyncIterator, Iterator
import msgspec
import obzen_runtime as oz

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
"""


class Program:
    """A program under test: `HEAD`, then `body`, then `oz.run` of its `flow` under the run id `r`."""

    def __init__(self, directory: Path, body: str, *, run: str = 'oz.run(flow, journal="runs", run_id="r")') -> None:
        script = directory / "program.py"
        script.write_text(f'{HEAD}\n{textwrap.dedent(body)}\nif __name__ == "__main__":\n    {run}\n')
        self.run = directory / "runs" / "r"
        self._errors = directory / "stderr"
        with self._errors.open("wb") as errors:
            self._start(script, directory, errors)
        self.lines: list[str] = []
        self.errors = ""

    def _start(self, script: Path, directory: Path, errors: BinaryIO) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(script)],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        assert self.process.stdout is not None
        self.stdout = self.process.stdout

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *told: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.stdout.close()

    def until(self, *words: str) -> list[str]:
        """Read lines until one begins with each of `words`; returns all lines so far."""
        missing = list(words)
        while missing:
            line = self.stdout.readline().decode()
            if not line.endswith("\n"):
                self.end()
                raise AssertionError(f"ended before it said {missing}:\n{self.errors}")
            self.lines.append(line.rstrip("\n"))
            missing = [word for word in missing if not line.startswith(word)]
        return self.lines

    def send(self, number: signal.Signals) -> None:
        """Send a signal and wait until it was delivered: a second one of its kind would otherwise be the same."""
        self.process.send_signal(number)
        while self.process.poll() is None and self._pending() & 1 << (number - 1):
            """It is on its way."""

    def _pending(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status")
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines()) if status.exists() else {}
        return int(fields.get("SigPnd", "0"), 16) | int(fields.get("ShdPnd", "0"), 16)

    def end(self, *, within: float = 20.0) -> int:
        """Wait for its end; returns the exit code as a shell shows it."""
        killer = threading.Timer(within, self.process.kill)
        killer.start()
        self.lines.extend(self.stdout.read().decode().splitlines())
        self.process.wait()
        killer.cancel()
        self.errors = self._errors.read_text()
        code = self.process.returncode
        return 128 - code if code < 0 else code

    def timed_end(self) -> tuple[int, float]:
        """The exit code, and the seconds it took to end."""
        begun = time.monotonic()
        return self.end(), time.monotonic() - begun

    # -- what it left ---------------------------------------------------------------------------

    @property
    def state(self) -> str:
        return RunDirectory(self.run).state()

    def records(self) -> list[Record]:
        async def read() -> list[Record]:
            return [entry.record async for entry in SegmentReader.open(self.run).read()]

        report = check(self.run)
        assert report.problems == ()
        return asyncio.run(read())

    def of(self, *kinds: type) -> list:
        return [record for record in self.records() if type(record) in kinds]

    def ends(self) -> dict[str, str]:
        """The state in which each actor completed."""
        return {record.actor: record.state for record in self.of(ActorCompleted)}
