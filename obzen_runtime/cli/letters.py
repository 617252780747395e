"""`obzen dead-letters`: which events could not be processed and why, and a new run that takes them up again."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from obzen_runtime.cli.find import Last, Run, Runs, WhichOptions, which
from obzen_runtime.cli.loading import Loaded, Settings, load_started, settings_from
from obzen_runtime.cli.say import hint, say
from obzen_runtime.cli.show import json_text, letter_origin, payloads_of, plain, short
from obzen_runtime.cli.watching import TellOptions, watched
from obzen_runtime.events import DeadLetter, Record
from obzen_runtime.flow import Flow, Requeue, Wanted, refusal, requeued, source_name
from obzen_runtime.host import Origin, execute, near
from obzen_runtime.journal import Entry, RunDirectory, SegmentReader, list_runs
from obzen_runtime.kernel import UsageError, counted

__all__ = ["LettersOptions", "Plan", "dead_letters", "plan_of"]

_LETTERS: frozenset[type[Record]] = frozenset({DeadLetter})


class LettersOptions(TellOptions, frozen=True, kw_only=True):
    """What `obzen dead-letters` takes."""

    json: Annotated[bool, typer.Option("--json", help="A line of JSON for each letter; with --requeue the report of the new run.")] = False
    run: Run = None
    last: Last = False
    runs: Runs = "runs"
    stage: Annotated[str | None, typer.Option("--stage", metavar="NAME", help="Only those of this stage.")] = None
    code: Annotated[str | None, typer.Option("--code", metavar="CODE", help="Only those with this error code or exception type.")] = None
    requeue: Annotated[bool, typer.Option("--requeue", help="Start a new run whose only input are their events.")] = False
    flow: Annotated[
        str, typer.Option("--flow", metavar="FILE[:VARIABLE]", help="Where the flow stands, if not where it was started from.")
    ] = ""
    run_id: Annotated[str | None, typer.Option("--run-id", metavar="NAME", help="With --requeue: a name for the new run.")] = None
    set: Annotated[
        list[str], typer.Option("--set", metavar="STAGE.PARAMETER=VALUE", help="With --requeue: set a parameter, such as a sink's path.")
    ] = []  # noqa: RUF012 - a struct copies it


def dead_letters(options: LettersOptions) -> int:
    """List a run's dead letters: the error, where it was, the event and its payload.

    With --requeue a new run of the same flow takes them up, its code as it is today: the events are given to the
    stages that failed, and everything behind those is done; what stands before them does not run. State begins
    empty. The run that has the letters is not changed. Exit codes are those of `obzen run`.
    """
    run = which(WhichOptions(run=options.run, last=options.last, runs=options.runs))
    wanted = Wanted(options.stage, options.code)
    if options.requeue:
        return _requeue(run, wanted, options)
    if options.run_id is not None or options.flow or options.set:
        raise UsageError("--run-id, --set and --flow go with --requeue", remedy="Add --requeue to start a run")
    counts = asyncio.run(_list(run, wanted, as_json=options.json))
    if not options.quiet:
        hint(_counted(counts) if counts else "there are no dead letters" if wanted == Wanted() else "no dead letter matches")
    return 1 if options.strict and counts else 0


async def letters_of(reader: SegmentReader, wanted: Wanted, stop: int | None = None) -> AsyncIterator[Entry]:
    """The wanted letters of a journal, before position `stop`."""
    async for entry in reader.read(0, stop, kinds=_LETTERS):
        if isinstance(entry.record, DeadLetter) and wanted.holds(entry.record):
            yield entry


async def _list(run: RunDirectory, wanted: Wanted, *, as_json: bool) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    async for position, letter in letters_of(SegmentReader.open(run.path), wanted):
        assert isinstance(letter, DeadLetter)
        counts[letter.stage, letter.error.type or letter.error.code] += 1
        say(_value(position, letter) if as_json else _line(letter))
    return counts


def _counted(counts: Counter[tuple[str, str]]) -> str:
    total = counts.total()
    kinds = ", ".join(f"{stage} {kind} {count:,}" for (stage, kind), count in counts.most_common())
    return f"{counted(total, 'dead letter')}: {kinds}"


def _payload(letter: DeadLetter) -> Any:
    found = payloads_of(b"\x91" + letter.payload) if letter.upstream else None
    return found[0] if found else letter.payload.decode("utf-8", "replace")


def _line(letter: DeadLetter) -> str:
    error = letter.error
    head = f"dead_letters@{letter.ordinal}  {letter.stage}{letter_origin(letter)}"
    payload = short(plain(json_text(_payload(letter)))) if letter.payload else ""
    return f"{head}  {error.type or error.code}: {short(plain(error.message))}{f'  {payload}' if payload else ''}"


def _value(position: int, letter: DeadLetter) -> str:
    head: dict[str, Any] = {
        "position": position,
        "id": f"dead_letters@{letter.ordinal}",
        "stage": letter.stage,
        "at": letter.at,
        "event": f"{letter.upstream}@{letter.event}" if letter.upstream else None,
        "place": letter.place,
        "error": letter.error,
    }
    return f'{msgspec.json.encode(head).decode()[:-1]},"payload":{json_text(_payload(letter))}}}'


# -- requeue --------------------------------------------------------------------------------------


class Plan(msgspec.Struct, frozen=True):
    """What a requeue takes up, and what it cannot."""

    requeue: Requeue
    taken: dict[str, int] = {}
    """Letters by the stage that failed."""
    refused: dict[tuple[str, str], int] = {}
    """Letters by stage and reason."""


async def plan_of(run: RunDirectory, flow: Flow, wanted: Wanted) -> Plan:
    """Look through a run's letters."""
    reader = SegmentReader.open(run.path)
    upto = reader.head
    taken: Counter[str] = Counter()
    refused: Counter[tuple[str, str]] = Counter()
    stages: dict[str, dict[str, None]] = {}
    async for _, letter in letters_of(reader, wanted, upto + 1):
        assert isinstance(letter, DeadLetter)
        why = refusal(letter, flow)
        if why:
            refused[letter.stage, why] += 1
        else:
            taken[letter.stage] += 1
            stages.setdefault(letter.stage, {})[letter.upstream] = None
    place = str(run.path.resolve())
    return Plan(
        Requeue(run=place, upto=upto, wanted=wanted, stages={stage: tuple(ups) for stage, ups in stages.items()}),
        dict(taken),
        dict(refused),
    )


