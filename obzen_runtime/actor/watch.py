"""The watchdog: one thread that sees what the loop cannot say of itself, that it is held.

The loop answers a ping; an answer that does not come means some handler keeps the thread. After `held_after`
seconds that is reported with the name of the task at work and its stack, once per hold. When an order to end has a
deadline and the loop is still held at that time, a process that the runtime owns ends at once with exit code 75: for
the journal an ordinary crash. The same happens some seconds later to a run that hangs without holding the loop.

Signals come here too where the runtime owns the process: the interpreter's C handler writes the signal's number
into a socket even while Python code runs for ever, and this thread reads it. What cannot be helped: code in C that
never gives the interpreter's lock back, and a process forked without exec, which shares the socket.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

from obzen_runtime.kernel import UsageError

__all__ = ["EXIT_HELD", "Watchdog"]

EXIT_HELD = 75
_HANGS = 8.0
_AGAIN = 2.0
_SAYING = 0.5
_PLACES = 12
_LOG = logging.getLogger("obzen")


class Watchdog:
    """Watches one loop.

    `on_held(name, seconds, stack)` and `on_signal(number)` are called on the loop's thread once it is free, and not
    after `stop`. Times are seconds: a hold is reported after `held_after`, the loop is looked at every `period`, a
    process that is owned and got a signal has `stop_within` to end before a held loop ends it.
    """

    def __init__(
        self,
        *,
        held_after: float = 1.0,
        period: float = 0.25,
        stop_within: float = 30.0,
        owns_process: bool = False,
        on_held: Callable[[str, float, str], None] | None = None,
    ) -> None:
        self.held_after = held_after
        self.period = period
        self.stop_within = stop_within
        self.owns_process = owns_process
        self.on_held = on_held
        self.on_signal: Callable[[int], None] | None = None
        self._deadline: float | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main = 0
        self._beat = 0.0
        self._asked = False
        self._reported = False
        self._stopped = False
        self._ears: tuple[socket.socket, socket.socket] | None = None
        self._thread: threading.Thread | None = None
        self._signals: dict[int, object] = {}
        self._old_wakeup = -1

    def end_by(self, seconds: float) -> None:
        """A process that is owned ends `seconds` from now if the loop is held then; an earlier deadline stands."""
        when = time.monotonic() + seconds
        self._deadline = when if self._deadline is None else min(self._deadline, when)

    def start(
        self, loop: asyncio.AbstractEventLoop, *, signals: tuple[int, ...] = (), on_signal: Callable[[int], None] | None = None
    ) -> None:
        """Begin watching; with `signals` they are taken over until `stop`.

        Raises `UsageError` when it watches already, and for signals outside the main thread.
        """
        if self._thread is not None:
            raise UsageError("the watchdog watches a loop already", remedy="Stop it first, or make another one.")
        if signals and threading.current_thread() is not threading.main_thread():
            raise UsageError(
                "signals can only be taken over in the main thread",
                remedy="Run there, or embed with `async with oz.start(flow)`, which leaves signals alone.",
            )
        self._loop, self._main, self._beat = loop, threading.get_ident(), time.monotonic()
        self._asked = self._reported = self._stopped = False
        self._ears = reader, writer = socket.socketpair()
        reader.settimeout(self.period)
        writer.setblocking(False)
        self.on_signal = on_signal
        if signals:
            for number in signals:
                self._signals[number] = signal.signal(number, _ignore)
            self._old_wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, args=(reader,), name="obzen-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching and give signals back. Idempotent."""
        if self._thread is None or self._ears is None:
            return
        self._stopped = True
        reader, writer = self._ears
        if self._signals:
            for number, handler in self._signals.items():
                # None: the handler before ours was not set from Python, so it cannot be set from there again
                signal.signal(number, signal.SIG_DFL if handler is None else handler)  # type: ignore[arg-type]
            signal.set_wakeup_fd(self._old_wakeup)
            self._signals.clear()
        with contextlib.suppress(BlockingIOError):  # it is full: the thread wakes anyway
            writer.send(b"\0")
        self._thread.join(timeout=2 * self.period + _SAYING)
        reader.close()
        writer.close()
        self._thread = None

    def _watch(self, reader: socket.socket) -> None:
        hits = 0
        while not self._stopped:
            try:
                numbers = reader.recv(64)
            except TimeoutError:
                numbers = b""
            for number in numbers:
                if number in self._signals:
                    hits += 1
                    self._signal(number, hits)
                elif number and self._old_wakeup >= 0:
                    os.write(self._old_wakeup, bytes([number]))  # somebody else's, such as loop.add_signal_handler
            if not self._stopped:
                self._look(time.monotonic())

    def _signal(self, number: int, hits: int) -> None:
        self.end_by(self.stop_within if hits == 1 else _AGAIN)
        if self.on_signal is not None:
            self._call(self.on_signal, number)

    def _look(self, now: float) -> None:
        if not self._asked:
            self._asked = True
            self._reported = False
            self._beat = now
            self._call(self._answer)
        held = now - self._beat
        if held >= self.held_after and not self._reported:
            self._reported = True
            name, stack = self._holder(), self._stack()
            if self.on_held is not None:
                self._call(self.on_held, name, held, stack)
            _say(logging.WARNING, f"{name} holds the loop for {held:.1f} s; others wait. Its stack:\n{stack}")
        if self._deadline is None or not self.owns_process or now < self._deadline:
            return
        if held >= 2 * self.period or now >= self._deadline + _HANGS:
            _say(logging.ERROR, f"{self._holder()} has not ended by the deadline; ending the process with exit code {EXIT_HELD}")
            os._exit(EXIT_HELD)

    def _answer(self) -> None:
        self._asked = False

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        def unless_stopped() -> None:
            if not self._stopped:
                function(*arguments)

        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(unless_stopped)
        except RuntimeError:  # the loop has closed: there is nothing left to watch
            self._stopped = True

    def _holder(self) -> str:
        """Whose code runs: an actor's task bears its name."""
        task = asyncio.current_task(self._loop)
        return task.get_name().removeprefix("obzen ") if task is not None else "the loop"

    def _stack(self) -> str:
        """The innermost places of the loop's thread. No source lines: reading files while it is held takes as long as the hold."""
        frame = sys._current_frames().get(self._main)  # noqa: SLF001 - the one way to see another thread's stack
        places: list[str] = []
        while frame is not None and len(places) < _PLACES:
            places.append(f'  File "{frame.f_code.co_filename}", line {frame.f_lineno}, in {frame.f_code.co_name}')
            frame = frame.f_back
        return "\n".join(reversed(places))


def _say(level: int, text: str) -> None:
    """Log from a thread of its own: who holds the loop may hold the log's lock, and that must not stop the watchdog too."""
    saying = threading.Thread(target=_LOG.log, args=(level, "%s", text), name="obzen-watchdog-log", daemon=True)
    saying.start()
    saying.join(_SAYING)


def _ignore(number: int, frame: object) -> None:
    """A Python-level handler must exist for the C handler to write to the wake-up socket."""
