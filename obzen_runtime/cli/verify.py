"""`obzen verify`: whether two runs of one flow gave the same events."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from obzen_runtime.cli.command import Common
from obzen_runtime.cli.find import Runs, WhichOptions, which
from obzen_runtime.cli.proof import DIVERGED, MATCH, REFUSED, UNCERTAIN, proving
from obzen_runtime.cli.say import hint, say
from obzen_runtime.flow import VerifyReport, verify
from obzen_runtime.kernel import counted

__all__ = ["VerifyOptions", "verify_runs"]


class VerifyOptions(Common, frozen=True, kw_only=True):
    """What `obzen verify` takes."""

    first: Annotated[str, typer.Argument(metavar="RUN_A", help="A run's id, the beginning of one, or its directory.")]
    second: Annotated[str, typer.Argument(metavar="RUN_B", help="The run to compare it with.")]
    runs: Runs = "runs"
    json: Annotated[bool, typer.Option("--json", help="The report as one line of JSON.")] = False


def verify_runs(options: VerifyOptions) -> int:
    """Compare the events of two runs stage by stage, whatever the borders of their blocks.

    Events are compared by ordinal; behind a fan-in, where the order is chance, as a multiset by the source events they
    come from. Needs no code. Exit codes: 0 the same, 1 they differ, 2 cannot be certified, 3 refused (other flows, or a
    run that is damaged or not whole), 4 this tool failed.
    """
    first, second = (which(WhichOptions(run=run, runs=options.runs)).path for run in (options.first, options.second))
    return proving(lambda: _verified(first, second, options), debug=options.debug, unfit=REFUSED)


def _verified(first: Path, second: Path, options: VerifyOptions) -> int:
    report = verify(first, second)
    if options.json:
        say(msgspec.json.encode(report).decode())
    else:
        say(_told(report))
        if report.reason:
            hint(f"obzen: {report.reason}")
    if report.differences:
        return DIVERGED
    return MATCH if report.certified else UNCERTAIN


_FOUND = {True: "the same", False: "not the same", None: "not compared"}


def _told(report: VerifyReport) -> str:
    """A report for people: a line a stage, and what differs."""
    lines = [f"{report.flow}: {report.first} and {report.second}"]
    wide = max((len(name) for name in report.stages), default=0)
    for name, stage in report.stages.items():
        how = "by ordinal" if stage.how == "ordinal" else "as a multiset by source event"
        events = counted(stage.first, "event") if stage.first == stage.second else f"{stage.first:,} and {counted(stage.second, 'event')}"
        lines.append(f"  {name.ljust(wide)}  {events}, {how}: {_FOUND[stage.same]}")
    count = len(report.differences)
    lines += ["", f"{counted(count, 'difference')}{', the first of each stage:' if count else ''}"]
    return "\n".join([*lines, *map(str, report.differences)])
