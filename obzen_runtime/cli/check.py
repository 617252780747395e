"""`obzen journal check`: whether what a run wrote is still what it wrote."""

from typing import Annotated

import msgspec
import typer

from obzen_runtime.cli.command import EXIT_DAMAGED
from obzen_runtime.cli.find import WhichOptions, near, which
from obzen_runtime.cli.say import say
from obzen_runtime.journal import CheckReport, check
from obzen_runtime.kernel import JournalDamaged

__all__ = ["CheckOptions", "journal_check", "verdict"]


class CheckOptions(WhichOptions, frozen=True, kw_only=True):
    """What `obzen journal check` takes."""

    json: Annotated[bool, typer.Option("--json", help="The report as one line of JSON.")] = False


def journal_check(options: CheckOptions) -> int:
    """Read all of a run's journal, whether it lives or has ended: every byte, every record, every rule between records.

    Exits with 65 when it is damaged or breaks a rule.
    """
    run = which(options)
    try:
        report = check(run.path)
    except JournalDamaged as damage:
        if options.json:
            say(
                msgspec.json.encode(
                    {"verdict": "damaged", "directory": str(run.path), "message": damage.message, **damage.details}
                ).decode()
            )
        raise
    if options.json:
        say(msgspec.json.encode({"verdict": "broken" if report.problems else "whole", **msgspec.to_builtins(report)}).decode())
    else:
        say(f"{near(run.path)}: {verdict(report)}")
    return EXIT_DAMAGED if report.problems else 0


def verdict(report: CheckReport) -> str:
    """The verdict in a line, and what was found in the lines beneath it."""
    head = "whole" if not report.problems else "rules are broken"
    state = "closed" if report.closed else "not closed: the run lives or was killed"
    segments = f"{report.segments} segment{'s' if report.segments != 1 else ''}"
    size = f"{report.size:,} bytes, epoch {report.epoch}, {state}"
    lines = [f"{head}: {report.head:,} records in {report.frames:,} frames, {segments}, {size}"]
    lines += [f"  {problem}" for problem in report.problems]
    if report.tail:
        lines.append(f"  {report.tail:,} bytes behind the last record are none yet ({report.tail_why}); resuming cuts them away")
    lines.append(f"  synced up to position {report.durable:,}")
    lines += [f"  {count:>12,}  {kind}" for kind, count in sorted(report.kinds.items())]
    lines += [f"  {count:>12,}  events of {stage}" for stage, count in report.stages.items() if count]
    return "\n".join(lines)
