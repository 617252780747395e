"""Sources read without a flow, and a row of every type a cell can hold."""

import asyncio
import datetime
import decimal
import enum
import uuid
from pathlib import Path

import msgspec

import obzen_runtime as oz
from obzen_runtime.stages import At, Bad, Progress


class Row(msgspec.Struct, frozen=True):
    id: int
    text: str
    size: float | None = None


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Every(msgspec.Struct, frozen=True):
    whole: int
    real: float
    truth: bool
    text: str
    data: bytes
    money: decimal.Decimal
    moment: datetime.datetime
    day: datetime.date
    time: datetime.time
    span: datetime.timedelta
    key: uuid.UUID
    colour: Colour
    maybe_whole: int | None
    maybe_truth: bool | None
    maybe_day: datetime.date | None
    maybe_colour: Colour | None


def read(source, progress=None):
    """All that a source gives, bad rows included."""
    given = source.handler(**source.bound, progress=progress or Progress())
    return [each.item if isinstance(each, At) else each for each in given]


def good(items):
    return [item for item in items if not isinstance(item, Bad)]


def told(items):
    """Place and message of each bad row."""
    return [(item.place, item.error.message) for item in items if isinstance(item, Bad)]


def written(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def play(*paths, **options):
    """Run a flow in memory to its end; returns the report."""

    async def main():
        async with oz.start(oz.Flow("connect", *paths, **options), journal=oz.MemoryJournal()) as handle:
            return await handle.wait()

    return asyncio.run(main())
