"""`obzen resume`: a run that was cancelled, failed or killed goes on from its last committed position."""

from functools import partial
from typing import Annotated

import typer

from obzen_runtime.cli.find import Last, Run, Runs, WhichOptions, which
from obzen_runtime.cli.loading import load_started
from obzen_runtime.cli.run import KeepOption, MostOption, bytes_of
from obzen_runtime.cli.watching import TellOptions, watched
from obzen_runtime.host import execute

__all__ = ["ResumeOptions", "resume"]


class ResumeOptions(TellOptions, frozen=True, kw_only=True):
    """What `obzen resume` takes."""

    run: Run = None
    last: Last = False
    runs: Runs = "runs"
    flow: Annotated[
        str, typer.Option("--flow", metavar="FILE[:VARIABLE]", help="Where the flow stands, if not where it was started from.")
    ] = ""
    retention: KeepOption = None
    max_bytes: MostOption = ""
    allow_code_change: Annotated[
        bool, typer.Option("--allow-code-change", help="Go on although the code of a stage with state has changed.")
    ] = False


def resume(options: ResumeOptions) -> int:
    """Go on with a cancelled, failed or crashed run: what it had committed stays, the rest is done.

    One that has drained is finished: that is said, and nothing is done. Exit codes as of `obzen run`; 75 while the run
    lives, 78 when the flow is not the one that was started.
    """
    place = which(WhichOptions(run=options.run, last=options.last, runs=options.runs))
    flow = load_started(place, call="oz.resume", override=options.flow).flow
    how = partial(
        execute,
        flow,
        run_id=str(place.path),
        resume=True,
        allow_code_change=options.allow_code_change,
        retention=options.retention,
        max_bytes=bytes_of(options.max_bytes),
    )
    return watched(how, options)
