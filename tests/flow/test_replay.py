"""A run replays with no difference, whatever its stages do; code that changed is found at its first differing event."""

import asyncio
import datetime
import random
import socket
import subprocess
import time
import tracemalloc
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from threading import Thread
from typing import Annotated

import msgspec
import pytest

import obzen_runtime as oz
from obzen_runtime.events import ActorRestarted, Block
from obzen_runtime.flow import Cancel, StopFlow, replay
from tests.flow.kit import Seen, Valve, crashing, ints, play, until
from tests.flow.test_random_graphs import Graph, disturbance


def recorded(flow, **options):
    """A journal that holds the flow's run, and how it went."""
    journal = oz.MemoryJournal(keep=True)
    return journal, play(flow, journal=journal, **options)


def proved(flow, again=None, **options):
    """The flow's run replays with no difference; returns the report."""
    journal, played = recorded(flow, **options)
    report = replay(again or flow, journal)
    assert report.differences == ()
    assert report.certified
    for name, stage in report.stages.items():
        written = sum(block.count for block in played.of(Block) if block.stage == name)
        assert stage.recorded == (written if stage.kind != "dead_letters" else stage.replayed), name
        assert stage.kind == "sink" or stage.replayed == stage.recorded, name
    return report


def diverged(flow, changed):
    """The one difference between what a flow recorded and what a changed one does."""
    journal, _ = recorded(flow)
    report = replay(changed, journal)
    assert not report.certified
    assert len(report.differences) == 1, report.differences
    return report.differences[0]


async def waited(seconds):
    """Some time of the loop's own, which jumps."""
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, over.set)
    await over.wait()


# -- every kind of stage ----------------------------------------------------------------------------


@oz.transform
def spread(number: int) -> Iterator[int]:
    for _ in range(number % 50):
        yield number


@oz.transform
async def spread_async(number: int) -> AsyncIterator[int | None]:
    for step in range(number % 50):
        await waited(0.1)
        yield step


@oz.transform(batch=7, within=0.5)
def batched(numbers: list[int]) -> list[int | None]:
    if any(number % 13 == 5 for number in numbers):
        raise ValueError("thirteen")
    return [number if number % 2 else None for number in numbers]


@oz.transform(concurrency=5)
async def laned(number: int, ctx: oz.Context) -> str:
    await waited(1 + number % 3)
    if number % 10 == 3:
        raise KeyError(number)
    return f"{number} {ctx.random.random()} {ctx.uuid()} {ctx.now()} {ctx.event.id}"


@oz.transform(executor=oz.threads(3))
def threaded(number: int, ctx: oz.Context) -> str | None:
    return None if number % 3 == 0 else f"{number} {ctx.uuid()} {ctx.now()}"


@oz.transform(on_error="skip")
def skipping(number: int) -> int:
    if number % 4 == 1:
        raise ValueError(number)
    return number


@oz.transform
def mixed(number: int) -> int | str | None:
    return None if number % 5 == 0 else str(number) if number % 2 else number


@oz.stateful(key=lambda number: number % 7, emit=oz.every(3))
class Thirds:
    seen: list[int] = []  # noqa: RUF012 - state: each key has its own

    def fold(self, number: int) -> None:
        if number % 11 == 4:
            raise ValueError("eleven")
        self.seen.append(number)

    def emit(self, key: int) -> tuple[int, ...] | None:
        return tuple(self.seen) if key != 2 else None


@oz.stateful(key=lambda number: number % 5, emit=oz.each())
class Running:
    total: int = 0

    def fold(self, number: int) -> None:
        self.total += number

    def emit(self, key: int) -> int | None:
        return self.total if self.total % 2 else None


@oz.fold(0, emit=oz.at_end())
def summed(total: int, number: int) -> int:
    if number % 9 == 8:
        raise ValueError("nine")
    return total + number


@oz.join(how="left", stream_key=lambda number: number % 40, reference_key=lambda number: number % 40)
def matched(number: int, match: int | None) -> Iterator[int]:
    for _ in range(number % 3):
        yield number + (match or 0)


