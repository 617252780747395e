"""Dead letters: events that could not be processed, as a stream of the flow that ends as streams do."""

import asyncio
from collections.abc import Iterator

import msgspec
import pytest

import obzen_runtime as oz
from obzen_runtime.events import DeadLetter, RunFailed
from obzen_runtime.flow import Cancel, StopFlow
from tests.flow.kit import Mortal, Seen, crashing, forever, ints, play, same, total, until


@oz.transform
def picky(number: int) -> int:
    if number % 100 == 0:
        raise ValueError(f"bad {number}")
    return number


def test_letters_reach_the_stage_that_is_wired_for_them_and_the_flow_drains():
    seen, letters = Seen(), Seen()
    played = play(oz.Flow("f", ints(1000) >> picky >> total() >> seen.sink(), oz.dead_letters >> letters.sink("mail")))
    assert (played.state, seen) == ("drained", [sum(n for n in range(1000) if n % 100)])
    assert [(each.stage, each.upstream, each.event, each.error.message) for each in letters] == [
        ("picky", "s", number, f"bad {number}") for number in range(0, 1000, 100)
    ]
    assert [each.ordinal for each in letters] == list(range(10))
    assert letters == played.of(DeadLetter)
    verdict = next(each for each in played.pipeline.verdicts if each.edge == "dead_letters -> mail")
    assert (verdict.written, verdict.accounted, verdict.passed) == (10, 10, True)


def test_letters_that_nobody_takes_are_kept_in_the_log():
    played = play(oz.Flow("f", ints(1000) >> picky >> Seen().sink()))
    assert (played.state, len(played.of(DeadLetter))) == ("drained", 10)
    assert msgspec.msgpack.decode(played.of(DeadLetter)[3].payload) == 300


def test_letters_may_be_transformed_and_folded_and_the_last_emission_comes():
    @oz.transform
    def numbered(letter: oz.DeadLetter) -> int:
        return letter.event

    seen = Seen()
    played = play(oz.Flow("f", ints(1000) >> picky >> Seen().sink(), oz.dead_letters >> numbered >> total() >> seen.sink("mail")))
    assert (played.state, seen) == ("drained", [4500])


def test_letters_of_every_stage_but_those_behind_them_are_taken():
    @oz.sink
    def fussy(number: int) -> None:
        if number % 250 == 1:
            raise ValueError(f"no {number}")

    letters = Seen()
    assert play(oz.Flow("f", ints(1000) >> picky >> fussy, oz.dead_letters >> letters.sink("mail"))).state == "drained"
    assert {each.stage for each in letters} == {"picky", "fussy"}
    assert len(letters) == 14


def test_the_flow_property_is_the_same_stream():
    flow = oz.Flow("f", ints(1) >> Seen().sink())
    assert flow.dead_letters is oz.dead_letters


def test_letters_without_any_letter_end_as_well():
    letters = Seen()
    assert play(oz.Flow("f", ints(10) >> Seen().sink(), oz.dead_letters >> letters.sink("mail"))).state == "drained"
    assert letters == []


@pytest.mark.parametrize("policy", ["dead_letter", "fail"])
def test_a_failure_behind_the_letters_fails_the_flow(policy):
    calls = [0]

    @oz.sink(on_error=policy)
    def mail(letter: oz.DeadLetter) -> None:
        calls[0] += 1
        raise ConnectionError("no mail server")

    played = play(oz.Flow("f", ints(1000) >> picky >> Seen().sink(), oz.dead_letters >> mail))
    assert played.state == "failed"
    assert "no mail server" in played.error.message
    assert 1 <= calls[0] <= 10
    assert isinstance(played.verdict[0], RunFailed)


def test_a_failure_two_stages_behind_the_letters_fails_the_flow_too():
    @oz.transform
    def numbered(letter: oz.DeadLetter) -> int:
        return letter.event

    @oz.transform
    def broken(number: int) -> int:
        raise ValueError("again")

    played = play(oz.Flow("f", ints(1000) >> picky >> Seen().sink(), oz.dead_letters >> numbered >> broken >> Seen().sink("mail")))
    assert played.state == "failed"
    assert "again" in played.error.message


def test_a_crash_behind_the_letters_is_restarted_with_every_letter_once():
    left, got = [1], []

    @oz.transform
    def numbered(letter: oz.DeadLetter) -> int:
        if letter.ordinal == 5 and left[0]:
            left[0] = 0
            raise SystemExit(1)
        return letter.event

    @oz.sink
    def mail(number: int) -> None:
        got.append(number)

    played = play(oz.Flow("f", ints(1000) >> picky >> Seen().sink(), oz.dead_letters >> numbered >> mail))
    assert (played.state, got) == ("drained", list(range(0, 1000, 100)))


@pytest.mark.parametrize("strategy", ["one_for_one", "rest_for_one", "one_for_all"])
def test_the_letters_survive_the_restart_of_the_rest(strategy):
    letters, seen = Seen(), Seen()
    flow = oz.Flow(
        "f",
        ints(1000) >> picky >> crashing(555, name="u") >> seen.sink(),
        oz.dead_letters >> letters.sink("mail"),
        restart=oz.Restart(strategy=strategy),
    )
    played = play(flow, real=True)
    assert played.state == "drained"
    assert [each.event for each in letters] == list(range(0, 1000, 100))
    assert len(seen) == 990


@pytest.mark.parametrize(("order", "state"), [(StopFlow(), "cancelled"), (Cancel(), "cancelled")])
def test_the_letters_end_with_a_stopped_flow(order, state):
    letters = Seen()

    async def beside(pipeline):
        await until(lambda: len(letters) > 3)
        pipeline.command(order)

    played = play(oz.Flow("f", forever() >> picky >> Seen().sink(), oz.dead_letters >> letters.sink("mail")), beside=beside)
    assert played.state == state
    assert [each.ordinal for each in letters] == list(range(len(letters)))
    if isinstance(order, StopFlow):
        assert letters == played.of(DeadLetter)
        assert played.states["dead_letters"] == "suspended"


