"""Bytes under their own hash: kept once, whole or refused."""

import hashlib
import threading

import pytest

from obzen_runtime.journal import ArtifactStore
from obzen_runtime.kernel import IdValidationError, JournalDamaged, NotFound
from obzen_runtime.testing import SimulatedDisk
from tests.journal.kit import RUN


def test_what_is_put_is_got_under_its_hash(tmp_path):
    store = ArtifactStore(tmp_path / "artifacts")
    for content in (b"", b"x", bytes(range(256)) * 1000):
        name = store.put(content)
        assert name == hashlib.sha256(content).hexdigest()
        assert store.get(name) == content
        assert store.exists(name)
        path = tmp_path / "artifacts" / name[:2] / name[2:]
        assert path.read_bytes() == content
        assert path.stat().st_mode & 0o777 == 0o600


def test_the_same_bytes_are_kept_once():
    disk = SimulatedDisk()
    store = ArtifactStore(RUN / "artifacts", disk)
    name = store.put(b"x")
    count = disk.faults.count("replace")
    assert store.put(b"x") == name
    assert disk.faults.count("replace") == count


def test_what_is_put_survives_a_power_cut():
    disk = SimulatedDisk()
    name = ArtifactStore(RUN / "artifacts", disk).put(b"x")
    assert ArtifactStore(RUN / "artifacts", disk.power_cut()).get(name) == b"x"


def test_what_a_dead_process_had_put_without_its_name_being_durable_is_durable_after_it_is_put_again():
    disk = SimulatedDisk()
    store = ArtifactStore(RUN / "artifacts", disk)
    name = hashlib.sha256(b"x").hexdigest()
    disk.make_directory(store.directory / name[:2])
    file = disk.open_append(store.directory / name[:2] / name[2:], create=True)
    file.write((b"x",))
    file.sync()
    again = ArtifactStore(RUN / "artifacts", disk.killed())
    assert again.put(b"x") == name
    assert ArtifactStore(RUN / "artifacts", again._files.power_cut()).get(name) == b"x"
    assert [path.name for operation, path in again._files.faults.calls if operation == "sync_directory"] == [name[:2], "artifacts"]


def test_what_is_not_there_is_said(tmp_path):
    store = ArtifactStore(tmp_path)
    with pytest.raises(NotFound) as caught:
        store.get("0" * 64)
    assert caught.value.code == "artifact_not_found"
    assert not store.exists("0" * 64)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "0" * 63, "0" * 65, "G" * 64, "0" * 64 + "\n"])
def test_a_name_that_is_no_hash_is_refused(tmp_path, name):
    for use in (ArtifactStore(tmp_path).get, ArtifactStore(tmp_path).exists):
        with pytest.raises(IdValidationError):
            use(name)


def test_every_flipped_bit_of_an_artifact_is_refused_and_putting_it_again_heals():
    disk = SimulatedDisk()
    store = ArtifactStore(RUN / "artifacts", disk)
    content = b"snapshot of a state"
    name = store.put(content)
    path = RUN / "artifacts" / name[:2] / name[2:]
    for bit in range(len(content) * 8):
        damaged = bytearray(content)
        damaged[bit >> 3] ^= 1 << (bit & 7)
        disk.put(path, bytes(damaged))
        with pytest.raises(JournalDamaged) as caught:
            store.get(name)
        assert caught.value.exit_code == 65
    assert store.put(content) == name
    assert store.get(name) == content


def test_a_put_that_fails_leaves_nothing_under_the_name():
    disk = SimulatedDisk()
    disk.faults.plan("replace", 1)
    store = ArtifactStore(RUN / "artifacts", disk)
    with pytest.raises(OSError, match="Input/output"):
        store.put(b"x")
    assert not store.exists(hashlib.sha256(b"x").hexdigest())


def swept(store, *kept, **options):
    store.watch()
    gone = store.sweep(frozenset(kept), **options)
    store.rest()
    return gone


def test_a_sweep_leaves_what_is_kept_and_what_is_not_yet_under_its_name(tmp_path):
    store = ArtifactStore(tmp_path)
    names = [store.put(bytes([number])) for number in range(40)]
    unfinished = tmp_path / names[0][:2] / ".unfinished.new"
    unfinished.write_bytes(b"x")
    assert swept(store, *names[:15]) == 25
    assert [name for name in names if store.exists(name)] == names[:15]
    assert unfinished.exists()


def test_a_sweep_that_is_told_to_end_removes_no_more(tmp_path):
    store = ArtifactStore(tmp_path)
    names = [store.put(bytes([number])) for number in range(9)]
    left = iter([False, False, False])
    assert swept(store, ended=lambda: next(left, True)) == 3
    assert sum(map(store.exists, names)) == 6


def test_what_is_put_while_one_watches_is_kept_whether_it_was_there_or_not(tmp_path):
    store = ArtifactStore(tmp_path)
    old, again = store.put(b"old"), store.put(b"again")
    store.watch()
    new = store.put(b"new")
    assert store.put(b"again") == again
    assert store.sweep(frozenset()) == 1
    store.rest()
    assert (store.exists(old), store.exists(again), store.exists(new)) == (False, True, True)
    assert swept(store) == 2


def test_what_is_put_just_before_it_goes_is_written_again(tmp_path):
    """Two threads, one artifact: whichever comes first, it is there in the end."""
    store = ArtifactStore(tmp_path)
    name = store.put(b"x")
    whole = store._files.remove
    writer = threading.Thread(target=store.put, args=(b"x",))

    class Slow(type(store._files)):
        def remove(self, path):
            writer.start()
            whole(path)

    store._files = Slow()
    swept(store)
    writer.join()
    assert store.get(name) == b"x"


def test_what_goes_to_an_archive_is_whole_there_before_it_is_gone_here(tmp_path):
    store, archive = ArtifactStore(tmp_path / "run"), ArtifactStore(tmp_path / "old" / "artifacts")
    kept, gone, spoiled = store.put(b"kept"), store.put(b"gone"), store.put(b"spoiled")
    assert swept(store, kept, spoiled, archive=archive) == 1
    assert (store.exists(kept), store.exists(gone), archive.get(gone), archive.exists(kept)) == (True, False, b"gone", False)
    (tmp_path / "run" / spoiled[:2] / spoiled[2:]).write_bytes(b"other")
    with pytest.raises(JournalDamaged):
        swept(store, kept, archive=archive)
    assert store.exists(spoiled)
