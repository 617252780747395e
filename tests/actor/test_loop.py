"""What the loop does with a directive: order of actions, failures, ends, turns of the event loop."""

import asyncio

import pytest

from obzen_runtime.actor import Continue, Ended, Terminate, Transition
from obzen_runtime.events import ActorAborted, ActorCompleted, ActorState
from obzen_runtime.fsm import on
from obzen_runtime.journal import MemoryJournal
from obzen_runtime.kernel import JournalFailed, Permanent, UsageError
from tests.actor.kit import (
    Broke,
    FailingJournal,
    Go,
    Halt,
    Run,
    Scripted,
    Stranger,
    TickingClock,
    Work,
    fail,
    forever,
    machine,
    say,
    turns,
    virtually,
)


async def test_O_03_the_three_directives_stay_move_and_leave():
    run = Run(Scripted({"busy": [Continue(), Continue(), Terminate("done")]}))
    assert await run == Ended("actor-1", "completed", "busy", "done")
    assert run.actor.seen == ["idle", "busy", "busy", "busy"]
    assert run.moves == [("idle", "Go", "busy")]


@pytest.mark.parametrize("wrong", [None, "busy", Go(), Transition, 7, Terminate(None), Terminate(7)])
async def test_O_03_anything_else_is_refused_by_name(wrong):
    run = Run(Scripted({"busy": lambda context: wrong}))
    ended = await run
    assert ended.how == "aborted"
    assert ended.error.kind == "PROTOCOL"
    assert f"dispatch_state('busy') returned {wrong!r}" in ended.error.message
    assert "Continue()" in ended.error.remedy


async def test_O_09_exit_entry_and_own_actions_run_in_this_order():
    hooks = {"on_exit": {"idle": [say("exit")]}, "on_enter": {"busy": [say("enter 1"), say("enter 2")]}}
    table = machine(on(Go, "idle", "busy", do=[say("own 1"), say("own 2")]), on(Broke, "*", "broken"), hooks=hooks)
    run = Run(Scripted({"busy": Terminate("done")}, table))
    await run
    assert run.context == ["exit", "enter 1", "enter 2", "own 1", "own 2"]


async def test_O_09_the_machine_has_moved_and_the_journal_says_so_before_an_action_runs():
    seen = []

    def look(context, event):
        seen.append(list(run.moves))

    table = machine(on(Go, "idle", "busy", do=[look]), on(Broke, "*", "broken"))
    run = Run(Scripted({"busy": Terminate("done")}, table))
    await run
    assert seen == [[("idle", "Go", "busy")]]


async def test_O_09_plain_and_async_actions_are_both_run_to_their_end():
    async def slow(context, event):
        await asyncio.sleep(0)
        context.append("slow")

    table = machine(on(Go, "idle", "busy", do=[slow, lambda context, event: context.append("plain")]), on(Broke, "*", "broken"))
    run = Run(Scripted({"busy": Terminate("done")}, table))
    await run
    assert run.context == ["slow", "plain"]


async def test_O_10_a_failing_action_drops_its_siblings_and_its_event_is_taken_in_the_new_state():
    table = machine(
        on(Go, "idle", "busy", do=[say("first"), fail(), say("never")]),
        on(Broke, "idle", "broken", do=[say("wrong")]),
        on(Broke, "busy", "mended", do=[say("right")]),
        on(Halt, "mended", "broken"),
    )
    run = Run(Scripted({"mended": [Continue(), Terminate("went on")]}, table))
    assert (await run).reason == "went on"
    assert run.context == ["first", "failing", "right"]
    assert run.moves == [("idle", "Go", "busy"), ("busy", "Broke", "mended")]
    assert run.told == ["mended"]


async def test_O_10_the_failure_names_the_action_and_what_it_raised():
    caught = []
    table = machine(on(Go, "idle", "busy", do=[fail()]), on(Broke, "*", "broken", do=[lambda context, event: caught.append(event.error)]))
    await Run(Scripted({}, table))
    assert caught[0].message == "peer vanished"
    assert caught[0].type == "ConnectionResetError"
    assert caught[0].details == {"state": "busy", "where": "action broken", "actor": "actor-1"}


