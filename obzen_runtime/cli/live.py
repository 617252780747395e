"""What a run looks like while it runs: a table on a terminal, a line now and then in a log.

Sampling reads counters that exist anyway, five times a second; rendering is a pure function of a sample.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence

import msgspec
from rich.cells import cell_len, set_cell_size

from obzen_runtime.cli.say import hint
from obzen_runtime.cli.screen import Screen
from obzen_runtime.host import Handle
from obzen_runtime.kernel import counted

__all__ = ["Lines", "Row", "Snapshot", "Table", "render", "snapshot"]

_PERIOD = 0.2
_RATE_SAMPLES = 6  # the last second, at five samples a second
_LOG_PERIOD = 5.0
_HEAD = ("stage", "state", "in", "out", "events/s", "waiting", "dead", "progress")
_DEAD = _HEAD.index("dead")
_SPARE = tuple(map(_HEAD.index, ("waiting", "events/s", "out", "state", "progress", "in")))
"""Columns that go where the terminal is narrow, the first to go first."""
_SUSPENDING = "suspending"
_SHOWN_AS = {_SUSPENDING: "suspending (a second Ctrl-C cancels)"}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One stage at one moment; counts are events."""

    name: str
    state: str
    received: int = 0
    emitted: int = 0
    rate: float = 0.0
    """Events received a second, over the last second."""
    waiting: int = 0
    """Events in its inputs."""
    dead: int = 0
    progress: float | None = None
    """Share of a source's input that is read, 0 to 1, where the whole is known."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A run at one moment."""

    flow: str
    state: str
    seconds: float
    """Since its start."""
    place: str = ""
    """The run's directory, or empty for a run in memory."""
    rows: tuple[Row, ...] = ()


def render(shown: Snapshot, width: int = 80, height: int = 24) -> list[str]:
    """The lines of a table no wider and no higher than that."""
    rows = [_HEAD, *map(_cells, shown.rows)]
    cut = len(rows) - max(2, height - 3)
    if cut > 0:
        rows = [*rows[: -cut - 1], _others(shown.rows[-cut - 1 :])]
    place = f"  {shown.place}" if shown.place else ""
    lines = [f"{shown.flow}: {_SHOWN_AS.get(shown.state, shown.state)}  {_time(shown.seconds)}{place}"]
    widths = _widths(rows, width)
    lines += ["  ".join(_aligned(row[column], wide, column) for column, wide in widths.items()).rstrip() for row in rows]
    return [line if cell_len(line) < width else set_cell_size(line, max(1, width - 2)) + "…" for line in lines]


def _others(rows: Sequence[Row]) -> tuple[str, ...]:
    """One line for the stages that have no room; what has died there is told all the same."""
    cells = [f"… and {len(rows)} more stages", *("" for _ in _HEAD[1:])]
    cells[_DEAD] = _count(sum(row.dead for row in rows))
    return tuple(cells)


def _widths(rows: Sequence[tuple[str, ...]], width: int) -> dict[int, int]:
    """The columns that are shown, those that say something as far as they fit, with their widths."""
    used = [column for column in range(len(_HEAD)) if column < 5 or any(row[column] for row in rows[1:])]
    widths = {column: max(cell_len(row[column]) for row in rows) for column in used}
    for column in _SPARE:
        if sum(widths.values()) + 2 * len(widths) - 2 < width:
            break
        widths.pop(column, None)
    return widths


def _aligned(cell: str, wide: int, column: int) -> str:
    space = " " * (wide - cell_len(cell))
    return cell + space if column < 2 else space + cell


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.name,
        row.state,
        _count(row.received),
        _count(row.emitted),
        _rate(row.rate),
        _count(row.waiting),
        _count(row.dead),
        f"{row.progress:.0%}" if row.progress is not None else "",
    )


def _count(number: int) -> str:
    return f"{number:,}" if number else ""


def _rate(rate: float) -> str:
    if rate < 9.95:
        return f"{rate:.1f}" if rate >= 0.05 else ""
    return f"{rate:,.0f}"


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def snapshot(handle: Handle, place: str, seconds: float, rates: dict[str, float]) -> Snapshot:
    """How a run stands now."""
    pipeline = handle.pipeline
    progress = {name: source.progress.share for name, source in pipeline.sources.items()}
    rows = tuple(
        Row(
            name=name,
            state=pipeline.states[name],
            received=int(counts["received"]),
            emitted=int(counts["emitted"]),
            rate=rates.get(name, 0.0),
            waiting=int(counts["waiting"]),
            dead=int(counts["dead"]),
            progress=progress.get(name),
        )
        for name, counts in handle.metrics().items()
    )
    return Snapshot(flow=handle.flow.name, state=handle.state, seconds=seconds, place=place, rows=rows)


class Rates:
    """Events a second per stage over the last second of samples."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, dict[str, float]]] = deque(maxlen=_RATE_SAMPLES)

    def take(self, now: float, received: dict[str, float]) -> dict[str, float]:
        """Add a sample of what each stage has received in all."""
        self._samples.append((now, received))
        then, before = self._samples[0]
        return {name: (count - before.get(name, 0.0)) / (now - then) for name, count in received.items()} if now > then else {}


class Table:
    """The live table. Enter it around the run; `watch` is what `execute` runs beside the flow."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._rates = Rates()
        self._began = time.monotonic()
        self._handle: Handle | None = None

    async def watch(self, handle: Handle) -> None:
        """Draw five times a second."""
        self._handle = handle
        await handle.begun.wait()
        while True:
            now = time.monotonic()
            received = {name: counts["received"] for name, counts in handle.metrics().items()}
            self._draw(self._rates.take(now, received))
            await asyncio.sleep(_PERIOD)

    def finish(self) -> None:
        """Draw it a last time, as the run ended; its rates are those of the whole run."""
        if self._handle is not None and self._handle.begun.is_set():
            seconds = max(time.monotonic() - self._began, 1e-6)
            self._draw({name: counts["received"] / seconds for name, counts in self._handle.metrics().items()})

    def _draw(self, rates: dict[str, float]) -> None:
        assert self._handle is not None
        shown = snapshot(self._handle, str(self._handle.directory or ""), time.monotonic() - self._began, rates)
        self._screen.draw(render(shown, *self._screen.size()))


class Lines:
    """For a standard error that is no terminal: a line at the start, one every five seconds, and one when it is asked to suspend."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    async def watch(self, handle: Handle) -> None:
        """Print lines for as long as the flow runs."""
        await handle.begun.wait()
        if handle.earlier:
            return
        place = f" in {handle.directory}" if handle.directory else " in memory"
        hint(f"{handle.flow.name}: run {handle.run_id} {'resumed' if handle.resumed else 'started'}{place}")
        said, before = time.monotonic(), ""
        while True:
            await asyncio.sleep(_PERIOD)
            now, state = time.monotonic(), handle.state
            if now - said >= _LOG_PERIOD or before != state == _SUSPENDING:
                said = now
                hint(line(snapshot(handle, "", now - self._began, {})))
            before = state

    def finish(self) -> None:
        """The footer says how it ended."""


def line(shown: Snapshot) -> str:
    """A run in one line."""
    dead = sum(row.dead for row in shown.rows)
    letters = f", {counted(dead, 'dead letter')}" if dead else ""
    return f"{shown.flow}: {_SHOWN_AS.get(shown.state, shown.state)} {_time(shown.seconds)}, {_counts(shown.rows)}{letters}"


def _counts(rows: Sequence[Row]) -> str:
    return ", ".join(f"{row.name} {row.received or row.emitted:,}" for row in rows)
