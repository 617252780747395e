"""The disk behind its seam: whole writes, whole replacements, locks that end with their holder."""

import errno
import fcntl
import os
import stat
import subprocess
import sys

import pytest

from obzen_runtime.kernel import SystemFiles, files

HOLD = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.flock(fd, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def disk():
    return SystemFiles()


def test_appending_writes_all_buffers_in_order_and_only_at_the_end(disk, tmp_path):
    path = tmp_path / "journal"
    file = disk.open_append(path, create=True)
    assert file.write([b"ab", bytearray(b"c"), memoryview(b"de")]) == 5
    file.sync()
    file.close()
    again = disk.open_append(path)
    assert again.write([b"f"]) == 1
    again.close()
    assert path.read_bytes() == b"abcdef"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_nothing_to_append_is_fine(disk, tmp_path):
    file = disk.open_append(tmp_path / "journal", create=True)
    assert file.write([]) == 0
    assert file.write([b"", b""]) == 0
    file.close()
    assert disk.size(tmp_path / "journal") == 0


@pytest.mark.parametrize("count", [1023, 1024, 1025, 5000])
def test_more_buffers_than_one_system_call_takes_are_written(disk, tmp_path, count):
    file = disk.open_append(tmp_path / "journal", create=True)
    assert file.write([b"%04d" % number for number in range(count)]) == 4 * count
    file.close()
    assert disk.read(tmp_path / "journal") == b"".join(b"%04d" % number for number in range(count))


@pytest.mark.parametrize("step", [1, 2, 5, 7])
def test_short_writes_are_retried_until_all_is_written(disk, tmp_path, monkeypatch, step):
    write, calls = os.write, []

    def short(fd, data):
        calls.append(len(data))
        return write(fd, bytes(data)[:step])

    monkeypatch.setattr(os, "writev", lambda fd, buffers: short(fd, b"".join(buffers)))
    monkeypatch.setattr(os, "write", short)
    file = disk.open_append(tmp_path / "journal", create=True)
    assert file.write([b"abc", b"defg"]) == 7
    file.close()
    assert disk.read(tmp_path / "journal") == b"abcdefg"
    assert len(calls) == -(-7 // step)


def test_a_write_that_fails_midway_raises_and_leaves_a_tail(disk, tmp_path, monkeypatch):
    def full(fd, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    write = os.write
    monkeypatch.setattr(os, "writev", lambda fd, buffers: write(fd, b"".join(buffers)[:2]))
    monkeypatch.setattr(os, "write", full)
    file = disk.open_append(tmp_path / "journal", create=True)
    with pytest.raises(OSError, match="No space"):
        file.write([b"abcd"])
    file.truncate(0)
    file.close()
    assert disk.size(tmp_path / "journal") == 0


def test_creating_refuses_an_existing_file_and_appending_a_missing_one(disk, tmp_path):
    disk.open_append(tmp_path / "a", create=True).close()
    with pytest.raises(FileExistsError):
        disk.open_append(tmp_path / "a", create=True)
    with pytest.raises(FileNotFoundError):
        disk.open_append(tmp_path / "b")


def test_closing_twice_never_touches_a_file_opened_since(disk, tmp_path):
    file = disk.open_append(tmp_path / "a", create=True)
    file.close()
    other = disk.open_append(tmp_path / "b", create=True)
    file.close()
    assert other.write([b"x"]) == 1
    with pytest.raises(OSError, match="Bad file descriptor"):
        file.write([b"y"])
    other.close()
    assert disk.read(tmp_path / "b") == b"x"


def test_truncate_cuts_and_later_writes_go_to_the_new_end(disk, tmp_path):
    file = disk.open_append(tmp_path / "a", create=True)
    file.write([b"abcdef"])
    file.truncate(2)
    file.write([b"Z"])
    file.close()
    assert disk.read(tmp_path / "a") == b"abZ"


@pytest.mark.parametrize(
    ("start", "size", "expected"),
    [(0, -1, b"abcdef"), (2, -1, b"cdef"), (0, 3, b"abc"), (4, 10, b"ef"), (6, 5, b""), (9, -1, b""), (0, 0, b"")],
)
def test_reading_gives_what_is_there(disk, tmp_path, start, size, expected):
    (tmp_path / "a").write_bytes(b"abcdef")
    assert disk.read(tmp_path / "a", start, size) == expected


def test_short_reads_are_retried(disk, tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"abcdef")
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, at: pread(fd, min(size, 2), at))
    assert disk.read(tmp_path / "a", 1) == b"bcdef"


def test_replace_leaves_the_old_or_the_new_and_nothing_else(disk, tmp_path, monkeypatch):
    path = tmp_path / "state"
    disk.replace(path, b"old")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    real = os.fdatasync

    def fail(fd):
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(OSError, match="I/O error"):
        disk.replace(path, b"new content")
    assert path.read_bytes() == b"old"
    assert disk.names(tmp_path) == ["state"]
    monkeypatch.setattr(os, "fdatasync", real)
    disk.replace(path, b"new")
    assert path.read_bytes() == b"new"
    assert disk.names(tmp_path) == ["state"]


def test_replace_syncs_the_content_before_the_rename_and_the_directory_after(disk, tmp_path, monkeypatch):
    path, order = tmp_path / "state", []
    monkeypatch.setattr(os, "fdatasync", lambda fd: order.append(("data", path.exists())))
    monkeypatch.setattr(os, "fsync", lambda fd: order.append(("directory", path.exists())))
    disk.replace(path, b"x")
    assert order == [("data", False), ("directory", True)]


def test_replace_writes_all_of_a_large_content_in_short_writes(disk, tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[:1000]))
    content = bytes(range(256)) * 40
    disk.replace(tmp_path / "a", content)
    disk.replace(tmp_path / "empty", b"")
    assert (disk.read(tmp_path / "a"), disk.read(tmp_path / "empty")) == (content, b"")


@pytest.mark.parametrize("call", ["full", "data", "plain"])
def test_sync_uses_the_strongest_call_the_machine_has(disk, tmp_path, monkeypatch, call):
    called = []
    monkeypatch.setattr(os, "fsync", lambda fd: called.append("plain"))
    monkeypatch.setattr(os, "fdatasync", lambda fd: called.append("data"), raising=False)
    if call == "full":
        monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
        monkeypatch.setattr(fcntl, "fcntl", lambda fd, what: called.append("full" if what == 51 else what))
    if call == "plain":
        monkeypatch.delattr(os, "fdatasync")
    file = disk.open_append(tmp_path / "a", create=True)
    file.sync()
    file.close()
    assert called == [call]


def test_a_second_name_is_the_same_file_and_never_takes_one_that_is_taken(disk, tmp_path):
    disk.replace(tmp_path / "a", b"x")
    disk.link(tmp_path / "a", tmp_path / "b")
    disk.remove(tmp_path / "a")
    assert disk.read(tmp_path / "b") == b"x"
    disk.replace(tmp_path / "c", b"y")
    with pytest.raises(FileExistsError):
        disk.link(tmp_path / "b", tmp_path / "c")
    with pytest.raises(FileNotFoundError):
        disk.link(tmp_path / "a", tmp_path / "d")


def test_directories_are_private_sorted_and_may_exist(disk, tmp_path):
    inner = tmp_path / "runs" / "one"
    disk.make_directory(inner)
    disk.make_directory(inner)
    assert stat.S_IMODE(inner.stat().st_mode) == 0o700
    for name in ("b", "a", "C"):
        disk.replace(inner / name, b"")
    assert disk.names(inner) == ["C", "a", "b"]
    assert disk.exists(inner / "a")
    disk.remove(inner / "a")
    assert not disk.exists(inner / "a")
    disk.sync_directory(inner)
    with pytest.raises(FileNotFoundError):
        disk.sync_directory(inner / "missing")


def test_a_lock_is_held_by_one_and_can_be_taken_after_release(disk, tmp_path):
    lock = disk.lock(tmp_path / "lock")
    assert lock is not None
    assert disk.lock(tmp_path / "lock") is None
    lock.release()
    lock.release()
    again = disk.lock(tmp_path / "lock")
    assert again is not None
    again.release()


def test_a_lock_held_by_another_process_ends_with_its_death(disk, tmp_path):
    path = tmp_path / "lock"
    path.touch()
    with subprocess.Popen([sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        assert disk.lock(path) is None
        holder.kill()
        holder.wait(10)
        lock = disk.lock(path)
        assert lock is not None
        lock.release()


def test_release_lets_go_though_a_copy_of_the_descriptor_lives(disk, tmp_path):
    lock = disk.lock(tmp_path / "lock")
    copy = os.dup(lock._fd)
    try:
        lock.release()
        again = disk.lock(tmp_path / "lock")
        assert again is not None
        again.release()
    finally:
        os.close(copy)


def test_a_lock_that_cannot_be_asked_for_raises_and_leaks_nothing(disk, tmp_path, monkeypatch):
    def broken(fd, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", broken)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="No locks"):
        disk.lock(tmp_path / "lock")
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_boot_id_is_16_bytes_and_the_same_until_the_next_boot(disk):
    assert len(disk.boot_id()) == 16
    assert disk.boot_id() == SystemFiles().boot_id()


def test_without_a_boot_id_every_start_looks_like_a_new_boot(disk, monkeypatch):
    def missing(self, **_):
        raise FileNotFoundError(self)

    monkeypatch.setattr(files.Path, "read_text", missing)
    assert len(disk.boot_id()) == 16
    assert disk.boot_id() != disk.boot_id()


def test_a_lock_names_its_holder_s_process(disk, tmp_path):
    (tmp_path / "lock").write_text("123456789\n")
    lock = disk.lock(tmp_path / "lock")
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    lock.release()


def test_asking_whether_a_lock_is_held_changes_nothing(disk, tmp_path):
    path = tmp_path / "lock"
    assert not disk.locked(path)
    assert not path.exists()
    lock = disk.lock(path)
    assert disk.locked(path)
    assert disk.locked(path)
    lock.release()
    assert not disk.locked(path)
    again = disk.lock(path)
    assert again is not None
    again.release()


def test_shared_bytes_are_seen_in_the_file_and_by_other_mappings(disk, tmp_path):
    path = tmp_path / "acks"
    disk.replace(path, b"\0" * 8)
    shared, other = disk.share(path), disk.share(path)
    shared.view[2:4] = b"ok"
    shared.sync()
    assert bytes(other.view) == disk.read(path) == b"\0\0ok\0\0\0\0"
    for one in (shared, other, shared):
        one.close()
    with pytest.raises(ValueError, match="released"):
        shared.view[0]


def test_an_empty_or_missing_file_cannot_be_shared_and_leaks_nothing(disk, tmp_path):
    (tmp_path / "empty").touch()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ValueError, match="empty"):
        disk.share(tmp_path / "empty")
    with pytest.raises(FileNotFoundError):
        disk.share(tmp_path / "missing")
    assert len(os.listdir("/proc/self/fd")) == before