async def test_O_11_a_failing_dispatch_becomes_the_failure_event_and_its_text_names_the_state():
    caught = []
    table = machine(on(Go, "idle", "busy"), on(Broke, "*", "broken", do=[lambda context, event: caught.append(event.error)]))
    run = Run(Scripted({"busy": ValueError("no such row")}, table))
    assert (await run).state == "broken"
    assert caught[0].message == "in state 'busy': no such row"
    assert caught[0].details["where"] == "dispatch_state"


async def test_O_11_a_failure_of_ours_keeps_its_code_and_remedy():
    caught = []
    table = machine(on(Go, "idle", "busy"), on(Broke, "*", "broken", do=[lambda context, event: caught.append(event.error)]))
    await Run(Scripted({"busy": Permanent("no", remedy="Do not ask.")}, table))
    assert (caught[0].kind, caught[0].remedy) == ("PERMANENT", "Do not ask.")


@pytest.mark.parametrize("where", ["dispatch", "action"])
async def test_O_11_a_cancelled_task_somebody_waits_for_is_a_failure_and_no_order_to_stop(where):
    async def wait_for_another(*_):
        other = asyncio.create_task(turns())
        other.cancel()
        await other

    if where == "dispatch":
        run = Run(Scripted({"busy": wait_for_another}))
    else:
        run = Run(Scripted({}, machine(on(Go, "idle", "busy", do=[wait_for_another]), on(Broke, "*", "broken", do=[say("failed")]))))
    ended = await run
    assert (ended.how, ended.state, ended.cancelled) == ("completed", "broken", None)
    assert run.context[-1] == "failed"


async def test_O_12_a_failure_in_the_failure_path_aborts_and_names_both():
    run = Run(Scripted({"busy": ValueError("first")}, machine(on(Go, "idle", "busy"), on(Broke, "*", "broken", do=[fail()]))))
    ended = await run
    assert (ended.how, ended.state) == ("aborted", "broken")
    assert (ended.error.message, ended.error.cause.message) == ("peer vanished", "in state 'busy': first")
    assert run.ends == [ActorAborted]
    assert run.of(ActorAborted)[0].error == ended.error


async def test_O_12_an_event_without_a_row_aborts_and_says_which_row_to_add():
    run = Run(Scripted({"busy": Transition(Stranger())}))
    ended = await run
    assert (ended.how, ended.error.code) == ("aborted", "unhandled_event")
    assert "no row for Stranger in state 'busy'" in ended.error.message
    assert "on(Stranger, 'busy', ...)" in ended.error.remedy
    assert run.ends == [ActorAborted]


async def test_O_12_the_class_of_an_event_in_its_place_is_told_to_be_that():
    ended = await Run(Scripted({"busy": Transition(Work)}))
    assert (ended.how, ended.error.code) == ("aborted", "unhandled_event")
    assert "no row for the class Work itself in state 'busy'" in ended.error.message
    assert ended.error.remedy == "Give an event of that class, such as Work()."


async def test_O_12_a_failure_event_the_machine_refuses_aborts_with_the_failure_as_cause():
    run = Run(Scripted({"busy": ValueError("first")}, machine(on(Go, "idle", "busy"), on(Work, "busy", "end"))))
    ended = await run
    assert (ended.error.code, ended.error.cause.message) == ("unhandled_event", "in state 'busy': first")


async def test_O_12_a_guard_that_raises_aborts():
    def guard(context, event):
        raise KeyError("limit")

    run = Run(Scripted({}, machine(on(Go, "idle", "busy", when=guard), on(Broke, "*", "broken"))))
    ended = await run
    assert (ended.how, ended.state, ended.error.details["where"]) == ("aborted", "idle", "a guard for Go")


async def test_O_12_a_guard_that_cancels_aborts():
    def guard(context, event):
        raise asyncio.CancelledError

    ended = await Run(Scripted({}, machine(on(Go, "idle", "busy", when=guard), on(Broke, "*", "broken"))))
    assert (ended.how, ended.error.code) == ("aborted", "cancelled")


async def test_O_06_event_for_action_error_that_raises_aborts_with_the_failure_as_cause():
    actor = Scripted({"busy": ValueError("first")})

    def broken(error):
        raise LookupError("no event for it")

    actor.event_for_action_error = broken
    ended = await Run(actor)
    assert (ended.how, ended.error.message, ended.error.cause.message) == ("aborted", "no event for it", "in state 'busy': first")


