"""`obzen fork`: another run from the same past."""

from typing import Annotated

import msgspec
import typer

from obzen_runtime.cli.find import WhichOptions, which
from obzen_runtime.cli.say import hint, say
from obzen_runtime.host import near
from obzen_runtime.journal import fork
from obzen_runtime.kernel import RUN_ID, SystemClock, SystemEntropy, new_run_id

__all__ = ["ForkOptions", "fork_run"]


class ForkOptions(WhichOptions, frozen=True, kw_only=True):
    """What `obzen fork` takes."""

    at: Annotated[int, typer.Option("--at", metavar="POSITION", help="The last position of the past that is shared.")]
    live: Annotated[bool, typer.Option("--live", help="Let its sinks deliver; else they take their inputs and call nobody.")] = False
    run_id: Annotated[str | None, typer.Option("--run-id", metavar="NAME", help="Name of the new run.")] = None
    json: Annotated[bool, typer.Option("--json", help="The result as one line of JSON.")] = False


def fork_run(options: ForkOptions) -> int:
    """Make a run that shares the past of another up to a position, beside it; `obzen resume` goes on with it.

    It parts at the border between two appends at or below that position, which is told. The origin is only read.
    """
    origin = which(options)
    name = RUN_ID.new(options.run_id) if options.run_id is not None else new_run_id(SystemClock(), SystemEntropy())
    made = fork(origin, origin.path.parent, name, at=options.at, live=options.live)
    if options.json:
        told = {"run": made.run.run_id, "origin": origin.run_id, "position": made.position, "directory": str(made.run.path)}
        say(msgspec.json.encode(told).decode())
    else:
        say(f"{near(made.run.path)}: forked from {origin.run_id} behind position {made.position:,}")
    hint(f"  obzen resume {near(made.run.path)}")
    return 0
