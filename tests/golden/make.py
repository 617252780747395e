"""Write the golden runs of a version: `python -m tests.golden.make 0.1.0`. They are committed, and never made again.

A golden run is what a version left behind: every later one must read it, check it, replay it and go on with it. So this
is for a version whose format is still being made, or for the first runs of a new one.
"""

import asyncio
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec

import obzen_runtime as oz
from obzen_runtime.events import ActorStalled
from obzen_runtime.flow import pipeline
from obzen_runtime.host import opening
from obzen_runtime.journal import Retention, RunDirectory, SegmentJournal, SegmentOptions, fork, repair
from obzen_runtime.kernel import VERSION
from obzen_runtime.testing import samples
from tests.golden.kit import EXPECTED, HERE, SUMS, Golden, events_of, flows_of, kinds_of, module_of, pack, records_of, sums
from tests.golden.reading import codecs_of, gone_on, replayed

Made = Callable[[Any, oz.Flow], Coroutine[Any, Any, None]]


def start(flow: oz.Flow, **options: Any) -> oz.Handle:
    return oz.start(flow, journal=".", run_id="run", **options)


async def drain(flows: Any, flow: oz.Flow) -> None:
    """To its end."""
    async with start(flow) as handle:
        await handle.wait()


def until(event: Any, how: str, **options: Any) -> Made:
    """Until an event is in work; then `how`: `stop`, `cancel`, or `kill` (the directory as a killed process leaves it)."""

    async def made(flows: Any, flow: oz.Flow) -> None:
        flows.HOLD.update(at=event, reached=asyncio.Event(), go=asyncio.Event())
        async with start(flow, **options) as handle:
            async with asyncio.timeout(20.0):
                await flows.HOLD["reached"].wait()
            match how:
                case "kill":
                    shutil.copytree("run", "killed", ignore=_no_fifo)
                    await handle.cancel()
                case "cancel":
                    await handle.cancel()
                case "stop":
                    ended = asyncio.ensure_future(handle.stop())
                    await asyncio.sleep(0)
                    flows.HOLD["go"].set()
                    await ended
        flows.HOLD.clear()
        if how == "kill":
            await asyncio.to_thread(_put_killed_in_place)

    return made


def _put_killed_in_place() -> None:
    """The copy is the run; what still writes to the one that was cancelled is waited for."""
    for thread in threading.enumerate():
        if thread.name.startswith("obzen"):
            thread.join()
    shutil.rmtree("run")
    Path("killed").rename("run")


def _no_fifo(directory: str, names: list[str]) -> list[str]:
    return [name for name in names if not (Path(directory, name).is_file() or Path(directory, name).is_dir())]


def both(*steps: Made) -> Made:
    """One after the other."""

    async def made(flows: Any, flow: oz.Flow) -> None:
        for step in steps:
            await step(flows, flow)

    return made


async def fails(flows: Any, flow: oz.Flow) -> None:
    flows.HOLD.update(at=13)
    await drain(flows, flow)
    flows.HOLD.clear()


async def stalls(flows: Any, flow: oz.Flow) -> None:
    flows.HOLD["stalled"] = asyncio.Event()
    async with start(flow) as handle:
        async for _, record in handle.records():
            if isinstance(record, ActorStalled):
                break
        flows.HOLD["stalled"].set()
        await handle.wait()
    flows.HOLD.clear()


async def forks(flows: Any, flow: oz.Flow) -> None:
    await until(23, "cancel")(flows, flow)
    _fork_of_origin()


def _fork_of_origin() -> None:
    """The origin stays beside it."""
    Path("run").rename("origin")
    fork(RunDirectory(Path("origin")), Path(), "run", at=30, live=False)


async def drops(flows: Any, flow: oz.Flow) -> None:
    """Small segments, and those before the snapshots of a stop are let go."""
    small = partial(SegmentOptions, segment_bytes=2048)
    with patch.object(opening, "SegmentOptions", small), patch.object(pipeline, "_CHECKPOINT", 1024):
        await until(20, "stop")(flows, flow)
        await until(35, "cancel", retention=Retention(size=4096))(flows, flow)


async def loses(flows: Any, flow: oz.Flow) -> None:
    """Damaged in the middle, and repaired."""
    small = partial(SegmentOptions, segment_bytes=2048)
    with patch.object(opening, "SegmentOptions", small):
        await until(35, "cancel")(flows, flow)
    _damage_and_repair()


def _damage_and_repair() -> None:
    segment = sorted(Path("run", "journal").iterdir())[2]
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 0xFF
    segment.write_bytes(data)
    repair(Path("run"), accept_loss=True)


