"""The kernel itself kills the writer in the middle of a write: no acknowledged append is missing afterwards."""

import os
import resource
import signal
from pathlib import Path

import pytest

from obzen_runtime.journal import SegmentJournal
from tests.crash.scale import NIGHT
from tests.journal.kit import block, frames, tell

EVERY = min(7, max(1, round(1 / NIGHT))) if NIGHT else 7
"""Every byte in a whole night."""


def acknowledge_until_killed(directory, limit, pipe):
    """In a forked child: append under a limit of the file size that ends the process at that byte; tell each acknowledged head."""
    journal = SegmentJournal.open(directory)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for records in frames(9):
        os.write(pipe, bytes([journal.append(records)]))
    os._exit(0)


def run_child(directory, limit):
    """Signal that ended the child (0: none), and the last head it was told."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            acknowledge_until_killed(directory, limit, writing)
        finally:
            os._exit(70)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    assert not (os.WIFEXITED(status) and os.WEXITSTATUS(status)), f"the child failed at limit {limit}"
    return (os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0), (told[-1] if told else 0)


@pytest.fixture
def place(tmp_path):
    """A directory in memory where there is one: a thousand journals with real syncs are slow on a busy disk."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path
        return
    directory = shared / f"obzen-test-{os.getpid()}-{tmp_path.name}"
    directory.mkdir()
    yield directory
    for path in sorted(directory.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    directory.rmdir()


@pytest.mark.crash
@pytest.mark.timeout(1800 if NIGHT else 60)
async def test_T_TORN_2_killed_by_the_kernel_at_every_seventh_byte(place):
    expected = [record for records in frames(9) for record in records]
    signalled, told = run_child(place / "whole", resource.RLIM_INFINITY)
    assert (signalled, told) == (0, len(expected))
    size = (place / "whole/journal/00000000000000000001.seg").stat().st_size
    cases = killed = torn = 0
    for limit in range(137, size, EVERY):  # below 137 the limit would catch WATERMARK too
        directory = place / str(limit)
        signalled, told = run_child(directory, limit)
        journal = SegmentJournal.open(directory)
        found = [entry.record async for entry in journal.read()]
        assert found == expected[: len(found)], limit
        assert len(found) == told, limit
        torn += journal.recovered.torn > 0
        killed += signalled == signal.SIGXFSZ
        journal.append([block(99, 10)])
        await journal.close()
        cases += 1
    tell(f"{cases} kills by the kernel, {torn} torn tails, 0 acknowledged appends lost")
    assert killed == cases > 200
    assert torn > cases / 2
