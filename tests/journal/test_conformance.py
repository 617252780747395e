"""Every backend keeps every promise of a journal."""

import pytest

from obzen_runtime.journal import Fsync, Interval, MemoryJournal, Os, Retention, SegmentJournal, SegmentOptions
from obzen_runtime.kernel import Seams
from obzen_runtime.testing import JOURNAL_CASES, Harness, NotConforming, SimulatedDisk, failures

LEVELS = {"os": Os(), "interval": Interval(1), "fsync": Fsync()}


def segment_harness(directory, level, **options):
    return Harness(
        open=lambda: SegmentJournal.open(directory, options=SegmentOptions(level=level, **options)),
        survives=True,
        encodes=True,
        unlock=(directory / "LOCK").unlink,
        files=lambda: sorted((directory / "journal").glob("*.seg")),
    )


@pytest.mark.parametrize("case", JOURNAL_CASES, ids=str)
async def test_the_memory_journal_conforms(case):
    harness = Harness(open=lambda: MemoryJournal(keep=True))
    if case.applies(harness):
        await case.check(harness)


@pytest.mark.parametrize("case", JOURNAL_CASES, ids=str)
@pytest.mark.parametrize("level", LEVELS)
async def test_the_segment_journal_conforms_at_every_level(case, level, tmp_path):
    await case.check(segment_harness(tmp_path / "run", LEVELS[level]))


@pytest.mark.parametrize("case", JOURNAL_CASES, ids=str)
async def test_the_segment_journal_conforms_with_tiny_segments(case, tmp_path):
    await case.check(segment_harness(tmp_path / "run", Os(), segment_bytes=8192))


@pytest.mark.parametrize("case", JOURNAL_CASES, ids=str)
async def test_the_segment_journal_conforms_on_the_simulated_disk(case, tmp_path):
    disk, run = SimulatedDisk(), tmp_path / "run"
    seams = Seams(files=disk)
    harness = Harness(
        open=lambda: SegmentJournal.open(run, seams=seams), survives=True, encodes=True, unlock=lambda: disk.put(run / "LOCK", None)
    )
    if case.applies(harness):
        await case.check(harness)


@pytest.mark.parametrize("case", JOURNAL_CASES, ids=str)
async def test_a_memory_journal_that_forgets_conforms_but_for_what_it_forgot(case):
    await case.check(Harness(open=MemoryJournal)) if not case.needs else None


@pytest.mark.parametrize("case", JOURNAL_CASES, ids=str)
async def test_a_segment_journal_that_drops_conforms(case, tmp_path):
    await case.check(segment_harness(tmp_path / "run", Os(), segment_bytes=512, retention=Retention(size=512)))


async def test_the_suite_runs_without_pytest_and_has_sixty_cases():
    assert len(JOURNAL_CASES) >= 60
    assert await failures(lambda: Harness(open=lambda: MemoryJournal(keep=True))) == {}


class Forgetful(MemoryJournal):
    """Breaks two promises."""

    def append(self, records, *, expected=None):
        return super().append(records[:-1] if len(records) > 2 else records)

    async def durable(self, position):
        raise OSError("no")


async def test_the_suite_finds_a_journal_that_lets_two_writers_in_and_one_that_opens_awaited():
    async def opened():
        return MemoryJournal(keep=True)

    failed = await failures(lambda: Harness(open=opened, survives=True))
    assert failed["a_second_opener_is_locked_out"] == "NotConforming: a second writer was let in"
    assert set(failed) >= {"records_are_there_after_close_and_open", "the_size_grows_with_what_is_written"}


async def test_the_suite_finds_a_journal_that_breaks_its_promises():
    failed = await failures(lambda: Harness(open=Forgetful))
    assert "every_type_of_record_comes_back_equal" in failed
    assert "an_expected_head_that_moved_refuses" in failed
    assert failed["durable_returns_for_what_was_written"] == "OSError: no"
    assert failed["an_expected_head_that_moved_refuses"].startswith(NotConforming.__name__)
