"""A run that owns its process: it takes the signals, and ends the process when a handler never lets go."""

import asyncio
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, TypedDict, Unpack

from obzen_runtime.flow import Cancel, Flow, StopFlow
from obzen_runtime.host.handle import Handle
from obzen_runtime.host.opening import Opening, Origin
from obzen_runtime.host.report import FlowFailed, Report, footer
from obzen_runtime.journal import Journal, Retention
from obzen_runtime.kernel import UsageError

try:
    _new_loop: Callable[[], asyncio.AbstractEventLoop] = import_module("uvloop").new_event_loop
except ImportError:  # the extra [fast] is not installed
    _new_loop = asyncio.new_event_loop

__all__ = ["execute", "resume", "run"]

_SWITCH_INTERVAL = 0.0002


class Wishes(TypedDict, total=False):
    """The fields of `Opening` that a caller of `execute` may set."""

    journal: str | Path | Journal
    durability: str | None
    run_id: str | None
    resume: bool
    allow_code_change: bool
    origin: Origin | None
    retention: str | Retention | None
    max_bytes: int | None


def run(
    flow: Flow,
    *,
    journal: str | Path | Journal = "runs",
    durability: str | None = None,
    run_id: str | None = None,
    retention: str | Retention | None = None,
    max_bytes: int | None = None,
) -> Report:
    """Run a flow to its end and return the report. Owns the process: SIGINT and SIGTERM suspend, a second one cancels.

    With the `run_id` of an earlier run that one is resumed: what it had committed stays, the rest is done. As for
    `start`; and when the journal has grown to `max_bytes` the run is suspended, to be resumed with more.
    Raises `FlowFailed` when the flow failed. After a suspension by a signal it raises what the signal would have
    been without us: `KeyboardInterrupt`, or `SystemExit(143)` for SIGTERM.
    """
    wishes = Wishes(journal=journal, durability=durability, run_id=run_id, retention=retention, max_bytes=max_bytes)
    return _told(*execute(flow, **wishes))


def resume(flow: Flow, run: str | Path, *, journal: str | Path = "runs", allow_code_change: bool = False) -> Report:
    """Go on with a cancelled, failed or crashed run, from its last committed position, and return the report. As `run`.

    `run` is its id, the beginning of one, `--last`, or its directory; `journal` the directory that holds runs. A run
    that has drained is not touched: its report comes back. Raises `JournalLocked` while the run lives, and
    `FlowInvalid` (`flow_changed`, `code_changed`) when the flow is not the one that was started; with
    `allow_code_change` changed code of stages with state, and other parameters, are taken as they are.
    """
    return _told(*execute(flow, journal=journal, run_id=str(run), resume=True, allow_code_change=allow_code_change))


def _told(report: Report, number: int | None) -> Report:
    sys.stderr.write(footer(report) + "\n")
    if report.state == "failed":
        raise FlowFailed(report)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    if number is not None:
        raise SystemExit(128 + number)
    return report


def execute(flow: Flow, watch: Callable[[Handle], Any] | None = None, **wishes: Unpack[Wishes]) -> tuple[Report, int | None]:
    """As `run`, but returns the report whatever the end was, with the signal that ended it.

    `watch(handle)` may return a coroutine that is run beside the flow and cancelled at its end. `resume` wants a run that
    is there already.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        """No loop runs in this thread: we may own it."""
    else:
        raise UsageError("oz.run was called inside a running event loop", remedy="Use `async with oz.start(flow) as handle` there.")
    if threading.current_thread() is not threading.main_thread():
        raise UsageError(
            "oz.run was called outside the main thread, where no signals can be taken over",
            remedy="Run there, or embed with `async with oz.start(flow) as handle`.",
        )
    handle_of = partial(Handle, flow, Opening(owns_process=True, **wishes))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_INTERVAL)
    try:
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            return runner.run(_execute(handle_of, watch))
    finally:
        sys.setswitchinterval(interval)


async def _execute(handle_of: Callable[[], Handle], watch: Callable[[Handle], Any] | None) -> tuple[Report, int | None]:
    handle = handle_of()
    first: list[int] = []

    def on_signal(number: int) -> None:
        first.append(number)
        handle.pipeline.command(StopFlow("user_stop") if len(first) == 1 else Cancel("user_cancel"))

    handle.begin(signals=on_signal)
    watching = watch(handle) if watch is not None else None
    beside = asyncio.ensure_future(watching) if watching is not None else None
    try:
        report = await handle.wait()
    finally:
        if beside is not None:
            beside.cancel()
            await asyncio.wait([beside])
    return report, first[0] if first and report.state != "drained" else None