@pytest.mark.parametrize("method", ["control", "completion", "event_for_stop"])
async def test_O_12_an_actor_whose_own_answers_raise_is_aborted_and_never_silent(method):
    actor = Scripted({"busy": Terminate("done") if method == "completion" else forever})

    def broken(*_):
        raise LookupError("broken answer")

    setattr(actor, method, broken)
    run = Run(actor)
    task = run.task()
    await turns()
    task.cancel()
    ended = await task
    assert (ended.how, ended.error.message) == ("aborted", "broken answer")
    assert run.ends == [ActorAborted]


async def test_O_12_a_watcher_that_raises_aborts():
    run = Run(Scripted({"busy": Terminate("done")}))

    def broken(state):
        raise LookupError("watcher")

    run.ground.on_state = broken
    assert (await run).how == "aborted"
    assert run.ends == [ActorAborted]


@pytest.mark.parametrize("where", ["dispatch", "action"])
def test_O_13_sixteen_failures_running_abort_with_growing_pauses(where):
    if where == "dispatch":
        actor = Scripted({"busy": lambda context: 1 / 0}, machine(on(Go, "idle", "busy"), on(Broke, "*", "busy"), on(Halt, "busy", "end")))
    else:
        table = machine(on(Go, "idle", "busy"), on(Work, "busy", "busy", do=[fail()]), on(Broke, "*", "busy"), on(Halt, "busy", "end"))
        actor = Scripted({"busy": Transition(Work())}, table)
    run = Run(actor)

    async def main():
        return await run

    ended, seconds = virtually(main())
    assert (ended.how, ended.error.code) == ("aborted", "supervisor_aborted")
    assert "16 failures running, the last in state 'busy'" in ended.error.message
    assert ended.error.cause is not None
    assert run.actor.seen.count("busy") == 16
    assert seconds == pytest.approx(0.004 + 0.008 + 0.016 + 0.032 + 0.064 + 9 * 0.1)


async def test_O_13_progress_in_between_forgives_what_failed_before():
    states = [error for _ in range(40) for error in (ValueError("now and then"), Continue())]
    table = machine(on(Go, "idle", "busy"), on(Broke, "*", "busy"), on(Halt, "busy", "end"))
    assert (await Run(Scripted({"busy": [*states, Terminate("done")]}, table))).reason == "done"


async def test_O_13_commands_that_fail_do_not_count_because_somebody_sent_each():
    table = machine(on(Go, "idle", "busy"), on(Work, "busy", "busy", do=[fail()]), on(Broke, "*", "busy"), on(Halt, "busy", "end"))
    actor = Scripted({}, table, control={"busy": "block"})
    task = Run(actor).task()
    await turns()
    for _ in range(50):
        actor.mailbox.post(Work())
    actor.mailbox.post(Halt())
    assert (await task).state == "end"


def test_O_13_a_command_cuts_the_pause_short():
    table = machine(on(Go, "idle", "busy"), on(Broke, "*", "busy"), on(Halt, "busy", "end"))
    tenth = asyncio.Event()

    def work(context):
        if actor.rounds == 10:
            tenth.set()
        raise ValueError("again")

    actor = Scripted({"busy": work}, table)

    async def main():
        task = Run(actor).task()
        await tenth.wait()
        began = asyncio.get_running_loop().time()
        actor.mailbox.post(Halt())
        ended = await task
        return ended.state, asyncio.get_running_loop().time() - began

    (state, waited), _ = virtually(main())
    assert (state, waited) == ("end", 0.0)


async def test_O_13_the_pause_does_not_swallow_a_wake_up_meant_for_the_work():
    table = machine(on(Go, "idle", "busy"), on(Broke, "*", "busy"), on(Halt, "busy", "end"))
    actor = Scripted({}, table)

    async def work(context):
        if actor.rounds < 5:
            actor.mailbox.tell("message")
            raise ValueError("not yet")
        await actor.mailbox.wake.wait()
        return Terminate(actor.mailbox.take())

    actor.states["busy"] = work
    assert (await Run(actor)).reason == "message"


async def test_O_05_the_completion_is_written_once_and_last():
    run = Run(Scripted({"busy": Terminate("done")}))
    await run
    assert run.ends == [ActorCompleted]
    assert run.records[-1] == ActorCompleted("actor-1", "busy", "done", 1_700_000_000_000)


