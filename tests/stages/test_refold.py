"""Folding again is a proof: it gives what is on record, or the stage says where it does not."""

import asyncio

import pytest

import obzen_runtime as oz
from obzen_runtime.events import Block, Cursor, DeadLetter, RunResumed, Slice
from obzen_runtime.kernel import ErrorInfo, StateFailed
from obzen_runtime.stages import Codec, Edge, Inbox, refold
from obzen_runtime.stages.refold import Past, Range, past_inputs
from obzen_runtime.stages.schema import Declared
from tests.flow.kit import Mortal, Seen, play
from tests.stages.test_snapshots import given_by

ITEMS = list(range(1, 100))


def dead(flow, appends=40):
    journal = Mortal()
    journal.left = appends
    assert play(flow, journal=journal).state == "failed"
    journal.left = None
    return journal


def running(changed=lambda sum_, number: sum_ + number, emit=None, window=4):
    @oz.fold(0, emit=emit or oz.each())
    def total(sum_: int, number: int) -> int:
        return changed(sum_, number)

    return oz.Flow("f", given_by(ITEMS) >> total >> Seen().sink(), window=oz.Window(events=window))


def test_a_fold_that_gives_something_else_diverges_at_the_first_event_that_differs():
    journal = dead(running())
    played = play(running(lambda sum_, number: sum_ + number + (number == 7)), journal=journal)
    assert (played.state, played.error.code) == ("failed", "diverged")
    assert "total@6" in played.error.message
    assert "recorded 28; folded again 29" in played.error.message


@pytest.mark.parametrize("policy", ["dead_letter", "skip"])
@pytest.mark.parametrize(("before", "after"), [(7, 99), (99, 7), (7, 8)])
def test_an_input_that_failed_fails_again_or_the_stage_diverges(policy, before, after):
    def flow(bad):
        @oz.stateful(key=lambda number: number % 3, emit=oz.at_end(), on_error=policy)
        class Count:
            count: int = 0

            def fold(self, number: int) -> None:
                if number == bad:
                    raise ValueError("bad")
                self.count += 1

            def emit(self, key: int) -> int:
                return self.count

        return oz.Flow("f", given_by(ITEMS) >> oz.stage(Count) >> Seen().sink(), window=oz.Window(events=4))

    assert play(flow(before), journal=dead(flow(before))).state == "drained"
    played = play(flow(after), journal=dead(flow(before)))
    assert (played.state, played.error.code) == ("failed", "diverged")
    assert f"s@{min(before, after) - 1}" in played.error.message


def test_an_input_that_fails_with_another_error_diverges():
    def flow(error):
        def broken(sum_, number):
            if number == 7:
                raise error
            return sum_

        return running(broken, oz.at_end())

    assert play(flow(ValueError("a")), journal=dead(flow(ValueError("b")))).state == "drained"
    played = play(flow(KeyError("a")), journal=dead(flow(ValueError("b"))))
    assert played.error.code == "diverged"
    assert "ValueError" in played.error.message
    assert "KeyError" in played.error.message


def test_every_differs_where_it_gives_at_other_inputs():
    played = play(running(emit=oz.every(4)), journal=dead(running(emit=oz.every(5))))
    assert (played.state, played.error.code) == ("failed", "diverged")


def test_what_other_code_recorded_is_not_held_against_this_code():
    def changed(sum_, number):
        return sum_ + 2 * number

    journal = dead(running())
    journal.append([RunResumed(1, 2, code={"total": "new"})])
    played = play(running(changed), journal=journal)
    assert (played.state, played.error) == ("drained", None)


def test_a_drained_stage_folds_nothing_again():
    folded = []

    def flow(gate):
        @oz.fold(0, emit=oz.at_end())
        def total(sum_: int, number: int) -> int:
            folded.append(number)
            return sum_ + number

        @oz.transform
        def slow(number: int) -> int:
            if gate:
                raise KeyboardInterrupt
            return number

        return oz.Flow("f", given_by(ITEMS) >> total >> slow >> Seen().sink(), restart=oz.Restart(max=0))

    journal = Mortal()
    assert play(flow([1]), journal=journal).state == "failed"
    assert folded == ITEMS
    played = play(flow([]), journal=journal)
    assert (played.state, played.events("slow")) == ("drained", [sum(ITEMS)])
    assert folded == ITEMS


class Reading:
    """A journal of blocks, that counts what is read one by one."""

    def __init__(self, records):
        self.inner = oz.MemoryJournal(keep=True)
        self.inner.append(records)
        self.single = 0

    @property
    def first(self):
        return self.inner.first

    def read(self, start=1, stop=None, *, kinds=None):
        self.single += stop == start + 1
        return self.inner.read(start, stop, kinds=kinds)


def collected(journal, codecs, edges, **options):
    async def main():
        return [past async for past in past_inputs(journal, "t", edges, codecs, **options)]

    return asyncio.run(main())


def blocks(count, size=10):
    codec = Codec("s", (Declared(int, int),))
    return codec, [Block("s", n * size, size, 0, codec.encode(list(range(n * size, n * size + size)))) for n in range(count)]


def edge(wake=None):
    return Edge("s", "t", Inbox(wake), window=oz.Window())


def step(start, stop):
    return Block("t", 0, 0, 0, inputs=(Slice("s", start, stop),), cursor=Cursor({"s": stop}, stop))


def test_what_waits_long_is_read_again_and_not_kept(monkeypatch):
    monkeypatch.setattr(refold, "_KEPT", 300)
    codec, written = blocks(40)
    journal = Reading([*written, step(0, 15), step(15, 400)])
    first, second = collected(journal, {"s": codec}, [edge()])
    assert first.items + second.items == list(range(400))
    assert second.ordinals == list(range(15, 400))
    assert 30 < journal.single < 40


def test_reading_from_a_position_gives_only_what_was_taken_after_it():
    codec, written = blocks(4)
    letter = DeadLetter(0, "t", 0, ErrorInfo(kind="PERMANENT", code="permanent", message="no"), "s", 3)
    journal = Reading([*written, step(0, 15), letter, step(15, 20), step(20, 40)])
    (found,) = [
        past for past in collected(journal, {"s": codec}, [edge()], since=Range(Cursor({"s": 20}, 20), 3)) if isinstance(past, Past)
    ]
    assert found.items == list(range(20, 40))


def test_a_log_that_was_dropped_is_refused_with_a_remedy():
    codec, written = blocks(4)
    journal = oz.MemoryJournal()
    journal.append([*written, step(0, 40)])
    journal.forget(3)
    with pytest.raises(StateFailed, match="needs the log from position 2, and the first kept is 3") as caught:
        collected(journal, {"s": codec}, [edge()], since=Range(Cursor({"s": 10}, 10), 2))
    assert "archive" in caught.value.remedy


def test_folding_again_lets_others_go_on():
    ticks, seen = [0], []

    def noting(sum_, number):
        seen.append(ticks[0])
        return sum_ + number

    async def beside(pipeline):
        while not pipeline.stages["total"].sound:
            ticks[0] += 1
            await asyncio.sleep(0)

    journal = dead(running(), appends=80)
    taken = max(each.cursor.taken for each in journal._records if isinstance(each, Block) and each.stage == "total")
    assert play(running(noting), journal=journal, beside=beside).state == "drained"
    assert len(set(seen[:taken])) > 1
