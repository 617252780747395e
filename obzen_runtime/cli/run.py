"""`obzen run`: a flow from a file, run to its end."""

import contextlib
from functools import partial
from typing import Annotated

import typer

from obzen_runtime.cli.loading import load, settings_from
from obzen_runtime.cli.watching import TellOptions, watched
from obzen_runtime.host import Origin, execute
from obzen_runtime.journal import retention_from
from obzen_runtime.kernel import ConfigInvalid, UsageError

__all__ = ["KeepOption", "MostOption", "RunOptions", "bytes_of", "run"]

KeepOption = Annotated[
    str | None,
    typer.Option(
        "--retention",
        metavar="AGE,SIZE",
        help="What of its past the journal keeps, such as 7d, 10GiB or both; default: all, with an endless source 10GiB.",
    ),
]
MostOption = Annotated[
    str,
    typer.Option("--max-bytes", metavar="SIZE", help="Suspend the run when its journal has grown to this, such as 50GiB; default: never."),
]


class RunOptions(TellOptions, frozen=True, kw_only=True):
    """What `obzen run` takes."""

    file: Annotated[str, typer.Argument(metavar="FILE[:VARIABLE]", help="The Python file that defines the flow.")]
    set: Annotated[
        list[str], typer.Option("--set", metavar="STAGE.PARAMETER=VALUE", help="Set a parameter of a stage; repeat it for a list.")
    ] = []  # noqa: RUF012 - a struct copies it
    journal: Annotated[str, typer.Option("--journal", "--runs", metavar="DIR", help="The directory that holds the runs.")] = "runs"
    durability: Annotated[
        str | None,
        typer.Option(
            "--durability",
            metavar="LEVEL",
            help="What a written record survives: os (the process; the default), fsync (the power), interval(MS), memory (nothing).",
        ),
    ] = None
    run_id: Annotated[
        str | None, typer.Option("--run-id", metavar="NAME", help="A name for the run; with the name of an earlier one, go on with that.")
    ] = None
    retention: KeepOption = None
    max_bytes: MostOption = ""
    allow_code_change: Annotated[
        bool, typer.Option("--allow-code-change", help="With the name of an earlier run: go on although the code of state has changed.")
    ] = False


def run(options: RunOptions) -> int:
    """Run the flow that a Python file defines, to its end.

    Ctrl-C suspends it, a second one cancels it. With the name of an earlier run (--run-id) that one is resumed.
    Exit codes: 0 drained, 1 the run failed, 64 wrong usage, 65 the journal is damaged, 70 a bug, 74 input or output failed,
    75 the run is locked or was ended by `obzen stop`, 78 the flow is invalid, 130 and 143 ended by a signal.
    """
    loaded = load(options.file)
    flow = loaded.flow.bind(settings_from(options.set))
    origin = Origin(file=str(loaded.file.resolve()), variable=loaded.variable)
    how = partial(
        execute,
        flow,
        journal=options.journal,
        durability=options.durability,
        run_id=options.run_id,
        origin=origin,
        allow_code_change=options.allow_code_change,
        retention=options.retention,
        max_bytes=bytes_of(options.max_bytes),
    )
    return watched(how, options)


def bytes_of(text: str) -> int | None:
    """A size as the user wrote it; None when there is none. Raises `UsageError`."""
    if not text:
        return None
    with contextlib.suppress(ConfigInvalid):
        found = retention_from(text)
        if found.size is not None and found.seconds is None:
            return found.size
    raise UsageError(f"--max-bytes {text!r} is not a size", remedy="Write, for instance, --max-bytes 50GiB")
