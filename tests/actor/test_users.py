"""Actors as users write them: a poller, a connection that is kept up, a parent with children."""

import asyncio

import msgspec
import pytest

import obzen_runtime as oz
from obzen_runtime.events import ActorAborted, ActorCompleted, ActorState, RunCompleted, RunStarted
from obzen_runtime.journal import MemoryJournal, SegmentReader, list_runs
from obzen_runtime.kernel import UsageError
from tests.actor.kit import passing, turns, virtually


class Due(msgspec.Struct, frozen=True):
    pass


class Got(msgspec.Struct, frozen=True):
    value: int


class Pause(msgspec.Struct, frozen=True):
    pass


class Quit(msgspec.Struct, frozen=True):
    reason: str = "told to"


class Failed(msgspec.Struct, frozen=True):
    error: oz.ErrorInfo


# -- a poller -----------------------------------------------------------------------------------


class Polls(msgspec.Struct):
    interval: float
    answers: list
    kept: list[int] = []
    missed: list[str] = []


def keep(polls: Polls, event: Got) -> None:
    polls.kept.append(event.value)


def miss(polls: Polls, event: Failed) -> None:
    polls.missed.append(event.error.message)


class Poller(oz.SelfSupervised[Polls]):
    machine = oz.Machine(
        "poller",
        initial="waiting",
        table=[
            oz.on(Due, "waiting", "polling"),
            oz.on(Got, "polling", "waiting", do=[keep]),
            oz.on(Pause, "waiting", "paused"),
            oz.on(Due, "paused", "polling"),
            oz.on(Failed, "*", "waiting", do=[miss]),
            oz.on(Quit, ("waiting", "polling", "paused"), "done"),
        ],
        terminal=("done",),
    )

    async def dispatch_state(self, state: str, polls: Polls) -> oz.Directive:
        match state:
            case "waiting":
                return oz.Transition(Due()) if await self.idle(polls.interval) else oz.Continue()
            case "polling":
                answer = polls.answers.pop(0)
                if isinstance(answer, Exception):
                    raise answer
                return oz.Transition(Got(answer))
            case "paused":
                await self.idle()
                return oz.Continue()
            case _:
                return oz.Terminate(state)

    def event_for_action_error(self, error: oz.ErrorInfo) -> Failed:
        return Failed(error)

    def event_for_stop(self, reason: str) -> Quit:
        return Quit(reason)


def test_a_poller_polls_at_its_interval_through_failures():
    poller, polls = Poller("poller"), Polls(5.0, [1, oz.Transient("busy"), 2])

    async def main():
        asyncio.get_running_loop().call_later(17.0, poller.mailbox.post, Quit())
        return await poller.run(polls, journal=MemoryJournal())

    reason, seconds = virtually(main())
    assert (reason, polls.kept) == ("done", [1, 2])
    assert polls.missed == ["in state 'polling': busy"]
    assert seconds == pytest.approx(17.0), "an event does not wait for the interval to end"


def test_a_poller_that_is_paused_polls_nothing_until_it_is_told():
    poller, polls = Poller("poller"), Polls(5.0, [1])

    async def main():
        later = asyncio.get_running_loop().call_later
        later(2.0, poller.mailbox.post, Pause())
        later(60.0, poller.mailbox.post, Due())
        later(61.0, poller.mailbox.post, Quit())
        return await poller.run(polls, journal=MemoryJournal())

    (reason, seconds) = virtually(main())
    assert (reason, polls.kept, seconds) == ("done", [1], pytest.approx(61.0))


@pytest.mark.parametrize("what", ["post", "tell", "kill", "close", "nothing"])
def test_idle_ends_for_whatever_comes_and_otherwise_with_its_time(what):
    poller = Poller("poller")

    async def main():
        call = getattr(poller.mailbox, what, None)
        if call is not None:
            asyncio.get_running_loop().call_later(1.0, call, *() if what == "close" else ("something",))
        return await poller.idle(3.0)

    assert virtually(main()) == (what == "nothing", pytest.approx(3.0 if what == "nothing" else 1.0))


def test_idle_does_not_wait_while_whoever_takes_messages_has_more_to_take():
    poller = Poller("poller")

    async def main():
        poller.mailbox.tell("one")
        poller.mailbox.tell("two")
        waited = []
        for _ in range(3):
            waited.append(await poller.idle(3.0))
            poller.mailbox.take()
        return waited

    assert virtually(main()) == ([False, False, True], pytest.approx(3.0))


