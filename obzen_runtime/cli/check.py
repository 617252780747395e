"""`obzen journal check`: whether what a run wrote is still what it wrote."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from obzen_runtime.cli.command import EXIT_DAMAGED
from obzen_runtime.cli.find import WhichOptions, which
from obzen_runtime.cli.say import say
from obzen_runtime.cli.show import kind_of
from obzen_runtime.events import KINDS
from obzen_runtime.host import near
from obzen_runtime.journal import CheckReport, RunDirectory, check
from obzen_runtime.kernel import JournalDamaged, NotFound, counted

__all__ = ["CheckOptions", "journal_check", "verdict"]


_NAMES = {kind.__name__: kind_of(kind) for kind in KINDS.values()}
"""What `obzen inspect` calls the records."""


class CheckOptions(WhichOptions, frozen=True, kw_only=True):
    """What `obzen journal check` takes."""

    archive: Annotated[str, typer.Option("--archive", metavar="DIR", help="Also read the segments that were moved there.")] = ""
    json: Annotated[bool, typer.Option("--json", help="The report as one line of JSON.")] = False


def journal_check(options: CheckOptions) -> int:
    """Read all of a run's journal, whether it lives or has ended: every byte, every record, every rule between records.

    Exits with 65 when it is damaged or breaks a rule.
    """
    run = which(options)
    try:
        report = check(run.path, archive=_archive(options.archive, run))
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


def _archive(given: str, run: RunDirectory) -> Path | None:
    """Where this run's segments are in an archive that may hold those of several."""
    if not given:
        return None
    whole, own = Path(given), Path(given, run.path.resolve().name)
    if not whole.is_dir():
        raise NotFound(
            f"there is no directory {given}",
            code="file_not_found",
            remedy="Give the directory that the flow's oz.Retention names as its archive",
        )
    return own if own.is_dir() else whole


def verdict(report: CheckReport) -> str:
    """The verdict in a line, and what was found in the lines beneath it."""
    head = "whole" if not report.problems else "rules are broken"
    state = "closed" if report.closed else "not closed: the run lives or was killed"
    size = f"{report.size:,} bytes, epoch {report.epoch}, {state}"
    lines = [
        f"{head}: {counted(report.head, 'record')} in {counted(report.frames, 'frame')}, {counted(report.segments, 'segment')}, {size}"
    ]
    lines += [f"  {problem}" for problem in report.problems]
    if report.tail:
        lines.append(f"  {report.tail:,} bytes behind the last record are none yet ({report.tail_why}); resuming cuts them away")
    if report.first > 1:
        lines.append(f"  positions below {report.first:,} were dropped on purpose")
    lines.append(f"  synced up to position {report.durable:,}")
    kinds = {_NAMES.get(kind, kind): count for kind, count in report.kinds.items()}
    lines += [f"  {count:>12,}  {kind}" for kind, count in sorted(kinds.items())]
    lines += [f"  {count:>12,}  events of {stage}" for stage, count in report.stages.items() if count]
    return "\n".join(lines)
