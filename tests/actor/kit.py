"""What the tests of the loop share: an actor whose states are scripted, a loop on virtual time, a journal that fails."""

import asyncio
import selectors

import msgspec

from obzen_runtime.actor import Continue, Ground, Mailbox, Terminate, Transition, drive
from obzen_runtime.events import ActorAborted, ActorCompleted, ActorState
from obzen_runtime.fsm import Machine, on
from obzen_runtime.journal import MemoryJournal
from obzen_runtime.kernel import ErrorInfo, JournalFailed, Seams


class Go(msgspec.Struct, frozen=True):
    pass


class Work(msgspec.Struct, frozen=True):
    pass


class Halt(msgspec.Struct, frozen=True):
    reason: str = ""


class Broke(msgspec.Struct, frozen=True):
    error: ErrorInfo


class Stranger(msgspec.Struct, frozen=True):
    """An event no machine has a row for."""


class TickingClock:
    """Every look at the monotonic clock costs `step` seconds."""

    def __init__(self, step=0.0):
        self.step = step
        self.now = 0.0

    def wall_ms(self):
        return 1_700_000_000_000

    def monotonic(self):
        self.now += self.step
        return self.now


class FailingJournal(MemoryJournal):
    """Refuses a record of one kind, or all from the nth on, as a disk would."""

    def __init__(self, *, kind=None, after=None):
        super().__init__(keep=True)
        self.kind = kind
        self.after = after

    def append(self, records, *, expected=None):
        if any(type(record) is self.kind for record in records) or (self.after is not None and self.head >= self.after):
            raise JournalFailed("the disk is full", remedy="Free some space.")
        return super().append(records, expected=expected)


def say(word):
    """An action that leaves its name."""

    async def action(context, event):
        context.append(word)

    action.__name__ = word
    return action


def fail(error=None):
    def broken(context, event):
        context.append("failing")
        raise error or ConnectionResetError("peer vanished")

    return broken


def machine(*rows, hooks=None, failed=("failed",)):
    """idle -Go-> busy -Work-> busy -Halt-> stopped, and `*` -Broke-> broken, unless `rows` say otherwise."""
    return Machine(
        "m",
        initial="idle",
        table=rows
        or [
            on(Go, "idle", "busy", do=[say("go")]),
            on(Work, "busy", "busy", do=[say("work")]),
            on(Halt, ("idle", "busy"), "stopped", do=[say("halt")]),
            on(Broke, "*", "broken", do=[say(word) for word in failed]),
        ],
        **(hooks or {}),
    )


class Scripted:
    """An actor whose `states` give for each state a directive, an error, or a function of its own."""

    def __init__(self, states, table=None, *, control=None, stop=lambda reason: Halt(reason)):
        self.name = "actor-1"
        self.mailbox = Mailbox()
        self.machine = table or machine()
        self.states = {"idle": Transition(Go()), **states}
        self.modes = control or {}
        self.event_for_stop = stop
        self.seen = []
        self.rounds = 0

    async def dispatch_state(self, state, context):
        self.seen.append(state)
        self.rounds += 1
        if state in self.machine.terminal and state not in self.states:
            return Terminate(state)
        found = self.states[state]
        if isinstance(found, list):
            found = found.pop(0)
        if isinstance(found, BaseException):
            raise found
        if callable(found) and not isinstance(found, msgspec.Struct):
            found = found(context)
            if asyncio.iscoroutine(found):
                found = await found
        return found

    def event_for_action_error(self, error):
        return Broke(error)

    def control(self, state):
        return self.modes.get(state, "ignore" if state in self.machine.terminal else "poll")

    def completion(self, state, reason, at):
        return ActorCompleted(self.name, state, reason, at)


class Run:
    """One run of an actor, with what it left."""

    def __init__(self, actor, *, journal=None, clock=None, **ground):
        self.actor = actor
        self.told = []
        self.context = []
        self.journal = journal or MemoryJournal(keep=True)
        self.ground = Ground(self.journal, Seams(clock=clock or TickingClock()), run_id="r1", on_state=self.told.append, **ground)

    def __await__(self):
        return drive(self.actor, self.context, self.ground).__await__()

    def task(self):
        return asyncio.create_task(drive(self.actor, self.context, self.ground))

    @property
    def records(self):
        return list(self.journal._records)

    def of(self, kind):
        return [record for record in self.records if type(record) is kind]

    @property
    def moves(self):
        return [(record.source, record.event, record.target) for record in self.of(ActorState)]

    @property
    def ends(self):
        return [type(record) for record in self.records if type(record) in (ActorCompleted, ActorAborted)]


async def turns(count=20):
    """Let everything that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)


def forever(context):
    """A dispatch that waits for what never comes."""

    async def wait():
        context.append("waiting")
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            context.append("interrupted")

    return wait()


def again(context):
    return Continue()


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes only while nothing is ready, and then at once."""

    def __init__(self):
        self.clock = 0.0
        super().__init__(_Skipping(self))

    def time(self):
        return self.clock


class _Skipping(selectors.DefaultSelector):
    def __init__(self, loop):
        super().__init__()
        self.loop = loop

    def select(self, timeout=None):
        if timeout:
            self.loop.clock += timeout
        return super().select(None if timeout is None else 0)


def virtually(main):
    """Run a coroutine on virtual time; returns its result and the seconds that passed."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        result = runner.run(main)
        return result, runner.get_loop().time()


async def passing(seconds):
    """Let virtual seconds pass; refused on a loop that would really wait."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    await asyncio.wait([loop.create_future()], timeout=seconds)