def test_a_slow_reader_of_letters_gets_them_all():
    got = []

    @oz.sink
    async def mail(letter: oz.DeadLetter) -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        loop.call_later(5.0, done.set_result, None)
        await done
        got.append(letter.ordinal)

    played = play(oz.Flow("f", ints(2000) >> picky >> Seen().sink(), oz.dead_letters >> mail, window=oz.Window(events=2)))
    assert (played.state, got) == ("drained", list(range(20)))


def test_letters_that_wait_for_a_slow_reader_stand_in_the_log_and_not_in_memory():
    held, got = [], []

    @oz.sink
    async def mail(letter: DeadLetter) -> None:
        if not got:
            await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=100.0)
        entries = pipelines[0].stages["mail"].inbox.entries
        held.append(sum(len(entry.items or ()) for entry in entries if entry.end is None))
        got.append((letter.ordinal, letter.payload))

    pipelines = []

    async def beside(pipeline):
        pipelines.append(pipeline)

    flow = oz.Flow("f", ints(5000) >> failing(range(5000)) >> Seen().sink(), oz.dead_letters >> mail, window=oz.Window(events=100))
    played = play(flow, beside=beside)
    assert played.state == "drained"
    assert got == [(number, msgspec.msgpack.encode(number)) for number in range(5000)]
    assert max(held) < 1000


@pytest.mark.parametrize(("most", "state"), [(10, "drained"), (9, "failed"), (0, "failed")])
def test_more_letters_than_allowed_fail_the_flow(most, state):
    played = play(oz.Flow("f", ints(1000) >> picky >> Seen().sink(), max_dead_letters=most))
    assert played.state == state
    if state == "failed":
        assert f"at most {most} are allowed" in played.error.message
        assert "max_dead_letters" in played.error.remedy


def failing(numbers):
    """A transform that cannot take these numbers."""

    @oz.transform
    def t(number: int) -> int:
        if number in numbers:
            raise ValueError("not this one")
        return number

    return t


@pytest.mark.parametrize(
    ("count", "bad", "share", "state"),
    [
        (1000, range(10), 0.01, "drained"),
        (1000, range(11), 0.01, "failed"),
        (999, range(999), 0.999, "failed"),
        (100_000, range(0, 90_000, 128), 0.01, "drained"),
        (3, (2,), 0.5, "drained"),
        (3, (2,), 0.25, "failed"),
        (0, (), 0.01, "drained"),
    ],
)
def test_a_larger_share_of_letters_than_allowed_fails_the_flow(count, bad, share, state):
    played = play(oz.Flow("f", ints(count) >> failing(bad) >> Seen().sink(), max_dead_letters=share))
    assert played.state == state
    if state == "failed":
        assert f"{len(bad)} dead letters of {count} events given, at most {share:.4g} of them are allowed" in played.error.message
        assert "max_dead_letters" in played.error.remedy


def test_a_share_is_judged_while_the_flow_runs():
    played = play(oz.Flow("f", forever() >> failing(range(0, 10**6, 2)) >> Seen().sink(), max_dead_letters=0.25))
    assert played.state == "failed"
    assert "at most 0.25 of them are allowed" in played.error.message


def test_a_share_is_of_what_all_processes_of_a_run_were_given():
    flow = oz.Flow("f", ints(4000) >> failing(range(30)) >> Seen().sink(), max_dead_letters=0.01)
    whole = Mortal()
    assert play(flow, journal=whole).state == "drained"
    journal = Mortal()
    journal.left = whole.appends - 12
    assert play(flow, journal=journal).state == "failed"
    journal.left = None
    assert play(flow, journal=journal).state == "drained"


def test_a_source_whose_rows_are_all_bad_is_held_to_the_limit():
    @oz.source
    def s() -> Iterator[int]:
        for number in range(1000):
            yield oz.Bad(b"x", "no number", f"f.csv:{number}")  # type: ignore[misc]

    played = play(oz.Flow("f", s >> Seen().sink(), max_dead_letters=5))
    assert played.state == "failed"


def test_bad_rows_are_letters_with_their_place():
    @oz.source
    def s() -> Iterator[int]:
        yield 1
        yield oz.Bad("x,y", "no number", "f.csv:2")  # type: ignore[misc]
        yield 3

    seen, letters = Seen(), Seen()
    played = play(oz.Flow("f", s >> seen.sink(), oz.dead_letters >> letters.sink("mail")))
    assert (played.state, seen) == ("drained", [1, 3])
    assert [(each.payload, each.place, each.upstream, each.error.message) for each in letters] == [(b"x,y", "f.csv:2", "", "no number")]


def test_a_join_may_not_need_letters_but_gives_them():
    letters = Seen()

    @oz.join(how="inner", stream_key=lambda n: 10 // (n - 5), reference_key=int)
    def j(one: int, other: int) -> int:
        return one

    played = play(
        oz.Flow("f", ints(10) >> j.stream, ints(10, "r") >> j.reference, j >> Seen().sink(), oz.dead_letters >> letters.sink("mail"))
    )
    assert played.state == "drained"
    assert [each.event for each in letters] == [5]


def test_same_is_not_disturbed_by_letters_elsewhere():
    seen = Seen()
    played = play(oz.Flow("f", ints(500) >> [picky >> Seen().sink("x"), same() >> seen.sink()]))
    assert (played.state, len(seen)) == ("drained", 500)
