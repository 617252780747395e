"""Which run the user means."""

from pathlib import Path
from typing import Annotated

import typer

from obzen_runtime.cli.command import Common
from obzen_runtime.journal import RunDirectory, find_run
from obzen_runtime.kernel import NotFound, UsageError

__all__ = ["Last", "Run", "Runs", "RunsOptions", "WhichOptions", "which"]


Runs = Annotated[str, typer.Option("--runs", "--journal", metavar="DIR", help="The directory that holds the runs.")]
Run = Annotated[str | None, typer.Argument(metavar="RUN", help="A run's id, the beginning of one, or its directory.")]
Last = Annotated[bool, typer.Option("--last", help="The newest run.")]


class RunsOptions(Common, frozen=True, kw_only=True):
    """Where runs are."""

    runs: Runs = "runs"


class WhichOptions(RunsOptions, frozen=True, kw_only=True):
    """Which run is meant."""

    run: Run = None
    last: Last = False


def which(options: WhichOptions) -> RunDirectory:
    """The run meant. Raises `UsageError` when none or two are named, `NotFound` when it is not there."""
    if (options.run is None) != options.last:
        raise UsageError("no run is named" if options.run is None else "both RUN and --last are given", remedy="Give RUN or --last")
    base = Path(options.runs)
    if options.run is None:
        return find_run(base, "--last")
    if "/" in options.run and not Path(options.run).exists():
        raise NotFound(f"there is no directory {options.run}", code="run_not_found", remedy="List the runs with `obzen runs`")
    return find_run(base, options.run)
