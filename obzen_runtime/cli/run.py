"""`obzen run`: a flow from a file, run to its end, watched, and told how it went."""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Any

import msgspec
import typer

from obzen_runtime.cli.command import EXIT_FAILED, EXIT_IO, EXIT_LATER, Common, exit_code_of
from obzen_runtime.cli.live import Lines, Table
from obzen_runtime.cli.loading import load, settings_from
from obzen_runtime.cli.say import hint, say
from obzen_runtime.cli.screen import Screen, in_foreground
from obzen_runtime.host import Handle, Origin, Report, execute, failure_of, footer
from obzen_runtime.journal import retention_from
from obzen_runtime.kernel import ConfigInvalid, UsageError

__all__ = ["KeepOption", "MostOption", "RunOptions", "TellOptions", "bytes_of", "run", "watched"]


_TOLD_ANYWAY = ("flow failed", "actor aborted")
"""Lines of the log about what the last line of the command, or the restart that follows, tells in better words."""
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


class TellOptions(Common, frozen=True, kw_only=True):
    """What is told of a run, and when it counts as failed."""

    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what the stages do.")] = False
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 when there are dead letters.")] = False
    json: Annotated[bool, typer.Option("--json", help="Print the report as one line of JSON to standard output.")] = False


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
    raise UsageError(f"--max-bytes {text!r} is no size", remedy="Write, for instance, --max-bytes 50GiB")


def watched(how: Callable[..., tuple[Report, int | None]], options: TellOptions) -> int:
    """Execute a flow under the user's eyes, tell how it went, and return the exit code."""
    began = time.monotonic()
    with _logging(options), _watching(options) as watch:
        report, number = how(watch=watch)
    failure = failure_of(report)
    if not options.quiet:
        hint(footer(report, time.monotonic() - began, failure))
    elif failure:
        hint(f"obzen: {failure}")
    if options.json:
        with contextlib.suppress(BrokenPipeError):  # how the run went is what counts
            say(msgspec.json.encode(report).decode())
    if report.error is not None:
        return exit_code_of(report.error)
    if number is not None:
        return 128 + number
    if report.reason == "journal_full":
        return EXIT_IO
    if report.state == "cancelled":
        return EXIT_LATER  # by an order from elsewhere: it is not done, and can be gone on with
    return EXIT_FAILED if report.state == "failed" or (options.strict and report.dead_letters) else 0


@contextlib.contextmanager
def _watching(options: TellOptions) -> Iterator[Callable[[Handle], Any] | None]:
    if options.quiet:
        yield None
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and in_foreground(sys.stderr):
        with Screen(sys.stderr) as screen:
            table = Table(screen)
            yield table.watch
            table.finish()
    else:
        yield Lines().watch


@contextlib.contextmanager
def _logging(options: TellOptions) -> Iterator[None]:
    """The runtime's log goes to standard error, whatever that is when a line is written."""
    log, handler = logging.getLogger("obzen"), _Errors()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    if not options.verbose:
        handler.addFilter(lambda record: not record.getMessage().startswith(_TOLD_ANYWAY))
    before = log.level, log.propagate
    log.setLevel(logging.ERROR if options.quiet else logging.INFO if options.verbose else logging.WARNING)
    log.propagate = False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.level, log.propagate = before


class _Errors(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        hint(self.format(record))