def _requeue(run: RunDirectory, wanted: Wanted, options: LettersOptions) -> int:
    if options.run_id is not None and RunDirectory(run.path.parent / options.run_id).exists:
        raise UsageError(f"run {options.run_id} exists in {run.path.parent}", remedy="Choose another name; `obzen resume` goes on with it")
    loaded = load_started(run, override=options.flow)
    plan = asyncio.run(plan_of(run, loaded.flow, wanted))
    for (stage, why), count in plan.refused.items():
        hint(f"not requeued: {count:,} of {stage}, which {why}")
    if not plan.taken:
        hint("there is nothing to requeue")
        return 0
    settings = settings_from(options.set)
    flow = requeued(loaded.flow, plan.requeue).bind(settings)
    _keep_files(run, flow, settings)
    if not options.quiet:
        _tell(run, plan, flow)
    how = partial(execute, flow, journal=str(run.path.parent), run_id=options.run_id, origin=_origin(run, loaded, plan.requeue))
    return watched(how, options)


def _keep_files(run: RunDirectory, flow: Flow, settings: Settings) -> None:
    """A sink begins its file anew: refuse one that the old run wrote, unless it was named."""
    for name, node in flow.topology.nodes.items():
        for parameter, value in node.bound.items():
            named = parameter in settings.get(name, {})
            if node.kind == "sink" and isinstance(value, Path) and value.exists() and not named:
                raise UsageError(
                    f"{name}.{parameter} is {value}, which run {run.run_id} may have written, and the new run would write it anew",
                    remedy=f"Give another: --set {name}.{parameter}=PATH; or the same, to write over it",
                )


def _origin(run: RunDirectory, loaded: Loaded, requeue: Requeue) -> Origin:
    return Origin(
        file=str(loaded.file.resolve()), variable=loaded.variable, run=run.run_id, options={"requeue": msgspec.to_builtins(requeue)}
    )


def _tell(run: RunDirectory, plan: Plan, flow: Flow) -> None:
    nodes = flow.topology.nodes
    for stage, count in plan.taken.items():
        hint(f"requeued: {counted(count, 'event')} to {stage}, from {source_name(stage)}")
    stateful = [name for name, node in nodes.items() if node.kind in ("fold", "stateful", "top")]
    if stateful:
        hint(f"  {', '.join(stateful)} begin{'s' if len(stateful) == 1 else ''} empty: what comes of them is of these events alone")
    place = str(run.path.resolve())
    for summary in list_runs(Path(run.path.parent)):
        before = summary.manifest.options.get("requeue") if summary.manifest is not None else None
        if isinstance(before, dict) and before.get("run") == place:
            began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(summary.manifest.started_ms / 1000)) if summary.manifest else ""
            hint(f"  letters of this run were requeued before: {near(summary.run.path)} at {began}, {summary.state}")
