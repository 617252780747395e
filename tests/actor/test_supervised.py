"""The pattern in a user's hands: what is refused when the class is made, what a run leaves, how it is cancelled."""

import asyncio
import json
import signal
import time
from pathlib import Path

import anyio
import msgspec
import pytest

import obzen_runtime as oz
from obzen_runtime.actor import Urgency, supervised
from obzen_runtime.events import ActorAborted, ActorCompleted, ActorStalled, ActorState, RunCancelled, RunCompleted, RunFailed, RunStarted
from obzen_runtime.journal import MemoryJournal, SegmentReader, list_runs
from obzen_runtime.kernel import ConfigInvalid, FlowInvalid, JournalFailed, Seams, UsageError
from obzen_runtime.testing import SimulatedDisk
from tests.actor import postponed
from tests.actor.kit import FailingJournal, turns


class Go(msgspec.Struct, frozen=True):
    pass


class Halt(msgspec.Struct, frozen=True):
    pass


class Failed(msgspec.Struct, frozen=True):
    error: oz.ErrorInfo


class Other(msgspec.Struct, frozen=True):
    pass


TABLE = oz.Machine(
    "m", initial="idle", table=[oz.on(Go, "idle", "busy"), oz.on(Halt, ("idle", "busy"), "stopped"), oz.on(Failed, "*", "broken")]
)


class Worker(oz.SelfSupervised[list]):
    machine = TABLE

    async def dispatch_state(self, state, context):
        if state == "idle":
            return oz.Transition(Go())
        if state == "busy":
            step = context.pop(0) if isinstance(context, list) else context
            if isinstance(step, BaseException):
                raise step
            if step == "wait":
                await asyncio.get_running_loop().create_future()
            return step
        return oz.Terminate(state)

    def event_for_action_error(self, error):
        return Failed(error)

    def event_for_stop(self, reason):
        return Halt()


class Fragile(Worker):
    """Its failure path fails too."""

    machine = oz.Machine(
        "fragile", initial="idle", table=[oz.on(Go, "idle", "busy"), oz.on(Failed, "*", "broken", do=[lambda context, event: 1 / 0])]
    )


async def stored(base):
    """The only run below `base` and its records."""
    [summary] = list_runs(Path(base))
    return summary, [entry.record async for entry in SegmentReader.open(summary.run.path).read()]


def build(**members):
    return type("Made", (oz.SelfSupervised,), members)


async def dispatch(self, state, context): ...


def failure(self, error): ...


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"dispatch_state": dispatch, "event_for_action_error": failure}, "Made.machine is missing: give it an oz.Machine(...)"),
        ({"machine": "idle", "dispatch_state": dispatch, "event_for_action_error": failure}, "Made.machine is missing"),
        ({"machine": TABLE, "event_for_action_error": failure}, "Made.dispatch_state is missing: define it"),
        ({"machine": TABLE, "dispatch_state": dispatch}, "Made.event_for_action_error is missing: define it"),
        (
            {"machine": TABLE, "dispatch_state": failure, "event_for_action_error": failure},
            "Made.dispatch_state is not async: define it with async def",
        ),
        (
            {"machine": TABLE, "dispatch_state": dispatch, "event_for_action_error": dispatch},
            "event_for_action_error is async: it only names an event",
        ),
    ],
)
def test_O_01_a_class_that_lacks_a_part_is_refused_with_its_name(members, told):
    with pytest.raises(FlowInvalid) as caught:
        build(**members)
    [problem] = caught.value.problems
    assert told in problem
    assert caught.value.code == "invalid_machine"


def test_O_01_all_that_is_missing_is_told_at_once():
    with pytest.raises(FlowInvalid) as caught:
        build()
    assert len(caught.value.problems) == 3


def test_O_07_overriding_run_is_refused():
    with pytest.raises(FlowInvalid, match=r"Made\.run is overridden: only the loop drives a machine"):
        build(machine=TABLE, dispatch_state=dispatch, event_for_action_error=failure, run=dispatch)


def test_O_07_overriding_run_in_a_mixin_is_refused():
    class Mixin:
        async def run(self, context): ...

    with pytest.raises(FlowInvalid, match="run is overridden"):
        type("Made", (Mixin, Worker), {})


def failing_with(returned):
    def event_for_action_error(self, error): ...

    event_for_action_error.__annotations__["return"] = returned
    return {"machine": TABLE, "dispatch_state": dispatch, "event_for_action_error": event_for_action_error}


