"""State: folded in the order taken, given in order, and the same again after every crash."""

import math
from collections.abc import AsyncIterator
from typing import Any

import pytest

import obzen_runtime as oz
from obzen_runtime.events import Since
from obzen_runtime.flow import StopFlow
from tests.stages.kit import Seen, VirtualClock, ints, passing, play, reached, small_blocks
from tests.stages.states import Total, drained, through


def per_key(emit=None, *, keys=10, broken=lambda value: None, gives=None, **options):
    @oz.stateful(key=lambda value: value % keys, emit=emit or oz.at_end(), **options)
    class PerKey:
        count: int = 0
        sum: int = 0

        def fold(self, value: int) -> None:
            broken(value)
            self.count += 1
            self.sum += value

        def emit(self, key: int) -> Total:
            return Total(key, self.count, self.sum) if gives is None else gives(key, self.count, self.sum)

    return oz.stage(PerKey)


def adding(emit, broken=lambda value: None):
    @oz.fold(0, emit=emit)
    def total(sum_: int, value: int) -> int:
        broken(value)
        return sum_ + value

    return total


# -- emission -----------------------------------------------------------------------------------


def test_a_fold_gives_once_at_the_end():
    done, seen = through(adding(oz.at_end()), count=20_000)
    drained(done)
    assert seen == [sum(range(20_000))]
    assert done.parents("total") == {0: ("since", 0)}
    assert done["total"].received == 20_000
    assert done["total"].emitted == 1


