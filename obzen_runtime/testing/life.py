"""One simulated process: the real host and the real code, on a virtual clock, a simulated disk and a seeded loop.

It ends by itself, or by the crash that is planned for it; then nothing it wants happens any more. What it acknowledged
until then is kept, so that the next process can be held to it.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from obzen_runtime.actor import Watchdog
from obzen_runtime.flow import Cancel, Flow, StopFlow
from obzen_runtime.host import Handle, Opening, Report
from obzen_runtime.kernel import ErrorInfo, ObzenError, Seams, Telemetry, classify
from obzen_runtime.testing.disk import Crashed, SimulatedDisk
from obzen_runtime.testing.loop import Chance, Deadlock, SeededLoop, SimulatedThreads, Stuck, VirtualClock
from obzen_runtime.testing.plan import ERRNO, Crash, Plan
from obzen_runtime.testing.stands import Troubles
from obzen_runtime.testing.world import HERE, World

__all__ = ["RUN", "Bounds", "Life", "Machine", "Mark", "quiet"]

BASE = Path("/runs")
NAME = "simulated"
RUN = BASE / NAME
_LAST_WORDS = 50_000
"""Callbacks that a dead process's tasks may take to be put away."""

_ROUNDS = 4

Ending = Literal["drained", "failed", "cancelled", "killed", "refused", "stuck"]


class Mark(NamedTuple):
    """A place in a file up to which everything must be found again."""

    position: int
    path: Path
    size: int
    at: float
    """Virtual seconds."""


class Bounds(NamedTuple):
    """How long a life may be."""

    seconds: float
    callbacks: int


@dataclass
class Life:
    """How one process went."""

    number: int
    ending: Ending = "stuck"
    crash: Crash | None = None
    """What was planned and came true."""
    report: Report | None = None
    error: ErrorInfo | None = None
    why: str = ""
    """Why it did not begin, or did not end."""
    head: int = 0
    """The last position it appended."""
    marks: list[Mark] = field(default_factory=list)
    """What it appended, in order."""
    synced: int = 0
    """The position up to which it was told that all is durable."""
    delivered: dict[str, Counter[bytes]] = field(default_factory=dict)
    """Where the power went: what each place of the world held then."""
    ran: int = 0
    seconds: float = 0.0
    handle: Handle | None = None


class Machine:
    """A machine on which processes live one after the other: its disk, its clock and the world around it."""

    def __init__(self, plan: Plan, durability: str) -> None:
        self.plan = plan
        self.durability = durability
        self.disk = SimulatedDisk()
        self.world = World()
        self.clock = VirtualClock(look=plan.look)
        self.lives: list[Life] = []
        self.troubles = Troubles(self.clock.spend)

    def live(self, flow: Flow, crash: Crash | None, bounds: Bounds) -> Life:
        """Start the flow, or go on with it, in a new process."""
        number = len(self.lives)
        life = Life(number)
        self.lives.append(life)
        self.clock.now += 1.0
        self.clock.wall += self.plan.skew if number else 0
        self.troubles.left = {each.stage: (each.call, each.seconds) for each in self.plan.troubles if each.life == number}
        faults = self.disk.faults
        self.world.left = 0
        match crash:
            case Crash(kind="delivery"):
                self.world.left = crash.at
            case Crash(kind="kill" | "power"):
                faults.die_at, faults.torn = crash.at, crash.torn
            case Crash(kind="eio" | "enospc"):
                faults.fail_at = crash.at, ERRNO[crash.kind]
        self.world.dead, self.world.die = lambda: faults.dead, faults.die
        loop = SeededLoop(self.clock, f"{self.plan.seed}/{number}", jitter=self.plan.jitter, dead=self.world.dead)
        loop.until, loop.most = self.clock.now + bounds.seconds, bounds.callbacks
        loop.set_exception_handler(_unheard)
        began, token = self.clock.now, HERE.set(self.world)
        try:
            self._run(loop, flow, life, crash)
        finally:
            HERE.reset(token)
            life.seconds, life.ran = self.clock.now - began, loop.ran
            _put_away(loop)
        if life.ending in ("killed", "failed", "cancelled", "refused") and crash is not None and _true(crash, life, self.disk):
            life.crash = crash
        return life

    def _run(self, loop: SeededLoop, flow: Flow, life: Life, crash: Crash | None) -> None:
        telemetry = Telemetry(_Watcher(self, life, crash, loop))
        seams = Seams(
            self.clock,
            Chance(f"{self.plan.seed}/{life.number}/chance"),
            self.disk,
            SimulatedThreads(f"{self.plan.seed}/{life.number}", longest=self.plan.delay),
            telemetry,
        )
        opening = Opening(journal=BASE, durability=self.durability, run_id=NAME, seams=seams)

        async def main() -> Report:
            life.handle = handle = Handle(flow, opening)
            handle.watchdog = _Still()
            handle.begin()
            return await handle.wait()

        try:
            life.report = loop.run_until_complete(main())
            life.ending = life.report.state  # type: ignore[assignment]
            life.error = life.report.error
        except Crashed:
            life.ending = "killed"
        except (Deadlock, Stuck) as stuck:
            life.why = str(stuck)
        except SystemExit:
            life.why = "SystemExit left the loop"
        except (ObzenError, OSError) as refused:
            life.ending, life.why, life.error = "refused", str(refused), classify(refused)

    def after(self, crash: Crash, number: int) -> None:
        """Leave the disk as the next process finds it."""
        if crash.kind != "power":
            self.disk = self.disk.killed()
            return
        self.lives[number].delivered = {name: place.counted() for name, place in self.world.places.items()}
        chance = Chance(f"{self.plan.seed}/{number}/power")
        kept = [piece for piece in self.disk.unsynced() if chance.uniform(0.0, 1.0) < crash.kept]
        self.disk = self.disk.power_cut(kept)


