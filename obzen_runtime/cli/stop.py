"""`obzen stop`: end a run that lives in another process, in an orderly way, and wait until it has."""

import asyncio
import math
import time
from pathlib import Path
from typing import Annotated

import typer

from obzen_runtime.cli.command import EXIT_FAILED
from obzen_runtime.cli.find import WhichOptions, which
from obzen_runtime.cli.say import hint, say
from obzen_runtime.events import Record, RunCancelled, RunCompleted, RunFailed
from obzen_runtime.host import near
from obzen_runtime.journal import RunDirectory, RunState, SegmentReader
from obzen_runtime.kernel import JournalLocked, NotFound, UsageError
from obzen_runtime.orders import Order, OrderKind, send

__all__ = ["StopOptions", "stop"]

_TRIES = 20
_PAUSE = 0.05
"""A run that has just begun listens within a second."""
_ENDS: frozenset[type[Record]] = frozenset({RunCompleted, RunFailed, RunCancelled})
_DONE: dict[OrderKind, tuple[RunState, ...]] = {
    "stop": ("cancelled", "drained"),
    "cancel": ("cancelled", "drained"),
    "drain": ("drained",),
}
"""How a run may stand when the order is as good as obeyed."""


class StopOptions(WhichOptions, frozen=True, kw_only=True):
    """What `obzen stop` takes."""

    drain: Annotated[bool, typer.Option("--drain", help="Finish it: sources end, everything behind them completes, folds give.")] = False
    cancel: Annotated[bool, typer.Option("--cancel", help="End it now: what is under way is dropped or committed, never half.")] = False
    within: Annotated[float | None, typer.Option("--within", metavar="S", help="Seconds until a stop cancels; default 30.")] = None
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Give the order and do not wait for the end.")] = False


def order_of(options: StopOptions) -> Order:
    """Read the options. Raises `UsageError` where they contradict each other."""
    if options.drain and options.cancel:
        raise UsageError("both --drain and --cancel are given", remedy="Give one, or none to suspend the run")
    kind: OrderKind = "drain" if options.drain else "cancel" if options.cancel else "stop"
    if options.within is None:
        return Order(kind)
    if kind != "stop":
        raise UsageError(f"--within goes with a stop, not with --{kind}", remedy="A drain takes the time it needs; a cancel takes none")
    if not (math.isfinite(options.within) and options.within >= 0):
        raise UsageError(f"--within {options.within} is not a number of seconds", remedy="Give seconds, 0 or more")
    return Order(kind, options.within)


def stop(options: StopOptions) -> int:
    """Stop a run that lives in another process, and wait until it has ended.

    Without an option the run is suspended: what its sources gave is processed, folds keep their state, and `obzen
    resume` goes on with it. Exits with 0 when it ended so (or had before), 1 when it failed, 64 when it is not
    running, 75 when it lives and takes no orders.
    """
    order = order_of(options)
    run = which(options)
    reader = SegmentReader.open(run.path)
    since = reader.head + 1
    if not _given(run, order):
        return _not_running(run, order)
    place = near(run.path)
    if options.no_wait:
        hint(f"{order.order} ordered: {place}")
        return 0
    hint(f"{order.order} ordered: {place}; waiting for its end (Ctrl-C ends only the waiting)")
    return _told(run, order, asyncio.run(_end(reader, since)))


def _given(run: RunDirectory, order: Order) -> bool:
    """Give the order; False when nobody runs there. Raises `JournalLocked` when somebody does who takes none."""
    for _ in range(_TRIES):
        if send(run.path, order):
            return True
        if run.state() != "running":
            return False
        time.sleep(_PAUSE)
    raise JournalLocked(
        f"run {run.run_id} lives but takes no orders",
        remedy=f"Send its process{_process(run.path)} a signal: SIGTERM suspends it",
        run=run.run_id,
    )


def _process(directory: Path) -> str:
    try:
        number = (directory / "LOCK").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return f" {number}" if number.isdigit() else ""


def _not_running(run: RunDirectory, order: Order) -> int:
    state = run.state()
    if state in _DONE[order.order]:
        say(f"{near(run.path)}: had ended already: {state}")
        return 0
    remedy = "`obzen journal check` tells what is whole" if state == "damaged" else "`obzen resume` goes on with it"
    raise NotFound(f"run {run.run_id} is not running: it is {state}", code="run_not_found", remedy=remedy, run=run.run_id)


async def _end(reader: SegmentReader, since: int) -> Record | None:
    """The record with which the run ended; None when its process ended without one."""
    end: Record | None = None
    async for entry in reader.tail(since, kinds=_ENDS):
        end = entry.record
    return end


def _told(run: RunDirectory, order: Order, end: Record | None) -> int:
    place = near(run.path)
    match end:
        case RunCompleted():
            say(f"{place}: drained")
            return 0
        case RunCancelled(_, reason):
            say(f"{place}: cancelled ({reason})")
            return 0 if order.order != "drain" else EXIT_FAILED
        case RunFailed(_, cause):
            say(f"{place}: failed: {cause.type or cause.code}: {cause.message}")
            return EXIT_FAILED
    state = run.state()
    say(f"{place}: its process ended without a word about its end" if state == "crashed" else f"{place}: {state}")
    return 0 if state in _DONE[order.order] else EXIT_FAILED
