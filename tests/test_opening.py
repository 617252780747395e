"""From a flow and the wishes of its user to a run: who describes it, what is refused, how much of it is kept."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import obzen_runtime as oz
from obzen_runtime.host import Handle, Opening
from obzen_runtime.journal import Retention, RunDirectory
from obzen_runtime.kernel import JournalLocked, Seams, SystemFiles, UsageError
from tests.flow.kit import Seen


class Meddling(SystemFiles):
    """A disk on which something else happens at the moment a new run's directory has been made."""

    def __init__(self, meddle) -> None:
        self.meddle = meddle

    def make_directory(self, path):
        super().make_directory(path)
        if path.name == "artifacts":
            self.meddle()


def tagged(tag):
    @oz.source
    def s(*, tag: str = "none") -> Iterator[int]:
        yield 1

    return oz.Flow("f", s >> Seen().sink()).bind({"s": {"tag": [tag]}})


def begun(base):
    return oz.start(tagged("first"), journal=base, run_id="r")


def ended(base):
    thread = threading.Thread(target=lambda: asyncio.run(_whole(begun(base))))
    thread.start()
    thread.join()


async def _whole(handle):
    async with handle:
        return await handle.wait()


@pytest.mark.parametrize("other", [begun, ended])
async def test_of_two_that_start_a_run_of_one_name_at_once_one_describes_it(tmp_path, other):
    seams = Seams(files=Meddling(lambda: kept.append(other(tmp_path))))
    kept = []
    with pytest.raises(JournalLocked):
        Handle(tagged("second"), Opening(tmp_path, run_id="r", seams=seams))
    if other is begun:
        await _whole(*kept)
    assert RunDirectory(tmp_path / "r").read_manifest().parameters == {"s": {"tag": "first"}}
    assert (await _whole(oz.start(tagged("first"), journal=tmp_path, run_id="r"))).earlier


@pytest.mark.parametrize("wrong", ["f", None, tagged])
def test_what_is_no_flow_is_told_so(wrong, tmp_path):
    with pytest.raises(UsageError, match="a flow is wanted"):
        oz.run(wrong, journal=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("wrong", [5, None, oz.MemoryJournal])
def test_what_is_no_journal_is_told_so(wrong):
    flow = tagged("a")
    with pytest.raises(UsageError, match="is not a journal"):
        oz.run(flow, journal=wrong)
    with pytest.raises(UsageError, match="is not a run"):
        oz.replay(flow, 5)
    with pytest.raises(UsageError, match="a flow is wanted"):
        oz.replay("f", "run")


@pytest.mark.parametrize(
    ("endless", "said", "kept"),
    [
        (True, None, Retention(size=10 << 30)),
        (True, "all", Retention()),
        (True, "7d", Retention(seconds=7 * 86_400)),
        (False, None, Retention()),
    ],
)
def test_an_endless_source_keeps_ten_gibibytes_unless_told_otherwise(endless, said, kept, tmp_path):
    @oz.source(endless=endless)
    def s() -> Iterator[int]:
        yield 1

    report = oz.run(oz.Flow("f", s >> Seen().sink()), journal=tmp_path, retention=said)
    assert msgspec.convert(RunDirectory(Path(report.directory)).read_manifest().options["retention"], Retention) == kept
