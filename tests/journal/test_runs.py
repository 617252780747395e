"""Run directories: made once, listed with how they stand, found by what a user says."""

import pytest

from obzen_runtime.events import Block, RunCancelled, RunCompleted, RunFailed, RunResumed, RunStarted
from obzen_runtime.journal import Manifest, RunDirectory, SegmentJournal, SegmentOptions, SegmentReader, find_run, list_runs, run_started
from obzen_runtime.journal.format import FRAME_MARK
from obzen_runtime.kernel import ErrorInfo, IdValidationError, NotFound, SystemFiles, UsageError
from obzen_runtime.testing import SimulatedDisk
from tests.journal.kit import RUN, block, flipped, mark, seams

BASE = RUN.parent
FAILED = RunFailed(at=3, cause=ErrorInfo(kind="IO", code="io", message="x"))


async def run_of(disk, name, *records, close=True, started=0, options=None):
    run = RunDirectory.create(BASE, name, disk)
    run.write_manifest(Manifest(run_id=run.run_id, flow="f", started_ms=started))
    journal = SegmentJournal.open(run.path, options=options, seams=seams(disk))
    for record in records:
        journal.append([record])
    if close:
        await journal.close()
    return run


def dead(disk):
    return disk.killed()


async def test_a_run_directory_is_private_and_made_once(tmp_path):
    run = RunDirectory.create(tmp_path / "runs", "nightly")
    assert run.path == tmp_path / "runs" / "nightly"
    assert (run.run_id, run.exists) == ("nightly", False)
    assert run.path.stat().st_mode & 0o777 == 0o700
    assert (run.manifest_path.name, run.journal.name, run.artifacts.directory.name) == ("manifest.json", "journal", "artifacts")
    assert RunDirectory.create(tmp_path / "runs", "nightly").path == run.path
    await SegmentJournal.open(run.path).close()
    assert run.exists
    with pytest.raises(UsageError, match="nightly exists"):
        RunDirectory.create(tmp_path / "runs", "nightly")


@pytest.mark.parametrize("name", ["", "..", "a/b", "A", "x" * 65, "a\n"])
def test_a_bad_name_is_refused(tmp_path, name):
    with pytest.raises(IdValidationError):
        RunDirectory.create(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


STARTED = RunStarted(run_id="r", flow="f", at=1)


@pytest.mark.parametrize(
    ("records", "state"),
    [
        ([STARTED, RunCompleted(at=2)], "drained"),
        ([STARTED, RunCompleted(at=2), mark(1), mark(2)], "drained"),
        ([STARTED, FAILED], "failed"),
        ([STARTED, RunCancelled(at=2, reason="user_stop")], "cancelled"),
        ([STARTED, mark(1)], "crashed"),
        ([STARTED, FAILED, RunResumed(at=4, epoch=2)], "crashed"),
        ([STARTED, FAILED, RunResumed(at=4, epoch=2), RunCompleted(at=5)], "drained"),
        ([], "crashed"),
        ([STARTED, *[block(number, 30_000) for number in range(20)], RunCompleted(at=9)], "drained"),
        ([STARTED, *[block(number, 30_000) for number in range(20)]], "crashed"),
    ],
)
async def test_a_run_stands_as_its_last_records_say(records, state):
    disk = SimulatedDisk()
    run = await run_of(disk, "r", *records)
    assert run.state() == state
    open_disk = SimulatedDisk()
    living = await run_of(open_disk, "r", *records, close=False)
    assert living.state() == "running"
    assert RunDirectory(living.path, dead(open_disk)).state() == state


async def test_an_end_just_before_a_roll_is_found():
    disk = SimulatedDisk()
    run = await run_of(disk, "r", STARTED, RunCompleted(at=2), block(0, 600), close=False, options=SegmentOptions(segment_bytes=512))
    assert RunDirectory(run.path, dead(disk)).state() == "drained"


async def test_a_state_told_before_what_was_not_read_does_not_count():
    disk = SimulatedDisk()
    options = SegmentOptions(segment_bytes=512)
    run = await run_of(disk, "r", STARTED, FAILED, block(0, 300), close=False, options=options)
    disk.put(run.path / "LOCK", None)
    journal = SegmentJournal.open(run.path, seams=seams(disk))
    journal.append([RunResumed(at=4, epoch=2)])
    journal.append([block(1, 400_000)])
    assert RunDirectory(run.path, dead(disk)).state() == "crashed"


async def test_bytes_that_only_look_like_a_frame_are_passed_over():
    disk = SimulatedDisk()
    lure = Block(stage="s", base=0, count=1, at=1, payloads=FRAME_MARK * 80_000)
    run = await run_of(disk, "r", STARTED, lure, RunCompleted(at=2))
    assert run.state() == "drained"


async def test_a_run_whose_records_cannot_be_read_is_damaged(monkeypatch):
    disk = SimulatedDisk()
    with monkeypatch.context() as patched:
        patched.setattr("obzen_runtime.journal.writer.kind_number", lambda record: 5)
        run = await run_of(disk, "r", STARTED)
    assert run.state() == "damaged"


async def test_a_run_with_a_bad_segment_header_is_listed():
    disk = SimulatedDisk()
    run = await run_of(disk, "r", STARTED)
    path = run.journal / "00000000000000000001.seg"
    disk.put(path, flipped(disk.content(path), 9))
    assert run.state() == "crashed"


async def test_runs_are_listed_newest_first_and_a_broken_one_does_not_hide_the_others():
    disk = SimulatedDisk()
    assert list_runs(BASE, disk) == []
    await run_of(disk, "old", STARTED, RunCompleted(at=2), started=10)
    await run_of(disk, "new", STARTED, started=30)
    await run_of(disk, "middle", STARTED, FAILED, started=20)
    broken = await run_of(disk, "broken", STARTED)
    disk.put(broken.manifest_path, b"{")
    disk.make_directory(BASE / "empty")
    listed = list_runs(BASE, disk)
    assert [(summary.run.run_id, summary.state) for summary in listed] == [
        ("new", "crashed"),
        ("middle", "failed"),
        ("old", "drained"),
        ("broken", "crashed"),
    ]
    assert [summary.manifest and summary.manifest.started_ms for summary in listed] == [30, 20, 10, None]


def test_whatever_stands_among_the_runs_hides_none_of_them(tmp_path):
    manifest = b'{"format":1,"run_id":"x","flow":"f"}'
    things = {
        "manifest-is-a-directory/manifest.json/x": b"",
        "manifest-is-too-deep/manifest.json": manifest[:-1] + b',"parameters":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
        "journal-is-a-file/manifest.json": manifest,
        "journal-is-a-file/journal": b"",
        "segment-is-a-directory/manifest.json": manifest,
        "segment-is-a-directory/journal/00000000000000000001.seg/x": b"",
        "epoch-is-a-directory/EPOCH/x": b"",
        "a-file": b"",
        "empty/nothing": b"",
        "only-a-journal-that-is-a-file/journal": b"",
    }
    for name, content in things.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "to-nowhere").symlink_to(tmp_path / "nowhere")
    (tmp_path / "to-itself").symlink_to(tmp_path / "to-itself")
    RunDirectory.create(tmp_path, "good").write_manifest(Manifest(run_id="good", flow="g"))
    listed = {summary.run.run_id: (summary.state, summary.manifest and summary.manifest.flow) for summary in list_runs(tmp_path)}
    assert listed == {
        "good": ("crashed", "g"),
        "journal-is-a-file": ("damaged", "f"),
        "segment-is-a-directory": ("damaged", "f"),
        "epoch-is-a-directory": ("crashed", None),
        "manifest-is-a-directory": ("crashed", None),
        "manifest-is-too-deep": ("crashed", None),
    }
    assert RunDirectory(tmp_path / "epoch-is-a-directory").epoch == 0
    with pytest.raises(UsageError, match="is not a directory"):
        list_runs(tmp_path / "a-file")