async def upgrades(flows: Any, flow: oz.Flow) -> None:
    """Begun under the first version of a class, gone on with under the second, and cancelled again."""
    await until(5, "cancel")(flows, flows.first_schema)
    await until(30, "cancel")(flows, flow)


async def written(flows: Any, flow: oz.Flow) -> None:
    """Every kind of record, every column: no flow made them."""
    journal = SegmentJournal.open(Path("run"))
    for record in module_of(Path(flows.__file__).parent, "records").RECORDS:
        journal.append([record])
    await journal.close()


RUNS: dict[str, tuple[str, Made]] = {
    "plain": ("plain", drain),
    "offsets": ("offsets", drain),
    "offsets_killed": ("offsets", until(17, "kill")),
    "bad_rows": ("bad_rows", drain),
    "json_files": ("json_files", drain),
    "sqlite": ("json_lines", drain),
    "lanes": ("lanes", drain),
    "fold_each": ("fold_each", drain),
    "fold_every": ("fold_every", drain),
    "fold_at_end": ("fold_at_end", drain),
    "keyed": ("keyed", drain),
    "keyed_each": ("keyed_each", drain),
    "top": ("top", drain),
    "join_inner": ("join_inner", drain),
    "join_inner_killed": ("join_inner", until(17, "kill")),
    "join_left": ("join_left", drain),
    "fan_in": ("fan_in", drain),
    "routed": ("routed", drain),
    "payloads": ("payloads", drain),
    "context": ("context", drain),
    "within_killed": ("within", until((1, 8500), "kill")),
    "letters": ("letters", drain),
    "failed": ("failed", fails),
    "restarts": ("restarts", drain),
    "aborted": ("aborted", drain),
    "stalled": ("stalled", stalls),
    "sensitive_in_doubt": ("sensitive", until(9, "kill")),
    "sensitive_resumed": ("sensitive", both(until(9, "kill"), drain)),
    "keyed_sink": ("keyed_sink", drain),
    "stopped": ("slow_state", until(20, "stop")),
    "stopped_resumed": ("slow_state", both(until(20, "stop"), drain)),
    "killed": ("stateful_held", until(20, "kill")),
    "killed_resumed": ("stateful_held", both(until(20, "kill"), until(30, "kill"), drain)),
    "forked": ("slow_state", forks),
    "dropped": ("slow_state", drops),
    "lost": ("slow_state", loses),
    "schema_first": ("first_schema", until(20, "cancel")),
    "schema_changed": ("second_schema", upgrades),
    "every_record": ("", written),
}


def make(directory: Path) -> None:
    """Write the runs of a version into its directory."""
    directory.mkdir(exist_ok=True)
    shutil.copy(HERE / "flows.py", directory / "flows.py")
    shutil.copy(samples.__file__, directory / "records.py")
    for old in directory.glob("*.tar.xz"):
        old.unlink()
    expected: dict[str, Golden] = {}
    flows = flows_of(directory)
    for name, (variable, made) in RUNS.items():
        with tempfile.TemporaryDirectory() as place:
            os.chdir(place)
            flows.write_inputs(Path("data"))
            flows.BROKEN[:] = [1] * (variable in ("letters", "restarts", "aborted"))
            flows.HOLD.clear()
            asyncio.run(made(flows, getattr(flows, variable, flows.plain)))
            (directory / f"{name}.tar.xz").write_bytes(pack(Path(place)))
            flows.BROKEN.clear()
            expected[name] = described(flows, name, variable)
            print(f"{name:20} {expected[name].head:5} records {(directory / f'{name}.tar.xz').stat().st_size:6} bytes")  # noqa: T201
        os.chdir(HERE)
    (directory / EXPECTED).write_bytes(msgspec.json.format(msgspec.json.encode(expected), indent=1) + b"\n")
    (directory / SUMS).write_text("".join(f"{sha}  {name}\n" for name, sha in sums(directory).items()), encoding="utf-8")


def described(flows: Any, name: str, variable: str) -> Golden:
    """What is in the run that stands here, and what comes of going on with it."""
    records = records_of(Path("run"))
    head, kinds = records[-1][0], kinds_of(records)
    if not variable:
        return Golden(flow="", again="", head=head, kinds=kinds, events={}, report="")
    flow = getattr(flows, variable)
    again = "second_schema" if variable == "first_schema" else variable
    certified = replayed(flow, Path("run"))
    events = events_of(records, codecs_of(flow, Path("run"), records))
    report, resumed = gone_on(getattr(flows, again), Path("run"))
    return Golden(flow=variable, again=again, head=head, kinds=kinds, events=events, report=report, resumed=resumed, certified=certified)


if __name__ == "__main__":
    make(HERE / (sys.argv[1] if len(sys.argv) > 1 else VERSION))
