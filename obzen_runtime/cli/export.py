"""`obzen export`: a run's events, or its records, as lines of JSON for other programs.

Streams in one pass, beside a living writer too; payloads are read without the flow's code: bytes as base64, moments
as RFC 3339 text, keys as text. A file is there whole or not at all.
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, TextIO

import msgspec
import typer

from obzen_runtime.cli.find import WhichOptions, which
from obzen_runtime.cli.inspect import Events, check_stage, concerns
from obzen_runtime.cli.say import hint
from obzen_runtime.cli.show import Event, json_text, kind_of
from obzen_runtime.events import Block, DeadLetter, Record, StageInfo
from obzen_runtime.host import near
from obzen_runtime.journal import SegmentReader, run_started
from obzen_runtime.kernel import UsageError

__all__ = ["ExportOptions", "export", "lines"]

_EVENTS: frozenset[type[Record]] = frozenset({Block, DeadLetter})


class ExportOptions(WhichOptions, frozen=True, kw_only=True):
    """What `obzen export` takes."""

    jsonl: Annotated[bool, typer.Option("--jsonl", help="Lines of JSON, the only format.", show_default=False)] = True
    stage: Annotated[str | None, typer.Option("--stage", metavar="NAME", help="Only this stage; dead_letters for the letters.")] = None
    records: Annotated[bool, typer.Option("--records", help="Records as they stand in the journal, instead of events.")] = False
    to: Annotated[str | None, typer.Option("--to", metavar="FILE", help="Write to this file, which is replaced when all is written.")] = (
        None
    )


def export(options: ExportOptions) -> int:
    """Write a run's events as lines of JSON: id, stage, type, at, parents, payload.

    `at` is in milliseconds since 1970 UTC; parents are ids, or ranges `stage@first..last` where an event comes from many.
    With --records, what the journal holds, payloads as base64 of their msgpack form.
    """
    reader = SegmentReader.open(which(options).path)
    with _target(options.to) as stream:
        count = asyncio.run(_write(reader, options, stream))
    if options.to is not None:
        hint(f"{count:,} {'records' if options.records else 'events'}: {near(options.to)}")
    return 0


@contextlib.contextmanager
def _target(name: str | None) -> Iterator[TextIO]:
    if name is None:
        yield sys.stdout
        return
    path = Path(name)
    if path.is_dir():
        raise UsageError(f"--to {name} is a directory", remedy="Give a file")
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", encoding="utf-8") as stream:
            yield stream
        part.replace(path)
    except OSError as error:
        error.filename = name  # what the user knows
        raise
    finally:
        part.unlink(missing_ok=True)


async def _write(reader: SegmentReader, options: ExportOptions, stream: TextIO) -> int:
    count = 0
    async for line in lines(reader, options.stage, records=options.records):
        stream.write(f"{line}\n")
        count += 1
    return count


async def lines(reader: SegmentReader, stage: str | None = None, *, records: bool = False) -> AsyncIterator[str]:
    """The lines for a journal. Raises `UsageError` for a stage that the run does not have."""
    started = await run_started(reader)
    infos: tuple[StageInfo, ...] = started.stages if started is not None else ()
    if started is not None:
        check_stage(started, stage)
    if records:
        async for position, record in reader.read():
            if stage is None or concerns(record, stage):
                yield json_text({"position": position, **msgspec.to_builtins(record), "kind": kind_of(record)})
        return
    events = Events(infos, stage)
    kinds = None if events.remembers else _EVENTS
    async for entry in reader.read(kinds=kinds):
        events.feed(entry.record)
        at = getattr(entry.record, "at", 0)
        for event in events.of(entry):
            yield line_of(event, at)


def line_of(event: Event, at: int) -> str:
    """An event as a line of JSON."""
    head = {"id": event.id, "stage": event.id.rpartition("@")[0], "type": event.type, "at": at, "parents": list(map(str, event.parents))}
    return f'{msgspec.json.encode(head).decode()[:-1]},"payload":{json_text(event.payload)}}}'