@pytest.mark.parametrize("returned", [Other, "Other", Failed | Other, None.__class__, int])
def test_O_06_the_annotated_failure_event_needs_a_row(returned):
    with pytest.raises(FlowInvalid) as caught:
        build(**failing_with(returned))
    name = returned.__name__ if isinstance(returned, type) else "Other"
    assert caught.value.problems == (
        f"machine 'm' has no row for {name}, which event_for_action_error returns: add on({name}, \"*\", ...)",
    )


@pytest.mark.parametrize(
    "returned",
    [
        Failed,
        "Failed",
        Failed | Halt,
        object,
        msgspec.Struct,
        "Any",
        oz.ErrorInfo.__mro__[-1],
        "NotYetDefined",
        "1 +",
        "int[",
        "os.nothing",
    ],
)
def test_O_06_what_has_a_row_or_cannot_be_judged_is_accepted(returned):
    assert build(**failing_with(returned))


def test_O_06_postponed_annotations_are_judged_too():
    assert postponed.make(with_row=True)
    with pytest.raises(FlowInvalid, match="no row for Lost"):
        postponed.make(with_row=False)
    assert postponed.local(), "a class that only exists in a function is found by its row"


async def test_O_02_the_base_itself_has_no_states():
    with pytest.raises(TypeError, match="has no dispatch_state"):
        await oz.SelfSupervised("x").dispatch_state("idle", None)
    with pytest.raises(TypeError, match="has no event_for_action_error"):
        oz.SelfSupervised("x").event_for_action_error(None)


def test_O_04_the_writer_id_is_the_name():
    assert Worker("worker-7").writer_id == "worker-7"


@pytest.mark.parametrize("wrong", [5, None, "", " ", "two\nlines", "\ud800"])
def test_O_04_a_name_that_no_line_could_bear_is_refused(wrong):
    with pytest.raises(UsageError, match="is not a name for an actor"):
        Worker(wrong)


async def test_O_07_a_run_gets_a_directory_with_manifest_and_journal(tmp_path):
    assert await Worker("worker-7").run([oz.Continue(), oz.Terminate("done")], journal=tmp_path) == "done"
    summary, records = await stored(tmp_path)
    assert summary.state == "drained"
    assert [type(record) for record in records] == [RunStarted, ActorState, ActorCompleted, RunCompleted]
    assert (records[0].run_id, records[0].flow, records[0].stages[0].name) == (summary.run.run_id, "worker-7", "worker-7")
    manifest = json.loads(summary.run.manifest_path.read_bytes())
    assert (manifest["run_id"], manifest["flow"], manifest["durability"]) == (summary.run.run_id, "worker-7", "os")
    assert manifest["options"] == {"machine": "m", "class": "Worker"}
    assert set(manifest["versions"]) == {"python", "obzen", "msgspec"}


@pytest.mark.parametrize("wrong", [None, 5, [], MemoryJournal])
async def test_what_is_neither_a_directory_nor_a_journal_is_refused(wrong):
    with pytest.raises(UsageError, match="journal="):
        await Worker("worker").run([], journal=wrong)


async def test_two_runs_of_one_name_get_two_directories(tmp_path):
    for _ in range(2):
        await Worker("worker").run([oz.Terminate("done")], journal=str(tmp_path))
    assert [summary.state for summary in list_runs(tmp_path)] == ["drained", "drained"]


async def test_the_durability_asked_for_is_the_journals(tmp_path):
    await Worker("worker").run([oz.Terminate("done")], journal=tmp_path, durability="fsync")
    assert (await stored(tmp_path))[0].manifest.durability == "fsync"


@pytest.mark.parametrize("wrong", ["soon", "memory"])
async def test_a_durability_that_a_disk_has_not_is_refused_before_anything_is_made(tmp_path, wrong):
    with pytest.raises(ConfigInvalid):
        await Worker("worker").run([], journal=tmp_path / "runs", durability=wrong)
    assert not (tmp_path / "runs").exists()


async def test_O_12_an_aborted_run_raises_its_failure_with_actor_and_state(tmp_path):
    with pytest.raises(oz.ObzenError, match="worker aborted in state 'broken': division by zero") as caught:
        await Fragile("worker").run([oz.Permanent("first")], journal=tmp_path)
    assert caught.value.__cause__.message == "in state 'busy': first"
    summary, records = await stored(tmp_path)
    assert summary.state == "failed"
    assert [type(record) for record in records[-2:]] == [ActorAborted, RunFailed]
    assert records[-1].cause == records[-2].error


