"""The kernel kills a writer at its system calls, one after the other: what it acknowledged is there, and the journal goes on."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from obzen_runtime.journal import SegmentJournal, check
from tests.crash.scale import spread
from tests.crash.story import BEGIN, mark
from tests.journal.kit import tell

ROOT = Path(__file__).parents[2]
CALLS = (
    "write",
    "writev",
    "pwrite64",
    "fdatasync",
    "fsync",
    "openat",
    "rename",
    "unlink",
    "ftruncate",
    "mkdir",
    "flock",
    "msync",
    "mmap",
    "close",
)
STRACE = shutil.which("strace")


def traced(place, *options):
    """Run the story under strace; its exit code, and what it said was acknowledged."""
    reading, writing = os.pipe()
    command = [STRACE, "-f", "-qq", *options, sys.executable, str(ROOT / "tests/crash/story.py"), str(place), str(writing)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}
    process = subprocess.Popen(command, pass_fds=[writing], env=environment, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = [int(line) for line in pipe.read().split()]
    _, errors = process.communicate(timeout=60)
    return process.returncode, told[-1] if told else 0, errors


def counted(tmp_path):
    """What the story has acknowledged at its end, and its calls, numbered as strace does."""
    log = tmp_path / "log"
    code, told, errors = traced(tmp_path / "whole", "-e", f"trace={','.join(CALLS)},access,faccessat2", "-o", str(log))
    if code:
        pytest.skip(f"strace cannot trace here: {errors.strip()[-200:]}")
    cases, numbers, begun = dict[tuple[str, int], None](), Counter(), False
    for line in log.read_text().splitlines():
        begun = begun or BEGIN in line
        if found := re.match(r"(\d+)\s+(\w+)\(", line):
            thread, call = found.groups()
            numbers[thread, call] += 1  # strace counts the calls of each thread apart
            if begun and call in CALLS:
                cases[call, numbers[thread, call]] = None
    return told, list(cases)


@pytest.mark.crash
@pytest.mark.timeout(3600)
async def test_T_SYS_1_killed_by_the_kernel_at_every_system_call(tmp_path):
    if STRACE is None:
        pytest.skip("strace is not installed")
    whole, cases = counted(tmp_path)
    chosen, killed = spread(cases, 6), 0
    for call, number in chosen:
        place = tmp_path / f"{call}{number}"
        inject = ("-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={number}", "-o", os.devnull)
        code, told, errors = traced(place, *inject)
        killed += code == -9
        assert code in (0, -9), (call, number, errors)  # 0: it made fewer such calls this time
        assert told == whole or code
        journal = SegmentJournal.open(place)
        found = [entry.position async for entry in journal.read()]
        assert journal.head >= told, (call, number)
        assert found == list(range(journal.first, journal.head + 1))
        assert journal.append([mark(0)]) == journal.head
        await journal.close()
        assert not check(place).problems
    made = ", ".join(f"{count} {call}" for call, count in Counter(call for call, _ in cases).items())
    tell(f"{killed} kills at {len(chosen)} of {len(cases)} system calls ({made}), 0 wrong")
    assert killed > len(chosen) * 0.8
