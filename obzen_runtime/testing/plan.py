"""What happens to one simulated run, drawn from its seed: crashes, slow and breaking handlers, the order of wake-ups."""

import errno
import random
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import msgspec

__all__ = ["Crash", "Measure", "Plan", "Trouble", "drawn", "exhaustive", "smaller"]

CrashKind = Literal["kill", "delivery", "power", "eio", "enospc", "stop", "cancel"]
ERRNO = {"eio": errno.EIO, "enospc": errno.ENOSPC}
_MOST_CRASHES = 5
_KINDS: Sequence[CrashKind] = ("kill", "kill", "kill", "delivery", "delivery", "power", "power", "eio", "enospc", "stop", "stop", "cancel")
_LOOKS = (1e-6, 2e-5, 1e-4, 3e-4, 3e-4)
"""Seconds a look at the clock takes: the longer, the smaller the blocks."""


class Crash(msgspec.Struct, frozen=True, kw_only=True):
    """How one process ends before it is done."""

    kind: CrashKind
    """Killed; killed right behind something that a sink did outside; its machine lost power; the disk failed or was full
    at an operation; told to stop, or to end at once."""
    at: int
    """Number of the disk operation (of the delivery, in the world) at which it happens, from the start of the process."""
    torn: float = 0.0
    """How much (0 … 1) of a write goes through that it happens in."""
    kept: float = 0.0
    """At a loss of power the chance of each unsynced piece to be kept."""


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """A handler call that goes wrong."""

    life: int
    """In which process, from 0."""
    stage: str
    call: int
    """Which of its calls there, from 1."""
    seconds: float
    """Time it takes; below 0 the stage crashes."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a seed decides. Equal plans give equal runs."""

    seed: int
    items: int | None
    """Items a source gives at the most."""
    crashes: tuple[Crash, ...] = ()
    troubles: tuple[Trouble, ...] = ()
    look: float = 2e-5
    jitter: float = 0.0
    """Chance that a pass runs its woken tasks in another order."""
    delay: float = 0.0
    """Seconds that work on a thread, such as a sync, takes at the most."""
    skew: int = 0
    """Milliseconds by which the machine's clock jumps between two processes; below 0 back."""


class Measure(NamedTuple):
    """What a run without crashes needs."""

    operations: int
    """Of the disk."""
    stages: Sequence[str]
    """Whose handlers can be made slow or break."""
    calls: int
    """Of a handler, roughly."""
    deliveries: int
    """In the world."""


def drawn(seed: int, items: int | None, measure: Measure, *, restarts: bool) -> Plan:
    """The plan of a seed. `restarts`: whether the flow lets a crashed stage start again."""
    draw = random.Random(f"{seed}/plan")  # noqa: S311 - repeatable by design
    crashes = tuple(_crash(draw, measure) for _ in range(_count(draw)))
    troubles = []
    for life in range(len(crashes) + 1):
        if measure.stages and draw.random() < 0.4:
            seconds = -1.0 if restarts and draw.random() < 0.5 else draw.choice((0.002, 0.3, 20.0))
            call = 1 + int(measure.calls * draw.random() ** 2)
            troubles.append(Trouble(life=life, stage=draw.choice(measure.stages), call=call, seconds=seconds))
    return Plan(
        seed=seed,
        items=items,
        crashes=crashes,
        troubles=tuple(troubles),
        look=draw.choice(_LOOKS),
        jitter=draw.choice((0.0, 0.2, 1.0, 1.0)),
        delay=draw.choice((0.0, 0.001, 0.2)),
        skew=draw.choice((0, 0, 0, 3_600_000, -3_600_000)),
    )


def _count(draw: random.Random) -> int:
    """One to five crashes, mostly few."""
    count = 1
    while count < _MOST_CRASHES and draw.random() < 0.45:
        count += 1
    return count


def _crash(draw: random.Random, measure: Measure) -> Crash:
    kind = draw.choice(_KINDS)
    return Crash(
        kind=kind,
        at=1 + int((measure.deliveries if kind == "delivery" else measure.operations) * draw.random() ** draw.choice((1, 1, 2))),
        torn=draw.choice((0.0, 0.0, 1.0, draw.random())),
        kept=draw.choice((0.0, 0.5, 0.9, 1.0)),
    )


def exhaustive(plan: Plan, writes: Sequence[int]) -> Iterator[Plan]:
    """Two plans for each write of the run: the process is killed right before it, and right behind it, before anybody hears of it."""
    for write in writes:
        for torn in (0.0, 1.0):
            yield msgspec.structs.replace(plan, crashes=(Crash(kind="kill", at=write, torn=torn),), troubles=())


def smaller(plan: Plan) -> Iterator[Plan]:
    """Simpler plans that may fail too, the simplest first."""
    replace = msgspec.structs.replace
    count = len(plan.crashes)
    if count > 1:
        for keep in range(count):
            yield replace(plan, crashes=(plan.crashes[keep],), troubles=())
        for drop in range(count):
            yield replace(plan, crashes=plan.crashes[:drop] + plan.crashes[drop + 1 :])
    for drop in range(len(plan.troubles)):
        yield replace(plan, troubles=plan.troubles[:drop] + plan.troubles[drop + 1 :])
    for name, simple in (("jitter", 0.0), ("delay", 0.0), ("skew", 0), ("look", 2e-5)):
        if getattr(plan, name) != simple:
            yield replace(plan, **{name: simple})
    for number, crash in enumerate(plan.crashes):
        for earlier in sorted({1, crash.at // 2, crash.at - 1} - {0, crash.at}) if crash.kind == "delivery" else ():
            yield replace(plan, crashes=(*plan.crashes[:number], replace(crash, at=earlier), *plan.crashes[number + 1 :]))
        if crash.kind not in ("kill", "delivery"):
            yield replace(plan, crashes=(*plan.crashes[:number], replace(crash, kind="kill", kept=0.0), *plan.crashes[number + 1 :]))
