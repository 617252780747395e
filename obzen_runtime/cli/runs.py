"""`obzen runs`: which runs there are and how they stand."""

import asyncio
import datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from obzen_runtime.cli.command import Common
from obzen_runtime.cli.say import hint, say
from obzen_runtime.cli.show import plain
from obzen_runtime.events import Block, Checkpoint, Record, RunStarted
from obzen_runtime.journal import Entry, RunSummary, SegmentReader, list_runs, run_started
from obzen_runtime.kernel import NotFound, ObzenError

__all__ = ["ListOptions", "RunLine", "line_of", "runs", "sizes"]

_TAIL = 512
"""Records at the end of a log that are looked through."""


class ListOptions(Common, frozen=True, kw_only=True):
    """What `obzen runs` takes."""

    directory: Annotated[str, typer.Argument(metavar="DIR", help="The directory that holds the runs.")] = "runs"
    json: Annotated[bool, typer.Option("--json", help="A line of JSON for each run.")] = False


class RunLine(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown of a run."""

    run: str
    flow: str
    state: str
    started_ms: int
    """Wall time, milliseconds since 1970 UTC; 0 when it is not known."""
    seconds: float | None = None
    """From its start to its last record."""
    events: int | None = None
    """Events its sources wrote, as far as the end of the log tells."""
    size: int = 0
    """Bytes of all its files."""
    epoch: int = 1
    """Processes that worked on it, one after the other."""
    origin: str = ""
    """The run it was forked from, or whose dead letters it takes up."""
    requeue: bool = False
    """It takes up dead letters."""


def runs(options: ListOptions) -> int:
    """List the runs in a directory, the newest first."""
    base = Path(options.directory)
    if not base.is_dir():
        raise NotFound(
            f"there is no directory {base}", code="run_not_found", remedy="Start a run with `obzen run FILE`, or give the directory"
        )
    found = [asyncio.run(line_of(summary)) for summary in list_runs(base)]
    if options.json:
        for each in found:
            say(msgspec.json.encode(each).decode())
    elif found:
        say(_table(found))
    if not found:
        hint(f"there is no run in {base}")
    return 0


async def line_of(summary: RunSummary) -> RunLine:
    """Read what is shown of a run: its first records and its last ones, not what lies between."""
    run, state, manifest = summary
    started: RunStarted | None = None
    tail: list[Entry] = []
    try:
        reader = SegmentReader.open(run.path)
        started = await run_started(reader)
        tail = [entry async for entry in reader.read(max(reader.first, reader.head - _TAIL))]
    except NotFound as error:  # it was killed before its first record
        if state != "crashed":
            hint(f"obzen: {run.run_id}: {error}")
    except (ObzenError, OSError) as error:
        state = state if state == "running" else "damaged"
        hint(f"obzen: {run.run_id}: {error}")
    began = manifest.started_ms if manifest is not None else started.at if started is not None else 0
    ended = max((getattr(entry.record, "at", 0) for entry in tail), default=0)
    sources = {info.name for info in started.stages if info.kind == "source"} if started is not None else set()
    return RunLine(
        run=run.run_id,
        flow=manifest.flow if manifest is not None else started.flow if started is not None else "?",
        state=state,
        started_ms=began,
        seconds=max(0, ended - began) / 1000 if ended and began else None,
        events=_events([entry.record for entry in tail], sources),
        size=sizes(run.path),
        epoch=max(1, run.epoch),
        origin=(manifest.origin or "") if manifest is not None else "",
        requeue=manifest is not None and "requeue" in manifest.options,
    )


def _events(tail: list[Record], sources: set[str]) -> int | None:
    written: dict[str, int] = {}
    for record in tail:
        match record:
            case Checkpoint():
                written.update({name: count for name, count in record.written.items() if name in sources})
            case Block(stage=stage) if stage in sources:
                written[stage] = record.base + record.count
    return sum(written.values()) if written else None


def sizes(directory: Path) -> int:
    """Bytes of all files in a directory."""
    total = 0
    for path in directory.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # a living run may take a file away
            continue
    return total


def _table(found: list[RunLine]) -> str:
    rows = [("run", "flow", "state", "started", "seconds", "events", "size"), *map(_cells, found)]
    notes = ["", *map(_note, found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(wide) if column > 3 else cell.ljust(wide) for column, (cell, wide) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        + (f"  {note}" if note else "")
        for row, note in zip(rows, notes, strict=True)
    )


def _note(run: RunLine) -> str:
    """What is worth knowing of a run that is not like others."""
    came = f"letters of {run.origin}" if run.requeue else f"fork of {run.origin}" if run.origin else ""
    resumed = f"epoch {run.epoch}" if run.epoch > 1 else ""
    return ", ".join(filter(None, (came, resumed)))


def _cells(run: RunLine) -> tuple[str, ...]:
    return (
        run.run,
        plain(run.flow),
        run.state,
        _moment(run.started_ms),
        "" if run.seconds is None else f"{run.seconds:,.1f}",
        "" if run.events is None else f"{run.events:,}",
        _bytes(run.size),
    )


def _moment(at: int) -> str:
    return datetime.datetime.fromtimestamp(at / 1000, datetime.UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S") if at else ""


def _bytes(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
