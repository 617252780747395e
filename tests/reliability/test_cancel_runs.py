"""Every waiting call on a run, cancelled at every step of any of its tasks: the run ends in good order and goes on to the same end.

After each cancellation no task and no lock is left, the journal opens, no step was taken by half, and a resume gives
every stage exactly the events of a run that nobody cancelled.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

import obzen_runtime as oz
from obzen_runtime.actor import Ground, Watchdog, supervised
from obzen_runtime.events import Block, Receipt, RunCancelled, RunCompleted, Slice
from obzen_runtime.flow import Pipeline
from obzen_runtime.host.handle import Handle
from obzen_runtime.host.opening import Opening
from obzen_runtime.journal import SegmentReader
from obzen_runtime.kernel import Seams
from tests.flow.kit import Seen, ints, same, total
from tests.journal.kit import tell
from tests.reliability.cutting import World, cancelled_everywhere, passes
from tests.reliability.test_cancel_journal import CALLS as JOURNAL_CALLS

RUNS = Path("/runs")
RUN = RUNS / "r"
MANY = 8


class Still(Watchdog):
    """Nobody looks on: real time means nothing here."""

    def start(self, loop, **options):
        pass

    def stop(self):
        pass


def handle_of(flow, world, **options):
    handle = Handle(flow, Opening(RUNS, run_id="r", seams=Seams(**world.seams), **options))
    handle.watchdog = Still()
    return handle


# --- flows of every kind ----------------------------------------------------------------------------------------------


@oz.transform
def several(number: int) -> Iterator[int]:
    for part in range(number % 4):
        yield 10 * number + part


@oz.transform(concurrency=3)
async def at_once(number: int) -> int:
    await passes(0.01 * (number % 3))
    return number + 1


@oz.transform(batch=3)
def batched(many: list[int]) -> list[int]:
    return [number + 1 for number in many]


@oz.transform(retry=oz.Retry(attempts=2))
async def tried_again(number: int) -> int:
    await asyncio.sleep(0)
    if number % 2 and number not in tried:
        tried.add(number)
        raise oz.Transient("again")
    return number


tried: set[int] = set()


@oz.source
async def waiting() -> AsyncIterator[int]:
    for number in range(MANY):
        await passes(0.01)
        yield number


class Order(msgspec.Struct, frozen=True):
    number: int
    customer: int


@oz.source
def orders() -> Iterator[Order]:
    for number in range(MANY):
        yield Order(number, number % 3)


@oz.source
def customers() -> Iterator[int]:
    yield from range(2)


@oz.stateful(key=lambda order: order.customer, emit=oz.at_end())
class PerCustomer:
    count: int = 0

    def fold(self, order: Order) -> None:
        self.count += 1

    def emit(self, customer: int) -> int:
        return self.count


@oz.join(how="left", stream_key=lambda order: order.customer, reference_key=lambda customer: customer)
def known(order: Order, customer: int | None) -> int:
    return order.number if customer is not None else -1


@oz.sink(batch=3, within=0.1)
async def slowly(numbers: list[int]) -> None:
    await passes(0.01)


FLOWS = {
    "plain": lambda: oz.Flow("f", ints(MANY) >> same() >> Seen().sink()),
    "generator": lambda: oz.Flow("f", ints(MANY) >> several >> Seen().sink()),
    "async_source": lambda: oz.Flow("f", waiting >> same() >> Seen().sink()),
    "concurrent": lambda: oz.Flow("f", ints(MANY) >> at_once >> Seen().sink()),
    "batch": lambda: oz.Flow("f", ints(MANY) >> batched >> slowly),
    "retry": lambda: tried.clear() or oz.Flow("f", ints(MANY) >> tried_again >> Seen().sink()),
    "fold": lambda: oz.Flow("f", ints(MANY) >> total() >> Seen().sink()),
    "per_key": lambda: oz.Flow("f", orders >> PerCustomer >> Seen().sink()),
    "join": lambda: oz.Flow("f", customers >> known.reference, orders >> known.stream, known >> Seen().sink()),
    "fan_in": lambda: oz.Flow("f", [ints(MANY), ints(3, "other")] >> same() >> Seen().sink()),
    "fan_out": lambda: oz.Flow("f", ints(MANY) >> [same("a") >> Seen().sink("x"), total() >> Seen().sink("y")]),
}


async def story(world):
    """What stands in the log: each stage's events, and how the run ended. Every upstream's events are taken once and in order."""
    found, ends, following = {}, [], {}
    reader = SegmentReader.open(RUN, files=world.disk)
    async for _, record in reader.read():
        match record:
            case Block():
                assert record.base == len(found.setdefault(record.stage, []))
                found[record.stage] += msgspec.msgpack.decode(record.payloads) if record.count else []
            case RunCancelled() | RunCompleted():
                ends.append(type(record))
        if isinstance(record, Block | Receipt):
            for piece in record.inputs:
                if isinstance(piece, Slice):
                    key = record.stage, piece.upstream
                    assert piece.start == following.get(key, 0), (key, piece)
                    following[key] = piece.stop
    return {stage: sorted(map(json.dumps, events)) for stage, events in found.items()}, ends


async def whole(make, world):
    """Run, or go on, to the end; what stands in the log then."""
    async with handle_of(make(), world) as handle:
        report = await handle.wait()
    assert report.state == "drained", report.error
    return (await story(world))[0]


def goes_on_to(make):
    """The check: what was cancelled ends and goes on to what nobody cancelled."""
    alone = World()
    alone.play(lambda world: whole(make, world))
    expected = []

    async def check(world):
        expected[:] = expected or [(await story(alone))[0]]
        assert not world.disk.locked(RUN / "LOCK")
        if not world.disk.exists(RUN):
            return
        if any(path.suffix == ".seg" for path in world.disk.paths):
            _, ends = await story(world)
            assert ends[-1:] in ([], [RunCancelled], [RunCompleted])
        assert await whole(make, world) == expected[0]
        assert not world.disk.locked(RUN / "LOCK")

    return check


@pytest.mark.parametrize("level", ["os", "fsync"])
@pytest.mark.parametrize("name", FLOWS)
def test_T_CAN_a_run_of_each_kind(name, level):
    make = FLOWS[name]

    async def operation(world):
        async with handle_of(make(), world, durability=level) as handle:
            await handle.wait()

    count = cancelled_everywhere(operation, goes_on_to(make))
    tell(f"a run of {name} at {level}: 1 operation cancelled at {count} steps")
    assert count > 10


async def wait(handle):
    await handle.wait()


async def stop(handle):
    await passes(0.03)
    await handle.stop()


async def drain(handle):
    await handle.drain()


async def cancel(handle):
    await passes(0.03)
    await handle.cancel()


async def records(handle):
    async for _ in handle.records():
        pass


async def pause_and_resume(handle):
    handle.pause()
    await passes(0.1)
    handle.resume()
    await handle.wait()


async def started_by_hand(handle):
    await passes(0.1)
    handle.start()
    await handle.wait()


async def two_wait(handle):
    await asyncio.gather(handle.wait(), handle.wait())


CALLS = {call.__name__: call for call in (wait, stop, drain, cancel, records, pause_and_resume, started_by_hand, two_wait)}


@pytest.mark.parametrize("name", CALLS)
def test_T_CAN_a_call_on_a_handle(name):
    make, call = FLOWS["async_source"], CALLS[name]
    if name == "drain":  # ends the source early: the end is another, and a resume has nothing to do
        make = FLOWS["plain"]

    async def operation(world):
        async with handle_of(make(), world, manual=name == "started_by_hand") as handle:
            await call(handle)

    async def drained_or_goes_on(world):
        if name != "drain" or not world.disk.exists(RUN):
            await goes_on(world)
            return
        assert not world.disk.locked(RUN / "LOCK")
        await whole(make, world)

    goes_on = goes_on_to(make)
    count = cancelled_everywhere(operation, drained_or_goes_on)
    tell(f"handle.{name}: 1 operation cancelled at {count} steps")
    assert count > 10


def cut_off(make, at=12):
    """A world in which a run was cancelled as far on as it could be."""
    world = World()

    async def operation(world):
        async with handle_of(make(), world) as handle:
            task = asyncio.ensure_future(handle.wait())
            for _ in range(at):
                await asyncio.sleep(0)
            await handle.cancel()
            await task

    world.play(operation)

    async def ended(world):
        cancelled.extend((await story(world))[1])

    cancelled = []
    world.play(ended)
    return world if cancelled == [RunCancelled] else cut_off(make, at - 1)


@pytest.mark.parametrize("name", ["plain", "fold", "per_key", "join", "async_source"])
def test_T_CAN_a_resume(name):
    make = FLOWS[name]

    async def operation(world):
        world.disk = cut.disk.killed()
        async with handle_of(make(), world) as handle:
            await handle.wait()

    cut = cut_off(make)
    count = cancelled_everywhere(operation, goes_on_to(make))
    tell(f"a resume of {name}: 1 operation cancelled at {count} steps")
    assert count > 5


@pytest.mark.parametrize("name", ["plain", "generator", "fold", "per_key", "join", "fan_out"])
def test_T_CAN_a_replay(name):
    make = FLOWS[name]
    done = World()
    done.play(lambda world: whole(make, world))
    before = {path: done.disk.content(path) for path in done.disk.paths}

    async def operation(world):
        report = await oz.replaying(make(), SegmentReader.open(RUN, files=done.disk))
        assert not report.differences

    async def check(world):
        assert {path: done.disk.content(path) for path in done.disk.paths} == before, "a replay writes nothing"

    count = cancelled_everywhere(operation, check)
    tell(f"a replay of {name}: 1 operation cancelled at {count} awaits")
    assert count > 0


@pytest.mark.parametrize("name", FLOWS)
def test_T_CAN_a_pipeline_in_memory(name):
    async def operation(world):
        world.journal = oz.MemoryJournal(keep=True)
        world.pipeline = Pipeline(FLOWS[name](), Ground(world.journal, Seams(**world.seams), run_id="r"))
        await world.pipeline.run()

    async def check(world):
        if hasattr(world, "pipeline"):
            assert world.pipeline.state == "drained" or (world.pipeline.state, world.pipeline.error) == ("cancelled", None)

    count = cancelled_everywhere(operation, check, raises=False)  # it never raises: the state tells
    tell(f"a pipeline of {name}: 1 operation cancelled at {count} steps")
    assert count > 10


class Go(msgspec.Struct, frozen=True):
    pass


class Halt(msgspec.Struct, frozen=True):
    pass


class Broke(msgspec.Struct, frozen=True):
    error: oz.ErrorInfo


async def slow_action(context, event):
    await passes(0.01)
    context.append(type(event).__name__)


class Worker(oz.SelfSupervised[list]):
    machine = oz.Machine(
        "m",
        initial="idle",
        table=[
            oz.on(Go, "idle", "busy", do=[slow_action]),
            oz.on(Halt, ("idle", "busy"), "stopped", do=[slow_action]),
            oz.on(Broke, "*", "broken"),
        ],
    )

    async def dispatch_state(self, state, context):
        await passes(0.01)
        match state:
            case "idle":
                return oz.Transition(Go())
            case "busy":
                return oz.Transition(Halt()) if len(context) > 2 else context.append("round") or oz.Continue()
        return oz.Terminate(state)

    def event_for_action_error(self, error):
        return Broke(error)

    def event_for_stop(self, reason):
        return Halt()


@pytest.mark.parametrize("level", ["os", "interval(5)", "fsync", "own"])
@pytest.mark.parametrize("again", [0, 1], ids=["once", "twice"])
def test_T_CAN_an_actor_of_ones_own(level, again, monkeypatch):
    monkeypatch.setattr(supervised, "Watchdog", Still)

    async def operation(world):
        journal = oz.MemoryJournal(keep=True) if level == "own" else RUNS
        durability = {} if level == "own" else {"durability": level}
        await Worker("worker").run([], journal=journal, seams=Seams(**world.seams), **durability)

    async def check(world):
        for place in {path.parent for path in world.disk.paths if path.name == "EPOCH"}:
            assert not world.disk.locked(place / "LOCK")
            records = [record async for _, record in SegmentReader.open(place, files=world.disk).read()]
            assert isinstance(records[-1], RunCancelled | RunCompleted)

    count = cancelled_everywhere(operation, check, again=again)
    tell(f"an actor's run at {level}: 1 operation cancelled at {count} steps")
    assert count > 5


def test_T_CAN_there_are_more_than_sixty_operations():
    runs, handles, resumes, replays, pipelines, actors = 2 * len(FLOWS), len(CALLS), 5, 6, len(FLOWS), 4
    own = runs + handles + resumes + replays + pipelines + actors
    tell(f"{own} operations on runs, and {len(JOURNAL_CALLS)} on each of four journals")
    assert own + len(JOURNAL_CALLS) >= 60