def test_idle_waits_beside_a_message_that_this_state_does_not_take():
    poller = Poller("poller")

    async def main():
        poller.mailbox.tell("for another state")
        return [await poller.idle(3.0) for _ in range(3)], poller.mailbox.take()

    assert virtually(main()) == (([False, True, True], "for another state"), pytest.approx(6.0))


# -- a connection that is kept up ---------------------------------------------------------------


class Dialled(msgspec.Struct, frozen=True):
    pass


class Lost(msgspec.Struct, frozen=True):
    why: str


class Rested(msgspec.Struct, frozen=True):
    pass


class Peer(msgspec.Struct):
    """What a real one would hold as host, port and streams."""

    calls: list
    lines: list[str] = []
    tries: int = 0
    reader: asyncio.Task | None = None


def try_again(peer: Peer, event: Failed) -> None:
    peer.tries += 1


def forget(peer: Peer, event: object) -> None:
    peer.tries = 0


async def hang_up(peer: Peer, event: object) -> None:
    if peer.reader is not None:
        peer.reader.cancel()
        await asyncio.wait([peer.reader])


class Keeper(oz.SelfSupervised[Peer]):
    machine = oz.Machine(
        "keeper",
        initial="dialling",
        table=[
            oz.on(Dialled, "dialling", "open", do=[forget]),
            oz.on(Failed, ("dialling", "open", "resting"), "resting", do=[try_again]),
            oz.on(Lost, "open", "dialling"),
            oz.on(Rested, "resting", "dialling"),
            oz.on(Quit, ("dialling", "open", "resting"), "closed"),
        ],
        on_exit={"open": [hang_up]},
    )

    async def dispatch_state(self, state: str, peer: Peer) -> oz.Directive:
        match state:
            case "dialling":
                call = peer.calls.pop(0)
                if isinstance(call, Exception):
                    raise call
                peer.reader = asyncio.create_task(self.read(call))
                return oz.Transition(Dialled())
            case "open":
                line = self.mailbox.take()
                if line is None:
                    await self.idle()
                else:
                    peer.lines.append(line)
                return oz.Continue()
            case "resting":
                return oz.Transition(Rested()) if await self.idle(0.5 * 2**peer.tries) else oz.Continue()
            case _:
                return oz.Terminate(state)

    async def read(self, lines: list) -> None:
        for line in lines:
            await passing(1.0)
            self.mailbox.tell(line)
        self.mailbox.post(Lost("end of file"))

    def event_for_action_error(self, error: oz.ErrorInfo) -> Failed:
        return Failed(error)

    def event_for_stop(self, reason: str) -> Quit:
        return Quit(reason)


def test_a_connection_is_dialled_again_with_growing_rests_and_hung_up_at_the_end():
    refused = ConnectionRefusedError("nobody listens")
    keeper, peer = Keeper("keeper"), Peer([refused, refused, ["a", "b"], refused, ["c"] * 100])

    async def main():
        asyncio.get_running_loop().call_later(10.5, keeper.mailbox.post, Quit())
        await keeper.run(peer, journal=MemoryJournal())
        return peer.reader.cancelled()

    hung_up, seconds = virtually(main())
    assert hung_up
    assert seconds == pytest.approx(10.5)
    assert peer.lines == ["a", "b", *"cccc"], "1 + 2 s of rest, 2 lines, 1 s of rest, a line a second"


# -- a parent with children ---------------------------------------------------------------------


class Ended(msgspec.Struct, frozen=True):
    child: str


class Broke(msgspec.Struct, frozen=True):
    child: str
    why: str


class NoneLeft(msgspec.Struct, frozen=True):
    pass


class Family(msgspec.Struct):
    poor: dict[str, int]
    """How often each child breaks before it does its work."""
    tasks: dict[str, asyncio.Task] = {}
    told: list[str] = []


