"""Commands overtake work; what was posted is taken, or told as never taken; no wake-up is lost."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obzen_runtime.actor import Continue, Mailbox, Stop, Terminate, Urgency
from obzen_runtime.fsm import on
from obzen_runtime.kernel import ProtocolViolated
from tests.actor.kit import Broke, Go, Halt, Run, Scripted, Work, machine, turns


def test_stop_overtakes_supervision_which_overtakes_events_and_each_lane_keeps_its_order():
    mailbox = Mailbox()
    for number, urgency in enumerate([Urgency.EVENT, Urgency.SUPERVISION, Urgency.STOP, Urgency.EVENT, Urgency.SUPERVISION, Urgency.STOP]):
        mailbox.post(number, urgency)
    assert mailbox.pending == 6
    assert [mailbox.control() for _ in range(7)] == [2, 5, 1, 4, 0, 3, None]
    assert mailbox.pending == 0


@given(st.lists(st.one_of(st.sampled_from(Urgency), st.none()), max_size=30))
def test_any_order_of_posting_and_taking_gives_the_most_urgent_first(steps):
    mailbox, waiting, number = Mailbox(), [], 0
    for step in steps:
        if step is None:
            expected = min(waiting, default=None)
            assert mailbox.control() == (expected and expected[1])
            waiting.remove(expected) if expected else None
        else:
            number += 1
            mailbox.post(number, step)
            waiting.append((step, number))
        assert mailbox.pending == len(waiting)


def test_messages_are_taken_in_order_and_do_not_mix_with_commands():
    mailbox = Mailbox()
    mailbox.tell("a")
    mailbox.tell("b")
    assert (mailbox.pending, mailbox.control()) == (0, None)
    assert [mailbox.take(), mailbox.take(), mailbox.take()] == ["a", "b", None]


def test_a_closed_mailbox_refuses_and_gives_back_what_was_never_taken_once():
    mailbox = Mailbox()
    mailbox.tell("data")
    mailbox.post("event")
    mailbox.post("stop", Urgency.STOP)
    assert mailbox.close() == ["stop", "event", "data"]
    assert mailbox.close() == []
    assert (mailbox.pending, mailbox.control(), mailbox.take()) == (0, None, None)
    for refused in (mailbox.post, mailbox.tell):
        with pytest.raises(ProtocolViolated, match="closed"):
            refused("late")


def test_a_kill_is_remembered_with_its_first_reason_and_calls_once():
    mailbox, calls = Mailbox(), []
    mailbox.on_kill = lambda: calls.append(mailbox.killed)
    mailbox.kill("first")
    mailbox.kill("second")
    assert (mailbox.killed, calls) == ("first", ["first"])


def test_a_kill_without_a_reason_is_a_kill():
    mailbox = Mailbox()
    mailbox.kill(None)
    assert mailbox.killed == "None"


async def test_commands_are_taken_before_work_in_a_polling_state():
    run = Run(Scripted({"busy": Terminate("done")}))
    for _ in range(3):
        run.actor.mailbox.post(Halt("late"))
    run.actor.mailbox.post(Go(), Urgency.SUPERVISION)
    await run
    assert [move[1] for move in run.moves] == ["Go", "Halt"]
    assert run.actor.seen == ["stopped"]


async def test_a_stop_overtakes_everything_that_was_posted_before():
    run = Run(Scripted({}))
    run.actor.mailbox.post(Go())
    run.actor.mailbox.post(Go(), Urgency.SUPERVISION)
    run.actor.mailbox.post(Stop("now", 1.0), Urgency.STOP)
    await run
    assert [move[1] for move in run.moves] == ["Halt"]


async def test_one_command_is_taken_a_round_and_work_waits_for_the_last():
    run = Run(Scripted({"busy": Terminate("done")}))
    run.actor.mailbox.post(Go())
    for _ in range(5):
        run.actor.mailbox.post(Work())
    await run
    assert run.actor.seen == ["busy"]
    assert run.context == ["go", *["work"] * 5]


async def test_a_blocking_state_waits_for_a_command_and_does_no_work():
    run = Run(Scripted({"busy": Terminate("done")}, control={"idle": "block"}))
    task = run.task()
    await turns()
    assert run.actor.seen == []
    run.actor.mailbox.tell("no command")
    await turns()
    assert run.actor.seen == []
    run.actor.mailbox.post(Go())
    await task
    assert run.actor.seen == ["busy"]


async def test_a_terminal_state_ignores_commands_and_they_are_told(caplog):
    caplog.set_level("DEBUG", "obzen")

    def last(context):
        run.actor.mailbox.post(Halt())
        run.actor.mailbox.tell("data")
        return Terminate("done")

    table = machine(on(Go, "idle", "end"), on(Halt, "idle", "end"))
    run = Run(Scripted({"end": [Continue(), last]}, table))
    assert (await run).how == "completed"
    assert [move[1] for move in run.moves] == ["Go"]
    told = [record.fields["left"] for record in caplog.records if "never taken" in record.getMessage()]
    assert told == ["Halt", "str"]


async def test_a_control_mode_that_does_not_exist_is_refused():
    ended = await Run(Scripted({}, control={"idle": "Block"}))
    assert (ended.how, ended.error.kind) == ("aborted", "PROTOCOL")
    assert "control('idle') returned 'Block'" in ended.error.message


@pytest.mark.parametrize("mode", ["block", "poll"])
async def test_a_mailbox_closed_from_outside_is_a_failure_event(mode):
    async def work(context):
        await actor.mailbox.wake.wait()
        return Continue()

    told = []
    table = machine(on(Go, "idle", "busy"), on(Broke, "*", "broken", do=[lambda context, event: told.append(event.error.message)]))
    actor = Scripted({"busy": work}, table, control={"busy": mode})
    task = Run(actor).task()
    await turns()
    actor.mailbox.close()
    assert (await task).state == "broken"
    assert told == ["actor-1: its mailbox was closed while it runs"]


async def test_a_state_that_waits_for_commands_of_a_closed_mailbox_for_ever_is_aborted():
    table = machine(on(Go, "idle", "busy"), on(Broke, "*", "busy"), on(Halt, "busy", "end"))
    actor = Scripted({}, table, control={"busy": "block"})
    task = Run(actor).task()
    await turns()
    actor.mailbox.close()
    ended = await task
    assert (ended.how, ended.state) == ("aborted", "busy")
    assert "'busy' waits for a command" in ended.error.message


async def test_a_polling_state_goes_on_working_after_the_closing_was_told_once():
    actor = Scripted({"busy": [Continue(), Terminate("done")]}, machine(on(Go, "idle", "busy"), on(Broke, "*", "busy")))
    actor.mailbox.close()
    run = Run(actor)
    assert (await run).reason == "done"
    assert [move[1] for move in run.moves] == ["Broke"]


async def test_cancelling_an_actor_whose_mailbox_was_closed_ends_it():
    async def work(context):
        if run.actor.rounds > 2:
            await asyncio.get_running_loop().create_future()
        return Continue()

    run = Run(Scripted({"busy": work}, machine(on(Go, "idle", "busy"), on(Broke, "*", "busy"), on(Halt, "busy", "end"))))
    task = run.task()
    await turns()
    run.actor.mailbox.close()
    await turns()
    task.cancel()
    ended = await task
    assert (ended.how, ended.reason) == ("killed", "cancelled")


async def test_a_message_told_while_a_state_blocks_wakes_the_work_that_comes_after():
    actor = Scripted({}, control={"idle": "block"})

    async def work(context):
        await actor.mailbox.wake.wait()  # waits before it looks, on purpose
        message = actor.mailbox.take()
        return Continue() if message is None else Terminate(message)

    actor.states["busy"] = work
    task = Run(actor).task()
    await turns()
    actor.mailbox.tell("hello")
    await turns()
    actor.mailbox.post(Go())
    assert (await task).reason == "hello"


@given(st.lists(st.tuples(st.sampled_from(["tell", "post", "turn", "supervise"]), st.integers(0, 3)), max_size=40), st.integers(1, 3))
def test_no_interleaving_of_posts_and_turns_loses_a_wake_up(steps, blocking):
    """Whatever the order, everything told is taken and everything posted is fed; an actor that slept on would time out."""

    async def main():
        taken = []
        actor = Scripted({}, control={"idle": "block"} if blocking == 1 else {})

        async def work(context):
            message = actor.mailbox.take()
            if message is None:
                if blocking == 2:
                    await turns(1)
                await actor.mailbox.wake.wait()
                return Continue()
            taken.append(message)
            return Terminate("end") if message == "end" else Continue()

        actor.states["busy"] = work
        run = Run(actor)
        task = run.task()
        told = posted = 0
        if blocking == 1:
            actor.mailbox.post(Go())
        await turns(3)
        for step, count in steps:
            match step:
                case "tell":
                    actor.mailbox.tell(told)
                    told += 1
                case "post":
                    actor.mailbox.post(Work())
                    posted += 1
                case "supervise":
                    actor.mailbox.post(Work(), Urgency.SUPERVISION)
                    posted += 1
                case _:
                    await turns(count)
        actor.mailbox.tell("end")
        async with asyncio.timeout(10):
            await task
        assert taken == [*range(told), "end"]
        assert run.context.count("work") == posted

    asyncio.run(main())