KINDS = {
    "plain": skipping,
    "generator": spread,
    "async generator": spread_async,
    "batch": batched,
    "lanes": laned,
    "threads": threaded,
    "mixed": mixed,
    "keyed": oz.stage(Thirds),
    "each": oz.stage(Running),
    "fold": summed,
    "top": oz.top(10, by=lambda number: number % 17),
}


@pytest.mark.parametrize("window", [3, 8192])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_each_kind_of_stage_replays_with_no_difference(kind, window):
    flow = oz.Flow("f", ints(200) >> KINDS[kind] >> Seen().sink(), window=oz.Window(events=window))
    report = proved(flow, real=kind == "threads")
    assert report.events >= 200
    assert report.stages[KINDS[kind].name].steps > 0


def test_a_join_with_an_uneven_reference_replays_with_no_difference():
    stream, reference = ints(300, "a"), ints(90, "b")
    flow = oz.Flow("f", reference >> spread >> matched.reference, stream >> matched.stream, matched >> Seen().sink())
    assert proved(flow).stages["matched"].recorded > 100


def test_routed_events_letters_and_their_readers_replay_with_no_difference():
    @oz.transform
    def fussy(text: str) -> int:
        if text.endswith("7"):
            raise ValueError(text)
        return len(text)

    @oz.transform
    def told(letter: oz.DeadLetter) -> str:
        return f"{letter.ordinal} {letter.stage} {letter.error.message}"

    seen = Seen().sink("numbers")

    @oz.sink
    def whole(number: int) -> None:
        """Takes what is a number."""

    flow = oz.Flow("f", ints(300) >> mixed >> fussy >> seen, mixed >> whole, oz.dead_letters >> told >> Seen().sink("letters"))
    report = proved(flow)
    assert report.stages["told"].recorded == report.stages["fussy"].letters > 10


def test_one_input_over_many_blocks_replays_with_no_difference():
    @oz.transform
    def flood(number: int) -> Iterator[int]:
        yield from range(10_000 if number == 1 else 1)

    report = proved(oz.Flow("f", ints(3) >> flood >> Seen().sink(), window=oz.Window(events=100)))
    assert report.stages["flood"].steps > 100


def test_outputs_that_are_culprits_in_the_middle_of_an_input_replay_with_no_difference():
    @oz.transform
    def bad(number: int) -> Iterator[int]:
        yield number
        if number % 3 == 1:
            yield "text"  # type: ignore[misc]
        yield from range(5)

    report = proved(oz.Flow("f", ints(40) >> bad >> Seen().sink(), window=oz.Window(events=4)))
    assert report.stages["bad"].letters == 13


def test_copied_payloads_are_decoded_for_each_stage():
    @oz.source
    def given() -> Iterator[Annotated[dict[str, int], oz.stages.copied]]:
        for number in range(20):
            yield {"n": number}

    @oz.transform
    def changes(event: oz.Copied[dict[str, int]]) -> oz.Copied[dict[str, int]]:
        event["n"] += 1
        return event

    flow = oz.Flow("f", given >> changes.named("one") >> Seen().sink("k1"), given >> changes.named("two") >> Seen().sink("k2"))
    proved(flow)


def test_a_retried_event_replays_as_what_became_of_it():
    tries: dict[int, int] = {}

    @oz.transform(retry=oz.Retry.fixed(attempts=3, delay=1.0))
    def flaky(number: int) -> int:
        tries[number] = tries.get(number, 0) + 1
        if number % 5 == 2 and (number % 2 or tries[number] % 3):
            raise oz.Transient("again")
        return number

    proved(oz.Flow("f", ints(40) >> flaky >> Seen().sink()))


def test_restarts_inside_a_run_do_not_disturb():
    flow = oz.Flow("f", ints(500) >> crashing(300, times=2) >> summed >> Seen().sink(), window=oz.Window(events=20))
    journal, played = recorded(flow)
    assert len(played.of(ActorRestarted)) == 2
    fresh = oz.Flow("f", ints(500) >> crashing(300, times=1) >> summed >> Seen().sink(), window=oz.Window(events=20))
    assert replay(fresh, journal).certified, "a break that the run got over is got over again"


