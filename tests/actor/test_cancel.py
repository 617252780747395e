"""Cancelling a task is an order to its actor: the machine decides, within bounds, and the cancellation goes on."""

import asyncio

import anyio
import pytest

from obzen_runtime.actor import Continue, Stop, Terminate, Transition, Urgency
from obzen_runtime.events import ActorAborted, ActorCompleted
from obzen_runtime.fsm import on
from tests.actor.kit import Broke, Go, Halt, Run, Scripted, TickingClock, Work, fail, forever, machine, passing, say, turns, virtually


async def cancelled(run, count=1):
    """Start, let it get to its work, cancel; returns how it ended."""
    task = run.task()
    await turns()
    for _ in range(count):
        task.cancel()
        await turns()
    return await task


async def test_O_15_cancelling_becomes_the_actors_own_stop_event():
    run = Run(Scripted({"busy": forever}))
    ended = await cancelled(run)
    assert (ended.how, ended.state) == ("completed", "stopped")
    assert isinstance(ended.cancelled, asyncio.CancelledError)
    assert run.moves[-1] == ("busy", "Halt", "stopped")
    assert run.context == ["go", "waiting", "interrupted", "halt"]
    assert run.ends == [ActorCompleted]


async def test_O_15_an_actor_without_a_stop_event_ends_where_it_stands():
    run = Run(Scripted({"busy": forever}, stop=lambda reason: None))
    ended = await cancelled(run)
    assert (ended.how, ended.state, ended.reason) == ("completed", "busy", "cancelled")
    assert run.of(ActorCompleted)[0].reason == "cancelled"


async def test_O_15_an_action_under_way_is_not_interrupted_and_its_siblings_run():
    gate = asyncio.Event()

    async def slow(context, event):
        await gate.wait()
        context.append("finished")

    table = machine(on(Go, "idle", "busy", do=[slow, say("sibling")]), on(Halt, "busy", "end"), on(Broke, "*", "broken"))
    run = Run(Scripted({"busy": forever}, table))
    task = run.task()
    await turns()
    task.cancel()
    await turns()
    assert run.context == []
    gate.set()
    assert (await task).state == "end"
    assert run.context == ["finished", "sibling"]
    assert run.told == ["busy", "end"]


async def test_O_15_the_machine_may_finish_its_work_first():
    table = machine(on(Go, "idle", "busy"), on(Halt, "busy", "finishing"), on(Work, "finishing", "end"), on(Broke, "*", "broken"))
    run = Run(Scripted({"busy": forever, "finishing": [Continue(), Continue(), Transition(Work())]}, table))
    assert (await cancelled(run)).state == "end"


async def test_O_15_work_after_the_order_is_not_cancelled_and_may_use_timeouts_and_groups():
    async def finishing(context):
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            group.create_task(turns(3))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await asyncio.get_running_loop().create_future()
        context.append("finished")
        return Transition(Work())

    table = machine(on(Go, "idle", "busy"), on(Halt, "busy", "finishing"), on(Work, "finishing", "end"), on(Broke, "*", "broken"))
    run = Run(Scripted({"busy": forever, "finishing": finishing}, table))
    assert (await cancelled(run)).state == "end"
    assert run.context[-1] == "finished"


async def test_O_15_a_dispatch_that_swallows_the_interruption_goes_on_uncancelled():
    async def stubborn(context):
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            context.append("swallowed")
        return Continue()

    async def finishing(context):
        context.append(asyncio.current_task().cancelling())
        return Transition(Work())

    table = machine(on(Go, "idle", "busy"), on(Halt, "busy", "finishing"), on(Work, "finishing", "end"), on(Broke, "*", "broken"))
    run = Run(Scripted({"busy": stubborn, "finishing": finishing}, table))
    assert (await cancelled(run)).state == "end"
    assert run.context == ["swallowed", 0]


def test_O_15_the_deadline_ends_it_hard_and_both_orders_are_recorded():
    table = machine(on(Go, "idle", "busy"), on(Halt, "busy", "finishing"), on(Work, "finishing", "end"), on(Broke, "*", "broken"))
    run = Run(Scripted({"busy": forever, "finishing": forever}, table), stop_within=7.0)

    async def main():
        return await cancelled(run)

    ended, seconds = virtually(main())
    assert (ended.how, ended.reason, ended.state, seconds) == ("killed", "stop_timeout", "finishing", 7.0)
    assert ended.cancelled is not None
    assert run.moves[-1] == ("busy", "Halt", "finishing")
    assert run.ends == [ActorAborted]
    assert run.of(ActorAborted)[0].error.message == "stop_timeout"