def _true(crash: Crash, life: Life, disk: SimulatedDisk) -> bool:
    """Whether the planned crash is why the life ended."""
    match crash.kind:
        case "kill" | "delivery" | "power":
            return life.ending == "killed"
        case "eio" | "enospc":
            return disk.faults.failed
    return life.ending == "cancelled"


class _Watcher:
    """Notes what was appended and acknowledged; gives the orders that are planned."""

    def __init__(self, machine: Machine, life: Life, crash: Crash | None, loop: SeededLoop) -> None:
        self._disk = machine.disk
        self._clock = machine.clock
        self._life = life
        self._order = crash if crash is not None and crash.kind in ("stop", "cancel") else None
        self._loop = loop

    def __call__(self, name: str, measured: Mapping[str, float], told: Mapping[str, Any]) -> None:
        life = self._life
        if name == "journal.append":
            life.head = told["position"]
            calls = self._disk.faults.calls
            path = calls[-1][1]
            life.marks.append(Mark(life.head, path, self._disk.size(path), self._clock.now))
            if self._order is not None and len(calls) >= self._order.at and life.handle is not None:
                event = StopFlow("user_stop", 30.0) if self._order.kind == "stop" else Cancel("user_cancel")
                self._loop.call_soon(life.handle.pipeline.command, event)
                self._order = None
        elif name == "journal.sync":
            life.synced = told["position"]


class _Still(Watchdog):
    """No thread looks on: a simulated loop is held by nobody, and real time means nothing to it."""

    def start(self, loop: asyncio.AbstractEventLoop, *, signals: tuple[int, ...] = (), on_signal: Any = None) -> None:
        """Watch nothing."""

    def stop(self) -> None:
        """Watch nothing any more."""


def _unheard(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What a dying process complains of is told to nobody."""


def _put_away(loop: SeededLoop) -> None:
    """End what a process left behind. It is dead: nothing of it reaches disk or world."""
    loop.dead = bool
    loop.until, loop.most = float("inf"), loop.ran + _LAST_WORDS
    for _ in range(_ROUNDS):  # what ends may begin something: its tasks end with it
        tasks = asyncio.all_tasks(loop)
        if not tasks:
            break
        for task in tasks:
            inside: Any = task
            inside._log_destroy_pending = False  # noqa: SLF001 - a dead process is not mourned
            task.cancel()
        with suppress(Deadlock, Stuck, Crashed):
            loop.run_until_complete(asyncio.wait(tasks, timeout=60.0))
        for task in tasks:
            if task.done() and not task.cancelled():
                task.exception()
    with suppress(Deadlock, Stuck, Crashed):
        loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


@contextmanager
def quiet() -> Iterator[None]:
    """The runtime's log says nothing: crashes are wanted here."""
    log = logging.getLogger("obzen")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before
