"""A run whose process dies at any append goes on in the next one: nothing is lost, nothing is there twice."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from functools import partial

import pytest

import obzen_runtime as oz
from obzen_runtime.events import Block, Checkpoint, Receipt, Slice
from obzen_runtime.flow import pipeline as pipelines
from obzen_runtime.kernel import FlowInvalid, JournalFailed
from tests.flow.kit import Mortal, Seen, ints, play, same
from tests.flow.test_random_graphs import Graph, steps_are_sound

SEEDS = 120
CHUNK = 12


def lived(flow_of, deaths):
    """Run a flow in one process after the other, each dying at its append of that number; the last one lives."""
    journal = Mortal()
    for death in deaths:
        journal.left = death
        with suppress(JournalFailed):  # it died at the record of its resume
            play(flow_of(), journal=journal)
    journal.left = None
    return play(flow_of(), journal=journal)


def appends_of(flow_of):
    journal = Mortal()
    play(flow_of(), journal=journal)
    return journal.appends


class Steady(Graph):
    """A random graph whose stages do not break of themselves."""

    def breaks(self):
        super().breaks()
        return lambda number: None


def flow_of_seed(seed):
    return Steady(seed).flow()


def receipts_are_single(played):
    """Every input of every sink has one receipt."""
    for name in played.pipeline.stages:
        covered = Counter()
        for step in played.steps(name):
            if isinstance(step, Receipt):
                covered.update(
                    (piece.upstream, n) for piece in step.inputs if isinstance(piece, Slice) for n in range(piece.start, piece.stop)
                )
        assert all(count == 1 for count in covered.values()), name


def flows():
    """Flows of every kind of stage, made anew for each process."""

    @oz.transform
    def thrice(number: int) -> Iterator[int]:
        for part in range(3):
            yield number * 10 + part

    @oz.transform
    def fussy(number: int) -> int:
        if number % 7 == 3:
            raise ValueError("seven")
        return number

    @oz.transform
    def even(number: int) -> int | str:
        return number if number % 2 == 0 else str(number)

    @oz.transform
    async def later(number: int) -> int:
        await asyncio.sleep(0)
        return number

    @oz.sink
    def texts(event: str) -> None: ...

    @oz.sink
    def numbers(event: int) -> None: ...

    @oz.fold(0, emit=oz.each())
    def running(sum_: int, number: int) -> int:
        return sum_ + number

    @oz.join(how="left", stream_key=lambda number: number % 9, reference_key=lambda number: number % 9)
    def paired(number: int, match: int | None) -> int:
        return number * 100 + (match or 0)

    @oz.stateful(key=lambda number: number % 5, emit=oz.at_end())
    class PerKey:
        count: int = 0

        def fold(self, number: int) -> None:
            self.count += number

        def emit(self, key: int) -> int:
            return self.count * 10 + key

    narrow = oz.Window(events=3)
    return {
        "straight": oz.Flow("f", ints(40) >> same() >> Seen().sink()),
        "generator": oz.Flow("f", ints(25) >> thrice >> Seen().sink(), window=oz.Window(events=4)),
        "fan-in": oz.Flow("f", [ints(20, "a"), ints(20, "b")] >> thrice >> Seen().sink(), window=oz.Window(events=2)),
        "letters": oz.Flow("f", ints(40) >> fussy >> Seen().sink(), oz.dead_letters >> Seen().sink("l")),
        "routed": oz.Flow("f", ints(30) >> even >> numbers, even >> texts, window=narrow),
        "lanes": oz.Flow("f", ints(30) >> later >> Seen().sink()),
        "running": oz.Flow("f", ints(30) >> running >> Seen().sink(), window=narrow),
        "top": oz.Flow("f", ints(30) >> oz.top(3, by=lambda number: number % 11) >> Seen().sink(), window=narrow),
        "keyed": oz.Flow("f", ints(30) >> oz.stage(PerKey) >> Seen().sink(), window=oz.Window(events=2)),
        "join": oz.Flow("f", ints(5, "r") >> paired.reference, ints(30) >> paired.stream, paired >> Seen().sink(), window=narrow),
    }


KINDS = list(flows())


@pytest.mark.parametrize("kind", KINDS)
def test_a_death_at_any_append_loses_nothing_and_doubles_nothing(kind):
    journal = Mortal()
    whole = play(flows()[kind], journal=journal)
    stages = {
        name: Counter(map(repr, whole.events(name)))
        for name in whole.pipeline.wired.log.codecs
        if name in {s.stage for s in whole.of(Block)}
    }
    for death in range(journal.appends):
        played = lived(lambda: flows()[kind], [death])
        told = f"death at append {death}: {played.state} {played.error}"
        assert played.state == "drained", told
        assert played.error is None, told
        for name, events in stages.items():
            assert Counter(map(repr, played.events(name))) == events, f"{told}: {name}"
        if kind not in ("routed", "letters"):
            steps_are_sound(played)
        receipts_are_single(played)
        assert [each for each in played.pipeline.verdicts if not each.passed] == [], told


@pytest.mark.parametrize("chunk", range(SEEDS // CHUNK))
def test_random_graphs_that_die_again_and_again_end_as_one_that_lives(chunk, monkeypatch):
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        chance = random.Random(seed)
        flow_of = partial(flow_of_seed, seed)
        total = appends_of(flow_of)
        deaths = [chance.randrange(1 + total // (1 + number)) for number in range(chance.randint(1, 4))]
        monkeypatch.setattr(pipelines, "_CHECKPOINT", chance.choice([0, 1 << 30]))
        graph = Steady(seed)
        played = lived(flow_of, deaths)
        told = f"seed {seed}, deaths {deaths}: {played.state} {played.reason} {played.error}"
        assert (played.state, played.error) == ("drained", None), told
        assert played.complaints == [], told
        steps_are_sound(played)
        receipts_are_single(played)
        assert [each for each in played.pipeline.verdicts if not each.passed] == [], told
        expected = graph.model({name: played.events(name) for name in graph.sources})
        for vertex in graph.vertices:
            assert Counter(played.events(vertex.name)) == expected[vertex.name], f"{told}: {vertex.name}"


def test_what_came_after_its_reader_had_failed_is_not_forgotten():
    @oz.source
    async def slow() -> AsyncIterator[int]:
        for number in range(6):
            await asyncio.sleep(0)
            yield number

    seen, journal = Seen(), oz.MemoryJournal(keep=True)

    def flow_of(*, broken):
        @oz.sink(on_error="fail")
        def k(number: int) -> None:
            if broken:
                raise ValueError("not today")
            seen.append(number)

        return oz.Flow("f", slow >> k)

    assert play(flow_of(broken=True), journal=journal).state == "failed"
    played = play(flow_of(broken=False), journal=journal)
    assert (played.state, played.error) == ("drained", None)
    assert seen == [0, 1, 2, 3, 4, 5], "the event that failed is tried again"


def test_stages_that_are_joined_in_another_way_are_refused_before_anything_is_read_back():
    journal = Mortal()
    flow_of = partial(oz.Flow, "f", window=oz.Window(events=2))
    journal.left = 12
    with suppress(JournalFailed):
        play(flow_of(ints(9) >> same("a") >> same("b") >> Seen().sink()), journal=journal)
    journal.left, head = None, journal.head
    with pytest.raises(FlowInvalid) as refused:
        play(flow_of(ints(9) >> same("b") >> same("a") >> Seen().sink()), journal=journal)
    assert refused.value.code == "flow_changed"
    assert "stage b reads s, and read a in run run" in str(refused.value)
    with pytest.raises(FlowInvalid, match="flow 'f' has other stages than run run: a, b are gone"):
        play(flow_of(ints(9) >> Seen().sink()), journal=journal)
    assert journal.head == head


MOMENT = 0.1
"""Virtual seconds."""


class Weighed(Mortal):
    """A mortal journal that claims a kilobyte for each record."""

    @property
    def size(self) -> int:
        return 1024 * self.head


def test_lives_that_are_shorter_than_the_stretch_between_checkpoints_have_checkpoints_too(monkeypatch):
    monkeypatch.setattr(pipelines, "_CHECKPOINT", 60 * 1024)

    @oz.source(repeatable=False)
    def once() -> Iterator[int]:
        yield from range(150)

    @oz.sink
    async def slow(number: int) -> None:
        await asyncio.sleep(MOMENT)

    journal = Weighed()
    for _ in range(5):  # the source drains in the first life, and must not be asked again
        journal.left = 40
        with suppress(JournalFailed):
            play(oz.Flow("f", once >> slow), journal=journal)
    checkpoints = [record for record in journal._records if isinstance(record, Checkpoint)]
    assert checkpoints
    assert all(each.ends["once"] == "natural" for each in checkpoints)
    journal.left = None
    played = play(oz.Flow("f", once >> slow), journal=journal)
    assert (played.state, played.error) == ("drained", None)
    receipts_are_single(played)