def test_O_15_the_deadline_reaches_an_action_too():
    async def endless(context, event):
        await asyncio.get_running_loop().create_future()

    table = machine(on(Go, "idle", "busy", do=[endless, say("never")]), on(Broke, "*", "broken"))
    run = Run(Scripted({}, table), stop_within=2.0)

    async def main():
        return await cancelled(run)

    ended, seconds = virtually(main())
    assert (ended.how, ended.reason, seconds, run.context) == ("killed", "stop_timeout", 2.0, [])


def test_O_15_a_cancellation_while_it_stops_gives_it_no_fresh_budget():
    table = machine(on(Go, "idle", "busy"), on(Halt, "busy", "finishing"), on(Work, "finishing", "end"), on(Broke, "*", "broken"))
    run = Run(Scripted({"finishing": forever}, table, control={"busy": "block"}), stop_within=30.0)

    async def main():
        task = run.task()
        await turns()
        run.actor.mailbox.post(Stop("enough", 5.0), Urgency.STOP)
        asyncio.get_running_loop().call_later(3.0, task.cancel)
        return await task

    ended, seconds = virtually(main())
    assert (ended.how, ended.reason, seconds) == ("killed", "stop_timeout", 5.0)


async def test_O_15_a_second_cancellation_ends_it_hard():
    table = machine(on(Go, "idle", "busy"), on(Halt, "busy", "finishing"), on(Work, "finishing", "end"), on(Broke, "*", "broken"))
    run = Run(Scripted({"busy": forever, "finishing": forever}, table))
    ended = await cancelled(run, 2)
    assert (ended.how, ended.reason) == ("killed", "user_cancel")
    assert run.ends == [ActorAborted]


async def test_O_15_a_third_cancellation_reaches_work_that_swallowed_the_second():
    async def stubborn(context):
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            context.append("swallowed")
        await asyncio.get_running_loop().create_future()

    table = machine(on(Go, "idle", "busy"), on(Halt, "busy", "finishing"), on(Work, "finishing", "end"), on(Broke, "*", "broken"))
    run = Run(Scripted({"busy": forever, "finishing": stubborn}, table))
    assert (await cancelled(run, 3)).how == "killed"
    assert run.context[-1] == "swallowed"


async def test_O_15_the_count_of_cancellations_stays_with_the_caller():
    run = Run(Scripted({"busy": forever}))
    counts = []

    async def caller():
        ended = await run
        counts.append(asyncio.current_task().cancelling())
        raise ended.cancelled

    task = asyncio.create_task(caller())
    await turns()
    task.cancel("because")
    with pytest.raises(asyncio.CancelledError, match="because"):
        await task
    assert counts == [1]


async def test_O_15_the_loops_own_task_may_be_cancelled_from_outside():
    run = Run(Scripted({"busy": forever}))
    task = run.task()
    await turns()
    [own] = [each for each in asyncio.all_tasks() if each.get_name() == "obzen actor-1"]
    own.cancel()
    ended = await task
    assert (ended.how, ended.state, ended.cancelled) == ("completed", "stopped", None)


async def test_O_15_the_loops_own_task_cancelled_before_its_first_step_is_told_too():
    run = Run(Scripted({"busy": forever}))
    task = run.task()
    await turns(1)
    [own] = [each for each in asyncio.all_tasks() if each.get_name() == "obzen actor-1"]
    own.cancel()
    ended = await task
    assert (ended.how, ended.state) == ("killed", "idle")
    assert run.ends == [ActorAborted]
    assert run.actor.mailbox.closed


async def test_O_15_a_cancellation_in_the_middle_of_an_action_of_the_own_task_stops_it_in_good_order():
    async def endless(context, event):
        await asyncio.get_running_loop().create_future()

    table = machine(on(Go, "idle", "busy", do=[endless, say("never")]), on(Halt, "busy", "end", do=[say("halt")]), on(Broke, "*", "broken"))
    run = Run(Scripted({}, table))
    task = run.task()
    await turns()
    [own] = [each for each in asyncio.all_tasks() if each.get_name() == "obzen actor-1"]
    own.cancel()
    assert (await task).state == "end"
    assert run.context == ["halt"]


def test_O_15_the_end_of_the_event_loop_stops_an_actor_in_good_order():
    run = Run(Scripted({"busy": forever}))
    background = []

    async def main():
        background.append(run.task())
        await turns()

    asyncio.run(main())
    assert background[0].result().state == "stopped"
    assert run.ends == [ActorCompleted]