async def test_O_12_the_kind_of_the_failure_stays(tmp_path):
    class Dead(Worker):
        machine = oz.Machine("dead", initial="idle", table=[oz.on(Go, "idle", "busy"), oz.on(Failed, "idle", "broken")])

    with pytest.raises(oz.ObzenError, match="dead-1 aborted in state 'busy'") as caught:
        await Dead("dead-1").run([oz.Transition(Other())], journal=MemoryJournal())
    assert caught.value.code == "unhandled_event"
    assert "on(Other" in caught.value.remedy


async def test_a_journal_of_ones_own_gets_the_actors_records_and_stays_open():
    journal = MemoryJournal(keep=True)
    for name in ("one", "two"):
        await Worker(name).run([oz.Terminate("done")], journal=journal)
    assert [(type(record), record.actor) for record in journal._records] == [
        (ActorState, "one"),
        (ActorCompleted, "one"),
        (ActorState, "two"),
        (ActorCompleted, "two"),
    ]
    journal.append([RunCompleted(1)])


async def test_O_05_a_journal_that_fails_in_the_middle_fails_run():
    with pytest.raises(JournalFailed, match="disk is full"):
        await Worker("worker").run([oz.Terminate("done")], journal=FailingJournal(after=1))


async def test_O_05_a_disk_that_fails_in_the_middle_fails_run_and_leaves_nothing_open(tmp_path):
    disk = SimulatedDisk()
    base = Path("/runs")
    worker = Worker("worker")

    async def breaking(state, context):
        disk.faults.plan("write", disk.faults.count("write") + 1)
        return oz.Transition(Go())

    worker.dispatch_state = breaking
    before = asyncio.all_tasks()
    with pytest.raises(JournalFailed):
        await worker.run([], journal=base, seams=Seams(files=disk))
    assert asyncio.all_tasks() == before
    [summary] = list_runs(base, disk)
    assert summary.state == "crashed"


async def test_O_07_an_actor_that_has_run_is_not_run_again(tmp_path):
    worker = Worker("worker")
    await worker.run([oz.Terminate("done")], journal=MemoryJournal())
    with pytest.raises(UsageError, match="an actor runs once"):
        await worker.run([], journal=tmp_path)
    assert list(tmp_path.iterdir()) == [], "no run is begun for it"


async def test_events_posted_from_outside_overtake_the_work():
    worker = Worker("worker")
    worker.mailbox.post(Halt())
    assert await worker.run([], journal=MemoryJournal()) == "stopped"


async def test_a_supervisors_event_reaches_an_actor_at_work():
    worker = Worker("worker")
    task = asyncio.create_task(worker.run(oz.Continue(), journal=MemoryJournal()))
    await turns()
    worker.mailbox.post(Halt(), Urgency.SUPERVISION)
    assert await task == "stopped"


async def test_O_15_a_cancelled_run_ends_in_good_order_then_the_cancellation_goes_on(tmp_path):
    task = asyncio.create_task(Worker("worker").run(["wait"], journal=tmp_path))
    await turns()
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await task
    summary, records = await stored(tmp_path)
    assert summary.state == "cancelled"
    assert [type(record) for record in records] == [RunStarted, ActorState, ActorState, ActorCompleted, RunCancelled]
    assert (records[-3].event, records[-1].reason) == ("Halt", "user_stop")


async def test_O_15_an_actor_that_names_no_stop_event_ends_where_it_stands(tmp_path):
    class Plain(Worker):
        event_for_stop = oz.SelfSupervised.event_for_stop

    task = asyncio.create_task(Plain("worker").run(["wait"], journal=tmp_path))
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    summary, records = await stored(tmp_path)
    assert (records[-2].state, records[-2].reason, summary.state) == ("busy", "cancelled", "cancelled")


