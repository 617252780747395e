"""`obzen journal repair`: go on with what is whole of a damaged journal, once its loss is accepted."""

from typing import Annotated

import msgspec
import typer

from obzen_runtime.cli.command import EXIT_DAMAGED
from obzen_runtime.cli.find import WhichOptions, which
from obzen_runtime.cli.say import hint, say
from obzen_runtime.host import near
from obzen_runtime.journal import RepairReport, repair

__all__ = ["RepairOptions", "journal_repair"]


class RepairOptions(WhichOptions, frozen=True, kw_only=True):
    """What `obzen journal repair` takes."""

    accept_loss: Annotated[bool, typer.Option("--accept-loss", help="Do it: what is damaged, and what stands behind it, is given up.")] = (
        False
    )
    json: Annotated[bool, typer.Option("--json", help="The report as one line of JSON.")] = False


def journal_repair(options: RepairOptions) -> int:
    """Say what a damaged journal would lose; with --accept-loss end it before the damage and keep the old one beside.

    Exits with 0 when the journal is whole, or was made so; with 65 when it is damaged and the loss was not accepted.
    """
    run = which(options)
    report = repair(run.path, accept_loss=options.accept_loss)
    if options.json:
        say(msgspec.json.encode(report).decode())
    else:
        say(f"{near(run.path)}: {told(report)}")
    if report.verdict == "damaged":
        hint(f"obzen: nothing was changed. To go on without it: obzen journal repair {near(run.path)} --accept-loss")
        return EXIT_DAMAGED
    if report.verdict == "repaired":
        hint(f"  the journal as it was: {near(report.old)}\n  obzen resume {near(run.path)}")
    return 0


def told(report: RepairReport) -> str:
    """The report in a line or two."""
    if report.verdict == "whole":
        return f"whole, {report.kept:,} records; there is nothing to repair"
    done = report.verdict == "repaired"
    if report.lost is None:
        lost = "no record is lost"
    else:
        start, stop = report.lost
        lost = f"positions {start:,} to {stop - 1:,} {'are' if done else 'would be'} lost"
    return f"{report.verdict}: positions up to {report.kept:,} {'are' if done else 'would be'} kept, {lost}\n  {report.why}"