async def test_O_15_cancelled_while_it_ends_of_itself_it_has_ended_of_itself():
    run = Run(Scripted({"busy": lambda context: (task.cancel(), Terminate("done"))[1]}))
    task = run.task()
    ended = await task
    assert (ended.how, ended.reason) == ("completed", "done")


async def test_O_15_an_order_posted_as_a_stop_is_taken_once():
    table = machine(on(Go, "idle", "busy"), on(Halt, "busy", "finishing"), on(Work, "finishing", "end"), on(Broke, "*", "broken"))
    run = Run(Scripted({"finishing": Transition(Work())}, table, control={"busy": "block"}))
    task = run.task()
    await turns()
    for _ in range(3):
        run.actor.mailbox.post(Stop("enough", 5.0), Urgency.STOP)
    ended = await task
    assert (ended.state, ended.cancelled) == ("end", None)
    assert [move[1] for move in run.moves] == ["Go", "Halt", "Work"]


def test_O_15_an_order_posted_as_a_stop_bounds_the_time_too():
    table = machine(on(Go, "idle", "busy"), on(Halt, "busy", "finishing"), on(Work, "finishing", "end"), on(Broke, "*", "broken"))
    run = Run(Scripted({"finishing": forever}, table, control={"busy": "block"}))

    async def main():
        task = run.task()
        await turns()
        run.actor.mailbox.post(Stop("enough", 5.0), Urgency.STOP)
        return await task

    ended, seconds = virtually(main())
    assert (ended.how, ended.reason, seconds) == ("killed", "stop_timeout", 5.0)


async def test_O_15_a_failure_while_stopping_is_told_as_a_failure():
    table = machine(on(Go, "idle", "busy"), on(Halt, "busy", "end", do=[fail()]), on(Work, "busy", "end"))
    run = Run(Scripted({"busy": forever}, table))
    ended = await cancelled(run)
    assert (ended.how, ended.error.code) == ("aborted", "unhandled_event")
    assert ended.cancelled is not None


async def test_O_15_a_timeout_around_it_ends_it_in_good_order_and_is_raised():
    run = Run(Scripted({"busy": forever}))

    async def caller():
        ended = await run
        if ended.cancelled is not None:
            raise ended.cancelled

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await turns()
            await caller()
    assert asyncio.current_task().cancelling() == 0


async def test_O_15_a_failing_sibling_in_a_task_group_stops_it_in_good_order():
    run = Run(Scripted({"busy": forever}))

    async def sibling():
        await turns()
        raise ValueError("sibling")

    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            group.create_task(sibling())
            child = group.create_task(run_and_raise(run))
    assert [str(error) for error in caught.value.exceptions] == ["sibling"]
    assert child.cancelled()
    assert run.moves[-1] == ("busy", "Halt", "stopped")


async def run_and_raise(run):
    ended = await run
    if ended.cancelled is not None:
        raise ended.cancelled
    return ended


@pytest.mark.parametrize("host", ["scope", "group"])
async def test_O_15_a_scope_of_anyio_cancels_once_and_its_repetitions_are_kept_off(host):
    table = machine(on(Go, "idle", "busy"), on(Halt, "busy", "finishing"), on(Work, "finishing", "end"), on(Broke, "*", "broken"))

    async def finishing(context):
        await turns()
        context.append("finished")
        return Transition(Work())

    run = Run(Scripted({"busy": forever, "finishing": finishing}, table), clock=TickingClock(0.0001))
    if host == "scope":
        with anyio.CancelScope() as scope:
            asyncio.get_running_loop().call_later(0, scope.cancel)
            await run_and_raise(run)
        assert scope.cancelled_caught
    else:
        async with anyio.create_task_group() as group:
            group.start_soon(run_and_raise, run)
            await turns()
            group.cancel_scope.cancel()
    assert run.context[-1] == "finished"
    assert run.moves[-1] == ("finishing", "Work", "end")
    assert run.ends == [ActorCompleted]
    assert asyncio.current_task().cancelling() == 0


async def test_O_15_anyio_scopes_inside_a_dispatch_keep_working():
    async def work(context):
        with anyio.move_on_after(0):
            await asyncio.get_running_loop().create_future()
        with anyio.CancelScope(shield=True):
            await turns(2)
        return Terminate("done")

    assert (await Run(Scripted({"busy": work}))).reason == "done"


async def test_kill_reaches_a_dispatch_that_waits():
    run = Run(Scripted({"busy": forever}))
    task = run.task()
    await turns()
    run.actor.mailbox.kill("the flow failed")
    run.actor.mailbox.kill("again")
    ended = await task
    assert (ended.how, ended.reason, ended.state, ended.error.kind) == ("killed", "the flow failed", "busy", "CANCELLED")
    assert run.ends == [ActorAborted]
    assert run.context[-1] == "interrupted"