def test_a_directory_that_may_not_be_looked_into_is_no_run(tmp_path, monkeypatch):
    for name in ("mine", "theirs"):
        RunDirectory.create(tmp_path, name).write_manifest(Manifest(run_id=name, flow="f"))
    exists = SystemFiles.exists

    def refused(self, path):
        if "theirs" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return exists(self, path)

    monkeypatch.setattr(SystemFiles, "exists", refused)
    assert [summary.run.run_id for summary in list_runs(tmp_path)] == ["mine"]


async def test_how_often_a_run_was_opened_is_read_from_its_epoch():
    disk = SimulatedDisk()
    run = await run_of(disk, "r", STARTED)
    assert run.epoch == 1
    await SegmentJournal.open(run.path, seams=seams(disk)).close()
    assert run.epoch == 2
    disk.put(run.path / "EPOCH", b"2 x")
    assert run.epoch == 0
    assert RunDirectory(BASE / "none", disk).epoch == 0


async def test_a_run_is_found_by_what_a_user_says():
    disk = SimulatedDisk()
    for number, name in enumerate(("abc-1", "abc-2", "abc", "xyz")):
        await run_of(disk, name, STARTED, started=number)
    for words, name in (("--last", "xyz"), ("abc", "abc"), ("abc-1", "abc-1"), ("x", "xyz"), ("/runs/abc-2", "abc-2")):
        assert find_run(BASE, words, disk).run_id == name
    with pytest.raises(UsageError, match="abc-2, abc-1") as several:
        find_run(BASE, "abc-", disk)
    assert several.value.exit_code == 64
    for words in ("nothing", "", "/runs/nothing", "./abc"):
        with pytest.raises(NotFound) as caught:
            find_run(BASE, words, disk)
        assert caught.value.code == "run_not_found"
    with pytest.raises(NotFound, match="There are: xyz, abc-2"):
        find_run(BASE, "nothing", disk)
    with pytest.raises(NotFound, match="no run in"):
        find_run(BASE / "none", "--last", disk)
    with pytest.raises(NotFound, match="obzen run"):
        find_run(BASE / "none", "x", disk)


async def test_many_candidates_are_cut_short():
    disk = SimulatedDisk()
    for number in range(8):
        await run_of(disk, f"run-{number}", STARTED)
    with pytest.raises(UsageError, match="run-3 …"):
        find_run(BASE, "run-", disk)


async def test_a_living_run_on_the_real_disk_is_seen_without_disturbing_it(tmp_path):
    run = RunDirectory.create(tmp_path, "r")
    assert run.state() == "crashed"
    journal = SegmentJournal.open(run.path)
    journal.append([STARTED, RunCompleted(at=2)])
    for _ in range(20):
        assert run.state() == "running"
    await journal.close()
    assert run.state() == "drained"
    run.write_manifest(Manifest(run_id=run.run_id, flow="f"))
    assert run.read_manifest().flow == "f"
    assert find_run(tmp_path, "--last").path == run.path


async def test_what_a_run_is_made_of_is_its_first_record():
    disk = SimulatedDisk()
    run = await run_of(disk, "r", STARTED, RunCompleted(at=2))
    assert await run_started(SegmentReader.open(run.path, files=disk)) == STARTED