@pytest.mark.parametrize("order", [StopFlow(within=100.0), Cancel()])
def test_a_run_that_was_ended_early_replays_up_to_its_end(order):
    async def beside(pipeline):
        for _ in range(60):
            await asyncio.sleep(0)
        pipeline.command(order)

    flow = oz.Flow("f", ints(50_000) >> skipping >> summed >> Seen().sink(), window=oz.Window(events=200))
    report = proved(flow, beside=beside)
    assert 0 < report.stages["s"].recorded < 50_000


def test_a_run_replays_up_to_every_record_of_its_log():
    journal, played = recorded(oz.Flow("f", ints(60) >> batched >> summed >> Seen().sink(), window=oz.Window(events=9)))

    class Cut:
        def __init__(self, stop):
            self.stop = stop

        def read(self, start=1, stop=None, *, kinds=None):
            return journal.read(start, min(stop or self.stop, self.stop), kinds=kinds)

    flow = played.pipeline.flow
    inside = {stop for stop, record in enumerate(played.records, 1) if isinstance(record, oz.DeadLetter)}  # of a frame
    reports = [replay(flow, Cut(stop)) for stop in range(2, len(played.records) + 2) if stop not in inside]
    assert all(report.certified for report in reports)
    assert [report.complete for report in reports].count(True) >= 1
    assert "without an end" in reports[0].reason
    assert reports[-1].reason == ""


CHUNK = 24