async def test_kill_reaches_a_state_that_waits_for_a_command():
    run = Run(Scripted({}, control={"idle": "block"}))
    task = run.task()
    await turns()
    run.actor.mailbox.kill("end")
    assert (await task).how == "killed"
    assert run.actor.seen == []


@pytest.mark.parametrize("mode", ["block", "poll", "ignore"])
async def test_kill_before_the_start_beats_every_order_that_waits(mode):
    run = Run(Scripted({}, control={"idle": mode}))
    run.actor.mailbox.post(Go())
    run.actor.mailbox.kill("not at all")
    assert (await run).how == "killed"
    assert (run.actor.seen, run.moves, run.context) == ([], [], [])


@pytest.mark.parametrize("swallowed", [False, True])
async def test_kill_in_an_action_runs_nothing_after_it(swallowed):
    async def waits(context, event):
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            if not swallowed:
                raise

    table = machine(on(Go, "idle", "busy", do=[waits, say("never")]), on(Broke, "*", "broken", do=[say("never")]))
    run = Run(Scripted({}, table))
    task = run.task()
    await turns()
    run.actor.mailbox.kill("end")
    assert (await task).how == "killed"
    assert run.context == []


async def test_kill_swallowed_by_a_dispatch_moves_nothing():
    async def stubborn(context):
        actor.mailbox.kill("enough")
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            return Transition(Work())

    actor = Scripted({"busy": stubborn})
    run = Run(actor)
    ended = await run
    assert (ended.how, ended.state, ended.reason) == ("killed", "busy", "enough")
    assert (run.context, [move[1] for move in run.moves]) == (["go"], ["Go"])


def test_the_hard_end_does_not_come_for_an_actor_that_has_ended():
    run = Run(Scripted({"busy": forever}), stop_within=7.0)

    async def main():
        ended = await cancelled(run)
        await passing(60.0)
        return ended.how, run.actor.mailbox.killed

    assert virtually(main())[0] == ("completed", None)


async def test_kill_in_the_failure_path_is_a_kill():
    async def waits(context, event):
        await asyncio.get_running_loop().create_future()

    run = Run(Scripted({"busy": ValueError("x")}, machine(on(Go, "idle", "busy"), on(Broke, "*", "broken", do=[waits]))))
    task = run.task()
    await turns()
    run.actor.mailbox.kill("end")
    assert (await task).how == "killed"


async def test_kill_swallowed_in_the_failure_path_is_a_kill_too():
    async def waits(context, event):
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            context.append("swallowed")

    run = Run(Scripted({"busy": ValueError("x")}, machine(on(Go, "idle", "busy"), on(Broke, "*", "broken", do=[waits]))))
    task = run.task()
    await turns()
    run.actor.mailbox.kill("end")
    assert ((await task).how, run.context) == ("killed", ["swallowed"])


async def test_an_actor_that_kills_itself_ends_with_its_record():
    async def work(context):
        run.actor.mailbox.kill("by itself")
        return Transition(Halt())

    run = Run(Scripted({"busy": work}))
    ended = await run
    assert (ended.how, ended.reason) == ("killed", "by itself")
    assert run.ends == [ActorAborted]


@pytest.mark.parametrize("count", range(40))
async def test_cancelled_at_any_turn_it_ends_once_with_every_action_of_a_move_run(count):
    async def slow(context, event):
        await turns(2)
        context.append(type(event).__name__)

    both = [slow, slow]
    table = machine(
        on(Go, "idle", "busy", do=both),
        on(Work, "busy", "busy", do=both),
        on(Halt, ("idle", "busy"), "stopped", do=both),
        on(Broke, "*", "broken", do=both),
    )

    async def work(context):
        await turns(2)
        return [Transition(Work()), Continue(), Terminate("done")][run.actor.seen.count("busy") % 3]

    run = Run(Scripted({"busy": work}, table))
    before = asyncio.all_tasks()
    task = run.task()
    await turns(count)
    task.cancel()
    try:
        ended = await task
    except asyncio.CancelledError:
        assert count == 0, "only a task that never began is cancelled at once"
        return
    assert len(run.ends) == 1
    assert run.context == [word for _, event, _ in run.moves for word in (event, event)]
    assert ended.how == "completed"
    assert run.actor.mailbox.closed
    assert asyncio.all_tasks() - before == set()
