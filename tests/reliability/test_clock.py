"""The wall clock jumps in the middle of everything that waits: nobody waits longer or shorter, nothing comes in another order.

Times on record are told by the wall clock and jump with it; what waits goes by the monotonic one.
"""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

import obzen_runtime as oz
from obzen_runtime.actor import Watchdog
from obzen_runtime.events import ActorRestarted, ActorStalled, RunResumed
from obzen_runtime.flow import StopFlow
from obzen_runtime.journal import Interval, SegmentJournal, SegmentOptions
from obzen_runtime.kernel import Seams
from obzen_runtime.testing import VirtualClock
from tests.flow import kit
from tests.flow.kit import Seen, ints, play, reached, same
from tests.journal.kit import RUN, mark, tell
from tests.reliability.cutting import World, passes

HOUR = 3_600_000
YEARS = 10 * 365 * 24 * HOUR
JUMPS = {
    "a second on": (1_000,),
    "a second back": (-1_000,),
    "an hour on": (HOUR,),
    "an hour back": (-HOUR,),
    "ten years on": (YEARS,),
    "ten years back": (-YEARS,),
    "on and back": (HOUR, -HOUR, HOUR, -HOUR, HOUR, -HOUR),
    "a second again and again": (-1_000,) * 20,
}


class Jumping(VirtualClock):
    """The wall clock jumps at every third look at it, as long as there are jumps."""

    jumps: tuple[int, ...] = ()
    taken = 0

    def __init__(self):
        super().__init__()
        self.left = list(self.jumps)
        self.looks = 0

    def wall_ms(self):
        self.looks += 1
        if self.looks % 3 == 0 and self.left:
            self.wall += self.left.pop(0)
            Jumping.taken += 1
        return super().wall_ms()


def went(played, *others):
    """What a jump may not change: how long it took, how it ended, what every stage gave."""
    assert played.complaints == []
    events = {name: len(played.events(name)) for name in played.pipeline.stages if name != "k"}
    return round(played.seconds, 3), played.state, played.reason, events, *others


def retries():
    left = [4]

    @oz.transform(retry=oz.Retry(attempts=6, base=5.0, jitter=False))
    async def t(number: int) -> int:
        if number == 3 and left[0]:
            left[0] -= 1
            raise oz.Transient("not yet")
        return number

    return went(play(oz.Flow("f", ints(10) >> t >> Seen().sink())))


def a_retry_window():
    @oz.transform(retry=oz.Retry(attempts=100, base=5.0, jitter=False, multiplier=1.0, window=22.0))
    async def t(number: int) -> int:
        calls.append(asyncio.get_running_loop().time())
        raise oz.Transient("never")

    calls = []
    played = play(oz.Flow("f", ints(1) >> t >> Seen().sink()))
    return went(played, len(calls))


def batches():
    @oz.source
    async def s() -> AsyncIterator[int]:
        for number in range(6):
            await passes(0.4)
            yield number

    @oz.sink(batch=100, within=1.0)
    def k(numbers: list[int]) -> None:
        given.append(len(numbers))

    given = []
    played = play(oz.Flow("f", s >> k))
    return went(played, *given)


def a_deadline():
    @oz.transform
    async def t(number: int) -> int:
        await asyncio.get_running_loop().create_future()
        return number

    async def beside(pipeline):
        await reached(pipeline, "running")
        pipeline.command(StopFlow("user_stop", 7.0))

    return went(play(oz.Flow("f", ints(3) >> t >> Seen().sink()), beside=beside))


def stalls():
    @oz.sink
    async def k(number: int) -> None:
        await passes(40.0)

    played = play(oz.Flow("f", ints(12) >> same() >> k, window=oz.Window(events=2), stall_after=30.0))
    return went(played, [(each.actor, each.why, each.seconds) for each in played.of(ActorStalled)])


def restarts():
    left = [6]

    @oz.transform
    async def t(number: int) -> int:
        if number % 10 == 9 and left[0]:
            left[0] -= 1
            await passes(6.0)
            raise SystemExit(3)
        return number

    played = play(oz.Flow("f", ints(100) >> t >> Seen().sink(), restart=oz.Restart(max=2, within=10.0)))
    return went(played, [each.count for each in played.of(ActorRestarted)])


def too_many_restarts():
    flow = oz.Flow("f", ints(10) >> kit.crashing(4, 9) >> Seen().sink(), restart=oz.Restart(max=2, within=10.0))
    played = play(flow)
    return went(played, len(played.of(ActorRestarted)))


def an_interval():
    world, told = World(), []
    world.clock = kit.VirtualClock()

    async def main(_world):
        journal = SegmentJournal.open(RUN, options=SegmentOptions(level=Interval(50)), seams=Seams(**world.seams))
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for number in range(20):
            world.clock.wall_ms()
            journal.append([mark(number)])
            await passes(0.03)
            told.append((round(loop.time() - begun, 3), world.disk.faults.count("sync")))
        await journal.close()

    world.play(main)
    return told


def a_resume():
    @oz.source
    async def s() -> AsyncIterator[int]:
        for number in range(20):
            await passes(0.1)
            yield number

    async def beside(pipeline):
        await passes(1.0)
        pipeline.command(StopFlow("user_stop", 5.0))

    journal = oz.MemoryJournal(keep=True)
    first = play(oz.Flow("f", s >> same() >> Seen().sink()), journal=journal, beside=beside)
    second = play(oz.Flow("f", s >> same() >> Seen().sink()), journal=journal)
    return went(second, first.state, round(first.seconds, 3), len(second.of(RunResumed)))


USERS = [retries, a_retry_window, batches, a_deadline, stalls, restarts, too_many_restarts, an_interval, a_resume]


@pytest.mark.parametrize("user", USERS, ids=lambda user: user.__name__)
def test_T_CLK_who_waits_does_not_notice_a_jump(user, monkeypatch):
    still = user()
    monkeypatch.setattr(kit, "VirtualClock", Jumping)
    for name, jumps in JUMPS.items():
        monkeypatch.setattr(Jumping, "jumps", jumps)
        before = Jumping.taken
        assert user() == still, name
        assert Jumping.taken > before, "nothing jumped"
    tell(f"{user.__name__}: {len(JUMPS)} jumps, 0 differences: {still}")


@pytest.mark.parametrize("jump", JUMPS)
async def test_T_CLK_the_watchdog_does_not_notice_a_jump(jump, monkeypatch):
    real, left = time.time, list(JUMPS[jump])

    def wall():
        return real() + (left.pop() if left else 0) / 1000

    monkeypatch.setattr(time, "time", wall)
    held = []
    dog = Watchdog(on_held=lambda name, seconds, stack: held.append(seconds), held_after=0.06, period=0.01)
    dog.start(asyncio.get_running_loop())
    until = time.monotonic() + 0.12
    while time.monotonic() < until:
        wall()
    async with asyncio.timeout(10.0):
        while not held:  # noqa: ASYNC110 - it comes from another thread
            await asyncio.sleep(0)
    dog.stop()
    assert all(0.06 <= seconds < 5 for seconds in held)