@pytest.mark.parametrize("chunk", range(240 // CHUNK))
def test_every_random_graph_replays_with_no_difference(chunk):
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        graph = Graph(seed)
        flow = graph.flow()
        journal, _ = recorded(flow, beside=disturbance(graph.random))
        assert replay(flow, journal).differences == (), seed


# -- code that changed ------------------------------------------------------------------------------


class Pair(msgspec.Struct, frozen=True):
    left: int
    right: str


@dataclass(frozen=True)
class Change:
    """A stage as it was, as it is now, and the event at which the two part."""

    before: object
    after: object
    event: str
    what: str
    recorded: str
    replayed: str
    made_of: str


def plain(body, gives=int, name="t"):
    """A transform of ints made of an expression's function."""

    def t(number):
        return body(number)

    t.__annotations__ = {"number": int, "return": gives}
    return oz.transform(t).named(name)


def batches(body):
    @oz.transform(batch=4)
    def t(numbers: list[int]) -> list[int]:
        return body(numbers)

    return t


def many(body, name="t"):
    def t(number: int) -> Iterator[int]:
        yield from body(number)

    return oz.transform(t).named(name)


def raising(error, at=17):
    def body(number):
        if number == at:
            raise error
        return number

    return body


def folded(body, emit=None, name="t"):
    def t(total: int, number: int) -> int:
        return body(total, number)

    return oz.fold(0, emit=emit or oz.each())(t).named(name)


def keyed(modulus, start=0):
    @oz.stateful(key=lambda number: number % modulus, emit=oz.at_end())
    class T:
        total: int = start

        def fold(self, number: int) -> None:
            self.total += number

        def emit(self, key: int) -> int:
            return self.total

    return oz.stage(T).named("t")


def same(number):
    return number


CHANGES = {
    "another constant": Change(plain(lambda n: n + (n == 30)), plain(lambda n: n + 2 * (n == 30)), "t@30", "value", "31", "32", "s@30 30"),
    "an event dropped": Change(
        plain(same, int | None), plain(lambda n: None if n == 41 else n, int | None), "t@41", "count", "41", "nothing (dropped)", "s@41 41"
    ),
    "an event kept": Change(
        plain(lambda n: None if n == 41 else n, int | None), plain(same, int | None), "t@41", "count", "nothing (dropped)", "41", "s@41 41"
    ),
    "reordered outputs": Change(many(lambda n: (n, n + 1)), many(lambda n: (n + 1, n)), "t@0", "value", "0", "1", "s@0 0"),
    "one output more": Change(many(lambda n: (n,)), many(lambda n: (n,) * (1 + (n == 9))), "t@10", "count", "nothing", "9", "s@9 9"),
    "one output fewer": Change(many(lambda n: (n, n)), many(lambda n: (n,) * (2 - (n == 9))), "t@19", "count", "9", "nothing", "s@9 9"),
    "another exception": Change(
        plain(raising(ValueError("x"))), plain(raising(KeyError("x"))), "s@17", "dead letter", "ValueError: x", "KeyError: 'x'", "s@17 17"
    ),
    "another message": Change(
        plain(raising(ValueError("x"))), plain(raising(ValueError("y"))), "s@17", "dead letter", "ValueError: x", "ValueError: y", "s@17 17"
    ),
    "a new exception": Change(plain(same), plain(raising(ValueError("x"))), "t@17", "dead letter", "17", "ValueError: x", "s@17 17"),
    "an exception swallowed": Change(plain(raising(ValueError("x"))), plain(same), "t@17", "dead letter", "ValueError: x", "17", "s@17 17"),
    "another type": Change(plain(lambda n: n, int | bool), plain(lambda n: n == 5 or n, int | bool), "t@5", "value", "5", "True", "s@5 5"),
    "an undeclared type": Change(
        plain(same), plain(lambda n: "text" if n == 5 else n), "t@5", "dead letter", "5", "undeclared_type", "s@5 5"
    ),
    "a fold's operator": Change(folded(lambda t, n: t + n), folded(lambda t, n: t - n), "t@1", "value", "1", "-1", "s@1 1"),
    "another key": Change(keyed(3), keyed(4), "t@0", "value", "18", "12", "the inputs of t"),
    "another initial state": Change(keyed(3), keyed(3, start=1), "t@0", "value", "18", "19", "the inputs of t"),
    "a batch that looks around": Change(
        batches(same), batches(lambda ns: [n + (len(ns) > 1) * (n == 20) for n in ns]), "t@20", "value", "20", "21", "s@20 20"
    ),
    "state kept aside": Change(
        folded(lambda t, n: t + n, oz.at_end()), folded(lambda t, n: max(t, n), oz.at_end()), "t@0", "value", "45", "9", "the inputs of t"
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_T_NDET_2_a_change_of_code_is_found_at_its_first_differing_event(name):
    change = CHANGES[name]
    count = 10 if change.made_of.startswith("the inputs") else 60
    flows = [oz.Flow("f", ints(count) >> stage >> Seen().sink()) for stage in (change.before, change.after)]
    found = diverged(*flows)
    assert (found.stage, found.what) == ("t", change.what), found
    assert found.event == change.event, found
    assert change.recorded in found.recorded, found
    assert change.replayed in found.replayed, found
    assert f"{found.input} {found.input_value}".startswith(change.made_of), found


def test_the_stages_behind_a_change_are_judged_by_what_they_were_given():
    before = oz.Flow("f", ints(50) >> plain(same, name="a") >> plain(same, name="b") >> Seen().sink())
    after = oz.Flow("f", ints(50) >> plain(lambda n: n + (n > 20), name="a") >> plain(lambda n: n + (n > 40), name="b") >> Seen().sink())
    journal, _ = recorded(before)
    found = replay(after, journal).differences
    assert [(each.stage, each.event) for each in found] == [("a", "a@21"), ("b", "b@41")]
    assert found[0].position < found[1].position


def test_a_stage_that_would_give_more_at_its_end_is_found():
    found = diverged(
        oz.Flow("f", ints(10) >> folded(lambda t, n: t + n, oz.every(5)) >> Seen().sink()),
        oz.Flow("f", ints(10) >> folded(lambda t, n: t + n, oz.every(7)) >> Seen().sink()),
    )
    assert (found.stage, found.event) == ("t", "t@0")


def test_without_verify_the_code_runs_over_everything_and_nothing_is_judged():
    journal, _ = recorded(oz.Flow("f", ints(60) >> many(lambda n: (n, n), "m") >> folded(lambda t, n: t + n) >> Seen().sink()))
    changed = oz.Flow("f", ints(60) >> many(lambda n: (n,), "m") >> folded(lambda t, n: t - n) >> Seen().sink())
    report = replay(changed, journal, verify=False)
    assert (report.differences, report.certified, report.reason) == ((), False, "nothing was compared")
    assert (report.stages["m"].recorded, report.stages["m"].replayed) == (120, 60)
    assert report.stages["t"].replayed == 120, "it was given what is recorded"


# -- the clock, chance and the outside --------------------------------------------------------------

_COUNTED = iter(range(1 << 30))


def by_the_clock(number):
    return time.time_ns()


def by_another_clock(number):
    return int(datetime.datetime.now(datetime.UTC).timestamp() * 1e6)


def by_chance(number):
    return random.randrange(1 << 60)


def by_identity(number):
    return uuid.uuid4().int >> 70


def by_a_helper(number):
    return by_chance(number)


MOODS = {
    by_the_clock: ("time.time_ns", "ctx.now()"),
    by_another_clock: ("datetime.datetime.now", "ctx.now()"),
    by_chance: ("random.randrange", "ctx.random"),
    by_identity: ("uuid.uuid4", "ctx.uuid()"),
    by_a_helper: ("random.randrange", "ctx.random"),
}


@pytest.mark.parametrize("mood", MOODS)
def test_a_handler_that_asks_the_machine_for_time_or_chance_is_found_and_named(mood):
    @oz.transform
    def moody(number: int) -> int:
        return mood(number)

    flow = oz.Flow("f", ints(5) >> moody >> Seen().sink())
    found = diverged(flow, flow)
    named, instead = MOODS[mood]
    assert (found.stage, found.event, found.what) == ("moody", "moody@0", "value")
    assert [hint for hint in found.hints if named in hint and instead in hint], found


def test_a_handler_that_has_its_own_count_is_found():
    @oz.transform
    def counted(number: int) -> int:
        return next(_COUNTED)

    flow = oz.Flow("f", ints(5) >> counted >> Seen().sink())
    assert diverged(flow, flow).event == "counted@0"


def test_time_and_chance_of_the_context_are_the_same_in_a_replay():
    @oz.transform
    def asks(number: int, ctx: oz.Context) -> tuple[str, ...]:
        return str(ctx.now()), str(ctx.random.random()), str(ctx.uuid()), ctx.event.id, ctx.stage

    proved(oz.Flow("f", ints(100) >> asks >> Seen().sink(), window=oz.Window(events=7)))


@pytest.mark.parametrize("where", ["loop", "thread", "coroutine"])
def test_a_replay_makes_no_outside_call(where):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        served = []

        def serve():
            connection, _ = server.accept()
            served.append(connection)

        def asks(number: int) -> int:
            with socket.create_connection(address):
                return number

        async def asks_and_waits(number: int) -> int:
            _, writer = await asyncio.open_connection(*address)
            writer.close()
            return number

        asking = {
            "loop": oz.transform(asks),
            "thread": oz.transform(executor=oz.threads(1))(asks),
            "coroutine": oz.transform(asks_and_waits),
        }[where].named("asks")
        thread = Thread(target=serve)
        thread.start()
        flow = oz.Flow("f", ints(1) >> asking >> Seen().sink())
        journal, played = recorded(flow, real=True)
        thread.join()
        assert played.events("asks") == [0]
        found = replay(flow, journal).differences[0]
        assert (found.stage, found.event) == ("asks", "asks@0")
        assert "no outside call" in found.replayed
        assert [hint for hint in found.hints if "socket." in hint], found
        served[0].close()
        with socket.create_connection(address):
            """Outside of a step everything may call."""


def test_a_replay_starts_no_program():
    @oz.transform
    def starts(number: int) -> int:
        return subprocess.run(["/bin/true"], check=False).returncode

    flow = oz.Flow("f", ints(1) >> starts >> Seen().sink())
    journal, _ = recorded(flow, real=True)
    assert "subprocess.Popen" in replay(flow, journal).differences[0].replayed


def test_sinks_are_not_called():
    seen = Seen()
    flow = oz.Flow("f", ints(10) >> plain(same) >> seen.sink())
    proved(flow)
    assert seen == list(range(10))


# -- how it is called -------------------------------------------------------------------------------


def test_memory_stays_flat():
    def peak(count):
        flow = oz.Flow("f", ints(count) >> plain(same) >> summed >> Seen().sink())
        journal, _ = recorded(flow)
        tracemalloc.start()
        try:
            assert replay(flow, journal).certified
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1000)
    assert peak(60_000) < peak(15_000) + 500_000


def test_a_journal_that_forgot_its_beginning_is_refused():
    journal = oz.MemoryJournal()
    flow = oz.Flow("f", ints(20_000) >> plain(same) >> Seen().sink())
    play(flow, journal=journal)
    with pytest.raises(oz.ObzenError, match="dropped"):
        replay(flow, journal)


def test_a_flow_with_other_stages_is_refused():
    journal, _ = recorded(oz.Flow("f", ints(5) >> plain(same) >> Seen().sink()))
    with pytest.raises(oz.ObzenError, match="stage 't'"):
        replay(oz.Flow("f", ints(5) >> plain(same, name="u") >> Seen().sink()), journal)


async def _inside(flow, journal):
    with pytest.raises(oz.ObzenError, match=r"oz\.replaying"):
        replay(flow, journal)
    return await oz.replaying(flow, journal)


def test_inside_a_loop_it_is_awaited():
    flow = oz.Flow("f", ints(5) >> plain(same) >> Seen().sink())
    journal, _ = recorded(flow)
    assert asyncio.run(_inside(flow, journal)).certified


def test_a_run_on_disk_is_named_by_its_id_and_tells_whether_its_code_changed(tmp_path):
    @oz.transform
    def t(number: int) -> int:
        return number

    @oz.transform
    def changed(number: int) -> int:
        return number if number < 40 else 0

    flow, other = (oz.Flow("f", ints(50) >> stage >> Seen().sink()) for stage in (t, changed.named("t")))
    assert oz.run(flow, journal=tmp_path, run_id="first").state == "drained"
    report = oz.replay(flow, "first", journal=tmp_path)
    assert report.certified
    assert report.stages["t"].code_changed is False
    found = oz.replay(other, tmp_path / "first").differences[0]
    assert (found.event, found.code_changed) == ("t@40", True)
    assert "t@40" in str(found)
    assert "its code changed since the run" in str(found)


def test_a_run_that_lives_is_replayed_up_to_now_and_goes_on(tmp_path):
    async def live():
        valve = Valve()
        flow = oz.Flow("f", valve.source() >> plain(same) >> summed >> Seen().sink())
        async with oz.start(flow, journal=tmp_path, run_id="live") as handle:
            valve.give(3000)
            await until(lambda: handle.metrics()["t"]["received"] >= 2000)
            report = await oz.replaying(flow, "live", journal=tmp_path)
            valve.end()
        return report, await handle.wait()

    report, ended = asyncio.run(live())
    assert (report.certified, report.complete) == (True, False)
    assert report.stages["t"].recorded >= 2000
    assert "without an end" in report.reason
    assert ended.state == "drained"


def test_a_resumed_run_replays_as_one(tmp_path):
    async def stopped(flow, valve):
        async with oz.start(flow, journal=tmp_path, run_id="twice") as handle:
            valve.give(3000)
            await until(lambda: handle.metrics()["t"]["received"] >= 2000)
            return await handle.stop()

    @oz.transform
    def t(number: int, ctx: oz.Context) -> int:
        return number + int(ctx.random.random() * 1000) + ctx.now().microsecond

    valve, again = Valve(), Valve(opened=6000)
    again.end()
    flows = [oz.Flow("f", each.source() >> t >> summed >> Seen().sink()) for each in (valve, again)]
    assert asyncio.run(stopped(flows[0], valve)).state == "cancelled"
    assert oz.resume(flows[1], "twice", journal=tmp_path).state == "drained"
    report = oz.replay(flows[1], "twice", journal=tmp_path)
    assert report.differences == ()
    assert (report.certified, report.complete) == (True, True)
    assert report.stages["t"].recorded == 6000