def test_a_fold_gives_after_each():
    done, seen = through(adding(oz.each()), count=5000)
    drained(done)
    assert seen == [n * (n + 1) // 2 for n in range(5000)]
    assert done.parents("total") == {n: ("s", n) for n in range(5000)}


@pytest.mark.parametrize(("count", "last"), [(100, []), (105, [sum(range(105))])])
def test_a_fold_gives_after_every_tenth_and_what_is_left_at_the_end(count, last):
    done, seen = through(adding(oz.every(10)), count=count)
    drained(done)
    assert seen == [sum(range(n)) for n in range(10, count + 1, 10)] + last
    assert [done.parents("total")[n] for n in range(10)] == [("s", 10 * n + 9) for n in range(10)]


def test_an_empty_input_gives_the_initial_value_at_the_end_and_nothing_after_each():
    assert through(adding(oz.at_end()), count=0)[1] == [0]
    assert through(adding(oz.each()), count=0)[1] == []
    assert through(adding(oz.every(3)), count=0)[1] == []
    assert through(per_key(), count=0, given=Total)[1] == []


def test_keys_are_given_in_the_order_they_were_first_seen():
    done, seen = through(per_key(), items=[7, 3, 17, 5, 3], given=Total)
    drained(done)
    assert seen == [Total(7, 2, 24), Total(3, 2, 6), Total(5, 1, 5)]
    assert list(done.parents("PerKey").values()) == [("since", 0), ("since", 1), ("since", 3)]


def test_a_key_gives_after_each_of_its_events():
    done, seen = through(per_key(oz.each(), keys=2), count=6, given=Total)
    drained(done)
    assert [(each.key, each.count) for each in seen] == [(0, 1), (1, 1), (0, 2), (1, 2), (0, 3), (1, 3)]
    assert done.parents("PerKey") == {n: ("s", n) for n in range(6)}


def test_a_key_gives_after_every_third_of_its_events_and_what_is_left_at_the_end():
    done, seen = through(per_key(oz.every(3), keys=2), count=14, given=Total)
    drained(done)
    assert [(each.key, each.count) for each in seen] == [(0, 3), (1, 3), (0, 6), (1, 6), (0, 7), (1, 7)]
    assert [done.parents("PerKey")[n] for n in range(4)] == [("s", 4), ("s", 5), ("s", 10), ("s", 11)]
    assert [done.parents("PerKey")[n] for n in (4, 5)] == [("since", 0), ("since", 1)]


@pytest.mark.parametrize("emit", [oz.at_end(), oz.each(), oz.every(1)])
def test_emit_may_give_nothing(emit):
    gives = lambda key, count, total: None if key % 2 else Total(key, count, total)
    done, seen = through(per_key(emit, gives=gives), count=20, given=Total)
    drained(done)
    assert [each.key for each in seen] == [0, 2, 4, 6, 8] * (1 if emit == oz.at_end() else 2)
    if emit == oz.each():
        assert done.lost("PerKey") == {"dropped": list(range(1, 20, 2))}
        assert list(done.parents("PerKey").values()) == [("s", n) for n in range(0, 20, 2)]


@pytest.mark.parametrize("emit", [oz.at_end(), oz.each(), oz.every(2)])
def test_a_fold_may_give_nothing(emit):
    @oz.fold(None, emit=emit)
    def last(so_far: int | None, value: int) -> int | None:
        return None if value % 4 else value

    done, seen = through(last, count=9)
    drained(done)
    assert not done.letters()
    assert seen == {oz.at_end(): [8], oz.each(): [0, 4, 8], oz.every(2): [8]}[emit]


def test_a_stop_gives_nothing_at_the_end():
    async def beside(pipeline):
        await reached(pipeline, "running")
        await passing(1)
        assert pipeline.command(StopFlow())

    @oz.source
    async def given() -> AsyncIterator[int]:
        yield 1
        await passing(100)

    seen = Seen()
    done = play(oz.Flow("f", given >> adding(oz.at_end()) >> seen.sink()), beside=beside)
    assert (done.state, seen) == ("cancelled", [])
    assert done["total"].received == 1


@pytest.mark.parametrize("keys", [4095, 4096, 4097, 10_000])
def test_an_emission_of_many_keys_spans_blocks(keys):
    done, seen = through(per_key(keys=keys), count=keys, given=Total)
    drained(done)
    assert seen == [Total(n, 1, n) for n in range(keys)]
    blocks = [block for block in done.blocks("PerKey") if isinstance(block.parents, Since)]
    assert max(block.count for block in blocks) <= 4096
    assert [block.cursor.within for block in blocks] == [block.base + block.count for block in blocks]
    assert list(done.parents("PerKey").values()) == [("since", n) for n in range(keys)]


def test_an_emission_keeps_to_the_credit_of_its_edge_and_sleeps_without():
    clock = VirtualClock()
    waiting: list[int] = []

    @oz.sink
    async def slow(total: Total) -> None:
        waiting.append(stages["slow"].inputs[0].events)
        await passing(1)

    stages: dict[str, Any] = {}

    async def beside(pipeline):
        stages.update(pipeline.stages)

    done = play(oz.Flow("f", ints(100) >> per_key(keys=100) >> slow, window=oz.Window(events=10)), clock=clock, beside=beside)
    drained(done)
    assert len(waiting) == 100
    assert max(waiting) <= 10
    assert clock.now - 1000 < 101, "nothing turned while it waited"


@small_blocks()
def test_an_emission_larger_than_a_block_is_split():
    size = 16_000
    gives = lambda key, count, total: key.to_bytes(4, "big") * (size // 4)

    @oz.stateful(key=lambda value: value, emit=oz.at_end())
    class Large:
        count: int = 0

        def fold(self, value: int) -> None:
            self.count += 1

        def emit(self, key: int) -> bytes | None:
            return None if key % 5 == 0 else gives(key, 0, 0)

    done, seen = through(Large, count=45, given=bytes)
    drained(done)
    assert [int.from_bytes(each[:4], "big") for each in seen] == [n for n in range(45) if n % 5]
    blocks = [block for block in done.blocks("Large") if block.count]
    assert len(blocks) > 1
    assert blocks[-1].cursor.within == 45
    assert list(done.parents("Large").values()) == [("since", n) for n in range(45) if n % 5]
    for block in blocks[:-1]:
        ordinal = block.base + block.count - 1
        assert block.cursor.within >= int.from_bytes(seen[ordinal][:4], "big") + 1


@small_blocks()
def test_a_running_value_larger_than_a_block_in_sum_is_split():
    @oz.fold(b"", emit=oz.each())
    def grown(so_far: bytes, value: int) -> bytes:
        return bytes([value]) * 16_000

    done, seen = through(grown, count=40, given=bytes)
    drained(done)
    assert [each[0] for each in seen] == list(range(40))
    assert list(done.parents("grown").values()) == [("s", n) for n in range(40)]


def test_an_emitted_event_that_cannot_be_encoded_is_a_dead_letter_and_the_others_pass():
    gives = lambda key, count, total: Total(key, 2**70 if key == 3 else 0, 0)
    done, seen = through(per_key(gives=gives), count=10, given=Total)
    drained(done)
    assert [each.key for each in seen] == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    [letter] = done.letters()
    assert (letter.stage, letter.event, letter.error.code) == ("PerKey", -1, "not_encodable")
    assert all(not block.errors for block in done.blocks("PerKey") if not block.inputs)
    assert list(done.parents("PerKey").values()) == [("since", each.key) for each in seen]


# -- failures -----------------------------------------------------------------------------------


def no_fives(value):
    if value % 5 == 0:
        raise ValueError("five")


@pytest.mark.parametrize("emit", [oz.at_end(), oz.each(), oz.every(4)])
def test_events_that_cannot_be_folded_are_dead_letters_and_leave_no_trace(emit):
    done, seen = through(adding(emit, no_fives), count=50)
    drained(done)
    good = [n for n in range(50) if n % 5]
    sums = [sum(good[: n + 1]) for n in range(40)]
    assert seen == {oz.at_end(): sums[-1:], oz.each(): sums, oz.every(4): sums[3::4]}[emit]
    assert [letter.event for letter in done.letters()] == list(range(0, 50, 5))
    assert done.lost("total") == {"dead": list(range(0, 50, 5))}
    if emit == oz.each():
        assert list(done.parents("total").values()) == [("s", n) for n in good]


@pytest.mark.parametrize("emit", [oz.at_end(), oz.each(), oz.every(3)])
def test_a_key_whose_only_events_failed_is_not_there(emit):
    done, seen = through(per_key(emit, broken=no_fives), count=50, given=Total)
    drained(done)
    last = {each.key: each for each in seen}
    assert sorted(last) == [1, 2, 3, 4, 6, 7, 8, 9]
    assert all(each.count == 5 for each in last.values())
    assert len(done.letters()) == 10


def test_a_key_function_that_fails_is_a_dead_letter():
    @oz.stateful(key=lambda value: [] if value == 2 else 1 / value and value, emit=oz.at_end())
    class Odd:
        count: int = 0

        def fold(self, value: int) -> None:
            self.count += 1

        def emit(self, key: float) -> int:
            return self.count

    done, seen = through(Odd, count=4)
    drained(done)
    assert seen == [1, 1]
    assert [letter.event for letter in done.letters()] == [0, 2]


def test_a_key_that_is_not_a_number_is_a_dead_letter_even_where_it_is_one_and_the_same_object():
    @oz.stateful(key=lambda value: math.nan if value % 3 == 0 else None, emit=oz.each())
    class Odd:
        count: int = 0

        def fold(self, value: int) -> None:
            self.count += 1

        def emit(self, key: None) -> int:
            return self.count

    done, seen = through(Odd, count=7)
    drained(done)
    assert seen == [1, 2, 3, 4]
    assert [letter.event for letter in done.letters()] == [0, 3, 6]
    assert {letter.error.message for letter in done.letters()} == {"the key nan is not equal to itself"}


def test_the_policy_of_a_keyed_stage_holds():
    done, seen = through(per_key(broken=no_fives, on_error="skip"), count=10, given=Total)
    drained(done)
    assert len(seen) == 8
    assert not done.letters()
    assert done.lost("PerKey") == {"skipped": [0, 5]}
    done, seen = through(per_key(broken=no_fives, on_error="fail"), count=10, given=Total)
    assert done.state == "failed"
    assert "five" in done.error.message
    assert seen == []


def test_a_flood_of_letters_fails_the_flow():
    done, _ = through(adding(oz.at_end(), no_fives), count=100, max_dead_letters=3)
    assert done.state == "failed"
    assert "at most 3" in done.error.message


# -- crashes ------------------------------------------------------------------------------------


def once(*values):
    left = list(values)

    def crash(value):
        no_fives(value)
        if left and value == left[0]:
            left.pop(0)
            raise KeyboardInterrupt

    return crash


@pytest.mark.parametrize("kept", ["memory", "segments"])
@pytest.mark.parametrize("emit", [oz.at_end(), oz.each(), oz.every(7)])
def test_a_crash_in_a_fold_refolds_from_the_log_and_the_totals_are_right(emit, kept, tmp_path):
    journal = oz.MemoryJournal(keep=True) if kept == "memory" else oz.SegmentJournal.open(tmp_path / "run")
    good = [n for n in range(3000) if n % 5]
    sums = [sum(good[: n + 1]) for n in range(len(good))]
    done, seen = through(adding(emit, once(13, 1999)), count=3000, journal=journal)
    drained(done)
    left = sums[-1:] if len(good) % 7 else []
    assert seen == {oz.at_end(): sums[-1:], oz.each(): sums, oz.every(7): sums[6::7] + left}[emit]
    assert done["total"].dead == 600
    assert done["total"].errors == 600 + 2, "what fails again while it is folded again is counted once"


@pytest.mark.parametrize("emit", [oz.at_end(), oz.each(), oz.every(3)])
def test_a_crash_in_a_keyed_fold_refolds_from_the_log_and_the_totals_are_right(emit):
    whole, expected = through(per_key(emit, broken=no_fives), count=1000, given=Total)
    drained(whole)
    done, seen = through(per_key(emit, broken=once(13, 777)), count=1000, given=Total)
    drained(done)
    assert seen == expected
    assert done.parents("PerKey") == whole.parents("PerKey")


def test_a_crash_while_emitting_gives_the_rest_once():
    crashes = []

    def gives(key, count, total):
        if key == 6000 and len(crashes) < 2:
            crashes.append(key)
            raise SystemExit
        return Total(key, count, total)

    done, seen = through(per_key(keys=10_000, gives=gives), count=10_000, given=Total)
    drained(done)
    assert len(crashes) == 2
    assert seen == [Total(n, 1, n) for n in range(10_000)]


def test_an_emit_that_always_fails_fails_the_flow_in_the_end():
    done, _ = through(per_key(gives=lambda *_: 1 / 0), count=3, given=Total)
    assert done.state == "failed"
    assert done.error.type == "ZeroDivisionError"


def test_a_crash_behind_routing_refolds_only_what_was_delivered():
    @oz.transform
    def mixed(value: int) -> int | str:
        return value if value % 3 else str(value)

    seen, texts = Seen(), Seen()
    stage = adding(oz.at_end(), once(101))
    done = play(oz.Flow("f", ints(200) >> mixed >> stage >> seen.sink(), mixed >> texts.sink(str).named("texts")))
    drained(done)
    assert seen == [sum(n for n in range(200) if n % 3 and n % 5)]


def test_a_stage_behind_the_dead_letters_refolds_them():
    crashes = []

    @oz.fold(0, emit=oz.at_end())
    def counted(so_far: int, letter: oz.DeadLetter) -> int:
        if letter.ordinal == 7 and not crashes:
            crashes.append(letter)
            raise KeyboardInterrupt
        return so_far + 1

    @oz.transform
    def picky(value: int) -> int:
        no_fives(value)
        return value

    counts, seen = Seen(), Seen()
    done = play(oz.Flow("f", ints(100) >> picky >> seen.sink(), oz.dead_letters >> counted >> counts.sink().named("counts")))
    drained(done)
    assert counts == [20]
    assert crashes


def test_a_journal_that_forgets_cannot_bring_a_state_back_and_says_so():
    done, _ = through(adding(oz.at_end(), once(49_999)), count=50_000, journal=oz.MemoryJournal(), window=oz.Window(events=100))
    assert done.state == "failed"
    assert "MemoryJournal(keep=True)" in done.error.remedy
