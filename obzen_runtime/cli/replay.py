"""`obzen replay`: the code of a flow run again against what a run recorded."""

from typing import Annotated

import msgspec
import typer

from obzen_runtime.cli.command import Common
from obzen_runtime.cli.find import Last, Run, Runs, WhichOptions, which
from obzen_runtime.cli.loading import load_started
from obzen_runtime.cli.proof import DIVERGED, MATCH, UNCERTAIN, proving
from obzen_runtime.cli.say import hint, say
from obzen_runtime.flow import ReplayReport, replay
from obzen_runtime.journal import RunDirectory
from obzen_runtime.kernel import counted

__all__ = ["ReplayOptions", "replay_run"]


class ReplayOptions(Common, frozen=True, kw_only=True):
    """What `obzen replay` takes."""

    run: Run = None
    last: Last = False
    runs: Runs = "runs"
    verify: Annotated[bool, typer.Option("--verify", help="Compare what comes out with what was recorded.")] = False
    flow: Annotated[
        str, typer.Option("--flow", metavar="FILE[:VARIABLE]", help="Where the flow stands, if not where it was started from.")
    ] = ""
    json: Annotated[bool, typer.Option("--json", help="The report as one line of JSON.")] = False


def replay_run(options: ReplayOptions) -> int:
    """Run a flow's code again against what a run recorded: sources give what is recorded, sinks are not called.

    With --verify every event, type, parent and dead letter is compared, and each stage's first difference is shown. A
    run that lives is replayed up to now. Exit codes: 0 the same, 1 it diverged, 2 cannot be certified (another Python
    or machine, code that is not there), 3 refused (the run is damaged or not whole), 4 this tool failed.
    """
    place = which(WhichOptions(run=options.run, last=options.last, runs=options.runs))
    return proving(lambda: _replayed(place, options), debug=options.debug)


def _replayed(place: RunDirectory, options: ReplayOptions) -> int:
    flow = load_started(place, call="oz.replay", override=options.flow).flow
    report = replay(flow, place.path, verify=options.verify)
    if options.json:
        say(msgspec.json.encode(report).decode())
    else:
        say(_told(report))
        if report.reason:
            hint(f"obzen: {report.reason}")
    if not report.differences:
        return MATCH
    return DIVERGED if report.comparable else UNCERTAIN


def _told(report: ReplayReport) -> str:
    """A report for people: a line a stage, and what differs."""
    pace = report.events / report.seconds if report.seconds else 0.0
    lines = [f"{report.flow}, run {report.run_id}: {counted(report.events, 'event')} in {report.seconds:.2f} s, {pace:,.0f} a second"]
    wide = max((len(name) for name in report.stages), default=0)
    for name, stage in report.stages.items():
        changed = {True: ", its code changed since the run", False: "", None: ""}[stage.code_changed]
        letters = f", {counted(stage.letters, 'dead letter')}" if stage.letters else ""
        match stage.kind:
            case "source" | "dead_letters":
                done = f"{counted(stage.recorded, 'recorded event')} given"
            case "sink":
                done = f"{counted(stage.steps, 'receipt')} read, not called"
            case _:
                done = f"{stage.replayed:,} of {counted(stage.recorded, 'event')} in {counted(stage.steps, 'step')}, {stage.seconds:.2f} s"
        lines.append(f"  {name.ljust(wide)}  {done}{letters}{changed}")
    if report.verified:
        count = len(report.differences)
        lines += ["", f"{counted(count, 'difference')}{', the first of each stage:' if count else ''}"]
        lines += map(str, report.differences)
    return "\n".join(lines)
