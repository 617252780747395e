"""State that was kept is the state that was: whatever was kept, whenever, and wherever the process died."""

import enum
import random
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import obzen_runtime as oz
from obzen_runtime.events import ActorRestarted, Checkpoint, Cursor, Snapshot
from obzen_runtime.flow import StopFlow
from obzen_runtime.journal import ArtifactStore
from obzen_runtime.kernel import Seams
from obzen_runtime.stages import recollect, snapshots
from obzen_runtime.stages.shape import CODEC_ERRORS, Shape, Unkept
from obzen_runtime.stages.shared import Crashed
from obzen_runtime.stages.snapshots import Keeper
from obzen_runtime.testing import InlineThreads, SimulatedDisk
from tests.flow.kit import Mortal, Seen, VirtualClock, play, until
from tests.journal.kit import RUN


class Place:
    """Where the processes of one run leave what they keep."""

    def __init__(self) -> None:
        self.journal = Mortal()
        self.disk = SimulatedDisk()
        self.artifacts = ArtifactStore(RUN / "artifacts", self.disk)

    def play(self, flow, **options):
        seams = Seams(clock=VirtualClock(), threads=InlineThreads())
        return play(flow, journal=self.journal, artifacts=self.artifacts, seams=seams, **options)

    def kept(self):
        """The snapshots on record."""
        return [record for record in self.journal._records if isinstance(record, Snapshot)]

    def spoil(self, artifact):
        """Turn one bit of an artifact."""
        path = self.artifacts.directory / artifact[:2] / artifact[2:]
        content = bytearray(self.disk.read(path))
        content[len(content) // 2] ^= 1
        self.disk.replace(path, bytes(content))


@pytest.fixture(autouse=True)
def often(monkeypatch):
    """Snapshots at every step, in slices of one page of two entries."""
    monkeypatch.setattr(snapshots, "_AGAIN", 0.0)
    monkeypatch.setattr(snapshots, "_SHARE", 1e9)
    monkeypatch.setattr(snapshots, "_SLICE", 0.0)
    monkeypatch.setattr(recollect.Recollects, "page_size", 2)


def given_by(items, name="s"):
    @oz.source
    def s() -> Iterator[int]:
        yield from items

    return s.named(name)


EMITS = {"at_end": oz.at_end, "each": oz.each, "every": lambda: oz.every(3)}


def flow_of(kind, emit, items, seen, *, bad=13):
    """A flow through a stage with state; an input that `bad` divides fails, after it has changed the state, and some have no key."""
    narrow = oz.Window(events=4)

    @oz.fold((0, ()), emit=EMITS[emit]())
    def folded(before: tuple[int, tuple[int, ...]], number: int) -> tuple[int, tuple[int, ...]]:
        if number % bad == 0:
            raise ValueError("bad")
        return before[0] + number, (*before[1], number)[-3:]

    @oz.stateful(key=lambda number: (number % 7, "k") if number % 2 else [number % 11][0 if number % 34 else 1], emit=EMITS[emit]())
    class Keyed:
        total: int = 0
        last: list[int] = []  # noqa: RUF012 - copied per key

        def fold(self, number: int) -> None:
            self.total += 1
            if number % bad == 0:
                raise ValueError("bad")
            self.last.append(number)

        def emit(self, key: object) -> str | None:
            return f"{key} {self.total} {self.last}" if self.total % 5 else None

    @oz.join(how="left", stream_key=lambda number: number % 10, reference_key=lambda number: 10 // (number % bad) * 0 + number % 10)
    def joined(number: int, match: int | None) -> str:
        return f"{number} {match}"

    if kind == "fold":
        return oz.Flow("f", given_by(items) >> folded >> seen.sink(), window=narrow)
    if kind == "keyed":
        return oz.Flow("f", given_by(items) >> oz.stage(Keyed) >> seen.sink(), window=narrow)
    if kind == "top":
        return oz.Flow(
            "f", given_by(items) >> oz.top(4, by=lambda number: (-(number % 9), 1 // (number % bad))) >> seen.sink(), window=narrow
        )
    return oz.Flow(
        "f", given_by(items, "r") >> joined.reference, given_by(items[::-1]) >> joined.stream, joined >> seen.sink(), window=narrow
    )


def written(played, kind):
    name = {"fold": "folded", "keyed": "Keyed", "top": "top", "join": "joined"}[kind]
    return played.events(name)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["fold", "keyed", "top", "join"]),
    emit=st.sampled_from(sorted(EMITS)),
    seed=st.integers(0, 1 << 32),
    count=st.integers(1, 200),
    deaths=st.lists(st.integers(10, 200), max_size=4),
    at_once=st.booleans(),
)
def test_a_run_that_dies_anywhere_gives_what_one_that_lives_gives(kind, emit, seed, count, deaths, at_once):
    items = random.Random(seed).choices(range(61), k=count)
    snapshots._SLICE = 1.0 if at_once else 0.0
    whole = play(flow_of(kind, emit, items, Seen()))
    place = Place()
    for death in deaths:
        place.journal.left = death
        place.play(flow_of(kind, emit, items, Seen()))
    place.journal.left = None
    last = place.play(flow_of(kind, emit, items, Seen()))
    assert (last.state, last.error) == ("drained", None)
    assert written(last, kind) == written(whole, kind)


KINDS = ["fold", "keyed", "top", "join"]
ITEMS = list(range(1, 200))


def dead_late(kind, emit="at_end", appends=60):
    """Where a process left a run when it died behind a snapshot, and the snapshots."""
    while True:
        place = Place()
        place.journal.left = appends
        assert place.play(flow_of(kind, emit, ITEMS, Seen())).state == "failed", "it has come to its end"
        place.journal.left = None
        kept = place.kept()
        if kept:
            return place, kept
        appends += 3


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_came_after_the_snapshot_is_folded_again(kind, monkeypatch):
    place, kept = dead_late(kind)
    read = []
    original = recollect.Recollects.recollect

    async def watched(self):
        before = self.log.ground.journal.read

        def reading(start=1, stop=None, **options):
            read.append(start)
            return before(start, stop, **options)

        monkeypatch.setattr(self.journal, "read", reading, raising=False)
        await original(self)
        monkeypatch.setattr(self.journal, "read", before, raising=False)

    monkeypatch.setattr(recollect.Recollects, "recollect", watched)
    played = place.play(flow_of(kind, "at_end", ITEMS, Seen()))
    assert played.state == "drained"
    assert all(start >= kept[-1].floor for start in read)
    assert written(played, kind) == written(play(flow_of(kind, "at_end", ITEMS, Seen())), kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spoiled", [1, 99])
def test_a_damaged_snapshot_is_passed_over_for_an_earlier_one_or_the_log(kind, spoiled, caplog):
    place, kept = dead_late(kind)
    for record in kept[-spoiled:]:
        place.spoil(record.artifact)
    played = place.play(flow_of(kind, "at_end", ITEMS, Seen()))
    assert (played.state, played.error) == ("drained", None)
    assert written(played, kind) == written(play(flow_of(kind, "at_end", ITEMS, Seen())), kind)
    assert "a snapshot cannot be read" in caplog.text


def test_a_checkpoint_names_the_snapshot_and_the_next_process_passes_it_on():
    place, _ = dead_late("keyed", appends=80)
    place.play(flow_of("keyed", "at_end", ITEMS, Seen()))
    found = [
        (place.journal._records[position - 1], name)
        for each in place.journal._records
        if isinstance(each, Checkpoint)
        for name, position in each.snapshots.items()
    ]
    assert found
    assert all(isinstance(record, Snapshot) and record.actor == name for record, name in found)


def test_a_stop_keeps_the_state_and_resuming_folds_nothing_again(monkeypatch):
    monkeypatch.setattr(snapshots, "_AGAIN", 1e9)
    folded = []

    place = Place()

    async def beside(pipeline):
        await until(lambda: pipeline.stages["total"].taken >= 50)
        pipeline.command(StopFlow())

    def flow():
        @oz.fold(0, emit=oz.at_end())
        def total(sum_: int, number: int) -> int:
            folded.append(number)
            return sum_ + number

        return oz.Flow("f", given_by(range(5000)) >> total >> Seen().sink(), window=oz.Window(events=20))

    stopped = place.play(flow(), beside=beside)
    assert stopped.state == "cancelled"
    (kept,) = stopped.of(Snapshot)
    assert kept.taken == stopped.pipeline.stages["total"].taken
    played = place.play(flow())
    assert (played.state, played.events("total")) == ("drained", [sum(range(5000))])
    assert folded == list(range(5000))


# -- taking them --------------------------------------------------------------------------------


def test_only_pages_that_changed_are_written_until_they_are_half_of_the_state():
    """Keys 0 … 99 come once, then 0 and 1 go on changing: increments of one page."""
    place = Place()

    @oz.stateful(key=lambda number: number, emit=oz.at_end())
    class Count:
        count: int = 0

        def fold(self, number: int) -> None:
            self.count += 1

        def emit(self, key: int) -> int:
            return self.count

    flow = oz.Flow("f", given_by([*range(100), *[0, 1] * 3000]) >> oz.stage(Count) >> Seen().sink(), window=oz.Window(events=16))
    played = place.play(flow)
    assert played.events("Count") == [3001, 3001, *[1] * 98]
    parts = [msgspec.msgpack.decode(place.artifacts.get(record.artifact), type=snapshots.Kept) for record in place.kept()]
    late = [part for part in parts if part.pages == 50 and part.base]
    assert {tuple(part.contents) for part in late} == {(0,)}
    assert [part.pages for part in parts if not part.base] == [8, 50]
    for part, record in zip(parts, place.kept(), strict=True):
        assert len(snapshots.read_pages(place.artifacts, record.artifact, part.kind)[1]) == part.pages


def test_pages_of_one_snapshot_may_be_of_different_moments():
    place, kept = dead_late("keyed")
    parts = [msgspec.msgpack.decode(place.artifacts.get(record.artifact), type=snapshots.Kept) for record in kept]
    assert any(len(part.marks) > 1 and part.marks[-1][1] > record.taken for part, record in zip(parts, kept, strict=True))


class Plain:
    """No value."""


@pytest.mark.parametrize("initial", [Plain(), {1, 2}, ({1}, 2)])
def test_state_that_does_not_come_back_is_not_kept_and_is_folded_from_the_log(initial, caplog):
    def flow():
        @oz.fold(initial, emit=oz.at_end())
        def folded(before: object, number: int) -> int:
            return before if number < 150 else number  # type: ignore[return-value]

        return oz.Flow("f", given_by(ITEMS) >> folded >> Seen().sink(), window=oz.Window(events=4))

    place = Place()
    place.journal.left = 90
    assert place.play(flow()).state == "failed"
    assert place.kept() == []
    assert caplog.text.count("state cannot be kept") == 1
    place.journal.left = None
    assert place.play(flow()).events("folded") == [199]


def test_a_disk_that_is_full_costs_the_snapshot_and_not_the_run(caplog):
    place = Place()

    def full(*_):
        raise OSError("no space")

    place.artifacts.put = full
    played = place.play(flow_of("fold", "at_end", ITEMS, Seen()))
    assert (played.state, place.kept()) == ("drained", [])
    assert "a snapshot could not be written" in caplog.text


def test_a_run_in_memory_keeps_nothing():
    assert play(flow_of("keyed", "each", ITEMS, Seen())).of(Snapshot) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_crash_inside_a_living_run_starts_from_the_snapshot(kind, caplog):
    class Break(BaseException):
        pass

    place, left = Place(), [1]
    flow = flow_of(kind, "at_end", ITEMS, Seen())

    async def beside(pipeline):
        stage = pipeline.stages[{"fold": "folded", "keyed": "Keyed", "top": "top", "join": "joined"}[kind]]
        await until(lambda: stage.snapshot is not None)
        before = stage.payloads

        async def broken(entry):
            if left[0]:
                left[0] -= 1
                raise Crashed(Break("once"))
            return await before(entry)

        stage.payloads = broken

    played = place.play(flow, beside=beside)
    assert (played.state, len(played.of(ActorRestarted))) == ("drained", 1)
    assert written(played, kind) == written(play(flow_of(kind, "at_end", ITEMS, Seen())), kind)


# -- what comes back ------------------------------------------------------------------------------


class Color(enum.Enum):
    RED = "red"


class Point(msgspec.Struct, frozen=True):
    x: int
    y: float


@pytest.mark.parametrize(
    ("annotation", "values"),
    [
        (Any, [1, "a", b"b", None, True, 1.5, -(2**63)]),
        (Any, [(1, "a"), (), ((None, b"x"), 2.0), "t"]),
        (Color, [Color.RED]),
        (Color | None, [Color.RED, None]),
        (Point, [Point(1, 2.0)]),
        (tuple[Color, int], [(Color.RED, 1)]),
    ],
)
def test_keys_come_back_as_what_they_were(annotation, values):
    shape = Shape(annotation)
    packed = msgspec.msgpack.decode(msgspec.msgpack.encode(shape.pack(values)))
    back = Shape(annotation).unpack(packed)
    assert back == values
    assert [type(value) for value in back] == [type(value) for value in values]


@pytest.mark.parametrize(
    ("annotation", "value"), [(Any, Color.RED), (str, Color.RED), (Any, Point(1, 2.0)), (Any, frozenset({1})), (Any, Plain())]
)
def test_keys_that_would_be_others_are_refused(annotation, value):
    with pytest.raises((Unkept, *CODEC_ERRORS)):
        Shape(annotation).pack([value])


def test_folding_again_brings_the_next_snapshot_nearer_so_that_short_lives_have_one_too(tmp_path, monkeypatch):
    monkeypatch.setattr(snapshots, "_AGAIN", 0.3)
    begun = []

    class Due(Keeper):
        def _slice(self, shot):
            begun.append(shot)

    class Remembering:
        taken = 1

        def entries(self):
            return 0

        def cursor(self):
            return Cursor()

        def floor(self):
            return 1

        def kept_as(self):
            return None

    for refolded, worked, due in ((0.0, 0.25, False), (0.1, 0.25, True), (5.0, 0.0, True)):
        keeper = Due(Remembering(), ArtifactStore(tmp_path), InlineThreads())
        keeper.refolded(1.0, refolded)
        begun.clear()
        keeper.turn(1.0 + worked)
        assert bool(begun) is due, (refolded, worked)