async def test_O_15_a_hard_end_is_recorded_as_such(tmp_path):
    class Stubborn(Worker):
        machine = oz.Machine(
            "s", initial="idle", table=[oz.on(Go, "idle", "busy"), oz.on(Halt, "busy", "busy"), oz.on(Failed, "*", "broken")]
        )

    task = asyncio.create_task(Stubborn("worker").run(["wait", "wait"], journal=tmp_path))
    await turns()
    for _ in range(2):
        task.cancel()
        await turns()
    with pytest.raises(asyncio.CancelledError):
        await task
    _, records = await stored(tmp_path)
    assert [type(record) for record in records[-2:]] == [ActorAborted, RunCancelled]
    assert records[-1].reason == "user_cancel"


async def test_a_killed_run_raises_who_ended_it(tmp_path):
    worker = Worker("worker")
    task = asyncio.create_task(worker.run(["wait"], journal=tmp_path))
    await turns()
    worker.mailbox.kill("no longer needed")
    with pytest.raises(oz.ObzenError, match="worker killed in state 'busy': no longer needed") as caught:
        await task
    assert caught.value.kind == "CANCELLED"
    assert (await stored(tmp_path))[1][-1].reason == "no longer needed"


async def test_O_15_a_failure_while_stopping_is_raised_rather_than_the_cancellation(tmp_path):
    class Dead(Worker):
        machine = oz.Machine("dead", initial="idle", table=[oz.on(Go, "idle", "busy"), oz.on(Failed, ("idle", "busy"), "broken")])

    task = asyncio.create_task(Dead("dead").run(["wait"], journal=tmp_path))
    await turns()
    task.cancel()
    with pytest.raises(oz.ObzenError, match="no row for Halt"):
        await task
    assert (await stored(tmp_path))[0].state == "failed"


async def test_O_15_asyncio_timeout_around_run_raises_its_timeout(tmp_path):
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await Worker("worker").run(["wait"], journal=tmp_path)
    assert (await stored(tmp_path))[0].state == "cancelled"


async def test_O_15_wait_for_around_run_raises_its_timeout(tmp_path):
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(Worker("worker").run(["wait"], journal=tmp_path), 0.02)
    assert (await stored(tmp_path))[0].state == "cancelled"


async def test_O_15_a_scope_of_anyio_around_run_catches_its_own(tmp_path):
    with anyio.move_on_after(0.02) as scope:
        await Worker("worker").run(["wait"], journal=tmp_path, durability="fsync")
    assert scope.cancelled_caught
    summary, records = await stored(tmp_path)
    assert (summary.state, type(records[-1])) == ("cancelled", RunCancelled)


@pytest.mark.parametrize("count", range(0, 30, 2))
async def test_O_15_cancelled_at_any_turn_the_run_ends_with_its_records_and_lets_go_of_its_lock(tmp_path, count):
    task = asyncio.create_task(Worker("worker").run([oz.Continue(), "wait"], journal=tmp_path, durability="fsync"))
    await turns(count)
    task.cancel()
    await turns(3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    if count == 0:
        return  # a task that never began made nothing
    summary, records = await stored(tmp_path)
    assert summary.state == "cancelled"
    assert isinstance(records[-1], RunCancelled)


def test_O_15_an_interrupt_by_hand_stops_in_good_order_and_stays_an_interrupt(tmp_path):
    class Interrupted(Worker):
        async def dispatch_state(self, state, context):
            if state == "busy":
                signal.raise_signal(signal.SIGINT)
                await asyncio.get_running_loop().create_future()
            return await super().dispatch_state(state, context)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs us in the background has it ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(Interrupted("worker").run([], journal=tmp_path))
    finally:
        signal.signal(signal.SIGINT, before)
    assert asyncio.run(stored(tmp_path))[0].state == "cancelled"


async def test_a_handler_that_holds_the_loop_is_recorded_with_the_actors_name(tmp_path, monkeypatch):
    quick = supervised.Watchdog
    monkeypatch.setattr(supervised, "Watchdog", lambda on_held: quick(on_held=on_held, held_after=0.05, period=0.01))

    class Holding(Worker):
        async def dispatch_state(self, state, context):
            if state == "busy" and context:
                until = time.monotonic() + context.pop()
                while time.monotonic() < until:
                    """Hold the loop."""
                return oz.Continue()
            if state == "busy":
                await turns()
                return oz.Terminate("done")
            return await super().dispatch_state(state, context)

    await Holding("holder").run([0.2], journal=tmp_path)
    [stalled] = [record for record in (await stored(tmp_path))[1] if type(record) is ActorStalled]
    assert (stalled.actor, stalled.why) == ("holder", "loop_held")
    assert "dispatch_state" in stalled.detail
