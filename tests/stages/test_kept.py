"""What a snapshot is read as: the newest of each page, and what is no state of this stage is none."""

import msgspec
import pytest

from obzen_runtime.journal import ArtifactStore
from obzen_runtime.stages.shape import Unkept
from obzen_runtime.stages.snapshots import Kept, Kind, read_pages
from obzen_runtime.testing import SimulatedDisk
from tests.journal.kit import RUN

MINE = Kind("total", "fold", "form")


@pytest.fixture
def store():
    return ArtifactStore(RUN / "artifacts", SimulatedDisk())


def put(store, *, kind=MINE, pages=2, contents=None, base=""):
    return store.put(msgspec.msgpack.encode(Kept(kind, 4, pages, ((0, 9),), {0: b"a", 1: b"b"} if contents is None else contents, base)))


def test_a_snapshot_is_read_with_those_it_stands_on_the_newest_page_first(store):
    first = put(store, contents={0: b"old", 1: b"b", 2: b"c"}, pages=3)
    second = put(store, contents={0: b"new", 3: b"d"}, pages=4, base=first)
    kept, pages = read_pages(store, second, MINE)
    assert pages == [b"new", b"b", b"c", b"d"]
    assert kept.pages == 4


def test_a_snapshot_of_another_stage_or_type_or_with_a_hole_is_refused(store):
    with pytest.raises(Unkept, match="holds the state of top 'best'"):
        read_pages(store, put(store, kind=Kind("best", "top", "form")), MINE)
    with pytest.raises(Unkept, match="holds the state of fold 'total'"):
        read_pages(store, put(store, kind=Kind("total", "fold", "another form")), MINE)
    with pytest.raises(Unkept, match="page 1 is missing"):
        read_pages(store, put(store, contents={0: b"a"}), MINE)