class Child(oz.SelfSupervised[Family]):
    machine = oz.Machine("child", initial="working", table=[oz.on(Due, "working", "done"), oz.on(Quit, "working", "stopped")])

    async def dispatch_state(self, state: str, family: Family) -> oz.Directive:
        if state != "working":
            return oz.Terminate(state)
        if family.poor[self.name] < 0:
            await self.idle()
            return oz.Continue()
        family.poor[self.name] -= 1
        return oz.Transition(Due() if family.poor[self.name] < 0 else "no event of its machine")

    def event_for_action_error(self, error: oz.ErrorInfo) -> object:
        return Quit(error.message)

    def event_for_stop(self, reason: str) -> Quit:
        return Quit(reason)


def note(family: Family, event: Ended | Broke) -> None:
    family.told.append(event.child if isinstance(event, Ended) else f"{event.child} broke")
    del family.tasks[event.child]


async def send_home(family: Family, event: Quit) -> None:
    for task in family.tasks.values():
        task.cancel()


class Parent(oz.SelfSupervised[Family]):
    machine = oz.Machine(
        "parent",
        initial="watching",
        table=[
            oz.on(Ended, "watching", "watching", do=[note]),
            oz.on(Broke, "watching", "watching", do=[note]),
            oz.on(Ended, "stopping", "stopping", do=[note]),
            oz.on(Broke, "stopping", "stopping", do=[note]),
            oz.on(Quit, "watching", "stopping", do=[send_home]),
            oz.on(NoneLeft, ("watching", "stopping"), "alone"),
            oz.on(Failed, "*", "broken"),
        ],
    )

    async def dispatch_state(self, state: str, family: Family) -> oz.Directive:
        if state in self.machine.terminal:
            return oz.Terminate(state)
        if state == "watching":
            for name in family.poor:
                if name not in family.tasks and name not in family.told:
                    family.tasks[name] = asyncio.create_task(self.mind(Child(name), family))
        if not family.tasks:
            return oz.Transition(NoneLeft())
        await self.idle()
        return oz.Continue()

    async def mind(self, child: Child, family: Family) -> None:
        try:
            await child.run(family, parent=self)
        except oz.ObzenError as error:
            self.mailbox.post(Broke(child.name, error.message))
        except asyncio.CancelledError:
            self.mailbox.post(Ended(child.name))
            raise
        else:
            self.mailbox.post(Ended(child.name))

    def event_for_action_error(self, error: oz.ErrorInfo) -> Failed:
        return Failed(error)

    def event_for_stop(self, reason: str) -> Quit:
        return Quit(reason)


async def stored(base):
    [summary] = list_runs(base)
    return summary, [entry.record async for entry in SegmentReader.open(summary.run.path).read()]


async def test_a_parent_is_told_of_every_end_and_one_journal_has_the_whole_family(tmp_path):
    family = Family({"ann": 0, "ben": 2})
    assert await Parent("parent").run(family, journal=tmp_path) == "alone"
    assert sorted(family.told) == ["ann", "ben", "ben broke", "ben broke"]
    summary, records = await stored(tmp_path)
    assert (summary.state, type(records[0]), type(records[-1])) == ("drained", RunStarted, RunCompleted)
    assert [each.actor for each in records if type(each) is ActorAborted] == ["ben", "ben"]
    assert sorted(each.actor for each in records if type(each) is ActorCompleted) == ["ann", "ben", "parent"]


async def test_a_cancelled_parent_ends_its_children_before_itself(tmp_path):
    family = Family({"ann": -1, "ben": -1})
    task = asyncio.create_task(Parent("parent").run(family, journal=tmp_path))
    await turns(20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    summary, records = await stored(tmp_path)
    assert summary.state == "cancelled"
    assert [each.actor for each in records if type(each) is ActorCompleted] == ["ann", "ben", "parent"]
    assert {each.actor: each.event for each in records if type(each) is ActorState and each.target == "stopped"} == {
        "ann": "Quit",
        "ben": "Quit",
    }


async def test_children_bear_the_name_of_the_run_on_every_log_line(tmp_path, caplog):
    with caplog.at_level("INFO", logger="obzen"):
        await Parent("parent").run(Family({"ann": 0}), journal=tmp_path)
    [summary] = list_runs(tmp_path)
    started = [line for line in caplog.messages if "actor started" in line]
    assert [f"actor={name} run={summary.run.run_id}" in line for name, line in zip(["parent", "ann"], started, strict=True)] == [True, True]


async def test_a_parent_that_does_not_run_is_refused():
    with pytest.raises(UsageError, match="parent does not run"):
        await Child("ann").run(Family({}), parent=Parent("parent"))
