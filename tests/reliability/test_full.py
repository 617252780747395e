"""A disk that is really full: a file system of 64 KiB, filled to each KiB. Needs the right to mount one."""

import asyncio
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import obzen_runtime as oz
from obzen_runtime.events import Block
from obzen_runtime.journal import Os, SegmentJournal, SegmentOptions, SegmentReader, check
from obzen_runtime.kernel import StorageFailed, classify, error_from
from tests.journal.kit import block, mark, tell

KIB = 1024
PROGRAM = """
from collections.abc import Iterator
import obzen_runtime as oz

@oz.source
def numbers() -> Iterator[str]:
    for number in range(40):
        yield f"{number} " * 100

@oz.transform
def same(text: str) -> str:
    return text

@oz.sink
def kept(text: str) -> None:
    with open("kept", "a") as file:
        file.write(text.split()[0] + "\\n")

flow = oz.Flow("f", numbers >> same >> kept)
"""


@pytest.fixture
def small(tmp_path):
    """A file system of 64 KiB of its own."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def fill(place, kib):
    """Take so many KiB away; returns the file to free them with."""
    filler = place / "filler"
    filler.write_bytes(b"x" * (kib * KIB))
    return filler


def resize(place, kib):
    subprocess.run(["mount", "-o", f"remount,size={kib}k", place], check=True)


def empty(place):
    for path in sorted(place.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


async def written_until_full(run):
    """Append until the disk refuses; the last position that was acknowledged, and the refusal."""
    try:
        journal = SegmentJournal.open(run, options=SegmentOptions(level=Os()))
    except StorageFailed as error:
        return 0, error
    told, refusal = 0, None
    try:
        for number in range(200):
            told = journal.append([block(number, 700), mark(number)])
    except StorageFailed as error:
        refusal = error
        with pytest.raises(StorageFailed):
            journal.append([mark(0)])  # nothing is acknowledged after it
    with pytest.raises(StorageFailed):
        await journal.close()
    return told, refusal


async def test_T_FULL_a_journal_on_a_disk_filled_to_each_kib(small):
    refused_at_once = written = 0
    for kib in range(64):
        filler = fill(small, kib)
        told, refusal = await written_until_full(small / "r")
        assert refusal is not None, kib
        assert refusal.exit_code == 74
        assert refusal.__cause__.errno == errno.ENOSPC
        filler.unlink()
        resize(small, 128)  # at level 0 the journal itself has taken it all
        journal = SegmentJournal.open(small / "r")  # goes on once there is space
        found = [entry.position async for entry in journal.read()]
        assert found == list(range(1, told + 1)), kib
        assert journal.append([mark(1)]) == told + 1
        await journal.close()
        assert not check(small / "r").problems
        refused_at_once += not told
        written += bool(told)
        empty(small)
        resize(small, 64)
    tell(f"{refused_at_once + written} fill levels, {written} of them with records, {refused_at_once} refused at once, 0 wrong")
    assert written > 40


async def live(flow, runs):
    async with oz.start(flow, journal=runs, run_id="r") as handle:
        return await handle.wait()


async def given(run, stage):
    """How many events of a stage are in the log."""
    return sum([record.count async for _, record in SegmentReader.open(run).read(kinds=frozenset({Block})) if record.stage == stage])


def texts_into(seen):
    @oz.source
    def texts() -> Iterator[str]:
        for number in range(40):
            yield f"{number} " * 100

    @oz.sink
    def kept(text: str) -> None:
        seen.append(int(text.split(maxsplit=1)[0]))

    return oz.Flow("f", texts >> kept)


def exit_code_of(flow, runs):
    try:
        report = asyncio.run(live(flow, runs))
    except (oz.ObzenError, OSError) as error:
        return error_from(classify(error)).exit_code
    return error_from(report.error).exit_code if report.error is not None else 0


def test_T_FULL_a_flow_holds_back_what_cannot_be_written_and_goes_on_when_there_is_space(small):
    begun = refused = 0
    for kib in range(64):
        filler, seen = fill(small, kib), []
        code = exit_code_of(texts_into(seen), small / "runs")
        assert code in (0, 74), kib
        refused += code == 74
        run = small / "runs" / "r"
        if list((run / "journal").glob("*.seg")):
            assert len(seen) <= asyncio.run(given(run, "texts")), "nothing is delivered that is not written"
            begun += 1
        filler.unlink()
        assert exit_code_of(texts_into(seen), small / "runs") == 0, kib
        assert sorted(set(seen)) == list(range(40))
        assert not check(run).problems
        empty(small)
    assert 20 < refused < 64
    tell(f"64 fill levels of a flow, {refused} refused, {begun} with a journal: 0 events lost, 0 delivered unwritten")


def command(place, *arguments):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(["obzen", *arguments], cwd=place, env=environment, capture_output=True, text=True, check=False)


def test_T_FULL_the_command_ends_with_74_and_resumes_when_there_is_space(small, tmp_path):
    (tmp_path / "flow.py").write_text(PROGRAM)
    filler = fill(small, 34)
    done = command(tmp_path, "run", "flow.py", "--run-id", "r", "--runs", str(small / "runs"), "--quiet")
    assert done.returncode == 74, done.stderr
    assert "Traceback" not in done.stderr
    filler.unlink()
    done = command(tmp_path, "resume", "r", "--runs", str(small / "runs"), "--quiet")
    assert done.returncode == 0, done.stderr
    assert sorted(set(map(int, (tmp_path / "kept").read_text().split()))) == list(range(40))
