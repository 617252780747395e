"""A run replays with no difference, whatever its stages do and however it went."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Annotated

import pytest

import obzen_runtime as oz
from obzen_runtime.events import ActorRestarted, DeliveryResolved
from obzen_runtime.flow import Cancel, StopFlow, replay
from tests.flow.kit import Mortal, Seen, crashing, ints
from tests.flow.replaying import plain, proved, recorded, summed
from tests.flow.test_random_graphs import Graph, disturbance


async def waited(seconds):
    """Some time of the loop's own, which jumps."""
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, over.set)
    await over.wait()


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


def test_a_join_that_got_over_a_breakdown_replays_as_what_became_of_it():
    def priced(*, breaks):
        left = {7, 12} if breaks else set()

        @oz.join(stream_key=lambda number: number % 10, reference_key=lambda number: number)
        def price(number: int, rate: int) -> int:
            if number in left:
                left.discard(number)
                raise SystemExit("broken")
            return number * rate

        return oz.Flow("f", ints(40) >> price.stream, ints(8, "rates") >> price.reference, price >> Seen().sink())

    journal, played = recorded(priced(breaks=True))
    assert (played.state, len(played.of(ActorRestarted))) == ("drained", 2)
    for breaks in (True, False):
        report = replay(priced(breaks=breaks), journal)
        assert report.certified, report.differences
        assert report.stages["price"].recorded == 32


def test_restarts_inside_a_run_do_not_disturb():
    flow = oz.Flow("f", ints(500) >> crashing(300, times=2) >> summed >> Seen().sink(), window=oz.Window(events=20))
    journal, played = recorded(flow)
    assert len(played.of(ActorRestarted)) == 2
    fresh = oz.Flow("f", ints(500) >> crashing(300, times=1) >> summed >> Seen().sink(), window=oz.Window(events=20))
    assert replay(fresh, journal).certified, "a break that the run got over is got over again"


@pytest.mark.parametrize("outcome", ["delivered", "deliver", "dead"])
@pytest.mark.parametrize("drained", [True, False])
def test_what_was_decided_about_a_delivery_in_doubt_replays_with_no_difference(outcome, drained):
    def paying(crash=None):
        @oz.sink(delivery="sensitive")
        async def pay(number: int) -> None:
            if number == crash:
                raise SystemExit

        restart = oz.Restart(max=5 if drained else 0)
        return oz.Flow("f", ints(9) >> pay, restart=restart)

    journal = Mortal()
    assert journal.live(paying(crash=3)).state == ("drained" if drained else "failed")
    journal.append([DeliveryResolved("pay", 0, "s", 3, outcome)])
    assert journal.live(paying()).state == "drained"
    report = replay(paying(), journal)
    assert report.certified, report.differences


def test_letters_of_a_reader_of_letters_are_not_missed_there():
    def reading(bad):
        @oz.sink
        def reader(letter: oz.DeadLetter) -> None:
            if letter.event == bad:
                raise ValueError("own")

        return oz.Flow(
            "f", ints(6000) >> plain(lambda n: 1 // (n % 5)) >> Seen().sink(), oz.dead_letters >> reader, window=oz.Window(events=7)
        )

    journal = Mortal()
    assert journal.live(reading(10)).state == "failed"
    assert journal.live(reading(None)).state == "drained"
    report = replay(reading(None), journal)
    assert report.certified, report.differences


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