@pytest.mark.parametrize("kind", [ActorCompleted, ActorState, ActorAborted])
async def test_O_05_a_record_that_cannot_be_written_fails_the_run(kind):
    states = {"busy": Transition(Stranger()) if kind is ActorAborted else Terminate("done")}
    journal = FailingJournal(kind=kind, after=None if kind is ActorAborted else {ActorCompleted: 1, ActorState: 0}[kind])
    run = Run(Scripted(states), journal=journal)
    with pytest.raises(JournalFailed, match="disk is full"):
        await run
    assert run.actor.mailbox.closed


async def test_O_05_a_completion_that_only_this_journal_refuses_is_an_abort():
    run = Run(Scripted({"busy": Terminate("done")}), journal=FailingJournal(kind=ActorCompleted))
    ended = await run
    assert (ended.how, ended.error.code) == ("aborted", "journal_failed")
    assert run.ends == [ActorAborted]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_O_12_the_end_of_the_process_is_recorded_too(error):
    run = Run(Scripted({"busy": error}))

    async def main():
        await run

    with pytest.raises(type(error)):
        asyncio.run(main())
    assert run.ends == [ActorAborted]
    assert run.actor.mailbox.closed


async def test_O_07_an_actor_runs_once():
    run = Run(Scripted({"busy": Terminate("done")}))
    await run
    with pytest.raises(UsageError, match="an actor runs once"):
        await run


async def test_O_08_a_hundred_thousand_continues_do_not_starve_a_sibling():
    run = Run(
        Scripted({"busy": lambda context: Continue() if run.actor.rounds < 100_000 else Terminate("done")}), clock=TickingClock(0.0001)
    )
    beats = 0

    async def sibling():
        nonlocal beats
        while not task.done():
            beats += 1
            await asyncio.sleep(0)

    task = run.task()
    await asyncio.gather(task, sibling())
    assert 100_000 / 12 < beats < 100_000 / 8, "once a millisecond of the clock, which is ten rounds here"


async def test_O_08_transitions_without_waiting_do_not_starve_a_sibling_either():
    run = Run(
        Scripted({"busy": lambda context: Transition(Work()) if run.actor.rounds < 1000 else Terminate("done")}), clock=TickingClock(0.0001)
    )
    task = run.task()
    beats = 0
    while not task.done():
        beats += 1
        await asyncio.sleep(0)
    assert beats > 50


async def test_O_08_work_that_takes_no_time_does_not_give_up_the_loop():
    run = Run(Scripted({"busy": [*[Continue()] * 1000, Terminate("done")]}))
    task = run.task()
    await turns(2)
    assert run.ends == [ActorCompleted]
    await task


async def test_states_are_published_when_they_changed_and_after_their_actions():
    seen = []
    table = machine(
        on(Go, "idle", "busy", do=[lambda context, event: seen.append(list(run.told))]),
        on(Work, "busy", "busy", do=[say("work")]),
        on(Broke, "*", "broken"),
    )
    run = Run(Scripted({"busy": [Transition(Work()), Transition(Work()), ValueError("x")]}, table))
    await run
    assert seen == [[]]
    assert run.told == ["busy", "broken"]
    assert run.context == ["work", "work"]


async def test_a_row_that_changes_nothing_leaves_no_record():
    table = machine(on(Go, "idle", "busy"), on(Work, "*", "busy"), on(Halt, "busy", "end"))
    run = Run(Scripted({"busy": [Transition(Work()), Transition(Halt())]}, table))
    await run
    assert run.moves == [("idle", "Go", "busy"), ("busy", "Halt", "end")]


async def test_two_actors_share_a_journal_and_each_keeps_its_own_story():
    journal = MemoryJournal(keep=True)
    runs = []
    for number in range(2):
        actor = Scripted({"busy": [Continue(), Terminate("done")]})
        actor.name = f"actor-{number}"
        runs.append(Run(actor, journal=journal, clock=TickingClock(1.0)))
    await asyncio.gather(*(run.task() for run in runs))
    for number in range(2):
        mine = [type(record) for record in journal._records if record.actor == f"actor-{number}"]
        assert mine == [ActorState, ActorCompleted]


async def test_telemetry_hears_of_transitions_and_of_the_end():
    heard = []
    run = Run(Scripted({"busy": Terminate("done")}))
    run.ground.seams.telemetry.attach(lambda name, numbers, words: heard.append((name, dict(words))))
    await run
    assert heard == [
        ("actor.transition", {"actor": "actor-1", "source": "idle", "event": "Go", "target": "busy"}),
        ("actor.ended", {"actor": "actor-1", "state": "busy", "reason": "done"}),
    ]
