"""The disk in memory behaves as the real one, and forgets as a real one may."""

import errno

import pytest

from obzen_runtime.kernel import SystemFiles
from obzen_runtime.testing import Crashed, InlineThreads, SimulatedDisk, Unsynced


@pytest.fixture(params=["real", "simulated"])
def disk(request):
    return SystemFiles() if request.param == "real" else SimulatedDisk()


def test_both_disks_do_the_same(disk, tmp_path):
    place = tmp_path / "a" / "b"
    disk.make_directory(place)
    disk.make_directory(place)
    path = place / "x"
    with pytest.raises(FileNotFoundError):
        disk.open_append(path)
    file = disk.open_append(path, create=True)
    with pytest.raises(FileExistsError):
        disk.open_append(path, create=True)
    assert file.write((b"abc", bytearray(b"de"), memoryview(b"f"))) == 6
    assert file.write((b"g",)) == 1
    file.sync()
    assert (disk.size(path), disk.exists(path), disk.names(place)) == (7, True, ["x"])
    assert (disk.read(path), disk.read(path, 2, 3), disk.read(path, 5, 9), disk.read(path, 99, 1)) == (b"abcdefg", b"cde", b"fg", b"")
    file.truncate(3)
    file.write((b"Z",))
    assert disk.read(path) == b"abcZ"
    file.close()
    file.close()
    with pytest.raises(OSError, match="descriptor"):
        file.write((b"x",))
    disk.replace(path, b"whole")
    assert disk.read(path) == b"whole"
    shared = disk.share(path)
    shared.view[0:2] = b"WH"
    assert disk.read(path) == b"WHole"
    shared.sync()
    shared.close()
    shared.close()
    disk.sync_directory(place)
    disk.remove(path)
    assert not disk.exists(path)
    for missing in (lambda: disk.read(path), lambda: disk.size(path), lambda: disk.share(path), lambda: disk.remove(path)):
        with pytest.raises(FileNotFoundError):
            missing()
    for missing in (
        lambda: disk.names(tmp_path / "none"),
        lambda: disk.sync_directory(tmp_path / "none"),
        lambda: disk.replace(tmp_path / "none" / "x", b""),
        lambda: disk.open_append(tmp_path / "none" / "x", create=True),
    ):
        with pytest.raises(FileNotFoundError):
            missing()


def test_both_disks_lock_alike(disk, tmp_path):
    disk.make_directory(tmp_path)
    path = tmp_path / "LOCK"
    assert not disk.locked(path)
    lock = disk.lock(path)
    assert disk.locked(path)
    assert disk.lock(path) is None
    lock.release()
    lock.release()
    assert not disk.locked(path)
    again = disk.lock(path)
    lock.release()
    assert disk.locked(path)
    again.release()


def test_the_machine_is_known_by_its_boot_id(disk):
    assert disk.boot_id() == disk.boot_id()
    assert len(disk.boot_id()) == 16


def test_a_power_cut_keeps_what_was_synced_and_what_it_is_told(tmp_path):
    disk = SimulatedDisk()
    disk.make_directory(tmp_path)
    path = tmp_path / "x"
    file = disk.open_append(path, create=True)
    file.write((b"a" * 600,))
    assert set(disk.unsynced()) == {
        Unsynced("entry", path),
        Unsynced("size", path),
        Unsynced("sector", path, 0),
        Unsynced("sector", path, 1),
    }
    assert not disk.power_cut().exists(path)
    file.sync()
    disk.sync_directory(tmp_path)
    assert disk.unsynced() == []
    file.write((b"b" * 900,))
    assert disk.power_cut().content(path) == b"a" * 600
    assert disk.power_cut([Unsynced("size", path)]).content(path) == b"a" * 600 + bytes(900)
    assert disk.power_cut([Unsynced("sector", path, 1)]).content(path) == b"a" * 600 + b"b" * 424
    assert disk.power_cut([Unsynced("sector", path, 2)]).content(path) == b"a" * 600 + bytes(424) + b"b" * 476
    assert disk.power_cut(disk.unsynced()).content(path) == disk.content(path)
    assert disk.power_cut().boot_id() != disk.boot_id() == disk.killed().boot_id()
    file.truncate(100)
    assert disk.power_cut().content(path) == b"a" * 600
    assert disk.power_cut([Unsynced("size", path)]).content(path) == b"a" * 100
    disk.remove(path)
    assert disk.power_cut().exists(path)
    assert not disk.power_cut([Unsynced("entry", path)]).exists(path)
    disk.sync_directory(tmp_path)
    assert not disk.power_cut().exists(path)


def test_faults_come_at_their_number_and_may_stay(tmp_path):
    disk = SimulatedDisk()
    disk.make_directory(tmp_path)
    file = disk.open_append(tmp_path / "x", create=True)
    disk.faults.plan("write", 2, errno.ENOSPC)
    disk.faults.plan("sync", 1, forever=True)
    file.write((b"a",))
    with pytest.raises(OSError, match="No space"):
        file.write((b"b",))
    file.write((b"c",))
    for _ in range(3):
        with pytest.raises(OSError, match="Input/output"):
            file.sync()
    assert disk.read(tmp_path / "x") == b"ac"
    assert (disk.faults.count("write"), disk.faults.count("sync"), disk.faults.count("truncate")) == (3, 3, 0)


def test_a_dead_process_does_nothing_more(tmp_path):
    disk = SimulatedDisk()
    disk.make_directory(tmp_path)
    file = disk.open_append(tmp_path / "x", create=True)
    disk.faults.budget = 4
    file.write((b"abc",))
    with pytest.raises(Crashed):
        file.write((b"def",))
    assert disk.faults.dead
    with pytest.raises(Crashed):
        file.sync()
    assert disk.killed().content(tmp_path / "x") == b"abcd"


async def test_inline_threads_run_at_once_and_hand_errors_on():
    threads = InlineThreads()
    assert threads.run("x", lambda: 3).result() == 3
    failed = threads.run("x", lambda: 1 / 0)
    assert isinstance(failed.exception(), ZeroDivisionError)
